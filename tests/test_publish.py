"""Editions and publishing: one version everywhere, old editions beside main's site, workflows that can run."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import lxml.html
import pytest
import yaml
from conftest import tool

from tools import editions, publish
from tools.project import ROOT, Project, ToolError

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WRITES = {
    ("publish.yml", "deploy"): {"pages", "id-token"},
    ("publish.yml", "colab"): {"contents"},
    ("release.yml", "release"): {"contents"},
}
"""The jobs that may write anything, and what."""

workflows = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


# Editions


def test_package_citation_and_changes_say_one_version():
    editions.check(Project())
    assert f"version {Project().version}" in tool("editions")
    assert tool("editions", "--notes").strip() == editions.changes(Project())[Project().version]


def copy(folder, **changed) -> Project:
    """A checkout of the files that say a version, some of them changed."""
    (folder / "grae_helpers").mkdir(parents=True)
    texts = {name: (ROOT / name).read_text("utf8") for name in ("CITATION.cff", "CHANGELOG.md", "pyproject.toml")}
    texts["grae_helpers/__init__.py"] = (ROOT / "grae_helpers" / "__init__.py").read_text("utf8")
    for name, text in (texts | changed).items():
        (folder / name).write_text(text, "utf8")
    return Project(folder, folder / "build", folder / "_build" / "html")


@pytest.mark.parametrize(("file", "text", "complaint"), [
    ("CITATION.cff", "version: 9.9.9\n", r"CITATION\.cff says version 9\.9\.9, grae_helpers"),
    ("CHANGELOG.md", "# Changes\n\n## 0.0.1\n\n- A start.\n", r"CHANGELOG\.md should have a section ## "),
    ("CHANGELOG.md", "# Changes\n\n## VERSION\n\n", r"CHANGELOG\.md should have a section ## .* says something"),
    ("grae_helpers/__init__.py", "version = 3\n", r"__init__\.py .* should hold a line __version__"),
])  # fmt: skip
def test_what_does_not_say_this_version_is_refused(tmp_path, file, text, complaint):
    editions.check(copy(tmp_path / "good"))
    with pytest.raises(ToolError, match=complaint):
        editions.check(copy(tmp_path / "bad", **{file: text.replace("VERSION", Project().version)}))


def test_a_tag_is_the_version_of_the_package(monkeypatch):
    main, version = Project(), Project().version
    before = (main.site, main.colab_branch)
    assert main.edition == "" and before[1] == "colab" and main.site == main.home
    monkeypatch.setenv("GRAE_EDITION", f"v{version}")
    editions.check(main)
    assert (main.site, main.colab_branch) == (f"{before[0]}/v{version}", f"colab-v{version}")
    monkeypatch.setenv("GRAE_EDITION", "v99.0")
    with pytest.raises(ToolError, match=rf"the tag is v99\.0, but grae_helpers is {re.escape(version)}"):
        editions.check(main)
    for wrong in ("main", "0.1.0", "v1", "v1.2.3.4", "v1.2; rm"):
        monkeypatch.setenv("GRAE_EDITION", wrong)
        with pytest.raises(ToolError, match="should be a tag like"):
            _ = main.edition


# What the host serves


PAGE = '<html><body><a id="offline" href="x.zip">x</a><ul id="editions"><li>here</li></ul></body></html>'


def released(folder: Path, version: str, **files: str) -> Path:
    """The zip of an edition of two pages."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{editions.NAME}-{version}"
    content = {f"{stem}/index.html": f"edition {version}", f"{stem}/versions.html": PAGE} | files
    with zipfile.ZipFile(folder / f"{stem}.zip", "w") as packed:
        for name, text in content.items():
            packed.writestr(name, text)
    return folder / f"{stem}.zip"


@pytest.fixture
def served(tmp_path):
    book = Project(ROOT, tmp_path / "build", tmp_path / "html")
    book.html.mkdir()
    (book.html / "index.html").write_text("main", "utf8")
    (book.html / "versions.html").write_text(PAGE, "utf8")
    return book


