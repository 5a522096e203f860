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
# # Comparing objectives on MNIST
#
# **Claim.** On a trained β-VAE the sampled objective, its Taylor expansion and GRAE move together over β, and the last two differ by
# exactly $\beta\,\mathrm{KL}(N(0,\Sigma)\,\Vert\,N(0,M^{-1}))$ with $M = I + J^\top J/\beta$ (Kumar & Poole 2020, §7, Fig. 3, App. F).
#
# The paper draws three curves over β for each block size of the posterior. This chapter draws them again and adds what curves of
# means cannot show: the gap formula, with the parentheses where they belong, compared with the measured gap image by image.
#
# | | |
# |---|---|
# | **You will learn** | what the Taylor expansion and the optimal covariance each cost, how both costs change with β, and how to read an encoder's suboptimality off the gap |
# | **You need** | [Optimal covariance and GRAE](21_optimal_covariance_grae.ipynb); the models are those of [Covariance and Jacobian](22_covariance_jacobian_mnist.ipynb) |
# | **Time** | reading 15 minutes; running about a minute on two cores (`book`); `full` trains 18 models of the paper's size and wants a GPU |

# %% tags=["parameters"]
dataset: str = "auto"  # mnist where it can be had, else digits; or digits, mnist, fashion_mnist
budget: str = "book"  # test, book or full: how many steps, images and βs, and how wide the networks
beta: float = 0.4  # the β of the image-by-image comparison; joins the grid if it is not in it
betas: list[float] = []  # the grid of β; empty takes the budget's
latent_dim: int = 12  # d, the number of latent variables; 12 in the paper
block_size: int = 1  # b of the image-by-image comparison (0: full); joins 1, 2 and 3 if it is another
n_samples: int = 8  # draws of z for the sampled objective
steps: int = 0  # training steps per model; 0 takes the budget's
width: float = 0.0  # channels relative to App. D; 0 takes the budget's
batch_size: int = 0  # images per step; 0 takes the budget's
learning_rate: float = 0.0  # of Adam; 0 takes the budget's
seed: int = 0  # weights, batches and noise
device: str = "auto"  # cpu, cuda, or auto: the GPU where there is one

# %%
import math
import time

import numpy as np
import torch

from grae_helpers import autoencoders, data, geometry, likelihoods, losses
from grae_helpers import plotting, posteriors, published, results, runtime, sliders, training

PARAMETERS = dict(
    dataset=dataset, budget=budget, beta=beta, betas=betas, latent_dim=latent_dim, block_size=block_size,
    n_samples=n_samples, steps=steps, width=width, batch_size=batch_size, learning_rate=learning_rate,
    seed=seed, device=device,
)
runtime.check_parameters(**PARAMETERS)
started, where = time.perf_counter(), runtime.device(device)
plotting.use_style()
likelihood = likelihoods.Gaussian()

# %% [markdown]
# ## Three objectives, two gaps
#
# For Gaussian pixels of unit variance, a posterior $N(h, \Sigma)$ and $M = I + J^\top J/\beta$, all to be minimised, per image and
# without the constant $\frac D2 \log 2\pi$:
#
# | objective | reconstruction | latent | decoder |
# |---|---|---|---|
# | β-VAE (Eq. 2) | $\mathbb{E}_q \frac12\lVert x - g(z)\rVert^2$ | $\beta\,\mathrm{KL}(q\,\Vert\,p)$ | |
# | Taylor (Eq. 7) | $\frac12\lVert x - g(h)\rVert^2$ | $\beta\,\mathrm{KL}(q\,\Vert\,p)$ | $\frac12 \mathrm{tr}(J^\top J\,\Sigma)$ |
# | GRAE (Eq. 13) | $\frac12\lVert x - g(h)\rVert^2$ | $\frac\beta2\lVert h\rVert^2$ | $\frac\beta2 \log\lvert M\rvert$ |
#
# **Taylor − β-VAE** is the error of the expansion: everything beyond second order, and the decoder's own curvature which Eq. 6 drops.
#
# **Taylor − GRAE** holds no approximation. Both have the same first column, and
#
# $$\tfrac12\mathrm{tr}(J^\top J\Sigma) + \tfrac\beta2\big(\mathrm{tr}\Sigma - \log|\Sigma| - d\big) - \tfrac\beta2\log|M|
# = \tfrac\beta2\big(\mathrm{tr}(M\Sigma) - \log|M\Sigma| - d\big) = \beta\,\mathrm{KL}\big(N(0,\Sigma)\,\Vert\,N(0,M^{-1})\big) \ge 0.$$
#
# App. F prints $\frac\beta2[\mathrm{tr}(I + \frac1\beta J^\top J\Sigma) - \log|I + \frac1\beta J^\top J\Sigma| - d]$, in which $\Sigma$ multiplies
# $J^\top J$ only. The two agree for $\Sigma = I$. They cannot both be right: at the optimum $\Sigma = M^{-1}$ the gap must vanish, and
#
# $$I + \tfrac1\beta J^\top J M^{-1} = 2I - M^{-1} \ne I.$$
#
# ## A known answer first
#
# One latent, $g(z) = az$: every number has a closed form, and the expansion is exact.

