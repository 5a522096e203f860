"""One explicit training loop: batches by index, one objective, one optimiser, a history."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from grae_helpers import losses, models, runtime
from grae_helpers.likelihoods import Likelihood
from grae_helpers.losses import LossTerms

History = dict[str, np.ndarray]


def fit(
    objective: Callable[[Tensor], LossTerms],
    modules: Sequence[nn.Module],
    images: Tensor,
    *,
    steps: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
    transform: Callable[[Tensor], Tensor] | None = None,
    log_every: int = 0,
    label: str = "training",
) -> History:
    """Minimise the batch mean of `objective(x).total` with Adam over the parameters of `modules` (K&P §7).

    The images live on the device, as uint8 where they are, and batches are drawn by index, one shuffled pass
    after another (the last, smaller batch of a pass is left out). `transform` acts on a batch after its
    conversion to float32 in [0, 1]. `seed` decides the batches and the objective's noise; the caller's random
    state is left as it was. Modules are trained in train mode and left in eval mode. `log_every` prints a
    line every so many steps (0: only a last line; −1: none).

    Shapes: images [n, ...]. Returns arrays of length `steps` under "reconstruction", "latent", "decoder",
    "total" (batch means, nats) and "seconds" (one number). Raises ValueError for empty images, a batch larger
    than the data, steps < 1 and images that are not finite; FloatingPointError with step and terms where the
    objective was NaN or infinite (seen at the next line, or within 100 steps).

    >>> from grae_helpers import likelihoods, losses, models
    >>> decoder, encoder = models.mlp_decoder(2, 4, [8]), models.mlp_encoder(4, 2, [8], posterior=False)
    >>> objective = lambda x: losses.grae(x, encoder(x), decoder, likelihoods.Gaussian(), beta=0.1)
    >>> history = fit(objective, [encoder, decoder], torch.rand(64, 4), steps=5, batch_size=16, log_every=-1)
    >>> history["total"].shape
    (5,)
    """
    _check(images, steps, batch_size, log_every)
    images = images.to(device)
    parameters = [p for module in modules for p in module.to(device).train().parameters()]
    optimiser = torch.optim.Adam(parameters, lr=learning_rate)
    batches = _batches(len(images), batch_size, torch.Generator().manual_seed(seed))
    rows, start = [], time.perf_counter()
    with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        for step in range(1, steps + 1):
            x = as_float(images[next(batches).to(device)])
            try:
                terms = objective(x if transform is None else transform(x))
            except ValueError as error:
                # what an objective refuses may be what an earlier step made NaN
                _check_finite(rows, steps, label)
                error.add_note(f"{label}: raised by the objective in step {step} of {steps}")
                raise
            if not isinstance(terms, LossTerms):
                raise TypeError(f"objective: expected to return LossTerms, got {type(terms).__name__}")
            optimiser.zero_grad(set_to_none=True)
            terms.total.mean().backward()
            optimiser.step()
            rows.append(torch.stack([term.detach().mean() for term in (*terms, terms.total)]))
            if step == steps or step % (log_every if log_every > 0 else 100) == 0:
                _report(rows, step, steps, start, log_every, label)
    for module in modules:
        module.eval()
    columns = torch.stack(rows).cpu().numpy().T
    history = dict(zip((*LossTerms._fields, "total"), columns, strict=True))
    return {**history, "seconds": np.array(time.perf_counter() - start)}


def fit_beta_vae(
    images: Tensor,
    likelihood: Likelihood,
    *,
    beta: float,
    latent_dim: int,
    block_size: int | None = 1,
    width: float = 1.0,
    seed: int = 0,
    **loop,
) -> tuple[models.Encoder, models.Decoder, History]:
    """A β-VAE of App. D's MNIST networks, trained as in K&P §7 (one draw of z): encoder, decoder, history.

    `images` are [n, 1, 28, 28]; `loop` goes to `fit`. `seed` decides the initial weights too.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = models.mnist_encoder(latent_dim, width=width, block_size=block_size)
        decoder = models.mnist_decoder(latent_dim, width=width)

    def objective(x: Tensor) -> LossTerms:
        return losses.beta_vae(x, encoder(x), decoder, likelihood, beta)

    history = fit(objective, [encoder, decoder], images, seed=seed, **loop)
    return encoder, decoder, history


def as_float(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]; floating images as they are.

    >>> as_float(torch.tensor([255], dtype=torch.uint8))
    tensor([1.])
    """
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _check(images: Tensor, steps: int, batch_size: int, log_every: int) -> None:
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images: expected uint8 or floating point, got {images.dtype}")
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        runtime.integer(name, value, 1)
    if not batch_size <= len(images):
        raise ValueError(f"batch_size: expected 1 to the {len(images)} images there are, got {batch_size}")
    runtime.integer("log_every", log_every, -1)
    if images.is_floating_point() and not torch.isfinite(images).all():
        raise ValueError("images: expected finite pixels, got NaN or infinity")


def _batches(n: int, batch_size: int, generator: torch.Generator):
    while True:
        yield from torch.randperm(n, generator=generator)[: n // batch_size * batch_size].split(batch_size)


def _report(rows: list[Tensor], step: int, steps: int, start: float, log_every: int, label: str) -> None:
    """Check that the terms are finite, which waits for the device, and print a line that reads in a log."""
    _check_finite(rows, steps, label)
    if log_every >= 0 and (log_every > 0 or step == steps):
        meter = tqdm.format_meter(step, steps, time.perf_counter() - start, ncols=60, unit="step", ascii=True)
        print(f"{label} {meter} {_text(rows[-1])}", flush=True)


def _check_finite(rows: list[Tensor], steps: int, label: str) -> None:
    finite = torch.isfinite(torch.stack(rows)[:, -1]).tolist() if rows else []
    if not all(finite):
        first = finite.index(False)
        raise FloatingPointError(
            f"{label}: not finite since step {first + 1} of {steps}: {_text(rows[first])}"
        )


def _text(row: Tensor) -> str:
    reconstruction, latent, decoder, total = row.tolist()
    terms = f"reconstruction {reconstruction:.2f} + latent {latent:.2f} + decoder {decoder:.2f}"
    return f"total {total:.2f} = {terms}"
