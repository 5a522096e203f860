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
# # Optimal covariance and GRAE
#
# **Claim.** At its best covariance, $\Sigma=(I-H/\beta)^{-1}$, the expanded β-VAE is a deterministic autoencoder with the
# regulariser $\tfrac\beta2\log\lvert I-H/\beta\rvert$ on its decoder (Kumar & Poole 2020, §5–6, Eqs. 8–14; below "K&P").
#
# The regulariser depends on the family that Σ may come from. With one family the paper's "upper bound" is no bound at all: for
# mean field, Eq. 14 is the objective itself.
#
# | | |
# |---|---|
# | **You will learn** | how Eqs. 9–13 follow from one derivative; when they have no answer; what a diagonal or block-diagonal Σ changes; how to sample columns; how GRAE relates to gradient-penalty autoencoders |
# | **You need** | [Taylor and Hessian](20_taylor_hessian.ipynb); determinants and positive definite matrices |
# | **Time** | reading 30 minutes; running half a minute on two cores (`book`), a few minutes (`full`) |
#
# %% tags=["parameters"]
budget: str = "book"  # size of the run: test, book or full
beta: float = 0.1  # weight of the KL term
latent_dim: int = 6  # number of latents d
block_size: int = 2  # block size b of the structured covariance; 0 is one block, the full matrix
dataset: str = "digits"  # the images that the small decoders are trained on; "auto" takes MNIST where it is there
seed: int = 0  # of the initial weights, the batches and the random matrices
device: str = "auto"  # auto, cpu or cuda

# %%
from itertools import combinations, product
from math import comb
from types import SimpleNamespace

import numpy as np
import torch
from scipy.optimize import minimize
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

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
    budget=budget, beta=beta, latent_dim=latent_dim, block_size=block_size, dataset=dataset, seed=seed, device=device
)
size = runtime.sizes(
    budget,
    test={"steps": 100, "images": 32, "optimised": 4, "draws": 2000},
    book={"steps": 300, "images": 200, "optimised": 8, "draws": 20_000},
    full={"steps": 5000, "images": 300, "optimised": 32, "draws": 200_000},
)
where, generator = runtime.device(device), runtime.seed_everything(seed)
plotting.use_style()
blocks = block_size or None  # the package calls the full matrix None

# %% [markdown]
# ## Two trained decoders
#
# As on the page before: small networks on 14×14 images, one for grey values (Gaussian pixels of variance 1), one for binary
# images (Bernoulli logits). They are trained with the objective that this page derives, Eq. 12, at one small β. Then
# everything is in float64.
#
# %%
TRAINING_BETA = 0.02
gaussian, bernoulli, bernoulli_probs = likelihoods.Gaussian(), likelihoods.Bernoulli("logits"), likelihoods.Bernoulli("probs")
source, held_out = (data.load(data.resolve(dataset, among=data.SMALL_GREY), split) for split in ("train", "test"))
pixels, test_pixels = (nn.functional.avg_pool2d(d.floats(slice(0, 10_000)), 2).flatten(1) for d in (source, held_out))


def train(likelihood, block_size=None):
    """A decoder trained with GRAE, with test images x [n, D] and their codes h(x) [n, d], in float64."""
    torch.manual_seed(seed)
    encoder = models.mlp_encoder(pixels.shape[1], latent_dim, posterior=False)
    decoder = models.mlp_decoder(latent_dim, pixels.shape[1], [32, 32])
    prepare = data.binarize if likelihood is bernoulli else torch.clone
    history = training.fit(
        lambda x: losses.grae(x, encoder(x), decoder, likelihood, TRAINING_BETA, block_size=block_size),
        [encoder, decoder], prepare(pixels), steps=size.steps, learning_rate=3e-3, seed=seed, device=where, log_every=-1,
    )
    x = prepare(test_pixels[: size.images]).double().to(where)
    with torch.no_grad():
        code = encoder.double()(x)
    decoder.double().requires_grad_(False)
    return SimpleNamespace(decoder=decoder, likelihood=likelihood, x=x, code=code, history=history)


grey, binary = train(gaussian), train(bernoulli)

# %%
for model in (grey, binary):
    start, end = (model.history["reconstruction"][part].mean() for part in (slice(0, 5), slice(-20, None)))
    assert end < start - 1, (start, end)
torch.set_grad_enabled(False)  # from here on nothing is trained; derivatives in z do not need it
show(f"Data: *{source.source}*. {len(pixels):,} images to train on; d = {latent_dim}, seed {seed}. The derivations below use β = {beta:g}.")

# %% [markdown]
# ## Step 1: the objective as a function of Σ (Eq. 8)
#
# Put the prior $N(0,I)$ and the posterior $N(h,\Sigma)$ into Eq. 4. The KL divergence of two Gaussians is known, and the objective,
# to be maximised, is
#
# $$\log p(x\mid h)+\tfrac12\operatorname{tr}(H\Sigma)-\tfrac\beta2\big(\lVert h\rVert^2+\operatorname{tr}\Sigma-\log\lvert\Sigma\rvert-d\big).$$
#
# $H$ is the exact Hessian of $\log p(x\mid z)$ at $h$, or its Gauss–Newton part $J^\top H_pJ$. In the derivation it is just a symmetric matrix.
#
# A bare number below a cell is the relative difference that its check found.
#
# (K&P say that $\lvert\Sigma\rvert$ is the *absolute value* of the determinant. For a covariance this changes nothing. It will matter below.)
#
# %%
def eq8(H, Sigma, code, log_prob):
    """Eq. 8, to be maximised: [batch]."""
    trace = (H * Sigma).sum((1, 2))
    kl = code.square().sum(1) + Sigma.diagonal(dim1=1, dim2=2).sum(1) - torch.linalg.slogdet(Sigma).logabsdet - latent_dim
    return log_prob + trace / 2 - beta / 2 * kl


def agrees(ours, reference, tolerance):
    """The relative difference of two arrays, after asserting that it is below the tolerance."""
    difference = ((ours - reference).norm() / reference.norm()).item()
    assert difference < tolerance, f"relative difference {difference:.2e}, expected below {tolerance:.0e}"
    return difference


x, h, decoder = grey.x, grey.code, grey.decoder
log_prob = gaussian.log_prob(x, decoder(h))
H = jacobians.gauss_newton(decoder, gaussian, x, h)
square = torch.randn(len(x), latent_dim, latent_dim, dtype=h.dtype, generator=generator).to(where)
Sigma = square @ square.mT / latent_dim + 0.1 * torch.eye(latent_dim, dtype=h.dtype, device=where)  # any covariance
agrees(-losses.taylor(x, MultivariateNormal(h, Sigma), decoder, gaussian, beta).total, eq8(H, Sigma, h, log_prob), 1e-10)

