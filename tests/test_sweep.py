"""Sweeps: each job once, whatever dies; what cannot be right is refused before anything runs."""

import contextlib
import csv
import errno
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import nbformat
import pytest

from grae_helpers import executors, grids, jobs, notebooks, sweep
from grae_helpers.notebooks import BadInput
from tools.project import ROOT

# A notebook that needs a second, not torch. It writes down each of its executions, and the one of `wait_at` waits for
# the file `gate`, so that a test can be sure to strike in the middle of it.
NOTEBOOK = """\
# %% tags=["parameters"]
beta: float = 1.0  # weight of the KL term
seed: int = 0  # of every generator
log: str = ""  # where executions are written down
wait_at: str = ""  # the job, as beta-seed, that waits until the gate is open
fail_at: float = 0.0  # the beta that fails until the gate is open
betas: list[float] = []  # a list
commit: str = ""  # a name that the table has
objective: str = "grae_approx"  # what is trained
checkpoints: str = ""  # a folder to go on from

# %%
import os, pathlib, time

import numpy as np

def write(*words):
    with open(log, "a") as file:
        file.write(" ".join(map(str, (*words, f"{beta}-{seed}", os.getpid(), os.getppid()))) + "\\n")

gate = pathlib.Path(log).with_name("gate")
kept = pathlib.Path(checkpoints, "step")
write("resumed" if kept.exists() else "begin")
kept.parent.mkdir(parents=True, exist_ok=True)
kept.write_text("1")
while f"{beta}-{seed}" == wait_at and not gate.exists():
    time.sleep(0.05)
if beta == fail_at and not gate.exists():
    raise RuntimeError(f"no luck with {beta}")

# %%
from IPython.display import display

x = np.random.default_rng(seed).normal(size=(300, 300)).astype("float32")
value = float((x @ x.T).sum() * np.float32(beta))
display({"application/vnd.grae.record+json": {"numbers": [["value", value], ["nan", {"float": "nan"}]]}}, raw=True)
write("end")
"""
GRID = {"beta": [0.1, 1.0], "seed": [0, 1, 2, 3, 4, 5]}
PATIENCE = 240  # seconds: for a machine that does much else


class Place:
    """A notebook, its log and gate, and a folder for the sweep."""

    def __init__(self, folder):
        self.source, self.log, self.out = folder / "40_try.py", folder / "log", folder / "out"
        self.gate = folder / "gate"
        self.source.write_text(NOTEBOOK, "utf8")

    def fixed(self, **more):
        return {"log": str(self.log), **more}

    def run(self, grid, **options):
        fixed = self.fixed(**options.pop("fixed", {}))
        return sweep.run(self.source, grid, self.out, fixed=fixed, **({"workers": 1, "threads": 1} | options))

    def command(self, *options):
        return [sys.executable, "-m", "grae_helpers.sweep", str(self.source), "--out", str(self.out),
                "--threads", "1", "-p", "log", str(self.log), *map(str, options)]  # fmt: skip

    def lines(self):
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def executions(self, *words):
        """How often each job, as beta-seed, wrote one of the words."""
        return Counter(job for word, job, *_ in self.lines() if word in words)

    def processes(self, job):
        """The kernel that runs a job now, and its worker."""
        return next(((int(pid), int(ppid)) for _, name, pid, ppid in reversed(self.lines()) if name == job), None)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def until(condition, process=None):
    """The first true value of the condition; a process that it depends on must not end before."""
    stop = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < stop, "waited in vain"
        time.sleep(0.05)
    return found


