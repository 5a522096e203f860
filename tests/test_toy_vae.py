"""App. C's models: data, objective and its gradient, against two-dimensional quadrature and torch's own densities."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from grae_helpers import quadrature, toy_vae
from grae_helpers.toy_vae import Experiment

NUMPY = {
    "identity": lambda u: u,
    "tanh": np.tanh,
    "sigmoid": lambda u: 1 / (1 + np.exp(-u)),
    "elu": lambda u: np.where(u > 0, u, np.expm1(np.minimum(u, 0))),
}
EXPERIMENTS = [
    Experiment(activation, family, amortized, beta=0.7, noise=0.3)
    for activation in quadrature.ACTIVATIONS
    for family in toy_vae.FAMILIES
    for amortized in (True, False)
]
experiments = pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)


def parameters(experiment, data, seed=4):
    found, rotations = toy_vae.initial(experiment, *data.x[:, 0].shape, seed=seed)
    noise = torch.Generator().manual_seed(seed)
    for name, part in found.items():
        part += (0.03 if name == "D" else 0.3) * torch.randn(part.shape, generator=noise, dtype=part.dtype)
    return found, rotations


def covariances(experiment, parameters, rotations, n):
    """Σ of each sample, [T, n, 2, 2], multiplied out."""
    factors = parameters["D"].permute(0, 3, 1, 2).expand(-1, n, -1, -1)
    factors = rotations["D"][:, None] @ factors
    full = factors @ factors.mT
    return torch.diag_embed(full.diagonal(dim1=-2, dim2=-1)) if experiment.family == "mean_field" else full


def elbo_in_the_plane(experiment, parameters, rotations, x, nodes=40):
    """The ELBO by a product rule over z itself, with torch's own KL divergence."""
    n = x.shape[-1]
    if experiment.amortized:
        mean = (rotations["C"] @ parameters["C"] @ x + parameters["d"]).mT
    else:
        mean = (rotations["mean"] @ parameters["mean"]).mT
    covariance = covariances(experiment, parameters, rotations, n)
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack(np.meshgrid(points, points), -1).reshape(-1, 2)
    weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    z = mean[..., None, :].numpy() + np.einsum("tnij,kj->tnki", np.linalg.cholesky(covariance.numpy()), grid)
    output = NUMPY[experiment.activation](np.einsum("tij,tnkj->tnki", parameters["A"].numpy(), z))
    error = x.mT[:, :, None].numpy() - output - parameters["b"].mT[:, :, None].numpy()
    log_p = -(error**2).sum(-1) / (2 * experiment.noise**2) - math.log(2 * math.pi * experiment.noise**2)
    prior = MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    kl = kl_divergence(MultivariateNormal(mean, covariance), prior)
    return (log_p @ weights).mean(-1) - experiment.beta * kl.mean(-1).numpy()


@experiments
def test_the_elbo_against_quadrature_over_the_plane(experiment):
    data = toy_vae.simulate(3, 7, experiment.activation, noise=experiment.noise, seed=2)
    start = parameters(experiment, data)
    found = toy_vae.elbo(experiment, *start, data.x)
    tolerance = 5e-3 if experiment.activation == "elu" else 1e-7  # elu's kink, in both rules
    np.testing.assert_allclose(found, elbo_in_the_plane(experiment, *start, data.x), rtol=tolerance)


@experiments
def test_the_gradient_against_finite_differences(experiment):
    data = toy_vae.simulate(2, 3, experiment.activation, noise=experiment.noise, seed=3)
    start, rotations = parameters(experiment, data)
    names = sorted(start)

    def function(*parts):
        points = toy_vae.rule(5, data.x)
        return toy_vae.total(dict(zip(names, parts, strict=True)), rotations, data.x, *points, experiment)

    assert torch.autograd.gradcheck(function, [start[name].requires_grad_() for name in names], atol=1e-4)


@pytest.mark.parametrize("family", toy_vae.FAMILIES)
def test_moments_are_all_that_a_linear_model_needs(family):
    experiment = Experiment("identity", family, beta=0.5)
    data = toy_vae.simulate(4, 200, "identity", seed=5)
    start = parameters(experiment, data)
    points = toy_vae.rule(5, data.x)
    from_samples, from_moments = (
        toy_vae.total(*start, observed, *points, experiment) for observed in (data.x, toy_vae.moments(data.x))
    )
    torch.testing.assert_close(from_samples, from_moments, rtol=1e-11, atol=1e-6)


