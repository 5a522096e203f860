"""Images drawn from known factors: cartoon portraits and sprites, the same bytes on any machine.

Factors are drawn independently of each other, and an image is a function of its factors alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from grae_helpers.drawing import edge, ellipse, grid, root
from grae_helpers.portraits import portraits
from grae_helpers.runtime import integer

# A factor's range, or the number of its values from 0.
FACES = {
    "turn": (-30.0, 30.0),  # degrees; positive: to the viewer's right
    "nod": (-12.0, 12.0),  # degrees; positive: downwards
    "tilt": (-12.0, 12.0),  # degrees; positive: clockwise
    "head_width": (0.74, 0.92),  # over the head's height
    "skin": (0.0, 1.0),  # light to dark
    "hair_colour": (0.0, 1.0),  # fair, red, brown, black, grey
    "hair_style": 5,  # HAIR_STYLES
    "eye_spacing": (0.35, 0.47),  # from the middle, over the head's half-width
    "eye_size": (0.8, 1.25),
    "gaze": (-1.0, 1.0),  # left to right
    "brow_tilt": (-20.0, 20.0),  # degrees; positive: the inner ends go down
    "nose_length": (0.2, 0.34),  # over the head's half-height
    "mouth_curve": (-0.7, 1.0),  # sad to glad
    "mouth_open": (0.0, 1.0),
    "light": (-60.0, 60.0),  # degrees; positive: from the right
    "background": (0.0, 360.0),  # degrees of hue; the clothes have the opposite one
}
HAIR_STYLES = ("bald", "short", "parted", "bob", "curly")
SPRITES = {
    "shape": 3,
    "scale": (0.5, 1.0),
    "orientation": (0.0, 360.0),  # degrees, clockwise
    "x": (0.0, 1.0),
    "y": (0.0, 1.0),
    "red": (0.2, 1.0),
    "green": (0.2, 1.0),
    "blue": (0.2, 1.0),
}
WHITE_SPRITES = {name: SPRITES[name] for name in ("shape", "scale", "orientation", "x", "y")}
SHAPES = ("square", "ellipse", "heart")


def draw_factors(table: Mapping[str, tuple[float, float] | int], n: int, seed: int) -> Tensor:
    """Factors float32 [n, k], each uniform over its range in `table`, independent of the others.

    The rows of a smaller n are the first of a larger one's.

    >>> draw_factors(FACES, 3, seed=0).shape
    torch.Size([3, 16])
    """
    integer("n", n, 1)
    uniform = torch.rand(n, len(table), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    columns = []
    for name, column in zip(table, uniform.unbind(1), strict=True):
        kind = table[name]
        low, high = (0, kind) if isinstance(kind, int) else kind
        value = low + (high - low) * column
        columns.append(value.floor() if isinstance(kind, int) else value)
    return torch.stack(columns, 1).float()


def draw_faces(factors: Tensor, size: int = 64) -> Tensor:
    """Portraits uint8 [n, 3, size, size] of factors [n, 16], in the order, units and ranges of `FACES`.

    A head is an ellipsoid that turns and nods under a light; everything on it moves with it, and an edge is
    blended over about a pixel. Raises ValueError for factors of another shape or out of range.

    >>> draw_faces(draw_factors(FACES, 2, seed=0)).shape
    torch.Size([2, 3, 64, 64])
    """
    return _draw(portraits, "draw_faces", factors, FACES, size)


def draw_sprites(factors: Tensor, size: int = 64) -> Tensor:
    """Sprites uint8 [n, C, size, size] of factors [n, 8] as in `SPRITES` (C = 3), or the first five (C = 1, white).

    A square, an ellipse or a heart on black, after dSprites but drawn anew: its edges are blended over a pixel,
    and none is ever cut off: as x or y goes from 0 to 1, its centre does from 22.5 % to 77.5 % of the side. A
    square looks the same each 90° of its orientation and an ellipse each 180°. Raises ValueError for factors of
    another shape or out of range.

    >>> draw_sprites(torch.tensor([[2, 1.0, 0, 0.5, 0.5]])).shape
    torch.Size([1, 1, 64, 64])
    """
    grey = isinstance(factors, Tensor) and factors.ndim == 2 and factors.shape[1] == len(WHITE_SPRITES)
    return _draw(_sprites, "draw_sprites", factors, WHITE_SPRITES if grey else SPRITES, size)


def _draw(paint: Callable, name: str, factors: Tensor, table: Mapping, size: int) -> Tensor:
    integer("size", size, 1)
    _check(name, factors, table)
    parts = []
    with _one_thread():
        for rows in factors.detach().cpu().double().split(max(1, (1 << 17) // size**2)):  # what a core's cache holds
            columns = rows[:, :, None, None].unbind(1)
            canvas = paint(dict(zip(table, columns, strict=True)), size)
            parts.append(canvas.clamp_(0, 1).mul_(255).add_(0.5).to(torch.uint8))
    return torch.cat(parts)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Steps this small take longer on several threads, and far longer where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check(name: str, factors: Tensor, table: Mapping) -> None:
    if not isinstance(factors, Tensor) or factors.ndim != 2 or factors.shape[1] != len(table):
        got = list(factors.shape) if isinstance(factors, Tensor) else type(factors).__name__
        raise ValueError(f"{name}: expected factors of shape [n, {len(table)}], got {got}")
    for (factor, kind), column in zip(table.items(), factors.double().unbind(1), strict=True):
        low, high = (0, kind - 1) if isinstance(kind, int) else kind
        whole = not isinstance(kind, int) or bool((column == column.floor()).all())
        if len(column) and not (whole and bool(((column >= low - 1e-6) & (column <= high + 1e-6)).all())):
            what = "whole numbers" if isinstance(kind, int) else "values"
            raise ValueError(f"{name}: {factor}: expected {what} from {low:g} to {high:g}, got {column.tolist()[:8]}")


def _sprites(f: Mapping[str, Tensor], size: int) -> Tensor:
    x, y = grid(size)
    angle, unit = torch.deg2rad(f["orientation"]), (0.34 * f["scale"]).float()
    cos, sin = angle.cos().float(), angle.sin().float()
    x, y = x - (1.1 * f["x"] - 0.55).float(), y - (1.1 * f["y"] - 0.55).float()
    u, v = (cos * x + sin * y) / unit, (cos * y - sin * x) / unit
    right, left = (u - v) / math.sqrt(2), (-u - v) / math.sqrt(2)  # up to the right, up to the left
    lobes = [root((right - 0.6 * (1 - i)).square() + (left - 0.6 * i).square()) - 0.6 for i in (0, 1)]
    shapes = (
        torch.maximum(u.abs(), v.abs()) - 0.8,
        ellipse(u, v, 1.0, 0.5),
        torch.minimum(torch.maximum(right.abs(), left.abs()) - 0.6, torch.minimum(*lobes)),
    )
    distance = sum(shape * (f["shape"] == number) for number, shape in enumerate(shapes)) * unit
    mask = edge(distance, 2.2 / size).unsqueeze(1)
    if "red" not in f:
        return mask
    return mask * torch.stack([f[name] for name in ("red", "green", "blue")], 1).float()