# %%
a, variance, mean, x = 1.7, 0.3, 0.5, 2.0
one = torch.ones(1, 1, dtype=torch.float64)
posterior = posteriors.gaussian(mean * one, 0.5 * math.log(variance) * one, block_size=1)
model = (lambda z: a * z, likelihood, beta)  # decoder, likelihood, β
taylor = losses.taylor(x * one, posterior, *model).total.item() - 0.5 * math.log(2 * math.pi)
grae = losses.grae(x * one, posterior.mean, *model).total.item() - 0.5 * math.log(2 * math.pi)

kl = 0.5 * (mean**2 + variance - math.log(variance) - 1)
assert math.isclose(taylor, 0.5 * ((x - a * mean) ** 2 + a**2 * variance) + beta * kl)
assert math.isclose(grae, 0.5 * (x - a * mean) ** 2 + beta / 2 * (mean**2 + math.log(1 + a**2 / beta)))

# %%
def printed(s: float) -> float:
    """App. F's formula as printed, for a posterior variance s."""
    return beta / 2 * (a**2 * s / beta - math.log(1 + a**2 * s / beta))


def corrected(s: float) -> float:
    """β KL(N(0, s)‖N(0, 1/m)), m = 1 + a²/β."""
    return geometry.covariance_gap(-(a**2) * one[None], s * one[None], beta).item()


best = 1 / (1 + a**2 / beta)
rows = [{"": "measured, Taylor − GRAE", "here (nats)": taylor - grae, "at the best Σ": 0.0}]
for name, gap in (("β KL(N(0,Σ)‖N(0,M⁻¹))", corrected), ("as printed in App. F", printed)):
    rows.append({"": name, "here (nats)": gap(variance), "at the best Σ": gap(best)})
plotting.table(rows, **{"here (nats)": ".4f", "at the best Σ": ".4f"})
assert math.isclose(corrected(variance), taylor - grae, rel_tol=1e-9) and abs(corrected(best)) < 1e-12
assert printed(best) > 0

# %% [markdown]
# ## The models
#
# As in the paper: the β-VAE objective with one draw of $z$ per image, App. D's networks, $d = 12$ unless you say otherwise, one model
# for each β and block size; then all objectives are evaluated on held-out images.

# %%
sizes = runtime.sizes(
    budget,
    test={"steps": 90, "width": 1 / 32, "batch_size": 32, "learning_rate": 1e-2, "n_test": 64, "betas": [0.1, 0.4]},
    book={
        "steps": 200, "width": 1 / 16, "batch_size": 64, "learning_rate": 3e-3, "n_test": 200,
        "betas": [0.1, 0.4, 1.0],
    },
    full=published.MNIST | {
        "batch_size": 128, "learning_rate": 1e-3, "n_test": published.TEST_IMAGES,
        "betas": [0.1, 0.2, 0.4, 0.6, 0.8, 1.0],
    },
    steps=steps, width=width, batch_size=batch_size, learning_rate=learning_rate, betas=betas,
)
grid = sorted({*sizes.betas, beta})
if len(grid) < 2:
    raise ValueError(f"betas: expected at least two values, beta among them, got {grid}")
blocks = [b for b in dict.fromkeys([1, 2, 3, block_size or None]) if b is None or b <= latent_dim]

# %%
name = data.resolve(dataset, paper="mnist", among=data.SMALL_GREY)
train, test = data.load(name, "train"), data.load(name, "test")
held_out = test.floats(slice(0, sizes.n_test)).to(where)
plotting.show(f"Data: {train.source}. {len(train):,} images to train on, {len(held_out):,} test images.")

