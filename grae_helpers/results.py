"""Frozen results: small files with a manifest that says how they were made, checked again on loading."""

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from grae_helpers import notebooks, runtime, storage

MAX_BYTES = 8_000_000
MANIFEST = "manifest.json"
RUNNER = "python -m tools.run_notebooks --only"
KINDS = {".csv": "tables", ".json": "tables", ".png": "images", ".safetensors": "weights"}


@dataclass(frozen=True, eq=False)
class Frozen:
    """A frozen result: arrays, tables (rows as dicts, or a mapping), images, state dicts and the manifest."""

    arrays: dict[str, np.ndarray]
    tables: dict[str, list[dict] | dict]
    images: dict[str, np.ndarray]
    weights: dict[str, dict[str, torch.Tensor]]
    manifest: dict

    @property
    def label(self) -> str:
        """One line for the page: budget, size against the paper's, device, date and commit."""
        return label(self.manifest)


def root() -> Path:
    """The folder of all frozen results: $GRAE_RESULTS, else `results` beside the package."""
    value = os.environ.get("GRAE_RESULTS")
    return Path(value).expanduser() if value else Path(__file__).resolve().parents[1] / "results"


def find(notebook: str) -> Frozen | None:
    """The frozen result of a notebook, by its name without suffix; None where it has none.

    >>> find("00_no_such_notebook") is None
    True
    """
    folder = root() / storage.check_name(notebook)
    return load(folder) if storage.current(folder).exists() else None


def freeze(
    folder: str | os.PathLike,
    *,
    parameters: Mapping[str, object],
    sizes: Mapping[str, object],
    paper: Mapping[str, object],
    seeds: Sequence[int],
    seconds: float,
    arrays: Mapping[str, np.ndarray] | None = None,
    tables: Mapping[str, storage.Table] | None = None,
    images: Mapping[str, np.ndarray] | None = None,
    weights: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
    notebook: str | None = None,
    command: str | None = None,
    provenance: Mapping[str, object] | None = None,
) -> Path:
    """Write a result and its manifest into `folder`, replacing an older one in one step; returns the folder.

    `arrays` go into arrays.npz. A table of rows with the same columns becomes a .csv, a mapping a .json;
    `images`, uint8 [H, W] or [H, W, 3], become .png, and state dicts in `weights` .safetensors.
    `parameters` are the notebook's own, `sizes` what its budget stood for, and `paper` holds the paper's
    values of some of either ({} if it gives none): the manifest records where they differ. `seconds` is the
    wall time; `command` is by default the runner's for `notebook` (by default the folder's name) with `parameters`.
    If it is interrupted, the old result stays.

    Raises ValueError for more than 8 MB in all, a bad name, an array of objects, or a folder that holds
    anything but a frozen result; TypeError for what no file can hold.
    """
    folder = Path(folder).resolve()
    _check_replaceable(folder)
    contents, columns = storage.encode(arrays or {}, tables or {}, images or {}, weights or {})
    _check_contents(contents)
    parameters, sizes, paper = (storage.plain(dict(part)) for part in (parameters, sizes, paper))
    if provenance is None:
        provenance = runtime.provenance(runtime.device(parameters.get("device", "auto")))
    manifest = {
        "notebook": notebook or folder.name,
        "command": command or _command(notebook or folder.name, parameters),
        "budget": parameters.get("budget"),
        "parameters": parameters,
        "sizes": sizes,
        "paper": paper,
        "differs": _differences(parameters | sizes, paper),
        "seeds": [int(seed) for seed in seeds],
        "seconds": round(float(seconds), 3),
        "peak_memory_bytes": peak_memory(),
        **provenance,
        "columns": columns,
        "files": {name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in contents.items()},
    }
    manifest = {"label": label(manifest)} | manifest
    storage.replace(folder, contents | {MANIFEST: storage.to_json(manifest)})
    return folder


def load(folder: str | os.PathLike) -> Frozen:
    """A frozen result, each file checked against the manifest's sha256.

    Raises ValueError for a file that is missing, altered or not in the manifest, naming it.
    """
    folder = storage.current(Path(folder))
    manifest = _manifest(folder)
    frozen = Frozen({}, {}, {}, {}, manifest)
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        if (found := _sha256(content)) != entry["sha256"]:
            raise ValueError(f"{folder / name} was altered: expected sha256 {entry['sha256']}, found {found}")
        value = storage.decode(name, content, manifest["columns"].get(name, {}))
        if name == "arrays.npz":
            frozen.arrays.update(value)
        else:
            getattr(frozen, KINDS[Path(name).suffix])[Path(name).stem] = value
    return frozen


