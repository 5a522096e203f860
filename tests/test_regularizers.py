"""The estimators: means over 10⁵ draws against enumeration, Lanczos quadrature against numpy's determinants."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from helpers import (
    BAD_BETAS,
    DOUBLE,
    buffers,
    fd_jacobian,
    frozen_copy,
    network,
    normal,
    normalised_network,
    relative,
    same_buffers,
)
from torch import nn

from grae_helpers import losses, models, regularizers
from grae_helpers.likelihoods import Bernoulli, Gaussian

DRAWS, D, LATENT, BETA = 100_000, 5, 4, 0.4
X, BITS, CODE = normal(1, D), (normal(1, D, seed=2) > 0).double(), normal(1, LATENT, seed=1)
WEIGHTS = {
    "variance": lambda g: np.full_like(g, 1 / 0.3),
    "logits": lambda g: np.exp(-g) / (1 + np.exp(-g)) ** 2,
}


def sums_to_zero() -> nn.Linear:
    """Common code penalises the gradient of the summed output, which is 0 for this decoder."""
    decoder = nn.Linear(LATENT, D).double()
    decoder.weight.data = normal(D, LATENT, seed=4) - normal(D, LATENT, seed=4).mean(0)
    decoder.bias.data = normal(D, seed=5)
    code = CODE.clone().requires_grad_()
    assert torch.autograd.grad(decoder(code).sum(), code)[0].abs().max() < 1e-12
    return decoder


LIKELIHOODS = {"variance": (Gaussian(0.3), X), "logits": (Bernoulli(), BITS)}
DECODERS = {"tanh": network(LATENT, 6, D), "sums to zero": sums_to_zero()}
CASES = list(itertools.product(DECODERS, LIKELIHOODS))


def gram(decoder: str, likelihood: str) -> np.ndarray:
    """Jᵀ(−H_p)J at CODE, by finite differences in numpy."""
    j = fd_jacobian(DECODERS[decoder], CODE).numpy()[0]
    return j.T @ (WEIGHTS[likelihood](DECODERS[decoder](CODE).detach().numpy()[0])[:, None] * j)


def repeated(decoder: str, likelihood: str):
    """The case's arguments, the one sample as often as there are draws: draws are per sample."""
    model, x = LIKELIHOODS[likelihood]
    return x.expand(DRAWS, -1), CODE.expand(DRAWS, -1), DECODERS[decoder], model


def check_mean(draws: torch.Tensor, expected: float) -> None:
    assert math.isfinite(expected)
    assert expected != 0
    draws = draws.detach()
    error = draws.std().item() / len(draws) ** 0.5
    assert abs(draws.mean().item() - expected) <= 3 * error + 1e-9 * abs(expected)
    assert error < 0.02 * abs(expected)  # else the mean would say little


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("decoder", "likelihood"), CASES)
@pytest.mark.parametrize("k", [1, 2, LATENT])
def test_sampled_columns_are_unbiased(decoder, likelihood, k):
    with torch.no_grad():
        terms = losses.grae_approx(*repeated(decoder, likelihood), BETA, n_columns=k, generator=seeded(k))
    expected = BETA / 2 * np.log1p(np.diag(gram(decoder, likelihood)) / BETA).sum()
    check_mean(terms.decoder, expected)
    if k == LATENT:
        assert relative(terms.decoder, torch.full((DRAWS,), expected, dtype=DOUBLE)) < 1e-9


@pytest.mark.parametrize(("decoder", "likelihood"), CASES)
@pytest.mark.parametrize("k", [2, 3, LATENT])
def test_pairs_of_columns_are_unbiased(decoder, likelihood, k, claim):
    arguments, options = (*repeated(decoder, likelihood), BETA), {"n_columns": k}
    with torch.no_grad():
        penalised = losses.grae_approx(*arguments, **options, orthogonality=0.7, generator=seeded(k)).decoder
        penalised = penalised - losses.grae_approx(*arguments, **options, generator=seeded(k)).decoder
    matrix = gram(decoder, likelihood)
    cosines = matrix / np.sqrt(np.outer(np.diag(matrix), np.diag(matrix)))
    check_mean(penalised, 0.7 * BETA / 2 * (np.square(cosines).sum() - LATENT) / 2)
    claim("K9f", "holds")


