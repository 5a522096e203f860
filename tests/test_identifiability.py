"""App. A's maps against hypothesis tests, finite differences and integrals; the angle against planted rotations."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy import integrate, stats

from grae_helpers import identifiability
from grae_helpers.identifiability import GaussianMixture

PRIORS = {
    "uniform": [stats.uniform(-1, 2)] * 2,
    "Laplace": [stats.laplace()] * 2,
    "beta and gamma": [stats.beta(2, 5), stats.gamma(3)],
    "Student and normal": [stats.t(3), stats.norm(1, 2)],
    "exponential and logistic": [stats.expon(), stats.logistic()],
}


class TwoBumps(stats.rv_continuous):
    """A mixture that knows its CDF only; scipy finds the rest."""

    def _cdf(self, x):
        return 0.3 * stats.norm.cdf(x, -2) + 0.7 * stats.norm.cdf(x, 1)


def turn(degrees: float, flip: bool = False) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]]) @ np.diag([1.0, -1.0 if flip else 1.0])


def draws(marginals: list, n: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.stack([marginal.rvs(n, random_state=generator) for marginal in marginals], 1)


def mixture() -> GaussianMixture:
    return GaussianMixture(
        [0.5, 0.3, 0.2],
        [[-1.5, 0.0], [1.0, 1.5], [1.0, -2.0]],
        [[[1.0, 0.6], [0.6, 0.8]], [[0.4, -0.2], [-0.2, 0.5]], [[0.3, 0.0], [0.0, 1.2]]],
    )


def scipy_density(prior: GaussianMixture, z: np.ndarray) -> np.ndarray:
    parts = zip(prior.weights, prior.means, prior.covariances, strict=True)
    return sum(w * stats.multivariate_normal(mean, cov).pdf(z) for w, mean, cov in parts)


def independent(u: np.ndarray) -> bool:
    """Rank correlation and a χ² test on a grid of 8 × 8, for u uniform; false alarms are rarer than 1 in 10,000."""
    cells = np.histogram2d(*u.T, bins=8, range=[[0, 1], [0, 1]])[0].ravel()
    return stats.spearmanr(*u.T).pvalue > 1e-4 and stats.chisquare(cells).pvalue > 1e-4


# The map of independent marginals


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", PRIORS)
def test_the_map_keeps_marginals_and_independence(claim, name, flip):
    marginals = PRIORS[name]
    z = draws(marginals, 20_000)
    mixed = identifiability.mixing_transform(z, turn(33, flip), marginals)
    for marginal, column in zip(marginals, mixed.T, strict=True):
        assert stats.kstest(column, marginal.cdf).pvalue > 1e-4
    assert independent(np.stack([m.cdf(c) for m, c in zip(marginals, mixed.T, strict=True)], 1))
    assert all(abs(stats.spearmanr(z[:, i], mixed[:, j])[0]) > 0.3 for i in (0, 1) for j in (0, 1)), "it does mix"
    claim("K1b", "holds")


def test_a_plain_rotation_of_non_gaussians_is_caught_by_these_tests():
    z = draws(PRIORS["uniform"], 20_000) @ turn(33).T
    assert not independent((z - z.min(0)) / (z.max(0) - z.min(0)))


def test_gaussian_marginals_give_the_plain_affine_rotation():
    marginals, U = [stats.norm(1, 2), stats.norm(-3, 0.5), stats.norm()], stats.ortho_group.rvs(3, random_state=0)
    z, mean, std = draws(marginals, 500), np.array([1, -3, 0]), np.array([2, 0.5, 1])
    mixed = identifiability.mixing_transform(z, U, marginals)
    np.testing.assert_allclose(mixed, mean + std * (((z - mean) / std) @ U.T), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", PRIORS)
def test_the_maps_are_a_group(name):
    marginals, (U, V) = PRIORS[name], (turn(33), turn(71, flip=True))
    z = draws(marginals, 500)
    r = identifiability.mixing_transform
    np.testing.assert_allclose(r(r(z, V, marginals), U, marginals), r(z, U @ V, marginals), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(r(r(z, U, marginals), U.T, marginals), z, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(r(z, np.eye(2), marginals), z, rtol=1e-10, atol=1e-12)


def test_a_signed_permutation_moves_whole_latents():
    marginals = [stats.laplace()] * 2
    z = draws(marginals, 100)
    mixed = identifiability.mixing_transform(z, np.array([[0.0, -1.0], [1.0, 0.0]]), marginals)
    np.testing.assert_allclose(mixed, np.stack([-z[:, 1], z[:, 0]], 1), rtol=1e-12)


def test_a_mixture_marginal_that_scipy_inverts():
    marginals = [TwoBumps()(), stats.norm()]
    z = np.random.default_rng(0).normal(size=(40, 2))
    mixed = identifiability.mixing_transform(z, turn(20), marginals)
    direct = stats.norm.ppf(marginals[0].cdf(z[:, 0])), z[:, 1]
    turned = np.stack(direct, 1) @ turn(20).T
    np.testing.assert_allclose(marginals[0].cdf(mixed[:, 0]), stats.norm.cdf(turned[:, 0]), atol=1e-9)
    np.testing.assert_allclose(mixed[:, 1], turned[:, 1], atol=1e-12)


@pytest.mark.parametrize("sigmas", [8.0, 20.0, 35.0])
def test_far_tails_survive_the_round_trip(sigmas):
    assert stats.norm.cdf(max(sigmas, 9)) == 1.0
    marginals = [stats.norm(), stats.norm()]
    z = np.array([[sigmas, 0.3], [-sigmas, 0.3], [0.2, sigmas]])
    mixed = identifiability.mixing_transform(z, turn(33), marginals)
    np.testing.assert_allclose(mixed, z @ turn(33).T, rtol=1e-12)
    np.testing.assert_allclose(identifiability.mixing_transform(mixed, turn(-33), marginals), z, rtol=1e-11)


def test_far_tails_of_other_marginals():
    marginals = [stats.laplace(), stats.gamma(2)]
    z = np.array([[60.0, 70.0], [-60.0, 50.0]])
    back = identifiability.mixing_transform(
        identifiability.mixing_transform(z, turn(10), marginals), turn(-10), marginals
    )
    np.testing.assert_allclose(back, z, rtol=1e-10)


def determinants(transform, z: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """log|det| of a map's Jacobian by central differences, sample by sample."""
    shifts = step * np.eye(z.shape[1])
    J = np.stack([(transform(z + s) - transform(z - s)) / (2 * step) for s in shifts], -1)
    return np.linalg.slogdet(J)[1]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", PRIORS)
