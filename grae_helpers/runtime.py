"""Device, seeds, budgets, parameters and provenance of a run."""

import datetime
import importlib
import importlib.metadata
import platform
import random
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch

BUDGETS = ("test", "book", "full")
DATASETS = ("auto", "digits", "mnist", "fashion_mnist")  # what a chapter takes; image_folder needs a path
ACTIVATIONS = ("identity", "tanh", "sigmoid", "elu")  # ν of App. C


def device(name: str = "auto") -> torch.device:
    """The device a notebook runs on: "auto" is the GPU where there is one, else the CPU.

    Raises ValueError for a name that torch does not know, or a GPU that this machine does not have.

    >>> device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'device: expected "auto", "cpu", "cuda" or "cuda:N", got {name!r}') from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: {name!r} asked for, but torch sees {torch.cuda.device_count()} CUDA devices")
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f'device: expected "auto", "cpu" or "cuda", got {name!r}')
    return found


def seed_everything(seed: int) -> torch.Generator:
    """Seed torch, numpy and random, and return a CPU generator of the same seed.

    >>> a = torch.rand(3, generator=seed_everything(0)); b = torch.rand(3, generator=seed_everything(0))
    >>> bool((a == b).all())
    True
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - for libraries that read the global state
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def sizes(budget: str, *, test: dict, book: dict, full: dict, **overrides) -> SimpleNamespace:
    """The sizes that a budget stands for; an override that is not 0 (nor empty) replaces the budget's own.

    The three budgets must name the same sizes: a budget changes numbers, never the branch taken.

    >>> sizes("book", test={"steps": 10}, book={"steps": 500}, full={"steps": 20000}).steps
    500
    >>> sizes("book", test={"steps": 10}, book={"steps": 500}, full={"steps": 20000}, steps=7).steps
    7
    """
    check_parameters(budget=budget)
    tables = {"test": test, "book": book, "full": full}
    if not set(test) == set(book) == set(full):
        raise ValueError(f"budgets must name the same sizes, got {[sorted(table) for table in tables.values()]}")
    chosen = dict(tables[budget])
    for name, value in overrides.items():
        if name not in chosen:
            raise ValueError(f"override {name!r} is none of the sizes {sorted(chosen)}")
        if value:
            chosen[name] = value
    return SimpleNamespace(**chosen)


def positive(name: str, value: object) -> float:
    """The value as a float, if it is a positive, finite number; TypeError or ValueError by name otherwise.

    >>> positive("beta", 0.5)
    0.5
    """
    if isinstance(value, torch.Tensor | np.generic) and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a positive number, got {value!r}")
    if not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name}: expected a positive, finite number, got {value!r}")
    return float(value)


def integer(name: str, value: object, minimum: int) -> None:
    """Refuse what is no integer (TypeError) or less than `minimum` (ValueError), by name.

    >>> integer("latent_dim", 0, 1)
    Traceback (most recent call last):
    ...
    ValueError: latent_dim: expected at least 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {value}")


def one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse, by name, a value that is none of the choices: ValueError.

    >>> one_of("budget", "book", BUDGETS)
    """
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}; got {value!r}")


def _listed(name: str, values: object, what: str, check: Callable) -> None:
    if not isinstance(values, list | tuple):
        raise TypeError(f"{name}: expected a list of {what}, got {values!r}")
    for value in values:
        check(name, value)


def _betas(name: str, values: object) -> None:
    _listed(name, values, "positive numbers", positive)
    if len(set(values)) != len(values):
        raise ValueError(f"{name}: {values!r} holds a value twice")


def _seed(name: str, value: object) -> None:
    integer(name, value, 0)
    if value >= 2**63:
        raise ValueError(f"{name}: expected less than 2^63, which torch's generators hold, got {value}")


def _number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name}: expected a finite number, got {value!r}")


def _zero_or_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or value != 0:
        positive(name, value)


def _is_a(kind: type, name: str, value: object) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {'true or false' if kind is bool else 'a text'}, got {value!r}")


_COUNTS = (
    "block_size", "steps", "n_configurations", "n_test", "batch_size", "samples", "samples_unamortized",
    "repeats", "long_repeats", "long_repeats_unamortized", "block", "restarts", "restart_iterations",
)  # fmt: skip
_CHECKS = {
    **dict.fromkeys(_COUNTS, partial(integer, minimum=0)),
    **dict.fromkeys(("latent_dim", "n_samples"), partial(integer, minimum=1)),
    **dict.fromkeys(("width", "learning_rate", "noise"), _zero_or_positive),
    **dict.fromkeys(("compiled", "reflect"), partial(_is_a, bool)),
    "beta": positive,
    "betas": _betas,
    "iterations": partial(_listed, what="integers", check=partial(integer, minimum=1)),
    "activations": partial(_listed, what="activations", check=partial(one_of, choices=ACTIVATIONS)),
    "angle_degrees": _number,
    "seed": _seed,
    "budget": partial(one_of, choices=BUDGETS),
    "dataset": partial(one_of, choices=DATASETS),
    "folder": partial(_is_a, str),
    "device": lambda name, value: device(value),
}


def check_parameters(**parameters) -> None:
    """Refuse a notebook's parameters that cannot be right, before any cell has run.

    `beta` and `betas` are positive and finite; `latent_dim`, `n_samples` and each of `iterations` at least 1;
    `seed` at least 0; `block_size` from 0 (one block, the full matrix) to `latent_dim`; other sizes, such as `steps`
    or `repeats`, with `learning_rate`, `width` and `noise`, 0 (the budget's own) or more; `angle_degrees` any finite
    number; choices are one of the names known. Names without a rule pass. Raises TypeError or ValueError with the
    name, what was expected and what came.

    >>> check_parameters(beta=0.5, latent_dim=8, block_size=2)
    >>> check_parameters(beta=float("nan"))
    Traceback (most recent call last):
    ...
    ValueError: beta: expected a positive, finite number, got nan
    """
    for name, value in parameters.items():
        if name in _CHECKS:
            _CHECKS[name](name, value)
    block, width = parameters.get("block_size"), parameters.get("latent_dim")
    if block is not None and width is not None and block > width:
        raise ValueError(f"block_size: expected at most latent_dim = {width}, got {block}")


def torchvision() -> ModuleType:
    """torchvision, also beside a torch of another build.

    A torchvision built for CUDA fails to import beside a CPU-only torch because its compiled operators are
    absent ("operator torchvision::nms does not exist"). Only the missing schemas are then defined, and the
    import tried again; a matching pair is left alone.
    """
    for _ in range(20):
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            torch.library.define(f"torchvision::{missing[1]}", "(Tensor dets, Tensor scores, float iou) -> Tensor")
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
    raise ImportError("torchvision still fails to import after 20 missing operators were defined")


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def device_name(where: torch.device) -> str:
    """The device as a reader knows it: the GPU's name, or the number of CPU threads in use.

    >>> device_name(torch.device("cpu")) in ("CPU, 1 thread", f"CPU, {torch.get_num_threads()} threads")
    True
    """
    if where.type == "cuda":
        return torch.cuda.get_device_name(where)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def provenance(where: torch.device | None = None) -> dict:
    """What a result needs to be made again: commit, versions, device, time.

    >>> sorted(provenance())
    ['commit', 'device', 'dirty', 'platform', 'python', 'threads', 'time', 'versions']
    """
    packages = ("grae-helpers", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "matplotlib")
    known = {name: _version(name) for name in packages}
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "device": device_name(where or device()),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {name: version for name, version in known.items() if version},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
