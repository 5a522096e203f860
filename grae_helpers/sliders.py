"""A slider that needs no kernel: precomputed frames in one piece of HTML, for the site, Colab and a file on disk."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

DPI = 120
"""Pixels per inch of a frame: as sharp as its bytes allow."""
COLOURS = 32
"""Colours of a frame's palette, enough for a few hues and their smoothed edges; a colour map needs more."""
QUALITY = 92
"""Of a frame without a palette, a JPEG: photographs at a quarter of their size, and no edge visibly softer."""

# A card of its own, white in both colour schemes, so that frame and control are readable wherever they land.
STYLE = """
.grae-slider{background:#fff;color:#1a1a1a;color-scheme:light;margin:0;padding:.75em;border-radius:.25em}
.grae-slider .control{display:flex;flex-wrap:wrap;align-items:center;gap:.25em .75em;margin-bottom:.5em}
.grae-slider .control[hidden]{display:none}
.grae-slider input{flex:1 1 6em;min-width:0;height:2.5em;margin:0;accent-color:#0173b2;cursor:pointer}
.grae-slider output{min-width:3em;text-align:right;font-weight:600;font-variant-numeric:tabular-nums}
.grae-slider img{display:block;width:auto;height:auto;max-width:100%;margin:0 auto;background:#fff}
@media (max-width:599px){.grae-slider .control span{flex-basis:100%}}
@media screen and (min-width:600px){.grae-slider img{max-height:85vh}}
.grae-slider figcaption{margin-top:.5em;color:inherit}
@media print{.grae-slider .control{display:none}}
"""

# The frames wait in the template, where nothing shows or loads them; the one picture takes its place and words from
# there. The attribute is read, since a template's images have no page from which to resolve an address.
FRAMES = "const s=this.closest('figure').querySelector('template').content.children;"
NEXT = "for(const k of[-1,1]){const m=s[+this.value+k];if(m)new Image().src=m.getAttribute('src')}"
MOVE = (
    f"{FRAMES}const n=s[this.value],f=this.closest('figure'),p=f.querySelector('img'),t=n.dataset.value;"
    "p.src=n.getAttribute('src');p.alt=n.alt;f.querySelector('output').value=t;"
    f"this.setAttribute('aria-valuetext',t);{NEXT}"
)
# Where the frames are files, the neighbours load as soon as a reader turns to the control.
ASKED = FRAMES + NEXT
REVEAL = "this.closest('figure').querySelector('.control').hidden=false"


@dataclass(frozen=True)
class Slider:
    """What a notebook shows: `html` where there is a browser, `text` where there is none."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def slider(
    frames: Iterable[Figure],
    values: Sequence[str],
    label: str,
    alts: Sequence[str],
    start: int = 0,
    *,
    caption: str,
    colours: int | None = COLOURS,
) -> Slider:
    """A control over precomputed frames, one of them visible at a time, starting with frame number `start`.

    Works from the page alone: keyboard, mouse and touch, several on a page, nothing fetched. Without JavaScript,
    and where a page strips scripts, the start frame remains as a still picture and the control is hidden; in
    print the frame chosen last. `values` are what the control says at each frame ("30°"), `label` what it moves
    ("angle"), `alts` what each frame shows, `caption` what stands below; all plain text. `colours` of the palette,
    None for photographs. Each figure is closed once it is drawn, so a generator keeps one in memory at a time.
    Raises ValueError for fewer than two frames, unlike numbers of frames, values and alts, an empty text, frames
    of different sizes, more than 256 colours, and a start that is no frame; TypeError for other kinds.

    >>> figures = (plt.figure(figsize=(1, 1)) for _ in range(2))
    >>> shown = slider(figures, ["0°", "45°"], "angle", ["level", "turned"], caption="A square, turned.")
    >>> shown
    Slider "angle" with 2 frames, 0° to 45°. At 0°: level
    >>> shown.html.count("data:image/png;base64,")  # the picture, and the two frames it can show
    3
    """
    values, alts = _texts("values", values), _texts("alts", alts)
    label, caption = _text("label", label), _text("caption", caption)
    if not isinstance(frames, Iterable):
        raise TypeError(f"frames: expected matplotlib figures, got one {type(frames).__name__}")
    if colours is not None and (type(colours) is not int or not 2 <= colours <= 256):
        raise ValueError(f"colours: expected 2 to 256, or None for photographs, got {colours!r}")
    pictures = [_draw(frame, colours) for frame in frames]
    if not len(pictures) == len(values) == len(alts) > 1:
        raise ValueError(
            "frames, values and alts: expected as many of each, two or more, "
            f"got {len(pictures)}, {len(values)} and {len(alts)}"
        )
    sizes = {size for _, size in pictures}
    if len(sizes) > 1:
        raise ValueError(f"frames: expected one size, got {sorted(sizes)} pixels")
    if isinstance(start, bool) or not isinstance(start, int):
        raise TypeError(f"start: expected the number of a frame, got {start!r}")
    if not 0 <= start < len(values):
        raise ValueError(f"start: expected 0 to {len(values) - 1}, got {start}")
    text = (
        f'Slider "{label}" with {len(values)} frames, {values[0]} to {values[-1]}. At {values[start]}: {alts[start]}'
    )
    return Slider(_page([source for source, _ in pictures], sizes.pop(), values, label, alts, start, caption), text)


def _page(
    sources: list[str],
    size: tuple[int, int],
    values: list[str],
    label: str,
    alts: list[str],
    start: int,
    caption: str,
) -> str:
    values, alts = [html.escape(v) for v in values], [html.escape(a) for a in alts]
    frames = "".join(
        f'<img src="{source}" alt="{alt}" data-value="{value}">'
        for source, alt, value in zip(sources, alts, values, strict=True)
    )
    label, width, height = html.escape(label), *size
    return (
        f'<figure class="grae-slider"><style>{STYLE}</style>'
        f'<div class="control" hidden><span aria-hidden="true">{label}</span>'
        f'<input type="range" min="0" max="{len(values) - 1}" step="1" value="{start}" autocomplete="off" '
        f'aria-label="{label}" aria-valuetext="{values[start]}" '
        f'oninput="{MOVE}" onfocus="{ASKED}" onpointerenter="{ASKED}">'
        f'<output aria-hidden="true">{values[start]}</output></div>'
        f'<img src="{sources[start]}" alt="{alts[start]}" width="{width}" height="{height}" onload="{REVEAL}">'
        f"<template>{frames}</template>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _draw(frame: Figure, colours: int | None) -> tuple[str, tuple[int, int]]:
    """The frame as a data URI, a PNG with a palette or a JPEG, and its size in pixels."""
    if not isinstance(frame, Figure):
        raise TypeError(f"frames: expected matplotlib figures, got {type(frame).__name__}")
    drawn, packed = io.BytesIO(), io.BytesIO()
    frame.savefig(drawn, format="png", dpi=DPI, facecolor="white")
    plt.close(frame)
    image, kind = Image.open(drawn).convert("RGB"), "jpeg" if colours is None else "png"
    if colours is None:
        image.save(packed, format=kind, quality=QUALITY, subsampling=0, optimize=True)
    else:
        image.quantize(colours, dither=Image.Dither.NONE).save(packed, format=kind, optimize=True)
    return f"data:image/{kind};base64," + base64.b64encode(packed.getvalue()).decode(), image.size


def _texts(name: str, texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise TypeError(f"{name}: expected a list of texts, got {texts!r}")
    return [_text(name, text) for text in texts]


def _text(name: str, text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{name}: expected text, got {text!r}")
    if not text.strip():
        raise ValueError(f"{name}: expected text, got an empty one")
    return text
