"""The figures of the chapter on training: live curves, grids of images, traversals, and what the decoder pays."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
from IPython import get_ipython
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from torch import Tensor

from grae_helpers.plotting import MARKERS, PALETTE, WIDTH

TERMS = {
    "reconstruction": "reconstruction",
    "latent": "regulariser of the code",
    "decoder": "regulariser of the decoder",
}


class LiveCurves:
    """`watch` of `training.fit`: one picture of the curves that is redrawn while training goes on.

    It is redrawn at most every `seconds`, and after the last of `steps`: a page keeps the last picture, once. Outside
    a notebook nothing is drawn. `offset` is as for `curves`.
    """

    def __init__(self, steps: int, offset: float = 0.0, seconds: float = 2.0):
        self.steps, self.offset, self.seconds = steps, offset, seconds
        self.handle, self.drawn, self.step = None, -np.inf, 0

    def __call__(self, step: int, history: Mapping[str, np.ndarray]) -> None:
        due = step >= self.steps or time.monotonic() - self.drawn >= self.seconds
        if not due or step == self.step or get_ipython() is None:
            return
        figure = curves(history, self.offset, self.steps)
        if self.handle is None:
            self.handle = display(figure, display_id=True)
        else:
            self.handle.update(figure)
        plt.close(figure)  # a cell shows what is open at its end, and this is shown already
        self.drawn, self.step = time.monotonic(), step


def curves(history: Mapping[str, np.ndarray], offset: float = 0.0, steps: int | None = None) -> Figure:
    """The three terms over the steps so far (batch means, nats), each with its running mean.

    `offset` is taken off the reconstruction: the constant of a normalised density. `steps` is the run's length.
    """
    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(WIDTH, 5.0), height_ratios=(3, 2))
    for number, (name, label) in enumerate(TERMS.items()):
        values = np.asarray(history[name]) - (offset if name == "reconstruction" else 0)
        axis, colour = axes[min(number, 1)], PALETTE[number]
        at = np.arange(1, len(values) + 1)
        axis.plot(at, values, color=colour, alpha=0.3, linewidth=1)
        axis.plot(at, _running_mean(values), color=colour, linewidth=2, label=label)
    axes[0].set(ylabel="nats per image")
    if np.min(history["reconstruction"]) > offset:
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes[0].yaxis.set_major_formatter("{x:g}")
        axes[0].yaxis.set_minor_formatter(NullFormatter())
    axes[1].set(xlabel="step", ylabel="nats per image", xlim=(0, steps or len(values)))
    axes[1].set_ylim(bottom=0)
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=1)
    return figure


def _running_mean(values: np.ndarray, share: int = 20) -> np.ndarray:
    """The mean of the last twentieth of the steps so far, which starts with the values themselves."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    last = np.arange(1, len(values) + 1)
    first = last - np.maximum(1, last // share)
    return (total[last] - total[first]) / (last - first)


def image_grid(images: Tensor, columns: int = 8) -> Figure:
    """Images [n, C, H, W] in [0, 1] (or uint8), grey or RGB, in reading order."""
    return picture(mosaic(images, columns))


def picture(pixels: np.ndarray) -> Figure:
    """A picture [height, width] or [height, width, 3], such as a frozen grid, as wide as the page."""
    height, width = pixels.shape[:2]
    figure, axis = plt.subplots(figsize=(WIDTH, WIDTH * height / width))
    _draw(axis, pixels)
    return figure


def image_rows(rows: Mapping[str, Tensor]) -> Figure:
    """A row of images for each name, such as data and reconstructions: name → [n, C, H, W]."""
    n = max(len(images) for images in rows.values())
    figure, axes = plt.subplots(len(rows), 1, figsize=(WIDTH, 0.3 + len(rows) * (WIDTH / n + 0.25)), squeeze=False)
    for axis, (name, images) in zip(axes[:, 0], rows.items(), strict=True):
        _draw(axis, mosaic(images, n))
        axis.set_title(name, loc="left", pad=3)
    return figure


def traversals(images: Mapping[str, Tensor], values: Sequence[float], unit: str) -> Figure:
    """A row for each latent: its decoded images [m, C, H, W] at the m `values`, in this unit."""
    figure, axes = plt.subplots(len(images), 1, figsize=(WIDTH, len(images) * (WIDTH / len(values) + 0.3) + 0.4))
    for axis, (name, row) in zip(np.atleast_1d(axes), images.items(), strict=True):
        _draw(axis, mosaic(row, len(values)))
        axis.set_title(name, loc="left", pad=3)
    width = row.shape[3] + 1
    axis.set_xticks([width * (i + 0.5) for i in range(len(values))], [f"{value:g}" for value in values])
    axis.set_xlabel(unit)
    return figure


def mosaic(images: Tensor, columns: int) -> np.ndarray:
    """Images [n, C, H, W] in [0, 1] (or uint8) side by side: uint8 [height, width] (grey) or [height, width, 3].

    A white line is right of and below each image. Raises ValueError for other shapes.

    >>> import torch
    >>> mosaic(torch.zeros(3, 1, 2, 2), columns=2).tolist()[0]
    [0, 0, 255, 0, 0, 255]
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"images: expected [n, 1 or 3, H, W], got {list(images.shape)}")
    array = images.detach().cpu().numpy()
    if array.dtype != np.uint8:
        array = np.rint(255 * array.clip(0, 1)).astype(np.uint8)
    n, channels, height, width = array.shape
    rows = -(-n // columns)
    canvas = np.full((rows * columns, channels, height + 1, width + 1), 255, np.uint8)
    canvas[:n, :, :height, :width] = array
    canvas = canvas.reshape(rows, columns, channels, height + 1, width + 1).transpose(0, 3, 1, 4, 2)
    whole = canvas.reshape(rows * (height + 1), columns * (width + 1), channels)
    return whole[:, :, 0] if channels == 1 else whole


def _draw(axis: Axes, pixels: np.ndarray) -> None:
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def partial_sums(ratios: np.ndarray, sums: Mapping[int, np.ndarray], singular: np.ndarray) -> Figure:
    """The series of log(1 + r²) to some orders against r = σ/√β, and where a decoder's singular values lie.

    Shapes: ratios [m]; order → partial sums [m]; singular values over √β [images, d].
    """
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(WIDTH, 6.4), height_ratios=(3, 2))
    upper.plot(ratios, np.log1p(ratios**2), color="black", linewidth=2.5, label="log(1 + σ²/β)")
    for number, (order, values) in enumerate(sums.items()):
        name = "first order: σ²/β" if order == 1 else f"order {order}"
        style = {"linestyle": ("--", "-.", ":", "-")[number % 4], "color": PALETTE[number], "linewidth": 2}
        upper.plot(ratios, values, label=name, **style)
    upper.set(ylim=(-1, 2 * np.log1p(ratios[-1] ** 2)), ylabel="per latent (units of β/2 nats)")
    ranks = np.arange(1, singular.shape[1] + 1)
    low, middle, high = np.quantile(singular, (0.05, 0.5, 0.95), axis=0)
    lower.hlines(ranks, low, high, color=PALETTE[0], linewidth=2, alpha=0.6)
    lower.plot(middle, ranks, "o", color=PALETTE[0], markersize=4)
    for axis in (upper, lower):
        axis.axvline(1, color="black", linestyle=":", linewidth=1.5)
        axis.set_xscale("log")
    lower.set(xlabel="σ/√β (dotted: radius of convergence)", ylabel="rank of σ")
    apart = 5 * (1 + singular.shape[1] // 50)
    lower.set_yticks([1, *range(apart, singular.shape[1] + 1, apart)])
    lower.invert_yaxis()
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def hadamard_remainder(exact: np.ndarray, estimates: Mapping[str, np.ndarray]) -> Figure:
    """What Hadamard's bound leaves out, (β/2)(−log|R|), against its approximations, a point per image (nats)."""
    figure, axis = plt.subplots(figsize=(0.8 * WIDTH, 4.4))
    for number, (name, values) in enumerate(estimates.items()):
        style = {"color": PALETTE[number], "markersize": 5, "alpha": 0.6}
        axis.plot(exact, values, MARKERS[number], label=name, **style)
    top = 1.05 * max(1e-9, exact.max(), *(values.max() for values in estimates.values()))
    axis.plot([0, top], [0, top], "k--", linewidth=1, label="equal")
    axis.set(
        xlabel="left out by Hadamard's bound (nats)", ylabel="approximation (nats)", xlim=(0, top), ylim=(0, top)
    )
    figure.legend(loc="outside upper center", ncols=1)
    return figure


def log_det_estimates(estimates: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Estimates of the log-determinant against their cost: name → arrays "passes", "bias" and "spread" (per cent).

    A pass is one through the decoder, forwards or backwards; spread is the standard deviation for one image.
    """
    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(WIDTH, 6.4))
    for number, (name, values) in enumerate(estimates.items()):
        style = {"marker": MARKERS[number], "color": PALETTE[number], "label": name}
        for axis, key in zip(axes, ("bias", "spread"), strict=True):
            axis.plot(values["passes"], values[key], **style)
    axes[0].axhline(0, color="black", linewidth=0.8)
    axes[0].set(ylabel="bias (% of the value)")
    axes[1].set(ylabel="standard deviation (%)", xlabel="passes through the decoder")
    axes[1].set_ylim(bottom=0)
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=1)
    return figure
