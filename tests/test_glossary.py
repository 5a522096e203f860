"""The glossary: in order, short, and about words that the chapters use."""

import re
import unicodedata

import pytest

from tools.project import ROOT, Project

TEXT = (ROOT / "book" / "glossary.md").read_text("utf8")
ENTRY = re.compile(r"^(?! )(.+)\n((?:  .+\n)+)", re.M)
LINK = re.compile(r"\[([^\]]+)\]\(notebooks/(\w+)\.ipynb(?:#[^)]+)?\)")
WANTED = (
    "β-VAE", "ELBO", "mean field", "block-diagonal family", "pushforward", "Jacobian", "Gauss–Newton approximation",
    "Hadamard's bound", "log-determinant", "Riemannian metric", "PPCA", "Darmois–Skitovitch theorem", "GRAE",
    "GRAE≈", "RAE", "FID", "KID", "amortised", "posterior collapse", "nats",
)  # fmt: skip

ENTRIES = dict(ENTRY.findall(TEXT.partition("```{glossary}\n")[2].partition("```\n")[0]))

each = pytest.mark.parametrize("term", ENTRIES)


def key(term):
    """How a reader looks for it: β under beta, é under e, whatever the case."""
    spelled = unicodedata.normalize("NFKD", term.replace("β", "beta")).casefold()
    return re.sub(r"[^a-z ]", "", spelled.replace("-", " ").replace("–", " "))


def test_the_words_that_a_newcomer_may_lack_are_there_in_alphabetical_order():
    assert not set(WANTED) - set(ENTRIES)
    assert list(ENTRIES) == sorted(ENTRIES, key=key)


@each
def test_a_definition_is_at_most_three_sentences(term):
    definition = ENTRIES[term].rstrip().rpartition("\n")[0]
    prose = re.sub(r"Eqs?\. |\$[^$]*\$|\([^)]*\)|\{cite\}`[^`]*`", "", definition.partition(" Symbol [")[0])
    sentences = re.findall(r"[.?!](?=\s|$)", prose)
    assert 1 <= len(sentences) <= 3, sentences


@each
def test_an_entry_ends_with_a_chapter_that_uses_the_term(term):
    """Its title as it is in the chapter; in the text its symbol, or the beginning of each longer word of the term."""
    last = ENTRIES[term].rstrip().splitlines()[-1]
    title, stem = LINK.match(last.strip()).groups()
    source = Project().source(stem).read_text("utf8")
    assert f"# # {title}\n" in source
    folded = source.casefold()
    missing = [word for word in re.findall(r"[\w≈]{3,}", term.casefold()) if word[:6] not in folded]
    symbols = re.findall(r"\[\$(.+?)\$\]\(notation", ENTRIES[term])
    assert missing == [] or any(symbol in source for symbol in symbols), missing


@each
def test_a_symbol_of_an_entry_is_on_the_page_of_symbols(term):
    notation = (ROOT / "book" / "notation.md").read_text("utf8")
    for symbol, anchor in re.findall(r"\[([^\]]+)\]\(notation\.md#([^)]+)\)", ENTRIES[term]):
        section = re.search(rf"^###? {anchor.replace('-', ' ')}$(.*?)(?=^##|\Z)", notation, re.M | re.S | re.I)
        assert section, anchor
        letter = symbol.strip("$").partition(" = ")[0].replace(r"\lvert A\rvert", "|A|").removeprefix(r"\log")
        assert letter in section[1], letter
