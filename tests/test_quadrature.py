"""Expectations of activations under a Gaussian, against adaptive quadrature, closed forms and draws."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from grae_helpers import quadrature

FUNCTIONS = {
    "identity": lambda u: u,
    "tanh": math.tanh,
    "sigmoid": lambda u: 1 / (1 + math.exp(-u)),
    "elu": lambda u: u if u > 0 else math.expm1(u),
}
activations = pytest.mark.parametrize("activation", quadrature.ACTIVATIONS)


@activations
def test_values_and_slopes(activation):
    u = torch.linspace(-30, 30, 61, dtype=torch.float64)
    value, slope = quadrature.activate(u, activation)
    np.testing.assert_allclose(value, [FUNCTIONS[activation](v) for v in u.tolist()], rtol=1e-12, atol=1e-15)
    v = u.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(quadrature.activate(v, activation)[0].sum(), v)
    torch.testing.assert_close(slope, by_autograd, rtol=1e-12, atol=1e-12)


def test_activations_agree_with_torch():
    u = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    known = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "elu": torch.nn.functional.elu}
    for name, function in known.items():
        torch.testing.assert_close(quadrature.activate(u, name)[0], function(u))


def test_gauss_hermite_has_the_moments_of_a_standard_normal():
    points, weights = quadrature.gauss_hermite(8)
    for power in range(16):
        moment = sum(w * x**power for x, w in zip(points, weights, strict=True))
        assert math.isclose(moment, stats.norm.moment(power), rel_tol=1e-11, abs_tol=1e-9)


@activations
@pytest.mark.parametrize(("mean", "deviation", "target"), [(0.3, 0.05, 0.2), (-1.5, 0.4, -0.7), (2.5, 1.0, 1.02)])
def test_expectation_against_adaptive_quadrature(activation, mean, deviation, target):
    def integrand(u):
        return (target - FUNCTIONS[activation](u)) ** 2 * stats.norm.pdf(u, mean, deviation)

    span = (mean - 12 * deviation, mean + 12 * deviation)
    expected = integrate.quad(integrand, *span, points=[0.0, mean], limit=400, epsabs=1e-14, epsrel=1e-12)[0]
    one = torch.ones(1, 1, dtype=torch.float64)
    rule = quadrature.gauss_hermite(64)
    found = quadrature.expected_squared_error(mean * one, deviation * one, target * one, *rule, activation)
    # elu has a jump in its second derivative, so a fixed rule converges slowly across 0
    assert math.isclose(found.item(), expected, rel_tol=2e-4 if activation == "elu" else 1e-8)


def test_elu_against_its_closed_form():
    """E elu(u) = mΦ(m/s) + sφ(m/s) + exp(m + s²/2)Φ(−m/s − s) − Φ(−m/s), from two targets."""
    mean, deviation = 0.1, 0.5
    ratio = mean / deviation
    closed = mean * stats.norm.cdf(ratio) + deviation * stats.norm.pdf(ratio)
    closed += math.exp(mean + deviation**2 / 2) * stats.norm.cdf(-ratio - deviation) - stats.norm.cdf(-ratio)
    one, rule = torch.ones(1, 1, dtype=torch.float64), quadrature.gauss_hermite(64)
    terms = [
        quadrature.expected_squared_error(mean * one, deviation * one, t * one, *rule, "elu").item() for t in (0, 1)
    ]
    assert math.isclose((1 - terms[1] + terms[0]) / 2, closed, rel_tol=2e-4)


@activations
@pytest.mark.parametrize("shared", [False, True])
def test_derivatives_against_finite_differences(activation, shared):
    generator = torch.Generator().manual_seed(1)
    mean, target = torch.randn(2, 3, 2, 4, generator=generator, dtype=torch.float64)
    deviation = 0.1 + torch.rand(3, 2, 1 if shared else 4, generator=generator, dtype=torch.float64)
    inputs = [part.requires_grad_() for part in (mean, deviation, target)]

    def function(*parts):
        return quadrature.expected_squared_error(*parts, *quadrature.gauss_hermite(5), activation)

    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-7)


def test_draws_agree_with_the_rule_within_their_error():
    generator = torch.Generator().manual_seed(2)
    mean, target = torch.randn(2, 1, 2, 50, generator=generator, dtype=torch.float64)
    deviation = torch.full_like(mean, 0.3)
    exact = quadrature.expected_squared_error(mean, deviation, target, *quadrature.gauss_hermite(32), "tanh")
    draws = torch.randn(2000, 1, 2, 50, generator=generator, dtype=torch.float64)
    single = (target - torch.tanh(mean + deviation * draws)) ** 2
    found = quadrature.expected_squared_error(mean, deviation, target, list(draws), [1 / 2000] * 2000, "tanh")
    torch.testing.assert_close(found, single.mean(0), rtol=1e-9, atol=1e-12)
    scores = (found - exact) / (single.std(0) / math.sqrt(2000))
    assert scores.abs().max() < 4.5 and abs(scores.mean()) < 0.5


def test_bad_input():
    with pytest.raises(ValueError, match="expected one of identity, tanh, sigmoid, elu; got 'relu'"):
        quadrature.activate(torch.zeros(1), "relu")
    with pytest.raises(ValueError, match="nodes: expected at least 1, got 0"):
        quadrature.gauss_hermite(0)
    with pytest.raises(ValueError, match="nodes: expected at most some 370, where double precision ends, got 400"):
        quadrature.gauss_hermite(400)
    with pytest.raises(ValueError, match="zip"):
        quadrature.expected_squared_error(*torch.zeros(3, 1, 1), (0.0, 1.0), (1.0,), "tanh")
