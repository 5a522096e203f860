"""Variational posteriors q(z|x): torch distributions with event shape [d], from a network's raw outputs."""

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence


def block_mask(latent_dim: int, block_size: int | None = None) -> Tensor:
    """Which entries of a [d, d] matrix lie in its diagonal blocks, bool [d, d].

    Blocks are consecutive; where `block_size` does not divide d the last block is smaller (K&P's Fig. 2 has d
    = 8, b = 3). None is one block of d, 1 the diagonal. Raises ValueError unless 1 ≤ block_size ≤ d,
    TypeError if it is no integer.

    >>> block_mask(3, 2).int()
    tensor([[1, 1, 0],
            [1, 1, 0],
            [0, 0, 1]], dtype=torch.int32)
    """
    block = torch.arange(latent_dim) // _block_size(latent_dim, block_size)
    return block[:, None] == block[None, :]


def _block_size(latent_dim: int, block_size: int | None) -> int:
    size = latent_dim if block_size is None else block_size
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"block_size: expected an integer or None, got {block_size!r}")
    if not 1 <= size <= latent_dim:
        raise ValueError(f"block_size: expected 1 to d = {latent_dim}, got {size}")
    return size


def n_raw(latent_dim: int, block_size: int | None = None) -> int:
    """How many raw numbers describe the covariance: the lower triangles of its Cholesky blocks.

    >>> n_raw(8, 1), n_raw(8, 3), n_raw(8, None)
    (8, 15, 36)
    """
    size = _block_size(latent_dim, block_size)
    return sum(row % size + 1 for row in range(latent_dim))


def family_name(block_size: int | None) -> str:
    """How the book calls the family of Gaussian posteriors with these blocks.

    >>> family_name(1), family_name(3), family_name(None)
    ('mean field', 'blocks of 3', 'full')
    """
    return {None: "full", 1: "mean field"}.get(block_size, f"blocks of {block_size}")


def gaussian(mean: Tensor, raw: Tensor, block_size: int | None = None) -> Distribution:
    """The Gaussian posterior N(mean, CCᵀ), with C block diagonal and lower triangular (K&P §7).

    `raw` fills C's lower triangle row by row, block entries only, and its diagonal entries are log-scales:
    C_ii = exp(raw_ii). So raw = 0 is the prior's covariance I, and log|Σ| is twice the sum of those entries.

    Shapes: mean [batch, d], raw [batch, n_raw(d, block_size)]. `block_size` 1 gives the mean-field posterior,
    b blocks of b (the last one smaller where b does not divide d), None the full covariance. Raises
    ValueError for other shapes, TypeError for mixed dtypes.

    >>> _ = torch.manual_seed(0)
    >>> posterior = gaussian(torch.zeros(4, 3), torch.randn(4, n_raw(3, 2)), block_size=2)
    >>> posterior.event_shape, posterior.batch_shape
    (torch.Size([3]), torch.Size([4]))
    """
    _check_raw(mean, raw, block_size)
    if block_size == 1:
        return Independent(Normal(mean, raw.exp(), validate_args=False), 1, validate_args=False)
    latent_dim = mean.shape[1]
    rows, columns = torch.nonzero(block_mask(latent_dim, block_size).tril(), as_tuple=True)
    on_diagonal = (rows == columns).to(raw.device)
    # exp only where it is used: an off-diagonal entry of 100 must not become inf · 0 in the backward pass
    entries = torch.where(on_diagonal, torch.where(on_diagonal, raw, 0).exp(), raw)
    cholesky = mean.new_zeros(*mean.shape, latent_dim)
    samples = torch.arange(mean.shape[0], device=mean.device)[:, None]
    cholesky = cholesky.index_put((samples, rows.to(mean.device), columns.to(mean.device)), entries)
    return MultivariateNormal(mean, scale_tril=cholesky, validate_args=False)


def _check_raw(mean: Tensor, raw: Tensor, block_size: int | None) -> None:
    if mean.ndim != 2 or mean.shape[0] == 0:
        raise ValueError(f"mean: expected [batch ≥ 1, d], got {list(mean.shape)}")
    expected = [mean.shape[0], n_raw(mean.shape[1], block_size)]
    if list(raw.shape) != expected:
        raise ValueError(f"raw: expected {expected} for block_size {block_size}, got {list(raw.shape)}")
    if raw.dtype != mean.dtype or not mean.is_floating_point():
        raise TypeError(f"mean and raw: expected one floating dtype, got {mean.dtype} and {raw.dtype}")


def covariance(posterior: Distribution) -> Tensor:
    """The covariance Σ of each posterior, [batch, d, d]; for a factorised family, its variances.

    Raises TypeError for a distribution whose covariance is not known.

    >>> covariance(gaussian(torch.zeros(1, 2), torch.zeros(1, 3)))
    tensor([[[1., 0.],
             [0., 1.]]])
    """
    factor = scale(posterior)
    return factor @ factor.mT


def scale(posterior: Distribution) -> Tensor:
    """C with CCᵀ = Σ, [batch, d, d]: the Cholesky factor, or the standard deviations of a factorised family.

    Raises TypeError for a distribution whose covariance is not known.

    >>> scale(gaussian(torch.zeros(1, 1), torch.zeros(1, 1))).tolist()
    [[[1.0]]]
    """
    if isinstance(posterior, MultivariateNormal):
        return posterior.scale_tril
    if isinstance(posterior, Independent) and posterior.reinterpreted_batch_ndims == 1:
        return torch.diag_embed(posterior.base_dist.stddev)
    raise TypeError(f"expected MultivariateNormal, or Independent over one dimension, got {type(posterior).__name__}")


def kl_to_prior(posterior: Distribution) -> Tensor:
    """KL(q‖N(0, I)) in nats, [batch].

    For a Gaussian it is ½(‖μ‖² + tr Σ − log|Σ| − d), as in K&P Eq. 8; another factorised family must have its
    KL to a Normal registered in torch (NotImplementedError otherwise).

    >>> kl_to_prior(gaussian(torch.ones(1, 2), torch.zeros(1, 2), block_size=1))
    tensor([1.])
    """
    mean, base = posterior.mean, getattr(posterior, "base_dist", None)
    if isinstance(base, Normal) and posterior.reinterpreted_batch_ndims == 1:
        variance = base.scale.square()  # written out, since torch.compile does not trace how torch looks it up
        return 0.5 * (variance + mean.square() - 1 - variance.log()).sum(-1)
    if not isinstance(posterior, MultivariateNormal):
        prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean), validate_args=False), 1)
        return kl_divergence(posterior, prior)
    cholesky = posterior.scale_tril
    log_det = 2 * cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (mean.square().sum(-1) + cholesky.square().sum((-2, -1)) - log_det - cholesky.shape[-1])
