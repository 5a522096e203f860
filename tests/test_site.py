"""The built site stands alone: nothing from elsewhere, light pages, notebooks and a zip to take away, built once."""

import importlib.util
import json
import re
import shutil
import sys
import zipfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import lxml.html
import pytest
import yaml
from conftest import tool
from test_tools import make

from tools import build_book, editions, offline, stage_book, stamps
from tools.project import ROOT, Project, ToolError

CHAPTERS = Project().chapters
HEAVIEST = 3e6
"""Bytes of a page with everything that it shows at first, before compression on the way."""
LOADED = {
    "script": ("src",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src", "srcset"),
    "video": ("src", "poster"), "audio": ("src",), "track": ("src",), "embed": ("src",),
    "object": ("data",), "input": ("src",), "use": ("href",),
    "image": ("href",), "form": ("action",),
}  # fmt: skip
RELATIONS = {"stylesheet", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "icon", "manifest"}
ADDRESS = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
NAMESPACES = ("http://www.w3.org/", "https://www.w3.org/")

chapters = pytest.mark.parametrize("stem", CHAPTERS)


def pages(site):
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


def addresses(style: str) -> list[str]:
    return [address for match in ADDRESS.findall(style) for address in match if address]


def asked_for(text: str) -> list[str]:
    """Every address that a browser asks for by itself when it shows this page."""
    tree = lxml.html.fromstring(text.encode())
    nodes = [(node, name) for tag, names in LOADED.items() for node in tree.iter(tag) for name in names]
    found = [node.get(name) for node, name in nodes if node.get(name)]
    found += [link.get("href") for link in tree.iter("link") if RELATIONS & set((link.get("rel") or "").split())]
    styles = [node.get("style") for node in tree.iter() if node.get("style")]
    styles += [node.text_content() for node in tree.iter("style")]
    found += [address for style in styles for address in addresses(style)]
    scripts = " ".join(node.text_content() for node in tree.iter("script") if not node.get("src"))
    found += [found for found in re.findall(r"https?://[^\s\"'\\]+", scripts) if not found.startswith(NAMESPACES)]
    return [address for address in found if not address.startswith("data:")]


def elsewhere(address: str) -> bool:
    """Whether an address leaves the site, or only works where the site is the root of its host."""
    return bool(urlsplit(address).scheme or urlsplit(address).netloc) or address.startswith("/")


@pytest.mark.parametrize("spoiled", [
    '<script src="https://cdn.example/x.js"></script>', '<img src="//example.org/x.png">', '<img src="/x.png">',
    '<link rel="stylesheet" href="https://fonts.example/a.css">', '<style>@import "https://fonts.example/a.css";</style>',
    '<p style="background: url(https://example.org/a.png)"></p>', '<script>load("https://unpkg.example/thebe.js")</script>',
    '<iframe src="http://example.org"></iframe>', '<link rel="preconnect" href="https://example.org">',
    '<object data="http://example.org/a.svg"></object>', '<img srcset="https://example.org/a.png 2x">',
])  # fmt: skip
def test_what_a_page_asks_for_elsewhere_is_seen(spoiled):
    whole = '<html><head><link rel="canonical" href="https://example.org/"></head><body><a href="https://a.org">a</a>{}</body>'
    assert not any(map(elsewhere, asked_for(whole.format('<img src="a.png"><svg xmlns="http://www.w3.org/2000/svg"/>'))))
    assert any(map(elsewhere, asked_for(whole.format(spoiled))))


def test_no_page_asks_for_anything_elsewhere(site):
    found = [f"{path.name}: {address}" for path in pages(site) for address in asked_for(path.read_text("utf8"))]
    assert len(found) > 20 * len(CHAPTERS) and [line for line in found if elsewhere(line.split(": ", 1)[1])] == []


def test_what_a_page_asks_for_is_there(site):
    missing = [
        f"{path.relative_to(site)}: {address}"
        for path in pages(site)
        for address in asked_for(path.read_text("utf8"))
        if address and not (path.parent / unquote(urlsplit(address).path)).exists()
    ]
    assert missing == []


def test_no_style_sheet_asks_for_anything_elsewhere_or_missing(site):
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        for address in addresses(sheet.read_text("utf8")):
            if not address.startswith("data:"):
                # the theme's fonts name a .ttf after each .woff2, for browsers of long ago
                place = sheet.parent / urlsplit(address).path
                assert not elsewhere(address), (sheet, address)
                assert place.exists() or place.with_suffix(".woff2").exists(), (sheet, address)


def test_our_own_scripts_ask_for_nothing_elsewhere(site):
    ours = [site / "_static" / path.name for path in (ROOT / "book" / "_static").glob("*.js")]
    assert ours
    for path in ours:
        assert not re.search(r"https?://(?!www\.w3\.org)|\bimportScripts|\beval\(", path.read_text("utf8")), path.name


# MathJax


def test_mathjax_is_its_own_release_and_complete(site):
    """Each page with mathematics loads it, from the site, and whatever it may load later is beside it."""
    folder = site / "_static" / "mathjax"
    package = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    copied = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != "LICENSE.txt"]
    assert copied and all((folder / path).read_bytes() == (package / path).read_bytes() for path in copied)
    bundle = (folder / "tex-chtml.js").read_text("utf8")
    fonts = set(re.findall(r"%%URL%%/(MathJax_[\w-]+\.woff)", bundle))
    assert len(fonts) > 15 and all((folder / "output/chtml/fonts/woff-v2" / font).is_file() for font in fonts)
    extensions = {name.lower() for name in re.findall(r'"\[tex\]/(\w+)"', bundle)} | {"cancel", "color", "boldsymbol"}
    assert len(extensions) > 8
    assert [name for name in extensions if not (folder / "input/tex/extensions" / f"{name}.js").is_file()] == []
    assert "Apache License" in (folder / "LICENSE.txt").read_text("utf8")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 6e6


