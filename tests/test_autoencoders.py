"""The models of Part III: the same initial weights for every objective, losses, training, and what they decode."""

import copy
import math

import pytest
import torch
from helpers import relative
from torch import nn
from torch.distributions import Distribution

from grae_helpers import autoencoders, losses, models, posteriors, runtime
from grae_helpers.likelihoods import Bernoulli, Gaussian

MNIST, CELEBA = (1, 28, 28), (3, 64, 64)
SMALL = {MNIST: 1 / 64, CELEBA: 1 / 128}


def build(objective: str, shape=MNIST, **options):
    return autoencoders.build(objective, shape, 3, width=SMALL[tuple(shape)], **options)


def images(n: int = 12, shape=MNIST) -> torch.Tensor:
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """By the names that they have without spectral normalisation and the second head."""
    named = {name.replace("parametrizations.weight.original", "weight"): p for name, p in module.named_parameters()}
    return {name: p for name, p in named.items() if not name.startswith("raw.")}


@pytest.mark.parametrize("shape", [MNIST, CELEBA])
@pytest.mark.parametrize("objective", runtime.OBJECTIVES)
def test_every_objective_starts_from_the_same_weights(objective, shape):
    state = torch.get_rng_state()
    reference = build("beta_vae", shape, seed=3)
    for found, expected in zip(build(objective, shape, seed=3), reference, strict=True):
        found, expected = weights(found), weights(expected)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
    assert torch.equal(torch.get_rng_state(), state)
    other = weights(build(objective, shape, seed=4)[1])
    assert not all(torch.equal(other[name], value) for name, value in weights(reference[1]).items())


@pytest.mark.parametrize("objective", runtime.OBJECTIVES)
def test_only_the_beta_vae_has_a_posterior(objective):
    encoder, decoder = build(objective, block_size=2)
    found = encoder(torch.rand(2, *MNIST))
    assert isinstance(found, Distribution if objective == "beta_vae" else torch.Tensor)
    assert (encoder.raw is None) is (objective != "beta_vae")
    normed = [name for name, _ in decoder.named_parameters() if "parametrizations" in name]
    assert bool(normed) is (objective == "rae_spectral")


@pytest.mark.parametrize("objective", runtime.OBJECTIVES)
def test_a_loss_is_the_function_of_losses(objective):
    encoder, decoder = build(objective)
    encoder.eval()
    decoder.eval()
    x, likelihood, beta = torch.rand(5, *MNIST), Gaussian(0.5), 0.3
    code = encoder(x)
    expected = {
        "beta_vae": lambda: losses.beta_vae(x, code, decoder, likelihood, beta),
        "grae": lambda: losses.grae(x, code, decoder, likelihood, beta),
        "grae_approx": lambda: losses.grae_approx(x, code, decoder, likelihood, beta),
        "rae_gradient": lambda: losses.rae(x, code, decoder, likelihood, beta, regularizer="gradient"),
        "rae_l2": lambda: losses.rae(x, code, decoder, likelihood, beta, regularizer="l2"),
        "rae_spectral": lambda: losses.rae(x, code, decoder, likelihood, beta, penalty=0.0),
        "autoencoder": lambda: losses.autoencoder(x, code, decoder, likelihood),
    }
    assert list(expected) == list(runtime.OBJECTIVES)
    torch.manual_seed(7)
    found = autoencoders.loss(objective, encoder, decoder, likelihood, beta)(x)
    torch.manual_seed(7)
    assert relative(found.total, expected[objective]().total) < 1e-5
    assert isinstance(found, losses.LossTerms)


OPTIONS = {
    "beta_vae": {"n_samples": 2},
    "grae": {"block_size": 2, "encoder_weight": 0.5},
    "grae_approx": {"n_columns": 2, "orthogonality": 0.1, "regularizer_fraction": 0.5},
    "rae_gradient": {"n_probes": 2, "penalty": 0.1},
    "rae_l2": {"penalty": 1e-3},
    "rae_spectral": {},
    "autoencoder": {},
}


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, as it traces
@pytest.mark.parametrize("objective", ["beta_vae", "rae_gradient", "grae_approx, options"])
def test_objectives_compile_whole(objective):
    """No graph break: what a compiled step leaves to Python costs more than it saves.

    `grae` is left out: forward mode over every column at constant statistics is not traced.
    """
    objective, _, options = objective.partition(", ")
    encoder, decoder = build(objective)
    if objective == "rae_spectral":
        encoder.eval(), decoder.eval()
    loss = autoencoders.loss(objective, encoder, decoder, Gaussian(), 0.3, **(OPTIONS[objective] if options else {}))
    x = torch.rand(4, *MNIST)

    def step(x):
        return loss(x).total.mean()

    torch._dynamo.reset()
    whole = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=False)
    plain = copy.deepcopy((encoder.state_dict(), decoder.state_dict()))
    torch.manual_seed(0)
    found = whole(x)
    gradients = torch.autograd.grad(found, list(decoder.parameters()), allow_unused=True)
    encoder.load_state_dict(plain[0])
    decoder.load_state_dict(plain[1])
    torch.manual_seed(0)
    expected = step(x)
    assert relative(found, expected) < 1e-4
    for a, b in zip(
        gradients, torch.autograd.grad(expected, list(decoder.parameters()), allow_unused=True), strict=True
    ):
        assert (a is None) == (b is None) or not torch.any(a if b is None else b)
        assert a is None or b is None or (a - b).abs().max() <= 1e-3 * b.abs().max() + 1e-5


