"""A training run that stands between two steps, so that it can be advanced, saved and resumed."""

import time
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from grae_helpers import checkpoints, runtime, stepping, storage
from grae_helpers.losses import LossTerms

History = dict[str, np.ndarray]


class Run:
    """A run with the arguments of `training.fit`, all of them by name; resumed if its checkpoint is there.

    Between two turns its generators `random` hold the state that torch's global ones have in its steps.
    """

    def __init__(self, **arguments):
        self.given = given = SimpleNamespace(**arguments)
        self.device = _check(given)
        self.images, self.steps = given.images.to(self.device), given.steps
        layout = {"memory_format": torch.channels_last} if given.channels_last else {}
        for module in given.modules:
            module.to(device=self.device, **layout).train()
        self.optimiser = stepping.adam(given.modules, given.learning_rate, self.device, given.step)
        self.random = stepping.own_randomness(given.seed, self.device)
        self.shuffle = torch.Generator().manual_seed(given.seed)
        self.done, self.checked, self.saved, self.earlier = 0, 0, 0, 0.0
        self.order = self.rows = self.stream = self.start = None
        if given.checkpoint is not None:
            tensors = checkpoints.collect(given.modules, self.optimiser)
            self.made_by = _made_by(given, tensors)
            self._resume()
            if not self.finished:
                checkpoints.prepare(given.checkpoint, tensors)
        self.step = stepping.stepper(
            given.objective, self._batch, self.optimiser, mode=given.step, precision=given.precision,
            device=self.device, generators=given.generators,
        )  # fmt: skip

    @property
    def finished(self) -> bool:
        return self.done == self.steps

    def due(self) -> bool:
        """Whether a checkpoint is: at the end, and `save_every` seconds after the one before was written."""
        wanted = self.given.checkpoint is not None and self.done > self.saved
        return wanted and (self.finished or time.perf_counter() - self.timer >= self.given.save_every)

    def turn(self, n_steps: int | None, caught: list[int]) -> None:
        """Advance so many steps (None: to the end), less where a checkpoint is due or a signal was caught."""
        if self.start is None:
            self.start = self.timer = time.perf_counter()
        goal = self.steps if n_steps is None else min(self.steps, self.done + n_steps)
        with self._on_device(), stepping.randomness(self.random), stepping.fastest_convolutions():
            while self.done < goal and not caught:
                self._advance()
                if self.due():
                    break
            if self.finished:
                self.rows = self.rows.cpu()  # waits for the device, so that the time is the time
                self.earlier, self.start = self._seconds(), None

    def save(self) -> None:
        """Write a checkpoint, unless there is none to write: no folder, or no step since the last one."""
        if self.given.checkpoint is None or self.done <= self.saved:
            return
        with self._on_device():
            self._check_finite()
            self._check_weights()
            state = {"made_by": self.made_by, "seconds": self._seconds(), "torch": torch.__version__}
            state |= {"device": str(self.device), "step": self.given.step}
            checkpoints.save(self.given.checkpoint, self.done, self._tensors(), state)
        self.saved, self.timer = self.done, time.perf_counter()

    def history(self) -> History:
        """The batch means of every step so far, and the seconds they took."""
        columns = self.rows[: self.done].cpu().numpy().T
        history = dict(zip((*LossTerms._fields, "total"), columns, strict=True))
        return {**history, "seconds": np.array(self._seconds())}

    def leave_the_default_stream(self) -> None:
        """Take a stream of its own, after what the present one has still to do for the run."""
        self.stream = torch.cuda.Stream(self.device)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))

    def _on_device(self) -> AbstractContextManager:
        if self.stream is not None:
            return torch.cuda.stream(self.stream)
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _seconds(self) -> float:
        return self.earlier + (0.0 if self.start is None else time.perf_counter() - self.start)

    def _batch(self, index: Tensor) -> Tensor:
        x = stepping.as_float(self.images[index])
        x = x if self.given.transform is None else self.given.transform(x)
        return x.contiguous(memory_format=torch.channels_last) if self.given.channels_last and x.ndim == 4 else x

    def _index(self) -> Tensor:
        """The next batch of the pass; a pass is shuffled on the CPU, the same for every device, and sent there."""
        size = self.given.batch_size
        place = self.done % (len(self.images) // size)
        if place == 0 or self.order is None:
            self.shuffled_from = self.shuffle.get_state()
            self.order = torch.randperm(len(self.images), generator=self.shuffle).to(self.device)
        return self.order[place * size : (place + 1) * size]

    def _advance(self) -> None:
        try:
            row = self.step(self._index())
        except ValueError as error:
            # what an objective refuses may be what an earlier step made NaN
            self._check_finite()
            error.add_note(f"{self.given.label}: raised by the objective in step {self.done + 1} of {self.steps}")
            raise
        if self.rows is None:
            self.rows = row.new_empty(self.steps, len(row))
        self.rows[self.done] = row
        self.done += 1
        every = self.given.log_every
        if self.finished or self.done % (every if every > 0 else 100) == 0:
            self._report(every > 0 or (every == 0 and self.finished))

    def _report(self, line: bool) -> None:
        """Check that the terms are finite, which waits for the device, and print a line that reads in a log."""
        self._check_finite()
        if line:
            meter = tqdm.format_meter(self.done, self.steps, self._seconds(), ncols=60, unit="step", ascii=True)
            print(f"{self.given.label} {meter} {_text(self.rows[self.done - 1])}", flush=True)
            if self.given.watch is not None:
                self._show()

    def _show(self) -> None:
        """Call `watch`, which may draw numbers and put modules into eval mode: training goes on as without it."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            self.given.watch(self.done, self.history())
        for module in self.given.modules:
            module.train()

    def _check_finite(self) -> None:
        new = self.rows[self.checked : self.done] if self.done else []
        finite = torch.isfinite(new[:, -1]).tolist() if len(new) else []
        if not all(finite):
            first = self.checked + finite.index(False)
            where = f"{self.given.label}: not finite since step {first + 1} of {self.steps}"
            raise FloatingPointError(f"{where}: {_text(self.rows[first])}")
        self.checked = self.done

    def _check_weights(self) -> None:
        """A finite objective may have had a gradient that is not: a checkpoint of that could only fail again."""
        weights = [parameter for module in self.given.modules for parameter in module.parameters()]
        if not all(torch.stack([torch.isfinite(weight).all() for weight in weights]).tolist()):
            raise FloatingPointError(f"{self.given.label}: weights not finite after step {self.done} of {self.steps}")

    def _tensors(self) -> dict[str, Tensor]:
        """All that the rest of the run depends on, and its history."""
        whole = self.done % (len(self.images) // self.given.batch_size) == 0
        shuffle = self.shuffle.get_state() if whole else self.shuffled_from
        states = {name: generator.get_state() for name, generator in self._generators().items()}
        collected = checkpoints.collect(self.given.modules, self.optimiser)
        return {**collected, **states, "shuffle": shuffle, "history": self.rows[: self.done]}

    def _generators(self) -> dict[str, torch.Generator]:
        own = {f"random {generator.device.type}": generator for generator in self.random}
        return {**own, **{f"generator {n}": generator for n, generator in enumerate(self.given.generators)}}

    def _resume(self) -> None:
        found = checkpoints.latest(self.given.checkpoint)
        if found is None:
            return
        folder = self.given.checkpoint
        if wrong := _differences(found.state["made_by"], self.made_by):
            raise ValueError(
                f"checkpoint: {folder} holds one of another run: {'; '.join(wrong)}; "
                "choose another folder, or what it was made with"
            )
        if found.step > self.steps:
            raise ValueError(
                f"steps: expected at least {found.step}, as the checkpoint in {folder}, got {self.steps}"
            )
        checkpoints.restore(found.tensors, self.given.modules, self.optimiser)
        self.done = self.saved = self.checked = found.step
        self.earlier = found.state["seconds"]
        history = found.tensors["history"]
        self.rows = torch.empty(self.steps, history.shape[1], dtype=history.dtype, device=self.device)
        self.rows[: self.done] = history.to(self.device)
        self.shuffle.set_state(found.tensors["shuffle"].clone())
        for name, generator in self._generators().items():
            _set_state(generator, found.tensors.get(name), self.given.seed + self.done)
        if self.given.log_every >= 0:
            print(f"{self.given.label}: resumed after step {self.done} of {self.steps}", flush=True)


def _set_state(generator: torch.Generator, saved: Tensor | None, seed: int) -> None:
    """Go on with the saved state; a generator of another device than the checkpoint's starts from the seed."""
    if saved is not None and len(saved) == len(generator.get_state()):
        generator.set_state(saved.clone())
    else:
        generator.manual_seed(seed)


def _made_by(given: SimpleNamespace, tensors: Mapping[str, Tensor]) -> dict[str, dict]:
    """What must be the same in every session of a run, as JSON gives it back."""
    pixels = given.images.detach().cpu().contiguous().flatten().view(torch.uint8)
    names = ("batch_size", "learning_rate", "seed", "precision")
    settings = {name: getattr(given, name) for name in names} | {
        "transform": given.transform is not None,
        "generators": len(given.generators),
        "images": f"{_described(given.images)}, crc32 {zlib.crc32(pixels.numpy()):08x}",
    }
    networks = {name: _described(tensor) for name, tensor in tensors.items()}
    return storage.plain({"parameters": given.parameters or {}, "settings": settings, "networks": networks})


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _differences(expected: Mapping[str, dict], found: Mapping[str, dict], most: int = 8) -> list[str]:
    """Each difference by name, of the networks' many the first few."""
    differences = []
    for part in ("parameters", "settings", "networks"):
        names = dict.fromkeys([*expected[part], *found[part]])
        pairs = [(name, expected[part].get(name, "none"), found[part].get(name, "none")) for name in names]
        differences += [f"{name}: expected {old}, got {new}" for name, old, new in pairs if old != new]
    return differences[:most] + [f"and {len(differences) - most} more"] * (len(differences) > most)


def _check(given: SimpleNamespace) -> torch.device:
    """Refuse arguments that cannot be right, and return the device, with its number."""
    images = given.images
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images: expected uint8 or floating point, got {images.dtype}")
    for name, minimum in (("steps", 1), ("batch_size", 1), ("log_every", -1)):
        runtime.integer(name, getattr(given, name), minimum)
    if not given.batch_size <= len(images):
        raise ValueError(f"batch_size: expected 1 to the {len(images)} images there are, got {given.batch_size}")
    if images.is_floating_point() and not torch.isfinite(images).all():
        raise ValueError("images: expected finite pixels, got NaN or infinity")
    runtime.positive("learning_rate", given.learning_rate)
    runtime.check_parameters(seed=given.seed, precision=given.precision, step=given.step)
    runtime.zero_or_positive("save_every", given.save_every)
    if not isinstance(given.channels_last, bool):
        raise TypeError(f"channels_last: expected true or false, got {given.channels_last!r}")
    checkpoints.place(given.checkpoint)
    return _check_device(given)


def _check_device(given: SimpleNamespace) -> torch.device:
    device = runtime.device(str(given.device))
    if given.step == "graph":
        if device.type != "cuda":
            raise ValueError(f'step: "graph" needs a CUDA device, got device {device}')
        if other := [str(generator.device) for generator in given.generators if generator.device.type != "cuda"]:
            raise ValueError(f'generators: step "graph" needs them on the GPU, got {", ".join(other)}')
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device


def _text(row: Tensor) -> str:
    reconstruction, latent, decoder, total = row.tolist()
    terms = f"reconstruction {reconstruction:.2f} + latent {latent:.2f} + decoder {decoder:.2f}"
    return f"total {total:.2f} = {terms}"
