"""Probabilistic PCA as a VAE: likelihood, mean-field ELBO, optimum and its angle, all in closed form.

The model is z ~ N(0, I), x ~ N(Az + b, σ²I) with weights A, D × d, and b at its optimum, the data's mean
(K&P §3.1; Tipping and Bishop 1999). Leading dimensions are a batch. All of it is differentiable in the weights.
"""

import math

import torch
from torch import Tensor

from grae_helpers import runtime


def precision(weights: Tensor, variance: float | Tensor, *, beta: float = 1.0) -> Tensor:
    """The precision M = I + AᵀA/(βσ²) of the best posterior, the same for every x, [..., d, d].

    For β = 1 that is the true posterior N(M⁻¹Aᵀ(x − b)/σ², M⁻¹) of PPCA (K&P §3.1); for other β the density
    proportional to p(z) p(x|z)^(1/β), which maximises Eq. 2 (K&P) over all q. Shapes: weights [..., D, d],
    variance (σ², in units of x²) a number or [...]. Raises ValueError for other shapes, NaN, infinity, and a
    variance or β that is not positive; TypeError for what is no tensor of float32 or float64.

    >>> precision(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), 0.5)
    tensor([[9., 0.],
            [0., 3.]])
    """
    weights, variance = _model(weights, variance)
    gram = weights.mT @ weights / (runtime.positive("beta", beta) * variance[..., None, None])
    return gram + torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)


def log_likelihood(weights: Tensor, variance: float | Tensor, covariance: Tensor) -> Tensor:
    """The average log p(x) of data with the covariance S about their mean, [...], nats per sample.

    −½(D log 2π + log|C| + tr C⁻¹S) with C = AAᵀ + σ²I, which has the same value for A and AV, V orthogonal
    (K&P §3.1). Shapes: weights [..., D, d] of any rank, variance a number or [...], covariance [..., D, D],
    divided by n. Raises ValueError for other shapes, NaN, infinity, σ² ≤ 0, and an S that is no covariance.

    >>> log_likelihood(torch.zeros(1, 1), 1.0, torch.ones(1, 1))  # −½(log 2π + 1)
    tensor(-1.4189)
    """
    weights, variance = _model(weights, variance)
    covariance, (D, d) = _covariance(covariance, weights.shape[-2]).to(weights), weights.shape[-2:]
    batch = _shape(covariance=covariance.shape[:-2], weights=weights.shape[:-2], variance=variance.shape)
    identity = torch.eye(D, dtype=weights.dtype, device=weights.device)
    if d < D:  # log|C| = D log σ² + log|M|, and xᵀC⁻¹x = ‖x − AKx‖²/σ² + ‖Kx‖² with the posterior's mean Kx
        log_det = D * variance.log() + _log_det(_cholesky(precision(weights, variance)))
        encoder = encoder_weights(weights, variance)
        residual = identity - weights @ encoder
        trace = ((residual @ covariance) * residual).sum((-2, -1)) / variance
        trace = trace + ((encoder @ covariance) * encoder).sum((-2, -1))
    else:
        factor = _cholesky(weights @ weights.mT + variance[..., None, None] * identity)
        log_det = _log_det(factor)
        solved = torch.cholesky_solve(covariance.expand(*batch, D, D), factor.expand(*batch, D, D))
        trace = solved.diagonal(dim1=-2, dim2=-1).sum(-1)
    return -(D * math.log(2 * math.pi) + log_det + trace) / 2


def mean_field_deficit(weights: Tensor, variance: float | Tensor, *, beta: float = 1.0) -> Tensor:
    """What a mean-field posterior costs, the same for every x: (β/2)(Σ_k log M_kk − log|M|), [...], nats.

    β times the least KL(q‖N(m, M⁻¹)) over factorised q, with M the `precision`; q has the true mean and the
    variances 1/M_kk. Zero exactly where the columns of A are orthogonal, so a rotation AV costs nothing for
    every V only if they also have one norm (K&P §3.1). Raises ValueError as `precision` does.

    >>> mean_field_deficit(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), 1.0)
    tensor(0.)
    >>> mean_field_deficit(torch.tensor([[1.0, 0.5], [0.0, 1.0]]), 1.0)  # ½ log(2 · 2.25 / 4.25)
    tensor(0.0286)
    """
    matrix = precision(weights, variance, beta=beta)
    # From the correlations of M: orthogonal columns then give zero, not the difference of two logarithms.
    scale = matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    correlation = scale[..., :, None] * matrix * (1 - identity) * scale[..., None, :] + identity
    factor = _cholesky(correlation)
    return beta * factor.diagonal(dim1=-2, dim2=-1).reciprocal().log().sum(-1)


