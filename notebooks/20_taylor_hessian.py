# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Taylor and Hessian
#
# **Claim.** Expanded to second order at the posterior's mean, the β-VAE's objective needs no sampling:
# the expectation becomes $\log p(x\mid h)+\tfrac12\operatorname{tr}(H\Sigma)$, and the Hessian $H$ is built from
# the decoder's Jacobian (Kumar & Poole 2020, §4, Eqs. 3–7; below "K&P").
#
# This page derives the five equations, checks each line by a route that shares no code with it, and then measures
# what each approximation costs. One of the paper's sentences does not survive: a piecewise-linear decoder makes Eq. 6
# exact and the objective no more accurate.
#
# | | |
# |---|---|
# | **You will learn** | where the regulariser of Eq. 7 comes from; what it leaves out; how the error shrinks with β, and why relu hides its curvature instead of lacking it |
# | **You need** | the chain rule, the covariance of a Gaussian, the ELBO |
# | **Time** | reading 30 minutes; running under a minute on two cores (`book`), about ten minutes (`full`) |
#
# %% tags=["parameters"]
budget: str = "book"  # size of the run: test, book or full
beta: float = 0.1  # weight of the KL term; it sets how wide the posterior is
latent_dim: int = 2  # number of latents d; this page uses 4 at the most, since its quadrature takes n^d points
dataset: str = "digits"  # the images that the small decoders are trained on; "auto" takes MNIST where it is there
seed: int = 0  # of the initial weights, the batches and the random directions
device: str = "auto"  # auto, cpu or cuda

# %%
import copy
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from grae_helpers import (
    data,
    jacobians,
    likelihoods,
    losses,
    models,
    plotting,
    plotting_theory,
    posteriors,
    runtime,
    training,
)
from grae_helpers.plotting import show, table

# %%
runtime.check_parameters(
    budget=budget, beta=beta, latent_dim=latent_dim, dataset=dataset, seed=seed, device=device
)
latent_dim = min(latent_dim, 4)  # the quadrature below takes n^d points
size = runtime.sizes(
    budget,
    test={"steps": 70, "conv_steps": 10, "images": 48, "points": 256},
    book={"steps": 400, "conv_steps": 80, "images": 96, "points": 1024},
    full={"steps": 4000, "conv_steps": 2000, "images": 300, "points": 4096},
)
where, generator = runtime.device(device), runtime.seed_everything(seed)
plotting.use_style()

# %% [markdown]
# ## The decoders under test
#
# Random weights would say little, so the page first trains small decoders: two hidden layers, images of 14×14 pixels,
# with the β-VAE's own objective (Eq. 2) at one small β for all. They differ in their activation, in what their last
# layer does, and in the observation model. After training everything is in float64, so that what we measure is the
# mathematics and not the rounding.
#
# %%
gaussian, bernoulli = likelihoods.Gaussian(), likelihoods.Bernoulli("logits")
KINDS = {  # name: hidden activation, output activation, observation model
    "linear": ("identity", "identity", gaussian),
    "relu": ("relu", "identity", gaussian),
    "leaky relu": ("leaky_relu", "identity", gaussian),
    "elu": ("elu", "identity", gaussian),
    "tanh": ("tanh", "identity", gaussian),
    "relu, sigmoid output": ("relu", "sigmoid", gaussian),
    "linear, Bernoulli logits": ("identity", "identity", bernoulli),
    "elu, Bernoulli logits": ("elu", "identity", bernoulli),
}
TRAINING_BETA = 0.02

# %%
def load(split):
    images = data.load(data.resolve(dataset, among=data.SMALL_GREY), split)
    return images, nn.functional.avg_pool2d(images.floats(slice(0, 10_000)), 2).flatten(1)


source, pixels = load("train")
_, test_pixels = load("test")
show(f"Data: *{source.source}*. {len(pixels):,} images to train on, averaged to {pixels.shape[1]} pixels; d = {latent_dim}, seed {seed}.")


# %%
def train(hidden, output, likelihood):
    """A trained decoder with test images x [n, D] and their codes h(x) [n, d], in float64."""
    torch.manual_seed(seed)
    encoder = models.mlp_encoder(pixels.shape[1], latent_dim)
    decoder = models.mlp_decoder(latent_dim, pixels.shape[1], [32, 32], hidden=hidden, output=output)
    prepare = data.binarize if likelihood is bernoulli else torch.clone
    history = training.fit(
        lambda x: losses.beta_vae(x, encoder(x), decoder, likelihood, TRAINING_BETA),
        [encoder, decoder], prepare(pixels), steps=size.steps, learning_rate=3e-3, seed=seed, device=where, log_every=-1,
    )
    x = prepare(test_pixels[: size.images]).double().to(where)
    with torch.no_grad():
        code = encoder.double()(x).mean
    decoder.double().requires_grad_(False)
    return SimpleNamespace(decoder=decoder, likelihood=likelihood, x=x, code=code, history=history)


zoo = {name: train(*kind) for name, kind in KINDS.items()}

# %% [markdown]
# A page about trained decoders must fail if they did not train. Each must explain its test images better than the best
# constant image does.
#
# %%
def gain(model):
    """How many nats per image the reconstruction wins over the mean image of the training set."""
    prior = data.binarize(pixels) if model.likelihood is bernoulli else pixels
    constant = prior.double().mean(0).clamp(1e-3, 1 - 1e-3).to(where).expand_as(model.x)
    constant = constant.logit() if model.likelihood is bernoulli else constant
    reconstructed = model.likelihood.log_prob(model.x, model.decoder(model.code))
    return (reconstructed - model.likelihood.log_prob(model.x, constant)).mean().item()


gains = {name: gain(model) for name, model in zoo.items()}
assert min(gains.values()) > 0, gains
table([{"decoder": name, "gain over the mean image (nats)": f"{value:.2f}"} for name, value in gains.items()])

