"""The models that Part III compares: one pair of networks under each objective, trained by the one loop."""

import copy
import inspect
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from grae_helpers import jacobians, losses, models, runtime, training
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
        "objective": objective, "beta": runtime.positive("beta", beta), "latent_dim": latent_dim, "width": width,
        "block_size": block_size, "likelihood": _described(likelihood),
        "options": {name: value for name, value in options.items() if name != "generator"},
    }  # fmt: skip
    generators = [options["generator"]] if options.get("generator") is not None else []
    history = training.fit(
        terms, [encoder, decoder], images, seed=seed, parameters=parameters, generators=generators, **loop
    )
    return encoder, decoder, history


def _described(likelihood: Likelihood) -> str:
    """The likelihood as a checkpoint tells it from others; torch would print a tensor's variance abridged."""
    variance = getattr(likelihood, "variance", None)
    if not isinstance(variance, Tensor):
        return repr(likelihood)
    values = variance.detach().cpu().double().contiguous()
    return f"{type(likelihood).__name__}(variance {list(values.shape)}, crc32 {zlib.crc32(values.numpy()):08x})"


@torch.no_grad()
def encode(encoder: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """Codes h(x), or posterior means, [n, d], on the CPU, in eval mode; images uint8, or floating in [0, 1].

    >>> encode(build("grae", (1, 28, 28), latent_dim=4, width=1 / 64)[0], torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 4])
    """
    with _evaluating(encoder):
        found = [encoder(x) for x in _batches(encoder, images, batch_size)]
    return torch.cat([(code if isinstance(code, Tensor) else code.mean).cpu() for code in found])


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    try:
        yield network.eval()
    finally:
        network.train(training)


def _batches(network: nn.Module, images: Tensor, batch_size: int = 500) -> Iterator[Tensor]:
    where = next(network.parameters()).device
    return (training.as_float(batch.to(where)) for batch in images.split(batch_size))


@torch.no_grad()
def decode(decoder: nn.Module, likelihood: Likelihood, z: Tensor, batch_size: int = 500) -> Tensor:
    """The mean images of latents z [n, d], on the CPU, in eval mode.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> decode(build("grae", (1, 28, 28), latent_dim=4, width=1 / 64)[1], Gaussian(), torch.zeros(3, 4)).shape
    torch.Size([3, 1, 28, 28])
    """
    where = next(decoder.parameters()).device
    with _evaluating(decoder):
        return torch.cat([likelihood.mean(decoder(part.to(where))).cpu() for part in z.split(batch_size)])


def prior_latents(n: int, latent_dim: int, seed: int = 0) -> Tensor:
    """Latents of the prior N(0, I), [n, d]: the same for every model that is compared.

    >>> prior_latents(2, 3).shape
    torch.Size([2, 3])
    """
    return torch.randn(n, latent_dim, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def settle(
    objective: str,
    encoder: models.Encoder,
    decoder: models.Decoder,
    images: Tensor,
    likelihood: Likelihood,
    beta: float,
    *,
    n_jacobians: int = 64,
) -> tuple[models.Encoder, models.Decoder]:
    """Move and scale each latent to where the objective is least: copies of both networks that give the same images.

    The encoder ends and the decoder begins with a linear layer, so h → (h − m)/t in one is undone in the other. Only
    the regularisers change, and they have one minimum: m is the code's mean, and t² solves E h² + E s² = t² (β-VAE,
    s² the posterior's variance) or E h²/t² = E[t²a/(1 + t²a)] with a = J_cᵀ(−H_p)J_c/β (GRAE, mean field). Training
    goes there too, but at small β slowly, and a prior's samples need it. The decoder must be in eval mode.

    `images` are [n, ...]; Jacobians are taken at the first `n_jacobians`. Returns encoder and decoder; the networks
    given stay as they are. Raises ValueError for another objective, a posterior that is not mean field, networks
    that do not meet in linear layers, and train mode.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> networks = [network.eval() for network in build("grae_approx", (1, 28, 28), latent_dim=4, width=1 / 64)]
    >>> images = torch.rand(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    >>> settled, _ = settle("grae_approx", *networks, images, Gaussian(), beta=0.1)
    >>> bool(encode(settled, images).mean(0).abs().max() < 1e-5)
    True
    """
    runtime.one_of("objective", objective, ("beta_vae", "grae", "grae_approx"))
    beta = runtime.positive("beta", beta)
    _check_meeting(encoder, decoder)
    found = [encoder(x) for x in _batches(encoder, images)]
    if objective == "beta_vae":
        codes = torch.cat([posterior.mean for posterior in found])
        square = codes.var(0, correction=0) + torch.cat([posterior.variance for posterior in found]).mean(0)
    else:
        codes = torch.cat(found)
        square = _balanced(
            codes.var(0, correction=0), _slopes(decoder, likelihood, images, codes[:n_jacobians], beta)
        )
    mean, scale = codes.mean(0), square.sqrt()
    encoder, decoder = copy.deepcopy(encoder), copy.deepcopy(decoder)
    first = decoder.network[0]
    first.bias += first.weight @ mean
    first.weight *= scale
    encoder.mean.weight /= scale[:, None]
    encoder.mean.bias.sub_(mean).div_(scale)
    if encoder.raw is not None:
        encoder.raw.bias -= scale.log()
    return encoder, decoder


def _check_meeting(encoder: models.Encoder, decoder: models.Decoder) -> None:
    first = decoder.network[0] if type(getattr(decoder, "network", None)) is nn.Sequential else None
    if not isinstance(encoder, models.Encoder) or type(first) is not nn.Linear or first.bias is None:
        raise ValueError(
            "settle: expected an encoder of models.Encoder and a decoder that begins with a linear layer"
        )
    if encoder.raw is not None and encoder.block_size != 1:
        raise ValueError(f"settle: expected a mean-field posterior, got block_size {encoder.block_size}")
    if encoder.training or decoder.training:
        raise ValueError("settle: expected networks in eval mode, whose batch statistics are constants")


def _slopes(decoder: nn.Module, likelihood: Likelihood, images: Tensor, codes: Tensor, beta: float) -> Tensor:
    """J_cᵀ(−H_p)J_c/β of every column, [n, d], in float64."""
    x = training.as_float(images[: len(codes)].to(codes.device))
    hessians = [
        jacobians.wide_gauss_newton(decoder, likelihood, *part)
        for part in zip(x.split(16), codes.split(16), strict=True)
    ]
    return -torch.cat(hessians).diagonal(dim1=1, dim2=2) / beta


def _balanced(variance: Tensor, slopes: Tensor) -> Tensor:
    """The root t² of variance/t² = E[t²a/(1 + t²a)], by bisection of its logarithm: left falls, right grows.

    Within e^±14, a factor of a thousand in t: a latent that has died has no root, and must not be blown up.
    """
    low, high = torch.full_like(slopes[0], -14.0), torch.full_like(slopes[0], 14.0)
    for _ in range(60):
        middle = (low + high) / 2
        pushed = middle.exp() * slopes
        above = variance / middle.exp() > (pushed / (1 + pushed)).mean(0)
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return middle.exp().to(variance.dtype)
