"""Derivatives of the decoder, per sample: Jacobians by forward mode, Hessians of log p(x|z), the optimal covariance.

A decoder is any callable from z [batch, d] to g [batch, ...] that treats samples independently. Batch normalisation in train
mode does not: there every derivative is taken with the statistics of the batch held constant, at the values that the plain
forward pass at z has, and gradients with respect to parameters still flow through them.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from grae_helpers import posteriors, runtime
from grae_helpers.likelihoods import Likelihood

Decoder = Callable[[Tensor], Tensor]


class _ConstantStatistics(TorchFunctionMode):
    """Batch normalisation with statistics that carry no tangent: recorded at the first pass, replayed at later ones."""

    def __init__(self, decoder: Decoder, update: bool = False):
        super().__init__()
        self.decoder, self.update, self.recorded, self.complete = decoder, update, [], False

    def run(self, z: Tensor) -> Tensor:
        self._replay = iter(self.recorded) if self.complete else None
        with self:
            g = decode(self.decoder, z)
        self.complete = True
        return g

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func is F.dropout and kwargs.get("training", True) and kwargs.get("p", 0.5) > 0:
            raise ValueError("decoder: dropout is in train mode; the Jacobian of a random function is not defined")
        if func is torch.Tensor.add_ and args[0].dtype == torch.int64 and args[0].ndim == 0 and not self._updates():
            return args[0]  # num_batches_tracked counts forward passes, not passes of a derivative
        return func(*args, **kwargs)

    def _updates(self) -> bool:
        return self.update and not self.complete

    def _batch_norm(self, x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
        if not training:
            mean, var = running_mean, running_var
        elif self._replay is not None:
            mean, var = next(self._replay)
        else:
            mean, var = self._record(x, running_mean, running_var, momentum)
        shape = [1, -1] + [1] * (x.ndim - 2)
        scale = (var + eps).rsqrt() if weight is None else weight * (var + eps).rsqrt()
        shift = -mean * scale if bias is None else bias - mean * scale
        return x * scale.view(shape) + shift.view(shape)

    def _record(self, x, running_mean, running_var, momentum):
        primal = forward_ad.unpack_dual(x).primal if forward_ad._current_level >= 0 else x
        dims = [0, *range(2, x.ndim)]
        mean, var = primal.mean(dims), primal.var(dims, correction=0)
        self.recorded.append((mean, var))
        if self._updates() and running_mean is not None:
            n = x.numel() // x.shape[1]
            with torch.no_grad():
                running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
                running_var.lerp_((var.detach() * n / max(n - 1, 1)).to(running_var.dtype), momentum)
        return mean, var


def decode(decoder: Decoder, z: Tensor) -> Tensor:
    """g = decoder(z) in a plain forward pass, with errors that say what z should have been.

    Raises ValueError for z that is not [batch ≥ 1, d], of another width or device than the decoder's, or whose g has another
    batch; TypeError for another dtype.

    >>> decode(torch.nn.Linear(2, 3), torch.zeros(1, 4))
    Traceback (most recent call last):
    ...
    ValueError: z: [1, 4] does not fit the decoder: mat1 and mat2 shapes cannot be multiplied (1x4 and 2x3)
    """
    if z.ndim != 2 or 0 in z.shape:
        raise ValueError(f"z: expected [batch ≥ 1, d ≥ 1], got {list(z.shape)}")
    if isinstance(decoder, torch.nn.Module):
        _check_placement(decoder, z)
    try:
        g = decoder(z)
    except RuntimeError as error:
        if "shapes cannot be multiplied" not in str(error):
            raise
        raise ValueError(f"z: {list(z.shape)} does not fit the decoder: {error}") from error
    if g.ndim < 2 or g.shape[0] != z.shape[0]:
        raise ValueError(f"decoder: expected an output [{z.shape[0]}, ...] for z {list(z.shape)}, got {list(g.shape)}")
    return g


def _check_placement(decoder: torch.nn.Module, z: Tensor) -> None:
    weight = next(decoder.parameters(), None)
    if weight is None:
        return
    if weight.device != z.device:
        raise ValueError(f"z: expected on the decoder's device {weight.device}, got {z.device}")
    if weight.dtype != z.dtype and not torch.is_autocast_enabled(z.device.type):
        raise TypeError(f"z: expected the decoder's dtype {weight.dtype}, got {z.dtype}")


def _push(run: Decoder, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """(g, J V) for directions V [batch, d, k]: the primal pass once, and one tangent pass for all k columns."""

    def push(direction: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(run, (z,), (direction,))

    g, columns = torch.vmap(push, in_dims=2, out_dims=(None, -1))(directions)
    return g, columns.flatten(1, -2)


def _push_first(run: Decoder, z: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """(g, J v) for one direction [batch, d], in a dual pass that may record statistics from its primal part."""
    with forward_ad.dual_level():
        g, tangent = forward_ad.unpack_dual(run(forward_ad.make_dual(z, direction)))
        return g, (torch.zeros_like(g) if tangent is None else tangent).flatten(1).unsqueeze(2)


def _chunks(batch: int, k: int, *tensors: Tensor) -> Iterator[slice]:
    """Slices of the batch such that a chunk with its k tangents holds no more than one forward pass of the whole batch.

    Where a graph is recorded everything is kept anyway, and the batch is taken whole.
    """
    size = batch if torch.is_grad_enabled() else max(1, batch // (k + 1))
    return (slice(start, stop) for start, stop in pairwise([*range(0, batch, size), batch]))


def _prepared(decoder: Decoder, z: Tensor) -> _ConstantStatistics:
    """The decoder with its statistics recorded; the recording pass is made only where a layer needs it."""
    mode = _ConstantStatistics(decoder)
    modules = decoder.modules() if isinstance(decoder, torch.nn.Module) else [None]
    norms = [m for m in modules if m is None or isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if any(m is None or m.training or m.running_mean is None for m in norms):
        mode.run(z)
    return mode


def push_forward(decoder: Decoder, z: Tensor, directions: Tensor) -> Tensor:
    """J_g(z) V, the decoder's directional derivatives, by forward mode in chunks of bounded memory.

    Shapes: z [batch, d], directions V [batch, d, k] → [batch, D, k], D the flattened output.

    >>> push_forward(torch.nn.Linear(2, 3), torch.zeros(5, 2), torch.zeros(5, 2, 4)).shape
    torch.Size([5, 3, 4])
    """
    if directions.ndim != 3 or directions.shape[:2] != z.shape:
        raise ValueError(f"directions: expected [{z.shape[0]}, {z.shape[-1]}, k], got {list(directions.shape)}")
    run = _prepared(decoder, z).run
    parts = [_push(run, z[part], directions[part])[1] for part in _chunks(len(z), directions.shape[2])]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def jacobian(decoder: Decoder, z: Tensor) -> Tensor:
    """The Jacobian J_g(z) of each sample, [batch, D, d], by forward mode over columns (K&P §4).

    Works in chunks of samples: without a graph, peak memory is about the result and one forward pass of the batch.
    Batch normalisation in train mode: statistics held constant (see the module). Raises what `decode` raises.

    >>> jacobian(torch.nn.Linear(2, 3), torch.zeros(5, 2)).shape
    torch.Size([5, 3, 2])
    """
    return push_forward(decoder, z, _identity(z))


def _identity(z: Tensor) -> Tensor:
    if z.ndim != 2 or 0 in z.shape:
        raise ValueError(f"z: expected [batch ≥ 1, d ≥ 1], got {list(z.shape)}")
    return torch.eye(z.shape[1], dtype=z.dtype, device=z.device).expand(*z.shape, z.shape[1])


def jacobian_columns(decoder: Decoder, z: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """g and the chosen columns of J_g(z), in one dual pass: (g, [batch, D, k]).

    `columns` is int64: [k], or [batch, k] for one choice per sample. A column costs one more pass through the decoder.
    In train mode this is the forward pass of the step: running statistics are updated once, as a plain pass would.
    Raises ValueError for indices outside 0 … d − 1 or another shape, TypeError for another dtype.

    >>> g, first = jacobian_columns(torch.nn.Linear(2, 3), torch.zeros(5, 2), torch.tensor([0]))
    >>> g.shape, first.shape
    (torch.Size([5, 3]), torch.Size([5, 3, 1]))
    """
    batch, latent_dim = z.shape
    if columns.dtype != torch.int64:
        raise TypeError(f"columns: expected int64, got {columns.dtype}")
    if columns.shape[:-1] not in ((), (batch,)) or columns.numel() == 0:
        raise ValueError(f"columns: expected [k] or [{batch}, k], got {list(columns.shape)}")
    if columns.min() < 0 or columns.max() >= latent_dim:
        raise ValueError(f"columns: expected 0 to {latent_dim - 1}, got {columns.min()} to {columns.max()}")
    directions = F.one_hot(columns, latent_dim).to(z.dtype).expand(batch, -1, -1).transpose(1, 2)
    run = _ConstantStatistics(decoder, update=True).run
    g, first = _push_first(run, z, directions[:, :, 0])
    if directions.shape[2] == 1:
        return g, first
    return g, torch.cat([first, _push(run, z, directions[:, :, 1:])[1]], 2)


def hessian(decoder: Decoder, likelihood: Likelihood, x: Tensor, z: Tensor) -> Tensor:
    """The exact Hessian of log p(x|z) in z, [batch, d, d] (K&P Eq. 5), by reverse mode over reverse mode.

    Shapes: x like the decoder's output, z [batch, d]. Raises what `decode` and the likelihood's check raise.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> hessian(torch.nn.Identity(), Gaussian(), torch.zeros(1, 1), torch.ones(1, 1)).item()
    -1.0
    """
    keep = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        x, z = (tensor.clone() if tensor.is_inference() else tensor for tensor in (x, z))
        run = _prepared(decoder, z)
        parts = [_hessian(run, likelihood, x[part], z[part], keep) for part in _chunks(len(z), z.shape[1])]
    return torch.cat(parts)


def _hessian(run: _ConstantStatistics, likelihood: Likelihood, x: Tensor, z: Tensor, keep: bool) -> Tensor:
    z = z.view_as(z) if z.requires_grad else z.detach().requires_grad_()
    log_density = likelihood.log_prob(x, run.run(z)).sum()
    (gradient,) = torch.autograd.grad(log_density, z, create_graph=True)
    if not gradient.requires_grad:
        return gradient.new_zeros(*z.shape, z.shape[1])
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[:, None, :].expand(-1, len(z), -1)
    (rows,) = torch.autograd.grad(
        gradient, z, basis, is_grads_batched=True, create_graph=keep, allow_unused=True, materialize_grads=True
    )
    rows = rows.transpose(0, 1) if keep else rows.transpose(0, 1).detach()
    return (rows + rows.mT) / 2


def gauss_newton(decoder: Decoder, likelihood: Likelihood, x: Tensor, z: Tensor) -> Tensor:
    """JᵀH_pJ, the Hessian without the decoder's own curvature, [batch, d, d] (K&P Eq. 6).

    Accumulated in float64 and returned in z's dtype; exact for piecewise-linear decoders, away from their kinks.
    Shapes: x like the decoder's output, z [batch, d].

    >>> from grae_helpers.likelihoods import Gaussian
    >>> gauss_newton(torch.nn.Identity(), Gaussian(variance=0.5), torch.zeros(1, 1), torch.ones(1, 1))
    tensor([[[-2.]]])
    """
    return wide_gauss_newton(decoder, likelihood, x, z).to(z.dtype)


def wide_gauss_newton(decoder: Decoder, likelihood: Likelihood, x: Tensor, z: Tensor) -> Tensor:
    """`gauss_newton` in the dtype of the log-determinants, float64: at β = 1e-4 float32 would round I + JᵀJ/β too far."""
    identity = _identity(z)
    run = _prepared(decoder, z).run
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

    Raises ValueError where I − H/β is not positive definite: Eqs. 9–13 (K&P) have no optimum there.

    >>> precision_cholesky(-3 * torch.eye(2)[None], beta=1.0)
    tensor([[[2., 0.],
             [0., 2.]]], dtype=torch.float64)
    """
    beta = runtime.positive("beta", beta)
    if hessian.ndim != 3 or hessian.shape[1] != hessian.shape[2] or 0 in hessian.shape:
        raise ValueError(f"hessian: expected [batch ≥ 1, d, d], got {list(hessian.shape)}")
    mask = posteriors.block_mask(hessian.shape[1], block_size).to(hessian.device)
    identity = torch.eye(hessian.shape[1], device=hessian.device)
    precision = torch.where(mask, identity - _widen(hessian) / beta, 0)
    factor, failed = torch.linalg.cholesky_ex(precision)
    if failed.any():
        _refuse_indefinite(precision.detach(), beta)
    return factor