# %% [markdown]
# ## Step 1: a second-order expansion (Eq. 3)
#
# Fix an image $x$ and read $f_x(z)=\log p(x\mid z)$ as a function of $z$ alone. Its Taylor expansion at $h=h(x)$,
# the posterior's mean, is
#
# $$f_x(z)\approx f_x(h)+J_f\,(z-h)+\tfrac12\,(z-h)^\top H_f\,(z-h),\qquad J_f=\nabla f_x(h),\quad H_f=\nabla^2 f_x(h).$$
#
# We take $J_f$ from reverse mode, $H_f$ from `jacobians.hessian`, and check both by central differences, which know
# nothing of automatic differentiation. A central difference with step $s$ errs by about $s^2$ and by the rounding of
# $f$ over $s$; at $s=10^{-5}$ both are far below the tolerance of $10^{-6}$. Below each such check the page prints the relative
# differences that it found.
#
# %%
smooth = zoo["tanh"]
x, h = smooth.x[0], smooth.code[0]


def f(z):
    """log p(x|z) of the first test image, for z [d]."""
    return gaussian.log_prob(x[None], smooth.decoder(z[None]))[0]


def gradient(z):
    z = z.detach().requires_grad_()
    return torch.autograd.grad(f(z), z)[0]


# %%
def central(function, z, step=1e-5):
    """Central differences of a function of one z [d]: [..., d]."""
    shifts = step * torch.eye(len(z), dtype=z.dtype, device=z.device)
    return torch.stack([(function(z + s) - function(z - s)) / (2 * step) for s in shifts], -1)


def agrees(ours, reference, tolerance):
    """The relative difference of two arrays, after asserting that it is below the tolerance."""
    difference = ((ours - reference).norm() / reference.norm()).item()
    assert difference < tolerance, f"relative difference {difference:.2e}, expected below {tolerance:.0e}"
    return difference


J_f, H_f = gradient(h), jacobians.hessian(smooth.decoder, gaussian, x[None], h[None])[0]
agrees(central(f, h), J_f, 1e-6), agrees(central(gradient, h), H_f, 1e-6)

# %% [markdown]
# What Eq. 3 leaves out is of third order. So along any direction the remainder must shrink like the cube of the distance:
# on logarithmic axes a line of slope 3.
#
# %%
def slope(sizes, errors):
    """The exponent of a power law: the slope of a straight line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


distances = np.geomspace(1e-3, 1e-2, 5)
directions = torch.randn(64, latent_dim, dtype=h.dtype, generator=generator).to(where)
directions = directions / directions.norm(dim=1, keepdim=True)


def remainder(step):
    expansion = f(h) + J_f @ step + step @ H_f @ step / 2
    return (f(h + step) - expansion).abs().item()


remainders = [np.mean([remainder(t * v) for v in directions]) for t in distances]
cubic = slope(distances, remainders)
assert abs(cubic - 3) < 0.1
show(f"The remainder of Eq. 3 shrinks as the distance to the power {cubic:.3f}.")

# %% [markdown]
# ## Step 2: the expectation (Eq. 4)
#
# Now average Eq. 3 over the posterior $q(z\mid x)$ with mean $h$ and covariance $\Sigma$, one term at a time.
#
# 1. $\mathbb E\,f_x(h)=f_x(h)$: it is a constant.
# 2. $\mathbb E\,J_f(z-h)=J_f\,(\mathbb E z-h)=0$: that is why one expands at the *mean*.
# 3. $\mathbb E\,\tfrac12(z-h)^\top H_f(z-h)=\tfrac12\operatorname{tr}\!\big(H_f\,\mathbb E(z-h)(z-h)^\top\big)=\tfrac12\operatorname{tr}(H_f\Sigma)$,
#    because a scalar is its own trace and a trace lets its factors rotate.
#
# Nothing here asks for a Gaussian: two moments are enough. Together, $\mathbb E_q f_x(z)\approx f_x(h)+\tfrac12\operatorname{tr}(H_f\Sigma)$.
#
# To check it we need expectations that are far more accurate than the approximation. Gauss–Hermite quadrature with $n$
# nodes is exact for polynomials of degree $2n-1$ in each latent; the product rule takes $n^d$ points.
#
# %%
def gauss_hermite(latent_dim, points):
    """Nodes [n^d, d] and weights [n^d] of the product rule for N(0, I), with about `points` nodes."""
    count = min(64, round(points ** (1 / latent_dim)))
    node, weight = np.polynomial.hermite_e.hermegauss(count)
    nodes = np.stack(np.meshgrid(*[node] * latent_dim, indexing="ij"), -1).reshape(-1, latent_dim)
    weights = np.stack(np.meshgrid(*[weight] * latent_dim, indexing="ij"), -1).reshape(-1, latent_dim).prod(1)
    return torch.tensor(nodes, device=where), torch.tensor(weights / weights.sum(), device=where)


nodes, weights = gauss_hermite(latent_dim, size.points)


def expectation(function, mean, covariance):
    """E function(z) for z ~ N(mean, covariance), by quadrature: function takes [batch, n, d] to [batch, n]."""
    z = mean[:, None] + nodes @ torch.linalg.cholesky(covariance).mT
    return function(z) @ weights


# %% [markdown]
# For the covariance we take the one that the expansion itself prefers, $\Sigma=(I-H/\beta)^{-1}$, with the Gauss–Newton
# matrix of step 4 for $H$. Where it comes from is the subject of [the next page](21_optimal_covariance_grae.ipynb); here any
# positive definite matrix would do.
#
# %%
Sigma = jacobians.optimal_covariance(jacobians.gauss_newton(smooth.decoder, gaussian, x[None], h[None]), beta)
zero = expectation(lambda z: (z - h) @ J_f, h[None], Sigma)[0]
quadratic = expectation(lambda z: (((z - h) @ H_f) * (z - h)).sum(-1) / 2, h[None], Sigma)[0]
trace = (H_f * Sigma[0]).sum() / 2
assert abs(zero) < 1e-10 * J_f.norm()
agrees(quadratic, trace, 1e-10)

# %% [markdown]
# The KL term needs no expansion. For $q=N(h,\Sigma)$ and $p(z)=N(0,I)$ it is
# $\tfrac12\big(\lVert h\rVert^2+\operatorname{tr}\Sigma-\log\lvert\Sigma\rvert-d\big)$, the bracket of Eq. 8. Quadrature of
# $\log q-\log p$ agrees, and with it the package's `taylor` is Eq. 4 to the last digit. (The package minimises, so its
# terms carry the opposite sign.)
#
# %%
q = torch.distributions.MultivariateNormal(h[None], Sigma)
prior = torch.distributions.MultivariateNormal(torch.zeros_like(h), torch.eye(latent_dim, dtype=h.dtype, device=where))
kl = expectation(lambda z: q.log_prob(z.transpose(0, 1)).T - prior.log_prob(z), h[None], Sigma)
agrees(posteriors.kl_to_prior(q), kl, 1e-8)

# %%
by_hand = -(f(h) + trace - beta * kl[0])
eq4 = losses.taylor(x[None], q, smooth.decoder, gaussian, beta, hessian="exact")
agrees(eq4.total[0], by_hand, 1e-8)

# %% [markdown]
# ## Step 3: the Hessian through the decoder (Eq. 5)
#
# The likelihood sees $z$ only through the decoder's output: $f_x(z)=\ell(g(z))$ with $\ell(g)=\log p(x;g)$. Write the
# chain rule in indices, $a,b$ for latents and $i,j$ for pixels. Once:
#
# $$\frac{\partial f}{\partial z_a}=\sum_i\frac{\partial\ell}{\partial g_i}\,\frac{\partial g_i}{\partial z_a}.$$
#
# Differentiating once more, the product rule gives two sums:
#
# $$\frac{\partial^2 f}{\partial z_a\partial z_b}=
# \underbrace{\sum_{ij}\frac{\partial g_i}{\partial z_a}\,\frac{\partial^2\ell}{\partial g_i\partial g_j}\,\frac{\partial g_j}{\partial z_b}}_{J_g^\top H_p J_g}
# +\underbrace{\sum_i\frac{\partial\ell}{\partial g_i}\,\frac{\partial^2 g_i}{\partial z_a\partial z_b}}_{N,\ \text{the decoder's own curvature}}.$$
#
# That is Eq. 5. For pixel-wise models $H_p$ is diagonal. For Gaussian pixels of unit variance $H_p=-I$ and
# $\partial\ell/\partial g=x-g$: the second term is *residual times curvature*. It vanishes where the decoder fits
# perfectly, or where it is not curved.
#
# We compute all three factors by finite differences of $g$ alone, assemble the two sums, and compare them with the package.
#
# %%
def g(z):
    """The decoder's output [D] for one z [d]."""
    return smooth.decoder(z[None])[0]


