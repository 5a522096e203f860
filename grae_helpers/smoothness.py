"""How smooth images are, and how different: total variation, spectrum, spread, each a number per image."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from grae_helpers import runtime


def total_variation(images: Tensor) -> Tensor:
    """The mean absolute difference of neighbouring pixels, [n], in units of the images' grey values.

    Over all horizontal and vertical pairs and all channels: 0 for a constant image, less for a blurred one (isotropic
    blurs of natural images; Rudin et al. 1992 for the sum). Shapes: images [n, C, H, W], floating. Raises ValueError
    for other shapes, images of one pixel, NaN and infinity; TypeError for integers.

    >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))  # two steps of 1 among four pairs
    tensor([0.5000])
    """
    _check(images)
    steps = [images.diff(dim=dim).abs().flatten(1) for dim in (2, 3)]
    return torch.cat(steps, 1).mean(1)


def gaussian_total_variation(mean: Tensor, factors: Tensor) -> Tensor:
    """The expected `total_variation` of images mean + Σ_k z_k factor_k with z ~ N(0, I), a scalar, in closed form.

    A difference of neighbours is then N(m, v), v = Σ_k (difference of factor_k)², and E|N(m, v)| =
    √(2v/π) exp(−m²/2v) + m erf(m/√(2v)), which grows with v. Shapes: mean [C, H, W], factors [k, C, H, W], floating.
    Raises as `total_variation`, and ValueError for factors of another shape.

    >>> factors = torch.tensor([[[[1.0, -1.0]]]])  # pixels z and −z: E|2z| = 2√(2/π)
    >>> gaussian_total_variation(torch.zeros(1, 1, 2), factors)
    tensor(1.5958)
    """
    _check(mean[None])
    if factors.shape[1:] != mean.shape:
        raise ValueError(f"factors: expected [k, {', '.join(map(str, mean.shape))}], got {list(factors.shape)}")
    expected = []
    for dim in (1, 2):
        m, v = mean.diff(dim=dim).flatten(), factors.diff(dim=dim + 1).square().sum(0).flatten()
        ratio = m / (2 * v.clamp(min=torch.finfo(v.dtype).tiny)).sqrt()
        expected.append((2 * v / math.pi).sqrt() * (-ratio.square()).exp() + m * ratio.erf())
    return torch.cat(expected).mean()


def power_spectrum(images: Tensor) -> tuple[Tensor, Tensor]:
    """The radial frequencies [bins], in cycles per pixel, and each image's mean power there, [n, bins].

    Squares of the coefficients of the orthonormal cosine transform (DCT-II, as if the image were mirrored at its
    borders, which so add no false edges), averaged over channels and over rings of |f|; the constant is left out.
    White noise of variance v has power v in every ring; power times the number of a ring's coefficients, summed, is
    the sum of squared deviations from the image's mean, per channel (Parseval). Shapes and errors as
    `total_variation`.

    >>> rows = torch.cos(torch.pi * 3 * (torch.arange(8) + 0.5) / 8)  # 3 half waves on 8 pixels
    >>> frequency, power = power_spectrum(rows.expand(1, 1, 8, 8))
    >>> frequency[power[0] > 1e-6]  # 3/16 cycles per pixel, with its ring
    tensor([0.1894])
    """
    _check(images)
    energy = _cosine_transform(images).square().mean(1).flatten(1)
    radius, ring = _rings(*images.shape[2:])
    ring, count = ring.to(images.device), ring.bincount().to(images.device)
    kept = count[1:] > 0  # ring 0 is the constant

    def average(values: Tensor) -> Tensor:
        sums = values.new_zeros(len(values), len(count)).index_add_(1, ring, values)
        return (sums / count.clamp(min=1))[:, 1:][:, kept]

    return average(radius.to(energy)[None])[0], average(energy)


def high_frequency_share(images: Tensor, cutoff: float = 0.125) -> Tensor:
    """The share of each image's variance at radial frequencies above the cutoff (cycles per pixel), [n].

    0 for an image without variance. The default counts waves shorter than 8 pixels. Shapes and errors as
    `total_variation`; the cutoff is 0 or more.

    >>> i = (torch.arange(8) + 0.5) / 8
    >>> rows = torch.cos(torch.pi * i) + torch.cos(4 * torch.pi * i)  # 1/16 and 1/4 cycles per pixel
    >>> high_frequency_share(rows.expand(1, 1, 8, 8))
    tensor([0.5000])
    """
    _check(images)
    runtime.zero_or_positive("cutoff", cutoff)
    energy = _cosine_transform(images.double()).square().sum(1).flatten(1)
    radius, ring = (value.to(images.device) for value in _rings(*images.shape[2:]))
    total = (energy * (ring > 0)).sum(1)
    high = (energy * ((ring > 0) & (radius > cutoff))).sum(1)
    seen = total > 1e-12 * energy.sum(1)  # below is rounding
    return torch.where(seen, high / total.where(seen, torch.ones_like(total)), 0.0).to(images.dtype)


def spectrum_distance(power: Tensor, reference: Tensor) -> Tensor:
    """How far apart two mean spectra are: the root mean square over the rings of ln(power/reference), a scalar.

    ln 2 for a spectrum that is twice the other's throughout. Shapes: power [..., n, bins] and reference [m, bins],
    as from `power_spectrum`, averaged over n and m. Raises ValueError for other shapes, and a mean that is not
    positive, as that of images without variance.

    >>> spectrum_distance(torch.full((3, 5), 2.0), torch.ones(4, 5))  # ln 2
    tensor(0.6931)
    """
    if power.ndim < 2 or reference.ndim != 2 or power.shape[-1] != reference.shape[-1]:
        raise ValueError(
            f"power and reference: expected [..., n, bins] and [m, bins], got {list(power.shape)} "
            f"and {list(reference.shape)}"
        )
    means = power.mean(-2), reference.mean(-2)
    if not all(bool((mean > 0).all()) for mean in means):
        raise ValueError("power and reference: expected means that are positive in every ring, got 0 or NaN")
    return (means[0] / means[1]).log().square().mean(-1).sqrt()


def spread(images: Tensor) -> Tensor:
    """Each image's root mean square distance per pixel from the others, [n]: what tells diversity from collapse.

    √(mean over j ≠ i of ‖x_i − x_j‖²/(C·H·W)), which is 0 where all images are the same, however smooth they are.
    Shapes and errors as `total_variation`; needs two images.

    >>> spread(torch.tensor([0.0, 0.0, 1.0])[:, None, None, None].expand(3, 1, 2, 2))  # √½, √½, 1
    tensor([0.7071, 0.7071, 1.0000])
    """
    _check(images)
    if len(images) < 2:
        raise ValueError("images: expected at least two, to be compared, got one")
    off = (images - images.mean(0)).square().flatten(1).mean(1)
    return (len(images) / (len(images) - 1) * (off + off.mean())).sqrt()


def active_latents(codes: Tensor, threshold: float = 0.01) -> int:
    """How many latents vary over the data: those with a variance above the threshold (Burda et al. 2016).

    Of a β-VAE, `codes` are the posterior means. Shapes: codes [n, d], n ≥ 2. Raises ValueError for other shapes.

    >>> active_latents(torch.tensor([[1.0, 0.0], [-1.0, 0.001]]))
    1
    """
    if codes.ndim != 2 or len(codes) < 2:
        raise ValueError(f"codes: expected [n ≥ 2, d], got {list(codes.shape)}")
    return int((codes.var(0) > threshold).sum())


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of [n] values and its standard error, s/√n.

    >>> mean_and_error(torch.tensor([0.0, 2.0, 0.0, 2.0, 1.0]))
    (1.0, 0.4472135954999579)
    """
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values: expected [n ≥ 2], got {list(values.shape)}")
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def bootstrap_error(
    statistic: Callable[[Tensor], Tensor], values: Tensor, *, n_resamples: int = 200, seed: int = 0
) -> float:
    """The standard error of a statistic of n values, by drawing n of them with replacement again and again.

    `statistic` takes [n, ...] and returns a scalar (Efron 1979). Raises ValueError for fewer than two values or
    resamples.

    >>> bootstrap_error(torch.mean, torch.tensor([0.0, 1.0, 2.0])) < 1
    True
    """
    runtime.integer("n_resamples", n_resamples, 2)
    if values.ndim < 1 or len(values) < 2:
        raise ValueError(f"values: expected [n ≥ 2, ...], got {list(values.shape)}")
    generator, n = torch.Generator().manual_seed(seed), len(values)
    draws = [torch.randint(n, (n,), generator=generator).to(values.device) for _ in range(n_resamples)]
    return torch.stack([statistic(values[draw]) for draw in draws]).std().item()