# %% tags=["hide-output"]
values = {}  # (b, β) → the objectives of every test image
for b in blocks:
    for beta_i in grid:
        encoder, decoder, _ = autoencoders.fit(
            "beta_vae", train.images, likelihood, beta=beta_i, latent_dim=latent_dim, block_size=b, width=sizes.width,
            steps=sizes.steps, batch_size=sizes.batch_size, learning_rate=sizes.learning_rate, seed=seed,
            device=where, label=f"{posteriors.family_name(b)} β={beta_i}",
        )
        values[b, beta_i] = geometry.compare_objectives(
            encoder, decoder, likelihood, held_out, beta_i, block_size=b, n_samples=n_samples, seed=seed
        )

# %%
mean_image = training.as_float(train.images).mean(0).to(where)
trivial = (held_out - mean_image).square().flatten(1).sum(1).mean().item()
errors = {key: value["squared_error"].mean().item() for key, value in values.items()}
low, high = min(errors.values()), max(errors.values())
plotting.show(f"Squared error per image: {low:.1f} to {high:.1f}; the mean image has {trivial:.1f}.")
assert max(errors[b, grid[0]] for b in blocks) < trivial, "at the least β, a model did not learn"

# %% [markdown]
# ## Three curves per block size
#
# The constant $\frac D2\log 2\pi$ of the normalised Gaussian is taken off, as the paper does.

# %%
constant = 0.5 * held_out[0].numel() * math.log(2 * math.pi)


def curves(values: dict) -> dict[str, dict[str, np.ndarray]]:
    """Means over the images, as arrays over β, for each posterior family."""
    found = {}
    for b in dict.fromkeys(b for b, _ in values):
        over_beta = [(beta_i, value) for (family, beta_i), value in values.items() if family == b]
        found[posteriors.family_name(b)] = {"beta": np.array([beta_i for beta_i, _ in over_beta])} | {
            key: np.array([value[key].mean().item() for _, value in over_beta]) for key in over_beta[0][1]
        }
    return found


# %% mystnb={"image": {"alt": "A row for each block size: on the left three objective curves over beta, on the right the two gaps between them."}, "figure": {"caption": "Left: the three objectives on held-out images. Right: the error of the expansion (Taylor − β-VAE) and the price of the encoder's covariance (Taylor − GRAE). Means over images, live run.", "name": "fig-objectives"}}
live = curves(values)
figure = plotting.objectives_over_beta(live, offset=constant)

# %%
rows = []
for family, curve in live.items():
    gaps = {"Taylor − β-VAE": curve["taylor"] - curve["beta_vae"], "Taylor − GRAE": curve["taylor"] - curve["grae"]}
    line = {"posterior": family}
    for gap, over_beta in gaps.items():
        line |= {f"{gap}, β = {grid[i]:g}": over_beta[i] for i in (0, -1)}
    largest = max(np.abs(over_beta).max() for over_beta in gaps.values())
    rows.append(line | {"largest / range": largest / np.ptp(curve["beta_vae"])})
plotting.table(rows, **dict.fromkeys(list(rows[0])[1:5], ".3f"), **{"largest / range": ".0%"})

# %% [markdown]
# The last column is the larger of the two gaps over the grid, as a share of how much the objective itself moves between the least
# and the greatest β.
#
# ## The analytic gap, image by image

# %% mystnb={"image": {"alt": "Scatter of the measured gap Taylor minus GRAE of each test image against the analytic gap, all on the line of equality."}, "figure": {"caption": "Each point is a test image: the measured gap against the analytic one, at the β of the parameters.", "name": "fig-gap-per-image"}}
analytic = {posteriors.family_name(b): values[b, beta]["gap"].numpy() for b in blocks}
measured = {posteriors.family_name(b): (values[b, beta]["taylor"] - values[b, beta]["grae"]).numpy() for b in blocks}
figure = plotting.gap_per_image(analytic, measured)

# %%
scale = max(value["taylor"].abs().max().item() for value in values.values())
error = max((value["taylor"] - value["grae"] - value["gap"]).abs().max().item() for value in values.values())
plotting.show(
    f"Over {len(values)} models of {len(held_out):,} images, measured and analytic gap differ by at most {error:.1e} nats, "
    f"of objectives up to {scale:.0f} nats in single precision."
)
assert error < 2e-6 * scale

# %%
own = values[block_size or None, beta]
rest = own["gap"] - own["forced"]
plotting.show(
    f"For {posteriors.family_name(block_size or None)} at β = {beta}, the gap of {own['gap'].mean():.2f} nats is made of "
    f"{own['forced'].mean():.2f} that the family forces (the entries of $J^\\top J$ it leaves out) and {rest.mean():.2f} "
    "by which the encoder misses the best covariance within its family."
)