def test_log_det_jacobian_against_differences_of_the_map(name, flip):
    marginals, U = PRIORS[name], turn(33, flip)
    u = np.random.default_rng(1).uniform(0.05, 0.95, size=(200, 2))
    z = np.stack([marginal.ppf(column) for marginal, column in zip(marginals, u.T, strict=True)], 1)
    z = z[(np.abs(z) > 1e-3).all(1)]  # a Laplace density has a kink at 0
    ours = identifiability.log_det_jacobian(z, U, marginals)
    found = determinants(lambda z: identifiability.mixing_transform(z, U, marginals), z)
    bad = np.abs(ours - found) > 1e-5
    assert bad.mean() < 0.02, "only where a difference straddles a kink of the image"
    constant = name == "uniform"
    assert (np.abs(ours).max() < 1e-12) == constant


# Correlated priors


def test_log_prob_against_scipy():
    prior, z = mixture(), 3 * np.random.default_rng(0).normal(size=(200, 2))
    np.testing.assert_allclose(prior.log_prob(z), np.log(scipy_density(prior, z)), rtol=1e-11, atol=1e-12)
    normal = GaussianMixture([1.0], [[1.0, 2.0, 3.0]], [np.diag([1.0, 2.0, 3.0]) + 0.5])
    z = np.random.default_rng(0).normal(size=(50, 3))
    expected = stats.multivariate_normal([1, 2, 3], np.diag([1.0, 2.0, 3.0]) + 0.5).logpdf(z)
    np.testing.assert_allclose(normal.log_prob(z), expected, rtol=1e-12)


@pytest.mark.parametrize("a, b", [(-1.0, 0.5), (0.9, -1.5), (2.0, 1.0)])
def test_rosenblatt_against_integrals_of_the_density(a, b):
    prior, y = mixture(), np.linspace(-12, 12, 1201)
    x = np.linspace(-12, a, 601)
    joint = scipy_density(prior, np.stack(np.meshgrid(x, y, indexing="ij"), -1))
    marginal = integrate.simpson(integrate.simpson(joint, x=y), x=x)
    parts = [integrate.quad(lambda t: scipy_density(prior, np.array([a, t])), -12, end)[0] for end in (b, 12)]
    found = prior.rosenblatt(np.array([[a, b]]))[0]
    np.testing.assert_allclose(found, [marginal, parts[0] / parts[1]], atol=1e-8)