def test_every_page_with_mathematics_loads_mathjax_from_the_site(site):
    with_maths = 0
    for path in pages(site):
        tree = lxml.html.fromstring(path.read_bytes())
        sources = [node.get("src") for node in tree.iter("script") if "mathjax" in (node.get("src") or "").lower()]
        has_maths = bool(tree.xpath("//*[contains(concat(' ', @class, ' '), ' math ')]"))
        with_maths += has_maths
        assert not has_maths or len(sources) == 1, path.name
        assert all((path.parent / urlsplit(source).path).resolve().is_relative_to(site) for source in sources)
    assert with_maths >= len(CHAPTERS)


# Weight


def weight(page: Path) -> int:
    """The page and each file that it loads before anybody scrolls or touches a slider, with MathJax's usual fonts."""
    tree = lxml.html.fromstring(page.read_bytes())
    for later in tree.xpath("//template | //img[@loading='lazy'] | //noscript"):
        later.drop_tree()
    text = lxml.html.tostring(tree, encoding="unicode")
    files = {(page.parent / unquote(urlsplit(address).path)).resolve() for address in asked_for(text)}
    static = next(parent for parent in page.parents if (parent / "_static").is_dir()) / "_static"
    files |= set((static / "vendor/fontawesome/webfonts").glob("*.woff2"))
    if any(file.name == "tex-chtml.js" for file in files):
        files |= set((static / "mathjax/output/chtml/fonts/woff-v2").glob("MathJax_[MS]*-Regular.woff"))
    return page.stat().st_size + sum(file.stat().st_size for file in files if file.is_file())


def test_no_page_is_heavy(site):
    heavy = {path.name: weight(path) for path in pages(site)}
    assert max(heavy.values()) <= HEAVIEST, sorted(heavy.items(), key=lambda item: -item[1])[:3]
    assert min(heavy[f"{stem}.html"] for stem in CHAPTERS) > 1e6  # MathJax and the theme are counted


def test_no_script_keeps_a_page_waiting_but_those_that_others_need_at_once(site):
    at_once = {"documentation_options.js", "doctools.js"}
    for path in pages(site):
        head = lxml.html.fromstring(path.read_bytes()).find(".//head")
        first = {Path(urlsplit(node.get("src")).path).name for node in head.iter("script")
                 if node.get("src") and node.get("defer") is None}  # fmt: skip
        # the search page has its own three, which are all that it is for
        assert first <= at_once | {"searchtools.js", "language_data.js", "searchindex.js"}, path.name
        assert path.name == "search.html" or first <= at_once, path.name


