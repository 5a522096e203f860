"""Checkpoints: one safetensors file each, written whole or not at all, read only if its checksum is right."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import safetensors
import torch
from torch import Tensor, nn

from grae_helpers import runtime, storage

_NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{64})\.safetensors")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class Checkpoint(NamedTuple):
    """What `save` was given: the step, the tensors by name, on the CPU, and the rest as JSON holds it.

    >>> Checkpoint(3, {}, {"beta": 0.5}).state["beta"]
    0.5
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict


def place(checkpoint: str | os.PathLike | None) -> Path | None:
    """The folder that an argument `checkpoint` names, or None; TypeError or ValueError for what names none.

    >>> place("runs/grae").as_posix(), place(None)
    ('runs/grae', None)
    """
    if checkpoint is None:
        return None
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(f"checkpoint: expected a folder or None, got {checkpoint!r}")
    if not os.fspath(checkpoint):
        raise ValueError(f"checkpoint: expected a folder or None, got {checkpoint!r}")
    return Path(checkpoint)


def prepare(folder: str | os.PathLike, tensors: Mapping[str, Tensor]) -> None:
    """Make the folder, and refuse at once what `save` would refuse after hours.

    Raises TypeError for a dtype that cannot be stored, and OSError for a folder that cannot be made or written to.

    >>> import tempfile
    >>> prepare(tempfile.mkdtemp(), {"weight": torch.ones(2)})
    """
    _header(tensors, {})
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=".step-", suffix=".partial") as file:
            file.write(b"0")
    except OSError as error:
        raise OSError(error.errno, f"checkpoint: cannot write to {folder} ({error.strerror})") from error


def save(
    folder: str | os.PathLike, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, object], keep: int = 2
) -> Path:
    """Write a checkpoint into the folder, which is made if it is not there, and return its path.

    The file's name holds the step and the sha256 of its content. It is written under another name, flushed to the
    disk and renamed, so that a run killed at any moment leaves a whole checkpoint or a temporary file, which the next
    `save` removes. The `keep` newest stay; those of later steps go, since a run that writes step s has refused them.
    One run to a folder: a second one would take the first one's temporary files for leftovers.

    `tensors` may lie on any device; they are stored contiguous. `state` is what JSON can hold. On a full disk all but
    the newest intact checkpoint make room, once. Raises OSError with the bytes needed and free where that does not
    help; ValueError and TypeError for a bad `step`, `keep`, `state` or dtype.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> save(folder, 12, {"weight": torch.ones(2)}, {"beta": 0.5}).name[:14]
    'step-00000012-'
    >>> latest(folder).tensors["weight"]
    tensor([1., 1.])
    """
    runtime.integer("step", step, 0)
    runtime.integer("keep", keep, 1)
    folder, header = Path(folder), _header(tensors, state)
    folder.mkdir(parents=True, exist_ok=True)
    _remove(folder.glob(".step-*.partial"))
    try:
        path = _write(folder, step, header, tensors)
    except OSError as error:
        path = _retry(folder, step, header, tensors, error)
    _prune(path, step, keep)
    return path


def latest(folder: str | os.PathLike) -> Checkpoint | None:
    """The newest checkpoint of the folder whose content has the checksum in its name; None where there is none.

    A truncated or altered one is refused with a warning that says what was expected and what was found, and the one
    before it is taken. Raises ValueError if there are checkpoints and none is intact: training would else start from
    scratch in silence.

    >>> latest("a folder that is not there") is None
    True
    """
    folder, refused = Path(folder), []
    if os.path.exists(folder) and not folder.is_dir():
        raise ValueError(f"checkpoint: expected a folder, got the file {folder}")
    for step, path in _listed(folder):
        found = _checksum(path)
        if path.name == f"step-{step:08d}-{found}.safetensors":
            for message in refused:
                warnings.warn(f"refused {message}; {path.name} is used", stacklevel=2)
            return _read(step, path)
        refused.append(f"{path.name}: expected the sha256 in its name, found {found}")
    if refused:
        raise ValueError(
            f"checkpoint: none in {folder} is intact: {'; '.join(refused)}; choose another folder, "
            "or empty this one to train from scratch"
        )
    return None


