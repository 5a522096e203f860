"""The ledger is complete and true to the project, and what would make it untrue is noticed."""

import json
from pathlib import Path

import ledger
import lxml.html
import pytest
import yaml

from tools import claims, claims_page
from tools.project import Project, ToolError

pytest_plugins = ["pytester"]

BOOK = Project()
ENTRIES = claims.load(BOOK)


def test_the_ledger_is_in_order():
    assert claims.problems(BOOK, ENTRIES) == []
    assert len(ENTRIES) > len(claims.NUMBERED)


def test_every_claim_of_the_plan_is_there_and_decided_or_says_why_not():
    decided = {entry["id"][0] for entry in ENTRIES if entry["verdict"] != "open"}
    assert "K" in decided
    assert all(entry["note"].strip() for entry in ENTRIES if entry["verdict"] == "open")


# A small project that is in order, and everything that can be wrong with it

TEST = """
import pytest

def test_it(claim):
    claim("K1", "holds", ours=2.0)

@pytest.mark.skipif(True, reason="never")
def test_skipped():
    pass

def test_silent():
    pass
"""
ENTRY = {
    "id": "K1", "source": "§2", "abstract": True, "statement": "Two is two.", "chapter": "10_good", "section": "Two",
    "test": "tests/test_good.py::test_it", "verdict": "holds", "paper": 2, "ours": 2.0, "tolerance": 0.1,
    "result": "10_good", "errata": "errata-two",
}  # fmt: skip
OPEN = {"source": "§3", "statement": "Three is three.", "verdict": "open", "note": "Not tried."}


@pytest.fixture
def small(tmp_path):
    """A project with one chapter, one test, one frozen result, one erratum, and one claim that rests on them."""
    for folder in ("book", "notebooks", "tests", "results/10_good"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_bytes((BOOK.root / "pyproject.toml").read_bytes())
    toc = {"format": "jb-book", "root": "intro", "chapters": [{"file": "claims"}, {"file": "notebooks/10_good"}]}
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc), "utf8")
    chapter = "# %% [markdown]\n# # Good\n#\n# ## Two\n#\n# ### Three\n"
    (tmp_path / "notebooks" / "10_good.py").write_text(chapter, "utf8")
    (tmp_path / "book" / "errata.md").write_text("# Errata\n\n(errata-two)=\n### Two\n", "utf8")
    (tmp_path / "book" / "abstract.yml").write_text("- {says: It is two., claims: [K1]}\n", "utf8")
    (tmp_path / "tests" / "test_good.py").write_text(TEST, "utf8")
    (tmp_path / "results" / "10_good" / "a.csv").write_text("two\n2\n", "utf8")
    sums = {"a.csv": {"sha256": "d84c1750334850d71c31a0b988083f64872b5deb3682b2368c0e675ab67c8675"}}
    (tmp_path / "results" / "10_good" / "manifest.json").write_text(json.dumps({"files": sums}), "utf8")
    return Project(tmp_path, tmp_path / "build", tmp_path / "html")


def ledger_of(**changes) -> list[dict]:
    """The small ledger with its first claim changed; None removes a field."""
    entry = {name: value for name, value in (ENTRY | changes).items() if value is not None}
    return [entry] + [OPEN | {"id": name} for name in claims.NUMBERED if name != "K1"]


def test_the_small_ledger_is_in_order(small):
    assert claims.problems(small, ledger_of()) == []


