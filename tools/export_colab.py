"""Write the notebooks without outputs to build/colab, ready to be pushed as the branch that Colab opens.

Their first code cell fetches the book at this commit when it runs on Colab and installs its package, leaves Colab's
own torch alone, and says which device is used. A chapter that keeps what it trains gets a box to tick, by which
it goes to Google Drive.
"""

import ast
import posixpath
import re
import shutil
import textwrap
from pathlib import Path

import nbformat
from packaging.requirements import Requirement

from grae_helpers import notebooks
from tools import project
from tools.project import Project, ToolError

SETUP = """\
# On Colab only: fetch this book and install its package. Colab's own torch, torchvision and numpy stay as they are.
import importlib.metadata, pathlib, subprocess, sys


def install(repository, commit, extras):
    folder = pathlib.Path("NAME").resolve()
    folder.mkdir(exist_ok=True)
    kept = [f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "torchvision", "numpy")]
    (folder / ".kept.txt").write_text("\\n".join(kept))
    commands = [
        ["git", "init", "--quiet", folder],
        ["git", "-C", folder, "fetch", "--quiet", "--depth=1", repository, commit],
        ["git", "-C", folder, "checkout", "--quiet", "--force", commit],
        [sys.executable, "-m", "pip", "install", "--quiet", "-c", folder / ".kept.txt", "-e", f"{folder}{extras}"],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}\\n{done.stdout}{done.stderr}")
    sys.path.append(str(folder))  # this kernel started before the installation, and would not see it


if "google.colab" in sys.modules:
    install("REPOSITORY", "COMMIT", "EXTRAS")
"""
DEVICE = """\
    import torch

    if torch.cuda.is_available():
        print(f"This notebook will run on the GPU, {torch.cuda.get_device_name()}.")
    else:
        print("There is no GPU here, so this notebook will run on the CPU.")
        print("To have a GPU, choose Runtime → Change runtime type → T4 GPU, and then Runtime → Run all.")
"""
DRIVE = """\
# Tick the box to keep what is trained on your Google Drive, and to go on from there after a lost connection.
use_drive = False  # @param {type:"boolean"}

if use_drive and not PLACE:
    from grae_helpers import runtime

    settings = dict(
SETTINGS
    )
    PLACE = runtime.drive_folder("CHAPTER", settings)
"""
PLACES = ("checkpoints", "folder")
"""Parameters that name a folder for what is trained."""
CHANGEABLE = (*PLACES, "device", "workers", "save_every", "steps", "betas")
"""Parameters that another run in the same folder may change: it goes on all the same."""
NOT_OF_A_CHAPTER = ("book", "test", "cluster")
"""Extras of pyproject.toml that no chapter imports."""

TARGET = re.compile(
    r"(?P<verbatim>^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)|(?P<tick>`+).+?(?P=tick)|\$\$.+?\$\$|\$[^$\n]+\$)"
    r"|\]\((?P<target>[^)\s]+)|(?P<html><[^>]+\b(?:src|href)\s*=)",
    re.M | re.S | re.I,
)
RAW = {
    "a directive": re.compile(r"^\s*(?:```|~~~|:::+)\s*\{|^\s*:::", re.M),
    "a role": re.compile(r"\{[a-zA-Z][\w:+-]*\}`"),
    "a label": re.compile(r"^\([\w:-]+\)=\s*$|\$\$\s*\([\w:-]+\)\s*$|(?:^|\])\{[#.][\w-]", re.M),
    "a comment": re.compile(r"^%.*", re.M),
    "a footnote, or an address apart from its link": re.compile(r"^ {0,3}\[[^\]\n]+\]:.*", re.M),
    "a macro": re.compile(r"\\(?:re)?newcommand|\\def\b|\\DeclareMathOperator"),
    "a substitution": re.compile(r"\{\{.+?\}\}"),
}


def export(book: Project) -> list[Path]:
    """One clean notebook a chapter, under build/colab/notebooks, written afresh."""
    folder, at = book.build / "colab", commit(book)
    made = {source.stem: clean(book, source, at) for source in book.sources}
    shutil.rmtree(folder, ignore_errors=True)
    return [notebooks.write(notebook, folder / "notebooks" / f"{stem}.ipynb") for stem, notebook in made.items()]


def commit(book: Project) -> str:
    found = book.git("rev-parse", "HEAD")
    if not found:
        raise ToolError("there is no commit to install from: export from a git checkout that has one")
    return found