def _cosine_transform(images: Tensor) -> Tensor:
    rows, columns = (_cosines(n).to(images) for n in images.shape[2:])
    return rows @ images @ columns.mT


def _cosines(n: int) -> Tensor:
    """The orthonormal DCT-II, [n, n]: row k is a cosine of k half waves."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(torch.pi * k * (i + 0.5) / n) * math.sqrt(2 / n)
    matrix[0] = math.sqrt(1 / n)
    return matrix


def _rings(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The radial frequency of each coefficient, [H·W], and the number of its ring; ring 0 is the constant alone."""
    vertical = torch.arange(height, dtype=torch.float64)[:, None] / (2 * height)
    horizontal = torch.arange(width, dtype=torch.float64) / (2 * width)
    radius = (vertical.square() + horizontal.square()).sqrt().flatten()
    ring = (2 * min(height, width) * radius).round().long().clamp(min=1)
    ring[0] = 0
    return radius, ring


def _check(images: Tensor) -> None:
    if not images.is_floating_point():
        raise TypeError(f"images: expected floating point (divide integers by 255), got {images.dtype}")
    if images.ndim != 4 or 0 in images.shape or max(images.shape[2:]) < 2:
        raise ValueError(f"images: expected [n ≥ 1, C, H, W] of two pixels or more, got {list(images.shape)}")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images: expected finite grey values, got NaN or infinity")
