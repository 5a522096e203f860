"""What the sources of the package say of its public names: signatures, docstrings, lines. Nothing is imported."""

import ast
import copy
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

PACKAGE = "grae_helpers"


@dataclass(frozen=True)
class Entry:
    """Something public of a module: its name there, what it is to Sphinx, and what its source says of it."""

    name: str
    kind: str
    signature: str
    doc: str
    lines: tuple[int, int]
    members: tuple["Entry", ...] = ()


@dataclass(frozen=True)
class Module:
    name: str
    doc: str
    entries: tuple[Entry, ...]

    def walk(self) -> Iterator[Entry]:
        for entry in self.entries:
            yield from (entry, *entry.members)


def read(trees: dict[str, ast.Module]) -> dict[str, Module]:
    """The public names of modules, from their syntax trees."""
    return {name: _module(name, trees) for name in trees}


def _module(name: str, trees: dict[str, ast.Module]) -> Module:
    body = trees[name].body
    known = _names(name, trees)
    found = (_entry(node, after, known) for node, after in zip(body, [*body[1:], None], strict=True))
    return Module(name, ast.get_docstring(trees[name]) or "", tuple(entry for entry in found if entry))


def _names(name: str, trees: dict[str, ast.Module]) -> dict[str, ast.expr]:
    """What an annotation's names stand for: full names, which Sphinx links and shortens, and aliases written out.

    A bare name would be linked to any class of the package that has it.
    """
    known: dict[str, ast.expr] = {}
    for node in trees[name].body:
        if isinstance(node, ast.ImportFrom):
            for of in node.names:
                known[of.asname or of.name] = ast.Name(f"~{node.module}.{of.name}")
                if node.module == PACKAGE and of.name in trees:
                    known |= {f"{of.name}.{alias}": value for alias, value in _aliases(of.name, trees).items()}
        elif isinstance(node, ast.ClassDef):
            known[node.name] = ast.Name(f"~{PACKAGE}.{name}.{node.name}" if _public(node.name) else node.name)
    return known | _aliases(name, trees)


def _aliases(name: str, trees: dict[str, ast.Module]) -> dict[str, ast.expr]:
    """Names for types, such as Curve = Mapping[str, np.ndarray], that a module defines or imports from another."""
    found: dict[str, ast.expr] = {}
    for node in trees[name].body:
        if isinstance(node, ast.Assign) and _is_alias(node):
            found[node.targets[0].id] = node.value
        home = (node.module or "").removeprefix(f"{PACKAGE}.") if isinstance(node, ast.ImportFrom) else ""
        if home in trees:
            theirs = _aliases(home, trees)
            found |= {of.asname or of.name: theirs[of.name] for of in node.names if of.name in theirs}
    return found


def _is_alias(node: ast.Assign) -> bool:
    target = node.targets[0]
    named = isinstance(target, ast.Name) and re.fullmatch(r"[A-Z][a-z]\w*", target.id)
    return bool(named) and isinstance(node.value, ast.Subscript | ast.BinOp)


def _public(name: str) -> bool:
    return not name.startswith("_")


def _entry(node: ast.stmt, after: ast.stmt | None, known: dict[str, ast.expr]) -> Entry | None:
    if isinstance(node, ast.FunctionDef) and _public(node.name):
        return _function(node, "function", known)
    if isinstance(node, ast.ClassDef) and _public(node.name):
        return _class(node, known)
    if isinstance(node, ast.Assign | ast.AnnAssign) and _is_text(after):  # a constant, and the text that explains it
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(target, ast.Name) and _public(target.id):
            doc = inspect.cleandoc(after.value.value)
            return Entry(target.id, "data", "", doc, (node.lineno, after.end_lineno))
    return None


def _is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _function(node: ast.FunctionDef, kind: str, known: dict[str, ast.expr], owner: str = "") -> Entry:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if decorators & {"property", "cached_property", "functools.cached_property"}:
        kind = "property"
    arguments = copy.deepcopy(node.args)
    if owner and "staticmethod" not in decorators:
        (arguments.posonlyargs or arguments.args).pop(0)
    returns = f" -> {_typed(node.returns, known)}" if node.returns else ""
    signature = "" if kind == "property" else f"({_typed(arguments, known)}){returns}"
    return Entry(owner + node.name, kind, signature, ast.get_docstring(node) or "", _lines(node))


def _class(node: ast.ClassDef, known: dict[str, ast.expr]) -> Entry:
    methods = [child for child in node.body if isinstance(child, ast.FunctionDef)]
    made = [child for child in methods if child.name == "__init__"]
    if made:
        signature = _function(made[0], "method", known, f"{node.name}.").signature.removesuffix(" -> None")
    else:
        signature = _fields(node, known)
    members = tuple(
        _function(child, "method", known, f"{node.name}.") for child in methods if _public(child.name)
    )
    return Entry(node.name, "class", signature, ast.get_docstring(node) or "", _lines(node), members)


def _fields(node: ast.ClassDef, known: dict[str, ast.expr]) -> str:
    """The constructor of a dataclass or named tuple; of any other class without one of its own, nothing."""
    marks = {ast.unparse(mark).partition("(")[0] for mark in (*node.decorator_list, *node.bases)}
    if not marks & {"dataclass", "NamedTuple"}:
        return ""
    fields = [child for child in node.body if isinstance(child, ast.AnnAssign) and _is_argument(child)]
    return f"({', '.join(_typed(child, known) for child in fields)})"


def _is_argument(child: ast.AnnAssign) -> bool:
    hidden = isinstance(child.value, ast.Call) and any(
        word.arg == "init" and ast.unparse(word.value) == "False" for word in child.value.keywords
    )
    return not hidden and not ast.unparse(child.annotation).startswith("ClassVar")


def _lines(node: ast.FunctionDef | ast.ClassDef) -> tuple[int, int]:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]), node.end_lineno


class _Rename(ast.NodeTransformer):
    """Annotations with their names replaced by what they stand for; defaults stay as they are."""

    def __init__(self, known: dict[str, ast.expr]):
        self.known = known

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(node.arg, node.annotation and _renamed(node.annotation, self.known))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        return ast.AnnAssign(node.target, _renamed(node.annotation, self.known), node.value, node.simple)


def _renamed(annotation: ast.expr, known: dict[str, ast.expr]) -> ast.expr:
    class Names(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return known.get(node.id, node)

        def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
            return known.get(ast.unparse(node)) or self.generic_visit(node)

    return Names().visit(copy.deepcopy(annotation))


def _typed(node: ast.AST, known: dict[str, ast.expr]) -> str:
    """The source of a signature's part."""
    if isinstance(node, ast.expr):
        return ast.unparse(_renamed(node, known))
    return ast.unparse(_Rename(known).visit(copy.deepcopy(node)))