def _refuse_indefinite(precision: Tensor, beta: float) -> None:
    finite = torch.isfinite(precision).all((1, 2))
    if not finite.all():
        raise ValueError(f"hessian: NaN or infinity in {int((~finite).sum())} of {len(precision)} samples")
    smallest = torch.linalg.eigvalsh(precision).amin(1)
    raise ValueError(
        f"I − H/β: expected positive definite, got smallest eigenvalue {smallest.min():.3g} at sample {smallest.argmin()} "
        f"({int((smallest <= 0).sum())} of {len(smallest)} samples fail) with β = {beta:g}; "
        f"β > {beta * (1 - smallest.min()):.4g} would do, or the Gauss–Newton Hessian of a log-concave likelihood"
    )


def optimal_covariance(hessian: Tensor, beta: float, block_size: int | None = None) -> Tensor:
    """The covariance that maximises Eq. 8: Σ = (I − H/β)⁻¹, and with blocks ((I − H/β)_bb)⁻¹ (K&P Eqs. 9, 11).

    Shapes: hessian [batch, d, d] → [batch, d, d], in the Hessian's dtype.
    Raises ValueError for β ≤ 0 or NaN, and where I − H/β is not positive definite.

    >>> optimal_covariance(-torch.eye(2)[None], beta=1.0).diagonal(dim1=1, dim2=2)
    tensor([[0.5000, 0.5000]])
    """
    return torch.cholesky_inverse(precision_cholesky(hessian, beta, block_size)).to(hessian.dtype)
