"""A portrait painted from its factors, back to front; `procedural.draw_faces` says what the factors are.

A scene is a dict: the factors float64 [n, 1, 1], the pixels x and y in the head's own frame, the head's half-axes
a and b, colours, the light, and the width of an edge. Numbers below are lengths; the picture's half-width is 1.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from grae_helpers.drawing import curls, edge, ellipse, glow, grid, hue, paint, palette, root, stroke, wave, window

# Per hair style: thickness, hairline at the middle, its fall to the sides, its slant, length behind, curl.
HAIR = (
    (0.00, -2.00, 0.00, 0.00, -2.00, 0.00),
    (0.05, -0.56, 0.42, 0.00, -0.10, 0.00),
    (0.08, -0.55, 0.50, 0.30, 0.00, 0.00),
    (0.10, -0.40, 0.62, -0.08, 0.62, 0.00),
    (0.13, -0.62, 0.50, 0.00, 0.30, 0.09),
)
SKINS = ((1.0, 0.86, 0.76), (0.97, 0.77, 0.62), (0.85, 0.62, 0.45), (0.64, 0.43, 0.29), (0.42, 0.27, 0.19))
HAIRS = ((0.95, 0.80, 0.48), (0.74, 0.36, 0.14), (0.44, 0.27, 0.16), (0.13, 0.10, 0.10), (0.72, 0.72, 0.74))


def portraits(factors: Mapping[str, Tensor], size: int) -> Tensor:
    """Portraits float32 [n, 3, size, size], nominally in [0, 1], of factors float64 [n, 1, 1] by name."""
    scene = {**factors, **_pose(factors, *grid(size)), **_colours(factors), "soft": 2.6 / size}
    image = _backdrop(scene, *grid(size))
    _hair_behind(image, scene)
    _body(*_part(image, {**scene, **dict(zip("xy", grid(size), strict=True))}, (0.55, 1), (0, 1)))
    for side in (-1, 1):
        _ear(*_part(image, scene, (0.25, 0.75), (0.08, 0.5) if side < 0 else (0.5, 0.92)), side)
    _face(image, scene)
    for side in (-1, 1):
        ear = _part(image, scene, (0.25, 0.75), (0.08, 0.5) if side < 0 else (0.5, 0.92))
        _ear(*ear, side, (-side * 5 * scene["sin"]).clamp(0, 1).float())  # the near ear comes forward
    _nose(*_part(image, scene, (0.38, 0.82), (0.1, 0.9)))
    _mouth(*_part(image, scene, (0.5, 0.9), (0.15, 0.85)))
    for side in (-1, 1):
        _eye(*_part(image, scene, (0.2, 0.68), (0.1, 0.75) if side < 0 else (0.25, 0.9)), side)
    _hair_in_front(image, scene)
    return image


def _part(image: Tensor, scene: dict, rows: tuple, columns: tuple) -> tuple[Tensor, dict]:
    """The part of the image where a feature can be, for most need a fraction of the pixels."""
    part, (x, y) = window(image, (scene["x"], scene["y"]), rows, columns)
    return part, {**scene, "x": x, "y": y}


def _pose(factors: Mapping[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    tilt, turn, nod = (torch.deg2rad(factors[name]) for name in ("tilt", "turn", "nod"))
    cos, sin = tilt.cos().float(), tilt.sin().float()
    below = y - 0.5  # the head tilts about the neck
    return {
        "x": cos * x + sin * below,
        "y": cos * below - sin * x + 0.54,
        "a": (0.6 * factors["head_width"]).float(),
        "b": torch.tensor(0.6),
        "sin": turn.sin(),
        "cos": turn.cos(),
        "down": (0.54 * nod.sin()).float(),
    }


def _colours(factors: Mapping[str, Tensor]) -> dict[str, Tensor | tuple]:
    skin, angle = palette(SKINS, factors["skin"]), torch.deg2rad(factors["light"])
    beam = torch.stack([angle.sin(), torch.full_like(angle, -0.5), angle.cos()]) / math.sqrt(1.25)
    style = torch.tensor(HAIR)[factors["hair_style"].flatten().long()]
    return {
        "skin": skin,
        "shadow": skin * _rgb(0.56, 0.44, 0.43),
        "hair": palette(HAIRS, factors["hair_colour"]),
        "style": style[:, :, None, None].unbind(1),
        "beam": beam.float().unbind(),
    }


def _rgb(*colour: float) -> Tensor:
    return torch.tensor(colour).view(3, 1, 1)


def _lit(scene: dict, u: Tensor, v: Tensor, q: Tensor) -> Tensor:
    """The light on an ellipsoid at (u, v), where q = u² + v²: minus 1 to 1."""
    across, down, near = scene["beam"]
    return u * across + v * down + root((1 - q).clamp(0)) * near


def _on_head(scene: dict, across: Tensor | float, reach: float = 1.0) -> tuple[Tensor, Tensor]:
    """Where a feature at `across` (−1 to 1) of the front is seen after the turn, and how it narrows."""
    across = torch.as_tensor(across, dtype=torch.float64)
    depth = (1 - across * across).sqrt()
    x = across * scene["cos"] + depth * scene["sin"] * reach
    narrow = (depth * scene["cos"] - across * scene["sin"]).clamp(0.3)
    return scene["a"] * x.float(), narrow.float()


def _backdrop(scene: dict, x: Tensor, y: Tensor) -> Tensor:
    shade = 0.62 + 0.22 * scene["beam"][0] * x - 0.16 * y - 0.10 * (x * x + y * y)
    dark, bright = hue(scene["background"], 0.38, 0.16), hue(scene["background"], 0.80, 0.17)
    return dark + (bright - dark) * shade.unsqueeze(1)


def _body(image: Tensor, scene: dict) -> None:
    x, y, soft, slope = scene["x"], scene["y"], scene["soft"], scene["beam"][0] * scene["x"]
    neck = torch.maximum(x.abs() - 0.21 - 0.12 * (y - 0.55).clamp(0), 0.2 - y)
    shade = (0.25 + 1.1 * (y - 0.52) + 0.5 * slope).clamp(0, 1)
    paint(image, edge(neck, soft), scene["shadow"], scene["skin"], shade)
    cloth = torch.maximum(ellipse(x, y - 1.12, 0.86, 0.42), -ellipse(x, y - 0.66, 0.25, 0.17))
    shade = (0.45 + 0.7 * slope + 0.5 * (0.95 - y)).clamp(0, 1)
    opposite = scene["background"] + 180
    paint(image, edge(cloth, soft), hue(opposite, 0.20, 0.10), hue(opposite, 0.55, 0.20), shade)


def _face(image: Tensor, scene: dict) -> None:
    x, y = scene["x"], scene["y"]
    low = (y / scene["b"]).clamp(0, 1)
    drop = (1 + 0.06 * scene["mouth_open"]).float()
    v = y / torch.where(y > 0, scene["b"] * drop, scene["b"])
    lean = 0.10 * scene["sin"].float() * low  # the chin leads a turn
    u = (x - lean) / (scene["a"] * (1 - 0.20 * low * low))
    q = u * u + v * v
    shade = 0.36 + 0.62 * _lit(scene, u, v, q)
    for side in (-1, 1):
        at, narrow = _on_head(scene, 0.42 * side)
        shade = shade - 0.16 * glow(x - at, y + 0.03 - scene["down"], 0.24 * narrow, 0.17)
    mask = edge((root(q) - 1) * 0.52, scene["soft"])
    paint(image, mask, scene["shadow"], scene["skin"], shade.clamp(0, 1.1))
    for side in (-1, 1):
        at, narrow = _on_head(scene, 0.55 * side)
        cheek = 0.35 * glow(x - at, y - 0.17 - scene["down"], 0.2 * narrow, 0.16)
        paint(image, mask * cheek, scene["skin"] * _rgb(0.98, 0.62, 0.58))


def _ear(image: Tensor, scene: dict, side: int, seen: Tensor | float = 1.0) -> None:
    at = side * (scene["a"] * scene["cos"].float() + 0.01)
    u, v = scene["x"] - at, scene["y"] - 0.06 + 0.3 * scene["down"]
    mask = edge(ellipse(u, v, 0.075, 0.13), scene["soft"]) * seen
    paint(image, mask, scene["shadow"], scene["skin"], (0.8 - 0.6 * glow(u, v, 0.06, 0.11)).clamp(0, 1))


def _nose(image: Tensor, scene: dict) -> None:
    (top, _), (tip, _) = _on_head(scene, 0.0), _on_head(scene, 0.0, reach=1.22)
    start = scene["down"] + 0.02
    length = (0.6 * scene["nose_length"]).float() + 0.25 * scene["down"]
    u, v = scene["x"] - tip, scene["y"] - start - length
    along = (1 + v / length).clamp(0, 1)
    across = (scene["x"] - top - along * (tip - top)) / (0.045 + 0.055 * along)
    bridge = (1 - across.abs() * 0.5).clamp(0) * along * (1 - v.clamp(0) / 0.07).clamp(0)
    side = (across * scene["beam"][0]).clamp(-1, 1)
    paint(image, 0.75 * bridge * (-side).clamp(0), scene["shadow"])
    paint(image, 0.5 * bridge * side.clamp(0), scene["skin"])
    paint(image, 0.5 * glow(u, v - 0.05, 0.15, 0.07), scene["shadow"])
    paint(image, 0.8 * glow(u, v, 0.10, 0.085), (scene["skin"] * 1.04).clamp(0, 1))
    for nostril in (-0.05, 0.05):
        paint(image, 0.75 * glow(u - nostril, v - 0.045, 0.04, 0.03), scene["shadow"] * 0.5)


def _mouth(image: Tensor, scene: dict) -> None:
    curve, opening, soft = scene["mouth_curve"].float(), scene["mouth_open"].float(), scene["soft"]
    at, narrow = _on_head(scene, 0.0, reach=0.84)  # the jaw is narrower than the head
    u = (scene["x"] - at) / ((0.21 + 0.03 * curve) * narrow)
    fall = 1 - u * u
    v = scene["y"] - 0.335 - scene["down"] - 0.02 * opening - 0.085 * curve * (fall - 0.5)
    inner = 0.075 * opening * fall
    below = glow(0.9 * u, v - 0.10 - 0.9 * inner.clamp(0), 1.0, 0.06)
    paint(image, 0.3 * below, scene["skin"] * _rgb(0.6, 0.48, 0.47))
    lips = inner + 0.034 * (0.4 + 0.6 * fall) * (fall > 0)
    lip, dark = scene["skin"] * _rgb(0.84, 0.52, 0.52), _rgb(0.24, 0.07, 0.08)
    mask = edge(torch.maximum(v.abs() - lips, (u.abs() - 1) * 0.2), soft)
    paint(image, mask, lip * 0.78, lip, (0.5 + 6 * v).clamp(0, 1))
    paint(image, 0.7 * edge(torch.maximum(v.abs() - 0.006, (u.abs() - 0.92) * 0.2), soft), dark)
    hole = torch.maximum(v.abs() - (inner - 0.004), (u.abs() - 0.94) * 0.2)
    paint(image, edge(hole, soft), dark)
    teeth = edge(torch.maximum(hole + 0.006, v + inner - 0.048), soft)
    paint(image, teeth * (opening * 3).clamp(0, 1), _rgb(0.95, 0.94, 0.9))


def _eye(image: Tensor, scene: dict, side: int) -> None:
    at, narrow = _on_head(scene, side * scene["eye_spacing"])
    scale, soft = scene["eye_size"].float(), scene["soft"]
    x, y = scene["x"] - at, scene["y"] + 0.01 - scene["down"]
    wide, high = 0.125 * scale * narrow, 0.078 * scale
    paint(image, 0.9 * edge(ellipse(x, y + 0.016, wide * 1.06, high * 1.12), soft), _rgb(0.16, 0.10, 0.09))
    white = edge(ellipse(x, y - 0.004, wide, high), soft)
    paint(image, white, _rgb(0.93, 0.93, 0.94))
    u, v = x - 0.045 * scene["gaze"].float() * scale * narrow, y - 0.002
    iris = ellipse(u, v, 0.062 * scale * root(narrow), 0.062 * scale)
    paint(image, white * edge(iris, soft), _rgb(0.30, 0.36, 0.40))
    paint(image, white * edge(iris + 0.03 * scale, soft), _rgb(0.06, 0.05, 0.06))
    paint(image, 0.95 * glow(u + 0.022, v + 0.026, 0.035, 0.035), _rgb(1.0, 1.0, 1.0))
    half = 0.13 * narrow
    rise = side * half * torch.deg2rad(scene["brow_tilt"]).tan().float()
    brow = stroke(x, y + 0.085 + 0.085 * scale, (-half, rise), (half, -rise)) - 0.024
    paint(image, 0.92 * edge(brow, soft), scene["hair"] * 0.62)


def _hair_behind(image: Tensor, scene: dict) -> None:
    thick, _, _, _, length, curl = scene["style"]
    x, y, b = scene["x"], scene["y"], scene["b"]
    end = (y - length * b + 0.25).clamp(0) / 0.25
    u, v = x / (scene["a"] + thick), y.clamp(max=0) / (b + thick) + end
    distance = (root(u * u + v * v) - 1) * 0.5 - curl * curls(x, y)
    shade = (0.30 + 0.2 * wave(5 * x)).clamp(0, 1)
    mask = edge(distance, scene["soft"]) * (length > -1)
    paint(image, mask, scene["hair"] * 0.4, scene["hair"] * 0.85, shade)


def _hair_in_front(image: Tensor, scene: dict) -> None:
    thick, line, bend, slant, _, curl = scene["style"]
    x, y, a, b = (scene[name] for name in ("x", "y", "a", "b"))
    u, v = x / (a + thick), y / (b + thick)
    q, bumps = u * u + v * v, curl * curls(x, y)
    across = (x - 0.9 * a * scene["sin"].float()) / a
    hairline = b * (line + bend * (across * across).clamp(max=1.5) + slant * across)
    hairline = hairline + 0.8 * scene["down"] + 0.012 * wave(across * 4) + bumps
    mask = edge(torch.maximum((root(q) - 1) * 0.55 - bumps, y - hairline), scene["soft"]) * (line > -1)
    shine = (1 - ((q - 0.62) / 0.3).square()).clamp(0) * (0.5 + u * scene["beam"][0])
    shade = 0.30 + 0.55 * _lit(scene, u, v, q) + 0.35 * shine + 0.07 * wave(6 * across + 1.5 * y)
    paint(image, mask, scene["hair"] * 0.40, (scene["hair"] * 1.12).clamp(0, 1), shade.clamp(0, 1))
