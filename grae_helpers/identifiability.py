"""Maps that mix the latents and keep their prior (K&P App. A); the angle between two sets of latents (App. C)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import log_ndtr, log_softmax, logsumexp, ndtr, ndtri, ndtri_exp
from torch import Tensor, as_tensor

Array = np.ndarray | Tensor


def mixing_transform(z: Array, rotation: Array, marginals: Sequence) -> Array:
    """r(z) = (F⁻¹ ∘ ψ ∘ U ∘ ψ⁻¹ ∘ F)(z): mixes independent latents and keeps their distribution (K&P App. A).

    F is the CDF of each latent, ψ the standard normal's, U the orthogonal `rotation`; det U = −1 is allowed. The map
    of Uᵀ is the inverse. Computed in float64 from the nearer tail, so that a normal's sample at +8σ comes through.

    Shapes: z [n, d] (numpy or torch: the result is of the same kind, without gradients), rotation [d, d], acting on
    rows as n Uᵀ; marginals: d frozen continuous scipy distributions. Raises ValueError for a matrix that is not
    orthogonal, other shapes, NaN, a tensor that requires gradients, and a CDF that reaches 0 or 1 at a sample;
    TypeError for marginals or numbers of another kind.

    >>> mixing_transform(np.array([[0.5, 0.9]]), np.array([[0.0, -1.0], [1.0, 0.0]]), [stats.uniform()] * 2).round(6)
    array([[0.1, 0.5]])
    """
    return _like(_mix(z, rotation, _Independent(marginals))[1], z)


def conditional_mixing_transform(z: Array, rotation: Array, prior: "GaussianMixture") -> Array:
    """The same for a correlated prior: F becomes F_{i|1…i−1}, the CDF of z_i given the latents before it (App. A).

    Shapes, tails and errors as in `mixing_transform`. For one component N(μ, LLᵀ) it is μ + L U L⁻¹(z − μ). The map
    depends on the order of the latents; that it keeps the prior does not.

    >>> prior = GaussianMixture([1.0], [[0.0, 0.0]], [[[4.0, 0.0], [0.0, 1.0]]])
    >>> conditional_mixing_transform(np.array([[2.0, 3.0]]), np.array([[0.0, -1.0], [1.0, 0.0]]), prior).round(6)
    array([[-6.,  1.]])
    """
    if not isinstance(prior, GaussianMixture):
        raise TypeError(f"prior: expected a GaussianMixture, got {type(prior).__name__}")
    return _like(_mix(z, rotation, prior)[1], z)


def log_det_jacobian(z: Array, rotation: Array, prior: "Sequence | GaussianMixture") -> Array:
    """log|det J_r(z)| = log p(z) − log p(r(z)) of either map, [n], nats: r keeps p, so p(r(z)) |det J_r| = p(z).

    Zero where r stays on an orbit of equal prior density, and not in general (K&P App. A prints |det J_r| = 1).
    `prior`: d marginals, or a GaussianMixture. Errors as in `mixing_transform`.

    >>> log_det_jacobian(np.array([[3.0, 1.0]]), np.array([[0.6, -0.8], [0.8, 0.6]]), [stats.uniform(scale=5)] * 2)
    array([0.])
    """
    factors = prior if isinstance(prior, GaussianMixture) else _Independent(prior)
    before, after = _mix(z, rotation, factors)
    return _like(factors._log_density(before) - factors._log_density(after), z)


def procrustes(latents: Array, inferred: Array) -> Array:
    """The orthogonal O that minimises ‖Z − OM‖_F: UVᵀ of the singular vectors of ZMᵀ (K&P App. C), [..., d, d].

    The paper's Z and M are [d, n]; here rows are samples, both [..., n, d], so latents ≈ inferred Oᵀ. Raises
    ValueError for other shapes, NaN, and a singular ZMᵀ, which leaves O undetermined: constant samples, fewer samples
    than latents, or a latent that was not inferred.

    >>> z = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> (procrustes(z, z[:, ::-1]).round(6) + 0.0).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    Z, M = _array("latents", latents), _array("inferred", inferred)
    if Z.ndim < 2 or Z.shape != M.shape or Z.size == 0:
        raise ValueError(f"latents and inferred: expected one shape [..., n, d], got {Z.shape} and {M.shape}")
    left, values, right = np.linalg.svd(Z.swapaxes(-1, -2) @ M)
    rounding = 10 * np.finfo(float).eps * np.linalg.norm(Z, axis=(-2, -1)) * np.linalg.norm(M, axis=(-2, -1))
    if (values[..., -1] <= rounding).any():
        raise ValueError(f"latents and inferred: ZMᵀ is singular (singular values {values}), so O is not unique")
    return _like(left @ right, latents)


