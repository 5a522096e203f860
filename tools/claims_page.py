"""What the site shows of the ledger: a page of all claims, and each chapter's own at its end.

The page is complete without JavaScript; `_static/claims.js` shows the form that filters it.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from myst_parser.mdit_to_docutils.base import default_slugify

from tools import claims
from tools.claims import PAPERS, VERDICTS, Entry
from tools.project import Project, ToolError

CHAPTER_HEADING = "Claims of this chapter"
INTRO = """\
# Claims and evidence

Every claim of the paper that this book is about, {kumar}, with what became of it: the verdict, the paper's value
beside ours, the section that treats it and the test that decides it. The tests run with every change of the book:
one that finds another verdict, or a number outside the tolerance, fails. The claims of {others} stand here too, so
that a reader sees what is to come.

| verdict | {papers} |
|---|{rule}|
{counts}

*Holds as corrected* means that the statement is true after a repair, which is in the [errata](errata.md) or stands in
the entry.
*Reproduced at a stated smaller size* means that the paper's experiment was run with less of something, and the entry
says of what.
*Open* means that nothing here decides it; a note says why.

## What the abstract says, and where the evidence is

The abstract of {kumar} in our words, statement by statement.

{abstract}

## All claims

{form}
"""
ROWS = "What the paper says on the subject of this chapter, with our verdicts, from [all claims](../claims.md)."
FORM = """\
```{{raw}} html
<form id="claims-filter" class="claims-filter" hidden>
{fields}
<label class="claims-check"><input type="checkbox" name="abstract"> In the abstract</label>
<label>Text <input type="search" name="text" autocomplete="off"></label>
<button type="reset">Show all</button>
<p role="status" aria-live="polite"></p>
</form>
```"""


def page(book: Project, chapters: dict[str, Path]) -> str:
    """The page `claims`, in MyST Markdown; a ToolError names everything that is wrong with the ledger."""
    entries = checked(book)
    named = {letter: f"{{cite:t}}`{key}`" for letter, key in _KEYS.items()}
    intro = INTRO.format(
        kumar=named["K"],
        others=" and ".join(named[letter] for letter in "SR"),
        papers=" | ".join(PAPERS.values()),
        rule="|".join("--:" for _ in PAPERS),
        counts="\n".join(_counts(entries)),
        abstract="\n".join(_abstract(book, entries)),
        form=FORM.format(fields="\n".join(_fields(book, entries))),
    )
    parts = [intro]
    for letter, paper in PAPERS.items():
        own = [entry for entry in entries if entry["id"].startswith(letter)]
        parts += [f"### {paper}", *(card(book, entry) for entry in own)]
    return "\n\n".join(parts) + "\n"


_KEYS = {"K": "kumar2020implicit", "S": "sikka2019closer", "R": "rezende2018taming"}


def checked(book: Project) -> list[Entry]:
    entries = claims.load(book)
    if wrong := claims.problems(book, entries):
        raise ToolError("book/claims.yml is not fit for the site:\n" + "\n".join(f"  {line}" for line in wrong))
    return entries


def add_rows(book: Project, stem: str, notebook: dict) -> None:
    """Put the claims of a chapter into its staged notebook, as a section before the last one."""
    if "claims" not in book.pages:
        return
    own = [entry for entry in claims.load(book) if entry.get("chapter") == stem]
    if own:
        parts = [f"## {CHAPTER_HEADING}", ROWS, *(card(book, entry, stem) for entry in own)]
        cell = {"cell_type": "markdown", "id": "claims", "metadata": {}, "source": "\n\n".join(parts)}
        notebook["cells"].insert(_last_section(notebook["cells"]), cell)


def _last_section(cells: Sequence[dict]) -> int:
    """Where the last section begins, if a cell begins with its heading, else the end."""
    for number in range(len(cells) - 1, 0, -1):
        text = "".join(cells[number]["source"])
        if cells[number]["cell_type"] == "markdown" and re.search(r"^## ", text, re.MULTILINE):
            return number if text.startswith("## ") else len(cells)
    return len(cells)


def _counts(entries: Sequence[Entry]) -> Iterator[str]:
    found = Counter((entry["verdict"], entry["id"][0]) for entry in entries)
    for verdict in VERDICTS:
        yield f"| {verdict} | {' | '.join(str(found[verdict, letter]) for letter in PAPERS)} |"


def _abstract(book: Project, entries: Sequence[Entry]) -> Iterator[str]:
    verdicts = {entry["id"]: entry["verdict"] for entry in entries}
    for line in claims.abstract(book):
        links = ", ".join(f"{_link(name)} ({verdicts[name]})" for name in line["claims"])
        yield f"1. {line['says']}\n\n   Evidence: {links}."


def _fields(book: Project, entries: Sequence[Entry]) -> Iterator[str]:
    stems = [stem for stem in book.chapters if any(entry.get("chapter") == stem for entry in entries)]
    yield _select("paper", "Paper", {f"paper-{letter.lower()}": paper for letter, paper in PAPERS.items()})
    yield _select("verdict", "Verdict", {_class("verdict", verdict): verdict for verdict in VERDICTS})
    yield _select("chapter", "Chapter", {_class("chapter", stem): title(book, stem) for stem in stems})


def _select(name: str, label: str, options: dict[str, str]) -> str:
    listed = "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in options.items())
    return f'<label>{label} <select name="{name}"><option value="">all</option>{listed}</select></label>'


def title(book: Project, stem: str) -> str:
    """A chapter's title, from its source."""
    found = re.search(r"^# # (.*?)\s*$", book.source(stem).read_text("utf8"), re.MULTILINE)
    if not found:
        raise ToolError(f"notebooks/{stem}.py: expected a line '# # Title', found none")
    return found[1]


