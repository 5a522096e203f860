"""Device, seeds, budgets, and the check of parameters before a notebook runs."""

import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import BAD_BETAS

from grae_helpers import runtime


def test_auto_is_the_gpu_only_where_there_is_one():
    assert runtime.device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert runtime.device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "mps", "", "cuda:-1"])
def test_a_device_that_is_not_there_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"device: .*{name!r}"):
        runtime.device(name)


def test_seed_everything_repeats_every_source_of_randomness():
    def draws():
        generator = runtime.seed_everything(3)
        legacy = np.random.rand()  # noqa: NPY002
        return random.random(), legacy, float(torch.rand(1)), float(torch.rand(1, generator=generator))

    assert draws() == draws()


def test_sizes_of_a_budget_and_overrides():
    tables = {"test": {"steps": 1, "n": 2}, "book": {"steps": 10, "n": 20}, "full": {"steps": 100, "n": 200}}
    assert runtime.sizes("full", **tables) == SimpleNamespace(steps=100, n=200)
    assert runtime.sizes("test", **tables, steps=7, n=0) == SimpleNamespace(steps=7, n=2)
    assert tables["test"]["steps"] == 1
    with pytest.raises(ValueError, match="override 'width' is none of the sizes"):
        runtime.sizes("test", **tables, width=2)
    with pytest.raises(ValueError, match="must name the same sizes"):
        runtime.sizes("test", **{**tables, "full": {"steps": 1}})
    with pytest.raises(ValueError, match="budget: expected one of test, book, full; got 'tiny'"):
        runtime.sizes("tiny", **tables)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.25), np.int64(2), torch.tensor(0.5), torch.tensor(3)])
def test_positive_numbers(value):
    assert runtime.positive("beta", value) == float(value)
    assert type(runtime.positive("beta", value)) is float


BAD = [
    *BAD_BETAS,
    (np.bool_(True), TypeError),
    (torch.ones(2), TypeError),
    ([1.0], TypeError),
    (1j, TypeError),
]


@pytest.mark.parametrize(("value", "error"), BAD, ids=str)
def test_what_is_not_positive_is_refused(value, error):
    with pytest.raises(error, match="beta: expected a positive"):
        runtime.check_parameters(beta=value)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"betas": 0.1}, TypeError, "betas: expected a list"),
        ({"betas": [0.1, -1]}, ValueError, "betas: expected a positive, finite number, got -1"),
        ({"betas": [0.1, 0.1]}, ValueError, "holds a value twice"),
        ({"latent_dim": 0}, ValueError, "latent_dim: expected at least 1, got 0"),
        ({"workers": 0}, ValueError, "workers: expected at least 1, got 0"),
        ({"features": "vgg"}, ValueError, "features: expected one of auto, mnist, cifar10, inception; got 'vgg'"),
        ({"sweep": 3}, TypeError, "sweep: expected a text"),
        ({"latent_dim": 2.0}, TypeError, "latent_dim: expected an integer, got 2.0"),
        ({"latent_dim": True}, TypeError, "latent_dim: expected an integer"),
        ({"block_size": -1}, ValueError, "block_size: expected at least 0"),
        (
            {"block_size": 9, "latent_dim": 8},
            ValueError,
            "block_size: expected at most latent_dim = 8, got 9",
        ),
        ({"steps": -1}, ValueError, "steps: expected at least 0"),
        ({"seed": -1}, ValueError, "seed: expected at least 0"),
        ({"seed": "1"}, TypeError, "seed: expected an integer"),
        ({"batch_size": -1}, ValueError, "batch_size: expected at least 0"),
        ({"width": -0.5}, ValueError, "width: expected a positive"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate: expected a positive"),
        ({"budget": "huge"}, ValueError, "budget: expected one of test, book, full; got 'huge'"),
        ({"dataset": "imagenet"}, ValueError, "dataset: expected one of .*; got 'imagenet'"),
        ({"device": "abacus"}, ValueError, "device: expected"),
        ({"repeats": -1}, ValueError, "repeats: expected at least 0, got -1"),
        ({"samples": 1.5}, TypeError, "samples: expected an integer, got 1.5"),
        ({"repeats": True}, TypeError, "repeats: expected an integer"),
        ({"block": -2}, ValueError, "block: expected at least 0"),
        ({"activations": ["tanh", "relu"]}, ValueError, "activations: expected one of identity, .*, elu; got 'relu'"),
        ({"activations": "tanh"}, TypeError, "activations: expected a list of activations, got 'tanh'"),
        ({"angle_degrees": float("nan")}, ValueError, "angle_degrees: expected a finite number, got nan"),
        ({"angle_degrees": float("-inf")}, ValueError, "angle_degrees: expected a finite number"),
        ({"angle_degrees": 10**400}, ValueError, "angle_degrees: expected a finite number"),
        ({"angle_degrees": "30"}, TypeError, "angle_degrees: expected a number, got '30'"),
        ({"angle_degrees": True}, TypeError, "angle_degrees: expected a number, got True"),
        ({"iterations": 100}, TypeError, "iterations: expected a list of integers, got 100"),
        ({"iterations": [100, 0]}, ValueError, "iterations: expected at least 1, got 0"),
        ({"iterations": [1.0]}, TypeError, "iterations: expected an integer, got 1.0"),
        ({"noise": -0.1}, ValueError, "noise: expected a positive"),
        ({"noise": False}, TypeError, "noise: expected a positive number, got False"),
        ({"compiled": 1}, TypeError, "compiled: expected true or false, got 1"),
        ({"reflect": "no"}, TypeError, "reflect: expected true or false, got 'no'"),
        ({"folder": None}, TypeError, "folder: expected a text, got None"),
    ],
    ids=str,
)
def test_bad_parameters_are_refused_by_name(parameters, error, message):
    with pytest.raises(error, match=message):
        runtime.check_parameters(**parameters)


