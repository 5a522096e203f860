"""The book, run and built once for all the tests that look at it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
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


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Processes share the tests file by file; whatever looks at the built book stays with the one that builds it."""
    for item in items:
        of_the_book = "book_that_ran" if {"ran", "site"} & set(getattr(item, "fixturenames", ())) else item.path.name
        item.add_marker(pytest.mark.xdist_group(of_the_book))


@pytest.fixture(scope="session")
def book(tmp_path_factory) -> Project:
    """This checkout, with everything derived in a temporary folder."""
    folder = tmp_path_factory.mktemp("book")
    return Project(ROOT, folder / "build", folder / "html")


@pytest.fixture(scope="session")
def ran(book) -> Path:
    """The notebooks as they ran on the test budget; one that failed is missing, and the lines beside say why."""
    jobs = min(4, cores())
    printed = tool("run_notebooks", "--build", book.build, "--budget", "test", "--jobs", jobs, expect=None)
    (book.build / "printed.txt").write_text(printed, "utf8")
    return book.build / "run"


@pytest.fixture(scope="session")
def site(book, ran) -> Path:
    """The whole site, built from those notebooks."""
    tool("stage_book", "--build", book.build)
    tool("build_book", "--build", book.build, "--html", book.html)
    return book.html