def angle(orthogonal: Array) -> np.ndarray:
    """θ in (−45, 45] degrees with O = R(θ)S, S a signed permutation (K&P App. C); −45° is the same axes as 45°.

    Shapes: orthogonal [..., 2, 2], numpy or torch; the result is numpy, [...]. Raises ValueError for other shapes,
    NaN, and matrices that are not orthogonal.

    >>> angle(np.array([[[0.6, -0.8], [0.8, 0.6]], [[0.0, 1.0], [1.0, 0.0]]])).round(4) + 0.0
    array([-36.8699,   0.    ])
    """
    matrix = _orthogonal("orthogonal", orthogonal)
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
    return float(angle(procrustes(_array("latents", latents, 2), _array("inferred", inferred, 2))))


class GaussianMixture:
    """A correlated prior Σ_k w_k N(μ_k, Σ_k) with its conditional CDFs; one component is a correlated Gaussian.

    Shapes: weights [k], positive with sum 1; means [k, d]; covariances [k, d, d], positive definite. Raises
    ValueError otherwise. The methods compute in float64 and return numpy or torch, as they were given.

    >>> prior = GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [np.eye(2), np.eye(2)])
    >>> z = prior.sample(3, seed=0)
    >>> bool(np.allclose(prior.inverse_rosenblatt(prior.rosenblatt(z)), z))
    True
    """

    def __init__(self, weights: Sequence, means: Sequence, covariances: Sequence) -> None:
        self.weights, self.means, self.covariances = (np.array(v, float) for v in (weights, means, covariances))
        shapes = [list(value.shape) for value in (self.weights, self.means, self.covariances)]
        k, self.dim = self.means.shape if self.means.ndim == 2 else (0, 0)
        if self.means.size == 0 or shapes != [[k], [k, self.dim], [k, self.dim, self.dim]]:
            raise ValueError(f"expected weights [k], means [k, d] and covariances [k, d, d], got {shapes}")
        if not ((self.weights > 0).all() and abs(self.weights.sum() - 1) < 1e-9 and np.isfinite(self.means).all()):
            raise ValueError(f"expected positive weights with sum 1 and finite means, got {weights} and {means}")
        symmetric = np.allclose(self.covariances, self.covariances.swapaxes(1, 2))  # False where there is a NaN
        if not (symmetric and np.linalg.eigvalsh(self.covariances).min() > 0):
            raise ValueError(f"covariances: expected symmetric and positive definite, got {covariances}")
        self._cholesky = np.linalg.cholesky(self.covariances)

    def log_prob(self, z: Array) -> Array:
        """log p(z), [n], nats."""
        return _like(self._log_density(_array("z", z, self.dim)), z)

    def rosenblatt(self, z: Array) -> Array:
        """u_i = F_{i|1…i−1}(z_i), [n, d]: independent and uniform on (0, 1) for z from this prior."""
        return _like(ndtr(self._to_normal(_array("z", z, self.dim))), z)

    def inverse_rosenblatt(self, u: Array) -> Array:
        """The z of which u is the `rosenblatt`, [n, d]. Raises ValueError unless 0 < u < 1."""
        values = _array("u", u, self.dim)
        if not ((values > 0) & (values < 1)).all():
            raise ValueError(f"u: expected 0 < u < 1, got {values.min()} to {values.max()}")
        return _like(self._from_normal(ndtri(values)), u)

    def sample(self, n: int, seed: int | np.random.Generator = 0) -> np.ndarray:
        """n draws, [n, d]."""
        generator = np.random.default_rng(seed)
        component = generator.choice(len(self.weights), size=n, p=self.weights)
        noise = self._cholesky[component] @ generator.standard_normal((n, self.dim, 1))
        return self.means[component] + noise[..., 0]

    def _conditionals(self, z: np.ndarray) -> Iterator["_Conditional"]:
        """p(z_i | z_1 … z_{i−1}) for each i. A column of z is read only after its conditional was handed out."""
        noise = np.zeros((len(z), *self.means.shape))
        log_weights = np.tile(np.log(self.weights), (len(z), 1))
        for i in range(self.dim):
            mean = self.means[:, i] + (self._cholesky[:, i, :i] * noise[:, :, :i]).sum(2)
            yield (line := _Conditional(log_weights, mean, self._cholesky[:, i, i]))
            noise[:, :, i] = (z[:, i, None] - mean) / line.std
            log_weights = log_softmax(log_weights + line.log_terms(z[:, i]), 1)

    def _to_normal(self, z: np.ndarray) -> np.ndarray:
        return np.stack([line.score(z[:, i]) for i, line in enumerate(self._conditionals(z))], 1)

    def _from_normal(self, scores: np.ndarray) -> np.ndarray:
        z = np.empty_like(scores)
        for i, line in enumerate(self._conditionals(z)):
            z[:, i] = line.quantile(scores[:, i])
        return z

    def _log_density(self, z: np.ndarray) -> np.ndarray:
        return sum(line.log_density(z[:, i]) for i, line in enumerate(self._conditionals(z)))


