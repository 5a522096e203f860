"""The notebooks: their grammar, their round trip through .ipynb, and a run of each by nbmake."""

import ast
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import jupytext
import nbformat
import pytest

from grae_helpers import notebooks
from tools.project import ROOT, Project

SOURCES = Project().sources
LONGEST = 30
MYST = re.compile(
    r"^\s*(```|~~~|:::+)\s*\{|\{[a-zA-Z][\w:-]*\}`|^\([\w:-]+\)=\s*$|\\(re)?newcommand|\\def\b", re.M
)

each = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def cells(source, kind):
    return [cell for cell in notebooks.read(source).cells if cell.cell_type == kind]


def test_the_table_of_contents_names_every_notebook():
    assert sorted(Project().chapters) == [source.stem for source in SOURCES]


def test_no_notebook_file_is_tracked():
    tracked = Project().git("ls-files", "*.ipynb")
    assert tracked == ""


@each
def test_round_trip_changes_nothing(source):
    """All but jupytext's own version in the header, and the order of a cell's metadata."""
    text = source.read_text("utf8")
    notebook = jupytext.reads(text, fmt="py:percent")
    through = jupytext.writes(
        jupytext.reads(jupytext.writes(notebook, fmt="ipynb"), fmt="ipynb"), fmt="py:percent"
    )
    assert body(through) == body(text)
    again = jupytext.reads(through, fmt="py:percent")
    parts = [
        [(cell.cell_type, cell.source, cell.metadata) for cell in made.cells] for made in (notebook, again)
    ]
    assert parts[0] == parts[1]


def body(text):
    return [line for line in text.partition("\n# ---\n")[2].splitlines() if not line.startswith("# %%")]


@each
def test_title_then_parameters(source):
    notebook = notebooks.read(source)
    assert re.match(r"# \S", notebook.cells[0].source), "the first cell is the title"
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0] is cells_of(notebook)[0], "the first code cell holds the parameters"


def cells_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@each
def test_parameters_have_types_and_help(source):
    notebook = notebooks.read(source)
    known = notebooks.declared(notebook)
    statements = ast.parse(cells_of(notebook)[0].source).body
    assert all(isinstance(statement, ast.AnnAssign) for statement in statements)
    assert [statement.target.id for statement in statements] == list(known)
    assert all(parameter.help for parameter in known.values())
    assert (known["budget"].type, known["budget"].default) == ("str", "book")


@each
def test_code_cells_are_short(source):
    long = [len(cell.source.splitlines()) for cell in cells(source, "code")]
    assert max(long) <= LONGEST


@each
def test_markdown_reads_well_outside_the_site(source):
    found = [match[0] for cell in cells(source, "markdown") for match in MYST.finditer(cell.source)]
    assert found == [], "MyST directives, roles, labels and macros belong in book/"


@pytest.fixture(scope="session")
def nbmake(book):
    """One run of nbmake over every notebook on the test budget: a mapping from stem to what went wrong."""
    folder = book.build / "nbmake"
    for source in SOURCES:
        notebooks.write(on_test_budget(source), folder / f"{source.stem}.ipynb")
    (folder / "pytest.ini").write_text("[pytest]\n", "utf8")
    report = folder / "report.xml"
    options = ["--nbmake", "--nbmake-timeout=300", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    environment["JUPYTER_PATH"] = str(kernel(book.build / "jupyter"))
    command = [sys.executable, "-m", "pytest", *options, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert report.is_file(), done.stdout + done.stderr
    return outcomes(report)


def kernel(folder):
    """A Jupyter path whose kernel `python3` is this interpreter, whatever kernels the user has."""
    path = folder / "kernels" / "python3" / "kernel.json"
    path.parent.mkdir(parents=True)
    spec = {"argv": notebooks.kernel_command(), "display_name": "Python 3", "language": "python"}
    path.write_text(json.dumps(spec), "utf8")
    return folder


def on_test_budget(source):
    """nbmake injects no parameters, so a cell after the declared ones does."""
    notebook = notebooks.read(source)
    place = notebook.cells.index(cells_of(notebook)[0]) + 1
    notebook.cells.insert(place, nbformat.v4.new_code_cell('budget = "test"', id="test-budget"))
    return notebook


def outcomes(report):
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
        stem = re.search(r"([\w-]+)(?:\.ipynb)?$", case.get("classname", "")) or re.search(r"(.*)", "")
        found[stem[1]] = "\n".join((child.text or child.get("message", "")) for child in bad)
    return found


@each
def test_nbmake_runs_it_on_the_test_budget(source, nbmake):
    assert source.stem in nbmake, f"nbmake ran {sorted(nbmake)}"
    assert nbmake[source.stem] == "", nbmake[source.stem]
