"""A network's value and its directional derivatives in one pass, layer by layer, for a part of the batch if asked.

Forward mode of autograd gives every sample a tangent, and costs more than the second pass through the layers that it
is. Here the rule of each layer is written out: the tangents of n samples cost n/batch of a pass for each direction,
and the result is made of ordinary operations, which compile, capture and differentiate. Batch normalisation in train
mode holds its statistics constant in the tangent, while gradients with respect to parameters flow through them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from grae_helpers import models


def supports(network: object) -> bool:
    """Whether every layer of a network has a rule here: `push` takes no other.

    >>> supports(nn.Sequential(nn.Linear(2, 3), nn.ELU())), supports(nn.LSTM(2, 3))
    (True, False)
    """
    if not isinstance(network, nn.Module) or _hooked(network):
        return False
    if "forward" in vars(network):  # replaced on the instance
        return False
    if type(network) is models.Decoder:
        return supports(network.network)
    if type(network) is nn.Sequential:
        return all(supports(layer) for layer in network)
    if type(network) in (nn.BatchNorm1d, nn.BatchNorm2d):
        return network.affine and network.track_running_stats and network.momentum is not None
    if type(network) is nn.ELU:
        return network.alpha > 0
    if type(network) is nn.LeakyReLU:
        return network.negative_slope > 0  # in place, another one would lose the input's sign
    return type(network) in _RULES


def _hooked(network: nn.Module) -> bool:
    forward = network._forward_hooks or network._forward_pre_hooks
    return bool(forward or network._backward_hooks or network._backward_pre_hooks)


def push(network: nn.Module, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """(f(x), J_f(x) v) for all of x, and for its first n samples in the direction of each of k tangents v.

    Shapes: x [batch, ...], tangents [k, n, ...] with 1 ≤ n ≤ batch → f(x) [batch, ...], [k, n, ...]. A train-mode
    pass updates running statistics once, as a plain one does. Raises ValueError for tangents of another
    shape.

    >>> network = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    >>> g, column = push(network, torch.zeros(5, 2), torch.eye(2)[0].expand(1, 4, 2))
    >>> g.shape, column.shape
    (torch.Size([5, 3]), torch.Size([1, 4, 3]))
    """
    if tangents.ndim != x.ndim + 1 or tangents.shape[2:] != x.shape[1:] or not 1 <= tangents.shape[1] <= len(x):
        raise ValueError(f"tangents: expected [k, 1 to {len(x)}, {list(x.shape[1:])}], got {list(tangents.shape)}")
    return _push(network, x, tangents)


def _push(network: nn.Module, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    if type(network) is models.Decoder:
        return _push(network.network, network.checked(x), tangents)
    if type(network) is nn.Sequential:
        for layer in network:
            x, tangents = _push(layer, x, tangents)
        return x, tangents
    return _RULES[type(network)](network, x, tangents)


def _affine(layer: nn.Module, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    without = {} if layer.bias is None else {"bias": torch.zeros_like(layer.bias)}
    pushed = functional_call(layer, without, (tangents.flatten(0, 1),))
    return layer(x), pushed.unflatten(0, tangents.shape[:2])


def _reshape(layer: nn.Module, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    return layer(x), layer(tangents.flatten(0, 1)).unflatten(0, tangents.shape[:2])


def _activation(slope):
    """The rule of an elementwise layer, from its slope as a function of (layer, input, output)."""

    def rule(layer: nn.Module, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        y, n = layer(x), tangents.shape[1]
        return y, tangents * slope(layer, x[:n], y[:n])

    return rule


def _elu(layer: nn.ELU, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    return _ELU.apply(x, tangents, layer.alpha)


class _ELU(torch.autograd.Function):
    """ELU and its tangent, whose derivative autograd would take in twice as many passes over memory."""

    @staticmethod
    def forward(ctx, x: Tensor, tangents: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        y = F.elu(x, alpha)
        part = y[: tangents.shape[1]]
        slope = torch.where(part > 0, 1.0, part + alpha)
        ctx.save_for_backward(y, slope, tangents)
        ctx.alpha = alpha
        return y, tangents * slope

    @staticmethod
    def backward(ctx, of_y: Tensor, of_tangents: Tensor) -> tuple[Tensor, Tensor, None]:
        y, slope, tangents = ctx.saved_tensors
        n = tangents.shape[1]
        if _differentiated():  # y is an output: through it the slope depends on x
            slope = torch.where(y > 0, 1.0, y + ctx.alpha)
            back = of_tangents * slope[:n]
            own = (back * tangents).sum(0) * (y[:n] < 0)
            return of_y * slope + torch.cat([own, torch.zeros_like(y[n:])]), back, None
        back = of_tangents * slope
        of_x = torch.ops.aten.elu_backward(of_y, ctx.alpha, 1.0, 1.0, True, y)
        of_x[:n] += (back * tangents).sum(0) * (y[:n] < 0)  # where the slope is y + α, its derivative is itself
        return of_x, back, None


def _differentiated() -> bool:
    """Whether a backward pass is itself recorded: then it must be made of what saved tensors still depend on."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    if not layer.training:
        scale = layer.weight * (layer.running_var + layer.eps).rsqrt()
        return layer(x), tangents * _per_channel(scale, x)
    if x.numel() == x.shape[1]:
        raise ValueError(
            f"decoder: batch normalisation in train mode needs 2 values per channel, got {list(x.shape)}"
        )
    layer.num_batches_tracked.add_(1)
    running = layer.running_mean, layer.running_var, layer.momentum, layer.eps
    return _BatchNorm.apply(x, tangents, layer.weight, layer.bias, *running)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2)).to(x.dtype)