J = central(g, h)
curvature = central(lambda z: central(g, z, 1e-4), h, 1e-4)  # [D, d, d]
residual = x - g(h)  # the gradient of log p in g
kept = -J.T @ J
neglected = torch.einsum("i,iab->ab", residual, curvature)

gauss_newton = jacobians.gauss_newton(smooth.decoder, gaussian, x[None], h[None])[0]
agrees(kept, gauss_newton, 1e-6), agrees(kept + neglected, H_f, 1e-5)

# %% [markdown]
# The second difference divides rounding by the square of its step, hence the step of $10^{-4}$ and a tolerance ten times
# looser. Automatic differentiation (`jacobians.hessian`: forward mode for the first sum, reverse over reverse for the second)
# and finite differences of the decoder meet.
#
# ## Step 4: dropping the second sum (Eqs. 6 and 7)
#
# K&P drop $N$. The remaining $J^\top H_pJ$ is the *Gauss–Newton* matrix. It costs $d$ forward-mode passes instead of a
# second derivative, and for a log-concave likelihood it has no positive eigenvalue: an advantage that the next page needs. Eq. 7
# is Eq. 4 with this matrix, and `taylor` computes it without forming any $d\times d$ matrix, because
# $\operatorname{tr}(J^\top H_pJ\,CC^\top)=\sum_i (H_p)_i\,\lVert (JC)_i\rVert^2$ for $\Sigma=CC^\top$.
#
# %%
eq7 = losses.taylor(x[None], q, smooth.decoder, gaussian, beta)
agrees(eq7.decoder[0], -(gauss_newton * Sigma[0]).sum() / 2, 1e-12)

# %% [markdown]
# ## Known answers
#
# Before any measurement, two decoders for which everything is known in closed form.
#
# **Linear decoder, Gaussian pixels.** $f_x$ is quadratic: $N=0$, the expansion is exact, and Eqs. 2, 4 and 7 must be one
# number whatever the posterior.
#
# **One latent, one pixel, $g(z)=e^z$.** Here $f=-\tfrac12(x-e^z)^2$ up to a constant, $J^\top H_pJ=-e^{2h}$,
# $N=(x-e^h)e^h$, and for $q=N(h,s^2)$ the expectation follows from $\mathbb E\,e^{kz}=e^{kh+k^2s^2/2}$.
#
# %%
def log_density(model, z):
    """log p(x|z) of each image at its own points, z [batch, n, d] to [batch, n], a few images at a time."""
    parts = []
    for x, points in zip(model.x.split(4), z.split(4), strict=True):
        repeated = x.repeat_interleave(points.shape[1], 0)
        density = model.likelihood.log_prob(repeated, model.decoder(points.flatten(0, 1)))
        parts.append(density.view(len(x), -1))
    return torch.cat(parts)


