"""Running a decoder: a plain pass with errors that help, and passes whose batch statistics are constants."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Decoder = Callable[[Tensor], Tensor]

_RANDOM = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
_DROPOUT = "decoder: dropout is in train mode; the Jacobian of a random function is not defined"


def decode(decoder: Decoder, z: Tensor) -> Tensor:
    """g = decoder(z) in a plain forward pass, with errors that say what z should have been.

    Raises ValueError for z that is not [batch ≥ 1, d], of another width or device than the decoder's, or
    whose g has another batch; TypeError for another dtype, or a g that is no tensor.

    >>> decode(torch.nn.Linear(2, 3), torch.zeros(1, 4))
    Traceback (most recent call last):
    ...
    ValueError: z: [1, 4] does not fit the decoder: mat1 and mat2 shapes cannot be multiplied (1x4 and 2x3)
    """
    check_latents(z)
    if isinstance(decoder, torch.nn.Module):
        check_placement(decoder, z)
    with explained(z):
        g = decoder(z)
    return check_output(g, z)


def check_output(g: Tensor, z: Tensor) -> Tensor:
    """g itself, if it is one tensor [batch, ...]: TypeError and ValueError otherwise.

    >>> check_output(torch.zeros(5, 3), torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """
    if not isinstance(g, Tensor):
        raise TypeError(f"decoder: expected to return one tensor, got {type(g).__name__}")
    if g.ndim < 2 or g.shape[0] != z.shape[0]:
        expected = f"[{z.shape[0]}, ...] for z {list(z.shape)}"
        raise ValueError(f"decoder: expected an output {expected}, got {list(g.shape)}")
    return g


def check_latents(z: Tensor) -> None:
    """Refuse z that is not [batch ≥ 1, d ≥ 1], with a ValueError.

    >>> check_latents(torch.zeros(3))
    Traceback (most recent call last):
    ...
    ValueError: z: expected [batch ≥ 1, d ≥ 1], got [3]
    """
    if z.ndim != 2 or 0 in z.shape:
        raise ValueError(f"z: expected [batch ≥ 1, d ≥ 1], got {list(z.shape)}")


@contextmanager
def explained(z: Tensor) -> Iterator[None]:
    """torch's error for a z of the wrong width, as a ValueError that names z.

    >>> with explained(torch.zeros(1, 2)):
    ...     g = torch.nn.Linear(2, 3)(torch.zeros(1, 2))
    """
    try:
        yield
    except RuntimeError as error:
        if "shapes cannot be multiplied" not in str(error):
            raise
        raise ValueError(f"z: {list(z.shape)} does not fit the decoder: {error}") from error


def check_placement(decoder: torch.nn.Module, z: Tensor) -> None:
    """Refuse z on another device (ValueError) or of another dtype (TypeError) than the decoder's weights.

    >>> check_placement(torch.nn.Linear(2, 3), torch.zeros(1, 2))
    """
    weight = next(decoder.parameters(), None)
    if weight is None:
        return
    if weight.device != z.device:
        raise ValueError(f"z: expected on the decoder's device {weight.device}, got {z.device}")
    if weight.dtype != z.dtype and not torch.is_autocast_enabled(z.device.type):
        raise TypeError(f"z: expected the decoder's dtype {weight.dtype}, got {z.dtype}")


class ConstantStatistics(TorchFunctionMode):
    """A decoder whose batch statistics are constants: recorded at the first `run`, replayed at later ones.

    Running statistics stay as they are, or with `update` change once, in the first run, as in a plain forward
    pass. Dropout in train mode is refused, and so is TorchScript: once its executor has optimised a module,
    it loses tangents in silence.

    Attention (`F.scaled_dot_product_attention`) and softmax are computed in plain operations: torch's own have no
    tangents, or none that can be differentiated again.

    >>> passes = ConstantStatistics(torch.nn.BatchNorm1d(1, eps=0.0))
    >>> passes.run(torch.tensor([[-1.0], [1.0]])).tolist(), passes.run(torch.tensor([[3.0]])).tolist()
    ([[-1.0], [1.0]], [[3.0]])
    >>> passes.decoder.num_batches_tracked
    tensor(0)
    """

    def __init__(self, decoder: Decoder, update: bool = False):
        super().__init__()
        parts = decoder.modules() if isinstance(decoder, torch.nn.Module) else (decoder,)
        if any(isinstance(part, torch.jit.ScriptModule | torch.jit.ScriptFunction) for part in parts):
            raise TypeError("decoder: expected a plain module or function for derivatives, got TorchScript")
        self.decoder, self.update, self.recorded, self.complete = decoder, update, [], False

    def run(self, z: Tensor) -> Tensor:
        """g = decoder(z) with the statistics of the first run."""
        self._replay, self._uncounted = iter(self.recorded) if self.complete else None, set()
        with self:
            g = decode(self.decoder, z)
        self.complete = True
        return g

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func is F.instance_norm and kwargs.get("use_input_stats", True) and not self._updates():
            kwargs |= {"running_mean": None, "running_var": None}  # per sample, so that only the update goes
        if func in _RANDOM and kwargs["training"] and kwargs["p"] > 0:
            raise ValueError(_DROPOUT)
        if func is F.group_norm:  # its tangent is written for contiguous memory
            args = (args[0].contiguous(), *args[1:])
        if func in (F.softmax, torch.softmax, torch.Tensor.softmax):
            return _softmax(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func is torch.Tensor.add_ and args[0].dtype == torch.int64 and args[0].ndim == 0 and not self._updates():
            self._uncounted.add(id(args[0]))
            return args[0]  # num_batches_tracked counts forward passes, not passes of a derivative
        if func is torch.Tensor.__float__ and id(args[0]) in self._uncounted:
            return func(*args) + 1  # a cumulative average (momentum=None) divides by the count
        return func(*args, **kwargs)

    def _updates(self) -> bool:
        return self.update and not self.complete

    def _batch_norm(
        self, x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
    ):
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
        n = x.numel() // x.shape[1]
        if n < 2:
            raise ValueError(
                f"decoder: batch normalisation in train mode needs 2 values per channel, got {list(x.shape)}"
            )
        primal = forward_ad.unpack_dual(x).primal if forward_ad._current_level >= 0 else x
        dims = [0, *range(2, x.ndim)]
        mean, var = primal.mean(dims), primal.var(dims, correction=0)
        self.recorded.append((mean, var))
        if self._updates() and running_mean is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
                running_var.lerp_((var.detach() * n / (n - 1)).to(running_var.dtype), momentum)
        return mean, var


def _softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None, _stacklevel: int = 0) -> Tensor:
    """In plain operations: the tangent of torch's own cannot be differentiated again."""
    x = x if dtype is None else x.to(dtype)
    risen = (x - x.amax(dim, keepdim=True).detach()).exp()
    return risen / risen.sum(dim, keepdim=True)


def _attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
) -> Tensor:
    """In plain operations: the fused kernels have no tangents."""
    if dropout_p > 0:
        raise ValueError(_DROPOUT)
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return _softmax(scores, -1) @ value
