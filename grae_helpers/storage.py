"""Arrays, tables, images and weights as the bytes of small files, and a folder replaced in one step."""

import csv
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import torch

Table = Sequence[Mapping[str, object]] | Mapping[str, object]
PARSERS = {"bool": "True".__eq__, "int": int, "float": float, "str": str}


def check_name(name: str) -> str:
    """The name itself, if it can be a file's on any system.

    >>> check_name("../secrets")
    Traceback (most recent call last):
    ...
    ValueError: name: expected letters, digits, _ . and - only, not starting with . or -, got '../secrets'
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        expected = "letters, digits, _ . and - only, not starting with . or -"
        raise ValueError(f"name: expected {expected}, got {name!r}")
    return name


def encode(
    arrays: Mapping[str, np.ndarray],
    tables: Mapping[str, Table],
    images: Mapping[str, np.ndarray],
    weights: Mapping[str, Mapping[str, torch.Tensor]],
) -> tuple[dict[str, bytes], dict[str, dict[str, str]]]:
    """The files' contents by name, and the types of each .csv's columns, which it cannot say itself."""
    for name in [*arrays, *tables, *images, *weights]:
        check_name(name)
    contents, columns = {}, {}
    if arrays:
        contents["arrays.npz"] = _npz(arrays)
    for name, table in tables.items():
        if isinstance(table, Mapping):
            contents[f"{name}.json"] = to_json(table)
        else:
            contents[f"{name}.csv"], columns[f"{name}.csv"] = _csv(name, table)
    contents |= {f"{name}.png": _png(name, image) for name, image in images.items()}
    contents |= {f"{name}.safetensors": _safetensors(state) for name, state in weights.items()}
    return contents, columns


def decode(name: str, content: bytes, columns: Mapping[str, str]) -> object:
    """What `encode` put into a file, by its suffix: arrays, rows, a mapping, an image or a state dict.

    >>> contents, columns = encode({}, {"gap": [{"beta": 0.1, "steps": 5}]}, {}, {})
    >>> decode("gap.csv", contents["gap.csv"], columns["gap.csv"])
    [{'beta': 0.1, 'steps': 5}]
    """
    suffix = Path(name).suffix
    if suffix == ".npz":
        with np.load(BytesIO(content), allow_pickle=False) as archive:
            return dict(archive)
    if suffix == ".csv":
        rows = csv.DictReader(StringIO(content.decode("utf-8"), newline=""))
        return [{key: PARSERS[columns[key]](value) for key, value in row.items()} for row in rows]
    if suffix == ".json":
        return json.loads(content)
    if suffix == ".png":
        from PIL import Image

        return np.array(Image.open(BytesIO(content)))
    if suffix == ".safetensors":
        from safetensors.torch import load

        return load(content)
    raise ValueError(f"{name}: expected .npz, .csv, .json, .png or .safetensors")


def to_json(value: object) -> bytes:
    """Indented JSON with a final newline; numpy scalars and arrays become numbers and lists; NaN stays."""
    return (json.dumps(value, indent=2, default=_plain, ensure_ascii=False) + "\n").encode()


def plain(value: Mapping[str, object]) -> dict:
    """The mapping as JSON gives it back: tuples and arrays as lists.

    >>> plain({"betas": (0.1, 1.0), "width": np.float64(0.5)})
    {'betas': [0.1, 1.0], 'width': 0.5}
    """
    return json.loads(to_json(value))


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, torch.device | torch.dtype):
        return str(value)
    raise TypeError(f"expected numbers, strings, lists and dicts, got {type(value).__name__}: {value!r}")


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name}: expected an array of numbers or strings, got dtype {array.dtype}")
        if name in ("file", "allow_pickle"):
            raise ValueError(f"{name}: numpy.savez keeps this name for itself, choose another")
    file = BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _csv(name: str, rows: Sequence[Mapping[str, object]]) -> tuple[bytes, dict[str, str]]:
    rows = [{key: _scalar(value) for key, value in row.items()} for row in rows]
    if not rows or not rows[0] or any(list(row) != list(rows[0]) for row in rows):
        raise ValueError(f"table {name}: expected one row or more, all with the same columns, got {rows[:2]}")
    columns = {key: _column_type(name, key, {type(row[key]) for row in rows}) for key in rows[0]}
    file = StringIO(newline="")
    writer = csv.DictWriter(file, list(columns), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode(), columns


def _scalar(value: object) -> object:
    return value.item() if isinstance(value, np.generic | torch.Tensor) else value


def _column_type(table: str, column: str, types: set[type]) -> str:
    if types == {int, float}:
        return "float"
    if len(types) > 1 or next(iter(types)).__name__ not in PARSERS:
        expected, names = "bool, int, float or str (NaN for none)", sorted(kind.__name__ for kind in types)
        raise TypeError(f"table {table}, column {column}: expected {expected}, got {names}")
    return next(iter(types)).__name__


def _png(name: str, image: np.ndarray) -> bytes:
    from PIL import Image

    image = np.asarray(image)
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        found = f"{image.dtype} {list(image.shape)}"
        raise ValueError(f"image {name}: expected uint8 [H, W] or [H, W, 3], got {found}")
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return file.getvalue()


def _safetensors(state: Mapping[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    return save({key: value.detach().cpu().contiguous().clone() for key, value in state.items()})


def current(folder: Path) -> Path:
    """The folder, or its older version where a replacement was cut off between its two renames."""
    old = _beside(folder, "old")
    return old if old.is_dir() and not folder.exists() else folder


def replace(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Make `folder` hold just these files; until they are all written, the old folder stays."""
    new, old = _beside(folder, f"new-{os.getpid()}"), _beside(folder, "old")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if current(folder) == old:
        os.rename(old, folder)
    try:
        new.mkdir()
        for name, content in contents.items():
            (new / name).write_bytes(content)
        _swap(new, folder, old)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _swap(new: Path, folder: Path, old: Path) -> None:
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)  # POSIX has no exchange of two folders: `current` bridges the gap
    try:
        os.rename(new, folder)
    except BaseException:
        if old.exists():
            os.rename(old, folder)
        raise


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}.{suffix}")
