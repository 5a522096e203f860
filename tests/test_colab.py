"""Each chapter as it goes to Colab: plain, and run there as a reader would, on a machine that never saw the book.

The oldest torch that the package allows, no checkout, Colab's own module, the `test` budget. What Colab ships is
installed once, about 6 GB in some minutes, into build/; the machines themselves are made anew each time.
"""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import colab_machine
import nbformat
import pytest
import torch
from colab_machine import OLDEST
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from packaging.requirements import Requirement
from packaging.version import Version

from grae_helpers import notebooks, results, runtime
from tools import export_colab, stage_book
from tools.project import ROOT, Project, ToolError

BOOK = Project()
SOURCES = BOOK.sources
AT_A_TIME = 2
KEEPING = "32_fid_of_one_model"
pytestmark = pytest.mark.timeout(3600)  # the first of these tests waits for the installation

each = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """What GitHub would hold: the files as they are now, in a commit."""
    if not BOOK.git("rev-parse", "HEAD"):
        pytest.skip("this is no git checkout, so there is no commit to install from")
    return colab_machine.repository(tmp_path_factory.mktemp("origin") / "grae")


@pytest.fixture(scope="module")
def exports(origin):
    """Stem → exported notebook."""
    return {path.stem: nbformat.read(path, as_version=4) for path in export_colab.export(origin)}


@pytest.fixture(scope="module")
def machines(origin, tmp_path_factory):
    """A function that makes a fresh machine."""
    installed = (colab_machine.place() / colab_machine.STAMP).is_file()
    if not installed and (free := shutil.disk_usage(ROOT).free) < colab_machine.SPACE:
        wanted = f"{colab_machine.SPACE / 1e9:.0f} GB of disk"
        pytest.skip(f"what Colab ships needs {wanted}, and {free / 1e9:.1f} GB are free")
    if reason := colab_machine.unreachable():
        pytest.skip(reason)
    shipped = colab_machine.environment()
    return lambda: colab_machine.Machine(shipped, tmp_path_factory.mktemp("colab"), origin)


@pytest.fixture(scope="module")
def sessions(request, machines, exports):
    """Every chapter whose tests were asked for, at the test budget on a machine of its own, two at a time."""
    asked = [item.callspec.params.get("source") for item in request.session.items if hasattr(item, "callspec")]
    stems = sorted({source.stem for source in asked if source in SOURCES})
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        found = pool.map(lambda stem: machines().run(exports[stem], budget="test"), stems)
        return dict(zip(stems, found, strict=True))


# Run as Colab would


@each
def test_it_runs_on_a_fresh_machine_at_the_oldest_torch(sessions, source):
    assert sessions[source.stem].error == ""


@each
def test_the_setup_leaves_the_torch_of_colab_alone(sessions, source):
    session, shipped = sessions[source.stem], colab_machine.packages(colab_machine.environment())
    assert session.facts, session.error
    oldest = {wanted.name: wanted for wanted in map(Requirement, colab_machine.shipped())}
    before = {found.name: found.version for found in importlib.metadata.distributions(path=[str(shipped)])}
    for name in OLDEST:
        version, file = session.facts[name]
        assert Version(version).public == before[name] and before[name] in oldest[name].specifier
        assert Path(file).is_relative_to(shipped)
    assert "grae_helpers" in session.installed and not session.installed & set(OLDEST)


@each
def test_the_package_comes_from_no_checkout_of_ours(sessions, source):
    session = sessions[source.stem]
    assert session.facts, session.error
    file = Path(session.facts["grae_helpers"][1])
    assert file.parts[-4:-1] == ("content", "grae", "grae_helpers") and not file.is_relative_to(ROOT)


@each
def test_its_frozen_results_are_shown(sessions, source):
    kept = [results.load(folder) for folder in sorted((ROOT / "results").glob(f"{source.stem}*"))]
    shown = sessions[source.stem].printed()
    assert [frozen.label for frozen in kept if frozen.label not in shown] == []
    assert not kept or "no frozen result" not in shown


@each
def test_it_says_which_device_and_how_to_have_another(sessions, source):
    said = sessions[source.stem].printed("colab-setup")
    if "device" in notebooks.declared(notebooks.read(source)):
        assert "will run on the CPU" in said and "Change runtime type" in said
    else:
        assert said == ""


@each
def test_nothing_is_asked_of_google_drive_unless_the_box_is_ticked(sessions, source):
    assert not sessions[source.stem].mounted


