"""The figures of FID: its bias in the number of images, what it hides, and its values over β."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from grae_helpers.plotting import MARKERS, PALETTE, WIDTH

Runs = Mapping[float, Sequence[float]]


class Line(Protocol):
    """What `against_size` draws: `fid.extrapolated` returns such."""

    sizes: Sequence[int]
    values: Sequence[float]
    limit: float
    standard_error: float
    slope: float


def against_size(lines: Mapping[str, Line]) -> Figure:
    """FID over 1/N for each comparison, its straight line, and the limit at 1/N = 0 with ± 2 standard errors."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.6))
    for i, (name, line) in enumerate(lines.items()):
        x = 1 / np.asarray(line.sizes, float)
        ends = np.array([0, x.max()])
        axis.plot(x, line.values, MARKERS[i], color=PALETTE[i], label=name)
        axis.plot(ends, line.limit + line.slope * ends, "-" if i % 2 == 0 else "--", color=PALETTE[i], linewidth=1.3)
        axis.errorbar(
            0,
            line.limit,
            2 * line.standard_error,
            fmt=MARKERS[i],
            color=PALETTE[i],
            markerfacecolor="white",
            capsize=4,
        )
    axis.axhline(0, color="black", linewidth=0.8)
    sizes = sorted({size for line in lines.values() for size in line.sizes})
    chosen = [sizes[round(i)] for i in np.linspace(0, len(sizes) - 1, min(5, len(sizes)))]
    shown = [n for i, n in enumerate(chosen) if i == 0 or 1 / chosen[i - 1] - 1 / n > 0.12 / chosen[0]]
    axis.set_xticks([0, *(1 / n for n in shown)], ["∞", *(f"{n:,}" for n in shown)])
    axis.minorticks_off()
    axis.set(xlabel="N, number of images on each side (axis: 1/N)", ylabel="FID")
    _legend(figure, axis)
    return figure


def over_beta(
    curves: Mapping[str, Mapping[str, Runs]],
    measures: Mapping[str, str],
    floor: Mapping[str, float] | None = None,
) -> Figure:
    """K&P Fig. 4: a panel for each measure over β, two side by side; mean ± standard deviation, and every run a dot.

    `curves` map a model to measure → β → values of its runs; values that are not finite are left out, and a single
    run has no bar. `floor` holds what two sets of real images have: a line, or where it is far from those values,
    a note above it. A panel is logarithmic where its values span more than a factor of five.
    """
    rows = -(-len(measures) // 2)
    figure, axes = plt.subplots(rows, 2, sharex=True, figsize=(WIDTH, 2.9 * rows + 0.7), squeeze=False)
    for axis, (measure, label) in zip(axes.flat, measures.items(), strict=False):
        for i, (name, curve) in enumerate(curves.items()):
            _runs_over_beta(axis, curve.get(measure, {}), name, i, len(curves))
        axis.set(ylabel=label, xscale="log")
        _stretch(axis)
        if floor and measure in floor:
            _floor(axis, floor[measure])
    betas = sorted({beta for curve in curves.values() for of in curve.values() for beta in of})
    for axis in axes.flat[: len(measures)]:
        _beta_axis(axis, betas)
    for axis in axes.flat[len(measures) :]:
        axis.set_axis_off()
    _legend(figure, *axes.flat)
    return figure


def _runs_over_beta(axis, runs: Runs, name: str, i: int, n: int) -> None:
    finite = {beta: [v for v in values if np.isfinite(v)] for beta, values in sorted(runs.items())}
    finite = {beta: values for beta, values in finite.items() if values}
    if not finite:
        return
    beta, shift = np.array(list(finite)), 1.06 ** (i - (n - 1) / 2)  # beside each other, not on top
    means = np.array([np.mean(values) for values in finite.values()])
    bars = [np.std(values, ddof=1) if len(values) > 1 else 0.0 for values in finite.values()]
    style = {"marker": MARKERS[i], "color": PALETTE[i], "linestyle": "-" if i % 2 == 0 else "--", "capsize": 3}
    axis.errorbar(shift * beta, means, bars, markersize=5, linewidth=1.3, label=name, **style)
    dots = [(shift * b, value) for b, values in finite.items() for value in values if len(values) > 1]
    if dots:
        axis.plot(*zip(*dots, strict=True), ".", color=PALETTE[i], alpha=0.5, markersize=4, zorder=1)


def by_model(
    values: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    measures: Mapping[str, str],
    floor: Mapping[str, float] | None = None,
) -> Figure:
    """A row for each model or set of images, a panel for each measure, two side by side, a mark for each kind.

    `values` map a model to kind → measure → values of its runs: a mark is their mean, the bar their standard
    deviation, a dot each of them. Kinds are ways to sample ("prior", "mixture"); with a single kind there is no
    legend but the floor's. A kind without finite values has no mark.
    """
    kinds = list(dict.fromkeys(kind for of in values.values() for kind in of))
    rows, each = -(-len(measures) // 2), 0.36 if len(kinds) < 3 else 0.16 * len(kinds)  # marks of a row do not touch
    height = rows * (each * len(values) + 0.75) + 0.6
    figure, axes = plt.subplots(rows, 2, sharey=True, figsize=(WIDTH, height), squeeze=False)
    for axis, (measure, label) in zip(axes.flat, measures.items(), strict=False):
        for i, kind in enumerate(kinds):
            runs = {row: of.get(kind, {}).get(measure, ()) for row, of in enumerate(values.values())}
            _runs_by_row(axis, runs, kind, i, len(kinds))
        if floor and measure in floor:
            axis.axvline(floor[measure], color="black", linestyle=":", linewidth=1.3, label="real images")
        axis.set(xlabel=label, xlim=(min(0, axis.get_xlim()[0]), None))
        axis.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(values)), list(values))
    axes[0, 0].set_ylim(len(values) - 0.5, -0.5)
    for axis in axes.flat[len(measures) :]:
        axis.set_axis_off()
    _legend(figure, axes[0, 0])
    return figure


