"""What must be run again after a change, and what need not be."""

import shutil
import subprocess
import sys

import pytest
from conftest import tool
from test_tools import BAD, GOOD, make

from tools import freshness, project, run_notebooks

OTHER = GOOD + '\n# %%\n"run with notebooks/10_first.py"\n'


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Two good notebooks and a bad one, each run once."""
    book = make(tmp_path_factory.mktemp("fresh"), **{"10_first": GOOD, "11_second": GOOD, "12_bad": BAD})
    tool("run_notebooks", "--root", book.root, "--budget", "test", "--jobs", 2, expect=1)
    return book


def stale(book, *pairs, budget="test"):
    """The stems that would run."""
    jobs = run_notebooks.plan(book, [], {"budget": budget, **dict(pairs)}, book.build / "run")
    return [job.stem for job in jobs if not job.fresh]


@pytest.fixture
def book(ran, tmp_path):
    shutil.copytree(ran.root, tmp_path / "book")
    return project.Project(tmp_path / "book", tmp_path / "book" / "build", tmp_path / "book" / "_build" / "html")


def test_a_second_run_runs_only_what_failed(book):
    assert stale(book) == ["12_bad"]
    printed = tool("run_notebooks", "--root", book.root, "--only", "10", "11", "--budget", "test")
    assert printed.splitlines() == ["2 of 2 notebooks not run again: nothing that they depend on has changed"]


def test_it_can_be_made_to_run_again(book):
    before = (book.build / "run" / "10_first.ipynb").stat().st_mtime_ns
    printed = tool("run_notebooks", "--root", book.root, "--only", "10", "--budget", "test", "--again")
    assert printed.startswith("10_first") and "ok" in printed
    assert (book.build / "run" / "10_first.ipynb").stat().st_mtime_ns > before


def test_a_changed_notebook_runs_again_alone(book):
    source = book.source("10_first")
    source.write_text(source.read_text("utf8") + "\n# %%\nbeta\n", "utf8")
    assert stale(book) == ["10_first", "12_bad"]


def test_other_parameters_are_another_run(book):
    assert stale(book, ("beta", "0.3")) == stale(book, budget="book") == ["10_first", "11_second", "12_bad"]
    assert stale(book, ("beta", "1.0")) == ["12_bad"]  # the default, said aloud


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2]", b"\xff\xfe", b'{"metadata": {"grae": 3}}'])
def test_a_damaged_notebook_runs_again(book, content):
    (book.build / "run" / "10_first.ipynb").write_bytes(content)
    assert stale(book) == ["10_first", "12_bad"]


def test_a_notebook_that_runs_another_one_depends_on_it(book):
    book.source("13_other").write_text(OTHER, "utf8")
    before = freshness.key(book, book.source("13_other"), {})
    book.source("10_first").write_text(GOOD + "\n# %%\nseed\n", "utf8")
    assert freshness.key(book, book.source("13_other"), {}) != before


def test_its_frozen_result_is_part_of_it(book):
    before = [freshness.key(book, book.source(stem), {}) for stem in ("10_first", "11_second")]
    (book.root / "results" / "10_first_mnist").mkdir(parents=True)
    (book.root / "results" / "10_first_mnist" / "manifest.json").write_text("{}")
    after = [freshness.key(book, book.source(stem), {}) for stem in ("10_first", "11_second")]
    assert after[0] != before[0] and after[1] == before[1]


def test_other_data_libraries_or_gpus_are_another_run(book, monkeypatch, tmp_path):
    source = book.source("10_first")
    monkeypatch.setenv("GRAE_DATA", str(tmp_path))
    seen = [freshness.key(book, source, {})]
    (tmp_path / "mnist").mkdir()
    seen.append(freshness.key(book, source, {}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    seen.append(freshness.key(book, source, {}))
    monkeypatch.setattr(freshness.stamps, "libraries", lambda: ["torch==9.0"])
    seen.append(freshness.key(book, source, {}))
    assert len(set(seen)) == len(seen)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of three modules, of which a notebook imports the first, and the first the second."""
    folder = tmp_path / "grae_helpers"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "losses.py").write_text("")
    (folder / "jacobians.py").write_text("x = 1\n")
    (folder / "fid.py").write_text("x = 1\n")
    monkeypatch.setattr(freshness, "PACKAGE", folder)
    freshness._imports_of.cache_clear()
    yield folder
    freshness._imports_of.cache_clear()


@pytest.mark.parametrize(
    "imports",
    [
        "from grae_helpers import losses",
        "from grae_helpers.losses import f",
        "import grae_helpers.losses as l",
        'command = "python -m grae_helpers.losses"',
    ],
)
@pytest.mark.parametrize("then", ["from grae_helpers import jacobians", "from . import jacobians"])
def test_a_module_concerns_the_notebooks_that_import_it(book, package, imports, then):
    (package / "losses.py").write_text(f"def f():\n    {then}\n")
    source = book.source("10_first")
    source.write_text(f"{GOOD}\n# %%\n{imports}\n", "utf8")
    before = freshness.key(book, source, {})
    (package / "fid.py").write_text("x = 2\n")
    assert freshness.key(book, source, {}) == before
    (package / "jacobians.py").write_text("x = 2\n")
    assert freshness.key(book, source, {}) != before


NO_PYTHON = pytest.mark.parametrize("code", ["%matplotlib inline", "x = ("])


@NO_PYTHON
def test_a_notebook_that_is_no_plain_python_depends_on_every_module(book, package, code):
    source = book.source("10_first")
    source.write_text(f"{GOOD}\n# %%\n{code}\n", "utf8")
    before = freshness.key(book, source, {})
    (package / "fid.py").write_text("x = 2\n")
    assert freshness.key(book, source, {}) != before


@NO_PYTHON
def test_a_slip_in_one_notebook_is_a_matter_of_its_own_run(book, code):
    book.source("10_first").write_text(f"{GOOD}\n# %%\n{code}\n", "utf8")
    assert stale(book) == ["10_first", "12_bad"]


def test_every_import_of_the_real_chapters_is_seen():
    """Against what Python itself has loaded after the same imports, in a fresh process."""
    book = project.Project()
    source = book.source("33_fid_across_beta")
    lines = [line for line in freshness._code(source).splitlines() if line.startswith(("from grae", "import grae"))]
    command = "\n".join([*lines, "import sys", "print(*[n for n in sys.modules if n.startswith('grae_helpers.')])"])
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, cwd=book.root)
    loaded = {name.removeprefix("grae_helpers.") for name in done.stdout.split()}
    known = {path.stem for path in freshness._modules(freshness._notebooks(book, source))}
    assert loaded and loaded <= known