@dataclass(frozen=True)
class _Conditional:
    """A mixture of Gaussians on the line for each sample: log_weights and mean [n, k], std [k]."""

    log_weights: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def log_terms(self, z: np.ndarray) -> np.ndarray:
        return stats.norm.logpdf((z[:, None] - self.mean) / self.std) - np.log(self.std)

    def log_density(self, z: np.ndarray) -> np.ndarray:
        return logsumexp(self.log_weights + self.log_terms(z), 1)

    def score(self, z: np.ndarray) -> np.ndarray:
        noise = (z[:, None] - self.mean) / self.std
        return _score(*(logsumexp(self.log_weights + log_ndtr(side), 1) for side in (noise, -noise)))

    def quantile(self, score: np.ndarray) -> np.ndarray:
        """The z that has a score: Newton's method, with bisection where it leaves the bounds or is slow."""
        ends = self.mean + self.std * score[:, None]  # the components' own quantiles enclose the mixture's
        low, high = ends.min(1), ends.max(1)
        z = np.clip((np.exp(self.log_weights) * ends).sum(1), low, high)
        last, done, eps = high - low, np.zeros(len(z), bool), 4 * np.finfo(float).eps
        for _ in range(200):
            found = self.score(z)
            low, high = np.where(found < score, z, low), np.where(found > score, z, high)
            slope = np.exp(np.clip(self.log_density(z) - stats.norm.logpdf(found), -700, 700))
            newton = z - (found - score) / slope
            fast = (np.abs(newton - z) <= last / 2) & (low <= newton) & (newton <= high)
            new = np.where(fast, newton, (low + high) / 2)
            done |= np.abs(found - score) <= eps * (1 + np.abs(score))
            done |= np.abs(new - z) <= eps * np.maximum(np.abs(z), self.std.min())  # no digit left to gain
            if done.all():
                break
            z, last = np.where(done, z, new), np.abs(new - z)
        return z