# %% [markdown]
# ## Step 2: one derivative (Eqs. 9 and 11)
#
# Two rules are all it takes: $\partial\operatorname{tr}(H\Sigma)/\partial\Sigma=H$ and $\partial\log\lvert\Sigma\rvert/\partial\Sigma=\Sigma^{-1}$. So the derivative of Eq. 8 is
#
# $$\tfrac12H-\tfrac\beta2\,(I-\Sigma^{-1})=0\quad\Longrightarrow\quad\Sigma^{-1}=I-\tfrac1\beta H.$$
#
# The objective is linear in Σ plus $\tfrac\beta2\log\lvert\Sigma\rvert$, which is concave: in a direction $V$ its second derivative is
# $-\tfrac\beta2\operatorname{tr}(\Sigma^{-1}V\Sigma^{-1}V)<0$. So the stationary point is the maximum. We check both with derivatives from finite
# differences, in random symmetric directions.
#
# %%
best = jacobians.optimal_covariance(H, beta)
root, Z = torch.linalg.cholesky(best), square + square.mT
V = root @ (Z / Z.flatten(1).norm(dim=1)[:, None, None]) @ root.mT  # relative to Σ, a step of one


def shifted(t):
    """The part of Eq. 8 that depends on Σ, at a step t from the optimum."""
    return eq8(H, best + t * V, torch.zeros_like(h), 0)


step = 1e-3
first = (shifted(step) - shifted(-step)) / (2 * step)
second = (shifted(step) - 2 * shifted(0) + shifted(-step)) / step**2
inverse = torch.linalg.inv(best)
predicted = -beta / 2 * (inverse @ V @ inverse @ V).diagonal(dim1=1, dim2=2).sum(1)
assert first.abs().max() < 1e-4 * predicted.abs().max()
agrees(second, predicted, 1e-4)

# %% [markdown]
# The tolerance is what a step of $10^{-3}$ leaves: its square, times a modest constant.
#
# ## Step 3: substitute (Eqs. 10, 12 and 13)
#
# At the optimum $I-H/\beta=\Sigma^{-1}$, so the two traces meet: $\tfrac12\operatorname{tr}(H\Sigma)-\tfrac\beta2\operatorname{tr}\Sigma=-\tfrac\beta2\operatorname{tr}\big((I-\tfrac1\beta H)\Sigma\big)=-\tfrac\beta2d$,
# which cancels the $+\tfrac\beta2d$. Only the determinant survives:
#
# $$\log p(x\mid h)-\tfrac\beta2\lVert h\rVert^2-\tfrac\beta2\log\big\lvert I-\tfrac1\beta H\big\rvert.$$
#
# With the exact Hessian this is Eq. 10, with $H=J^\top H_pJ$ Eq. 12, and for Gaussian pixels of unit variance, where $H_p=-I$, Eq. 13:
#
# $$\min\;\tfrac12\lVert x-g(h)\rVert^2+\tfrac\beta2\lVert h\rVert^2+\tfrac\beta2\log\big\lvert I+\tfrac1\beta J^\top J\big\rvert\qquad(\text{GRAE}).$$
#
# No sampling is left. The package's `grae` is this, and it must equal `taylor` at the optimal covariance.
#
# %%
grae = losses.grae(x, h, decoder, gaussian, beta)
agrees(grae.total, losses.taylor(x, MultivariateNormal(h, best), decoder, gaussian, beta).total, 1e-10)

# %%
J = jacobians.jacobian(decoder, h)
eq13 = (x - decoder(h)).square().sum(1) / 2 + beta / 2 * h.square().sum(1)
eq13 = eq13 + beta / 2 * torch.linalg.svdvals(J).square().div(beta).log1p().sum(1)  # log|I + JᵀJ/β| from singular values
constant = pixels.shape[1] / 2 * np.log(2 * np.pi)  # Eq. 13 leaves out the normalisation of the density
agrees(grae.total, eq13 + constant, 1e-10)

# %% [markdown]
# ### A direct optimiser finds nothing better
#
# Derivations can share a slip with their own check. So let L-BFGS minimise the Taylor objective (`taylor`, Eq. 7) over the raw entries of the Cholesky factor, starting
# at $\Sigma=I$, knowing nothing of Eq. 11. It should arrive at the value of `grae`, from above. We let it search all covariances, blocks, and diagonal ones: the structured cases
# are explained in a moment.
#
# %%
def search(block_size, n=size.optimised):
    """The lowest Taylor objective of the first n images that L-BFGS finds over the family: [n]."""
    shape = (n, posteriors.n_raw(latent_dim, block_size))

    def objective(raw):
        return losses.taylor(x[:n], posteriors.gaussian(h[:n], raw, block_size), decoder, gaussian, beta).total

    def value_and_gradient(flat):
        raw = torch.tensor(flat.reshape(shape), device=where).requires_grad_()
        with torch.enable_grad():
            total = objective(raw).sum()
            (gradient,) = torch.autograd.grad(total, raw)
        return total.item(), gradient.cpu().numpy().ravel()

    options = {"maxiter": 5000, "maxfun": 10_000, "maxcor": 30, "ftol": 0, "gtol": 1e-7}
    found = minimize(value_and_gradient, np.zeros(np.prod(shape)), jac=True, method="L-BFGS-B", options=options)
    return objective(torch.tensor(found.x.reshape(shape), device=where))


# %%
FAMILIES = {"full": None, f"blocks of {blocks or latent_dim}": blocks, "mean field": 1}
rows = []
for name, family in FAMILIES.items():
    found, formula = search(family), losses.grae(x, h, decoder, gaussian, beta, block_size=family).total[: size.optimised]
    excess = (found - formula).cpu().numpy()
    assert -1e-9 < excess.min() and excess.max() < 1e-6, excess
    rows.append({"family": name, "L-BFGS (nats)": f"{found.mean() - constant:.6f}",
                 "formula (nats)": f"{formula.mean() - constant:.6f}", "largest excess": f"{excess.max():.0e}"})
table(rows)

# %% [markdown]
# ## Known answer: a linear decoder is probabilistic PCA with noise variance β
#
# For $g(z)=Wz$ the expansion is exact, so GRAE should reproduce something known. Scale Eq. 2 by $1/\beta$: $\tfrac1{2\beta}\lVert x-g\rVert^2$ is the log-density of Gaussian pixels of
# variance β, and the KL has weight one. **A β-VAE with unit-variance pixels is an ordinary VAE whose decoding covariance is $\beta I$**, times β and up to a constant,
#
# $$\text{loss}_\beta\big(N(g,I)\big)=\beta\cdot\text{loss}_1\big(N(g,\beta I)\big)+\tfrac D2\log2\pi-\tfrac{\beta D}2\log2\pi\beta .$$
#
# K&P (§7) say $\tfrac1\beta I$. First the general identity, on the trained decoder: the difference must be the same number for every image, posterior and noise.
#
# %%
def vae(variance, weight):
    torch.manual_seed(seed)  # the same noise each time
    return losses.beta_vae(x, MultivariateNormal(h, Sigma), decoder, likelihoods.Gaussian(variance), weight).total