def mean_field_elbo(weights: Tensor, variance: float | Tensor, covariance: Tensor, *, beta: float = 1.0) -> Tensor:
    """The best that a mean-field posterior reaches in Eq. 2 (K&P), averaged over the data, [...], nats a sample.

    For β = 1 `log_likelihood` − `mean_field_deficit`. In general the first term is β log N(x; b, AAᵀ + βσ²I)
    + (D/2)(β log 2πβσ² − log 2πσ²), averaged: p(x|z)^(1/β) is a Gaussian in x of variance βσ², not normalised.
    Shapes and errors are those of the two.

    >>> mean_field_elbo(torch.zeros(1, 1), 1.0, torch.ones(1, 1), beta=0.5)  # A = 0: β plays no part
    tensor(-1.4189)
    """
    deficit = mean_field_deficit(weights, variance, beta=beta)
    weights, variance = _model(weights, variance)
    normaliser = beta * (2 * math.pi * beta * variance).log() - (2 * math.pi * variance).log()
    likelihood = log_likelihood(weights, beta * variance, covariance)
    return beta * likelihood + weights.shape[-2] / 2 * normaliser - deficit


def principal_weights(covariance: Tensor, variance: float | Tensor, latent_dim: int) -> Tensor:
    """PPCA's maximum likelihood at a fixed noise variance: U diag(√(λ − σ²)₊), [..., D, d].

    λ and U are the d greatest eigenvalues of S, descending, and their eigenvectors (Tipping and Bishop 1999).
    The columns are orthogonal, so this is the maximum of `mean_field_elbo` too (at variance βσ² for other β),
    there unique up to signs and order where the λ differ. Shapes: covariance [..., D, D], variance a number
    or [...]. Raises ValueError for what is no covariance, σ² ≤ 0, and a latent_dim outside 1 … D.

    >>> principal_weights(torch.diag(torch.tensor([1.25, 5.0])), 1.0, 2).abs()
    tensor([[0.0000, 0.5000],
            [2.0000, 0.0000]])
    """
    covariance = _covariance(covariance, None)
    runtime.integer("latent_dim", latent_dim, 1)
    if latent_dim > covariance.shape[-1]:
        raise ValueError(f"latent_dim: expected at most D = {covariance.shape[-1]}, got {latent_dim}")
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    top = slice(-latent_dim, None)
    variance = _variance(variance, covariance)
    _shape(covariance=covariance.shape[:-2], variance=variance.shape)
    excess = eigenvalues[..., top] - variance[..., None]
    return (eigenvectors[..., top] * excess.clamp(min=0).sqrt()[..., None, :]).flip(-1)


def encoder_weights(weights: Tensor, variance: float | Tensor, *, beta: float = 1.0) -> Tensor:
    """The matrix that takes x − b to the posterior's mean: M⁻¹Aᵀ/(βσ²), [..., d, D].

    The best mean-field q has the same mean as the best q of all, so this is the optimal C of q = N(Cx + d, Σ)
    for both families (K&P App. C). Shapes and errors are those of `precision`.

    >>> encoder_weights(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), 1.0)
    tensor([[0.4000, 0.0000],
            [0.0000, 0.5000]])
    """
    matrix = precision(weights, variance, beta=beta)
    weights, variance = _model(weights, variance)
    transposed = (weights / (beta * variance[..., None, None])).mT
    shape = torch.broadcast_shapes(transposed.shape[:-2], matrix.shape[:-2])
    transposed = transposed.expand(*shape, *transposed.shape[-2:])
    return torch.cholesky_solve(transposed, _cholesky(matrix).expand(*shape, *matrix.shape[-2:]))


