"""The page that says how each result was made: frozen ones from their manifests, live ones from what ran.

Nothing on it is typed by hand. A manifest or a run that lacks a field is an error.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat

from tools import project
from tools.project import Project, ToolError

FIELDS = (
    "notebook", "command", "budget", "parameters", "sizes", "paper", "differs", "seeds", "seconds",
    "peak_memory_bytes", "commit", "dirty", "device", "platform", "python", "time", "versions", "files",
)  # fmt: skip
PROCESS = ("device", "platform", "python", "versions", "commit", "dirty", "time", "peak_memory_bytes", "data")
LONG = 10.0
"""Seconds: a cell that took longer is named."""
PROBE = "process"
QUESTION = """\
# Added by the runner, and taken out again after the last cell: where the notebook ran, and what that took.
def _process():
    import json, sys
    if "grae_helpers.runtime" not in sys.modules:
        return None
    import torch
    from grae_helpers import data, results, runtime
    where = torch.device("cuda" if torch.cuda.is_initialized() else "cpu")
    loaded = [value.source for value in globals().values() if isinstance(value, data.Images)]
    found = runtime.provenance(where) | {"peak_memory_bytes": results.peak_memory(), "data": sorted(set(loaded))}
    return json.dumps(found)

print(_process())"""

INTRODUCTION = """\
# How the results were made