SPOILED = {
    "a test that is not there": ({"test": "tests/test_good.py::test_gone"}, "there is no test"),
    "a file that is not there": ({"test": "tests/test_gone.py::test_it"}, "there is no test"),
    "a test that claims nothing": ({"test": "tests/test_good.py::test_silent"}, "does not call claim('K1', …)"),
    "a test that may not run": ({"test": "tests/test_good.py::test_skipped"}, "is marked skipif"),
    "a verdict that the test does not find": ({"verdict": "refuted"}, "claims 'holds', and the ledger 'refuted'"),
    "a value that the test does not give": ({"ours": None, "tolerance": None}, "test_it gives a value"),
    "a chapter that is not there": ({"chapter": "11_gone"}, "there is no chapter 11_gone"),
    "a section that is not there": ({"section": "Four"}, "has no heading 'Four'"),
    "a result that is not there": ({"result": "11_gone"}, "no frozen result results/11_gone"),
    "one result of two not there": ({"result": ["10_good", "11_gone"]}, "no frozen result results/11_gone"),
    "an erratum that is not there": ({"errata": "errata-gone"}, "has no anchor (errata-gone)="),
    "no such verdict": ({"verdict": "true"}, "verdict: expected one of holds"),
    "no such field": ({"evidence": "much"}, "got 'evidence'"),
    "no statement": ({"statement": None}, "expected a field 'statement'"),
    "a text for a number": ({"ours": "1e-3"}, "ours: a str"),
    "texts for numbers": ({"ours": ["1e-3"]}, "ours: expected numbers"),
    "true for a number": ({"ours": True}, "ours: a bool"),
    "a value without a tolerance": ({"tolerance": None}, "'ours' and 'tolerance' belong together"),
    "a tolerance below zero": ({"tolerance": -1}, "tolerance: expected a number that is not negative"),
    "a value without a test": ({"test": None, "verdict": "open", "note": "?"}, "'ours' needs the 'test'"),
    "a verdict without a test": ({"test": None, "ours": None, "tolerance": None}, "needs 'test'"),
    "a verdict without a chapter": ({"chapter": None, "section": None}, "needs 'chapter'"),
    "a chapter without a section": ({"section": None}, "'chapter' and 'section' belong together"),
    "open without a reason": ({"verdict": "open"}, "needs a 'note'"),
    "smaller without a size": ({"verdict": "reproduced at a stated smaller size"}, "needs a 'note'"),
    "corrected without a correction": ({"verdict": "holds as corrected", "errata": None}, "or a 'correction'"),
    "an id of no paper": ({"id": "X1"}, "expected a number of papers.md"),
    "an id that is not planned": ({"id": "K16"}, "expected a number of papers.md"),
    "a number that is none": ({"ours": float("nan")}, "ours: expected numbers, got nan"),
    "a tolerance without end": ({"tolerance": float("inf")}, "expected a number that is not negative, got inf"),
    "no numbers": ({"ours": []}, "ours: expected something, got []"),
    "an empty statement": ({"statement": " "}, "statement: expected something, got ' '"),
    "an empty reason": ({"verdict": "open", "note": ""}, "note: expected something, got ''"),
    "a value that cannot be shown": ({"paper": [{"two": 2}]}, "paper: expected texts or numbers"),
    "a result elsewhere": ({"result": "../10_good"}, "result: expected folders, got '../10_good'"),
    "numbers for results": ({"result": [1]}, "result: expected folders, got [1]"),
    "an abstract that does not name it": ({"abstract": None}, "it is not marked abstract"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_entry_is_refused(small, name):
    changes, complaint = SPOILED[name]
    assert any(complaint in problem for problem in claims.problems(small, ledger_of(**changes)))


IDLE = {
    "its file is skipped": ("import pytest\npytestmark = pytest.mark.skip", "claim", "is marked skip"),
    "its file asks for a package": ("import pytest\npytest.importorskip('x')", "claim", "is marked importorskip"),
    "it does not take the fixture": ("def claim(*given): ...", "", "does not call claim('K1', …)"),
}


@pytest.mark.parametrize("name", IDLE)
def test_a_test_that_may_decide_nothing_is_refused(small, name):
    before, argument, complaint = IDLE[name]
    text = f"{before}\n\ndef test_it({argument}):\n    claim('K1', 'holds', ours=2.0)\n"
    (small.root / "tests" / "test_good.py").write_text(text, "utf8")
    assert any(complaint in problem for problem in claims.problems(small, ledger_of()))


def test_claims_that_are_missing_double_or_half_split(small):
    entries = ledger_of()
    assert "R5: the ledger has no entry for it" in claims.problems(small, entries[:-1])
    assert "R5: expected one entry, got 2" in claims.problems(small, [*entries, entries[-1]])
    beside = [*entries, OPEN | {"id": "R5a"}]
    assert "R5a: R5 stands beside it without a letter" in claims.problems(small, beside)


def test_a_heading_that_stands_twice_is_no_place(small):
    with (small.root / "notebooks" / "10_good.py").open("a", encoding="utf8") as notebook:
        notebook.write("# ## Two\n")
    assert "K1: notebooks/10_good.py has 2 headings 'Two'" in claims.problems(small, ledger_of())


MORE, CALLS = "tests/test_more.py", "def test_more(claim):\n    "


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("results/10_good/a.csv", "three\n", "results/10_good/a.csv is not the file of the manifest"),
        ("results/10_good/a.csv", None, "results/10_good/a.csv is missing"),
        ("book/abstract.yml", "[]", "it is in the abstract, and book/abstract.yml does not name it"),
        ("book/abstract.yml", "[{says: Two., claims: [K1, K2]}]", "K2: book/abstract.yml names it"),
        (MORE, f"{CALLS}claim('K7', 'holds')", "the ledger supports K7 by no test"),
        (MORE, f"{CALLS}claim('K1', 'holds')", "supports K1 by tests/test_good.py"),
        (MORE, f"{CALLS}claim('K99', 'holds')", "no claim 'K99'"),
        (MORE, f"{CALLS}claim(name, 'holds')", "expected the claim's id written out"),
    ],
)  # fmt: skip
def test_what_lies_around_the_ledger_is_looked_at(small, file, text, complaint):
    (small.root / file).unlink(missing_ok=True)
    if text is not None:
        (small.root / file).write_text(text, "utf8")
    assert any(complaint in problem for problem in claims.problems(small, ledger_of()))


