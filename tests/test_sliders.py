"""The slider's HTML, parsed: one picture, a labelled control, nothing fetched, nothing that clashes."""

import base64
import io
import re

import lxml.html
import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from grae_helpers import plotting, sliders

VALUES = ["0°", "30°", "<60°"]
ALTS = ['a "flat" cloud', "a turned cloud", "5 > 3 & steep"]


def frame(height: float = 1.0):
    figure, axis = plt.subplots(figsize=(2, 2))
    axis.bar([0], [height], color=plotting.PALETTE[0])
    axis.set_ylim(0, 3)
    return figure


@pytest.fixture
def shown() -> sliders.Slider:
    return sliders.slider((frame(h) for h in (1, 2, 3)), VALUES, "turn & tilt", ALTS, start=1, caption="a < b")


@pytest.fixture
def page(shown) -> lxml.html.HtmlElement:
    return lxml.html.fragment_fromstring(shown._repr_html_())


def decoded(source: str) -> Image.Image:
    kind, _, data = source.partition(",")
    assert kind in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def test_colours_are_as_many_as_asked_for():
    for wrong in (300, 1, True, 2.0):
        with pytest.raises(ValueError, match=f"colours: expected 2 to 256, or None for photographs, got {wrong}"):
            sliders.slider([], ["a", "b"], "x", ["a", "b"], caption="c", colours=wrong)


def test_photographs_keep_their_colours():
    """A frame without a palette has many, each close to its own; the same as a palette of 256 is larger."""
    noise = np.random.default_rng(0).random((24, 24, 3))
    smooth = np.kron(noise, np.ones((10, 10, 1)))

    def photograph():
        figure = plt.figure(figsize=(2, 2), layout="none")
        figure.add_axes((0, 0, 1, 1)).imshow(smooth)
        return figure

    sources = {}
    for colours in (None, 256):
        figures = [photograph(), photograph()]
        shown = sliders.slider(figures, ["a", "b"], "x", ["c", "d"], caption="e", colours=colours)
        sources[colours] = lxml.html.fragment_fromstring(shown.html).xpath("./img/@src")[0]
    pictures = {colours: np.array(decoded(source).convert("RGB"), int) for colours, source in sources.items()}
    assert sources[None].startswith("data:image/jpeg;base64,") and pictures[None].shape == (240, 240, 3)
    inside = np.abs(pictures[None] - 255 * smooth)[2:-2, 2:-2]
    assert inside.mean() < 4 < np.abs(pictures[256] - 255 * smooth)[2:-2, 2:-2].mean()


def test_one_picture_and_the_frames_behind_it(page):
    assert page.tag == "figure" and not page.tail
    (picture,), frames = page.xpath("./img"), page.xpath("./template/img")
    assert [f.get("alt") for f in frames] == ALTS
    assert [f.get("data-value") for f in frames] == VALUES
    assert (picture.get("src"), picture.get("alt")) == (frames[1].get("src"), ALTS[1])
    size = decoded(picture.get("src")).size
    assert (picture.get("width"), picture.get("height")) == tuple(map(str, size))
    heights = [(np.array(decoded(f.get("src")).convert("L")) < 200).sum() for f in frames]
    assert heights == sorted(heights), "the frames are in order"


def test_the_control_has_a_name_and_a_value_in_words(page):
    (control,) = page.xpath(".//input[@type='range']")
    assert (control.get("min"), control.get("max"), control.get("step"), control.get("value")) == ("0", "2", "1", "1")
    assert control.get("aria-label") == "turn & tilt" and control.get("aria-valuetext") == "30°"
    assert control.get("autocomplete") == "off", "a reloaded page starts with the picture it shows"
    assert page.xpath("string(.//output)") == "30°"
    assert page.xpath("string(./figcaption)") == "a < b"


def test_the_control_loads_the_neighbours_and_reads_addresses_as_written(page):
    """A template's images have no page of their own: their `src` property need not resolve, the attribute does."""
    (control,) = page.xpath(".//input[@type='range']")
    assert control.get("onfocus") == control.get("onpointerenter") == sliders.ASKED
    assert sliders.NEXT in control.get("oninput") and sliders.NEXT in sliders.ASKED
    assert "n.src" not in sliders.MOVE and "m.src" not in sliders.NEXT
    assert not set(re.findall(r"\bon\w+", " ".join(page.xpath("./template//@*")))), "nothing in the template runs"


