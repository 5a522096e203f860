"""Frozen results: what goes in comes out, nothing else does, and an interruption costs nothing."""

import csv
import hashlib
import json
import math
import os
import re
import shutil
from types import SimpleNamespace

import IPython.display
import numpy as np
import pytest
import torch

from grae_helpers import notebooks, results, storage

PROVENANCE = {
    "commit": "abc1234def5678",
    "dirty": False,
    "device": "NVIDIA H200",
    "versions": {"torch": "2.13.0"},
    "python": "3.11",
    "platform": "Linux",
    "threads": 2,
    "time": "2026-11-21T10:00:00+00:00",
}
RUN = {
    "parameters": {"budget": "full", "betas": [0.01, 0.1], "block_size": 1, "note": "it's"},
    "sizes": {"steps": 20000, "width": 1.0},
    "paper": {"steps": 20000, "width": 1.0},
    "seeds": [0],
    "seconds": 12.5,
    "provenance": PROVENANCE,
}


def freeze(folder, **changes):
    return results.freeze(folder, **(RUN | changes))


def contents(rng):
    norm = torch.nn.BatchNorm1d(2)
    norm.running_mean[:] = torch.from_numpy(rng.normal(size=2))
    return {
        "arrays": {
            "curve": rng.normal(size=(3, 4)),
            "nan": np.array([1.0, np.nan]),
            "names": np.array(["a", "β"]),
        },
        "tables": {
            "gap": [
                {"beta": 0.1, "steps": 5, "ok": True, "model": 'a, "b"\r\nc', "loss": float("nan")},
                {"beta": 1, "steps": np.int64(6), "ok": np.False_, "model": "", "loss": np.float64(1 / 3)},
            ],
            "summary": {"best": np.float32(0.5), "rows": [[1, 2], [3, 4]], "text": "β"},
        },
        "images": {
            "grey": rng.integers(0, 256, (5, 7), dtype=np.uint8),
            "colour": rng.integers(0, 256, (5, 7, 3), dtype=np.uint8),
        },
        "weights": {"norm": norm.state_dict()},
    }


@pytest.fixture
def folder(tmp_path):
    return freeze(tmp_path / "results" / "22_covariance", **contents(np.random.default_rng(0)))


def test_round_trip(folder):
    given, frozen = contents(np.random.default_rng(0)), results.load(folder)
    assert frozen.arrays.keys() == given["arrays"].keys()
    for name, array in given["arrays"].items():
        assert frozen.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(frozen.arrays[name], array)
    for name, image in given["images"].items():
        assert frozen.images[name].dtype == np.uint8
        np.testing.assert_array_equal(frozen.images[name], image)
    assert frozen.weights["norm"].keys() == given["weights"]["norm"].keys()
    for name, value in given["weights"]["norm"].items():
        found = frozen.weights["norm"][name]
        assert found.dtype == value.dtype and torch.equal(found, value)
    assert frozen.tables["summary"] == {"best": 0.5, "rows": [[1, 2], [3, 4]], "text": "β"}
    first, second = frozen.tables["gap"]
    assert np.isnan(first.pop("loss")) and second.pop("loss") == 1 / 3
    assert first == {"beta": 0.1, "steps": 5, "ok": True, "model": 'a, "b"\r\nc'}
    assert second == {"beta": 1.0, "steps": 6, "ok": False, "model": ""}
    assert [type(value) for value in second.values()] == [float, int, bool, str]


def test_weights_load_into_a_model_that_shares_tensors(tmp_path):
    layer = torch.nn.Linear(3, 3)
    model = torch.nn.Sequential(layer, layer)
    frozen = results.load(freeze(tmp_path / "x", weights={"model": model.state_dict()}))
    fresh = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    fresh.load_state_dict(frozen.weights["model"])
    assert torch.equal(fresh[1].weight, layer.weight)


