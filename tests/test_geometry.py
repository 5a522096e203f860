"""Block structure and gaps against numpy, torch's own KL divergence and closed forms."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from grae_helpers import geometry, likelihoods, models

BETA = 0.3


def random_gram(n: int = 5, d: int = 6, seed: int = 0) -> torch.Tensor:
    J = torch.randn(n, 9, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return J.mT @ J


def random_covariance(n: int = 5, d: int = 6, seed: int = 1) -> torch.Tensor:
    return random_gram(n, d, seed) / 9 + 0.1 * torch.eye(d, dtype=torch.float64)


@pytest.mark.parametrize("block_size", [1, 2, 4, 6])
def test_off_block_energy_against_a_loop(block_size):
    gram = random_gram()
    for matrix, energy in zip(gram.numpy(), geometry.off_block_energy(gram, block_size), strict=True):
        inside = sum(
            matrix[i, j] ** 2 for i in range(6) for j in range(6) if i // block_size == j // block_size
        )
        assert energy.item() == pytest.approx(1 - inside / (matrix**2).sum(), abs=1e-12)


def test_off_block_energy_is_blind_to_scale_and_to_order_within_blocks():
    gram = random_gram()
    energy = geometry.off_block_energy(gram, 2)
    order = torch.tensor([1, 0, 3, 2, 5, 4])
    torch.testing.assert_close(geometry.off_block_energy(7 * gram[:, order][:, :, order], 2), energy)
    assert (
        geometry.off_block_energy(gram[:, [2, 0, 4, 1, 5, 3]][:, :, [2, 0, 4, 1, 5, 3]], 2) - energy
    ).abs().max() > 1e-3


@pytest.mark.parametrize(
    "bad", [torch.zeros(1, 2, 2), torch.full((1, 2, 2), torch.nan), torch.ones(2, 2), torch.ones(1, 2, 3)]
)
def test_off_block_energy_refuses(bad):
    with pytest.raises(ValueError, match="expected"):
        geometry.off_block_energy(bad, 1)


def test_rotation_baseline_of_a_rank_one_matrix():
    """E[Σ_i u_i⁴] = 3/(d + 2) for u uniform on the sphere, so the off-diagonal share of uuᵀ is (d − 1)/(d +
    2)."""
    u = torch.eye(6, dtype=torch.float64)[:1]
    rank_one = u[:, :, None] * u[:, None, :]
    share = geometry.rotation_baseline(lambda m: geometry.off_block_energy(m, 1), rank_one, n_rotations=4000)
    assert share.item() == pytest.approx(5 / 8, abs=0.01)


def test_covariance_gap_is_beta_times_a_kl_divergence(claim):
    gram, sigma = random_gram(), random_covariance()
    best = torch.linalg.inv(torch.eye(6, dtype=torch.float64) + gram / BETA)
    zero = torch.zeros(5, 6, dtype=torch.float64)
    kl = kl_divergence(MultivariateNormal(zero, sigma), MultivariateNormal(zero, best))
    torch.testing.assert_close(geometry.covariance_gap(-gram, sigma, BETA), BETA * kl, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(geometry.covariance_gap(-gram, best, BETA), zero[:, 0], rtol=0, atol=1e-9)
    claim("K11f", "holds")


def test_covariance_gap_refuses_a_covariance_that_is_none():
    with pytest.raises(ValueError, match="covariance: expected positive definite"):
        geometry.covariance_gap(-torch.eye(2)[None], -torch.eye(2)[None], 1.0)


@pytest.mark.parametrize("block_size", [1, 2, 3, 4, None])
def test_structure_price_against_slogdet(block_size):
    gram = random_gram()
    for matrix, price in zip(gram.numpy(), geometry.structure_price(gram, BETA, block_size), strict=True):
        M, size = np.eye(6) + matrix / BETA, block_size or 6
        in_blocks = sum(np.linalg.slogdet(M[i : i + size, i : i + size])[1] for i in range(0, 6, size))
        assert price.item() == pytest.approx(BETA / 2 * (in_blocks - np.linalg.slogdet(M)[1]), abs=1e-10)


def small_model(block_size: int | None) -> tuple[models.Encoder, models.Decoder, torch.Tensor]:
    torch.manual_seed(0)
    encoder = models.mlp_encoder(5, 3, [8], block_size=block_size).double()
    torch.nn.init.normal_(encoder.raw.weight, std=0.3)
    return encoder, models.mlp_decoder(3, 5, [8]).double(), torch.randn(7, 5, dtype=torch.float64)


@pytest.mark.parametrize("block_size", [1, 2, None])
def test_compare_objectives_gaps(block_size):
    encoder, decoder, x = small_model(block_size)
    values = geometry.compare_objectives(
        encoder, decoder, likelihoods.Gaussian(), x, BETA, block_size=block_size, n_samples=4, chunk=3
    )
    torch.testing.assert_close(values["taylor"] - values["grae"], values["gap"], rtol=1e-8, atol=1e-9)
    assert (values["forced"] >= -1e-12).all() and (values["gap"] >= values["forced"] - 1e-12).all()
    error = (x - decoder(encoder(x).mean)).square().sum(1)
    torch.testing.assert_close(values["squared_error"], error.detach())
    again = geometry.compare_objectives(
        encoder, decoder, likelihoods.Gaussian(), x, BETA, n_samples=4, chunk=3
    )
    assert torch.equal(values["beta_vae"], again["beta_vae"])


def test_compare_objectives_of_a_linear_decoder_agree_up_to_sampling():
    """Gaussian pixels and g(z) = Az: Eq. 7 is exact, so the sampled objective has it as its mean."""
    encoder, _, x = small_model(1)
    A = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    values = geometry.compare_objectives(
        encoder, lambda z: z @ A.T, likelihoods.Gaussian(), x, BETA, n_samples=4000
    )
    posterior = encoder(x)
    residual, spread = (
        x - posterior.mean @ A.T,
        A * posterior.stddev[:, None, :],
    )  # ½‖residual − spread ε‖², ε ~ N(0, I)
    linear, quadratic = (
        (residual[:, None] @ spread).square().sum((1, 2)),
        (spread @ spread.mT).square().sum((1, 2)) / 2,
    )
    errors = (values["beta_vae"] - values["taylor"]) / ((linear + quadratic) / 4000).sqrt()
    assert errors.abs().max() < 4 and errors.square().mean() < 3


def test_compare_objectives_leaves_the_random_state():
    encoder, decoder, x = small_model(1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    geometry.compare_objectives(encoder, decoder, likelihoods.Gaussian(), x, BETA)
    assert torch.equal(torch.rand(3), expected)


def test_covariance_and_jacobian_against_autograd():
    encoder, decoder, x = small_model(2)
    sigma, gram = geometry.covariance_and_jacobian(
        encoder, decoder, likelihoods.Gaussian(variance=0.5), x, chunk=3
    )
    for i in range(7):
        posterior = encoder(x[i : i + 1])
        J = torch.autograd.functional.jacobian(lambda z: decoder(z)[0], posterior.mean)[:, 0]
        torch.testing.assert_close(gram[i], 2 * J.T @ J, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(sigma[i], posterior.covariance_matrix[0].detach(), rtol=1e-8, atol=1e-10)
    assert math.isclose(sigma[0, 0, 2].item(), 0.0)


def test_cosines_are_those_of_the_columns():
    J = torch.randn(4, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = geometry.cosines(J.mT @ J)
    for i in range(3):
        for j in range(3):
            expected = torch.cosine_similarity(J[:, :, i], J[:, :, j], dim=1)
            torch.testing.assert_close(found[:, i, j], expected)
    lengths = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    torch.testing.assert_close(geometry.cosines((J * lengths).mT @ (J * lengths)), found)
    orthogonal = torch.diag(torch.tensor([4.0, 0.25]))[None]
    assert torch.equal(geometry.cosines(orthogonal), torch.eye(2)[None])


def test_cosines_refuse_a_diagonal_that_is_not_positive():
    with pytest.raises(ValueError, match="expected positive diagonals, the least entry is 0"):
        geometry.cosines(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))
