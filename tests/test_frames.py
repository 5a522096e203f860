"""Pictures inside a notebook's HTML become files beside the page; figures become lighter; nothing else changes."""

import base64
import copy
import io
import json
import re

import lxml.html
import nbformat
import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from grae_helpers import sliders
from tools import frames, stage_book
from tools.project import Project, ToolError


def slider(shades: list[float], start: int = 1) -> str:
    figures = []
    for shade in shades:
        figures.append(plt.figure(figsize=(1, 1), layout="none"))
        figures[-1].add_axes((0, 0, 1, 1)).bar([0], [1], color=str(shade))
    values = [str(i) for i in range(len(shades))]
    return sliders.slider(figures, values, "shade", [f"shade {v}" for v in values], start, caption="A bar.").html


def drawing(draw=None, **settings) -> str:
    """A figure as a notebook keeps it: a PNG in base64."""
    figure, axis = plt.subplots(figsize=(3, 2))
    (draw or (lambda axis: axis.plot([0, 1, 0])))(axis)
    packed = io.BytesIO()
    figure.savefig(packed, format="png", **settings)
    plt.close(figure)
    return base64.b64encode(packed.getvalue()).decode()


def decoded(text: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA"), int)


def lightened(text: str) -> dict:
    found = notebook("<p></p>")
    data = found["cells"][1]["outputs"][1]["data"]
    data["image/png"] = text
    frames.lighten(found)
    return data


def notebook(*pages: str) -> dict:
    """Executed cells, one a page, with a figure and a text beside each."""
    outputs = [
        [
            nbformat.v4.new_output("display_data", {"text/html": page, "text/plain": "a slider"}),
            nbformat.v4.new_output("display_data", {"image/png": drawing()}),
            nbformat.v4.new_output("stream", text='src="data:image/png;base64,aGVsbG8="'),
        ]
        for page in pages
    ]
    cells = [nbformat.v4.new_code_cell("x", outputs=found, execution_count=1) for found in outputs]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), *cells])


@pytest.fixture
def page(tmp_path):
    """Where a staged chapter would lie."""
    path = tmp_path / "book" / "notebooks" / "10_chapter.ipynb"
    path.parent.mkdir(parents=True)
    return path


def html(found: dict, cell: int = 1) -> str:
    return found["cells"][cell]["outputs"][0]["data"]["text/html"]


def sources(text: str) -> list[str]:
    return re.findall(r'src="([^"]*)"', text)


def test_the_frames_become_files_with_the_same_bytes(page):
    before, found = slider([0.2, 0.5, 0.8]), notebook(slider([0.2, 0.5, 0.8]))
    files = frames.extract(found, page)
    wanted = [base64.b64decode(source.partition(",")[2]) for source in sources(before)]
    assert [page.parent.joinpath(source).resolve().read_bytes() for source in sources(html(found))] == wanted
    assert len(files) == 3, "the picture shown first is one of the frames, and one file"
    assert sorted(files) == sorted((page.parents[1] / "_static" / "frames" / "10_chapter").iterdir())


def test_nothing_but_the_addresses_changes(page):
    before = notebook(slider([0.2, 0.5, 0.8]))
    found = copy.deepcopy(before)
    frames.extract(found, page)
    assert "data:image" not in html(found)
    restored = copy.deepcopy(found)
    for address, source in zip(sources(html(found)), sources(html(before)), strict=True):
        data = restored["cells"][1]["outputs"][0]["data"]
        data["text/html"] = data["text/html"].replace(f'src="{address}"', f'src="{source}"')
    assert restored == before
    assert frames.extract(found, page) == [], "a second time there is nothing to do"


def test_a_page_asks_for_one_picture_of_each_slider(page):
    found = notebook(slider([0.2, 0.5, 0.8], 0), slider([0.3, 0.5], 1))
    files = frames.extract(found, page)
    assert len(files) == 4, "an equal frame of two sliders is one file"
    for cell in (1, 2):
        figure = lxml.html.fragment_fromstring(html(found, cell))
        assert len(figure.xpath("./img")) == 1 and len(figure.xpath(".//img")) > 2
        assert not figure.xpath("./template/preceding-sibling::template") and len(figure.xpath("./template/img")) > 1


