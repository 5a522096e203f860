"""What a value must be to be used: numbers, choices, and the parameters of the book's notebooks, by name."""

import sys
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

BUDGETS = ("test", "book", "full")
# What a chapter takes; image_folder needs a path.
DATASETS = ("auto", "digits", "mnist", "fashion_mnist", "cifar10", "celeba", "lfw", "sprites", "faces")
OBJECTIVES = ("beta_vae", "grae", "grae_approx", "rae_gradient", "rae_l2", "rae_spectral", "autoencoder")
PRECISIONS = ("float32", "bfloat16")
STEPS = ("eager", "compiled", "graph")  # how training.fit runs a step
FEATURES = ("auto", "mnist", "cifar10", "inception")  # the network whose features compare images
ACTIVATIONS = ("identity", "tanh", "sigmoid", "elu")  # ν of App. C


def positive(name: str, value: object) -> float:
    """The value as a float, if it is a positive, finite number; TypeError or ValueError by name otherwise.

    >>> positive("beta", 0.5)
    0.5
    """
    if isinstance(value, torch.Tensor | np.generic) and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a positive number, got {value!r}")
    if not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name}: expected a positive, finite number, got {value!r}")
    return float(value)


def integer(name: str, value: object, minimum: int) -> None:
    """Refuse what is no integer (TypeError) or less than `minimum` (ValueError), by name.

    >>> integer("latent_dim", 0, 1)
    Traceback (most recent call last):
    ...
    ValueError: latent_dim: expected at least 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {value}")


def one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse, by name, a value that is none of the choices: ValueError.

    >>> one_of("budget", "book", BUDGETS)
    """
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}; got {value!r}")


def _listed(name: str, values: object, what: str, check: Callable) -> None:
    if not isinstance(values, list | tuple):
        raise TypeError(f"{name}: expected a list of {what}, got {values!r}")
    for value in values:
        check(name, value)


def _betas(name: str, values: object) -> None:
    _listed(name, values, "positive numbers", positive)
    if len(set(values)) != len(values):
        raise ValueError(f"{name}: {values!r} holds a value twice")


def _seed(name: str, value: object) -> None:
    integer(name, value, 0)
    if value >= 2**63:
        raise ValueError(f"{name}: expected less than 2^63, which torch's generators hold, got {value}")


def _number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name}: expected a finite number, got {value!r}")


def zero_or_positive(name: str, value: object) -> None:
    """Refuse, by name, what is neither 0 nor `positive`.

    >>> zero_or_positive("penalty", 0)
    """
    if isinstance(value, bool) or value != 0:
        positive(name, value)


def _fraction(name: str, value: object) -> None:
    if positive(name, value) > 1:
        raise ValueError(f"{name}: expected more than 0 and at most 1, got {value!r}")


def _is_a(kind: type, name: str, value: object) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {'true or false' if kind is bool else 'a text'}, got {value!r}")


_COUNTS = (
    "block_size", "steps", "n_configurations", "n_test", "batch_size", "samples", "samples_unamortized",
    "repeats", "long_repeats", "long_repeats_unamortized", "block", "restarts", "restart_iterations", "n_images",
    "n_codes",
)  # fmt: skip
_CHECKS = {
    **dict.fromkeys(_COUNTS, partial(integer, minimum=0)),
    **dict.fromkeys(("latent_dim", "n_samples", "n_columns", "components", "workers"), partial(integer, minimum=1)),
    **dict.fromkeys(("width", "learning_rate", "noise"), zero_or_positive),
    **dict.fromkeys(("encoder_weight", "decoder_weight", "orthogonality", "penalty"), zero_or_positive),
    "regularizer_fraction": _fraction,
    "save_every": positive,
    "objective": partial(one_of, choices=OBJECTIVES),
    "precision": partial(one_of, choices=PRECISIONS),
    "step": partial(one_of, choices=STEPS),
    "features": partial(one_of, choices=FEATURES),
    **dict.fromkeys(("compiled", "reflect"), partial(_is_a, bool)),
    "beta": positive,
    "betas": _betas,
    "iterations": partial(_listed, what="integers", check=partial(integer, minimum=1)),
    "activations": partial(_listed, what="activations", check=partial(one_of, choices=ACTIVATIONS)),
    "angle_degrees": _number,
    "seed": _seed,
    "budget": partial(one_of, choices=BUDGETS),
    "dataset": partial(one_of, choices=DATASETS),
    **dict.fromkeys(("folder", "checkpoints", "sweep"), partial(_is_a, str)),
}


def check(parameters: Mapping[str, object]) -> None:
    """The rules of `runtime.check_parameters`, but for the device.

    >>> check({"latent_dim": 8, "block_size": 2})
    """
    for name, value in parameters.items():
        if name in _CHECKS:
            _CHECKS[name](name, value)
    block, width = parameters.get("block_size"), parameters.get("latent_dim")
    if block is not None and width is not None and block > width:
        raise ValueError(f"block_size: expected at most latent_dim = {width}, got {block}")