def test_without_scripts_and_in_print_a_still_picture_remains(page):
    (control,) = page.xpath("./div[@class='control']")
    assert "hidden" in control.attrib, "only a handler that runs shows the control"
    assert not {"hidden", "style"} & set(page.xpath("./img")[0].attrib)
    style = page.xpath("string(./style)")
    assert ".control[hidden]{display:none}" in style
    assert re.search(r"@media print\{[^}]*\.control\{display:none\}", style)


def test_no_ids_and_nothing_from_elsewhere(shown, page):
    assert not page.xpath(".//@id | .//@name | .//@for | .//script | .//link | .//iframe | .//a")
    addresses = page.xpath(".//@src | .//@href | .//@srcset")
    assert addresses and all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "http" not in shown.html and "url(" not in shown.html and "@import" not in shown.html


def test_the_ground_is_white_in_every_colour_scheme(page):
    style = page.xpath("string(./style)")
    assert "background:#fff" in style and "color:#1a1a1a" in style and "color-scheme:light" in style
    assert decoded(page.xpath("./img")[0].get("src")).convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_a_palette_keeps_the_bytes_small_and_the_colours_true(page):
    image = decoded(page.xpath("./img")[0].get("src"))
    assert image.mode == "P" and len(image.getcolors()) <= sliders.COLOURS
    wanted = 255 * np.array(plotting.PALETTE[0])
    distances = np.abs(np.array(image.convert("RGB")).reshape(-1, 3) - wanted).max(1)
    assert (distances <= 3).mean() > 0.2, "the bar has its colour"


def test_text_where_there_is_no_browser(shown):
    assert repr(shown) == 'Slider "turn & tilt" with 3 frames, 0° to <60°. At 30°: a turned cloud'


def test_figures_are_closed():
    plt.close("all")
    sliders.slider((frame(h) for h in (1, 2)), ["a", "b"], "angle", ["c", "d"], caption="e")
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"values": ["a"]}, ValueError, "got 2, 1 and 2"),
        ({"alts": ["a", "b", "c"]}, ValueError, "got 2, 2 and 3"),
        ({"frames": 1, "values": ["a"], "alts": ["b"]}, ValueError, "two or more"),
        ({"start": 2}, ValueError, "start: expected 0 to 1, got 2"),
        ({"start": -1}, ValueError, "start: expected 0 to 1"),
        ({"start": 0.0}, TypeError, "start: expected the number of a frame"),
        ({"alts": ["a", " "]}, ValueError, "alts: expected text, got an empty one"),
        ({"values": [0, 30]}, TypeError, "values: expected text"),
        ({"label": ""}, ValueError, "label: expected text"),
        ({"caption": None}, TypeError, "caption: expected text"),
        ({"values": "ab"}, TypeError, "values: expected a list of texts"),
        ({"alts": None}, TypeError, "alts: expected a list of texts, got None"),
    ],
)
def test_bad_input_is_refused(changes, error, says):
    given = {"frames": 2, "values": ["a", "b"], "label": "angle", "alts": ["c", "d"], "caption": "e"} | changes
    given["frames"] = [frame() for _ in range(given["frames"])]
    with pytest.raises(error, match=says):
        sliders.slider(**given)
    plt.close("all")


def test_other_frames_are_refused():
    with pytest.raises(TypeError, match="expected matplotlib figures, got ndarray"):
        sliders.slider([np.zeros((2, 2))], ["a"], "angle", ["b"], caption="c")
    with pytest.raises(TypeError, match="expected matplotlib figures, got one Figure"):
        sliders.slider(frame(), ["a", "b"], "angle", ["b", "c"], caption="c")
    with pytest.raises(ValueError, match="expected one size"):
        figures = [plt.figure(figsize=(1, 1)), plt.figure(figsize=(2, 1))]
        sliders.slider(figures, ["a", "b"], "angle", ["c", "d"], caption="e")
