"""The paper's statements as comparisons: each holds where it is made to hold, and fails where it is made to fail."""

import numpy as np
import pytest
import torch

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
