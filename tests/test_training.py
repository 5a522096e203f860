"""The loop learns, repeats itself bit for bit, leaves the caller's state alone and stops at NaN."""

import copy
import re

import numpy as np
import pytest
import torch
from helpers import normal
from torch import nn

from grae_helpers import losses, models, posteriors, training
from grae_helpers.likelihoods import Gaussian
from grae_helpers.losses import LossTerms


def small(seed=0, block=1):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, decoder = models.mlp_encoder(6, 2, [8], block_size=block), models.mlp_decoder(2, 6, [8])
    return encoder, decoder, lambda x: losses.beta_vae(x, encoder(x), decoder, Gaussian(0.1), 0.5)


IMAGES = torch.rand(64, 6, generator=torch.Generator().manual_seed(1))


def run(seed=0, steps=7, images=IMAGES, **options):
    encoder, decoder, objective = small()
    history = training.fit(
        objective,
        [encoder, decoder],
        images,
        steps=steps,
        batch_size=16,
        seed=seed,
        **{"log_every": -1, **options},
    )
    return encoder, decoder, history


def test_history_holds_every_step_and_the_terms_add_up():
    _, _, history = run()
    assert set(history) == {"reconstruction", "latent", "decoder", "total", "seconds"}
    assert all(history[name].shape == (7,) for name in set(history) - {"seconds"})
    total = history["reconstruction"] + history["latent"] + history["decoder"]
    assert np.allclose(history["total"], total, rtol=1e-6)
    assert history["seconds"] > 0


def test_a_seed_repeats_the_run_bit_for_bit():
    first, second, other = run(seed=3), run(seed=3), run(seed=4)
    assert np.array_equal(first[2]["total"], second[2]["total"])
    assert not np.array_equal(first[2]["total"], other[2]["total"])
    for a, b in zip(first[:2], second[:2], strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_the_callers_random_state_does_not_matter_and_is_left():
    torch.manual_seed(11)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = run()[2]["total"]
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    torch.manual_seed(12)
    assert np.array_equal(first, run()[2]["total"])


def test_the_random_state_is_left_when_training_fails():
    weight, state = nn.Linear(1, 1), torch.get_rng_state()
    with pytest.raises(FloatingPointError):
        training.fit(
            lambda x: LossTerms(*3 * [weight(x[:, :1]).sum(1) * torch.nan]),
            [weight],
            IMAGES,
            steps=1,
            batch_size=4,
        )
    assert torch.equal(torch.get_rng_state(), state)


def test_modules_are_trained_in_train_mode_and_left_in_eval_mode():
    encoder, decoder, objective = small()
    encoder.eval()
    modes = []

    def watched(x):
        modes.append((encoder.training, decoder.training))
        return objective(x)

    training.fit(watched, [encoder, decoder], IMAGES, steps=2, batch_size=8, log_every=-1)
    assert modes == [(True, True)] * 2
    assert not any(module.training for net in (encoder, decoder) for module in net.modules())


def test_one_step_is_adams():
    encoder, decoder, _ = small()
    twin = copy.deepcopy(encoder), copy.deepcopy(decoder)
    images = IMAGES[:16]

    def objective(nets):
        return lambda x: losses.taylor(x, nets[0](x), nets[1], Gaussian(), 0.5)

    training.fit(
        objective((encoder, decoder)),
        [encoder, decoder],
        images,
        steps=1,
        batch_size=16,
        learning_rate=0.01,
        log_every=-1,
    )
    objective(twin)(images).total.mean().backward()
    for trained, start in zip((encoder, decoder), twin, strict=True):
        for p, q in zip(trained.parameters(), start.parameters(), strict=True):
            expected = q - 0.01 * q.grad / (q.grad.abs() + 1e-8)
            assert torch.allclose(p, expected, rtol=1e-3, atol=2e-5)


def test_batches_are_shuffled_passes_without_a_short_one():
    seen, weight = [], nn.Linear(1, 1)

    def objective(x):
        seen.append(x[:, 0].clone())
        return LossTerms(*3 * [weight(x[:, :1]).sum(1)])

    images = torch.arange(10.0)[:, None]
    training.fit(objective, [weight], images, steps=6, batch_size=3, log_every=-1)
    assert [len(x) for x in seen] == [3] * 6
    first, second = torch.cat(seen[:3]).tolist(), torch.cat(seen[3:]).tolist()
    assert len(set(first)) == len(set(second)) == 9
    assert first != second


def test_uint8_images_are_scaled_and_transformed_and_left_alone():
    seen, weight = [], nn.Linear(1, 1)

    def objective(x):
        seen.append(x)
        return LossTerms(*3 * [weight(x[:, :1]).sum(1)])

    images = torch.tensor([[0], [51], [255]], dtype=torch.uint8)
    kept = images.clone()
    training.fit(objective, [weight], images, steps=1, batch_size=3, transform=lambda x: x + 1, log_every=-1)
    assert sorted(seen[0][:, 0].tolist()) == pytest.approx([1.0, 1.2, 2.0])
    assert seen[0].dtype == torch.float32
    assert torch.equal(images, kept)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("at", "steps"), [(3, 7), (3, 250), (101, 250)])
