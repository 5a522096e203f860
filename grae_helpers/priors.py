"""Priors of several latents, independent or correlated, with the (conditional) CDFs that App. A's maps need (K&P)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from scipy.special import log_ndtr, log_softmax, logsumexp, ndtr, ndtri, ndtri_exp
from torch import Tensor

from grae_helpers import runtime

Array = np.ndarray | Tensor
FARTHEST = 1e6
"""Standard deviations: further out, the difference of two squares has too few digits left to weigh components by."""


class GaussianMixture:
    """A correlated prior Σ_k w_k N(μ_k, Σ_k) with its conditional CDFs; one component is a correlated Gaussian.

    Shapes: weights [k], positive with sum 1; means [k, d]; covariances [k, d, d], positive definite. Raises
    ValueError otherwise. The methods compute in float64 and return numpy or torch, as they were given; they have no
    gradients, so that a tensor that requires them is refused.

    >>> prior = GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [np.eye(2), np.eye(2)])
    >>> z = prior.sample(3, seed=0)
    >>> bool(np.allclose(prior.inverse_rosenblatt(prior.rosenblatt(z)), z))
    True
    """

    def __init__(self, weights: Sequence, means: Sequence, covariances: Sequence) -> None:
        parts = (weights, means, covariances)
        self.weights, self.means, self.covariances = (np.array(np.asarray(v, float)) for v in parts)
        shapes = [list(value.shape) for value in (self.weights, self.means, self.covariances)]
        k, self.dim = self.means.shape if self.means.ndim == 2 else (0, 0)
        if self.means.size == 0 or shapes != [[k], [k, self.dim], [k, self.dim, self.dim]]:
            raise ValueError(f"expected weights [k], means [k, d] and covariances [k, d, d], got {shapes}")
        if not ((self.weights > 0).all() and abs(self.weights.sum() - 1) < 1e-6 and np.isfinite(self.means).all()):
            raise ValueError(f"expected positive weights with sum 1 and finite means, got {weights} and {means}")
        self.weights = self.weights / self.weights.sum()  # those of single precision
        self._cholesky = _cholesky(self.covariances)

    def log_prob(self, z: Array) -> Array:
        """log p(z), [n], nats."""
        values = as_array("z", z, self.dim)
        return like(sum(line.log_density(values[:, i]) for i, line in enumerate(self._conditionals(values))), z)

    def rosenblatt(self, z: Array) -> Array:
        """u_i = F_{i|1…i−1}(z_i), [n, d]: independent and uniform on (0, 1) for z from this prior."""
        return like(ndtr(self.to_normal(as_array("z", z, self.dim))), z)

    def inverse_rosenblatt(self, u: Array) -> Array:
        """The z of which u is the `rosenblatt`, [n, d]. Raises ValueError unless 0 < u < 1."""
        values = as_array("u", u, self.dim)
        if not ((values > 0) & (values < 1)).all():
            raise ValueError(f"u: expected 0 < u < 1, got {values.min()} to {values.max()}")
        return like(self.from_normal(ndtri(values)), u)

    def sample(self, n: int, seed: int | np.random.Generator = 0) -> np.ndarray:
        """n draws, [n, d]."""
        runtime.integer("n", n, 0)
        generator = np.random.default_rng(seed)
        component = generator.choice(len(self.weights), size=n, p=self.weights)
        noise = self._cholesky[component] @ generator.standard_normal((n, self.dim, 1))
        return self.means[component] + noise[..., 0]

    def to_normal(self, z: np.ndarray) -> np.ndarray:
        """ψ⁻¹ of the `rosenblatt` without its rounding to 0 and 1: independent and standard normal, [n, d]."""
        return np.stack([line.score(z[:, i]) for i, line in enumerate(self._conditionals(z))], 1)

    def from_normal(self, scores: np.ndarray) -> np.ndarray:
        """The z that `to_normal` takes to these scores, [n, d]."""
        z = np.empty_like(scores)
        for i, line in enumerate(self._conditionals(z)):
            z[:, i] = line.quantile(scores[:, i])
        return z

    def _conditionals(self, z: np.ndarray) -> Iterator["_Conditional"]:
        """p(z_i | z_1 … z_{i−1}) for each i. A column of z is read only after its conditional was handed out."""
        noise = np.zeros((len(z), *self.means.shape))
        log_weights = np.tile(np.log(self.weights), (len(z), 1))
        for i in range(self.dim):
            mean = self.means[:, i] + (self._cholesky[:, i, :i] * noise[:, :, :i]).sum(2)
            yield (line := _Conditional(log_weights, mean, self._cholesky[:, i, i]))
            noise[:, :, i] = line.noise(z[:, i])
            if (far := np.abs(noise[:, :, i]).min(1) > FARTHEST).any():
                raise ValueError(f"z: sample {far.argmax()} is more than {FARTHEST:g}σ from every component")
            log_weights = log_softmax(log_weights + line.log_terms(z[:, i]), 1)


@dataclass(frozen=True)
class _Conditional:
    """A mixture of Gaussians on the line for each sample: log_weights and mean [n, k], std [k]."""

    log_weights: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def noise(self, z: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # such a sample is refused later
            return (z[:, None] - self.mean) / self.std

    def log_terms(self, z: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # a component that weighs nothing
            return stats.norm.logpdf(self.noise(z)) - np.log(self.std)

    def log_density(self, z: np.ndarray) -> np.ndarray:
        return logsumexp(self.log_weights + self.log_terms(z), 1)

    def score(self, z: np.ndarray) -> np.ndarray:
        noise = self.noise(z)
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
            with np.errstate(over="ignore"):  # bisection takes over
                newton = z - (found - score) / slope
            fast = (np.abs(newton - z) <= last / 2) & (low <= newton) & (newton <= high)
            new = np.where(fast, newton, (low + high) / 2)
            done |= np.abs(found - score) <= eps * (1 + np.abs(score))
            done |= np.abs(new - z) <= eps * np.maximum(np.abs(z), self.std.min())  # no digit left to gain
            if done.all():
                break
            z, last = np.where(done, z, new), np.abs(new - z)
        return z


class Independent:
    """A prior of independent latents, d frozen continuous scipy distributions, with the methods of `GaussianMixture`.

    Raises TypeError for marginals of another kind, ValueError for parameters that are no scalars or out of range.

    >>> prior = Independent([stats.norm(), stats.uniform()])
    >>> prior.to_normal(np.array([[2.0, 0.5]])).round(6) + 0.0
    array([[2., 0.]])
    """

    def __init__(self, marginals: Sequence) -> None:
        wanted = "a frozen continuous scipy distribution such as scipy.stats.norm()"
        if not isinstance(marginals, Sequence):
            raise TypeError(f"marginals: expected a list, each item {wanted}, got {type(marginals).__name__}")
        if not marginals:
            raise ValueError(f"marginals: expected {wanted} for each latent, got an empty list")
        self.marginals, self.dim = list(marginals), len(marginals)
        for i, marginal in enumerate(self.marginals):
            kind = getattr(marginal, "dist", None)
            if not isinstance(kind, stats.rv_continuous):
                raise TypeError(f"marginals[{i}]: expected {wanted}, got {type(kind or marginal).__name__}")
            if np.shape(marginal.support()) != (2,) or np.isnan(marginal.support()).any():
                raise ValueError(f"marginals[{i}]: expected scalar parameters that {kind.name} is defined for")

    def log_prob(self, z: np.ndarray) -> np.ndarray:
        """log p(z), [n], nats."""
        return sum(marginal.logpdf(z[:, i]) for i, marginal in enumerate(self.marginals))

    def to_normal(self, z: np.ndarray) -> np.ndarray:
        """ψ⁻¹(F_i(z_i)), [n, d], from the nearer tail. Raises ValueError where a CDF reaches 0 or 1."""
        with np.errstate(all="ignore"):  # a CDF of 0 has the logarithm −∞, which is refused below
            log_cdf = np.stack([marginal.logcdf(z[:, i]) for i, marginal in enumerate(self.marginals)], 1)
            log_sf = np.stack([marginal.logsf(z[:, i]) for i, marginal in enumerate(self.marginals)], 1)
        for reached, tail in ((0, log_cdf), (1, log_sf)):
            for row, i in np.argwhere(~np.isfinite(tail)):
                raise ValueError(f"marginals[{i}]: the CDF reaches {reached} at sample {row}, z = {z[row, i]}")
        return _score(log_cdf, log_sf)

    def from_normal(self, scores: np.ndarray) -> np.ndarray:
        """F_i⁻¹(ψ(n_i)), [n, d]. Raises ValueError for a score too far out to have a finite quantile."""
        z, tails = np.empty_like(scores), ndtr(-np.abs(scores))
        for i, marginal in enumerate(self.marginals):
            low = scores[:, i] < 0
            z[low, i], z[~low, i] = marginal.ppf(tails[low, i]), marginal.isf(tails[~low, i])
        for row, i in np.argwhere(~np.isfinite(z) | (tails == 0)):
            raise ValueError(f"marginals[{i}]: no finite quantile for sample {row}, turned to {scores[row, i]}σ")
        return z


def _score(log_cdf: np.ndarray, log_sf: np.ndarray) -> np.ndarray:
    """ψ⁻¹(F) from the logarithms of both tails: the smaller one holds the digits."""
    return np.where(log_cdf < log_sf, 1, -1) * ndtri_exp(np.minimum(log_cdf, log_sf))


def _cholesky(covariances: np.ndarray) -> np.ndarray:
    try:
        transposed = covariances.swapaxes(1, 2)
        if not np.isfinite(covariances).all():
            raise np.linalg.LinAlgError
        if np.abs(covariances - transposed).max() > 1e-6 * np.abs(covariances).max():  # those of single precision
            raise np.linalg.LinAlgError
        return np.linalg.cholesky((covariances + transposed) / 2)
    except np.linalg.LinAlgError:
        found = covariances.tolist()
        raise ValueError(f"covariances: expected symmetric and positive definite, got {found}") from None


def as_array(name: str, value: Array, columns: int | None = None, *, detach: bool = False) -> np.ndarray:
    """A copy of the numbers in float64, checked; with `columns`, as [n, columns].

    Raises TypeError for what is no array of floating-point numbers; ValueError for other shapes, NaN, infinity, and
    a tensor that requires gradients, since there are none through scipy, unless `detach` says that none are wanted.

    >>> as_array("z", torch.zeros(1, 2), 2)
    array([[0., 0.]])
    """
    found = getattr(value, "dtype", type(value).__name__)
    real = value.is_floating_point() if isinstance(value, Tensor) else isinstance(value, np.ndarray)
    if not real or not (isinstance(value, Tensor) or np.issubdtype(value.dtype, np.floating)):
        raise TypeError(f"{name}: expected a numpy array or a tensor of floating-point numbers, got {found}")
    if isinstance(value, Tensor):
        if value.requires_grad and not detach:
            raise ValueError(f"{name}: expected a tensor that requires no gradient (there is none): {name}.detach()")
        value = value.detach().to("cpu", torch.float64).numpy()
    if columns is not None and (value.ndim != 2 or value.shape[1] != columns):
        raise ValueError(f"{name}: expected [n, {columns}], got {list(value.shape)}")
    if not np.isfinite(value).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return np.array(value, np.float64)


def like(result: np.ndarray, given: Array) -> Array:
    """The result as numpy or torch, with the dtype and device of what was given.

    >>> like(np.ones(2), torch.zeros(3))
    tensor([1., 1.])
    """
    if isinstance(given, Tensor):
        return torch.as_tensor(result, dtype=given.dtype, device=given.device)
    return result.astype(given.dtype)
