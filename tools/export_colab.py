"""Write the notebooks without outputs to build/colab, ready to be pushed as the branch that Colab opens.

Their first code cell installs `grae_helpers` at this commit when it runs on Colab, and leaves Colab's own
torch alone.
"""

import re
import shutil
from pathlib import Path

import nbformat

from grae_helpers import notebooks
from tools import project
from tools.project import Project, ToolError

SETUP = """\
# On Colab only: install the package of this book. The packages that Colab ships stay as they are.
import importlib.metadata, pathlib, subprocess, sys, tempfile

if "google.colab" in sys.modules:
    kept = [f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "torchvision", "numpy")]
    constraints = pathlib.Path(tempfile.mkdtemp(), "constraints.txt")
    constraints.write_text("\\n".join(kept))
    package = "grae-helpers @ git+REPOSITORY@COMMIT"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-c", constraints, package], check=True)
"""
LINK = re.compile(r"\]\((?!https?:|mailto:|#|attachment:)([^)\s]+?)\.(?:md|ipynb)(#[^)\s]*)?\)")


def export(book: Project) -> list[Path]:
    """One clean notebook a chapter, under build/colab/notebooks, written afresh."""
    folder = book.build / "colab"
    shutil.rmtree(folder, ignore_errors=True)
    setup = SETUP.replace("REPOSITORY", f"{book.repository}.git").replace("COMMIT", commit(book))
    return [_export(book, source, setup, folder / "notebooks") for source in book.sources]


def commit(book: Project) -> str:
    found = book.git("rev-parse", "HEAD")
    if not found:
        raise ToolError("there is no commit to install from: export from a git checkout that has one")
    return found


def _export(book: Project, source: Path, setup: str, folder: Path) -> Path:
    notebook = notebooks.read(source)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = absolute_links(cell.source, book.site)
    first = nbformat.v4.new_code_cell(setup.rstrip(), id="colab-setup", metadata={"tags": ["colab-setup"]})
    notebook.cells.insert(_after_title(notebook), first)
    notebook.metadata.pop("jupytext", None)
    notebook.metadata["accelerator"] = "GPU"
    notebook.metadata["colab"] = {"name": f"{source.stem}.ipynb", "provenance": []}
    return notebooks.write(notebook, folder / f"{source.stem}.ipynb")


def _after_title(notebook: nbformat.NotebookNode) -> int:
    """The setup is the first cell that runs, but a page begins with its title."""
    return next(
        (place for place, cell in enumerate(notebook.cells) if cell.cell_type == "code"), len(notebook.cells)
    )


def absolute_links(text: str, site: str) -> str:
    """Links between pages, which work on the site only, as addresses of the site.

    >>> absolute_links("see [notation](../notation.md#beta)", "https://owner.github.io/book")
    'see [notation](https://owner.github.io/book/notation.html#beta)'
    """
    return LINK.sub(lambda match: f"]({site}/{_page(match[1])}.html{match[2] or ''})", text)


def _page(target: str) -> str:
    return (
        target.removeprefix("../") if target.startswith("../") else f"notebooks/{target.removeprefix('./')}"
    )


def main(arguments: list[str]) -> int:
    book = project.project(project.parser(__doc__.splitlines()[0]).parse_args(arguments))
    written = export(book)
    if book.git("status", "--porcelain", "--untracked-files=no"):
        print("note: uncommitted changes are not in the commit that the notebooks install")
    print(f"{len(written)} notebooks for {book.repository}/tree/{book.colab_branch}")
    return 0


if __name__ == "__main__":
    project.run(main)