def alive(pid):
    """Whether the process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def environment():
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def spawn(command, **options):
    return subprocess.Popen(command, env=environment(), text=True, **options)


@pytest.fixture
def processes():
    """Processes that are ended with the test."""
    with contextlib.ExitStack() as stack:

        def start(command, **options):
            process = spawn(command, **options)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start


class Dask:
    """A scheduler and two workers, three processes of this machine."""

    def __init__(self, folder, start, threads, program=("-m", "distributed.cli.dask_worker")):
        self.file = folder / "scheduler.json"
        run = [sys.executable, "-m"]
        here = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(self.file)]
        worker = [sys.executable, *program, *here, "--no-nanny", "--nthreads", str(threads)]
        with (folder / "dask.log").open("w") as log:
            written = {"stdout": log, "stderr": log}
            self.scheduler = start([*run, "distributed.cli.dask_scheduler", *here, "--port", "0"], **written)
            self.workers = [start(worker, **written) for _ in range(2)]
        self.address = until(self._address, self.scheduler)

    def _address(self):
        try:
            return json.loads(self.file.read_text())["address"]
        except (OSError, ValueError):
            return None


@pytest.fixture(params=[1])
def dask(tmp_path, processes, request):
    return Dask(tmp_path, processes, request.param)


two_jobs_a_worker = pytest.mark.parametrize("dask", [2], indirect=True)  # in threads of one process


# When things die


def test_a_killed_worker_of_a_cluster_costs_nothing_but_time(place, dask, tmp_path):
    """12 jobs on a real cluster, a worker killed in the middle of one; then some of the same on local processes."""
    options = {"scheduler": dask.address, "workers": None, "fixed": {"wait_at": "0.1-3"}}
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(place.run, GRID, report=None, **options)
        kernel, worker = until(lambda: going.done() or place.processes("0.1-3"))
        assert worker in [process.pid for process in dask.workers]
        os.kill(worker, signal.SIGKILL)
        until(lambda: not alive(kernel))
        place.gate.touch()
        outcomes = going.result(PATIENCE)
    assert [outcome.problem for outcome in outcomes if outcome.problem] == []
    assert len(outcomes) == len(sweep.collect(place.out)) == 12
    once = {f"{beta}-{seed}": 1 for beta in GRID["beta"] for seed in GRID["seed"]}
    assert place.executions("end") == once and place.executions("begin", "resumed") == {**once, "0.1-3": 2}

    there, cluster = {row["job"]: row for row in sweep.collect(place.out)}, place.out
    place.out = tmp_path / "local"
    place.run({"beta": GRID["beta"], "seed": [0, 1]}, workers=2, report=None, fixed={"wait_at": "0.1-3"})
    local = sweep.collect(place.out)
    assert place.out != cluster and len(local) == len({row["value"] for row in local}) == 4
    for row in local:
        assert [row[name] for name in ("beta", "seed", "value")] == [
            there[row["job"]][name] for name in ("beta", "seed", "value")
        ]


def test_a_worker_that_cannot_import_this_package_says_so(place, processes, tmp_path):
    """It used to die of what it was sent, and the sweep to wait for ever."""
    block = "import sys; sys.modules['grae_helpers'] = None; sys.argv[0] = 'worker'"
    program = ("-c", f"{block}; from distributed.cli.dask_worker import main; main()")
    dask = Dask(tmp_path, processes, 1, program)
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(place.run, {"seed": [0, 1]}, scheduler=dask.address, workers=None, report=None)
        until(going.done, dask.workers[0])
    assert [outcome.state for outcome in going.result()] == ["failed", "failed"]
    assert all("ModuleNotFoundError: " in outcome.problem for outcome in going.result())


@two_jobs_a_worker
def test_without_its_scheduler_a_sweep_ends_with_a_message_and_goes_on_later(place, dask, processes):
    options = ["--grid", "beta=0.5", "--grid", "seed=0,1,2,3,4,5", "-p", "wait_at", "0.5-3", "--scheduler", dask.file]
    going = processes(place.command(*options), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: place.processes("0.5-3") and len(finished(place.out)) >= 2, going)
    kernel, _ = place.processes("0.5-3")
    dask.scheduler.kill()
    printed, errors = going.communicate(timeout=60)
    assert going.returncode == 1
    assert errors.startswith(f"error: the dask scheduler at {dask.file} is gone. Of 6 jobs ")
    assert " are finished: beta=0.5 seed=" in errors and "the same command goes on" in errors
    assert len(errors.splitlines()) == 2
    assert "Traceback" not in printed + errors and "[1/6] beta=0.5" in printed
    for process in dask.workers:
        process.kill()
    until(lambda: not alive(kernel))
    before, begun = finished(place.out), place.executions("begin")
    assert 2 <= len(before) < 6
    place.gate.touch()
    outcomes = place.run({"beta": [0.5], "seed": range(6)}, fixed={"wait_at": "0.5-3"}, workers=2, report=None)
    again = place.executions("begin", "resumed") - begun
    assert {outcome.job.key for outcome in outcomes if outcome.state == "present"} == before
    assert sum(again.values()) == 6 - len(before) and set(again.values()) == {1}
    assert len(sweep.collect(place.out)) == 6


def finished(out):
    return {path.parent.name for path in out.glob("*/job.json")}


def test_two_sweeps_on_one_folder_share_the_work(place, processes):
    """A kernel that ends may leave a last word of ZeroMQ's (signaler.cpp) on a busy machine, of no consequence."""
    options = ["--grid", "beta=0.1,1", "--grid", "seed=0,1", "--workers", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    both = [processes(place.command(*options), **pipes) for _ in range(2)]
    printed = [process.communicate(timeout=PATIENCE) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert set(place.executions("end").values()) == {1} and len(sweep.collect(place.out)) == 4
    assert all("4 jobs: 4 finished" in text for text, _ in printed)
    assert not [line for _, errors in printed for line in errors.splitlines() if "signaler.cpp" not in line], printed
    assert not [path for path in (place.out / ".running").iterdir()]


def test_a_job_whose_local_worker_is_killed_goes_on_from_its_checkpoint(place):
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(place.run, {"seed": [0, 1]}, workers=2, fixed={"wait_at": "1.0-1"}, report=None)
        kernel, worker = until(lambda: going.done() or place.processes("1.0-1"))
        key = next(job.key for job in plan(place, {"seed": [0, 1]}, wait_at="1.0-1") if job.shown["seed"] == 1)
        until((place.out / ".checkpoints" / key / "step").exists)
        os.kill(worker, signal.SIGKILL)
        until(lambda: not alive(kernel))
        place.gate.touch()
        outcomes = going.result(PATIENCE)
    assert [outcome.state for outcome in outcomes] == ["finished", "finished"]
    assert place.executions("resumed") == {"1.0-1": 1} and set(place.executions("end").values()) == {1}
    assert not list((place.out / ".checkpoints").iterdir()) and not list((place.out / ".running").iterdir())


def plan(place, grid, **more):
    return sweep.plan(place.source, grid, place.out, fixed=place.fixed(**more)).jobs


def test_a_killed_sweep_leaves_no_process_behind_and_loses_nothing_finished(place, processes):
    options = ["--grid", "seed=0,1", "-p", "wait_at", "1.0-1", "--workers", "1"]
    going = processes(place.command(*options), stdout=subprocess.DEVNULL)
    kernel, worker = until(lambda: place.processes("1.0-1"), going)
    going.kill()
    until(lambda: not alive(worker) and not alive(kernel))
    assert len(finished(place.out)) == 1 and len(list((place.out / ".running").iterdir())) == 1
    place.gate.touch()
    states = [outcome.state for outcome in place.run({"seed": [0, 1]}, fixed={"wait_at": "1.0-1"}, report=None)]
    assert states == ["present", "finished"] and not list((place.out / ".running").iterdir())


def test_a_worker_that_always_dies_is_given_up():
    pool = executors.Local(1, [])
    try:
        with pytest.raises(RuntimeError, match=f"died {executors.ATTEMPTS} times"):
            pool.submit(os._exit, 1).result(PATIENCE)
        assert pool.submit(math.sqrt, 4.0).result(PATIENCE) == 2.0
    finally:
        pool.shutdown()


def test_a_worker_that_does_not_see_the_folder_says_so(place):
    outcome = jobs.execute(plan(place, {})[0])
    assert outcome.state == "failed" and f"does not see {place.out / 'sweep.json'}" in outcome.problem


# What a sweep leaves


def test_one_beta_fails_and_is_tried_again(place, capsys):
    """The others are finished; the notebook with the error is kept until the job has succeeded."""
    command = place.command("--grid", "beta=0.1,0.2", "-p", "fail_at", "0.2")[3:]
    assert sweep.main(command) == 1
    printed = capsys.readouterr().out
    key = next(job.key for job in plan(place, {"beta": [0.1, 0.2]}, fail_at=0.2) if job.shown["beta"] == 0.2)
    left = place.out / "failed" / key / "notebook.ipynb"
    assert "2 jobs: 1 finished, 1 of them now; 1 failed" in printed and "beta=0.1" in printed
    assert "beta=0.2: cell [3] raised RuntimeError: no luck with 0.2" in printed and str(left) in printed
    assert "no luck with 0.2" in left.read_text("utf8") and [row["beta"] for row in sweep.collect(place.out)] == [0.1]
    assert sweep.main([*command, "--dry-run"]) == 0
    assert "1 failed, 1 finished" in capsys.readouterr().out
    place.gate.touch()
    assert sweep.main(command) == 0
    assert "2 jobs: 2 finished, 1 of them now; 0 failed" in capsys.readouterr().out
    assert not left.parent.exists() and place.executions("end") == {"0.1-0": 1, "0.2-0": 1}


def test_a_dry_run_writes_nothing(place, capsys):
    assert sweep.main([*place.command("--grid", "beta=0.1,1", "--grid", "seed=0,1,2")[3:], "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "6 jobs: 6 missing" and lines[1].endswith("missing   beta=0.1 seed=1")
    assert not place.out.exists() and len({line.split()[0] for line in lines[:6]}) == 6


def test_values_that_differ_are_shown_so_and_equal_ones_are_one_job(place, capsys):
    shown = [str(job) for job in plan(place, {"fail_at": ["0.3", "0.30000000000000004", "1e-1", "0.12345678"]})]
    assert shown == ["fail_at=0.3", "fail_at=0.30000000000000004", "fail_at=0.1", "fail_at=0.12345678"]
    assert plan(place, {}, fail_at="-0")[0].key == plan(place, {}, fail_at=-0.0)[0].key == plan(place, {})[0].key
    with pytest.raises(BadInput, match="fail_at: nan is in the grid twice"):
        plan(place, {"fail_at": ["nan", "NaN"]})


def test_an_error_of_megabytes_is_told_in_short():
    papermill = pytest.importorskip("papermill")
    raised = papermill.PapermillExecutionError(0, 3, "", "ValueError", "\x1b[31mx\x1b[0m" * 10**5, ["y" * 10**6] * 60)
    told = notebooks.describe(raised)
    assert told.startswith("cell [3] raised ValueError: xxx") and "\x1b" not in told and len(told) < 30_000


def test_a_number_of_a_parameters_name_takes_its_place_where_it_was_recorded(place):
    source = place.source.with_name("42_some.py")
    record = """display({"application/vnd.grae.record+json": {"numbers": [["dataset", "digits"]]}}, raw=True)"""
    text = """# %% tags=["parameters"]\ndataset: str = "auto"\n\n# %%\nfrom IPython.display import display\n"""
    source.write_text(f"{text}if dataset == 'auto':\n    {record}\n", "utf8")
    sweep.run(source, {"dataset": ["auto", "sprites"]}, place.out, workers=1, threads=1, report=None)
    assert [row["dataset"] for row in sweep.collect(place.out)] == ["digits", "sprites"]
    path = place.out / sweep.collect(place.out)[1]["job"] / "job.json"
    path.write_text(json.dumps({"job": path.parent.name, "numbers": {}}))
    with pytest.warns(UserWarning, match=path.parent.name):
        assert [row["dataset"] for row in sweep.collect(place.out)] == ["digits"]


def test_a_disk_that_takes_nothing_is_a_message(place, monkeypatch, capsys):
    """It is none where all is finished, and nothing has to be written."""
    place.run({}, report=None)
    monkeypatch.setattr(notebooks.needs("filelock"), "FileLock", refuse)
    monkeypatch.setattr(notebooks, "write", refuse)
    assert [outcome.state for outcome in place.run({}, report=None)] == ["present"]
    place.out = place.out.with_name("other")
    assert sweep.main(place.command()[3:]) == 2
    assert f"error: --out: {place.out} cannot be made the folder of a sweep: No space left" in capsys.readouterr().err


def refuse(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_job_that_left_no_notebook_names_none(place, monkeypatch):
    grids.claim(place.out, sweep.plan(place.source, {}, place.out, fixed=place.fixed()))
    monkeypatch.setattr(jobs.shutil, "copy", refuse)
    outcome = jobs.execute(plan(place, {})[0])
    assert (outcome.state, outcome.notebook) == ("failed", "") and "No space left" in outcome.problem


RECORDS = """\
# %% tags=["parameters"]
beta: float = 1.0  # weight of the KL term
dataset: str = "auto"  # what it is trained on

# %%
import numpy as np

from grae_helpers import results

results.record(dataset="digits", fid=np.float32(2.5), kid=float("nan"))
if beta > 0.5:
    results.record(n=3, inception=False)
"""


def test_the_table_holds_what_was_given_and_what_was_recorded(tmp_path, capsys):
    source, out = tmp_path / "41_records.py", tmp_path / "out"
    source.write_text(RECORDS, "utf8")
    outcomes = sweep.run(source, {"beta": [1.0, 0.1]}, out, workers=2, threads=1, report=None)
    assert [outcome.problem for outcome in outcomes] == ["", ""]
    first, second = sweep.collect(out)
    assert list(first) == ["beta", "dataset", "fid", "kid", "n", "inception", "job", "seconds", "commit"]
    assert (first["beta"], first["dataset"], first["fid"]) == (0.1, "digits", 2.5) and math.isnan(first["kid"])
    assert (first["n"], first["inception"]) == (None, None) and (second["n"], second["inception"]) == (3, False)
    record = json.loads((out / first["job"] / "job.json").read_text())
    assert record["threads"] == 1 and record["device"] == "CPU, 1 thread" and record["versions"]["torch"]
    assert sweep.main(["collect", str(out), "--csv", str(tmp_path / "table.csv")]) == 0
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["beta"] for row in rows] == ["0.1", "1.0"] and rows[0]["n"] == "" and rows[0]["kid"] == "nan"


def test_a_damaged_job_is_named_and_run_again(place, capsys):
    place.run({"seed": [0, 1]}, workers=2, report=None)
    first, second = sweep.collect(place.out)
    (place.out / second["job"] / "job.json").write_text("{")
    with pytest.warns(UserWarning, match=second["job"]):
        assert sweep.collect(place.out) == [first]
    assert sweep.main(["collect", str(place.out)]) == 1 and second["job"] in capsys.readouterr().err
    assert [outcome.state for outcome in place.run({"seed": [0, 1]}, report=None)] == ["present", "finished"]
    assert [row["seed"] for row in sweep.collect(place.out)] == [0, 1]
    assert (place.out / "failed" / f"{second['job']}-damaged" / "notebook.ipynb").is_file()


def test_a_record_is_read_back_and_no_name_twice():
    cells = [{"outputs": [{"data": notebooks.publish({"b": -math.inf, "a": 1}, {"device": "CPU"})}]}]
    notebook = type("Notebook", (), {"cells": json.loads(json.dumps(cells, allow_nan=False))})
    numbers, provenance = notebooks.recorded(notebook)
    assert list(numbers.items()) == [("b", -math.inf), ("a", 1)] and provenance == {"device": "CPU"}
    notebook.cells = notebook.cells * 2
    with pytest.raises(ValueError, match="b: recorded twice"):
        notebooks.recorded(notebook)


def test_the_hash_is_of_the_notebook_and_all_parameters_but_places(place):
    def keys(grid, **more):
        return [job.key for job in plan(place, grid, **more)]

    assert keys({}) == keys({"beta": [1.0]}) == keys({"beta": [1]}) == keys({}, checkpoints="/elsewhere")
    assert len({*keys({}), *keys({"beta": [0.1, 0.2]}), *keys({}, betas=[0.1]), *keys({}, objective="beta_vae")}) == 5
    before = keys({})
    place.source.write_text(NOTEBOOK + "\n# another version\n", "utf8")
    assert keys({}) != before


def test_an_ipynb_is_swept_without_what_it_showed(place):
    notebook = notebooks.read(place.source)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("display_data", data=notebooks.publish({"a": 1}, {}))]
    source = notebooks.write(notebook, place.source.with_suffix(".ipynb"))
    planned = sweep.plan(source, {"beta": [0.1, 1.0]}, place.out)
    assert len(planned.jobs) == 2 and notebooks.recorded(planned.notebook) == ({}, {})
    assert [cell.source for cell in planned.notebook.cells] == [cell.source for cell in notebook.cells]
    (source.with_name("41_no.py")).write_text("{")
    with pytest.raises(BadInput, match="no parameter 'beta' in 41_no"):
        sweep.plan(source.with_name("41_no.py"), {"beta": [0.1]}, place.out)
    (source.with_name("41_no.ipynb")).write_text("{")
    with pytest.raises(BadInput, match=r"41_no\.ipynb: not a notebook"):
        sweep.plan(source.with_name("41_no.ipynb"), {"beta": [0.1]}, place.out)


def test_folders_are_made_absolute(place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    job = plan(place, {}, checkpoints="kept")[0]
    assert job.values["checkpoints"] == str(tmp_path / "kept")
    assert plan(place, {}, checkpoints="drive:grae")[0].values["checkpoints"] == "drive:grae"
    assert sweep.plan(place.source, {}, "out").jobs[0].out == str(tmp_path / "out")


def test_a_kernel_finds_the_folders_that_its_user_names(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAE_DATA", "data")
    monkeypatch.setenv("GRAE_CACHE", "~/cache")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", "/there"]))
    found = notebooks.environment(OMP_NUM_THREADS="3")
    assert found["GRAE_DATA"] == str(tmp_path / "data") and found["GRAE_CACHE"] == os.path.expanduser("~/cache")
    assert found["PYTHONPATH"].split(os.pathsep) == [str(ROOT), str(tmp_path), "/there"]
    assert found["OMP_NUM_THREADS"] == "3" and found["HOME"] == os.environ["HOME"]


# Resources


def test_each_worker_sees_a_gpu_of_its_own(monkeypatch):
    for text, names in (("2, 5", ["2", "5"]), ("", []), ("-1", []), ("MIG-a", ["MIG-a"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert executors.gpus() == names
    pool = executors.Local(3, ["2", "5"])
    try:
        found = [pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES") for _ in range(3)]
        assert [future.result(PATIENCE) for future in found] == ["2", "5", "2"]
    finally:
        pool.shutdown()


def test_cores_are_shared_and_gpus_set_the_number_of_workers(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(executors, "cores", lambda: 12)
    assert sweep._resources(None, None, None) == (3, 4)
    assert sweep._resources(5, None, None) == (5, 2) and sweep._resources(24, None, None) == (24, 1)
    assert sweep._resources(None, "tcp://a:1", None)[1] == 1 and sweep._resources(2, None, 7) == (2, 7)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert sweep._resources(None, None, None) == (1, 3)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grid", "beta=0.1,0.10"], "beta: 0.1 is in the grid twice"),
        (["--grid", "beta=0.1,-1"], "40_try: beta=-1.0: beta: expected a positive, finite number, got -1.0"),
        (["--grid", "beta=nan"], "beta: expected a positive, finite number"),
        (["--grid", "betta=0.1"], "no parameter 'betta' in 40_try. Known parameters:\n    beta: float = 1.0"),
        (["--grid", "seed=0,1.5"], "seed: expected a whole number (int), got '1.5'"),
        (["--grid", "beta=0.1,abc"], "beta: expected a number (float), got 'abc'"),
        (["--grid", "beta=0.1,,1"], "beta: expected a number (float), got ''"),
        (["--grid", "objective=vae"], "objective: expected one of"),
        (["--grid", "seed="], "seed: expected one value or more, got none"),
        (["--grid", "seed"], "--grid: expected NAME=VALUE,VALUE,..., got 'seed'"),
        (["--grid", "seed=1", "--grid", "seed=2"], "seed: has two grids"),
        (["--grid", "seed=1", "-p", "seed", "2"], "seed: given both in the grid and as one value"),
        (["-p", "seed", "1", "-p", "seed", "2"], "parameter 'seed' is given twice"),
        (["-p", "sed", "1"], "no parameter 'sed'"),
        (["-p", "betas", "0.1,0.1"], "betas: [0.1, 0.1] holds a value twice"),
        (["--grid", "betas=0.1,1"], "betas: a list (list[float]) has no grid"),
        (["--grid", "checkpoints=a,b"], "checkpoints: says where a job runs"),
        (["-p", "commit", "a"], "commit: the table of a sweep has such a column already"),
        (["--workers", "0"], "workers: expected a whole number, at least 1, got 0"),
        (["--threads", "-1"], "threads: expected a whole number, at least 1, got -1"),
        (["--workers", "1", "--scheduler", "tcp://127.0.0.1:1"], "give one of the two"),
    ],
)
def test_a_command_that_cannot_be_right_is_refused_before_anything_runs(place, capsys, options, message):
    assert sweep.main([str(place.source), "--out", str(place.out), *options]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and message in errors and not place.out.exists()


@pytest.mark.parametrize(
    ("grid", "fixed"),
    [
        ({"beta": []}, {}),
        ({"beta": 0.1}, {}),
        ({"beta": "0.1"}, {}),
        ({"beta": [True]}, {}),
        ({"seed": [1.0]}, {}),
        ({"beta": [None]}, {}),
        ({}, {"betas": 0.1}),
        ({}, {"objective": 3}),
    ],
)
def test_python_values_of_the_wrong_type_are_refused(place, grid, fixed):
    with pytest.raises(BadInput, match=next(iter(grid | fixed))):
        sweep.plan(place.source, grid, place.out, fixed=fixed)


def test_a_folder_of_something_else_is_refused(place, capsys):
    def refused(source=place.source):
        assert sweep.main([str(source), "--out", str(place.out)]) == 2
        return capsys.readouterr().err

    place.out.mkdir()
    (place.out / "thesis.tex").touch()
    assert "is no folder of a sweep, and not empty (thesis.tex)" in refused()
    (place.out / "thesis.tex").unlink()
    grids.claim(place.out, sweep.plan(place.source, {}, place.out))
    other = place.source.with_name("41_other.py")
    other.write_text(NOTEBOOK, "utf8")
    assert "belongs to a sweep of 40_try, not of 41_other" in refused(other)
    place.source.write_text(NOTEBOOK + "\n# another version\n", "utf8")
    assert "40_try has changed since the sweep in" in refused()
    (place.out / "sweep.json").write_text("[]")
    assert "sweep.json: expected what a sweep writes" in refused()
    place.out = place.source
    assert "expected a folder, found the file" in refused()


def test_what_is_no_notebook_or_no_sweep_is_refused(tmp_path, capsys):
    assert sweep.main([str(tmp_path / "40_none.py"), "--out", str(tmp_path / "out")]) == 2
    assert "40_none.py: expected a notebook" in capsys.readouterr().err
    assert sweep.main(["collect", str(tmp_path)]) == 2
    assert "sweep.json" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:8786", "http://127.0.0.1:1"])
def test_a_scheduler_that_does_not_answer_is_refused(place, capsys, monkeypatch, address):
    monkeypatch.setattr(executors, "CONNECT_SECONDS", 1)
    assert sweep.main([str(place.source), "--out", str(place.out), "--scheduler", address]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: --scheduler: no dask scheduler answers at '{address}' within 1 s")
    assert len(printed.err.splitlines()) == 1 and printed.out == "" and not place.out.exists()


def test_an_address_where_something_else_listens_is_refused_in_time(place, capsys, monkeypatch):
    """As dask's own dashboard, one number beside the scheduler's port; this one never says a word."""
    monkeypatch.setattr(executors, "CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        assert sweep.main([str(place.source), "--out", str(place.out), "--scheduler", address]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: --scheduler: no dask scheduler answers at {address!r} within 1 s (what listens")


@pytest.mark.parametrize(("package", "extra"), [("papermill", "sweep"), ("distributed", "cluster")])
def test_a_package_that_is_missing_is_named_with_its_extra(place, monkeypatch, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadInput, match=rf'{package} is needed for this: pip install "grae-helpers\[{extra}\]"'):
        place.run({}, scheduler="tcp://127.0.0.1:1", workers=None)