D = pixels.shape[1]
shift = D / 2 * np.log(2 * np.pi) - beta * D / 2 * np.log(2 * np.pi * beta)
agrees(vae(1.0, beta), beta * vae(beta, 1.0) + shift, 1e-10)

printed = vae(1.0, beta) - beta * vae(1 / beta, 1.0)  # the printed covariance: the difference varies with the image
assert beta == 1 or printed.std() > 1e-3
show(f"Standard deviation over images of loss_β − β·loss₁: {(vae(1.0, beta) - beta * vae(beta, 1.0)).std():.1e} nats with βI, "
     f"{printed.std():.2f} nats with I/β.")

# %% [markdown]
# For the linear decoder of that model everything is in the textbook: the marginal is $N(0,C)$ with $C=WW^\top+\beta I$, and conditioning the joint Gaussian
# gives the posterior covariance $I-W^\top C^{-1}W$. So Eq. 11 must return this covariance, and GRAE, minimised over the code, must be $-\beta\log N(x;0,C)$ up to the same constant:
# here the regularised autoencoder *is* maximum likelihood.
#
# %%
W = torch.randn(10, latent_dim, dtype=h.dtype, generator=generator).to(where)
y = torch.randn(5, 10, dtype=h.dtype, generator=generator).to(where)
eye = torch.eye(10, dtype=h.dtype, device=where)
C = W @ W.T + beta * eye
linear = nn.Linear(latent_dim, 10, bias=False).double().to(where)
linear.weight.copy_(W)

ours = jacobians.optimal_covariance(jacobians.gauss_newton(linear, gaussian, y, torch.zeros(5, latent_dim).to(W)), beta)[0]
conditioned = torch.eye(latent_dim, dtype=h.dtype, device=where) - W.T @ torch.linalg.solve(C, W)
agrees(ours, conditioned, 1e-8)

# %%
code = torch.linalg.solve(W.T @ W + beta * torch.eye(latent_dim).to(W), W.T @ y.T).T  # the best code of each y
marginal = MultivariateNormal(torch.zeros(10).to(W), C).log_prob(y)
shift = 5 * np.log(2 * np.pi) - beta * 5 * np.log(2 * np.pi * beta)  # D = 10
agrees(losses.grae(y, code, linear, gaussian, beta).total, -beta * marginal + shift, 1e-8)

wrong = torch.eye(latent_dim).to(W) - W.T @ torch.linalg.solve(W @ W.T + eye / beta, W)  # noise variance 1/β
assert beta == 1 or (ours - wrong).norm() > 1e-3 * ours.norm()

# %% [markdown]
# ## Step 4: other observation models
#
# Eq. 12 needs $H_p$, the second derivative of the pixels' log-density in what the network outputs. For Bernoulli pixels there are two choices of what that is.
#
# | the network outputs | $\log p(x;g)$ | $-H_p$ |
# |---|---|---|
# | logits, $p=\sigma(g)$ | $\log\sigma\big((2x-1)g\big)$ | $p\,(1-p)$ |
# | probabilities, $p=g$ | $\log g$ or $\log(1-g)$ | $1/(1-x-g)^2$ |
#
# The second row is K&P's (§5.1). Both describe the same model and the same function $f_x(z)$, so the exact Hessian is the same. But it is *split* differently into Gauss–Newton
# and the dropped term, and that is where the choice matters. Let $a(z)$ be a logit and $p_x$ the probability of what was observed. Then for one pixel, per $\nabla a\nabla a^\top$,
#
# $$\underbrace{-(1-p_x)^2}_{\text{kept, probabilities}}+\underbrace{(1-p_x)(1-2p_x)}_{\text{dropped}}=\underbrace{-p_x(1-p_x)}_{\text{kept, logits}} .$$
#
# As the fit improves, $p_x\to1$, the kept part vanishes *quadratically* and the dropped part only linearly: relative to what is kept, what is dropped grows without bound.
#
# %%
a = torch.linspace(-6, 8, 57, dtype=torch.float64)[:, None]  # one latent, one pixel x = 1, logit a = z
ones, identity = torch.ones_like(a), nn.Identity()
split = {
    "exact": jacobians.hessian(identity, bernoulli, ones, a).flatten(),
    "kept, logits": jacobians.gauss_newton(identity, bernoulli, ones, a).flatten(),
    "kept, probabilities": jacobians.gauss_newton(torch.sigmoid, bernoulli_probs, ones, a).flatten(),
}
p_x = torch.sigmoid(a).flatten()
agrees(split["kept, probabilities"], -((1 - p_x) ** 2), 1e-10), agrees(split["kept, logits"], -p_x * (1 - p_x), 1e-10)

# %%
agrees(jacobians.hessian(torch.sigmoid, bernoulli_probs, ones, a).flatten(), split["exact"], 1e-8)
dropped = split["exact"] - split["kept, probabilities"]
agrees(dropped, (1 - p_x) * (1 - 2 * p_x), 1e-8)

# %% mystnb={"image": {"alt": "Curvature of one Bernoulli pixel against one minus the probability of what was observed, on logarithmic axes. The logit curvature follows the exact line of slope one at small misfit. The probability parametrisation's kept part falls with slope two, far below the exact curvature, while its dropped part has the exact curvature's size."}, "figure": {"caption": "One Bernoulli pixel: what Gauss-Newton keeps with logits and with probabilities, and what the latter drops, as the fit improves (to the left). Absolute values.", "name": "fig-grae-bernoulli"}}
misfit = (1 - p_x).numpy()
figure = plotting_theory.bernoulli_split(misfit, {name: value.abs().numpy() for name, value in (split | {"dropped, probabilities": dropped}).items()})

# %%
at = {misfit_: abs((1 - 2 * (1 - misfit_)) / misfit_) for misfit_ in (0.1, 0.01, 0.001)}
show("Dropped over kept, with probabilities: " + ", ".join(f"{ratio:.0f} at $p_x$ = {1 - m:g}" for m, ratio in at.items()) +
     ". With logits nothing is dropped at the output: what remains is the curvature of the network that makes the logits.")

