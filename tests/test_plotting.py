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
