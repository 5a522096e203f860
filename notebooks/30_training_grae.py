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
# # Training GRAE
#
# **Claim.** GRAE≈ is an objective to train with: a step costs about one and a half steps of a β-VAE, its code can be sampled from the prior
# because its two regularisers fix the code's scale, and the gradient penalty of regularised autoencoders is its first order
# (Kumar & Poole 2020, §5.3, §6, §7; below "K&P").
#
# This is the chapter to run on a GPU, for example on Colab, with images of your choice. The theory comes first, in small steps; then a
# model is trained before your eyes, and everything the theory said is measured on it.
#
# | | |
# |---|---|
# | **You will learn** | how Eq. 13 becomes an objective with one sampled column; what a step must cost; what each regulariser's weight does; when a gradient penalty is a good approximation, and how it is often computed wrongly; how to go on after a lost connection |
# | **You need** | [Optimal covariance and GRAE](21_optimal_covariance_grae.ipynb) |
# | **Time** | reading 30 minutes; running about a minute on two cores (`book`); `full` is App. D's model and wants a GPU |

# %% tags=["parameters"]
dataset: str = "auto"  # celeba where it is on disk, else faces; or any other set of 28×28 grey or 64×64 colour images
budget: str = "book"  # test, book or full: how many steps and images, and how wide the networks
objective: str = "grae_approx"  # beta_vae, grae, grae_approx, rae_gradient, rae_l2, rae_spectral or autoencoder
beta: float = 0.1  # weight of the KL term
latent_dim: int = 24  # d, the number of latent variables; 128 for CelebA in the paper
n_columns: int = 1  # k, columns of the Jacobian drawn per image; 1 in the paper
regularizer_fraction: float = 1.0  # part of the batch that pays for its Jacobian, more than 0 and at most 1
encoder_weight: float = 1.0  # multiplies (β/2)‖h‖²
decoder_weight: float = 1.0  # multiplies the regulariser of the decoder
orthogonality: float = 0.0  # weight of the penalty on pairs of columns; more than 0 needs n_columns of 2 or more
penalty: float = 1.0  # weight of a regularised autoencoder's own penalty
steps: int = 0  # training steps; 0 takes the budget's
width: float = 0.0  # channels relative to App. D; 0 takes the budget's
batch_size: int = 0  # images per step; 0 takes the budget's
learning_rate: float = 0.0  # of Adam; 0 takes the budget's
checkpoints: str = ""  # folder to go on from after an interruption, such as drive:grae on Colab; empty: none
save_every: float = 60.0  # seconds between two checkpoints
precision: str = "float32"  # or bfloat16: autocast of the networks
step: str = "eager"  # how a step runs: eager, compiled, or graph (a CUDA graph)
seed: int = 0  # weights, batches and noise
device: str = "auto"  # cpu, cuda, or auto: the GPU where there is one

# %%
import copy
import math
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from grae_helpers import autoencoders, data, decoding, jacobians, likelihoods, linear_vae, losses
from grae_helpers import plotting_training, published, regularizers, results, runtime, training
from grae_helpers import plotting
from grae_helpers.plotting import show, table

# %%
PARAMETERS = dict(
    dataset=dataset, budget=budget, objective=objective, beta=beta, latent_dim=latent_dim, n_columns=n_columns,
    regularizer_fraction=regularizer_fraction, encoder_weight=encoder_weight, decoder_weight=decoder_weight,
    orthogonality=orthogonality, penalty=penalty, steps=steps, width=width, batch_size=batch_size,
    learning_rate=learning_rate, checkpoints=checkpoints, save_every=save_every, precision=precision, step=step,
    seed=seed, device=device,
)
runtime.check_parameters(**PARAMETERS)
started, where, generator = time.perf_counter(), runtime.device(device), runtime.seed_everything(seed)
folder = runtime.checkpoint_folder(checkpoints)
plotting.use_style()
likelihood = likelihoods.Gaussian()