# %% [markdown]
# On the trained decoder, with a whole image of pixels and a network in front, the same split is at work, to the degree that its pixels are fitted. We give the package the same decoder twice, as logits and through a sigmoid.
#
# %%
probs = nn.Sequential(binary.decoder, nn.Sigmoid())
exact = jacobians.hessian(binary.decoder, bernoulli, binary.x, binary.code)
kept = {
    "logits": jacobians.gauss_newton(binary.decoder, bernoulli, binary.x, binary.code),
    "probabilities": jacobians.gauss_newton(probs, bernoulli_probs, binary.x, binary.code),
}
agrees(jacobians.hessian(probs, bernoulli_probs, binary.x, binary.code), exact, 1e-6)
A, p = jacobians.jacobian(binary.decoder, binary.code), probs(binary.code)
p_x = torch.where(binary.x > 0.5, p, 1 - p)
identity_check = torch.einsum("ni,nia,nib->nab", (1 - p_x) * (1 - 2 * p_x), A, A)
agrees(kept["logits"] - kept["probabilities"], identity_check, 1e-8)

# %%
dropped = {name: (exact - value).flatten(1).norm(dim=1) / value.flatten(1).norm(dim=1) for name, value in kept.items()}
regulariser = {name: losses.grae(binary.x, binary.code, network, likelihood, beta).decoder.mean() for name, network, likelihood in
               (("logits", binary.decoder, bernoulli), ("probabilities", probs, bernoulli_probs))}
table([{"outputs": name, "dropped over kept, median": f"{dropped[name].median():.2f}",
        "regulariser of Eq. 12 (nats)": f"{regulariser[name]:.3f}"} for name in kept])
show(
    f"The median pixel is predicted with $p_x$ = {p_x.median():.4f}. Two parametrisations of one model give regularisers that differ by "
    f"{abs(regulariser['probabilities'] / regulariser['logits'] - 1):.0%}. The book uses logits."
)

# %% [markdown]
# ## Step 5: when there is no best covariance
#
# Eq. 9 needs $I-H/\beta$ to be positive definite. Gauss–Newton always is: $-H_p\ge0$ for a log-concave likelihood, so $I-J^\top H_pJ/\beta\succeq I$. The *exact* Hessian
# is not: where the residual pulls along the decoder's curvature, $f_x$ bends upwards, $H$ has a positive eigenvalue, and
#
# $$-\tfrac12Hs^2+\tfrac\beta2(s^2-\log s^2-1)\to-\infty\quad\text{as }s\to\infty\text{ whenever }\beta\le\lambda_{\max}(H)$$
#
# along the eigenvector of $\lambda_{\max}$, for which $H$ stands here. Eq. 8 then has no maximum: it asks for an infinitely wide posterior, far beyond the range where the expansion holds. One latent, $g(z)=e^z$ is enough. There $H=xe^z-2e^{2z}>0$ for $x>2e^z$.
#
# %%
target, z = torch.tensor([[4.0]], dtype=torch.float64), torch.tensor([[0.5]], dtype=torch.float64)
upward = jacobians.hessian(torch.exp, gaussian, target, z)
curvature = upward.item()
assert abs(curvature - (4 * np.exp(0.5) - 2 * np.exp(1.0))) < 1e-10 and curvature > 0
try:
    losses.grae(target, z, torch.exp, gaussian, curvature / 2, hessian="exact")
except ValueError as error:
    show(f"λ_max = {curvature:.4f}. At β = {curvature / 2:.4f} the package says: *{error}*")
else:
    raise AssertionError("an indefinite I − H/β was accepted")

# %%
smallest_valid = torch.linalg.eigvalsh(upward).max().item()  # λ_max(H)
above = losses.grae(target, z, torch.exp, gaussian, 1.001 * smallest_valid, hessian="exact").decoder
below = jacobians.optimal_covariance(jacobians.gauss_newton(torch.exp, gaussian, target, z), smallest_valid / 2)
assert torch.isfinite(above).all() and (below > 0).all()  # just above it works; Gauss–Newton always does

# %% mystnb={"image": {"alt": "The part of the Taylor objective that depends on the posterior variance, for beta at half, exactly and twice the largest Hessian eigenvalue. Only for twice is there a minimum; the other two curves fall without end."}, "figure": {"caption": "The objective of Eq. 8 (sign reversed) against the posterior's variance, for $g=e^z$ at a point where the exact Hessian is positive. At and below $\\lambda_{\\max}$ there is no minimum.", "name": "fig-grae-indefinite"}}
variances = np.geomspace(0.05, 100, 200)
ratios = (0.5, 1.0, 2.0)
objective = {r: -curvature * variances / 2 + r * curvature / 2 * (variances - np.log(variances) - 1) for r in ratios}
figure = plotting_theory.unbounded(variances, objective)

# %%
assert objective[0.5].argmin() == len(variances) - 1 and objective[1.0].argmin() == len(variances) - 1
optimum = variances[objective[2.0].argmin()]
assert abs(optimum / 2 - 1) < 0.05  # (1 − ½)⁻¹ = 2, to the grid's spacing
show(f"At β = 2λ_max the minimum lies at a variance of {optimum:.2f}; Eq. 9 says (1 − ½)⁻¹ = 2. At and below λ_max the curves fall for ever.")

# %% [markdown]
# Now the remark on the *absolute value* of the determinant. Two such latents make $I-H/\beta=\operatorname{diag}(-1,-1)$ at $\beta=\lambda_{\max}/2$. Its determinant is
# $+1$: Eq. 10 would report a regulariser of zero for an objective that has no optimum. A determinant, with or without absolute value, cannot tell; a Cholesky factorisation can, and the package uses one.
#
# %%
pair = jacobians.hessian(torch.exp, gaussian, target.expand(1, 2), z.repeat(1, 2))
M = torch.eye(2, dtype=torch.float64) - pair / (curvature / 2)
deceptive = torch.linalg.slogdet(M[0])
assert abs(deceptive.logabsdet.item()) < 1e-8 and deceptive.sign.item() > 0
try:
    jacobians.optimal_covariance(pair, curvature / 2)
except ValueError:
    show("log |det| = 0 and det > 0, and yet `optimal_covariance` refuses this matrix.")

# %% [markdown]
# How often does it happen? Count the test images at whose codes Eqs. 9 and 10 have no answer. At one place they always have one: where the code minimises $-\log p(x\mid h)+\tfrac\beta2\lVert h\rVert^2$
# itself, the second-order condition for a minimum says $-H+\beta I\succeq0$, which *is* the condition, but for an eigenvalue of exactly zero. So failures measure how far the encoder's codes are from the best ones.
#
# %%
def smallest(model, code):
    """The smallest eigenvalue of I − H/β of each image, H exact."""
    return 1 - torch.linalg.eigvalsh(jacobians.hessian(model.decoder, model.likelihood, model.x, code))[:, -1] / beta


