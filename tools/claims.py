"""The ledger: every claim of the papers, its verdict, and the evidence for it (book/claims.yml).

`problems` finds what is wrong with the ledger without running anything; that a test supports the verdict of its
entry is checked when the test runs (tests/ledger.py).
"""

import ast
import copy
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from tools import project
from tools.project import Project, ToolError

VERDICTS = ("holds", "holds as corrected", "refuted", "reproduced at a stated smaller size", "open")
PAPERS = {"K": "Kumar & Poole (2020)", "S": "Sikka et al. (2019)", "R": "Rezende & Viola (2018)"}
NUMBERED = [f"{letter}{n}" for letter, last in (("K", 15), ("S", 4), ("R", 5)) for n in range(1, last + 1)]
"""The claims that the ledger must have, each once or more: K6, or K6a, K6b and so on."""

ID = re.compile(r"([KSR])([1-9]\d?)([a-z]?)")
PLACE = ("chapter", "section")
KINDS = {
    **dict.fromkeys(("id", "source", "statement", "verdict", *PLACE), str),
    **dict.fromkeys(("test", "unit", "errata", "correction", "note"), str),
    **{"abstract": bool, "paper": (str, int, float, list), "ours": (int, float, list), "tolerance": (int, float)},
    "result": (str, list),
}
REQUIRED = ("id", "source", "statement", "verdict")
Entry = dict


def load(book: Project) -> list[Entry]:
    """The entries of book/claims.yml in the order of the papers."""
    path = book.root / "book" / "claims.yml"
    try:
        entries = copy.deepcopy(_read(path, path.stat().st_mtime_ns))
    except yaml.YAMLError as error:
        raise ToolError(f"book/claims.yml: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ToolError("book/claims.yml: expected a list of entries, each a mapping")
    return sorted(entries, key=lambda entry: order(str(entry.get("id"))))


@lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> object:
    """The file as it was changed last; every chapter asks for it."""
    return yaml.load(path.read_text("utf8"), _Loader)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Refuses a field that is written twice: YAML would keep the last, also where two entries ran into one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)}: written twice", node.start_mark)
        return super().construct_mapping(node, deep)


def order(name: str) -> tuple:
    """By paper, number and letter; what is no id comes last.

    >>> sorted(["S1", "K10", "K9b", "K9"], key=order)
    ['K9', 'K9b', 'K10', 'S1']
    """
    found = ID.fullmatch(name)
    return ("KSR".index(found[1]), int(found[2]), found[3]) if found else (9, 0, name)


def abstract(book: Project) -> list[dict]:
    """What the abstract of Kumar & Poole says, in its order: `says`, and the ids of the `claims` that bear it out."""
    return yaml.safe_load((book.root / "book" / "abstract.yml").read_text("utf8"))


def problems(book: Project, entries: Sequence[Entry]) -> list[str]:
    """Everything that is wrong with the ledger: fields, ids, and what an entry names but does not exist."""
    found = [f"{entry.get('id', f'entry {n}')}: {p}" for n, entry in enumerate(entries, 1) for p in _fields(entry)]
    if found:
        return found  # what follows relies on the fields
    calls, chapters = claim_calls(book), book.chapters
    for entry in entries:
        found += [f"{entry['id']}: {problem}" for problem in _entry_problems(book, entry, calls, chapters)]
    return [*found, *_id_problems(entries), *_call_problems(entries, calls), *_abstract_problems(book, entries)]


def _fields(entry: Entry) -> Iterator[str]:
    for name in REQUIRED:
        if name not in entry:
            yield f"expected a field {name!r}"
    for name, value in entry.items():
        if name not in KINDS:
            yield f"expected fields among {', '.join(KINDS)}, got {name!r}"
        elif not isinstance(value, KINDS[name]) or (isinstance(value, bool) and name != "abstract"):
            yield f"{name}: a {type(value).__name__} is not what belongs there: {value!r}"
        elif value == [] or not str(value).strip():
            yield f"{name}: expected something, got {value!r}"
    wanted = {"ours": (_number, "numbers"), "paper": (_shown, "texts or numbers"), "result": (_folder, "folders")}
    for name, (fits, what) in wanted.items():
        if name in entry and not all(map(fits, _listed(entry[name]))):
            yield f"{name}: expected {what}, got {entry[name]!r}"
    yield from _verdict_fields(entry)


