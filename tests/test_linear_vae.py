"""The linear VAE against direct optimisation over q, scipy's densities and scans over rotations."""

import math

import numpy as np
import pytest
import torch
from helpers import DOUBLE, normal
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, norm
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from grae_helpers import linear_vae

VARIANCE = 0.3
CASES = [(2, 2), (3, 2), (5, 3), (2, 3), (1, 1)]


def weights(D: int, d: int, seed: int = 0) -> torch.Tensor:
    return normal(D, d, seed=seed)


def covariance(D: int, seed: int = 1) -> torch.Tensor:
    root = normal(D, D + 2, seed=seed)
    return root @ root.T / (D + 2)


def samples(D: int, n: int = 7, seed: int = 2) -> torch.Tensor:
    """n observations about their mean."""
    x = normal(n, D, seed=seed) * torch.linspace(0.5, 2, D, dtype=DOUBLE)
    return x - x.mean(0)


def rotation(degrees) -> torch.Tensor:
    radians = torch.deg2rad(torch.as_tensor(degrees, dtype=DOUBLE))
    cos, sin = radians.cos(), radians.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


def orthogonal(d: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(normal(d, d, seed=seed)).Q


def objective(A, x, mean, log_variance, beta=1.0, variance=VARIANCE):
    """Eq. 2 (K&P) of one x for q = N(mean, diag exp log_variance), term by term."""
    q = Normal(mean, (log_variance / 2).exp())
    residual = (x - A @ mean).square().sum() + (A.square() @ log_variance.exp()).sum()
    log_prob = -residual / (2 * variance) - len(x) / 2 * math.log(2 * math.pi * variance)
    return log_prob - beta * kl_divergence(q, Normal(torch.zeros_like(mean), 1.0)).sum()


def best_q(A, x, beta=1.0):
    """(value, mean, variances) of the mean-field q that L-BFGS finds for one x."""

    def loss(flat):
        raw = torch.tensor(flat, requires_grad=True)
        value = -objective(A, x, *raw.chunk(2), beta=beta)
        value.backward()
        return value.item(), raw.grad.numpy()

    found = minimize(loss, np.zeros(2 * A.shape[1]), jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-9})
    mean, log_variance = torch.tensor(found.x).chunk(2)
    return -found.fun, mean, log_variance.exp()


@pytest.mark.parametrize(("D", "d"), CASES)
def test_log_likelihood_against_scipy(D, d):
    A, x = weights(D, d), samples(D)
    expected = multivariate_normal(np.zeros(D), (A @ A.T).numpy() + VARIANCE * np.eye(D)).logpdf(x.numpy()).mean()
    found = linear_vae.log_likelihood(A, VARIANCE, x.T @ x / len(x))
    assert found.item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("noise", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_likelihood_keeps_its_digits_when_there_is_hardly_any_noise(dtype, noise):
    """Data and model share their axes, so the eigenvalues of C and S pair up."""
    size, spread = torch.tensor([2.0, 1.0, 0.5], dtype=DOUBLE), torch.linspace(1, 2, 6, dtype=DOUBLE)
    Q = orthogonal(6, 4)
    A, S = (Q[:, :3] * size) @ orthogonal(3, 5), (Q * spread) @ Q.T
    eigenvalues = torch.cat([size**2, torch.zeros(3)]) + noise
    expected = -(6 * math.log(2 * math.pi) + eigenvalues.log().sum() + (spread / eigenvalues).sum()) / 2
    found = linear_vae.log_likelihood(A.to(dtype), noise, S.to(dtype))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6 if dtype is torch.float32 else 1e-9)


def test_units_of_the_weights_do_not_change_their_angle():
    W = weights(4, 2)
    for scale in (1e-300, 1e-100, 1e100, 1e300):
        torch.testing.assert_close(linear_vae.own_angle(W * scale), linear_vae.own_angle(W))


@pytest.mark.parametrize("beta", [0.4, 1.0, 3.0])
@pytest.mark.parametrize(("D", "d"), CASES)
def test_elbo_mean_and_variances_against_an_optimiser(D, d, beta):
    A, x = weights(D, d), samples(D)
    found = [best_q(A, sample, beta) for sample in x]
    elbo = linear_vae.mean_field_elbo(A, VARIANCE, x.T @ x / len(x), beta=beta)
    assert elbo.item() == pytest.approx(np.mean([value for value, _, _ in found]), abs=1e-8)
    means = x @ linear_vae.encoder_weights(A, VARIANCE, beta=beta).T
    torch.testing.assert_close(torch.stack([mean for _, mean, _ in found]), means, atol=2e-4, rtol=0)
    variances = 1 / linear_vae.precision(A, VARIANCE, beta=beta).diagonal()
    torch.testing.assert_close(found[0][2], variances, atol=2e-4, rtol=0)


