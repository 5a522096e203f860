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
# # FID of one model
#
# **Claim.** How far a model's samples are from the data is one number only under a protocol stated whole, and next to what the same number is for real images (Kumar & Poole 2020, Fig. 4, has one such number per model, β and run).
#
# This chapter trains one model and measures it. It is short because it is run often: a sweep over objectives, β and seeds runs it once for each model, and
# [FID across β](33_fid_across_beta.ipynb) makes Fig. 4 of what it records.
#
# | | |
# |---|---|
# | **You will learn** | which settings a FID depends on; what its floor is; what prior, mixture and settled codes change |
# | **You need** | [Samples across β](31_samples_over_beta.ipynb); what FID is, and what it hides, is explained in [FID across β](33_fid_across_beta.ipynb) |
# | **Time** | reading 5 minutes; running half a minute on one core (`book`); `full` trains one model of the paper's size and wants a GPU |

# %% tags=["parameters"]
dataset: str = "auto"  # celeba where it is on this disk, else faces (drawn); or lfw, mnist, fashion_mnist, digits, sprites, cifar10
budget: str = "book"  # test, book or full: how many steps and images, and how wide the networks
objective: str = "beta_vae"  # or grae_approx, grae, rae_gradient, rae_l2, rae_spectral, autoencoder
beta: float = 0.1  # β
latent_dim: int = 16  # d, the number of latent variables; 128 in the paper
steps: int = 0  # training steps; 0 takes the budget's
width: float = 0.0  # channels relative to App. D; 0 takes the budget's
batch_size: int = 0  # images per step; 0 takes the budget's
learning_rate: float = 0.0  # of Adam; 0 takes the budget's
n_images: int = 0  # N, samples that are measured and real images beside them (as far as there are); 0 takes the budget's
n_codes: int = 0  # codes that the mixture is fitted to and the scale is settled on; 0 takes the budget's
features: str = "auto"  # the network that looks at the images: mnist, cifar10, inception, or auto: what suits the data
components: int = 10  # Gaussians in the mixture that is fitted to the codes; 10 in Ghosh et al. 2020
seed: int = 0  # weights, batches, noise and the latents that are decoded
precision: str = "float32"  # or bfloat16, on a GPU
step: str = "eager"  # or compiled, or graph (a CUDA graph): how a training step runs
checkpoints: str = ""  # a folder that keeps the model, to go on with after an interruption; empty: nowhere
device: str = "auto"  # cpu, cuda, or auto: the GPU where there is one

# %%
import json
import math
import time
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from grae_helpers import autoencoders, data, fid, likelihoods, plotting, plotting_fid, plotting_samples, published, results, runtime
from grae_helpers import features as extractors
from grae_helpers.plotting import show, table

PARAMETERS = dict(
    dataset=dataset, budget=budget, objective=objective, beta=beta, latent_dim=latent_dim, steps=steps, width=width,
    batch_size=batch_size, learning_rate=learning_rate, n_images=n_images, n_codes=n_codes, features=features,
    components=components, seed=seed, precision=precision, step=step, checkpoints=checkpoints, device=device,
)
runtime.check_parameters(**PARAMETERS)
where, folder = runtime.device(device), runtime.checkpoint_folder(checkpoints)
plotting.use_style()
likelihood = likelihoods.Gaussian()

# %%
sizes = runtime.sizes(
    budget,
    test={
        "steps": 45, "width": 1 / 48, "batch_size": 8, "learning_rate": 1e-2, "n_images": 140, "n_train": 300,
        "n_codes": 200, "n_jacobians": 8,
    },
    book={
        "steps": 300, "width": 1 / 32, "batch_size": 16, "learning_rate": 5e-3, "n_images": 500, "n_train": 2_000,
        "n_codes": 1_000, "n_jacobians": 32,
    },
    full={
        "steps": published.CELEBA["steps"], "width": published.CELEBA["width"], "batch_size": 64, "learning_rate": 1e-3,
        "n_images": 10_000, "n_train": 0, "n_codes": 5_000, "n_jacobians": 32,
    },
    steps=steps, width=width, batch_size=batch_size, learning_rate=learning_rate, n_images=n_images, n_codes=n_codes,
)  # fmt: skip


