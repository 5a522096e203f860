"""A notebook's parameters: what its cell declares, and whether given values fit, before any cell runs."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from papermill import inspect_notebook

from grae_helpers.runtime import check_parameters
from tools.project import ToolError

COMMON = ("budget", "dataset", "seed", "device")
"""Given to every chosen notebook that knows them; any other parameter must be known to all of them."""


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str
    default: object
    help: str

    def __str__(self) -> str:
        return f"{self.name}: {self.type} = {self.default!r}" + (f"  # {self.help}" if self.help else "")


def declared(path: Path) -> dict[str, Parameter]:
    """The parameters that a notebook file declares, as papermill reads its parameters cell."""
    return {name: _parameter(path, entry) for name, entry in inspect_notebook(path).items()}


def _parameter(path: Path, entry: dict) -> Parameter:
    name, kind = entry["name"], entry["inferred_type_name"].replace(" ", "")
    if kind not in _SCALARS and not _item_type(kind):
        known = "int, float, bool, str and lists of them"
        raise ToolError(f"{path.stem}: parameter {name} has the type {kind}; known are {known}")
    try:
        default = ast.literal_eval(entry["default"])
    except (ValueError, SyntaxError):
        given = entry["default"]
        raise ToolError(f"{path.stem}: the default of {name} should be a literal, got {given}") from None
    return Parameter(name, kind, default, (entry["help"] or "").strip())


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError
    return int(text)


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


_SCALARS = {"int": _integer, "float": float, "bool": _boolean, "str": str}
_WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}


def _item_type(kind: str) -> str | None:
    match = re.fullmatch(r"list\[(int|float|bool|str)\]", kind)
    return match[1] if match else None


def convert(parameter: Parameter, text: str) -> object:
    """The value that `text` stands for; a list is written 1,2,3 or [1, 2, 3].

    >>> convert(Parameter("betas", "list[float]", [], ""), "0.1, 1")
    [0.1, 1.0]
    """
    item = _item_type(parameter.type)
    try:
        if item is None:
            return _SCALARS[parameter.type](text.strip())
        parts = [part.strip().strip("\"'") for part in text.strip().strip("[]").split(",")]
        return [_SCALARS[item](part) for part in parts if part]
    except (ValueError, KeyError):
        wanted = (
            _WANTED[parameter.type] if item is None else f"a list such as 1,2,3, each item {_WANTED[item]}"
        )
        raise ToolError(f"{parameter.name}: expected {wanted} ({parameter.type}), got {text!r}") from None


def assign(known: dict[str, dict[str, Parameter]], given: dict[str, str]) -> dict[str, dict[str, object]]:
    """For each notebook the values that differ from its defaults.

    `known` maps a notebook to its parameters, `given` a name to its text. Raises ToolError for a name that no
    notebook knows, for one that only some of them know (unless it is in COMMON), for a wrong type, and for a
    value that cannot be right.
    """
    for name in given:
        _known_to_all(known, name)
    return {notebook: _values(notebook, parameters, given) for notebook, parameters in known.items()}


def _known_to_all(known: dict[str, dict[str, Parameter]], name: str) -> None:
    missing = [notebook for notebook, parameters in known.items() if name not in parameters]
    if missing and (name not in COMMON or len(missing) == len(known)):
        listing = "\n".join(f"  {notebook}\n" + _listing(known[notebook]) for notebook in missing)
        raise ToolError(f"no parameter {name!r} in {', '.join(missing)}. Known parameters:\n{listing}")


def _listing(parameters: dict[str, Parameter]) -> str:
    return "\n".join(f"    {parameter}" for parameter in parameters.values()) or "    (none)"


def _values(notebook: str, parameters: dict[str, Parameter], given: dict[str, str]) -> dict[str, object]:
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    values = {name: convert(parameters[name], text) for name, text in given.items() if name in parameters}
    try:
        check_parameters(**{**defaults, **values})
    except (TypeError, ValueError) as error:
        raise ToolError(f"{notebook}: {error}") from error
    return {name: value for name, value in values.items() if not _same(value, defaults[name])}


def _same(value: object, default: object) -> bool:
    return type(value) is type(default) and value == default
