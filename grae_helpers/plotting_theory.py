"""The figures of the two theory pages (Taylor and Hessian, optimal covariance): arrays in, a Figure out."""

from collections.abc import Mapping

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from grae_helpers.plotting import MARKERS, PALETTE, WIDTH


def _panels(count: int, height: float, **options) -> tuple[Figure, list]:
    figure, axes = plt.subplots(count, 1, figsize=(0.85 * WIDTH, height), squeeze=False, **options)
    return figure, list(axes[:, 0])


# Taylor and Hessian


def line_through_code(cuts: Mapping[str, tuple[np.ndarray, list[np.ndarray]]]) -> Figure:
    """f_x along a line and its expansions: name → (steps in standard deviations, [f, exact, kept])."""
    figure, axes = _panels(len(cuts), 6.6, sharex=True)
    styles = [
        {"color": "black", "label": "$f_x$"},
        {"color": PALETTE[3], "label": "Eq. 3, exact Hessian"},
        {"color": PALETTE[0], "ls": "--", "label": "Eq. 3, Gauss–Newton"},
    ]
    for axis, (name, (steps, curves)) in zip(axes, cuts.items(), strict=True):
        axis.axvspan(-2, 2, color="0.92", lw=0, zorder=0)
        for curve, style in zip(curves, styles, strict=True):
            axis.plot(steps, curve, lw=2, **style)
        axis.set(title=name, ylabel="$f_x(z) - f_x(h)$ (nats)")
    axes[0].legend()
    axes[-1].set_xlabel("distance from the code (posterior standard deviations)")
    return figure


def neglected_share(shares: Mapping[str, np.ndarray]) -> Figure:
    """‖N‖/‖H‖ per image, one row per decoder."""
    figure, (axis,) = _panels(1, 0.45 * len(shares) + 1.2)
    noise = np.random.default_rng(0)
    for row, values in enumerate(shares.values()):
        height = row + noise.uniform(-0.25, 0.25, len(values))
        axis.plot(100 * values, height, ".", ms=5, alpha=0.6, color=PALETTE[0], mew=0)
        axis.plot([100 * np.median(values)] * 2, [row - 0.38, row + 0.38], color="black", lw=2)
    axis.set_yticks(range(len(shares)), list(shares))
    axis.invert_yaxis()
    axis.set_xscale("symlog", linthresh=10)
    largest = 130 * max(values.max() for values in shares.values())
    axis.set_xlim(-1, largest)
    ticks = [tick for tick in (0, 5, 10, 30, 100, 300, 1000) if tick <= largest]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("‖N‖ / ‖H‖ (%, linear up to 10)")
    return figure


def kink(variances: np.ndarray, curves: Mapping[object, np.ndarray]) -> Figure:
    """The error of Eq. 4 against the posterior's variance: distance of the kink (or "average") → error."""
    figure, (axis,) = _panels(1, 4.4)
    for index, (distance, error) in enumerate(curves.items()):
        average = distance == "average"
        label = "average over positions" if average else f"kink at {distance:g}"
        style = {"color": "black", "ls": "--"} if average else {"color": PALETTE[index]}
        axis.loglog(variances, error, lw=2, label=label, **style)
    axis.set(ylim=(1e-7, 1), xlabel="posterior variance $s^2$", ylabel="|error of Eq. 4| (nats)")
    axis.legend()
    return figure


def error_rates(betas: np.ndarray, curves: Mapping[str, np.ndarray]) -> Figure:
    """Errors of Eq. 4 and Eq. 7 against β: name → [2, betas]."""
    figure, axes = _panels(2, 7.6, sharex=True, sharey=True)
    for axis, index, title in zip(axes, (0, 1), ("Eq. 4, exact Hessian", "Eq. 7, Gauss–Newton"), strict=True):
        for number, (name, pair) in enumerate(curves.items()):
            style = {"marker": MARKERS[number], "color": PALETTE[number], "fillstyle": "none"}
            axis.loglog(betas, pair[index], label=name, **style)
        anchor = 3 * max(pair[index][-1] for pair in curves.values())
        for power in (1, 2):
            axis.loglog(betas, anchor * betas**power, color="0.6", lw=1, ls=":", zorder=0)
        axis.set(title=title, ylabel="mean |error| (nats)")
    axes[0].set_ylim(bottom=0.3 * min(pair.min() for pair in curves.values()))
    axes[0].legend()
    axes[1].set_xlabel("β")
    return figure


