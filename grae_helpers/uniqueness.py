"""The uniqueness study (K&P App. C): the models of `toy_vae`, trained as one batch, and their rotation angles."""

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from grae_helpers import identifiability, linear_vae, quadrature, runtime, toy_vae
from grae_helpers.toy_vae import (
    Data,
    Experiment,
    Parameters,
    elbo,
    initial,
    simulate,
    total,
)

RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
DECAY = (0.9, 0.999)
COLUMNS = ("iterations", "elbo", "quadrature_error", "best", "angle", "own_angle", "weights", "seconds")


def study(
    experiment: Experiment,
    iterations: Sequence[int],
    *,
    samples: int = 4000,
    columns: str = "random",
    shared: bool = False,
    seed: int = 0,
    folder: str | os.PathLike | None = None,
    **training,
) -> dict[str, np.ndarray]:
    """Simulate, train and measure one experiment: arrays over its trials, [T] if not said otherwise.

    "iterations" n, "elbo" (nats per sample, 64 nodes), "angle" between true and inferred latents and "own_angle" that
    `own_angle` predicts for the trial's data (degrees), "best" (the greatest ELBO there is for this data; NaN unless
    ν = identity), "quadrature_error" (training's ELBO less the fine one), "weights" W [T, 2, 2], "seconds" [1].

    `training` goes to `train`; other arguments are those of `simulate`. With a `folder`, a finished experiment is
    kept there and found again, so that an interrupted study goes on where it stopped. A file that cannot be read is
    made anew, with a warning. Raises OSError, before any training, for a folder that cannot be written to.

    >>> rows = study(Experiment("identity"), [30, 20], samples=100)
    >>> rows["angle"].shape, bool((rows["elbo"] < rows["best"]).all())
    ((2,), True)
    """
    simulated = {"samples": samples, "columns": columns, "shared": shared, "seed": seed}
    path = folder and _place(Path(folder), experiment, iterations, simulated, training)
    if path and (kept := _kept(path)):
        return kept
    start = time.perf_counter()
    data = simulate(len(iterations), activation=experiment.activation, noise=experiment.noise, **simulated)
    parameters, rotations = train(experiment, data, iterations, seed=seed + 1, **training)
    rows = {"iterations": np.asarray(iterations)} | measure(experiment, data, parameters, rotations)
    rows |= {"weights": data.weights.numpy(), "seconds": np.array([time.perf_counter() - start])}
    if path:
        partial = path.with_name(f"{path.stem}.{os.getpid()}.npz")
        np.savez(partial, **rows)
        partial.replace(path)
    return rows


def measure(
    experiment: Experiment, data: Data, parameters: Parameters, rotations: Parameters
) -> dict[str, np.ndarray]:
    """The measurements of `study` for given parameters.

    >>> data, model = simulate(3, 50, "tanh", seed=1), Experiment("tanh", "full")
    >>> sorted(measure(model, data, *initial(model, 3, 50)))
    ['angle', 'best', 'elbo', 'own_angle', 'quadrature_error']
    """
    toy_vae.check_data(data)
    data = Data(*(part.double() for part in data))
    found = {64: [], experiment.points: []}
    for row in range(len(data.x)):
        one = [{name: part[row : row + 1] for name, part in group.items()} for group in (parameters, rotations)]
        for nodes, values in found.items():
            values.append(elbo(experiment, *one, data.x[row : row + 1], nodes))
    fine, coarse = (torch.cat(found[nodes]) for nodes in (64, experiment.points))
    inferred = toy_vae.posterior_means(parameters, rotations, data.x)
    return {
        "elbo": fine.numpy(),
        "quadrature_error": (coarse - fine).numpy(),
        "best": best_elbo(experiment, data),
        "angle": _angle(data.latents, inferred.nan_to_num(0, 0, 0)) + np.where(_finite(parameters), 0, np.nan),
        "own_angle": own_angle(experiment, data),
    }


def best_elbo(experiment: Experiment, data: Data) -> np.ndarray:
    """The greatest ELBO that any parameters reach on this data, for ν = identity; NaN for other ν. Shape [T].

    Mean field loses nothing there: `linear_vae.principal_weights` has orthogonal columns.

    >>> best_elbo(Experiment("identity"), simulate(1, 500, seed=1)) > 0
    array([False])
    """
    if experiment.activation != "identity":
        return np.full(len(data.x), np.nan)
    weights, covariance = principal(experiment, data)
    return linear_vae.mean_field_elbo(weights, experiment.noise**2, covariance, beta=experiment.beta).numpy()