def test_good_parameters_pass_and_unknown_names_are_left_alone():
    runtime.check_parameters(
        beta=1,
        betas=[0.1, 1],
        latent_dim=8,
        block_size=8,
        steps=0,
        seed=0,
        width=0,
        budget="book",
        colour="red",
    )
    runtime.check_parameters(block_size=0, latent_dim=1, dataset="auto", device="auto", n_test=0)
    runtime.check_parameters(angle_degrees=-30, iterations=[], activations=[], noise=0.0, folder="", compiled=False)
    runtime.check_parameters(angle_degrees=1e3, iterations=[1, 1], activations=["elu"], repeats=0)


def test_torchvision_imports_and_stays_as_it_is():
    assert runtime.torchvision() is sys.modules["torchvision"]
    assert runtime.torchvision() is runtime.torchvision()


def test_missing_torchvision_operators_are_defined_one_by_one(monkeypatch):
    missing, defined = ["nms", "qnms"], []

    def import_module(name):
        if missing:
            raise RuntimeError(f"operator torchvision::{missing[0]} does not exist")
        return "torchvision"

    monkeypatch.setattr(runtime.importlib, "import_module", import_module)
    monkeypatch.setattr(torch.library, "define", lambda name, schema: defined.append(missing.pop(0)) or name)
    monkeypatch.setattr(sys, "modules", {**sys.modules, "torchvision.partly": None})
    assert runtime.torchvision() == "torchvision"
    assert defined == ["nms", "qnms"]
    assert "torchvision.partly" not in sys.modules


def test_other_import_errors_of_torchvision_are_shown(monkeypatch):
    def import_module(name):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(runtime.importlib, "import_module", import_module)
    with pytest.raises(RuntimeError, match="out of luck"):
        runtime.torchvision()


def test_provenance_says_what_ran_where():
    found = runtime.provenance(torch.device("cpu"))
    assert found["versions"]["torch"] == torch.__version__
    assert found["device"].startswith("CPU, ")
    assert found["time"].endswith("+00:00")


def test_provenance_without_git(monkeypatch):
    monkeypatch.setattr(
        runtime.subprocess, "run", lambda *a, **k: (_ for _ in ()).throw(FileNotFoundError("git"))
    )
    assert runtime.provenance()["commit"] is None


@pytest.mark.parametrize("seed", [2**63, 2**64, 10**30])
def test_a_seed_that_no_generator_holds_is_refused_by_name(seed):
    runtime.check_parameters(seed=2**63 - 1)
    runtime.seed_everything(2**63 - 1)
    with pytest.raises(ValueError, match="seed: expected less than"):
        runtime.check_parameters(seed=seed)


def test_an_integer_too_large_for_a_float_is_refused_by_name():
    with pytest.raises(ValueError, match="beta: expected a positive, finite number"):
        runtime.positive("beta", 10**400)