def test_bad_objectives_shapes_and_options():
    with pytest.raises(ValueError, match=r"objective: expected one of .*beta_vae.*got 'vae'"):
        build("vae")
    with pytest.raises(
        ValueError, match=r"images: expected \[n, 1, 28, 28\] or \[n, 3, 64, 64\], got \[n, \[3, 32, 32\]\]"
    ):
        autoencoders.build("grae", (3, 32, 32), 3)
    with pytest.raises(ValueError, match="block_size: expected"):
        build("beta_vae", block_size=4)
    networks = build("grae")
    with pytest.raises(ValueError, match="objective: expected one of"):
        autoencoders.loss("vae", *networks, Gaussian(), 1.0)
    with pytest.raises(ValueError, match="beta: expected a positive"):
        autoencoders.loss("grae", *networks, Gaussian(), 0.0)
    for objective, option in (
        ("grae", "n_columns"), ("grae_approx", "n_probes"), ("rae_l2", "regularizer"),
        ("rae_gradient", "regularizer"), ("rae_spectral", "penalty"), ("autoencoder", "penalty"),
        ("beta_vae", "encoder_weight"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{objective} has no option {option}: expected some of"):
            autoencoders.loss(objective, *networks, Gaussian(), 1.0, **{option: 1})


@pytest.mark.parametrize("objective", runtime.OBJECTIVES)
def test_fit_trains_a_model_that_encodes_and_decodes(objective):
    encoder, decoder, history = autoencoders.fit(
        objective, images(), Gaussian(), beta=0.1, latent_dim=3, width=1 / 64, seed=2,
        options=OPTIONS[objective], steps=3, batch_size=6, log_every=-1,
    )  # fmt: skip
    assert history["total"].shape == (3,)
    start = weights(build(objective, seed=2)[1])
    assert all(p.shape == start[name].shape for name, p in weights(decoder).items())
    assert any(not torch.equal(p, start[name]) for name, p in weights(decoder).items())
    codes = autoencoders.encode(encoder, images(), batch_size=5)
    assert codes.shape == (12, 3)
    assert not codes.requires_grad
    assert relative(codes, autoencoders.encode(encoder, images().float() / 255, batch_size=12)) < 1e-5
    shown = autoencoders.decode(decoder, Gaussian(), codes, batch_size=5)
    assert shown.shape == (12, *MNIST)
    assert 0 <= shown.min() <= shown.max() <= 1
    assert relative(shown, autoencoders.decode(decoder, Gaussian(), codes)) < 1e-5


def test_decode_returns_the_mean_image_and_prior_latents_are_the_same_for_all():
    decoder = models.mnist_decoder(3, width=1 / 64, output="identity").eval()
    z = autoencoders.prior_latents(4, 3)
    assert torch.equal(z, autoencoders.prior_latents(4, 3))
    assert not torch.equal(z, autoencoders.prior_latents(4, 3, seed=1))
    shown = autoencoders.decode(decoder, Bernoulli(), z)
    assert relative(shown, torch.sigmoid(decoder(z))) < 1e-5


def trained_a_little(objective):
    """Tiny networks in float64 whose codes have neither mean 0 nor the right scale."""
    encoder, decoder = autoencoders.build(objective, (1, 28, 28), 3, width=1 / 64, seed=1)
    torch.manual_seed(0)
    for network in (encoder, decoder):
        for parameter in network.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return encoder.double().eval(), decoder.double().eval()


@pytest.mark.parametrize("objective", ["beta_vae", "grae", "grae_approx"])
def test_settling_moves_no_image_and_leaves_the_objective_at_its_least(objective):
    encoder, decoder = trained_a_little(objective)
    x = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(2)).double()
    gaussian, beta = Gaussian(), 0.3

    def regularisers(encoder, decoder):
        """What depends on the scale: KL, or ½h² and the exact sum of Eq. 14, means over x."""
        with torch.no_grad():
            if objective == "beta_vae":
                return beta * posteriors.kl_to_prior(encoder(x)).mean().item()
            terms = losses.grae(x, encoder(x), decoder, gaussian, beta, block_size=1)
            return (terms.latent + terms.decoder).mean().item()

    def moved(factor, shift):
        """The settled networks with latent 0 scaled and shifted once more, by hand."""
        e, d = copy.deepcopy(settled), copy.deepcopy(decoded)
        with torch.no_grad():
            d.network[0].bias -= d.network[0].weight[:, 0] * shift / factor
            d.network[0].weight[:, 0] /= factor
            e.mean.weight[0] *= factor
            e.mean.bias[0] = factor * e.mean.bias[0] + shift
            if e.raw is not None:
                e.raw.bias[0] += math.log(factor)
        return regularisers(e, d)

    settled, decoded = autoencoders.settle(objective, encoder, decoder, x, gaussian, beta, n_jacobians=40)
    with torch.no_grad():
        code, new = (e(x) if objective != "beta_vae" else e(x).mean for e in (encoder, settled))
        assert torch.allclose(decoder(code), decoded(new), atol=1e-12)
    least = regularisers(settled, decoded)
    assert least < regularisers(encoder, decoder) - 1e-3
    for factor, shift in ((1.01, 0.0), (0.99, 0.0), (1.0, 0.02), (1.0, -0.02)):
        assert moved(factor, shift) > least
    step = 1e-4
    assert abs(moved(1 + step, 0.0) - moved(1 - step, 0.0)) / (2 * step) < 1e-5
    assert new.mean(0).abs().max() < 1e-12
    if objective == "beta_vae":
        with torch.no_grad():
            variance = settled(x).variance.mean(0)
        assert torch.allclose(new.square().mean(0) + variance, torch.ones(3).double())


def test_settling_refuses_what_it_cannot_settle():
    gaussian, x = Gaussian(), torch.rand(8, 1, 28, 28)
    encoder, decoder = autoencoders.build("grae", (1, 28, 28), 3, width=1 / 64)
    with pytest.raises(ValueError, match="eval mode"):
        autoencoders.settle("grae", encoder, decoder, x, gaussian, 0.1)
    with pytest.raises(ValueError, match="objective: expected one of beta_vae, grae, grae_approx"):
        autoencoders.settle("rae_l2", encoder.eval(), decoder.eval(), x, gaussian, 0.1)
    blocks = autoencoders.build("beta_vae", (1, 28, 28), 3, width=1 / 64, block_size=2)
    with pytest.raises(ValueError, match="mean-field posterior, got block_size 2"):
        autoencoders.settle("beta_vae", *(network.eval() for network in blocks), x, gaussian, 0.1)
    with pytest.raises(ValueError, match="begins with a linear layer"):
        autoencoders.settle("grae", encoder, torch.nn.Linear(3, 784).eval(), x, gaussian, 0.1)


def test_a_checkpoint_knows_a_likelihood_by_every_pixel_of_its_variance(tmp_path):
    variance = torch.ones(1, 28, 28)
    other = variance.clone()
    other[0, 13, 13] = 2.0
    model = dict(
        beta=0.1, latent_dim=3, width=1 / 64, steps=1, batch_size=4, log_every=-1, checkpoint=tmp_path / "run"
    )
    autoencoders.fit("grae_approx", images(), Gaussian(variance), **model)
    autoencoders.fit("grae_approx", images(), Gaussian(variance), **model)
    with pytest.raises(ValueError, match="likelihood: expected Gaussian"):
        autoencoders.fit("grae_approx", images(), Gaussian(other), **model)


def test_a_generator_among_the_options_is_resumed_too(tmp_path):
    def run(steps, folder):
        options = {"generator": torch.Generator().manual_seed(3)}
        model = dict(beta=torch.tensor(0.1), latent_dim=3, width=1 / 64, batch_size=4, log_every=-1, options=options)
        return autoencoders.fit(
            "grae_approx", images(), Gaussian(), steps=steps, checkpoint=tmp_path / folder, **model
        )

    run(2, "cut")
    whole, resumed = run(4, "whole"), run(4, "cut")
    assert all(torch.equal(p, q) for p, q in zip(whole[1].parameters(), resumed[1].parameters(), strict=True))


def test_encoding_and_decoding_leave_statistics_and_mode_alone():
    encoder, decoder = build("grae")
    before = {name: value.clone() for name, value in [*encoder.state_dict().items()]}
    codes = autoencoders.encode(encoder, images(7), batch_size=3)
    assert encoder.training and torch.allclose(codes, autoencoders.encode(encoder, images(7)), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert (
        decoder.training
        and autoencoders.decode(decoder, Gaussian(), codes).shape == (7, 1, 28, 28)
        and decoder.training
    )


def test_settling_does_not_blow_up_a_latent_that_has_died():
    encoder, decoder = trained_a_little("grae")
    with torch.no_grad():
        encoder.mean.weight[1] = 0.0
        decoder.network[0].weight[:, 2] = 0.0
    x = torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(2)).double()
    settled, decoded = autoencoders.settle("grae", encoder, decoder, x, Gaussian(), 0.3)
    codes = autoencoders.encode(settled, x)
    assert codes.square().mean(0)[1:].max() < 1e-3
    new, old = (
        autoencoders.decode(d, Gaussian(), c)
        for d, c in ((decoded, codes), (decoder, autoencoders.encode(encoder, x)))
    )
    torch.testing.assert_close(new, old)