def test_a_ledger_that_is_no_list_is_refused(small):
    (small.root / "book" / "claims.yml").write_text("K1: holds\n", "utf8")
    with pytest.raises(ToolError, match="expected a list of entries"):
        claims.load(small)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- id: K1\n  verdict: holds\n  verdict: refuted\n", "verdict: written twice\n.*line 1"),
        ("- id: K1\n\tverdict: holds\n", "claims.yml: .*line 2"),
    ],
)
def test_a_ledger_that_yaml_would_misread_is_refused(small, text, complaint):
    (small.root / "book" / "claims.yml").write_text(text, "utf8")
    with pytest.raises(ToolError, match=f"(?s){complaint}"):
        claims.load(small)


# The fixture


def claimed(test="tests/test_good.py::test_it", **changes) -> ledger.Claims:
    return ledger.Claims(test, ledger_of(**changes))


def test_a_claim_that_agrees_is_made():
    found = claimed()
    assert found.missing() == ["K1"]
    found("K1", "holds", ours=2.05)
    assert found.missing() == []


@pytest.mark.parametrize(
    ("arguments", "options", "complaint"),
    [
        (("K1", "refuted"), {"ours": 2.0}, "finds 'refuted', the ledger 'holds'"),
        (("K1", "holds"), {"ours": 2.2}, "the ledger has 2.0 ± 0.1, this test finds 2.2"),
        (("K1", "holds"), {"ours": float("nan")}, "this test finds nan"),
        (("K1", "holds"), {"ours": [2.0, 2.0]}, "expected 1 numbers, got 2"),
        (("K1", "holds"), {}, "the ledger has 2.0, got None"),
        (("K2", "open"), {}, "the ledger names None"),
        (("K99", "holds"), {}, "no claim 'K99'"),
    ],
)
def test_a_claim_that_does_not_agree_fails(arguments, options, complaint):
    found = claimed()
    with pytest.raises(AssertionError) as error:
        found(*arguments, **options)
    assert complaint in str(error.value) and found.missing() == ["K1"]


