"""The paper's statements as comparisons: each holds where it is made to hold, and fails where it is made to fail."""

import numpy as np
import pytest
import torch
from scipy import stats

from grae_helpers import geometry, models, published


def structure(b: int | None, matrices: torch.Tensor) -> list[dict]:
    rows = geometry.block_structure(matrices, 0.4, [1, 2])
    return [{"beta": 0.4, "d": matrices.shape[1], "b": b} | row for row in rows]


def rotated(matrices: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator)).Q
    return Q.mT @ matrices @ Q


@pytest.fixture(scope="module")
def diagonal() -> torch.Tensor:
    scales = torch.rand(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return torch.diag_embed(9 * scales * torch.arange(1, 7))


def test_structure_is_seen_where_it_is_and_not_where_it_is_not(diagonal):
    holds = structure(1, diagonal) + structure(2, diagonal) + structure(None, rotated(diagonal))
    assert [row["verdict"] for row in published.structure_verdicts(holds)] == ["holds", "holds"]
    fails = structure(1, rotated(diagonal)) + structure(2, rotated(diagonal)) + structure(None, diagonal)
    assert [row["verdict"] for row in published.structure_verdicts(fails)] == ["not seen", "not seen"]
    same = structure(1, rotated(diagonal)) + structure(2, rotated(diagonal)) + structure(None, rotated(diagonal))
    assert {row["verdict"] for row in published.structure_verdicts(same)} == {"not distinguishable"}


def test_relative_structure_takes_each_family_under_its_own_mask(diagonal):
    rows = structure(1, diagonal) + structure(2, rotated(diagonal)) + structure(None, rotated(diagonal))
    table = {row["posterior"]: row for row in published.relative_structure(rows)}
    assert table["mean field"]["energy"] == 0.0 == pytest.approx(table["mean field"]["price"], abs=1e-9)
    assert table["blocks of 2"]["energy"] == table["blocks of 2"]["energy of full"] > 0.5


def curve(expansion: np.ndarray, covariance: np.ndarray) -> dict[str, np.ndarray]:
    beta = np.array([0.1, 0.4, 1.0])
    taylor = 10 + 3 * beta
    return {"beta": beta, "beta_vae": taylor - expansion, "taylor": taylor, "grae": taylor - covariance}


def test_objective_verdicts():
    beta = np.array([0.1, 0.4, 1.0])
    good, bad = curve(0.1 * beta, 0.5 * beta), curve(0.5 * beta[::-1], 0.1 * beta[::-1])
    close, smaller, faster, trend = (row["ours"] for row in published.objective_verdicts({"a": good}))
    rise = 2.9 * 0.9  # of the β-VAE's curve, 3β − 0.1β
    assert close.startswith(f"largest gap {0.5 / rise:.0%}")
    assert smaller == faster == "in 1 of 1 families"
    assert f"Taylor {2.7 / rise:.2f}" in trend and f"GRAE {2.25 / rise:.2f}" in trend
    _, smaller, _, _ = (row["ours"] for row in published.objective_verdicts({"a": bad, "b": good}))
    assert smaller == "in 1 of 2 families"


def test_configurations_fit_the_models():
    for beta, d, b in published.CONFIGURATIONS:
        assert beta > 0 and models.mnist_encoder(d, width=1 / 64, block_size=b).block_size == b


def study(spread: dict[str, list[float]]) -> dict[str, dict[str, np.ndarray]]:
    """Two experiments with n = 10, 100, 1000: θ − θ* normal with the given standard deviation for each n."""
    random, lengths = np.random.default_rng(0), np.repeat([10, 100, 1000], 40)
    own = random.uniform(-45, 45, len(lengths))
    found = {}
    for family, deviations in spread.items():
        angle = own + np.repeat(deviations, 40) * random.normal(size=len(lengths))
        found[f"tanh.{family}.amortized"] = {"iterations": lengths, "angle": angle, "own_angle": own}
    return found


def test_uniqueness_is_seen_where_it_is_and_not_where_it_is_not():
    wide, narrow = [200.0, 200.0, 200.0], [200.0, 5.0, 1.0]
    cases = [(narrow, wide, "holds"), (wide, wide, "not seen"), (narrow, narrow, "not seen")]
    for mean_field, full, verdict in [*cases, ([1.0, 5.0, 5.0], wide, "not seen")]:
        rows = published.uniqueness_verdicts(study({"mean_field": mean_field, "full": full}))
        assert [row["verdict"] for row in rows] == [verdict]
        assert (rows[0]["ν"], rows[0]["inference"]) == ("tanh", "amortized")


def test_a_trial_that_diverged_is_left_out():
    found = study({"mean_field": [200.0, 5.0, 1.0], "full": [200.0, 200.0, 200.0]})
    found["tanh.mean_field.amortized"]["angle"][-1] = np.nan
    assert published.uniqueness_verdicts(found)[0]["verdict"] == "holds"


def test_the_papers_schedule():
    lengths = published.trials(published.UNIQUENESS["iterations"], 20, 100)
    assert len(lengths) == 420 and sum(n >= 10_000 for n in lengths) == 200
    assert sorted(set(lengths)) == [100, 500, *range(1000, 10_001, 1000), 20_000]


def samples(slope: float, spread: float = 0.2, n: int = 10) -> dict[str, np.ndarray]:
    """TV and share that change by `slope` over the paper's β, with errors of a thousandth."""
    beta = np.array(published.SAMPLE_BETAS)[:n]
    value, error = 1 + slope * beta, np.full(n, 1e-3)
    measures = {"tv": value, "tv_error": error, "share": value, "share_error": error}
    return {"beta": beta, "spread": np.full(n, spread)} | measures


def verdicts(one: dict, other: dict) -> dict[str, str]:
    rows = published.sample_verdicts({"β-VAE": one, "GRAE≈": other}, data_spread=0.25)
    assert len(rows) == 8 and all(set(row) == {"statement", "ours", "verdict"} for row in rows)
    return {row["statement"]: row["verdict"] for row in rows}


TRENDS = (
    "β-VAE: larger β, more blurry samples (total variation)",
    "GRAE≈: larger β, more blurry samples (share of short waves)",
)


@pytest.mark.parametrize(
    ("slope", "n", "expected"),
    [(-0.5, 10, "holds"), (0.5, 10, "not seen"), (-0.5, 3, "not distinguishable"), (-0.5, 4, "holds")],
)
def test_a_trend_of_the_samples_is_seen_where_it_is_and_not_where_it_is_not(slope, n, expected):
    found = verdicts(samples(slope, n=n), samples(slope, n=n))
    assert [found[statement] for statement in TRENDS] == [expected] * 2


def test_a_trend_is_said_with_its_size_and_its_error():
    rows = [
        published.sample_verdicts({"β-VAE": one, "GRAE≈": one}, 0.25)[0]["ours"] for one in map(samples, (-0.5, 0.5))
    ]
    bound = 2e-3 * 2**0.5
    assert rows[0].startswith(f"falls by {0.49 / 0.99:.0%} ± {bound / 0.99:.0%}, rank correlation −1.00 (p = 0.0001)")
    assert rows[1].startswith(f"rises by {0.49 / 1.01:.0%}") and "+1.00" in rows[1]


def test_equal_samples_are_not_smooth_samples():
    found = verdicts(samples(-0.5, spread=0.02), samples(-0.5))
    assert [found[statement] for statement in TRENDS] == ["collapsed", "holds"]


def test_similar_samples():
    similar, small = "GRAE≈ is similar to β-VAE (total variation)", "particularly for small β (total variation)"
    for slope, expected in ((-0.45, "holds"), (-0.1, "in part"), (1.5, "not seen")):
        found = verdicts(samples(-0.5), samples(slope))
        assert [found[similar], found[small]] == [expected, "holds"]
    far = samples(-0.5)
    far["tv"] = far["tv"] + 0.2 * (1 - far["beta"])
    assert verdicts(samples(-0.5), far)[small] == "not seen"
    assert verdicts(samples(-0.5), samples(-0.5))[small] == "not distinguishable"


@pytest.mark.parametrize("n", [3, 5, 6, 10])
def test_rank_correlation_against_scipys_permutations(n):
    beta, values = np.array(published.SAMPLE_BETAS)[:n], np.random.default_rng(n).normal(size=n)
    rho, p = published._rank_correlation(beta, values)
    assert rho == pytest.approx(stats.spearmanr(beta, values).statistic)
    expected = stats.permutation_test(
        (values,), lambda v: stats.spearmanr(beta, v).statistic, permutation_type="pairings", n_resamples=2_000,
        alternative="less" if rho < 0 else "greater", vectorized=False,
    )  # fmt: skip
    assert p == pytest.approx(expected.pvalue, abs=1e-9 if n <= 6 else 0.03)
    assert published._rank_correlation(beta, np.ones(n)) == (0.0, 1.0)


def runs(betas: dict[float, tuple[float, float]], deviation: float = 0.5, n: int = 5) -> list[dict]:
    """Runs of both models whose means are as given at each β, with exactly this deviation, and one of RAE."""
    unit = np.arange(n) - (n - 1) / 2
    scores = deviation * unit / unit.std(ddof=1) if n > 1 else np.zeros(1)
    return [
        {"objective": objective, "beta": beta, "seed": seed, "fid": mean + scores[seed]}
        for beta, pair in betas.items()
        for objective, mean in zip(("beta_vae", "grae_approx"), pair, strict=True)
        for seed in range(n)
    ] + [{"objective": "rae_gradient", "beta": 0.1, "seed": 0, "fid": 50.0}]


def test_fid_within_and_outside_each_others_error_bars():
    table = published.fid_verdicts(runs({0.1: (9.0, 9.0), 0.02: (10.0, 10.4), 1.0: (12.0, 15.0)}))
    assert [line["β"] for line in table] == [0.02, 0.1, 1.0] and {line["runs"] for line in table} == {5}
    assert [line["within"] for line in table] == [True, True, False]
    assert [line["distinguishable"] for line in table] == [False, False, True]
    assert [line["difference"] for line in table] == pytest.approx([0.4, 0.0, 3.0])
    np.testing.assert_allclose([line["deviations"] for line in table], 0.5)
    assert table[0]["share"] == pytest.approx(0.5 / 6)  # of the range from 9 to 15


def test_fids_p_is_welchs_corrected_by_holm():
    betas = {0.1: (10.0, 10.5), 0.2: (10.0, 10.9), 0.4: (10.0, 10.7)}
    found = [line["p"] for line in published.fid_verdicts(runs(betas))]
    bare = []
    for one, other in betas.values():  # Welch's t with equal deviations and numbers: df = 2(n − 1)
        t = (other - one) / np.sqrt(2 * 0.5**2 / 5)
        bare.append(2 * stats.t.sf(t, 8))
    assert found == pytest.approx([max(bare[0], 2 * bare[2]), 3 * bare[1], max(3 * bare[1], 2 * bare[2])])


@pytest.mark.parametrize(
    ("betas", "deviation", "verdicts"),
    [
        ({0.005: (20.0, 20.0), 0.1: (10.0, 10.1)}, 0.5, ["holds", "holds", "holds", "holds"]),
        ({0.005: (10.0, 10.2), 0.1: (15.0, 25.0)}, 0.5, ["in part", "holds", "not seen", "not seen"]),
        ({0.02: (10.0, 10.6), 0.1: (15.0, 15.6)}, 0.5, ["not distinguishable", "holds", *["not decidable"] * 2]),
        ({0.02: (10.0, 20.0), 0.1: (15.0, 25.0)}, 1.5, ["not seen", "not seen", *["not decidable"] * 2]),
    ],
)
def test_fid_statements(betas, deviation, verdicts):
    rows = published.fid_statements(published.fid_verdicts(runs(betas, deviation)))
    assert [row["verdict"] for row in rows] == verdicts
    assert all(set(row) == {"statement", "ours", "verdict"} for row in rows)


def test_fid_statements_say_where_and_how_much():
    close, deviations, one, _ = published.fid_statements(
        published.fid_verdicts(runs({0.005: (20.0, 20.0), 0.02: (11.0, 14.0), 0.1: (10.0, 10.1)}))
    )
    assert close["ours"] == "within each other's error bars at β = 0.005, 0.1; distinguishable at β = 0.02"
    assert deviations["ours"] == "the largest is 0.5, 5% of the range over β"
    assert one["ours"] == "least at β = 0.1 (10 of up to 20); mean 10.5 for these, 20 below"


def test_one_run_each_decides_nothing():
    table = published.fid_verdicts(runs({0.02: (10.0, 11.0), 0.1: (12.0, 12.0)}, n=1))
    for line in table:
        assert [line[key] for key in ("within", "p", "distinguishable", "share")] == [None] * 4
        assert line["deviations"] == [None, None] and line["difference"] is not None
    verdicts = [row["verdict"] for row in published.fid_statements(table)]
    assert verdicts == ["not decidable"] * 4


def test_fid_of_one_beta_of_one_model_and_of_a_failed_run():
    rows = [row for row in runs({0.1: (10.0, 11.0)}) if row["objective"] != "grae_approx"]
    rows.append({"objective": "grae_approx", "beta": 0.1, "seed": 0, "fid": float("nan")})
    (line,) = published.fid_verdicts(rows)
    assert (line["means"][0], line["means"][1], line["runs"], line["share"]) == (pytest.approx(10.0), None, 0, None)
    assert len(published.fid_statements([line])) == 3  # nothing to say about a model that did not run


def test_equal_runs_are_equal_or_not():
    same, other = (published.fid_verdicts(runs({0.1: pair}, deviation=0.0))[0] for pair in ((3.0, 3.0), (3.0, 4.0)))
    assert (same["p"], same["within"], same["distinguishable"]) == (1.0, True, False)
    assert (other["p"], other["within"], other["distinguishable"]) == (0.0, False, True)


def test_fid_verdicts_refuse_what_cannot_be_counted():
    once = runs({0.1: (10.0, 11.0)})
    with pytest.raises(ValueError, match="each run of beta_vae and grae_approx once"):
        published.fid_verdicts(once + once[:1])
    with pytest.raises(ValueError, match="with fid, got"):
        published.fid_verdicts(once[-1:])
