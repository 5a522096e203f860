"""Closed forms: one wave, constants, white noise, Parseval, blur; and sampling for what is an expectation."""

import math

import numpy as np
import pytest
import torch
from helpers import DOUBLE, normal
from scipy import fft, ndimage

from grae_helpers import smoothness


def wave(k: int, m: int, size: int = 16, channels: int = 1) -> torch.Tensor:
    """A product of cosines of k and m half waves, [1, channels, size, size]: one line of the spectrum."""
    i = (torch.arange(size, dtype=DOUBLE) + 0.5) / size
    image = torch.outer(torch.cos(math.pi * k * i), torch.cos(math.pi * m * i))
    return image.expand(1, channels, size, size)


def natural(n: int = 6, channels: int = 3, size: int = 16) -> torch.Tensor:
    return normal(n, channels, size, size).cumsum(2).cumsum(3) / 20


@pytest.mark.parametrize("shape", [(4, 1, 5, 7), (2, 3, 6, 6)])
def test_total_variation_against_a_loop(shape):
    images = normal(*shape)
    for image, found in zip(images.numpy(), smoothness.total_variation(images), strict=True):
        across, down = np.abs(np.diff(image, axis=2)), np.abs(np.diff(image, axis=1))
        assert found.item() == pytest.approx((across.sum() + down.sum()) / (across.size + down.size))


def test_total_variation_of_constants_scales_and_shifts():
    images = natural()
    tv = smoothness.total_variation(images)
    assert (smoothness.total_variation(torch.full((2, 1, 4, 4), 0.3)) == 0).all()
    torch.testing.assert_close(smoothness.total_variation(5 - 2 * images), 2 * tv)
    torch.testing.assert_close(smoothness.total_variation(images.mT.flip(3)), tv)


def test_gaussian_total_variation_against_sampling():
    scales = torch.tensor([1.0, 0.5, 0.2, 0.0])[:, None, None, None]
    mean, factors = natural(1)[0, :1], scales * natural(4, channels=1)
    z = normal(40_000, 4, seed=1)
    tv = smoothness.total_variation(mean + torch.einsum("nk,kchw->nchw", z, factors))
    error = tv.std().item() / 200
    assert smoothness.gaussian_total_variation(mean, factors).item() == pytest.approx(tv.mean().item(), abs=4 * error)


def test_gaussian_total_variation_without_variance_is_that_of_the_mean_and_grows():
    mean, factors = natural(1)[0], natural(3)
    scales = [smoothness.gaussian_total_variation(mean, s * factors).item() for s in (0.0, 0.1, 0.5, 1.0)]
    assert scales[0] == pytest.approx(smoothness.total_variation(mean[None]).item())
    assert scales == sorted(scales)
    with pytest.raises(ValueError, match=r"factors: expected \[k, 3, 16, 16\], got \[3, 1, 16, 16\]"):
        smoothness.gaussian_total_variation(mean, factors[:, :1])


@pytest.mark.parametrize(("k", "m"), [(1, 0), (0, 5), (3, 4), (15, 15)])
def test_a_wave_is_one_line(k, m):
    frequency, power = smoothness.power_spectrum(wave(k, m, channels=3))
    (line,) = (power[0] > 1e-9).nonzero()[:, 0].tolist()
    assert frequency[line].item() == pytest.approx(math.hypot(k, m) / 32, abs=0.5 / 32)


def test_white_noise_is_flat():
    frequency, power = smoothness.power_spectrum(0.3 * normal(3_000, 1, 12, 12))
    mean, error = power.mean(0), power.std(0) / math.sqrt(3_000)
    assert ((mean - 0.09).abs() < 4 * error).all() and len(frequency) == power.shape[1]
    assert (frequency.diff() > 0).all()


@pytest.mark.parametrize("shape", [(3, 1, 12, 12), (2, 3, 8, 12)])
def test_parseval(shape):
    images = normal(*shape) + 2
    height, width = shape[2:]
    radius = np.hypot(np.arange(height)[:, None] / height, np.arange(width) / width) / 2
    rings = np.clip(np.round(2 * min(height, width) * radius), 1, None).astype(int)
    rings[0, 0] = 0
    count = torch.from_numpy(np.bincount(rings.ravel())[1:])
    _, power = smoothness.power_spectrum(images)
    total = (images - images.mean((2, 3), keepdim=True)).square().sum((2, 3)).mean(1)
    torch.testing.assert_close((power * count[count > 0]).sum(1), total)


