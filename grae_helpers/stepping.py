"""One optimisation step on a device, run eagerly, compiled or replayed as a CUDA graph, with noise of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FunctionType

import torch
from torch import Tensor, nn

from grae_helpers.losses import LossTerms

WARM_UP = 3  # eager steps before a capture: it must not be the one that initialises libraries, or the optimiser


def as_float(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]; floating images as they are.

    >>> as_float(torch.tensor([255], dtype=torch.uint8))
    tensor([1.])
    """
    return images.float() / 255 if images.dtype == torch.uint8 else images


def adam(modules: Sequence[nn.Module], learning_rate: float, device: torch.device, mode: str) -> torch.optim.Adam:
    """Adam over the parameters of the modules: on a GPU one fused kernel, in a form that a graph can hold.

    >>> adam([nn.Linear(2, 2)], 0.1, torch.device("cpu"), "eager").defaults["lr"]
    0.1
    """
    parameters = [parameter for module in modules for parameter in module.parameters()]
    if device.type != "cuda":
        return torch.optim.Adam(parameters, lr=learning_rate)
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True, capturable=mode == "graph")


def stepper(
    objective: Callable[[Tensor], LossTerms],
    batch: Callable[[Tensor], Tensor],
    optimiser: torch.optim.Optimizer,
    *,
    mode: str = "eager",
    precision: str = "float32",
    device: torch.device | str = "cpu",
    generators: Sequence[torch.Generator] = (),
) -> Callable[[Tensor], Tensor]:
    """A function that makes one step on the images of an index, and returns the batch means of the terms.

    `batch` turns the index [batch_size] (int64, on the device) into x. The result is [4], on the device:
    reconstruction, latent, decoder and total, in nats. Nothing waits for it, and a graph overwrites it in its next
    step; a graph holds the `generators` that the objective draws from. With "bfloat16" the objective runs under
    autocast, and must return float32 or float64 terms. Raises TypeError, at the step, for an objective that returns
    something else.

    >>> weight = nn.Linear(1, 1)
    >>> objective = lambda x: LossTerms(weight(x).square().sum(1), x.new_zeros(len(x)), x.new_zeros(len(x)))
    >>> optimiser = adam([weight], 0.1, torch.device("cpu"), "eager")
    >>> stepper(objective, lambda index: torch.ones(3, 1)[index], optimiser)(torch.tensor([0, 2])).shape
    torch.Size([4])
    """
    evaluate = _evaluation(objective, torch.device(device).type, precision)
    if mode == "compiled":
        # static shapes: the numbers of another objective (β, say) must stay constants of this one
        evaluate = torch.compile(_fresh(evaluate), dynamic=False)

    def step(index: Tensor) -> Tensor:
        loss, row = evaluate(batch(index))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return row

    return _Captured(step, torch.device(device), generators) if mode == "graph" else step


def _evaluation(objective: Callable, device: str, precision: str) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext():
            terms = objective(x)
        _check_terms(terms, precision)
        row = torch.stack([term.detach().mean() for term in (*terms, terms.total)])
        return terms.total.mean(), row

    return evaluate


def _check_terms(terms: object, precision: str) -> None:
    if not isinstance(terms, LossTerms):
        raise TypeError(f"objective: expected to return LossTerms, got {type(terms).__name__}")
    if precision == "bfloat16":
        found = [str(term.dtype).removeprefix("torch.") for term in terms]
        if not all(name in ("float32", "float64") for name in found):
            raise TypeError(f"objective: expected terms in float32 under autocast, got {', '.join(found)}")


def _fresh(function: FunctionType) -> FunctionType:
    """The function with a code object of its own: torch.compile gives up on a code it has compiled eight times."""
    code = function.__code__.replace()
    return FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)


class _Captured:
    """A step that runs eagerly a few times, is then captured as a CUDA graph, and replayed ever after."""

    def __init__(self, step: Callable[[Tensor], Tensor], device: torch.device, generators: Sequence[torch.Generator]):
        self.step, self.device, self.generators = step, device, generators
        self.stream, self.graph, self.steps = torch.cuda.Stream(device), None, 0

    def __call__(self, index: Tensor) -> Tensor:
        if self.steps < WARM_UP:
            self.steps += 1
            return self._aside(index)
        if self.graph is None:
            self._capture(index)
        self.index.copy_(index)
        self.graph.replay()
        return self.row

    def _aside(self, index: Tensor) -> Tensor:
        """The step on the stream of the capture: gradients remember the stream they were first made on."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            row = self.step(index)
        current.wait_stream(self.stream)
        return row

    def _capture(self, index: Tensor) -> None:
        self.index, graph = index.clone(), torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.row = self.step(self.index)
        except RuntimeError as error:
            error.add_note('step="graph": the objective must not wait for the device, as .item() or .cpu() do')
            raise
        self.graph = graph


def own_randomness(seed: int, device: torch.device) -> list[torch.Generator]:
    """Seeded generators to stand in for torch's global ones: the CPU's and, if the device is one, the GPU's.

    >>> [generator.device.type for generator in own_randomness(0, torch.device("cpu"))]
    ['cpu']
    """
    devices = [torch.device("cpu")] if device.type == "cpu" else [torch.device("cpu"), device]
    return [torch.Generator(where).manual_seed(seed) for where in devices]


@contextmanager
def randomness(generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Let torch's global generators go on from these, which have moved on at the end; then put the caller's back.

    >>> own = own_randomness(0, torch.device("cpu"))
    >>> with randomness(own):
    ...     first = torch.rand(1)
    >>> with randomness(own):
    ...     second = torch.rand(1)
    >>> torch.equal(torch.cat([first, second]), torch.rand(2, generator=torch.Generator().manual_seed(0)))
    True
    """
    pairs = [(_global(own.device), own) for own in generators]
    callers = [_state(default) for default, _ in pairs]
    for default, own in pairs:
        _set_state(default, own)
    try:
        yield
    finally:
        for (default, own), caller in zip(pairs, callers, strict=True):
            own.set_state(default.get_state())
            _set_state(default, caller)


@contextmanager
def fastest_convolutions() -> Iterator[None]:
    """Let cuDNN time its algorithms for the shapes at hand, which are the same in every step; then as it was.

    >>> with fastest_convolutions():
    ...     torch.backends.cudnn.benchmark
    True
    """
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _global(device: torch.device) -> torch.Generator:
    return torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index]


def _state(generator: torch.Generator) -> torch.Generator:
    return generator.graphsafe_get_state() if generator.device.type == "cuda" else generator.clone_state()


def _set_state(generator: torch.Generator, other: torch.Generator) -> None:
    """On a GPU the state object itself: a captured graph draws from the object that was there at its capture."""
    if generator.device.type == "cuda":
        generator.graphsafe_set_state(other)
    else:
        generator.set_state(other.get_state())