@pytest.mark.parametrize(("D", "d"), CASES)
def test_posterior_and_deficit_against_conditioning_and_torchs_kl(D, d):
    A, x = weights(D, d), samples(D)
    C = A @ A.T + VARIANCE * torch.eye(D, dtype=DOUBLE)
    posterior = MultivariateNormal(A.T @ torch.linalg.solve(C, x[0]), torch.eye(d) - A.T @ torch.linalg.solve(C, A))
    torch.testing.assert_close(linear_vae.encoder_weights(A, VARIANCE) @ x[0], posterior.mean)
    torch.testing.assert_close(linear_vae.precision(A, VARIANCE), posterior.precision_matrix)
    best = torch.diag(1 / posterior.precision_matrix.diagonal())
    deficit = kl_divergence(MultivariateNormal(posterior.mean, best), posterior)
    torch.testing.assert_close(linear_vae.mean_field_deficit(A, VARIANCE), deficit)


def test_objective_at_beta_against_quadrature():
    """One latent, one pixel: β log ∫ p(z) p(x|z)^(1/β) dz by the trapezoidal rule."""
    a, x, beta = 1.7, 0.8, 0.35
    z = np.linspace(-12, 12, 20001)
    tempered = norm.pdf(z) * norm.pdf(x, a * z, math.sqrt(VARIANCE)) ** (1 / beta)
    expected = beta * math.log(np.trapezoid(tempered, z))
    found = linear_vae.mean_field_elbo(
        torch.tensor([[a]], dtype=DOUBLE), VARIANCE, torch.tensor([[x**2]], dtype=DOUBLE), beta=beta
    )
    assert found.item() == pytest.approx(expected, abs=1e-10)


def test_deficit_is_zero_exactly_for_orthogonal_columns(claim):
    diagonal = orthogonal(5, 0)[:, :3] * torch.tensor([2.0, 1.0, 0.3], dtype=DOUBLE)
    assert linear_vae.mean_field_deficit(diagonal, VARIANCE).abs() < 1e-13
    assert linear_vae.mean_field_deficit(diagonal.float(), VARIANCE).abs() < 1e-6
    for k in range(20):
        A = weights(4, 3, seed=k)
        gram = A.T @ A
        assert (gram - gram.diagonal().diag()).abs().max() > 1e-3
        assert linear_vae.mean_field_deficit(A, VARIANCE) > 1e-6
    nudged = diagonal.clone()
    nudged[:, 0] += 1e-3 * diagonal[:, 1]
    rho_squared = (1e-3 / VARIANCE) ** 2 / ((4 + VARIANCE) * (1 + VARIANCE) / VARIANCE**2)
    assert linear_vae.mean_field_deficit(nudged, VARIANCE).item() == pytest.approx(rho_squared / 2, rel=1e-4)
    claim("K3a", "holds")


def test_an_orthogonal_pair_of_one_norm_rotates_freely_in_its_plane_only():
    """diag(2, 1, 1): the pair's rotations cost nothing, the ones that mix it with the first latent do."""
    A = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=DOUBLE))
    pair, mixed = (torch.eye(3, dtype=DOUBLE).repeat(60, 1, 1) for _ in range(2))
    turn = rotation(torch.linspace(1, 89, 60))
    pair[:, 1:, 1:], mixed[:, :2, :2] = turn, turn
    assert linear_vae.mean_field_deficit(A @ pair, VARIANCE).max() < 1e-14
    assert linear_vae.mean_field_deficit(A @ mixed, VARIANCE).min() > 1e-5


@pytest.mark.parametrize("seed", range(5))
def test_principal_weights_beat_other_weights(seed):
    S, best = covariance(4), linear_vae.principal_weights(covariance(4), VARIANCE, 2)
    top = linear_vae.log_likelihood(best, VARIANCE, S)
    torch.testing.assert_close(linear_vae.mean_field_elbo(best, VARIANCE, S), top)
    moved = best + 0.1 * normal(100, 4, 2, seed=seed)
    assert (linear_vae.log_likelihood(moved, VARIANCE, S) < top).all()
    rotated = best @ orthogonal(2, seed)
    torch.testing.assert_close(linear_vae.log_likelihood(rotated, VARIANCE, S), top)
    assert linear_vae.mean_field_elbo(rotated, VARIANCE, S) < top