def test_the_signs_on_buttons_come_from_one_font(site):
    for path in pages(site):
        tree = lxml.html.fromstring(path.read_bytes())
        assert not tree.xpath("//*[contains(concat(' ', @class, ' '), ' fab ')]"), path.name
        assert path.name == "index.html" or tree.xpath("//i[contains(@class, 'fa-code-branch')]"), path.name


def test_a_figure_waits_until_it_is_near_and_keeps_its_place(site):
    for path in pages(site):
        figures = "//img[contains(@src, '_images/')][not(contains(@src, '.svg'))]"
        for image in lxml.html.fromstring(path.read_bytes()).xpath(figures):
            assert image.get("loading") == "lazy" and int(image.get("width")) > 0 and int(image.get("height")) > 0


# Files to take away


@chapters
def test_a_chapter_offers_the_notebook_as_it_ran(site, ran, stem):
    path = site / "notebooks" / f"{stem}.html"
    tree = lxml.html.fromstring(path.read_bytes())
    [link] = tree.xpath("//a[contains(@class, 'btn-download-source-button')]/@href")
    offered = (path.parent / link).resolve()
    assert offered == (site / "executed" / f"{stem}.ipynb").resolve()
    assert offered.read_bytes() == (ran / f"{stem}.ipynb").read_bytes()
    assert any(cell.get("outputs") for cell in json.loads(offered.read_text("utf8"))["cells"])
    listed = lxml.html.fromstring((site / "versions.html").read_bytes()).xpath("//ul[@class='downloads']//a/@href")
    assert f"executed/{stem}.ipynb" in listed


def test_a_notebook_with_a_path_of_this_machine_is_not_offered(tmp_path):
    book, private = make(tmp_path / "book"), tmp_path / "book"
    path = tmp_path / "10_told.ipynb"
    path.write_text(json.dumps({"cells": [{"source": f"left in {private}/here"}]}), "utf8")
    with pytest.raises(ToolError, match=r"10_told\.ipynb holds .*book"):
        editions.ran(book, {"10_told": path}, tmp_path / "out")


def test_the_zip_is_the_site_without_itself(site, book, tmp_path):
    name = editions.zip_name(Project())
    with zipfile.ZipFile(site.parent / name) as packed:
        packed.extractall(tmp_path)
    inside = tmp_path / name.removesuffix(".zip")
    files = {path.relative_to(site) for path in site.rglob("*") if path.is_file()}
    unpacked = {path.relative_to(inside) for path in inside.rglob("*") if path.is_file()}
    assert files - unpacked == {Path(name)} and unpacked <= files
    changed = {path for path in unpacked if (site / path).read_bytes() != (inside / path).read_bytes()}
    assert changed == {Path("versions.html")}
    links = [lxml.html.fromstring((folder / "versions.html").read_bytes()).get_element_by_id("offline").get("href")
             for folder in (site, inside)]  # fmt: skip
    assert links == [name, f"{Project().site}/{name}"]
    assert (site / name).read_bytes() == (site.parent / name).read_bytes()


def test_the_same_site_gives_the_same_zip_and_no_site_gives_none(site, book):
    before = (site.parent / editions.zip_name(book)).read_bytes()
    assert offline.pack(book).read_bytes() == before
    with pytest.raises(ToolError, match="make book"):
        offline.pack(Project(ROOT, book.build, book.build / "nowhere"))


def test_every_page_says_its_version_and_leads_to_the_downloads(site):
    for path in pages(site):
        tree = lxml.html.fromstring(path.read_bytes())
        if path.name != "index.html":  # a redirect
            [link] = tree.xpath("//div[@class='extra_footer']//a")
            assert Project().version in link.text_content()
            leads = (path.parent / urlsplit(link.get("href")).path).resolve()
            assert path.name == "versions.html" or leads == (site / "versions.html").resolve()


# Once built, built


