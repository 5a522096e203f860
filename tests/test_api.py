"""The API reference: nothing public is missing, signatures are real, docstrings are rendered word for word."""

import ast
import doctest
import importlib
import inspect
import json
import re
import shutil

import pytest

from tools import api, api_sources
from tools.project import ROOT, Project, ToolError

BOOK = Project()
MODULES = sorted(path.stem for path in (ROOT / "grae_helpers").glob("*.py") if path.stem != "__init__")


def public(name: str) -> dict[str, object]:
    """The public functions and classes that a module defines, as Python sees them."""
    module = importlib.import_module(f"grae_helpers.{name}")
    own = {key: value for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    whole = {key: inspect.unwrap(value) for key, value in own.items() if callable(value) and not key.startswith("_")}
    return {key: value for key, value in whole.items() if inspect.isfunction(value) or inspect.isclass(value)}


def pages() -> dict[str, str]:
    return {name: api.page(BOOK, name) for name in api.PAGES}


def read(source: str) -> api_sources.Module:
    return api_sources.read({"given": ast.parse(inspect.cleandoc(source))})["given"]


def test_every_page_is_in_the_table_of_contents_and_is_staged():
    assert {"api", *api.PAGES} <= set(BOOK.pages)
    assert set(api.GENERATED) == {"api", *api.PAGES}


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_is_there_with_its_docstring(name):
    found = {entry.name: entry for entry in api.read(BOOK)[name].entries}
    expected = public(name)
    assert set(expected) == {key for key, entry in found.items() if entry.kind != "data"}
    for key, value in expected.items():
        assert value.__doc__, f"{name}.{key} has no docstring"
        assert found[key].doc == inspect.cleandoc(value.__doc__)
        source, first = inspect.getsourcelines(value)
        assert found[key].lines == (first, first + len(source) - 1)


@pytest.mark.parametrize("name", MODULES)
def test_signatures_have_pythons_parameters(name):
    found = {entry.name: entry for entry in api.read(BOOK)[name].walk()}
    for key, value in public(name).items():
        if inspect.isfunction(value) or found[key].signature:
            assert parameters(found[key].signature) == list(inspect.signature(value).parameters), key
        if inspect.isclass(value):
            for method, defined in vars(value).items():
                if inspect.isfunction(defined) and not method.startswith("_"):
                    ours = parameters(found[f"{key}.{method}"].signature)
                    assert ours == list(inspect.signature(defined).parameters)[1:], f"{key}.{method}"


def parameters(signature: str) -> list[str]:
    arguments = ast.parse(f"def f{signature.replace('~', '')}: ...").body[0].args
    names = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return [argument.arg for argument in names if argument]


def test_the_signature_of_grae_approx_is_whole():
    entry = next(entry for entry in api.read(BOOK)["losses"].entries if entry.name == "grae_approx")
    assert entry.signature.startswith("(x: ~torch.Tensor, code: ~torch.Tensor, decoder: Callable[[Tensor], Tensor], ")
    assert "likelihood: ~grae_helpers.likelihoods.Likelihood, beta: float, *, n_columns: int=1" in entry.signature
    assert entry.signature.endswith("-> ~grae_helpers.losses.LossTerms")


def test_annotations_name_the_classes_that_they_mean():
    """In full, and such as are in the reference: Sphinx would link a bare name to any class that has it."""
    classes = {name for module in MODULES for name, value in public(module).items() if inspect.isclass(value)}
    known = {f"{name}.{entry.name}" for name, module in api.read(BOOK).items() for entry in module.entries}
    for module in api.read(BOOK).values():
        for entry in module.walk():
            linked = set(re.findall(r"~grae_helpers\.([\w.]+)", entry.signature))
            assert linked <= known, f"{module.name}.{entry.name}: {linked - known}"
            bare = set(re.findall(r"(?<![\w.~'\"])[A-Z]\w*", entry.signature)) & classes
            assert not bare, f"{module.name}.{entry.name}: {bare}"


def test_a_page_has_each_example_as_code_and_a_link_to_the_source():
    for name, text in pages().items():
        modules = [api.read(BOOK)[module] for module in api.PAGES[name][2]]
        entries = [(module.name, entry) for module in modules for entry in module.walk()]
        assert text.count("```pycon") == sum(examples(entry.doc) for _, entry in entries) + sum(
            examples(module.doc) for module in modules
        )
        for module, entry in entries:
            first, last = entry.lines
            address = rf"{re.escape(BOOK.repository)}/blob/[0-9a-f]{{40}}/grae_helpers/{module}.py#L{first}-L{last}\)"
            assert re.search(address, text), entry.name


def examples(doc: str) -> int:
    return sum(block.startswith(">>>") for block in re.split(r"\n\s*\n", doc))


def test_prose_is_rendered_word_for_word():
    """Through the parser that the site uses: the text of the page is the text of the docstring."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark")
    for module in api.read(BOOK).values():
        for doc in [module.doc, *(entry.doc for entry in module.walk())]:
            found = "".join(text_of(token) for token in parser.parse(api.markdown(doc)))
            expected = re.sub(r"`([^`]+)`", r"\1", re.sub(r"^- ", "", doc, flags=re.M))
            assert "".join(found.split()) == "".join(expected.split())


def text_of(token) -> str:
    if token.type in ("fence", "code_block"):
        return token.content
    return "".join(child.content for child in token.children or [] if child.type in ("text", "code_inline"))


def test_what_a_docstring_names_is_linked():
    text = api.page(BOOK, "api_losses")
    assert "{py:obj}`grae <grae_helpers.losses.grae>`" in text
    assert "{py:obj}`models.spectral_norm <grae_helpers.models.spectral_norm>`" in text
    assert "`n_samples`" in text and "py:obj}`n_samples" not in text


def test_dataclasses_aliases_properties_and_constants_are_read():
    module = read('''
        """A module."""
        from collections.abc import Mapping
        from dataclasses import dataclass, field
        from torch import Tensor

        Curve = Mapping[str, Tensor]
        KNOWN = 3
        """A constant."""
        UNSAID = 4

        @dataclass
        class Pair:
            """Two."""
            a: Curve
            b: int = 2
            hidden: int = field(init=False, default=0)

            @property
            def total(self) -> int:
                """Their sum."""

            @staticmethod
            def make(n: "Pair") -> Tensor: ...

            def _inside(self): ...

        def _private(): ...
    ''')
    pair = next(entry for entry in module.entries if entry.name == "Pair")
    assert [entry.name for entry in module.entries] == ["KNOWN", "Pair"]
    assert pair.signature == "(a: Mapping[str, Tensor], b: int = 2)"
    kinds = {member.name: member.kind for member in pair.members}
    assert kinds == {"Pair.total": "property", "Pair.make": "method"}
    assert pair.members[1].signature == "(n: 'Pair') -> ~torch.Tensor"


def test_the_example_on_the_first_page_runs():
    runner = doctest.DocTestRunner()
    text = api.overview(BOOK, {})
    runner.run(doctest.DocTestParser().get_doctest(text.replace("```", ""), {}, "api", None, 0))
    assert runner.summarize(verbose=False).attempted >= 5 and runner.failures == 0
    assert "REPOSITORY" not in text and all(f"{{py:mod}}`{name} <" in text for name in MODULES)


def test_a_module_on_no_page_is_refused(tmp_path):
    shutil.copytree(ROOT / "grae_helpers", tmp_path / "grae_helpers", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "grae_helpers" / "unheard_of.py").write_text('"""New."""\n', "utf8")
    with pytest.raises(ToolError, match="unheard_of"):
        api.read(Project(tmp_path))


def test_search_and_pages_of_the_site_know_the_objectives(site):
    """The site's own index of objects has them, and the page an anchor for each."""
    index = json.loads(re.search(r"Search.setIndex\((.*)\)", (site / "searchindex.js").read_text("utf8"), re.S)[1])
    known = {entry[4] for entry in index["objects"]["grae_helpers.losses"]}
    page = (site / "api_losses.html").read_text("utf8")
    for name in ("beta_vae", "taylor", "grae", "grae_approx", "rae", "autoencoder"):
        assert name in known
        assert f'id="grae_helpers.losses.{name}"' in page