def test_a_claim_of_another_test_fails():
    with pytest.raises(AssertionError, match=r"names tests/test_good\.py::test_it, claimed by tests/test_b"):
        claimed("tests/test_b.py::test_b")("K1", "holds", ours=2.0)


def test_numbers_are_compared_one_by_one():
    found = claimed(ours=[1.0, 2.0], tolerance=0.1)
    found("K1", "holds", ours=[1.05, 1.95])
    with pytest.raises(AssertionError, match=r"finds \[1.0, 2.2\]"):
        found("K1", "holds", ours=[1.0, 2.2])


SUITE = """
def test_forgets(claim):
    pass

def test_finds_otherwise(claim):
    claim("K2", "refuted")

def test_agrees(claim):
    claim("K3", "holds")

def test_fails_before(claim):
    assert 1 == 2
"""
NAMED = {"K1": "forgets", "K2": "finds_otherwise", "K3": "agrees", "K4": "fails_before"}


def test_a_test_that_forgets_its_claim_fails(pytester, monkeypatch):
    """In a run of pytest itself: a claim forgotten, one found otherwise, one right, and one not reached."""
    named = {name: f"test_suite.py::test_{test}" for name, test in NAMED.items()}
    entries = [{"id": name, "verdict": "holds", "test": test} for name, test in named.items()]
    monkeypatch.setattr(ledger, "entries", lambda: entries)
    pytester.makeconftest("from ledger import claim")
    pytester.makepyfile(test_suite=SUITE)
    found = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider")
    printed = found.stdout.str()
    assert "test_suite.py::test_forgets did not claim K1, which the ledger supports by it" in printed
    assert "K2: this test finds 'refuted', the ledger 'holds'" in printed
    assert "test_fails_before did not claim" not in printed
    found.assert_outcomes(passed=2, failed=2, errors=1)  # a claim forgotten is an error at the test's end


# What the site shows


def write(small: Project, entries: list[dict]) -> Project:
    (small.root / "book" / "claims.yml").write_text(yaml.safe_dump(entries, allow_unicode=True), "utf8")
    return small


def test_the_page_shows_every_entry_with_its_evidence(small):
    text = claims_page.page(write(small, ledger_of(unit="°")), {})
    assert all(f"(claim-{name.lower()})=" in text for name in claims.NUMBERED)
    card = text.split("(claim-k1)=")[1].split("(claim-k2)=")[0]
    line = TEST.splitlines().index("def test_it(claim):") + 1
    for shown in (
        "claim paper-k verdict-holds chapter-10-good in-abstract", "Two is two.", "Paper\n: 2°\n",
        "Ours\n: 2°, tested to ± 0.1\n", "[Good: Two](notebooks/10_good.ipynb#two)", "[Two](errata-two)",
        f"(https://github.com/grae-book/grae/blob/HEAD/tests/test_good.py#L{line})", "`results/10_good`",
    ):  # fmt: skip
        assert shown in card, f"{shown} not in\n{card}"
    assert "1. It is two.\n\n   Evidence: [K1](claim-k1) (holds)." in text
    assert "| holds | 1 | 0 | 0 |" in text and "| open | 14 | 4 | 5 |" in text
    assert '<option value="chapter-10-good">Good</option>' in text


def test_an_edition_shows_its_own_tests(small, monkeypatch):
    monkeypatch.setenv("GRAE_EDITION", "v0.1.0")
    assert "/blob/v0.1.0/tests/test_good.py#L" in claims_page.page(write(small, ledger_of()), {})


def test_a_ledger_that_is_not_in_order_stops_the_site(small):
    with pytest.raises(ToolError, match=r"claims\.yml is not fit for the site:\n  K1: there is no chapter 11_gone"):
        claims_page.page(write(small, ledger_of(chapter="11_gone")), {})


