"""Expectations of an activation under a Gaussian, by Gauss–Hermite quadrature or Monte Carlo draws."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from grae_helpers import runtime

ACTIVATIONS = runtime.ACTIVATIONS


def activate(u: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """ν(u) and ν′(u) of an activation of App. C, elementwise.

    Raises ValueError for an activation that is none of ACTIVATIONS.

    >>> activate(torch.tensor([-1.0, 2.0]), "elu")
    (tensor([-0.6321,  2.0000]), tensor([0.3679, 1.0000]))
    """
    if activation == "identity":
        return u, torch.ones_like(u)
    if activation == "tanh":
        value = 2 * torch.sigmoid(2 * u) - 1  # torch's own tanh takes several times as long on a CPU
        return value, 1 - value**2
    if activation == "sigmoid":
        value = torch.sigmoid(u)
        return value, value * (1 - value)
    if activation == "elu":
        slope = torch.exp(u.clamp(max=0))
        return torch.where(u > 0, u, slope - 1), slope
    raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}; got {activation!r}")


@functools.lru_cache
def gauss_hermite(nodes: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights for E f(ξ), ξ ~ N(0, 1): Σ w f(ξ) is exact for polynomials up to degree 2·nodes − 1.

    Raises ValueError for fewer than 1 node, and for so many (some 370) that numpy's recurrence overflows.

    >>> points, weights = gauss_hermite(3)
    >>> round(sum(w * x**4 for x, w in zip(points, weights)), 12)
    3.0
    """
    runtime.integer("nodes", nodes, 1)
    with np.errstate(all="ignore"):
        points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    if not (np.isfinite(weights).all() and np.isfinite(points).all()):
        raise ValueError(f"nodes: expected at most some 370, where double precision ends, got {nodes}")
    return tuple(points.tolist()), tuple((weights / weights.sum()).tolist())


def expected_squared_error(
    mean: Tensor,
    deviation: Tensor,
    target: Tensor,
    nodes: Sequence[float] | Sequence[Tensor],
    weights: Sequence[float],
    activation: str,
) -> Tensor:
    """Σ_k w_k (t − ν(m + sξ_k))², elementwise, for u ~ N(m, s²); the derivatives come from the same pass.

    Shapes: `mean` and `target` alike, [..., n]; `deviation` the same, or [..., 1] for one that all n share. A node
    is a number, or draws of the shape of `mean`. No n × nodes array is ever made, nor kept for the backward pass.

    >>> rule = gauss_hermite(5)
    >>> expected_squared_error(torch.zeros(1, 2), torch.ones(1, 1), torch.ones(1, 2), *rule, "identity")
    tensor([[2., 2.]])
    """
    return _ExpectedSquaredError.apply(mean, deviation, target, nodes, weights, activation)[0]


class _ExpectedSquaredError(torch.autograd.Function):
    @staticmethod
    def forward(mean, deviation, target, nodes, weights, activation):
        total = by_mean = by_deviation = by_target = torch.zeros_like(mean)
        for node, weight in zip(nodes, weights, strict=True):
            value, slope = activate(mean + deviation * node, activation)
            error = target - value
            weighted = weight * error
            pull = weighted * slope
            total = total + weighted * error
            by_target = by_target + weighted
            by_mean = by_mean + pull
            by_deviation = by_deviation + pull * node
        return total, -2 * by_mean, -2 * by_deviation, 2 * by_target

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.shared = inputs[1].shape[-1] == 1

    @staticmethod
    def backward(ctx, gradient, *_):
        by_mean, by_deviation, by_target = ctx.saved_tensors
        by_deviation = gradient * by_deviation
        if ctx.shared:
            by_deviation = by_deviation.sum(-1, keepdim=True)
        return gradient * by_mean, by_deviation, gradient * by_target, None, None, None