# %%
name = data.resolve(dataset, paper="celeba", fallback="faces")
small = name in ("digits", "mnist", "fashion_mnist")  # 28×28 grey: App. D's MNIST networks, else its CelebA ones
PAPER = published.MNIST | {"dataset": "mnist"} if small else published.CELEBA | {"dataset": "celeba"}
sizes = runtime.sizes(
    budget,
    test={"steps": 20, "width": 1 / 64, "batch_size": 16, "learning_rate": 5e-3, "n_train": 320, "n_test": 48,
          "n_measured": 4, "short_steps": 2, "rounds": 1, "draws": 64, "repeats": 2, "tiny_steps": 4},
    book={"steps": 200, "width": 1 / 32, "batch_size": 16, "learning_rate": 3e-3, "n_train": 2000, "n_test": 400,
          "n_measured": 48, "short_steps": 30, "rounds": 5, "draws": 128, "repeats": 8, "tiny_steps": 12},
    full={"steps": PAPER["steps"], "width": PAPER["width"], "batch_size": 128, "learning_rate": 1e-3, "n_train": 0,
          "n_test": 2000, "n_measured": 128, "short_steps": 2000, "rounds": 20, "draws": 1024, "repeats": 50,
          "tiny_steps": 12},
    steps=steps, width=width, batch_size=batch_size, learning_rate=learning_rate,
)  # fmt: skip
sizes.short_steps = max(1, min(sizes.short_steps, sizes.steps // 6))

# %% [markdown]
# ## The images

# %%
resized = {"size": 64} if name == "cifar10" else {}
train = data.load(name, "train", n=sizes.n_train or None, **resized)
test = data.load(name, "test", n=sizes.n_test, **resized)
shape, D = tuple(train.images.shape[1:]), train.images[0].numel()
held_out = test.floats().to(where)
show(f"Data: {train.source}. {len(train):,} images to train on, {len(test):,} to test with, of {D:,} numbers each.")

# %% mystnb={"image": {"alt": "A grid of training images."}, "figure": {"caption": "Images of the training set.", "name": "fig-training-data"}}
figure = plotting_training.image_grid(train.images[:16])

# %% [markdown]
# ## From a log-determinant to one column
#
# For Gaussian pixels of unit variance, a code $h(x)$, a decoder $g$ and its Jacobian $J=J_g(h)$, GRAE is (Eq. 13, K&P)
#
# $$\min_{g,h}\;\tfrac12\lVert x-g(h)\rVert^2+\tfrac\beta2\lVert h\rVert^2+\tfrac\beta2\log\big\lvert I+\tfrac1\beta J^\top J\big\rvert .$$
#
# The determinant wants all $d$ columns of $J$, and each is a pass through the decoder. Two steps make it cheap.
#
# **Hadamard.** A positive definite matrix has a determinant of at most the product of its diagonal (Eq. 14):
#
# $$\log\big\lvert I+\tfrac1\beta J^\top J\big\rvert\le\sum_{c=1}^d\log\big(1+\tfrac1\beta\lVert J_{:c}\rVert^2\big).$$
#
# For a mean-field posterior the right-hand side is the exact objective ([the chapter before](21_optimal_covariance_grae.ipynb) derives it);
# for a full covariance it is a bound.
#
# **Sampling.** A sum is $d$ times the mean of its terms, so one term, drawn at random and multiplied by $d$, is right on average. The logarithm is
# inside the sum: nothing random is inside a logarithm. We enumerate the $d$ values that the estimate can take, on the untrained networks.

# %%
def agrees(ours, reference, tolerance):
    """The relative difference of two tensors, after asserting that it is below the tolerance."""
    difference = ((ours - reference).norm() / reference.norm()).item()
    assert difference < tolerance, f"relative difference {difference:.2e}, expected below {tolerance:.0e}"
    return difference


encoder, decoder = (
    network.to(where).eval()
    for network in autoencoders.build("grae_approx", shape, latent_dim, width=sizes.width, seed=seed)
)
x = held_out[:4]
with torch.no_grad():
    h = encoder(x)
    g, J = jacobians.jacobian_columns(decoder, h, torch.arange(latent_dim, device=where))  # J [batch, D, d]
    estimates = latent_dim * beta / 2 * torch.log1p(J.square().sum(1) / beta)  # a value for each column
    mean_field = losses.grae(x, h, decoder, likelihood, beta, block_size=1).decoder
    full = losses.grae(x, h, decoder, likelihood, beta).decoder
agrees(estimates.mean(1), mean_field, 1e-5)
assert (mean_field > full * (1 - 1e-6)).all()  # Hadamard

# %% [markdown]
# A step uses `losses.grae_approx`, which draws a column for each image of the batch. Two more ways to save or spend, both unbiased:
# `n_columns` draws $k$ columns without replacement; `regularizer_fraction` lets only a random part $f$ of the batch pay, each of these images $1/f$ times as much.
# We draw often and compare with the enumerated value; the tolerance is five standard errors.

# %%
@torch.no_grad()
def drawn(n, **options):
    """n draws of the first image's regulariser, from the objective itself: mean, standard error, deviation."""
    parts = [
        losses.grae_approx(x[:1].repeat(64, 1, 1, 1), h[:1].repeat(64, 1), decoder, likelihood, beta,
                           generator=generator, **options).decoder
        for _ in range(-(-n // 64))
    ]  # fmt: skip
    paid = torch.cat(parts).double()
    return paid.mean().item(), max(paid.std().item(), 1e-6 * mean_field[0].item()) / len(paid) ** 0.5, paid.std().item()


rows, exact = [], mean_field[0].item()
several = {"n_columns": min(4, latent_dim)}
for options in ({"n_columns": 1}, several, {"n_columns": 1, "regularizer_fraction": 0.25}):
    mean, error, deviation = drawn(sizes.draws, **options)
    assert abs(mean - exact) < 5 * error + 1e-5 * exact, (options, mean, exact, error)
    spread_of_a_part = deviation
    rows.append({"options": ", ".join(f"{k} = {v}" for k, v in options.items()), "mean (nats)": mean,
                 "standard error": error, "of one draw": deviation})  # fmt: skip
table(rows, **dict.fromkeys(list(rows[0])[1:], ".4f"))
show(f"Enumerated: {exact:.4f} nats.")

# %% [markdown]
# ## What a step must cost
#
# Let a pass of the batch through the encoder cost $C_h$ and through the decoder $C_g$, counted in multiplications. The backward pass of a network costs twice its forward
# pass: once for the weights, once for what came in. So an autoencoder, and a β-VAE with one draw, needs $3C_h+3C_g$. A column of the
# Jacobian is a second pass through the decoder's layers, with the tangent in place of the value, and that has a backward pass too:
#
# $$\frac{3C_h+6C_g}{3C_h+3C_g}\quad\text{is what a GRAE≈ step costs by this rule, relative to a β-VAE's.}$$
#
# With the fraction $f$ of the batch it is $(3C_h+3C_g+3fC_g)/(3C_h+3C_g)$; with all columns, $(3C_h+3C_g+3dC_g)/(3C_h+3C_g)$. We let torch count.

# %%
def flops(run):
    """Floating-point operations of matrix products and convolutions in a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


batch, few = held_out[: sizes.batch_size], held_out[:4]  # to clock, and to count
cost_h, cost_g = flops(lambda: encoder(few)), flops(lambda: decoder(h))
quarter = {"regularizer_fraction": 0.25}
CASES = {  # name → (objective, its options, tangents per image)
    "β-VAE": ("beta_vae", {}, 0),
    "GRAE≈, one column": ("grae_approx", {}, 1),
    "GRAE≈, a quarter of the batch": ("grae_approx", quarter, 0.25),
    "gradient penalty": ("rae_gradient", {}, 1),
    "GRAE, all columns": ("grae", {"block_size": 1}, latent_dim),
}


def a_step(kind, options):
    """Objective and gradients of a batch, on networks of their own: a training step without the optimiser's part."""
    networks = [network.to(where) for network in autoencoders.build(kind, shape, latent_dim, width=sizes.width, seed=seed)]
    terms = autoencoders.loss(kind, *networks, likelihood, beta, **options)
    return lambda images: terms(images).total.mean().backward()


# %%
def seconds(run):
    """Wall time of a call, with what the device still has to do."""
    start = time.perf_counter()
    run()
    if where.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


runs = {case: a_step(kind, options) for case, (kind, options, _) in CASES.items()}
counted = {case: flops(lambda run=run: run(few)) for case, run in runs.items()}
clocked = {case: [] for case in runs}
for _ in range(sizes.rounds):  # in turn, so that a slow moment of the machine falls on all of them
    for case in list(runs)[:-1]:
        clocked[case].append(seconds(lambda run=runs[case]: run(batch)))
clocked = {case: statistics.median(times) for case, times in clocked.items() if times}

# %%
by_rule = {case: 1 + tangents * cost_g / (cost_h + cost_g) for case, (*_, tangents) in CASES.items()}
ratio = {case: value / counted["β-VAE"] for case, value in counted.items()}
table([{"step": case, "by the rule": f"{by_rule[case]:.2f}", "counted": f"{ratio[case]:.2f}",
        "clocked": f"{clocked[case] / clocked['β-VAE']:.2f}" if case in clocked else "not timed"} for case in CASES])  # fmt: skip
show(f"Relative to a β-VAE step. C_h/C_g = {cost_h / cost_g:.2f}; batches of {len(batch)}, {runtime.device_name(where)}, median of {sizes.rounds}.")
assert 1.4 < by_rule["GRAE≈, one column"] < 1.7
for case in list(CASES)[:4]:
    assert abs(ratio[case] / by_rule[case] - 1) < 0.12, (case, ratio[case], by_rule[case])

# %% [markdown]
# The rule is off by the first layers: they pass no gradient back, the encoder's to the images and the decoder's to the direction of the tangent. The clock adds what is no multiplication: activations, normalisation, and on a busy
# machine everybody else. With all columns the cost grows with $d$, as K&P say; with one it does not depend on $d$. (`losses.grae` is written to be exact, in chunks and with float64 at the end; so it costs more than the rule says.)
#
# ## Batch normalisation
#
# App. D's networks normalise over the batch. Then the output for one image depends on all codes of the batch, and "the Jacobian of one image" needs a definition. Ours: **the statistics are constants**, at the values of
# this batch. That is what they are when the model is used; and gradients with respect to the weights still flow through them. We check the column of `jacobian_columns` by central differences
# with the statistics held, and compare with what one gets by moving the whole batch, statistics and all.

# %%
wide = copy.deepcopy(decoder).double().train()
z, unit, eps = h.double(), torch.zeros_like(h, dtype=torch.float64), 1e-5
unit[:, 0] = 1
with torch.no_grad():
    _, column = jacobians.jacobian_columns(copy.deepcopy(wide), z, torch.tensor([0], device=where))
    held = decoding.ConstantStatistics(wide)
    held.run(z)  # records the statistics of this batch
    difference = ((held.run(z + eps * unit) - held.run(z - eps * unit)) / (2 * eps)).flatten(1)
    moving = ((wide(z + eps * unit) - wide(z - eps * unit)) / (2 * eps)).flatten(1)
agrees(column[:, :, 0], difference, 1e-6)
off = ((moving - column[:, :, 0]).norm() / column.norm()).item()
show(f"With statistics that move along, the column would be off by {off:.0%}.")
assert off > 1e-3

# %% [markdown]
# ## Two weights, and the scale of the code
#
# K&P leave "different weights for the encoder regularizer and decoder regularizer" to future work (§7). Call them $w_h$ and $w_g$:
#
# $$\tfrac12\lVert x-g(h)\rVert^2+w_h\,\tfrac\beta2\lVert h\rVert^2+w_g\,\tfrac\beta2\sum_c\log\big(1+\tfrac1\beta\lVert J_{:c}\rVert^2\big).$$
#
# What they do follows from one symmetry. The encoder ends and the decoder begins with a linear layer, so multiplying $h_c$ by a number $t$ and dividing the decoder's weights on it by $t$ changes no image;
# it only changes the two regularisers. At a minimum their derivatives in $t$ cancel. Write $s_c^2=1/(1+\lVert J_{:c}\rVert^2/\beta)$ for the variance of the best mean-field posterior (Eq. 11):
#
# $$w_h\,\mathbb E\,h_c^2=w_g\,\mathbb E\,(1-s_c^2)\qquad\text{for each latent }c,\text{ at every stationary point.}$$
#
# In the same way the decoder's first bias can absorb a shift of the code, so $\mathbb E\,h_c=0$. With $w_h=w_g$ this reads $\mathbb E\,h_c^2+\mathbb E\,s_c^2=1$: **mean and variance of the aggregated posterior are
# the prior's**, latent by latent. This is why one may sample $z\sim N(0,I)$ from a deterministic autoencoder that never saw a random number. Latents that carry information, $s_c^2\approx0$, have $\mathbb E\,h_c^2\approx w_g/w_h$:
# the ratio of the weights sets the scale, and samples should come from $N(0,\tfrac{w_g}{w_h}I)$.
# It is a statement about mean and variance, no more: correlations between latents and the shape of their distribution are left to the data.
#
# The gradient penalty has no such scale: $\tfrac\beta2\mathbb E\,h_c^2=\tfrac\omega2\mathbb E\lVert J_{:c}\rVert^2$, with the penalty's weight ω, balances code against slope, whatever the prior. Regularised autoencoders therefore fit a density to their codes afterwards.
#
# ## A known answer first
#
# A linear decoder on Gaussian data is probabilistic PCA with noise variance β: the optimum has orthogonal columns along the eigenvectors of the data covariance, with $\lVert J_{:c}\rVert^2=\lambda_c-\beta$ where an eigenvalue $\lambda_c$ exceeds
# β, and zero elsewhere. Training must find it: with all columns, and with one drawn at random. Then $\mathbb E\,h_c^2=1-\beta/\lambda_c$.

# %%
noise, eigenvalues = 0.1, torch.tensor([1.6, 0.8, 0.4, 0.2, 0.05, 0.02], dtype=torch.float64)  # noise: the β of this check
basis, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
white, _ = torch.linalg.qr(torch.randn(512, 7, generator=generator, dtype=torch.float64))
white = torch.linalg.qr(torch.cat([torch.ones(512, 1).double(), white[:, 1:]], 1))[0][:, 1:] * 512**0.5  # mean 0, covariance I
observed = white @ (basis * eigenvalues.sqrt()).T
covariance = observed.T @ observed / len(observed)
assert torch.allclose(torch.linalg.eigvalsh(covariance).flip(0), eigenvalues)


def linear_model(k, n_steps):
    """A linear encoder and decoder with five latents, trained on k drawn columns; the five as rows of numbers."""
    torch.manual_seed(seed)
    down, up = nn.Linear(6, 5).double(), nn.Linear(5, 6).double()
    training.fit(lambda y: losses.grae_approx(y, down(y), up, likelihood, noise, n_columns=k), [down, up], observed,
                 steps=n_steps, batch_size=512, learning_rate=0.05, seed=seed, log_every=-1)  # fmt: skip
    with torch.no_grad():
        total = losses.grae(observed, down(observed), up, likelihood, noise, block_size=1).total.mean()
        norms, order = up.weight.square().sum(0).sort(descending=True)
        return total, norms, down(observed)[:, order].square().mean(0)


# %%
optimum = linear_vae.principal_weights(covariance, noise, 5)
best = -linear_vae.mean_field_elbo(optimum, 1.0, covariance, beta=noise)
answers = {"closed form": (best, (eigenvalues[:5] - noise).clamp(min=0), (1 - noise / eigenvalues[:5]).clamp(min=0))}
answers |= {f"trained, k = {k}": linear_model(k, n) for k, n in ((5, 600), (1, 300))}
table([{"": case, "loss − optimum (nats)": f"{total - best:z.5f}", "‖J_c‖²": ", ".join(f"{v:.3f}" for v in norms),
        "E h_c²": ", ".join(f"{v:.3f}" for v in squares)} for case, (total, norms, squares) in answers.items()])  # fmt: skip
for k, tolerance in ((5, 1e-3), (1, 1e-2)):
    assert -1e-9 < answers[f"trained, k = {k}"][0] - best < tolerance
assert torch.allclose(answers["trained, k = 5"][1], answers["closed form"][1], atol=0.02)
assert torch.allclose(answers["trained, k = 5"][2], answers["closed form"][2], atol=0.02)

# %% [markdown]
# ## Training
#
# App. D's networks, Adam, batches by index from images that lie on the device as bytes.
#
# **If the connection is lost.** Colab's own disk goes with the session. Run this notebook with `checkpoints = "drive:grae"`: it asks once for your Google Drive, and from then on writes a checkpoint every `save_every` seconds into the folder
# `grae` there. After a lost connection run all cells again with the same parameters. Training goes on from the last checkpoint, and what is lost is about `save_every` seconds of it at most. A folder belongs to one model: with another β, data set or width it is
# refused, and you choose another folder; only `steps` may grow. Further down we lose a connection on purpose.

# %% tags=["remove-stdout"] mystnb={"image": {"alt": "Training curves: the reconstruction term falls steeply and then slowly; below it the two regularisers, which settle at a few nats."}, "figure": {"caption": "The three terms of the objective during training: batch means and the running mean of the last twentieth. The constant $\\frac D2\\log2\\pi$ of the normalised density is taken off the reconstruction.", "name": "fig-training-curves"}}
constant = 0.5 * D * math.log(2 * math.pi)
OPTIONS = {
    "grae_approx": dict(n_columns=n_columns, regularizer_fraction=regularizer_fraction, encoder_weight=encoder_weight,
                        decoder_weight=decoder_weight, orthogonality=orthogonality),
    "grae": dict(block_size=1, encoder_weight=encoder_weight, decoder_weight=decoder_weight),
    "rae_gradient": dict(penalty=penalty), "rae_l2": dict(penalty=penalty),
}  # fmt: skip
loop = dict(batch_size=sizes.batch_size, learning_rate=sizes.learning_rate, seed=seed, device=where, precision=precision,
            step=step, save_every=save_every)  # fmt: skip
live = plotting_training.LiveCurves(sizes.steps, constant)
encoder, decoder, history = autoencoders.fit(
    objective, train.images, likelihood, beta=beta, latent_dim=latent_dim, width=sizes.width,
    options=OPTIONS.get(objective, {}), steps=sizes.steps, label=objective, log_every=max(1, sizes.steps // 20),
    watch=live, checkpoint=folder and folder / f"{name} {objective}", **loop,
)  # fmt: skip
live(sizes.steps, history)  # also where a checkpoint held the whole run

# %%
codes = autoencoders.encode(encoder, test.images)
decoded = autoencoders.decode(decoder, likelihood, codes)
squared_error = (held_out.cpu() - decoded).square().flatten(1).sum(1).mean().item()
trivial = (held_out.cpu() - train.floats().mean(0)).square().flatten(1).sum(1).mean().item()
tenth = max(1, sizes.steps // 10)
first, last = (history["total"][part].mean() for part in (slice(0, tenth), slice(-tenth, None)))
show(
    f"{sizes.steps:,} steps in {history['seconds']:.0f} s ({1000 * history['seconds'] / sizes.steps:.0f} ms a step). "
    f"Objective: {first - constant:.1f} nats in the first tenth, {last - constant:.1f} in the last. "
    f"Squared error of a test image: {squared_error:.1f}; of the mean image: {trivial:.1f}."
)
assert last < first, "the objective did not fall"
if sizes.steps >= 200 and beta <= 1:  # a greater β may rightly leave nothing to learn
    assert squared_error < 0.8 * trivial, "the model did not learn"

# %% [markdown]
# ## Reconstructions, samples, traversals

# %% mystnb={"image": {"alt": "Test images in the upper row, their reconstructions in the lower one."}, "figure": {"caption": "Test images, and what the decoder makes of their codes. Live run.", "name": "fig-training-reconstructions"}}
figure = plotting_training.image_rows({"test images": held_out[:8].cpu(), "reconstructions": decoded[:8]})

# %% [markdown]
# Samples decode $z\sim N(0,I)$, or $N(0,\tfrac{w_g}{w_h}I)$ where the weights differ. Nothing was fitted to the codes.

# %% mystnb={"image": {"alt": "A grid of images decoded from latents of the prior."}, "figure": {"caption": "Samples: decoded latents of the prior. Live run.", "name": "fig-training-samples"}}
weights_ratio = decoder_weight / encoder_weight if objective in ("grae", "grae_approx") and encoder_weight else 1.0
z = math.sqrt(weights_ratio or 1.0) * autoencoders.prior_latents(24, latent_dim, seed)
samples = autoencoders.decode(decoder, likelihood, z)
figure = plotting_training.image_grid(samples)

# %%
@torch.no_grad()
def geometry_of(decoder, code):
    """Of each image: ‖J_c‖² [n, d], squared cosines of all pairs, summed [n], and what Hadamard leaves out, in nats [n]."""
    J = jacobians.jacobian(decoder, code.to(where)).double()
    M = torch.eye(latent_dim, dtype=J.dtype, device=where) + J.mT @ J / beta
    left_out = M.diagonal(dim1=1, dim2=2).log().sum(1) - torch.linalg.slogdet(M).logabsdet
    cosines = regularizers.orthogonality(J, torch.ones_like(J[:, :, 0]), latent_dim) if latent_dim > 1 else 0 * left_out
    return J.square().sum(1).cpu(), cosines.cpu(), beta / 2 * left_out.cpu()


@torch.no_grad()
def measured(encoder, decoder):
    """Means over test images: squared error, what describes code and slope, and the distance to the prior."""
    code = autoencoders.encode(encoder, test.images)
    error = (held_out.cpu() - autoencoders.decode(decoder, likelihood, code)).square().flatten(1).sum(1).mean()
    norms, cosines, left_out = geometry_of(decoder, code[: sizes.n_measured])
    variance = (1 / (1 + norms / beta)).mean(0)
    mean, spread = code.mean(0), torch.cov(code.double().T, correction=0).reshape(latent_dim, latent_dim) + variance.diag()
    scales = spread.diagonal()
    parts = torch.stack([mean.square().sum(), (scales - 1 - scales.log()).sum(),
                         scales.log().sum() - torch.linalg.slogdet(spread).logabsdet]) / 2  # means, variances, correlations
    return {"squared error": error.item(), "h²": code.square().mean(0).numpy(), "1 − s²": (1 - variance).numpy(),
            "norms": norms.mean(0).numpy(), "log-det": (beta / 2 * torch.log1p(norms / beta)).sum(1).mean().item(),
            "cos²": cosines.mean().item(), "left out": left_out.mean().item(), "mismatch": parts.sum().item(), "parts": parts.tolist()}  # fmt: skip


# %%
own = measured(encoder, decoder)
ranked = np.argsort(-own["norms"])
prescribed = weights_ratio * own["1 − s²"]
balanced_scale = objective == "beta_vae" or (objective in ("grae", "grae_approx") and encoder_weight * decoder_weight > 0)
show(
    f"The code's mean square is {own['h²'].mean():.2f}, averaged over the latents; "
    + (f"at a stationary point it would be {prescribed.mean():.2f} with these slopes. " if balanced_scale else "this objective does not tie it to the prior. ")
    + f"As Gaussians, aggregated posterior and prior are {own['mismatch']:.1f} nats apart: "
    + ", ".join(f"{part:.1f} for the {what}" for what, part in zip(("means", "variances", "correlations"), own["parts"], strict=True)) + "."
)

# %% [markdown]
# $\mathrm{KL}\big(N(m,C+\operatorname{diag}\mathbb E s^2)\,\Vert\,N(0,I)\big)$, with mean $m$ and covariance $C$ of the codes, is the distance meant. A short run has not converged: the first two numbers say how far its scale still has to go, and so do the parts of the distance for means and variances.
# Correlations between the latents are what the two regularisers do not promise to remove, and samples from the prior suffer from them too.
#
# A traversal moves one latent and leaves the others at the prior's mean. We take the latents with the longest columns $\lVert J_{:c}\rVert$: those that move the image most.

# %% mystnb={"image": {"alt": "One row of images for each of the strongest latents; along a row, one property of the image changes gradually."}, "figure": {"caption": "Traversals: the latents with the longest columns of the Jacobian, each moved from −3 to 3 with the others at 0. Live run.", "name": "fig-training-traversals"}}
values, rows = np.linspace(-3, 3, 7), {}
for c in ranked[:5]:
    moved = torch.zeros(len(values), latent_dim)
    moved[:, c] = torch.from_numpy(values).float()
    rows[f"latent {c + 1}, mean $\\|J\\|^2$ = {own['norms'][c]:.1f}"] = autoencoders.decode(decoder, likelihood, moved)
figure = plotting_training.traversals(rows, values, "value of the latent (prior standard deviations)")

# %% [markdown]
# Where the factors behind the images are known, a number can say what a latent has learned: the share of its variance that a factor explains (one-way analysis of variance over eight bins, which also suits angles and
# kinds). A latent that knows nothing of a factor shows about seven divided by the number of images.

# %%
def explained(latent, factor, bins=8):
    """Share of a latent's variance between groups of the factor, [n] each."""
    edges = np.quantile(factor, np.linspace(0, 1, bins + 1)[1:-1])
    group = np.digitize(factor, np.unique(edges))
    within = sum(latent[group == i].var() * (group == i).sum() for i in np.unique(group))
    return 1 - within / (latent.var() * len(latent))


if test.factors is None:
    show(f"The factors of {name} are not known.")
else:
    shares = np.array([[explained(codes[:, c].numpy(), test.factors[:, f].numpy()) for f in range(test.factors.shape[1])]
                       for c in ranked[:5]])  # fmt: skip
    best_two = np.argsort(-shares, axis=1)[:, :2]
    table([{"latent": c + 1} | {f"factor {i + 1}": f"{test.factor_names[f]} ({shares[row, f]:.0%})" for i, f in enumerate(best_two[row])}
           for row, c in enumerate(ranked[:5])])  # fmt: skip
    show(f"By chance alone: about {7 / len(codes):.0%}.")

# %% [markdown]
# ## Is the gradient penalty a good approximation?
#
# With singular values $\sigma_j$ of $J$, $\tfrac\beta2\log\lvert I+\tfrac1\beta J^\top J\rvert=\tfrac\beta2\sum_j\log(1+\sigma_j^2/\beta)$, and
#
# $$\log(1+t)=t-\tfrac{t^2}2+\tfrac{t^3}3-\dots\qquad\text{converges only for }t=\sigma^2/\beta\le1 .$$
#
# Its first term gives $\tfrac12\lVert J\rVert_F^2$: β has cancelled, and this is the gradient penalty of regularised autoencoders (K&P §6; Ghosh et al. 2020). The series converges where every $\sigma\le\sqrt\beta$, and one term of it is enough where $\sigma\ll\sqrt\beta$. Is that where a trained decoder lives?

# %% mystnb={"image": {"alt": "Top: the logarithm and partial sums of its series against the singular value over the square root of beta; beyond one the sums leave the logarithm, the faster the higher their order. Bottom: the singular values of the trained decoder by rank."}, "figure": {"caption": "Top: $\\log(1+\\sigma^2/\\beta)$ and partial sums of its series. Bottom: singular values of the trained decoder by rank, median and 5 to 95 % of the test images. The dotted line is the radius of convergence.", "name": "fig-training-series"}}
with torch.no_grad():
    some, code = held_out[: sizes.n_measured], codes[: sizes.n_measured].to(where)
    J = jacobians.jacobian(decoder, code).double()
singular = torch.linalg.svdvals(J).cpu().numpy()  # [images, d]
ratios = np.geomspace(0.1, max(3.0, 1.2 * singular.max() / beta**0.5), 300)
powers = np.arange(1, 13)
terms = (-1.0) ** (powers + 1) * ratios[:, None] ** (2 * powers) / powers
sums = {order: terms[:, :order].sum(1) for order in (1, 2, 3, 12)}
figure = plotting_training.partial_sums(ratios, sums, singular / beta**0.5)

# %%
inside, largest = singular[:, 0] < beta**0.5, np.median(singular[:, 0]) / beta**0.5
exact_log = (beta / 2 * np.log1p(singular**2 / beta)).sum(1)
first_order = (singular**2).sum(1) / 2
excess = first_order.mean() / exact_log.mean()
assert (first_order >= exact_log).all()
show(
    f"The largest singular value is {largest:.1f} $\\sqrt\\beta$ (median); {inside.mean():.0%} of the images lie inside the radius of convergence. "
    f"The gradient penalty, {first_order.mean():.2f} nats, is {excess:.1f} times the regulariser whose first order it is ({exact_log.mean():.2f} nats). "
    + ("So the series does not converge here, and the two are different regularisers: one grows with the square of the slope, the other with its logarithm."
       if inside.mean() < 0.5 else "So the approximation is a fair one here.")
)  # fmt: skip

# %% [markdown]
# Where this happens is no accident of one run. At the scale of the prior a latent carries $\tfrac12\log(1/s_c^2)=\tfrac12\log(1+\lVert J_{:c}\rVert^2/\beta)$ nats, so one with $\lVert J_{:c}\rVert^2>\beta$ carries more than half a bit, and then the largest σ exceeds $\sqrt\beta$ as well. In the linear model $\lVert J_{:c}\rVert^2=\lambda_c-\beta$: a direction
# of variance $\lambda_c>2\beta$ is outside. The first order describes GRAE for latents that are about to collapse.
#
# ### How it is often computed
#
# The penalty is $\lVert J_g(h)\rVert_F^2$. Two shortcuts need only one reverse pass, and both are something else: the gradient of the *summed* output, $\lVert\nabla_z\sum_ig_i\rVert^2=\lVert J^\top\mathbf 1\rVert^2$, and the same with respect to the
# *image*, $\lVert\nabla_x\sum_ig_i(h(x))\rVert^2$. A linear decoder whose columns sum to zero shows the first: what gets brighter cancels what gets darker. Scaling the code by $t$ and the decoder by $1/t$ shows the second: it sees the slope of both together, and not the decoder's.

# %%
balanced, inward = nn.Linear(4, 10).double(), nn.Linear(10, 4).double()
with torch.no_grad():
    balanced.weight -= balanced.weight.mean(0)


def penalties(scale, weights):
    """(true ‖J‖², gradient of the summed output, the same in the image, by random signs), after a change of scale."""
    out, into = copy.deepcopy(balanced), copy.deepcopy(inward)
    with torch.no_grad():
        out.weight.copy_(weights / scale), into.weight.mul_(scale), into.bias.mul_(scale)
    y = torch.ones(1, 10, dtype=torch.float64, requires_grad=True)
    z = into(y)
    by_code, by_image = torch.autograd.grad(out(z).sum(), (z, y))
    signs = regularizers.rademacher(z.detach().repeat(4000, 1), 1, generator)
    pushed = (out.weight @ signs[:, :, 0].T).T[:, :, None]
    probed = 2 * regularizers.gradient_penalty(pushed, torch.ones_like(pushed[:, :, 0])).mean()
    return [value.item() for value in (out.weight.square().sum(), by_code.square().sum(), by_image.square().sum(), probed)]


# %%
unbalanced = balanced.weight.detach() + 0.2
found = {"columns sum to zero": penalties(1, balanced.weight.detach()), "they do not": penalties(1, unbalanced),
         "the same, decoder half as steep": penalties(2, unbalanced)}  # fmt: skip
heads = ["true ‖J‖²", "summed output", "in the image", "random signs (ours)"]
table([{"linear decoder": case} | dict(zip(heads, (f"{v:z.3f}" for v in row), strict=True)) for case, row in found.items()])
zero, plain, gentle = found.values()
assert zero[1] < 1e-20 < zero[0] and zero[2] < 1e-20
assert math.isclose(gentle[2], plain[2]) and math.isclose(gentle[0], plain[0] / 4)
assert all(abs(row[3] / row[0] - 1) < 0.1 for row in found.values())

# %% [markdown]
# `losses.rae` pushes a vector of random signs $v$ *forwards*: $\mathbb E\lVert Jv\rVert^2=\lVert J\rVert_F^2$, for the price of one tangent. So the penalty and GRAE≈ cost the same, and the logarithm is free.
#
# ## What Hadamard's bound leaves out
#
# Write $M=I+J^\top J/\beta$ and $\Gamma_{ij}=M_{ij}/\sqrt{M_{ii}M_{jj}}$, which has ones on its diagonal. Then $\log\lvert M\rvert=\sum_c\log M_{cc}+\log\lvert\Gamma\rvert$: the bound leaves out $-\log\lvert\Gamma\rvert\ge0$, and to second order
#
# $$-\log\lvert\Gamma\rvert\approx\sum_{i<j}\Gamma_{ij}^2\approx\sum_{i<j}\cos^2(J_{:i},J_{:j}),$$
#
# the second where $J^\top J\gg\beta$. These are the "normalized dot products" of column pairs that K&P propose to penalise (§5.3), and `orthogonality` does, on a random pair per image.
# Mind the sign. *Subtracted* from Eq. 14, the sum would bring it closer to Eq. 13, the objective of the full covariance. *Added*, as they propose, it asks for more
# orthogonality than mean field already does.

# %% mystnb={"image": {"alt": "Scatter of two approximations against what Hadamard's bound leaves out, one point per image and approximation."}, "figure": {"caption": "What Hadamard's bound leaves out, $-\\frac\\beta2\\log|\\Gamma|$, for each test image, against its second-order approximation and the sum of squared cosines.", "name": "fig-training-hadamard"}}
norms, pair_cosines, gaps = geometry_of(decoder, code)
cosines, left_out = beta / 2 * pair_cosines.numpy(), gaps.numpy()
M = torch.eye(latent_dim, dtype=torch.float64, device=where) + J.mT @ J / beta
root = M.diagonal(dim1=1, dim2=2).rsqrt()
Gamma = root[:, :, None] * M * root[:, None, :]
assert np.allclose(left_out, -beta / 2 * torch.linalg.slogdet(Gamma).logabsdet.cpu().numpy(), atol=1e-9)
second = (beta / 2 * Gamma.triu(1).square().sum((1, 2))).cpu().numpy()
figure = plotting_training.hadamard_remainder(left_out, {"$\\frac{\\beta}{2} \\sum \\Gamma_{ij}^2$": second, "$\\frac{\\beta}{2} \\sum \\cos^2$": cosines})

# %%
bound = (beta / 2 * torch.log1p(norms / beta).sum(1)).numpy()
assert np.allclose(bound - left_out, exact_log) and (left_out > -1e-9).all()
gap = left_out.mean() / exact_log.mean()
show(
    f"The bound is {bound.mean():.2f} nats, {gap:.1%} above the log-determinant. "
    + (f"Per image, what is left out and the sum of squared cosines correlate with {np.corrcoef(left_out, cosines)[0, 1]:.2f}; on average "
       f"{left_out.mean():.2f} nats are left out, $\\frac\\beta2\\sum\\Gamma_{{ij}}^2$ says {second.mean():.2f} and $\\frac\\beta2\\sum\\cos^2$ {cosines.mean():.2f}." if latent_dim > 1 else "")
)

# %% [markdown]
# ## Estimating the log-determinant itself
#
# Eq. 14 is unbiased for mean field, and biased upwards for the full determinant, by what the figure above shows. Is there an estimate of the full one that never makes $J$? **Stochastic Lanczos quadrature** (Ubaru, Chen & Saad 2017) is one: for random
# signs $v$, $\log\lvert M\rvert=\mathbb E\,v^\top\log(M)\,v$, and a few Lanczos steps from $v$ approximate the quadratic form. A step multiplies by $J$ and by $J^\top$: two passes. Its bias falls with the number of steps, its spread
# with the number of probes. A column of Eq. 14 is one pass.

# %%
log_det = np.log1p(singular[:8] ** 2 / beta).sum(1)  # [images], exact
per_column = torch.log1p(J[:8].square().sum(1) / beta).cpu().numpy()  # [images, d]


def lanczos(n_steps, repeats):
    """Draws [repeats, images] of log|M| with one probe of n_steps steps."""
    draws = [regularizers.log_det_lanczos(decoder, likelihood, some[:8], code[:8], beta, n_steps=n_steps) for _ in range(repeats)]
    return torch.stack(draws).detach().double().cpu().numpy()


def columns(k):
    """Bias and standard deviation of Eq. 14 with k columns, enumerated."""
    spread = latent_dim * per_column.std(1) * np.sqrt((latent_dim - k) / max(latent_dim - 1, 1) / k)
    return k, 100 * (per_column.sum(1) / log_det - 1).mean(), 100 * (spread / log_det).mean()


# %% mystnb={"image": {"alt": "Bias and standard deviation of two estimators of the log-determinant against the number of decoder passes. The sampled columns have a constant bias and a spread that falls to zero; Lanczos quadrature has a bias that vanishes and a spread that does not fall with its steps."}, "figure": {"caption": "Estimates of the full log-determinant on the trained decoder: $k$ columns of Eq. 14, and Lanczos quadrature with one probe and 1, 2, 3, … steps. Bias and standard deviation for one image, relative to the exact value.", "name": "fig-training-lanczos"}}
doubled = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k < latent_dim] + [latent_dim]
table_14 = np.array([columns(k) for k in doubled]).T
lanczos_rows = []
for n_steps in (n for n in (1, 2, 3, 5, 8) if n <= latent_dim):
    draws = lanczos(n_steps, sizes.repeats)
    lanczos_rows.append((2 * n_steps, 100 * (draws.mean(0) / log_det - 1).mean(), 100 * (draws.std(0, ddof=1) / log_det).mean()))
uncertain = lanczos_rows[-1][2] / draws.size**0.5  # standard error of the last bias
keys = ("passes", "bias", "spread")
compared = {"Eq. 14, k columns": dict(zip(keys, table_14, strict=True)),
            "Lanczos, one probe": dict(zip(keys, np.array(lanczos_rows).T, strict=True))}  # fmt: skip
figure = plotting_training.log_det_estimates(compared)

# %%
eq14, quadrature = compared.values()
show(
    f"One column: bias {eq14['bias'][0]:.1f} %, standard deviation {eq14['spread'][0]:.0f} % of the value for one image. "
    f"{lanczos_rows[-1][0] // 2} Lanczos steps, {lanczos_rows[-1][0]:.0f} passes: bias {quadrature['bias'][-1]:.1f} ± {uncertain:.1f} %, standard deviation {quadrature['spread'][-1]:.0f} %. "
    "For the mean-field objective the bias of Eq. 14 is none; and for training, where a batch averages the spread away, one column is the cheapest of all."
)

# %% [markdown]
# ## What each weight does
#
# Five short runs with GRAE≈ go on from the trained weights, with the same batches and a third of the learning rate; only $w_h$ (`encoder_weight`) and $w_g$ (`decoder_weight`) differ.

# %% tags=["hide-output"]
def continued(label, **options):
    """Train copies of the trained networks for some more steps with GRAE≈ and these options; measure them."""
    networks = [copy.deepcopy(network) for network in (encoder, decoder)]
    networks[0].raw = None  # a β-VAE's encoder goes on as an autoencoder's
    terms = autoencoders.loss("grae_approx", *networks, likelihood, beta, **options)
    training.fit(terms, networks, train.images, steps=sizes.short_steps, label=label,
                 checkpoint=folder and folder / f"{name} {objective} {label} after {sizes.steps}", parameters={"beta": beta, **options},
                 **loop | {"learning_rate": sizes.learning_rate / 3})  # fmt: skip
    return measured(*networks)


WEIGHTS = [(1, 1), (0, 1), (4, 1), (1, 0), (1, 4)]
weighted = {(a, b): continued(f"a{a} b{b}", encoder_weight=float(a), decoder_weight=float(b)) for a, b in WEIGHTS}

# %%
rows = []
for (a, b), value in weighted.items():
    target = f"{(b / a * value['1 − s²']).mean():.2f}" if a else "∞"
    rows.append({"w_h, w_g": f"{a}, {b}", "squared error": f"{value['squared error']:.1f}", "mean h²": f"{value['h²'].mean():.2f}",
                 "prescribed": target, "(β/2) Σ log(1 + ‖J_c‖²/β)": f"{value['log-det']:.2f}", "KL to the prior": f"{value['mismatch']:.1f}"})  # fmt: skip
table(rows)
mean_square = {key: value["h²"].mean() for key, value in weighted.items()}
price = {key: value["log-det"] for key, value in weighted.items()}
if sizes.short_steps >= 20:  # fewer steps show nothing yet
    assert mean_square[4, 1] < mean_square[1, 1] < mean_square[0, 1] and mean_square[1, 0] < mean_square[1, 4]
    assert price[1, 4] < price[1, 1] < price[1, 0] and price[0, 1] < price[1, 1] < price[4, 1]

# %%
towards = {key: (mean_square[key] - mean_square[1, 1]) * (key[1] / key[0] - 1) for key in ((4, 1), (1, 4))}
as_prescribed = min(towards.values()) > 0 and price[4, 1] > price[1, 1] > price[1, 4]
show(
    (f"Within {sizes.short_steps:,} steps both move as the scale argument prescribes: a heavier $w_h$ shrinks the code and steepens the decoder, a heavier $w_g$ does the reverse. " if as_prescribed
     else f"The scale argument prescribes that a heavier $w_h$ shrinks the code and steepens the decoder, and a heavier $w_g$ does the reverse. {sizes.short_steps:,} steps are too few to show all of it. ") +
    "With $w_h=0$ nothing holds the code, and with $w_g=0$ nothing holds the slope: there is no stationary scale. "
    f"The squared error runs from {min(v['squared error'] for v in weighted.values()):.1f} to {max(v['squared error'] for v in weighted.values()):.1f}."
)

# %% [markdown]
# ### The orthogonality penalty
#
# Two columns per image are drawn, and the squared cosine of the pair is penalised as well.

# %% tags=["hide-output"]
pressed = orthogonality or 10.0
pairs = {w: continued(f"pairs {w:g}", n_columns=2, orthogonality=w) for w in (0.0, pressed)} if latent_dim > 1 else {}

# %%
if pairs:
    table([{"weight": f"{w:g}", "mean squared cosine of a pair": f"{2 * value['cos²'] / (latent_dim * (latent_dim - 1)):.4f}",
            "Hadamard leaves out (nats)": f"{value['left out']:.3f}", "squared error": f"{value['squared error']:.1f}"}
           for w, value in pairs.items()])  # fmt: skip
    assert sizes.short_steps < 20 or pairs[pressed]["cos²"] < pairs[0.0]["cos²"]

# %% [markdown]
# The mean-field objective already asks for orthogonal columns, as much as is worth it in nats. The penalty asks for more.
#
# ## Losing the connection on purpose
#
# A small model is trained twice: once in one go, and once with a connection that is lost in the middle of it. `watch` is called while training goes on; here it raises. Then the same call is made again, with the same folder.
# On a CPU the weights must be equal bit for bit.

# %%
class ConnectionLost(Exception):
    """What Colab does not raise."""


def lose(step, history):
    if step == sizes.tiny_steps // 2:
        raise ConnectionLost(f"gone in step {step}")


def tiny(place, watch=None):
    """A few steps of a small GRAE≈ model, with a checkpoint after each."""
    settings = dict(steps=sizes.tiny_steps, batch_size=8, device=where, save_every=1e-9, log_every=sizes.tiny_steps // 2, watch=watch, checkpoint=place)
    return autoencoders.fit("grae_approx", train.images[:64], likelihood, beta=beta, latent_dim=latent_dim, width=1 / 64,
                            seed=seed, **settings)  # fmt: skip


# %%
with tempfile.TemporaryDirectory() as place:
    whole = tiny(Path(place, "whole"))
    try:
        tiny(Path(place, "lost"), watch=lose)
    except ConnectionLost as error:
        left = sorted(path.name[:13] for path in Path(place, "lost").iterdir())
        show(f"Connection lost: *{error}*. In the folder: {', '.join(left)}.")
    resumed = tiny(Path(place, "lost"))
    try:
        autoencoders.fit("grae_approx", train.images[:64], likelihood, beta=2 * beta, latent_dim=latent_dim, width=1 / 64, seed=seed,
                         steps=sizes.tiny_steps, batch_size=8, device=where, checkpoint=Path(place, "lost"))  # fmt: skip
    except ValueError as error:
        show(f"With another β the folder is refused: *{str(error).replace(place, '…')}*")
    else:
        raise AssertionError("a checkpoint of another β was accepted")

# %%
states = [[*model[0].state_dict().values(), *model[1].state_dict().values()] for model in (whole, resumed)]
equal = all(torch.equal(one, other) for one, other in zip(*states, strict=True))
assert equal or where.type != "cpu"
assert where.type != "cpu" or np.array_equal(whole[2]["total"], resumed[2]["total"])
show(f"After resuming: {len(states[0])} tensors, {'equal bit for bit' if equal else 'equal up to the order of sums on the GPU'}; the history has all {len(resumed[2]['total'])} steps.")

# %% [markdown]
# ## The paper's statements and ours
#
# K&P give no numbers for §5.3 and §6. Their sentences are compared with what was measured on the trained decoder.

# %%
FOUND = {
    "ratio": ratio["GRAE≈, one column"], "floor": by_rule["GRAE≈, one column"], "all": ratio["GRAE, all columns"],
    "gap": float(gap), "inside": float(inside.mean()), "largest": float(largest), "excess": float(excess),
    "squared_error": squared_error, "trivial": trivial, "mismatch": own["mismatch"],
}  # fmt: skip


def statements(found):
    """K&P's sentences, what was measured, and the verdict that follows from it."""
    return [
        {"K&P": "§5.3: full Jacobians “can substantially increase the training cost”",
         "ours": f"all columns {found['all']:.1f}, one column {found['ratio']:.2f} β-VAE steps (counted; {found['floor']:.2f} by the rule)",
         "verdict": "holds" if found["all"] > 2 * found["ratio"] else "not seen"},
        {"K&P": "§5.3: Eq. 14 “should be tight for mean-field”",
         "ours": f"{found['gap']:.1%} above log det(I + JᵀJ/β); equal for mean field by definition",
         "verdict": "holds" if found["gap"] < 0.1 else "loose here, for a full covariance"},
        {"K&P": "§6: the series “converges when the singular values … are smaller than √β”",
         "ours": f"σ_max = {found['largest']:.1f}√β (median); {found['inside']:.0%} of the images inside",
         "verdict": "right, and satisfied" if found["inside"] > 0.5 else "right, and not satisfied"},
        {"K&P": "§6: the first order is “crude”: β cancels", "ours": f"{found['excess']:.1f} times the regulariser",
         "verdict": "holds" if found["excess"] > 1.5 else "not seen"},
    ]  # fmt: skip


show(f"Live, `{budget}` budget:")
table(statements(FOUND))

# %% [markdown]
# ## The paper's size, frozen
#
# The `full` budget trains App. D's networks for the paper's number of steps and writes what it measured to `results/`: curves, samples from the prior, spectra, times. Reconstructions stay out of it, since they resemble the people in the data.

# %%
if budget == "full":
    given = PARAMETERS | {"dataset": name}
    del given["checkpoints"]  # a place on one machine
    results.freeze(
        results.root() / f"30_training_grae_{name}", parameters=given, sizes=vars(sizes), paper=PAPER,
        seeds=[seed], seconds=time.perf_counter() - started, notebook="30_training_grae",
        arrays={key: history[key].astype(np.float32) for key in ("reconstruction", "latent", "decoder")}
        | {"singular": singular.astype(np.float32), "h2": own["h²"], "prescribed": own["1 − s²"]},
        tables={"found": FOUND, "seconds": {"training step": float(history["seconds"]) / sizes.steps} | clocked},
        images={"samples": plotting_training.mosaic(samples, 8)},
    )  # fmt: skip

# %%
FROZEN = {kept: results.find(f"30_training_grae_{kept}") for kept in ("celeba", "lfw", "mnist", "faces")}
FROZEN = {kept: found for kept, found in FROZEN.items() if found is not None}
if not FROZEN:
    show("This checkout has no frozen result for this chapter; `-p budget full` makes one.")
for kept, found in FROZEN.items():
    show(f"**Frozen result** on {kept}: {found.label}. A training step took {1000 * found.tables['seconds']['training step']:.0f} ms.")
    table(statements(found.tables["found"]))
frozen = next(iter(FROZEN.values()), None)

# %% mystnb={"image": {"alt": "Training curves of the frozen run: the reconstruction term above, the two regularisers below."}, "figure": {"caption": "The terms of the objective in the frozen run that is named first above.", "name": "fig-training-curves-frozen"}}
if frozen is not None:
    normaliser = 0.5 * (784 if next(iter(FROZEN)) == "mnist" else 3 * 64 * 64) * math.log(2 * math.pi)
    figure = plotting_training.curves(frozen.arrays, normaliser)

# %% mystnb={"image": {"alt": "A grid of images decoded from latents of the prior, by the frozen model."}, "figure": {"caption": "Samples from the prior by the frozen model that is named first above.", "name": "fig-training-samples-frozen"}}
if frozen is not None:
    figure = plotting_training.picture(frozen.images["samples"])

# %% [markdown]
# ## What is not reproduced here
#
# - The comparison of samples over β (Table 1, App. G) is [the next chapter](31_samples_over_beta.ipynb).
# - K&P do not state batch size, learning rate, crop, or how long a step took; ours are in the code above and in the manifest of the frozen result.
# - They propose the orthogonality penalty and different weights without trying them. The short runs above show directions, not optima.
# - A live run at the `book` budget trains narrow networks for some hundred steps and never carries the paper's name.
#
# ## Exercises
#
# **1.** Derive the scale of the code under the gradient penalty, $\beta\,\mathbb E h_c^2=\omega\,\mathbb E\lVert J_{:c}\rVert^2$, and check it on the linear model.

# %% tags=["hide-cell"]
# Scale h_c by t and the column by 1/t: β/2·t²E h² + ω/2·‖J‖²/t² has the derivative β E h² − ω‖J‖² at t = 1.
torch.manual_seed(seed)
down, up = nn.Linear(6, 5).double(), nn.Linear(5, 6).double()
training.fit(lambda y: losses.rae(y, down(y), up, likelihood, noise, penalty=0.2, n_probes=2), [down, up], observed,
             steps=400, batch_size=512, learning_rate=0.05, seed=seed, log_every=-1)  # fmt: skip
with torch.no_grad():
    left, right = noise * down(observed).square().mean(0).sum(), 0.2 * up.weight.square().sum()
show(f"Summed over the latents: β E‖h‖² = {left:.3f}, ω‖J‖² = {right:.3f}. The mean square of a code is {left / noise / 5:.2f}: no reason to be 1.")
assert abs(left / right - 1) < 0.1

# %% [markdown]
# **2.** With how many columns does a GRAE≈ step cost two β-VAE steps? What if the encoder is much larger than the decoder?

# %% tags=["hide-cell"]
# 1 + k C_g/(C_h + C_g) = 2 at k = 1 + C_h/C_g. Beside a large encoder, tangents are almost free.
k = 1 + cost_h / cost_g
show(f"Here C_h/C_g = {cost_h / cost_g:.2f}, so at k = {k:.1f} columns.")
assert math.isclose(1 + k * cost_g / (cost_h + cost_g), 2)

# %% [markdown]
# **3.** One image pays with probability $f$, and then $1/f$ times as much. What is the variance of its regulariser, if a drawn column has mean μ and variance σ²? Compare with the draws above.

# %% tags=["hide-cell"]
# E p² = f·(σ² + μ²)/f², so the variance is (σ² + μ²)/f − μ²: f = ¼ adds 3(σ² + μ²). In a batch the parts are fixed in size, which only helps.
mu, sigma = exact, estimates[0].double().std(correction=0).item()
predicted = math.sqrt((sigma**2 + mu**2) / 0.25 - mu**2)
show(f"Predicted standard deviation {predicted:.4f} nats, drawn {spread_of_a_part:.4f}; with the whole batch {sigma:.4f}.")
assert abs(spread_of_a_part / predicted - 1) < 0.3

# %% [markdown]
# **4. Change a parameter.** Set `n_columns = 4` and run the chapter again, on Colab or here. Guess first: how much quieter does the regulariser get, and how much dearer a step?

# %% tags=["hide-cell"]
# Without replacement the variance of one image's estimate is (d²/k) Var(v) (d − k)/(d − 1): see chapter 21, step 7.
k = min(4, latent_dim)
v = beta / 2 * (J.square().sum(1) / beta).log1p().cpu()  # [images, d]
spread = latent_dim * v.std(1, correction=0)
fewer = (spread * math.sqrt((latent_dim - k) / k / max(latent_dim - 1, 1))).mean().item()
places = torch.rand(1000, latent_dim, generator=torch.Generator().manual_seed(seed)).argsort(1)[:, :k]
drawn = (latent_dim / k * v[:, places].sum(2)).std(1, correction=0).mean().item()
show(f"With {k} columns an image's regulariser has a standard deviation of {fewer:.3f} nats instead of {spread.mean():.3f} (in 1,000 draws: {drawn:.3f}). "
     f"A step costs {1 + k * cost_g / (cost_h + cost_g):.2f} β-VAE steps instead of {1 + cost_g / (cost_h + cost_g):.2f}.")
assert math.isclose(drawn, fewer, rel_tol=0.1, abs_tol=1e-6)

# %% [markdown]
# ## What to take away
#
# - One drawn column makes Eq. 14 a training objective: unbiased for mean field, at $(3C_h+6C_g)/(3C_h+3C_g)$ β-VAE steps, whatever $d$ is.
# - Two equal weights make mean and variance of the aggregated posterior the prior's, at every stationary point. Their ratio is the variance of the code.
# - The gradient penalty is the first order of GRAE for $\sigma\ll\sqrt\beta$. Latents that carry more than half a bit lie outside: there GRAE charges the logarithm of the slope, and the penalty its square. Both cost one tangent.
# - A gradient of the summed output is not $\lVert J\rVert_F$; random signs pushed forwards are.
# - With a checkpoint folder a lost connection costs no more training than the time between two checkpoints.
#
# Next: [samples across β](31_samples_over_beta.ipynb).
