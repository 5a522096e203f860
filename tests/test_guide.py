"""The reading guide says how long things take: its minutes are held to an estimate from the pages themselves."""

import re

import pytest
import reading
from reading import tables

from tools.project import ROOT, Project

GUIDE = ROOT / "book" / "guide.md"
LINK = re.compile(r"\]\((?:notebooks/)?(\w+)\.(?:md|ipynb)(?:#([^)]+))?\)")
EXERCISE = 10  # minutes, as the guide says


def page(name):
    source = Project().source(name)
    return source if source.is_file() else ROOT / "book" / f"{name}.md"


def estimate(links, *, code=False):
    """Minutes for what a row links to; of the start page, only what stands above its first section."""
    found = 0.0
    for name, anchor in links:
        if name == "intro":
            found += reading.parts(page(name))[1][2] / reading.PACE
        else:
            found += reading.minutes(page(name), anchor or "", code=code)
    return found


def agrees(stated, found):
    assert abs(stated - found) <= max(3, 0.25 * found), f"stated {stated}, estimated {found:.1f} minutes"


def routes():
    """The rows of each of the first two routes: links and minutes."""
    rows = [(LINK.findall(row[0]), int(row[1])) for row in tables(GUIDE) if row[1].isdigit() and LINK.search(row[0])]
    return [pytest.param(links, stated, id="-".join(filter(None, links[0]))) for links, stated in rows]


@pytest.mark.parametrize(("links", "stated"), routes())
def test_a_step_of_a_route_takes_about_what_the_guide_says(links, stated):
    agrees(stated, estimate(links))


def test_the_sums_are_those_of_the_rows():
    total, sums = 0, []
    for row in tables(GUIDE):
        if row[0] == "in all":
            sums.append((total, int(row[1])))
            total = 0
        elif len(row) in (2, 3) and row[1].isdigit() and LINK.search(row[0]):
            total += int(row[1])
    assert len(sums) == 2 and all(found == stated for found, stated in sums), sums


def exercises(stem):
    found = re.search(r"^# ## Exercises?\n(.*?)^# ## ", page(stem).read_text("utf8"), re.M | re.S)
    return re.findall(r"^# \*\*(\d+)\.", found[1], re.M) if found else []


def days():
    return [row for row in tables(GUIDE) if row[0].isdigit() and len(row) == 3]


@pytest.mark.parametrize("row", days(), ids=lambda row: f"day {row[0]}")
def test_a_day_takes_about_what_the_guide_says(row):
    links = LINK.findall(row[1])
    chapters = [name for name, _ in links if name[0].isdigit()]
    agrees(int(row[2]), estimate(links, code=True) + EXERCISE * sum(len(exercises(stem)) for stem in chapters))


def test_the_week_has_every_chapter_once():
    named = [name for row in days() for name, _ in LINK.findall(row[1]) if name[0].isdigit()]
    assert named == Project().chapters


NEED = re.compile(r"^(\d+) · \[.+?\]\(notebooks/(\w+)\.ipynb\) · (\d+) and (\d+) minutes\n: ", re.M)
NEEDS = NEED.findall(GUIDE.read_text("utf8"))


@pytest.mark.parametrize(("number", "stem", "prose", "whole"), NEEDS)
def test_a_chapter_takes_about_what_the_guide_says(number, stem, prose, whole):
    assert stem.startswith(number)
    agrees(int(prose), estimate([(stem, "")]))
    agrees(int(whole), estimate([(stem, "")], code=True))


def test_every_chapter_has_its_needs():
    assert [stem for _, stem, _, _ in NEEDS] == Project().chapters


@pytest.mark.parametrize("stem", Project().chapters)
def test_the_time_at_a_chapter_s_top_agrees_with_the_guide_s_measure(stem):
    stated = re.search(r"reading (\d+) minutes", page(stem).read_text("utf8"))
    assert stated, f"{stem}: expected 'reading N minutes' at its top"
    found = estimate([(stem, "")])
    assert abs(int(stated[1]) - found) <= max(6, 0.4 * found), f"stated {stated[1]}, estimated {found:.1f} minutes"
