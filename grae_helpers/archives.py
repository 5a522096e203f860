"""CelebA, Labeled Faces in the Wild and CIFAR-10: found under $GRAE_DATA or in the cache, else downloaded."""

import os
import re
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from grae_helpers import downloads, folders, runtime
from grae_helpers.downloads import DatasetCorrupt, DatasetUnavailable

Loaded = tuple[Tensor, Tensor, tuple[str, ...], str]  # images, labels, classes, where they came from

# Where a data set may be, under $GRAE_DATA as in the cache.
PLACES = {
    "celeba": ("celeba/img_align_celeba", "celeba/img_align_celeba.zip"),
    "lfw": ("lfw64.zip", "lfw", "lfw-funneled.tgz"),
    "cifar10": ("cifar10.zip", "cifar-10-binary.tar.gz"),
}
CELEBA = {  # Google Drive's name of a file, and its md5: those of torchvision.datasets.CelebA
    "list_eval_partition.txt": ("0B7EVK8r0v71pY0NSMzRuSXJEVkk", "d32c9cbf5e040fd4025c592c306e6668"),
    "img_align_celeba.zip": ("0B7EVK8r0v71pZjFTYXZWM3FlRnM", "00d2c5bc6d35e252742224ab0c1e8fcb"),
}
CELEBA_MIRROR = "https://graal.ift.ulaval.ca/public/celeba/"
LFW = (  # as sklearn.datasets.fetch_lfw_people has it
    "https://ndownloader.figshare.com/files/5976015",
    "sha256:b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
)
CIFAR10 = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def find(name: str) -> tuple[Path, str] | None:
    """Where the data set is on this machine, with words for it, or None; nothing is downloaded.

    Raises ValueError for a $GRAE_DATA that does not exist.
    """
    for root, words in ((downloads.data_root(), "found under $GRAE_DATA"), (downloads.cache_root(), "in the cache")):
        for place in PLACES[name] if root else ():
            if (root / place).exists():
                return root / place, words
    return None


def celeba(split: str, size: int = 64, on_error: str = "raise", n: int | None = None) -> Loaded:
    """CelebA's aligned photographs, the centre 140×140 of 178×218 resized; official partition, validation unused.

    The crop is that of Tolstikhin et al. 2018 and Ghosh et al. 2020; K&P say "64×64 cropped images" (§7). The whole
    decoded split is kept in the cache. See `data.load` for the rest.
    """
    path, words = find("celeba") or (_download_celeba(), "downloaded into the cache, md5 verified")
    partition = read_partition(path.with_name("list_eval_partition.txt"))

    def pick(files: list[str], split: str) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
        by_name = {PurePosixPath(file).name: file for file in files}
        wanted = [name for name, part in partition.items() if part == split]
        if missing := [name for name in wanted if name not in by_name]:
            text = f"{len(missing):,} of the partition's {len(wanted):,} {split} images are not there"
            raise DatasetCorrupt(f"{path}: {text}, the first is {missing[0]}")
        return [(by_name[name], "face") for name in wanted], ("face",)

    keep = downloads.cache_root() / "decoded" / f"celeba-{split}"
    images, labels, classes = folders.read(
        path, split, size, 3, on_error, pick=pick, crop=lambda side: round(side * 140 / 178), n=n, keep=keep
    )
    return images, labels, classes, f"{len(images):,} photographs {words}, centre 140×140 resized to {size}×{size}"


