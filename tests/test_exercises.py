"""Exercises: three or more in each chapter, every one with a hidden solution, and one that changes a parameter."""

import re

import lxml.html
import nbformat
import pytest

from grae_helpers import notebooks
from tools import export_colab, run_notebooks
from tools.project import Project

SOURCES = Project().sources
HIDDEN = "hide-cell"
NUMBER = re.compile(r"\*\*(\d+)\.")
CHANGED = re.compile(r"Set `(\w+) = ([^`]+)`")

each = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def exercises(source):
    """The exercises of a chapter: number, text, and the code cells up to the next one."""
    found, inside = [], False
    for cell in notebooks.read(source).cells:
        if cell.cell_type == "code":
            if inside and found:
                found[-1][2].append(cell)
            continue
        for line in cell.source.splitlines():
            if line.startswith("## "):
                inside = line.startswith("## Exercises")
            elif inside and (number := NUMBER.match(line)):
                found.append((int(number[1]), line, []))
    return found


@each
def test_a_chapter_has_three_exercises_or_more_each_with_a_hidden_solution(source):
    found = exercises(source)
    assert [number for number, _, _ in found] == list(range(1, len(found) + 1)) and len(found) >= 3
    for number, _, solution in found:
        assert solution, f"exercise {number} has no solution"
        assert all(HIDDEN in cell.metadata.get("tags", []) for cell in solution), f"exercise {number}"


@each
def test_nothing_but_solutions_is_hidden(source):
    hidden = [cell.id for cell in notebooks.read(source).cells if HIDDEN in cell.metadata.get("tags", [])]
    assert hidden == [cell.id for _, _, solution in exercises(source) for cell in solution]


@each
def test_one_exercise_changes_a_parameter_to_what_the_chapter_takes(source, tmp_path):
    changing = [text for _, text, _ in exercises(source) if "Change a parameter.**" in text]
    assert len(changing) == 1 and "Colab" in changing[0]
    pairs = CHANGED.findall(changing[0])
    assert pairs, changing
    known = notebooks.declared(notebooks.read(source))
    book = Project(build=tmp_path)
    for name, value in pairs:
        (job,) = run_notebooks.plan(book, [source.stem], {name: value}, tmp_path / "run")
        assert job.merged[name] != known[name].default, "it changes nothing"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_colab.export(Project(build=tmp_path_factory.mktemp("colab")))


@each
def test_colab_has_every_solution(source, exported):
    (path,) = [path for path in exported if path.stem == source.stem]
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    for number, _, solution in exercises(source):
        assert all(any(cell.source in text for text in sources) for cell in solution), f"exercise {number}"


@each
def test_the_site_hides_a_solution_until_it_is_opened(source, site):
    page = lxml.html.parse(site / "notebooks" / f"{source.stem}.html")
    hidden = page.xpath("//div[contains(concat(' ', @class, ' '), ' tag_hide-cell ')]")
    assert len(hidden) == sum(len(solution) for _, _, solution in exercises(source))
    for cell in hidden:
        (details,) = cell.xpath("./details")
        assert "open" not in details.attrib and details.xpath("./summary")