def test_principal_weights_are_stationary_for_every_beta():
    S, beta = covariance(3), 0.6
    best = linear_vae.principal_weights(S, beta * VARIANCE, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(linear_vae.mean_field_elbo(best, VARIANCE, S, beta=beta), best)
    assert gradient.abs().max() < 1e-10


def test_a_direction_below_the_noise_is_switched_off():
    S = torch.diag(torch.tensor([VARIANCE / 2, 2.0], dtype=DOUBLE))
    found = linear_vae.principal_weights(S, VARIANCE, 2)
    expected = torch.tensor([[0, 0], [math.sqrt(2 - VARIANCE), 0]], dtype=DOUBLE)
    torch.testing.assert_close(found.abs(), expected)


def test_own_angle_against_a_scan_over_rotations():
    angles = torch.linspace(-45, 45, 18001, dtype=DOUBLE)[1:]
    for seed in range(20):
        W = normal(3, 2, seed=seed)
        deficits = linear_vae.mean_field_deficit(W @ rotation(angles), 0.05)
        difference = (angles[deficits.argmin()] - linear_vae.own_angle(W)).item()
        assert abs((difference + 45) % 90 - 45) < 0.01, "the scan's step is 0.005 degrees"


def test_own_angle_is_that_of_the_optimum_of_infinite_data():
    """The posterior means of `principal_weights` on x = Wz + noise are the latents, turned by −θ*(W)."""
    for seed in range(20):
        W = normal(2, 2, seed=seed)
        A = linear_vae.principal_weights(W @ W.T + VARIANCE * torch.eye(2, dtype=DOUBLE), VARIANCE, 2)
        cross = (linear_vae.encoder_weights(A, VARIANCE) @ W).T  # E z mᵀ
        left, _, right = torch.linalg.svd(cross)
        turned = (rotation(-linear_vae.own_angle(W)) @ left @ right).abs()  # a signed permutation
        torch.testing.assert_close(turned, turned.round(), atol=1e-8, rtol=0)


@pytest.mark.parametrize("degrees", [-44.0, -20.0, 0.0, 10.0, 44.0, 45.0])
def test_own_angle_of_a_planted_rotation(degrees):
    W = torch.diag(torch.tensor([2.0, 1.0], dtype=DOUBLE)) @ rotation(degrees).T
    assert linear_vae.own_angle(W).item() == pytest.approx(degrees, abs=1e-9)
    swapped = W[:, [1, 0]] * torch.tensor([1, -1])  # a signed permutation P: θ*(WP) is θ*(W), reflected or not
    again = linear_vae.own_angle(swapped).item()
    assert again == pytest.approx(degrees, abs=1e-9)


def test_own_angle_lies_in_the_half_open_interval():
    W = torch.tensor([[1.0, -1.0], [0.0, 1e-200], [1.0, 0.0], [1.0, 0.0]], dtype=DOUBLE)
    assert linear_vae.own_angle(torch.tensor([[1.0, -1.0], [1.0, -1.0]])).item() == 45  # −45 itself is 45
    assert -45 < linear_vae.own_angle(W).item() <= 45
    angles = linear_vae.own_angle(normal(1000, 2, 2))
    assert angles.shape == (1000,) and angles.min() > -45 and angles.max() <= 45


def test_rank_deficient_weights_are_fine():
    W = torch.tensor([[2.0, 1.0], [0.0, 0.0]], dtype=DOUBLE)
    C = (W @ W.T).numpy() + VARIANCE * np.eye(2)
    expected = multivariate_normal(np.zeros(2), C).logpdf(np.ones(2))
    ones = torch.ones(2, 2, dtype=DOUBLE)
    assert linear_vae.log_likelihood(W, VARIANCE, ones).item() == pytest.approx(expected)
    assert linear_vae.own_angle(W).item() == pytest.approx(math.degrees(math.atan2(1, 2)))
    assert linear_vae.mean_field_elbo(0 * W, VARIANCE, ones) == linear_vae.log_likelihood(0 * W, VARIANCE, ones)


def test_batches_are_the_same_as_one_at_a_time():
    A, S = normal(4, 5, 3, 2), torch.stack([covariance(3, seed) for seed in range(5)])
    variance = torch.linspace(0.1, 1, 5, dtype=DOUBLE)
    found = {
        "likelihood": linear_vae.log_likelihood(A, variance, S),
        "elbo": linear_vae.mean_field_elbo(A, variance, S, beta=0.5),
        "encoder": linear_vae.encoder_weights(A, variance),
        "angle": linear_vae.own_angle(A),
        "principal": linear_vae.principal_weights(S, variance, 2),
    }
    for i in range(4):
        for j in range(5):
            one = (A[i, j], variance[j].item())
            torch.testing.assert_close(found["likelihood"][i, j], linear_vae.log_likelihood(*one, S[j]))
            torch.testing.assert_close(found["elbo"][i, j], linear_vae.mean_field_elbo(*one, S[j], beta=0.5))
            torch.testing.assert_close(found["encoder"][i, j], linear_vae.encoder_weights(*one))
            torch.testing.assert_close(found["angle"][i, j], linear_vae.own_angle(A[i, j]))
            torch.testing.assert_close(found["principal"][j], linear_vae.principal_weights(S[j], one[1], 2))
    assert linear_vae.encoder_weights(A[0, 0], variance).shape == (5, 2, 3)
    assert linear_vae.log_likelihood(A[0, 0], VARIANCE, S).shape == (5,)


def test_gradients_reach_the_weights():
    A, S = weights(3, 2).requires_grad_(), covariance(3)
    assert torch.autograd.gradcheck(lambda a: linear_vae.mean_field_elbo(a, VARIANCE, S, beta=0.7), A)
    assert torch.autograd.gradcheck(linear_vae.own_angle, A)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), torch.tensor([0.1, 0.0])])
