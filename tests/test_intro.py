"""The start page leads to chapters on Colab, to the evidence of a claim, to the guide and to the site as a file."""

import re

import lxml.html
import pytest

from tools import stage_book
from tools.project import ROOT, Project

INTRO = (ROOT / "book" / "intro.md").read_text("utf8")
LINKS = re.compile(r"\]\(colab:([\w-]+)")

chapters = pytest.mark.parametrize("stem", Project().chapters)


@chapters
def test_every_chapter_is_listed_under_its_title_beside_its_link_to_colab(stem):
    title = Project().source(stem).read_text("utf8").partition("\n# # ")[2].partition("\n")[0]
    (line,) = [line for line in INTRO.splitlines() if line.startswith(f"- [{title}](notebooks/{stem}.ipynb): ")]
    assert LINKS.findall(line) == [stem]


def test_links_to_colab_name_chapters_and_no_repository():
    for path in (ROOT / "book").glob("*.md"):
        text = path.read_text("utf8")
        assert set(LINKS.findall(text)) <= set(Project().chapters), path.name
        assert "colab.research.google.com" not in text, path.name


def test_where_they_lead_follows_from_the_repository_s_address(tmp_path):
    for name in ("_config.yml", "_toc.yml"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf8"), "utf8")
    book = Project(tmp_path)
    text = (ROOT / "pyproject.toml").read_text("utf8").replace(book_of(ROOT), "https://github.com/someone/fork")
    (tmp_path / "pyproject.toml").write_text(text, "utf8")
    (tmp_path / "grae_helpers").mkdir()
    (tmp_path / "grae_helpers" / "__init__.py").write_text(
        (ROOT / "grae_helpers" / "__init__.py").read_text("utf8"), "utf8"
    )
    schemes = stage_book.configuration(book)["sphinx"]["config"]["myst_url_schemes"]
    assert schemes["colab"]["url"] == (
        f"https://colab.research.google.com/github/someone/fork/blob/{book.colab_branch}/notebooks/{{{{path}}}}.ipynb"
    )


def book_of(root):
    return Project(root).repository


@pytest.fixture(scope="module")
def start(site):
    return lxml.html.parse(site / "index.html" if not (site / "intro.html").is_file() else site / "intro.html")


@chapters
def test_the_start_page_opens_the_same_notebook_as_the_chapter_s_own_button(site, start, stem):
    button = lxml.html.parse(site / "notebooks" / f"{stem}.html").xpath("//a[contains(@href, '//colab.')]/@href")
    links = [
        link for link in start.xpath("//article//a[contains(@href, '//colab.')]/@href") if f"/{stem}.ipynb" in link
    ]
    assert len(links) == 1 and links[0] in button


@pytest.mark.parametrize("page", ["guide", "claims", "made", "glossary", "betas", "versions"])
def test_the_start_page_leads_there_in_one_click(start, page):
    assert any(link.partition("#")[0] == f"{page}.html" for link in start.xpath("//article//a/@href"))
