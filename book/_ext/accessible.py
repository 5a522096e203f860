"""HTML that a screen reader can rely on: Sphinx and the theme write lists without items and nameless buttons."""

import re
from collections.abc import Callable

from bs4 import Tag
from sphinx.application import Sphinx

LIST, ENTRY, ITEM = '<div role="list" class="citation-list">', 'role="doc-biblioentry"', 'role="listitem"'
PARAMETERS = re.compile(r"<dl>\n((?:<dd>.*?</dd>\n)+)</dl>", re.DOTALL)


def page_context(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Mend what the page holds, and what the theme will draw beside it."""
    if "body" in context:
        context["body"] = signatures(bibliography(context["body"]))
    if "generate_toctree_html" in context:
        context["generate_toctree_html"] = named(context["generate_toctree_html"])


def bibliography(body: str) -> str:
    """The entries become items of the list they stand in: docutils gives them a role that no list may hold."""
    return body.replace(ENTRY, ITEM) if LIST in body else body


def signatures(body: str) -> str:
    """The parameters of a long signature become lines: Sphinx makes them definitions of no term."""

    def lines(match: re.Match) -> str:
        inner = match[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
        return f'<span class="sig-lines">\n{inner}</span>'

    return PARAMETERS.sub(lines, body)


def named(draw: Callable) -> Callable:
    """The sidebar with a name for each button that unfolds a part of it."""

    def drawn(*arguments: object, **options: object) -> Tag:
        tree = draw(*arguments, **options)
        for button in tree("summary"):
            button["aria-label"] = "Pages below"
        return tree

    return drawn


def setup(app: Sphinx) -> dict:
    app.connect("html-page-context", page_context, priority=900)  # after the theme has added its own
    return {"parallel_read_safe": True, "parallel_write_safe": True}