def test_html_in_lines_is_read_as_one_text(page):
    found = notebook(slider([0.2, 0.8]))
    data = found["cells"][1]["outputs"][0]["data"]
    data["text/html"] = [data["text/html"][i : i + 1000] for i in range(0, len(data["text/html"]), 1000)]
    assert len(frames.extract(found, page)) == 2 and "data:image" not in html(found)


def test_a_notebook_without_pictures_in_html_leaves_no_folder(page):
    found = notebook("<p>plain</p>")
    before = copy.deepcopy(found)
    assert frames.extract(found, page) == [] and found == before
    assert not (page.parents[1] / "_static").exists()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("data:image/png;base64,a", "expected base64, got 'a'"),
        ("data:image/png;base64,not base64 at all", "expected base64"),
        ("data:image/tiff;base64,aGVsbG8=", "expected one of png, jpeg, gif, webp, svg.xml, got tiff"),
    ],
)
def test_a_damaged_picture_is_refused_before_anything_is_written(page, source, says):
    found = notebook(f'{slider([0.2, 0.8])}<img src="{source}" alt="x">')
    with pytest.raises(ToolError, match=says):
        frames.extract(found, page)
    assert not (page.parents[1] / "_static").exists()


def test_a_drawing_gets_a_palette_and_looks_the_same():
    before = drawing()
    (after,) = lightened(before).values()
    assert Image.open(io.BytesIO(base64.b64decode(after))).mode == "P"
    assert len(after) < 0.6 * len(before)
    assert np.abs(decoded(after) - decoded(before)).mean() < 0.2


def test_photographs_become_a_jpeg_where_a_palette_would_show_steps():
    noise = np.random.default_rng(0).random((40, 60, 3))
    before = drawing(lambda axis: axis.imshow(noise, aspect="auto", interpolation="bicubic"), dpi=150)
    data = lightened(before)
    assert list(data) == ["image/jpeg"] and len(data["image/jpeg"]) < len(before)
    palette = Image.fromarray(decoded(before).astype(np.uint8)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    errors = [
        np.abs(np.array(found, int)[..., :3] - decoded(before)[..., :3]).mean()
        for found in (decoded(data["image/jpeg"]), palette.convert("RGB"))
    ]
    assert errors[0] < 0.8 * errors[1]


def test_a_transparent_figure_and_one_that_cannot_shrink_stay_as_they_are():
    transparent = drawing(transparent=True)
    assert lightened(transparent) == {"image/png": transparent}
    small = lightened(drawing())["image/png"]
    assert lightened(small) == {"image/png": small}, "a second time there is nothing to gain"


def test_a_damaged_figure_is_refused():
    for damaged in (b"no picture", base64.b64decode(drawing())[:500]):
        with pytest.raises(ToolError, match="a figure: expected a PNG"):
            lightened(base64.b64encode(damaged).decode())


def test_staging_moves_them_and_the_notebook_that_ran_keeps_them(page, tmp_path):
    ran = tmp_path / "ran.ipynb"
    found = notebook(slider([0.2, 0.8]))
    nbformat.write(found, ran)
    before = ran.read_bytes()
    stage_book._copy_notebook(Project(), ran, page)
    staged = json.loads(page.read_text("utf8"))
    text = "".join(html(staged))
    assert len(sources(text)) == 3 and all((page.parent / source).is_file() for source in sources(text))
    figures = [cell["cells"][1]["outputs"][1]["data"]["image/png"] for cell in (staged, found)]
    assert len(figures[0]) < len(figures[1]), "and its figure is lighter"
    assert ran.read_bytes() == before


def test_no_chapter_of_the_site_holds_a_picture_in_its_page(site):
    """Every address of a frame leads to a picture, and a page is small without them."""
    moving = set()
    for page in sorted((site / "notebooks").glob("*.html")):
        text = page.read_text("utf8")
        assert 'src="data:image/' not in text and len(text) < 1_000_000
        for address in (source for source in sources(text) if "_static/frames/" in source):
            assert (page.parent / address).resolve().read_bytes().startswith((b"\x89PNG", b"\xff\xd8\xff"))
            moving.add(page.stem[:2])
    assert moving >= {"11", "22", "23", "31"}
