"""Posteriors against scipy's densities, dense linear algebra and quadrature."""

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats
import torch
from helpers import hermite_expectation, normal, relative
from torch.distributions import Independent, Laplace, LogNormal, MultivariateNormal, Normal

from grae_helpers import posteriors

BLOCKS = [1, 2, 3, 5, None]


def dense_scale(raw: np.ndarray, d: int, block: int | None) -> np.ndarray:
    """C of one sample, block by block in plain loops."""
    size, entries, blocks = block or d, iter(raw), []
    pieces = {i: np.zeros((min(size, d - i), min(size, d - i))) for i in range(0, d, size)}
    for row in range(d):
        piece, start = pieces[row // size * size], row // size * size
        for column in range(start, row + 1):
            value = next(entries)
            piece[row - start, column - start] = np.exp(value) if row == column else value
    blocks = [pieces[i] for i in sorted(pieces)]
    assert next(entries, None) is None
    return scipy.linalg.block_diag(*blocks)


@pytest.mark.parametrize("block", BLOCKS)
def test_against_dense_linear_algebra_and_scipy(block):
    d = 5
    mean, raw = normal(4, d), 0.5 * normal(4, posteriors.n_raw(d, block), seed=1)
    q, z = posteriors.gaussian(mean, raw, block), normal(4, d, seed=2)
    for i in range(4):
        scale = dense_scale(raw[i].numpy(), d, block)
        sigma, mu = scale @ scale.T, mean[i].numpy()
        assert np.allclose(posteriors.covariance(q)[i], sigma, rtol=1e-12, atol=1e-14)
        assert np.allclose(posteriors.scale(q)[i], scale, rtol=1e-12, atol=0)
        density = scipy.stats.multivariate_normal(mu, sigma).logpdf(z[i].numpy())
        assert np.isclose(q.log_prob(z)[i], density, rtol=1e-8)
        kl = 0.5 * (mu @ mu + np.trace(sigma) - np.linalg.slogdet(sigma)[1] - d)
        assert np.isclose(posteriors.kl_to_prior(q)[i], kl, rtol=1e-10)


@pytest.mark.parametrize("block", [1, None])
def test_kl_is_the_expected_log_ratio_by_quadrature(block):
    q = posteriors.gaussian(normal(3, 2), 0.4 * normal(3, posteriors.n_raw(2, block), seed=1), block)
    prior = MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    expected = hermite_expectation(lambda z: q.log_prob(z) - prior.log_prob(z), q.mean, posteriors.scale(q))
    assert relative(posteriors.kl_to_prior(q), expected) < 1e-10


@pytest.mark.parametrize("block", BLOCKS)
def test_zero_raw_is_the_prior_covariance(block):
    q = posteriors.gaussian(torch.zeros(2, 5), torch.zeros(2, posteriors.n_raw(5, block)), block)
    assert torch.equal(posteriors.covariance(q), torch.eye(5).expand(2, 5, 5))
    assert torch.equal(posteriors.kl_to_prior(q), torch.zeros(2))
    assert (q.batch_shape, q.event_shape, q.has_rsample) == ((2,), (5,), True)


@pytest.mark.parametrize("block", BLOCKS)
def test_samples_have_the_covariance(block):
    torch.manual_seed(0)
    q = posteriors.gaussian(normal(1, 5), 0.3 * normal(1, posteriors.n_raw(5, block), seed=1), block)
    z = q.sample((50_000,))[:, 0]
    assert (torch.cov(z.T) - posteriors.covariance(q)[0]).abs().max() < 0.05


def test_a_last_block_may_be_smaller():
    mask = posteriors.block_mask(8, 3).int()
    expected = scipy.linalg.block_diag(np.ones((3, 3)), np.ones((3, 3)), np.ones((2, 2)))
    assert np.array_equal(mask, expected)
    assert posteriors.n_raw(8, 3) == 6 + 6 + 3


@pytest.mark.parametrize("block", [0, -1, 6])
def test_block_size_out_of_range(block):
    with pytest.raises(ValueError, match=f"block_size: expected 1 to d = 5, got {block}"):
        posteriors.gaussian(torch.zeros(1, 5), torch.zeros(1, 5), block)


@pytest.mark.parametrize("block", [1.5, True, "2", 2.0])
def test_block_size_that_is_no_integer(block):
    with pytest.raises(TypeError, match="block_size: expected an integer or None, got"):
        posteriors.gaussian(torch.zeros(1, 5), torch.zeros(1, 5), block)


@pytest.mark.parametrize(
    ("mean", "raw", "error", "message"),
    [
        (
            torch.zeros(2, 3),
            torch.zeros(2, 4),
            ValueError,
            r"expected \[2, 6\] for block_size None, got \[2, 4\]",
        ),
        (torch.zeros(2, 3), torch.zeros(1, 6), ValueError, r"raw: expected \[2, 6\]"),
        (torch.zeros(0, 3), torch.zeros(0, 6), ValueError, r"mean: expected \[batch ≥ 1, d\], got \[0, 3\]"),
        (torch.zeros(3), torch.zeros(6), ValueError, r"mean: expected \[batch ≥ 1, d\], got \[3\]"),
        (
            torch.zeros(2, 3),
            torch.zeros(2, 6).double(),
            TypeError,
            "one floating dtype, got torch.float32 and",
        ),
        (torch.zeros(2, 3).long(), torch.zeros(2, 6).long(), TypeError, "one floating dtype"),
    ],
    ids=["raw", "raw batch", "empty", "mean", "dtypes", "integers"],
)
def test_shapes_and_dtypes_that_do_not_fit(mean, raw, error, message):
    with pytest.raises(error, match=message):
        posteriors.gaussian(mean, raw)


def test_large_off_diagonal_entries_have_finite_gradients():
    raw = torch.tensor([[0.0, 1000.0, 0.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        posteriors.covariance(posteriors.gaussian(torch.zeros(1, 2).double(), raw)).sum(), raw
    )
    assert torch.isfinite(gradient).all()


def test_tiny_scales_have_finite_gradients():
    """The variance of exp(−60) underflows in float32, the scale does not."""
    raw = torch.full((1, 2), -60.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        posteriors.scale(posteriors.gaussian(torch.zeros(1, 2), raw, 1)).sum(), raw
    )
    assert torch.isfinite(gradient).all()
    assert (gradient > 0).all()


def test_inputs_are_not_changed():
    mean, raw = normal(2, 3), normal(2, 6)
    copies = mean.clone(), raw.clone()
    posteriors.gaussian(mean, raw).sample()
    assert torch.equal(mean, copies[0])
    assert torch.equal(raw, copies[1])


def test_other_factorised_families():
    q = Independent(Laplace(normal(3, 2), normal(3, 2, seed=1).exp()), 1)
    assert relative(posteriors.covariance(q).diagonal(dim1=1, dim2=2), q.variance) < 1e-12

    def divergence(mean: float, scale: float) -> float:
        one, prior = scipy.stats.laplace(mean, scale), scipy.stats.norm
        ends, options = (mean - 40 * scale, mean + 40 * scale), {"epsabs": 1e-12, "limit": 200}
        integrand = lambda z: one.pdf(z) * (one.logpdf(z) - prior.logpdf(z))  # noqa: E731
        return scipy.integrate.quad(integrand, *ends, points=[mean], **options)[0]

    kl = sum(map(divergence, q.base_dist.loc[0].tolist(), q.base_dist.scale[0].tolist()))
    assert np.isclose(posteriors.kl_to_prior(q)[0], kl, rtol=1e-8)


def test_posteriors_without_a_known_covariance_or_kl():
    bare = Normal(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(
        TypeError, match="expected MultivariateNormal, or Independent over one dimension, got Normal"
    ):
        posteriors.covariance(bare)
    with pytest.raises(NotImplementedError):
        posteriors.kl_to_prior(Independent(LogNormal(torch.zeros(2, 3), torch.ones(2, 3)), 1))