linear = zoo["linear"]
wide = torch.eye(latent_dim, dtype=h.dtype, device=where).expand(len(linear.x), -1, -1)  # Σ = I: as wide as the prior
q_wide = torch.distributions.MultivariateNormal(linear.code, wide)
eq2 = -expectation(lambda z: log_density(linear, z), linear.code, wide) + beta * posteriors.kl_to_prior(q_wide)
eq7_linear = losses.taylor(linear.x, q_wide, linear.decoder, gaussian, beta).total
agrees(eq7_linear, eq2, 1e-10)

# %%
variance, (point, target, spread) = 0.04, torch.tensor([[[0.3]], [[2.0]], [[0.2]]], dtype=torch.float64)
e = lambda k: np.exp(k * 0.3 + k * k * variance / 2)  # noqa: E731 - E exp(kz)
exact = 0.5 * (4 - 4 * e(1) + e(2)) + 0.5 * np.log(2 * np.pi)  # −E log p(x|z)
narrow = torch.distributions.MultivariateNormal(point, scale_tril=spread[None])
known = [losses.taylor(target, narrow, torch.exp, gaussian, 1.0, hessian=kind) for kind in ("exact", "gauss_newton")]
eq4_error, eq7_error = ((terms.reconstruction + terms.decoder).item() - exact for terms in known)

third = (2 - np.exp(0.3)) * np.exp(0.3) * variance / 2  # ½ N s²
assert abs((eq7_error - eq4_error) - third) < 1e-12
assert abs(eq4_error) < 4 * variance**2
show(
    f"For $g=e^z$ with $s^2$ = {variance}: Eq. 4 misses the exact value by {eq4_error:+.5f} nats, Eq. 7 by {eq7_error:+.5f}. "
    f"The difference, {eq7_error - eq4_error:.5f}, is ½Ns² = {third:.5f}."
)

# %% [markdown]
# ## Seeing the expansion
#
# A cut through latent space for a smooth decoder and for a piecewise-linear one: $f_x$ itself, Eq. 3 with the exact
# Hessian, and Eq. 3 with Gauss–Newton. The shaded band is the posterior's reach, two standard deviations. Of the first
# sixteen test images we show the one where Gauss–Newton errs most.
#
# %%
@torch.no_grad()
def cut(model, index=0, count=201):
    """f and its two expansions along the posterior's widest axis through h, in units of its standard deviation."""
    x, h = model.x[index : index + 1], model.code[index : index + 1]
    exact, kept = (derive(model.decoder, model.likelihood, x, h)[0] for derive in (jacobians.hessian, jacobians.gauss_newton))
    values, axes = torch.linalg.eigh(jacobians.optimal_covariance(kept[None], beta)[0])
    direction, steps = values[-1].sqrt() * axes[:, -1], torch.linspace(-4, 4, count, dtype=h.dtype, device=where)
    along = model.likelihood.log_prob(x.expand(count, -1), model.decoder(h + steps[:, None] * direction))
    derivative = jacobians.push_forward(model.decoder, h, direction[None, :, None])[0, :, 0] @ (x - model.decoder(h))[0]
    base = model.likelihood.log_prob(x, model.decoder(h))
    curves = [along] + [base + steps * derivative + steps**2 / 2 * (direction @ H @ direction) for H in (exact, kept)]
    return steps.cpu().numpy(), [(curve - base).cpu().numpy() for curve in curves]


def misfit(found, curve):
    """The largest misfit within two standard deviations of the code, in nats: expansion 0 exact, 1 Gauss–Newton."""
    steps, (truth, *expansions) = found
    return np.abs(truth - expansions[curve])[np.abs(steps) <= 2].max()


candidates = {name: [cut(zoo[name], index) for index in range(16)] for name in ("tanh", "relu")}
cuts = {name: max(found, key=lambda one: misfit(one, 1)) for name, found in candidates.items()}

# %% mystnb={"image": {"alt": "Two panels of log density against distance from the code along one latent direction. For tanh the two parabolas differ in curvature and both leave the curve away from the code. For relu the two parabolas coincide and leave the curve at its kinks."}, "figure": {"caption": "The log density of a test image (another one in each panel) along the posterior's widest axis, and its two expansions. Top: a tanh decoder. Bottom: a relu decoder, whose two expansions are one.", "name": "fig-taylor-cut"}}
figure = plotting_theory.line_through_code(cuts)

# %%
at_tanh, at_relu = ([misfit(cuts[name], curve) for curve in (0, 1)] for name in ("tanh", "relu"))
assert abs(at_relu[0] - at_relu[1]) < 1e-9
show(
    f"Within two standard deviations, tanh: Eq. 3 with the exact Hessian is off by at most {at_tanh[0]:.3f} nats, with Gauss–Newton by "
    f"{at_tanh[1]:.3f}. relu: both by {at_relu[0]:.3f}. The exact Hessian matches the bend of a smooth curve *at* the code. At a relu "
    "decoder's code there is only one parabola, which knows the piece that the code lies on and nothing of the next."
)

# %% [markdown]
# ## Measuring the neglected term
#
# How large is $N$ against the whole Hessian? We take the ratio of Frobenius norms $\lVert N\rVert/\lVert H\rVert$ per test image.
# K&P: "almost always zero" for piecewise-linear activations, and small enough to neglect for the others.
#
# %%
def shares(model):
    """‖N‖/‖H‖ per image."""
    with torch.no_grad():
        exact = jacobians.hessian(model.decoder, model.likelihood, model.x, model.code)
        kept = jacobians.gauss_newton(model.decoder, model.likelihood, model.x, model.code)
    return ((exact - kept).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).cpu().numpy()


share = {name: shares(model) for name, model in zoo.items()}
EXACT = ("linear", "relu", "leaky relu", "linear, Bernoulli logits")
for name, values in share.items():
    assert (values.max() < 1e-10) == (name in EXACT), (name, values.max())