def read_partition(path: Path) -> dict[str, str]:
    """The split of each image, "train", "valid" or "test", from CelebA's list_eval_partition.txt.

    Raises DatasetCorrupt for a file that is not there or not such a list.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetCorrupt(f"{path}: expected beside CelebA's images, found none to read ({error})") from error
    rows = [re.fullmatch(r"(\S+\.\w+)\s+([012])", line.strip()) for line in lines if line.strip()]
    if not rows or not all(rows):
        wrong = lines[rows.index(None)] if rows else "an empty file"
        raise DatasetCorrupt(f'{path}: expected lines like "000001.jpg 0", found {wrong[:60]!r}')
    return {row[1]: ("train", "valid", "test")[int(row[2])] for row in rows}


def _download_celeba() -> Path:
    folder = downloads.cache_root() / "celeba"
    downloads.check_writable(folder)
    for file, (drive, md5) in CELEBA.items():
        if downloads.md5(folder / file) != md5:
            _download_celeba_file(folder / file, drive, md5)
    return folder / "img_align_celeba.zip"


def _download_celeba_file(path: Path, drive: str, md5: str) -> None:
    try:
        _from_google_drive(drive, path, md5)
    except Exception as error:  # gdown and torchvision raise what they like, above all for the daily quota
        reason = f"Google Drive: {' '.join(str(error).split())[:300] or type(error).__name__}"
        try:
            files = "img_align_celeba.zip and list_eval_partition.txt into $GRAE_DATA/celeba"
            downloads.fetch([CELEBA_MIRROR + path.name], path, f"md5:{md5}", files)
        except DatasetUnavailable as failure:
            raise DatasetUnavailable(f"{reason}\n{failure}") from error
        warnings.warn(f"{path.name} is from {CELEBA_MIRROR}, md5 verified. {reason}", stacklevel=2)


def _from_google_drive(drive: str, path: Path, md5: str) -> None:
    runtime.torchvision()
    from torchvision.datasets.utils import download_file_from_google_drive

    with tempfile.TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as folder:
        found = Path(folder) / path.name
        arguments = (drive, folder, path.name)  # without the md5: computing it would look like silence
        _while_growing(lambda: download_file_from_google_drive(*arguments), Path(folder), downloads.PATIENCE)
        if downloads.md5(found) != md5:
            raise RuntimeError("another file came, as where the daily quota is exceeded")
        os.replace(found, path)


def _while_growing(work: Callable[[], None], folder: Path, patience: float) -> None:
    """Do the work, as long as it makes the folder grow: gdown itself would wait for ever on a silent network."""
    outcome: list[Exception | None] = []

    def attempt() -> None:
        try:
            work()
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    size, since = -1, time.monotonic()
    while thread.is_alive():
        thread.join(min(0.2, patience / 4))
        found = sum(file.stat().st_size for file in folder.iterdir())
        if found != size:
            size, since = found, time.monotonic()
        elif thread.is_alive() and time.monotonic() - since > patience:
            raise TimeoutError(f"nothing came for {patience:.1f} s")
    if outcome[0] is not None:
        raise outcome[0]


def lfw(split: str, size: int = 64, on_error: str = "raise", n: int | None = None) -> Loaded:
    """Labeled Faces in the Wild, funneled: the centre 92/150 of the photograph's side, resized.

    A photograph under 150 pixels is taken to be cropped already. The fifth of the people that a hash of their names
    picks is for test, so that nobody is in both; a label is a person. See `data.load` for the rest.
    """
    found = find("lfw")
    if found is None:
        path = downloads.cache_root() / "lfw-funneled.tgz"
        downloads.fetch(
            LFW[:1], path, LFW[1], "lfw-funneled.tgz, or a folder lfw with one folder a person, into $GRAE_DATA"
        )
        found = path, "downloaded into the cache, sha256 verified"
    path, words = found
    keep = None if path.suffix == ".zip" else downloads.cache_root() / "decoded" / f"lfw-{split}"
    images, labels, classes = folders.read(
        path, split, size, 3, on_error, pick=by_person, crop=_funneled_crop, n=n, keep=keep
    )
    text = f"{len(images):,} photographs {words}, resized to {size}×{size}, split by person"
    return images, labels, classes, text


def by_person(files: list[str], split: str) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """The (file, person) pairs of a split, and all people; a person is the name of a file's own folder.

    >>> by_person(["lfw/Ada/1.jpg", "lfw/Lea/1.jpg", "lfw/Lea/2.jpg", "lfw/Ned/1.jpg"], "test")
    ([('lfw/Lea/1.jpg', 'Lea'), ('lfw/Lea/2.jpg', 'Lea')], ('Ada', 'Lea', 'Ned'))
    """
    people = [PurePosixPath(file).parent.name for file in files]
    pairs = zip(files, people, strict=True)
    return [pair for pair in pairs if folders.hashed_split(pair[1]) == split], tuple(sorted(set(people)))


def _funneled_crop(side: int) -> int:
    return round(side * 92 / 150) if side >= 150 else side


def cifar10(split: str, size: int = 32, on_error: str = "raise", n: int | None = None) -> Loaded:
    """CIFAR-10 from an image folder in cifar10.zip, or from the official binary version; 32×32, else resized."""
    found = find("cifar10")
    if found is None:
        path = downloads.cache_root() / "cifar-10-binary.tar.gz"
        downloads.fetch(CIFAR10[:1], path, CIFAR10[1], f"{path.name} into $GRAE_DATA")
        found = path, "downloaded into the cache, md5 verified"
    path, words = found
    if path.suffix == ".zip":
        keep = downloads.cache_root() / "decoded" / f"cifar10-{split}"
        images, labels, classes = folders.read(path, split, size, 3, on_error, n=n, keep=keep)
    else:
        images, labels = _cifar10_binary(path, split, size, n)
        classes = CIFAR10_CLASSES
    return images, labels, classes, f"{len(images):,} images {words}, {size}×{size}"


def _cifar10_binary(path: Path, split: str, size: int, n: int | None) -> tuple[Tensor, Tensor]:
    start, batches = ("data_batch", 5) if split == "train" else ("test_batch", 1)
    found = sorted(folders.members(path, (".bin",)))
    parts = [content for name, content in found if PurePosixPath(name).name.startswith(start)]
    if len(parts) != batches or any(len(part) % 3073 for part in parts) or not all(parts):
        sizes = {PurePosixPath(name).name: len(content) for name, content in found}
        raise DatasetCorrupt(f"{path}: expected {batches} {start}*.bin of rows of 3073 bytes, found {sizes}")
    rows = np.frombuffer(b"".join(parts), np.uint8).reshape(-1, 3073)
    if rows[:, 0].max() > 9:
        raise DatasetCorrupt(f"{path}: expected labels from 0 to 9, found {rows[:, 0].max()}")
    rows = torch.from_numpy(rows[folders.spread(len(rows), n)])
    images = rows[:, 1:].reshape(-1, 3, 32, 32)
    if size != 32:
        images = torch.stack([folders.resize(image, size) for image in images])
    return images.contiguous(), rows[:, 0].long()
