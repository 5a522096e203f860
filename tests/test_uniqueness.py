"""The batched study against a plain loop over trials, closed forms, and the identities of its measurements."""

import math
import shutil
import warnings

import numpy as np
import pytest
import torch

from grae_helpers import angles, linear_vae, toy_vae, uniqueness
from grae_helpers.toy_vae import Experiment, simulate

EXPERIMENTS = [
    Experiment(activation, family, amortized, noise=0.2)
    for activation, amortized in [("identity", True), ("identity", False), ("tanh", True), ("elu", False)]
    for family in toy_vae.FAMILIES
]
experiments = pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)


def plain(experiment, x, n, parameters, rotations):
    """One trial by itself with torch's Adam and autograd, in the textbook's order of indices: x [samples, 2]."""
    A, b, D = (parameters[name].clone().requires_grad_() for name in ("A", "b", "D"))
    local = ["C", "d"] if experiment.amortized else ["mean"]
    rest = [parameters[name].clone().requires_grad_() for name in local]
    optimiser = torch.optim.Adam([A, b, D, *rest], lr=0.1)
    points, weights = np.polynomial.hermite_e.hermegauss(experiment.points)
    points, weights = torch.from_numpy(points), torch.from_numpy(weights / weights.sum())
    activation = {"identity": lambda u: u, "tanh": torch.tanh, "elu": torch.nn.functional.elu}[experiment.activation]
    for step in range(5 * n):
        for group in optimiser.param_groups:
            group["lr"] = 10.0 ** -(1 + step // n)
        if experiment.amortized:
            mean = x @ (rotations["C"] @ rest[0]).T + rest[1].T
        else:
            mean = (rotations["mean"] @ rest[0]).T
        factor = rotations["D"] @ D.permute(2, 0, 1)
        covariance = factor @ factor.mT
        if experiment.family == "mean_field":
            covariance = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
        deviation = torch.einsum("ji,nik,jk->nj", A, covariance, A).sqrt()
        output = activation((mean @ A.T)[..., None] + deviation[..., None] * points)
        error = ((x - b.T)[..., None] - output) ** 2 @ weights
        log_p = -error.sum(-1) / (2 * experiment.noise**2) - math.log(2 * math.pi * experiment.noise**2)
        trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
        kl = ((mean**2).sum(-1) + trace - torch.logdet(covariance) - 2) / 2
        optimiser.zero_grad()
        (-(log_p - experiment.beta * kl).sum()).backward()
        optimiser.step()
    return dict(zip(["A", "b", "D", *local], [A, b, D, *rest], strict=True))


@experiments
def test_the_batch_is_the_plain_loop_over_trials(experiment):
    """Trials of different lengths, in any order, in blocks or all at once: each is what it would be alone."""
    data, lengths = simulate(4, 30, experiment.activation, noise=0.2, seed=1), [3, 9, 6, 9]
    start, rotations = toy_vae.initial(experiment, 4, 30, seed=5)
    found = [
        uniqueness.train(experiment, data, lengths, seed=5, dtype=torch.float64, block=block)[0] for block in (0, 3)
    ]
    for trial, n in enumerate(lengths):
        alone = [{name: part[trial] for name, part in group.items()} for group in (start, rotations)]
        expected = plain(experiment, data.x[trial].T, n, *alone)
        for name, part in expected.items():
            for batched in found:
                torch.testing.assert_close(batched[name][trial], part.detach(), rtol=1e-5, atol=3e-6)


def test_learning_rates_fall_by_ten_after_every_n_steps(monkeypatch):
    seen = []
    monkeypatch.setattr(uniqueness, "_step", lambda *a: seen.append(a[7].tolist()))
    uniqueness.train(Experiment("identity"), simulate(2, 10), [2, 1])
    expected = [[0.1, 0.1], [0.1, 0.01], [0.01, 1e-3], [0.01, 1e-4], [1e-3, 1e-5]]
    expected += [[1e-3], [1e-4], [1e-4], [1e-5], [1e-5]]
    assert len(seen) == 10
    for rates, rule in zip(seen, expected, strict=True):
        np.testing.assert_allclose(rates, rule)


@pytest.mark.parametrize("family", toy_vae.FAMILIES)
def test_linear_runs_reach_the_closed_form_optimum(family):
    """Mean field at the angle of the data's second moments; the full covariance at the same ELBO, anywhere."""
    experiment = Experiment("identity", family, noise=0.5)
    rows = uniqueness.study(experiment, [800] * 40, samples=300, seed=3)
    assert (rows["best"] - rows["elbo"] > -1e-9).all()
    # 4,000 steps are too few where W is nearly singular, or its singular values nearly equal
    values = np.linalg.svd(rows["weights"], compute_uv=False)
    easy = (values[:, 1] > 0.6) & (values[:, 0] > 1.3 * values[:, 1])
    assert easy.sum() >= 20
    rows = {name: value[easy] for name, value in rows.items() if len(value) == 40}
    assert np.mean(rows["best"] - rows["elbo"] < 1e-3) >= 0.95
    distance = np.abs(angles.difference(rows["angle"], rows["own_angle"]))
    if family == "mean_field":
        assert np.mean(distance < 0.5) >= 0.95
    else:
        assert angles.uniformity(rows["angle"]) > 1e-3
        assert angles.spread(rows["angle"]) > 15


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_no_parameters_do_better_than_the_closed_form(beta):
    experiment = Experiment("identity", "full", beta=beta, noise=0.3)
    data = simulate(1, 200, noise=0.3, seed=4)
    parameters, rotations = uniqueness.train(experiment, data, [300], seed=1)
    best = uniqueness.best_elbo(experiment, data)
    assert 0 <= best - toy_vae.elbo(experiment, parameters, rotations, data.x).numpy() < 1e-2
    generator = torch.Generator().manual_seed(0)
    for scale in (0.3, 0.03, 0.003):
        for _ in range(50):
            moved = {
                name: part + scale * torch.randn(part.shape, generator=generator, dtype=part.dtype)
                for name, part in parameters.items()
            }
            assert toy_vae.elbo(experiment, moved, rotations, data.x).numpy() <= best + 1e-12


def test_the_own_angle_of_the_linear_model_is_that_of_the_weights_for_many_samples():
    data = simulate(20, 20_000, seed=6)
    found = uniqueness.own_angle(Experiment("identity"), data)
    distance = np.abs(angles.difference(found, linear_vae.own_angle(data.weights).numpy()))
    assert np.median(distance) < 0.5
    orthogonal = simulate(5, 4000, columns="orthogonal", seed=6)
    assert np.abs(uniqueness.own_angle(Experiment("identity"), orthogonal)).max() < 1.5


def test_trained_mean_field_runs_of_one_data_set_agree_and_full_runs_do_not():
    spread = {}
    for family in toy_vae.FAMILIES:
        experiment = Experiment("sigmoid", family, noise=0.1, nodes=5)
        rows = uniqueness.study(experiment, [300] * 12, samples=100, shared=True, seed=2)
        best = rows["elbo"] > rows["elbo"].max() - 0.01
        assert best.sum() >= 4
        spread[family] = angles.spread(rows["angle"][best])
    assert spread["mean_field"] < 3 < 10 < spread["full"]


def test_draws_train_as_quadrature_does():
    """Monte Carlo: the same optimum, within what its noise allows at the last learning rate."""
    data = simulate(3, 100, "tanh", noise=0.3, shared=True, seed=3)
    reached = []
    for monte_carlo in (False, True):
        experiment = Experiment("tanh", noise=0.3, nodes=8, monte_carlo=monte_carlo)
        parameters, rotations = uniqueness.train(experiment, data, [100] * 3, seed=2)
        reached.append(toy_vae.elbo(experiment, parameters, rotations, data.x))
    assert (reached[0] - reached[1]).abs().max() < 0.02


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="no C++ compiler here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_step_does_the_same():
    experiment = Experiment("tanh", "full", amortized=False, nodes=3)
    data = simulate(2, 20, "tanh", seed=1)
    found = [
        uniqueness.train(experiment, data, [4, 4], dtype=torch.float64, compiled=compiled)[0]
        for compiled in (False, True)
    ]
    for name, part in found[0].items():
        torch.testing.assert_close(found[1][name], part, rtol=1e-6, atol=1e-8)


def test_an_interrupted_study_goes_on_where_it_stopped(tmp_path, monkeypatch):
    setting = {"samples": 20, "seed": 3, "folder": tmp_path}
    first = uniqueness.study(Experiment("tanh"), [2, 3], **setting)
    monkeypatch.setattr(uniqueness, "train", None)
    again = uniqueness.study(Experiment("tanh"), [2, 3], **setting)
    assert sorted(first) == sorted(again)
    assert all(np.array_equal(first[name], again[name], equal_nan=True) for name in first)
    others = [(Experiment("tanh", "full"), [2, 3], {}), (Experiment("tanh"), [3, 3], {})]
    others += [(Experiment("tanh"), [2, 3], {"seed": 4}), (Experiment("tanh"), [2, 3], {"optimizer": "adam"})]
    for experiment, iterations, changed in others:
        with pytest.raises(TypeError):
            uniqueness.study(experiment, iterations, **setting | changed)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "array"])
