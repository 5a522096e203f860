"""Pixel-wise independent observation models p(x; g), with normalised log-densities in nats."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from grae_helpers import runtime


def _check_pair(x: Tensor, g: Tensor) -> None:
    if x.shape != g.shape or x.ndim < 2 or x.shape[0] == 0:
        raise ValueError(f"x and g: expected one shape [batch ≥ 1, ...], got {list(x.shape)} and {list(g.shape)}")
    if not (x.is_floating_point() and g.is_floating_point()):
        raise TypeError(
            f"x and g: expected floating point (divide integer images by 255), got {x.dtype} and {g.dtype}"
        )
    if x.device != g.device:
        raise ValueError(f"x and g: expected one device, got {x.device} and {g.device}")


class Likelihood:
    """What the observation models share: a sum over pixels, checks, and the same three functions.

    A new one defines `log_density(x, g)`, elementwise and without checks (so that it can be differentiated
    under vmap), `hessian_diag(x, g)` and `mean(g)`; and `check(x, g)`, if its support is not the real line.
    """

    def log_density(self, x: Tensor, g: Tensor) -> Tensor:
        """Elementwise log p(x_i; g_i), no checks."""
        raise NotImplementedError(f"{type(self).__name__} does not define log_density")

    def hessian_diag(self, x: Tensor, g: Tensor) -> Tensor:
        """Elementwise ∂² log p(x_i; g_i)/∂g_i², the diagonal of H_p."""
        raise NotImplementedError(f"{type(self).__name__} does not define hessian_diag")

    def mean(self, g: Tensor) -> Tensor:
        """The mean of x given g, what one shows as the reconstruction."""
        raise NotImplementedError(f"{type(self).__name__} does not define mean")

    def check(self, x: Tensor, g: Tensor) -> None:
        """Refuse shapes, dtypes, devices and values that do not fit."""
        _check_pair(x, g)
        if runtime.readable(x) and not torch.isfinite(x).all():
            raise ValueError("x: expected finite pixels, got NaN or infinity")

    def log_prob(self, x: Tensor, g: Tensor) -> Tensor:
        """log p(x; g) in nats, [batch]: the sum of `log_density` over all dimensions but the first."""
        self.check(x, g)
        return self.log_density(x, g).flatten(1).sum(1)


class Gaussian(Likelihood):
    """Gaussian pixels N(x; g, variance): log p = −½(x − g)²/v − ½ log 2πv, H_p = −1/v (K&P §4, where v = 1).

    `variance` is a positive number or a tensor of positive numbers that broadcasts against one image. Raises
    ValueError for a variance that is not positive and finite or does not broadcast, TypeError if it is no
    number.

    >>> Gaussian().log_prob(torch.zeros(1, 2), torch.zeros(1, 2))
    tensor([-1.8379])
    """

    def __init__(self, variance: float | Tensor = 1.0):
        if not isinstance(variance, Tensor):
            variance = runtime.positive("variance", variance)
        elif not bool((torch.isfinite(variance) & (variance > 0)).all()):
            raise ValueError(f"variance: expected positive and finite, got {variance}")
        self.variance = variance

    def __repr__(self) -> str:
        return f"Gaussian(variance={self.variance})"

    def check(self, x: Tensor, g: Tensor) -> None:
        super().check(x, g)
        shape, image = self._variance(g).shape, g.shape[1:]
        if len(shape) > len(image) or any(n not in (1, m) for n, m in zip(shape[::-1], image[::-1], strict=False)):
            raise ValueError(f"variance: expected to broadcast against one image {list(image)}, got {list(shape)}")

    def _variance(self, g: Tensor) -> Tensor:
        return torch.as_tensor(self.variance, dtype=torch.promote_types(g.dtype, torch.float32), device=g.device)

    def log_density(self, x: Tensor, g: Tensor) -> Tensor:
        variance = self._variance(g)
        return -0.5 * ((x - g).square() / variance + (2 * math.pi * variance).log())

    def hessian_diag(self, x: Tensor, g: Tensor) -> Tensor:
        return (-1 / self._variance(g)).expand_as(g)

    def mean(self, g: Tensor) -> Tensor:
        return g


class Bernoulli(Likelihood):
    """Bernoulli pixels in {0, 1}, on logits or on probabilities.

    logits: p = σ(g), log p(x; g) = log σ((2x − 1)g), H_p = −p(1 − p). probs: p = g, log p(x; g) = log(g if x
    else 1 − g), H_p = −1/(1 − x − g)² (K&P §5.1). Grey values are refused, since the cross-entropy is not a
    normalised log-density there: see `data.binarize`. Raises ValueError for x outside {0, 1}, probabilities
    outside [0, 1], or another parametrisation.

    >>> Bernoulli().log_prob(torch.ones(1, 1), torch.zeros(1, 1)).exp()
    tensor([0.5000])
    """

    def __init__(self, parametrization: str = "logits"):
        if parametrization not in ("logits", "probs"):
            raise ValueError(f'parametrization: expected "logits" or "probs", got {parametrization!r}')
        self.parametrization = parametrization

    def __repr__(self) -> str:
        return f"Bernoulli(parametrization={self.parametrization!r})"

    def check(self, x: Tensor, g: Tensor) -> None:
        super().check(x, g)
        if not runtime.readable(x):
            return
        if not bool(((x == 0) | (x == 1)).all()):
            raise ValueError(
                f"x: Bernoulli pixels are 0 or 1, got values from {x.min():g} to {x.max():g}; see data.binarize"
            )
        if self.parametrization == "probs" and not bool(((g >= 0) & (g <= 1)).all()):
            raise ValueError(f"g: expected probabilities in [0, 1], got values from {g.min():g} to {g.max():g}")

    def log_density(self, x: Tensor, g: Tensor) -> Tensor:
        if self.parametrization == "logits":
            return F.logsigmoid((2 * x - 1) * g)
        return torch.where(x > 0.5, g, 1 - g).log()

    def hessian_diag(self, x: Tensor, g: Tensor) -> Tensor:
        if self.parametrization == "logits":
            return -torch.sigmoid(g) * torch.sigmoid(-g)
        return -(1 - x - g).square().reciprocal()

    def mean(self, g: Tensor) -> Tensor:
        return torch.sigmoid(g) if self.parametrization == "logits" else g