@pytest.mark.parametrize(("decoder", "likelihood"), CASES)
@pytest.mark.parametrize("n_probes", [1, 3])
def test_the_gradient_penalty_is_unbiased(decoder, likelihood, n_probes):
    options = {"penalty": 0.7, "n_probes": n_probes, "generator": seeded()}
    with torch.no_grad():
        terms = losses.rae(*repeated(decoder, likelihood), BETA, **options)
    check_mean(terms.decoder, 0.7 / 2 * np.trace(gram(decoder, likelihood)))


@pytest.mark.parametrize(("decoder", "likelihood"), CASES)
@pytest.mark.parametrize("fraction", [0.25, 0.6])
def test_a_part_of_the_batch_is_unbiased_for_each_sample(decoder, likelihood, fraction):
    model, net = LIKELIHOODS[likelihood][0], DECODERS[decoder]
    codes = normal(3, LATENT, seed=7)
    x = LIKELIHOODS[likelihood][1].expand(3, -1)
    arguments = x.repeat(DRAWS, 1), codes.repeat(DRAWS, 1), net, model, BETA
    with torch.no_grad():
        terms = losses.grae_approx(*arguments, regularizer_fraction=fraction, generator=seeded())
        whole = losses.grae_approx(*arguments)
        exact = losses.grae(x, codes, net, model, BETA, block_size=1).decoder
    assert (terms.decoder > 0).double().mean().item() == pytest.approx(fraction, abs=1e-5)
    assert all(torch.equal(term, other) for term, other in zip(terms[:2], whole[:2], strict=True))
    for draws, expected in zip(terms.decoder.view(DRAWS, 3).T, exact.tolist(), strict=True):
        check_mean(draws, expected)


def test_a_part_of_a_small_batch_is_at_least_one_sample():
    arguments = (
        LIKELIHOODS["variance"][1].expand(3, -1),
        normal(3, LATENT, seed=7),
        DECODERS["tanh"],
        Gaussian(),
        BETA,
    )
    for fraction, n in ((0.01, 1), (0.5, 2), (0.7, 2), (1.0, 3)):
        found = losses.grae_approx(*arguments, regularizer_fraction=fraction).decoder
        assert int((found > 0).sum()) == n
    draws = [losses.grae_approx(*arguments, regularizer_fraction=0.3, n_columns=LATENT, generator=seeded(i)).decoder
             for i in range(300)]  # fmt: skip
    exact = losses.grae(*arguments, block_size=1).decoder
    kept = torch.stack(draws).detach() > 0
    assert relative(torch.stack(draws).amax(0), 3 * exact) < 1e-12
    assert (kept.double().mean(0) - 1 / 3).abs().max() < 0.09  # 3 standard errors of 300 draws


def test_rademacher_signs_have_the_identity_as_second_moment():
    v = regularizers.rademacher(CODE.expand(DRAWS, -1), 1, seeded())[:, :, 0]
    assert set(v.unique().tolist()) == {-1.0, 1.0}
    assert (v.T @ v / DRAWS - torch.eye(LATENT)).abs().max() < 4 / DRAWS**0.5


def test_generators_of_another_device_than_the_code_are_used_where_they_live():
    found = regularizers.random_like(torch.empty(2, 3, device="meta"), (2, 3), seeded())
    assert found.device.type == "meta"


def test_a_column_of_zeros_is_orthogonal_to_every_other():
    columns = torch.zeros(1, D, 2, dtype=DOUBLE, requires_grad=True)
    found = regularizers.orthogonality(columns, torch.ones(1, D, dtype=DOUBLE), LATENT)
    found.sum().backward()
    assert found.item() == 0
    assert torch.isfinite(columns.grad).all()


# Lanczos quadrature


def log_det(decoder: str, likelihood: str) -> float:
    return float(np.linalg.slogdet(np.eye(LATENT) + gram(decoder, likelihood) / BETA)[1])


