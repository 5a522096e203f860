"""A headless browser over the built site: one visit of a page takes every measurement, as lists of complaints."""

import functools
import http.server
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

try:
    from axe_playwright_python.base import AXE_FILE_PATH
    from playwright.sync_api import Browser, BrowserContext, Locator, Page, sync_playwright
except ImportError as error:  # no wheel for this machine, or an environment without the tests' packages
    MISSING = f"{error.name} is not installed"
else:
    MISSING = ""

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PHONE, TABLET, DESK, WALL = 360, 768, 1280, 3840
PAPER = 718
"""Pixels between the margins of an A4 sheet."""
HEIGHT = 900
HEAVIEST = 3_000_000
"""Bytes of a page and everything it loads before a reader does anything."""
PATIENCE = 30_000
"""Milliseconds for one step; a step that takes longer hangs."""

LOOK = Path(__file__).with_suffix(".js").read_text("utf8")
READY = "async () => { await window.MathJax?.startup?.promise; await document.fonts.ready; }"
RULES = "() => axe.run(document, {preload: false, rules: {'color-contrast': {enabled: false}}})"
CONTRAST = """() => {
    look.inks();
    return axe.run({include: [["[data-ink]"]]}, {preload: false, runOnly: ["color-contrast"]});
}"""

CHECKS = ("console", "requests", "maths", "width", "weight", "dark", "accessible", "print", "without_scripts")
"""What a visit looks at; each has its list of complaints, empty on a page as it should be."""


def executable() -> str | None:
    """The browser of this machine: $CHROMIUM, one of the usual names, or playwright's own."""
    named = os.environ.get("CHROMIUM")
    if named and not shutil.which(named):
        raise ValueError(f"CHROMIUM: expected a program, got {named!r}")
    for found in filter(None, map(shutil.which, [named] if named else NAMES)):
        return found
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).is_file() else None


def find() -> str:
    """The browser; a test without one is skipped with the reason, or fails where GRAE_BROWSER is `required`."""
    wanted = os.environ.get("GRAE_BROWSER", "")
    if wanted not in ("", "required"):
        raise ValueError(f"GRAE_BROWSER: expected nothing or 'required', got {wanted!r}")
    found = None if MISSING else executable()
    if found:
        return found
    reason = MISSING or "no Chromium: install one, run `playwright install chromium`, or name it in $CHROMIUM"
    if wanted:
        pytest.fail(f"GRAE_BROWSER is required, but {reason}")
    pytest.skip(f"the site was not looked at in a browser: {reason}")


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing: what fails is in the visit."""

    def copyfile(self, source: IO, outputfile: IO) -> None:
        """A page that is closed while it loads is no fault."""
        with suppress(ConnectionError):
            super().copyfile(source, outputfile)


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address under which a folder is served while the context lasts."""
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class Browsers:
    """A few browsers, each in a thread of its own, that take jobs in turn: playwright's objects stay in theirs."""

    def __init__(self, path: str, count: int):
        self._path, self._jobs = path, queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable, *arguments: object) -> Future:
        """Let `job(browser, *arguments)` run soon."""
        future = Future()
        self._jobs.put((future, job, arguments))
        return future

    def run(self, job: Callable, *arguments: object) -> object:
        return self.submit(job, *arguments).result()

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=self._path, args=FLAGS)
                self._serve(lambda job, arguments: job(browser, *arguments))
                browser.close()
        except Exception as error:  # no browser came up: every test that asks for one says why
            self._serve(functools.partial(_refuse, error))

    def _serve(self, answer: Callable) -> None:
        while (task := self._jobs.get()) is not None:
            future, job, arguments = task
            try:
                future.set_result(answer(job, arguments))
            except BaseException as error:  # an assertion belongs to the test that waits for it
                future.set_exception(error)


def _refuse(error: Exception, *_: object) -> None:
    raise error


@contextmanager
def opened(browser: Browser, address: str, **options: object) -> Iterator[Page]:
    """A page in a context of its own, nothing cached, loaded and with its formulas in place."""
    options.setdefault("viewport", {"width": DESK, "height": HEIGHT})
    context: BrowserContext = browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    scripted = options.get("java_script_enabled", True)
    if scripted:
        context.add_init_script(LOOK)
    page = context.new_page()
    page.complaints = listen(page, address)
    try:
        page.goto(address)
        page.evaluate(READY if scripted else LOOK)
        yield page
    finally:
        context.close()


