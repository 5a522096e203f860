"""The API reference, page by page, from the package's sources: signatures, docstrings, and where they stand.

Nothing is imported, so that staging stays quick and needs no torch. A docstring is Markdown with formulas in plain
characters, which must not be taken for markup.
"""

import ast
import inspect
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from tools import api_sources
from tools.api_sources import PACKAGE, Entry, Module
from tools.project import Project, ToolError

PAGES: dict[str, tuple[str, str, list[str]]] = {
    "api_losses": (
        "Losses",
        "The objectives, and the terms that they are made of.",
        ["losses", "regularizers"],
    ),
    "api_derivatives": (
        "Derivatives of the decoder",
        "Jacobians, Hessians and their products, and how a decoder is run while they are taken.",
        ["jacobians", "tangents", "decoding"],
    ),
    "api_distributions": (
        "Posteriors and likelihoods",
        "The Gaussian families of posteriors, the observation models, and priors with known marginals.",
        ["posteriors", "likelihoods", "priors"],
    ),
    "api_data": (
        "Data and models",
        "Images, where they come from, the networks, and what every chapter starts with.",
        [
            "runtime", "checks", "data", "models", "classifiers", "procedural", "portraits", "drawing", "folders",
            "archives", "downloads", "storage",
        ],
    ),
    "api_training": (
        "Training",
        "One training loop, its steps and checkpoints, and the models of Part III.",
        ["training", "autoencoders", "stepping", "runs", "checkpoints"],
    ),
    "api_studies": (
        "Studies",
        "What the chapters measure: identifiability, models that can be solved, geometry, smoothness, FID.",
        [
            "identifiability", "angles", "uniqueness", "toy_vae", "linear_vae", "dependence", "quadrature",
            "geometry", "smoothness", "fid", "frechet", "features",
        ],
    ),
    "api_reporting": (
        "Reporting",
        "Frozen results, the paper's numbers and the verdicts on them, figures and sliders.",
        [
            "results", "published", "plotting", "plotting_theory", "plotting_latents", "plotting_dependence",
            "plotting_uniqueness", "plotting_training", "plotting_samples", "plotting_fid", "sliders",
        ],
    ),
    "api_sweep": (
        "Sweeps",
        "A notebook over a grid of parameters, on this machine or a cluster.",
        ["sweep", "grids", "jobs", "executors", "notebooks"],
    ),
}  # fmt: skip
"""Page of _toc.yml → its title, a sentence, and the modules on it."""


@lru_cache(maxsize=1)
def read(book: Project) -> dict[str, Module]:
    """Every module of the package, by name; a ToolError where PAGES misses one, or names one that is not there."""
    paths = {path.stem: path for path in (book.root / PACKAGE).glob("*.py") if path.stem != "__init__"}
    named = [name for _, _, names in PAGES.values() for name in names]
    if sorted(named) != sorted(paths):
        wrong = sorted(set(named) ^ set(paths)) or sorted({name for name in named if named.count(name) > 1})
        raise ToolError(f"tools/api.py: PAGES should name each module of {PACKAGE} once; look at {', '.join(wrong)}")
    return api_sources.read({name: ast.parse(paths[name].read_text("utf8")) for name in named})


def targets(modules: dict[str, Module]) -> dict[str, str]:
    """What a docstring may call something by → its full name: `losses.grae`, and `losses` for the module."""
    found = {name: f"{PACKAGE}.{name}" for name in modules}
    for name, module in modules.items():
        found |= {f"{name}.{entry.name}": f"{PACKAGE}.{name}.{entry.name}" for entry in module.walk()}
    return found


def markdown(doc: str, link: Callable[[str], str | None] = lambda name: None) -> str:
    """A docstring as Markdown: prose word for word, examples and indented lines as code.

    `link` gives the full name of what a span of code names, or None.

    >>> print(markdown("Σ_c J_c * [x]_i of `f`, once."))
    Σ\\_c J\\_c \\* \\[x\\]\\_i of `f`, once.
    """
    blocks = re.split(r"\n[ \t]*\n", doc.strip("\n"))
    return "\n\n".join(_block(block, link) for block in blocks if block)


def _block(block: str, link: Callable[[str], str | None]) -> str:
    if block.startswith(">>>"):
        return f"```pycon\n{block}\n```"
    if all(line.startswith("    ") for line in block.splitlines()):
        return f"```text\n{inspect.cleandoc(block)}\n```"
    if block.startswith("- "):
        items = re.split(r"^- ", block, flags=re.M)[1:]
        return "\n".join(f"- {_prose(item, link)}" for item in items)
    return _prose(block, link)