def test_nothing_is_staged_or_built_twice(site, book):
    index = (site / "searchindex.js").stat()
    staged = tool("stage_book", "--build", book.build)
    built = tool("build_book", "--build", book.build, "--html", book.html)
    assert staged.startswith("staged already") and built.startswith("the site is up to date")
    assert (site / "searchindex.js").stat() == index
    assert len((staged + built).splitlines()) == 2


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A project of two pages, and a Sphinx that only counts; returns it and a function that runs both steps."""
    book, counted = make(tmp_path / "book"), []

    def sphinx(book, builder):
        counted.append(builder)
        made = book.build / "site" / "_build" / "html"
        made.mkdir(parents=True)
        (made / "index.html").write_text((book.build / "book" / "intro.md").read_text("utf8"), "utf8")
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(build_book, "jupyter_book", sphinx)

    def run() -> int:
        counted.clear()
        assert stage_book.main(["--root", str(book.root)]) == build_book.main(["--root", str(book.root)]) == 0
        return len(counted)

    return book, run


def test_a_change_of_a_page_builds_it_again_and_only_once(small):
    book, run = small
    assert [run(), run(), run()] == [1, 0, 0]
    (book.root / "book" / "intro.md").write_text("# Another start\n", "utf8")
    assert [run(), run()] == [1, 0]
    assert (book.html / "index.html").read_text("utf8") == "# Another start\n"


CHANGES = ["config", "new page", "package", "site file", "site file gone", "staged file", "edition"]


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_the_site_depends_on_builds_it_again(small, monkeypatch, change):
    book, run = small
    (book.root / "grae_helpers").mkdir()
    assert [run(), run()] == [1, 0]
    if change == "config":
        text = (book.root / "_config.yml").read_text("utf8")
        (book.root / "_config.yml").write_text(text.replace("grae-book authors", "authors"), "utf8")
    elif change == "new page":
        (book.root / "book" / "more.md").write_text("# More\n", "utf8")
    elif change == "package":
        (book.root / "grae_helpers" / "losses.py").write_text('"""Shown."""\n', "utf8")
    elif change == "site file":
        (book.html / "index.html").write_text("somebody was here", "utf8")
    elif change == "site file gone":
        (book.html / "index.html").unlink()
    elif change == "staged file":
        (book.build / "book" / "intro.md").unlink()
        (book.html / "index.html").unlink()
    else:
        monkeypatch.setenv("GRAE_EDITION", "v1.2")
    assert [run(), run()] == [1, 0]


def test_an_interrupted_build_is_not_taken_for_done(small, monkeypatch):
    book, run = small
    assert run() == 1
    (book.root / "book" / "intro.md").write_text("# Another start\n", "utf8")
    monkeypatch.setattr(shutil, "copytree", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.undo()
    assert stamps.read(book, "stage") == {}
    (book.build / ".build.json").write_text("no stamp", "utf8")
    assert stamps.read(book, "build") == {}


def test_a_digest_sees_names_content_and_absence(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_text("1", "utf8")
    seen = [stamps.digest([tmp_path / "a"], tmp_path)]
    (tmp_path / "a" / "one").rename(tmp_path / "a" / "two")
    seen.append(stamps.digest([tmp_path / "a"], tmp_path))
    (tmp_path / "a" / "two").write_text("2", "utf8")
    seen.append(stamps.digest([tmp_path / "a"], tmp_path))
    (tmp_path / "a" / "__pycache__").mkdir()
    (tmp_path / "a" / "__pycache__" / "x.pyc").write_text("3", "utf8")
    assert stamps.digest([tmp_path / "a"], tmp_path) == seen[-1]
    seen += [stamps.digest([tmp_path / "b"], tmp_path), stamps.digest([], tmp_path)]
    assert len(set(seen)) == len(seen)
    assert stamps.key(1) != stamps.key(2)


# The extension


def test_an_icon_script_that_is_gone_stops_the_build(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    import standalone
    from sphinx.errors import ExtensionError

    app = type("App", (), {"outdir": tmp_path, "builder": type("Builder", (), {"format": "html"})})
    (tmp_path / "index.html").write_text("<html></html>", "utf8")
    with pytest.raises(ExtensionError, match=r"fontawesome\.js"):
        standalone.finish(app, None)
    sys.modules.pop("standalone")


def test_the_configuration_names_the_files_of_the_extension():
    settings = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["sphinx"]
    assert settings["config"]["mathjax_path"] == "mathjax/tex-chtml.js"
    ours = [ROOT / "book" / folder / f"{name}.py" for name, folder in settings["local_extensions"].items()]
    assert len(ours) >= 1 and all(path.is_file() for path in ours)
