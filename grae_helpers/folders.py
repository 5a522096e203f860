"""Any folder or .zip of images, cropped, resized and split, read one image at a time."""

import hashlib
import os
import posixpath
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from grae_helpers.downloads import DatasetCorrupt, DatasetUnavailable

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")


def read(
    path: str | os.PathLike | None, split: str, size: int, channels: int, on_error: str
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images uint8 [n, channels, size, size], labels int64 [n] and the labels' names; see `data.load`.

    Only the tensor of the result is held in memory, and one image at a time besides. Transparency is dropped,
    16-bit images are scaled to 8 bits, and a photograph's EXIF orientation is applied.
    """
    _check(path, size, channels, on_error)
    path = Path(path).expanduser()
    with _opened(path) as (files, read_bytes):
        chosen, classes = select(files, split)
        if not chosen:
            found = f"{len(files)} files named {', '.join(SUFFIXES)}"
            raise DatasetUnavailable(f"{path}: expected {split} images, found none among {found}")
        images, kept, broken = _read_all(path, chosen, read_bytes, (channels, size, size), on_error)
    if not kept:
        raise DatasetCorrupt(f"{path}: none of {len(broken)} images can be read, the first is {broken[0]}")
    if broken:
        warnings.warn(f"{path}: skipped {len(broken)} broken images: {'; '.join(broken)}", stacklevel=4)
    numbers = {name: number for number, name in enumerate(classes)}
    return images[: len(kept)], torch.tensor([numbers[label] for label in kept]), classes


def _check(path: object, size: object, channels: object, on_error: object) -> None:
    if path is None:
        raise ValueError("image_folder: expected path=, a folder or a .zip of images")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size: expected a positive integer, got {size!r}")
    if channels not in (1, 3):
        raise ValueError(f"channels: expected 1 or 3, got {channels!r}")
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error: expected "raise" or "skip", got {on_error!r}')


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """The sorted relative names of the images under a folder or .zip, and a function that reads one."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        yield _images_only(names), lambda name: (path / name).read_bytes()
    elif path.is_file():
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DatasetCorrupt(f"{path}: expected a folder or a .zip, found: {error}") from error
        with archive:
            yield _images_only(archive.namelist()), archive.read
    else:
        raise DatasetUnavailable(f"{path}: expected a folder or a .zip of images, found nothing there")


def _images_only(names: list[str]) -> list[str]:
    hidden = (".", "__MACOSX")
    files = {name for name in names if name.lower().endswith(SUFFIXES)}
    return sorted(file for file in files if not any(part.startswith(hidden) for part in file.split("/")))


def select(files: list[str], split: str) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """The (file, label) pairs of a split, and the sorted labels of both splits.

    >>> select(["train/cat/1.png", "test/cat/2.png", "test/dog/3.png", "notes/plan.png"], "test")
    ([('test/cat/2.png', 'cat'), ('test/dog/3.png', 'dog')], ('cat', 'dog'))
    """
    places = [file.lstrip("/") for file in files]  # a zip may mix absolute names with relative ones
    shared = posixpath.commonpath(places) if len(places) > 1 else ""  # and often wraps all in one folder
    inner = [PurePosixPath(place).relative_to(shared) for place in places]
    if {"train", "test"} <= {path.parts[0] for path in inner}:
        rows = [(path.parts[0], PurePosixPath(*path.parts[1:])) for path in inner]
    else:
        rows = [(hashed_split(file), PurePosixPath(file)) for file in files]
    labels = [(part, file, path.parent.name) for file, (part, path) in zip(files, rows, strict=True)]
    classes = tuple(sorted({label for part, _, label in labels if part in ("train", "test")}))
    return [(file, label) for part, file, label in labels if part == split], classes


def hashed_split(file: str) -> str:
    """The split of an image by its relative path alone: "test" where the sha256 is a multiple of five.

    >>> [hashed_split(f"{n}.png") for n in range(3)]
    ['test', 'train', 'train']
    """
    digest = hashlib.sha256(file.encode("utf-8", "surrogateescape")).digest()
    return "train" if int.from_bytes(digest, "big") % 5 else "test"


def _read_all(
    path: Path, chosen: list[tuple[str, str]], read_bytes: Callable, shape: tuple[int, ...], on_error: str
) -> tuple[Tensor, list[str], list[str]]:
    images = torch.empty(len(chosen), *shape, dtype=torch.uint8)
    kept, broken = [], []
    for file, label in chosen:
        try:
            images[len(kept)] = _decode(read_bytes(file), *shape)
        except Exception as error:  # a decoder may raise anything for a broken file
            if on_error == "raise":
                raise DatasetCorrupt(f"{path}: cannot read {file}: {error}") from error
            broken.append(f"{file} ({error})")
        else:
            kept.append(label)
    return images, kept, broken


def _decode(content: bytes, channels: int, height: int, width: int) -> Tensor:
    from PIL import Image, ImageOps

    with Image.open(BytesIO(content)) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits, which convert would clip at 255
            image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
        image = image.convert("RGB" if channels == 3 else "L")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))  # resize(box=) blends in what is outside
    image = square.resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).reshape(height, width, channels).permute(2, 0, 1)