def test_an_objective_that_is_not_finite_stops_with_its_step(bad, at, steps):
    weight, calls = nn.Linear(1, 1), []

    def objective(x):
        calls.append(1)
        value = weight(x[:, :1]).sum(1) * 0 + (bad if len(calls) == at else 1.0)
        return LossTerms(value, torch.zeros_like(value), torch.zeros_like(value))

    with pytest.raises(
        FloatingPointError, match=f"toy: not finite since step {at} of {steps}: total .*reconstruction"
    ):
        training.fit(objective, [weight], IMAGES, steps=steps, batch_size=4, log_every=-1, label="toy")
    assert len(calls) <= at + 100


def test_what_an_objective_refuses_after_it_was_nan_is_reported_as_nan():
    encoder, decoder = models.mlp_encoder(6, 2, [8], posterior=False), models.mlp_decoder(2, 6, [8])
    calls = []

    def objective(x):
        calls.append(1)
        terms = losses.grae(x, encoder(x), decoder, Gaussian(), 0.5)
        return terms._replace(latent=terms.latent * torch.nan) if len(calls) == 2 else terms

    with pytest.raises(FloatingPointError, match="not finite since step 2 of 50"):
        training.fit(objective, [encoder, decoder], IMAGES, steps=50, batch_size=8, log_every=-1)


def test_refusals_of_the_objective_come_through():
    encoder, decoder, _ = small()
    with pytest.raises(ValueError, match="beta: expected a positive"):
        training.fit(
            lambda x: losses.beta_vae(x, encoder(x), decoder, Gaussian(), -1),
            [encoder, decoder],
            IMAGES,
            steps=1,
            batch_size=8,
        )


@pytest.mark.parametrize(
    ("log_every", "steps", "lines"), [(-1, 250, 0), (0, 250, 1), (100, 250, 3), (100, 200, 2), (7, 7, 1)]
)
def test_progress_is_a_few_readable_lines(capfd, log_every, steps, lines):
    weight = nn.Linear(1, 1)
    training.fit(
        lambda x: LossTerms(*3 * [weight(x[:, :1]).sum(1)]),
        [weight],
        IMAGES,
        steps=steps,
        batch_size=4,
        log_every=log_every,
        label="toy",
    )
    out, err = capfd.readouterr()
    assert err == ""
    assert "\r" not in out
    assert out.isascii()
    assert len(out.splitlines()) == lines
    if lines:
        assert re.match(rf"toy .*{steps}/{steps} .*total -?[0-9.]+ = reconstruction ", out.splitlines()[-1])
        assert max(map(len, out.splitlines())) < 160


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (torch.zeros(0, 6), {}, ValueError, "batch_size: expected 1 to the 0 images there are, got 16"),
        (torch.zeros(8, 6), {}, ValueError, "batch_size: expected 1 to the 8 images there are, got 16"),
        (
            torch.zeros(64, 6, dtype=torch.int64),
            {},
            TypeError,
            "images: expected uint8 or floating point, got torch.int64",
        ),
        (torch.full((64, 6), float("nan")), {}, ValueError, "images: expected finite pixels, got NaN"),
        (IMAGES, {"steps": 0}, ValueError, "steps: expected at least 1, got 0"),
        (IMAGES, {"steps": 1.5}, TypeError, "steps: expected an integer, got 1.5"),
        (IMAGES, {"log_every": -2}, ValueError, "log_every: expected at least -1, got -2"),
    ],
    ids=["empty", "few", "integers", "nan", "steps", "fraction", "log"],
)
def test_bad_input(images, options, error, message):
    with pytest.raises(error, match=message):
        run(images=images, **options)