# %% mystnb={"image": {"alt": "Strip chart of the neglected share of the Hessian per test image, one row per decoder. Linear, relu and leaky relu decoders sit at zero; elu, tanh, relu with a sigmoid output and elu with Bernoulli logits spread from a few percent to above one half."}, "figure": {"caption": "The neglected term as a share of the exact Hessian, one point per test image; the bar is the median. Zero, to rounding, for decoders that are linear or piecewise linear.", "name": "fig-taylor-share"}}
figure = plotting_theory.neglected_share(share)

# %%
def percent(value):
    return "0 (to rounding)" if value < 1e-10 else f"{value:.1%}"


levels = {"median ‖N‖/‖H‖": 0.5, "90% quantile": 0.9, "largest": 1.0}
table([{"decoder": n} | {k: percent(np.quantile(v, level)) for k, level in levels.items()} for n, v in share.items()])
show(
    f"For elu the median image loses {percent(np.median(share['elu']))} of its Hessian, for tanh "
    f"{percent(np.median(share['tanh']))}. A share above 100% would mean that the two terms cancel in part."
)

# %% [markdown]
# ### A sigmoid output is not piecewise linear
#
# The architectures that K&P print (App. D) end in a sigmoid, so Eq. 6 would not be exact for them even with relu in every
# hidden layer. With $g_i=\sigma(a_i)$ and piecewise-linear logits $a$, all of $N$ comes from the last layer:
#
# $$N=\sum_i (x_i-g_i)\,\sigma''(a_i)\,\nabla a_i\nabla a_i^\top,\qquad \sigma''=\sigma(1-\sigma)(1-2\sigma).$$
#
# %%
model = zoo["relu, sigmoid output"]
logits = nn.Sequential(*list(model.decoder.network)[:1], nn.Flatten())
logits[0] = model.decoder.network[0][:-1]  # the network without its last activation
A, p = jacobians.jacobian(logits, model.code), model.decoder(model.code)
last_layer = torch.einsum("ni,nia,nib->nab", (model.x - p) * p * (1 - p) * (1 - 2 * p), A, A)
exact = jacobians.hessian(model.decoder, gaussian, model.x, model.code)
agrees(last_layer, exact - jacobians.gauss_newton(model.decoder, gaussian, model.x, model.code), 1e-8)

# %% [markdown]
# The cure is to count the sigmoid as part of the likelihood, as Bernoulli *logits* do: then the network ends linearly, and
# $N$ keeps only the curvature of the hidden layers. The relu network above with Bernoulli logits would have $N=0$.
#
# Last, the printed MNIST decoder itself (five transposed convolutions, batch normalisation, elu, sigmoid), narrower so that it
# trains here in seconds.
#
# %%
torch.manual_seed(seed)
printed_encoder, printed = (make(latent_dim, width=1 / 16) for make in (models.mnist_encoder, models.mnist_decoder))
large = source.floats(slice(0, 10_000))
history = training.fit(
    lambda x: losses.beta_vae(x, printed_encoder(x), printed, gaussian, TRAINING_BETA),
    [printed_encoder, printed], large, steps=size.conv_steps, batch_size=32, seed=seed, device=where, log_every=-1,
)
assert history["total"][-5:].mean() < history["total"][0]
few = large[:24].double().to(where)
with torch.no_grad():
    code = printed_encoder.double()(few).mean
printed_share = shares(SimpleNamespace(decoder=printed.double(), likelihood=gaussian, x=few, code=code))
assert printed_share.min() > 1e-6
show(
    f"App. D's decoder at 1/16 width, after {size.conv_steps:,} steps, on {len(few)} of its training images: "
    f"median share {percent(np.median(printed_share))}, largest {percent(printed_share.max())}."
)

# %% [markdown]
# ## Where the expansion fails although Eq. 6 is exact
#
# Eq. 6 says what the second derivative *at* $h$ is. Eq. 4 needs $f_x$ to look quadratic over the whole posterior. These are
# two questions, and two decoders with $N=0$ show it.
#
# ### A kink within the posterior's reach
#
# Take one latent, one pixel, $g(z)=\Delta\cdot\max(z-k,0)$ and $q=N(0,s^2)$; let $u=-k/s$ say how many standard deviations the
# kink lies away. Gaussian moments of a relu are known, with $\varphi$ and $\Phi$ the normal density and distribution function:
#
# $$\mathbb E\,(z-k)_+=s\,[\varphi(u)+u\,\Phi(u)],\qquad \mathbb E\,(z-k)_+^2=s^2[(1+u^2)\Phi(u)+u\,\varphi(u)].$$
#
# So the error of Eq. 4 has a closed form. Quadrature on a fine grid confirms it.
#
# %%
def kink_error(kink, s, jump=1.0, target=1.0):
    """E f − f(0) − ½ f″(0)s² for g = jump·relu(z − kink) and q = N(0, s²), in closed form."""
    u = -np.asarray(kink, dtype=float) / s
    cdf = torch.special.ndtr(torch.tensor(u)).numpy()
    pdf = np.exp(-u * u / 2) / np.sqrt(2 * np.pi)
    first = s * (pdf + u * cdf - np.maximum(u, 0))
    second = s * s * ((1 + u * u) * cdf + u * pdf - np.maximum(u, 0) ** 2 - np.heaviside(u, 0.5))
    return target * jump * first - jump**2 * second / 2


s, k = 0.2, 0.1
z = np.linspace(-12 * s, 12 * s, 200_001)
density = np.exp(-((z / s) ** 2) / 2) / (s * np.sqrt(2 * np.pi))
integrand = density * (-0.5 * (1 - np.maximum(z - k, 0)) ** 2 + 0.5)  # h = 0 lies on the flat piece: f″ = 0
by_grid = np.trapezoid(integrand, z)
assert abs(by_grid - kink_error(k, s)) < 1e-8
show(f"Closed form {kink_error(k, s):.8f}, grid {by_grid:.8f}.")