def own_angle(weights: Tensor) -> Tensor:
    """The angle at which mean-field inference sees the latents of x = Wz + noise: θ*(W), [...], degrees (−45, 45].

    ½ atan2(2(WᵀW)₀₁, (WᵀW)₀₀ − (WᵀW)₁₁), with whole quarter turns taken off: WR(θ*) has orthogonal columns, and
    is `principal_weights` up to signs and order as n → ∞, so that z = R(θ*)S m for a signed permutation S
    (App. C's angle between true and inferred latents). It does not depend on σ² or β. Weights of rank one
    have an angle. Shape: weights [..., D, 2]. Raises ValueError for NaN, other shapes, and columns that are
    orthogonal with one norm to rounding: every angle is then as good.

    >>> own_angle(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))  # ½ atan2(2, −1), less a quarter turn: −26.57
    tensor(-31.7175)
    """
    weights, _ = _model(weights, 1.0)
    if weights.shape[-1] != 2:
        raise ValueError(f"weights: expected [..., D, 2], got {list(weights.shape)}")
    largest = weights.detach().abs().amax((-2, -1), keepdim=True)  # an angle has no units, and squares overflow
    weights = weights / torch.where(largest > 0, largest, torch.ones_like(largest))
    first, second = weights.unbind(-1)
    cosine = ((first - second) * (first + second)).sum(-1)  # (WᵀW)₀₀ − (WᵀW)₁₁
    sine = 2 * (first * second).sum(-1)
    size = weights.square().sum((-2, -1))
    isotropic = torch.hypot(cosine, sine) <= 16 * torch.finfo(weights.dtype).eps * size
    if isotropic.any():
        raise ValueError(
            "weights: expected columns of different norms or not orthogonal, "
            f"{int(isotropic.sum())} of {isotropic.numel()} have no angle of their own: WᵀW is a multiple of I"
        )
    angle = torch.rad2deg(torch.atan2(sine, cosine)) / 2
    wrapped = 45 - torch.remainder(45 - angle, 90)
    return torch.where(wrapped <= -45, torch.full_like(wrapped, 45), wrapped)


def _model(weights: Tensor, variance: float | Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(weights, Tensor) or weights.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"weights: expected a tensor of float32 or float64, got {_kind(weights)}")
    if weights.ndim < 2 or 0 in weights.shape[-2:]:
        raise ValueError(f"weights: expected [..., D ≥ 1, d ≥ 1], got {list(weights.shape)}")
    if not bool(torch.isfinite(weights).all()):
        raise ValueError("weights: expected finite numbers, got NaN or infinity")
    variance = _variance(variance, weights)
    _shape(weights=weights.shape[:-2], variance=variance.shape)
    return weights, variance


def _variance(variance: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(variance, Tensor):
        found = variance.to(like)
        if not bool(((found > 0) & torch.isfinite(found)).all()):
            raise ValueError("variance: expected positive, finite numbers, got others among them")
        return found
    return torch.as_tensor(runtime.positive("variance", variance), dtype=like.dtype, device=like.device)


def _covariance(covariance: Tensor, size: int | None) -> Tensor:
    if not isinstance(covariance, Tensor) or covariance.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"covariance: expected a tensor of float32 or float64, got {_kind(covariance)}")
    rows, columns = covariance.shape[-2:] if covariance.ndim >= 2 else (0, 0)
    if rows != columns or rows == 0 or rows != (size or rows):
        wanted = "D, D" if size is None else f"{size}, {size}"
        raise ValueError(f"covariance: expected [..., {wanted}], got {list(covariance.shape)}")
    matrix = covariance.detach()
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("covariance: expected finite numbers, got NaN or infinity")
    tolerance = 1e3 * torch.finfo(matrix.dtype).eps * matrix.abs().amax((-2, -1))
    if bool(((matrix - matrix.mT).abs().amax((-2, -1)) > tolerance).any()):
        raise ValueError("covariance: expected symmetric, got a matrix that differs from its transpose")
    if bool((torch.linalg.eigvalsh(matrix)[..., 0] < -tolerance).any()):
        raise ValueError("covariance: expected no negative eigenvalue, got one")
    return covariance


def _shape(**batches: torch.Size) -> torch.Size:
    try:
        return torch.broadcast_shapes(*batches.values())
    except RuntimeError:
        found = " and ".join(f"{list(shape)} of {name}" for name, shape in batches.items())
        raise ValueError(f"leading dimensions: expected those of a batch, got {found}") from None


def _cholesky(matrix: Tensor) -> Tensor:
    """The factor; its squared pivots must rise above the rounding of what they were subtracted from."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    rounding = matrix.shape[-1] * torch.finfo(matrix.dtype).eps
    pivots = factor.diagonal(dim1=-2, dim2=-1).square() > rounding * matrix.diagonal(dim1=-2, dim2=-1)
    if bool((failed != 0).any()) or not bool(pivots.all()):
        raise ValueError(
            "weights and variance: expected a variance that the weights' squares do not swallow; "
            f"I + AᵀA/σ² is singular to the rounding of {matrix.dtype}"
        )
    return factor


def _log_det(factor: Tensor) -> Tensor:
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _kind(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
