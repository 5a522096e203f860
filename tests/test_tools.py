"""The tools on small projects made for the purpose, and what the repository promises about itself."""

import importlib.metadata
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml
from conftest import tool
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from grae_helpers import notebooks
from grae_helpers.notebooks import Parameter
from tools import build_book, export_colab, project, run_notebooks, stage_book
from tools.project import ROOT, Project, ToolError

PARAMETERS = """\
# %% tags=["parameters"]
budget: str = "book"  # test, book or full
beta: float = 1.0  # weight of the KL term
latent_dim: int = 4  # latent dimensions
betas: list[float] = [0.1, 1.0]  # a grid of weights
verbose: bool = False  # say more
seed: int = 0  # of every generator
"""
FIGURE = """\
# %% mystnb={"image": {"alt": "A rising line"}, "figure": {"caption": "A line.", "name": "fig-STEM"}}
import matplotlib.pyplot as plt

plt.plot([0, 1])
plt.show()
"""
GOOD = (
    "# %% [markdown]\n# # A page\n#\n# See [the start](../intro.md#a-place).\n\n"
    + PARAMETERS
    + '\n# %%\nprint("beta", beta)\n'
)
BAD = GOOD + '\n# %%\nraise RuntimeError("it broke here")\n'


def make(folder, **notebooks) -> Project:
    """A project of one page and the given notebooks."""
    (folder / "notebooks").mkdir(parents=True)
    (folder / "book").mkdir()
    for name in ("pyproject.toml", "_config.yml"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("_static", "_ext"):
        shutil.copytree(ROOT / "book" / name, folder / "book" / name)
    shutil.copy(ROOT / "book" / "references.bib", folder / "book")
    (folder / "book" / "intro.md").write_text("# A start\n\n## A place\n\n$x^2$\n", "utf8")
    for stem, text in notebooks.items():
        (folder / "notebooks" / f"{stem}.py").write_text(text.replace("STEM", stem), "utf8")
    chapters = [{"file": f"notebooks/{stem}"} for stem in notebooks]
    toc = {"format": "jb-book", "root": "intro"} | ({"chapters": chapters} if chapters else {})
    (folder / "_toc.yml").write_text(yaml.safe_dump(toc), "utf8")
    return Project(folder, folder / "build", folder / "_build" / "html")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A project of a good and a bad notebook, after a run of both, and what the run printed."""
    book = make(tmp_path_factory.mktemp("mixed"), **{"10_good": GOOD + "\n" + FIGURE, "11_bad": BAD})
    (book.build / "run").mkdir(parents=True)
    (book.build / "run" / "11_bad.ipynb").write_text("left by an earlier run", "utf8")
    printed = tool(
        "run_notebooks", "--root", book.root, "--budget", "test", "-p", "beta", "0.5", "--jobs", 2, expect=1
    )
    return book, printed


def plan(book, *pairs, only=()):
    return run_notebooks.plan(book, list(only), dict(pairs), book.build / "run")


@pytest.fixture
def pair(tmp_path):
    """Two notebooks, of which one lacks `latent_dim` and `seed`."""
    fewer = "\n".join(line for line in GOOD.splitlines() if not line.startswith(("latent_dim", "seed")))
    return make(tmp_path / "pair", **{"10_all": GOOD, "11_fewer": fewer + "\n"})


# Parameters


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int", "12", 12),
        ("int", "-3", -3),
        ("float", "1e-4", 1e-4),
        ("float", "2", 2.0),
        ("bool", "True", True),
        ("bool", "false", False),
        ("str", "12", "12"),
        ("list[int]", "1,2", [1, 2]),
        ("list[float]", "[0.1, 1]", [0.1, 1.0]),
        ("list[str]", "['a', b]", ["a", "b"]),
        ("list[int]", "[]", []),
    ],
)
def test_text_becomes_a_value_of_the_declared_type(kind, text, value):
    converted = notebooks.convert(Parameter("name", kind, None, ""), text)
    assert converted == value and type(converted) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("beta", "abc", "expected a number"),
        ("beta", "", "expected a number"),
        ("beta", "0", "beta"),
        ("beta", "-1", "beta"),
        ("beta", "nan", "beta"),
        ("beta", "inf", "beta"),
        ("latent_dim", "2.5", "expected a whole number"),
        ("latent_dim", "0", "latent_dim"),
        ("verbose", "maybe", "expected true or false"),
        ("betas", "0.1,abc", "expected a list"),
        ("betas", "0.1,-1", "betas"),
        ("budget", "huge", "budget"),
        ("seed", "-1", "seed"),
    ],
)
def test_a_value_that_cannot_be_right_is_refused_before_anything_runs(tmp_path, name, text, message):
    book = make(tmp_path / "book", **{"10_good": GOOD})
    with pytest.raises(ToolError, match=message):
        plan(book, (name, text))
    assert not (book.build / "run").exists()


def test_an_unknown_name_lists_the_known_ones_with_their_help(pair):
    with pytest.raises(ToolError) as caught:
        plan(pair, ("betta", "1"))
    assert "betta" in str(caught.value)
    assert "beta: float = 1.0  # weight of the KL term" in str(caught.value)


def test_only_common_parameters_may_be_unknown_to_some_notebooks(pair):
    jobs = plan(pair, ("seed", "3"))
    assert [job.values for job in jobs] == [{"seed": 3}, {}]
    with pytest.raises(ToolError, match="11_fewer"):
        plan(pair, ("latent_dim", "3"))
    assert plan(pair, ("latent_dim", "3"), only=["10"])[0].merged["latent_dim"] == 3
    with pytest.raises(ToolError, match="seed"):
        plan(pair, ("seed", "3"), only=["11_fewer"])


def test_only_what_differs_from_the_default_is_injected(tmp_path):
    job = plan(
        make(tmp_path / "book", **{"10_good": GOOD}), ("budget", "book"), ("beta", "1"), ("betas", "2,3")
    )[0]
    assert job.values == {"betas": [2.0, 3.0]}
    assert (job.merged["budget"], job.merged["beta"]) == ("book", 1.0)


def test_notebooks_are_chosen_by_stem_or_beginning(pair):
    assert [source.stem for source in run_notebooks.choose(pair, ["11", "10_all"])] == ["10_all", "11_fewer"]
    with pytest.raises(ToolError, match="'12'"):
        run_notebooks.choose(pair, ["12"])


@pytest.mark.parametrize(
    "line", ["size: complex = 1j  # none", "size: int = 3 * 4  # computed", "size = 3  # untyped"]
)
def test_a_parameter_must_have_a_known_type_and_a_literal_default(tmp_path, line):
    book = make(tmp_path / "book", **{"10_odd": GOOD.replace("verbose: bool = False  # say more", line)})
    with pytest.raises(ToolError, match="size"):
        plan(book)


# Running


def test_a_good_notebook_reaches_the_run_folder_with_its_record(mixed):
    book, printed = mixed
    notebook = nbformat.read(book.build / "run" / "10_good.ipynb", as_version=4)
    assert notebook.metadata["grae"]["parameters"]["beta"] == 0.5
    assert notebook.metadata["papermill"]["duration"] > 0
    assert "beta 0.5" in notebook.cells[3].outputs[0].text
    assert re.search(r"10_good +test +\d+\.\d s  ok", printed)


def test_a_failed_notebook_is_left_for_inspection_only(mixed):
    book, printed = mixed
    assert not (book.build / "run" / "11_bad.ipynb").exists()
    assert "it broke here" in (book.build / "failed" / "11_bad.ipynb").read_text("utf8")
    assert "RuntimeError: it broke here" in printed and "\x1b" not in printed
    assert "1 of 2 notebooks failed: 11_bad" in printed


def test_the_kernel_is_this_interpreter_whatever_kernels_the_user_has(tmp_path, monkeypatch):
    kernel = tmp_path / "user" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    kernel.joinpath("kernel.json").write_text(
        '{"argv": ["false"], "display_name": "x", "language": "python"}', "utf8"
    )
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    book = make(tmp_path / "book", **{"10_who": GOOD + "\n# %%\nimport sys\n\nprint(sys.executable)\n"})
    tool("run_notebooks", "--root", book.root)
    notebook = nbformat.read(book.build / "run" / "10_who.ipynb", as_version=4)
    assert notebook.cells[-1].outputs[0].text.strip() == sys.executable


# Staging


def staged(book, change):
    """The message with which staging refuses the good notebook after `change`."""
    path = book.build / "run" / "10_good.ipynb"
    notebook = nbformat.read(path, as_version=4)
    change(notebook)
    found = stage_book.problems(notebook, book.source("10_good"))
    return "\n".join(found)


def set_at(*keys_and_value):
    """A change that sets one value, found by following keys, inside a notebook."""

    def change(notebook):
        *keys, last, value = keys_and_value
        for key in keys:
            notebook = notebook[key]
        notebook[last] = value

    return change


STDERR = nbformat.v4.new_output("stream", name="stderr", text="a warning")
ERROR = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])


def test_a_notebook_that_ran_well_is_accepted(mixed):
    assert staged(mixed[0], lambda notebook: None) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_at("cells", 3, "execution_count", None), "cell 4: was not executed"),
        (set_at("cells", 3, "outputs", [ERROR]), "cell 4: raised ValueError: no"),
        (set_at("cells", 3, "outputs", [STDERR]), "cell 4: wrote to stderr"),
        (set_at("cells", 3, "metadata", "papermill", "status", "failed"), "cell 4: papermill says 'failed'"),
        (
            set_at("cells", 4, "metadata", {"papermill": {"status": "completed"}}),
            "cell 5: shows an image without alt text",
        ),
        (
            set_at("cells", 4, "metadata", "mystnb", "figure", "caption", " "),
            "cell 5: shows an image without a caption",
        ),
        (set_at("metadata", "papermill", "exception", True), "papermill recorded an exception"),
        (set_at("metadata", "papermill", "duration", 0.01), "no time at all"),
        (set_at("metadata", "papermill", {}), "no time at all"),
        (set_at("metadata", "grae", "source_sha256", "0"), "has changed since it ran"),
    ],
)
def test_staging_refuses_what_must_not_reach_a_reader(mixed, change, message):
    assert message in staged(mixed[0], change)


def test_staging_refuses_damaged_and_empty_notebooks(mixed, tmp_path):
    empty_cell = nbformat.v4.new_code_cell("", outputs=[ERROR])
    assert "raised ValueError: no" in staged(mixed[0], lambda notebook: notebook.cells.append(empty_cell))
    assert "holds no code" in staged(mixed[0], set_at("cells", []))
    assert "no time at all" in staged(mixed[0], set_at("metadata", "papermill", "duration", float("nan")))
    no_alt = set_at("cells", 4, "metadata", "mystnb", "image", "alt", None)
    assert "without alt text" in staged(mixed[0], no_alt)
    book = make(tmp_path / "book", **{"10_good": GOOD})
    for content in ("", "no json", "[]", '{"cells": ['):
        (tmp_path / "10_good.ipynb").write_text(content, "utf8")
        with pytest.raises(ToolError, match="10_good: cannot be read as a notebook that ran"):
            stage_book.stage(book, tmp_path)


def test_a_folder_that_cannot_be_made_is_refused_before_anything_runs(tmp_path):
    book = make(tmp_path / "book", **{"10_good": GOOD})
    (tmp_path / "file").write_text("", "utf8")
    for option in ("--build", "--out"):
        with pytest.raises(ToolError, match="file cannot be made a folder"):
            run_notebooks.main(["--root", str(book.root), option, str(tmp_path / "file")])


def test_staging_refuses_a_notebook_that_failed_and_one_that_the_toc_forgets(mixed, tmp_path):
    with pytest.raises(ToolError, match="11_bad: has not been run, or failed"):
        stage_book.stage(mixed[0])
    assert not (mixed[0].build / "book").exists()
    book = make(tmp_path / "book")
    (book.root / "notebooks" / "10_new.py").write_text(GOOD, "utf8")
    (book.root / "book" / "intro.md").unlink()
    with pytest.raises(
        ToolError, match=r"(?s)10_new: is in notebooks/ but not in _toc.yml.*intro: is in _toc.yml"
    ):
        stage_book.stage(book)


def test_the_staged_configuration_takes_the_repository_from_one_place(tmp_path):
    book = make(tmp_path / "book")
    text = (book.root / "pyproject.toml").read_text("utf8")
    (book.root / "pyproject.toml").write_text(
        text.replace(book.repository, "https://github.com/someone/fork"), "utf8"
    )
    settings = stage_book.configuration(book)
    assert settings["repository"]["url"] == "https://github.com/someone/fork"
    assert settings["html"]["baseurl"] == "https://someone.github.io/fork/"
    assert "github.com" not in (ROOT / "_config.yml").read_text("utf8")


def test_a_record_for_a_sweep_is_no_business_of_the_page(mixed, tmp_path):
    """The output goes, and what the cell shows beside it stays; the notebook that ran keeps both."""
    path = mixed[0].build / "run" / "10_good.ipynb"
    notebook = nbformat.read(path, as_version=4)
    record = nbformat.v4.new_output("display_data", data=notebooks.publish({"fid": 2.0}, {}))
    notebook.cells[3].outputs.append(record)
    nbformat.write(notebook, tmp_path / "ran.ipynb")
    stage_book._copy_notebook(mixed[0], tmp_path / "ran.ipynb", tmp_path / "page.ipynb")
    found = nbformat.read(tmp_path / "page.ipynb", as_version=4).cells[3].outputs
    assert [output.output_type for output in found] == ["stream"] and "beta 0.5" in found[0].text
    assert "fid" in (tmp_path / "ran.ipynb").read_text("utf8")


# Building


def test_a_warning_of_sphinx_stops_the_build_and_keeps_the_old_site(tmp_path):
    book = make(tmp_path / "book")
    (book.root / "book" / "intro.md").write_text("# A start\n\n[nowhere](#no-such-place)\n", "utf8")
    book.html.mkdir(parents=True)
    (book.html / "index.html").write_text("the old site", "utf8")
    stage_book.stage(book)
    with pytest.raises(ToolError, match="no-such-place"):
        build_book.build(book)
    assert (book.html / "index.html").read_text("utf8") == "the old site"


def test_building_before_staging_says_what_to_run(tmp_path):
    with pytest.raises(ToolError, match=r"tools\.stage_book"):
        build_book.build(make(tmp_path / "book"))


# Export


@pytest.fixture
def exported(tmp_path):
    book = make(tmp_path / "book", **{"10_good": GOOD})
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "-m", "first"]):
        subprocess.run(["git", "-C", book.root, *command], check=True)
    return book, nbformat.read(export_colab.export(book)[0], as_version=4)


def test_an_exported_notebook_is_clean_and_installs_this_commit(exported):
    book, notebook = exported
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert f'install("{book.repository}.git", "{book.git("rev-parse", "HEAD")}", "")' in code[0].source
    assert "parameters" in code[1].metadata["tags"]
    nbformat.validate(notebook)


def test_exported_links_lead_to_the_site(exported):
    book, notebook = exported
    assert f"[the start]({book.site}/intro.html#a-place)" in notebook.cells[0].source


def test_export_says_that_a_new_chapter_is_in_no_commit(exported, capsys):
    book, _ = exported
    (book.root / ".gitignore").write_text("build/\n.gitignore\n", "utf8")
    assert export_colab.main(["--root", str(book.root)]) == 0
    assert "uncommitted" not in capsys.readouterr().out
    book.source("11_new").write_text(GOOD + "\n# %%\nfrom . import here\n", "utf8")
    assert export_colab.main(["--root", str(book.root)]) == 0
    assert "uncommitted changes are not in the commit" in capsys.readouterr().out


def test_export_names_the_notebook_that_is_no_plain_python(exported):
    book, _ = exported
    book.source("10_good").write_text(GOOD + "\n# %%\n%matplotlib inline\n", "utf8")
    with pytest.raises(ToolError, match=r"10_good\.py: expected plain Python in its code, got '%matplotlib inline'"):
        export_colab.export(book)


@pytest.mark.parametrize(
    ("address", "fits"),
    [("https://github.com/a/b.git", True), ("https://github.com/a/b c", False), ("git@github.com:a/b", False)],
)
def test_the_repository_s_address_is_one_that_others_can_be_made_of(tmp_path, address, fits):
    (tmp_path / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{address}"\n', "utf8")
    if fits:
        assert Project(tmp_path).repository == "https://github.com/a/b"
    else:
        with pytest.raises(ToolError, match="Repository should be https"):
            _ = Project(tmp_path).repository


def test_export_without_a_commit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(ToolError, match="no commit"):
        export_colab.export(make(tmp_path / "book", **{"10_good": GOOD}))


# How a tool ends


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("run_notebooks", ["-p", "beta", "abc"], "expected a number"),
        ("run_notebooks", ["-p", "beta", "0"], "beta"),
        ("run_notebooks", ["-p", "beta", "1", "-p", "beta", "2"], "given twice"),
        ("run_notebooks", ["--only", "99"], "99"),
        ("run_notebooks", ["--jobs", "0"], "--jobs"),
        ("stage_book", [], "has not been run"),
        ("build_book", [], "nothing is staged"),
    ],
)
def test_a_tool_ends_with_a_message_and_status_2(tmp_path, monkeypatch, capsys, name, arguments, message):
    book = make(tmp_path / "book", **{"10_good": GOOD})
    main = {"run_notebooks": run_notebooks, "stage_book": stage_book, "build_book": build_book}[name].main
    monkeypatch.setattr(sys, "argv", [name, "--root", str(book.root), *arguments])
    with pytest.raises(SystemExit) as stopped:
        project.run(main)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: ") and not (book.build / "run").exists()


def test_a_tool_shows_no_traceback(tmp_path):
    book = make(tmp_path / "book", **{"10_good": GOOD})
    printed = tool("run_notebooks", "--root", book.root, "-p", "latent_dim", "2.5", expect=2)
    assert printed == "error: latent_dim: expected a whole number (int), got '2.5'\n"


# What the repository promises about itself


def pins() -> dict[str, Requirement]:
    lines = [
        line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text("utf8").splitlines()
    ]
    found = [Requirement(line) for line in lines if line]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def test_the_lock_pins_exactly_and_names_no_index():
    text = (ROOT / "requirements.txt").read_text("utf8")
    assert not re.search(r"^\s*-|://", text, re.M)
    for requirement in pins().values():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement


def test_the_lock_is_closed_but_for_torch():
    locked = pins()
    for name, requirement in locked.items():
        if name == "torch" or (requirement.marker and not requirement.marker.evaluate()):
            continue
        for needed in map(Requirement, importlib.metadata.requires(name) or []):
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in locked, f"{name} needs {needed.name}"


def test_the_lock_satisfies_the_package():
    settings = Project().pyproject["project"]
    wanted = (
        settings["dependencies"]
        + settings["optional-dependencies"]["book"]
        + settings["optional-dependencies"]["test"]
    )
    for requirement in map(Requirement, wanted):
        if requirement.name != "grae-helpers":
            version = str(pins()[canonicalize_name(requirement.name)].specifier).removeprefix("==")
            assert requirement.specifier.contains(version), requirement


def test_citation_names_the_same_repository_and_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf8"))
    assert citation["repository-code"] == Project().repository
    assert citation["version"] == importlib.metadata.version("grae-helpers")


def test_actions_are_pinned_by_commit_and_permissions_are_said():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        uses = re.findall(r"uses: (\S+)(.*)", path.read_text("utf8"))
        assert uses, path.name
        for action, comment in uses:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) and re.match(r" # v\d", comment), (
                f"{path.name}: {action}"
            )
        assert "permissions" in yaml.safe_load(path.read_text("utf8")), path.name