def test_with_the_box_ticked_training_goes_on_on_another_machine(machines, exports, tmp_path):
    """The first connection is lost with its machine; the Drive is not. Another β has a folder of its own."""
    drive, notebook = tmp_path / "drive", exports[KEEPING]
    options = {"drive": drive, "budget": "test", "use_drive": True, "n_images": 60}
    first = machines().run(notebook, steps=10, **options)
    again = machines().run(notebook, steps=12, **options)
    assert first.error == again.error == "" and first.mounted
    assert "resumed" not in first.printed() and "resumed after step 10 of 12" in again.printed()
    assert len(list((drive / "MyDrive" / "grae" / KEEPING).glob("*.json"))) == 1


# What the export is


@each
def test_every_link_and_picture_resolves_outside_the_site(exports, source):
    """Read by a Markdown parser, not by the expressions of the export."""
    parser = MarkdownIt().use(dollarmath_plugin)
    for cell in exports[source.stem].cells:
        tokens = [inner for token in parser.parse(cell.source) for inner in token.children or [token]]
        for token in tokens if cell.cell_type == "markdown" else []:
            assert not token.type.startswith("html") or not re.search(r"\b(src|href)\b", token.content)
            for link in filter(None, (token.attrGet("href"), token.attrGet("src"))):
                assert re.match(r"https?:|attachment:", link), link
                if link.startswith(f"{BOOK.site}/"):
                    assert link.removeprefix(f"{BOOK.site}/").partition("#")[0].removesuffix(".html") in BOOK.pages


@each
def test_only_what_colab_knows_is_left(exports, source):
    notebook = exports[source.stem]
    nbformat.validate(notebook)
    assert set(notebook.metadata) <= {"kernelspec", "language_info", "accelerator", "colab"}
    assert {key for cell in notebook.cells for key in cell.metadata} <= {"tags", "cellView"}
    tags = [cell.metadata.tags for cell in notebook.cells if "tags" in cell.metadata]
    assert tags[:2] == [["colab-setup"], ["parameters"]]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@each
def test_solutions_are_folded_but_there(exports, source):
    hidden = [cell.source for cell in notebooks.read(source).cells if "hide-cell" in cell.metadata.get("tags", [])]
    folded = [cell.source for cell in exports[source.stem].cells if cell.metadata.get("cellView") == "form"]
    assert folded == [f"# @title Solution\n{text}" for text in hidden] and hidden


@each
def test_the_button_of_the_site_leads_to_the_export(exports, origin, source):
    """The theme's address, from the configuration that staging writes, is a file of the branch that is pushed."""
    to, (owner, name) = stage_book.configuration(origin)["repository"], BOOK.repository.split("/")[-2:]
    assert to["url"] == f"https://github.com/{owner}/{name}" and to["branch"] == BOOK.colab_branch
    assert (origin.build / "colab" / to["path_to_book"] / "notebooks" / f"{source.stem}.ipynb").is_file()


@each
def test_it_installs_this_commit_of_this_repository(exports, origin, source):
    setup = next(cell.source for cell in exports[source.stem].cells if cell.cell_type == "code")
    commit = origin.git("rev-parse", "HEAD")
    assert re.search(rf'install\("{BOOK.repository}\.git", "{commit}", "(\[(sweep|own)\])?"\)', setup)


@pytest.mark.parametrize(
    ("code", "extras"),
    [
        ("import torch", []),
        ("from grae_helpers import results, sweep", ["sweep"]),
        ("from grae_helpers import sweep as sweeps\nimport gdown", ["celeba", "sweep"]),
        ("from papermill.iorw import load_notebook_node", ["sweep"]),
        ("import pytest, jupyter_book", []),
    ],
)
def test_the_extras_of_a_chapter_follow_from_its_imports(code, extras):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    assert export_colab.extras(BOOK, notebook) == extras


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("```{note}\nthis\n```", "a directive"),
        (":::{figure} a.png\n:::", "a directive"),
        ("see {cite}`kumar2020implicit`", "a role"),
        ("{prf:ref}`thm`", "a role"),
        ("(here)=\n# Here", "a label"),
        ("$$x$$ (eq-x)", "a label"),
        ("{#here .wide}\nWords", "a label"),
        ("% to be written", "a comment"),
        ("[a][b]\n\n[b]: figure.png", "a footnote, or an address"),
        (r"$\newcommand{\R}{\mathbb R}$", "a macro"),
        ("{{ version }}", "a substitution"),
        ("![a](figure.png)", "a page of the book or an address, got 'figure.png'"),
        ("[a](10_nowhere.ipynb)", "a page of the book or an address, got '10_nowhere.ipynb'"),
        ("[a](../../README.md)", "a page of the book or an address"),
        ('<img src="a.png">', "a link or picture in Markdown"),
        ("<IMG SRC = 'a.png'>", "a link or picture in Markdown"),
    ],
)
def test_what_colab_would_show_raw_or_broken_is_refused(text, what):
    with pytest.raises(ToolError, match=rf"10_a\.py, cell 3: .*{re.escape(what)}"):
        export_colab.plain(f"Text before.\n\n{text}\n", BOOK, "10_a.py, cell 3")


