"""The figures of the Darmois–Skitovitch page draw what they are given, and stay small as frames of a slider."""

import base64
import inspect

import lxml.html
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from grae_helpers import plotting, sliders
from grae_helpers import plotting_dependence as figures

ANGLES = np.arange(0, 91, 5)


@pytest.fixture(autouse=True)
def style():
    plotting.use_style()
    yield
    plt.close("all")


def sample(seed: int) -> figures.TurnedSample:
    wave = np.sin(np.radians(2 * ANGLES))
    points = np.random.default_rng(seed).normal(size=(500, 2))
    return figures.TurnedSample(points, ANGLES, -0.6 * wave, 0.5 * wave, 0.01 * wave, np.linspace(1, 0, len(ANGLES)))


def posterior(own_angle: float | None) -> figures.TurnedPosterior:
    return figures.TurnedPosterior(np.diag([0.25, 1.0]), np.array([0.25, 1.0]), ANGLES, 0.1 * ANGLES, own_angle)


def test_turned_samples():
    case = sample(0)
    left, right = figures.turned_samples({"uniform, turned": case}, 3, level=0.05).axes
    assert left.get_title("left") == "uniform,\nturned"
    np.testing.assert_array_equal(left.lines[0].get_xydata(), case.points[: figures.SHOWN])
    correlation, distance, filled, empty = right.lines[:4]
    np.testing.assert_allclose(correlation.get_ydata(), np.abs(case.correlation))
    np.testing.assert_allclose(distance.get_ydata(), case.distance_correlation)
    assert len(filled.get_xdata()) == (case.p_value <= 0.05).sum()
    assert len(filled.get_xdata()) + len(empty.get_xdata()) == len(ANGLES)
    assert f"correlation −{-case.correlation[3]:.2f}" in right.get_title("left")
    assert "degrees" in right.get_xlabel()


def test_turned_posteriors():
    left, right = figures.turned_posteriors({"one": posterior(20.0)}, 2).axes
    ellipse, upright = (patch for patch in left.patches if isinstance(patch, Ellipse))
    assert (ellipse.width, ellipse.height) == (upright.width, upright.height) == (4.0, 2.0)
    assert abs(ellipse.angle) == 90, "the wide axis is the second latent's"
    assert right.lines[1].get_ydata()[0] == posterior(None).price[2]
    assert any(list(line.get_xdata()) == [20.0, 20.0] for line in right.lines)
    assert "nats" in right.get_ylabel()


def test_price_by_plane():
    (axis,) = figures.price_by_plane(ANGLES, {"pair": 0.0 * ANGLES, "other": 1.0 * ANGLES}).axes
    assert [line.get_label() for line in axis.lines] == ["pair", "other"]
    assert "nats" in axis.get_ylabel() and "degrees" in axis.get_xlabel()


def test_frames_are_small_and_of_one_size():
    """Three sliders of 19 frames stay within 2 MB of PNG, 40 kB a frame at most."""
    rows = {name: sample(i) for i, name in enumerate(("one", "two", "three", "four"))}
    few = dict(list(rows.items())[:2])
    ellipses = {name: posterior(None) for name in ("one", "two", "three")}
    total = 0
    for draw in (
        lambda now: figures.turned_samples(rows, now, 0.05),
        lambda now: figures.turned_samples(few, now, 0.05),
        lambda now: figures.turned_posteriors(ellipses, now),
    ):
        shown = sliders.slider((draw(now) for now in (4, 9)), ["20°", "45°"], "turn", ["a", "b"], caption="c")
        page = lxml.html.fragment_fromstring(shown.html)
        sizes = [len(base64.b64decode(source.partition(",")[2])) for source in page.xpath("./template/img/@src")]
        assert max(sizes) <= 40_000
        total += 10 * sum(sizes)
    assert total <= 2_000_000


def test_every_public_function_returns_a_figure():
    functions = [f for _, f in inspect.getmembers(figures, inspect.isfunction) if f.__module__ == figures.__name__]
    public = [f for f in functions if not f.__name__.startswith("_")]
    assert len(public) == 3 and all(f.__annotations__["return"] is Figure for f in public)
