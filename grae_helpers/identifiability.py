"""Maps that mix the latents and keep their prior (K&P App. A); the angle between two sets of latents (App. C)."""

from collections.abc import Sequence

import numpy as np
import torch

from grae_helpers.priors import Array, GaussianMixture, Independent, as_array, like


def mixing_transform(z: Array, rotation: Array, marginals: Sequence) -> Array:
    """r(z) = (F⁻¹ ∘ ψ ∘ U ∘ ψ⁻¹ ∘ F)(z): mixes independent latents and keeps their distribution (K&P App. A).

    F is the CDF of each latent, ψ the standard normal's, U the orthogonal `rotation`; det U = −1 is allowed. The map
    of Uᵀ is the inverse. Computed in float64 from the nearer tail, so that a normal's sample at +8σ comes through.

    Shapes: z [n, d] (numpy or torch: the result is of the same kind, without gradients), rotation [d, d], acting on
    rows as n Uᵀ; marginals: d frozen continuous scipy distributions. Raises ValueError for a matrix that is not
    orthogonal, other shapes, NaN, a tensor that requires gradients, and a CDF that reaches 0 or 1 at a sample;
    TypeError for marginals or numbers of another kind.

    >>> from scipy import stats
    >>> mixing_transform(np.array([[0.5, 0.9]]), np.array([[0.0, -1.0], [1.0, 0.0]]), [stats.uniform()] * 2).round(6)
    array([[0.1, 0.5]])
    """
    return like(_mix(z, rotation, Independent(marginals))[1], z)


def conditional_mixing_transform(z: Array, rotation: Array, prior: GaussianMixture) -> Array:
    """The same for a correlated prior: F becomes F_{i|1…i−1}, the CDF of z_i given the latents before it (App. A).

    Shapes, tails and errors as in `mixing_transform`. For one component N(μ, LLᵀ) it is μ + L U L⁻¹(z − μ). The map
    depends on the order of the latents; that it keeps the prior does not. Between components that are some tens of
    standard deviations apart the CDF is flat to rounding, and the map cannot tell samples there from each other.

    >>> prior = GaussianMixture([1.0], [[0.0, 0.0]], [[[4.0, 0.0], [0.0, 1.0]]])
    >>> conditional_mixing_transform(np.array([[2.0, 3.0]]), np.array([[0.0, -1.0], [1.0, 0.0]]), prior).round(6)
    array([[-6.,  1.]])
    """
    if not isinstance(prior, GaussianMixture):
        raise TypeError(f"prior: expected a GaussianMixture, got {type(prior).__name__}")
    return like(_mix(z, rotation, prior)[1], z)


def log_det_jacobian(z: Array, rotation: Array, prior: Sequence | GaussianMixture) -> Array:
    """log|det J_r(z)| = log p(z) − log p(r(z)) of either map, [n], nats: r keeps p, so p(r(z)) |det J_r| = p(z).

    Zero where r stays on an orbit of equal prior density, and not in general (K&P App. A prints |det J_r| = 1).
    `prior`: d marginals, or a GaussianMixture. Errors as in `mixing_transform`.

    >>> from scipy import stats
    >>> log_det_jacobian(np.array([[3.0, 1.0]]), np.array([[0.6, -0.8], [0.8, 0.6]]), [stats.uniform(scale=5)] * 2)
    array([0.])
    """
    factors = prior if isinstance(prior, GaussianMixture) else Independent(prior)
    before, after = _mix(z, rotation, factors)
    return like(factors.log_prob(before) - factors.log_prob(after), z)


