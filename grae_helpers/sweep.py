"""A notebook over a grid of parameters, on this machine or on a cluster: what is finished stays finished.

    python -m grae_helpers.sweep notebooks/NN.py --grid beta=0.02,0.1 --grid seed=0,1,2 --out DIR --workers 2
    python -m grae_helpers.sweep collect DIR --csv table.csv

Each combination is a job. A job that is finished has a folder in DIR, named by the hash of the notebook and its
parameters; one that failed is in DIR/failed. The same command, given again, runs what is missing. Exit status: 0 if
all jobs are finished, 1 if not, 2 for a command that cannot be right.
"""

import argparse
import csv
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from contextlib import nullcontext
from pathlib import Path

from grae_helpers import executors, grids, jobs, notebooks
from grae_helpers.grids import plan
from grae_helpers.jobs import Job, Outcome
from grae_helpers.notebooks import BadInput


class Interrupted(RuntimeError):
    """The sweep could not go on; what was finished stays, and the same call goes on with the rest."""


def run(
    notebook: str | os.PathLike,
    grid: Mapping[str, Sequence],
    out: str | os.PathLike,
    *,
    fixed: Mapping[str, object] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    threads: int | None = None,
    report: Callable[[str], object] | None = print,
) -> list[Outcome]:
    """Run the notebook for each combination of the grid's values, unless it is finished, and return how each ended.

    `fixed` holds parameters that are the same for all. The jobs run in `workers` processes of this machine (by
    default one for each GPU, or one), each with a GPU of its own while there are enough; or on the workers of a dask
    `scheduler`, an address or a scheduler file, which must see `out` under the same path. Each job has `threads`
    cores: by default this machine's, shared among the workers, or 1 on a cluster. `report` gets a line for each.

    A job whose notebook raises is an Outcome with state "failed", and the others go on. Raises BadInput as `plan`,
    and for a scheduler that does not answer; Interrupted where the scheduler goes away.
    """
    workers, threads = _resources(workers, scheduler, threads)
    planned = plan(notebook, grid, out, fixed=fixed, threads=threads)
    say = report or (lambda line: None)
    executor = executors.Cluster(scheduler) if scheduler else executors.Local(workers, executors.gpus())
    cut = True
    try:
        grids.claim(grids.absolute(out), planned)
        outcomes = _drive(planned.jobs, executor, say)
        cut = False
    except CancelledError:
        raise Interrupted(_gone(scheduler, planned.jobs)) from None
    finally:
        executor.shutdown(wait=not cut, cancel_futures=cut)
    return [outcomes[job.key] for job in planned.jobs]