def test_the_files_are_what_other_tools_read(folder):
    names = "arrays.npz colour.png gap.csv grey.png manifest.json norm.safetensors summary.json"
    assert sorted(path.name for path in folder.iterdir()) == names.split()
    with open(folder / "gap.csv", newline="", encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["beta", "steps", "ok", "model", "loss"]


def test_the_manifest_says_how_it_was_made(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["notebook"] == "22_covariance"
    assert manifest["budget"] == "full"
    assert manifest["parameters"] == RUN["parameters"] and manifest["sizes"] == RUN["sizes"]
    assert manifest["differs"] == {} and manifest["seeds"] == [0] and manifest["seconds"] == 12.5
    assert manifest["peak_memory_bytes"]["host"] > 1e7
    assert PROVENANCE.items() <= manifest.items()
    assert manifest["files"].keys() == {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert manifest["label"] == results.load(folder).label
    command = "python -m tools.run_notebooks --only 22_covariance -p budget full -p betas '[0.01, 0.1]'"
    assert manifest["command"] == command + """ -p block_size 1 -p note 'it'"'"'s'"""


def test_provenance_is_found_where_it_is_not_given(tmp_path):
    frozen = results.load(freeze(tmp_path / "x", provenance=None, parameters={"device": "cpu"}))
    assert {"commit", "dirty", "device", "versions", "time"} <= frozen.manifest.keys()
    assert frozen.manifest["device"].startswith("CPU")


def test_the_same_content_gives_the_same_files(tmp_path):
    first, second = (freeze(tmp_path / name, **contents(np.random.default_rng(0))) for name in "ab")
    for name in results.load(first).manifest["files"]:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


# tampering


@pytest.mark.parametrize("name", ["arrays.npz", "gap.csv", "summary.json", "grey.png", "norm.safetensors"])
def test_an_altered_file_is_refused(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-2] + b"!" + content[-1:])
    found, expected = (hashlib.sha256(x).hexdigest() for x in ((folder / name).read_bytes(), content))
    with pytest.raises(ValueError, match=rf"{name} was altered: expected sha256 {expected}, found {found}"):
        results.load(folder)


def test_a_missing_and_an_extra_file_are_refused(folder):
    (folder / "extra.csv").write_text("a\n1\n")
    with pytest.raises(ValueError, match=r"extra.csv is not in the manifest: expected .*gap.csv"):
        results.load(folder)
    (folder / "extra.csv").unlink()
    (folder / "gap.csv").unlink()
    with pytest.raises(ValueError, match=r"gap.csv is missing: expected .*gap.csv.* found "):
        results.load(folder)


def test_a_folder_without_manifest_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"expected a frozen result with a manifest.json"):
            results.load(path)


# replacing


def test_a_new_result_replaces_the_old_one_whole(folder):
    freeze(folder, arrays={"x": np.zeros(2)})
    assert sorted(path.name for path in folder.iterdir()) == ["arrays.npz", "manifest.json"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_freeze_leaves_the_old_result(folder, monkeypatch, call, error):
    """`os.rename` fails at its first or its second call, once."""
    before, calls, rename = results.load(folder).manifest, [], os.rename

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise error
        return rename(*arguments)

    monkeypatch.setattr(storage.os, "rename", failing)
    with pytest.raises(error):
        freeze(folder, arrays={"x": np.zeros(2)})
    assert results.load(folder).manifest == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_freeze_killed_between_its_two_renames_loses_nothing(folder, monkeypatch):
    before = results.load(folder).manifest
    os.rename(folder, folder.with_name(f".{folder.name}.old"))
    monkeypatch.setenv("GRAE_RESULTS", str(folder.parent))
    assert results.load(folder).manifest == before
    assert results.find(folder.name).manifest == before
    freeze(folder, arrays={"x": np.zeros(2)})
    assert results.load(folder).arrays.keys() == {"x"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_freeze_that_cannot_write_leaves_the_old_result(folder, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        freeze(folder, arrays={"x": np.zeros(2)})
    assert len(results.load(folder).arrays) == 3
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_only_a_frozen_result_is_replaced(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "20_taylor.py").write_text("precious")
    for path in (tmp_path / "notebooks", tmp_path / "notebooks" / "20_taylor.py"):
        with pytest.raises(ValueError, match="expected a"):
            freeze(path)
    assert (tmp_path / "notebooks" / "20_taylor.py").read_text() == "precious"


# refusals

REFUSED = {
    "too large": ({"arrays": {"x": np.random.default_rng(0).random(1_100_000)}}, ValueError, "8,000,000"),
    "objects": ({"arrays": {"x": np.array([{}, None])}}, ValueError, "x: expected .* dtype object"),
    "separator": ({"arrays": {"a/b": np.zeros(1)}}, ValueError, "name: .*'a/b'"),
    "backslash": ({"tables": {"a\\b": {}}}, ValueError, "name: "),
    "parent": ({"images": {"..": np.zeros((2, 2), np.uint8)}}, ValueError, "name: "),
    "empty name": ({"weights": {"": {}}}, ValueError, "name: "),
    "savez's name": ({"arrays": {"file": np.zeros(1)}}, ValueError, "file: "),
    "the manifest": ({"tables": {"manifest": {}}}, ValueError, "manifest"),
    "no rows": ({"tables": {"x": []}}, ValueError, "table x: expected one row"),
    "ragged rows": ({"tables": {"x": [{"a": 1}, {"b": 1}]}}, ValueError, "table x: .* same columns"),
    "mixed column": ({"tables": {"x": [{"a": 1}, {"a": "b"}]}}, TypeError, "column a: .*'int', 'str'"),
    "none": ({"tables": {"x": [{"a": None}]}}, TypeError, "column a: .*NaN for none.*NoneType"),
    "float image": ({"images": {"x": np.zeros((2, 2))}}, ValueError, "image x: .* got float64"),
    "image shape": ({"images": {"x": np.zeros((3, 2, 2), np.uint8)}}, ValueError, "got uint8 \\[3, 2, 2\\]"),
    "no JSON": ({"tables": {"x": {"a": object()}}}, TypeError, "got object"),
    "paper": ({"paper": {"epochs": 3}}, ValueError, "paper: .* got \\['epochs'\\]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_leave_nothing_behind(tmp_path, case):
    changes, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        freeze(tmp_path / "x", **changes)
    assert list(tmp_path.iterdir()) == []


# finding


def test_find_looks_in_the_results_folder(folder, monkeypatch):
    monkeypatch.setenv("GRAE_RESULTS", str(folder.parent))
    assert results.find("22_covariance").arrays["nan"][0] == 1
    assert results.find("23_other") is None
    with pytest.raises(ValueError, match="name: "):
        results.find("../22_covariance")


def test_the_results_folder_is_beside_the_package(monkeypatch):
    monkeypatch.delenv("GRAE_RESULTS", raising=False)
    assert results.root().name == "results"
    assert (results.root().parent / "grae_helpers" / "results.py").is_file()


def test_every_frozen_result_of_the_repository_is_whole():
    folders = [path for path in results.root().glob("*") if path.is_dir()]
    for path in folders:
        frozen = results.load(path)
        notebook = frozen.manifest["notebook"]
        assert (results.root().parent / "notebooks" / f"{notebook}.py").is_file()
        assert path.name == notebook or path.name == f"{notebook}_{frozen.manifest['parameters']['dataset']}"
        assert re.search(rf"--only ({notebook}|{notebook.partition('_')[0]}) ", frozen.manifest["command"])
        assert frozen.label == frozen.manifest["label"]


# labels


def manifest(**changes):
    parts = {key: value for key, value in RUN.items() if key != "provenance"}
    return {"budget": parts["parameters"]["budget"]} | parts | PROVENANCE | changes


LABELS = {
    "the paper's size": ({}, "full budget, NVIDIA H200, 20,000 steps, 2026-11-21, commit abc1234"),
    "smaller": (
        {"sizes": {"steps": 3000, "width": 0.25}, "device": "CPU, 2 threads"},
        "reduced run (steps 3,000 instead of 20,000, width 0.25 instead of 1.0), CPU, 2 threads, "
        "2026-11-21, commit abc1234",
    ),
    "smaller, though called full": (
        {"sizes": {"steps": 20000, "width": 0.5}},
        "reduced run (width 0.5 instead of 1.0), NVIDIA H200, 20,000 steps, 2026-11-21, commit abc1234",
    ),
    "fewer βs": (
        {"paper": {"betas": [0.01, 0.1, 1]}},
        "reduced run (betas [0.01, 0.1] instead of [0.01, 0.1, 1]), NVIDIA H200, 20,000 steps, 2026-11-21, "
        "commit abc1234",
    ),
    "other data": (
        {"parameters": {"dataset": "digits"}, "paper": {"dataset": "mnist"}},
        "not the settings of the paper (dataset digits instead of mnist), NVIDIA H200, 20,000 steps, "
        "2026-11-21, commit abc1234",
    ),
    "no paper": (
        {"paper": {}, "sizes": {}, "budget": "book"},
        "book budget (no size in the paper to compare with), NVIDIA H200, 2026-11-21, commit abc1234",
    ),
    "changed files": (
        {"dirty": True},
        "full budget, NVIDIA H200, 20,000 steps, 2026-11-21, commit abc1234 with uncommitted changes",
    ),
    "no git": (
        {"commit": None},
        "full budget, NVIDIA H200, 20,000 steps, 2026-11-21, commit unknown",
    ),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels(case):
    changes, expected = LABELS[case]
    assert results.label(manifest(**changes)) == expected


def test_a_frozen_folder_survives_being_copied(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert results.load(copy).label == results.load(folder).label


@pytest.mark.parametrize(
    "content",
    [b"", b'{"a"', b"[]", b"{}", b"\xff\xfe\x00", b'{"columns": {}, "files": {"a.csv": {}}}',
     b'{"columns": {}, "files": ["a.csv"]}', b'{"columns": [], "files": {}}'],
)  # fmt: skip
def test_a_damaged_manifest_is_refused_by_name(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json: expected"):
        results.load(folder)


def test_a_record_says_what_and_where(monkeypatch):
    """Inside IPython it is an output of its own type, from which a sweep reads the same values and types."""
    shown = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.append(data if raw else None))
    numbers = {"fid": np.float32(2.5), "kid": torch.tensor([[0.5]], dtype=torch.float64), "nan": math.nan}
    results.record(**numbers, n=np.int64(3), inception=np.True_, features="mnist", floor=None)
    results.record(infinite=-math.inf)
    cells = [SimpleNamespace(get=lambda name, default, data=data: [{"data": data}]) for data in shown]
    found, provenance = notebooks.recorded(SimpleNamespace(cells=cells))
    assert math.isnan(found.pop("nan"))
    expected = {"fid": 2.5, "kid": 0.5, "n": 3, "inception": True, "features": "mnist", "floor": None}
    assert found == expected | {"infinite": -math.inf} and list(found) == [*expected, "infinite"]
    assert [type(value) for value in found.values()][:5] == [float, float, int, bool, str]
    assert provenance["device"].startswith("CPU") and {"commit", "versions", "time"} <= provenance.keys()
    assert "fid = 2.5" in shown[0]["text/plain"] and json.dumps(shown, allow_nan=False)


def test_outside_a_notebook_a_record_is_printed(capsys):
    results.record(fid=1.5, kid=float("nan"))
    assert capsys.readouterr().out == "recorded: fid = 1.5, kid = nan\n"


@pytest.mark.parametrize("value", [np.zeros(2), torch.zeros(2), [1], {"a": 1}, 1j, object()])
def test_only_single_values_are_recorded(value):
    with pytest.raises(TypeError, match="fid: expected a number"):
        results.record(fid=value)


@pytest.mark.parametrize("name", ["job", "seconds", "commit"])
def test_a_record_leaves_the_names_of_the_table_alone(name):
    with pytest.raises(ValueError, match=f"record: {name}: the table of a sweep has such a column"):
        results.record(**{name: 1})
