"""The figures of the chapter on maps that keep the prior (K&P App. A): arrays in, a Figure out."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grae_helpers.plotting import DIVERGING, PALETTE, SEQUENTIAL, WIDTH


@dataclass(frozen=True)
class Net:
    """Samples and a grid that a map carries along: points [n, 2], their colours [n] in 0…3, lines [m, k, 2]."""

    points: np.ndarray
    colours: np.ndarray
    lines: np.ndarray


def steps(panels: Mapping[str, tuple[Net, tuple[float, float]]]) -> Figure:
    """A map step by step, in reading order: title → (net, limits of both axes)."""
    rows = (len(panels) + 1) // 2
    figure, axes = plt.subplots(rows, 2, figsize=(WIDTH, 2.9 * rows), squeeze=False)
    for axis, (title, (net, limits)) in zip(axes.flat, panels.items(), strict=False):
        _draw(axis, net)
        axis.set(title=title, xlim=limits, ylim=limits, aspect="equal")
    _label(axes)
    return figure


def before_and_after(rows: Mapping[str, tuple[Net, Net]]) -> Figure:
    """A prior in each row, name → (z, r(z)), on the same axes left and right."""
    figure, axes = plt.subplots(len(rows), 2, figsize=(WIDTH, 2.8 * len(rows)), squeeze=False)
    for row, (name, nets) in zip(axes, rows.items(), strict=True):
        low, high = nets[0].points.min(0), nets[0].points.max(0)
        margin = 0.04 * (high - low)
        for axis, net, title in zip(row, nets, ("$z$", "$r(z)$"), strict=True):
            _draw(axis, net)
            axis.set_xlim(low[0] - margin[0], high[0] + margin[0])
            axis.set_ylim(low[1] - margin[1], high[1] + margin[1])
            axis.set_title(f"{name}: {title}")
    _label(axes)
    return figure


def _label(axes: np.ndarray) -> None:
    for axis in axes[-1]:
        axis.set_xlabel("latent 1")
    for axis in axes[:, 0]:
        axis.set_ylabel("latent 2")


def _draw(axis: Axes, net: Net) -> None:
    axis.scatter(*net.points.T, s=5, c=np.array(PALETTE)[net.colours], alpha=0.6, linewidths=0, rasterized=True)
    for line in net.lines:
        axis.plot(*line.T, color="black", lw=0.8)
    axis.grid(False)


@dataclass(frozen=True)
class VolumeMap:
    """log|det J_r| and log p(z) at k × k points (first index: latent 1); an orbit [m, 2]; z and r(z), [2, 2]."""

    first: np.ndarray
    second: np.ndarray
    log_volume: np.ndarray
    log_prior: np.ndarray
    orbit: np.ndarray
    ends: np.ndarray


def volume_maps(panels: Mapping[str, VolumeMap]) -> Figure:
    """log|det J_r| over latent space, blue where r shrinks and red where it stretches; grey: level lines of p(z)."""
    rows = (len(panels) + 1) // 2
    figure, axes = plt.subplots(rows, 2, figsize=(WIDTH, 3.0 * rows + 0.6), squeeze=False)
    for axis, (name, panel) in zip(axes.flat, panels.items(), strict=False):
        style = {"cmap": DIVERGING, "vmin": -1, "vmax": 1, "shading": "nearest", "rasterized": True}
        image = axis.pcolormesh(panel.first, panel.second, panel.log_volume.T, **style)
        if np.ptp(panel.log_prior) > 1e-9:
            levels = panel.log_prior.max() - np.array([4, 3, 2, 1, 0.3])
            lines = {"colors": "0.45", "linewidths": 0.7, "linestyles": "solid"}
            axis.contour(panel.first, panel.second, panel.log_prior.T, levels=levels, **lines)
        axis.plot(*panel.orbit.T, color="black", lw=1.5)
        for point, marker in zip(panel.ends, "os", strict=True):
            axis.plot(*point, marker, color="black", mfc="white", ms=7)
        axis.set(title=name, xlim=panel.first[[0, -1]], ylim=panel.second[[0, -1]], aspect="equal")
        axis.grid(False)
    _label(axes)
    label = "$\\log|\\det J_r(z)|$ (nats)"
    figure.colorbar(image, ax=list(axes.flat), location="bottom", shrink=0.7, aspect=30, extend="both", label=label)
    return figure


def same_data(panels: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Observations coloured by a latent, one panel per model: title → (x [n, 2], quantile of latent 1 [n])."""
    figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 3.9), sharex=True, sharey=True)
    for axis, (title, (x, latent)) in zip(axes, panels.items(), strict=True):
        dots = axis.scatter(*x.T, c=latent, s=5, cmap=SEQUENTIAL, vmin=0, vmax=1, linewidths=0, rasterized=True)
        axis.set(title=title, xlabel="$x_1$")
        axis.grid(False)
    axes[0].set_ylabel("$x_2$")
    label = "quantile of latent 1"
    figure.colorbar(dots, ax=list(axes), location="bottom", shrink=0.7, aspect=30, label=label)
    return figure


def posterior_pair(
    first: np.ndarray, second: np.ndarray, densities: Mapping[str, np.ndarray], marks: Mapping[str, np.ndarray]
) -> Figure:
    """Posteriors of one observation: title → density [k, k] on the grid, title → its mean [2].

    Lines enclose 50, 80 and 95 % of the posterior; a cross marks the mean.
    """
    figure, axes = plt.subplots(1, len(densities), figsize=(WIDTH, 3.4), sharex=True, sharey=True)
    for number, (axis, (title, density)) in enumerate(zip(axes, densities.items(), strict=True)):
        levels = _levels(density, (0.95, 0.8, 0.5))
        shades = [(*PALETTE[number], alpha) for alpha in (0.25, 0.5, 0.85)]
        axis.contourf(first, second, density.T, levels=[*levels, density.max()], colors=shades)
        axis.plot(*marks[title], "x", color="black", ms=9, mew=2)
        axis.set(title=title, xlabel="latent 1")
        axis.grid(visible=True)
    axes[0].set_ylabel("latent 2")
    return figure


def _levels(density: np.ndarray, shares: tuple[float, ...]) -> list[float]:
    """The heights above which these shares of the mass lie."""
    heights = np.sort(density.ravel())[::-1]
    mass = np.cumsum(heights) / heights.sum()
    return [float(heights[np.searchsorted(mass, share)]) for share in shares]
