"""The small residual classifiers of digits and photographs whose last layer `features` compares images by."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from grae_helpers import runtime

NAMES = ("mnist", "cifar10")


class Network(nn.Module):
    """A small residual network: 3×3 convolutions, batch normalisation, global average pooling, ten classes.

    A convolution, a halving one, a residual block, another halving one and, where `depth` is 2, another block. The
    features are what the last rectifier leaves, averaged over the image: not negative, as Inception's. Shapes: images
    [n, C, H, W] in [0, 1], of `size` pixels a side for what it was trained on; features [n, widths[2]].

    >>> Network(1, 28, (2, 4, 8)).eval().features(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 8])
    """

    def __init__(self, channels: int, size: int, widths: Sequence[int], depth: int = 1) -> None:
        super().__init__()
        first, second, third = widths
        self.size, self.dimension = size, third
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))
        blocks = [_rectified(channels, first), _rectified(first, second, 2), _Residual(second)]
        blocks += [_rectified(second, third, 2), *(_Residual(third) for _ in range(depth - 1))]
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(third, 10)

    def features(self, x: Tensor) -> Tensor:
        """The layer before the classes, [n, D]."""
        return self.body((x - self.mean) / self.deviation).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """The classes' logits, [n, 10]."""
        return self.head(self.features(x))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(_rectified(channels, channels), *_normalised(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.inner(x))


def _normalised(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]


def _rectified(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*_normalised(inputs, outputs, stride), nn.ReLU())


def untrained(name: str) -> Network:
    """The network of that name with random weights: "mnist" for digits, "cifar10" for photographs.

    Raises ValueError for another name.

    >>> sum(p.numel() for p in untrained("cifar10").parameters())
    464170
    """
    runtime.one_of("network", name, NAMES)
    if name == "mnist":
        return Network(1, 28, (16, 32, 64))
    return Network(3, 32, (32, 64, 128), depth=2)
