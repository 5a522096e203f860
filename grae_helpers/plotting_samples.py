"""The figures of the samples: grids of images, spectra, and numbers over β."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from grae_helpers.plotting import MARKERS, PALETTE, SEQUENTIAL, WIDTH

Curve = Mapping[str, np.ndarray]


def sample_rows(rows: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """A row of images for each entry, its name above it; arrays [n, C, H, W] in [0, 1], one shape, C = 1 or 3.

    The size depends on the shapes alone, so that figures of like rows can be the frames of a slider.
    """
    shapes = {np.shape(images) for images in rows.values()}
    if len(shapes) != 1 or len(shape := next(iter(shapes))) != 4 or shape[1] not in (1, 3):
        raise ValueError(f"rows: expected arrays of one shape [n, 1 or 3, H, W], got {sorted(shapes)}")
    n, _, height, width = shape
    heights = WIDTH * height / (n * width) + 0.32
    size = (WIDTH, heights * len(rows) + (0.35 if title else 0.05))
    figure, axes = plt.subplots(len(rows), 1, figsize=size, squeeze=False)
    for axis, (name, images) in zip(axes[:, 0], rows.items(), strict=True):
        _strip(axis, images, name)
    if title:
        figure.suptitle(title, fontsize=13)
    return figure


def _strip(axis, images: np.ndarray, name: str) -> None:
    strip = np.concatenate(list(np.asarray(images).clip(0, 1)), axis=2).transpose(1, 2, 0)
    axis.imshow(strip[..., 0] if strip.shape[2] == 1 else strip, cmap="gray", vmin=0, vmax=1)
    axis.set_title(name, loc="left", fontsize=11, pad=3)
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    sns.despine(ax=axis, left=True, bottom=True)


def split_rows(picture: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """A kept picture, uint8 [rows·H, n·H] or [..., 3], as rows of square images [n, C, H, H] in [0, 1] by name.

    >>> {name: row.shape for name, row in split_rows(np.zeros((8, 12), np.uint8), ["a", "b"]).items()}
    {'a': (3, 1, 4, 4), 'b': (3, 1, 4, 4)}
    """
    side, rest = divmod(len(picture), len(names))
    if rest or not side or picture.shape[1] % side:
        raise ValueError(f"picture: expected {len(names)} rows of square images, got {picture.shape}")
    whole = picture.reshape(len(names), side, picture.shape[1] // side, side, -1).astype(float) / 255
    return dict(zip(names, whole.transpose(0, 2, 4, 1, 3), strict=True))


def spectra(frequency: np.ndarray, models: Mapping[str, Mapping[float, np.ndarray]], data: np.ndarray) -> Figure:
    """Mean power spectra, log-log: a panel for each model, a colour for each β; the data's dashed.

    `models` map a name to β → [bins]; `frequency` [bins] in cycles per pixel, powers in squared grey values.
    """
    figure, axes = plt.subplots(1, len(models), sharey=True, figsize=(WIDTH, 3.9), squeeze=False)
    for axis, (name, over_beta) in zip(axes[0], models.items(), strict=True):
        colours = sns.color_palette(SEQUENTIAL, len(over_beta))
        for colour, (beta, power) in zip(colours, sorted(over_beta.items()), strict=True):
            axis.loglog(frequency, power, color=colour, linewidth=1.3, label=f"β = {beta:g}")
        axis.loglog(frequency, data, "k--", linewidth=1.3, label="data")
        axis.set(title=name, xlabel="cycles per pixel")
        ticks = [tick for tick in (0.01, 0.03, 0.1, 0.3) if frequency.min() <= tick <= frequency.max()]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.xaxis.set_minor_formatter(NullFormatter())  # less than two decades would have labels that overlap
    axes[0, 0].set_ylabel("power (squared grey values)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    return figure


def over_beta(
    curves: Mapping[str, Curve], measures: Mapping[str, str], data: Mapping[str, float] | None = None
) -> Figure:
    """A panel for each measure over β, a colour for each model, bars of ± 2 standard errors; the data's dashed.

    `curves` map a name to arrays over "beta": a measure and its "…_error". `measures` map those to axis labels. A
    curve without a measure is left out there, and one without errors has no bars. A panel is logarithmic where its
    values span more than a factor of five.
    """
    figure, axes = plt.subplots(
        len(measures), 1, sharex=True, figsize=(WIDTH, 2.3 * len(measures) + 0.7), squeeze=False
    )
    for axis, (measure, label) in zip(axes[:, 0], measures.items(), strict=True):
        for i, (name, curve) in enumerate(curves.items()):
            if measure not in curve:
                continue
            bars = 2 * curve.get(f"{measure}_error", np.zeros(len(curve["beta"])))
            style = {"marker": MARKERS[i], "color": PALETTE[i], "linestyle": "-" if i % 2 == 0 else "--"}
            axis.errorbar(curve["beta"], curve[measure], bars, capsize=3, label=name, **style)
        if data and measure in data:
            axis.axhline(data[measure], color="black", linestyle=":", linewidth=1.3, label="data")
        axis.set(ylabel=label, xscale="log")
        _stretch(axis)
    _beta_axis(axes[-1, 0], next(iter(curves.values()))["beta"])
    _legend(figure, axes[0, 0])
    return figure


def _legend(figure: Figure, axis) -> None:
    """Above all panels, the data last."""
    entries = sorted(zip(*axis.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1] == "data")
    figure.legend(*zip(*entries, strict=True), loc="outside upper center", ncols=2 if len(entries) > 3 else 3)


def _stretch(axis) -> None:
    """A logarithmic scale where the values span more than a factor of five, the data's line included."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axis.lines])
    if values.min() > 0 and values.max() > 5 * values.min():
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.yaxis.set_minor_formatter(NullFormatter())