def best_codes(model):
    """The codes that minimise −log p(x|h) + (β/2)‖h‖², from the encoder's by L-BFGS."""
    def value_and_gradient(flat):
        code = torch.tensor(flat.reshape(model.code.shape), device=where).requires_grad_()
        with torch.enable_grad():
            total = beta / 2 * code.square().sum() - model.likelihood.log_prob(model.x, model.decoder(code)).sum()
            (gradient,) = torch.autograd.grad(total, code)
        return total.item(), gradient.cpu().numpy().ravel()

    options = {"maxiter": 20_000, "maxfun": 40_000, "maxcor": 30, "ftol": 0, "gtol": 1e-6}
    found = minimize(value_and_gradient, model.code.cpu().numpy().ravel(), jac=True, method="L-BFGS-B", options=options)
    return torch.tensor(found.x.reshape(model.code.shape), device=where)


# %%
rows = []
for name, model in {"Gaussian": grey, "Bernoulli logits": binary}.items():
    encoder, optimised = smallest(model, model.code), smallest(model, best_codes(model))
    assert optimised.min() > -1e-3  # a minimum, to the optimiser's tolerance
    rows.append({"decoder": name, "no optimum, encoder's codes": f"{(encoder <= 0).double().mean():.1%}",
                 "no optimum, best codes": f"{(optimised <= -1e-3).double().mean():.1%}",
                 "β needed by the worst code": f"{max(beta * (1 - encoder.min().item()), 0):.3g}"})
table(rows)

# %% [markdown]
# ## Step 6: structured covariances
#
# K&P read Eq. 11 as: constrain Σ, and $J^\top H_pJ$ is driven to the same structure. Constraining Σ also changes the *optimum*. Let Σ be block diagonal with blocks $\Sigma_b$, and
# $M=I-H/\beta$. Traces and determinants split over the blocks,
#
# $$-\tfrac\beta2\operatorname{tr}(M\Sigma)+\tfrac\beta2\log\lvert\Sigma\rvert=\sum_b\Big[-\tfrac\beta2\operatorname{tr}(M_{bb}\Sigma_b)+\tfrac\beta2\log\lvert\Sigma_b\rvert\Big],$$
#
# so each block has its own optimum: $\Sigma_b=(M_{bb})^{-1}$. That is the inverse of a block, *not* the block of the inverse. Substituting as before, the regulariser is
# $\tfrac\beta2\sum_b\log\lvert M_{bb}\rvert$. The table compares four covariances by what the Taylor objective pays above the best full one.
#
# %%
M = torch.eye(latent_dim).to(H) - H / beta
mask = posteriors.block_mask(latent_dim, blocks).to(where)
candidates = {
    "full: $M^{-1}$": torch.linalg.inv(M),
    "blocks: $(M_{bb})^{-1}$": jacobians.optimal_covariance(H, beta, blocks),
    "blocks of the inverse: $(M^{-1})_{bb}$": torch.linalg.inv(M) * mask,
    "diagonal: $1/M_{ii}$": jacobians.optimal_covariance(H, beta, 1),
}
paid = {name: losses.taylor(x, MultivariateNormal(h, value), decoder, gaussian, beta).total - grae.total for name, value in candidates.items()}
table([{"Σ": name, "above the full optimum (nats)": f"{value.mean():z.4f}"} for name, value in paid.items()])

# %%
full, by_block, of_inverse, diagonal = paid.values()
assert full.abs().max() < 1e-8 and (by_block > -1e-8).all() and (diagonal - by_block > -1e-8).all()
assert (of_inverse - by_block > -1e-8).all()  # the block of the inverse is never better
agrees(losses.grae(x, h, decoder, gaussian, beta, block_size=blocks).total, grae.total + by_block, 1e-10)
variance_full, variance_diagonal = (candidates[name].diagonal(dim1=1, dim2=2) for name in ("full: $M^{-1}$", "diagonal: $1/M_{ii}$"))
assert (variance_diagonal < variance_full + 1e-9).all()
show(f"Mean field also underestimates the variances: on average they are {(variance_diagonal / variance_full).mean():.2f} of the full posterior's.")

# %% [markdown]
# ### Eq. 14 for mean field is not a bound
#
# With blocks of one, $M_{bb}=M_{ii}=1+\lVert J_{:i}\rVert^2/\beta$ for Gaussian pixels. So the exact objective for a *mean-field* posterior has the regulariser
#
# $$\tfrac\beta2\sum_i\log\big(1+\tfrac1\beta\lVert J_{:i}\rVert^2\big),$$
#
# which is the right-hand side of Eq. 14. K&P present it as Hadamard's upper bound on $\log\lvert I+J^\top J/\beta\rvert$, "tight for mean-field". Both are true of different posteriors: it bounds the regulariser of
# the full covariance, and it *equals* that of mean field, for any $J$, orthogonal or not. L-BFGS over diagonal covariances, above, has already found that value.
#
# %%
column_norms = J.square().sum(1)
mean_field = losses.grae(x, h, decoder, gaussian, beta, block_size=1).decoder
agrees(mean_field, beta / 2 * (1 + column_norms / beta).log().sum(1), 1e-10)
assert (mean_field - grae.decoder > -1e-9).all()  # Hadamard: never below the full regulariser

# %% [markdown]
# ### What the restriction costs is a KL divergence
#
# How far is the objective from its full optimum at *any* Σ? Subtract Eq. 12 from Eq. 7 and collect:
#
# $$\tfrac\beta2\Big[\operatorname{tr}(M\Sigma)-\log\lvert M\Sigma\rvert-d\Big]=\beta\cdot\mathrm{KL}\big(N(0,\Sigma)\,\big\Vert\,N(0,M^{-1})\big),\qquad M=I+\tfrac1\beta J^\top J .$$
#
# This is the "gap" that K&P print in §7 and App. F. There the parentheses close too early, $\operatorname{tr}(I+\tfrac1\beta J^\top J\,\Sigma)$ instead of $\operatorname{tr}\big((I+\tfrac1\beta J^\top J)\Sigma\big)$: read literally, it does not vanish at
# the optimum. We compare three numbers at a random Σ and at the optimal one.
#
# %%
def gaps(Sigma):
    """The measured gap, β·KL by torch, and the formula as printed, mean over images."""
    measured = losses.taylor(x, MultivariateNormal(h, Sigma), decoder, gaussian, beta).total - grae.total
    zero = torch.zeros_like(h)
    divergence = beta * kl_divergence(MultivariateNormal(zero, Sigma), MultivariateNormal(zero, torch.linalg.inv(M)))
    literal = torch.eye(latent_dim).to(H) + J.mT @ J @ Sigma / beta
    printed = beta / 2 * (literal.diagonal(dim1=1, dim2=2).sum(1) - torch.linalg.slogdet(literal).logabsdet - latent_dim)
    return measured, divergence, printed


at_random, at_optimum = gaps(Sigma), gaps(best)
agrees(at_random[0], at_random[1], 1e-8)
assert at_optimum[0].abs().max() < 1e-8 and at_optimum[1].abs().max() < 1e-8 and at_optimum[2].abs().min() > 1e-6
table([{"Σ": name, **{k: f"{v.mean():z.4f}" for k, v in zip(("measured (nats)", "β·KL", "as printed"), found, strict=True)}}
       for name, found in (("random", at_random), ("optimal", at_optimum))])

