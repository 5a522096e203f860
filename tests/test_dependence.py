"""Dependence measures against double loops, closed forms and their own promise about false alarms."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest

from grae_helpers import dependence
from grae_helpers.dependence import dependence_test, distance_correlation, hsic


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rotated(z: np.ndarray, degrees: float) -> np.ndarray:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return z @ np.array([[cos, -sin], [sin, cos]]).T


def naive_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """The four sums of Gretton et al. 2005's Lemma 1, in loops, with the median taken over all pairs."""
    n = len(x)

    def kernel(v):
        distances = [[math.dist(np.atleast_1d(a), np.atleast_1d(b)) for b in v] for a in v]
        positive = sorted(distances[i][j] for i in range(n) for j in range(i) if distances[i][j] > 0)
        width = positive[(len(positive) - 1) // 2]
        return [[math.exp(-((d / width) ** 2) / 2) for d in row] for row in distances]

    K, L, every = kernel(x), kernel(y), range(n)
    joint = sum(K[i][j] * L[i][j] for i in every for j in every) / n**2
    means = [(sum(K[i]) / n, sum(L[i]) / n) for i in every]
    apart = sum(a for a, _ in means) / n * sum(b for _, b in means) / n
    return joint + apart - 2 * sum(a * b for a, b in means) / n


def naive_distance_covariance(x: np.ndarray, y: np.ndarray) -> float:
    """Székely et al. 2007, Definition 4, entry by entry."""
    n = len(x)

    def centred(v):
        d = np.array([[np.linalg.norm(np.atleast_1d(a - b)) for b in v] for a in v])
        rows = [[d[i, j] - d[i].mean() - d[:, j].mean() + d.mean() for j in range(n)] for i in range(n)]
        return np.array(rows)

    return float((centred(x) * centred(y)).mean())


@pytest.mark.parametrize("columns", [None, 1, 3])
def test_against_double_loops(columns):
    shape = (23,) if columns is None else (23, columns)
    x, y = rng().normal(size=shape), rng(1).normal(size=23)
    y = y + x.reshape(23, -1)[:, 0] ** 2
    assert hsic(x, y) == pytest.approx(naive_hsic(x, y), rel=1e-10)
    squares = [naive_distance_covariance(a, b) for a, b in ((x, y), (x, x), (y, y))]
    expected = math.sqrt(squares[0] / math.sqrt(squares[1] * squares[2]))
    assert distance_correlation(x, y) == pytest.approx(expected, rel=1e-10)


def test_heavy_tails_do_not_hide_the_samples_in_the_middle():
    x = rng().standard_cauchy(23) ** 25
    y = rng(1).normal(size=23) + np.sign(x) * np.abs(x) ** (1 / 25)
    assert np.abs(x).max() > 1e18 * np.median(np.abs(x))
    assert hsic(x, y) == pytest.approx(naive_hsic(x, y), rel=1e-10)
    squares = [naive_distance_covariance(a, b) for a, b in ((x, y), (x, x), (y, y))]
    assert distance_correlation(x, y) == pytest.approx(math.sqrt(squares[0] / math.sqrt(squares[1] * squares[2])))


def test_ties_do_not_stop_the_median():
    x = np.array([0, 0, 0, 0, 0, 0, 1, 2])  # most of the distances are zero
    y = np.arange(8) % 3
    assert hsic(x, y) == pytest.approx(naive_hsic(x, y), rel=1e-10)


@pytest.mark.parametrize("measure", [hsic, distance_correlation, lambda x, y: dependence_test(x, y).p_value])
def test_blind_to_order_location_scale_and_kind(measure):
    x, y = rng().normal(size=30), rng(1).uniform(size=30)
    found = measure(x, y)
    order = rng(2).permutation(30)
    assert measure(1e8 - 3 * x, y * 1e-150) == pytest.approx(found, abs=1e-7)
    assert measure(torch.tensor(x), torch.tensor(y)) == found
    assert measure(x[:, None], y[:, None]) == found
    if measure in (hsic, distance_correlation):
        assert measure(x[order], y[order]) == pytest.approx(found, rel=1e-10)
        assert measure(y, x) == pytest.approx(found, rel=1e-10)


def test_distance_correlation_is_one_for_lines_and_orthogonal_maps():
    x = rng().normal(size=(40, 3))
    for y in (x, -x, 3 - 2 * x, x @ np.linalg.qr(rng(1).normal(size=(3, 3))).Q):
        assert distance_correlation(x, y) == pytest.approx(1, abs=1e-12)
    assert distance_correlation(x[:, 0], np.exp(x[:, 0])) < 1 - 1e-3


@pytest.mark.parametrize("rho", [-0.9, -0.5, 0.0, 0.3, 0.8])
def test_distance_correlation_of_a_bivariate_normal(rho):
    """Székely et al. 2007, Theorem 7, in the limit of many samples."""
    root = math.sqrt
    above = rho * math.asin(rho) + root(1 - rho**2) - rho * math.asin(rho / 2) - root(4 - rho**2) + 1
    expected = root(above / (1 + math.pi / 3 - root(3)))
    x, noise = rng().normal(size=(2, 3000))
    found = distance_correlation(x, rho * x + root(1 - rho**2) * noise)
    assert found == pytest.approx(expected, abs=0.04)


def test_hsic_of_independent_samples_shrinks_like_one_over_n():
    small, large = (np.mean([hsic(*rng(seed).normal(size=(2, n))) for seed in range(20)]) for n in (50, 400))
    assert 0.5 < (small / large) / 8 < 2


def test_the_p_value_is_the_share_of_permutations():
    """All 24 orders of four samples, and a Monte Carlo p-value that agrees with their share."""
    x, y = np.array([0.0, 1.0, 3.0, 7.0]), np.array([0.0, 1.1, 2.7, 8.0])
    orders = torch.cartesian_prod(*[torch.arange(4)] * 4)
    orders = orders[[len(set(order.tolist())) == 4 for order in orders]]
    found = np.array([hsic(x, y[order]) for order in orders.numpy()])
    share = (found >= hsic(x, y) * (1 - 1e-10)).mean()
    result = dependence_test(x, y, n_permutations=4999)
    assert result.statistic == hsic(x, y)
    assert result.p_value == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 5000))


