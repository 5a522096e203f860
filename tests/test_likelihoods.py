"""Observation models against scipy's densities, finite differences and sums to one."""

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import normal, relative, richardson

from grae_helpers.likelihoods import Bernoulli, Gaussian, Likelihood

BITS = (normal(4, 3, seed=3) > 0).double()
CASES = {
    "unit": (Gaussian(), normal(4, 3), normal(4, 3, seed=1)),
    "variance": (Gaussian(0.09), normal(4, 3), normal(4, 3, seed=1)),
    "variances": (Gaussian(normal(3, seed=5).exp()), normal(4, 3), normal(4, 3, seed=1)),
    "logits": (Bernoulli(), BITS, 3 * normal(4, 3, seed=1)),
    "probs": (Bernoulli("probs"), BITS, torch.sigmoid(normal(4, 3, seed=1))),
}


def reference(likelihood, x, g):
    x, g = x.numpy(), g.numpy()
    if isinstance(likelihood, Gaussian):
        return scipy.stats.norm.logpdf(x, g, np.sqrt(np.asarray(likelihood.variance))).sum(1)
    p = 1 / (1 + np.exp(-g)) if likelihood.parametrization == "logits" else g
    return scipy.stats.bernoulli.logpmf(x, p).sum(1)


@pytest.mark.parametrize("case", CASES)
def test_log_prob_is_scipys(case):
    likelihood, x, g = CASES[case]
    assert np.allclose(likelihood.log_prob(x, g), reference(likelihood, x, g), rtol=1e-10, atol=0)
    images = likelihood.log_prob(x.view(4, 1, 1, 3), g.view(4, 1, 1, 3))
    assert relative(images, likelihood.log_prob(x, g)) < 1e-15


@pytest.mark.parametrize("case", CASES)
def test_hessian_diag_is_the_second_derivative(case):
    likelihood, x, g = CASES[case]

    def second(h):
        f = [likelihood.log_density(x, g + step) for step in (-h, 0, h)]
        return (f[0] - 2 * f[1] + f[2]) / h**2

    assert relative(likelihood.hessian_diag(x, g), richardson(second, 0.02, 4)) < 1e-8
    assert likelihood.hessian_diag(x, g).shape == g.shape


@pytest.mark.parametrize("case", CASES)
def test_mean_is_the_mean(case):
    likelihood, _, g = CASES[case]
    if isinstance(likelihood, Gaussian):
        assert torch.equal(likelihood.mean(g), g)
    else:
        one = likelihood.log_density(torch.ones_like(g), g).exp()
        assert relative(likelihood.mean(g), one) < 1e-14


@pytest.mark.parametrize("parametrization", ["logits", "probs"])
def test_bernoulli_sums_to_one(parametrization):
    likelihood, g = Bernoulli(parametrization), torch.linspace(0.01, 0.99, 9, dtype=torch.float64)[:, None]
    total = sum(likelihood.log_prob(torch.full_like(g, bit), g).exp() for bit in (0.0, 1.0))
    assert torch.allclose(total, torch.ones(9).double(), rtol=1e-14)


@pytest.mark.parametrize("logit", [-200.0, -40.0, 40.0, 200.0])
def test_saturated_logits_stay_finite(logit):
    g = torch.full((1, 1), logit, requires_grad=True)
    for bit in (0.0, 1.0):
        x = torch.full((1, 1), bit)
        log_prob = Bernoulli().log_prob(x, g)
        wrong = (bit == 1) != (logit > 0)
        assert torch.allclose(log_prob, torch.tensor([-abs(logit) if wrong else 0.0]))
        assert torch.isfinite(torch.autograd.grad(log_prob.sum(), g)[0]).all()
        assert Bernoulli().hessian_diag(x, g).item() == pytest.approx(
            -np.exp(-abs(logit)), rel=1e-5, abs=1e-40
        )


