"""Figures: each has its labels, draws what it was given, and the style is the book's."""

import inspect

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from grae_helpers import plotting


@pytest.fixture(autouse=True)
def style():
    plotting.use_style()
    yield
    plt.close("all")


def energy_row(family: str, mask: int, energy: float) -> dict:
    return {"family": family, "mask": mask, "energy": energy, "energy_error": 0.01, "energy_rotated": 0.4}


def curve(shift: float) -> dict[str, np.ndarray]:
    beta = np.array([0.1, 0.4, 1.0])
    return {"beta": beta, "beta_vae": 10 + beta, "taylor": 10.1 + beta, "grae": 10 + beta - shift}


def test_style_is_white_and_colour_blind_safe():
    assert mpl.rcParams["figure.facecolor"] == "white" == mpl.rcParams["savefig.facecolor"]
    assert mpl.rcParams["font.size"] >= 10


def test_precision_beside_jacobian():
    matrices = (np.eye(4), np.diag([1.0, 2.0, 3.0, 4.0]))
    figure = plotting.precision_beside_jacobian({"mean field": matrices, "full": matrices})
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert len(titles) == 4 and titles[0].startswith("mean field")
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), matrices[1])
    low, high = figure.axes[1].images[0].get_clim()
    assert (low, high) == (-4.0, 4.0), "a diverging scale is centred on zero"


def test_off_block_energy_draws_bars_and_baselines():
    rows = [energy_row(f, m, e) for m in (1, 2) for f, e in (("mean field", 0.1), ("full", 0.3))]
    figure = plotting.off_block_energy(rows)
    lengths = [[bar.get_width() for bar in axis.patches] for axis in figure.axes]
    assert lengths == [[0.1, 0.3], [0.1, 0.3]]
    assert "share" in figure.axes[-1].get_xlabel()


def test_objectives_over_beta_has_units_and_the_gaps():
    figure = plotting.objectives_over_beta({"mean field": curve(0.5), "blocks of 2": curve(0.2)}, offset=10.0)
    upper, lower = figure.axes[:2]
    assert "nats" in upper.get_ylabel() and "nats" in lower.get_ylabel()
    np.testing.assert_allclose(upper.lines[0].get_ydata(), [0.1, 0.4, 1.0])
    np.testing.assert_allclose(lower.lines[1].get_ydata(), 0.6)


def test_blocks_share_their_scales_and_outline_their_blocks():
    models = {b: {"left": b * np.eye(5), "right": -np.eye(5) / b} for b in (1, 2, 5)}
    for b in models:
        figure = plotting.blocks(models, b)
        left, right = figure.axes[:2]
        assert (left.get_title(), right.get_title()) == ("left", "right")
        np.testing.assert_array_equal(left.images[0].get_array(), models[b]["left"])
        assert left.images[0].get_clim() == (-5.0, 5.0) and right.images[0].get_clim() == (-1.0, 1.0)
        sides = [patch.get_width() for patch in left.patches]
        assert sides == {1: [1] * 5, 2: [2, 2, 1], 5: [5]}[b], "the last block takes the rest"
        assert [patch.get_xy() for patch in left.patches][-1] == (4.5 - sides[-1],) * 2
        kind = {1: ", mean field", 5: ", full"}.get(b, "")
        assert figure.get_suptitle() == f"block size {b}{kind}"


def parts_curve(shift: float) -> dict[str, np.ndarray]:
    found = curve(shift)
    gap = found["taylor"] - found["grae"]
    return found | {"gap": gap, "forced": 0.25 * gap, "squared_error": np.array([4.0, 6.0, 8.0])}


def test_objective_parts_add_up_and_keep_their_axes():
    curves = {"mean field": parts_curve(0.5), "blocks of 2": parts_curve(0.2)}
    limits = set()
    for now in range(3):
        figure = plotting.objective_parts(curves, now, offset=2.0)
        whole, above = figure.axes
        for i, found in enumerate(curves.values()):
            bars = [bar for bar in whole.patches if round(bar.get_y() + bar.get_height() / 2) == i]
            assert len(bars) == 4 and bars[0].get_width() == found["squared_error"][now] / 2
            ends = [bar.get_x() + bar.get_width() for bar in bars]
            np.testing.assert_allclose([ends[1], ends[3]], [found[k][now] - 2.0 for k in ("grae", "taylor")])
            np.testing.assert_allclose(above.lines[i].get_xdata(), found["beta_vae"][now] - found["grae"][now])
        widths = [bar.get_width() for bar in above.patches]
        np.testing.assert_allclose(widths[:2], [0.15, 0.45])
        assert "nats" in whole.get_xlabel() and "nats" in above.get_xlabel()
        assert figure.get_suptitle() == f"β = {curves['mean field']['beta'][now]:g}"
        limits.add((whole.get_xlim(), above.get_xlim(), *figure.get_size_inches()))
    assert len(limits) == 1, "frames of one slider"


def test_gap_per_image_and_reconstructions():
    figure = plotting.gap_per_image({"full": np.array([0.1, 0.2])}, {"full": np.array([0.1, 0.2])})
    assert "nats" in figure.axes[0].get_xlabel() and "nats" in figure.axes[0].get_ylabel()
    figure = plotting.reconstructions(np.zeros((3, 4, 4)), {"mean field": np.ones((3, 4, 4))})
    assert figure.axes[1].images[0].get_array().shape == (4, 12)


def test_table_formats_and_refuses_nothing_to_show(capsys):
    with pytest.raises(ValueError, match="at least one"):
        plotting.table([])
    plotting.table([{"β": 0.1, "loss": 1.23456}], loss=".2f")


def test_every_public_function_of_a_figure_returns_one():
    functions = [
        f for _, f in inspect.getmembers(plotting, inspect.isfunction) if f.__module__ == plotting.__name__
    ]
    helpers = {"use_style", "show", "table"}
    figures = [f for f in functions if not f.__name__.startswith("_") and f.__name__ not in helpers]
    assert len(figures) >= 5 and all(f.__annotations__["return"] is plotting.Figure for f in figures)