def data_of(split: str, n: int | None) -> data.Images:
    """A split in a format that App. D's networks take: 64×64 in colour, or 28×28 in grey."""
    return data.load(name, split, n=n, **({"size": 64} if name == "cifar10" else {}))


name = data.resolve(dataset, paper="celeba", fallback="faces")
# The first of MNIST's test images are easier than the last: read them all and choose at random.
train, test = data_of("train", sizes.n_train or None), data_of("test", None if name in data.SMALL_GREY else sizes.n_images)
order, another = (torch.randperm(len(some), generator=torch.Generator().manual_seed(0)) for some in (train, test))  # for every model the same
n = min(sizes.n_images, len(test), len(train))
images, real, coded = train.images, test.images[another[:n]], train.images[order[: sizes.n_codes]]

# %% [markdown]
# ## The model
#
# Trained, or gone on with from its checkpoint.

# %% tags=["hide-output"]
place = folder / f"{name}-{objective}-{beta:g}-{seed}" if folder else None
encoder, decoder, history = autoencoders.fit(
    objective, images, likelihood, beta=beta, latent_dim=latent_dim, width=sizes.width, seed=seed, steps=sizes.steps,
    batch_size=sizes.batch_size, learning_rate=sizes.learning_rate, device=where, precision=precision, step=step,
    checkpoint=place, label=f"{objective} β={beta:g}",
)  # fmt: skip

# %% [markdown]
# ## Its samples
#
# Three ways to draw latents, as in [Samples across β](31_samples_over_beta.ipynb): from the **prior** $N(0, I)$, which is the paper's; from the prior after each latent has been
# **settled**, moved and scaled to where the objective is least without changing any reconstruction, which short runs at small β have not done themselves; and from a
# **mixture** of Gaussians fitted to the codes of training images (of the β-VAE: its posterior means), as Ghosh et al. (2020) sample their RAEs and, for comparison, their VAEs. Only the objectives with a prior in them, those of the β-VAE and of GRAE, can be settled.
# Other latents come with another seed.

# %%
measuring = time.perf_counter()


