"""Where the jobs of a sweep run: processes of this machine, or a dask cluster, both an Executor."""

import importlib
import logging
import multiprocessing
import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

from grae_helpers.notebooks import BadInput, needs

ATTEMPTS = 3
"""How often a job may lose its worker process before it counts as failed."""
CONNECT_SECONDS = 10


def cores() -> int:
    """How many cores this process may use: a container's, not its host's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES gives them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    torch = importlib.import_module("torch")
    return [str(index) for index in range(torch.cuda.device_count())]


class _Slot:
    """One worker process, and how to start another where it died."""

    def __init__(self, variables: Mapping[str, str]):
        self.variables, self.pool, self.process, self.closed = dict(variables), None, None, False

    def run(self, function: Callable, *arguments: object) -> object:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._started().submit(function, *arguments).result()
            except BrokenProcessPool:
                self.stop()
                if attempt == ATTEMPTS or self.closed:
                    text = f"its worker process died {ATTEMPTS} times: killed from outside, or out of memory"
                    raise RuntimeError(text) from None

    def _started(self) -> ProcessPoolExecutor:
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(self.variables,))
            self.process = self.pool.submit(os.getpid).result()
        return self.pool

    def stop(self) -> None:
        pool, process, self.pool, self.process = self.pool, self.process, None, None
        if process is not None:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin(variables: Mapping[str, str]) -> None:
    """A worker's first act: its GPU; Ctrl-C is its parent's affair; and it does not outlive its parent."""
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(multiprocessing.parent_process(),), daemon=True).start()


def _follow(parent) -> None:
    parent.join()
    os._exit(1)


class Local(Executor):
    """Worker processes, a pool of one each: one that is killed takes only its own job along, which is tried again.

    With GPUs each worker sees one of them, in turn.
    """

    def __init__(self, workers: int, names: list[str]):
        each = [{"CUDA_VISIBLE_DEVICES": names[i % len(names)]} if names else {} for i in range(workers)]
        self._all = [_Slot(variables) for variables in each]
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for slot in self._all:
            self._free.put(slot)
        self._threads = ThreadPoolExecutor(workers)

    def __str__(self) -> str:
        return f"{len(self._all)} worker process{'es' if len(self._all) > 1 else ''} here"

    def submit(self, function: Callable, /, *arguments: object, **options: object) -> Future:
        """Run a function in the next worker that is free."""
        return self._threads.submit(self._run, function, *arguments, **options)

    def _run(self, function: Callable, *arguments: object) -> object:
        slot = self._free.get()
        try:
            return slot.run(function, *arguments)
        finally:
            self._free.put(slot)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers; with `cancel_futures` what runs is cut off."""
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        for slot in self._all:
            slot.closed = True
            slot.stop()

    def lost(self) -> bool:
        """Whether nothing can be expected any more: never of this machine."""
        return False


class Cluster(Executor):
    """The workers behind a dask scheduler. `address` is its address, or the scheduler file that it wrote.

    Raises BadInput where nothing answers there.
    """

    def __init__(self, address: str):
        distributed = needs("distributed", "cluster")
        where = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
        self._levels = _silence()
        try:
            self._client = _timely(distributed.Client, **where, timeout=CONNECT_SECONDS, set_as_default=False)
        except Exception as error:  # names that do not resolve, other protocols, no JSON: of any type
            _restore(self._levels)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            within = f"within {CONNECT_SECONDS} s ({reason})"
            raise BadInput(f"--scheduler: no dask scheduler answers at {address!r} {within}") from error
        self._address = address
        self._executor = self._client.get_executor(pure=False)

    def submit(self, function: Callable, /, *arguments: object, **options: object) -> Future:
        """Run a function on a worker; dask runs it elsewhere if that one dies.

        It goes as bytes: a worker that cannot import what it is sent otherwise dies of that, and nobody learns why.
        """
        return self._executor.submit(pickle.loads, pickle.dumps(_Call(function, arguments)), **options)

    def __str__(self) -> str:
        threads = self._client.nthreads().values()
        if not threads:
            return f"no worker at {self._address} yet, which is waited for"
        return f"workers at {self._address}: {len(threads)}, {sum(threads)} jobs at a time"

    def lost(self) -> bool:
        """Whether the scheduler is gone, with all that it knew."""
        return self._client.status != "running"

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster as it is; what was asked of it and not yet begun is taken back."""
        with suppress(Exception):
            if not self.lost():
                self._executor.shutdown(wait=wait and not cancel_futures)
            self._client.close(timeout=2)
        _restore(self._levels)


class _Call:
    """What becomes a function's result where it is unpickled."""

    def __init__(self, function: Callable, arguments: tuple):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


def _timely(connect: Callable, **options: object) -> object:
    """What `connect` returns or raises. Dask's own limit fails where something else listens, as its dashboard."""
    found: Future = Future()

    def work() -> None:
        try:
            found.set_result(connect(**options))
        except BaseException as error:  # handed on to whom it concerns
            found.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    if not wait([found], 2 * CONNECT_SECONDS).done:
        raise TimeoutError("what listens there does not answer as a scheduler does")
    return found.result()


def _silence() -> dict[str, int]:
    """Turn off the log of distributed's own attempts: what matters of it is said in one message."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in ("distributed", "tornado")]
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return before


def _restore(levels: Mapping[str, int]) -> None:
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
