"""Run notebooks with papermill: notebooks/NN.py, as build/nb/NN.ipynb, to build/run/NN.ipynb.

A notebook that fails is left in build/failed for inspection, never in build/run, and the exit status is 1.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import papermill
from ipykernel.kernelspec import get_kernel_dict

from tools import parameters, project
from tools.project import Project, ToolError

CELL_SECONDS = {"test": 300, "book": 1200, "full": None}
"""How long one cell may run at each budget: a stop for what hangs, not a bound to aim at."""
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Job:
    stem: str
    source: Path
    clean: Path
    output: Path
    failed: Path
    values: dict
    merged: dict


@dataclass(frozen=True)
class Outcome:
    stem: str
    seconds: float
    problem: str = ""


def choose(book: Project, only: list[str]) -> list[Path]:
    """The sources whose stem is, or starts with, one of `only`; all of them when it is empty."""
    if not book.sources:
        raise ToolError("there are no notebooks in notebooks/")
    for wanted in only:
        if not any(source.stem.startswith(wanted) for source in book.sources):
            stems = ", ".join(source.stem for source in book.sources)
            raise ToolError(f"no notebook is or starts with {wanted!r}; there are {stems}")
    return [source for source in book.sources if not only or source.stem.startswith(tuple(only))]


def plan(book: Project, only: list[str], given: dict[str, str], out: Path) -> list[Job]:
    """Convert and validate the chosen notebooks. Nothing runs here, and nothing is left half done."""
    sources = choose(book, only)
    clean = {source.stem: _convert(book, source) for source in sources}
    known = {stem: parameters.declared(path) for stem, path in clean.items()}
    values = parameters.assign(known, given)
    return [
        _job(book, source, clean[source.stem], out, known[source.stem], values[source.stem])
        for source in sources
    ]


def _convert(book: Project, source: Path) -> Path:
    notebook = project.read_notebook(source)
    notebook.metadata["grae"] = {
        "source": f"notebooks/{source.name}",
        "source_sha256": project.sha256(source),
    }
    return project.write_notebook(notebook, book.build / "nb" / f"{source.stem}.ipynb")


def _job(book: Project, source: Path, clean: Path, out: Path, known: dict, values: dict) -> Job:
    merged = {name: parameter.default for name, parameter in known.items()} | values
    name = f"{source.stem}.ipynb"
    return Job(source.stem, source, clean, out / name, book.build / "failed" / name, values, merged)


def kernel(book: Project) -> Path:
    """A Jupyter path whose kernel `python3` is this interpreter, silent about its local sockets."""
    path = book.build / "jupyter" / "kernels" / "python3" / "kernel.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(get_kernel_dict(extra_arguments=["--log-level=ERROR"])), "utf8")
    return book.build / "jupyter"


@contextlib.contextmanager
def environment(book: Project, jobs: int) -> Iterator[None]:
    """A kernel that is this interpreter, whatever the user has installed; cores shared among the jobs."""
    wanted = {"JUPYTER_PATH": str(kernel(book)), "IPYTHONDIR": str(book.build / "ipython")}
    wanted["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        wanted["OMP_NUM_THREADS"] = str(max(1, project.cores() // jobs))
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def execute(job: Job, root: Path) -> Outcome:
    """Run one notebook; it reaches its place in build/run by a rename, once it has succeeded."""
    for path in (job.output, job.failed):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    started, problem = time.perf_counter(), ""
    try:
        _papermill(job, root)
        _record(job)
        job.failed.replace(job.output)
    except Exception as error:
        problem = describe(error)
    return Outcome(job.stem, time.perf_counter() - started, problem)


def _papermill(job: Job, root: Path) -> None:
    seconds = CELL_SECONDS.get(job.merged.get("budget", "book"))
    options = {"kernel_name": "python3", "progress_bar": False, "cwd": root, "execution_timeout": seconds}
    papermill.execute_notebook(job.clean, job.failed, parameters=job.values, **options)


def _record(job: Job) -> None:
    notebook = papermill.iorw.load_notebook_node(str(job.failed))
    notebook.metadata["grae"]["parameters"] = job.merged
    notebook.metadata["papermill"].update(input_path=f"{job.stem}.ipynb", output_path=f"{job.stem}.ipynb")
    project.write_notebook(notebook, job.failed)


def describe(error: Exception, lines: int = 25) -> str:
    """The failing cell and the end of its traceback, short enough to read in a log."""
    if not isinstance(error, papermill.PapermillExecutionError):
        return f"{type(error).__name__}: {ANSI.sub('', str(error)).strip()}"
    trace = ANSI.sub("", "\n".join(error.traceback)).splitlines()
    shown = trace if len(trace) <= lines else ["...", *trace[-lines:]]
    return "\n".join([f"cell [{error.exec_count}] raised {error.ename}: {error.evalue}", *shown])


def run_all(jobs: list[Job], root: Path, workers: int = 1) -> list[Outcome]:
    """Run every job, the next one also where one failed, and print a line for each as it ends."""
    if workers == 1:
        return [_report(execute(job, root), job) for job in jobs]
    # Processes, not threads: papermill changes the working folder of its whole process.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running = _submit(pool, jobs, root)
        return [_report(future.result(), running[future]) for future in as_completed(running)]


def _submit(pool: Executor, jobs: list[Job], root: Path) -> dict[Future, Job]:
    return {pool.submit(execute, job, root): job for job in jobs}


def _report(outcome: Outcome, job: Job) -> Outcome:
    budget = job.merged.get("budget", "")
    state = f"FAILED, left in {job.failed.parent.name}/{job.failed.name}" if outcome.problem else "ok"
    print(f"{job.stem:<36} {budget:<5} {outcome.seconds:7.1f} s  {state}", flush=True)
    if outcome.problem:
        print(textwrap.indent(outcome.problem, "    "), flush=True)
    return outcome


def _collect(pairs: list[list[str]], budget: str | None) -> dict[str, str]:
    named = ([["budget", budget]] if budget is not None else []) + pairs
    for name, _ in named:
        if sum(name == other for other, _ in named) > 1:
            raise ToolError(f"parameter {name!r} is given twice")
    return dict(named)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = project.parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NN", help="stems, or their beginnings: 20, 22_covariance"
    )
    parser.add_argument("--budget", help="test, book or full; the same as -p budget")
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--out", type=Path, help="folder of the notebooks that ran (default: BUILD/run)")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at a time (default: 1)")
    return parser.parse_args(arguments)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError(f"{folder} cannot be made a folder: {error.strerror}") from error


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    book = project.project(options)
    if options.jobs < 1:
        raise ToolError(f"--jobs: expected at least 1, got {options.jobs}")
    given = _collect(options.parameter, options.budget)
    out = (options.out or book.build / "run").resolve()
    _make(book.build)
    jobs = plan(book, options.only, given, out)
    _make(out)
    with environment(book, options.jobs):
        outcomes = run_all(jobs, book.root, options.jobs)
    failed = [outcome.stem for outcome in outcomes if outcome.problem]
    if failed:
        print(f"{len(failed)} of {len(outcomes)} notebooks failed: {', '.join(sorted(failed))}")
    return 1 if failed else 0


if __name__ == "__main__":
    project.run(main)