def test_variances_that_are_not_positive_are_refused(value):
    W, S = weights(2, 2), covariance(2)
    for call in (
        lambda: linear_vae.precision(W, value),
        lambda: linear_vae.log_likelihood(W, value, S),
        lambda: linear_vae.mean_field_elbo(W, value, S),
        lambda: linear_vae.principal_weights(S, value, 1),
        lambda: linear_vae.encoder_weights(W, value),
    ):
        with pytest.raises(ValueError, match=r"variance: expected .*positive"):
            call()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (torch.tensor([[1.0, 0.5], [0.4, 1.0]]), "symmetric"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "negative eigenvalue"),
        (torch.tensor([[1.0, math.nan], [math.nan, 1.0]]), "NaN"),
        (torch.eye(3), "2, 2"),
        (torch.ones(2), "2, 2"),
    ],
)
def test_what_is_no_covariance_is_refused(bad, says):
    with pytest.raises(ValueError, match=f"covariance: expected .*{says}"):
        linear_vae.log_likelihood(torch.eye(2), 1.0, bad)


def test_other_bad_input_is_refused():
    nan = torch.full((2, 2), math.nan)
    for call in (linear_vae.own_angle, lambda W: linear_vae.precision(W, 1.0)):
        with pytest.raises(ValueError, match="NaN"):
            call(nan)
    with pytest.raises(TypeError, match="float32 or float64, got ndarray"):
        linear_vae.own_angle(np.eye(2))
    for dtype in (torch.int64, torch.float16, torch.bfloat16):
        with pytest.raises(TypeError, match=f"weights: expected .*{dtype}"):
            linear_vae.precision(torch.eye(2, dtype=dtype), 1.0)
    with pytest.raises(TypeError, match=r"covariance: expected .*float16"):
        linear_vae.principal_weights(torch.eye(2).half(), 1.0, 1)
    with pytest.raises(ValueError, match="D, 2"):
        linear_vae.own_angle(torch.eye(3))
    with pytest.raises(ValueError, match="latent_dim: expected at most D = 2"):
        linear_vae.principal_weights(torch.eye(2), 1.0, 3)
    with pytest.raises(ValueError, match="beta"):
        linear_vae.mean_field_deficit(torch.eye(2), 1.0, beta=0.0)


def test_batches_that_do_not_fit_are_refused():
    A, S, variance = torch.zeros(4, 3, 2), torch.eye(3).expand(5, 3, 3), torch.ones(5)
    for call in (
        lambda: linear_vae.log_likelihood(A, 1.0, S),
        lambda: linear_vae.precision(A, variance),
        lambda: linear_vae.principal_weights(S, torch.ones(4), 2),
    ):
        with pytest.raises(ValueError, match=r"leading dimensions: expected those of a batch, got \[\d\] of"):
            call()


def test_what_rounds_to_singular_is_refused():
    for call in (
        lambda: linear_vae.mean_field_deficit(torch.full((3, 2), 1e30), 1.0),
        lambda: linear_vae.mean_field_deficit(torch.ones(3, 2), 1e-12),
        lambda: linear_vae.log_likelihood(torch.ones(2, 2), 1e-12, torch.eye(2)),
        lambda: linear_vae.encoder_weights(torch.full((2, 2), 1e30), 1.0),
    ):
        with pytest.raises(ValueError, match=r"singular to the rounding of torch\.float32"):
            call()


@pytest.mark.parametrize("W", [torch.eye(2), torch.zeros(3, 2), 2 * rotation(30.0)])
def test_weights_without_an_angle_are_refused(W):
    with pytest.raises(ValueError, match="1 of 3 have no angle"):
        linear_vae.own_angle(torch.stack([W, *(torch.ones_like(W).triu(),) * 2]))
