"""The loop learns, repeats itself bit for bit, leaves the caller's state alone and stops at NaN."""

import contextlib
import copy
import functools
import re

import numpy as np
import pytest
import torch
from helpers import normal
from torch import nn

from grae_helpers import losses, models, posteriors, stepping, training
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
        (IMAGES, {"save_every": "6"}, TypeError, "save_every: expected a positive number, got '6'"),
        (IMAGES, {"save_every": None}, TypeError, "save_every: expected a positive number, got None"),
        (IMAGES, {"save_every": float("nan")}, ValueError, "save_every: expected a positive, finite number, got nan"),
        (IMAGES, {"seed": 1.5}, TypeError, r"seed: expected an integer, got 1\.5"),
        (IMAGES, {"seed": True}, TypeError, "seed: expected an integer, got True"),
        (IMAGES, {"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
        (IMAGES, {"seed": 2**63}, ValueError, "seed: expected less than 2\\^63"),
        (IMAGES, {"channels_last": "yes"}, TypeError, "channels_last: expected true or false, got 'yes'"),
        (IMAGES, {"checkpoint": ""}, ValueError, "checkpoint: expected a folder or None, got ''"),
        (IMAGES, {"checkpoint": 5}, TypeError, "checkpoint: expected a folder or None, got 5"),
    ],
    ids="empty few integers nan steps fraction log text none never seed true minus large layout here number".split(),
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
    data = (normal(200, d) * torch.tensor([2.0, 1.5, 0.5, 0.3, 0.2])) @ torch.linalg.qr(normal(d, d, seed=1)).Q
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
        training.fit(loss, modules, data, steps=steps, batch_size=200, learning_rate=rate, log_every=-1)["total"]
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


# Precision, memory format, and how a step runs


def linear(x, weight):
    """The least objective there is: ‖x − xW‖²."""
    error = (x - x @ weight).square().sum(1)
    return LossTerms(error, torch.zeros_like(error), torch.zeros_like(error))


@pytest.mark.parametrize("objective", ["beta_vae", "grae", "grae_approx"])
def test_bfloat16_networks_learn_and_their_terms_are_float32(objective):
    encoder, decoder, _ = small()
    encoder = encoder if objective == "beta_vae" else models.mlp_encoder(6, 2, [8], posterior=False)
    seen = []

    def loss(x):
        terms = getattr(losses, objective)(x, encoder(x), decoder, Gaussian(0.1), 0.05)
        seen.extend([encoder.mean(torch.zeros(1, 8)).dtype, *(term.dtype for term in terms)])
        return terms

    loop = {"steps": 200, "batch_size": 32, "learning_rate": 0.01, "log_every": -1}
    history = training.fit(loss, [encoder, decoder], IMAGES, precision="bfloat16", **loop)
    assert set(seen[::4]) == {torch.bfloat16}
    assert {dtype for n, dtype in enumerate(seen) if n % 4} == {torch.float32}
    assert history["total"].dtype == np.float32
    assert history["total"][-20:].mean() < history["total"][:5].mean() - 1
    assert all(parameter.dtype == torch.float32 for parameter in decoder.parameters())


def test_bfloat16_terms_are_refused():
    net = nn.Linear(6, 6)

    def objective(x):
        return LossTerms(*3 * [net(x).sum(1).bfloat16()])

    with pytest.raises(TypeError, match="expected terms in float32 under autocast, got bfloat16, bfloat16, bfloat16"):
        training.fit(objective, [net], IMAGES, steps=1, batch_size=8, precision="bfloat16")


def test_channels_last_is_for_weights_and_batches_and_changes_little():
    images = torch.randint(0, 256, (32, 2, 6, 6), dtype=torch.uint8)
    start, totals, formats = nn.Conv2d(2, 2, 3, padding=1), [], []
    for channels_last in (False, True):
        net = copy.deepcopy(start)

        def objective(x, net=net):
            formats.append([t.is_contiguous(memory_format=torch.channels_last) for t in (x, net.weight)])
            error = (x - net(x)).square().flatten(1).sum(1)
            return LossTerms(error, 0 * error, 0 * error)

        loop = {"steps": 5, "batch_size": 8, "log_every": -1, "transform": lambda x: x.clone()}
        totals.append(training.fit(objective, [net], images, channels_last=channels_last, **loop)["total"])
    assert formats == [[False, False]] * 5 + [[True, True]] * 5
    assert np.allclose(*totals, rtol=1e-5)


def test_a_compiled_step_is_the_eager_one_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    """The step is traced and differentiated as for the compiler, which would take 20 s to write kernels for it."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    start = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 6))

    def run(steps=9, **options):
        net = copy.deepcopy(start)

        def objective(x):
            error = (x - net(x + 0.3 * torch.randn_like(x))).square().sum(1)
            return LossTerms(error, torch.zeros_like(error), torch.zeros_like(error))

        loop = {"batch_size": 16, "log_every": -1, **options}
        return training.fit(objective, [net], IMAGES, steps=steps, **loop)["total"], net.state_dict()

    whole, weights = run(step="compiled")
    assert np.allclose(run()[0], whole, rtol=1e-4)
    run(steps=6, step="compiled", checkpoint=tmp_path)
    resumed, same = run(step="compiled", checkpoint=tmp_path)
    assert np.array_equal(whole, resumed)
    assert all(torch.equal(same[name], value) for name, value in weights.items())


def test_more_objectives_are_compiled_than_the_compiler_allows_one_function(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    traced = []
    weight = nn.Parameter(torch.zeros(6, 6))
    for scale in range(torch._dynamo.config.recompile_limit + 2):

        def objective(x, scale=scale):
            traced.append(torch.compiler.is_compiling())
            return linear(x, weight * scale)

        step = stepping.stepper(objective, IMAGES.__getitem__, torch.optim.SGD([weight], 0.1), mode="compiled")
        step(torch.arange(4))
    assert all(traced)


class Pretended:
    """As much of torch.cuda as a capture needs; a replay calls the step again."""

    def __init__(self, monkeypatch):
        self.registered, self.captures, self.replays, self.step = [], 0, 0, None
        stream = type("Stream", (), {"__init__": lambda *_: None, "wait_stream": lambda *_: None})
        for name, fake in {
            "Stream": stream,
            "current_stream": lambda device: stream(),
            "stream": lambda _: contextlib.nullcontext(),
            "CUDAGraph": lambda: self,
            "graph": self.graph,
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    def register_generator_state(self, generator):
        self.registered.append(generator)

    @contextlib.contextmanager
    def graph(self, graph, stream):
        self.captures += 1
        yield

    def replay(self):
        self.replays += 1
        self.step.row.copy_(self.step.step(self.step.index))


def test_a_graph_is_captured_after_warming_up_and_replayed_on_one_index(monkeypatch):
    cuda, indices, generator = Pretended(monkeypatch), [], torch.Generator()
    weight = nn.Parameter(torch.zeros(6, 6))
    optimiser = torch.optim.SGD([weight], lr=0.0)

    def batch(index):
        indices.append(index)
        return IMAGES[index]

    options = {"mode": "graph", "device": "cpu", "generators": [generator]}
    cuda.step = step = stepping.stepper(lambda x: linear(x, weight), batch, optimiser, **options)
    order = torch.arange(40).view(10, 4)
    rows = [step(index).clone() for index in order]
    assert (cuda.captures, cuda.replays, cuda.registered) == (1, 7, [generator])
    assert torch.allclose(torch.stack(rows)[:, 3], IMAGES[:40].square().sum(1).view(10, 4).mean(1))
    assert len(indices) == 3 + 1 + 7  # warming up, the capture, and what is replayed here
    assert len({index.data_ptr() for index in indices[3:]}) == 1


def test_what_a_capture_cannot_hold_is_told(monkeypatch):
    Pretended(monkeypatch)
    calls = []

    def objective(x):
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("operation not permitted when stream is capturing")
        return linear(x, weight)

    weight = nn.Parameter(torch.zeros(6, 6))
    optimiser = torch.optim.SGD([weight], lr=0.1)
    step = stepping.stepper(objective, lambda index: IMAGES[index], optimiser, mode="graph")
    with pytest.raises(RuntimeError) as caught:
        for index in torch.arange(40).view(10, 4):
            step(index)
    assert len(calls) == 4
    assert "must not wait for the device" in caught.value.__notes__[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "device: 'cuda' asked for, but torch sees 0 CUDA devices"),
        ({"step": "graph"}, 'step: "graph" needs a CUDA device, got device cpu'),
        ({"step": "fast"}, "step: expected one of eager, compiled, graph; got 'fast'"),
        ({"precision": "float16"}, "precision: expected one of float32, bfloat16; got 'float16'"),
        ({"save_every": -1.0}, r"save_every: expected a positive, finite number, got -1\.0"),
        ({"learning_rate": 0.0}, "learning_rate: expected a positive"),
    ],
    ids=["cuda", "graph", "step", "precision", "save_every", "rate"],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_watch_sees_the_history_where_a_line_is_due(capsys):
    seen = []
    history = run(steps=7, log_every=3, watch=lambda step, so_far: seen.append((step, so_far)))[2]
    assert [step for step, _ in seen] == [3, 6, 7]
    for step, so_far in seen:
        assert set(so_far) == set(history)
        assert np.array_equal(so_far["total"], history["total"][:step])
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_watch_may_draw_samples():
    encoder, decoder, objective = small()
    drawn = []

    def watch(step, _):
        drawn.append(decoder.eval()(torch.randn(4, 2)))

    loop = {"steps": 6, "batch_size": 16, "log_every": 2}
    seen = training.fit(objective, [encoder, decoder], IMAGES, watch=watch, **loop)
    assert np.array_equal(seen["total"], run(steps=6)[2]["total"])
    assert len(drawn) == 3


# Several runs


def several(seeds=(0, 1, 2), **options):
    nets = [small(seed) for seed in seeds]
    loop = {"images": IMAGES, "batch_size": 16, "log_every": -1, **options}
    runs = [
        {"objective": objective, "modules": [encoder, decoder], "seed": seed, "steps": 5 + seed, **loop}
        for (encoder, decoder, objective), seed in zip(nets, seeds, strict=True)
    ]
    return runs, [[*encoder.parameters(), *decoder.parameters()] for encoder, decoder, _ in nets]


@pytest.mark.parametrize("n_steps", [None, 1, 2])
def test_runs_side_by_side_have_the_numbers_of_separate_ones(n_steps):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    (runs, apart), (others, together) = several(), several()
    alone = [training.fit(**run) for run in runs]
    histories = training.fit_many(others, n_steps=n_steps)
    for one, other in zip(alone, histories, strict=True):
        assert np.array_equal(one["total"], other["total"])
    for one, other in zip(apart, together, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(one, other, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for run in others for module in run["modules"])


def test_runs_side_by_side_resume_each_from_its_own_folder(tmp_path):
    def started(steps):
        runs, weights = several()
        for run in runs:
            run |= {"checkpoint": tmp_path / str(run["seed"]), "steps": steps}
        return training.fit_many(runs, n_steps=1), weights

    started(3)
    resumed, weights = started(8)
    runs, expected = several()
    whole = training.fit_many([{**run, "steps": 8} for run in runs])
    for one, other in zip(whole, resumed, strict=True):
        assert np.array_equal(one["total"], other["total"])
    assert all(
        torch.equal(p, q)
        for one, other in zip(weights, expected, strict=True)
        for p, q in zip(one, other, strict=True)
    )


def test_runs_side_by_side_share_nothing_and_know_their_arguments(tmp_path):
    runs, _ = several()
    generator = torch.Generator()
    with pytest.raises(ValueError, match="generators: expected other ones in every run"):
        training.fit_many([{**run, "generators": [generator]} for run in runs])
    with pytest.raises(ValueError, match="checkpoint: expected a folder for every run"):
        training.fit_many([{**run, "checkpoint": tmp_path} for run in runs])
    with pytest.raises(ValueError, match="checkpoint: expected a folder or None, got ''"):
        training.fit_many([{**run, "checkpoint": ""} for run in runs])
    with pytest.raises(TypeError, match="beta"):
        training.fit_many([{**run, "beta": 1.0} for run in runs])
    with pytest.raises(ValueError, match="n_steps: expected at least 1, got 0"):
        training.fit_many(runs, n_steps=0)
    assert training.fit_many([]) == []
