"""Are two samples independent? HSIC, distance correlation, and a permutation test that holds its level.

Correlation sees only linear dependence. Both measures here are zero for independent variables and for no others
(with n → ∞), which is what the Darmois–Skitovitch theorem (K&P §3.1) is about.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from grae_helpers import runtime

FEWEST = 4
"""Samples: with fewer, no permutation test can say anything."""
ENTRIES = 2**18
"""Matrix entries that are permuted at a time: what fits a core's cache, and bounds the memory."""


class DependenceTest(NamedTuple):
    """What `dependence_test` found: the HSIC, and the probability of one as large under independence."""

    statistic: float
    p_value: float


def hsic(x: np.ndarray | Tensor, y: np.ndarray | Tensor) -> float:
    """The Hilbert–Schmidt independence criterion with Gaussian kernels: tr(KHLH)/n².

    K_ij = exp(−‖x_i − x_j‖²/2s²) with s the median of the distances that are not zero, L likewise for y,
    H = I − 11ᵀ/n: the biased V-statistic of Gretton et al. 2005 and 2008. At least zero, without unit, blind to
    the samples' location and scale. Shapes: x and y [n] or [n, k], each with its own k, numpy or torch; computed
    in float64. Raises ValueError for fewer than 4 samples, different lengths, NaN, infinity and samples
    that are all the same; TypeError for what is no array of real numbers.

    >>> x = torch.arange(10.0)
    >>> round(hsic(x, -x), 4), round(hsic(x, torch.tensor([1, -1]).repeat(5)), 4)
    (0.0974, 0.001)
    """
    x, y = _pair(x, y)
    return _agreement(_centred(_gaussian(x)), _gaussian(y))


def distance_correlation(x: np.ndarray | Tensor, y: np.ndarray | Tensor) -> float:
    """The distance correlation, from 0 to 1: √(V²(x, y) / √(V²(x, x) V²(y, y))).

    V²(x, y) is the mean of A_ij B_ij, the doubly centred matrices of distances (Székely, Rizzo and Bakirov 2007,
    Definitions 4 and 5: the V-statistic, so positive for independent samples too, of order 1/√n). One for two
    numbers that are linear in each other. Shapes and errors are those of `hsic`.

    >>> x = torch.linspace(-1, 1, 101)
    >>> round(distance_correlation(x, 3 - 2 * x), 6), round(distance_correlation(x, x.square()), 2)
    (1.0, 0.49)
    """
    x, y = _pair(x, y)
    a, b = (_centred(_distances(v)) for v in (x, y))
    spread = (_agreement(a, a) * _agreement(b, b)) ** 0.5
    return min(1.0, (max(0.0, _agreement(a, b)) / spread) ** 0.5)


def dependence_test(
    x: np.ndarray | Tensor, y: np.ndarray | Tensor, *, n_permutations: int = 199, seed: int = 0
) -> DependenceTest:
    """A permutation test of independence by `hsic`: (statistic, p_value).

    p = (1 + #{permuted ≥ observed}) / (1 + n_permutations), which under independence is at most α with a
    probability of at most α, at any n; exactly α where α (1 + n_permutations) is whole and no two statistics
    tie. The smallest p is 1/(1 + n_permutations). The pairs (x_i, y_i) must be independent draws. Memory
    is a few n × n matrices, whatever the number of permutations. Shapes and errors are those of `hsic`.

    >>> z = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    >>> dependence_test(z[:, 0], z[:, 1]).p_value > 0.05
    True
    >>> dependence_test(z[:, 0] - z[:, 1], z[:, 0] + z[:, 1]).p_value  # uncorrelated, and not independent
    0.005
    """
    x, y = _pair(x, y)
    runtime.integer("n_permutations", n_permutations, 1)
    runtime.check_parameters(seed=seed)
    kernels = _centred(_gaussian(x)), _gaussian(y)
    observed = _agreement(*kernels)
    permuted = torch.cat([_permuted(*kernels, orders) for orders in _orders(len(x), n_permutations, seed)])
    # What equals the observed value but for the order of a sum counts as equal.
    as_large = int((permuted >= observed * (1 - 1e-10)).sum())
    return DependenceTest(observed, (1 + as_large) / (1 + n_permutations))


def _orders(n: int, count: int, seed: int) -> Iterator[Tensor]:
    """Random permutations of 0 … n − 1, a chunk at a time, [chunk, n]."""
    generator = torch.Generator().manual_seed(seed)
    chunk = max(1, ENTRIES // n**2)
    for start in range(0, count, chunk):
        shape = (min(chunk, count - start), n)
        yield torch.rand(shape, generator=generator, dtype=torch.float64).argsort(1)


def _permuted(a: Tensor, b: Tensor, orders: Tensor) -> Tensor:
    """`_agreement` with y in each order π: the mean over i, j of a_ij b_π(i)π(j), [chunk]."""
    rows = b[orders.to(b.device)]
    columns = orders.to(b.device)[:, None].expand_as(rows)
    return rows.gather(2, columns).flatten(1) @ a.flatten() / len(a) ** 2


def _agreement(a: Tensor, b: Tensor) -> float:
    return (a.flatten() @ b.flatten()).item() / len(a) ** 2


def _centred(matrix: Tensor) -> Tensor:
    """HMH for a symmetric M. In tr(HKH·HLH) one H of each pair is enough: only one matrix need be centred."""
    mean = matrix.mean(0)
    return matrix - mean[:, None] - mean + mean.mean()


def _distances(x: Tensor) -> Tensor:
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def _gaussian(x: Tensor) -> Tensor:
    distances = _distances(x)
    above = distances[tuple(torch.triu_indices(len(x), len(x), 1, device=x.device))]
    return (distances / above[above > 0].median()).square().div(-2).exp()


def _pair(x: np.ndarray | Tensor, y: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
    x, y = _samples("x", x), _samples("y", y)
    if len(x) != len(y):
        raise ValueError(f"x and y: expected as many samples in each, got {len(x)} and {len(y)}")
    return x, y.to(x.device)


def _samples(name: str, values: np.ndarray | Tensor) -> Tensor:
    """The samples as [n, k] in float64, with a largest entry between a half and one."""
    if not isinstance(values, np.ndarray | Tensor):
        raise TypeError(f"{name}: expected a numpy array or a torch tensor, got {type(values).__name__}")
    kind = str(values.dtype).removeprefix("torch.")
    if not kind.startswith(("float", "bfloat", "int", "uint")):
        raise TypeError(f"{name}: expected real numbers, got an array of {kind}")
    if isinstance(values, np.ndarray):
        values = torch.from_numpy(np.array(values, dtype=np.float64))  # a copy: views may be read-only or reversed
    found = values.detach().to(torch.float64)
    if found.ndim not in (1, 2) or len(found) < FEWEST or found[0].numel() == 0:
        raise ValueError(f"{name}: expected [n] or [n, k] with n ≥ {FEWEST}, k ≥ 1, got {list(found.shape)}")
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    if bool((found == found[0]).all()):
        raise ValueError(f"{name}: expected samples that differ, got {len(found)} times the same")
    # A power of two rounds nothing; a mean, under heavy tails, would swallow the samples that are near each other.
    exponent = -math.frexp(found.abs().max().item())[1]
    return found.reshape(len(found), -1) * 2.0 ** (exponent // 2) * 2.0 ** (exponent - exponent // 2)
