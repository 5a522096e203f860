"""The checks of the browser see what they are for: a sound page passes them all, each spoiled one fails its own."""

import browser
import matplotlib.pyplot as plt
import pytest
from PIL import Image

from grae_helpers import sliders

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A page</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width"><style>
html { background: #fff; color: #111 } html[data-theme=dark] { background: #111; color: #eee }
figure img { background: #fff } .box { overflow-x: auto; white-space: nowrap }
@media print { .box { overflow: visible; white-space: normal } nav { display: none } }
</style></head><body><nav><button>Leaf</button></nav><main class="bd-article"><h1>A sound page</h1>
<p>It has words enough to be read, a formula <span class="math"><mjx-container>x</mjx-container></span>,</p>
<pre>\\\\(code, where a dollar sign is one: $$\\\\)</pre>
<figure><img src="dot.png" alt="a dot" width="40" height="40"><figcaption>A dot.</figcaption></figure>
<div class="box" tabindex="0"><p>Words that stay on one line, in a box that the keyboard reaches.</p></div>
<details open><summary>Solution</summary><p>Open.</p></details>
SPOILED</main></body></html>"""
# Each fault: what stands on the page, the check that has to see it, and what the complaint says.
FAULTS = {
    "an error on the console": ("<script>console.error('wrong')</script>", "console", "error: wrong"),
    "an exception": ("<script>throw new Error('thrown')</script>", "console", "uncaught: thrown"),
    "a warning": ("<script>console.warn('beware')</script>", "console", "warning: beware"),
    "a script from elsewhere": (
        '<script src="http://else.invalid/a.js"></script>',
        "requests",
        "outside: http://else",
    ),
    "a missing style": ('<link rel="stylesheet" href="none.css">', "requests", "404: "),
    "a formula not rendered": (r'<p><span class="math">\(y\)</span></p>', "maths", r"not rendered: \(y\)"),
    "raw mathematics": (r"<p>where $\beta$ is small</p>", "maths", r"raw: where $\beta$"),
    "a formula in error": ('<p><mjx-container data-mjx-error="no">bad</mjx-container></p>', "maths", "an error: bad"),
    "a line too wide": ('<p class="wide" style="width: 800px">W.</p>', "width", 'in 768: <p class="wide"'),
    "a line too wide for a phone": ('<p class="broad" style="width: 400px">W.</p>', "width", '<p class="broad"'),
    "a line too wide for paper": ('<p class="sheet" style="width: 730px">W.</p>', "print", '<p class="sheet"'),
    "a heavy style": ('<link rel="stylesheet" href="heavy.css">', "weight", "at first view, instead of at most"),
    "a figure dark on dark": (
        '<figure><img src="dot.png" alt="ink" width="9" style="background: none"></figure>',
        "dark",
        "no white card: ink",
    ),
    "a picture without words": ('<p><img src="dot.png" class="mute"></p>', "accessible", "critical image-alt: .mute"),
    "pale words": (
        '<p class="pale" style="color: #999">Pale.</p>',
        "accessible",
        "light, 1280 px: serious color-contrast: .pale",
    ),
    "dark words in the dark": (
        '<style>[data-theme=dark] .night { color: #333 }</style><p class="night">Night.</p>',
        "accessible",
        "dark, 360 px: serious color-contrast: .night",
    ),
    "a box the keyboard misses": (
        f'<div class="box missed"><p>{"Words on one line. " * 5}</p></div>',
        "accessible",
        "dark, 360 px: serious scrollable-region-focusable: .missed",
    ),
    "a button on paper": ("<button>Go</button>", "print", "a control: <button>Go"),
    "a solution left out": ("<details><summary>Answer</summary><p>Shut.</p></details>", "print", "left out: Answer"),
    "a control that needs a script": (
        '<p><input type="range" aria-label="angle"></p>',
        "without_scripts",
        'a dead control: <input type="range"',
    ),
    "a picture that is none": ('<p><img src="none.css.png" alt="blank"></p>', "without_scripts", "no picture: blank"),
    "words that a script writes": (
        "<style>@media (scripting: none) { main * { display: none } }</style>",
        "without_scripts",
        "no text",
    ),
}
ALONE = {"words that a script writes"}
"""Hides the rest of its page, so it has a page of its own."""


@pytest.fixture(scope="module")
def browsers():
    made = browser.Browsers(browser.find(), 1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Writes the page into a folder that is served, and gives its address."""
    folder = tmp_path_factory.mktemp("pages")
    Image.new("RGB", (40, 40), "black").save(folder / "dot.png")
    (folder / "none.css.png").write_text("no picture", "utf8")
    (folder / "heavy.css").write_text("/*" + "x" * browser.HEAVIEST + "*/", "utf8")
    with browser.serve(folder) as address:

        def write(more):
            (folder / "page.html").write_text(PAGE.replace("SPOILED", more), "utf8")
            return f"{address}page.html"

        yield write


@pytest.fixture(scope="module")
def spoiled(browsers, page):
    """What a visit finds on a page with every fault, and on the pages of those that stand alone."""
    together = "".join(more for fault, (more, *_) in FAULTS.items() if fault not in ALONE)
    found = dict.fromkeys(FAULTS, browsers.run(browser.visit, page(together)))
    return found | {fault: browsers.run(browser.visit, page(FAULTS[fault][0])) for fault in ALONE}


def test_a_sound_page_passes_every_check(browsers, page):
    assert browsers.run(browser.visit, page("")) == {check: [] for check in browser.CHECKS}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen_by_its_check(spoiled, fault):
    _, check, words = FAULTS[fault]
    assert any(words in line for line in spoiled[fault][check]), spoiled[fault][check]


def test_every_check_can_fail():
    assert {check for _, check, _ in FAULTS.values()} == set(browser.CHECKS)


@pytest.fixture(scope="module")
def slider():
    figures = (plt.figure(figsize=(2, 1), facecolor=colour) for colour in ("w", "w", "w"))
    drawn = []
    for number, figure in enumerate(figures):
        figure.text(0.1, 0.4, f"frame {number}")
        drawn.append(figure)
    return sliders.slider(drawn, ["0°", "30°", "60°"], "angle", ["level", "turned", "more"], caption="Turned.").html


BROKEN = {
    "sound": (lambda html: html, {}),
    "without its handler": (lambda html: html.replace("oninput=", "data-input="), {"mouse", "keyboard", "touch"}),
    "deaf to keys": (lambda html: html.replace("<input ", '<input onkeydown="return false" '), {"keyboard"}),
    "deaf to a finger": (
        lambda html: html.replace("<input ", '<input style="pointer-events:none" '),
        {"mouse", "touch"},
    ),
    "with one picture for all": (
        lambda html: html.replace("p.src=", "p.title="),
        {"mouse", "keyboard", "touch"},
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_slider_is_noticed(browsers, page, slider, kind):
    spoil, failed = BROKEN[kind]
    assert spoil(slider) != slider or not failed

    def drive(chromium):
        with browser.opened(chromium, address, has_touch=True) as opened:
            return {way for way in browser.WAYS if browser.drive(opened, way)}

    address = page(spoil(slider))
    assert browsers.run(drive) == set(failed)


def test_a_page_without_sliders_is_noticed(browsers, page):
    def drive(chromium):
        with browser.opened(chromium, address) as opened:
            return browser.drive(opened, "mouse")

    address = page("")
    assert browsers.run(drive) == ["no slider"]


def test_without_a_browser_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(browser, "executable", lambda: None)
    monkeypatch.delenv("GRAE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"not looked at in a browser: no Chromium.*playwright install"):
        browser.find()


def test_where_a_browser_is_required_its_absence_is_a_failure(monkeypatch):
    monkeypatch.setattr(browser, "executable", lambda: None)
    monkeypatch.setenv("GRAE_BROWSER", "required")
    with pytest.raises(pytest.fail.Exception, match="required, but no Chromium"):
        browser.find()


@pytest.mark.parametrize(("name", "value"), [("GRAE_BROWSER", "yes"), ("CHROMIUM", "/nowhere/chromium")])
def test_a_wrong_setting_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name}: expected .* got '{value}'"):
        browser.find()


def test_a_browser_that_does_not_start_fails_the_test_that_asks():
    made = browser.Browsers("/bin/false", 1)
    try:
        with pytest.raises(Exception, match="closed"):
            made.run(browser.visit, "about:blank")
    finally:
        made.close()
