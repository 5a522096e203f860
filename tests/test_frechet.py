"""The Fréchet distance against closed forms and scipy's square root of a matrix; moments against numpy's."""

import math
import warnings
import weakref

import numpy as np
import pytest
import torch
from helpers import DOUBLE, normal
from scipy import linalg

from grae_helpers import frechet
from grae_helpers.frechet import SingularCovariance, frechet_distance, moments, summed


def random_covariance(d: int, seed: int = 0, samples: int | None = None) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(samples or 2 * d, d))
    return x.T @ x / len(x)


def basis(d: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def symmetric(matrix: np.ndarray) -> np.ndarray:
    return (matrix + matrix.T) / 2


def centred(a: np.ndarray, b: np.ndarray) -> float:
    return frechet_distance(np.zeros(len(a)), a, np.zeros(len(b)), b)


@pytest.mark.parametrize(("m", "s", "n", "t"), [(0, 1, 0, 1), (1, 2, -3, 0.5), (5, 1e-3, 5, 1e3), (-1, 0.1, 1, 0.1)])
def test_gaussians_on_a_line(m, s, n, t):
    expected = (m - n) ** 2 + (s - t) ** 2
    assert frechet_distance([m], [[s**2]], [n], [[t**2]]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("d", [1, 7, 200])
@pytest.mark.parametrize("ratio", [1.0, 1.001, 4.0, 1e6])
def test_scaled_identities(d, ratio):
    expected = d * (1 - np.sqrt(ratio)) ** 2
    assert centred(np.eye(d), ratio * np.eye(d)) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("condition", [10, 1e4, 1e10])
def test_commuting_covariances(condition):
    u, d = basis(60), 60
    generator = np.random.default_rng(1)
    a, b = (generator.permutation(np.geomspace(1 / condition, 1, d)) for _ in range(2))
    expected = np.square(np.sqrt(a) - np.sqrt(b)).sum()
    assert centred(symmetric(u * a @ u.T), symmetric(u * b @ u.T)) == pytest.approx(expected, abs=1e-9)


def test_diagonal_ones_of_very_different_scales():
    a = np.geomspace(1e-12, 1e12, 40)
    b = np.random.default_rng(0).permutation(a)
    expected = np.square(np.sqrt(a) - np.sqrt(b)).sum()
    assert centred(np.diag(a), np.diag(b)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("d", [3, 50, 2048])
def test_covariances_with_a_known_root(d):
    a, c = random_covariance(d), random_covariance(d, 1)
    b = symmetric(c @ a @ c)  # Σ_a^½ Σ_b Σ_a^½ = (Σ_a^½ C Σ_a^½)²
    expected = np.trace(a) + np.trace(b) - 2 * np.sum(c * a)
    assert centred(a, b) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("d", [2, 16, 64, 256])
def test_against_scipys_square_root(d):
    a, b = random_covariance(d), 2 * random_covariance(d, 1, 3 * d)
    mean = np.random.default_rng(2).normal(size=d)
    expected = mean @ mean + np.trace(a) + np.trace(b) - 2 * np.trace(linalg.sqrtm(a @ b)).real
    assert frechet_distance(mean, a, np.zeros(d), b) == pytest.approx(expected, abs=1e-9 * d)


def test_every_route_gives_the_same(monkeypatch):
    a, b = random_covariance(30), random_covariance(30, 1)
    quick = centred(a, b)
    monkeypatch.setattr(frechet, "PRECISION", 0)
    by_values = centred(a, b)
    assert by_values == pytest.approx(quick, rel=1e-12)
    left, right = np.linalg.cholesky(a), np.linalg.cholesky(b)
    q = linalg.orthogonal_procrustes(right, left)[0]
    assert np.square(left - right @ q).sum() == pytest.approx(quick, rel=1e-12)


@pytest.mark.parametrize("step", [1e-3, 1e-5, 1e-7])
def test_small_distances_keep_their_digits(step):
    u, a = basis(50), np.linspace(1, 2, 50)
    b = a * (1 + step * np.linspace(-1, 1, 50))
    expected = np.square(np.sqrt(a) - np.sqrt(b)).sum()
    found = centred(symmetric(u * a @ u.T), symmetric(u * b @ u.T))
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_distance_is_symmetric_and_knows_no_rotation_nor_shift_and_scales():
    a, b = random_covariance(20), 2 * random_covariance(20, 1)
    m, n = np.random.default_rng(3).normal(size=(2, 20))
    found, u = frechet_distance(m, a, n, b), basis(20)
    assert frechet_distance(n, b, m, a) == pytest.approx(found, rel=1e-12)
    turned = frechet_distance(u @ m + 5, symmetric(u @ a @ u.T), u @ n + 5, symmetric(u @ b @ u.T))
    assert turned == pytest.approx(found, rel=1e-10)
    assert frechet_distance(3 * m, 9 * a, 3 * n, 9 * b) == pytest.approx(9 * found, rel=1e-10)


def test_the_root_of_it_obeys_the_triangle_inequality():
    covariances = [random_covariance(5, seed, 6) for seed in range(8)]
    far = np.sqrt([[max(centred(a, b), 0) for a in covariances] for b in covariances])
    assert (far[:, None] <= far[:, :, None] + far[None] + 1e-12).all() and far.max() > 0.1


SIZES = [(n, d, scale) for n, d in ((5, 3), (1000, 64), (40, 64), (2, 5)) for scale in (1e-3, 1, 1e3)]


@pytest.mark.parametrize(("n", "d", "scale"), [*SIZES, (300, 2048, 1e3)])
def test_a_set_is_at_no_distance_from_itself_in_another_order(n, d, scale):
    x = scale * normal(n, d) * torch.linspace(0.01, 1, d) + scale
    same = frechet.distance_of_sums(summed([x]), summed([x.flip(0)]))
    assert 0 <= same < 1e-6


def test_the_same_moments_are_at_no_distance():
    for cov in (np.zeros((3, 3)), np.eye(3), 1e6 * random_covariance(40), random_covariance(40, samples=10)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SingularCovariance)
            assert 0 <= centred(cov, cov) < 1e-15 * max(np.trace(cov), 1)


def test_singular_covariances_have_closed_forms_too_and_are_warned_of():
    v = np.arange(1.0, 6)
    with pytest.warns(SingularCovariance, match="ranks 1 and 5 in D = 5"):
        found = centred(np.outer(v, v), np.eye(5))
    assert found == pytest.approx(v @ v + 5 - 2 * np.linalg.norm(v), rel=1e-12)
    u, a, b = basis(40), np.r_[np.zeros(15), np.linspace(1, 2, 25)], np.r_[np.linspace(1, 3, 30), np.zeros(10)]
    with pytest.warns(SingularCovariance, match="ranks 25 and 30 in D = 40"):
        found = centred(symmetric(u * a @ u.T), symmetric(u * b @ u.T))
    assert found == pytest.approx(np.square(np.sqrt(a) - np.sqrt(b)).sum(), abs=1e-9)


def test_features_that_are_constant_in_one_set():
    a, b = random_covariance(6), random_covariance(6, 1)
    a[2], a[:, 2] = 0, 0
    with pytest.warns(SingularCovariance, match="ranks 5 and 6"):
        found = centred(a, b)
    expected = np.trace(a) + np.trace(b) - 2 * np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real.sum()
    assert found == pytest.approx(expected, abs=1e-6)  # this root loses half of the digits


def test_rank_of_a_sample_is_told_from_rounding():
    x = normal(30, 100) @ normal(100, 100, seed=1)
    with pytest.warns(SingularCovariance, match="N = 30 images in D = 100"):
        mean, cov = moments(x)
    with pytest.warns(SingularCovariance, match="ranks 29 and 100"):
        found = frechet_distance(mean, cov, mean, np.eye(100))
    values = torch.linalg.svdvals(x - x.mean(0))[:29].numpy() / np.sqrt(29)
    assert found == pytest.approx((np.square(values) - 2 * values).sum() + 100, rel=1e-10)


def test_a_factor_that_rounding_alone_makes_possible_is_not_of_full_rank():
    cov = np.array([[1, 1 - 2**-53], [1 - 2**-53, 1]])
    assert np.linalg.cholesky(cov)[1, 1] > 0
    with pytest.warns(SingularCovariance, match="ranks 1 and 2"):
        assert centred(cov, np.eye(2)) == pytest.approx(4 - 2 * math.sqrt(2), rel=1e-12)


def test_numpy_torch_and_single_precision_alike():
    a, b, mean = random_covariance(30), random_covariance(30, 1), np.linspace(0, 1, 30)
    found = frechet_distance(mean, a, 0 * mean, b)
    tensors = [torch.from_numpy(value) for value in (mean, a, 0 * mean, b)]
    assert frechet_distance(*tensors) == found
    singles = [value.float().requires_grad_() for value in tensors]
    assert frechet_distance(*singles) == pytest.approx(found, rel=1e-5)
    x = np.random.default_rng(0).normal(size=(20, 40)).astype(np.float32)
    with pytest.warns(SingularCovariance, match="ranks 19 and 40"):  # though rounding leaves eigenvalues below 0
        centred(np.cov(x, rowvar=False, dtype=np.float32), np.eye(40))


@pytest.mark.parametrize(
    ("cov", "message"),
    [
        ([[1.0, 0.5], [0.0, 1.0]], "symmetric"),
        ([[1.0, 2.0], [2.0, 1.0]], "negative"),
        ([[-1.0, 0.0], [0.0, 1.0]], "negative"),
        ([[0.0, 0.1], [0.1, 1.0]], "negative"),
        ([[1.0, float("nan")], [float("nan"), 1.0]], "finite"),
        ([[1.0, 0.0], [0.0, float("inf")]], "finite"),
        ([1.0, 1.0], r"cov_b: expected \[D, D\], got \[2\]"),
        ([[1.0, 0.0]], "got .*1, 2"),
        (np.eye(3), "got .*3, 3"),
    ],
)
def test_what_is_no_covariance_is_refused(cov, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), cov)


def test_eigenvalues_below_zero_are_refused_where_no_pair_shows_them():
    cov = np.full((3, 3), -0.6) + 1.6 * np.eye(3)  # eigenvalue 1 − 1.2
    with pytest.raises(ValueError, match=r"cov_a: expected a covariance, got correlations with eigenvalue -0.2"):
        centred(cov, np.eye(3))


@pytest.mark.parametrize("mean", [[0.0], [[0.0, 0.0]], [float("nan"), 0.0], 0.0])
def test_what_is_no_mean_is_refused(mean):
    with pytest.raises(ValueError, match="mean"):
        frechet_distance(mean, np.eye(2), np.zeros(2), np.eye(2))


def test_no_dimension_at_all_is_refused():
    with pytest.raises(ValueError, match="expected"):
        frechet_distance(np.zeros(0), np.zeros((0, 0)), np.zeros(0), np.zeros((0, 0)))


@pytest.mark.parametrize("sizes", [(500,), (1, 2, 497), (0, 250, 250), (100,) * 5])
def test_moments_of_batches_against_numpys(sizes):
    x = normal(500, 6) @ normal(6, 6, seed=1) + 1e3
    mean, cov = moments(iter(x.split(sizes)))
    np.testing.assert_allclose(mean, x.numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(cov, np.cov(x.numpy(), rowvar=False), rtol=1e-9, atol=1e-11)
    assert (cov == cov.T).all() and mean.dtype == cov.dtype == np.float64


def test_moments_of_a_long_table_of_single_precision_far_from_zero(monkeypatch):
    x = (normal(3_000, 3) + 1e4).float()
    monkeypatch.setattr(frechet, "ROWS", 700)
    mean, cov = moments(x)
    exact = x.double().numpy()
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-14)
    np.testing.assert_allclose(cov, np.cov(exact, rowvar=False), atol=1e-9)
    np.testing.assert_array_equal(cov, moments(x.numpy())[1])


def test_moments_hold_one_batch_at_a_time():
    given = []

    def batches():
        for seed in range(5):
            batch = normal(10, 3, seed=seed)
            given.append(weakref.ref(batch))
            yield batch
            del batch
            assert sum(ref() is not None for ref in given) <= 1

    mean, _ = moments(batches())
    expected = torch.cat([normal(10, 3, seed=seed) for seed in range(5)]).mean(0)
    np.testing.assert_allclose(mean, expected.numpy(), rtol=1e-12)


def test_sums_of_two_parts_are_those_of_the_whole():
    x = normal(100, 4) + 7
    rest = summed([x[:30]]).plus(summed([x[50:]]))
    expected = summed([torch.cat([x[:30], x[50:]])])
    assert rest.n == 80
    np.testing.assert_allclose(rest.mean, expected.mean, rtol=1e-13)
    np.testing.assert_allclose(rest.scatter, expected.scatter, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (torch.zeros(1, 3), ValueError, "two vectors or more, got 1"),
        (torch.zeros(0, 3), ValueError, "two vectors or more, got 0"),
        ([], ValueError, "two vectors or more, got 0"),
        (torch.zeros(4), ValueError, r"expected \[n, D\], got \[4\]"),
        (torch.zeros(4, 0), ValueError, r"expected \[n, D\], got \[4, 0\]"),
        (torch.full((4, 2), float("nan")), ValueError, "finite"),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], ValueError, "one D, got 3 and 4"),
        (torch.zeros(4, 2, dtype=torch.uint8), TypeError, "floating point features, got torch.uint8"),
    ],
)
def test_what_has_no_moments_is_refused(features, error, message):
    with pytest.raises(error, match=message):
        moments(features)


def test_as_many_images_as_features_are_warned_of_and_one_more_is_not():
    with pytest.warns(SingularCovariance, match="N = 5 images in D = 5 features") as caught:
        moments(normal(5, 5))
    assert len(caught) == 1 and caught[0].filename == __file__
    moments(normal(6, 5))


def test_half_precision_and_graphs_are_taken():
    x = torch.linspace(0, 1, 12, dtype=DOUBLE).reshape(6, 2).half().requires_grad_()
    mean, _ = moments(x)
    np.testing.assert_allclose(mean, x.detach().double().mean(0).numpy())