What is said here of a **frozen** result stands in its manifest, whose checksums were compared with the files; what is
said of a **live** one was recorded while the chapter ran for this site.
[How results are labelled](intro.md#how-results-are-labelled) explains the two words, and the budgets `test`, `book`
and `full`.

Wall times are those of the machine named beside them. Peak memory is the most that the process held at any moment,
libraries included; processes that it started are not counted.
"""


def page(book: Project, chapters: dict[str, Path]) -> str:
    """The whole page, as MyST Markdown."""
    ran = {stem: _ran(stem, path) for stem, path in chapters.items()}
    titles = {stem: _title(notebook) for stem, notebook in ran.items()}
    manifests = {folder.name: manifest(folder) for folder in sorted((book.root / "results").glob("*/"))}
    for name, found in manifests.items():
        if found["notebook"] not in titles:
            wanted = "expected the result of a chapter of _toc.yml"
            raise ToolError(f"results/{name}: {wanted}, got {found['notebook']!r}")
    parts = [INTRODUCTION, *_frozen_part(book, manifests, titles), *_live_part(book, ran, titles)]
    return "\n".join(parts) + "\n"


def manifest(folder: Path) -> dict:
    """A frozen result's manifest; a ToolError for a field that it lacks, or a file that is not as it says."""
    path = folder / "manifest.json"
    try:
        found = json.loads(path.read_text("utf8"))
    except (OSError, ValueError) as error:
        raise ToolError(f"{_named(path)}: expected the manifest of a frozen result ({error})") from error
    _complete(_named(path), found, FIELDS)
    for name, file in found["files"].items():
        if not (folder / name).is_file() or project.sha256(folder / name) != file["sha256"]:
            raise ToolError(f"{_named(folder / name)}: expected a file of sha256 {file['sha256']}, its manifest's")
    return found


def _named(path: Path) -> str:
    return "/".join(path.parts[-3:])


def _complete(where: str, found: object, fields: tuple[str, ...]) -> None:
    missing = [field for field in fields if not isinstance(found, dict) or field not in found]
    if missing:
        raise ToolError(f"{where}: lacks {', '.join(missing)}")


# What a run leaves


def ask(path: Path) -> None:
    """Append to the notebook at `path`, before it runs, a cell that tells where it ran and what that took."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(QUESTION, id=PROBE))
    nbformat.write(notebook, path)


def told(notebook: nbformat.NotebookNode) -> dict | None:
    """Take that cell out of a notebook again, and return its answer; None where the package was not used."""
    places = [place for place, cell in enumerate(notebook.cells) if cell.get("id") == PROBE]
    if not places:
        return None
    texts = ["".join(output.get("text", "")) for output in notebook.cells.pop(places[0]).outputs]
    answer = "".join(texts).strip()
    return None if answer in ("", "None") else json.loads(answer)


def _ran(stem: str, path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    _complete(f"{stem}: the record of its run", notebook.metadata.get("grae"), ("parameters", PROBE))
    _complete(f"{stem}: the record of its process", notebook.metadata["grae"][PROBE], PROCESS)
    _complete(f"{stem}: papermill's record", notebook.metadata.get("papermill"), ("duration", "parameters"))
    return notebook


def _title(notebook: nbformat.NotebookNode) -> str:
    return notebook.cells[0].source.splitlines()[0].removeprefix("# ").strip()


def slow_cells(notebook: nbformat.NotebookNode) -> list[tuple[str, float]]:
    """The cells that took more than LONG seconds, each by the heading above it."""
    heading, found = "", []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heads = [line.lstrip("# ") for line in cell.source.splitlines() if line.startswith(("# ", "## ", "### "))]
            heading = heads[-1] if heads else heading
        elif (seconds := cell.metadata.get("papermill", {}).get("duration") or 0) > LONG:
            found.append((heading, seconds))
    return found


# The two parts


def _frozen_part(book: Project, manifests: dict[str, dict], titles: dict[str, str]) -> Iterator[str]:
    yield "## Frozen results\n"
    yield "| result | device | time | memory |\n|---|---|---|---|"
    for name, found in manifests.items():
        memory = _memory(found["peak_memory_bytes"])
        yield f"| [{_spaced(name)}](#{name}) | {found['device']} | {duration(found['seconds'])} | {memory} |"
    yield ""
    for name, found in manifests.items():
        yield from _frozen(book, name, found, titles[found["notebook"]])


def _frozen(book: Project, name: str, found: dict, title: str) -> Iterator[str]:
    # The name is the anchor that other pages link to: Sphinx would make another one of it.
    yield f'<span id="{name}"></span>\n\n### {name}\n'
    differs = [f"{key}: {_text(ours)} instead of {_text(its)}" for key, (ours, its) in found["differs"].items()]
    yield from _list(
        ("Chapter", f"[{title}](notebooks/{found['notebook']}.ipynb)"),
        ("Differs from the paper", "; ".join(differs) or "in no size that the paper states"),
        ("Budget", f"`{found['budget']}`"),
        ("Parameters", parameters(found["parameters"])),
        ("What the budget stood for", parameters(found["sizes"])),
        ("Seeds", _text(found["seeds"])),
        ("Wall time", duration(found["seconds"])),
        ("Peak memory", _memory(found["peak_memory_bytes"])),
        *_where(book, found),
        ("Command", f"```bash\n{found['command']}\n```"),
        ("Files", "\n".join(_files(found["files"]))),
    )


def _files(files: dict[str, dict]) -> Iterator[str]:
    for name, file in files.items():
        yield f"- `{name}`, {_bytes(file['bytes'])}, sha256 `{file['sha256']}`"


def _live_part(book: Project, ran: dict[str, nbformat.NotebookNode], titles: dict[str, str]) -> Iterator[str]:
    yield "## Live results\n"
    processes = {stem: notebook.metadata["grae"][PROBE] for stem, notebook in ran.items()}
    where = {stem: dict(_where(book, process)) for stem, process in processes.items()}
    same = {key: value for key, value in next(iter(where.values()), {}).items() if _agreed(where, key, value)}
    if same:
        yield "For all chapters:\n"
        yield from _list(*same.items())
    yield "| chapter | budget | time | memory |\n|---|---|---|---|"
    for stem, notebook in ran.items():
        yield f"| [{titles[stem]}](#run-{stem.split('_')[0]}) | {' | '.join(_summary(notebook))} |"
    yield ""
    for stem, notebook in ran.items():
        other = {key: value for key, value in where[stem].items() if key not in same}
        yield from _live(stem, notebook, titles[stem], other)


def _agreed(where: dict[str, dict], key: str, value: str) -> bool:
    return len(where) > 1 and all(found[key] == value for found in where.values())


def _summary(notebook: nbformat.NotebookNode) -> tuple[str, str, str]:
    record = notebook.metadata["grae"]
    seconds = notebook.metadata["papermill"]["duration"]
    budget = record["parameters"].get("budget", "none")
    return f"`{budget}`", duration(seconds), _memory(record[PROBE]["peak_memory_bytes"])


def _live(stem: str, notebook: nbformat.NotebookNode, title: str, where: dict[str, str]) -> Iterator[str]:
    record, (budget, seconds, memory) = notebook.metadata["grae"], _summary(notebook)
    given = notebook.metadata["papermill"]["parameters"]
    slow = [f"{duration(took)} under “{heading}”" for heading, took in slow_cells(notebook)]
    # A label, since the chapter's own page has the title as its anchor.
    yield f"(run-{stem.split('_')[0]})=\n### {title}\n"
    yield from _list(
        ("Chapter", f"[`{stem}`](notebooks/{stem}.ipynb)"),
        ("Budget", budget),
        ("Parameters", parameters(record["parameters"])),
        ("Set for this run", parameters(given) if given else "nothing: the chapter's own defaults"),
        ("Data", "; ".join(record[PROBE]["data"]) or "made by the chapter itself"),
        ("Wall time", seconds),
        (f"Cells over {LONG:g} s", "; ".join(slow) or "none"),
        ("Peak memory", memory),
        *where.items(),
    )


def _where(book: Project, found: dict) -> list[tuple[str, str]]:
    """Where it ran, and with what: the same for both kinds of result."""
    commit = "unknown"
    if found["commit"]:
        commit = f"[`{found['commit'][:7]}`]({book.repository}/commit/{found['commit']})"
    changed = ", with changes that were not committed" if found["dirty"] else ""
    return [
        ("Device", found["device"]),
        ("System", f"{' '.join(found['platform'].split('-')[:2])}, Python {found['python']}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
        ("Commit", commit + changed),
        ("Day", str(found["time"])[:10]),
    ]


# How things are written


def _list(*entries: tuple[str, str]) -> Iterator[str]:
    """A list of terms and what they are, which a phone shows as well as a wide screen."""
    yield ":::{container} made\n"
    for term, text in entries:
        yield f"{term}\n: " + text.replace("\n", "\n  ") + "\n"
    yield ":::\n"


def parameters(values: dict[str, object]) -> str:
    """Parameters, or sizes, as code.

    >>> parameters({"beta": 0.4, "dataset": "mnist"})
    '`beta = 0.4`, `dataset = "mnist"`'
    """
    return ", ".join(f"`{name} = {json.dumps(value, ensure_ascii=False)}`" for name, value in values.items())


def duration(seconds: float) -> str:
    """Seconds as a reader says them.

    >>> duration(7.4), duration(75), duration(8512)
    ('7 s', '1 min 15 s', '2 h 22 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60} min"


def _memory(peak: dict[str, int | None]) -> str:
    host = "not recorded" if peak["host"] is None else _bytes(peak["host"])
    return f"{host}, GPU {_bytes(peak['cuda'])}" if peak["cuda"] else host


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _spaced(name: str) -> str:
    return name.replace("_", " ")