def test_each_edition_keeps_its_folder_and_every_list_names_all(served, tmp_path):
    for version in ("0.9", "0.10.1", "0.10"):
        released(tmp_path / "releases", version)
    out = tmp_path / "out"
    assert publish.assemble(served, tmp_path / "releases", out) == ["0.10.1", "0.10", "0.9"]
    assert (out / "index.html").read_text("utf8") == "main"
    assert (out / "v0.9" / "index.html").read_text("utf8") == "edition 0.9"
    assert (out / "v0.9" / f"{editions.NAME}-0.9.zip").is_file()
    listed = json.loads((out / "versions.json").read_text("utf8"))
    assert [entry["path"] for entry in listed] == ["v0.10.1/", "v0.10/", "v0.9/"]
    for folder in ("", "v0.10.1", "v0.9"):
        page = lxml.html.fromstring((out / folder / "versions.html").read_bytes())
        links = [(out / folder / link).resolve() for link in page.xpath("//ul[@id='editions']//a/@href")]
        assert links == [out / name / "index.html" for name in ("", "v0.10.1", "v0.10", "v0.9")]
        [here] = page.xpath("//ul[@id='editions']/li[contains(., 'this one')]/a/@href")
        assert (out / folder / here).resolve() == out / folder / "index.html"
    assert (served.html / "versions.html").read_text("utf8") == PAGE


def test_what_was_published_before_and_is_no_release_goes(served, tmp_path):
    (tmp_path / "out" / "v0.0.1").mkdir(parents=True)
    assert publish.assemble(served, tmp_path / "none", tmp_path / "out") == []
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["index.html", "versions.html", "versions.json"]


def test_a_zip_that_is_no_edition_is_refused(served, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ToolError, match="make book"):
        publish.assemble(Project(ROOT, tmp_path, tmp_path / "nowhere"), tmp_path, out)
    shutil.copy(released(tmp_path / "a", "1.0"), tmp_path / "a" / "else.zip")
    with pytest.raises(ToolError, match=r"expected the zips of releases, .*got else\.zip"):
        publish.assemble(served, tmp_path / "a", out)
    released(tmp_path / "b", "1.0", **{f"{editions.NAME}-1.0/../../../outside.html": "!"})
    with pytest.raises(ToolError, match="which is not in its folder"):
        publish.assemble(served, tmp_path / "b", out)
    assert not (tmp_path / "outside.html").exists() and not (tmp_path.parent / "outside.html").exists()
    released(tmp_path / "c", "1.0").rename(tmp_path / "c" / f"{editions.NAME}-2.0.zip")
    with pytest.raises(ToolError, match="it is not a zip of the site"):
        publish.assemble(served, tmp_path / "c", out)
    (served.html / "versions.html").write_text("<p>no list</p>", "utf8")
    with pytest.raises(ToolError, match="should hold one list of editions, and holds 0"):
        publish.assemble(served, tmp_path / "none", out)


def test_the_built_site_can_be_published_with_itself_as_a_release(site, book, tmp_path):
    """The zip of today is an edition of tomorrow, and no link of the page of versions is broken in its folder."""
    name, version = editions.zip_name(book), book.version
    (tmp_path / "releases").mkdir()
    shutil.copy(site / name, tmp_path / "releases")
    tool("publish", "--html", site, "--releases", tmp_path / "releases", "--out", tmp_path / "out")
    for folder in (tmp_path / "out", tmp_path / "out" / f"v{version}"):
        page = lxml.html.fromstring((folder / "versions.html").read_bytes())
        links = page.xpath("//article//a/@href")
        assert len(links) > 10
        assert [link for link in links if not re.match(r"https?:|#", link) and not (folder / link).is_file()] == []


# Workflows


def steps(path: Path):
    for name, job in yaml.safe_load(path.read_text("utf8"))["jobs"].items():
        for step in job["steps"]:
            yield name, step


@workflows
def test_a_workflow_runs_what_there_is(path):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf8"), re.MULTILINE))
    scripts = [step["run"] for _, step in steps(path) if "run" in step]
    assert scripts
    for script in scripts:
        subprocess.run(["bash", "-n", "-c", script], check=True)
        assert "${{" not in script, "a value goes into a script through env: there it is data, never code"
        assert set(re.findall(r"\bmake ([\w-]+)", script)) <= targets, script
        for program in re.findall(r"(?:^|\s)(\.ci/\S+)", script):
            assert os.access(ROOT / program, os.X_OK), program
        for module in re.findall(r"-m tools\.(\w+)", script):
            assert (ROOT / "tools" / f"{module}.py").is_file(), module