def test_rosenblatt_pushes_the_prior_to_the_uniform_and_back():
    prior = mixture()
    z = prior.sample(20_000, seed=3)
    u = prior.rosenblatt(z)
    assert all(stats.kstest(column, "uniform").pvalue > 1e-4 for column in u.T) and independent(u)
    np.testing.assert_allclose(prior.inverse_rosenblatt(u), z, atol=1e-9)


def test_sample_has_the_moments_of_the_mixture():
    prior = mixture()
    z = prior.sample(40_000, seed=1)
    mean = prior.weights @ prior.means
    second = np.einsum("k,kij->ij", prior.weights, prior.covariances + prior.means[:, :, None] * prior.means[:, None])
    np.testing.assert_allclose(z.mean(0), mean, atol=5 * z.std(0).max() / 200)
    np.testing.assert_allclose(np.cov(z.T), second - np.outer(mean, mean), atol=0.08)
    np.testing.assert_array_equal(z[:5], prior.sample(40_000, seed=np.random.default_rng(1))[:5])


def test_one_component_is_a_linear_map():
    covariance, mean = np.array([[2.0, 0.8, 0.1], [0.8, 1.0, -0.3], [0.1, -0.3, 0.7]]), np.array([1.0, 2.0, -1.0])
    prior, U = GaussianMixture([1.0], [mean], [covariance]), stats.ortho_group.rvs(3, random_state=1)
    z, L = prior.sample(100), np.linalg.cholesky(covariance)
    expected = mean + (z - mean) @ (L @ U @ np.linalg.inv(L)).T
    mixed = identifiability.conditional_mixing_transform(z, U, prior)
    np.testing.assert_allclose(mixed, expected, atol=1e-11)
    slope = np.linalg.slogdet(L @ U @ np.linalg.inv(L))[1]
    np.testing.assert_allclose(slope, 0, atol=1e-12)
    np.testing.assert_allclose(identifiability.log_det_jacobian(z, U, prior), 0, atol=1e-11)


@pytest.mark.parametrize("flip", [False, True])
def test_the_conditional_map_keeps_a_mixture(claim, flip):
    prior, U = mixture(), turn(40, flip)
    z = prior.sample(20_000, seed=2)
    mixed = identifiability.conditional_mixing_transform(z, U, prior)
    u = prior.rosenblatt(mixed)
    assert all(stats.kstest(column, "uniform").pvalue > 1e-4 for column in u.T) and independent(u)
    for weights in ([1.0, 0.0], [0.6, 0.8], [-0.8, 0.6]):  # against other draws, along other lines
        assert stats.ks_2samp(mixed @ weights, prior.sample(20_000, seed=9) @ weights).pvalue > 1e-4
    claim("K1d", "holds")


def test_the_conditional_maps_are_a_group():
    prior, (U, V) = mixture(), (turn(40), turn(-65, flip=True))
    z, r = prior.sample(1000), identifiability.conditional_mixing_transform
    np.testing.assert_allclose(r(r(z, V, prior), U, prior), r(z, U @ V, prior), atol=1e-8)
    np.testing.assert_allclose(r(r(z, U, prior), U.T, prior), z, atol=1e-8)


def test_log_det_jacobian_of_a_mixture_against_differences():
    prior, U = mixture(), turn(40)
    z = prior.sample(500, seed=4)
    ours = identifiability.log_det_jacobian(z, U, prior)
    found = determinants(lambda z: identifiability.conditional_mixing_transform(z, U, prior), z)
    np.testing.assert_allclose(ours, found, atol=2e-5)
    assert np.abs(ours).max() > 1


def test_a_factorised_mixture_needs_no_conditionals():
    """Two routes to one map: conditional CDFs of the joint mixture, and scipy's inverse of the marginal's CDF."""
    product = GaussianMixture([0.3, 0.7], [[-2.0, 0.0], [1.0, 0.0]], [np.eye(2), np.eye(2)])
    z = product.sample(40, seed=5)
    joint = identifiability.conditional_mixing_transform(z, turn(25), product)
    apart = identifiability.mixing_transform(z, turn(25), [TwoBumps()(), stats.norm()])
    np.testing.assert_allclose(joint, apart, atol=1e-8)


