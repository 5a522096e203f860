"""The figures of the uniqueness study: labels with units, and the numbers that they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from grae_helpers import angles, plotting, plotting_uniqueness


@pytest.fixture(autouse=True)
def style():
    plotting.use_style()
    yield
    plt.close("all")


def rows(n=30, seed=0):
    random = np.random.default_rng(seed)
    return {
        "elbo": random.normal(size=n), "best": np.full(n, 5.0), "angle": random.uniform(-45, 45, n),
        "own_angle": random.uniform(-45, 45, n), "iterations": np.repeat([10, 100, 1000], n // 3),
    }  # fmt: skip


def test_angle_against_elbo():
    first = rows()
    first["elbo"][0] = np.nan
    figure = plotting_uniqueness.angle_against_elbo({"tanh, mean field": first, "tanh, full": rows(seed=1)}, hidden=0)
    left, right = figure.axes[:2]
    assert left.get_title().startswith("tanh, mean field") and left.get_ylabel() == "angle (degrees)"
    assert "nats" in figure.axes[2].get_xlabel()
    drawn = right.collections[0].get_offsets()
    expected = np.sort(angles.difference(first["angle"], first["own_angle"])[1:])  # the first has no ELBO
    np.testing.assert_allclose(np.sort(drawn[:, 1].compressed()), expected)
    assert np.nanmin(first["elbo"]) > left.get_xlim()[0] and np.nanmax(first["elbo"]) < left.get_xlim()[1]


def test_known_answer():
    families = {"mean field": rows(), "full covariance": rows(seed=1)}
    axis = plotting_uniqueness.known_answer(families).axes[0]
    assert "nats" in axis.get_xlabel() and "degrees" in axis.get_ylabel() and axis.xaxis_inverted()
    np.testing.assert_allclose(axis.lines[0].get_xdata(), 5 - families["mean field"]["elbo"])
    assert [text.get_text() for text in axis.figure.legends[0].get_texts()] == list(families)


def test_one_data_set():
    pair = {"mean field": rows(), "full": rows(seed=1)}
    panels = dict.fromkeys(["tanh, amortized", "elu, amortized", "elu, unamortized"], pair)
    axis = plotting_uniqueness.one_data_set(panels, within=1.0).axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()][:2] == ["tanh\namortized", "elu\namortized"]
    assert "degrees" in axis.get_ylabel() and len(axis.lines) == 6
    full = pair["full"]
    np.testing.assert_allclose(axis.lines[1].get_ydata(), full["angle"][full["elbo"] > full["elbo"].max() - 1])
    assert [text.get_text() for text in axis.figure.legends[0].get_texts()] == list(pair)
