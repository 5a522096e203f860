"""Run notebooks with papermill: notebooks/NN.py, as build/nb/NN.ipynb, to build/run/NN.ipynb.

A notebook that fails is left in build/failed for inspection, never in build/run, and the exit status is 1.
One that ran before, and of which nothing changed that it depends on, is not run again.
"""

import argparse
import multiprocessing
import os
import shutil
import textwrap
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from grae_helpers import executors, notebooks
from grae_helpers.notebooks import Parameter
from tools import freshness, made, project
from tools.project import Project, ToolError

COMMON = ("budget", "dataset", "seed", "device")
"""Given to every chosen notebook that knows them; any other parameter must be known to all of them."""
CELL_SECONDS = {"test": 300, "book": 1200, "full": None}
"""How long one cell may run at each budget: a stop for what hangs, not a bound to aim at."""


@dataclass(frozen=True)
class Job:
    stem: str
    source: Path
    clean: Path
    output: Path
    failed: Path
    values: dict
    merged: dict
    key: str = ""
    variables: dict = field(default_factory=dict)

    @property
    def fresh(self) -> bool:
        """Whether what this run would make is there already."""
        if not self.key or not self.output.is_file():
            return False
        try:
            return notebooks.load(self.output).metadata.get("grae", {}).get("key") == self.key
        except (OSError, ValueError, AttributeError):  # whatever it is, it is not what this run makes
            return False


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


def plan(book: Project, only: list[str], given: dict[str, str], out: Path, jobs: int = 1) -> list[Job]:
    """Convert and validate the chosen notebooks. Nothing runs here, and nothing is left half done."""
    sources = choose(book, only)
    read = {source.stem: notebooks.read(source) for source in sources}
    known = {stem: notebooks.declared(notebook, stem) for stem, notebook in read.items()}
    values = assign(known, given)
    variables = environment(book, jobs)
    return [
        _job(book, source, out, known[source.stem], values[source.stem], variables, _convert(book, source, notebook))
        for source, notebook in zip(sources, read.values(), strict=True)
    ]


def _convert(book: Project, source: Path, notebook) -> Path:
    notebook.metadata["grae"] = {
        "source": f"notebooks/{source.name}",
        "source_sha256": project.sha256(source),
    }
    return notebooks.write(notebook, book.build / "nb" / f"{source.stem}.ipynb")


def _job(
    book: Project, source: Path, out: Path, known: dict, values: dict, variables: dict, clean: Path
) -> Job:
    merged = {name: parameter.default for name, parameter in known.items()} | values
    name = f"{source.stem}.ipynb"
    failed, key = book.build / "failed" / name, freshness.key(book, source, merged)
    return Job(source.stem, source, clean, out / name, failed, values, merged, key, variables)


def assign(known: dict[str, dict[str, Parameter]], given: dict[str, str]) -> dict[str, dict[str, object]]:
    """For each notebook the values that differ from its defaults.

    `known` maps a notebook to its parameters, `given` a name to its text. Raises ToolError for a name that no
    notebook knows, for one that only some of them know (unless it is in COMMON), for a wrong type, and for a
    value that cannot be right.
    """
    for name in given:
        _known_to_all(known, name)
    return {notebook: _values(notebook, parameters, given) for notebook, parameters in known.items()}


def _known_to_all(known: dict[str, dict[str, Parameter]], name: str) -> None:
    missing = [notebook for notebook, parameters in known.items() if name not in parameters]
    if missing and (name not in COMMON or len(missing) == len(known)):
        listing = "\n".join(f"  {notebook}\n" + _listing(known[notebook]) for notebook in missing)
        raise ToolError(f"no parameter {name!r} in {', '.join(missing)}. Known parameters:\n{listing}")


def _listing(parameters: dict[str, Parameter]) -> str:
    return "\n".join(f"    {parameter}" for parameter in parameters.values()) or "    (none)"


def _values(notebook: str, parameters: dict[str, Parameter], given: dict[str, str]) -> dict[str, object]:
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    values = {
        name: notebooks.convert(parameters[name], text) for name, text in given.items() if name in parameters
    }
    notebooks.check(notebook, defaults | values)
    return {name: value for name, value in values.items() if not _same(value, defaults[name])}


def _same(value: object, default: object) -> bool:
    return type(value) is type(default) and value == default


def environment(book: Project, jobs: int) -> dict[str, str]:
    """What is said to every kernel: settings of IPython that are nobody's; cores shared among the jobs."""
    variables = {"IPYTHONDIR": str(book.build / "ipython")}
    if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(max(1, executors.cores() // jobs))
    return variables


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
        problem = notebooks.describe(error)
    return Outcome(job.stem, time.perf_counter() - started, problem)


def _papermill(job: Job, root: Path) -> None:
    seconds = CELL_SECONDS.get(job.merged.get("budget", "book"))
    shutil.copy(job.clean, job.failed)
    made.ask(job.failed)
    variables = notebooks.environment(**job.variables)
    notebooks.run(job.failed, job.values, cwd=root, env=variables, cell_seconds=seconds)


def _record(job: Job) -> None:
    notebook = notebooks.load(job.failed)
    notebook.metadata["grae"].update(parameters=job.merged, key=job.key, process=made.told(notebook))
    notebook.metadata["papermill"].update(input_path=f"{job.stem}.ipynb", output_path=f"{job.stem}.ipynb")
    notebooks.write(notebook, job.failed)


def run_all(jobs: list[Job], root: Path, workers: int = 1) -> list[Outcome]:
    """Run every job, the next one also where one failed, and print a line for each as it ends."""
    if workers == 1:
        return [_report(execute(job, root), job) for job in jobs]
    # Processes, not threads: Ctrl-C reaches each of them, and ends its notebook.
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
    parser.add_argument("--again", action="store_true", help="run also what has not changed since it ran")
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
    jobs = plan(book, options.only, given, out, options.jobs)
    _make(out)
    needed = [job for job in jobs if options.again or not job.fresh]
    if len(needed) < len(jobs):
        kept = len(jobs) - len(needed)
        print(f"{kept} of {len(jobs)} notebooks not run again: nothing that they depend on has changed")
    outcomes = run_all(needed, book.root, options.jobs) if needed else []
    failed = [outcome.stem for outcome in outcomes if outcome.problem]
    if failed:
        print(f"{len(failed)} of {len(outcomes)} notebooks failed: {', '.join(sorted(failed))}")
    return 1 if failed else 0


if __name__ == "__main__":
    project.run(main)
