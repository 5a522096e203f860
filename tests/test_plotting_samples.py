"""The figures of the samples: labels with units, the numbers that they were given, frames of one size."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from grae_helpers import plotting, plotting_samples

BETAS = np.array([0.02, 0.1, 1.0])


@pytest.fixture(autouse=True)
def style():
    plotting.use_style()
    yield
    plt.close("all")


def images(n=4, channels=3, size=8, seed=0):
    return np.random.default_rng(seed).uniform(size=(n, channels, size, size))


def curve(offset=0.0):
    return {"beta": BETAS, "tv": 1 - BETAS + offset, "tv_error": 0.1 * BETAS, "spread": BETAS}


@pytest.mark.parametrize("channels", [1, 3])
def test_sample_rows(channels):
    rows = {"β-VAE": images(channels=channels), "GRAE≈": images(channels=channels, seed=1)}
    figure = plotting_samples.sample_rows(rows, "β = 0.1")
    assert [axis.get_title(loc="left") for axis in figure.axes] == list(rows)
    shown = np.asarray(figure.axes[1].images[0].get_array())
    expected = rows["GRAE≈"][2, :, :, :].transpose(1, 2, 0)
    np.testing.assert_allclose(shown.reshape(8, 32, channels)[:, 16:24], expected)
    again = plotting_samples.sample_rows({name: row[::-1] for name, row in rows.items()}, "β = 1")
    assert tuple(again.get_size_inches()) == tuple(figure.get_size_inches())


def test_sample_rows_of_other_shapes_are_refused():
    for rows in ({"a": images(), "b": images(3)}, {"a": images(channels=2)}, {"a": images()[0]}, {}):
        with pytest.raises(ValueError, match="rows: expected arrays of one shape"):
            plotting_samples.sample_rows(rows)


@pytest.mark.parametrize("channels", [1, 3])
def test_split_rows_undoes_stacking(channels):
    rows = {name: (255 * images(channels=channels, seed=i)).round() / 255 for i, name in enumerate("ab")}
    stacked = np.concatenate([np.concatenate(list(row), axis=2) for row in rows.values()], axis=1)
    picture = (255 * stacked).round().astype(np.uint8).transpose(1, 2, 0)
    found = plotting_samples.split_rows(picture[..., 0] if channels == 1 else picture, ["a", "b"])
    for name, row in rows.items():
        np.testing.assert_allclose(found[name], row)
    with pytest.raises(ValueError, match="expected 3 rows of square images"):
        plotting_samples.split_rows(picture, ["a", "b", "c"])


def test_spectra():
    frequency = np.array([0.1, 0.2, 0.4])
    models = {"β-VAE": {0.1: frequency**-2, 1.0: frequency**-3}, "GRAE≈": {0.1: frequency**-2, 1.0: frequency**-3}}
    figure = plotting_samples.spectra(frequency, models, frequency**-1)
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == tuple(models) and "cycles per pixel" in left.get_xlabel()
    assert "squared grey" in left.get_ylabel() and left.get_xscale() == left.get_yscale() == "log"
    np.testing.assert_allclose(right.lines[1].get_ydata(), frequency**-3)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["β = 0.1", "β = 1", "data"]


def test_over_beta():
    curves = {"β-VAE": curve(), "GRAE≈": curve(0.1), "linear": {"beta": BETAS, "tv": 1 - BETAS}}
    figure = plotting_samples.over_beta(curves, {"tv": "total variation", "spread": "spread"}, {"tv": 2.0})
    top, bottom = figure.axes
    assert (top.get_ylabel(), bottom.get_ylabel(), bottom.get_xlabel()) == ("total variation", "spread", "β")
    assert len(top.containers) == 3 and len(bottom.containers) == 2
    np.testing.assert_allclose(top.containers[1].lines[0].get_ydata(), 1.1 - BETAS)
    low, high = (cap.get_ydata() for cap in top.containers[0].lines[1])
    np.testing.assert_allclose(high - low, 4 * 0.1 * BETAS)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*curves, "data"]
    assert [tick.get_text() for tick in bottom.get_xticklabels()] == ["0.02", "0.1", "1"]


def test_known_answer():
    axis = plotting_samples.known_answer(BETAS, 1 - BETAS, {"β-VAE": curve(), "GRAE≈": curve()}, [0.2, 0.5]).axes[0]
    assert axis.get_xlabel() == "β" and "total variation" in axis.get_ylabel()
    np.testing.assert_allclose(axis.lines[0].get_ydata(), 1 - BETAS)
    assert [line.get_xdata()[0] for line in axis.lines[3:]] == [0.2, 0.5]


def test_prior_beside_mixture():
    numbers = {"prior.tv": 0.1, "prior.tv_error": 0.01, "mixture.tv": 1.1, "mixture.tv_error": 0.02}
    rows = [{"model": name} | numbers for name in ("β-VAE", "autoencoder")]
    axis = plotting_samples.prior_beside_mixture(rows, {"tv": "total variation"}, {"tv": 3.0}).axes[0]
    assert axis.get_xlabel() == "total variation"
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["β-VAE", "autoencoder"]
    np.testing.assert_allclose(axis.containers[1].lines[0].get_xdata(), [1.1, 1.1])
    assert axis.lines[-1].get_xdata()[0] == 3.0 and axis.yaxis_inverted()