# %% [markdown]
# Two regimes follow. A kink exactly at the code ($u=0$) gives an error $x\Delta\,s/\sqrt{2\pi}$, of order $\sqrt\beta$: *larger*
# than the term $\tfrac12\operatorname{tr}(H\Sigma)$ that Eq. 4 is about, which is of order β. A kink a fixed distance away costs less than
# any power of β, once β is small enough.
#
# Neither is the typical image. Let the kinks lie anywhere, $\rho$ of them per unit length, and average the closed form over
# their position. With $\int\big[\mathbb E(z-k)_+-(-k)_+\big]dk=\tfrac12s^2$ (the relu part; the square averages to zero by symmetry),
#
# $$\text{average error}=\tfrac12\,s^2\cdot x\,\rho\Delta .$$
#
# Compare with a smooth decoder: its neglected term costs $\tfrac12 s^2\cdot x\,g''$. A relu network *is* a smooth decoder whose curvature
# $g''=\rho\Delta$ has been swept into kinks. At $h$ the derivative does not see it; the posterior does.
#
# %%
kinks = np.linspace(-8, 8, 400_001)
averages = {s: np.trapezoid(kink_error(kinks, s), kinks) for s in (0.05, 0.1, 0.2, 0.4)}
for s, average in averages.items():
    assert abs(average / (s * s / 2) - 1) < 1e-5
table([{"s": s, "error, averaged over the kink's position": f"{e:.6f}", "½s²": f"{s * s / 2:.6f}"} for s, e in averages.items()])

# %% mystnb={"image": {"alt": "Error of the expansion against posterior variance on logarithmic axes, for one kink at several distances. With the kink at the code the error grows as the square root of the variance; further away it falls off a cliff as the variance shrinks; the average over positions is a straight line of slope one."}, "figure": {"caption": "One kink in a piecewise-linear decoder, Eq. 6 exact throughout: the error of Eq. 4 against the posterior's variance, for a kink at several distances from the code, and averaged over its position between -1/2 and 1/2.", "name": "fig-taylor-kink"}}
variances = np.geomspace(1e-4, 1e-1, 60)
kink_curves = {distance: np.array([abs(kink_error(distance, s)) for s in np.sqrt(variances)]) for distance in (0.0, 0.1, 0.3)}
close = np.linspace(-0.5, 0.5, 4001)
kink_curves["average"] = np.array([np.trapezoid(kink_error(close, s), close) for s in np.sqrt(variances)])
figure = plotting_theory.kink(variances, kink_curves)

# %%
at_code, averaged = slope(variances, kink_curves[0.0]), slope(variances[:30], kink_curves["average"][:30])
assert abs(at_code - 0.5) < 0.1 and abs(averaged - 1) < 0.02
show(
    f"With the kink at the code the error grows as the variance to the power {at_code:.2f}; averaged over the kink's position, to the "
    f"power {averaged:.2f}, just as the neglected term of a smooth decoder does. With the kink at 0.1 it is "
    f"{kink_curves[0.1][0]:.0e} nats at the smallest variance and {kink_curves[0.1][-1]:.3f} at the largest."
)

# %% [markdown]
# ### Linear decoder, Bernoulli logits
#
# Here nothing has a kink and $\nabla^2g=0$, so Gauss–Newton *is* the Hessian. But $\log\sigma(a)$ is not quadratic in $a$. For a symmetric
# posterior the third order averages to zero, and the error starts at the fourth, $\tfrac1{24}\mathbb E\,f''''\delta^4$. With one pixel, $a=z$ and
# $q=N(h,s^2)$: $\tfrac18 f''''(h)\,s^4$, where $f''=-\sigma'$ and so $f''''=-\sigma'''=-\sigma'\,(1-6\sigma')$.
#
# %%
def logit_error(s, h=0.5):
    """E log σ(z) − log σ(h) + ½σ′(h)s² for z ~ N(h, s²), by Gauss–Hermite quadrature with 60 nodes."""
    node, weight = np.polynomial.hermite_e.hermegauss(60)
    log_sigmoid = lambda a: -np.logaddexp(0, -a)  # noqa: E731
    sigma = 1 / (1 + np.exp(-h))
    mean = weight @ log_sigmoid(h + s * node) / weight.sum()
    return mean - log_sigmoid(h) + sigma * (1 - sigma) * s**2 / 2


widths = np.array([0.05, 0.1, 0.2])
slope_of_sigmoid = np.exp(-0.5) / (1 + np.exp(-0.5)) ** 2  # σ′(½)
leading = -slope_of_sigmoid * (1 - 6 * slope_of_sigmoid) * widths**4 / 8
ratio = np.array([logit_error(s) for s in widths]) / leading
assert np.all(np.abs(ratio - 1) < 2 * widths**2 + 1e-3)
show("Error over its leading term, at s = " + ", ".join(f"{s}: {r:.4f}" for s, r in zip(widths, ratio, strict=True)) + ".")

# %% [markdown]
# ## How the error depends on β
#
# Now the trained decoders. For each β the posterior is $N(h,(I-J^\top H_pJ/\beta)^{-1})$, whose covariance is close to
# $\beta\,(J^\top J)^{-1}$ for small β; that is why small β means a narrow posterior. So we can predict:
#
# - **smooth, Eq. 4**: the error starts at fourth order in $\delta$, $\mathbb E\,\delta^4\sim\beta^2$: slope 2;
# - **smooth, Eq. 7**: the neglected $\tfrac12\operatorname{tr}(N\Sigma)\sim\beta$ remains: slope 1;
# - **elu, Eq. 4**: elu's second derivative jumps at 0. A jump within reach costs order $\beta$, and is within reach for a fraction
#   $\sqrt\beta$ of the images: slope 3/2 for the mean of the absolute error;
# - **relu, both**: order $\sqrt\beta$ for a fraction $\sqrt\beta$ of the images: slope 1.
#
# %%
BETAS = np.geomspace(1e-5, 1, 9)