@pytest.mark.parametrize("value", [2.0, -1.0, 0.5, 1e-6])
def test_bernoulli_refuses_x_outside_its_support(value):
    x = torch.tensor([[0.0, value]])
    with pytest.raises(ValueError, match=r"x: Bernoulli pixels are 0 or 1, got values from .*binarize"):
        Bernoulli().log_prob(x, torch.zeros(1, 2))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_bernoulli_refuses_what_is_no_probability(value):
    with pytest.raises(ValueError, match=r"g: expected probabilities in \[0, 1\], got values from"):
        Bernoulli("probs").log_prob(torch.ones(1, 1), torch.full((1, 1), value))


def test_certain_probabilities():
    x, g = torch.tensor([[1.0], [0.0], [1.0]]), torch.tensor([[1.0], [0.0], [0.0]])
    assert Bernoulli("probs").log_prob(x, g).tolist() == [0.0, 0.0, -float("inf")]


@pytest.mark.parametrize("likelihood", [Gaussian(), Bernoulli(), Bernoulli("probs")], ids=repr)
@pytest.mark.parametrize(
    ("x", "g", "error", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), ValueError, r"one shape .*, got \[2, 3\] and \[2, 4\]"),
        (torch.zeros(2, 3), torch.zeros(2, 1, 3), ValueError, r"one shape .*, got \[2, 3\] and \[2, 1, 3\]"),
        (torch.zeros(1, 3), torch.zeros(2, 3), ValueError, "one shape"),
        (torch.zeros(0, 3), torch.zeros(0, 3), ValueError, "batch ≥ 1"),
        (torch.zeros(3), torch.zeros(3), ValueError, "one shape"),
        (
            torch.zeros(2, 3, dtype=torch.uint8),
            torch.zeros(2, 3),
            TypeError,
            "divide integer images by 255.*torch.uint8",
        ),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3), TypeError, "floating point"),
        (
            torch.full((2, 3), float("nan")),
            torch.zeros(2, 3),
            ValueError,
            "x: expected finite pixels, got NaN",
        ),
        (torch.full((2, 3), float("inf")), torch.zeros(2, 3), ValueError, "x: expected finite pixels"),
        (torch.zeros(2, 3), torch.zeros(2, 3, device="meta"), ValueError, "one device, got cpu and meta"),
    ],
    ids=["pixels", "rank", "broadcast", "empty", "no batch", "uint8", "int64", "nan", "inf", "device"],
)
def test_bad_pairs(likelihood, x, g, error, message):
    with pytest.raises(error, match=message):
        likelihood.log_prob(x, g)


@pytest.mark.parametrize(
    "variance", [0.0, -1.0, float("nan"), float("inf"), torch.tensor([1.0, 0.0])], ids=str
)
def test_bad_variances(variance):
    with pytest.raises(ValueError, match=r"variance: expected .*positive"):
        Gaussian(variance)


@pytest.mark.parametrize("variance", ["1", None, True])
def test_variances_that_are_no_numbers(variance):
    with pytest.raises(TypeError, match="variance: expected a positive number"):
        Gaussian(variance)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 4, 3)])
def test_a_variance_that_does_not_broadcast_against_one_image(shape):
    with pytest.raises(ValueError, match=r"variance: expected to broadcast against one image \[3\], got"):
        Gaussian(torch.ones(shape)).log_prob(torch.zeros(4, 3), torch.zeros(4, 3))


def test_a_learned_variance_has_a_gradient():
    log_variance = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    x, g = normal(4, 3), normal(4, 3, seed=1)
    (gradient,) = torch.autograd.grad(Gaussian(log_variance.exp()).log_prob(x, g).sum(), log_variance)
    assert relative(gradient, 0.5 * ((x - g).square() - 1).sum(0)) < 1e-12


def test_another_parametrisation_is_refused():
    with pytest.raises(ValueError, match='parametrization: expected "logits" or "probs", got \'odds\''):
        Bernoulli("odds")


def test_a_likelihood_without_its_functions_says_which():
    class Empty(Likelihood):
        pass

    for call in (Empty().log_density, Empty().hessian_diag):
        with pytest.raises(NotImplementedError, match="Empty does not define"):
            call(torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(NotImplementedError, match="Empty does not define mean"):
        Empty().mean(torch.zeros(1, 1))
