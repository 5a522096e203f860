"""The page that says how results were made: what it shows is what was recorded, and nothing may be missing."""

import contextlib
import io
import json
import re
import shutil

import nbformat
import pytest

from grae_helpers import data
from tools import made
from tools.project import ROOT, Project, ToolError

STEM = "22_covariance_jacobian_mnist"
RECORD = {
    "device": "CPU, 1 thread", "platform": "Linux", "python": "3.11.7", "versions": {"torch": "2.6.0"},
    "commit": "abc1234d", "dirty": False, "time": "2026-11-21T10:00:00+00:00", "data": ["digits of scikit-learn"],
    "peak_memory_bytes": {"host": 950_000_000, "cuda": 0},
}  # fmt: skip
GPU = {"host": None, "cuda": 2_500_000_000}


def ran(folder, stem=STEM, **changes):
    """The notebook of a chapter as a run leaves it, with one cell that took 12 s and one that took 3."""
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    cells = [markdown("# A title of its own"), code("1"), markdown("## Training\n\nHere."), code("2")]
    for cell, seconds in zip(cells[1::2], (3.0, 12.0), strict=True):
        cell.metadata["papermill"] = {"duration": seconds}
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["grae"] = {"parameters": {"budget": "test", "beta": 0.4}, "process": RECORD | changes}
    notebook.metadata["papermill"] = {"duration": 75.2, "parameters": {"budget": "test"}}
    path = folder / f"{stem}.ipynb"
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def book(tmp_path):
    """A project with one frozen result, and where the notebook that ran would lie."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "results" / STEM, tmp_path / "results" / STEM)
    return Project(tmp_path, tmp_path / "build", tmp_path / "html")


def change(book, **fields):
    path = book.root / "results" / STEM / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf8")) | fields), "utf8")


def test_what_is_shown_is_what_was_recorded(book):
    change(book, seconds=8512.2, peak_memory_bytes=GPU, seeds=[3, 4], dirty=True)
    text = made.page(book, {STEM: ran(book.root)})
    frozen, live = text.split("## Live results")
    manifest = json.loads((book.root / "results" / STEM / "manifest.json").read_text("utf8"))
    for file, entry in manifest["files"].items():
        assert f"`{file}`" in frozen and entry["sha256"] in frozen
    assert f'<span id="{STEM}"></span>\n\n### {STEM}\n' in frozen
    assert f"{book.repository}/commit/{manifest['commit']}), with changes that were not committed" in frozen
    assert "2 h 22 min" in frozen and "not recorded, GPU 2.5 GB" in frozen and "Seeds\n: 3, 4" in frozen
    assert "steps: 3,000 instead of 20,000" in frozen and manifest["command"] in frozen
    assert "### A title of its own" in live and "1 min 15 s" in live and "950 MB" in live
    assert "Data\n: digits of scikit-learn" in live and '`beta = 0.4`, `budget = "test"`' in live
    assert "12 s under “Training”" in live and "3 s" not in live


def test_what_all_chapters_share_is_said_once_and_the_rest_of_each(book):
    paths = {STEM: ran(book.root), "10_other": ran(book.root, "10_other", device="a GPU")}
    live = made.page(book, paths).split("## Live results")[1]
    assert live.count("torch 2.6.0") == 1 and live.count("Device\n:") == 2
    assert live.index("torch 2.6.0") < live.index("| chapter |") < live.index("a GPU")


@pytest.mark.parametrize("field", made.FIELDS)
def test_a_manifest_that_lacks_a_field_is_an_error(book, field):
    path = book.root / "results" / STEM / "manifest.json"
    found = json.loads(path.read_text("utf8"))
    del found[field]
    path.write_text(json.dumps(found), "utf8")
    with pytest.raises(ToolError, match=rf"results/{STEM}/manifest.json: lacks {field}$"):
        made.page(book, {STEM: ran(book.root)})


@pytest.mark.parametrize("field", made.PROCESS)
def test_a_run_that_lacks_a_field_is_an_error(book, field):
    path = ran(book.root)
    notebook = nbformat.read(path, as_version=4)
    del notebook.metadata["grae"]["process"][field]
    nbformat.write(notebook, path)
    with pytest.raises(ToolError, match=f"{STEM}: the record of its process: lacks {field}$"):
        made.page(book, {STEM: path})


@pytest.mark.parametrize("record", [None, {}])
def test_a_run_without_a_record_is_an_error(book, record):
    path = ran(book.root)
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["grae"] = {"parameters": {}} | ({} if record is None else {"process": record})
    nbformat.write(notebook, path)
    with pytest.raises(ToolError, match=f"{STEM}: the record of its"):
        made.page(book, {STEM: path})


def test_a_file_that_is_not_as_its_manifest_says_is_an_error(book):
    with (book.root / "results" / STEM / "models.csv").open("a") as file:
        file.write("one more line\n")
    with pytest.raises(ToolError, match=r"models\.csv: expected a file of sha256"):
        made.page(book, {STEM: ran(book.root)})


def test_a_damaged_manifest_and_a_result_of_no_chapter_are_errors(book):
    with pytest.raises(ToolError, match=f"results/{STEM}: expected the result of a chapter of _toc.yml"):
        made.page(book, {})
    (book.root / "results" / STEM / "manifest.json").write_text("{", "utf8")
    with pytest.raises(ToolError, match=f"results/{STEM}/manifest.json: expected the manifest of a frozen result"):
        made.page(book, {STEM: ran(book.root)})


def test_every_frozen_result_of_the_repository_has_its_anchor(tmp_path):
    folders = sorted((ROOT / "results").glob("*/"))
    stems = {json.loads((folder / "manifest.json").read_text("utf8"))["notebook"] for folder in folders}
    text = made.page(Project(), {stem: ran(tmp_path, stem) for stem in stems})
    assert re.findall(r'<span id="(\w+)"></span>', text) == [folder.name for folder in folders] != []


# What a run leaves


def answer(names):
    """What the cell that the runner appends prints, in these globals."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(made.QUESTION, names)
    return printed.getvalue()


def test_the_runner_s_cell_tells_where_it_ran_and_is_taken_out_again(tmp_path):
    digits = data.load("digits", "test", n=3)
    path = tmp_path / "10.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), path)
    made.ask(path)
    notebook = nbformat.read(path, as_version=4)
    assert len(notebook.cells) == 2
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text=answer({"train": digits, "again": digits}))]
    found = made.told(notebook)
    assert len(notebook.cells) == 1 and set(made.PROCESS) <= set(found)
    assert found["data"] == [digits.source] and found["peak_memory_bytes"]["host"] > 1e7


def test_a_notebook_that_was_never_asked_or_does_not_use_the_package_has_no_record():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    assert made.told(notebook) is None and len(notebook.cells) == 1
    cell = nbformat.v4.new_code_cell(made.QUESTION, id=made.PROBE)
    cell.outputs = [nbformat.v4.new_output("stream", text="None\n")]
    notebook.cells.append(cell)
    assert made.told(notebook) is None and len(notebook.cells) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (3599.7, "1 h 0 min"), (3600, "1 h 0 min"), (7199, "2 h 0 min")],
)
def test_durations_carry_over(seconds, text):
    assert made.duration(seconds) == text
