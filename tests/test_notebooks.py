"""The notebooks: their grammar, their round trip through .ipynb, and that each runs."""

import ast
import re

import jupytext
import nbformat
import pytest

from grae_helpers import notebooks
from tools import stage_book
from tools.project import Project

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


@each
def test_it_runs_on_the_test_budget(source, ran):
    """A notebook that failed is not there, and staging refuses one with a cell that did not run."""
    path = ran / f"{source.stem}.ipynb"
    assert path.is_file(), (ran.parents[1] / "printed.txt").read_text("utf8")
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata["grae"]["parameters"]["budget"] == "test"
    assert list(stage_book.problems(notebook, source)) == []
