"""Priors under hard conditions: heavy tails, edges, extreme units, far samples, other dtypes, bad input.

That the maps built on them keep the prior is tested in test_identifiability.
"""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from grae_helpers import priors
from grae_helpers.identifiability import conditional_mixing_transform, log_det_jacobian, mixing_transform
from grae_helpers.priors import GaussianMixture, Independent

CORRELATED = [[[1.0, 0.6], [0.6, 0.8]], [[0.4, -0.2], [-0.2, 0.5]], [[0.3, 0.0], [0.0, 1.2]]]
MIXTURE = GaussianMixture([0.5, 0.3, 0.2], [[-1.5, 0.0], [1.0, 1.5], [1.0, -2.0]], CORRELATED)
NORMAL = [stats.norm()] * 2


def turn(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


HARD = {
    "Cauchy": stats.cauchy(),
    "Student, half a degree of freedom": stats.t(0.5),
    "beta, infinite at its edges": stats.beta(0.5, 0.5),
    "gamma, infinite at zero": stats.gamma(0.1),
    "log-normal": stats.lognorm(3),
    "Pareto": stats.pareto(1.5),
    "truncated normal": stats.truncnorm(-1, 2),
    "von Mises": stats.vonmises(2),
    "skewed normal": stats.skewnorm(4),
    "narrow Laplace": stats.laplace(0, 1e-9),
    "far normal": stats.norm(1e9, 1e-3),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_marginals(name):
    """Against the map in its five steps where those have digits, and there and back everywhere."""
    marginal = HARD[name]
    z = marginal.rvs((200, 2), random_state=0)
    mixed = mixing_transform(z, turn(33), [marginal] * 2)
    np.testing.assert_allclose(mixing_transform(mixed, turn(-33), [marginal] * 2), z, rtol=1e-9)
    scores = stats.norm.ppf(marginal.cdf(z))
    turned = scores @ turn(33).T
    plain = (np.abs(np.concatenate([scores, turned], 1)) < 4).all(1)
    np.testing.assert_allclose(mixed[plain], marginal.ppf(stats.norm.cdf(turned[plain])), rtol=1e-9)


@pytest.mark.parametrize("marginal", [stats.cauchy(), stats.t(3), stats.logistic()], ids=lambda m: m.dist.name)
def test_both_far_tails_of_symmetric_marginals(marginal):
    far = 500.0 if marginal.dist.name == "logistic" else 1e15
    z = np.array([[far, 0.5], [-far, -0.5]])
    mixed = mixing_transform(z, turn(10), [marginal] * 2)
    np.testing.assert_allclose(mixed[0], -mixed[1], rtol=1e-12)
    np.testing.assert_allclose(mixing_transform(mixed, turn(-10), [marginal] * 2), z, rtol=1e-10)


def test_a_tail_that_underflows_is_refused_also_where_the_support_ends():
    corner = np.array([[1e-300, 1e-300]])
    with pytest.raises(ValueError, match=r"marginals\[1\]: no finite quantile for sample 0, turned to -52\.\d+σ"):
        mixing_transform(corner, turn(45), [stats.uniform()] * 2)


def schur_scores(z: np.ndarray) -> list[tuple[float, float]]:
    """(log F, log(1 − F)) of z_1, and of z_2 given z_1, of MIXTURE by the textbook's conditional Gaussians."""
    w, mean, cov = MIXTURE.weights, MIXTURE.means, MIXTURE.covariances
    slope = cov[:, 0, 1] / cov[:, 0, 0]
    first = stats.norm(mean[:, 0], np.sqrt(cov[:, 0, 0]))
    second = stats.norm(mean[:, 1] + slope * (z[0] - mean[:, 0]), np.sqrt(cov[:, 1, 1] - slope * cov[:, 0, 1]))
    given = np.log(w) + first.logpdf(z[0])
    given -= logsumexp(given)
    pairs = ((np.log(w), first, z[0]), (given, second, z[1]))
    return [(logsumexp(g + d.logcdf(x)), logsumexp(g + d.logsf(x))) for g, d, x in pairs]


@pytest.mark.parametrize("z", [[-4.0, 3.0], [8.0, -9.0], [0.3, 0.1], [6.0, 6.0], [-9.0, -9.0]])
def test_scores_of_a_mixture_in_its_tails(z):
    for score, (log_cdf, log_sf) in zip(MIXTURE.to_normal(np.array([z]))[0], schur_scores(z), strict=True):
        assert stats.norm.logcdf(score) == pytest.approx(log_cdf, rel=1e-12, abs=1e-14)
        assert stats.norm.logsf(score) == pytest.approx(log_sf, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("unit", [1e-150, 1e-8, 1.0, 1e8])
def test_the_units_of_a_mixture_do_not_matter(unit):
    prior = GaussianMixture(MIXTURE.weights, MIXTURE.means * unit, MIXTURE.covariances * unit**2)
    z = MIXTURE.sample(100)
    expected = conditional_mixing_transform(z, turn(40), MIXTURE)
    np.testing.assert_allclose(conditional_mixing_transform(z * unit, turn(40), prior) / unit, expected, atol=1e-8)
    np.testing.assert_allclose(prior.log_prob(z * unit) + 2 * np.log(unit), MIXTURE.log_prob(z), atol=1e-9)


def test_components_of_very_different_widths():
    prior = GaussianMixture([0.5, 0.5], [[0.0, 0.0], [3.0, 0.0]], [1e-12 * np.eye(2), 1e12 * np.eye(2)])
    z = prior.sample(300)
    back = conditional_mixing_transform(conditional_mixing_transform(z, turn(40), prior), turn(-40), prior)
    np.testing.assert_allclose(back, z, rtol=1e-9)


def test_five_latents_there_and_back():
    generator, U = np.random.default_rng(9), stats.ortho_group.rvs(5, random_state=1)
    covariances = [np.cov(generator.normal(size=(5, 20))) for _ in range(4)]
    prior = GaussianMixture([0.1, 0.2, 0.3, 0.4], 2 * generator.normal(size=(4, 5)), covariances)
    z = prior.sample(200)
    back = conditional_mixing_transform(conditional_mixing_transform(z, U, prior), U.T, prior)
    np.testing.assert_allclose(back, z, atol=1e-9)


@pytest.mark.parametrize("far", [1e7, 1e200, 1e308])
def test_samples_too_far_out_to_weigh_components_are_refused(far):
    z = np.array([[0.0, 0.0], [far, -far / 3]])
    for call in (MIXTURE.log_prob, MIXTURE.rosenblatt, lambda z: conditional_mixing_transform(z, turn(40), MIXTURE)):
        with pytest.raises(ValueError, match=r"z: sample 1 is more than 1e\+06σ from every component"):
            call(z)


def test_no_samples_give_none():
    none = np.zeros((0, 2))
    assert MIXTURE.log_prob(none).shape == (0,) and MIXTURE.sample(0).shape == (0, 2)
    for call in (
        MIXTURE.rosenblatt,
        MIXTURE.inverse_rosenblatt,
        lambda z: conditional_mixing_transform(z, turn(40), MIXTURE),
        lambda z: mixing_transform(z, turn(40), [stats.t(2)] * 2),
    ):
        assert call(none).shape == (0, 2)
    assert log_det_jacobian(none, turn(40), NORMAL).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_short_floats_come_back_as_they_came(dtype):
    z = torch.tensor([[0.25, -1.5]], dtype=dtype)
    for prior, call in ((NORMAL, mixing_transform), (MIXTURE, conditional_mixing_transform)):
        found = call(z, turn(40), prior)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), call(z.double(), turn(40), prior), atol=1e-2, rtol=1e-2)


def test_a_tensor_that_wants_gradients_is_refused():
    z = torch.full((1, 2), 0.5, requires_grad=True)
    for call in (MIXTURE.log_prob, MIXTURE.rosenblatt, lambda z: mixing_transform(z, np.eye(2), NORMAL)):
        with pytest.raises(ValueError, match=r"no gradient .*: z\.detach"):
            call(z)
    with pytest.raises(ValueError, match=r"no gradient .*: rotation\.detach"):
        mixing_transform(z.detach(), torch.eye(2, requires_grad=True), NORMAL)


def test_a_prior_keeps_its_own_numbers():
    weights, means = np.array([0.5, 0.5]), np.zeros((2, 2))
    prior = GaussianMixture(weights, means, np.stack([np.eye(2)] * 2))
    means += 100
    weights[:] = 1
    assert prior.log_prob(np.zeros((1, 2)))[0] == pytest.approx(-np.log(2 * np.pi))


def test_a_mixture_of_single_precision():
    """0.1 + 0.2 + 0.7 is 1 only to the rounding of float32; a float32 covariance is symmetric only to it."""
    weights, covariance = torch.tensor([0.1, 0.2, 0.7]), torch.tensor([[1.0, 0.3], [0.3 + 1e-7, 1.0]])
    prior = GaussianMixture(weights, torch.zeros(3, 2), covariance.expand(3, 2, 2))
    assert prior.sample(5).shape == (5, 2) and prior.weights.sum() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    "covariance",
    [[[1.0, 1.0], [1.0, 1.0]], [[np.inf, 0.0], [0.0, 1.0]], [[1e-12, 1e-12], [0.0, 1e-12]], [[0.0, 0.0], [0.0, 1.0]]],
    ids=["singular", "infinite", "small and not symmetric", "flat"],
)
def test_what_is_no_covariance_is_refused(covariance):
    with pytest.raises(ValueError, match="covariances: expected symmetric and positive definite"):
        GaussianMixture([1.0], [[0.0, 0.0]], [covariance])