@pytest.mark.parametrize(
    "text",
    ["$f[a](z) + \\{x\\}$", "`[a](b.png)`", "```text\n[a](b.png)\n```", "$$\nJ[i](h)\n$$", "[a](https://d.org/e.md)"],
)
def test_code_mathematics_and_outside_links_stay_as_they_are(text):
    assert export_colab.plain(text, BOOK, "a") == text


def test_links_between_pages_lead_to_the_site():
    (stem,) = (source.stem for source in SOURCES[:1])
    text = f"[a]({stem}.ipynb) ![b](https://d.org/f.png) [c](../notation.md#beta) [d](#here)"
    expected = f"[a](S/notebooks/{stem}.html) ![b](https://d.org/f.png) [c](S/notation.html#beta) "
    expected += f"[d](S/notebooks/{stem}.html#here)"
    assert export_colab.plain(text, BOOK, f"{stem}.py, cell 1") == expected.replace("S/", f"{BOOK.site}/")


# The setup cell by itself


@pytest.fixture
def setup(monkeypatch, tmp_path):
    """A function that runs the cell on a pretended Colab, and the commands that it gave."""
    commands = []

    def run(command, **options):
        commands.append([str(word) for word in command])
        return subprocess.CompletedProcess(command, int("no-such-commit" in command), "", "because of this")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "google.colab", object())
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def given(at="0" * 40, extras=()):
        exec(compile(export_colab.setup(BOOK, at, list(extras), True), "setup", "exec"), {})
        return commands

    return given


def test_the_setup_keeps_the_versions_that_it_finds(setup):
    pip = setup(extras=["sweep"])[-1]
    constraints = Path(pip[pip.index("-c") + 1]).read_text("utf8").splitlines()
    assert constraints == [f"{name}=={importlib.metadata.version(name)}" for name in OLDEST]
    assert pip[-2:] == ["-e", f"{Path('grae').resolve()}[sweep]"]


def test_a_setup_that_fails_says_why(setup):
    with pytest.raises(RuntimeError, match=r"git .*fetch .*no-such-commit\nbecause of this"):
        setup(at="no-such-commit")


def test_outside_colab_the_setup_does_nothing(setup, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "google.colab")
    assert setup() == [] and capsys.readouterr().out == ""


@pytest.mark.parametrize(("gpu", "words"), [(True, "on the GPU, Tesla T4."), (False, "on the CPU.")])
def test_the_setup_says_which_device_there_is(setup, monkeypatch, capsys, gpu, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    setup()
    said = capsys.readouterr().out
    assert words in said and ("Runtime → Change runtime type" in said) is not gpu


# Google Drive


def test_a_folder_on_drive_belongs_to_its_settings(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "DRIVE", tmp_path)
    monkeypatch.setitem(sys.modules, "google.colab.drive", type("drive", (), {"mount": staticmethod(str)}))
    first, other, same = (runtime.drive_folder("30_a", {"beta": beta, "seed": 0}) for beta in (0.1, 0.2, 0.1))
    assert first == same != other and Path(first).parent == Path(other).parent == tmp_path / "MyDrive/grae/30_a"
    assert Path(f"{first}.json").read_text("utf8") == '{"beta": 0.1, "seed": 0}\n'


def test_away_from_colab_there_is_no_drive():
    with pytest.raises(ValueError, match="only a Colab notebook can mount"):
        runtime.drive_folder("30_a", {"beta": 0.1})


@each
def test_what_a_chapter_keeps_can_go_to_drive(exports, source, monkeypatch):
    """The box stands below the parameters of every chapter with a folder for what it trains, and names them all."""
    declared = notebooks.declared(notebooks.read(source))
    places = [name for name in export_colab.PLACES if name in declared]
    boxes = [cell.source for cell in exports[source.stem].cells if "colab-drive" in cell.metadata.get("tags", [])]
    monkeypatch.setattr(runtime, "drive_folder", lambda *given: given)
    assert len(boxes) == len(places) <= 1
    for box, place in zip(boxes, places, strict=True):
        values = {name: parameter.default for name, parameter in declared.items()}
        exec(box, empty := dict(values))
        assert empty[place] == ""
        exec(box.replace("use_drive = False", "use_drive = True"), ticked := dict(values))
        settings = {name: value for name, value in values.items() if name not in export_colab.CHANGEABLE}
        assert ticked[place] == (source.stem, settings) and "seed" in settings