def _listed(value: object) -> list:
    return value if isinstance(value, list) else [value]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: object) -> bool:
    return isinstance(value, str) or _number(value)


def _folder(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\w+", value) is not None


def _verdict_fields(entry: Entry) -> Iterator[str]:
    verdict, has = entry.get("verdict"), set(entry)
    if verdict not in VERDICTS:
        yield f"verdict: expected one of {', '.join(VERDICTS)}, got {verdict!r}"
    elif verdict != "open":
        yield from (f"its verdict {verdict!r} needs {name!r}" for name in (*PLACE, "test") if name not in has)
    if verdict in ("open", "reproduced at a stated smaller size") and "note" not in has:
        yield f"its verdict {verdict!r} needs a 'note' that says why, or at which size"
    if verdict in ("holds as corrected", "refuted") and not has & {"errata", "correction"}:
        yield f"its verdict {verdict!r} needs 'errata', an anchor of book/errata.md, or a 'correction'"
    if ("ours" in has) != ("tolerance" in has):
        yield "'ours' and 'tolerance' belong together"
    if "ours" in has and "test" not in has:
        yield "'ours' needs the 'test' that computes it"
    if "tolerance" in has and not (_number(entry["tolerance"]) and entry["tolerance"] >= 0):
        yield f"tolerance: expected a number that is not negative, got {entry['tolerance']}"
    if ("chapter" in has) != ("section" in has):
        yield "'chapter' and 'section' belong together"


@dataclass(frozen=True)
class Call:
    """One `claim(id, verdict, …)` in a test: `test` is its node, `verdict` is None unless it is written out."""

    test: str
    line: int
    id: str | None
    verdict: str | None
    has_ours: bool


@dataclass(frozen=True)
class Suite:
    """The test functions of a project: node → (line, names of their marks), and all their calls of `claim`."""

    functions: dict[str, tuple[int, frozenset[str]]]
    calls: tuple[Call, ...]


def claim_calls(book: Project) -> Suite:
    """What the tests claim, read from their source."""
    parts = [_file_calls(path, path.stat().st_mtime_ns) for path in sorted((book.root / "tests").glob("test_*.py"))]
    functions = {node: facts for part in parts for node, facts in part.functions.items()}
    return Suite(functions, tuple(call for part in parts for call in part.calls))


@lru_cache(maxsize=256)
def _file_calls(path: Path, changed: int) -> Suite:
    functions, calls = {}, []
    body = ast.parse(path.read_text("utf8")).body
    of_all = _marks(node for node in body if not isinstance(node, ast.FunctionDef | ast.ClassDef))
    for function in body:
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
            node = f"tests/{path.name}::{function.name}"
            functions[node] = (function.lineno, of_all | _marks(function.decorator_list))
            if "claim" in {argument.arg for argument in function.args.args}:  # else it is not the fixture
                calls += [_call(node, found) for found in ast.walk(function) if _is_claim(found)]
    return Suite(functions, tuple(calls))


def _marks(statements: Iterable[ast.AST]) -> frozenset[str]:
    """What may keep a test, or all of a file's, from running."""
    nodes = [node for statement in statements for node in ast.walk(statement)]
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return frozenset(names & {"skip", "skipif", "xfail", "importorskip"})


def _is_claim(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "claim"


def _call(test: str, call: ast.Call) -> Call:
    said = [argument.value if isinstance(argument, ast.Constant) else None for argument in call.args]
    name, verdict = [*said, None, None][:2]
    return Call(test, call.lineno, name, verdict, any(keyword.arg == "ours" for keyword in call.keywords))


def _entry_problems(book: Project, entry: Entry, suite: Suite, chapters: Sequence[str]) -> Iterator[str]:
    if "chapter" in entry:
        yield from _place_problems(book, entry, chapters)
    if "test" in entry:
        yield from _test_problems(entry, suite)
    for name in frozen(entry):
        yield from result_problems(book.root / "results" / name)
    if "errata" in entry and f"({entry['errata']})=" not in (book.root / "book" / "errata.md").read_text("utf8"):
        yield f"book/errata.md has no anchor ({entry['errata']})="


def _place_problems(book: Project, entry: Entry, chapters: Sequence[str]) -> Iterator[str]:
    if entry["chapter"] not in chapters or not book.source(entry["chapter"]).is_file():
        yield f"there is no chapter {entry['chapter']}"
    elif (times := headings(book.source(entry["chapter"])).count(entry["section"])) != 1:
        found = "no heading" if not times else f"{times} headings"
        yield f"notebooks/{entry['chapter']}.py has {found} {entry['section']!r}"


def headings(notebook: Path) -> list[str]:
    """The section headings of a notebook's source, as they are written."""
    return re.findall(r"^# #{2,3} (.*?)\s*$", notebook.read_text("utf8"), re.MULTILINE)


def _test_problems(entry: Entry, suite: Suite) -> Iterator[str]:
    name, test = entry["id"], entry["test"]
    if test not in suite.functions:
        yield f"there is no test {test}"
        return
    own = [call for call in suite.calls if (call.test, call.id) == (test, name)]
    if not own:
        yield f"{test} does not call claim({name!r}, …)"
    for call in own:
        if call.verdict is not None and call.verdict != entry["verdict"]:
            yield f"{test} claims {call.verdict!r}, and the ledger {entry['verdict']!r}"
        if call.has_ours != ("ours" in entry):
            yield f"{test} {'gives' if call.has_ours else 'does not give'} a value, and the ledger is otherwise"
    if skipped := suite.functions[test][1]:
        yield f"{test} is marked {', '.join(sorted(skipped))}: what may not run supports nothing"


def frozen(entry: Entry) -> list[str]:
    """The frozen results that an entry names: one, a list, or none."""
    return _listed(entry.get("result", []))


def result_problems(folder: Path) -> Iterator[str]:
    """A frozen result that is not there, or not as its manifest says."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        yield f"there is no frozen result results/{folder.name}"
        return
    for name, file in json.loads(manifest.read_text("utf8"))["files"].items():
        if not (folder / name).is_file():
            yield f"results/{folder.name}/{name} is missing"
        elif project.sha256(folder / name) != file["sha256"]:
            yield f"results/{folder.name}/{name} is not the file of the manifest"


def _id_problems(entries: Sequence[Entry]) -> Iterator[str]:
    counts = Counter(entry["id"] for entry in entries)
    yield from (f"{name}: expected one entry, got {times}" for name, times in counts.items() if times > 1)
    numbers = set()
    for name in counts:
        if not (found := ID.fullmatch(name)) or found[1] + found[2] not in NUMBERED:
            yield f"{name}: expected a number of papers.md, with a letter or none, as in K9b"
        else:
            numbers.add(found[1] + found[2])
            if found[3] and found[1] + found[2] in counts:
                yield f"{name}: {found[1] + found[2]} stands beside it without a letter"
    yield from (f"{name}: the ledger has no entry for it" for name in NUMBERED if name not in numbers)


def _call_problems(entries: Sequence[Entry], suite: Suite) -> Iterator[str]:
    named = {entry["id"]: entry.get("test") for entry in entries}
    for call in suite.calls:
        where = f"{call.test} (line {call.line})"
        if call.id is None:
            yield f"{where}: expected the claim's id written out as the first argument"
        elif call.id not in named:
            yield f"{where}: the ledger has no claim {call.id!r}"
        elif named[call.id] != call.test:
            yield f"{where}: the ledger supports {call.id} by {named[call.id] or 'no test'}"


def _abstract_problems(book: Project, entries: Sequence[Entry]) -> Iterator[str]:
    marked = {entry["id"] for entry in entries if entry.get("abstract")}
    linked = {name for line in abstract(book) for name in line["claims"]}
    yield from (f"{name}: it is in the abstract, and book/abstract.yml does not name it" for name in marked - linked)
    yield from (f"{name}: book/abstract.yml names it, and it is not marked abstract" for name in linked - marked)