def test_chunks_do_not_change_the_result(monkeypatch):
    x, y = rng().normal(size=(2, 40))
    expected = dependence_test(x, y + x, n_permutations=50)
    monkeypatch.setattr(dependence, "ENTRIES", 3 * 40**2)
    assert dependence_test(x, y + x, n_permutations=50) == expected


def test_seeds():
    x, y = rng().normal(size=(2, 40))
    state = torch.get_rng_state()
    assert dependence_test(x, y, seed=1) == dependence_test(x, y, seed=1)
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator is left alone"
    assert len({dependence_test(x, y, seed=seed).p_value for seed in range(5)}) > 1


def gaussian_pair(source: np.random.Generator, n: int) -> np.ndarray:
    return rotated(source.normal(size=(n, 2)), 30)


def skewed_and_heavy(source: np.random.Generator, n: int) -> np.ndarray:
    return np.stack([source.exponential(size=n), source.standard_cauchy(size=n)], 1)


def binary_and_uniform(source: np.random.Generator, n: int) -> np.ndarray:
    return np.stack([source.integers(0, 2, size=n), source.uniform(size=n)], 1)


@pytest.mark.parametrize("draw", [gaussian_pair, skewed_and_heavy, binary_and_uniform])
def test_false_alarms_come_at_the_level(draw):
    """1,000 independent samples of independent variables: the rejections lie in the 99.9 % binomial band."""
    low, high = binom.interval(0.999, 1000, 0.05)
    source = rng(3)
    found = [dependence_test(*draw(source, 40).T, seed=i).p_value for i in range(1000)]
    rejections = int(np.sum(np.array(found) <= 0.05))
    assert low <= rejections <= high, (low, rejections, high)
    assert binomtest(int(np.sum(np.array(found) <= 0.5)), 1000, 0.5).pvalue > 1e-3
    assert min(found) >= 1 / 200


def test_power_on_the_rotated_uniform():
    """60 of 60 rejections bound the power at level 0.05 from below by 0.05^(1/60) > 0.95 (with 95 % confidence).

    19 permutations are the fewest that can reject; more would have more power.
    """
    assert binomtest(60, 60).proportion_ci(0.90).low > 0.95  # its lower end alone has 95 %
    for seed in range(60):
        x, y = rotated(rng(seed).uniform(-1, 1, size=(1000, 2)), 45).T
        assert dependence_test(x, y, n_permutations=19, seed=seed).p_value <= 0.05


BAD = {
    "expected samples that differ": np.ones(10),
    "expected as many samples in each": np.arange(9.0),
    "NaN or infinity": np.array([math.nan, *range(9)]),
    "n ≥ 4": np.arange(3.0),
    r"got \[10, 2, 2\]": np.zeros((10, 2, 2)),
    r"got \[\]": np.array(1.0),
    r"got \[10, 0\]": np.zeros((10, 0)),
}


@pytest.mark.parametrize("function", [hsic, distance_correlation, dependence_test])
@pytest.mark.parametrize("says", BAD)
def test_bad_samples_are_refused(function, says):
    with pytest.raises(ValueError, match=says):
        function(np.arange(10.0), BAD[says])


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (list(range(10)), "got list"),
        (np.array(["a"] * 10), "got an array of <U1"),
        (np.ones(10, complex), "complex128"),
        (torch.ones(10, dtype=torch.bool), "bool"),
    ],
)
def test_other_types_are_refused(bad, says):
    with pytest.raises(TypeError, match=says):
        hsic(bad, np.arange(10.0))


def test_bad_options_are_refused():
    x = np.arange(10.0)
    with pytest.raises(ValueError, match="n_permutations: expected at least 1"):
        dependence_test(x, x, n_permutations=0)
    with pytest.raises(TypeError, match="n_permutations"):
        dependence_test(x, x, n_permutations=19.0)
    with pytest.raises(ValueError, match="seed"):
        dependence_test(x, x, seed=-1)


def test_views_of_every_sort_are_taken():
    x, y = np.arange(10.0)[::-1], np.arange(10.0) ** 2
    y.flags.writeable = False
    assert distance_correlation(x, y) == pytest.approx(distance_correlation(x.copy(), y.copy()))
    assert distance_correlation(torch.arange(10).requires_grad_(False), y.astype(np.float32)) > 0.9
