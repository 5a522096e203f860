"""The book, run and built once for all the tests that look at it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from ledger import claim  # noqa: F401 - a fixture for every test

from grae_helpers.executors import cores
from tools.project import ROOT, Project

# A second thread gains nothing on small tensors, and two processes of two threads starve each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def tool(name: str, *arguments: object, expect: int | None = 0) -> str:
    """Run one of the project's tools as a reader would, and return what it printed; None expects any status."""
    command = [sys.executable, "-m", f"tools.{name}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert expect is None or done.returncode == expect, f"{' '.join(command[1:])}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(autouse=True)
def usual_interrupt() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, whatever a library that an earlier test imported has made of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if before is not None:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def book(tmp_path_factory) -> Project:
    """This checkout, with everything derived in a temporary folder that all processes of a test run share."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "book"
    folder.mkdir(exist_ok=True)
    return Project(ROOT, folder / "build", folder / "html")


@pytest.fixture(scope="session")
def ran(book) -> Path:
    """The notebooks as they ran on the test budget; one that failed is missing, and the lines beside say why."""
    said = book.html.parent / "printed.txt"
    with FileLock(said.with_suffix(".lock")):
        if not said.is_file():
            jobs = min(4, cores())
            said.write_text(
                tool("run_notebooks", "--build", book.build, "--budget", "test", "--jobs", jobs, expect=None), "utf8"
            )
    return book.build / "run"


@pytest.fixture(scope="session")
def site(book, ran) -> Path:
    """The whole site, built from those notebooks."""
    with FileLock(book.html.with_suffix(".lock")):
        if not (book.html / "index.html").is_file():
            tool("stage_book", "--build", book.build)
            tool("build_book", "--build", book.build, "--html", book.html)
    return book.html