def test_a_file_that_cannot_be_read_is_made_anew(tmp_path, damage):
    setting = {"samples": 20, "seed": 3, "folder": tmp_path}
    first = uniqueness.study(Experiment("tanh"), [2, 3], **setting)
    (file,) = tmp_path.iterdir()
    if damage == "array":
        with file.open("wb") as opened:
            np.save(opened, np.zeros(3))
    elif damage == "other":
        np.savez(file, elbo=first["elbo"])
    else:
        file.write_bytes(file.read_bytes()[:-40] if damage == "cut" else b"")
    with pytest.warns(UserWarning, match=r"npz: not a finished experiment \(.*\), so it is trained anew"):
        again = uniqueness.study(Experiment("tanh"), [2, 3], **setting)
    np.testing.assert_array_equal(again["elbo"], first["elbo"])
    assert list(tmp_path.iterdir()) == [file]
    np.testing.assert_array_equal(uniqueness.study(Experiment("tanh"), [2, 3], **setting)["elbo"], first["elbo"])


def test_a_folder_that_cannot_be_written_to_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(uniqueness, "train", lambda *_, **__: pytest.fail("trained all the same"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        uniqueness.study(Experiment(), [1], samples=5, folder=tmp_path / "file")

    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(uniqueness.tempfile, "TemporaryFile", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        uniqueness.study(Experiment(), [1], samples=5, folder=tmp_path)


def test_gradient_descent_does_not_notice_fixed_rotations(claim, monkeypatch):
    """Turning the parameters of App. C's way changes the start, and no step after it, unlike Adam's."""
    experiment = Experiment("tanh", "full", amortized=False, noise=2.0, nodes=5)
    data, start = simulate(2, 15, "tanh", noise=2.0, seed=1), toy_vae.initial

    def not_turned(*arguments, **options):
        parameters, rotations = start(*arguments, **options)
        parameters["mean"] = rotations["mean"] @ parameters["mean"]
        parameters["D"] = torch.einsum("tij,tjkn->tikn", rotations["D"], parameters["D"])
        return parameters, {name: torch.eye(2, dtype=torch.float64).expand(2, 2, 2) for name in rotations}

    moved = {}
    for optimizer in ("gradient_descent", "adam"):
        decoders = []
        for initial in (start, not_turned):
            monkeypatch.setattr(uniqueness, "initial", initial)
            options = {"seed": 2, "dtype": torch.float64, "optimizer": optimizer}
            decoders.append(uniqueness.train(experiment, data, [40] * 2, **options)[0]["A"])
        moved[optimizer] = (decoders[0] - decoders[1]).abs().max()
    assert moved["gradient_descent"] < 1e-9 < 1e-2 < moved["adam"]
    claim("K6g", "refuted")


def test_gradient_descent_at_the_papers_rate_diverges(claim):
    data = simulate(3, 50, seed=1)
    with pytest.raises(FloatingPointError, match="amortized, gradient_descent: all 3 trials diverged"):
        uniqueness.train(Experiment("identity"), data, [50] * 3, optimizer="gradient_descent")
    claim("K6h", "open")


def test_a_trial_that_diverges_leaves_the_others_alone(monkeypatch):
    data = simulate(3, 50, "tanh", seed=1)
    expected = uniqueness.train(Experiment("tanh"), data, [5] * 3)[0]
    start = toy_vae.initial

    def one_is_lost(*arguments, **options):
        parameters, rotations = start(*arguments, **options)
        parameters["A"][1] = math.inf
        return parameters, rotations

    monkeypatch.setattr(uniqueness, "initial", one_is_lost)
    monkeypatch.setattr(uniqueness, "simulate", lambda *arguments, **options: data)
    rows = uniqueness.study(Experiment("tanh"), [5] * 3, samples=50)
    assert np.isfinite(rows["angle"]).tolist() == np.isfinite(rows["elbo"]).tolist() == [True, False, True]
    parameters, _ = uniqueness.train(Experiment("tanh"), data, [5] * 3)
    for name, part in expected.items():
        torch.testing.assert_close(parameters[name][[0, 2]], part[[0, 2]])


def test_a_trial_that_overflowed_leaves_the_others_alone():
    data = simulate(3, 50, "tanh", seed=1)
    parameters, rotations = toy_vae.initial(Experiment("tanh"), 3, 50)
    parameters["C"][1] = math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = uniqueness.measure(Experiment("tanh"), data, parameters, rotations)
    for name in ("angle", "quadrature_error"):
        assert np.isfinite(rows[name]).tolist() == [True, False, True]


def test_where_nothing_is_inferred_there_is_no_angle():
    data = simulate(2, 50, seed=1)
    assert np.isnan(uniqueness.own_angle(Experiment("identity", beta=1e6), data)).all()
    assert np.isfinite(uniqueness.own_angle(Experiment("identity", beta=600.0), data)).all()  # one latent is left


def test_predicted_angles_lie_in_the_half_open_range():
    """Turned by 45° from equal prices on both sides, the angle is 45° and not −45°."""
    data = simulate(1, 400, "tanh", seed=2)
    weights = torch.tensor([[[2.0, 2.0], [-1.0, 1.0]]], dtype=torch.float64)  # diag(2, 1) and a turn, times √2
    data = data._replace(weights=weights, x=weights @ data.latents)
    found = uniqueness.own_angle(Experiment("tanh", amortized=False), data)
    assert -45 < found[0] <= 45 and abs(angles.difference(found, 45.0)[0]) < 1


def test_single_precision_data_are_measured_in_double():
    data = simulate(2, 30, seed=1)
    start = toy_vae.initial(Experiment("identity"), 2, 30)
    single = type(data)(*(part.float() for part in data))
    expected, found = (uniqueness.measure(Experiment("identity"), part, *start) for part in (data, single))
    np.testing.assert_allclose(found["elbo"], expected["elbo"], rtol=1e-5)
    assert found["elbo"].dtype == np.float64


def test_draws_of_different_blocks_differ():
    """With Monte Carlo, two trials alike in all but their block are not moved by the same draws."""
    data = simulate(1, 20, "tanh", noise=0.3, seed=1)
    both = type(data)(*(part.expand(2, -1, -1).contiguous() for part in data))
    experiment = Experiment("tanh", noise=0.3, nodes=2, monte_carlo=True)

    def alike(*arguments, **options):
        parameters, rotations = toy_vae.initial(experiment, 1, 20, seed=3)
        return tuple({k: v.expand(2, *v.shape[1:]).clone() for k, v in g.items()} for g in (parameters, rotations))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uniqueness, "initial", alike)
        decoders = uniqueness.train(experiment, both, [5, 5], block=1)[0]["A"]
    assert (decoders[0] - decoders[1]).abs().max() > 1e-3


def test_flushing_denormal_numbers_ends_with_the_training():
    uniqueness.train(Experiment("tanh"), simulate(1, 5, "tanh"), [1])
    assert (torch.tensor(1e-300, dtype=torch.float64) * 1e-10).item() != 0


def test_bad_input():
    data = simulate(2, 10, "tanh")
    for experiment, message in [
        (Experiment("relu"), "activation: expected one of"),
        (Experiment("tanh", "block"), "family: expected one of mean_field, full; got 'block'"),
        (Experiment(beta=0.0), "beta: expected a positive"),
        (Experiment(noise=float("nan")), "noise: expected a positive"),
    ]:
        with pytest.raises(ValueError, match=message):
            uniqueness.train(experiment, data, [1, 1])
    with pytest.raises(ValueError, match="iterations: expected one for each of the 2 trials, got 3"):
        uniqueness.train(Experiment(), data, [1, 1, 1])
    with pytest.raises(ValueError, match="iterations: expected at least 1, got 0"):
        uniqueness.train(Experiment(), data, [1, 0])
    with pytest.raises(ValueError, match="expected finite samples"):
        uniqueness.train(Experiment(), data._replace(x=data.x * math.nan), [1, 1])
    with pytest.raises(ValueError, match=r"data.x: expected \[trials, 2, samples\], got \[2, 10\]"):
        uniqueness.train(Experiment(), data._replace(x=data.x[0]), [1, 1])
    with pytest.raises(ValueError, match="optimizer: expected one of adam, gradient_descent; got 'sgd'"):
        uniqueness.train(Experiment(), data, [1, 1], optimizer="sgd")
    with pytest.raises(ValueError, match=r"dtype: expected torch.float32 or torch.float64, got torch.float16"):
        uniqueness.train(Experiment(), data, [1, 1], dtype=torch.float16)
    with pytest.raises(ValueError, match="device: "):
        uniqueness.train(Experiment(), data, [1, 1], device="gpu")
    with pytest.raises(ValueError, match=r"data.latents: expected"):
        start = toy_vae.initial(Experiment(), 2, 10)
        uniqueness.measure(Experiment(), data._replace(latents=data.latents[..., :5]), *start)
