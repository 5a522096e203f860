"""The built site: nothing broken reaches a reader."""

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import lxml.html
import nbformat
import pytest

from tools.project import ROOT, Project

CHAPTERS = Project().chapters
DATASETS = re.compile(r"\b(digits|mnist|fashion_mnist|cifar10|celeba|lfw|faces|sprites|image_folder)\b", re.I)

chapters = pytest.mark.parametrize("stem", CHAPTERS)


@cache
def page(path: Path) -> lxml.html.HtmlElement:
    return lxml.html.fromstring(path.read_bytes())


def pages(site):
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


def test_every_page_of_the_table_of_contents_is_there(site):
    assert (site / "index.html").is_file()
    assert [name for name in Project().pages if not (site / f"{name}.html").is_file()] == []


def test_no_page_shows_an_error_or_stderr(site):
    marks = ".//*[contains(concat(' ', @class, ' '), ' {} ')]"
    for path in pages(site):
        for mark in ("traceback", "stderr"):
            assert page(path).findall(".//div[@class='output " + mark + "']") == [], (
                f"{path.name} shows {mark}"
            )
            assert page(path).xpath(marks.format(f"output {mark}")) == [], f"{path.name} shows {mark}"
        # A docstring's example of an error has one too: it belongs to the reference, and is checked as a doctest.
        shown = page(path).xpath("//text()[not(ancestor::dl[contains(@class, 'py')])]")
        assert "Traceback (most recent call last)" not in "".join(shown), path.name


def test_no_internal_link_or_anchor_is_broken(site):
    broken = []
    for path in pages(site):
        for _, attribute, link, _ in page(path).iterlinks():
            if attribute in ("href", "src") and not target_exists(site, path, link):
                broken.append(f"{path.relative_to(site)} → {link}")
    assert broken == []


def target_exists(site, path, link):
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or link in ("", "#"):
        return True
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file() or not target.is_relative_to(site.resolve()):
        return False
    return not parts.fragment or target.suffix != ".html" or unquote(parts.fragment) in anchors(target)


@cache
def anchors(path):
    return set(page(path).xpath("//@id | //a/@name"))


def test_every_image_has_alt_text(site):
    without = [
        f"{path.name}: {image.get('src')}"
        for path in pages(site)
        for image in page(path).iter("img")
        if not (image.get("alt") or "").strip()
    ]
    assert without == []


@chapters
def test_figures_are_captioned_and_numbered(site, stem):
    for image in page(site / "notebooks" / f"{stem}.html").xpath(
        "//div[contains(@class, 'cell_output')]//img"
    ):
        figure = next((node for node in image.iterancestors("figure")), None)
        assert figure is not None, f"{image.get('alt')}: no figure"
        # Sphinx numbers its own figures; a slider is HTML, with a caption of its own.
        mark = ".//figcaption" if "grae-slider" in figure.get("class", "") else ".//span[@class='caption-number']"
        captions = [found.text_content().strip() for found in figure.xpath(mark)]
        assert any(captions), f"{image.get('alt')}: no caption"


@chapters
def test_a_notebook_opens_in_colab_as_a_notebook(site, stem):
    links = page(site / "notebooks" / f"{stem}.html").xpath(
        "//a[contains(@href, 'colab.research.google.com')]/@href"
    )
    book = Project()
    assert links and all(link.endswith(f"/blob/{book.colab_branch}/notebooks/{stem}.ipynb") for link in links)
    assert all(book.repository.removeprefix("https://github.com/") in link for link in links)


@chapters
def test_a_notebook_says_which_data_it_used(site, ran, stem):
    record = nbformat.read(ran / f"{stem}.ipynb", as_version=4).metadata["grae"]
    if "dataset" in record["parameters"]:
        shown = page(site / "notebooks" / f"{stem}.html").xpath("//div[contains(@class, 'cell_output')]")
        assert any(DATASETS.search(output.text_content()) for output in shown)


def test_the_search_index_knows_every_page(site):
    index = (site / "searchindex.js").read_text("utf8")
    assert [name for name in Project().pages if f'"{name}"' not in index] == []


def test_pages_fit_a_phone_and_name_no_path_of_this_machine(site):
    for path in pages(site):
        text = path.read_text("utf8")
        assert 'name="viewport"' in text or "http-equiv" in text, path.name
        assert str(ROOT) not in text and str(Path.home()) + "/" not in text, path.name


def test_the_theme_has_a_colour_scheme_switch_and_one_sidebar_toggle(site):
    intro = page(site / f"{Project().toc['root']}.html")
    assert intro.xpath("//*[contains(@class, 'theme-switch-button')]")
    assert len(intro.xpath("//button[contains(@class, 'primary-toggle')]")) == 1


@chapters
def test_a_hidden_cell_says_that_it_is_a_solution(site, stem):
    cells = "//details[contains(@class, 'hide') and contains(@class, 'above-input')]/summary"
    hidden = page(site / "notebooks" / f"{stem}.html").xpath(cells)
    assert hidden and all("Show the solution" in summary.text_content() for summary in hidden)