def test_numbers_are_shown_with_what_they_measure():
    entry = ENTRY | {"unit": "nats of difference", "ours": [-0.5, 1e-9], "tolerance": 0, "paper": "none"}
    shown = dict(claims_page._numbers(entry))
    ours = "−0.5, 1e−09, tested to the last digit"
    assert shown == {"Measure": "nats of difference", "Paper": "none", "Ours": ours}
    assert dict(claims_page._numbers(ENTRY | {"unit": "nats"}))["Paper"] == "2 nats"


def cells(*texts: str) -> dict:
    return {"cells": [{"cell_type": "markdown", "source": text} for text in texts]}


@pytest.mark.parametrize(
    ("texts", "place"),
    [
        (["# Good", "## Two", "text", "## What to take away"], 3),
        (["# Good", "text\n\n## What to take away"], 2),
        (["# Good", "text"], 2),
    ],
)
def test_a_chapter_gets_its_claims_before_its_last_section(small, texts, place):
    notebook = cells(*texts)
    claims_page.add_rows(write(small, ledger_of()), "10_good", notebook)
    added = notebook["cells"].pop(place)
    assert notebook == cells(*texts)
    assert added["source"].startswith("## Claims of this chapter\n") and "[K1](claim-k1)" in added["source"]
    assert "(claim-k1)=" not in added["source"] and "[Two](#two)" in added["source"]


def test_a_chapter_without_claims_and_a_book_without_a_ledger_stay_as_they_are(small):
    notebook = cells("# Good", "## End")
    claims_page.add_rows(write(small, ledger_of()), "11_other", notebook)
    small.root.joinpath("_toc.yml").write_text("{format: jb-book, root: intro}", "utf8")
    claims_page.add_rows(small, "10_good", notebook)
    assert notebook == cells("# Good", "## End")


def page(path: Path) -> lxml.html.HtmlElement:
    return lxml.html.fromstring(path.read_bytes())


def test_the_site_shows_the_ledger(site):
    found = page(site / "claims.html")
    names = [f"claim-{entry['id'].lower()}" for entry in ENTRIES]
    assert [name for name in names if not found.xpath(f"//*[@id='{name}']")] == []
    assert len(found.find_class("claim")) == len(ENTRIES)
    classes = {name for card in found.find_class("claim") for name in card.classes}
    offered = set(found.xpath("//form[@id='claims-filter']//option/@value")) - {""}
    assert len(offered) > 10 and offered <= classes | {f"verdict-{v.replace(' ', '-')}" for v in claims.VERDICTS}
    assert {name for name in classes if name.startswith("chapter-")} <= offered


def test_each_chapter_shows_its_own_claims(site):
    for stem in BOOK.chapters:
        shown = page(site / "notebooks" / f"{stem}.html").find_class("claim")
        own = [entry["id"] for entry in ENTRIES if entry.get("chapter") == stem]
        assert [card.xpath(".//strong")[0].text_content() for card in shown] == own, stem


def test_from_the_abstract_to_the_evidence_in_three_clicks(site):
    """The landing page links to the claims, the abstract's statements to their entries, these to their evidence."""
    landing = page(site / f"{BOOK.toc['root']}.html").xpath("//article//a/@href")
    assert any(link.split("#")[0] == "claims.html" for link in landing)
    found = page(site / "claims.html")
    section = found.get_element_by_id("what-the-abstract-says-and-where-the-evidence-is")
    links = [link for link in section.xpath(".//li//a/@href") if "claim-" in link]
    assert len(links) >= 8
    for link in links:
        (card,) = found.xpath(f"//*[@id='{link.split('#')[1]}']/ancestor-or-self::*[contains(@class, 'claim ')]")
        assert [to for to in card.xpath(".//a/@href") if to.startswith("notebooks/") or "/tests/" in to], link
