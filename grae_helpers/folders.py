"""Any folder or .zip of images, cropped, resized and split, read one image at a time."""

import hashlib
import os
import posixpath
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from grae_helpers.downloads import DatasetCorrupt, DatasetUnavailable

Pick = Callable[[list[str], str], tuple[list[tuple[str, str]], tuple[str, ...]]]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")


def read(
    path: str | os.PathLike | None,
    split: str,
    size: int,
    channels: int,
    on_error: str,
    *,
    pick: Pick | None = None,
    crop: Callable[[int], int] = int,
    n: int | None = None,
    keep: Path | None = None,
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images uint8 [n, channels, size, size], labels int64 [n] and the labels' names; see `data.load`.

    Only the tensor of the result is held in memory, and some 256 images besides. Transparency is dropped, 16-bit
    images are scaled to 8 bits, and a photograph's EXIF orientation is applied. `pick(files, split)` chooses the
    files and their labels (`select` by default); `crop` gives the side of the centre square from an image's
    shorter side; n, if not None, is how many of the images are read, spread at random but always the same.
    Decoded images are kept in the folder `keep`, if one is given, for the next time.
    """
    _check(path, size, channels, on_error)
    path = Path(path).expanduser()
    with _opened(path) as (files, read_bytes, stamp):
        chosen, classes = (pick or select)(files, split)
        if not chosen:
            found = f"{len(files)} files named {', '.join(SUFFIXES)}"
            raise DatasetUnavailable(f"{path}: expected {split} images, found none among {found}")
        rows, shape = spread(len(chosen), n), (channels, size, size)
        place = keep and keep / f"{_fingerprint(chosen, stamp, shape)}.npy"
        images = place and recall(place, (len(chosen), *shape), rows)
        chosen = [chosen[row] for row in rows]
        if images is None:
            images, chosen = _decode_all(path, chosen, read_bytes, shape, crop, on_error)
            if place and len(images) == len(rows) and n is None:
                remember(place, images)
    numbers = {name: number for number, name in enumerate(classes)}
    return images, torch.tensor([numbers[label] for _, label in chosen]), classes


def spread(total: int, n: int | None) -> list[int]:
    """The rows of `n` images out of `total`, in order; those of a smaller n are among those of a larger one.

    >>> spread(5, None), set(spread(100, 3)) <= set(spread(100, 10))
    ([0, 1, 2, 3, 4], True)
    """
    if n is None or n >= total:
        return list(range(total))
    return sorted(np.random.default_rng(0).permutation(total)[:n].tolist())


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
def _opened(path: Path) -> Iterator[tuple[list[str], Callable[[str], bytes], Callable[[str], object]]]:
    """The sorted names of the images in a folder, .zip or .tgz; what reads one; what tells its versions apart."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        yield _images_only(names), lambda name: (path / name).read_bytes(), lambda name: _version(path / name)
    elif path.suffix == ".tgz" and path.is_file():
        contents = dict(members(path, SUFFIXES))  # all at once, for a .tgz has no index
        yield _images_only(list(contents)), contents.__getitem__, lambda name: zlib.crc32(contents[name])
    elif path.is_file():
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DatasetCorrupt(f"{path}: expected a folder or a .zip, found: {error}") from error
        with archive:
            yield _images_only(archive.namelist()), archive.read, lambda name: archive.getinfo(name).CRC
    else:
        raise DatasetUnavailable(f"{path}: expected a folder or a .zip of images, found nothing there")


def _version(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def members(path: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """The files of a gzipped tar with these suffixes, name and content, in one pass and without unpacking.

    Raises DatasetCorrupt for a damaged archive, naming it.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if member.isfile() and member.name.lower().endswith(suffixes):
                    yield member.name, archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DatasetCorrupt(f"{path}: expected a readable .tar.gz, found: {error}") from error


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


def _decode_all(
    path: Path, chosen: list, read_bytes: Callable, shape: tuple[int, int, int], crop: Callable, on_error: str
) -> tuple[Tensor, list]:
    images = torch.empty(len(chosen), *shape, dtype=torch.uint8)
    kept, broken = [], []

    def attempt(file: str) -> Tensor | Exception:
        try:
            return _decode(read_bytes(file), *shape[:2], crop)
        except Exception as error:  # a decoder may raise anything for a broken file
            return error

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, len(chosen), 256):
            part = chosen[start : start + 256]
            tasks = [part[first : first + 32] for first in range(0, len(part), 32)]  # one image is too small a task
            results = chain.from_iterable(pool.map(lambda task: [attempt(file) for file, _ in task], tasks))
            for pair, result in zip(part, results, strict=True):
                if isinstance(result, Tensor):
                    images[len(kept)] = result
                    kept.append(pair)
                elif on_error == "raise":
                    raise DatasetCorrupt(f"{path}: cannot read {pair[0]}: {result}") from result
                else:
                    broken.append(f"{pair[0]} ({result})")
    if not kept:
        raise DatasetCorrupt(f"{path}: none of {len(broken)} images can be read, the first is {broken[0]}")
    if broken:
        named = "; ".join(broken[:20]) + ("; ..." if len(broken) > 20 else "")
        warnings.warn(f"{path}: skipped {len(broken)} broken images: {named}", stacklevel=5)
    return images[: len(kept)], kept


def _decode(content: bytes, channels: int, size: int, crop: Callable[[int], int] = int) -> Tensor:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        opened = Image.open(BytesIO(content))
    except UnidentifiedImageError:  # which names an address in memory, another one in each run
        raise UnidentifiedImageError("cannot identify image file") from None
    with opened as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits, which convert would clip at 255
            image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
        image = image.convert("RGB" if channels == 3 else "L")
    side = crop(min(image.size))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.size != (side, side):
        image = image.crop((left, top, left + side, top + side))  # resize(box=) blends in what is outside
    return _resized(image, size)


def resize(image: Tensor, size: int) -> Tensor:
    """A square image uint8 [C, H, H] at another size, by Pillow's Lanczos filter.

    >>> resize(torch.full((3, 8, 8), 7, dtype=torch.uint8), 4).unique()
    tensor([7], dtype=torch.uint8)
    """
    from PIL import Image

    return _resized(Image.fromarray(image.permute(1, 2, 0).squeeze(2).contiguous().numpy()), size)


def _resized(image: object, size: int) -> Tensor:
    from PIL import Image

    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).reshape(size, size, -1).permute(2, 0, 1)


def _fingerprint(chosen: list[tuple[str, str]], stamp: Callable[[str], object], shape: tuple) -> str:
    digest = hashlib.md5(repr(shape).encode(), usedforsecurity=False)
    for file, _ in chosen:
        digest.update(f"{file} {stamp(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def recall(place: Path, shape: tuple[int, ...], rows: list[int]) -> Tensor | None:
    """The rows of a kept array, None where there is none. A damaged one is passed over with a warning.

    Each of the rows is compared with its checksum; the others are not read.
    """
    try:
        array, sums = _kept(place)
        if array.dtype != np.uint8 or array.shape != shape or len(sums) != len(array):
            raise ValueError(f"expected uint8 {list(shape)}, found {array.dtype} {list(array.shape)}")
        images = np.array(array) if len(rows) == len(array) else array[rows]
        if wrong := np.flatnonzero(_checksums(images) != sums[rows]).tolist():
            raise ValueError(f"{len(wrong)} images with another checksum, the first is {rows[wrong[0]]}")
        return torch.from_numpy(images)
    except FileNotFoundError:
        return None
    except Exception as error:  # numpy raises what it likes for a damaged header
        reason = str(error) or type(error).__name__
        warnings.warn(f"{place} is damaged ({reason}): decoding the images again", stacklevel=4)
        return None


def _kept(place: Path) -> tuple[np.ndarray, np.ndarray]:
    """The array in a file, not yet read, and the checksums that stand behind it."""
    array = np.lib.format.open_memmap(place, mode="r")
    with open(place, "rb") as file:
        file.seek(array.offset + array.nbytes)
        sums = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):
            raise ValueError("longer than its content")
    return array, sums


def _checksums(images: np.ndarray) -> np.ndarray:
    return np.array([zlib.crc32(image) for image in images], np.uint32)


def remember(place: Path, images: Tensor) -> None:
    """Keep an array and a crc32 of each image, whole or not at all.

    A full or read-only disk costs a warning, not the images.
    """
    partial = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            np.save(file, images.numpy(), allow_pickle=False)
            np.save(file, _checksums(images.numpy()), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, place)
    except OSError as error:
        warnings.warn(f"{place}: decoded images could not be kept ({error.strerror})", stacklevel=4)
    finally:
        with suppress(OSError):
            partial.unlink()