def listen(page: Page, address: str) -> dict[str, list[str]]:
    """What the page says on its console, and what it asks for elsewhere or in vain, as it happens."""
    found = {"console": [], "requests": []}
    origin = "file://" if address.startswith("file:") else "/".join(address.split("/")[:3]) + "/"
    inside = (origin, "data:", "blob:", "about:")

    def said(message) -> None:
        if message.type in ("error", "warning"):
            found["console"].append(f"{message.type}: {message.text}")

    def asked(request) -> None:
        if not request.url.startswith(inside):
            found["requests"].append(f"outside: {request.url[:120]}")

    def answered(response) -> None:
        if response.status >= 400:
            found["requests"].append(f"{response.status}: {response.url[:120]}")

    page.on("console", said)
    page.on("pageerror", lambda error: found["console"].append(f"uncaught: {error}"))
    page.on("request", asked)
    page.on("response", answered)
    page.on("requestfailed", lambda request: found["requests"].append(f"failed: {request.url[:120]}"))
    return found


def visit(browser: Browser, address: str) -> dict[str, list[str]]:
    """Every check of one page, with its complaints."""
    found = {check: [] for check in CHECKS}
    with opened(browser, address, color_scheme="light") as page:
        weight = page.evaluate("look.weight()")
        if not 0 < weight <= HEAVIEST:
            found["weight"] = [f"{weight:,} bytes at first view, instead of at most {HEAVIEST:,}"]
        found["maths"] = page.evaluate("look.maths()")
        for width in (TABLET, WALL, PHONE):
            resize(page, width)
            found["width"] += page.evaluate("look.width()")
        found["print"] = printed(page)
        page.evaluate(AXE_FILE_PATH.read_text("utf8"))
        page.evaluate("look.thin()")
        for scheme, width in (("light", DESK), ("dark", PHONE)):
            resize(page, width)
            page.evaluate("scheme => look.scheme(scheme)", scheme)
            lines = [line for ask in (RULES, CONTRAST) for line in violations(page.evaluate(ask))]
            found["accessible"] += [f"{scheme}, {width} px: {line}" for line in lines]
        found["dark"] = page.evaluate("look.dark()")
        found |= page.complaints
    with opened(browser, address, java_script_enabled=False) as page:
        found["without_scripts"] = page.evaluate("look.still()")
    return found


def resize(page: Page, width: int) -> None:
    """Another width, and time for what the page adjusts after it: the theme waits for 300 ms."""
    if page.viewport_size["width"] != width:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        page.wait_for_timeout(400)


def printed(page: Page) -> list[str]:
    """What a print would show that paper has no use for, and what it would leave out."""
    page.emulate_media(media="print")
    page.set_viewport_size({"width": PAPER, "height": HEIGHT})
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    found = page.evaluate("[...look.paper(), ...look.width()]")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    return found


def violations(report: dict) -> list[str]:
    """axe's serious and critical findings, a line an element."""
    if not report["passes"] and not report["violations"]:
        raise AssertionError("axe looked at nothing")
    return [
        f"{rule['impact']} {rule['id']}: {' '.join(map(str, node['target']))}: {_message(node)}"
        for rule in report["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def _message(node: dict) -> str:
    checks = [*node["any"], *node["all"], *node["none"]]
    return checks[0]["message"][:160] if checks else ""


WAYS = ("mouse", "keyboard", "touch")


def drive(page: Page, way: str) -> list[str]:
    """Move every slider of the page to its farther end with mouse, keyboard or touch: what did not follow."""
    figures = page.locator("figure.grae-slider")
    lines = [
        f"slider {number}, {way}: the same {part}"
        for number in range(figures.count())
        for part in _unmoved(page, figures.nth(number), way)
    ]
    return lines if figures.count() else ["no slider"]


def _unmoved(page: Page, figure: Locator, way: str) -> list[str]:
    control, picture = figure.locator("input[type=range]"), figure.locator("img").first
    before = _shown(control, picture)
    last = control.evaluate("e => 2 * e.value < Number(e.max)")
    if way == "keyboard":
        control.focus()
        page.keyboard.press("End" if last else "Home")
    else:
        control.scroll_into_view_if_needed()
        box = control.bounding_box()
        spot = box["x"] + box["width"] * (0.98 if last else 0.02), box["y"] + box["height"] / 2
        (page.mouse.click if way == "mouse" else page.touchscreen.tap)(*spot)
    picture.evaluate("e => e.decode()")
    after = _shown(control, picture)
    return [part for part in before if before[part] == after[part]]


def _shown(control: Locator, picture: Locator) -> dict[str, object]:
    return {
        "picture": picture.screenshot(),
        "alt text": picture.get_attribute("alt"),
        "value": control.get_attribute("aria-valuetext"),
    }
