"""Independent routes to the package's numbers, in float64: finite differences, quadrature, small networks."""

import copy
import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

DOUBLE = torch.float64
BAD_BETAS = [(0, ValueError), (-1.0, ValueError), (float("nan"), ValueError), (float("inf"), ValueError)]
BAD_BETAS += [("abc", TypeError), (None, TypeError), (True, TypeError)]


def network(
    *sizes: int, hidden: type[nn.Module] = nn.Tanh, output: type[nn.Module] = nn.Identity, seed: int = 0
):
    """A float64 multilayer perceptron, the same for the same arguments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Sequential(nn.Linear(a, b), hidden()) for a, b in itertools.pairwise(sizes)]
    layers[-1][1] = output()
    return nn.Sequential(*layers).double()


def normalised_network(d: int, width: int, out: int, output: type[nn.Module] = nn.Identity, seed: int = 0):
    """A float64 network with two batch normalisations of random weights and running statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(d, width), nn.BatchNorm1d(width), nn.Tanh(),
            nn.Linear(width, width), nn.BatchNorm1d(width, momentum=0.3), nn.Softplus(),
            nn.Linear(width, out), output(),
        ).double()  # fmt: skip
        for norm in (net[1], net[4]):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return net


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def frozen_copy(net: nn.Module, z: Tensor) -> nn.Module:
    """The network in eval mode, with the statistics that a train-mode pass over z has as its running ones.

    PyTorch's own running update at momentum 1 gives them, after its n/(n − 1) is undone.
    """
    frozen = copy.deepcopy(net)
    norms = [m for m in frozen.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    sizes = {}
    for norm in norms:
        norm.momentum = 1.0
        norm.register_forward_hook(
            lambda m, args, out: sizes.update({m: args[0].numel() // args[0].shape[1]})
        )
    with torch.no_grad():
        frozen.train()(z)
    for norm in norms:
        norm.running_var.mul_((sizes[norm] - 1) / sizes[norm])
        norm._forward_hooks.clear()
    return frozen.eval()


def buffers(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.named_buffers()}


def same_buffers(net: nn.Module, expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, expected[name]) for name, tensor in net.named_buffers())


def richardson(difference: Callable[[float], Tensor], step: float = 2e-2, levels: int = 3) -> Tensor:
    """The limit at step 0 of a symmetric difference, whose error has even powers only."""
    row = [difference(step / 2**level) for level in range(levels)]
    for order in range(1, levels):
        row = [(4**order * fine - coarse) / (4**order - 1) for coarse, fine in itertools.pairwise(row)]
    return row[0]


@torch.no_grad()
def fd_jacobian(
    decoder: Callable[[Tensor], Tensor], z: Tensor, step: float = 1e-2, levels: int = 3
) -> Tensor:
    """[batch, D, d] by central differences of a decoder that treats samples independently.

    Small steps and few levels suit a decoder with kinks: elu's second derivative jumps at 0.
    """

    def column(direction: Tensor, h: float) -> Tensor:
        return ((decoder(z + h * direction) - decoder(z - h * direction)) / (2 * h)).flatten(1)

    columns = [
        richardson(lambda h, e=e: column(e, h), step, levels) for e in torch.eye(z.shape[1], dtype=z.dtype)
    ]
    return torch.stack(columns, 2)


@torch.no_grad()
def fd_hessian(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """[batch, d, d] second derivatives of a per-sample scalar f: [batch, d] → [batch]."""

    def entry(a: Tensor, b: Tensor, h: float) -> Tensor:
        return (f(z + h * (a + b)) - f(z + h * (a - b)) - f(z - h * (a - b)) + f(z - h * (a + b))) / (
            4 * h * h
        )

    basis = torch.eye(z.shape[1], dtype=z.dtype)
    rows = [[richardson(lambda h, a=a, b=b: entry(a, b, h), 0.03, 5) for b in basis] for a in basis]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def gradient_error(
    loss: Callable[[], Tensor], tensors: list[Tensor], seed: int = 0, step: float = 2e-3
) -> float:
    """The relative error of autograd's gradient against finite differences, along two random directions."""
    gradients = torch.autograd.grad(loss(), tensors, allow_unused=True, materialize_grads=True)
    generator, errors = torch.Generator().manual_seed(seed), []
    starts = [tensor.detach().clone() for tensor in tensors]
    for _ in range(2):
        directions = [torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in tensors]

        def moved(h: float, directions=directions) -> Tensor:
            with torch.no_grad():
                for tensor, start, direction in zip(tensors, starts, directions, strict=True):
                    tensor.copy_(start + h * direction)
            return loss().detach()

        slope = richardson(lambda h: (moved(h) - moved(-h)) / (2 * h), step, 4)
        moved(0.0)
        found = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
        errors.append(float((found - slope).abs() / slope.abs().clamp(min=1e-3)))
    return max(errors)


def hermite_expectation(
    f: Callable[[Tensor], Tensor], mean: Tensor, scale: Tensor, order: int = 24
) -> Tensor:
    """E f(z) over N(mean, scale scaleᵀ), per sample, by a tensor grid of Gauss–Hermite nodes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    weights = weights / weights.sum()
    total = torch.zeros(len(mean), dtype=DOUBLE)
    for index in itertools.product(range(order), repeat=mean.shape[1]):
        point = torch.tensor(nodes[list(index)], dtype=DOUBLE)
        total = total + float(np.prod(weights[list(index)])) * f(mean + scale @ point)
    return total


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest error, relative to the largest expected value."""
    found, expected = found.detach(), expected.detach()
    assert found.shape == expected.shape, f"{list(found.shape)} is not {list(expected.shape)}"
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))
