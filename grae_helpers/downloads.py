"""Downloads with checksums; the original IDX files of MNIST and Fashion-MNIST, found or downloaded."""

import gzip
import hashlib
import math
import os
import queue
import struct
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

PATIENCE = 8.0  # seconds without a byte, over all mirrors of a file together, before a download gives up
SPLITS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class DatasetUnavailable(RuntimeError):
    """A data set that is not on this machine and cannot be downloaded; the message says what to do."""


class DatasetCorrupt(DatasetUnavailable):
    """A file of a data set is there but is not what it should be; never passed over in silence."""


@dataclass(frozen=True)
class Archive:
    """Where a data set's four gzipped IDX files are: folder, mirrors, and the md5 of each file."""

    folder: str
    mirrors: tuple[str, ...]
    md5: dict[str, str]


ARCHIVES = {
    "mnist": Archive(
        "MNIST",
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        {
            "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion_mnist": Archive(
        "FashionMNIST",
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        {
            "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
}


def data_root() -> Path | None:
    """$GRAE_DATA as a folder, None where it is unset or empty. Raises ValueError for no such folder."""
    value = os.environ.get("GRAE_DATA")
    if not value:
        return None
    root = Path(value).expanduser()
    if not root.is_dir():
        raise ValueError(f"GRAE_DATA: expected an existing folder, got {value!r}")
    return root


def cache_root() -> Path:
    """The folder that downloads are kept in: $GRAE_CACHE, else the user's cache. It need not exist yet."""
    import platformdirs

    value = os.environ.get("GRAE_CACHE")
    return Path(value or platformdirs.user_cache_dir("grae_helpers", appauthor=False)).expanduser()


def load_idx(name: str, split: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Images [n, 28, 28] and labels [n], both uint8, of a data set in `ARCHIVES`, and where they were found.

    A file under $GRAE_DATA is checked for its structure, one in the cache by its checksum.
    Raises DatasetCorrupt for a file that is not what it should be, DatasetUnavailable if there is none.
    """
    archive = ARCHIVES[name]
    paths, where = _under_data_root(archive, split), "found under $GRAE_DATA"
    if paths is None:
        paths = [cached(archive, file) for file in SPLITS[split]]
        where = "downloaded into the user's cache, checksums verified"
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if images.shape[1:] != (28, 28) or len(images) == 0:
        raise DatasetCorrupt(f"{paths[0]}: expected images of shape [n, 28, 28], found {list(images.shape)}")
    if len(labels) != len(images):
        raise DatasetCorrupt(f"{paths[1]}: expected {len(images)} labels, one per image, found {len(labels)}")
    if labels.max() > 9:
        raise DatasetCorrupt(f"{paths[1]}: expected labels from 0 to 9, found {labels.max()}")
    return images, labels, where


def _under_data_root(archive: Archive, split: str) -> list[Path] | None:
    root = data_root()
    if root is None:
        return None
    raw = root / archive.folder / "raw"
    found = {}
    for file in (*SPLITS["train"], *SPLITS["test"]):
        found[file] = next((path for path in (raw / file, raw / f"{file}.gz") if path.exists()), None)
    if not any(found.values()):
        return None
    for file in SPLITS[split]:
        if found[file] is None:
            raise DatasetCorrupt(f"{raw / file} (or .gz): expected beside the set's other files, found none")
    return [found[file] for file in SPLITS[split]]


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """An IDX file of unsigned bytes with `ndim` dimensions, gzipped if its name ends in .gz, as uint8.

    Raises DatasetCorrupt, naming the file and what was expected and found.
    """
    header = 4 + 4 * ndim
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetCorrupt(f"{path}: expected a readable IDX file, found: {error}") from error
    if len(data) < header:
        raise DatasetCorrupt(f"{path}: expected a header of {header} bytes, found {len(data)} bytes in all")
    magic, *shape = struct.unpack(f">{1 + ndim}I", data[:header])
    if magic != 0x0800 + ndim:
        raise DatasetCorrupt(f"{path}: expected the IDX magic number {0x0800 + ndim}, found {magic}")
    if len(data) != (size := header + math.prod(shape)):
        raise DatasetCorrupt(f"{path}: expected {size} bytes for the shape {shape}, found {len(data)}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()


def cached(archive: Archive, file: str) -> Path:
    """The path of a gzipped file in the cache with the right md5, downloaded if it is not there.

    One with another md5 is replaced, with a warning; if it cannot be, DatasetCorrupt names it and both md5s.
    """
    path, expected = cache_root() / archive.folder / "raw" / f"{file}.gz", archive.md5[file]
    found = md5(path)
    if found == expected:
        return path
    try:
        urls = [mirror + path.name for mirror in archive.mirrors]
        fetch(urls, path, f"md5:{expected}", f"the files into $GRAE_DATA/{archive.folder}/raw")
    except DatasetUnavailable as error:
        if found is None:
            raise
        text = f"{path} is corrupt: expected md5 {expected}, found {found}. Delete it. {error}"
        raise DatasetCorrupt(text) from error
    if found is not None:
        warnings.warn(f"{path} was corrupt (md5 {found}, not {expected}): downloaded again", stacklevel=2)
    return path


def md5(path: Path) -> str | None:
    """A file's md5 in hexadecimal, None where there is no file, and a sentence where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"unreadable ({error.strerror})"


def fetch(urls: Sequence[str], path: Path, checksum: str, advice: str, patience: float | None = None) -> None:
    """Download to `path` from the first of `urls` that serves a file with this checksum; leaves no half file.

    `checksum` is "md5:..." or "sha256:...", `advice` what else to put where. Gives up after `patience` seconds
    (`PATIENCE`) without a byte, over all urls together, whether it is name resolution, connection or transfer that
    stalls. DatasetUnavailable says how each url failed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import of tqdm warns of widgets in a notebook
        import pooch

    pooch.get_logger().setLevel("WARNING")
    check_writable(path.parent)
    left, failures = PATIENCE if patience is None else patience, []
    for number, url in enumerate(urls):
        share, started = left / (len(urls) - number), time.monotonic()
        try:
            downloader = partial(_stream, patience=share)
            pooch.retrieve(url, checksum, fname=path.name, path=path.parent, downloader=downloader)
            return
        except (OSError, ValueError) as error:
            failures.append(f"{url}: {error}")
            left -= min(share, time.monotonic() - started)
    raise DatasetUnavailable(
        "\n  ".join([f"{path.name} could not be downloaded:", *failures])
        + f"\nConnect to the network, or put {advice}."
    )


def check_writable(folder: Path) -> None:
    """Make the folder, and raise DatasetUnavailable where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DatasetUnavailable(
            f"The cache folder {folder} cannot be written ({error.strerror}). Set GRAE_CACHE to a "
            "folder that can, or GRAE_DATA to one that holds the data."
        ) from error


def _stream(url: str, output_file: str, _pooch: object, *, patience: float) -> None:
    import requests  # noqa: F401 - so that its import does not count as the server's silence

    chunks, stop = queue.Queue(256), threading.Event()  # bounded: a disk may be slower than the network
    threading.Thread(target=_receive, args=(url, chunks, stop, patience), daemon=True).start()
    try:
        with open(output_file, "wb") as file:
            while chunk := _next(chunks, patience):
                file.write(chunk)
    finally:
        stop.set()


def _next(chunks: queue.Queue, patience: float) -> bytes:
    try:
        chunk = chunks.get(timeout=patience)
    except queue.Empty:
        raise TimeoutError(f"nothing came for {patience:.1f} s") from None
    if isinstance(chunk, Exception):
        raise OSError(str(chunk)) from chunk
    return chunk


def _receive(url: str, chunks: queue.Queue, stop: threading.Event, patience: float) -> None:
    """Runs in a daemon thread, because name resolution and dripping headers escape requests' timeout."""
    import requests

    try:
        headers = {"Accept-Encoding": "identity"}  # a decoded .gz would not have the file's checksum
        with requests.get(url, stream=True, timeout=patience, headers=headers) as response:
            response.raise_for_status()
            for chunk in response.iter_content(1 << 14):
                _put(chunks, chunk, stop)
                if stop.is_set():
                    return
        _put(chunks, b"", stop)
    except Exception as error:
        _put(chunks, error, stop)


def _put(chunks: queue.Queue, chunk: bytes | Exception, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            return chunks.put(chunk, timeout=0.2)
        except queue.Full:
            continue
