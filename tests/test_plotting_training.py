"""The figures of the chapter on training: each draws what it was given, and a live picture stays one picture."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from grae_helpers import plotting, plotting_training


@pytest.fixture(autouse=True)
def style():
    plotting.use_style()
    yield
    plt.close("all")


def history(n: int) -> dict[str, np.ndarray]:
    falling = 10 + 90 / np.arange(1, n + 1)
    return {"reconstruction": falling, "latent": np.ones(n), "decoder": np.full(n, 2.0), "seconds": np.array(1.0)}


def test_curves_take_the_constant_off_and_have_units():
    upper, lower = plotting_training.curves(history(40), offset=5.0).axes
    np.testing.assert_allclose(upper.lines[0].get_ydata(), history(40)["reconstruction"] - 5)
    assert [line.get_ydata()[0] for line in lower.lines[::2]] == [1.0, 2.0]
    assert "nats" in upper.get_ylabel() and "nats" in lower.get_ylabel() and lower.get_xlabel() == "step"
    assert upper.get_yscale() == "log"


def test_a_reconstruction_term_of_any_sign_can_be_drawn():
    upper, _ = plotting_training.curves(history(40), offset=50.0).axes
    assert upper.get_yscale() == "linear"


def test_the_running_mean_is_that_of_the_last_twentieth():
    values = np.random.default_rng(0).normal(size=100)
    found = plotting_training._running_mean(values)
    expected = [values[n - max(1, n // 20) : n].mean() for n in range(1, 101)]
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(plotting_training._running_mean(values[:1]), values[:1])


class Screen:
    """What a notebook does with `display(figure, display_id=True)`."""

    def __init__(self, monkeypatch):
        self.shown, self.updated = [], []
        monkeypatch.setattr(plotting_training, "display", self.display)
        monkeypatch.setattr(plotting_training, "get_ipython", object)

    def display(self, figure, *, display_id):
        assert display_id is True
        self.shown.append(figure)
        return self

    def update(self, figure):
        self.updated.append(figure)


def test_live_curves_are_one_display_redrawn_at_most_so_often(monkeypatch):
    screen, clock = Screen(monkeypatch), iter([0.0, 0.0, 1.0, 3.0, 3.0, 3.5, 3.5])
    monkeypatch.setattr(plotting_training.time, "monotonic", lambda: next(clock))
    watch = plotting_training.LiveCurves(steps=40, seconds=2.0)
    for step in (10, 20, 30, 40, 40):  # shown at 0 s, too early at 1 s, due at 3 s, and once at its end in any case
        watch(step, history(step))
    assert (len(screen.shown), len(screen.updated)) == (1, 2)
    assert len(screen.updated[-1].axes[0].lines[0].get_ydata()) == 40
    assert plt.get_fignums() == [], "an open figure would be shown a second time"


def test_live_curves_draw_nothing_outside_a_notebook(monkeypatch):
    monkeypatch.setattr(plotting_training, "display", None)
    plotting_training.LiveCurves(steps=1)(1, history(1))
    assert plt.get_fignums() == []


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mosaic_has_every_image_in_reading_order(channels):
    images = torch.rand(5, channels, 4, 6, generator=torch.Generator().manual_seed(0))
    found = plotting_training.mosaic(images, columns=3)
    assert found.shape == (10, 21) if channels == 1 else (10, 21, 3)
    for number, image in enumerate(images):
        row, column = divmod(number, 3)
        part = found[5 * row : 5 * row + 4, 7 * column : 7 * column + 6]
        expected = (255 * image).round().to(torch.uint8).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(part.reshape(4, 6, channels), expected)
    assert (found[5:9, 14:20] == 255).all(), "an empty place is white"
    np.testing.assert_array_equal(plotting_training.mosaic((255 * images).round().to(torch.uint8), 3), found)


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 2, 4, 4), (0, 1, 4, 4)])
def test_a_mosaic_refuses_what_are_no_images(shape):
    with pytest.raises(ValueError, match=r"images: expected \[n, 1 or 3, H, W\], got"):
        plotting_training.mosaic(torch.zeros(shape), 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_grids_rows_and_traversals_show_their_images(channels):
    images = torch.zeros(6, channels, 4, 4)
    assert plotting_training.image_grid(images, columns=3).axes[0].images[0].get_array().shape[:2] == (10, 15)
    rows = plotting_training.image_rows({"data": images, "decoded": images})
    assert [axis.get_title(loc="left") for axis in rows.axes] == ["data", "decoded"]
    moved = plotting_training.traversals({"latent 1": images, "latent 2": images}, np.arange(6) - 2, "value")
    assert [label.get_text() for label in moved.axes[-1].get_xticklabels()] == ["-2", "-1", "0", "1", "2", "3"]
    assert moved.axes[-1].get_xlabel() == "value" and len(moved.axes[0].get_xticks()) == 0
    one = plotting_training.traversals({"latent 1": images}, np.arange(6), "value")
    assert len(one.axes) == 1


def test_partial_sums_mark_the_radius_and_the_decoder():
    ratios = np.geomspace(0.1, 10, 50)
    singular = np.array([[4.0, 1.0, 0.5], [6.0, 2.0, 0.5], [5.0, 3.0, 0.5]])
    figure = plotting_training.partial_sums(ratios, {1: ratios**2, 2: ratios**2 - ratios**4 / 2}, singular)
    upper, lower = figure.axes
    np.testing.assert_allclose(upper.lines[0].get_ydata(), np.log1p(ratios**2))
    np.testing.assert_array_equal(lower.lines[0].get_xdata(), [5.0, 2.0, 0.5])
    assert all(any(set(line.get_xdata()) == {1} for line in axis.lines) for axis in (upper, lower))


def test_hadamard_remainder_has_a_line_of_equality():
    figure = plotting_training.hadamard_remainder(np.array([0.1, 0.2]), {"cos": np.array([0.1, 0.3])})
    points, line = figure.axes[0].lines
    np.testing.assert_array_equal(points.get_ydata(), [0.1, 0.3])
    np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())
    assert "nats" in figure.axes[0].get_xlabel()


def test_log_det_estimates_draw_bias_and_spread():
    values = {"passes": np.array([1, 2]), "bias": np.array([5.0, 4.0]), "spread": np.array([9.0, 0.0])}
    bias, spread = plotting_training.log_det_estimates({"Eq. 14": values}).axes
    np.testing.assert_array_equal(bias.lines[0].get_ydata(), [5.0, 4.0])
    np.testing.assert_array_equal(spread.lines[0].get_ydata(), [9.0, 0.0])
    assert "%" in bias.get_ylabel() and "%" in spread.get_ylabel()