def test_mean_field_leaves_the_off_diagonal_elements_free():
    experiment = Experiment("tanh", "mean_field", amortized=False)
    data = toy_vae.simulate(1, 5, "tanh", seed=6)
    start, rotations = parameters(experiment, data)
    before = toy_vae.elbo(experiment, start, rotations, data.x)
    # Turning a row of OD′ keeps its norm, and so the variance, but changes the covariance
    turned = torch.einsum("tij,tjkn->tikn", rotations["D"], start["D"])
    turned[:, 0] = turned[:, 0].flip(1)
    start["D"] = torch.einsum("tji,tjkn->tikn", rotations["D"], turned)
    torch.testing.assert_close(toy_vae.elbo(experiment, start, rotations, data.x), before)


@pytest.mark.parametrize("columns", ["random", "orthogonal"])
@pytest.mark.parametrize("shared", [False, True])
def test_the_data_of_app_c(columns, shared):
    data = toy_vae.simulate(50, 2000, "tanh", columns=columns, shared=shared, seed=7)
    norms = data.weights.norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([2.0, 1.0], dtype=torch.float64).expand(50, 2))
    products = (data.weights[:, :, 0] * data.weights[:, :, 1]).sum(1)
    assert (products.abs() < 1e-12).all() == (columns == "orthogonal")
    errors = data.x - torch.tanh(data.weights @ data.latents)
    assert abs(errors.std() - 0.05) < 2e-3 and abs(data.latents.std() - 1) < 0.03
    assert torch.equal(data.x[0], data.x[1]) == shared


def test_rotations_are_rotations_and_differ_by_trial():
    _, rotations = toy_vae.initial(Experiment(), 6, 10, seed=8)
    for rotation in rotations.values():
        torch.testing.assert_close(rotation @ rotation.mT, torch.eye(2, dtype=torch.float64).expand(6, 2, 2))
        torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(6, dtype=torch.float64))
        assert len(set(rotation[:, 0, 0].tolist())) == 6


def test_bad_input():
    for arguments, message in [
        ((0, 10), "trials: expected at least 1, got 0"),
        ((1, 1), "samples: expected at least 2, got 1"),
        ((1, 10, "relu"), "activation: expected one of"),
    ]:
        with pytest.raises(ValueError, match=message):
            toy_vae.simulate(*arguments)
    with pytest.raises(ValueError, match="noise: expected a positive, finite number, got nan"):
        toy_vae.simulate(1, 10, noise=float("nan"))
    with pytest.raises(ValueError, match="columns: expected one of random, orthogonal; got 'equal'"):
        toy_vae.simulate(1, 10, columns="equal")
    for bad, kind in (("1", TypeError), (-1, ValueError)):
        with pytest.raises(kind, match="seed: expected"):
            toy_vae.simulate(1, 10, seed=bad)
        with pytest.raises(kind, match="seed: expected"):
            toy_vae.initial(Experiment(), 1, 10, seed=bad)


def test_bad_experiments():
    data = toy_vae.simulate(1, 5)
    start = toy_vae.initial(Experiment(), 1, 5)
    for experiment, kind, message in [
        (Experiment("relu"), ValueError, "activation: expected one of"),
        (Experiment(family="diagonal"), ValueError, "family: expected one of mean_field, full; got 'diagonal'"),
        (Experiment(amortized="no"), TypeError, "amortized: expected true or false, got 'no'"),
        (Experiment(monte_carlo=1), TypeError, "monte_carlo: expected true or false, got 1"),
        (Experiment(beta=-1.0), ValueError, "beta: expected a positive"),
        (Experiment(noise="0.1"), TypeError, "noise: expected a positive number"),
        (Experiment(nodes=-1), ValueError, "nodes: expected at least 0, got -1"),
    ]:
        with pytest.raises(kind, match=message):
            toy_vae.elbo(experiment, *start, data.x)


def test_data_that_do_not_belong_together():
    data = toy_vae.simulate(2, 5)
    toy_vae.check_data(data)
    for changed, message in [
        ({"latents": data.latents[..., :4]}, r"data.latents: expected \[2, 2, 5\] beside an x of .* got \[2, 2, 4\]"),
        ({"weights": data.weights[:1]}, r"data.weights: expected \[2, 2, 2\] beside an x of .* got \[1, 2, 2\]"),
        ({"x": data.x[:, :, :0]}, r"data.x: expected \[trials, 2, samples\], got \[2, 2, 0\]"),
        ({"x": data.x.mT}, r"data.x: expected \[trials, 2, samples\], got \[2, 5, 2\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            toy_vae.check_data(data._replace(**changed))