def test_share_against_scipys_transform():
    images = natural()
    coefficients = fft.dctn(images.numpy(), axes=(2, 3), norm="ortho") ** 2
    coefficients[:, :, 0, 0] = 0
    radius = np.hypot(*np.meshgrid(np.arange(16), np.arange(16))) / 32
    for cutoff in (0.05, 0.125, 0.4):
        expected = (coefficients * (radius > cutoff)).sum((1, 2, 3)) / coefficients.sum((1, 2, 3))
        np.testing.assert_allclose(smoothness.high_frequency_share(images, cutoff).numpy(), expected)


def test_share_of_single_waves_of_constants_and_of_everything():
    share = smoothness.high_frequency_share
    assert share(wave(3, 0)).item() == pytest.approx(0, abs=1e-12) and share(wave(5, 0)).item() == pytest.approx(1)
    assert share(natural(), 0).tolist() == pytest.approx([1] * 6)
    for grey in (0.0, 0.3):
        assert share(torch.full((1, 3, 8, 8), grey)).item() == 0
    torch.testing.assert_close(share(0.5 * natural() + 3), share(natural()))


def test_blur_lowers_everything_step_by_step():
    images, rows = natural(4), []
    for sigma in (0, 0.5, 1, 2, 4):
        blurred = ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="reflect")
        x = torch.from_numpy(blurred)
        rows.append(torch.stack([smoothness.total_variation(x), smoothness.high_frequency_share(x)]))
    assert (torch.stack(rows).diff(dim=0) < 0).all()


def test_spectrum_distance():
    power = normal(20, 7).exp()
    assert smoothness.spectrum_distance(power, power).item() == 0
    assert smoothness.spectrum_distance(3 * power, power).item() == pytest.approx(math.log(3))
    one_ring = power * torch.tensor([math.e] + [1.0] * 6, dtype=DOUBLE)
    assert smoothness.spectrum_distance(one_ring, power).item() == pytest.approx(math.sqrt(1 / 7))
    with pytest.raises(ValueError, match="positive in every ring"):
        smoothness.spectrum_distance(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"expected \[..., n, bins\]"):
        smoothness.spectrum_distance(torch.ones(2, 3), torch.ones(2, 4))


def test_spread_against_all_pairs():
    images = natural(5)
    distances = torch.cdist(images.flatten(1), images.flatten(1)).square() / images[0].numel()
    torch.testing.assert_close(smoothness.spread(images), (distances.sum(1) / 4).sqrt())


def test_equal_images_have_no_spread_however_rough():
    assert smoothness.spread(normal(1, 1, 8, 8).expand(5, 1, 8, 8)).max() < 1e-12
    with pytest.raises(ValueError, match="at least two"):
        smoothness.spread(natural(1))


def test_active_latents():
    codes = normal(200, 3) * torch.tensor([1.0, 0.2, 0.01], dtype=DOUBLE) + 5
    assert smoothness.active_latents(codes) == 2 and smoothness.active_latents(codes, threshold=0.5) == 1
    with pytest.raises(ValueError, match=r"codes: expected \[n ≥ 2, d\], got \[200\]"):
        smoothness.active_latents(codes[:, 0])


def test_errors_agree_with_each_other_and_with_repetition():
    values = normal(400)
    mean, error = smoothness.mean_and_error(values)
    assert mean == pytest.approx(values.mean().item()) and error == pytest.approx(values.std().item() / 20)
    assert smoothness.bootstrap_error(torch.mean, values, n_resamples=2_000) == pytest.approx(error, rel=0.1)
    assert smoothness.bootstrap_error(torch.mean, values) == smoothness.bootstrap_error(torch.mean, values)
    for bad in (values[:1], values[:, None]):
        with pytest.raises(ValueError, match=r"values: expected \[n ≥ 2"):
            smoothness.mean_and_error(bad)
    with pytest.raises(ValueError, match="n_resamples: expected at least 2"):
        smoothness.bootstrap_error(torch.mean, values, n_resamples=1)


MEASURES = [smoothness.total_variation, smoothness.power_spectrum, smoothness.high_frequency_share, smoothness.spread]


@pytest.mark.parametrize("measure", MEASURES, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("images", "error", "match"),
    [
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), TypeError, "expected floating point"),
        (torch.zeros(2, 4, 4), ValueError, r"expected \[n ≥ 1, C, H, W\]"),
        (torch.zeros(0, 1, 4, 4), ValueError, "n ≥ 1"),
        (torch.zeros(2, 1, 1, 1), ValueError, "two pixels"),
        (torch.full((2, 1, 4, 4), torch.nan), ValueError, "finite grey values"),
    ],
)
def test_bad_images_are_refused(measure, images, error, match):
    with pytest.raises(error, match=match):
        measure(images)


def test_nothing_is_changed_in_place():
    images = natural()
    before = images.clone()
    for measure in MEASURES:
        measure(images)
    assert torch.equal(images, before)