@pytest.mark.parametrize(
    ("marginals", "error", "message"),
    [
        ([], ValueError, "marginals: expected .* for each latent, got an empty list"),
        (stats.norm(), TypeError, "marginals: expected a list, .* got rv_continuous_frozen"),
        ((stats.norm() for _ in range(2)), TypeError, "marginals: expected a list, .* got generator"),
        ([stats.norm(), None], TypeError, r"marginals\[1\]: expected .* got NoneType"),
    ],
)
def test_what_are_no_marginals_is_refused(marginals, error, message):
    with pytest.raises(error, match=message):
        Independent(marginals)


@pytest.mark.parametrize(("n", "error"), [(-1, ValueError), (2.5, TypeError), (True, TypeError)])
def test_a_number_of_draws_is_a_count(n, error):
    with pytest.raises(error, match="n: expected"):
        MIXTURE.sample(n)


def test_arrays_are_copied_and_named():
    z = np.zeros((2, 2))
    priors.as_array("z", z)[0] = 1
    assert not z.any()
    for bad, found in ((None, "NoneType"), ([[0.0]], "list"), (np.eye(2, dtype=bool), "bool"), (1.0, "float")):
        with pytest.raises(TypeError, match=f"latents: expected .* got {found}"):
            priors.as_array("latents", bad)
    with pytest.raises(TypeError, match="complex64"):
        priors.as_array("z", torch.zeros(1, dtype=torch.complex64))
