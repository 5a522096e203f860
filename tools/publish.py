"""Put together what the static host serves: this site, and each released edition in a folder named by its tag.

The zip that is attached to a release is the edition: it is unpacked beside the site, and every page of versions gets
the list of all. The list also stands in versions.json, for programs.
"""

import html
import json
import re
import shutil
import zipfile
from pathlib import Path

from tools import editions, project
from tools.project import Project, ToolError

ZIP = re.compile(rf"{editions.NAME}-(\d+\.\d+(?:\.\d+)?)\.zip")


def assemble(book: Project, releases: Path, out: Path) -> list[str]:
    """Write everything into `out` and return the released versions, newest first."""
    if not (book.html / "index.html").is_file():
        raise ToolError(f"there is no site in {book.html}: run `make book` first")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(book.html, out)
    released = {_version(path): path for path in sorted(releases.glob("*.zip"))}
    versions = sorted(released, key=_order, reverse=True)
    for version in versions:
        _unpack(released[version], out / f"v{version}")
    folders = ["", *(f"v{version}" for version in versions)]
    for folder in folders:
        _write_list(out / folder / f"{editions.PAGE}.html", folder, versions)
    listed = [{"version": version, "path": f"v{version}/"} for version in versions]
    (out / "versions.json").write_text(json.dumps(listed, indent=1), "utf8")
    return versions


def _version(path: Path) -> str:
    named = ZIP.fullmatch(path.name)
    if not named:
        raise ToolError(f"expected the zips of releases, {editions.NAME}-<version>.zip, got {path.name}")
    return named[1]


def _order(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _unpack(packed: Path, folder: Path) -> None:
    """The edition into `folder`, with the zip itself, where its page of downloads points."""
    with zipfile.ZipFile(packed) as opened:
        names = [name for name in opened.namelist() if not name.endswith("/")]
        if f"{packed.stem}/index.html" not in names:
            raise ToolError(f"{packed.name} holds no {packed.stem}/index.html: it is not a zip of the site")
        for name in names:
            _place(opened.read(name), name, packed, folder)
    shutil.copyfile(packed, folder / packed.name)


def _place(content: bytes, name: str, packed: Path, folder: Path) -> None:
    target = (folder / name.removeprefix(f"{packed.stem}/")).resolve()
    if not (name.startswith(f"{packed.stem}/") and target.is_relative_to(folder.resolve())):
        raise ToolError(f"{packed.name} holds {name}, which is not in its folder {packed.stem}/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _write_list(page: Path, folder: str, versions: list[str]) -> None:
    """Name every edition on one page of versions, with links that are right from its own folder."""
    up = "../" if folder else ""
    entries = [_entry(f"{up}index.html", "main, as it stands now", not folder)]
    for version in versions:
        entries.append(_entry(f"{up}v{version}/index.html", f"version {version}", folder == f"v{version}"))
    text, count = editions.LIST.subn(rf"\g<1>{''.join(entries)}\g<2>", page.read_text("utf8"))
    if count != 1:
        raise ToolError(f"{page.name} of {folder or 'the site'} should hold one list of editions, and holds {count}")
    page.write_text(text, "utf8")


def _entry(address: str, name: str, here: bool) -> str:
    return f'<li><a href="{html.escape(address)}">{html.escape(name)}</a>{" (this one)" if here else ""}</li>'


def main(arguments: list[str]) -> int:
    parser = project.parser(__doc__.splitlines()[0])
    parser.add_argument("--html", type=Path, help="where the site is (default: ROOT/_build/html)")
    parser.add_argument("--releases", type=Path, help="folder of the released zips (default: BUILD/releases)")
    parser.add_argument("--out", type=Path, help="what is to be served (default: ROOT/_build/published)")
    options = parser.parse_args(arguments)
    book = project.project(options)
    out = options.out or book.root / "_build" / "published"
    found = assemble(book, options.releases or book.build / "releases", out)
    print(f"main and {len(found)} released editions" + (f": {', '.join(found)}" if found else ""))
    return 0


if __name__ == "__main__":
    project.run(main)