def procrustes(latents: Array, inferred: Array) -> Array:
    """The orthogonal O that minimises ‖Z − OM‖_F: UVᵀ of the singular vectors of ZMᵀ (K&P App. C), [..., d, d].

    The paper's Z and M are [d, n]; here rows are samples, both [..., n, d], so latents ≈ inferred Oᵀ. Raises
    ValueError for other shapes, NaN, and a singular ZMᵀ, which leaves O undetermined: constant samples, fewer samples
    than latents, or a latent that was not inferred.

    >>> z = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> (procrustes(z, z[:, ::-1]).round(6) + 0.0).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    return like(_procrustes(latents, inferred), latents)


def angle(orthogonal: Array) -> np.ndarray:
    """θ in (−45, 45] degrees with O = R(θ)S, S a signed permutation (K&P App. C); −45° is the same axes as 45°.

    Shapes: orthogonal [..., 2, 2], numpy or torch; the result is numpy, [...]. Raises ValueError for other shapes,
    NaN, and matrices that are not orthogonal.

    >>> angle(np.array([[[0.6, -0.8], [0.8, 0.6]], [[0.0, 1.0], [1.0, 0.0]]])).round(4) + 0.0
    array([-36.8699,   0.    ])
    """
    matrix = _orthogonal("orthogonal", orthogonal, detach=True)
    if matrix.shape[-2:] != (2, 2):
        raise ValueError(f"orthogonal: expected [..., 2, 2], got {list(matrix.shape)}")
    theta = np.degrees(np.arctan2(matrix[..., 1, 0], matrix[..., 0, 0]))
    quarters = np.ceil((theta - 45) / 90 - 1e-12)  # rounding must not tell −45° from 45°
    return np.asarray(np.minimum(theta - 90 * quarters, 45.0))


def rotation_angle(latents: Array, inferred: Array) -> float:
    """The angle in (−45, 45] degrees by which inferred latents must turn to meet the true ones (K&P App. C).

    Permutations and reflections of the axes do not count: `angle` of `procrustes`. Shapes: both [n, 2], numpy or
    torch. Raises ValueError for other shapes, NaN, constant samples and whatever else leaves O undetermined.

    >>> z = np.random.default_rng(0).normal(size=(100, 2))
    >>> R = np.array([[0.8, -0.6], [0.6, 0.8]])
    >>> round(rotation_angle(z @ R.T, z), 4)
    36.8699
    """
    return float(angle(_procrustes(latents, inferred, 2)))


def _procrustes(latents: Array, inferred: Array, columns: int | None = None) -> np.ndarray:
    """`procrustes` in float64."""
    Z, M = (as_array(*given, columns, detach=True) for given in (("latents", latents), ("inferred", inferred)))
    if Z.ndim < 2 or Z.shape != M.shape or Z.size == 0:
        raise ValueError(f"latents and inferred: expected one shape [..., n, d], got {Z.shape} and {M.shape}")
    # Without their units, so that no product overflows.
    Z, M = (part / (np.abs(part).max((-2, -1), keepdims=True) + np.finfo(float).tiny) for part in (Z, M))
    left, values, right = np.linalg.svd(Z.swapaxes(-1, -2) @ M)
    rounding = max(10 * np.finfo(float).eps, _eps(latents), _eps(inferred))
    size = np.linalg.norm(Z, axis=(-2, -1)) * np.linalg.norm(M, axis=(-2, -1))
    singular = np.atleast_1d(values[..., -1] <= rounding * size)
    if singular.any():
        count, first = f"{singular.sum()} of {singular.size} pairs", np.argwhere(singular)[0].tolist()
        raise ValueError(f"latents and inferred: ZMᵀ is singular in {count}, first in {first}, so O is not unique")
    return left @ right


def _eps(given: Array) -> float:
    """The relative rounding of the numbers as they came."""
    return float((torch.finfo if isinstance(given, torch.Tensor) else np.finfo)(given.dtype).eps)


def _mix(z: Array, rotation: Array, prior: Independent | GaussianMixture) -> tuple[np.ndarray, np.ndarray]:
    """z and r(z), both numpy in float64."""
    matrix = _orthogonal("rotation", rotation)
    if matrix.shape != (prior.dim, prior.dim):
        raise ValueError(f"rotation: expected {[prior.dim] * 2}, as many as marginals, got {list(matrix.shape)}")
    values = as_array("z", z, prior.dim)
    return values, prior.from_normal(prior.to_normal(values) @ matrix.T)


def _orthogonal(name: str, value: Array, *, detach: bool = False) -> np.ndarray:
    matrix = as_array(name, value, detach=detach)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{name}: expected square, got {list(matrix.shape)}")
    excess = np.abs(matrix.swapaxes(-1, -2) @ matrix - np.eye(matrix.shape[-1])).max(initial=0)
    if excess > 1e-6:  # as close as a rotation made in single precision comes
        raise ValueError(f"{name}: expected orthogonal, but UᵀU differs from I by {excess:.2g}")
    return matrix