def test_tails_of_a_mixture():
    prior = mixture()
    z = np.array([[12.0, -9.0], [-14.0, 10.0], [30.0, 30.0], [1.0, 25.0]])
    mixed = identifiability.conditional_mixing_transform(z, turn(40), prior)
    np.testing.assert_allclose(
        identifiability.conditional_mixing_transform(mixed, turn(-40), prior), z, rtol=1e-9, atol=1e-9
    )


def test_components_far_apart():
    prior = GaussianMixture([0.5, 0.5], [[-8.0, 0.0], [8.0, 0.0]], [0.5 * np.eye(2), 1e-3 * np.eye(2)])
    z = prior.sample(2000)
    np.testing.assert_allclose(prior.inverse_rosenblatt(prior.rosenblatt(z)), z, atol=1e-7)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([0.5, 0.4], [[0.0], [1.0]], np.ones((2, 1, 1))), "sum 1"),
        (([1.5, -0.5], [[0.0], [1.0]], np.ones((2, 1, 1))), "positive weights"),
        (([1.0], [[np.nan]], [[[1.0]]]), "finite means"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]]), "symmetric"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]]), "positive definite"),
        (([1.0], [[0.0]], [[[np.nan]]]), "positive definite"),
        (([1.0], [0.0], [[[1.0]]]), r"means \[k, d\]"),
        (([1.0], [[0.0]], [[1.0]]), r"covariances \[k, d, d\]"),
    ],
)
def test_mixture_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(*arguments)


def test_inverse_rosenblatt_refuses_the_ends():
    for end in (0.0, 1.0):
        with pytest.raises(ValueError, match="0 < u < 1"):
            mixture().inverse_rosenblatt(np.array([[0.5, end]]))


# What is given and what is refused


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_and_torch_give_the_same(dtype):
    z, U = draws(PRIORS["Laplace"], 50).astype(dtype), turn(33)
    for prior, call in (
        (PRIORS["Laplace"], identifiability.mixing_transform),
        (mixture(), identifiability.conditional_mixing_transform),
        (mixture(), identifiability.log_det_jacobian),
    ):
        kept, ours = z.copy(), call(z, U, prior)
        theirs = call(torch.from_numpy(z), torch.from_numpy(U), prior)
        assert isinstance(ours, np.ndarray) and isinstance(theirs, torch.Tensor)
        assert ours.dtype == dtype and theirs.dtype == torch.from_numpy(z).dtype
        np.testing.assert_array_equal(ours, theirs.numpy())
        np.testing.assert_array_equal(z, kept)
    prior = mixture()
    for method in (prior.log_prob, prior.rosenblatt, lambda z: prior.inverse_rosenblatt(z / 20 + 0.5)):
        np.testing.assert_array_equal(method(z[:5] / 9), method(torch.from_numpy(z[:5] / 9)).numpy())


Z, NORMAL = np.array([[0.1, 0.2], [0.3, 0.4]]), [stats.norm()] * 2