# Optimal covariance and GRAE


def bernoulli_split(misfit: np.ndarray, curves: Mapping[str, np.ndarray]) -> Figure:
    """Curvatures of one Bernoulli pixel against 1 − p_x: name → absolute value."""
    figure, (axis,) = _panels(1, 4.6)
    styles = ("-", ":", "-", "--")
    for number, (name, values) in enumerate(curves.items()):
        colour = "black" if number == 0 else PALETTE[number - 1]
        axis.loglog(misfit, values, styles[number], color=colour, lw=4 if number == 1 else 2, label=name)
    axis.set(ylim=(1e-7, 3), xlabel="1 − probability of what was observed")
    axis.set_ylabel("|curvature| per squared logit gradient")
    axis.legend()
    return figure


def unbounded(variances: np.ndarray, objectives: Mapping[float, np.ndarray]) -> Figure:
    """The part of the objective that depends on the posterior variance: β/λ_max → objective (nats)."""
    figure, (axis,) = _panels(1, 4.2)
    for number, (ratio, values) in enumerate(objectives.items()):
        style = {"color": PALETTE[number], "ls": ("-", "--", "-.")[number], "lw": 2}
        axis.semilogx(variances, values, label=f"β = {ratio:g} $\\lambda_{{\\max}}$", **style)
    largest = max(values[0] for values in objectives.values())
    axis.set(ylim=(-3 * largest, 1.5 * largest), xlabel="posterior variance $s^2$")
    axis.set_ylabel("objective, to be minimised (nats)")
    axis.legend(loc="lower left")
    return figure


def hadamard_angle(angles: np.ndarray, regularisers: np.ndarray, aligned: float) -> Figure:
    """Regularisers [angles, (mean field, full)] in nats against the rotation of the latents in degrees."""
    figure, (axis,) = _panels(1, 4.0)
    axis.plot(angles, regularisers[:, 0], color=PALETTE[0], lw=2, label="mean field")
    axis.plot(angles, regularisers[:, 1], color=PALETTE[1], lw=2, ls="--", label="full covariance")
    axis.axvline(aligned, color="0.4", lw=1, ls=":", label="orthogonal columns")
    axis.set_xticks(range(-90, 91, 45))
    axis.set(xlabel="rotation of the latents (degrees)", ylabel="regulariser (nats)")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def column_sampling(ks: np.ndarray, with_replacement: np.ndarray, without: np.ndarray) -> Figure:
    """Relative standard deviation of the sampled regulariser against the number of columns k."""
    figure, (axis,) = _panels(1, 3.8)
    axis.plot(ks, 100 * with_replacement, "o-", color=PALETTE[1], label="with replacement (K&P)")
    axis.plot(ks, 100 * without, "s-", color=PALETTE[0], label="without (this package)")
    axis.set_ylim(bottom=0)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="columns sampled, k", ylabel="standard deviation (% of the value)")
    axis.legend()
    return figure


def log_series(
    sums: Mapping[float, np.ndarray],
    betas: np.ndarray,
    exact: np.ndarray,
    first: float,
    second: np.ndarray,
    radius: float,
) -> Figure:
    """Partial sums of log(1 + t) over its value, t → [orders]; a decoder's regulariser (nats) against β."""
    figure, (upper, lower) = _panels(2, 7.4)
    for number, (t, values) in enumerate(sums.items()):
        label = f"$\\sigma^2/\\beta$ = {t:g}"
        style = {"marker": MARKERS[number], "ms": 4, "color": PALETTE[number]}
        upper.plot(np.arange(1, len(values) + 1), values, label=label, **style)
    upper.set(ylim=(-2, 4), xlabel="order of the partial sum", ylabel="partial sum / log(1 + t)")
    upper.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, columnspacing=1, handlelength=1.5)
    lower.semilogx(betas, exact, color="black", lw=2, label="exact")
    first_order = np.full_like(betas, first)
    lower.semilogx(betas, first_order, color=PALETTE[1], ls="--", lw=2, label="first order, ½‖J‖²")
    lower.semilogx(betas, second, color=PALETTE[0], ls="-.", lw=2, label="second order")
    lower.axvline(radius, color="0.4", lw=1, ls=":")
    lower.set(ylim=(-0.2 * first, 1.6 * first), xlabel="β", ylabel="regulariser (nats)")
    lower.legend(loc="upper left")
    return figure