def ppca(data: torch.Tensor, k: int, variance: float, beta: float) -> float:
    """The least average −ELBO of a linear Gaussian model of fixed pixel variance, weight β: closed form.

    A direction of the data with variance λ costs ½λ/v if it is not coded, and ½β + (β/2) log(λ/(vβ)) if it
    is, which is worth it for λ > vβ.
    """
    eigenvalues = torch.linalg.eigvalsh(torch.cov(data.T, correction=0)).flip(0)
    kept = eigenvalues[:k].clamp(min=variance * beta)
    gain = (kept - variance * beta) / variance - beta * (kept / (variance * beta)).log()
    total = eigenvalues.sum() / variance - gain.sum()
    return float(0.5 * total + data.shape[1] / 2 * np.log(2 * np.pi * variance))


@pytest.mark.parametrize("objective", ["taylor", "grae", "beta_vae"])
def test_a_linear_model_reaches_the_ppca_optimum(objective):
    """Taylor and GRAE are exact here, so what training reaches is the closed-form optimum of the β-VAE."""
    d, k, variance, beta = 5, 2, 0.2, 0.5
    data = (normal(200, d) * torch.tensor([2.0, 1.5, 0.5, 0.3, 0.2])) @ torch.linalg.qr(
        normal(d, d, seed=1)
    ).Q
    data = (data - data.mean(0)).float()
    torch.manual_seed(0)
    mean, raw, decoder = nn.Linear(d, k), nn.Parameter(torch.zeros(posteriors.n_raw(k))), nn.Linear(k, d)
    holder = nn.Module()
    holder.raw = raw

    def posterior(x):
        return posteriors.gaussian(mean(x), raw.expand(len(x), -1))

    def loss(x):
        if objective == "grae":
            return losses.grae(x, mean(x), decoder, Gaussian(variance), beta)
        if objective == "taylor":
            return losses.taylor(x, posterior(x), decoder, Gaussian(variance), beta)
        return losses.beta_vae(x, posterior(x), decoder, Gaussian(variance), beta, n_samples=4)

    modules = [mean, holder, decoder]
    first, _ = (
        training.fit(loss, modules, data, steps=steps, batch_size=200, learning_rate=rate, log_every=-1)[
            "total"
        ]
        for rate, steps in ((0.03, 250), (0.003, 150))
    )
    optimum = ppca(data.double(), k, variance, beta)
    q = posteriors.gaussian(mean(data), raw.expand(200, -1))
    with torch.no_grad():
        if objective == "grae":
            reached = float(losses.grae(data, mean(data), decoder, Gaussian(variance), beta).total.mean())
        else:
            reached = float(losses.taylor(data, q, decoder, Gaussian(variance), beta).total.mean())
    assert first[0] > optimum + 1
    assert optimum - 1e-4 * abs(optimum) < reached < optimum + (0.02 if objective == "beta_vae" else 2e-3)


@pytest.mark.parametrize("wrong", [lambda x: x.sum(), lambda x: (x.sum(),) * 3, lambda x: None])
def test_an_objective_that_returns_something_else_is_refused(wrong):
    encoder, decoder, _ = small()
    with pytest.raises(TypeError, match="objective: expected to return LossTerms, got"):
        training.fit(wrong, [encoder, decoder], IMAGES, steps=1, batch_size=8, log_every=-1)


def test_what_an_objective_refuses_is_told_with_its_step():
    encoder, decoder, objective = small()
    steps = iter([True, True, False])

    def picky(x):
        return objective(x if next(steps) else x[:0])

    with pytest.raises(ValueError) as caught:
        training.fit(picky, [encoder, decoder], IMAGES, steps=5, batch_size=8, log_every=-1)
    assert caught.value.__notes__ == ["training: raised by the objective in step 3 of 5"]
