"""The Fréchet distance of two Gaussians, precise for singular and for nearly equal ones too, and streamed moments."""

import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

PRECISION = 1e-9  # of the distance, relative: a cheaper route is taken where its error stays below
ROWS = 2048  # of a table that are turned into float64 at a time


class SingularCovariance(UserWarning):
    """A covariance without full rank, as that of N images in D ≥ N features: FID is then biased upwards, a lot."""


def frechet_distance(mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike) -> float:
    """The squared Fréchet (Wasserstein-2) distance of two Gaussians, in squared units of the features.

    ‖μ_a − μ_b‖² + tr Σ_a + tr Σ_b − 2 tr (Σ_a^½ Σ_b Σ_a^½)^½ (Dowson & Landau 1982; Heusel et al. 2017, Eq. 6). The
    last trace is the nuclear norm of LᵀK for any factors Σ_a = LLᵀ and Σ_b = KKᵀ, so that no square root of a matrix
    is taken, and the covariances' part is min ‖L − KQ‖² over rotations Q: never negative, 0 for equal ones. Singular
    covariances are warned of (`SingularCovariance`). Shapes: means [D], covariances [D, D], numpy or torch, computed
    in float64. Raises ValueError for other shapes, what is not finite, and matrices that are not symmetric or have
    eigenvalues below 0, beyond the rounding of the type they came in.

    >>> frechet_distance([0.0], [[1.0]], [3.0], [[4.0]])  # (0 − 3)² + (1 − 2)²
    10.0
    """
    means = [_array(f"mean_{which}", mean, "[D]") for which, mean in (("a", mean_a), ("b", mean_b))]
    covs = [_array(f"cov_{which}", cov, "[D, D]") for which, cov in (("a", cov_a), ("b", cov_b))]
    shapes = [list(value.shape) for value, _ in means + covs]
    d = shapes[0][0]
    if not d or shapes != [[d], [d], [d, d], [d, d]]:
        raise ValueError(f"means and covariances: expected [D], [D], [D, D] and [D, D], got {shapes}")
    factors = [_factor(f"cov_{which}", *cov) for which, cov in zip("ab", covs, strict=True)]
    ranks = [factor.shape[1] for factor in factors]
    if min(ranks) < d:
        text = f"covariances of ranks {ranks[0]} and {ranks[1]} in D = {d} dimensions: singular, as of too few images"
        warnings.warn(text, SingularCovariance, stacklevel=2)
    return float(np.square(means[0][0] - means[1][0]).sum()) + _between(*factors)


