"""Build the staged book into _build/html. Every warning is an error; nothing is executed here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools import editions, offline, project, stamps
from tools.project import Project, ToolError

NOISE = ("Running Jupyter-Book", "Source Folder:", "Config Path:", "Output Path:")


def jupyter_book(book: Project, builder: str) -> subprocess.CompletedProcess:
    """Run jupyter-book on build/book; pages go to build/site/_build."""
    staged = book.build / "book"
    if not (staged / "_config.yml").is_file():
        raise ToolError("nothing is staged: run `python -m tools.stage_book` first")
    call = "import sys; from jupyter_book.cli.main import main; sys.argv[0] = 'jupyter-book'; main()"
    options = ["-W", "-n", "--keep-going", "--all", "-q", "--builder", builder]
    command = [
        sys.executable,
        "-c",
        call,
        "build",
        str(staged),
        "--path-output",
        str(book.build / "site"),
        *options,
    ]
    # Without colours; and Sphinx's own deprecations are for the lock to settle, not for the reader of a log.
    settings = {**os.environ, "NO_COLOR": "1", "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=settings)


def build(book: Project) -> Path:
    """The site with its zip, put in place only once it was built without a warning."""
    now = inputs(book)
    stamps.forget(book, "build")
    shutil.rmtree(book.build / "site", ignore_errors=True)
    done = jupyter_book(book, "html")
    made = book.build / "site" / "_build" / "html"
    if done.returncode or not (made / "index.html").is_file():
        raise ToolError("jupyter-book failed:\n" + _complaints(done))
    shutil.rmtree(book.html, ignore_errors=True)
    book.html.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(made, book.html)
    if editions.PAGE in book.pages:
        offline.pack(book)
    stamps.write(book, "build", inputs=now, site=stamps.digest([book.html], book.html))
    return book.html


def inputs(book: Project) -> str:
    """One hash of what Sphinx reads: the staged pages, and the package, whose docstrings it may show."""
    tools = [Path(module.__file__) for module in (sys.modules[__name__], editions, offline, project, stamps)]
    read = [book.build / "book", book.root / "grae_helpers", *tools]
    return stamps.key(stamps.digest(read, book.build), book.edition)


def up_to_date(book: Project) -> bool:
    """Whether the site stands as it was built, file by file, from what is staged now."""
    found = {"inputs": inputs(book), "site": stamps.digest([book.html], book.html)}
    return stamps.read(book, "build") == found


def check_links(book: Project) -> str:
    """Follow every outside link of the staged book; a ToolError lists those that are broken."""
    done = jupyter_book(book, "linkcheck")
    report = book.build / "site" / "_build" / "linkcheck" / "output.txt"
    if done.returncode:
        raise ToolError(
            "broken links:\n" + (report.read_text("utf8") if report.is_file() else _complaints(done))
        )
    return "every outside link answers"


def _complaints(done: subprocess.CompletedProcess, lines: int = 60) -> str:
    text = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    warned = [line for line in text if "WARNING" in line or "ERROR" in line]
    return "\n".join(warned or text[-lines:])


def main(arguments: list[str]) -> int:
    parser = project.parser(__doc__.splitlines()[0])
    parser.add_argument("--html", type=Path, help="where the site goes (default: ROOT/_build/html)")
    parser.add_argument(
        "--linkcheck", action="store_true", help="follow outside links instead of building the site"
    )
    options = parser.parse_args(arguments)
    book = project.project(options)
    if options.linkcheck:
        print(check_links(book))
        return 0
    if up_to_date(book):
        print(f"the site is up to date: {book.shown(book.html / 'index.html')}")
    else:
        print(f"the site is {book.shown(build(book) / 'index.html')}")
    return 0


if __name__ == "__main__":
    project.run(main)
