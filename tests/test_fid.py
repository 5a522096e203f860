"""FID∞ of Gaussians with a known distance, KID and precision and recall by loops, and what all of them refuse."""

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import normal

from grae_helpers import fid
from grae_helpers.fid import SingularCovariance

EXTRACTOR = SimpleNamespace(title="MNIST network", dimension=64, description={"weights": "a file, 0123456789ab"})
TABLE_MEASURES = [fid.distance, fid.extrapolated, fid.kid, fid.precision_recall, fid.measure]


def gaussians(n: int, d: int, seed: int, shift: float = 0.3, scale: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of N(0, S) and N(shift, scale² S), S a falling spectrum: see `truth`."""
    x, y = normal(2, n, d, seed=seed) * torch.linspace(1, 0.2, d)
    return x, shift + scale * y


def truth(d: int, shift: float = 0.3, scale: float = 1.5) -> float:
    return d * shift**2 + (scale - 1) ** 2 * torch.linspace(1, 0.2, d).square().sum().item()


def test_the_contracts_names_are_here():
    assert fid.frechet_distance([0.3], [[1.0]], [2.0], [[6.25]]) == pytest.approx(1.7**2 + 1.5**2, rel=1e-14)
    assert fid.moments(normal(9, 2))[1].shape == (2, 2)


@pytest.mark.parametrize("n", [40, 500])
def test_distance_against_torch_fidelitys(n):
    x, y = gaussians(n, 20, 0)
    module = fid._fidelity("metric_fid")
    statistics = [module.fid_features_to_statistics(table) for table in (x, y)]
    expected = module.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert fid.distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_distance_of_few_images_and_what_it_says():
    x, y = gaussians(30, 40, 0)
    with pytest.warns(SingularCovariance, match="N = 12 images in D = 40 features") as caught:
        found = fid.distance(x, y[:12])
    assert len(caught) == 1 and caught[0].filename == __file__
    a, b = (table.numpy() for table in (x, y[:12]))
    cross = np.linalg.svd((a - a.mean(0)) @ (b - b.mean(0)).T, compute_uv=False).sum() / math.sqrt(29 * 11)
    gap = a.mean(0) - b.mean(0)
    expected = gap @ gap + a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum() - 2 * cross
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "d", "parts"), [(200, 8, 5), (600, 32, 3), (90, 40, 2)])
def test_default_sizes(n, d, parts):
    assert fid.extrapolated(*gaussians(n, d, 0)).sizes == tuple(sorted(n // part for part in range(1, parts + 1)))


def test_extrapolation_finds_the_truth_within_its_error_and_nearer_than_a_sample():
    n, d, expected = 400, 16, truth(16)
    samples = [gaussians(n, d, seed) for seed in range(20)]
    found = [fid.extrapolated(x, y, seed=seed) for seed, (x, y) in enumerate(samples)]
    limits, errors = np.array([(line.limit, line.standard_error) for line in found]).T
    raw = np.array([fid.distance(x, y) for x, y in samples])
    assert (np.abs(limits - expected) < 3 * errors).all()
    assert abs(limits.mean() - expected) < 0.2 * (raw.mean() - expected)
    assert np.abs(limits - expected).mean() < np.abs(raw - expected).mean()
    assert 0.6 < errors.mean() / limits.std(ddof=1) < 1.6  # that of a standard deviation of 20 is 0.16
    assert all(line.slope > 0 for line in found)


def test_extrapolation_of_real_against_real_is_zero_within_its_error():
    for seed in range(20):
        x, y = gaussians(400, 16, seed, 0, 1)
        found = fid.extrapolated(x, y, seed=seed)
        assert abs(found.limit) < min(3 * found.standard_error, fid.distance(x, y) / 2)


def test_slope_on_a_line_in_closed_form():
    # E (Δmean)² + E (Δ deviation)² of two samples of N(0, σ²) is 2 σ²/N + 2 σ²/(2N), to first order in 1/N
    slopes = [fid.extrapolated(*(3 * normal(2, 500, 1, seed=seed)), seed=seed).slope for seed in range(60)]
    error = np.std(slopes, ddof=1) / math.sqrt(60)
    assert np.mean(slopes) == pytest.approx(27, abs=3 * error) and error < 5


def test_the_line_is_the_weighted_least_squares_one_of_its_points():
    x, y = gaussians(300, 10, 0)
    found = fid.extrapolated(x, y, sizes=(60, 100, 300), seed=3)
    assert found.sizes == (60, 100, 300) and found.values[-1] == pytest.approx(fid.distance(x, y), rel=1e-10)
    n = np.array(found.sizes)
    root = np.sqrt(n * 300.0)  # the mean over N/n blocks of a variance as 1/n²
    design = np.c_[np.ones(3), 1 / n]
    expected = np.linalg.lstsq(design * root[:, None], np.array(found.values) * root, rcond=None)[0]
    assert [found.limit, found.slope] == pytest.approx(expected.tolist(), rel=1e-8)
    assert found.values[0] > found.values[1] > found.values[2]


def test_the_jackknife_leaves_out_each_block():
    x, y = gaussians(100, 4, 0)
    left = []
    for start in range(0, 100, 5):
        rest = torch.ones(100, dtype=torch.bool)
        rest[start : start + 5] = False
        left.append(fid.distance(x[rest], y[rest]))
    expected = math.sqrt(19 / 20 * np.square(np.array(left) - np.mean(left)).sum())
    assert fid._jackknife(x, y) == pytest.approx(expected, rel=1e-9)


def test_the_permutations_are_in_the_error(monkeypatch):
    x, y = gaussians(150, 6, 0)
    monkeypatch.setattr(fid, "_jackknife", lambda *tables: 0.0)
    found = [fid.extrapolated(x, y, seed=seed) for seed in range(40)]
    spread = np.std([line.limit for line in found], ddof=1)
    assert 0.7 < math.sqrt(np.mean([line.standard_error**2 for line in found])) / spread < 1.4


def test_the_order_of_images_does_not_matter_to_the_error():
    x, y = gaussians(400, 2, 0)
    ordered = [table[table[:, 0].argsort()] for table in (x, y)]
    errors = [[fid.extrapolated(*pair, seed=seed).standard_error for seed in range(6)] for pair in ((x, y), ordered)]
    assert np.mean(errors[1]) == pytest.approx(np.mean(errors[0]), rel=0.25)


def test_extrapolation_of_sorted_sets_of_other_sizes_and_by_seed():
    x, y = gaussians(400, 6, 0)
    x, y = x[x[:, 0].argsort()], y[y[:, 0].argsort()][:300]
    before = x.clone()
    found = fid.extrapolated(x, y, seed=1)
    assert max(found.sizes) == 300 and found == fid.extrapolated(x, y, seed=1) != fid.extrapolated(x, y, seed=2)
    assert abs(found.limit - fid.distance(x, y)) < 4 * found.standard_error
    assert (x == before).all()


def test_extrapolation_from_few_warns_once_and_says_from_how_many():
    x, y = gaussians(50, 30, 0)
    with pytest.warns(SingularCovariance, match="smallest N to extrapolate from = 25 images in D = 30") as caught:
        fid.extrapolated(x, y)
    assert len(caught) == 1


@pytest.mark.parametrize("sizes", [(50,), (50, 50), (1, 50), (50, 101), ()])
def test_sizes_that_make_no_line_are_refused(sizes):
    with pytest.raises(
        ValueError, match=r"sizes: expected (two or more different ones from 2 to N|at least 2, got 1)"
    ):
        fid.extrapolated(*gaussians(100, 3, 0), sizes=sizes)
    with pytest.raises(TypeError, match=r"sizes: expected an integer, got 50\.0"):
        fid.extrapolated(*gaussians(100, 3, 0), sizes=(50.0, 100))


def test_a_permutation_alone_has_no_error():
    with pytest.raises(ValueError, match="repeats"):
        fid.extrapolated(*gaussians(100, 3, 0), repeats=1)


def squared_mmd(x: torch.Tensor, y: torch.Tensor) -> float:
    """The unbiased estimate, pair by pair."""
    d = x.shape[1]

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / d + 1) ** 3

    def within(table):
        n = len(table)
        return sum(kernel(table[i], table[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    x, y = x.tolist(), y.tolist()
    between = sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    return within(x) + within(y) - 2 * between


def test_kid_of_whole_sets_pair_by_pair():
    x, y = gaussians(24, 3, 0)
    assert fid.kid(x, y)[0] == pytest.approx(squared_mmd(x, y), rel=1e-9)


def test_kid_is_torch_fidelitys_over_subsets():
    x, y = gaussians(80, 5, 0)
    y = y[:60]
    found = fid._fidelity("metric_kid").kid_features_to_metric(
        x, y, kid_subsets=7, kid_subset_size=30, rng_seed=4, verbose=False
    )
    assert fid.kid(x, y, subsets=7, subset_size=30, seed=4)[0] == found["kernel_inception_distance_mean"]
    assert fid.kid(x, y, subsets=7, subset_size=30, seed=5)[0] != found["kernel_inception_distance_mean"]
    assert fid.kid(x, y, seed=4) == fid.kid(x, y, subset_size=60, seed=4)


def test_kids_jackknife_leaves_out_each_block():
    x, y = gaussians(9, 2, 0)
    x, y = torch.cat([x, x[:1] + 1]), y[:8]  # ten and eight, of which the smaller makes four blocks
    generator = torch.Generator().manual_seed(5)
    mixed = [table[torch.randperm(len(table), generator=generator)] for table in (x, y)]
    left = []
    for block in range(4):
        parts = [list(table.tensor_split(4)) for table in mixed]
        left.append(squared_mmd(*(torch.cat(part[:block] + part[block + 1 :]) for part in parts)))
    expected = math.sqrt(3 / 4 * np.square(np.array(left) - np.mean(left)).sum())
    assert fid.kid(x, y, subset_size=8, subsets=1, seed=5)[1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("shift", "scale", "most"), [(0.3, 1.5, 1.4), (0, 1, 2.2)])
def test_kids_error_is_that_of_drawing_the_images_again(shift, scale, most):
    found = [fid.kid(*gaussians(200, 6, seed, shift, scale), seed=seed) for seed in range(60)]
    values, errors = np.array(found).T
    assert 0.7 < errors.mean() / values.std(ddof=1) < most
    if scale == 1:
        assert (np.abs(values) < 4 * errors).all() and (values < 0).any()
        assert abs(values.mean()) < 4 * values.std(ddof=1) / math.sqrt(60)


def test_kids_of_large_sets_count_the_subsets_in():
    x, y = gaussians(200, 4, 0)
    few, many = (fid.kid(x, y, subsets=k, subset_size=20)[1] for k in (2, 400))
    whole = fid.kid(x, y)[1]
    assert few > many > whole and many < 1.5 * whole


@pytest.mark.parametrize("size", [1, 0, 61, 1000])
def test_subsets_of_no_size_are_refused(size):
    x, y = gaussians(80, 3, 0)
    with pytest.raises(ValueError, match="subset_size"):
        fid.kid(x, y[:60], subset_size=size)


def by_loops(real: torch.Tensor, generated: torch.Tensor, k: int) -> tuple[float, float]:
    def near(queries, manifold):
        radius = [sorted(math.dist(a, b) for b in manifold)[k] for a in manifold]
        return sum(any(math.dist(q, a) <= r for a, r in zip(manifold, radius, strict=True)) for q in queries)

    real, generated = real.tolist(), generated.tolist()
    return near(generated, real) / len(generated), near(real, generated) / len(real)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_precision_and_recall_by_loops(k, offset, monkeypatch):
    monkeypatch.setattr(fid, "ROWS", 17)
    x, y = gaussians(60, 4, 1, 0.5, 0.7)
    x, y = x + offset, y[:41] + offset
    expected = by_loops(x, y, k)
    assert fid.precision_recall(x, y, neighbours=k) == pytest.approx(expected, abs=1e-6)
    assert fid.precision_recall(y, x, neighbours=k) == pytest.approx(expected[::-1], abs=1e-6)
    assert 0.1 < expected[1] < expected[0]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_precision_and_recall_know_no_unit(scale):
    x, y = torch.randn(2, 100, 8, generator=torch.Generator().manual_seed(0))
    expected = fid.precision_recall(x, 2 * y)
    assert expected == fid.precision_recall(scale * x, scale * 2 * y) and 0 < min(expected) < 1


def test_precision_and_recall_of_the_same_and_of_far_sets():
    x, _ = gaussians(100, 5, 0)
    assert fid.precision_recall(x.float(), x.flip(0).float()) == (1, 1)
    assert fid.precision_recall(x, x + 50) == (0, 0)


def test_a_dropped_mode_costs_recall_and_an_invented_one_precision():
    modes = 20 * torch.eye(4, dtype=torch.float64)
    x, y = (normal(400, 4, seed=seed) + modes.repeat(100, 1) for seed in (0, 1))
    dropped = y[torch.arange(400) % 4 != 0]
    precision, recall = fid.precision_recall(x, dropped)
    assert precision > 0.9 and 0.6 < recall <= 0.75
    precision, recall = fid.precision_recall(dropped, x)
    assert 0.6 < precision <= 0.75 and recall > 0.9


def test_a_collapsed_generator_is_precise_and_recalls_nothing():
    x, _ = gaussians(100, 5, 0)
    same = x[x.square().sum(1).argmin()].expand(50, -1)
    precision, recall = fid.precision_recall(x, same)
    assert precision == 1 and recall <= 0.011  # the one image it knows


def test_as_many_neighbours_as_images_are_refused():
    x, y = gaussians(10, 3, 0)
    assert fid.precision_recall(x, y[:4], neighbours=3)
    with pytest.raises(ValueError, match=r"n and m ≥ 5, got \[\[10, 3\], \[4, 3\]\]"):
        fid.precision_recall(x, y[:4], neighbours=4)
    with pytest.raises(ValueError, match="neighbours"):
        fid.precision_recall(x, y, neighbours=0)


def test_measure_is_all_of_them_and_says_nothing(capfd):
    x, y = gaussians(120, 6, 0)
    row = fid.measure(x, y, seed=2)
    line = fid.extrapolated(x, y, seed=2)
    expected = [fid.distance(x, y), line.limit, line.standard_error]
    expected += [*fid.kid(x, y, seed=2), *fid.precision_recall(x, y)]
    assert row == dict(zip(row, expected, strict=True)) and all(type(value) is float for value in row.values())
    keys = ["fid", "fid_infinity", "fid_infinity_se", "kid", "kid_se", "precision", "recall"]
    assert list(row) == keys and capfd.readouterr() == ("", "")


def test_measure_of_single_precision_and_of_features_that_are_not_negative():
    x, y = (table.relu().float() for table in gaussians(120, 6, 0))
    row, exact = fid.measure(x, y), fid.measure(x.double(), y.double())
    assert row == pytest.approx(exact, rel=1e-6, abs=0.01)


def test_measure_of_few_warns_once():
    x, y = gaussians(20, 30, 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        row = fid.measure(x, y)
    assert [entry.category for entry in caught] == [SingularCovariance]
    assert all(math.isfinite(value) for value in row.values())


def test_measure_of_six_and_of_units_that_never_fire():
    x, y = (torch.cat([table, torch.zeros(len(table), 2)], 1) for table in gaussians(60, 2, 0))
    assert fid.measure(x, y)["fid"] == pytest.approx(fid.distance(x[:, :2], y[:, :2]), rel=1e-9)
    with pytest.warns(SingularCovariance):
        assert all(math.isfinite(value) for value in fid.measure(x[:6], y[:6]).values())


def test_a_set_measured_against_itself():
    x, _ = gaussians(100, 4, 0)
    row = fid.measure(x, x.clone())
    assert 0 <= row["fid"] < 1e-6 and row["precision"] == row["recall"] == 1 and row["kid"] < 0


@pytest.mark.parametrize("measure", TABLE_MEASURES)
@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(9, 3), r"real and generated: expected .*got \[\[1, 3\], \[9, 3\]\]"),
        (torch.zeros(9, 3), torch.zeros(0, 3), r"real and generated: expected .*got \[\[9, 3\], \[0, 3\]\]"),
        (torch.zeros(9, 3), torch.zeros(9, 4), r"real and generated: expected .*got \[\[9, 3\], \[9, 4\]\]"),
        (torch.zeros(9), torch.zeros(9, 4), r"real: expected \[n, D\], got \[9\]"),
        (torch.zeros(9, 3), torch.full((9, 3), float("nan")), "generated: expected finite features"),
        (torch.full((9, 3), float("inf")), torch.zeros(9, 3), "real: expected finite features"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(measure, real, generated, message):
    with pytest.raises(ValueError, match=message):
        measure(real, generated)


@pytest.mark.parametrize("measure", TABLE_MEASURES)
def test_integers_are_refused(measure):
    with pytest.raises(TypeError, match=r"real: expected floating point features, got torch\.uint8"):
        measure(torch.zeros(9, 3, dtype=torch.uint8), torch.zeros(9, 3))


def test_protocol_says_everything():
    rows = fid.protocol(
        EXTRACTOR, real="MNIST", generated="β-VAE at β = 0.1", n_real=10_000, n_generated=5_000, split="test",
        preparation="28×28, none cropped, 8 bits", seeds={"model": 0, "latents": 3}, steps="1,500",
    )  # fmt: skip
    assert all(isinstance(value, str) and value for value in rows.values())
    expected = {
        "N": "10,000 real, 5,000 generated", "split": "test", "weights": "a file, 0123456789ab", "steps": "1,500",
        "features": "MNIST network, D = 64", "seeds": "model 0, latents 3", "real images": "MNIST",
    }  # fmt: skip
    assert expected.items() <= rows.items()
    assert "100 subsets of 1,000" in rows["KID"] and torch.__version__.split("+")[0] in rows["versions"]


def test_protocol_of_small_sets_and_of_one_seed():
    common = {"real": "a", "generated": "b", "split": "test", "preparation": "none", "seeds": 7}
    rows = fid.protocol(EXTRACTOR, n_real=300, n_generated=300, **common)
    assert "on whole sets" in rows["KID"] and "7" in rows["seeds"]
    assert "subsets of 200" in fid.protocol(EXTRACTOR, n_real=300, n_generated=200, **common)["KID"]
    with pytest.raises(ValueError, match="n_generated"):
        fid.protocol(EXTRACTOR, n_real=300, n_generated=1, **common)


def test_features_that_fire_in_few_images_do_not_stop_the_jackknife():
    """Left out with their block they are constant, and a difference of sums would have a variance below 0."""
    x, y = normal(60, 5, seed=0).abs(), normal(60, 5, seed=1).abs()
    for row, table in ((17, x), (40, y)):
        table[:, 3:] = 0
        table[row, 3:] = torch.tensor([0.37, 123.4], dtype=table.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularCovariance)
        for seed in range(10):
            found = fid.extrapolated(x.float(), y.float(), seed=seed)
            assert np.isfinite(found.limit) and found.standard_error > 0