def mixture_latents(codes: torch.Tensor) -> torch.Tensor:
    """Draws from a Gaussian mixture with full covariances that is fitted to the codes (Ghosh et al. 2020)."""
    mixture = GaussianMixture(min(components, len(codes)), covariance_type="full", random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        drawn = mixture.fit(codes.double().numpy()).sample(n)[0]  # sorted by component
    return torch.from_numpy(np.random.default_rng(seed).permutation(drawn)).float()


latents, codes = autoencoders.prior_latents(n, latent_dim, seed), autoencoders.encode(encoder, coded)
decoded = {"prior": (decoder, latents), "mixture": (decoder, mixture_latents(codes))}
square, settles = codes.square().mean(), objective in ("beta_vae", "grae", "grae_approx")
if settles:
    networks = autoencoders.settle(objective, encoder, decoder, coded, likelihood, beta, n_jacobians=sizes.n_jacobians)
    decoded["settled"] = (networks[1], latents)
    square = autoencoders.encode(networks[0], coded[:1_000]).square().mean()
decoded["reconstructed"] = (decoder, autoencoders.encode(encoder, real))
show(f"The mean square of a code is {codes.square().mean():.2f} per latent" + (f", settled {square:.2f}; the prior's is 1." if settles else "."))

# %% [markdown]
# ## What looks at them
#
# Samples are quantised to 8 bits like the data, and both go through the same network. Its name belongs to the measure: distances in the features of different networks have nothing in common.

# %%
extractor = extractors.load(extractors.choose(features, tuple(images.shape[1:])), device=where)
AT_ONCE = 250 if where.type == "cuda" else 32


def seen(batches) -> torch.Tensor:
    """The features of uint8 images, a tensor or batches of them."""
    return extractors.extract(extractor, batches, batch_size=AT_ONCE)


def images_of(decoder: torch.nn.Module, latents: torch.Tensor):
    """The images of latents, quantised, a batch at a time."""
    return (extractors.as_uint8(autoencoders.decode(decoder, likelihood, z)) for z in latents.split(250))


# %%
tables = {kind: seen(images_of(*drawn)) for kind, drawn in decoded.items()}
tables["floor"] = seen(images[order[-n:]])  # real images of the training split against real images of the test split
compared = seen(real)

# %% [markdown]
# ## The numbers, and their protocol
#
# FID falls with N even where nothing else changes, about as FID∞ + c/N (Chong & Forsyth 2020). FID∞ is the end of that line, and N is the same for all rows. The **floor** is what real
# images of the training split have, against the same held-out ones: no model is expected to be below. The reconstructions of the held-out images show what the decoder loses, whatever the latents are drawn from.
# Precision and recall are shares of the images: of the samples near a real one, and of the real images near a sample. The s.e. is of FID∞, for other images from the same model: another training is not in it.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore", fid.SingularCovariance)  # said below, once
    measures = {kind: fid.measure(compared, seen_as) for kind, seen_as in tables.items() if kind != "reconstructed"}
    lines = {kind: fid.extrapolated(compared, tables[kind]) for kind in ("prior", "reconstructed", "floor")}
again = lines["reconstructed"]  # no samples: their FID alone is of use
measures["reconstructed"] = {"fid": again.values[-1], "fid_infinity": again.limit, "fid_infinity_se": again.standard_error}
if n <= extractor.dimension:
    show(f"N = {n:,} is not above the {extractor.dimension:,} features: the covariances are singular, and FID is far too large. It compares at equal N only.")
NAMES = published.FID_MODELS | {"grae": "GRAE", "rae_gradient": "RAE, gradient", "rae_l2": "RAE, weights", "rae_spectral": "RAE, spectral", "autoencoder": "autoencoder"}
show(f"**{NAMES[objective]}**, β = {beta:g}, {sizes.steps:,} steps, features of the **{extractor.title}**, N = {n:,}:")
shown = {"fid": "FID", "fid_infinity": "FID∞", "fid_infinity_se": "± s.e.", "kid": "KID", "precision": "precision", "recall": "recall"}
rows = [
    {"images": kind} | {label: format(found[key], ".3g").replace("-", "−") if key in found else "–" for key, label in shown.items()}
    for kind, found in measures.items()
]  # fmt: skip
table(rows)

# %%
protocol = fid.protocol(
    extractor, real=f"{test.source}, test split", generated=f"{objective}, β = {beta:g}", n_real=n, n_generated=n,
    split="test", preparation="the data set's own crop and size; samples rounded to 8 bits",
    seeds={"model, latents and mixture": seed, "choice of images, subsets": 0},
)  # fmt: skip
table([{"protocol": key, "value": value} for key, value in protocol.items()])

# %% mystnb={"image": {"alt": "FID against one over the number of images, falling along a straight line each for the model's samples and for real images, with the limits at infinitely many marked."}, "figure": {"caption": "FID at several N against 1/N, with the straight line and its limit FID∞ (open, ± 2 standard errors), for samples from the prior and for real images of the training split.", "name": "fig-fid-size-one"}}
figure = plotting_fid.against_size({"samples from the prior": lines["prior"], "real images": lines["floor"]})

# %% mystnb={"image": {"alt": "Rows of samples from the prior, the mixture and, where there is one, the settled model, for drawings and digits with real images and reconstructions."}, "figure": {"caption": "What was measured: the first samples of each kind. Real images and their reconstructions are shown for drawings and digits only.", "name": "fig-fid-samples"}}
PHOTOGRAPHS, FIRST = ("celeba", "lfw"), 8  # of people: no page shows them
rows = {kind: autoencoders.decode(of, likelihood, z[:FIRST]).numpy() for kind, (of, z) in decoded.items()}
if name in PHOTOGRAPHS:
    rows.pop("reconstructed")
else:
    rows = {"real": (real[:FIRST].float() / 255).numpy()} | rows
figure = plotting_samples.sample_rows(rows)

# %% [markdown]
# ## What a sweep keeps
#
# The record of this run: every measure, under a name of its own; the size of the model as it was trained; the protocol.

# %%
def squared_error(found) -> float:
    """Per held-out image, summed over pixels with grey values from 0 to 1; `found` gives the images for some indices."""
    return sum((real[i].float() / 255 - found(i)).square().sum().item() for i in torch.arange(n).split(500)) / n


error = squared_error(lambda i: autoencoders.decode(decoder, likelihood, decoded["reconstructed"][1][i]))
mean_image = sum(part.float().sum(0) for part in images.split(1000)) / (255 * len(images))
trivial = squared_error(lambda i: mean_image)
show(f"Squared error per held-out image: {error:.1f}; the mean image has {trivial:.1f}.")
assert all(math.isfinite(value) for found in measures.values() for value in found.values())
assert steps or beta > 0.1 or error < trivial, "at a small β, and with the budget's own steps, the model did not learn"

# %%
missing = dict.fromkeys(measures["prior"], math.nan)  # of what this objective cannot do
kinds = {"": "prior", "_settled": "settled", "_mixture": "mixture", "_reconstructed": "reconstructed", "_floor": "floor"}
results.record(
    dataset=name, budget=budget, objective=objective, beta=beta, seed=seed, latent_dim=latent_dim, steps=sizes.steps, width=float(sizes.width),
    batch_size=sizes.batch_size, learning_rate=float(sizes.learning_rate), n_images=n, n_codes=len(coded), n_train=len(images),
    features=extractor.name, components=components, arithmetic=precision, device=runtime.device_name(where),
    **{f"{key}{suffix}": float(value) for suffix, kind in kinds.items() for key, value in measures.get(kind, missing).items()},
    error=error, trivial_error=trivial, code_square=float(codes.square().mean()), settled_square=float(square) if settles else math.nan,
    train_seconds=float(history["seconds"]), measure_seconds=time.perf_counter() - measuring, protocol=json.dumps(protocol, ensure_ascii=False),
)  # fmt: skip

# %% [markdown]
# ## What is not reproduced here
#
# - The paper does not say which N, which crop and which features its FID has. A number here compares with another one of the same protocol, and with no number of the paper's.
# - One model says nothing about its training's own noise: that is what the seeds of the sweep are for.
# - FID is a distance of means and covariances of features. What it does not see is shown in [FID across β](33_fid_across_beta.ipynb).
#
# ## Exercises
#
# **1.** From FID∞ and the slope alone, how large would the floor be with half as many images on each side? Measure it.

# %% tags=["hide-cell"]
half = n // 2
with warnings.catch_warnings():
    warnings.simplefilter("ignore", fid.SingularCovariance)
    halves = [fid.distance(compared[part], tables["floor"][part]) for part in (slice(None, half), slice(half, 2 * half))]
expected, whole = lines["floor"].limit + lines["floor"].slope / half, measures["floor"]["fid"]
show(
    f"FID∞ + c/(N/2) = {expected:.3g} is expected. The two halves have {halves[0]:.3g} and {halves[1]:.3g}, and all N have {whole:.3g}: "
    "the same real images on both sides. A floor measured at another N than the samples is no floor of theirs."
)
assert sum(halves) / 2 > whole

# %% [markdown]
# **2.** What becomes of FID if every feature is doubled? And of the floor? What does that say about FIDs in the features of two networks?

# %% tags=["hide-cell"]
with warnings.catch_warnings():
    warnings.simplefilter("ignore", fid.SingularCovariance)
    doubled = [fid.distance(2 * compared, 2 * tables["floor"]), fid.distance(2 * compared, 2 * tables["prior"])]
assert math.isclose(doubled[0], 4 * whole, rel_tol=1e-3) and math.isclose(doubled[1], 4 * measures["prior"]["fid"], rel_tol=1e-3)
show(f"Both are multiplied by four, as squared distances: the floor becomes {doubled[0]:.3g}. A network's scale is arbitrary, so its FIDs compare with each other, and with their floor, and with no other network's.")

# %% [markdown]
# **3. Change a parameter.** Set `components = 1` and run the chapter again, on Colab or here. Guess first: which row of the table of measures changes, and how well does one Gaussian describe the codes?

# %% tags=["hide-cell"]
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)
    likely = {k: GaussianMixture(k, random_state=seed).fit(codes.double().numpy()).score(codes.double().numpy()) for k in (1, min(10, len(codes)))}
one, many = likely.values()
assert many >= one
show(f"Only the mixture's. One Gaussian gives a training code {one:.2f} nats on average, ten give it {many:.2f}: the codes are not one Gaussian cloud. Held-out codes would gain less.")

# %% [markdown]
# ## What to take away
#
# - A FID without N, features and floor is no number.
# - Where the latents are drawn can matter as much as the model: compare the rows of the table before blaming the decoder.
