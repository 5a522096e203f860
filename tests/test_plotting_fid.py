"""The figures of FID show the numbers they are given."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from grae_helpers import plotting_fid

SIZES = np.array([100, 200, 400, 1000])


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def line(limit: float, slope: float) -> SimpleNamespace:
    return SimpleNamespace(sizes=SIZES, values=limit + slope / SIZES, limit=limit, standard_error=0.1, slope=slope)


def texts(items) -> list[str]:
    return [item.get_text() for item in items]


def ends(axis, container: int) -> np.ndarray:
    """The lower and upper ends of an error bar's own bars, along the axis of its values."""
    (bars,) = axis.containers[container].lines[2]
    return np.array([segment[:, 1] for segment in bars.get_segments()])


def test_against_size_shows_values_lines_and_limits():
    figure = plotting_fid.against_size({"model": line(5.0, 100.0), "real images": line(0.0, 50.0)})
    (axis,) = figure.axes
    np.testing.assert_allclose(axis.lines[0].get_xdata(), 1 / SIZES)
    np.testing.assert_allclose(axis.lines[0].get_ydata(), 5 + 100 / SIZES)
    np.testing.assert_allclose(axis.lines[1].get_ydata(), [5.0, 6.0])
    np.testing.assert_allclose(ends(axis, 0), [[4.8, 5.2]])
    assert "1/N" in axis.get_xlabel() and texts(axis.get_xticklabels())[0] == "∞"
    assert texts(figure.legends[0].get_texts()) == ["model", "real images"]


def test_a_tick_of_a_size_stands_at_its_inverse():
    axis = plotting_fid.against_size({"model": line(5.0, 100.0)}).axes[0]
    for place, label in list(zip(axis.get_xticks(), texts(axis.get_xticklabels()), strict=True))[1:]:
        assert place == pytest.approx(1 / float(label.replace(",", "")))


CURVES = {
    "β-VAE": {"fid": {0.02: [10.0, 12.0], 1.0: [20.0, 22.0]}, "kid": {0.02: [0.1, 0.2], 1.0: [0.3, 0.3]}},
    "GRAE≈": {"fid": {0.02: [11.0], 1.0: [float("nan")]}, "kid": {0.02: [0.1], 1.0: [0.2]}},
}
LABELS = {"fid": "FID", "kid": "KID", "recall": "recall"}


def test_over_beta_shows_means_deviations_and_every_run():
    figure = plotting_fid.over_beta(CURVES, {"fid": "FID", "kid": "KID"}, {"fid": 5.0, "kid": 0.001})
    left, right = figure.axes
    assert (left.get_ylabel(), right.get_ylabel(), left.get_xscale()) == ("FID", "KID", "log")
    np.testing.assert_allclose(left.containers[0].lines[0].get_ydata(), [11.0, 21.0])
    np.testing.assert_allclose(ends(left, 0), [[11 - 2**0.5, 11 + 2**0.5], [21 - 2**0.5, 21 + 2**0.5]])
    np.testing.assert_allclose(left.containers[1].lines[0].get_ydata(), [11.0])  # the run that failed is left out
    np.testing.assert_allclose(ends(left, 1), [[11.0, 11.0]])
    dots = [drawn for drawn in left.lines if drawn.get_marker() == "."]
    assert sorted(dots[0].get_ydata()) == [10.0, 12.0, 20.0, 22.0] and len(dots) == 1
    assert left.lines[-1].get_ydata()[0] == 5.0 and not left.texts
    assert texts(figure.legends[0].get_texts()) == ["β-VAE", "GRAE≈", "real images"]


def test_over_beta_leaves_an_odd_panel_empty_and_takes_a_measure_nobody_has():
    figure = plotting_fid.over_beta(CURVES, LABELS)
    assert [axis.axison for axis in figure.axes] == [True, True, True, False]
    assert texts(figure.axes[0].get_xticklabels()) == ["0.02", "1"]


def test_labels_of_beta_do_not_touch():
    betas = [0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0]
    figure = plotting_fid.over_beta({"β-VAE": {"fid": {beta: [1.0] for beta in betas}}}, {"fid": "FID"})
    labels = texts(figure.axes[0].get_xticklabels())
    shown = [beta for beta, label in zip(betas, labels, strict=True) if label]
    assert len(labels) == 10 and shown[0] == 0.02
    assert (np.diff(np.log(shown)) >= 0.08 * np.log(50)).all()


def test_one_beta():
    axis = plotting_fid.over_beta({"β-VAE": {"fid": {0.1: [3.0]}}}, {"fid": "FID"}).axes[0]
    assert texts(axis.get_xticklabels()) == ["0.1"]


def test_by_model_has_a_row_for_each_and_a_mark_for_each_kind():
    values = {
        "β-VAE": {"prior": {"fid": [10.0, 12.0]}, "mixture": {"fid": [8.0, 8.0]}},
        "autoencoder": {"prior": {"fid": [30.0, float("nan")]}, "mixture": {}},
    }
    figure = plotting_fid.by_model(values, {"fid": "FID"}, {"fid": 2.0})
    axis = figure.axes[0]
    assert texts(axis.get_yticklabels()) == ["β-VAE", "autoencoder"] and axis.yaxis_inverted()
    assert axis.get_xlabel() == "FID" and axis.get_xlim()[0] <= 0
    marks = [(float(c.lines[0].get_xdata()[0]), float(c.lines[0].get_ydata()[0])) for c in axis.containers]
    assert marks == [(11.0, -0.125), (30.0, 0.875), (8.0, 0.125)]
    assert sorted(x for drawn in axis.lines if drawn.get_marker() == "." for x in drawn.get_xdata()) == [8, 8, 10, 12]
    assert texts(figure.legends[0].get_texts()) == ["prior", "mixture", "real images"]


def test_by_model_with_one_kind():
    figure = plotting_fid.by_model(
        {"blurred": {"": {"fid": [3.0], "recall": [0.1]}}}, {"fid": "FID", "recall": "recall"}
    )
    assert [axis.get_xlabel() for axis in figure.axes] == ["FID", "recall"] and not figure.legends


@pytest.mark.parametrize(("values", "scale"), [([10.0, 20.0], "linear"), ([1.0, 20.0], "log")])
def test_a_floor_far_away_is_a_note_and_does_not_press_the_curves_together(values, scale):
    curve = {"fid": dict(zip((0.1, 1.0), ([value] for value in values), strict=True))}
    for floor, arrow in ((1e-6, "↓"), (1e6, "↑"), (-0.001, "↓" if scale == "log" else None)):
        axis = plotting_fid.over_beta({"β-VAE": curve}, {"fid": "FID"}, {"fid": floor}).axes[0]
        assert axis.get_yscale() == scale
        if arrow is None or (scale == "linear" and floor < 1):  # 0 lies next to values from 10 to 20
            assert axis.lines[-1].get_ydata()[0] == floor
        else:
            assert texts(axis.texts) == [f"real images: {floor:.2g} {arrow}".replace("-", "−")]
            assert axis.get_ylim()[1] < 100
