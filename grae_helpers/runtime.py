"""Device, seeds, budgets, parameters and provenance of a run."""

import datetime
import hashlib
import importlib
import importlib.metadata
import json
import platform
import random
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch

from grae_helpers import checks
from grae_helpers.checks import (  # noqa: F401 - by these names the rest of the package knows them
    ACTIVATIONS,
    BUDGETS,
    DATASETS,
    OBJECTIVES,
    PRECISIONS,
    STEPS,
    integer,
    one_of,
    positive,
    zero_or_positive,
)

DRIVE = Path("/content/drive")
"""Where Colab mounts Google Drive."""


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


def readable(tensor: torch.Tensor) -> bool:
    """Whether its values can be looked at now: not while torch compiles, nor while a CUDA graph is captured.

    Checks of values are left out there; the eager steps before it have made them, and `training.fit` goes on looking
    whether the objective is finite.

    >>> readable(torch.zeros(1))
    True
    """
    capturing = tensor.is_cuda and torch.cuda.is_current_stream_capturing()
    return not (torch.compiler.is_compiling() or capturing)


def check_parameters(**parameters) -> None:
    """Refuse a notebook's parameters that cannot be right, before any cell has run.

    `beta`, `betas` and `save_every` are positive and finite; `latent_dim`, `n_samples`, `n_columns`, `components`,
    `workers` and each of `iterations` at least 1; `seed` at least 0; `block_size` from 0 (one block, the full matrix)
    to `latent_dim`; other sizes, such as `steps` or `repeats`, with `learning_rate`, `width` and `noise`, 0 (the
    budget's own) or more; `regularizer_fraction` more than 0 and at most 1; other weights 0 or more;
    `angle_degrees` any finite number; choices are one of the names known. Names without a rule pass. Raises
    TypeError or ValueError with the name, what was expected and what came.

    >>> check_parameters(beta=0.5, latent_dim=8, block_size=2)
    >>> check_parameters(beta=float("nan"))
    Traceback (most recent call last):
    ...
    ValueError: beta: expected a positive, finite number, got nan
    """
    checks.check(parameters)
    if "device" in parameters:
        device(parameters["device"])


def checkpoint_folder(place: str) -> Path | None:
    """The folder that a notebook's `checkpoints` stands for: none for "", on Google Drive for "drive:NAME".

    On Colab a session's own disk is lost with the connection, and the Drive is not: "drive:NAME" mounts it, asking
    for a permission once, and is its folder NAME. Raises ValueError for "drive:" away from Colab or without a name.

    >>> checkpoint_folder("") is None, checkpoint_folder("build/grae").as_posix()
    (True, 'build/grae')
    """
    drive, separator, name = place.partition("drive:")
    if drive or not separator:
        return Path(place).expanduser() if place else None
    if not name.strip("/"):
        raise ValueError(f"checkpoints: expected drive:NAME with the name of a folder, got {place!r}")
    try:
        colab = importlib.import_module("google.colab.drive")
    except ImportError:
        raise ValueError(
            f"checkpoints: {place!r} is on Google Drive, which only a Colab notebook can mount"
        ) from None
    colab.mount(str(DRIVE))
    return DRIVE / "MyDrive" / name.strip("/")


def drive_folder(chapter: str, settings: Mapping[str, object]) -> str:
    """A folder on Google Drive for what a chapter trains with these settings: grae/CHAPTER/KEY, mounted.

    KEY is the settings' own, so that a run with the same ones goes on and one with another β has a folder to itself.
    Raises ValueError away from Colab.

    >>> drive_folder("12", {"beta": 0.1})
    Traceback (most recent call last):
    ValueError: checkpoints: 'drive:grae/12/e3840e23' is on Google Drive, which only a Colab notebook can mount
    """
    text = json.dumps(settings, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:8]
    folder = checkpoint_folder(f"drive:grae/{chapter}/{key}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / f"{key}.json").write_text(f"{text}\n", "utf8")
    return str(folder)


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
    packages = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "torch-fidelity", "matplotlib")
    known = {name: _version(name) for name in ("grae-helpers", *packages)}
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