@pytest.mark.parametrize(
    "z, rotation, marginals, error, message",
    [
        (Z, np.array([[1.0, 0.1], [0.0, 1.0]]), NORMAL, ValueError, "rotation: expected orthogonal"),
        (Z, 2 * np.eye(2), NORMAL, ValueError, "rotation: expected orthogonal"),
        (Z, np.eye(3), NORMAL, ValueError, r"rotation: expected \[2, 2\]"),
        (Z, np.ones((2, 3)), NORMAL, ValueError, "rotation: expected square"),
        (Z, np.full((2, 2), np.nan), NORMAL, ValueError, "rotation: expected finite"),
        (Z, np.eye(2), NORMAL[:1], ValueError, r"rotation: expected \[1, 1\]"),
        (Z, np.eye(1), NORMAL[:1], ValueError, r"z: expected \[n, 1\]"),
        (Z[0], np.eye(2), NORMAL, ValueError, r"z: expected \[n, 2\], got \[2\]"),
        (np.array([[0.1, np.nan]]), np.eye(2), NORMAL, ValueError, "z: expected finite"),
        (Z.tolist(), np.eye(2), NORMAL, TypeError, "z: expected a numpy array"),
        (np.ones((3, 2), int), np.eye(2), NORMAL, TypeError, "got int64"),
        (torch.ones(3, 2, requires_grad=True), np.eye(2), NORMAL, ValueError, "detach"),
        (Z, np.eye(2), [stats.norm(), stats.poisson(3)], TypeError, r"marginals\[1\]: .* got poisson_gen"),
        (Z, np.eye(2), [stats.norm, stats.norm], TypeError, r"marginals\[0\]: .* got norm_gen"),
        (Z, np.eye(2), [stats.norm(scale=-1), stats.norm()], ValueError, r"marginals\[0\]: expected scalar"),
        (Z, np.eye(2), [stats.norm([0, 1]), stats.norm()], ValueError, r"marginals\[0\]: expected scalar"),
        (Z - 0.2, np.eye(2), [stats.norm(), stats.uniform()], ValueError, r"\[1\].* 0 at sample 0, z = 0\.0"),
        (Z + 0.7, np.eye(2), [stats.uniform()] * 2, ValueError, r"\[0\].* 1 at sample 1, z = 1\.0"),
        (Z + 5, np.eye(2), [stats.norm(), stats.beta(2, 2)], ValueError, r"marginals\[1\].* reaches 1 at sample 0"),
        (np.array([[36.0, 36.0]]), turn(45), NORMAL, ValueError, r"marginals\[1\]: no finite quantile for sample 0"),
    ],
)
def test_mixing_transform_refuses(z, rotation, marginals, error, message):
    for call in (identifiability.mixing_transform, identifiability.log_det_jacobian):
        with pytest.raises(error, match=message):
            call(z, rotation, marginals)


def test_conditional_mixing_transform_refuses():
    call = identifiability.conditional_mixing_transform
    with pytest.raises(TypeError, match="prior: expected a GaussianMixture, got list"):
        call(Z, np.eye(2), NORMAL)
    with pytest.raises(ValueError, match="rotation: expected orthogonal"):
        call(Z, np.ones((2, 2)), mixture())
    with pytest.raises(ValueError, match="z: expected finite"):
        call(np.array([[np.inf, 0.0]]), np.eye(2), mixture())


# The angle

SIGNED = [
    np.diag(signs) @ np.eye(2)[list(order)]
    for order in itertools.permutations(range(2))
    for signs in itertools.product([1.0, -1.0], repeat=2)
]


@pytest.mark.parametrize("theta", [-44.999, -30.0, -1e-7, 0.0, 12.5, 44.999, 45.0])
def test_angle_of_every_signed_permutation(theta):
    matrices = np.stack([turn(theta) @ S for S in SIGNED])
    np.testing.assert_allclose(identifiability.angle(matrices), theta, atol=1e-10)
    np.testing.assert_allclose(identifiability.angle(torch.from_numpy(matrices)), theta, atol=1e-10)


def test_angle_of_minus_45_is_45_whatever_the_rounding():
    matrices = np.stack([turn(45 * quarter + wobble) @ S for quarter in (-3, -1, 1, 3) for S in SIGNED
                         for wobble in (-1e-13, 0.0, 1e-13)])  # fmt: skip
    found = identifiability.angle(matrices)
    assert (np.abs(found - 45) < 1e-9).all() and (found <= 45).all()


def test_angle_keeps_its_interval_and_shape():
    degrees = np.linspace(-400, 400, 3203).reshape(1, -1)
    found = identifiability.angle(np.stack([turn(t) for t in degrees[0]])[None])
    assert found.shape == degrees.shape and (found > -45).all() and (found <= 45).all()
    remainder = (degrees - found) / 90
    np.testing.assert_allclose(remainder, remainder.round(), atol=1e-9)
    assert identifiability.angle(turn(7.0)).shape == ()


@pytest.mark.parametrize("bad", [np.eye(3), np.ones((2, 2)), np.full((2, 2), np.nan), np.ones(4), 1.1 * np.eye(2)])
def test_angle_refuses(bad):
    with pytest.raises(ValueError, match="orthogonal: expected"):
        identifiability.angle(bad)


def test_procrustes_against_scipy():
    generator = np.random.default_rng(0)
    latents, inferred = generator.normal(size=(2, 5, 60, 3))
    ours = identifiability.procrustes(latents, inferred)
    for Z, M, found in zip(latents, inferred, ours, strict=True):
        theirs, _ = scipy.linalg.orthogonal_procrustes(M, Z)  # min ‖M R − Z‖, so O = Rᵀ
        np.testing.assert_allclose(found, theirs.T, atol=1e-12)
    assert isinstance(identifiability.procrustes(torch.from_numpy(latents), torch.from_numpy(inferred)), torch.Tensor)


