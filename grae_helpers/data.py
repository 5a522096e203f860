"""The data sets of the book, as uint8 images with labels and a sentence saying where they came from."""

import inspect
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from grae_helpers import archives, folders, procedural
from grae_helpers.downloads import DatasetCorrupt, DatasetUnavailable, load_idx

__all__ = ["NAMES", "DatasetCorrupt", "DatasetUnavailable", "Images", "binarize", "load", "resolve"]


@dataclass(frozen=True, eq=False)
class Images:
    """A split of a data set: `images` uint8 [n, C, H, W] and `labels` int64 [n].

    `source` is a sentence for the page, saying where they came from. `classes` names the labels where they
    have names (the sub-folders of an image folder). Images drawn from factors have them: `factors` float32
    [n, k] in natural units and their `factor_names`.
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor
    source: str
    classes: tuple[str, ...] = ()
    factors: Tensor | None = None
    factor_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def floats(self, indices: Tensor | slice | list | None = None) -> Tensor:
        """The chosen images (all of them by default) as float32 in [0, 1], the grey value divided by 255.

        >>> load("digits", "test").floats([0, 3]).shape
        torch.Size([2, 1, 28, 28])
        """
        chosen = self.images if indices is None else self.images[indices]
        return chosen.to(torch.float32) / 255


def load(
    name: str,
    split: str = "train",
    *,
    n: int | None = None,
    path: str | os.PathLike | None = None,
    size: int | None = None,
    channels: int | None = None,
    on_error: str | None = None,
) -> Images:
    """A data set by its name (`NAMES`) and split, "train" or "test".

    - `digits`: inside scikit-learn, 8×8 resized to 28×28; a fixed, random fifth of each class is for test.
    - `mnist`, `fashion_mnist`: the original files, under $GRAE_DATA, else in the user's cache (or in
      $GRAE_CACHE), else downloaded with a checksum.
    - `cifar10` (32×32), `celeba` and `lfw` (64×64, or `size`), looked for likewise; the book's page on data sets
      says how they are cropped and split. `on_error` as below.
    - `image_folder`: the images under `path`, a folder or .zip, centre-cropped and resized to `size` (64)
      pixels a side, with `channels` (3, or 1 for grey). A label is the name of an image's own folder, in
      sorted order. Where the top holds folders `train` and `test`, only these are read; otherwise the fifth
      of the images that a hash of their relative path picks is for test, whatever images are added later.
      `on_error="skip"` leaves out broken images with a warning.
    - `faces`, `sprites`: drawn from known factors, 64×64 or `size`, 10,000 and 2,000 for test. White sprites on
      black with `channels=1`.

    `n` loads no more than n images: of `faces`, `sprites`, `digits` and both MNISTs the first n, of the others n
    spread at random, always the same. Of `faces` and `sprites` there may be more than 10,000.

    Raises ValueError for an unknown name, split or option; DatasetUnavailable for data that cannot be had;
    DatasetCorrupt (a DatasetUnavailable) for a file that is there but damaged, naming it.

    >>> data = load("digits")
    >>> len(data), data.images.shape, data.source
    (1438, torch.Size([1438, 1, 28, 28]), 'digits: 1,797 handwritten digits shipped inside scikit-learn, \
resized from 8×8 to 28×28')
    >>> faces = load("faces", n=2)
    >>> faces.images.shape, faces.factor_names[:3]
    (torch.Size([2, 3, 64, 64]), ('turn', 'nod', 'tilt'))
    """
    _check_name(name, NAMES)
    if split not in ("train", "test"):
        raise ValueError(f'split: expected "train" or "test", got {split!r}')
    options = {"path": path, "size": size, "channels": channels, "on_error": on_error}
    options = {option: value for option, value in options.items() if value is not None}
    unknown = sorted(set(options) - set(inspect.signature(LOADERS[name]).parameters))
    if unknown:
        raise ValueError(f"{name} takes no {', '.join(unknown)}")
    _check_options(n, **options)
    return LOADERS[name](name, split, n, **options)


def _check_options(
    n: object, path: object = None, size: object = 1, channels: object = 1, on_error: object = "raise"
) -> None:
    for option, value in (("n", 1 if n is None else n), ("size", size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{option}: expected a positive integer, got {value!r}")
    if channels not in (1, 3):
        raise ValueError(f"channels: expected 1 or 3, got {channels!r}")
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error: expected "raise" or "skip", got {on_error!r}')


def resolve(
    dataset: str = "auto", paper: str = "mnist", fallback: str = "digits", among: tuple[str, ...] | None = None
) -> str:
    """The name of the data set a notebook uses: the paper's for "auto" if it can be had, else the fallback.

    For MNIST a first call may download, and whether it can be had is found out once per process. The large sets,
    `celeba`, `lfw` and `cifar10`, count only where they are on this machine already: "auto" does not download
    a gigabyte, `dataset="celeba"` does.
    `among` are the names a notebook can take (`SMALL_GREY` for networks of 28×28 pixels), all by default.
    Raises ValueError for a name that is none of them, and DatasetCorrupt for a damaged file: "auto" never hides one.

    >>> resolve("fashion_mnist"), resolve("auto", paper="faces")
    ('fashion_mnist', 'faces')
    """
    for name in (paper, fallback):
        _check_name(name, NAMES)
    _check_name(dataset, ("auto", *(NAMES if among is None else among)))
    if dataset != "auto":
        return dataset
    if paper in archives.PLACES:
        return paper if archives.find(paper) else fallback
    if LOADERS[paper] is not _idx:
        return paper
    places = os.environ.get("GRAE_DATA"), os.environ.get("GRAE_CACHE")
    return paper if _available(paper, places) else fallback


@cache
def _available(name: str, places: tuple[str | None, ...]) -> bool:
    try:
        return all(len(load(name, split)) > 0 for split in ("train", "test"))
    except DatasetCorrupt:
        raise
    except DatasetUnavailable:
        return False


def binarize(x: Tensor, generator: torch.Generator | None = None, threshold: float = 0.5) -> Tensor:
    """Grey values to 0 and 1, in x's own dtype: x > threshold, or 1 with probability x given a generator.

    Raises TypeError for integers (use `Images.floats`), ValueError for NaN or a value outside [0, 1].

    >>> binarize(torch.tensor([0.2, 0.5, 0.7]))
    tensor([0., 0., 1.])
    >>> binarize(torch.full((4,), 0.5), torch.Generator().manual_seed(0))
    tensor([1., 0., 1., 1.])
    """
    if not x.is_floating_point():
        raise TypeError(f"binarize: expected floats in [0, 1], got {x.dtype}")
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(f"binarize: expected values in [0, 1], got {x.min():g} to {x.max():g}")
    if generator is not None:
        threshold = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return (x > threshold).to(x.dtype)


def _check_name(name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise ValueError(f"data set: expected one of {', '.join(names)}; got {name!r}")


def _digits(name: str, split: str, n: int | None) -> Images:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).reshape(-1, 1, 8, 8) * (255 / 16)
    images = torch.nn.functional.interpolate(images, (28, 28), mode="bicubic", align_corners=False)
    rng, test = np.random.default_rng(0), np.zeros(len(labels), bool)
    for digit in range(10):
        order = rng.permutation(np.flatnonzero(labels == digit))
        test[order[: round(len(order) / 5)]] = True
    chosen = torch.from_numpy(test if split == "test" else ~test)
    text = f"{len(labels):,} handwritten digits shipped inside scikit-learn, resized from 8×8 to 28×28"
    images = images.clamp(0, 255).round().to(torch.uint8)
    return Images(name, split, images[chosen][:n], torch.from_numpy(labels)[chosen].long()[:n], f"{name}: {text}")


def _idx(name: str, split: str, n: int | None) -> Images:
    images, labels, where = load_idx(name, split)
    images, labels = torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()
    return Images(name, split, images[:n], labels[:n], f"{name}: {where}")


def _archive(name: str, split: str, n: int | None, size: int | None = None, on_error: str = "raise") -> Images:
    sized = {} if size is None else {"size": size}
    images, labels, classes, where = getattr(archives, name)(split, on_error=on_error, n=n, **sized)
    return Images(name, split, images, labels, f"{name}: {where}", classes)


def _folder(
    name: str,
    split: str,
    n: int | None,
    path: str | None = None,
    size: int = 64,
    channels: int = 3,
    on_error: str = "raise",
) -> Images:
    images, labels, classes = folders.read(path, split, size, channels, on_error, n=n)
    source = f"{name}: {len(labels):,} images from {Path(path).name}, cropped and resized to {size}×{size}"
    return Images(name, split, images, labels, source, classes)


def _faces(name: str, split: str, n: int | None, size: int = 64) -> Images:
    factors = procedural.draw_factors(procedural.FACES, n or DRAWN[split], SEEDS[split])
    images = procedural.draw_faces(factors, size)
    names = tuple(procedural.FACES)
    return _drawn(name, split, images, factors, names, "hair_style", procedural.HAIR_STYLES, "cartoon portraits")


def _sprites(name: str, split: str, n: int | None, size: int = 64, channels: int = 3) -> Images:
    table = procedural.SPRITES if channels == 3 else procedural.WHITE_SPRITES
    factors = procedural.draw_factors(table, n or DRAWN[split], SEEDS[split])
    images = procedural.draw_sprites(factors, size)
    return _drawn(name, split, images, factors, tuple(table), "shape", procedural.SHAPES, "sprites")


def _drawn(
    name: str,
    split: str,
    images: Tensor,
    factors: Tensor,
    names: tuple[str, ...],
    label: str,
    classes: tuple[str, ...],
    what: str,
) -> Images:
    labels = factors[:, names.index(label)].long()
    source = f"{name}: {len(images):,} {what} drawn from {len(names)} known, independent factors, seed {SEEDS[split]}"
    return Images(name, split, images, labels, source, classes, factors, names)


DRAWN = {"train": 10_000, "test": 2_000}
SEEDS = {"train": 0, "test": 1}
# A data set is a line here: a function of name, split, n and, by keyword, those options of `load` that it takes.
LOADERS = {
    "digits": _digits,
    "mnist": _idx,
    "fashion_mnist": _idx,
    "cifar10": _archive,
    "celeba": _archive,
    "lfw": _archive,
    "image_folder": _folder,
    "sprites": _sprites,
    "faces": _faces,
}
NAMES = tuple(LOADERS)
SMALL_GREY = ("digits", "mnist", "fashion_mnist")