@workflows
def test_a_workflow_asks_for_no_more_than_it_needs(path):
    whole = yaml.safe_load(path.read_text("utf8"))
    assert whole["permissions"] in ({}, {"contents": "read"})
    for name, job in whole["jobs"].items():
        asked = job.get("permissions", {})
        written = {what for what, how in asked.items() if how == "write"}
        assert written == WRITES.get((path.name, name), set()), f"{path.name}: {name}"
        assert job["timeout-minutes"] <= 60 and set(asked.values()) <= {"read", "write"}
        assert "needs" not in job or job["needs"] in whole["jobs"]
    for _, step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_publishing_follows_main_and_releases():
    read = {path.name: yaml.safe_load(path.read_text("utf8")) for path in WORKFLOWS}
    on = read["publish.yml"][True]  # YAML takes the word `on` for a truth value
    assert on["push"] == {"branches": ["main"]}
    assert on["workflow_run"] == {"workflows": [read["release.yml"]["name"]], "types": ["completed"]}
    condition = read["publish.yml"]["jobs"]["build"]["if"]
    assert "conclusion == 'success'" in condition and condition.startswith("github.ref == 'refs/heads/main' && (")
    assert read["publish.yml"]["jobs"]["deploy"]["needs"] == "build"
    assert read["release.yml"][True] == {"push": {"tags": ["v*"]}}
    assert read["release.yml"]["env"]["GRAE_EDITION"] == "${{ github.ref_name }}"
    runs = [step.get("run", "") for _, step in steps(ROOT / ".github" / "workflows" / "release.yml")]
    wanted = ("make edition", "make book", "gh release")
    order = [next(i for i, run in enumerate(runs) if what in run) for what in wanted]
    assert order == sorted(order)
    packed = re.search(r"_build/(\S+\.zip)", runs[order[-1]])[1]
    assert re.fullmatch(packed.replace(".", r"\.").replace("*", ".*"), editions.zip_name(Project()))


def test_the_zips_that_publishing_fetches_are_those_of_releases():
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text("utf8")
    pattern = re.search(r"--pattern '([^']+)'", text)[1]
    assert re.fullmatch(pattern.replace(".", r"\.").replace("*", ".*"), editions.zip_name(Project()))


def test_the_branch_for_colab_is_one_commit_made_anew(tmp_path):
    """Pushed twice, into a repository of its own: the second push leaves nothing of the first."""
    tree, remote = tmp_path / "tree", tmp_path / "remote.git"
    (tree / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "push_colab", tree / ".ci")
    for name in ("tools", "grae_helpers", "pyproject.toml"):
        (tree / name).symlink_to(ROOT / name)
    (tree / ".venv" / "bin").mkdir(parents=True)
    python = tree / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', "utf8")
    python.chmod(0o755)

    def git(*arguments):
        done = subprocess.run(["git", "-C", str(remote), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.split()

    subprocess.run(["git", "init", "--quiet", "--bare", str(remote)], check=True)
    for text in ("first", "second"):
        shutil.rmtree(tree / "build", ignore_errors=True)
        (tree / "build" / "colab").mkdir(parents=True)
        (tree / "build" / "colab" / f"{text}.ipynb").write_text(text, "utf8")
        given = {"GITHUB_SHA": "0" * 40, "PUSH_TO": str(remote), "GRAE_EDITION": "v0.1.0", "HOME": str(tmp_path)}
        subprocess.run([tree / ".ci" / "push_colab"], env={**os.environ, **given}, check=True)
    assert git("branch", "--format=%(refname:short)") == ["colab-v0.1.0"]
    assert git("rev-list", "--count", "colab-v0.1.0") == ["1"]
    assert git("ls-tree", "--name-only", "-r", "colab-v0.1.0") == ["second.ipynb"]