def test_procrustes_is_the_best_of_all_rotations_and_reflections():
    generator = np.random.default_rng(1)
    latents, inferred = generator.normal(size=(2, 50, 2))
    ours = np.linalg.norm(latents - inferred @ identifiability.procrustes(latents, inferred).T)
    others = [turn(degrees, flip) for degrees in range(360) for flip in (False, True)]
    best = min(np.linalg.norm(latents - inferred @ other.T) for other in others)
    assert ours <= best <= ours + 1e-3


@pytest.mark.parametrize("theta", [-40.0, -5.0, 0.0, 20.0, 44.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotation_angle_finds_what_was_planted(theta, dtype):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 2, generator=generator, dtype=dtype)
    noise = 0.05 * torch.randn(4000, 2, generator=generator, dtype=dtype)
    for S in SIGNED:  # z = O m for O = R(θ)S, so m = Oᵀz
        inferred = 0.9 * z @ torch.from_numpy(turn(theta) @ S).to(dtype) + noise
        found = identifiability.rotation_angle(z, inferred)
        assert isinstance(found, float) and abs(found - theta) < 0.2  # 0.05/√(2·4000) rad is 0.03°
        assert identifiability.rotation_angle(z.numpy(), inferred.numpy()) == pytest.approx(found, abs=1e-4)


NOISE = np.random.default_rng(0).normal(size=(9, 2))


@pytest.mark.parametrize(
    "latents, inferred, message",
    [
        (np.ones((9, 2)), NOISE, "singular"),
        (NOISE, np.zeros((9, 2)), "singular"),
        (NOISE, np.full((9, 2), 0.7), "singular"),
        (NOISE, NOISE * [1, 0], "singular"),
        (NOISE[:1], NOISE[1:2], "singular"),
        (NOISE, NOISE[:8], "one shape"),
        (NOISE[:0], NOISE[:0], "one shape"),
        (np.ones((9, 3)), np.ones((9, 3)), r"latents: expected \[n, 2\]"),
        (NOISE, NOISE[:, 0], r"inferred: expected \[n, 2\]"),
        (NOISE * np.nan, NOISE, "latents: expected finite"),
    ],
)
def test_rotation_angle_refuses(latents, inferred, message):
    with pytest.raises(ValueError, match=message):
        identifiability.rotation_angle(latents, inferred)


def test_an_encoder_of_rotated_latents_is_read_off():
    """The angle that the map used comes back for Gaussian latents, from either side, with opposite signs."""
    z = draws(NORMAL, 500)
    mixed = identifiability.mixing_transform(z, turn(30), NORMAL)
    assert identifiability.rotation_angle(mixed, z) == pytest.approx(30, abs=1e-9)
    assert identifiability.rotation_angle(z, mixed) == pytest.approx(-30, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e200, 1e300])
def test_the_units_of_the_latents_do_not_change_the_angle(scale):
    z = np.random.default_rng(0).normal(size=(500, 2))
    found = identifiability.rotation_angle(z @ turn(20).T * scale, z * scale)
    assert found == pytest.approx(20, abs=1e-6)


def test_single_precision_latents_of_rank_one_have_no_angle():
    """Their second direction is rounding, which float64 would take for data."""
    z = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    inferred = z[:, :1] * torch.tensor([0.3, 0.7])
    with pytest.raises(ValueError, match=r"singular in 1 of 1 pairs, first in \[0\]"):
        identifiability.rotation_angle(z, inferred)
    assert abs(identifiability.rotation_angle(z, inferred + 1e-3 * z)) <= 45


def test_of_a_batch_the_singular_pairs_are_counted():
    latents = np.random.default_rng(0).normal(size=(2, 3, 40, 2))
    inferred = latents.copy()
    inferred[1, 0], inferred[1, 2] = 0, 1
    with pytest.raises(ValueError, match=r"singular in 2 of 6 pairs, first in \[1, 0\], so O is not unique"):
        identifiability.procrustes(latents, inferred)


def test_measurements_take_tensors_that_require_gradients():
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert identifiability.rotation_angle(z, z) == pytest.approx(0, abs=1e-5)
    assert not identifiability.procrustes(z, z).requires_grad
