"""The figures of the chapter on maps that keep the prior draw what they are given, with labels and units."""

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import stats

from grae_helpers import plotting
from grae_helpers import plotting_latents as figures

GRID = np.linspace(-3, 3, 61)


@pytest.fixture(autouse=True)
def style():
    plotting.use_style()
    yield
    plt.close("all")


def net(seed: int, scale: float = 1.0) -> figures.Net:
    generator = np.random.default_rng(seed)
    lines = generator.normal(size=(3, 7, 2))
    return figures.Net(scale * generator.normal(size=(20, 2)), np.arange(20) % 4, lines)


def drawn(axis: plt.Axes, given: figures.Net) -> None:
    (points,) = axis.collections
    np.testing.assert_allclose(points.get_offsets(), given.points)
    colours = [plotting.PALETTE[quadrant] for quadrant in given.colours]
    np.testing.assert_allclose(points.get_facecolors()[:, :3], colours)
    for line, expected in zip(axis.lines, given.lines, strict=True):
        np.testing.assert_allclose(line.get_xydata(), expected)


def test_steps():
    panels = {f"{i}. step": (net(i), (-3.0, 3.0 + i)) for i in range(4)}
    figure = figures.steps(panels)
    assert [axis.get_title() for axis in figure.axes] == list(panels)
    for axis, (given, limits) in zip(figure.axes, panels.values(), strict=True):
        drawn(axis, given)
        assert axis.get_xlim() == axis.get_ylim() == limits
        assert axis.get_aspect() == 1, "a turn must not look like a shear"
    assert [axis.get_xlabel() for axis in figure.axes] == ["", "", "latent 1", "latent 1"]
    assert [axis.get_ylabel() for axis in figure.axes] == ["latent 2", "", "latent 2", ""]


def test_before_and_after_share_their_axes():
    rows = {"uniform": (net(0), net(1, 5.0)), "mixture": (net(2, 3.0), net(3))}
    figure = figures.before_and_after(rows)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["uniform: $z$", "uniform: $r(z)$", "mixture: $z$", "mixture: $r(z)$"]
    for row, nets in enumerate(rows.values()):
        left, right = figure.axes[2 * row : 2 * row + 2]
        assert (left.get_xlim(), left.get_ylim()) == (right.get_xlim(), right.get_ylim())
        assert left.get_xlim()[0] < nets[0].points[:, 0].min() < nets[0].points[:, 0].max() < left.get_xlim()[1]
        drawn(left, nets[0])
        drawn(right, nets[1])


def volume(log_volume: np.ndarray, log_prior: np.ndarray) -> figures.VolumeMap:
    turns = np.linspace(0, 2 * np.pi, 50)
    orbit = np.stack([np.cos(turns), np.sin(turns)], 1)
    return figures.VolumeMap(GRID, GRID[:41], log_volume, log_prior, orbit, orbit[[0, 10]])


def test_volume_maps():
    first, second = np.meshgrid(GRID, GRID[:41], indexing="ij")
    normal, flat = -(first**2 + second**2) / 2, np.zeros(first.shape)
    panels = {"Gaussian": volume(flat, normal), "uniform": volume(first + 2 * second, flat)}
    figure = figures.volume_maps(panels)
    *axes, bar = figure.axes
    assert [axis.get_title() for axis in axes] == list(panels)
    assert "J_r" in bar.get_xlabel() and "nats" in bar.get_xlabel()
    for axis, panel in zip(axes, panels.values(), strict=True):
        mesh = axis.collections[0]
        np.testing.assert_allclose(mesh.get_array(), panel.log_volume.T, err_msg="the first index is latent 1")
        assert mesh.get_clim() == (-1, 1), "the scale of all panels, with zero in the middle"
        orbit, *ends = axis.lines
        np.testing.assert_allclose(orbit.get_xydata(), panel.orbit)
        np.testing.assert_allclose(np.concatenate([end.get_xydata() for end in ends]), panel.ends)
        assert [end.get_marker() for end in ends] == ["o", "s"]
    assert len(axes[0].collections) == 2, "level lines"
    assert len(axes[1].collections) == 1, "a flat prior has none"


def test_same_data():
    generator = np.random.default_rng(0)
    panels = {title: (generator.normal(size=(30, 2)), generator.uniform(size=30)) for title in ("$p$", "$p_r$")}
    left, right, bar = figures.same_data(panels).axes
    for axis, (title, (x, latent)) in zip((left, right), panels.items(), strict=True):
        (points,) = axis.collections
        np.testing.assert_allclose(points.get_offsets(), x)
        np.testing.assert_allclose(points.get_array(), latent)
        assert points.get_clim() == (0, 1) and axis.get_title() == title and axis.get_xlabel() == "$x_1$"
    assert left.get_xlim() == right.get_xlim() and left.get_ylim() == right.get_ylim()
    assert left.get_ylabel() == "$x_2$" and bar.get_xlabel() == "quantile of latent 1"


def test_posterior_pair():
    points = np.stack(np.meshgrid(GRID, GRID, indexing="ij"), -1)
    means = {"$p$": np.array([1.0, -0.5]), "$p_r$": np.array([0.0, 1.0])}
    densities = {title: stats.multivariate_normal(mean, 0.2).pdf(points) for title, mean in means.items()}
    figure = figures.posterior_pair(GRID, GRID, densities, means)
    for number, (axis, title) in enumerate(zip(figure.axes, means, strict=True)):
        (cross,), (shades,) = axis.lines, axis.collections
        np.testing.assert_allclose(cross.get_xydata()[0], means[title])
        box = shades.get_paths()[-1].get_extents()  # latent 1 is across
        np.testing.assert_allclose([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2], means[title], atol=0.05)
        assert all(tuple(face[:3]) == to_rgb(plotting.PALETTE[number]) for face in shades.get_facecolor())
        assert axis.get_title() == title and axis.get_xlabel() == "latent 1"
    assert figure.axes[0].get_ylabel() == "latent 2"


def test_levels_enclose_the_shares_of_a_gaussian():
    """A share s of N(0, v I) lies where the density exceeds (1 − s) of its greatest value."""
    points = np.stack(np.meshgrid(GRID, GRID, indexing="ij"), -1)
    density = stats.multivariate_normal([0, 0], 0.4).pdf(points)
    np.testing.assert_allclose(figures._levels(density, (0.95, 0.5)) / density.max(), [0.05, 0.5], atol=0.02)


def test_every_public_function_returns_a_figure():
    functions = [f for _, f in inspect.getmembers(figures, inspect.isfunction) if f.__module__ == figures.__name__]
    public = [f for f in functions if not f.__name__.startswith("_")]
    assert len(public) == 5 and all(f.__annotations__["return"] is Figure for f in public)