def _beta_axis(axis, betas: np.ndarray) -> None:
    axis.set_xlabel("β")
    axis.set_xticks(betas, [f"{beta:g}" for beta in betas], rotation=45 if len(betas) > 6 else 0)
    axis.minorticks_off()


def known_answer(
    beta: np.ndarray, expected: np.ndarray, found: Mapping[str, Curve], eigenvalues: Sequence[float]
) -> Figure:
    """A closed form over β as a line, trained models as marks, and the data's eigenvalues dotted.

    `found` map a name to "beta" and "tv".
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 3.4))
    axis.semilogx(beta, expected, color="black", linewidth=1.5, label="closed form")
    for i, (name, marks) in enumerate(found.items()):
        size = {"markersize": 11 - 5 * i, "markerfacecolor": "none" if i == 0 else PALETTE[i]}
        axis.semilogx(marks["beta"], marks["tv"], MARKERS[i], color=PALETTE[i], label=name, **size)
    for value in eigenvalues:
        axis.axvline(value, color="black", linestyle=":", linewidth=1)
    axis.set(xlabel="β", ylabel="total variation of the samples")
    axis.legend()
    return figure


def prior_beside_mixture(rows: Sequence[Mapping], measures: Mapping[str, str], data: Mapping[str, float]) -> Figure:
    """Per model, a measure of samples from the prior and of samples from a mixture fitted to the codes, ± 2 s.e.

    `rows` have "model", and "prior.…", "mixture.…" with "…_error" for each of `measures`; the data's value is dashed.
    """
    height = len(measures) * (0.42 * len(rows) + 0.75) + 0.6
    figure, axes = plt.subplots(len(measures), 1, figsize=(WIDTH, height), squeeze=False)
    for axis, (measure, label) in zip(axes[:, 0], measures.items(), strict=True):
        for i, kind in enumerate(("prior", "mixture")):
            values = np.array([row[f"{kind}.{measure}"] for row in rows])
            bars = 2 * np.array([row[f"{kind}.{measure}_error"] for row in rows])
            place = np.arange(len(rows)) + 0.16 * (2 * i - 1)
            axis.errorbar(values, place, xerr=bars, fmt=MARKERS[i], color=PALETTE[i], capsize=3, label=kind)
        axis.axvline(data[measure], color="black", linestyle=":", linewidth=1.3, label="data")
        axis.set_yticks(range(len(rows)), [row["model"] for row in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xlabel(label)
        axis.grid(axis="y", visible=False)
    _legend(figure, axes[0, 0])
    return figure