def error_at(model, beta, kept, exact, reference):
    """Mean over images of |E f − f(h) − ½tr(HΣ)|, for the exact Hessian (Eq. 4) and for Gauss–Newton (Eq. 7)."""
    covariance = jacobians.optimal_covariance(kept, beta)
    change = expectation(lambda z: log_density(model, z), model.code, covariance) - reference
    return [(change - (H * covariance).sum((1, 2)) / 2).abs().mean().item() for H in (exact, kept)]


@torch.no_grad()
def errors(model, betas):
    kept, exact = (d(model.decoder, model.likelihood, model.x, model.code) for d in (jacobians.gauss_newton, jacobians.hessian))
    reference = model.likelihood.log_prob(model.x, model.decoder(model.code))
    return np.array([error_at(model, beta, kept, exact, reference) for beta in betas]).T  # [2, betas]


curves = {name: errors(zoo[name], BETAS) for name in ("relu", "elu", "tanh", "linear, Bernoulli logits")}

# %% mystnb={"image": {"alt": "Two panels of mean absolute error against beta on logarithmic axes. With the exact Hessian the tanh and Bernoulli decoders fall with slope two, elu more slowly and relu with slope near one. With Gauss-Newton the tanh and elu decoders have slope one and end up close to relu."}, "figure": {"caption": "The error of the expansion against $\\beta$, averaged over test images. Top: Eq. 4, exact Hessian. Bottom: Eq. 7, Gauss-Newton. Grey guides have slopes 1 and 2.", "name": "fig-taylor-rates"}}
figure = plotting_theory.error_rates(BETAS, curves)

# %%
small = BETAS <= 1e-3
rates = {name: [slope(BETAS[small], curve[small]) for curve in pair] for name, pair in curves.items()}
assert abs(rates["tanh"][0] - 2) < 0.2 and abs(rates["linear, Bernoulli logits"][0] - 2) < 0.2
assert abs(rates["tanh"][1] - 1) < 0.2 and abs(rates["elu"][1] - 1) < 0.2
assert slope(BETAS[:-2], curves["relu"][0][:-2]) < 1.5  # nearer to 1 than to 2; how near depends on the images drawn
predicted = {"relu": "1 and 1", "elu": "3/2 and 1", "tanh": "2 and 1", "linear, Bernoulli logits": "2 and 2"}
table([
    {"decoder": name, "slope of Eq. 4": f"{four:.2f}", "slope of Eq. 7": f"{seven:.2f}", "predicted": predicted[name]}
    for name, (four, seven) in rates.items()
])

# %%
at_beta = {name: errors(zoo[name], [beta])[:, 0] for name in ("relu", "leaky relu", "elu", "tanh")}
ratios = curves["relu"][1] / curves["elu"][1]
assert ratios[BETAS >= 1e-3].min() > 0.1  # that Eq. 6 is exact buys relu no order of magnitude
table([
    {"decoder": name, f"Eq. 4 at β = {beta:g} (nats)": f"{four:.2e}", f"Eq. 7 at β = {beta:g} (nats)": f"{seven:.2e}"}
    for name, (four, seven) in at_beta.items()
])
show(
    f"Over all β of the figure, relu's error under Eq. 7 is {ratios.min():.2f} to {ratios.max():.2f} times elu's. In the lower panel relu, elu and "
    f"tanh fall at nearly the same rate: what a smooth decoder drops, relu has in its kinks. The exact Hessian helps a smooth decoder (tanh at β = {beta:g}: "
    f"{at_beta['tanh'][1] / at_beta['tanh'][0]:.1f} times smaller an error) and cannot help relu, whose Gauss–Newton matrix is already exact."
)

# %% [markdown]
# ## Batch normalisation in train mode
#
# App. D's networks use batch normalisation. In eval mode it is a fixed affine map. In train mode the output of one sample depends on all
# the others, through the batch's mean and variance, and "the Jacobian of $g$ at $z$" has to be defined. This package holds the statistics
# **constant**, at the values that the plain forward pass has; gradients with respect to the decoder's *weights* still flow through them.
#
# The first check: in train mode, our Jacobian is that of the same network in eval mode whose running statistics are the batch's.
#
# %%
normalised = nn.Sequential(nn.Linear(latent_dim, 16), nn.BatchNorm1d(16), nn.ELU(), nn.Linear(16, 8)).double().to(where)
batch = torch.randn(128, latent_dim, dtype=h.dtype, generator=generator).to(where)
before = normalised[1].running_mean.clone()
ours = jacobians.jacobian(normalised.train(), batch)
assert torch.equal(normalised[1].running_mean, before)  # a derivative is not a training step: nothing was updated

frozen, features = copy.deepcopy(normalised).eval(), normalised[0](batch)
frozen[1].running_mean, frozen[1].running_var = features.mean(0).detach(), features.var(0, correction=0).detach()
reference = torch.stack([central(lambda z: frozen(z[None])[0].detach(), z) for z in batch[:8]])
agrees(ours[:8], reference, 1e-6)

# %% [markdown]
# The second check shows what was decided. Move one sample of a batch and let the statistics follow: the derivative differs, by
# about one part in the batch size, because the sample owns that share of the mean and the variance.
#
# %%
def moving_statistics(n):
    """The relative difference between the derivative with moving statistics and ours, in batches of n."""
    part = batch[:n]
    constant = jacobians.jacobian(normalised, part).detach()
    with torch.no_grad():
        moving = [central(lambda z, i=i: normalised(torch.cat([part[:i], z[None], part[i + 1 :]]))[i], part[i]) for i in range(8)]
    return float((torch.stack(moving) - constant[:8]).norm() / constant[:8].norm())


differences = {n: moving_statistics(n) for n in (8, 16, 32, 64, 128)}
shrinks = slope(list(differences), list(differences.values()))
assert -1.5 < shrinks < -0.6
table([{"batch size": n, "relative difference": f"{value:.1%}"} for n, value in differences.items()])
show(f"It shrinks as the batch size to the power {shrinks:.2f}.")

# %% [markdown]
# ## Ours beside the paper's
#
# %%
def verdict(holds, otherwise="does not hold"):
    return "holds" if holds else otherwise