class _BatchNorm(torch.autograd.Function):
    """Batch normalisation and its tangent at constant statistics, from one reduction over the batch."""

    @staticmethod
    def forward(ctx, x, tangents, weight, bias, running_mean, running_var, momentum, eps):
        y, mean, inverse = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, True, momentum, eps
        )  # inverse is 1/√(variance + eps)
        ctx.save_for_backward(x, tangents, weight, mean, inverse)
        ctx.eps = eps
        return y, tangents * _per_channel(weight * inverse, x)

    @staticmethod
    def backward(ctx, of_y, of_tangents):
        x, tangents, weight, mean, inverse = ctx.saved_tensors
        if _differentiated():
            dims = [0, *range(2, x.ndim)]
            mean, inverse = x.mean(dims), (x.var(dims, correction=0) + ctx.eps).rsqrt()
            centred = (x - _per_channel(mean, x)) * _per_channel(inverse, x)
            of_weight, of_bias = (of_y * centred).sum(dims), of_y.sum(dims)
            n = x.numel() // x.shape[1]
            of_x = of_y - _per_channel(of_bias / n, x) - centred * _per_channel(of_weight / n, x)
            of_x = of_x * _per_channel(weight * inverse, x)
        else:
            of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                of_y, x, weight, None, None, mean, inverse, True, ctx.eps, [True] * 3
            )
        product = (of_tangents * tangents).sum([0, 1, *range(3, tangents.ndim)], dtype=inverse.dtype)
        slope = -product * weight * inverse**3 / (x.numel() // x.shape[1])  # through the variance, to x − mean
        of_x = of_x + (x - _per_channel(mean, x)) * _per_channel(slope, x)
        of_weight = of_weight + product * inverse
        return of_x, of_tangents * _per_channel(weight * inverse, x), of_weight, of_bias, None, None, None, None


_RULES = {
    **dict.fromkeys((nn.Linear, nn.Conv2d, nn.ConvTranspose2d), _affine),
    **dict.fromkeys((models.SameConv2d, models.SameConvTranspose2d), _affine),
    **dict.fromkeys((nn.Flatten, nn.Unflatten, nn.Identity), _reshape),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _batch_norm),
    nn.ELU: _elu,
    nn.Sigmoid: _activation(lambda layer, x, y: y * (1 - y)),
    nn.Tanh: _activation(lambda layer, x, y: 1 - y * y),
    nn.ReLU: _activation(lambda layer, x, y: (x > 0).to(x.dtype)),
    nn.LeakyReLU: _activation(lambda layer, x, y: torch.where(x > 0, torch.ones_like(x), layer.negative_slope)),
    nn.Softplus: _activation(
        lambda layer, x, y: torch.where(layer.beta * x > layer.threshold, 1.0, torch.sigmoid(layer.beta * x))
    ),
}