class _Independent:
    """Independent marginals, with the methods of a GaussianMixture."""

    def __init__(self, marginals: Sequence) -> None:
        self.marginals, self.dim = list(marginals), len(marginals)
        for i, marginal in enumerate(self.marginals):
            kind = getattr(marginal, "dist", None)
            if not isinstance(kind, stats.rv_continuous):
                found, wanted = type(kind or marginal).__name__, "a frozen continuous scipy distribution"
                raise TypeError(f"marginals[{i}]: expected {wanted} such as scipy.stats.norm(), got {found}")
            if np.shape(marginal.support()) != (2,) or np.isnan(marginal.support()).any():
                raise ValueError(f"marginals[{i}]: expected scalar parameters that {kind.name} is defined for")

    def _to_normal(self, z: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):  # a CDF of 0 has the logarithm −∞, which is refused below
            log_cdf = np.stack([marginal.logcdf(z[:, i]) for i, marginal in enumerate(self.marginals)], 1)
            log_sf = np.stack([marginal.logsf(z[:, i]) for i, marginal in enumerate(self.marginals)], 1)
        for reached, tail in ((0, log_cdf), (1, log_sf)):
            for row, i in np.argwhere(~np.isfinite(tail)):
                raise ValueError(f"marginals[{i}]: the CDF reaches {reached} at sample {row}, z = {z[row, i]}")
        return _score(log_cdf, log_sf)

    def _from_normal(self, scores: np.ndarray) -> np.ndarray:
        z = np.empty_like(scores)
        for i, marginal in enumerate(self.marginals):
            low = scores[:, i] < 0
            z[low, i], z[~low, i] = marginal.ppf(ndtr(scores[low, i])), marginal.isf(ndtr(-scores[~low, i]))
        for row, i in np.argwhere(~np.isfinite(z)):
            raise ValueError(f"marginals[{i}]: no finite quantile for sample {row}, turned to {scores[row, i]}σ")
        return z

    def _log_density(self, z: np.ndarray) -> np.ndarray:
        return sum(marginal.logpdf(z[:, i]) for i, marginal in enumerate(self.marginals))


def _score(log_cdf: np.ndarray, log_sf: np.ndarray) -> np.ndarray:
    """ψ⁻¹(F) from the logarithms of both tails: the smaller one holds the digits."""
    return np.where(log_cdf < log_sf, 1, -1) * ndtri_exp(np.minimum(log_cdf, log_sf))


def _mix(z: Array, rotation: Array, prior: "_Independent | GaussianMixture") -> tuple[np.ndarray, np.ndarray]:
    """z and r(z), both numpy in float64."""
    matrix = _orthogonal("rotation", rotation)
    if matrix.shape != (prior.dim, prior.dim):
        raise ValueError(f"rotation: expected {[prior.dim] * 2}, as many as marginals, got {list(matrix.shape)}")
    if isinstance(z, Tensor) and z.requires_grad:
        raise ValueError("z: expected a tensor that requires no gradient (there is none through scipy): z.detach()")
    values = _array("z", z, prior.dim)
    return values, prior._from_normal(prior._to_normal(values) @ matrix.T)


def _orthogonal(name: str, value: Array) -> np.ndarray:
    matrix = _array(name, value)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{name}: expected square, got {list(matrix.shape)}")
    excess = np.abs(matrix.swapaxes(-1, -2) @ matrix - np.eye(matrix.shape[-1])).max(initial=0)
    if excess > 1e-6:  # as close as a rotation made in single precision comes
        raise ValueError(f"{name}: expected orthogonal, but UᵀU differs from I by {excess:.2g}")
    return matrix


def _array(name: str, value: Array, columns: int | None = None) -> np.ndarray:
    """The numbers in float64, checked; with `columns`, as [n, columns]."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.floating):
        found = getattr(array, "dtype", type(array).__name__)
        raise TypeError(f"{name}: expected a numpy array or a tensor of floating-point numbers, got {found}")
    if columns is not None and (array.ndim != 2 or array.shape[1] != columns):
        raise ValueError(f"{name}: expected [n, {columns}], got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return array.astype(np.float64)


def _like(result: np.ndarray, given: Array) -> Array:
    """The result as numpy or torch, with the dtype and device of what was given."""
    if isinstance(given, Tensor):
        return as_tensor(result, dtype=given.dtype, device=given.device)
    return result.astype(given.dtype)