# %% [markdown]
# Both parts are at least zero for every image. The first can be closed only by the decoder, making $J^\top J$ block diagonal,
# which is the pressure that the [previous chapter](22_covariance_jacobian_mnist.ipynb) measured. The second can be closed by the encoder.

# %%
for (b, _), value in values.items():
    assert (value["forced"] > -1e-9).all() and (value["gap"] - value["forced"] > -1e-9).all()
    assert b is not None or value["forced"].abs().max() < 1e-9

# %% [markdown]
# ## One β at a time
#
# Each objective as a sum. GRAE is the squared error at the mean and its own two regularisers; Taylor adds the two parts of the gap; the β-VAE lies beside Taylor by
# the error of the expansion. Move the slider, or focus it and use the arrow keys.

# %%
def parts_slider(curves: dict[str, dict[str, np.ndarray]], run: str) -> sliders.Slider:
    """A frame for each β: what the objectives of each family are made of."""
    betas = next(iter(curves.values()))["beta"]
    alts = [
        f"β = {beta:g}, nats. " + " ".join(
            f"{family}: squared error {curve['squared_error'][i] / 2:.2f}, GRAE {curve['grae'][i] - constant:.2f}, forced "
            f"{curve['forced'][i]:.2f}, missed {curve['gap'][i] - curve['forced'][i]:.2f}, "
            f"β-VAE {curve['beta_vae'][i] - constant:.2f}."
            for family, curve in curves.items()
        )
        for i, beta in enumerate(betas)
    ]  # fmt: skip
    frames = (plotting.objective_parts(curves, i, constant) for i in range(len(betas)))
    return sliders.slider(
        frames, [f"{beta:g}" for beta in betas], "β, the weight of the KL term", alts,
        caption="What the objectives are made of, a bar for each posterior family; means over held-out images, without the constant. Above, the "
        "whole: GRAE is the first two parts, Taylor all four. Below, what lies above GRAE, with the β-VAE marked. "
        f"The axes are the same at every β. {run}.",
    )  # fmt: skip


parts_slider(live, f"Live run, {budget} budget")

# %%
def shares(curves: dict[str, dict[str, np.ndarray]]) -> list[dict]:
    """How much of GRAE is reconstruction and how much of the gap is forced, at the least and the greatest β."""
    return [
        {"posterior": family}
        | {f"½‖x − g(h)‖² of GRAE, β = {c['beta'][i]:g}": c["squared_error"][i] / 2 / (c["grae"][i] - constant) for i in (0, -1)}
        | {f"forced, of the gap, β = {c['beta'][i]:g}": c["forced"][i] / c["gap"][i] for i in (0, -1)}
        for family, c in curves.items()
    ]


rows = shares(live)
plotting.table(rows, **dict.fromkeys(list(rows[0])[1:], ".0%"))

# %% [markdown]
# The first two columns say how much of GRAE is still reconstruction; the rest is what β makes the code and the decoder pay. The last two say how
# much of the gap only the decoder can take away.
#
# ## The paper's sizes, frozen
#
# The `full` budget uses 5,000 test images, 20,000 iterations and networks of App. D's width, and writes what it measured to `results/`.

# %%
if budget == "full":
    arrays = {
        f"{key}-{b or 0}-{beta_i}": value[key].float().numpy()
        for (b, beta_i), value in values.items()
        for key in value
    }
    results.freeze(
        results.root() / "23_objectives_mnist",
        parameters=PARAMETERS | {"dataset": name}, sizes=vars(sizes), seeds=[seed], arrays=arrays,
        paper=published.MNIST | {"dataset": "mnist", "n_test": published.TEST_IMAGES, "latent_dim": 12},
        seconds=time.perf_counter() - started,
    )


def thaw(arrays: dict[str, np.ndarray]) -> dict:
    """The frozen arrays as (b, β) → objectives, as above."""
    found = {}
    for key, array in arrays.items():
        objective, b, beta_i = key.split("-")
        found.setdefault((int(b) or None, float(beta_i)), {})[objective] = torch.from_numpy(array).double()
    return found


# %%
frozen = results.find("23_objectives_mnist")
if frozen is None:
    plotting.show("This checkout has no frozen result for this chapter; `-p budget full` makes one.")
else:
    plotting.show(f"**Frozen result** on {frozen.manifest['parameters']['dataset']}: {frozen.label}.")
    kept = curves(thaw(frozen.arrays))

