"""The models that Part III compares: one pair of networks under each objective, trained by the one loop."""

import inspect
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from grae_helpers import losses, models, runtime, training
from grae_helpers.likelihoods import Likelihood
from grae_helpers.losses import LossTerms

_LOSSES = {
    "beta_vae": losses.beta_vae,
    "grae": losses.grae,
    "grae_approx": losses.grae_approx,
    "rae_gradient": losses.rae,
    "rae_l2": losses.rae,
    "rae_spectral": losses.rae,
    "autoencoder": losses.autoencoder,
}
_FIXED = {
    "rae_gradient": {"regularizer": "gradient"},
    "rae_l2": {"regularizer": "l2"},
    "rae_spectral": {"penalty": 0.0},
}


def build(
    objective: str,
    image_shape: Sequence[int],
    latent_dim: int,
    *,
    width: float = 1.0,
    seed: int = 0,
    block_size: int | None = 1,
) -> tuple[models.Encoder, models.Decoder]:
    """App. D's networks for an objective: MNIST's for images [1, 28, 28], CelebA's for [3, 64, 64].

    A seed gives the same initial weights whatever the objective; only β-VAE keeps the encoder's second head, whose
    posterior has `block_size`. For "rae_spectral" the decoder is under `models.spectral_norm`. The caller's random
    state is left as it was. Raises ValueError for another objective or image shape.

    >>> encoder, decoder = build("grae_approx", (1, 28, 28), latent_dim=4, width=1 / 64)
    >>> decoder(encoder(torch.zeros(2, 1, 28, 28))).shape
    torch.Size([2, 1, 28, 28])
    """
    runtime.one_of("objective", objective, runtime.OBJECTIVES)
    networks = {
        (1, 28, 28): (models.mnist_encoder, models.mnist_decoder),
        (3, 64, 64): (models.celeba_encoder, models.celeba_decoder),
    }
    if tuple(image_shape) not in networks:
        raise ValueError(f"images: expected [n, 1, 28, 28] or [n, 3, 64, 64], got [n, {list(image_shape)}]")
    make_encoder, make_decoder = networks[tuple(image_shape)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = make_encoder(latent_dim, width=width, block_size=block_size)
        decoder = make_decoder(latent_dim, width=width)
        if objective == "rae_spectral":
            models.spectral_norm(decoder)
    if objective != "beta_vae":
        encoder.raw = None
    return encoder, decoder


def loss(
    objective: str, encoder: nn.Module, decoder: nn.Module, likelihood: Likelihood, beta: float, **options
) -> Callable[[Tensor], LossTerms]:
    """The objective as a function of a batch x, for `training.fit`; `options` go to its function in `losses`.

    Raises ValueError for another objective, β ≤ 0 or NaN, and options that the objective does not have.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> networks = build("grae_approx", (1, 28, 28), latent_dim=4, width=1 / 64)
    >>> loss("grae_approx", *networks, Gaussian(), beta=0.1, n_columns=2)(torch.zeros(2, 1, 28, 28)).total.shape
    torch.Size([2])
    """
    runtime.one_of("objective", objective, runtime.OBJECTIVES)
    beta, fixed = runtime.positive("beta", beta), _FIXED.get(objective, {})
    known = {p.name for p in inspect.signature(_LOSSES[objective]).parameters.values() if p.kind == p.KEYWORD_ONLY}
    if unknown := sorted(set(options) - (known - set(fixed))):
        raise ValueError(
            f"{objective} has no option {', '.join(unknown)}: expected some of {sorted(known - set(fixed))}"
        )
    arguments = (decoder, likelihood) if objective == "autoencoder" else (decoder, likelihood, beta)
    return lambda x: _LOSSES[objective](x, encoder(x), *arguments, **fixed, **options)


def fit(
    objective: str,
    images: Tensor,
    likelihood: Likelihood,
    *,
    beta: float,
    latent_dim: int,
    width: float = 1.0,
    seed: int = 0,
    block_size: int | None = 1,
    options: Mapping[str, object] | None = None,
    **loop,
) -> tuple[models.Encoder, models.Decoder, training.History]:
    """Build a model and train it (K&P §7): encoder, decoder, history. `loop` goes to `training.fit`.

    With `checkpoint=FOLDER` among it, training goes on where it stopped; a folder of a model with other parameters is
    refused.

    >>> from grae_helpers import data, likelihoods
    >>> images = data.load("digits").images
    >>> loop = dict(steps=2, batch_size=16, log_every=-1)
    >>> model = dict(beta=0.1, latent_dim=4, width=1 / 64)
    >>> _, _, history = fit("grae_approx", images, likelihoods.Gaussian(), **model, **loop)
    >>> history["total"].shape
    (2,)
    """
    options = dict(options or {})
    encoder, decoder = build(objective, images.shape[1:], latent_dim, width=width, seed=seed, block_size=block_size)
    terms = loss(objective, encoder, decoder, likelihood, beta, **options)
    parameters = {
        "objective": objective, "beta": beta, "latent_dim": latent_dim, "width": width, "block_size": block_size,
        "likelihood": repr(likelihood), "options": options,
    }  # fmt: skip
    history = training.fit(terms, [encoder, decoder], images, seed=seed, parameters=parameters, **loop)
    return encoder, decoder, history


@torch.no_grad()
def encode(encoder: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """Codes h(x), or posterior means, [n, d], on the CPU; images uint8, or floating in [0, 1].

    >>> encode(build("grae", (1, 28, 28), latent_dim=4, width=1 / 64)[0], torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 4])
    """
    where, parts = next(encoder.parameters()).device, []
    for batch in images.split(batch_size):
        found = encoder(training.as_float(batch.to(where)))
        parts.append((found if isinstance(found, Tensor) else found.mean).cpu())
    return torch.cat(parts)


@torch.no_grad()
def decode(decoder: nn.Module, likelihood: Likelihood, z: Tensor, batch_size: int = 500) -> Tensor:
    """The mean images of latents z [n, d], on the CPU.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> decode(build("grae", (1, 28, 28), latent_dim=4, width=1 / 64)[1], Gaussian(), torch.zeros(3, 4)).shape
    torch.Size([3, 1, 28, 28])
    """
    where = next(decoder.parameters()).device
    return torch.cat([likelihood.mean(decoder(part.to(where))).cpu() for part in z.split(batch_size)])


def prior_latents(n: int, latent_dim: int, seed: int = 0) -> Tensor:
    """Latents of the prior N(0, I), [n, d]: the same for every model that is compared.

    >>> prior_latents(2, 3).shape
    torch.Size([2, 3])
    """
    return torch.randn(n, latent_dim, generator=torch.Generator().manual_seed(seed))
