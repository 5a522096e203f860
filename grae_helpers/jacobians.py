"""Derivatives of the decoder, per sample: Jacobians, Hessians of log p(x|z), the optimal covariance.

A decoder is any callable from z [batch, d] to g [batch, ...] that treats samples independently. Batch
normalisation in train mode does not: there every derivative is taken with the statistics of the batch held
constant, at the values that the plain forward pass at z has, and gradients with respect to parameters still
flow through them.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor

from grae_helpers import posteriors, runtime, tangents
from grae_helpers.decoding import ConstantStatistics, Decoder, check_latents, check_output, check_placement, explained
from grae_helpers.likelihoods import Likelihood


def _push(run: Decoder, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """(g, J V) for directions V [batch, d, k]: one primal pass, and one tangent pass for all k columns."""

    z = z.contiguous()  # forward mode refuses memory that an expanded tensor shares

    def push(direction: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(run, (z,), (direction,))

    g, columns = torch.vmap(push, in_dims=2, out_dims=(None, 0))(directions)
    return g, columns.flatten(2).movedim(0, 2)


def _push_first(run: Decoder, z: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """(g, J v) for one direction [batch, d], in a dual pass that records statistics from its primal part."""
    keep = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(keep), forward_ad.dual_level():
        # inference mode drops tangents, and forward mode refuses memory that an expanded tensor shares
        z, direction = (t.clone() if t.is_inference() else t.contiguous() for t in (z, direction))
        g, tangent = forward_ad.unpack_dual(run(forward_ad.make_dual(z, direction)))
        return g, (torch.zeros_like(g) if tangent is None else tangent).flatten(1).unsqueeze(2)


def _chunks(batch: int, k: int) -> Iterator[slice]:
    """Slices of the batch: a chunk with its k tangents is no larger than half the batch, or 64 samples.

    A tangent pass keeps about twice what a plain one does, so that its peak is one plain pass of the batch.
    Where a graph is recorded everything is kept anyway, and the batch is taken whole.
    """
    size = batch if torch.is_grad_enabled() else max(1, max(batch // 2, 64) // (k + 1))
    return (slice(start, stop) for start, stop in pairwise([*range(0, batch, size), batch]))


def _recorded(decoder: Decoder, z: Tensor) -> ConstantStatistics:
    """The decoder after a plain pass over the whole batch: statistics of a chunk would be other ones."""
    passes = ConstantStatistics(decoder)
    passes.run(z)
    return passes


def push_forward(decoder: Decoder, z: Tensor, directions: Tensor) -> Tensor:
    """J_g(z) V, the decoder's directional derivatives, by forward mode in chunks of bounded memory.

    Shapes: z [batch, d], directions V [batch, d, k] → [batch, D, k], D the flattened output.

    >>> push_forward(torch.nn.Linear(2, 3), torch.zeros(5, 2), torch.zeros(5, 2, 4)).shape
    torch.Size([5, 3, 4])
    """
    if directions.ndim != 3 or directions.shape[:2] != z.shape:
        raise ValueError(f"directions: expected [{z.shape[0]}, {z.shape[-1]}, k], got {list(directions.shape)}")
    run = _recorded(decoder, z).run
    parts = [_push(run, z[part], directions[part])[1] for part in _chunks(len(z), directions.shape[2])]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def jacobian(decoder: Decoder, z: Tensor) -> Tensor:
    """The Jacobian J_g(z) of each sample, [batch, D, d], by forward mode over columns (K&P §4).

    Works in chunks of samples: without a graph, peak memory is about the result and one forward pass of the
    batch. Batch normalisation in train mode: statistics held constant (see the module). Raises what `decode`
    raises.

    >>> jacobian(torch.nn.Linear(2, 3), torch.zeros(5, 2)).shape
    torch.Size([5, 3, 2])
    """
    return push_forward(decoder, z, _identity(z))


def _identity(z: Tensor) -> Tensor:
    check_latents(z)
    return torch.eye(z.shape[1], dtype=z.dtype, device=z.device).expand(*z.shape, z.shape[1])


def jacobian_columns(decoder: Decoder, z: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """g and the chosen columns of J_g(z), in one dual pass: (g, [batch, D, k]).

    `columns` is int64: [k], or [batch, k] for one choice per sample. A column costs one more pass through the
    decoder. In train mode this is the forward pass of the step: running statistics are updated once, as a
    plain pass would. Raises ValueError for indices outside 0 … d − 1 or another shape, TypeError for another
    dtype.

    >>> g, first = jacobian_columns(torch.nn.Linear(2, 3), torch.zeros(5, 2), torch.tensor([0]))
    >>> g.shape, first.shape
    (torch.Size([5, 3]), torch.Size([5, 3, 1]))
    """
    check_latents(z)
    batch, latent_dim = z.shape
    if columns.dtype != torch.int64:
        raise TypeError(f"columns: expected int64, got {columns.dtype}")
    if columns.ndim == 0 or columns.shape[:-1] not in ((), (batch,)) or columns.numel() == 0:
        raise ValueError(f"columns: expected [k] or [{batch}, k], got {list(columns.shape)}")
    if columns.min() < 0 or columns.max() >= latent_dim:
        raise ValueError(f"columns: expected 0 to {latent_dim - 1}, got {columns.min()} to {columns.max()}")
    return _push_all(decoder, z, F.one_hot(columns, latent_dim).to(z.dtype).expand(batch, -1, -1).transpose(1, 2))


def _push_all(decoder: Decoder, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    run = ConstantStatistics(decoder, update=True).run
    g, first = _push_first(run, z, directions[:, :, 0])
    if directions.shape[2] == 1:
        return g, first
    return g, torch.cat([first, _push(run, z, directions[:, :, 1:])[1]], 2)


def forward_and_push(decoder: Decoder, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """g(z) for the whole batch, and J_g(z) V for its first n samples: the forward pass of a training step.

    A direction costs n/batch of a pass through a decoder that `tangents.supports`, and two such passes, in forward
    mode of autograd, through any other, unless n is the batch. Running statistics are updated once, as by a plain
    pass, and are those of the whole batch.

    Shapes: z [batch, d], directions V [n, d, k] with n ≤ batch → g [batch, ...], [n, D, k]. Raises ValueError for
    other shapes, and what `decode` raises.

    >>> g, pushed = forward_and_push(torch.nn.Linear(2, 3), torch.zeros(5, 2), torch.eye(2)[None, :, :1])
    >>> g.shape, pushed.shape
    (torch.Size([5, 3]), torch.Size([1, 3, 1]))
    """
    check_latents(z)
    n = len(directions)
    if directions.ndim != 3 or directions.shape[1] != z.shape[1] or not 1 <= n <= len(z):
        expected = f"[1 to {len(z)}, {z.shape[1]}, k]"
        raise ValueError(f"directions: expected {expected}, got {list(directions.shape)}")
    if tangents.supports(decoder) and not torch._C._are_functorch_transforms_active():
        check_placement(decoder, z)
        with explained(z):
            g, pushed = tangents.push(decoder, z, directions.permute(2, 0, 1))
        return check_output(g, z), pushed.flatten(2).movedim(0, 2)
    if n == len(z):
        return _push_all(decoder, z, directions)
    passes = ConstantStatistics(decoder, update=True)
    g = passes.run(z)
    return g, _push(passes.run, z[:n], directions)[1]


def hessian(decoder: Decoder, likelihood: Likelihood, x: Tensor, z: Tensor) -> Tensor:
    """The exact Hessian of log p(x|z) in z, [batch, d, d] (K&P Eq. 5): Gauss–Newton and what it neglects.

    JᵀH_pJ comes from forward mode, in float64; Σ_p (∂ log p/∂g_p) ∇²g_p, which is 0 for piecewise-linear
    decoders, from reverse over reverse mode. Shapes: x like the decoder's output, z [batch, d]. Raises what
    `decode` and the likelihood's check raise.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> hessian(lambda z: z**2, Gaussian(), torch.zeros(1, 1), torch.ones(1, 1)).item()  # of −z⁴/2
    -6.0
    """
    return wide_hessian(decoder, likelihood, x, z).to(z.dtype)


def wide_hessian(decoder: Decoder, likelihood: Likelihood, x: Tensor, z: Tensor) -> Tensor:
    """`hessian` in float64, as `wide_gauss_newton` is.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> wide_hessian(torch.nn.Identity(), Gaussian(), torch.zeros(1, 1), torch.ones(1, 1))
    tensor([[[-1.]]], dtype=torch.float64)
    """
    return wide_gauss_newton(decoder, likelihood, x, z) + _widen(_neglected(decoder, likelihood, x, z))


def _neglected(decoder: Decoder, likelihood: Likelihood, x: Tensor, z: Tensor) -> Tensor:
    """Σ_p (∂ log p/∂g_p) ∇²g_p, [batch, d, d], the second term of Eq. 5."""
    keep = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        x, z = (tensor.clone() if tensor.is_inference() else tensor.contiguous() for tensor in (x, z))
        run = _recorded(decoder, z).run
        parts = [_neglected_part(run, likelihood, x[part], z[part], keep) for part in _chunks(len(z), z.shape[1])]
    return torch.cat(parts)


def _neglected_part(run: Decoder, likelihood: Likelihood, x: Tensor, z: Tensor, keep: bool) -> Tensor:
    g = run(z)
    keep = keep and likelihood.log_density(x, g).requires_grad  # a graph only for what wants gradients
    g = g if g.requires_grad else g.detach().requires_grad_()
    slope = _gradient(likelihood.log_density(x, g).sum(), g)
    z = z.view_as(z) if z.requires_grad else z.detach().requires_grad_()  # the slope is a constant to this z
    gradient = _gradient((slope * run(z)).sum(), z)
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[:, None, :].expand(-1, len(z), -1)
    rows = _gradient(gradient, z, basis, keep).transpose(0, 1)
    rows = rows if keep else rows.detach()
    return (rows + rows.mT) / 2


def _gradient(output: Tensor, of: Tensor, basis: Tensor | None = None, keep: bool = True) -> Tensor:
    """∂output/∂of with a graph, or its products with a basis; zeros where nothing depends on it."""
    found = None
    if output.requires_grad:
        batched = basis is not None
        (found,) = torch.autograd.grad(
            output, of, basis, create_graph=keep, allow_unused=True, is_grads_batched=batched
        )
    return of.new_zeros(of.shape if basis is None else basis.shape) if found is None else found


def gauss_newton(decoder: Decoder, likelihood: Likelihood, x: Tensor, z: Tensor) -> Tensor:
    """JᵀH_pJ, the Hessian without the decoder's own curvature, [batch, d, d] (K&P Eq. 6).

    Accumulated in float64 and returned in z's dtype (`wide_gauss_newton` keeps float64, for β far below its entries).
    Exact for piecewise-linear decoders, away from their kinks. Shapes: x like the decoder's output, z [batch, d].

    >>> from grae_helpers.likelihoods import Gaussian
    >>> gauss_newton(torch.nn.Identity(), Gaussian(variance=0.5), torch.zeros(1, 1), torch.ones(1, 1))
    tensor([[[-2.]]])
    """
    return wide_gauss_newton(decoder, likelihood, x, z).to(z.dtype)


def wide_gauss_newton(decoder: Decoder, likelihood: Likelihood, x: Tensor, z: Tensor) -> Tensor:
    """`gauss_newton` in the dtype of the log-determinants, float64.

    At β = 1e-4 float32 would round I + JᵀJ/β too far.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> wide_gauss_newton(torch.nn.Identity(), Gaussian(), torch.zeros(1, 1), torch.ones(1, 1))
    tensor([[[-1.]]], dtype=torch.float64)
    """
    if len(x) != len(z):
        raise ValueError(f"x and z: expected one batch, got {len(x)} and {len(z)}")
    identity = _identity(z)
    run = _recorded(decoder, z).run
    parts = []
    for part in _chunks(len(z), z.shape[1]):
        g, columns = _push(run, z[part], identity[part])
        likelihood.check(x[part], g)
        columns, curvature = _widen(columns), _widen(likelihood.hessian_diag(x[part], g).flatten(1))
        parts.append(columns.mT @ (curvature[:, :, None] * columns))
    return torch.cat(parts)


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.device.type == "mps" else tensor.double()  # mps has no float64


def precision_cholesky(hessian: Tensor, beta: float, block_size: int | None = None) -> Tensor:
    """The Cholesky factor of the blocks of I − H/β, [batch, d, d], in float64.

    H is symmetric: only its lower triangle is read.
    Raises ValueError where I − H/β is not positive definite: Eqs. 9–13 (K&P) have no optimum there.

    >>> precision_cholesky(-3 * torch.eye(2)[None], beta=1.0)
    tensor([[[2., 0.],
             [0., 2.]]], dtype=torch.float64)
    """
    beta = runtime.positive("beta", beta)
    if hessian.ndim != 3 or hessian.shape[1] != hessian.shape[2] or 0 in hessian.shape:
        raise ValueError(f"hessian: expected [batch ≥ 1, d, d], got {list(hessian.shape)}")
    if not hessian.is_floating_point():
        raise TypeError(f"hessian: expected floating point, got {hessian.dtype}")
    mask = posteriors.block_mask(hessian.shape[1], block_size).to(hessian.device)
    identity = torch.eye(hessian.shape[1], device=hessian.device)
    precision = torch.where(mask, identity - _widen(hessian) / beta, 0)
    factor, failed = torch.linalg.cholesky_ex(precision)
    if runtime.readable(factor) and (failed.any() or not torch.isfinite(factor).all()):
        _refuse_indefinite(precision.detach(), beta)
    return factor


def _refuse_indefinite(precision: Tensor, beta: float) -> None:
    finite = torch.isfinite(precision).all((1, 2))
    if not finite.all():
        raise ValueError(f"hessian: NaN or infinity in {int((~finite).sum())} of {len(precision)} samples")
    smallest = torch.linalg.eigvalsh(precision).amin(1)
    raise ValueError(
        f"I − H/β: expected positive definite, got smallest eigenvalue {smallest.min():.3g} "
        f"at sample {smallest.argmin()} ({int((smallest <= 0).sum())} of {len(smallest)} samples fail) "
        f"with β = {beta:g}; β > {beta * (1 - smallest.min()):.4g} would do, "
        "or the Gauss–Newton Hessian of a log-concave likelihood"
    )


def optimal_covariance(hessian: Tensor, beta: float, block_size: int | None = None) -> Tensor:
    """The covariance that maximises Eq. 8: (I − H/β)⁻¹, and with blocks ((I − H/β)_bb)⁻¹ (K&P Eqs. 9, 11).

    Shapes: hessian [batch, d, d] → [batch, d, d], in the Hessian's dtype.
    Raises ValueError for β ≤ 0 or NaN, and where I − H/β is not positive definite.

    >>> optimal_covariance(-torch.eye(2)[None], beta=1.0).diagonal(dim1=1, dim2=2)
    tensor([[0.5000, 0.5000]])
    """
    return torch.cholesky_inverse(precision_cholesky(hessian, beta, block_size)).to(hessian.dtype)