def own_angle(experiment: Experiment, data: Data) -> np.ndarray:
    """The angle at which the mean-field optimum of each trial's data is expected, degrees in (−45, 45]: [T].

    ν = identity: exact, from the second moments of x and z. Other ν: of all decoders ν(WR(θ)z), which have one
    likelihood, the one with the least price of mean field, Σ_k log(1 + ‖J_k‖²/βσ²), J = diag(ν′)WR(θ) (K&P Eq. 14);
    one covariance for all samples makes it the price of their mean ‖J_k‖². That is the leading order for small noise;
    without amortisation the minimum is sought in steps of half a degree.
    NaN where the optimum infers nothing: at a β so great that both latents collapse.

    >>> data = simulate(1, 500, seed=1)
    >>> abs(own_angle(Experiment("identity"), data) - linear_vae.own_angle(data.weights).numpy()) < 2
    array([ True])
    """
    toy_vae.check_data(data)
    if experiment.activation == "identity":
        weights, _ = principal(experiment, data)
        encoder = linear_vae.encoder_weights(weights, experiment.noise**2, beta=experiment.beta)
        inferred = encoder @ (data.x - data.x.mean(-1, keepdim=True))
        return _angle(data.latents, inferred)
    slopes = quadrature.activate(data.weights @ data.latents, experiment.activation)[1] ** 2
    if experiment.amortized:
        return linear_vae.own_angle(slopes.mean(-1, keepdim=True).sqrt() * data.weights).numpy()
    angles = torch.linspace(45, -44.5, 180, dtype=torch.float64)
    prices = torch.stack([_price(experiment, data.weights, slopes, angle) for angle in angles])
    return angles[prices.argmin(0)].numpy()


def _angle(latents: Tensor, inferred: Tensor) -> np.ndarray:
    """The rotation angle of each trial. Where W is so nearly singular that a latent collapses, ZMᵀ has rank one,
    which `identifiability.procrustes` refuses; along an axis of the inferred latents the angle is still unique.
    Where nothing at all is inferred there is none: NaN."""
    left, values, right = torch.linalg.svd(latents @ inferred.mT)
    return np.where(values[:, 0] > 0, identifiability.angle(left @ right), np.nan)


def _price(experiment: Experiment, weights: Tensor, slopes: Tensor, degrees: Tensor) -> Tensor:
    """The mean over samples of Σ_k log(βσ² + ‖J_k‖²) for the decoder turned by an angle: [T]."""
    norms = ((weights @ toy_vae.rotation(torch.deg2rad(degrees))) ** 2).mT @ slopes
    return (experiment.beta * experiment.noise**2 + norms).log().sum(1).mean(-1)


def principal(experiment: Experiment, data: Data) -> tuple[Tensor, Tensor]:
    """The optimal decoder weights of ν = identity, and the covariance of the data: [T, 2, 2] each.

    >>> weights, covariance = principal(Experiment("identity"), simulate(1, 500, seed=1))
    >>> bool((weights @ weights.mT + 0.0025 * torch.eye(2) - covariance).abs().max() < 1e-9)
    True
    """
    centred = data.x - data.x.mean(-1, keepdim=True)
    covariance = centred @ centred.mT / centred.shape[-1]
    return linear_vae.principal_weights(covariance, experiment.beta * experiment.noise**2, 2), covariance


def _place(folder: Path, experiment: Experiment, iterations: Sequence[int], *settings: dict) -> Path:
    """The file of a finished experiment, named by everything that decides its numbers."""
    decided = [experiment._asdict(), list(iterations), *settings]
    digest = hashlib.sha256(json.dumps(decided, default=str, sort_keys=True).encode()).hexdigest()
    return folder / f"{experiment.name}-{digest[:12]}.npz"


def _kept(path: Path) -> dict[str, np.ndarray] | None:
    """A finished experiment; None where there is none yet. Its folder is made, and tried out, in that case."""
    if path.exists():
        try:
            with path.open("rb") as file, np.load(file) as kept:
                return {name: kept[name] for name in COLUMNS}
        except OSError:
            raise
        except Exception as error:  # numpy and zipfile have many for a file that was cut short
            warnings.warn(f"{path}: not a finished experiment ({error}), so it is trained anew", stacklevel=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path.parent).close()
    return None