def _runs_by_row(axis, runs: Mapping[int, Sequence[float]], kind: str, i: int, n: int) -> None:
    label = kind
    for row, values in runs.items():
        values, place = [v for v in values if np.isfinite(v)], row + (i - (n - 1) / 2) / max(n + 1, 4)
        if not values:
            continue
        bar = np.std(values, ddof=1) if len(values) > 1 else 0.0
        axis.errorbar(np.mean(values), place, xerr=bar, fmt=MARKERS[i], color=PALETTE[i], capsize=3, label=label)
        label = None  # one entry of the legend for each kind
        if len(values) > 1:
            axis.plot(values, [place] * len(values), ".", color=PALETTE[i], alpha=0.5, markersize=4, zorder=1)


def _legend(figure: Figure, *axes) -> None:
    """Above all panels, every name of theirs once, the real images last; nothing where no line has a name."""
    named = {t: h for axis in axes for h, t in zip(*axis.get_legend_handles_labels(), strict=True) if t}
    entries = sorted(((h, t) for t, h in named.items()), key=lambda entry: entry[1] == "real images")
    if entries:
        figure.legend(*zip(*entries, strict=True), loc="outside upper center", ncols=2 if len(entries) != 3 else 3)


def _stretch(axis) -> None:
    """A logarithmic scale where the values span more than a factor of five, with plain numbers."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axis.lines] or [np.ones(1)])
    if values.min() > 0 and values.max() > 5 * values.min():
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if values.max() < 50 * values.min() else (1,)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())


def _floor(axis, value: float) -> None:
    """The floor's line where it costs the models' values no more than half of the panel; else a note above it."""
    low, high = axis.get_ylim()
    ends = (
        (np.log(low), np.log(high), np.log(value) if value > 0 else -np.inf) if axis.get_yscale() == "log" else None
    )
    low, high, place = ends or (low, high, value)
    if low - (high - low) < place < high + (high - low):
        axis.axhline(value, color="black", linestyle=":", linewidth=1.3, label="real images")
        return
    text = f"real images: {value:.2g} {'↓' if place < low else '↑'}".replace("-", "−")
    axis.annotate(text, xy=(0, 1.01), xycoords="axes fraction", fontsize=9, va="bottom")


def _beta_axis(axis, betas: Sequence[float]) -> None:
    """A tick for each β, a label where it does not touch the one before."""
    labels, last, extent = [], None, np.ptp(np.log(betas))
    for beta in betas:
        apart = last is None or np.log(beta / last) >= 0.08 * extent
        labels.append(f"{beta:g}" if apart else "")
        last = beta if apart else last
    if len(betas) == 1:
        axis.set_xlim(betas[0] / 2, betas[0] * 2)
    axis.set_xlabel("β")
    axis.set_xticks(betas, labels, rotation=60 if len(betas) > 4 else 0)
    axis.xaxis.set_tick_params(labelbottom=True)
    axis.xaxis.set_minor_locator(NullLocator())  # those of a logarithmic y stay: they show that it is one
