"""Notebooks as programs: read one, know its parameters, run it, and read the numbers that it recorded."""

import ast
import functools
import importlib
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

RECORD = "application/vnd.grae.record+json"
"""The mime type of the output with which a notebook publishes its numbers: see `results.record`."""
COLUMNS = ("job", "seconds", "commit")
"""Columns of a sweep's table beside parameters and recorded numbers, which can have none of these names."""
ANSI = re.compile(r"\x1b\[[0-9;]*m")
FOLDERS = ("GRAE_DATA", "GRAE_CACHE", "GRAE_RESULTS")
WIDTH = 1000  # characters of a line of a traceback that are shown: an error may quote megabytes
SHOWN = 6  # numbers of a record that a notebook's reader sees
START_SECONDS = 300  # until a kernel must answer: a busy machine is slow, not broken


class BadInput(ValueError):
    """Something the caller can put right: a program prints it as a message and ends with status 2."""


def needs(name: str, extra: str = "sweep") -> ModuleType:
    """Import a package that `grae_helpers` does not require; BadInput says which extra brings it.

    >>> needs("json").__name__
    'json'
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise BadInput(f'{name} is needed for this: pip install "grae-helpers[{extra}]" ({error})') from error


@dataclass(frozen=True)
class Parameter:
    """A parameter that a notebook declares: its name, type as written, default and line of help."""

    name: str
    type: str
    default: object
    help: str

    def __str__(self) -> str:
        return f"{self.name}: {self.type} = {self.default!r}" + (f"  # {self.help}" if self.help else "")


def read(source: Path):
    """A py:percent script, or an .ipynb without its outputs, as a notebook.

    Cells are numbered, so that equal sources give equal files. Raises BadInput for what is neither.
    """
    jupytext = needs("jupytext")
    try:
        notebook = jupytext.read(source, fmt="ipynb" if source.suffix == ".ipynb" else "py:percent")
    except Exception as error:
        kind = "notebook" if source.suffix == ".ipynb" else "py:percent notebook"
        raise BadInput(f"{source.name}: not a {kind} ({error})") from error
    for number, cell in enumerate(notebook.cells, start=1):
        cell["id"] = f"cell-{number:03d}"
        if cell.cell_type == "code":
            cell["outputs"], cell["execution_count"] = [], None
    notebook.metadata.setdefault("kernelspec", {"name": "python3", "display_name": "Python 3", "language": "python"})
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def declared(notebook, name: str = "notebook") -> dict[str, Parameter]:
    """The parameters that a notebook declares, as papermill reads the cell tagged `parameters`.

    Raises BadInput for a type other than int, float, bool, str and lists of them, and for a default that is
    no literal.
    """
    needs("papermill")
    translator = importlib.import_module("papermill.translators").PythonTranslator
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    found = translator.inspect(tagged[0]) if tagged else []
    return {entry.name: _parameter(name, entry) for entry in found}


def _parameter(notebook: str, entry) -> Parameter:
    name, kind = entry.name, str(entry.inferred_type_name).replace(" ", "")
    if kind not in _SCALARS and not item_type(kind):
        known = "int, float, bool, str and lists of them"
        raise BadInput(f"{notebook}: parameter {name} has the type {kind}; known are {known}")
    try:
        default = ast.literal_eval(entry.default)
    except (ValueError, SyntaxError):
        raise BadInput(f"{notebook}: the default of {name} should be a literal, got {entry.default}") from None
    return Parameter(name, kind, default, (entry.help or "").strip())


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError
    return int(text)


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


_SCALARS = {"int": _integer, "float": float, "bool": _boolean, "str": str}
_WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}


def item_type(kind: str) -> str | None:
    """What a list type holds; None for a type that is no list.

    >>> item_type("list[float]"), item_type("float")
    ('float', None)
    """
    match = re.fullmatch(r"list\[(int|float|bool|str)\]", kind)
    return match[1] if match else None


def _unfit(parameter: Parameter, value: object) -> BadInput:
    item = item_type(parameter.type)
    wanted = _WANTED[parameter.type] if item is None else f"a list such as 1,2,3, each item {_WANTED[item]}"
    return BadInput(f"{parameter.name}: expected {wanted} ({parameter.type}), got {value!r}")


def convert(parameter: Parameter, text: str) -> object:
    """The value that `text` stands for; a list is written 1,2,3 or [1, 2, 3].

    >>> convert(Parameter("betas", "list[float]", [], ""), "0.1, 1")
    [0.1, 1.0]
    """
    item = item_type(parameter.type)
    try:
        if item is None:
            return _SCALARS[parameter.type](text.strip())
        parts = [part.strip().strip("\"'") for part in text.strip().strip("[]").split(",")]
        return [_SCALARS[item](part) for part in parts if part]
    except (ValueError, KeyError):
        raise _unfit(parameter, text) from None


def fit(parameter: Parameter, value: object) -> object:
    """The value itself, if it has the parameter's type; an integer will do for a float.

    >>> fit(Parameter("beta", "float", 1.0, ""), 2)
    2.0
    """
    item = item_type(parameter.type)
    values = [value] if item is None else value
    if not isinstance(values, list | tuple):
        raise _unfit(parameter, value)
    fitted = [_plain(item or parameter.type, part) for part in values]
    if None in fitted:
        raise _unfit(parameter, value)
    return fitted[0] if item is None else fitted


def _plain(kind: str, value: object) -> object | None:
    """The value as a plain Python one of the type, numpy's scalars included, or None if it is of another."""
    value = value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value
    if kind == "float" and type(value) is int:
        value = float(value)
    return value if type(value).__name__ == kind else None


