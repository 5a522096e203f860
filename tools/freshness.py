"""What the result of a notebook depends on, as one hash: where it is the same, the run need not be made again.

In it are the notebook itself, those of the package's modules that its code imports (and what these import),
other notebooks that its code names, its parameters, its frozen results, the versions of every library, what
$GRAE_DATA holds, and whether there is a GPU.
"""

import ast
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import grae_helpers
from grae_helpers import downloads, executors, notebooks
from tools import made, project, stamps
from tools.project import Project

PACKAGE = Path(grae_helpers.__file__).parent


def key(book: Project, source: Path, parameters: dict) -> str:
    """The hash for one notebook with all its parameters, the defaults among them."""
    sources = _notebooks(book, source)
    files = [*sources, *_modules(sources), *(PACKAGE / "weights").glob("*"), *_results(book, source)]
    parts = {
        "files": sorted((path.parent.name, path.name, project.sha256(path)) for path in files),
        "parameters": parameters,
        "recorded": made.QUESTION,
        "libraries": stamps.libraries(),
        "data": list(_data()),
        "gpus": executors.gpus(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()


def _notebooks(book: Project, source: Path) -> list[Path]:
    """The notebook, and those that its code runs: they are named there."""
    found, waiting = [], [source]
    while waiting:
        found.append(waiting.pop())
        text = _code(found[-1])
        named = [other for other in book.sources if re.search(rf"\b{re.escape(other.stem)}\b", text)]
        waiting += [other for other in named if other not in [*found, *waiting]]
    return found


def _code(source: Path) -> str:
    return "\n".join(cell.source for cell in notebooks.read(source).cells if cell.cell_type == "code")


def _modules(sources: Iterable[Path]) -> list[Path]:
    """Every module of the package that the notebooks import, directly or through others."""
    found, waiting = set(), {name for source in sources for name in _imported(_code(source))} | {"__init__"}
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= set(_imports_of(name)) - found
    return [PACKAGE / f"{name}.py" for name in sorted(found)]


@cache
def _imports_of(name: str) -> tuple[str, ...]:
    return tuple(_imported((PACKAGE / f"{name}.py").read_text("utf8")))


def _imported(code: str) -> Iterator[str]:
    """The package's modules that a piece of code imports, also within a function or as the text of a command.

    All of them, if it is no plain Python: a `%magic`, or a slip that its own run reports.
    """
    try:
        tree = ast.parse(code)
    except SyntaxError:
        yield from sorted(path.stem for path in PACKAGE.glob("*.py"))
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("grae_helpers", None):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").removeprefix("grae_helpers.")]
        elif isinstance(node, ast.Import):
            names = [alias.name.removeprefix("grae_helpers.") for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = re.findall(r"grae_helpers\.(\w+)", node.value)
        else:
            continue
        yield from (name for name in names if (PACKAGE / f"{name}.py").is_file())


def _results(book: Project, source: Path) -> list[Path]:
    """The frozen results of this notebook: their folders begin with its name."""
    folder = Path(os.environ.get("GRAE_RESULTS") or book.root / "results").expanduser()
    return sorted(path for path in folder.glob(f"{source.stem}*/*") if path.is_file())


def _data() -> Iterator[tuple]:
    """What lies in $GRAE_DATA: with other data, `auto` is another data set. (A run fills the cache by itself.)"""
    folder = downloads.data_root()
    if folder is not None:
        yield from sorted((path.name, path.is_dir() or path.stat().st_size) for path in folder.iterdir())
