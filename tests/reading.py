"""The prose of the pages: its tables, and how long a section takes to read, which the guide's times are held to."""

import re
from functools import cache
from pathlib import Path

from grae_helpers import notebooks

PACE = 90
"""Words of prose a minute, formulas among them: slow, as a text with formulas and figures is read."""
CODE = 6.0
"""Seconds for a line of code, where it is read."""


def slug(heading: str) -> str:
    """The anchor of a heading.

    >>> slug("Step 7: sampling columns (GRAE≈)")
    'step-7-sampling-columns-grae'
    """
    plain = re.sub(r"\$|`|\\", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def tables(path: Path) -> list[list[str]]:
    """Every table row of a page, as the texts of its cells."""
    lines = [line for line in path.read_text("utf8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def code(cell: str) -> str | None:
    """What a cell of a table holds, if that is code and nothing else."""
    found = re.fullmatch(r"`([^`]+)`", cell)
    return found and found[1]


@cache
def parts(path: Path) -> list[tuple[int, str, int, int]]:
    """The sections of a page: level of the heading, anchor, words of prose and lines of code to the next one."""
    found = [(1, "", 0, 0)]
    for kind, text in _cells(path):
        for line in text.splitlines():
            heading = re.match(r"(#+) (.+)", line) if kind == "prose" else None
            if heading:
                found.append((len(heading[1]), slug(heading[2]), 0, 0))
            level, anchor, words, lines = found[-1]
            found[-1] = (level, anchor, words + _words(line) * (kind == "prose"), lines + (kind == "code"))
    return found


def _cells(path: Path) -> list[tuple[str, str]]:
    if path.suffix == ".md":
        return [("prose", path.read_text("utf8"))]
    cells = notebooks.read(path).cells
    shown = [cell for cell in cells if not {"hide-cell", "parameters"} & set(cell.metadata.get("tags", []))]
    return [("prose" if cell.cell_type == "markdown" else "code", cell.source) for cell in shown]


def _words(line: str) -> int:
    return len(re.sub(r"\]\([^)]*\)", "]", line).split())


def minutes(path: Path, anchor: str = "", *, code: bool = False) -> float:
    """How long the page, or the section at `anchor` with those below it, takes to read; with its code or without."""
    sections = parts(path)
    if anchor:
        names = [section[1] for section in sections]
        if anchor not in names:
            raise ValueError(f"{path.name}: expected one of its sections {names}, got {anchor!r}")
        start = names.index(anchor)
        end = next((n for n in range(start + 1, len(names)) if sections[n][0] <= sections[start][0]), len(names))
        sections = sections[start:end]
    words, lines = (sum(section[k] for section in sections) for k in (2, 3))
    return words / PACE + code * lines * CODE / 60