def _ordered(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Wide elements first, so that all of them are aligned."""
    return sorted(tensors.items(), key=lambda entry: -entry[1].element_size())


def _header(tensors: Mapping[str, Tensor], state: Mapping[str, object]) -> bytes:
    """What a safetensors file begins with: the length of a JSON text, and the text, padded to 8 bytes."""
    entries, start = {"__metadata__": {"state": json.dumps(storage.plain(state))}}, 0
    for name, tensor in _ordered(tensors):
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name}: expected a dtype of {', '.join(map(str, _DTYPES))}, got {tensor.dtype}")
        stop = start + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _content(header: bytes, tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The file in parts: a large model is copied from the device tensor by tensor, never as a whole."""
    yield header
    for _, tensor in _ordered(tensors):
        yield tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _read(step: int, path: Path) -> Checkpoint:
    with safetensors.safe_open(path, "pt") as file:
        state = json.loads(file.metadata()["state"])
        return Checkpoint(step, {name: file.get_tensor(name) for name in file.keys()}, state)


def _listed(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every checkpoint, newest first; of one step's, the one written last."""
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*.safetensors")]
    found = [(int(match[1]), path) for match, path in matches if match]
    return sorted(found, key=lambda entry: (entry[0], entry[1].lstat().st_mtime_ns), reverse=True)


def _checksum(path: Path) -> str:
    """The sha256 of the content, or why it cannot be read: then it is none that can be used either."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"nothing that can be read ({error.strerror})"


def _write(folder: Path, step: int, header: bytes, tensors: Mapping[str, Tensor]) -> Path:
    temporary, digest = folder / f".step-{step:08d}.partial", hashlib.sha256()
    try:
        with temporary.open("wb") as file:
            for part in _content(header, tensors):
                digest.update(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"step-{step:08d}-{digest.hexdigest()}.safetensors"
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(folder)
    return path


def _flush_folder(folder: Path) -> None:
    """Make the rename itself last, where the file system can: a mounted Drive cannot."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _retry(folder: Path, step: int, header: bytes, tensors: Mapping[str, Tensor], error: OSError) -> Path:
    """Write again after older checkpoints have made room; say what is missing where that does not do."""
    if error.errno in _FULL and _made_room(folder):
        try:
            return _write(folder, step, header, tensors)
        except OSError as second:
            error = second
    needed = len(header) + sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    raise OSError(
        error.errno,
        f"checkpoint: cannot write to {folder} ({error.strerror}): {needed:,} bytes needed, "
        f"{shutil.disk_usage(folder).free:,} bytes free; the newest intact checkpoint stays",
    ) from error


def _made_room(folder: Path) -> bool:
    """Remove all checkpoints but the newest intact one; False where there was nothing to remove."""
    paths = [path for _, path in _listed(folder)]
    newest = next((path for path in paths if _checksum(path) in path.name), None)
    return _remove(path for path in paths if newest and path != newest)


def _remove(paths: Iterable[Path]) -> bool:
    """Remove files and links, not folders named like them, and say whether there was one."""
    files = [path for path in paths if _removable(path)]
    for path in files:
        path.unlink(missing_ok=True)
    return bool(files)


def _removable(path: Path) -> bool:
    return path.is_symlink() or not path.is_dir()


def _prune(written: Path, step: int, keep: int) -> None:
    others = [(s, path) for s, path in _listed(written.parent) if path != written and _removable(path)]
    earlier = [path for s, path in others if s <= step]
    later = [path for s, path in others if s > step]
    _remove([*later, *earlier[keep - 1 :]])


def collect(modules: Sequence[nn.Module], optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Parameters, buffers and the optimiser's state by name, not copied: what `restore` wants back.

    >>> net = nn.Linear(2, 1)
    >>> list(collect([net], torch.optim.Adam(net.parameters())))
    ['module 0.weight', 'module 0.bias']
    """
    tensors = dict(_named(modules))
    for number, (_, parameter) in enumerate(_optimised(optimiser)):
        state = optimiser.state.get(parameter, {})
        tensors |= {f"optimiser {number}.{key}": value for key, value in state.items()}
    return tensors


@torch.no_grad()
def restore(tensors: Mapping[str, Tensor], modules: Sequence[nn.Module], optimiser: torch.optim.Optimizer) -> None:
    """Copy what `collect` collected into modules and optimiser, each tensor in the memory format it has there.

    >>> net, twin = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> restore(collect([net], torch.optim.Adam(net.parameters())), [twin], torch.optim.Adam(twin.parameters()))
    >>> torch.equal(net.weight, twin.weight)
    True
    """
    for name, tensor in _named(modules):
        tensor.copy_(tensors[name])
    for number, (group, parameter) in enumerate(_optimised(optimiser)):
        prefix = f"optimiser {number}."
        saved = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if saved:
            on_device = group.get("fused") or group.get("capturable")
            step = saved.pop("step").to(parameter.device if on_device else "cpu", copy=True)
            moments = {key: torch.empty_like(parameter).copy_(value) for key, value in saved.items()}
            optimiser.state[parameter] = {"step": step, **moments}


def _named(modules: Sequence[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    for number, module in enumerate(modules):
        for name, tensor in chain(module.named_parameters(), module.named_buffers()):
            yield f"module {number}.{name}", tensor


def _optimised(optimiser: torch.optim.Optimizer) -> list[tuple[dict, Tensor]]:
    return [(group, parameter) for group in optimiser.param_groups for parameter in group["params"]]
