"""The figures of the Darmois–Skitovitch page: turned samples, turned posteriors, and their price."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from grae_helpers.plotting import PALETTE, WIDTH

NARROW = 5.0
"""Inches: the width of a frame. Its type is small, and must stay readable on a phone."""
SHOWN = 200
"""Points of a scatter: enough to see a shape, few enough for a frame of a slider to stay small."""
SMALL = 9


class TurnedSample(NamedTuple):
    """A sample at one angle, and what was measured at every angle (arrays over `angles`, degrees)."""

    points: np.ndarray
    angles: np.ndarray
    correlation: np.ndarray
    distance_correlation: np.ndarray
    hsic: np.ndarray
    p_value: np.ndarray


class TurnedPosterior(NamedTuple):
    """A posterior covariance and the best factorised variances at one angle, and the price at every angle."""

    covariance: np.ndarray
    mean_field: np.ndarray
    angles: np.ndarray
    price: np.ndarray
    own_angle: float | None


def turned_samples(cases: Mapping[str, TurnedSample], now: int, level: float, limit: float = 3.2) -> Figure:
    """A row per case: the points at angle number `now`; |correlation| and distance correlation against the angle.

    The marks on the second curve are filled where p ≤ `level`.
    """
    figure, axes = _rows(len(cases))
    for (left, right), (title, case) in zip(axes, cases.items(), strict=True):
        _plane(left, title, limit)
        left.plot(*case.points[:SHOWN].T, ".", ms=3.5, mew=0, alpha=0.7, color=PALETTE[0])
        right.plot(case.angles, np.abs(case.correlation), "--", color="black", lw=1.5, label="|correlation|")
        line = {"color": PALETTE[3], "lw": 1.5}
        right.plot(case.angles, case.distance_correlation, label="distance correlation", **line)
        for found, face in ((case.p_value <= level, PALETTE[3]), (case.p_value > level, "white")):
            right.plot(case.angles[found], case.distance_correlation[found], "o", ms=5, mec=PALETTE[3], mfc=face)
        right.axvline(case.angles[now], color=PALETTE[0], lw=6, alpha=0.25, zorder=0)
        numbers = f"correlation {case.correlation[now]:+.2f},  distance c. {case.distance_correlation[now]:.2f}"
        test = f"HSIC {1e3 * case.hsic[now]:.1f} · 10⁻³,  p = {case.p_value[now]:.2g}"
        right.set_title(f"{numbers}\n{test}".replace("-", "−"), fontsize=SMALL, loc="left")
        right.set_ylim(-0.03, 0.75)
    axes[0][1].plot([], [], "o", ms=5, color=PALETTE[3], label=f"p ≤ {level:.2g}")
    _finish(figure, axes, case.angles, ("one coordinate", "the other", "correlation"))
    return figure


def turned_posteriors(cases: Mapping[str, TurnedPosterior], now: int, limit: float = 1.6) -> Figure:
    """A row per case: the posterior at angle number `now` with the best factorised one; the price against the angle.

    A dotted line marks the case's own angle, where it has one.
    """
    figure, axes = _rows(len(cases))
    top = 1.15 * max(case.price.max() for case in cases.values())
    for (left, right), (title, case) in zip(axes, cases.items(), strict=True):
        _plane(left, title, limit)
        _ellipse(left, case.covariance, color=PALETTE[0], lw=2)
        _ellipse(left, np.diag(case.mean_field), color=PALETTE[1], lw=2, ls="--")
        right.plot(case.angles, case.price, color=PALETTE[3], lw=1.5)
        right.plot(case.angles[now], case.price[now], "o", ms=7, color=PALETTE[3], clip_on=False, zorder=3)
        if case.own_angle is not None:
            right.axvline(case.own_angle, color="0.4", lw=1, ls=":")
        right.set_title(f"price {case.price[now]:.3f} nats", fontsize=SMALL, loc="left")
        right.set_ylim(-0.04 * top, top)
    for style, name in (((PALETTE[0], "-"), "posterior"), ((PALETTE[1], "--"), "best mean field")):
        axes[0][1].plot([], [], color=style[0], ls=style[1], lw=2, label=name)
    axes[0][1].plot([], [], color="0.4", ls=":", lw=1, label="own angle")
    _finish(figure, axes, case.angles, ("first latent", "second", "price (nats)"))
    return figure


def price_by_plane(angles: np.ndarray, prices: Mapping[str, np.ndarray]) -> Figure:
    """The mean-field price in nats against the angle of a turn (degrees): a curve for each plane it is made in."""
    figure, axis = plt.subplots(figsize=(0.85 * WIDTH, 3.6))
    for i, (name, price) in enumerate(prices.items()):
        axis.plot(angles, price, ("-", "--", "-.", ":")[i % 4], color=PALETTE[i], lw=2.5, label=name)
    axis.set_xticks(range(0, 181, 30))
    axis.set(xlabel="turn (degrees)", ylabel="price of mean field (nats)")
    figure.legend(loc="outside upper center", ncols=1)
    return figure


def _rows(count: int) -> tuple[Figure, np.ndarray]:
    """Fixed margins, not a constrained layout: the same in every frame of a slider, and faster."""
    height = 1.65 * count + 0.7
    options = {"width_ratios": [1, 1.8], "wspace": 0.32, "hspace": 0.48, "left": 0.115, "right": 0.98}
    options |= {"top": 1 - 0.75 / height, "bottom": 0.5 / height}
    return plt.subplots(
        count, 2, figsize=(NARROW, height), squeeze=False, layout="none", sharex="col", gridspec_kw=options
    )


def _plane(axis: Axes, title: str, limit: float) -> None:
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", anchor="W")
    axis.set_title(title.replace(", ", ",\n"), fontsize=SMALL, loc="left", fontweight="bold")
    axis.set_xticks([-int(limit), 0, int(limit)])
    axis.set_yticks([-int(limit), 0, int(limit)])


def _ellipse(axis: Axes, covariance: np.ndarray, **style) -> None:
    """The ellipse of two standard deviations."""
    variances, axes = np.linalg.eigh(covariance)
    turn = np.degrees(np.arctan2(axes[1, 1], axes[0, 1]))
    width, height = 4 * np.sqrt(variances[::-1])
    axis.add_patch(Ellipse((0, 0), width, height, angle=turn, fill=False, **style))


def _finish(figure: Figure, axes: np.ndarray, angles: np.ndarray, names: tuple[str, str, str]) -> None:
    for left, right in axes:
        left.set_ylabel(names[1], fontsize=SMALL)
        right.set_ylabel(names[2], fontsize=SMALL)
        right.set_xticks(range(-180, 181, 15))
        right.set_xlim(angles[0] - 3, angles[-1] + 3)
        for axis in (left, right):
            axis.tick_params(labelsize=SMALL)
    axes[-1][0].set_xlabel(names[0], fontsize=SMALL)
    axes[-1][1].set_xlabel("turn (degrees)", fontsize=SMALL)
    figure.legend(
        *axes[0][1].get_legend_handles_labels(), loc="upper center", ncols=3, fontsize=SMALL, columnspacing=1.2
    )
