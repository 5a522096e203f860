"""One explicit training loop: batches by index, one objective, one optimiser, a history, and checkpoints of it."""

import inspect
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike

import torch
from torch import Tensor, nn

from grae_helpers import checkpoints, runtime
from grae_helpers.losses import LossTerms
from grae_helpers.runs import History, Run
from grae_helpers.stepping import as_float as as_float


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
    precision: str = "float32",
    channels_last: bool = False,
    step: str = "eager",
    checkpoint: str | PathLike | None = None,
    parameters: Mapping[str, object] | None = None,
    save_every: float = 60.0,
    generators: Sequence[torch.Generator] = (),
    watch: Callable[[int, History], None] | None = None,
) -> History:
    """Minimise the batch mean of `objective(x).total` with Adam over the parameters of `modules` (K&P §7).

    The images live on the device, as uint8 where they are, and batches are drawn by index, one shuffled pass after
    another (the last, smaller batch of a pass is left out). `transform` acts on a batch after its conversion to
    float32 in [0, 1]. `seed` decides the batches and the objective's noise; the caller's random state is left as it
    was. Modules are trained in train mode and left in eval mode. `log_every` prints a line every so many steps (0:
    only a last line; −1: none). Where a line is due, `watch(step, history so far)` is called, which may draw numbers
    and use the modules in eval mode.

    `precision` "bfloat16" runs the objective under autocast. `step` "compiled" compiles it; "graph" replays the whole
    step as a CUDA graph, for which the objective must not wait for the device. `channels_last` is the memory format
    of modules and batches.

    `checkpoint` is a folder: a run that finds its own checkpoint there goes on from it, on the CPU bit for bit as if
    it had never stopped (same torch, threads and `step`). One is written every `save_every` seconds, at the end, and
    after the step in which SIGTERM or an interrupt comes. It belongs to the run's data, networks, settings and
    `parameters` (such as β); only `steps` may grow. `generators` are those the objective draws from, besides torch's.

    Shapes: images [n, ...]. Returns arrays of length `steps` under "reconstruction", "latent", "decoder", "total"
    (batch means, nats) and "seconds" (one number, over all sessions). Raises ValueError for empty images, a batch
    larger than the data, steps < 1, images that are not finite, and a checkpoint of another run; OSError for a folder
    that cannot be written to, before the first step; FloatingPointError with step and terms where the objective was
    NaN or infinite (seen at the next line, or within 100 steps).

    >>> from grae_helpers import likelihoods, losses, models
    >>> decoder, encoder = models.mlp_decoder(2, 4, [8]), models.mlp_encoder(4, 2, [8], posterior=False)
    >>> objective = lambda x: losses.grae(x, encoder(x), decoder, likelihoods.Gaussian(), beta=0.1)
    >>> history = fit(objective, [encoder, decoder], torch.rand(64, 4), steps=5, batch_size=16, log_every=-1)
    >>> history["total"].shape
    (5,)
    """
    return _finish([Run(**locals())], None)[0]


def fit_many(runs: Sequence[Mapping[str, object]], *, n_steps: int | None = None) -> list[History]:
    """Train several models side by side, where one does not fill the chip: each of `runs` holds arguments for `fit`.

    On a GPU the runs advance in turn, `n_steps` steps each (default 1), every one on a stream of its own; with
    step="graph" their kernels overlap. Images that lie on the GPU already are shared, others are copied for each run.
    On the CPU they run one after another (default: each to its end). Every run has its own random state, so that the
    numbers are those of separate fits; "seconds" is the time from a run's first step to its last, the others' turns
    included. Raises what `fit` raises, TypeError for an argument that `fit` does not have, and ValueError for a
    generator or a checkpoint's folder that two runs share.

    >>> weights = [nn.Linear(1, 1), nn.Linear(1, 1)]
    >>> objectives = [lambda x, w=w: LossTerms(w(x)[:, 0] ** 2, 0 * x[:, 0], 0 * x[:, 0]) for w in weights]
    >>> loop = {"images": torch.rand(8, 1), "steps": 3, "batch_size": 4, "log_every": -1}
    >>> histories = fit_many([{"objective": f, "modules": [w], **loop} for f, w in zip(objectives, weights)])
    >>> [len(history["total"]) for history in histories]
    [3, 3]
    """
    if n_steps is not None:
        runtime.integer("n_steps", n_steps, 1)
    bound = [inspect.signature(fit).bind(**run) for run in runs]
    for arguments in bound:
        arguments.apply_defaults()
    _check_apart([arguments.arguments for arguments in bound])
    started = [Run(**arguments.arguments) for arguments in bound]
    on_gpu = [run for run in started if run.device.type == "cuda"]
    for run in on_gpu:
        run.leave_the_default_stream()
    return _finish(started, n_steps or (1 if on_gpu else None))


def _check_apart(runs: Sequence[Mapping[str, object]]) -> None:
    generators = [id(generator) for run in runs for generator in run["generators"]]
    if len(set(generators)) < len(generators):
        raise ValueError("generators: expected other ones in every run, got one that two runs share")
    places = [checkpoints.place(run["checkpoint"]) for run in runs]
    folders = [place.resolve() for place in places if place is not None]
    if len(set(folders)) < len(folders):
        raise ValueError("checkpoint: expected a folder for every run, got one that two runs share")


def _finish(runs: Sequence[Run], n_steps: int | None) -> list[History]:
    """Advance the runs in turn to their ends; at a signal, save them all and let it act.

    A caller's handler may choose to go on: then so does training.
    """
    while any(not run.finished for run in runs):
        with _postponed(any(run.given.checkpoint is not None for run in runs)) as caught:
            while not caught and (unfinished := [run for run in runs if not run.finished]):
                for run in unfinished:
                    run.turn(n_steps, caught)
                    if run.due():
                        run.save()
            if caught:
                for run in runs:
                    run.save()
    for module in (module for run in runs for module in run.given.modules):
        module.eval()
    return [run.history() for run in runs]


@contextmanager
def _postponed(wanted: bool) -> Iterator[list[int]]:
    """Collect an interrupt or SIGTERM instead of acting on it mid-step; at the end, let each act once.

    A second one of a kind acts at once. SIGTERM acts first: an interrupt's exception would hide it. Only the main
    thread can, and only for handlers that Python knows and that do not ignore the signal.
    """
    caught, handlers = [], {}

    def note(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, handlers[number])

    if wanted and threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        handlers = {number: old for number, old in handlers.items() if old not in (None, signal.SIG_IGN)}
    try:
        for number in handlers:
            signal.signal(number, note)
        yield caught
    except KeyboardInterrupt:  # the second one, which stands for the first
        caught[:] = [number for number in caught if number != signal.SIGINT]
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in (signal.SIGTERM, signal.SIGINT):
            if number in caught:
                signal.raise_signal(number)