def lanczos(decoder: str, likelihood: str, **options) -> torch.Tensor:
    x, code, net, model = repeated(decoder, likelihood)
    with torch.no_grad():
        return regularizers.log_det_lanczos(net, model, x, code, BETA, **options)


def over_all_signs(monkeypatch, estimate) -> torch.Tensor:
    """The mean of an estimate over every choice of signs."""
    found = []
    for signs in itertools.product((0.0, 1.0), repeat=LATENT):
        drawn = torch.tensor(signs, dtype=DOUBLE)[None, :, None]
        with monkeypatch.context() as patched:
            patched.setattr(torch, "rand", lambda shape, drawn=drawn, **_: drawn.expand(shape))
            found.append(estimate())
    return sum(found) / len(found)


@pytest.mark.parametrize(("decoder", "likelihood"), CASES)
def test_lanczos_with_d_steps_is_exact_over_all_signs(monkeypatch, decoder, likelihood):
    model, x = LIKELIHOODS[likelihood]
    found = over_all_signs(monkeypatch, lambda: regularizers.log_det_lanczos(DECODERS[decoder], model, x, CODE, BETA))
    assert found.item() == pytest.approx(log_det(decoder, likelihood), rel=1e-9)


@pytest.mark.parametrize(("decoder", "likelihood"), CASES)
@pytest.mark.parametrize("n_probes", [1, 2])
def test_lanczos_with_d_steps_is_unbiased_with_the_variance_it_states(decoder, likelihood, n_probes):
    draws = lanczos(decoder, likelihood, n_steps=LATENT, n_probes=n_probes, generator=seeded())
    check_mean(draws, log_det(decoder, likelihood))
    values, vectors = np.linalg.eigh(np.eye(LATENT) + gram(decoder, likelihood) / BETA)
    logarithm = vectors @ np.diag(np.log(values)) @ vectors.T
    variance = 2 * (np.square(logarithm).sum() - np.square(np.diag(logarithm)).sum()) / n_probes
    assert draws.var().item() == pytest.approx(variance, rel=0.03)


def test_fewer_steps_come_out_too_large_by_less_and_less(monkeypatch):
    model, x = LIKELIHOODS["variance"]
    bias = []
    for n_steps in range(1, LATENT + 1):

        def estimate(n_steps=n_steps):
            return regularizers.log_det_lanczos(DECODERS["tanh"], model, x, CODE, BETA, n_steps=n_steps)

        bias.append(over_all_signs(monkeypatch, estimate).item() - log_det("tanh", "variance"))
    assert all(0 < later < earlier / 2 for earlier, later in itertools.pairwise(bias[:-1]))
    assert abs(bias[-1]) < 1e-9


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@pytest.mark.parametrize(
    "singular", [[0.0] * 4, [2.0] * 4, [3.0, 3.0, 1.0, 1.0], [1e3, 1.0, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0]], ids=str
)
def test_lanczos_where_the_vectors_run_out(singular, dtype):
    """Repeated and vanishing singular values: the steps reach as many vectors as there are distinct ones."""
    decoder = nn.Linear(4, 6, bias=False).to(dtype)
    left, right = torch.linalg.qr(normal(6, 4, seed=1)).Q, torch.linalg.qr(normal(4, 4, seed=2)).Q
    decoder.weight.data = (left * torch.tensor(singular, dtype=DOUBLE) @ right.T).to(dtype)
    x, z = torch.zeros(2000, 6, dtype=dtype), torch.zeros(2000, 4, dtype=dtype)
    with torch.no_grad():
        found = regularizers.log_det_lanczos(decoder, Gaussian(), x, z, 1.0, n_steps=50, generator=seeded()).double()
    expected = sum(math.log1p(value**2) for value in singular)
    assert abs(found.mean().item() - expected) <= 3 * found.std().item() / 2000**0.5 + 1e-5
    if len(set(singular)) == 1:
        assert (found - expected).abs().max() < 1e-5  # a multiple of the identity has no variance