def moments(features: Tensor | Iterable[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """The mean [D] and the covariance [D, D] of n feature vectors (over n − 1), in float64.

    `features` is a table [n, D] or an iterable of such batches, of which one is held at a time. n ≤ D is warned of
    (`SingularCovariance`). Raises ValueError for n < 2, other shapes and what is not finite; TypeError for integers.

    >>> mean, cov = moments(torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]]))
    >>> mean.tolist(), cov.tolist()
    ([1.0, 1.0], [[1.0, 0.0], [0.0, 3.0]])
    """
    sums = summed([features] if isinstance(features, Tensor | np.ndarray) else features)
    if sums.n < 2:
        raise ValueError(f"features: expected two vectors or more, got {sums.n}")
    warn_of_few(sums.n, len(sums.mean))
    return sums.moments()


class Sums(NamedTuple):
    """How many vectors there are, their mean [D] and the sum of outer products about it, [D, D]."""

    n: int
    mean: np.ndarray
    scatter: np.ndarray

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean and the covariance, over n − 1."""
        return self.mean, self.scatter / (self.n - 1)

    def plus(self, other: "Sums") -> "Sums":
        """Those of both sets of vectors together (Chan et al. 1983): nothing is subtracted that could cancel."""
        n, step = self.n + other.n, other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.n * other.n / n)
        return Sums(n, self.mean + step * (other.n / n), scatter)


def summed(batches: Iterable[Tensor]) -> Sums:
    """The sums over batches [b, D], of which one is held at a time (Chan et al. 1983).

    Raises as `moments`, and ValueError for batches of more than one D.

    >>> summed([torch.zeros(2, 1), torch.ones(2, 1)]).scatter
    array([[1.]])
    """
    n, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    for batch in _chunks(batches):
        rows, own = len(batch), batch.mean(0)
        if not n:
            mean, scatter = own, np.zeros((len(own), len(own)))
        if len(own) != len(mean):
            raise ValueError(f"features: expected batches of one D, got {len(mean)} and {len(own)}")
        centred, step = batch - own, own - mean
        scatter += centred.T @ centred + np.outer(step, step) * (n * rows / (n + rows))
        n, mean = n + rows, mean + step * (rows / (n + rows))
    return Sums(n, mean, scatter)


def distance_of_sums(a: Sums, b: Sums) -> float:
    """The Fréchet distance of the Gaussians with these moments, without a warning."""
    (mean_a, cov_a), (mean_b, cov_b) = a.moments(), b.moments()
    factors = [_factor("features", cov, float(np.finfo(float).eps)) for cov in (cov_a, cov_b)]
    return float(np.square(mean_a - mean_b).sum()) + _between(*factors)


def table(name: str, features: Tensor) -> Tensor:
    """A table of features [n, D], checked.

    >>> table("real", torch.zeros(3))
    Traceback (most recent call last):
    ...
    ValueError: real: expected [n, D], got [3]
    """
    found = torch.as_tensor(features).detach()
    if not found.is_floating_point():
        raise TypeError(f"{name}: expected floating point features, got {found.dtype}")
    if found.ndim != 2 or not found.shape[1]:
        raise ValueError(f"{name}: expected [n, D], got {list(found.shape)}")
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{name}: expected finite features, got NaN or infinity")
    return found


def warn_of_few(n: int, d: int, what: str = "N") -> None:
    """Warn of n ≤ D, in the name of the function that calls this one's caller."""
    if n <= d:
        text = f"{what} = {n} images in D = {d} features: a singular covariance, and FID is biased upwards, a lot"
        warnings.warn(text, SingularCovariance, stacklevel=3)


def _chunks(batches: Iterable[Tensor]) -> Iterator[np.ndarray]:
    for batch in batches:
        for part in table("features", batch).split(ROWS):
            if len(part):
                yield part.to("cpu", torch.float64).numpy()


def _array(name: str, values: ArrayLike, shape: str) -> tuple[np.ndarray, float]:
    """The values in float64, with the rounding unit of the type they came in."""
    tensor = torch.as_tensor(values if isinstance(values, Tensor) else np.asarray(values)).detach()  # lists: float64
    kind = tensor.dtype if tensor.is_floating_point() else torch.float64
    array = tensor.to("cpu", torch.float64).numpy()
    if array.ndim != 1 + shape.count(","):
        raise ValueError(f"{name}: expected {shape}, got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return array, torch.finfo(kind).eps


def _factor(name: str, cov: np.ndarray, eps: float) -> np.ndarray:
    """L [D, rank] with LLᵀ = Σ.

    By way of the correlations: features of very different scales keep their digits, and rounding is told from rank.
    """
    scale, room = np.sqrt(cov.diagonal().clip(min=0)), 8 * len(cov) * eps
    bound = np.outer(scale, scale)
    if (np.abs(cov - cov.T) > room * bound).any():
        raise ValueError(
            f"{name}: expected a symmetric matrix, got differences up to {np.abs(cov - cov.T).max():.3g}"
        )
    if (cov.diagonal() < 0).any() or (np.abs(cov) > (1 + room) * bound).any():
        raise ValueError(f"{name}: expected a covariance, got one with negative eigenvalues")
    live = scale > 0  # not a constant feature, such as a unit that never fires
    part = _root(name, cov[np.ix_(live, live)] / bound[np.ix_(live, live)], eps)
    factor = np.zeros((len(cov), part.shape[1]))
    factor[live] = scale[live, None] * part
    return factor


def _root(name: str, correlation: np.ndarray, eps: float) -> np.ndarray:
    """The same of correlations: Cholesky's, or where they are singular eigh's, without what is rounding."""
    if not len(correlation):
        return correlation
    rounding = len(correlation) * eps
    try:
        lower = np.linalg.cholesky(correlation)
        if np.square(lower.diagonal()).min() > rounding:  # what the earlier features leave unexplained of each
            return lower
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(correlation)
    if values[0] < -rounding * values[-1]:
        raise ValueError(f"{name}: expected a covariance, got correlations with eigenvalue {values[0]:.3g}")
    kept = values > rounding * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])


def _between(left: np.ndarray, right: np.ndarray) -> float:
    """min over rotations Q of ‖L − KQ‖² = ‖L‖² + ‖K‖² − 2 ‖LᵀK‖_*, by the cheapest route that is precise enough."""
    total, cross = np.square(left).sum() + np.square(right).sum(), left.T @ right
    if not cross.size:
        return float(total)
    squares = np.linalg.eigvalsh(cross @ cross.T if len(cross) <= len(cross.T) else cross.T @ cross).clip(min=0)
    rounding = max(len(squares) * np.finfo(float).eps * squares[-1], np.finfo(float).tiny)
    lost = (rounding / np.sqrt(squares.clip(min=rounding))).sum()  # to squaring, which small ones do not bear
    found = total - 2 * np.sqrt(squares).sum()
    if lost < PRECISION * found:
        return float(found)
    if found > 1e-6 * total:
        return float(total - 2 * np.linalg.svd(cross, compute_uv=False).sum())
    width = max(cross.shape)  # nearly equal: Q itself, since a difference of large numbers would be noise
    left, right = (np.pad(factor, ((0, 0), (0, width - factor.shape[1]))) for factor in (left, right))
    u, _, vt = np.linalg.svd(left.T @ right)
    return float(np.square(left @ u - right @ vt.T).sum())