def check(name: str, parameters: Mapping[str, object]) -> None:
    """Refuse values that `runtime.check_parameters` refuses, as BadInput, before any cell runs."""
    from grae_helpers import runtime  # brings torch, which a worker that only runs notebooks need not load

    try:
        runtime.check_parameters(**parameters)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name}: {error}") from error


def recorded(notebook) -> tuple[dict[str, object], dict]:
    """What `results.record` published in an executed notebook: its numbers, and where they were computed.

    Raises ValueError for a name recorded twice, and for a record that `results.record` did not write.
    """
    numbers, provenance = {}, {}
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for record in (output["data"][RECORD] for output in outputs if RECORD in output.get("data", {})):
        if not isinstance(record, dict) or not isinstance(record.get("numbers"), list):
            raise ValueError(f"record: expected what results.record publishes, got {record!r}")
        for name, value in record["numbers"]:
            if name in numbers:
                raise ValueError(f"{name}: recorded twice")
            numbers[name] = float(value["float"]) if isinstance(value, dict) else value
        provenance |= record.get("provenance", {})
    return numbers, provenance


def publish(numbers: Mapping[str, object], provenance: Mapping[str, object]) -> dict[str, object]:
    """The output data that `recorded` reads.

    JSON has no NaN nor infinity, so these are written as texts; and a list of pairs keeps its order, which the keys
    of a notebook's file do not.

    >>> publish({"fid": 2.5, "kid": float("nan")}, {})[RECORD]["numbers"]
    [['fid', 2.5], ['kid', {'float': 'nan'}]]
    """
    odd = {name for name, value in numbers.items() if isinstance(value, float) and not math.isfinite(value)}
    safe = [[name, {"float": repr(value)} if name in odd else value] for name, value in numbers.items()]
    shown = ", ".join(f"{name} = {value}" for name, value in list(numbers.items())[:SHOWN])
    shown += f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return {RECORD: {"numbers": safe, "provenance": dict(provenance)}, "text/plain": f"recorded: {shown}"}


def kernel_command() -> list[str]:
    """How to start a kernel that is this interpreter, whatever kernels the user has, silent about its sockets."""
    make = importlib.import_module("ipykernel.kernelspec").make_ipkernel_cmd
    return make(extra_arguments=["--log-level=CRITICAL"])


def environment(**changes: str) -> dict[str, str]:
    """The variables of a kernel: this process's, with changes, and a plain checkout of the package importable.

    Folders that they name are made absolute, since the kernel may run in another one than this process.
    """
    checkout = Path(__file__).resolve().parents[1]
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if (checkout / "pyproject.toml").is_file():
        paths = [str(checkout), *(path for path in paths if path != str(checkout))]
    found = {name: os.environ[name] for name in FOLDERS if os.environ.get(name)}
    found = {name: os.path.abspath(os.path.expanduser(place)) for name, place in found.items()}
    found |= {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
    return os.environ | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"} | found | changes


def run(
    path: Path, parameters: Mapping[str, object], *, cwd: Path, env: Mapping[str, str], cell_seconds=None
) -> None:
    """Run the notebook at `path` in place, with these parameters, in a kernel that is this interpreter.

    The kernel gets its own folder and variables; those of this process stay, which threads rely on. Raises
    papermill's error, the notebook then holding what ran and the traceback.
    """
    _engine()
    options = {"kernel_name": "python3", "progress_bar": False, "start_timeout": START_SECONDS}
    options |= {"execution_timeout": cell_seconds, "engine_name": "grae"}
    started = {"cwd": str(cwd), "env": dict(env)}
    papermill = importlib.import_module("papermill")
    papermill.execute_notebook(path, path, parameters=dict(parameters), kernel_options=started, **options)


@functools.cache
def _engine() -> None:
    """Register papermill's own engine under another name, with a kernel of our choosing."""
    engines = importlib.import_module("papermill.engines")
    client = importlib.import_module("papermill.clientwrap").PapermillNotebookClient
    manager = importlib.import_module("jupyter_client.manager").AsyncKernelManager
    spec = importlib.import_module("jupyter_client.kernelspec").KernelSpec

    class Manager(manager):
        kernel_spec = property(lambda self: spec(argv=kernel_command(), language="python"))

    class Engine(engines.NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, kernel_options=None, **options):
            limits = {"timeout": options.get("execution_timeout"), "startup_timeout": options["start_timeout"]}
            # A loaded machine may deliver a cell's last outputs late; they are waited for.
            limits |= {"iopub_timeout": START_SECONDS, "kernel_name": kernel_name}
            return client(nb_man, kernel_manager_class=Manager, **limits).execute(**kernel_options)

    engines.papermill_engines.register("grae", Engine)


def describe(error: Exception, lines: int = 25) -> str:
    """The failing cell and the end of its traceback, short enough to read in a log."""
    papermill = sys.modules.get("papermill")
    if papermill is None or not isinstance(error, papermill.PapermillExecutionError):
        return f"{type(error).__name__}: {ANSI.sub('', str(error)).strip()}"
    trace = ANSI.sub("", "\n".join(error.traceback)).splitlines()
    shown = trace if len(trace) <= lines else ["...", *trace[-lines:]]
    head = ANSI.sub("", f"cell [{error.exec_count}] raised {error.ename}: {error.evalue}").splitlines()
    return "\n".join(line if len(line) <= WIDTH else f"{line[:WIDTH]} ..." for line in [*head[:lines], *shown])


def load(path: Path):
    """An .ipynb as it lies on the disk."""
    return importlib.import_module("nbformat").from_dict(json.loads(path.read_text("utf8")))


def write(notebook, path: Path) -> Path:
    """Write an .ipynb, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    importlib.import_module("nbformat").write(notebook, path)
    return path