def label(manifest: Mapping[str, object]) -> str:
    """What a page shows beside a frozen result; a run smaller than the paper's is called a reduced run.

    >>> run = {"budget": "full", "parameters": {}, "sizes": {"steps": 3000}, "paper": {"steps": 20000}}
    >>> label(run | {"device": "CPU", "time": "2026-11-21T10:00:00", "commit": "abc1234def", "dirty": False})
    'reduced run (steps 3,000 instead of 20,000), CPU, 2026-11-21, commit abc1234'
    """
    values = manifest["parameters"] | manifest["sizes"]
    differs, commit = _differences(values, manifest["paper"]), manifest["commit"]
    parts = [_kind(manifest, differs), manifest["device"]]
    if "steps" in values and "steps" not in differs:
        parts.append(f"{_text(values['steps'])} steps")
    parts.append(str(manifest["time"])[:10])
    changed = " with uncommitted changes" if manifest["dirty"] else ""
    parts.append(f"commit {commit[:7]}{changed}" if commit else "commit unknown")
    return ", ".join(parts)


def record(**numbers: float | int | str | bool | None) -> None:
    """Publish a notebook's numbers as an output, from which a sweep makes its table: `sweep.collect`.

    The output says where they were computed too (`runtime.provenance`). Called several times, the numbers are put
    together; a job that records a name twice fails. Outside a notebook they are printed. NaN and infinity are
    numbers; numpy's scalars and tensors of one element count as what they hold. Raises TypeError by name for what is
    no float, int, str, bool or None, and ValueError for a name that the table uses itself.

    >>> record(fid=12.5, features="mnist")
    recorded: fid = 12.5, features = mnist
    """
    reserved = sorted(set(numbers) & set(notebooks.COLUMNS))
    if reserved:
        raise ValueError(f"record: {', '.join(reserved)}: the table of a sweep has such a column already")
    plain = {name: _recordable(name, value) for name, value in numbers.items()}
    where = torch.device("cuda" if torch.cuda.is_initialized() else "cpu")
    published = notebooks.publish(plain, runtime.provenance(where))
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        print(published["text/plain"])
    else:
        ipython.display.display(published, raw=True)


def peak_memory() -> dict[str, int | None]:
    """The most bytes this process has held so far: `host` (None where the system does not say) and `cuda`."""
    cuda = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
    try:
        import resource
    except ImportError:
        return {"host": None, "cuda": cuda}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "cuda": cuda}


def _recordable(name: str, value: object) -> float | int | str | bool | None:
    if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.numel() == 1):
        value = value.item()
    if value is not None and not isinstance(value, float | int | str | bool):
        raise TypeError(f"{name}: expected a number, a text, true or false, or None, got {type(value).__name__}")
    return value


def _check_replaceable(folder: Path) -> None:
    storage.check_name(folder.name)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder, found a file")
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder}: expected a frozen result to replace, found files without {MANIFEST}")


def _check_contents(contents: Mapping[str, bytes]) -> None:
    if MANIFEST in contents:
        raise ValueError("table manifest: the name is the manifest's own, choose another")
    sizes = {name: len(content) for name, content in contents.items()}
    if sum(sizes.values()) > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES:,} bytes in all, got {sum(sizes.values()):,}: {sizes}")


def _manifest(folder: Path) -> dict:
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder}: expected a frozen result with a {MANIFEST}, found none")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        columns, files = manifest["columns"], manifest["files"]
        intact = isinstance(columns, dict) and all(isinstance(files[name]["sha256"], str) for name in files)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{folder / MANIFEST}: expected what freeze writes, got {error!r}") from error
    if not intact:
        raise ValueError(f"{folder / MANIFEST}: expected columns by file and a sha256 for each file")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    expected = set(manifest["files"])
    for problem, names in (("is missing", expected - found), ("is not in the manifest", found - expected)):
        if names:
            files = f"expected {sorted(expected)}, found {sorted(found)}"
            raise ValueError(f"{folder / min(names)} {problem}: {files}")
    return manifest


def _differences(values: Mapping[str, object], paper: Mapping[str, object]) -> dict[str, list]:
    """The paper's settings that this run did not have, each as [ours, the paper's]."""
    unknown = sorted(set(paper) - set(values))
    if unknown:
        raise ValueError(f"paper: expected names of parameters or sizes, {sorted(values)}, got {unknown}")
    return {name: [values[name], its] for name, its in paper.items() if values[name] != its}


def _kind(manifest: Mapping[str, object], differs: Mapping[str, list]) -> str:
    if not differs:
        note = "" if manifest["paper"] else " (no size in the paper to compare with)"
        return f"{manifest['budget'] or 'no'} budget{note}"
    listed = ", ".join(f"{name} {_text(a)} instead of {_text(b)}" for name, (a, b) in differs.items())
    smaller = any(_smaller(ours, its) for ours, its in differs.values())
    return f"{'reduced run' if smaller else 'not the settings of the paper'} ({listed})"


def _smaller(ours: object, its: object) -> bool:
    if isinstance(ours, int | float) and isinstance(its, int | float):
        return ours < its
    return isinstance(ours, list) and isinstance(its, list) and len(ours) < len(its)


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _command(notebook: str, parameters: Mapping[str, object]) -> str:
    words = [RUNNER, notebook]
    for name, value in parameters.items():
        words += ["-p", name, shlex.quote(value if isinstance(value, str) else json.dumps(value))]
    return " ".join(words)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
