"""The figures of the uniqueness study (K&P Fig. 1, 5, 6)."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from grae_helpers import angles
from grae_helpers.plotting import MARKERS, PALETTE, SEQUENTIAL, WIDTH

Rows = Mapping[str, np.ndarray]
LEAST_GAP = 1e-9  # nats: what a float64 ELBO still tells apart


def angle_against_elbo(panels: Mapping[str, Rows], hidden: float = 0.08) -> Figure:
    """K&P Fig. 5 and 6: a row for each experiment, the angle θ left and θ − θ* right, over the ELBO.

    `panels` maps a title to arrays "elbo", "angle", "own_angle" and "iterations" over trials. Of each, the share
    `hidden` with the lowest ELBO lies left of the axis.
    """
    size = (WIDTH, 1.75 * len(panels) + 0.9)
    figure, axes = plt.subplots(len(panels), 2, sharey=True, sharex="row", figsize=size, squeeze=False)
    lengths = np.concatenate([rows["iterations"] for rows in panels.values()])
    norm = LogNorm(max(1, lengths.min()), max(2, lengths.max()))
    for (left, right), (title, rows) in zip(axes, panels.items(), strict=True):
        order = np.argsort(rows["iterations"])
        shown = {
            left: ("$\\theta$", rows["angle"]),
            right: ("$\\theta-\\theta^*$", angles.difference(rows["angle"], rows["own_angle"])),
        }
        for axis, (name, values) in shown.items():
            points = axis.scatter(
                rows["elbo"][order], values[order], c=rows["iterations"][order], norm=norm, cmap=SEQUENTIAL, s=9
            )
            axis.set_title(f"{title}: {name}", fontsize=10.5)
            axis.set(ylim=(-48, 48), yticks=(-45, 0, 45))
        finite = rows["elbo"][np.isfinite(rows["elbo"])]
        if finite.size:
            low, high = np.quantile(finite, hidden), finite.max()
            left.set_xlim(low - 0.03 * (high - low), high + 0.05 * (high - low) + 1e-6)
        left.set_ylabel("angle (degrees)")
    for axis in axes[-1]:
        axis.set_xlabel("ELBO (nats per sample)")
    bar = {"location": "top", "shrink": 0.8, "aspect": 35}
    figure.colorbar(points, ax=axes, label="iterations n at each learning rate", **bar)
    return figure


def known_answer(families: Mapping[str, Rows]) -> Figure:
    """How far runs are from the optimum of their own data: the ELBO's gap against θ − θ*, a colour per family."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.6))
    for i, (family, rows) in enumerate(families.items()):
        gap = np.maximum(rows["best"] - rows["elbo"], LEAST_GAP)
        distance = angles.difference(rows["angle"], rows["own_angle"])
        style = {"color": PALETTE[i], "ms": 4.5, "alpha": 0.6, "zorder": 3 - i}  # the first family on top
        axis.plot(gap, distance, MARKERS[i], label=family, **style)
    axis.axvline(1e-3, color="black", ls=":", lw=1)
    axis.set_xscale("log")
    axis.invert_xaxis()
    axis.set(xlabel="optimum − ELBO (nats per sample)", ylabel="$\\theta-\\theta^*$ (degrees)", yticks=(-45, 0, 45))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def one_data_set(experiments: Mapping[str, Mapping[str, Rows]], within: float = 0.01) -> Figure:
    """Many starts on one data set: the angles of the runs within so many nats of their family's best ELBO.

    `experiments` maps a name to the rows of each family.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 3.9))
    for place, (_, families) in enumerate(experiments.items()):
        for i, (family, found) in enumerate(families.items()):
            best = found["elbo"] > np.nanmax(found["elbo"]) - within
            x = np.full(best.sum(), place + 0.36 * (i - (len(families) - 1) / 2))
            style = {"color": PALETTE[i], "ms": 7, "alpha": 0.55, "label": None if place else family}
            axis.plot(x, found["angle"][best], MARKERS[i], **style)
    names = [name.replace(", ", "\n") for name in experiments]
    axis.set_xticks(range(len(names)), names, fontsize=10)
    axis.set(ylabel="$\\theta$ (degrees)", ylim=(-48, 48), yticks=(-45, 0, 45))
    axis.grid(axis="x", visible=False)
    figure.legend(loc="outside upper center", ncols=2)
    return figure
