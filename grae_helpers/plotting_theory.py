"""The figures of the theory pages, Taylor and Hessian, and Optimal covariance and GRAE: arrays in, a Figure out."""

from collections.abc import Mapping, Sequence
from functools import wraps

import numpy as np
import seaborn as sns
from IPython.display import Markdown, display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

PALETTE = sns.color_palette("colorblind")
GREY = "0.45"
_STYLE = {
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 2.0,
}


def show(text: str) -> None:
    """Show Markdown below a cell."""
    display(Markdown(text))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table.

    >>> print(table(["a", "b"], [[1, "x"]]))
    | a | b |
    |---|---|
    | 1 | x |
    """
    lines = [header, ["---"] * len(header), *rows]
    text = ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(header), *text[2:]])


def _styled(draw):
    """Draw in the book's style, and close the figure so that a notebook shows it once."""

    @wraps(draw)
    def drawn(*args, **kwargs) -> Figure:
        with plt.rc_context(_STYLE):
            figure = draw(*args, **kwargs)
            figure.set_dpi(150)
            figure.canvas.draw()
        plt.close(figure)
        return figure

    return drawn


def _panels(count: int, height: float, **options) -> tuple[Figure, list]:
    figure, axes = plt.subplots(count, 1, figsize=(5.5, height), squeeze=False, **options)
    return figure, list(axes[:, 0])


# Taylor and Hessian


@_styled
def line_through_code(cuts: Mapping[str, tuple[np.ndarray, list[np.ndarray]]]) -> Figure:
    """f_x along a line and its expansions: name → (steps in standard deviations, [f, exact, Gauss–Newton])."""
    figure, axes = _panels(len(cuts), 6.6, sharex=True)
    styles = [
        {"color": "black", "label": "$f_x$"},
        {"color": PALETTE[3], "label": "Eq. 3, exact Hessian"},
        {"color": PALETTE[0], "ls": "--", "label": "Eq. 3, Gauss–Newton"},
    ]
    for axis, (name, (steps, curves)) in zip(axes, cuts.items(), strict=True):
        axis.axvspan(-2, 2, color="0.92", lw=0)
        for curve, style in zip(curves, styles, strict=True):
            axis.plot(steps, curve, **style)
        axis.set(title=name, ylabel="$f_x(z) - f_x(h)$ (nats)")
    axes[0].legend()
    axes[-1].set_xlabel("distance from the code (posterior standard deviations)")
    return figure


@_styled
def neglected_share(shares: Mapping[str, np.ndarray]) -> Figure:
    """‖N‖/‖H‖ per image, one row per decoder."""
    figure, (axis,) = _panels(1, 0.45 * len(shares) + 1.2)
    noise = np.random.default_rng(0)
    for row, (name, values) in enumerate(shares.items()):
        height = row + noise.uniform(-0.25, 0.25, len(values))
        axis.plot(100 * values, height, ".", ms=4, alpha=0.4, color=PALETTE[row % 10], mew=0)
        axis.plot([100 * np.median(values)] * 2, [row - 0.38, row + 0.38], color="black")
    axis.set_yticks(range(len(shares)), list(shares))
    axis.invert_yaxis()
    axis.set_xscale("symlog", linthresh=10)
    ticks = [tick for tick in (0, 5, 10, 30, 100, 300, 1000) if tick <= 130 * max(v.max() for v in shares.values())]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_xlabel("‖N‖ / ‖H‖ (%, linear up to 10)")
    return figure


@_styled
def kink(variances: np.ndarray, curves: Mapping[object, np.ndarray]) -> Figure:
    """The error of Eq. 4 against the posterior's variance: distance of the kink (or "average") → error."""
    figure, (axis,) = _panels(1, 4.4)
    for index, (distance, error) in enumerate(curves.items()):
        average = distance == "average"
        label = "average over positions" if average else f"kink at {distance:g}"
        axis.loglog(variances, error, color="black" if average else PALETTE[index], ls="--" if average else "-", label=label)
    axis.set(ylim=(1e-7, 1), xlabel="posterior variance $s^2$", ylabel="|error of Eq. 4| (nats)")
    axis.legend()
    return figure


@_styled
def error_rates(betas: np.ndarray, curves: Mapping[str, np.ndarray]) -> Figure:
    """Errors of Eq. 4 and Eq. 7 against β: name → [2, betas]."""
    figure, axes = _panels(2, 7.6, sharex=True, sharey=True)
    for axis, index, title in zip(axes, (0, 1), ("Eq. 4, exact Hessian", "Eq. 7, Gauss–Newton"), strict=True):
        for colour, marker, (name, pair) in zip(PALETTE, "os^D", curves.items(), strict=False):
            axis.loglog(betas, pair[index], marker=marker, ms=5, color=colour, label=name)
        anchor = 3 * max(pair[index][-1] for pair in curves.values())
        for power in (1, 2):
            axis.loglog(betas, anchor * betas**power, color="0.7", lw=1, ls=":", zorder=0)
        axis.set(title=title, ylabel="mean |error| (nats)")
    axes[0].set_ylim(bottom=0.3 * min(pair.min() for pair in curves.values()))
    axes[0].legend()
    axes[1].set_xlabel("β")
    return figure
