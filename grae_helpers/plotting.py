"""The book's figures: one style, one palette, and the figures of the MNIST chapters."""

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython.display import Markdown, display
from matplotlib.figure import Figure

PALETTE = sns.color_palette("colorblind")
SEQUENTIAL = "viridis"
DIVERGING = "RdBu_r"
MARKERS = "osD^vPX*"
WIDTH = 6.0  # inches: a narrow column, so that type stays readable on a phone


def use_style() -> None:
    """One look for the whole book: a white ground, for both colour schemes, and colour-blind-safe colours."""
    sns.set_theme(context="notebook", style="ticks", palette="colorblind", font_scale=1.0)
    mpl.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.6),
            "figure.dpi": 130,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 12,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "image.interpolation": "nearest",
            "savefig.facecolor": "white",
        }
    )


def show(text: str) -> None:
    """Show a sentence with computed numbers, as Markdown."""
    display(Markdown(text))


def table(rows: Sequence[dict], **formats: str) -> None:
    """Show rows as a Markdown table; `formats` gives a format spec for the columns that need one.

    >>> table([{"β": 0.1, "loss": 1.2345}], loss=".2f")  # doctest: +ELLIPSIS
    <IPython.core.display.Markdown object>
    """
    if not rows:
        raise ValueError("rows: expected at least one")
    names = list(rows[0])
    lines = [names, ["---"] * len(names)]
    lines += [[format(row[name], formats.get(name, "")) for name in names] for row in rows]
    show("\n".join("| " + " | ".join(line) + " |" for line in lines))