def test_lanczos_keeps_its_vectors_orthogonal_in_single_precision():
    torch.manual_seed(0)
    decoder = nn.Linear(64, 80, bias=False)
    decoder.weight.data = torch.linalg.qr(torch.randn(80, 64)).Q * torch.logspace(2, -2, 64)
    z, x = torch.zeros(64, 64), torch.zeros(64, 80)
    with torch.no_grad():
        found = regularizers.log_det_lanczos(decoder, Gaussian(), x, z, 0.1, n_steps=64).double()
    exact = torch.log1p(torch.logspace(2, -2, 64).double() ** 2 / 0.1).sum()
    assert (found - exact).abs().max() < 1e-3 * exact  # JᵀJ is diagonal, and so is its logarithm: no variance


def test_lanczos_on_the_papers_networks_is_the_exact_log_determinant():
    torch.manual_seed(0)
    decoder = models.mnist_decoder(3, width=1 / 64)
    x, z = torch.rand(4, 1, 28, 28).repeat(30, 1, 1, 1), torch.randn(4, 3).repeat(30, 1)
    before = buffers(decoder)
    exact = losses.grae(x[:4], z[:4], copy.deepcopy(decoder), Gaussian(), 1.0).decoder * 2
    found = regularizers.log_det_lanczos(decoder, Gaussian(), x, z, 1.0, n_probes=4).detach().view(30, 4)
    assert same_buffers(decoder, before)
    assert ((found.mean(0) - exact.detach()).abs() < 4 * found.std(0) / 30**0.5 + 1e-4 * exact.detach()).all()


def test_the_gradient_of_lanczos_is_the_log_determinants_over_all_signs(monkeypatch):
    """In train mode, where parameters act through the batch statistics too, and through the encoder's code."""
    for name, (model, _) in LIKELIHOODS.items():
        decoder, encoder = normalised_network(LATENT, 6, D), network(D, LATENT, seed=5)
        x = normal(6, D) if name == "variance" else (normal(6, D, seed=2) > 0).double()
        used = [*decoder.parameters(), *encoder.parameters()]

        def estimate(model=model, x=x, decoder=decoder, encoder=encoder):
            return regularizers.log_det_lanczos(decoder, model, x, encoder(x), BETA).sum()

        found = torch.autograd.grad(over_all_signs(monkeypatch, estimate), used, allow_unused=True)
        exact = losses.grae(x, encoder(x), decoder, model, BETA).decoder.sum() * 2 / BETA
        expected = torch.autograd.grad(exact, used, allow_unused=True, materialize_grads=True)
        scale = max(gradient.abs().max() for gradient in expected)
        for gradient, right in zip(found, expected, strict=True):
            gradient = torch.zeros_like(right) if gradient is None else gradient
            assert (gradient - right).abs().max() < 1e-9 * scale


