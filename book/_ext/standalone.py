"""A site that needs nothing but itself: MathJax beside the pages, nothing fetched from elsewhere, no dead weight.

MathJax comes from the package sphinx-mathjax-offline, whose files are those of MathJax's own release; what a
page can ask for is copied, the rest (other bundles, speech in other languages) is not.
"""

import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

BUNDLE = "tex-chtml.js"
UNUSED = re.compile(
    r"(?!tex-chtml\.js$)[\w-]+\.js"  # one bundle is used; the others hold the same again
    r"|(?:adaptors|ui|input/mml/extensions)/.*|(?:input|output)/(?!svg|mml)[\w-]+\.js|output/chtml/fonts/tex\.js"
    r"|input/tex/extensions/all-packages\.js"
    r"|sre/mathmaps/(?!base|en|nemeth)\w+\.json"
)
"""Files of MathJax that no page of this book asks for."""
DEAD = (
    "_static/**/*.map",
    "_static/**/*.ttf",  # every browser of the last ten years takes the woff2 beside it
    "_static/*webpack-macros.html",
    "_static/locales",
    "_static/scripts/fontawesome*",
    "_static/sphinx-thebe.*",
    "_sources/notebooks",  # the notebooks that ran are offered in their place
)
"""Files that the theme and its extensions write, and no page asks for."""
AT_ONCE = ("_static/documentation_options.js", "_static/doctools.js")
"""Scripts that others in the page's HTML call as soon as they are read; the rest waits until the page is there."""
PICTURE = re.compile(r'<img\b(?![^>]*\bloading=)(?=[^>]*\ssrc="([^"]*_images/[^"]+\.(?:png|jpe?g))")')
ICONS = re.compile(r'\s*<!-- So that users can add [\w ]+-->\s*<script src="[^"]*fontawesome\.js[^"]*"></script>')
"""1.5 MB of script, read before anything is shown, that draws icons which the theme's font has too."""


def without_thebe(app: Sphinx, *_: object) -> None:
    """Thebe would run cells on a server of somebody else's: no page names its address."""
    for listeners in app.events.listeners.values():
        listeners[:] = [found for found in listeners if found.handler.__module__ != "sphinx_thebe"]


def page_context(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Scripts that wait, one font for signs, the notebook that ran under the button for downloads, the version."""
    context["css_files"] = [file for file in context["css_files"] if "thebe" not in _name(file)]
    for script in context["script_files"]:
        if _name(script).endswith(".js") and _name(script) not in AT_ONCE:
            script.attributes["defer"] = "defer"
    for button in _all(context["header_buttons"]):
        button["icon"] = button["icon"].replace("fab fa-github", "fas fa-code-branch")  # a font for one sign less
    ran = f"executed/{Path(page).name}.ipynb"
    if (Path(app.srcdir) / "extra" / ran).is_file():
        _offer(context["header_buttons"], context["pathto"](ran, 1))
    if "versions" in app.env.found_docs:
        link = context["pathto"]("versions")
        context["theme_extra_footer"] = f'<a href="{link}">Version {app.config.release}: changes and downloads</a>'


def _all(buttons: list[dict]) -> Iterator[dict]:
    for button in buttons:
        yield button
        yield from _all(button.get("buttons", []))


def _name(file: object) -> str:
    return str(getattr(file, "filename", file))


def _offer(buttons: list[dict], address: str) -> None:
    downloads = next(button for button in buttons if button["label"] == "download-buttons")["buttons"]
    source = next(button for button in downloads if button["label"] == "download-source-button")
    source.update(url=address, tooltip="Download the notebook as it ran, with its outputs")


def finish(app: Sphinx, failed: Exception | None) -> None:
    """Bring MathJax in, and take out what no page asks for."""
    if failed or app.builder.format != "html":
        return
    site = Path(app.outdir)
    for source, target in mathjax_files():
        (site / "_static/mathjax" / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, site / "_static/mathjax" / target)
    for pattern in DEAD:
        for path in site.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    icons = 0
    for page in site.rglob("*.html"):
        text, count = ICONS.subn("", page.read_text("utf8"))
        icons += count
        page.write_text(PICTURE.sub(lambda found, page=page: _when_near(page, found), text), "utf8")
    if not icons:
        raise ExtensionError("no page loads the theme's fontawesome.js any more: mend ICONS in standalone.py")


def mathjax_files() -> Iterator[tuple[Path, str]]:
    """Each file of MathJax that is used, and its place under _static/mathjax; its licence with them."""
    found = importlib.util.find_spec("sphinx-mathjax-offline")
    if found is None or not found.origin:
        raise ExtensionError("MathJax is missing: pip install -r requirements.txt brings sphinx-mathjax-offline")
    folder = Path(found.origin).parent / "static" / "mathjax"
    if not (folder / BUNDLE).is_file():
        raise ExtensionError(f"sphinx-mathjax-offline holds no {BUNDLE}")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not UNUSED.fullmatch(name):
            yield path, name
    yield Path(__file__).with_name("mathjax-license.txt"), "LICENSE.txt"


def _when_near(page: Path, found: re.Match) -> str:
    """A figure is loaded when it comes near; its size is said before, so that nothing moves when it does."""
    with Image.open(page.parent / found[1]) as picture:
        width, height = picture.size
    return f'<img loading="lazy" width="{width}" height="{height}"'


def setup(app: Sphinx) -> dict:
    without_thebe(app)
    app.connect("html-page-context", page_context, priority=600)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