def precision_beside_jacobian(panels: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """K&P Fig. 2: a row per model and image, Σ⁻¹ left and JᵀJ right, each on a colour scale of its own.

    `panels` maps a row's title to two [d, d] matrices.
    """
    n = len(panels)
    figure, axes = plt.subplots(n, 2, figsize=(WIDTH * 0.86, 2.3 * n + 0.3), squeeze=False)
    for row, (title, matrices) in zip(axes, panels.items(), strict=True):
        for axis, matrix, name in zip(row, matrices, ("$\\Sigma^{-1}$", "$J^\\top J$"), strict=True):
            _matrix(figure, axis, matrix, f"{title}: {name}")
    return figure


def _matrix(figure: Figure, axis, matrix: np.ndarray, title: str, limit: float = 0.0) -> None:
    limit = limit or np.abs(matrix).max()
    image = axis.imshow(matrix, cmap=DIVERGING, vmin=-limit, vmax=limit)
    d = len(matrix)
    axis.set(title=title, xlabel="latent index $i$", ylabel="latent index $j$")
    axis.set_xticks(range(0, d, max(1, d // 4)), range(1, d + 1, max(1, d // 4)))
    axis.set_yticks(range(0, d, max(1, d // 4)), range(1, d + 1, max(1, d // 4)))
    axis.grid(False)
    figure.colorbar(image, ax=axis, shrink=0.85)


def blocks(models: Mapping[int, Mapping[str, np.ndarray]], now: int) -> Figure:
    """A frame for the block size `now`: its matrices with the blocks outlined, on scales that all block sizes share.

    `models` map a block size (d: full) to matrices [d, d] by title, the same titles for each, two in a row.
    """
    titles = list(models[now])
    n = math.ceil(len(titles) / 2)
    figure, axes = plt.subplots(n, 2, figsize=(WIDTH, 2.55 * n + 0.35), squeeze=False)
    for axis, title in zip(axes.flat, titles, strict=False):
        limit = max(np.abs(matrices[title]).max() for matrices in models.values())
        _matrix(figure, axis, models[now][title], title, limit)
        _outline(axis, len(models[now][title]), now)
    d = len(models[now][titles[0]])
    figure.suptitle(f"block size {now}" + {1: ", mean field", d: ", full"}.get(now, ""), fontsize=13)
    return figure


def _outline(axis, d: int, block_size: int) -> None:
    for first in range(0, d, block_size):
        side = min(block_size, d - first)
        corner = (first - 0.5, first - 0.5)
        axis.add_patch(plt.Rectangle(corner, side, side, fill=False, edgecolor="black", clip_on=False))


def off_block_energy(rows: Sequence[dict]) -> Figure:
    """Off-block energy of JᵀJ per posterior family, beside what randomly rotated latents would show.

    `rows` have "family", "mask" (a block size), "energy", "energy_error" (standard error), "energy_rotated".
    """
    families = list(dict.fromkeys(row["family"] for row in rows))
    masks = sorted({row["mask"] for row in rows})
    height = 0.7 * len(masks) + 0.3 * len(masks) * len(families) + 0.5
    figure, axes = plt.subplots(len(masks), 1, sharex=True, figsize=(WIDTH, height), squeeze=False)
    for axis, mask in zip(axes[:, 0], masks, strict=True):
        for row in (row for row in rows if row["mask"] == mask):
            i = families.index(row["family"])
            axis.barh(i, row["energy"], xerr=2 * row["energy_error"], color=PALETTE[i], capsize=3, height=0.7)
            axis.vlines(row["energy_rotated"], i - 0.42, i + 0.42, color="black", linestyle="--", linewidth=1.5)
        axis.set_title("off the diagonal" if mask == 1 else f"outside blocks of {mask}", loc="left")
        axis.set_yticks(range(len(families)), families)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
    axes[-1, 0].set_xlabel("share of $\\|J^\\top J\\|_F^2$")
    axes[0, 0].plot([], [], "k--", linewidth=1.5, label="rotated at random")
    figure.legend(loc="outside upper right")
    return figure


def objectives_over_beta(curves: dict[str, dict[str, np.ndarray]], offset: float = 0.0) -> Figure:
    """K&P Fig. 3: a row per family, the three objectives over β and beside them the two gaps.

    `curves` maps a family to arrays "beta", "beta_vae", "taylor", "grae" (means over images, nats);
    `offset` is taken off.
    """
    names = {"beta_vae": "β-VAE (Eq. 2)", "taylor": "Taylor (Eq. 7)", "grae": "GRAE (Eq. 13)"}
    gaps = {"Taylor − β-VAE": "beta_vae", "Taylor − GRAE": "grae"}
    size = (WIDTH, 2.3 * len(curves) + 0.8)
    figure, axes = plt.subplots(len(curves), 2, sharex=True, sharey="col", figsize=size, squeeze=False)
    for (family, curve), (left, right) in zip(curves.items(), axes, strict=True):
        for i, (key, name) in enumerate(names.items()):
            left.plot(curve["beta"], curve[key] - offset, marker=MARKERS[i], color=PALETTE[i], label=name)
        for i, (name, key) in enumerate(gaps.items(), start=3):
            right.plot(curve["beta"], curve["taylor"] - curve[key], marker=MARKERS[i], color=PALETTE[i], label=name)
        right.axhline(0, color="black", linewidth=0.8)
        left.set(title=family, ylabel="objective (nats)")
        right.set(title=family, ylabel="gap (nats)")
    for axis in axes[-1]:
        axis.set_xlabel("β")
    handles = [handle for axis in axes[0] for handle in axis.get_legend_handles_labels()[0]]
    figure.legend(handles, [handle.get_label() for handle in handles], loc="outside upper center", ncols=2)
    return figure


PARTS = {
    "reconstruction": "½‖x − g(h)‖²",
    "regularisers": "½β(‖h‖² + log|M|)",
    "forced": "forced by the family",
    "missed": "missed by the encoder",
}


def objective_parts(curves: Mapping[str, Mapping[str, np.ndarray]], now: int, offset: float = 0.0) -> Figure:
    """The objectives taken apart at β number `now`, a bar per family: GRAE's two parts and what Taylor adds.

    Below, the same from GRAE on, with the β-VAE's objective marked. `curves` as in `objectives_over_beta`, with
    "gap", "forced" and "squared_error" besides; the axes are the same for every `now`.
    """
    families = list(curves)
    size = (WIDTH, 0.8 * len(families) + 2.4)
    figure, (whole, above) = plt.subplots(2, 1, figsize=size)
    every = [_parts(curve, offset) for curve in curves.values()]
    for i, (curve, parts) in enumerate(zip(curves.values(), every, strict=True)):
        _stack(whole, i, parts, now, list(PARTS))
        _stack(above, i, parts, now, ["forced", "missed"])
        excess = curve["beta_vae"][now] - curve["grae"][now]
        above.plot(excess, i, "D", color="black", label="β-VAE (Eq. 2)" if i == 0 else None)
    ends = [(curve["beta_vae"] - curve["grae"], curve["gap"]) for curve in curves.values()]
    above.set_xlim(min(0.0, *(1.1 * a.min() for a, _ in ends)), 1.05 * max(max(a.max(), b.max()) for a, b in ends))
    whole.set_xlim(0, 1.02 * max(sum(parts.values()).max() for parts in every))
    whole.set_xlabel("objective (nats): GRAE is the first two parts, Taylor all four")
    above.set_xlabel("objective − GRAE (nats)")
    for axis in (whole, above):
        axis.set_yticks(range(len(families)), families)
        axis.set_ylim(len(families) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
    entries = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in (whole, above)]
    named = {label: handle for found in entries for handle, label in found}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=2)
    figure.suptitle(f"β = {next(iter(curves.values()))['beta'][now]:g}", fontsize=13)
    return figure


def _parts(curve: Mapping[str, np.ndarray], offset: float) -> dict[str, np.ndarray]:
    """Four arrays over β whose sum is Taylor's objective without the offset; the first two are GRAE's."""
    half = curve["squared_error"] / 2
    found = (half, curve["grae"] - offset - half, curve["forced"], curve["gap"] - curve["forced"])
    return dict(zip(PARTS, found, strict=True))


def _stack(axis, place: int, parts: Mapping[str, np.ndarray], now: int, names: Sequence[str]) -> None:
    left = 0.0
    for name in names:
        colour, label = PALETTE[list(PARTS).index(name)], PARTS[name] if place == 0 else None
        axis.barh(place, parts[name][now], left=left, height=0.65, color=colour, label=label)
        left += parts[name][now]


def gap_per_image(analytic: dict[str, np.ndarray], measured: dict[str, np.ndarray]) -> Figure:
    """The measured gap Taylor − GRAE of each image against the analytic one, a colour per posterior family
    (nats)."""
    figure, axis = plt.subplots(figsize=(WIDTH * 0.75, 4.2))
    for i, (family, values) in enumerate(analytic.items()):
        axis.plot(
            values, measured[family], MARKERS[i], color=PALETTE[i], markersize=4, alpha=0.6, label=family
        )
    low, high = (f([f(v) for v in analytic.values()]) for f in (min, max))
    axis.plot([low, high], [low, high], "k--", linewidth=1, label="equal")
    axis.set(xlabel="$\\beta\\,KL(N(0,\\Sigma)\\,\\|\\,N(0,M^{-1}))$ (nats)", ylabel="Taylor − GRAE (nats)")
    axis.legend()
    return figure


def reconstructions(images: np.ndarray, decoded: dict[str, np.ndarray]) -> Figure:
    """Images on top, and a row of reconstructions for each model; arrays [n, H, W], grey in [0, 1]."""
    rows = {"data": images, **decoded}
    figure, axes = plt.subplots(len(rows), 1, figsize=(WIDTH, 0.85 * len(rows)), squeeze=False)
    for axis, (name, row) in zip(axes[:, 0], rows.items(), strict=True):
        axis.imshow(np.concatenate(list(row), axis=1), cmap="gray", vmin=0, vmax=1)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        sns.despine(ax=axis, left=True, bottom=True)
    return figure
