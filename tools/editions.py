"""Which edition of the book this is, and the page that says so: changes, other editions, and files to take away."""

import json
import re
import shutil
from pathlib import Path

import yaml

from tools import project
from tools.project import Project, ToolError

NAME = "grae-book"
PAGE = "versions"
LIST = re.compile(r'(<ul id="editions">).*?(</ul>)', re.DOTALL)
"""The place on the page for the editions that are published; publishing writes the list there."""
OFFLINE = re.compile(r'(<a id="offline" href=")[^"]*(")')


def zip_name(book: Project) -> str:
    """The file that holds the whole site."""
    return f"{NAME}-{book.version}.zip"


def check(book: Project) -> None:
    """A ToolError unless the package, the citation, the list of changes and the tag say the same version."""
    cited = str(yaml.safe_load((book.root / "CITATION.cff").read_text("utf8")).get("version"))
    if cited != book.version:
        raise ToolError(f"CITATION.cff says version {cited}, grae_helpers {book.version}")
    if book.edition and book.edition != f"v{book.version}":
        raise ToolError(f"the tag is {book.edition}, but grae_helpers is {book.version}: v{book.version} is its tag")
    changes(book)


def changes(book: Project) -> dict[str, str]:
    """What CHANGELOG.md says of each version, newest first; a ToolError where it lacks this one's."""
    parts = re.split(r"^## (.+)$", (book.root / "CHANGELOG.md").read_text("utf8"), flags=re.MULTILINE)[1:]
    found = {name.strip(): text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}
    if not found.get(book.version):
        raise ToolError(f"CHANGELOG.md should have a section ## {book.version} that says something")
    return found


def ran(book: Project, chapters: dict[str, Path], folder: Path) -> None:
    """The notebooks as they ran, outputs and all, into `folder`: what a reader takes away."""
    folder.mkdir(parents=True)
    for path in chapters.values():
        text = path.read_text("utf8")
        for private in (book.root, book.build, Path.home()):
            if f"{private}/" in text:
                raise ToolError(f"{path.name} holds {private}: a path of this machine must not be published")
        shutil.copyfile(path, folder / path.name)


def page(book: Project, chapters: dict[str, Path]) -> str:
    """The page of versions and downloads, in Markdown."""
    check(book)
    state = "" if book.edition else ", as it stands on the branch `main`"
    older = [f"## Version {name}\n\n{text}" for name, text in changes(book).items()]
    return "\n\n".join([
        "# Versions and downloads",
        f"You are reading version {book.version}{state}.",
        "## The whole book, offline",
        f'<p><a id="offline" href="{zip_name(book)}" download>{zip_name(book)}</a></p>',
        "The site in one file. Unpack it and open `index.html`: formulas, figures, sliders and solutions work "
        "without a network. Only the results of a search come without their excerpts, because a browser reads no "
        "other file for a page that is opened from a disk.",
        "## The notebooks as they ran",
        "Each chapter as it was executed for this site, with every output. The button for downloads at the top of a "
        "chapter gives the same file. To run a chapter yourself, open it in Colab, or see "
        "[How to use this book](howto.md).",
        '<ul class="downloads">\n' + "\n".join(_download(path) for path in chapters.values()) + "\n</ul>",
        "## Published editions",
        "A tagged version keeps its pages, its notebooks and its zip for good. The address without a version follows "
        "the branch `main`.",
        f'<ul id="editions"><li><a href="{book.home}/versions.html">the list on the published site</a></li></ul>',
        *older,
        "",
    ])  # fmt: skip


def _download(path: Path) -> str:
    title = next(
        line.removeprefix("# ")
        for cell in json.loads(path.read_text("utf8"))["cells"]
        for line in "".join(cell["source"]).splitlines()
        if cell["cell_type"] == "markdown" and line.startswith("# ")
    )
    size = path.stat().st_size / 1e6
    return f'<li><a href="executed/{path.name}" download>{title}</a> ({path.name}, {size:.1f} MB)</li>'


def main(arguments: list[str]) -> int:
    parser = project.parser(__doc__.splitlines()[0])
    parser.add_argument("--notes", action="store_true", help="print what this version changes")
    options = parser.parse_args(arguments)
    book = project.project(options)
    check(book)
    said = f"version {book.version}" + (f", published as {book.edition}" if book.edition else "")
    print(changes(book)[book.version] if options.notes else said)
    return 0


if __name__ == "__main__":
    project.run(main)
