"""Gather the pages and the notebooks that ran into build/book, and refuse what must not reach a reader.

papermill's error banner raises no warning in Sphinx, so a notebook that failed, or did not run, is stopped
here.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import yaml

from grae_helpers.notebooks import RECORD
from tools import api, claims_page, editions, frames, made, project, stamps
from tools.project import Project, ToolError

SHORTEST = 0.1
"""Seconds: a notebook that took less did not really run."""
SOLUTION = {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
"""What stands on a cell that is hidden until it is asked for: chapters hide nothing but solutions."""

GENERATED: dict[str, Callable[[Project, dict[str, Path]], str]] = {
    "claims": claims_page.page,
    "made": made.page,
    editions.PAGE: editions.page,
    **api.GENERATED,
}
"""Pages that are computed: a page of _toc.yml, and what writes its Markdown from the chapters that ran."""


def problems(notebook: nbformat.NotebookNode, source: Path) -> list[str]:
    """Everything about a notebook that ran which a reader should not meet."""
    return [*_run_problems(notebook, source), *_cell_problems(notebook)]


def _run_problems(notebook: nbformat.NotebookNode, source: Path) -> Iterator[str]:
    run = notebook.metadata.get("papermill", {})
    if run.get("exception"):
        yield "papermill recorded an exception"
    if not (run.get("duration") or 0) >= SHORTEST:
        yield f"it ran for {run.get('duration')} s, which is no time at all"
    recorded = notebook.metadata.get("grae", {}).get("source_sha256")
    if not source.is_file():
        yield f"its source notebooks/{source.name} does not exist"
    elif recorded != project.sha256(source):
        yield f"notebooks/{source.name} has changed since it ran"


def _cell_problems(notebook: nbformat.NotebookNode) -> Iterator[str]:
    if not any(cell.cell_type == "code" for cell in notebook.cells):
        yield "holds no code"
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "code" and (cell.source.strip() or cell.outputs):
            yield from (f"cell {number}: {problem}" for problem in _code_problems(cell))


def _code_problems(cell: nbformat.NotebookNode) -> Iterator[str]:
    status = cell.metadata.get("papermill", {}).get("status")
    if cell.execution_count is None:
        yield "was not executed"
    if status != "completed":
        yield f"papermill says {status!r} instead of 'completed'"
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"raised {output.ename}: {output.evalue}"
        if output.output_type == "stream" and output.name == "stderr":
            yield f"wrote to stderr: {output.text.strip().splitlines()[-1:]}"
    yield from _image_problems(cell)


def _image_problems(cell: nbformat.NotebookNode) -> Iterator[str]:
    images = [
        output for output in cell.outputs if any(kind.startswith("image/") for kind in output.get("data", {}))
    ]
    if not images:
        return
    site = cell.metadata.get("mystnb", {})
    if len(images) > 1:
        yield f"shows {len(images)} images under one caption"
    if not str(site.get("image", {}).get("alt") or "").strip():
        yield "shows an image without alt text (cell metadata mystnb.image.alt)"
    if not str(site.get("figure", {}).get("caption") or "").strip():
        yield "shows an image without a caption (cell metadata mystnb.figure.caption)"


def check(book: Project, ran: Path) -> dict[str, Path]:
    """The executed notebook of each chapter, or a ToolError that names every problem of every notebook."""
    found, wrong = {}, []
    for stem in book.chapters:
        found[stem] = ran / f"{stem}.ipynb"
        wrong += [f"{stem}: {problem}" for problem in _chapter_problems(book, stem, found[stem])]
    wrong += [
        f"{path.stem}: is in notebooks/ but not in _toc.yml"
        for path in book.sources
        if path.stem not in found
    ]
    wrong += [f"{page}: is in _toc.yml, but not in book/" for page in book.pages if not _exists(book, page)]
    if wrong:
        listing = "\n".join(f"  {line}" for line in wrong)
        raise ToolError(f"not fit for the site (`make book ARGS=--again` runs every chapter again):\n{listing}")
    return found


def _exists(book: Project, page: str) -> bool:
    return page.startswith("notebooks/") or page in GENERATED or (book.root / "book" / f"{page}.md").is_file()


def _chapter_problems(book: Project, stem: str, path: Path) -> list[str]:
    if not path.is_file():
        return ["has not been run, or failed"]
    try:
        return problems(nbformat.read(path, as_version=4), book.source(stem))
    except Exception as error:  # a damaged file can fail in any way, and none may hide the other chapters
        return [f"cannot be read as a notebook that ran: {type(error).__name__}: {error}"]


def stage(book: Project, ran: Path | None = None) -> Path:
    """Write build/book afresh: pages, checked notebooks, configuration with the repository's address."""
    chapters = check(book, ran or book.build / "run")
    staged = book.build / "book"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(book.root / "book", staged)
    shutil.copy(book.root / "_toc.yml", staged)
    (staged / "notebooks").mkdir()
    for page in set(book.pages) & set(GENERATED):
        (staged / f"{page}.md").write_text(GENERATED[page](book, chapters), "utf8")
    editions.ran(book, chapters, staged / "extra" / "executed")
    for stem, path in chapters.items():
        _copy_notebook(book, path, staged / "notebooks" / f"{stem}.ipynb")
    (staged / "_config.yml").write_text(
        yaml.safe_dump(configuration(book), allow_unicode=True, sort_keys=False), "utf8"
    )
    return staged


