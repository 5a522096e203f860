"""A grid of parameters as the jobs of a sweep, all checked before any runs, and the folder that they share."""

import itertools
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from grae_helpers import jobs, notebooks
from grae_helpers.jobs import Job
from grae_helpers.notebooks import BadInput

FOLDERS = ("checkpoints", "folder")  # parameters that name a folder: a job runs in another one than its user
OWN = {".lock", ".locks", ".running", jobs.SOURCE}  # what a sweep that was cut off at its beginning leaves


class Plan(NamedTuple):
    """A sweep that was checked and not begun: the notebook, its checksum, and the jobs."""

    notebook: object
    stem: str
    sha256: str
    jobs: list[Job]


def plan(
    notebook: str | os.PathLike,
    grid: Mapping[str, Sequence],
    out: str | os.PathLike,
    *,
    fixed: Mapping[str, object] | None = None,
    threads: int = 1,
) -> Plan:
    """The jobs of a sweep, every parameter of each of them checked; nothing is run, and nothing written.

    Values are Python's, or texts as on the command line for what is no text. Raises BadInput, a ValueError, for a
    notebook that is none, a name that it does not declare, a value of another type or one that cannot be right, a
    value given twice, an empty list, and for an `out` that belongs to something else.
    """
    source, out, fixed = Path(notebook), absolute(out), dict(fixed or {})
    if not source.is_file():
        raise BadInput(f"{source}: expected a notebook, a .py in percent format or an .ipynb")
    read, digest = notebooks.read(source), jobs.sha256(source.read_bytes())
    known = notebooks.declared(read, source.stem)
    axes = {name: _axis(source.stem, known, name, values) for name, values in grid.items()}
    for name in [name for name in fixed if name in axes]:
        raise BadInput(f"{name}: given both in the grid and as one value")
    constant = {name: _absolute(name, _value(source.stem, known, name, value)) for name, value in fixed.items()}
    _check_folder(out, source.stem, digest)
    found = []
    for values in itertools.product(*axes.values()):
        shown = dict(zip(axes, values, strict=True))
        found.append(_job(out, source.stem, digest, known, shown, constant, threads))
    return Plan(read, source.stem, digest, found)


def _known(stem: str, known: Mapping[str, notebooks.Parameter], name: str) -> notebooks.Parameter:
    if name not in known:
        listing = "\n".join(f"    {parameter}" for parameter in known.values()) or "    (none)"
        raise BadInput(f"no parameter {name!r} in {stem}. Known parameters:\n{listing}")
    if name in notebooks.COLUMNS:
        raise BadInput(f"{name}: the table of a sweep has such a column already; rename the parameter")
    return known[name]


def _axis(stem: str, known: Mapping[str, notebooks.Parameter], name: str, values: Sequence) -> list:
    parameter = _known(stem, known, name)
    if name in jobs.PLACES:
        raise BadInput(f"{name}: says where a job runs, not what it computes, and can have no grid")
    if notebooks.item_type(parameter.type):
        raise BadInput(f"{name}: a list ({parameter.type}) has no grid; give it one value with -p")
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise BadInput(f"{name}: expected one value or more, got {values!r}")
    found = [_value(stem, known, name, value) for value in values]
    written = Counter(map(repr, found))  # NaN is not equal to itself
    for value in found:
        if written[repr(value)] > 1:
            raise BadInput(f"{name}: {value!r} is in the grid twice")
    return found


def _value(stem: str, known: Mapping[str, notebooks.Parameter], name: str, value: object) -> object:
    parameter = _known(stem, known, name)
    found = notebooks.convert(parameter, value) if isinstance(value, str) else notebooks.fit(parameter, value)
    return 0.0 if isinstance(found, float) and found == 0 else found  # -0 is the same job


def _absolute(name: str, value: object) -> object:
    is_folder = name in FOLDERS and value and not str(value).startswith("drive:")
    return str(absolute(str(value))) if is_folder else value


def absolute(place: str | os.PathLike) -> Path:
    """A folder by its whole path, as the user knows it: links are left, since another machine may have others."""
    return Path(os.path.abspath(Path(place).expanduser()))


def _job(out: Path, stem: str, digest: str, known: Mapping, shown: dict, constant: dict, threads: int) -> Job:
    values = constant | shown
    parameters = {name: parameter.default for name, parameter in known.items()} | values
    varied = " ".join(f"{name}={value!r}" for name, value in shown.items())
    notebooks.check(f"{stem}: {varied}" if varied else stem, parameters)
    name = jobs.key(digest, parameters)
    if "checkpoints" in known and not parameters["checkpoints"]:
        values = values | {"checkpoints": str(out / ".checkpoints" / name)}
    return Job(name, str(out), stem, values, parameters, shown, tuple(constant | shown), threads)


def _check_folder(out: Path, stem: str, digest: str) -> None:
    """Refuse a folder that is not this sweep's, nor free to become it."""
    if not out.exists():
        return
    if not out.is_dir():
        raise BadInput(f"--out: expected a folder, found the file {out}")
    if not (out / jobs.SWEEP).is_file():
        others = sorted({path.name for path in out.iterdir()} - OWN)
        if others:
            raise BadInput(f"--out: {out} is no folder of a sweep, and not empty ({others[0]}); choose another")
        return
    found = sweep_of(out)
    if found["notebook"] != stem:
        raise BadInput(
            f"--out: {out} belongs to a sweep of {found['notebook']}, not of {stem}; choose another folder"
        )
    if found["sha256"] != digest:
        changed = f"{stem} has changed since the sweep in {out} began"
        raise BadInput(f"--out: {changed}: choose another folder, or go back to the notebook of that time")


def sweep_of(out: Path) -> dict:
    """The notebook that a folder's sweep is of, and its checksum; BadInput where it is no sweep's."""
    try:
        found = json.loads((out / jobs.SWEEP).read_text("utf8"))
        return {name: found[name] for name in ("notebook", "sha256")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{out / jobs.SWEEP}: expected what a sweep writes, got {error!r}") from error


def claim(out: Path, planned: Plan) -> None:
    """Make the folder this sweep's; of two that begin at once, both find the same."""
    filelock = notebooks.needs("filelock")
    try:
        out.mkdir(parents=True, exist_ok=True)
        claimed = (out / jobs.SWEEP).is_file()  # nothing to write then: the folder may be read-only by now
        with nullcontext() if claimed else filelock.FileLock(out / ".lock"):
            _check_folder(out, planned.stem, planned.sha256)
            if not (out / jobs.SWEEP).is_file():
                notebooks.write(planned.notebook, out / jobs.SOURCE)
                fresh = out / ".running" / jobs.SWEEP
                fresh.parent.mkdir(exist_ok=True)
                fresh.write_text(json.dumps({"notebook": planned.stem, "sha256": planned.sha256}, indent=1), "utf8")
                os.replace(fresh, out / jobs.SWEEP)
    except OSError as error:
        raise BadInput(f"--out: {out} cannot be made the folder of a sweep: {error.strerror or error}") from error