def test_lanczos_draws_from_the_generator_and_leaves_the_rest():
    decoder, x, z = normalised_network(LATENT, 6, D), normal(6, D), normal(6, LATENT, seed=1)
    before, state = buffers(decoder), torch.get_rng_state()

    def estimate(decoder=decoder, seed=0):
        return regularizers.log_det_lanczos(decoder, Gaussian(), x, z, BETA, generator=seeded(seed))

    assert torch.equal(estimate(), estimate())
    assert not torch.equal(estimate(), estimate(seed=1))
    assert same_buffers(decoder, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert relative(estimate(), estimate(frozen_copy(decoder, z))) < 1e-9
    with torch.no_grad():
        assert not estimate().requires_grad
    with torch.inference_mode():
        assert torch.equal(estimate(), estimate())
    assert not estimate(lambda z: z.repeat(1, 2)[:, :D]).requires_grad
    assert torch.equal(estimate(lambda z: torch.zeros_like(x)), torch.zeros(6, dtype=DOUBLE))


@pytest.mark.parametrize(("beta", "error"), BAD_BETAS, ids=str)
def test_lanczos_refuses_bad_beta(beta, error):
    with pytest.raises(error, match=r"beta: expected a positive.* got"):
        regularizers.log_det_lanczos(DECODERS["tanh"], Gaussian(), X, CODE, beta)


class Convex(Gaussian):
    def hessian_diag(self, x, g):
        return torch.ones_like(g)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_probes": 0}, ValueError, "n_probes: expected"),
        ({"n_steps": 0}, ValueError, "n_steps: expected"),
        ({"n_steps": 1.5}, TypeError, "n_steps: expected"),
        ({"z": normal(4)}, ValueError, r"z: expected \[batch ≥ 1, d ≥ 1\], got \[4\]"),
        ({"z": normal(1, 3)}, ValueError, r"z: \[1, 3\] does not fit the decoder"),
        ({"x": normal(1, 3)}, ValueError, r"x and g: expected one shape .* \[1, 3\] and \[1, 5\]"),
        ({"likelihood": Bernoulli()}, ValueError, "Bernoulli pixels are 0 or 1"),
        ({"likelihood": Convex(), "beta": 0.01}, ValueError, "expected positive definite, got eigenvalue -"),
        ({"decoder": lambda z: z.repeat(1, 2)[:, :D] * math.nan}, ValueError, "expected a finite Jacobian, got NaN"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_lanczos_refuses_bad_input(arguments, error, message):
    usual = {"decoder": DECODERS["tanh"], "likelihood": Gaussian(), "x": X, "z": CODE, "beta": BETA}
    with pytest.raises(error, match=message):
        regularizers.log_det_lanczos(**usual | arguments)


# RAE as GRAE's first order (K&P §6, claim K15)


def test_rae_is_the_first_order_of_grae(claim):
    """(β/2) log|I + JᵀJ/β| − ½‖J‖²_F vanishes as β → ∞, by a part of order ‖J‖²/β of the penalty."""
    x, code, decoder = normal(6, D), normal(6, LATENT, seed=1), DECODERS["tanh"]
    j = fd_jacobian(decoder, code).numpy()
    singular = np.linalg.svd(j, compute_uv=False)
    penalty = np.square(j).sum((1, 2)) / 2
    second = np.power(singular, 4).sum(1) / 4
    errors = []
    for beta in (1e2, 1e3, 1e4):
        grae = losses.grae(x, code, decoder, Gaussian(), beta).decoder.detach().numpy()
        assert (grae < penalty).all()  # log(1 + s) < s
        errors.append((penalty - grae) / penalty)
        assert (errors[-1] <= np.square(singular).max(1) / (2 * beta) * (1 + 1e-9)).all()
    assert np.allclose(errors[-1] * 1e4, second / penalty, rtol=1e-3)
    assert np.allclose(errors[0] / errors[1], 10, rtol=0.1)
    claim("K15b", "holds")


def test_the_series_of_the_log_determinant_diverges_beyond_the_root_of_beta(claim):
    """Σ_m (−1)^{m+1} s^{2m}/(m β^m) is log(1 + s²/β) only for singular values s < √β."""
    orders = np.arange(1, 41)
    for ratio, converges in ((0.8, True), (1.25, False)):
        terms = (-1.0) ** (orders + 1) * ratio**orders / orders
        error = np.abs(np.cumsum(terms) - np.log1p(ratio))
        assert bool(error[-1] < 1e-4) is converges
        assert bool(error[-1] < error[0]) is converges
    claim("K15a", "holds")


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1.0, 1e25])
def test_orthogonality_does_not_depend_on_lengths_however_small(size):
    columns = (size * torch.tensor([[[1.0, 1.0], [0.0, 1.0]]])).requires_grad_()
    penalty = regularizers.orthogonality(columns, torch.ones(1, 2), latent_dim=2)
    penalty.sum().backward()
    assert torch.allclose(penalty, torch.tensor([0.5]))
    assert torch.isfinite(columns.grad).all()


def test_orthogonality_of_saturated_pixels_has_a_gradient():
    weights = torch.tensor([[0.0, 1.0]], requires_grad=True)
    columns = torch.tensor([[[1.0, 2.0], [1.0, 1.0]]], requires_grad=True)
    penalty = regularizers.orthogonality(columns, weights, latent_dim=2)
    penalty.sum().backward()
    assert torch.allclose(penalty, torch.ones(1))
    assert torch.isfinite(weights.grad).all() and torch.isfinite(columns.grad).all()
    zeros = torch.zeros(1, 2, 2, requires_grad=True)
    regularizers.orthogonality(zeros, torch.ones(1, 2), latent_dim=2).sum().backward()
    assert (zeros.grad == 0).all()