def _prose(text: str, link: Callable[[str], str | None]) -> str:
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(_code(part, link) if n % 2 else _plain(part) for n, part in enumerate(parts))


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>{}$|#~&])", r"\\\1", text).replace("--", "\\--")


def _code(span: str, link: Callable[[str], str | None]) -> str:
    name = span.strip("`")
    target = link(name)
    return f"{{py:obj}}`{name} <{target}>`" if target else span


def page(book: Project, name: str) -> str:
    """One page of the reference, as MyST Markdown with Sphinx's Python directives."""
    title, sentence, names = PAGES[name]
    modules = read(book)
    known, source = targets(modules), f"{book.repository}/blob/{_commit(book)}/{PACKAGE}"
    parts = [f"# {title}", f"{sentence} Part of the [API reference](api.md)."]
    return "\n\n".join([*parts, *(_written(modules[module], known, source) for module in names)]) + "\n"


def _commit(book: Project) -> str:
    """The last commit that changed the package: with another one, other pages would stay as they are."""
    return book.git("log", "-1", "--format=%H", "--", PACKAGE) or "main"


def _written(module: Module, known: dict[str, str], source: str) -> str:
    def link(name: str, signature: str = "") -> str | None:
        if re.search(rf"\b{re.escape(name)}: ", signature):  # a parameter, whatever else has its name
            return None
        return known.get(f"{module.name}.{name}") or (known.get(name) if "." in name else None)

    parts = [f"## {module.name}", f":::{{py:module}} {PACKAGE}.{module.name}\n:::", markdown(module.doc, link)]
    return "\n\n".join([*parts, *(_directive(entry, module.name, link, source) for entry in module.entries)])


def _directive(entry: Entry, module: str, link: Callable[[str, str], str | None], source: str) -> str:
    """An entry with its members; a fence is longer than those inside it."""
    fence = "::::" if entry.members else ":::"
    first, last = entry.lines
    where = f"[Source: {module}.py, line {first}]({source}/{module}.py#L{first}-L{last})"
    doc = markdown(entry.doc, lambda name: link(name, entry.signature))
    members = [_directive(member, module, link, source) for member in entry.members]
    head = f"{fence}{{py:{entry.kind}}} {entry.name}{entry.signature}"
    return "\n\n".join([head, *filter(None, [doc]), where, *members, fence])


def overview(book: Project, chapters: dict[str, Path]) -> str:
    """The first page: how to read the others, and every module in a sentence."""
    modules = read(book)
    known = targets(modules)
    parts = ["# API reference", OPENING.replace("REPOSITORY", f"{book.repository}.git")]
    for page, (title, sentence, names) in PAGES.items():
        rows = [f"- {{py:mod}}`{n} <{PACKAGE}.{n}>`: {_sentence(modules[n], known)}" for n in names]
        parts += [f"## [{title}]({page}.md)", sentence, "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def _sentence(module: Module, known: dict[str, str]) -> str:
    return markdown(module.doc.partition("\n\n")[0], known.get)


OPENING = """\
The package behind the book, `grae_helpers`, for use from your own code. It is installed by

```bash
pip install "grae-helpers @ git+REPOSITORY"
```

and regularises an autoencoder in a line:

```pycon
>>> import torch
>>> from grae_helpers import likelihoods, losses
>>> encoder, decoder = torch.nn.Linear(6, 2), torch.nn.Linear(2, 6)
>>> x, pixels = torch.zeros(8, 6), likelihoods.Gaussian()
>>> terms = losses.grae_approx(x, encoder(x), decoder, pixels, beta=0.1)
>>> terms.total.mean().backward()
```

[Somebody else's autoencoder](notebooks/34_your_own_autoencoder.ipynb) does this with a real model.

Everything is per sample, in nats, with normalised log-densities, to be minimised. Shapes are given in brackets:
*batch*, *D* numbers of an observation, *d* latents. Formulas are written in plain characters, and
[Notation](notation.md) says what a symbol means. An argument that cannot be right raises at once, naming what was
expected and what came. The examples run as tests."""

GENERATED = {"api": overview} | {name: lambda book, chapters, name=name: page(book, name) for name in PAGES}
"""The pages, as `stage_book` asks for them."""