def clean(book: Project, source: Path, at: str) -> nbformat.NotebookNode:
    """A chapter as Colab opens it: plain cells, the setup before its parameters, the box for Drive after them."""
    notebook = notebooks.read(source)
    parameters = notebooks.declared(notebook, source.stem)
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "markdown":
            cell.source = plain(cell.source, book, f"{source.name}, cell {number}")
        _simplify(cell)
    first = next((i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"), len(notebook.cells))
    try:
        needed = extras(book, notebook)
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise ToolError(f"{source.name}: expected plain Python in its code, got {line!r}") from error
    notebook.cells.insert(first, _code(setup(book, at, needed, "device" in parameters), "colab-setup"))
    for place in [name for name in PLACES if name in parameters]:
        settings = [name for name in parameters if name not in CHANGEABLE]
        notebook.cells.insert(first + 2, _code(drive(source.stem, place, settings), "colab-drive"))
    notebook.metadata.pop("jupytext", None)
    if "device" in parameters:
        notebook.metadata["accelerator"] = "GPU"
    notebook.metadata["colab"] = {"name": f"{source.stem}.ipynb", "provenance": []}
    return notebook


def _code(text: str, name: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(text.rstrip(), id=name, metadata={"tags": [name]})


def _simplify(cell: nbformat.NotebookNode) -> None:
    """Only what Colab knows remains of a cell's metadata: solutions are folded under a title, as on the site."""
    tags = cell.metadata.get("tags", [])
    cell.metadata = nbformat.from_dict({"tags": ["parameters"]} if "parameters" in tags else {})
    if "hide-cell" in tags:
        cell.source = f"# @title Solution\n{cell.source}"
        cell.metadata["cellView"] = "form"


def setup(book: Project, at: str, extra: list[str], uses_device: bool) -> str:
    """The first code cell: installs the package at a commit with the extras that the chapter needs."""
    values = {"NAME": book.repository.rsplit("/", 1)[1], "REPOSITORY": f"{book.repository}.git", "COMMIT": at}
    values["EXTRAS"] = f"[{','.join(extra)}]" if extra else ""
    text = SETUP
    for name, value in values.items():
        text = text.replace(f'"{name}"', f'"{value}"')
    return text + (DEVICE if uses_device else "")


def drive(chapter: str, place: str, settings: list[str]) -> str:
    """The cell with the box to tick: `place` is the parameter that names the folder for what is trained."""
    lines = textwrap.fill(", ".join(f"{name}={name}" for name in settings) + ",", 100)
    text = DRIVE.replace("SETTINGS", textwrap.indent(lines, 8 * " "))
    return text.replace("CHAPTER", chapter).replace("PLACE", place)


def extras(book: Project, notebook: nbformat.NotebookNode) -> list[str]:
    """The extras of pyproject.toml that a chapter needs: by their own name, or by that of a package they bring."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    imported = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "grae_helpers":
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {(node.module or "").split(".")[0]}
    known = book.pyproject["project"].get("optional-dependencies", {})
    brings = {name: {name, *(Requirement(entry).name for entry in entries)} for name, entries in known.items()}
    return sorted(name for name in brings if name not in NOT_OF_A_CHAPTER and brings[name] & imported)


def plain(text: str, book: Project, where: str) -> str:
    """Markdown that any notebook viewer shows, its links to pages as addresses of the site.

    Raises ToolError for what only the site understands, and for a link or picture that is no page of the book.
    """
    for what, pattern in RAW.items():
        if found := pattern.search(text):
            raise ToolError(f"{where}: {what}, which Colab would show raw: {found[0].strip()!r}")

    def written(match: re.Match) -> str:
        if match["html"]:
            raise ToolError(f"{where}: expected a link or picture in Markdown, got {match['html']!r}")
        return match[0] if match["verbatim"] else f"]({address(match['target'], book, where)}"

    return TARGET.sub(written, text)


def address(target: str, book: Project, where: str) -> str:
    """A link of a chapter as it must be outside the site: an outside address stays, a page becomes the site's."""
    if re.match(r"https?:|mailto:|attachment:", target):
        return target
    path, mark, anchor = target.partition("#")
    page, suffix = posixpath.splitext(posixpath.normpath(posixpath.join("notebooks", path)))
    if not path:
        page, suffix = f"notebooks/{where.partition('.')[0]}", ".md"
    if suffix not in (".md", ".ipynb") or page not in book.pages:
        raise ToolError(f"{where}: expected a page of the book or an address, got {target!r}")
    return f"{book.site}/{page}.html{mark}{anchor}"


def main(arguments: list[str]) -> int:
    book = project.project(project.parser(__doc__.splitlines()[0]).parse_args(arguments))
    written = export(book)
    if book.git("status", "--porcelain"):
        print("note: uncommitted changes are not in the commit that the notebooks install")
    print(f"{len(written)} notebooks for {book.repository}/tree/{book.colab_branch}")
    return 0


if __name__ == "__main__":
    project.run(main)