def _resources(workers: int | None, scheduler: str | None, threads: int | None) -> tuple[int, int]:
    if workers is not None and scheduler:
        raise BadInput("workers are this machine's, and a scheduler has its own: give one of the two")
    workers = max(1, len(executors.gpus())) if workers is None else workers
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and (type(value) is not int or value < 1):
            raise BadInput(f"{name}: expected a whole number, at least 1, got {value!r}")
    given = os.environ.get("OMP_NUM_THREADS", "")
    mine = int(given) if given.isdecimal() and int(given) else max(1, executors.cores() // workers)
    return workers, threads or (1 if scheduler else mine)


def _drive(planned: list[Job], executor: Executor, say: Callable[[str], object]) -> dict[str, Outcome]:
    """Run what is missing. What another sweep is running comes last: it is finished by then, or its owner dead."""
    there = [job for job in planned if jobs.finished(Path(job.out, job.key))]
    outcomes = {job.key: jobs.present(job) for job in there}
    todo = [job for job in planned if job.key not in outcomes]
    threads = f"{planned[0].threads} thread{'s' if planned[0].threads > 1 else ''} each"
    say(f"{len(planned)} jobs of {planned[0].stem}, {len(outcomes)} finished before; {executor}, {threads}")
    for waiting in (False, True):
        busy = []
        for outcome in _ended(todo, executor, waiting):
            if outcome.state == "busy":
                busy.append(outcome.job)
            else:
                outcomes[outcome.job.key] = outcome
                say(_line(outcome, len(outcomes), len(planned)))
        todo = busy
        if busy and not waiting:
            say(f"{len(busy)} of them are run by another sweep now, which is waited for")
    return outcomes


def _ended(todo: list[Job], executor: Executor, waiting: bool) -> Iterator[Outcome]:
    """How each job ended, as it ends. Raises CancelledError where the scheduler went away with the rest."""
    pending = {executor.submit(jobs.execute, job, waiting): job for job in todo}
    while pending:
        done, _ = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
        yield from (_outcome(future, pending.pop(future)) for future in done)
        if pending and executor.lost():
            raise CancelledError


def _outcome(future: Future, job: Job) -> Outcome:
    try:
        return future.result()
    except CancelledError:
        raise
    except Exception as error:  # of the worker, not of the notebook: jobs.execute catches that
        return Outcome(job, "failed", problem=notebooks.describe(error))


def _gone(scheduler: str | None, planned: list[Job]) -> str:
    ended = [str(job) for job in planned if jobs.state(Path(job.out), job.key) == "finished"]
    listed = ", ".join(ended[:20]) + (", ..." if len(ended) > 20 else "")
    return (
        f"the dask scheduler at {scheduler} is gone. Of {len(planned)} jobs {len(ended)} are finished"
        f"{': ' * bool(ended)}{listed}.\n"
        f"They stay in {planned[0].out}. With a scheduler again, the same command goes on with the others."
    )


def _line(outcome: Outcome, number: int, total: int) -> str:
    end = {"finished": "ok", "present": "ok, by another sweep"}.get(outcome.state, "FAILED")
    return f"[{number:>{len(str(total))}}/{total}] {outcome.job}  {outcome.seconds:7.1f} s  {end}"


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many jobs ended how, and for each that failed its last word and where its notebook is."""
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    fresh = sum(outcome.state == "finished" for outcome in outcomes)
    head = f"{len(outcomes)} jobs: {len(outcomes) - len(failed)} finished, {fresh} of them now; {len(failed)} failed"
    lines = [f"  {o.job}: {o.problem.splitlines()[0]}\n    {o.notebook or 'no notebook was left'}" for o in failed]
    return "\n".join([head, *lines])


def collect(folder: str | os.PathLike) -> list[dict]:
    """The table of a sweep: a row for each finished job, all with the same columns.

    Parameters that a sweep set or that vary, then the numbers that the notebook recorded (`results.record`; one of a
    parameter's name takes its place; None where a job recorded none), `job`, `seconds` and `commit`, which ends in
    -dirty where the code had changed since. Raises BadInput for a folder that is no sweep's; warns, naming it, of a
    finished job that cannot be read, which the next sweep will run again.
    """
    folder = Path(folder)
    grids.sweep_of(folder)
    found = []
    for path in sorted(path for path in folder.iterdir() if len(path.name) == 16 and path.is_dir()):
        if (job := jobs.finished(path)) is None:
            warnings.warn(f"{path}: cannot be read as a finished job; the same sweep runs it again", stacklevel=2)
        else:
            found.append(job)
    names = _columns(found)
    found.sort(key=lambda job: [job["parameters"][name] for name in names])
    numbers = dict.fromkeys(name for job in found for name in job["numbers"])
    return [_row(job, names, list(numbers)) for job in found]


def _columns(found: list[dict]) -> list[str]:
    given = {name for job in found for name in job["given"]}
    names = dict.fromkeys(name for job in found for name in job["parameters"])

    def varies(name: str) -> bool:
        return len({repr(job["parameters"].get(name)) for job in found}) > 1

    return [name for name in names if name not in jobs.PLACES and (name in given or varies(name))]


def _row(job: dict, names: list[str], numbers: list[str]) -> dict:
    commit = job["commit"] and job["commit"] + "-dirty" * bool(job["dirty"])
    return (
        {name: job["parameters"][name] for name in names}
        | {name: None for name in numbers if name not in names}
        | job["numbers"]
        | {"job": job["job"], "seconds": job["seconds"], "commit": commit}
    )


def _grid(texts: Sequence[str]) -> dict[str, list[str]]:
    grid: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not name.strip():
            raise BadInput(f"--grid: expected NAME=VALUE,VALUE,..., got {text!r}")
        if not values.strip():
            raise BadInput(f"{name}: expected one value or more, got none")
        if name.strip() in grid:
            raise BadInput(f"{name}: has two grids; give all its values in one")
        grid[name.strip()] = values.split(",")
    return grid


def _fixed(pairs: Sequence[Sequence[str]]) -> dict[str, str]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"parameter {name!r} is given twice")
    return dict(pairs)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m grae_helpers.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", help="a .py in percent format, or an .ipynb; or the word collect")
    parser.add_argument("--grid", action="append", default=[], metavar="NAME=V1,V2", help="values to combine")
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder, or that of the same sweep")
    parser.add_argument("--workers", type=int, help="jobs at a time here (default: one for each GPU, or 1)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of dask, instead: tcp://..., or a scheduler file")
    parser.add_argument("--threads", type=int, help="cores for each job (default: shared here, 1 on a cluster)")
    parser.add_argument("--dry-run", action="store_true", help="print the jobs and their state, run nothing")
    return parser.parse_args(arguments)


def _sweep_command(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    grid, fixed = _grid(options.grid), _fixed(options.parameter)
    if options.dry_run:
        _resources(options.workers, options.scheduler, options.threads)
        return _dry_run(plan(options.notebook, grid, options.out, fixed=fixed).jobs)
    resources = {"workers": options.workers, "scheduler": options.scheduler, "threads": options.threads}
    outcomes = run(options.notebook, grid, options.out, fixed=fixed, report=_print, **resources)
    print(summary(outcomes))
    return int(any(outcome.state == "failed" for outcome in outcomes))


def _print(line: str) -> None:
    print(line, flush=True)


def _dry_run(planned: list[Job]) -> int:
    states = [jobs.state(Path(job.out), job.key) for job in planned]
    for job, state in zip(planned, states, strict=True):
        print(f"{job.key}  {state:<8}  {job}")
    print(f"{len(planned)} jobs: " + ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))))
    return 0


def _collect_command(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m grae_helpers.sweep collect", description="The table of a sweep.")
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--csv", metavar="FILE", help="write it there instead of printing it")
    options = parser.parse_args(arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = collect(options.folder)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    try:
        with open(options.csv, "w", encoding="utf8", newline="") if options.csv else nullcontext(sys.stdout) as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else ["job"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise BadInput(f"--csv: {options.csv} cannot be written: {error.strerror}") from error
    if options.csv:
        print(f"{len(rows)} rows in {options.csv}")
    return int(bool(caught))


def main(arguments: Sequence[str]) -> int:
    """Run the command line; the exit status."""
    try:
        collects = arguments[:1] == ["collect"]
        return _collect_command(arguments[1:]) if collects else _sweep_command(arguments)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
