"""A checkpoint is whole or not there, and a run that goes on from one ends bit for bit as if it had never stopped.

As a script this file is the server of the kill tests: it imports torch once, and forks a training run for each line
that it reads, so that twenty killed runs cost seconds.
"""

import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from grae_helpers import checkpoints, losses, posteriors, training
from grae_helpers.likelihoods import Gaussian
from grae_helpers.losses import LossTerms

IMAGES = torch.randint(0, 256, (40, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
STEPS = 40


def model(seed=0, width=3):
    """A convolution with batch normalisation, a mean-field posterior, and noise from two generators."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Conv2d(1, width, 3, stride=2), nn.BatchNorm2d(width), nn.ELU(), nn.Flatten())
        encoder.append(nn.Linear(4 * width, 4))
        decoder = nn.Sequential(nn.Linear(2, 36), nn.Unflatten(1, (1, 6, 6)))
    noise = torch.Generator().manual_seed(9)

    def objective(x):
        mean, raw = encoder(x + 0.1 * torch.rand(x.shape, generator=noise)).chunk(2, 1)
        return losses.beta_vae(x, posteriors.gaussian(mean, raw, 1), decoder, Gaussian(0.1), 0.5)

    return objective, [encoder, decoder], noise


def train(folder, steps=STEPS, images=IMAGES, seed=0, width=3, objective=None, **options):
    """Everything that a run leaves: history, weights, buffers and where its noise has come to."""
    own, modules, noise = model(width=width)
    loop = {"batch_size": 8, "save_every": 0, "log_every": -1, "parameters": {"beta": 0.5}, **options}
    history = training.fit(
        objective(own) if objective else own,
        modules,
        images,
        steps=steps,
        seed=seed,
        checkpoint=folder,
        generators=[noise],
        **loop,
    )
    left = {f"history {name}": torch.from_numpy(column.copy()) for name, column in history.items() if column.ndim}
    left |= {f"{n} {name}": value for n, m in enumerate(modules) for name, value in m.state_dict().items()}
    return {**left, "noise": noise.get_state()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def files(folder):
    return sorted(Path(folder).iterdir())


def steps_in(folder):
    return [int(path.name.split("-")[1]) for path in files(folder)]


@pytest.fixture(scope="module")
def whole():
    return train(None)


# The files


def saved(folder, *steps, size=4):
    for step in steps:
        checkpoints.save(folder, step, {"weight": torch.full((size,), float(step))}, {"beta": 0.5})
    return files(folder)


def test_what_is_saved_comes_back_and_the_name_is_the_contents_checksum(tmp_path):
    strided = torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    tensors = {
        "strided": strided,
        "half": torch.ones(3, dtype=torch.bfloat16),
        "none": torch.empty(0, 4),
        "flag": torch.tensor(True),
    }
    tensors |= {"scalar": torch.tensor(2.5, dtype=torch.float64), "bytes": torch.arange(5, dtype=torch.uint8)}
    tensors |= {"alias": tensors["bytes"]}
    path = checkpoints.save(tmp_path / "new" / "folder", 7, tensors, {"beta": 0.1, "nested": {"betas": (1, 2)}})
    found = checkpoints.latest(tmp_path / "new" / "folder")
    assert found.step == 7
    assert found.state == {"beta": 0.1, "nested": {"betas": [1, 2]}}
    assert same(found.tensors, tensors)
    assert {t.dtype for t in found.tensors.values()} == {t.dtype for t in tensors.values()}
    digest = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
    assert path.name == f"step-00000007-{digest}.safetensors"


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path):
    saved(tmp_path, 3, 20, 100)
    assert steps_in(tmp_path) == [20, 100]
    assert checkpoints.latest(tmp_path).tensors["weight"][0] == 100
    checkpoints.save(tmp_path, 101, {}, {}, keep=1)
    assert steps_in(tmp_path) == [101]


def test_no_folder_and_an_empty_one_hold_none(tmp_path):
    assert checkpoints.latest(tmp_path / "none") is None
    assert checkpoints.latest(tmp_path) is None
    (tmp_path / "notes.txt").write_text("mine")
    assert checkpoints.latest(tmp_path) is None
    saved(tmp_path, 1, 2, 3)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match=r"expected a folder, got the file .*notes.txt"):
        checkpoints.latest(tmp_path / "notes.txt")


def truncated(content):
    return content[: len(content) // 2]


def one_bit(content):
    middle = len(content) - 3
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = [truncated, one_bit, lambda content: b"", lambda content: content + b"\0"]


@pytest.mark.parametrize("damage", DAMAGES, ids=["truncated", "bit", "empty", "longer"])
def test_a_damaged_one_is_refused_by_name_and_the_one_before_used(tmp_path, damage):
    older, newest = saved(tmp_path, 5, 6)
    newest.write_bytes(damage(newest.read_bytes()))
    digest = subprocess.run(["sha256sum", newest], capture_output=True, text=True, check=True).stdout.split()[0]
    with pytest.warns(UserWarning, match=rf"refused {newest.name}: expected .* found {digest}; {older.name} is used"):
        assert checkpoints.latest(tmp_path).step == 5
    older.write_bytes(damage(older.read_bytes()))
    with pytest.raises(ValueError, match=rf"none in .* is intact: {newest.name}: expected .*{older.name}: expected"):
        checkpoints.latest(tmp_path)
    assert len(files(tmp_path)) == 2


def test_a_refused_one_makes_way_for_what_is_written_after_it(tmp_path):
    _, newest = saved(tmp_path, 5, 9)
    newest.write_bytes(b"")
    saved(tmp_path, 7)
    assert steps_in(tmp_path) == [5, 7]
    assert checkpoints.latest(tmp_path).step == 7


def test_temporaries_of_killed_runs_go_at_the_next_save(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / ".step-00000002-abc.safetensors.partial").write_bytes(b"half")
    assert checkpoints.latest(tmp_path).step == 1
    saved(tmp_path, 2)
    assert [path.name[:13] for path in files(tmp_path)] == ["step-00000001", "step-00000002"]


def test_folders_and_dangling_links_named_like_checkpoints_are_in_nobodys_way(tmp_path):
    def name(step):
        return f"step-{step:08d}-{'0' * 64}.safetensors"

    for step in (1, 9):
        (tmp_path / name(step)).mkdir()
        (tmp_path / name(step + 1)).symlink_to(tmp_path / "nowhere")
    (tmp_path / ".step-00000001.abc.partial").mkdir()
    with pytest.raises(ValueError, match=r"none in .* is intact: step-00000010.*No such file.*Is a directory"):
        checkpoints.latest(tmp_path)
    saved(tmp_path, 4, 5, 6)
    assert [path.name[:13] for path in files(tmp_path) if path.is_file()] == ["step-00000005", "step-00000006"]
    assert [path.name for path in files(tmp_path) if not path.is_file()][1:] == [name(1), name(9)]
    with pytest.warns(UserWarning, match=rf"refused {name(9)}: .*Is a directory"):
        assert checkpoints.latest(tmp_path).step == 6


@pytest.fixture
def disk(monkeypatch):
    """A disk that lets so many flushes through, and fails the others as a full one does."""
    left, fsync = [0], os.fsync

    def flush(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            return
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    return left


def test_a_full_disk_is_told_and_the_newest_stays(tmp_path, disk):
    disk[0] = 2
    _, newest = saved(tmp_path, 1, 2)
    with pytest.raises(
        OSError, match=rf"cannot write to {tmp_path} .*: [\d,]+ bytes needed, [\d,]+ bytes free"
    ) as caught:
        saved(tmp_path, 3)
    assert caught.value.errno == errno.ENOSPC
    assert files(tmp_path) == [newest]
    assert checkpoints.latest(tmp_path).step == 2


def test_the_older_one_makes_room_on_a_full_disk(tmp_path, monkeypatch):
    saved(tmp_path, 1, 2)
    fsync = os.fsync

    def flush(descriptor):
        if len(list(tmp_path.glob("step-*"))) == 2:
            raise OSError(errno.ENOSPC, "full")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    saved(tmp_path, 3)
    assert steps_in(tmp_path) == [2, 3]


def test_on_a_full_disk_the_only_intact_one_is_not_removed(tmp_path, disk):
    disk[0] = 2
    older, newest = saved(tmp_path, 1, 2)
    newest.write_bytes(b"damaged")
    with pytest.raises(OSError, match="bytes needed"):
        saved(tmp_path, 3)
    assert files(tmp_path) == [older]


def test_a_real_limit_on_file_size_leaves_what_was_there(tmp_path):
    saved(tmp_path, 1, 2)
    before = files(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(OSError, match=r"cannot write to .*4\d\d,\d{3} bytes needed") as caught:
            saved(tmp_path, 3, size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1, {}, {}), ValueError, "step: expected at least 0, got -1"),
        ((1.5, {}, {}), TypeError, "step: expected an integer"),
        ((1, {}, {"model": nn.Linear}), TypeError, "expected numbers, strings, lists and dicts"),
        ((1, {}, {}, 0), ValueError, "keep: expected at least 1, got 0"),
        (
            (1, {"z": torch.zeros(2, dtype=torch.complex64)}, {}),
            TypeError,
            "z: expected a dtype of .*, got torch.complex64",
        ),
    ],
    ids=["step", "fraction", "state", "keep", "dtype"],
)
def test_bad_input(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        checkpoints.save(tmp_path, *arguments)
    assert not files(tmp_path)


# Resuming


@pytest.mark.parametrize("stop", [1, 4, 5, 7, 23])
def test_a_run_that_goes_on_equals_one_that_never_stopped(tmp_path, whole, stop):
    """Stops inside a pass of five steps, at its end, and after the first step of the next."""
    train(tmp_path, steps=stop)
    assert same(train(tmp_path), whole)
    assert steps_in(tmp_path) == [STEPS - 1, STEPS]


def test_without_a_timer_due_only_the_end_is_written(tmp_path, whole):
    assert same(train(tmp_path, save_every=1e6), whole)
    assert steps_in(tmp_path) == [STEPS]


def test_a_finished_run_comes_back_at_once(tmp_path, whole, capsys):
    train(tmp_path, save_every=1e6)
    before = files(tmp_path)

    def unused(objective):
        return lambda x: pytest.fail("no step was left")

    assert same(train(tmp_path, objective=unused, log_every=0), whole)
    assert files(tmp_path) == before
    assert capsys.readouterr().out == f"training: resumed after step {STEPS} of {STEPS}\n"


def test_seconds_add_up_over_sessions(tmp_path):
    seconds = []
    for steps in (3, 6):
        objective, modules, _ = model()

        def slow(x, objective=objective):
            time.sleep(0.02)
            return objective(x)

        loop = {"steps": steps, "batch_size": 8, "log_every": -1, "checkpoint": tmp_path}
        seconds.append(float(training.fit(slow, modules, IMAGES, **loop)["seconds"]))
    assert seconds[0] >= 0.06
    assert seconds[1] >= seconds[0] + 0.06


def test_memory_formats_are_the_networks_own(tmp_path, whole):
    train(tmp_path / "a", steps=9, channels_last=True)
    resumed = train(tmp_path / "a", channels_last=True)
    assert same(resumed, train(tmp_path / "b", channels_last=True))
    assert resumed["0 0.weight"].is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(resumed["history total"], whole["history total"], rtol=1e-4)


OTHERS = {
    "beta": ({"parameters": {"beta": 0.1}}, r"beta: expected 0\.5, got 0\.1"),
    "more": ({"parameters": {"beta": 0.5, "width": 2}}, "width: expected none, got 2"),
    "rate": ({"learning_rate": 0.01}, r"learning_rate: expected 0\.001, got 0\.01"),
    "batch": ({"batch_size": 4}, "batch_size: expected 8, got 4"),
    "seed": ({"seed": 1}, "seed: expected 0, got 1"),
    "precision": ({"precision": "bfloat16"}, "precision: expected float32, got bfloat16"),
    "transform": ({"transform": lambda x: x}, "transform: expected False, got True"),
    "fewer images": ({"images": IMAGES[:39]}, r"images: expected uint8 \[40, .* got uint8 \[39, "),
    "another pixel": ({"images": IMAGES ^ (torch.arange(40) == 3).view(40, 1, 1, 1)}, "images: expected .* crc32 "),
    "model": ({"width": 4}, r"module 0\.0\.weight: expected float32 \[3, 1, 3, 3\], got float32 \[4, 1, 3, 3\]"),
    "two": ({"seed": 2, "learning_rate": 0.5}, r"learning_rate: expected .*; seed: expected 0, got 2"),
    "steps": ({"steps": 4}, "steps: expected at least 5, as the checkpoint in .*, got 4"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_the_checkpoint_of_another_run_is_refused_and_left(tmp_path, other):
    options, message = OTHERS[other]
    train(tmp_path, steps=5)
    before = {path: path.read_bytes() for path in files(tmp_path)}
    with pytest.raises(ValueError, match=message) as caught:
        train(tmp_path, **options)
    assert other == "steps" or "choose another folder" in str(caught.value)
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


def test_the_rest_of_a_long_list_of_differences_is_counted(tmp_path):
    train(tmp_path, steps=1, parameters={f"p{n}": 0 for n in range(12)})
    with pytest.raises(ValueError, match=r"p7: expected 0, got 1; and 4 more; choose"):
        train(tmp_path, parameters={f"p{n}": 1 for n in range(12)})


@pytest.mark.parametrize("damage", DAMAGES[:2], ids=["truncated", "bit"])
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(tmp_path, whole, damage):
    train(tmp_path, steps=20)
    newest = files(tmp_path)[-1]
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(UserWarning, match=f"refused {newest.name}"):
        assert same(train(tmp_path), whole)


def test_training_never_starts_from_scratch_in_silence(tmp_path):
    train(tmp_path, steps=3)
    for path in files(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none in .* is intact"):
        train(tmp_path)


def test_a_broken_state_is_not_saved(tmp_path):
    calls = []

    def breaks(objective):
        def objective_at_12(x):
            calls.append(1)
            terms = objective(x)
            return terms._replace(latent=terms.latent * torch.nan) if len(calls) == 12 else terms

        return objective_at_12

    with pytest.raises(FloatingPointError, match="not finite since step 12 of 40"):
        train(tmp_path, objective=breaks)
    assert steps_in(tmp_path) == [10, 11]


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """√0 is finite, and its derivative is not."""
    weight = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(weight.weight)

    def objective(x):
        return LossTerms(weight(x)[:, 0].abs().sqrt(), x[:, 0], 0 * x[:, 0])

    with pytest.raises(FloatingPointError, match="weights not finite after step 1 of 2"):
        loop = {"steps": 2, "batch_size": 4, "save_every": 0, "log_every": -1}
        training.fit(objective, [weight], torch.ones(4, 1), checkpoint=tmp_path, **loop)
    assert not list(tmp_path.glob("*"))


def test_a_full_disk_ends_training_with_a_checkpoint_left(tmp_path, disk):
    disk[0] = 3
    with pytest.raises(OSError, match="bytes needed"):
        train(tmp_path)
    disk[0] = 1000
    assert checkpoints.latest(tmp_path).step == 3


def unused(objective):
    return lambda x: pytest.fail("a step was made")


@pytest.mark.parametrize("place", ["file/sub", "read only"])
def test_a_folder_that_cannot_be_written_to_is_told_before_the_first_step(tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("mine")
    if place == "read only":

        def forbid(*_, **__):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(checkpoints.tempfile, "TemporaryFile", forbid)
    reason = {"file/sub": "Not a directory", "read only": "Permission denied"}[place]
    with pytest.raises(OSError, match=rf"checkpoint: cannot write to {tmp_path / place} \({reason}\)"):
        train(tmp_path / place, objective=unused)
    with pytest.raises(ValueError, match=r"checkpoint: expected a folder, got the file .*file"):
        train(tmp_path / "file", objective=unused)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_finished_run_comes_back_from_a_folder_that_cannot_be_written_to(tmp_path, whole, monkeypatch):
    train(tmp_path, save_every=1e6)
    monkeypatch.setattr(checkpoints.tempfile, "TemporaryFile", lambda **_: pytest.fail("nothing is to be written"))
    assert same(train(tmp_path, objective=unused), whole)


@pytest.mark.parametrize("dtype", [torch.int16, torch.complex64])
def test_state_that_cannot_be_stored_is_told_before_the_first_step(tmp_path, dtype):
    net = nn.Linear(1, 1)
    net.register_buffer("odd", torch.zeros(2, dtype=dtype))
    with pytest.raises(TypeError, match=rf"module 0\.odd: expected a dtype of .*, got {dtype}"):
        training.fit(unused(None), [net], torch.ones(4, 1), steps=1, batch_size=4, checkpoint=tmp_path)
    assert not files(tmp_path)


# Signals


def interrupting(*numbers, at):
    """The signals come in the middle of a step, before its backward pass."""

    def wrap(objective):
        calls = []

        def interrupted(x):
            calls.append(1)
            if len(calls) == at:
                for number in numbers:
                    signal.raise_signal(number)
            return objective(x)

        return interrupted

    return wrap


def test_an_interrupt_saves_after_the_step_and_then_acts(tmp_path, whole):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, save_every=1e6, objective=interrupting(signal.SIGINT, at=13))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert steps_in(tmp_path) == [13]
    assert same(train(tmp_path), whole)


def test_without_a_checkpoint_an_interrupt_acts_at_once():
    with pytest.raises(KeyboardInterrupt):
        train(None, objective=lambda objective: interrupting(signal.SIGINT, at=1)(lambda x: pytest.fail("went on")))


def test_training_goes_on_where_the_callers_handler_does(tmp_path, whole):
    heard = []
    old = signal.signal(signal.SIGTERM, lambda *_: heard.append(steps_in(tmp_path)))
    try:
        assert same(train(tmp_path, save_every=1e6, objective=interrupting(signal.SIGTERM, at=6)), whole)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert heard == [[6]]


BOTH = {
    "interrupt first": (signal.SIGINT, signal.SIGTERM),
    "SIGTERM first": (signal.SIGTERM, signal.SIGINT),
    "interrupted at once": (signal.SIGTERM, signal.SIGINT, signal.SIGINT),
}


@pytest.mark.parametrize("order", BOTH)
def test_an_interrupt_does_not_hide_sigterm(tmp_path, order):
    heard = []
    old = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            train(tmp_path, save_every=1e6, objective=interrupting(*BOTH[order], at=6))
    finally:
        signal.signal(signal.SIGTERM, old)
    assert heard == [signal.SIGTERM]
    assert steps_in(tmp_path) == ([] if order == "interrupted at once" else [6])
    assert not isinstance(caught.value.__context__, KeyboardInterrupt)


def test_a_step_that_fails_does_not_hide_sigterm(tmp_path):
    heard = []
    old = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))

    def failing(objective):
        return interrupting(signal.SIGTERM, at=1)(lambda x: None)

    try:
        with pytest.raises(TypeError, match="expected to return LossTerms"):
            train(tmp_path, objective=failing)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert heard == [signal.SIGTERM]


# Kills


def serve():
    """Fork a training run for each folder on stdin; print its process, then how it ended.

    After the folder may stand the step in which the run sends itself SIGTERM; it then writes by no timer.
    """
    train(None, steps=1)
    print("ready", flush=True)
    for line in sys.stdin:
        folder, *at = line.rstrip("\n").split("\t")
        if (child := os.fork()) == 0:
            options = {"save_every": 1e6, "objective": interrupting(signal.SIGTERM, at=int(at[0]))} if at else {}
            safetensors.torch.save_file(train(folder, **options), f"{folder}.result")
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


class Server:
    def __init__(self):
        root = Path(training.__file__).parents[1]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(Path(__file__).parent)])}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout.readline() == "ready\n"

    def run(self, folder, stop=None, after=0.0):
        """The status with which a run ended, given a signal after so many seconds, if any; and its time."""
        print(folder, file=self.process.stdin, flush=True)
        child, start = int(self.process.stdout.readline()), time.perf_counter()
        if stop is not None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, stop)
        return int(self.process.stdout.readline()), time.perf_counter() - start

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()


def result(folder):
    return safetensors.torch.load_file(f"{folder}.result")


def test_a_run_killed_at_twenty_random_moments_ends_as_if_it_had_not_been(tmp_path, whole, server):
    """Twenty runs, each killed by SIGKILL at a moment drawn over its whole duration, then resumed to its end.

    They write a checkpoint after every step, so that many kills come while one is being written, and some before the
    first: those start again from scratch, which must end the same. A run that was over before its signal came does
    not count, and another one is started. Moments are drawn with a seed, but the steps they fall in depend on the
    machine. The processes are forked from one that has imported torch: what is tested is training, not the import.
    """
    status, duration = server.run(tmp_path / "whole")
    assert status == 0
    assert same(result(tmp_path / "whole"), whole)
    moments, kills, left = random.Random(0), 0, []
    for attempt in range(60):
        folder = tmp_path / str(attempt)
        status, _ = server.run(folder, signal.SIGKILL, moments.uniform(0, duration))
        if status != signal.SIGKILL:
            duration *= 0.8  # the whole run was slower than this one
            continue
        kills += 1
        left += [path.name for path in folder.glob(".*.partial")]
        assert len(list(folder.glob("step-*"))) <= 3
        assert server.run(folder)[0] == 0
        assert same(result(folder), whole), f"killed run {attempt} differs after resuming"
        assert steps_in(folder)[-2:] == [STEPS - 1, STEPS]  # and a third one, if the kill came before it was removed
        if kills == 20:
            break
    assert kills == 20
    print(f"{len(left)} of {kills} kills left a temporary file")


def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path, whole, server):
    folder, moments = tmp_path / "chain", random.Random(1)
    kills = sum(server.run(folder, signal.SIGKILL, moments.uniform(0.02, 0.1))[0] == signal.SIGKILL for _ in range(3))
    assert server.run(folder)[0] == 0
    assert kills > 0
    assert same(result(folder), whole)


def test_sigterm_ends_a_run_with_a_checkpoint_and_by_its_signal(tmp_path, whole, server):
    folder = tmp_path / "terminated"
    assert server.run(f"{folder}\t17")[0] == signal.SIGTERM
    assert steps_in(folder) == [17]
    assert not list(folder.glob(".*.partial"))
    assert server.run(folder)[0] == 0
    assert same(result(folder), whole)


if __name__ == "__main__":
    serve()
