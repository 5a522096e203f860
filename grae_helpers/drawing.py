"""Shapes with soft edges on a batch of images, in arithmetic that every machine rounds alike.

A pixel is made of sums, products, quotients and square roots only, which IEEE 754 rounds in one way. Sines and
cosines are taken once an image, in float64. x points right and y down, both from −1 to 1. Planes are [n, h, w],
colours [n, 3, 1, 1] and images [n, 3, h, w], all float32.
"""

import numpy as np
import torch
from torch import Tensor


def grid(size: int) -> tuple[Tensor, Tensor]:
    """Pixel centres from −1 to 1: x to the right, y downwards, each [1, size, size]."""
    line = (torch.arange(size, dtype=torch.float64) * 2 + 1) / size - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x.float()[None], y.float()[None]


def palette(stops: tuple, position: Tensor) -> Tensor:
    """Colours [n, 3, 1, 1] at positions [n, 1, 1] in [0, 1], linear between evenly spaced stops."""
    table = torch.tensor(stops, dtype=torch.float64)
    weights = (1 - (position.flatten()[:, None] * (len(stops) - 1) - torch.arange(len(stops))).abs()).clamp(0)
    return (weights @ table).float()[:, :, None, None]


def hue(degrees: Tensor, light: float, chroma: float) -> Tensor:
    """Colours of a hue, from light − chroma to light + chroma."""
    angle = torch.deg2rad(degrees.flatten()[:, None] - torch.tensor([0.0, 120.0, 240.0], dtype=torch.float64))
    return (light + chroma * angle.cos()).float()[:, :, None, None]


def root(t: Tensor) -> Tensor:
    """The square root, by numpy: rounded as IEEE 754 says, and faster than torch's on a CPU."""
    return torch.from_numpy(np.sqrt(t.numpy()))


def edge(distance: Tensor, soft: float) -> Tensor:
    """1 inside (a negative distance), 0 outside, blended over `soft`."""
    return (0.5 - distance / soft).clamp_(0, 1)


def ellipse(x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float) -> Tensor:
    """The distance to an ellipse, right to first order, negative inside."""
    u, v = x / rx, y / ry
    length, slope = u * u + v * v, u / rx
    steepness = slope * slope + (v / ry) * (v / ry)
    return (length - root(length)) / (root(steepness) + 1e-6)


def glow(x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float) -> Tensor:
    """A soft blot: 1 in the middle, 0 from the ellipse outwards."""
    u, v = x / rx, y / ry
    inside = (1 - u * u - v * v).clamp_(0)
    return inside * inside


def stroke(x: Tensor, y: Tensor, start: tuple, end: tuple) -> Tensor:
    """The distance to a line from start to end."""
    (x0, y0), (x1, y1) = start, end
    dx, dy = x1 - x0, y1 - y0
    along = (((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)).clamp_(0, 1)
    u, v = x - x0 - along * dx, y - y0 - along * dy
    return root(u * u + v * v)


def wave(t: Tensor) -> Tensor:
    """A triangle wave of period 1 between −1 and 1."""
    return ((t - t.floor()) - 0.5).abs() * 4 - 1


def curls(x: Tensor, y: Tensor) -> Tensor:
    """Scallops between 0 and 1, meeting in cusps."""
    total = 0
    for t in (3.7 * (x + y), 3.7 * (x - y)):
        t = t - t.floor()
        total = total + 2 * t * (1 - t)
    return total


def paint(
    image: Tensor, mask: Tensor, dark: Tensor, light: Tensor | None = None, shade: Tensor | None = None
) -> None:
    """Blend a colour, or one between dark (0) and light (1), into the image, in place."""
    layer = dark - image if light is None else (light - dark) * shade.unsqueeze(1) + (dark - image)
    image += layer.mul_(mask.unsqueeze(1))


def window(image: Tensor, planes: tuple, rows: tuple, columns: tuple) -> tuple[Tensor, list[Tensor]]:
    """The part of an image, and of planes beside it, between two shares of its height and two of its width."""
    size = image.shape[-1]
    low, high, left, right = (round(share * size) for share in (*rows, *columns))
    image = image[:, :, low:high, left:right]
    return image, [plane.expand(-1, size, size)[:, low:high, left:right] for plane in planes]