# %% mystnb={"image": {"alt": "The frozen run: three objective curves over beta for each block size, and beside them the two gaps."}, "figure": {"caption": "The same as the first figure of this chapter, from the frozen run named above the figure.", "name": "fig-objectives-frozen"}}
if frozen is not None:
    figure = plotting.objectives_over_beta(kept, offset=constant)

# %%
parts_slider(kept, "Frozen run named above") if frozen is not None else None

# %%
if frozen is not None:
    rows = shares(kept)
    plotting.table(rows, **dict.fromkeys(list(rows[0])[1:], ".0%"))

# %% [markdown]
# ## The paper's statements and ours
#
# The paper gives no numbers for Fig. 3, so its sentences are what can be checked. Each is made a comparison that the code decides.

# %%
plotting.show(f"Live, `{budget}` budget:")
plotting.table(published.objective_verdicts(live))

# %%
if frozen is not None:
    plotting.show("Frozen:")
    plotting.table(published.objective_verdicts(kept))

# %% [markdown]
# ## What is not reproduced here
#
# - The paper does not state batch size, learning rate, the grid of β or how many draws its evaluation uses; ours are in the code above.
# - One seed per model: the curves have no error bars over training runs. The identities above hold for each image of each model, whatever the seed.
# - A live run at the `book` budget uses narrower networks and fewer steps than the paper, and never carries its name.
#
# ## Exercises
#
# **1.** Why can Taylor − β-VAE be negative, while Taylor − GRAE cannot?

# %% tags=["hide-cell"]
signs = {key: (value["taylor"] - value["beta_vae"]).mean().item() for key, value in values.items()}
plotting.show(
    "Taylor − GRAE is β times a KL divergence. Taylor − β-VAE is what the expansion leaves out, and that can have either "
    "sign: where the output saturates, the true loss grows more slowly than its parabola and Taylor lies above; where the "
    "decoder curves away from the image, it grows faster and Taylor lies below. "
    f"Here the means run from {min(signs.values()):.2f} to {max(signs.values()):.2f} nats."
)

# %% [markdown]
# **2.** Show that for $\Sigma = sM^{-1}$ the gap is $\frac{\beta d}{2}(s - \log s - 1)$, whatever the decoder, and check it.

# %% tags=["hide-cell"]
s, gram = 1.5, torch.randn(1, latent_dim, latent_dim).double()
gram = gram @ gram.mT
best = torch.linalg.inv(torch.eye(latent_dim) + gram / beta)
gap = geometry.covariance_gap(-gram, s * best, beta).item()
assert math.isclose(gap, beta * latent_dim / 2 * (s - math.log(s) - 1), rel_tol=1e-9)
plotting.show(f"$M\\Sigma = sI$: the trace is $sd$, the log-determinant $d\\log s$. Both routes give {gap:.4f} nats.")

# %% [markdown]
# **3. Change a parameter.** Set `beta = 10.0`, which joins the grid, and run the chapter again, on Colab or here. Guess first: does Taylor − GRAE grow with β? What is left of the model?

# %% tags=["hide-cell"]
# At a great β the posterior is nearly the prior: Σ = I. Then M = I + JᵀJ/β, and β/2 (tr M − d − log|M|) = ‖JᵀJ‖²/4β + …, even if the decoder stayed what it is.
eigenvalues = torch.linalg.eigvalsh(gram)
at_prior = {b: geometry.covariance_gap(-gram, torch.eye(latent_dim)[None].double(), b).item() for b in (10.0, 1e3, 1e5)}
leading = {b: gram.square().sum().item() / (4 * b) for b in at_prior}
assert math.isclose(at_prior[1e5], leading[1e5], rel_tol=10 * eigenvalues.max().item() / 1e5)
plotting.show(
    "It falls in the end. For a random $J^\\top J$ and Σ = I: " + ", ".join(f"{gap:.3g} nats at β = {b:g}" for b, gap in at_prior.items())
    + f". A model gives up its latents before that: where all of them are gone, $J = 0$, both gaps vanish, and the squared error is that of the mean image, {trivial:.1f}."
)

# %% [markdown]
# ## What to take away
#
# - Taylor − GRAE is not an approximation error. It is the exact price, in nats, of an encoder covariance that is not the best.
# - That price splits into a part the posterior's family forces and a part the encoder could avoid. The second vanishes for the best Σ of
#   the family; then only the first is left to shape the decoder.
# - App. F's formula has $\Sigma$ in the wrong place; as printed it does not vanish at the optimum.