def train(
    experiment: Experiment,
    data: Data,
    iterations: Sequence[int],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    block: int = 0,
    compiled: bool = False,
    optimizer: str = "adam",
) -> tuple[Parameters, Parameters]:
    """Train all trials at once, each with its own schedule; parameters and rotations, in float64 on the CPU.

    `iterations` holds the n of each trial: learning rates 0.1, 0.01, … 1e-5 for n iterations each, all samples in
    each step. A trial that has had its 5n leaves the batch. `block` bounds how many trials' samples are in memory
    together (0: all). `compiled` lets torch fuse a step, which needs a C++ compiler. With ν = identity and
    amortisation the second moments replace the data. `dtype` is by default float64 for moments and float32 for
    samples. optimizer="gradient_descent" is the paper's word; it diverges at this learning rate, so Adam is the
    default. On a CPU, denormal numbers are flushed to zero meanwhile: saturated activations are full of them.

    Raises ValueError for bad sizes, data that are not finite and a device that is not there, FloatingPointError where
    every trial diverged. One that did has parameters that are not finite, and leaves the others alone.

    >>> data = simulate(4, 100, "identity", seed=1)
    >>> parameters, _ = train(Experiment("identity"), data, [20, 20, 10, 5])
    >>> parameters["A"].shape
    torch.Size([4, 2, 2])
    """
    _check(experiment, data, iterations, block)
    runtime.one_of("optimizer", optimizer, ("adam", "gradient_descent"))
    if dtype not in (None, torch.float32, torch.float64):
        raise ValueError(f"dtype: expected torch.float32 or torch.float64, got {dtype!r}")
    device = runtime.device(str(device))
    parameters, rotations = initial(experiment, *data.x[:, 0].shape, seed=seed)
    linear = experiment.activation == "identity" and experiment.amortized
    observed = toy_vae.moments(data.x) if linear else data.x
    dtype = dtype or (torch.float64 if linear else torch.float32)
    order = sorted(range(len(iterations)), key=lambda trial: -iterations[trial])
    if compiled:
        torch.compiler.reset()  # else the steps of earlier experiments count against the limit of recompilations
    step = torch.compile(_step) if compiled else _step
    generator = torch.Generator(device).manual_seed(seed)
    torch.set_flush_denormal(True)
    try:
        for rows in torch.tensor(order).split(block if block and not linear else len(order)):
            taken = [{name: part[rows] for name, part in group.items()} for group in (parameters, rotations)]
            moved = [{name: part.to(device, dtype) for name, part in group.items()} for group in taken]
            lengths = [iterations[row] for row in rows.tolist()]
            _optimise(experiment, step, *moved, observed[rows].to(device, dtype), lengths, generator, optimizer)
            for name, part in parameters.items():
                part[rows] = moved[0][name].to(part)
    finally:
        torch.set_flush_denormal(False)
    if not _finite(parameters).any():
        raise FloatingPointError(f"{experiment.name}, {optimizer}: all {len(iterations)} trials diverged")
    return parameters, rotations


def _finite(parameters: Parameters) -> Tensor:
    """Which trials did not diverge: [T]."""
    return torch.stack([part.isfinite().flatten(1).all(1) for part in parameters.values()]).all(0)


def _optimise(experiment, step, parameters, rotations, observed, lengths, generator, optimizer) -> None:
    """Run the schedules of trials sorted by falling length, in place."""
    where, dtype = observed.device, observed.dtype
    averages = [{name: torch.zeros_like(part) for name, part in parameters.items()} for _ in DECAY]
    time, done = torch.zeros((), device=where, dtype=dtype), 0
    lengths = torch.tensor(lengths)
    rates = torch.tensor([*RATES, 0.0], dtype=torch.float64)
    for end in sorted({k * n for n in lengths.tolist() for k in range(1, len(RATES) + 1)}):
        active = int((lengths * len(RATES) > done).sum())
        rate = rates[done // lengths[:active]].to(where, dtype)
        groups = (parameters, *averages, rotations)
        views = [{name: part[:active] for name, part in group.items()} for group in groups]
        for _ in range(end - done):
            points = toy_vae.rule(experiment.points, observed[:active], experiment.monte_carlo, generator)
            step(*views, observed[:active], *points, rate, time, experiment, optimizer == "adam")
        done = end


def _step(parameters, first, second, rotations, observed, nodes, weights, rate, time, experiment, adam) -> None:
    """One step of Adam (Kingma & Ba 2015) or of gradient descent, in place."""

    def loss(parameters: Parameters) -> Tensor:
        return -total(parameters, rotations, observed, nodes, weights, experiment).sum()

    gradients = torch.func.grad(loss)(parameters)
    time += 1
    for name, part in parameters.items():
        gradient, lr = gradients[name], rate.reshape(-1, *[1] * (part.ndim - 1))
        if adam:
            first[name].lerp_(gradient, 1 - DECAY[0])
            second[name].lerp_(gradient**2, 1 - DECAY[1])
            scale = (second[name] / (1 - DECAY[1] ** time)).sqrt() + 1e-8
            part.sub_(lr * first[name] / (1 - DECAY[0] ** time) / scale)
        else:
            part.sub_(lr * gradient / (observed[0, 2, 2] if observed.shape[1] == 3 else observed.shape[2]))


def _check(experiment: Experiment, data: Data, iterations: Sequence[int], block: int) -> None:
    toy_vae.check(experiment)
    runtime.integer("block", block, 0)
    toy_vae.check_data(data)
    if not data.x.isfinite().all():
        raise ValueError("data.x: expected finite samples, got NaN or infinity")
    if len(iterations) != len(data.x):
        raise ValueError(f"iterations: expected one for each of the {len(data.x)} trials, got {len(iterations)}")
    for n in iterations:
        runtime.integer("iterations", n, 1)
