"""One job of a sweep: a notebook with parameters, in a folder of its own that is finished by one rename."""

import hashlib
import importlib
import json
import os
import platform
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from grae_helpers import notebooks

SWEEP = "sweep.json"
SOURCE = "source.ipynb"
NOTEBOOK = "notebook.ipynb"
RECORD = "job.json"
PLACES = ("checkpoints", "device", "workers")
"""Parameters that say where things are or run, not what is computed: no part of a job's hash."""
KEPT = {"parameters", "given", "numbers", "seconds", "commit", "dirty"}
"""What a table needs of a finished job's record."""
THREADS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A notebook with parameters: `values` are injected, `parameters` are all of them, `shown` those that vary."""

    key: str
    out: str
    stem: str
    values: dict
    parameters: dict
    shown: dict
    given: tuple[str, ...] = ()
    threads: int = 1

    def __str__(self) -> str:
        return " ".join(f"{name}={_text(value)}" for name, value in self.shown.items()) or self.stem


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `state` is finished, present (it was there), failed, or busy (another runs it now)."""

    job: Job
    state: str
    seconds: float = 0.0
    problem: str = ""
    notebook: str = field(default="")


def _text(value: object) -> str:
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def sha256(content: bytes) -> str:
    """The checksum of a source.

    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


def key(source: str, parameters: Mapping[str, object]) -> str:
    """A job's name: the hash of its notebook's checksum and of all parameters but PLACES.

    >>> a, b = key("", {"beta": 0.1, "device": "cpu"}), key("", {"device": "cuda", "beta": 0.1})
    >>> a == b != key("", {"beta": 0.2})
    True
    """
    kept = {name: value for name, value in parameters.items() if name not in PLACES}
    return sha256(json.dumps([source, kept], sort_keys=True).encode())[:16]


def state(out: Path, name: str) -> str:
    """What the folder of a sweep knows of a job: finished, damaged, failed or missing.

    >>> state(Path("nowhere"), "0123456789abcdef")
    'missing'
    """
    if (out / name).exists():
        return "finished" if finished(out / name) else "damaged"
    return "failed" if (out / "failed" / name).exists() else "missing"


def finished(folder: Path) -> dict | None:
    """What a finished job left in its folder; None where it cannot be read or belongs to another job."""
    try:
        found = json.loads((folder / RECORD).read_text("utf8"))
        intact = found["job"] == folder.name and (folder / NOTEBOOK).stat().st_size > 0 and found.keys() >= KEPT
        return found if intact and isinstance(found["numbers"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def execute(job: Job, wait: bool = False) -> Outcome:
    """Run a job, here and now, unless it is finished; of several that try at once, one does.

    The lock is the operating system's, and goes with the process that holds it. With `wait` a locked job is waited
    for, otherwise it is reported as busy.
    """
    out = Path(job.out)
    if not (out / SWEEP).is_file():
        where = f"the worker on {platform.node()} does not see {out / SWEEP}"
        return Outcome(job, "failed", problem=f"{where}: DIR must be a folder that all workers share")
    if finished(out / job.key):
        return present(job)
    with _lock(out / ".locks" / job.key, wait) as held:
        if not held:
            return Outcome(job, "busy")
        return present(job) if finished(out / job.key) else _run(job, out)


def present(job: Job) -> Outcome:
    """The outcome of a job that was finished before."""
    return Outcome(job, "present", notebook=str(Path(job.out) / job.key / NOTEBOOK))


@contextmanager
def _lock(path: Path, wait: bool) -> Iterator[bool]:
    filelock = importlib.import_module("filelock")
    path.parent.mkdir(exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=0.2)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _run(job: Job, out: Path) -> Outcome:
    running = out / ".running"
    running.mkdir(exist_ok=True)
    for left in running.glob(f"{job.key}-*"):  # by a process that died: we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    work = running / f"{job.key}-{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
    started, problem = time.perf_counter(), ""
    try:
        work.mkdir()
        shutil.copy(out / SOURCE, work / NOTEBOOK)
        _papermill(job, work)
        _write(work / RECORD, _record(job, work, time.perf_counter() - started))
        place = _finish(job, work, out)
    except Exception as error:
        problem = notebooks.describe(error)
        place = _fail(job, work, out, problem)
    seconds = time.perf_counter() - started
    left = str(place / NOTEBOOK) if (place / NOTEBOOK).is_file() else ""
    return Outcome(job, "failed" if problem else "finished", seconds, problem, left)


def _papermill(job: Job, work: Path) -> None:
    """Run the notebook in its folder, with its share of the cores, and settings of IPython that are nobody's."""
    own = work / ".ipython"
    variables = dict.fromkeys(THREADS, str(job.threads)) | {"IPYTHONDIR": str(own)}
    try:
        notebooks.run(work / NOTEBOOK, job.values, cwd=work, env=notebooks.environment(**variables))
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _record(job: Job, work: Path, seconds: float) -> dict:
    """What is kept of a job beside its notebook."""
    executed = notebooks.load(work / NOTEBOOK)
    numbers, provenance = notebooks.recorded(executed)
    executed.metadata["grae"] = executed.metadata.get("grae", {}) | {"parameters": job.parameters}
    executed.metadata["papermill"].update(input_path=SOURCE, output_path=NOTEBOOK)
    notebooks.write(executed, work / NOTEBOOK)
    return {
        "job": job.key,
        "notebook": job.stem,
        "parameters": job.parameters,
        "given": list(job.given),
        "numbers": numbers,
        "seconds": round(seconds, 3),
        "threads": job.threads,
        "host": platform.node(),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        **_provenance(),
        **provenance,
    }


def _provenance() -> dict:
    """The commit and versions, found without torch, which the kernel has loaded but this process need not."""
    return {
        "commit": _git("rev-parse", "HEAD") or None,
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "device": None,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
    }


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _write(path: Path, value: Mapping[str, object]) -> None:
    """JSON, on the disk before a rename may say that it is whole."""
    with open(path, "w", encoding="utf8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())


def _finish(job: Job, work: Path, out: Path) -> Path:
    """Give the job its place. What could not be read there is set aside; what could, was first and stays."""
    place = out / job.key
    if place.exists() and not finished(place):
        shutil.rmtree(out / "failed" / f"{job.key}-damaged", ignore_errors=True)
        (out / "failed").mkdir(exist_ok=True)
        os.rename(place, out / "failed" / f"{job.key}-damaged")
    try:
        os.rename(work, place)
    except OSError:
        if not finished(place):
            raise
        shutil.rmtree(work, ignore_errors=True)
    for left in (out / "failed" / job.key, out / ".checkpoints" / job.key):
        shutil.rmtree(left, ignore_errors=True)
    return place


def _fail(job: Job, work: Path, out: Path, problem: str) -> Path:
    """Keep the notebook with the error in it, for a reader; the job counts as missing."""
    place = out / "failed" / job.key
    try:
        _write(work / RECORD, {"job": job.key, "parameters": job.parameters, "problem": problem})
        place.parent.mkdir(exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        os.rename(work, place)
    except OSError:  # a full disk, say: the problem itself is reported all the same
        shutil.rmtree(work, ignore_errors=True)
    return place
