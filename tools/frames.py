"""The pictures of a staged page, lighter: those inside its HTML moved into files, and its figures in fewer bytes.

A slider holds its frames as data URIs: it then works in Colab and from one file on a disk. On the site the same
frames lie beside the page, and those in a `<template>` are not loaded until a script shows them.
"""

import base64
import binascii
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tools.project import ToolError

INLINE = re.compile(r'\bsrc="data:image/([a-z+]+);base64,([^"]*)"')
SUFFIXES = {"png": "png", "jpeg": "jpg", "gif": "gif", "webp": "webp", "svg+xml": "svg"}
NOTICEABLE = 1.0
"""Mean error of a palette, in grey values of 255, above which a figure is taken for photographs: those show steps."""
QUALITY = 92
"""Of the JPEG that photographs become."""


def extract(notebook: dict, page: Path) -> list[Path]:
    """Write every picture inlined in an HTML output of a staged page to a file, and have the HTML point there.

    The files of notebooks/NN.ipynb lie in _static/frames/NN. Each is named by the hash of its bytes: equal pictures
    are one file, and a changed one has another name, which no cache knows. Changes the notebook in place and returns
    the files, in the order of the page. Raises ToolError for a picture of an unknown kind or that cannot be decoded.
    """
    folder = page.parents[1] / "_static" / "frames" / page.stem
    found: dict[Path, bytes] = {}

    def moved(match: re.Match) -> str:
        content = _content(*match.groups())
        path = folder / f"{hashlib.sha256(content).hexdigest()[:20]}.{SUFFIXES[match[1]]}"
        found[path] = content
        return f'src="../_static/frames/{page.stem}/{path.name}"'

    for data in _outputs(notebook, "text/html"):
        data["text/html"] = INLINE.sub(moved, "".join(data["text/html"]))  # one text, or a list of its lines
    for path, content in found.items():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return list(found)


def lighten(notebook: dict) -> None:
    """Give each figure a palette of 256 colours, or make it a JPEG where a reader would see the palette's steps.

    A figure drawn with a few hues loses nothing that shows, and two thirds of its bytes. One with transparency, or
    that would not be smaller, stays as it is. Changes the notebook in place. Raises ToolError for what is no PNG.
    """
    for data in _outputs(notebook, "image/png"):
        content = _content("png", "".join("".join(data["image/png"]).split()))
        kind, lighter = _lighter(content)
        if len(lighter) < len(content):
            del data["image/png"]
            data[kind] = base64.b64encode(lighter).decode()


def _lighter(content: bytes) -> tuple[str, bytes]:
    try:
        image = Image.open(io.BytesIO(content), formats=["PNG"])
        whole = image.convert("RGBA")
    except (OSError, SyntaxError) as error:  # what Pillow raises for a damaged PNG
        raise ToolError(f"a figure: expected a PNG, got {content[:8]!r} ({error})") from None
    if image.mode == "P" or whole.getchannel("A").getextrema()[0] < 255:
        return "image/png", content
    image, packed = whole.convert("RGB"), io.BytesIO()
    few = image.quantize(256, dither=Image.Dither.NONE)
    if np.abs(np.asarray(image, np.int16) - np.asarray(few.convert("RGB"), np.int16)).max(-1).mean() < NOTICEABLE:
        few.save(packed, "png", compress_level=9)
        return "image/png", packed.getvalue()
    image.save(packed, "jpeg", quality=QUALITY, subsampling=0, optimize=True)
    return "image/jpeg", packed.getvalue()


def _outputs(notebook: dict, kind: str) -> Iterator[dict]:
    """The data of each output that has the kind."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if kind in output.get("data", {}):
                yield output["data"]


def _content(kind: str, text: str) -> bytes:
    if kind not in SUFFIXES:
        raise ToolError(f"a picture inside a page: expected one of {', '.join(SUFFIXES)}, got {kind}")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ToolError(f"a picture inside a page: expected base64, got {text[:40]!r} ({error})") from None