median = {name: percent(np.median(values)) for name, values in share.items()}
rows = [
    ["Eq. 3–5: expansion, expectation, chain rule", "derived", "agree with finite differences and quadrature", verdict(True)],
    ["Eq. 6 for relu, leaky relu (§4)", "almost always exact", f"‖N‖/‖H‖ = {median['relu']}", verdict(share["relu"].max() < 1e-10)],
    ["Eq. 6 for elu hidden layers (§4)", "N small, can be neglected", f"median share {median['elu']}; {median['tanh']} for tanh",
     "a matter of degree: see the residual"],
    ["Eq. 6 for relu with App. D's sigmoid output", "(not discussed)", f"median share {median['relu, sigmoid output']}", "not exact"],
    ["Eq. 4 is accurate for small β (§4)", "yes", f"error ∝ β^{rates['tanh'][0]:.2f} (tanh)", verdict(rates["tanh"][0] > 1.5)],
    ["relu makes Eq. 7 more accurate than elu (§7)", "yes", f"{ratios.min():.2f} to {ratios.max():.2f} × elu's error", "not in general: the same order in β"],
]
table([dict(zip(("statement", "K&P", "this page", "verdict"), row, strict=True)) for row in rows])

# %% [markdown]
# Two corrections come out of this page: the sigmoid output, and relu. They are collected in the [errata](../errata.md).
#
# ## What is not reproduced here, and why
#
# - K&P show no figure for §4; there are no numbers of theirs to meet. Their Fig. 3 compares the *objectives* on MNIST, which is
#   [the page on comparing objectives](23_objectives_mnist.ipynb).
# - The decoders here are small and trained briefly. Shares and errors depend on the fit (the residual multiplies the
#   curvature), so read them as orders of magnitude. The slopes and the exact zeros do not depend on it.
# - Quadrature stops at four latents. In more, the errors above would need Monte Carlo, whose noise hides them at small β.
#
# ## Exercises
#
# **1.** Eq. 4 needs only two moments of $q$. Take a Laplace posterior with the same variance as the Gaussian one, on the
# decoder $g(z)=e^z$. Which error changes, and by what factor in the limit of small variance?
#
# %% tags=["hide-cell"]
# The second-order term is the same; the fourth-order one is (1/24) f⁗ E δ⁴, and E δ⁴ is 3s⁴ for a Gaussian, 6s⁴ for a Laplace.
f_of = lambda z: -0.5 * (2 - np.exp(z)) ** 2  # noqa: E731
second_derivative = 2 * np.exp(0.3) - 2 * np.exp(0.6)
offset = np.linspace(-8, 8, 2_000_001)
spread = 0.05
laplace = np.exp(-np.abs(offset) * np.sqrt(2) / spread) / (spread * np.sqrt(2))
normal = np.exp(-((offset / spread) ** 2) / 2) / (spread * np.sqrt(2 * np.pi))
error_with = [np.trapezoid(p * f_of(0.3 + offset), offset) - f_of(0.3) - second_derivative * spread**2 / 2 for p in (laplace, normal)]
assert abs(error_with[0] / error_with[1] - 2) < 0.1
show(f"Laplace over Gaussian: {error_with[0] / error_with[1]:.3f}; the limit is 2.")

# %% [markdown]
# **2.** Show that expanding around any point $c\ne h$ leaves a first-order term. How large is it?
#
# %% tags=["hide-cell"]
# E J_f(z − c) = J_f(c)(h − c): it vanishes only at the mean.
c = h + 0.1
first_order = expectation(lambda z: (z - c) @ gradient(c), h[None], Sigma)[0]
agrees(first_order, gradient(c) @ (h - c), 1e-8)

# %% [markdown]
# **3.** Give the relu network of this page Bernoulli logits instead of a sigmoid output and a Gaussian. What is $N$ now?
#
# %% tags=["hide-cell"]
# ∇²g = 0 wherever relu is differentiable, whatever the likelihood: N is zero.
relu = zoo["relu"]
binary = SimpleNamespace(decoder=relu.decoder, likelihood=bernoulli, x=data.binarize(relu.x), code=relu.code)
assert shares(binary).max() < 1e-10

# %% [markdown]
# **4. Change a parameter.** Set `beta = 0.001` and run the chapter again, on Colab or here. Guess first: by what factor does the error of Eq. 4 shrink for the tanh decoder, and by what factor that of Eq. 7?
#
# %% tags=["hide-cell"]
# Slopes of 2 and 1 over a hundredfold β: by 10⁴ and by 10², as far as 0.1 is small already.
wide, narrow = errors(zoo["tanh"], [0.1, 0.001]).T
shrunk = wide / narrow
assert shrunk[0] > 3 * shrunk[1] > 3
show(f"Eq. 4 by {shrunk[0]:,.0f}, Eq. 7 by {shrunk[1]:,.0f}. The slopes hold in the limit; at β = 0.1 the posterior still reaches beyond the parabola.")

# %% [markdown]
# ## What to take away
#
# - The expectation of Eq. 2 becomes one trace: curvature of $\log p(x\mid z)$ against covariance of $q$. Only the mean and the covariance of $q$ matter.
# - The Hessian is Gauss–Newton plus residual × curvature. Dropping the second costs order β; keeping it leaves order β² for a smooth decoder.
# - "Eq. 6 is exact" and "Eq. 4 is accurate" are different statements. A relu network hides its curvature in its kinks, and the
#   posterior still meets them: averaged over images the error is of order β, as for a smooth decoder whose curvature was dropped.
# - Put the output's nonlinearity into the likelihood (logits), not into the network, if Eq. 6 should hold.
# - With batch normalisation in train mode, a per-sample Jacobian holds the statistics constant; the alternative differs by one part in the batch size.
#
# Next: [which covariance is best, and what the objective becomes there](21_optimal_covariance_grae.ipynb).