def _copy_notebook(book: Project, path: Path, target: Path) -> None:
    """The notebook as the site shows it: what belongs to the run taken out, what belongs to the page put in."""
    notebook = json.loads(path.read_text("utf8"))
    notebook["metadata"].pop("papermill", None)  # times and paths of the run are no business of the page
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":  # numbers for the table of a sweep are shown by the cells beside them
            cell["outputs"] = [output for output in cell["outputs"] if RECORD not in output.get("data", {})]
        if "hide-cell" in cell["metadata"].get("tags", []):
            cell["metadata"].setdefault("mystnb", {}).update(SOLUTION)
    claims_page.add_rows(book, target.stem, notebook)
    frames.extract(notebook, target)
    frames.lighten(notebook)
    target.write_text(json.dumps(notebook, ensure_ascii=False, indent=1), "utf8")


def configuration(book: Project) -> dict:
    """_config.yml, with what follows from the repository's address: buttons, Colab links, the site's own."""
    settings = yaml.safe_load((book.root / "_config.yml").read_text("utf8"))
    # The theme makes a Colab link from this branch and the page's path: the branch of the clean notebooks.
    settings["repository"] = {"url": book.repository, "branch": book.colab_branch, "path_to_book": ""}
    settings.setdefault("html", {})["baseurl"] = f"{book.site}/"
    # A page may link to <colab:STEM>: the chapter as Colab opens it.
    colab = f"https://colab.research.google.com/github/{book.repository.removeprefix('https://github.com/')}"
    schemes = dict.fromkeys(("http", "https", "mailto"))
    chapter = {"url": f"{colab}/blob/{book.colab_branch}/notebooks/{{{{path}}}}.ipynb", "classes": ["colab"]}
    settings["sphinx"]["config"]["myst_url_schemes"] = schemes | {"colab": chapter}
    if editions.PAGE in book.pages:
        settings["sphinx"]["config"]["release"] = book.version
    return settings


def inputs(book: Project, ran: Path) -> str:
    """One hash of everything that staging reads: with it and the staged files unchanged, there is nothing to do."""
    chapters = [ran / f"{stem}.ipynb" for stem in book.chapters]
    # The package, its tests and the frozen results: pages are made from them, and the ledger is checked against them.
    folders = [book.root / name for name in ("book", "notebooks", "grae_helpers", "results", "tests", "tools")]
    files = [path for path in book.root.glob("*.*") if path.is_file()]
    found = stamps.digest([*chapters, *folders, *files], book.root)
    return stamps.key(found, book.edition, book.git("rev-parse", "HEAD"))


def main(arguments: list[str]) -> int:
    parser = project.parser(__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of the notebooks that ran (default: BUILD/run)")
    options = parser.parse_args(arguments)
    book = project.project(options)
    ran = (options.run or book.build / "run").resolve()
    now, before = inputs(book, ran), stamps.read(book, "stage")
    if before == {"inputs": now, "staged": stamps.digest([book.build / "book"], book.build)}:
        print("staged already: nothing that the pages are made from has changed")
        return 0
    stamps.forget(book, "stage")
    staged = stage(book, ran)
    stamps.write(book, "stage", inputs=now, staged=stamps.digest([staged], book.build))
    print(f"staged {len(book.pages)} pages, {len(book.chapters)} of them notebooks")
    return 0


if __name__ == "__main__":
    project.run(main)
