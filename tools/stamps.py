"""What a step of the build depends on, as one hash: a step whose hash is that of its last run has nothing to do."""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tools.project import Project

PASSED_OVER = {"__pycache__", ".ipynb_checkpoints"}


def digest(paths: Iterable[Path], base: Path) -> str:
    """The names below `base` and the content of files, and of all files in folders; what is missing counts too."""
    total = hashlib.sha256()
    for file in sorted({file for path in paths for file in _files(path)}):
        content = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"
        total.update(f"{os.path.relpath(file, base)}\0{content}\n".encode())
    return total.hexdigest()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [file for file in path.rglob("*") if file.is_file() and not PASSED_OVER & set(file.parts)]


def key(*parts: object) -> str:
    """One hash of several, with every library's version: each may write another page."""
    return hashlib.sha256(json.dumps([*parts, libraries()]).encode()).hexdigest()


@cache
def libraries() -> list[str]:
    """Python and every installed package: any of them may change a number or a page."""
    found = {f"{made.name}=={made.version}" for made in importlib.metadata.distributions()}
    return [platform.python_version(), *sorted(found)]


def read(book: Project, step: str) -> dict:
    """What the last run of a step left: {} where there was none, or its stamp cannot be read."""
    try:
        return json.loads(_stamp(book, step).read_text("utf8"))
    except (OSError, ValueError):
        return {}


def write(book: Project, step: str, **parts: str) -> None:
    _stamp(book, step).write_text(json.dumps(parts, indent=1), "utf8")


def forget(book: Project, step: str) -> None:
    """Before a step begins: one that is interrupted has not been done."""
    _stamp(book, step).unlink(missing_ok=True)


def _stamp(book: Project, step: str) -> Path:
    return book.build / f".{step}.json"
