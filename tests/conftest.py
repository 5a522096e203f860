"""The book, run and built once for all the tests that look at it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from grae_helpers.executors import cores
from tools.project import ROOT, Project

# A second thread gains nothing on small tensors, and two processes of two threads starve each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def tool(name: str, *arguments: object, expect: int = 0) -> str:
    """Run one of the project's tools as a reader would, and return what it printed."""
    command = [sys.executable, "-m", f"tools.{name}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == expect, f"{' '.join(command[1:])}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def book(tmp_path_factory) -> Project:
    """This checkout, with everything derived in a temporary folder."""
    folder = tmp_path_factory.mktemp("book")
    return Project(ROOT, folder / "build", folder / "html")


@pytest.fixture(scope="session")
def ran(book) -> Path:
    """The notebooks as they ran on the test budget."""
    tool(
        "run_notebooks",
        "--build",
        book.build,
        "--budget",
        "test",
        "--jobs",
        min(4, cores()),
    )
    return book.build / "run"


@pytest.fixture(scope="session")
def site(book, ran) -> Path:
    """The whole site, built from those notebooks."""
    tool("stage_book", "--build", book.build)
    tool("build_book", "--build", book.build, "--html", book.html)
    return book.html
