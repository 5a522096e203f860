"""The whole site in one zip, for reading without a network: _build/<name>-<version>.zip, and a copy in the site.

The zip does not hold itself: its page of downloads points to the published one.
"""

import shutil
import zipfile
from pathlib import Path

from tools import editions, project
from tools.project import Project, ToolError

EPOCH = (1980, 1, 1, 0, 0, 0)
"""Every file's time in the zip: the same site gives the same bytes."""


def pack(book: Project) -> Path:
    """Write the zip beside the site, and copy it into the site where its page of downloads expects it."""
    name = editions.zip_name(book)
    if not (book.html / "index.html").is_file():
        raise ToolError(f"there is no site in {book.html}: run `make book` first")
    target = book.html.parent / name
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(book.html.rglob("*")):
            inside = path.relative_to(book.html)
            if path.is_file() and inside != Path(name):
                _add(packed, f"{target.stem}/{inside.as_posix()}", _content(book, path))
    shutil.copyfile(target, book.html / name)
    return target


def _add(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    packed.writestr(entry, content)


def _content(book: Project, path: Path) -> bytes:
    """The file; on the page of downloads the zip's address is that of the published one."""
    if path.relative_to(book.html) != Path(f"{editions.PAGE}.html"):
        return path.read_bytes()
    address = f"{book.site}/{editions.zip_name(book)}"
    text, count = editions.OFFLINE.subn(rf"\g<1>{address}\g<2>", path.read_text("utf8"))
    if count != 1:
        raise ToolError(f"{path.name} should hold one link to the zip, and holds {count}")
    return text.encode()


def main(arguments: list[str]) -> int:
    parser = project.parser(__doc__.splitlines()[0])
    parser.add_argument("--html", type=Path, help="where the site is (default: ROOT/_build/html)")
    book = project.project(parser.parse_args(arguments))
    made = pack(book)
    print(f"{book.shown(made)}: {made.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    project.run(main)