def _class(kind: str, value: str) -> str:
    """A class name that docutils leaves as it is."""
    return f"{kind}-{re.sub('[^a-z0-9]+', '-', value.lower())}"


def anchor(name: str) -> str:
    return f"claim-{name.lower()}"


def _link(name: str) -> str:
    return f"[{name}]({anchor(name)})"


def card(book: Project, entry: Entry, stem: str | None = None) -> str:
    """One claim: on the page of all claims, where its anchor is, or in the chapter `stem`."""
    classes = ["claim", f"paper-{entry['id'][0].lower()}", _class("verdict", entry["verdict"])]
    classes += [_class("chapter", entry["chapter"])] if "chapter" in entry else []
    classes += ["in-abstract"] if entry.get("abstract") else []
    target = "" if stem else f"({anchor(entry['id'])})=\n"
    name = _link(entry["id"]) if stem else entry["id"]
    head = f"**{name}** · {entry['source']}" + (" · in the abstract" if entry.get("abstract") else "")
    facts = "\n\n".join(f"{label}\n: {text}" for label, text in _facts(book, entry, stem))
    return f"{target}:::{{div}} {' '.join(classes)}\n{head}\n\n{entry['statement']}\n\n{facts}\n:::"


def _facts(book: Project, entry: Entry, stem: str | None) -> Iterator[tuple[str, str]]:
    up = "../" if stem else ""
    yield "Verdict", f"**{entry['verdict']}**"
    yield from _numbers(entry)
    if "correction" in entry:
        yield "Correction", entry["correction"]
    if "errata" in entry:
        yield "Erratum", f"[{erratum(book, entry['errata'])}]({entry['errata']})"
    if "note" in entry:
        yield "Note", entry["note"]
    if "chapter" in entry:
        file = "" if stem else f"notebooks/{entry['chapter']}.ipynb"
        where = entry["section"] if stem else f"{title(book, entry['chapter'])}: {entry['section']}"
        yield "Read", f"[{where}]({file}#{slug(entry['section'])})"
    if "test" in entry:
        yield "Test", f"[`{entry['test'].split('::')[1]}`]({source_address(book, entry['test'])})"
    if results := claims.frozen(entry):
        yield "Frozen", ", ".join(f"[`results/{name}`]({up}made.md#{name})" for name in results)


def _numbers(entry: Entry) -> Iterator[tuple[str, str]]:
    """The paper's value and ours, with a short unit beside them, or before them what they measure."""
    unit = entry.get("unit", "")
    sign = "" if " " in unit else unit
    if unit != sign:
        yield "Measure", unit
    if "paper" in entry:
        yield "Paper", _value(entry["paper"], sign)
    if "ours" in entry:
        tested = f"to ± {entry['tolerance']:g}" if entry["tolerance"] else "to the last digit"
        yield "Ours", f"{_value(entry['ours'], sign)}, tested {tested}"


def _value(value: object, unit: str) -> str:
    if isinstance(value, str):
        return value
    values = value if isinstance(value, list) else [value]
    shown = ", ".join(v if isinstance(v, str) else f"{v:g}".replace("-", "−") for v in values)
    return f"{shown}{'' if unit in ('', '°', '%') else ' '}{unit}"


def erratum(book: Project, label: str) -> str:
    """The heading below an anchor of book/errata.md."""
    return re.search(rf"^\({re.escape(label)}\)=\n#+ (.*)$", _errata(book), re.MULTILINE)[1]


def _errata(book: Project) -> str:
    return (book.root / "book" / "errata.md").read_text("utf8")


def slug(heading: str) -> str:
    """The anchor that MyST gives a heading: formulas and marks of emphasis do not count.

    >>> slug("Step 7: sampling columns (GRAE≈)")
    'step-7-sampling-columns-grae'
    """
    return default_slugify(re.sub(r"\$[^$]*\$|[*`]", "", heading))


def source_address(book: Project, test: str) -> str:
    """The test's source in the repository, at its line, as this edition has it."""
    file, (line, _) = test.split("::")[0], claims.claim_calls(book).functions[test]
    return f"{book.repository}/blob/{book.edition or 'HEAD'}/{file}#L{line}"