# %% [markdown]
# Hadamard's gap is the special case $\Sigma=\operatorname{diag}(M)^{-1}$, where $\operatorname{tr}(M\Sigma)=d$: mean field pays $\beta\cdot\mathrm{KL}\big(N(0,\operatorname{diag}(M)^{-1})\Vert N(0,M^{-1})\big)$. A KL divergence is zero only between equals: only if $M$ is diagonal,
# that is, **only if the columns of the Jacobian are orthogonal**. This is how a diagonal covariance reaches the decoder.
#
# In a linear decoder we can turn the latents, $g(z)=WR(\theta)z$: the model of $x$ stays what it was, and so does the full regulariser. The mean-field one has its minimum where the columns of
# $WR$ are orthogonal, $\theta^*=\tfrac12\operatorname{atan2}\big(2(W^\top W)_{01},(W^\top W)_{00}-(W^\top W)_{11}\big)$.
#
# %%
columns = np.array([[2.0, 0.6], [0.5, 1.0], [0.0, 0.8]])


def regularisers(angle):
    """(mean field, full) of W R(angle), in nats."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    precision = np.eye(2) + turn.T @ columns.T @ columns @ turn / beta
    return beta / 2 * np.log(np.diag(precision)).sum(), beta / 2 * np.linalg.slogdet(precision)[1]


gram = columns.T @ columns
angles, aligned = np.radians(np.linspace(-90, 90, 361)), np.arctan2(2 * gram[0, 1], gram[0, 0] - gram[1, 1]) / 2
curve = np.array([regularisers(angle) for angle in angles])
assert np.ptp(curve[:, 1]) < 1e-10  # the full regulariser does not see the rotation
assert abs(np.subtract(*regularisers(aligned))) < 1e-10 and np.subtract(*regularisers(aligned + 0.3)) > 1e-4 * curve[0, 1]

# %% mystnb={"image": {"alt": "Two regularisers against the angle by which the latents of a linear decoder are turned. The full-covariance one is flat. The mean-field one oscillates above it and touches it at the angle where the columns are orthogonal, every ninety degrees."}, "figure": {"caption": "A linear decoder with turned latents: the regulariser of the full covariance and of mean field. They touch where the columns of the Jacobian are orthogonal.", "name": "fig-grae-rotation"}}
figure = plotting_theory.hadamard_angle(np.degrees(angles), curve, np.degrees(aligned))

# %%
worst = np.abs(curve[:, 0] - curve[:, 1])
show(
    f"The curves touch at {np.degrees(aligned):.1f}° (and 90° away, where the columns swap). At worst, {np.degrees(angles[worst.argmax()]):.0f}°, mean field pays "
    f"{worst.max():.4f} nats per image for its basis."
)

# %% [markdown]
# The same on trained networks: does training with the mean-field regulariser (`block_size=1`) make this gap smaller than training with the full one, which does not ask for it?
#
# %%
with torch.enable_grad():
    trained = {"full": grey, "mean field": train(gaussian, block_size=1)}
rows, relative = [], {}
for name, model in trained.items():
    full, diagonal = (losses.grae(model.x, model.code, model.decoder, gaussian, TRAINING_BETA, block_size=b).decoder.mean() for b in (None, 1))
    relative[name] = ((diagonal - full) / full).item()
    rows.append({"trained with": name, "full (nats)": f"{full:.3f}", "mean field (nats)": f"{diagonal:.3f}", "gap / full": f"{relative[name]:.1%}"})
assert latent_dim == 1 or relative["mean field"] < relative["full"]
table(rows)

# %% [markdown]
# ## Step 7: sampling columns (GRAE≈)
#
# The sum of Eq. 14 needs all $d$ columns of $J$: $d$ forward-mode passes. Draw $k$ of them, uniformly, and scale by $d/k$. Writing $v_i=\tfrac\beta2\log(1+\lVert J_{:i}\rVert^2/\beta)$,
#
# $$\hat R=\frac dk\sum_{c}v_c,\qquad\mathbb E\hat R=\sum_iv_i .$$
#
# It is unbiased because the logarithm is *inside* the sum: one samples terms, not the argument of a logarithm. With replacement (K&P) its variance is $\tfrac{d^2}{k}\operatorname{Var}(v)$; without (this package) it is smaller by $\tfrac{d-k}{d-1}$, and zero at
# $k=d$. At the paper's $k=1$ the two are the same. We enumerate every possible draw (where there are at most 5,000 of them).
#
# %%
v = (beta / 2 * (1 + column_norms[0] / beta).log()).cpu().numpy()
d = latent_dim


def enumerate_draws(k, replacement):
    """Mean and variance of the estimator over all equally likely draws of k columns."""
    draws = product(range(d), repeat=k) if replacement else combinations(range(d), k)
    estimates = np.array([d / k * v[list(draw)].sum() for draw in draws])
    return estimates.mean(), estimates.var()


for k in (k for k in range(1, d + 1) if comb(d, k) <= 5000):
    mean, variance = enumerate_draws(k, False)
    assert np.isclose(mean, v.sum(), rtol=1e-10)
    assert np.isclose(variance, d**2 / k * v.var() * (d - k) / max(d - 1, 1), rtol=1e-8, atol=1e-14)
for k in (k for k in range(1, 4) if d**k <= 5000):
    mean, variance = enumerate_draws(k, True)
    assert np.isclose(mean, v.sum(), rtol=1e-10) and np.isclose(variance, d**2 / k * v.var(), rtol=1e-8, atol=1e-14)

# %% [markdown]
# The package draws columns per sample; its average must be the enumerated one. The tolerance is five standard errors: by chance a check would exceed it about once in two million times.
#
# %%
def sampled(k, n=size.draws):
    """n draws of the first image's regulariser, from the package."""
    parts = [losses.grae_approx(x[:1].repeat(1000, 1), h[:1].repeat(1000, 1), decoder, gaussian, beta, n_columns=k, generator=generator)
             for _ in range(n // 1000)]
    return torch.cat([part.decoder for part in parts]).cpu().numpy()


for k in sorted({1, (d + 1) // 2, d}):
    draws = sampled(k)
    error = np.sqrt(d**2 / k * v.var() * (d - k) / max(d - 1, 1) / len(draws))
    assert abs(draws.mean() - v.sum()) < 5 * error + 1e-9, (k, draws.mean(), v.sum(), error)

# %% mystnb={"image": {"alt": "Relative standard deviation of the column-sampling estimator against the number of sampled columns. With replacement it falls slowly as one over the square root; without replacement it falls faster and reaches zero when all columns are taken."}, "figure": {"caption": "The noise of the sampled regulariser of Eq. 14 for one image, relative to its value, against the number of sampled columns.", "name": "fig-grae-columns"}}
ks = np.arange(1, d + 1)
with_replacement = d * v.std() / np.sqrt(ks) / v.sum()
figure = plotting_theory.column_sampling(ks, with_replacement, with_replacement * np.sqrt((d - ks) / max(d - 1, 1)))

# %%
show(
    f"One column costs one extra pass and has a relative standard deviation of {with_replacement[0]:.1%} for one image; each sample of a batch draws its own, so in a batch of 128 it is "
    f"{with_replacement[0] / np.sqrt(128):.1%}. The noise comes only from columns of *unequal* length."
)

# %% [markdown]
# ## Step 8: the link to regularised autoencoders (§6)
#
# Let $\sigma_j$ be the singular values of $J$. Then $\tfrac\beta2\log\lvert I+\tfrac1\beta J^\top J\rvert=\tfrac\beta2\sum_j\log(1+\sigma_j^2/\beta)$, and with $\log(1+t)=t-\tfrac{t^2}2+\tfrac{t^3}3-\dots$
#
# $$\tfrac\beta2\log\big\lvert I+\tfrac1\beta J^\top J\big\rvert=\tfrac12\lVert J\rVert_F^2-\tfrac1{4\beta}\lVert J^\top J\rVert_F^2+\dots$$
#
# The first term is the gradient penalty of regularised autoencoders (Ghosh et al. 2020), and β has cancelled in it: a penalty with a free weight does not know how wide the posterior is. The series converges only for $\sigma_{\max}^2<\beta$
# (K&P: singular values below $\sqrt\beta$; on the boundary itself it still converges, to $\log2$). In the other direction, $\log(1+t)\le t$ makes the penalty an upper bound, which is loose where $\sigma^2/\beta$ is large. The lower panel shows where the trained decoder lies.
#
# %%
def partial_sums(t, orders):
    """Σ (−1)^(k+1) t^k / k up to each order."""
    k = np.arange(1, orders + 1)
    return np.cumsum((-1.0) ** (k + 1) * t**k / k)


sums = {t: partial_sums(t, 16) / np.log1p(t) for t in (0.5, 1.0, 1.5)}
assert abs(sums[0.5][-1] - 1) < 1e-5  # the next term is 0.5¹⁷/17
assert abs(sums[1.0][-1] - 1) < 0.05 and abs(sums[1.0][-1] - 1) < abs(sums[1.0][7] - 1)
assert abs(sums[1.5][-1] - 1) > abs(sums[1.5][9] - 1) > abs(sums[1.5][3] - 1)  # outside: each further term makes it worse

# %%
singular = torch.linalg.svdvals(J).cpu().numpy()  # [images, d]
betas = np.geomspace(1e-3, 1e3, 40) * np.median(singular[:, 0] ** 2)
exact_curve = np.array([(b / 2 * np.log1p(singular**2 / b)).sum(1).mean() for b in betas])
first_order = (singular**2).sum(1).mean() / 2
second_order = np.array([(singular**2 / 2 - singular**4 / (4 * b)).sum(1).mean() for b in betas])
agrees(torch.tensor(first_order), J.square().sum((1, 2)).mean() / 2, 1e-10)
assert (exact_curve <= first_order + 1e-9).all()  # log(1 + t) ≤ t
assert abs(exact_curve[-1] / first_order - 1) < (singular**4).sum(1).max() / (2 * betas[-1] * (singular**2).sum(1).min())

# %% mystnb={"image": {"alt": "Top: partial sums of the logarithm's series over its value, against the order; they settle for a ratio of one half, slowly for one, and oscillate ever more wildly for one and a half. Bottom: the regulariser of a trained decoder against beta, far below its flat first-order value for small beta and reaching it only beyond the largest squared singular value."}, "figure": {"caption": "Top: partial sums of the series for log(1+t), relative to its value. Bottom: the regulariser of the trained decoder against $\\beta$, with its first and second order; the vertical line is the median $\\sigma_{\\max}^2$.", "name": "fig-grae-series"}}
figure = plotting_theory.log_series(sums, betas, exact_curve, first_order, second_order, np.median(singular[:, 0] ** 2))

# %%
inside = (singular[:, 0] ** 2 < beta).mean()
here = (beta / 2 * np.log1p(singular**2 / beta)).sum(1).mean()
show(
    f"At β = {beta:g}, {inside:.0%} of the test images lie inside the radius of convergence; the median $\\sigma_{{\\max}}^2$ is {np.median(singular[:, 0] ** 2):.2f}. There the gradient penalty "
    f"({first_order:.2f} nats) is {first_order / here:.1f} times the regulariser ({here:.2f} nats)."
)

# %% [markdown]
# For other likelihoods K&P print the first-order term of Eq. 12 as $\lVert J[-H_p]^{1/2}\rVert_F^2$. The shapes do not fit ($J$ is $D\times d$, $H_p$ is $D\times D$), and the factor ½ is missing. It is $\tfrac12\lVert[-H_p]^{1/2}J\rVert_F^2$, as a large β shows.
#
# %%
curvature = -bernoulli.hessian_diag(binary.x, binary.decoder(binary.code))
right = (curvature.sqrt()[:, :, None] * A).square().sum((1, 2)) / 2
large = 1e6 * torch.linalg.svdvals(A).max().item() ** 2
agrees(losses.grae(binary.x, binary.code, binary.decoder, bernoulli, large).decoder, right, 1e-5)

# %% [markdown]
# ### The common mistake
#
# $\lVert J\rVert_F^2$ is often computed as the squared gradient of the *summed* output. But $\nabla_z\sum_ig_i=J^\top\mathbf 1$, and $\lVert J^\top\mathbf1\rVert^2$ sums the rows of $J$ before squaring: pixels that get brighter cancel against pixels that get darker.
# A linear decoder whose columns sum to zero has no gradient at all by this measure.
#
# %%
def summed_gradient(decoder, z):
    """The mistake: the squared gradient of the summed output, [batch]."""
    z = z.clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(decoder(z).sum(), z)
    return gradient.square().sum(1)


balanced = nn.Linear(latent_dim, 10).double().to(where)
balanced.weight.copy_(W - W.mean(0))
mistaken, true = summed_gradient(balanced, h[:1]).item(), jacobians.jacobian(balanced, h[:1]).square().sum().item()
assert mistaken < 1e-20 * true
show(f"Balanced linear decoder: ‖J‖² = {true:.2f}, by the summed output {mistaken:.0e}.")

# %%
ratio = (summed_gradient(decoder, h) / J.square().sum((1, 2))).cpu().numpy()
signs = torch.randint(0, 2, (2000, D), generator=generator).to(J) * 2 - 1  # E (Jᵀε)(Jᵀε)ᵀ = JᵀJ for random signs ε
projected = (signs @ J[0]).square().sum(1)
assert abs(projected.mean() - column_norms[0].sum()) < 5 * projected.std() / np.sqrt(len(signs))
show(
    f"On the trained decoder it returns {ratio.min():.2f} to {ratio.max():.2f} times ‖J‖², depending on the image: too much where pixels brighten together, too "
    f"little where they cancel. Random signs repair it at the same price: "
    f"‖Jᵀε‖² averages to {projected.mean():.2f} for the first image, where ‖J‖² is {column_norms[0].sum():.2f}. Forward mode over columns (`jacobian_columns`) has no noise to begin with."
)

# %% [markdown]
# ## Ours beside the paper's
#
# %%
median_ratio = dropped["probabilities"].median().item()
rows = [
    ["Eqs. 8–13", "derived", "agree with L-BFGS over Σ, for three families", "hold, for I − H/β ≻ 0"],
    ["Eqs. 9, 10 for the exact Hessian", "no condition stated", f"need β > λ_max(H); e.g. {smallest_valid:.2f} for $e^z$", "condition missing"],
    ["absolute value of the determinants in Eqs. 8, 10", "as printed", "finite for an objective without optimum", "use positive definiteness"],
    ["Bernoulli, §5.1", "H_p of probabilities", f"dropped/kept: {median_ratio:.2f} (median image), logits {dropped['logits'].median():.2f}", "right, but use logits"],
    ["Eq. 11 under a constraint on Σ", "“appropriate sparsity patterns” on Σ⁻¹", "blockwise: $(M_{bb})^{-1}$", "to be made precise"],
    ["Eq. 14 for mean field", "a bound, tight", "the exact objective, for any J", "stronger than stated"],
    ["Gap, §7 and App. F", "parentheses misplaced", "β·KL(N(0,Σ)‖N(0,M⁻¹))", "misprint"],
    ["§6: radius of convergence", "σ < √β", "the same", "holds"],
    ["§6: first order of Eq. 12", "‖J[−H_p]^½‖²", "½‖[−H_p]^½J‖²", "misprint"],
    ["§7: equivalent decoding covariance", "I/β", "βI", "misprint"],
]
table([dict(zip(("statement", "K&P", "this page", "verdict"), row, strict=True)) for row in rows])

# %% [markdown]
# Each correction is a section of the [errata](../errata.md), with its check.
#
# ## What is not reproduced here, and why
#
# - No number of the paper belongs to §5 and §6. Its figures about them are on MNIST: [blocks of Σ and of $J^\top J$](22_covariance_jacobian_mnist.ipynb), and
#   [the three objectives over β](23_objectives_mnist.ipynb).
# - §5.2 (a Riemannian metric from Σ) needs models of the paper's size. Samples of GRAE≈ are in [a chapter of Part III](31_samples_over_beta.ipynb).
# - The paper's suggestion to penalise dot products of pairs of columns is tried in [Training GRAE](30_training_grae.ipynb). For mean field the objective already does it, as the rotation shows.
#
# ## Exercises
#
# **1.** Let the prior be $N(0,\tau^2I)$. What is the optimal covariance, and which regulariser follows?
#
# %% tags=["hide-cell"]
# −(β/2)(Σ⁻¹ − I/τ²) replaces −(β/2)(Σ⁻¹ − I): Σ = (I/τ² − H/β)⁻¹, and the regulariser is (β/2) log|I − τ²H/β|. Substitute z = τz′ to see it.
tau = 1.7
stretched = torch.linalg.inv(torch.eye(d).to(H) / tau**2 - H / beta)
through_substitution = tau**2 * jacobians.optimal_covariance(tau**2 * H, beta)
agrees(stretched, through_substitution, 1e-8)

# %% [markdown]
# **2.** K&P allow any distribution $p_c$ over columns, with weights $1/p_c$. Which one has no variance at all, and why does nobody use it?
#
# %% tags=["hide-cell"]
# p_c ∝ v_c: every draw returns v_c / p_c = Σ v. But to know v one needs all columns, which sampling was to avoid.
ideal = v / v.sum()
assert np.allclose(v / ideal, v.sum())

# %% [markdown]
# **3.** At first order mean field and full have the same regulariser, $\tfrac12\lVert J\rVert_F^2$. So at which order does orthogonality begin to pay, and how strongly?
#
# %% tags=["hide-cell"]
# The gap's leading term comes from t²/2: (1/4β)·(‖JᵀJ‖² − ‖diag JᵀJ‖²) = (1/4β)·(off-diagonal energy). At large β it is all of the gap.
gram = J.mT @ J
energy = gram.square().sum((1, 2)) - gram.diagonal(dim1=1, dim2=2).square().sum(1)
far = 1e4 * float(singular.max()) ** 2
gap = sum(sign * losses.grae(x, h, decoder, gaussian, far, block_size=b).decoder for b, sign in ((1, 1), (None, -1)))
assert latent_dim == 1 or agrees(gap, energy / (4 * far), 1e-2) < 1e-2

# %% [markdown]
# **4. Change a parameter.** Set `block_size = 3` and run the chapter again, on Colab or here. Guess first: must blocks of three cost less than blocks of two, as they hold more entries?
#
# %% tags=["hide-cell"]
# Only families that contain each other are ordered: blocks of 1 lie within all others, all within the full matrix, and blocks of 2 not within blocks of 3.
costs = {b: (losses.grae(x, h, decoder, gaussian, beta, block_size=b).decoder - grae.decoder) for b in range(1, d + 1)}
assert all((costs[1] - cost > -1e-9).all() and (cost > -1e-9).all() for cost in costs.values())
show("No. Above the full optimum, in nats: " + ", ".join(f"{cost.mean():z.4f} with blocks of {b}" for b, cost in costs.items()) + ". Which pairs of latents share a block matters too.")

# %% [markdown]
# ## What to take away
#
# - One derivative gives the best covariance; substituting it turns the β-VAE into an autoencoder with a log-determinant. L-BFGS, which knows no calculus of matrices, agrees.
# - Everything needs $I-H/\beta\succ0$. Gauss–Newton of a log-concave likelihood always provides it; the exact Hessian does at the best codes, and not at every code.
# - The family of Σ chooses the regulariser: $\tfrac\beta2\sum_b\log\lvert M_{bb}\rvert$. For mean field that is Eq. 14, exactly. What a family loses against the full covariance is a KL divergence, and the decoder is trained to make it small.
# - For Bernoulli pixels let the network output logits.
# - The gradient penalty of regularised autoencoders is GRAE's first order, where β has cancelled. It is accurate only if $\sigma^2\ll\beta$.
#
# Next: [is the Jacobian of a trained decoder as block diagonal as its posterior?](22_covariance_jacobian_mnist.ipynb)
