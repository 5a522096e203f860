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
# # Somebody else's autoencoder
#
# **Claim.** The objective of GRAE asks for a code and a decoder that can be differentiated, and for nothing else: "it should also be possible to use the proposed objectives for training the models"
# (Kumar & Poole 2020, §5.3; below "K&P"), also models that were written without any thought of it.
#
# Two such models are trained here, as their authors would do it and with one line changed: a plain torch module, defined in a cell, and the autoencoder of a well-known package, `AutoencoderKL` of Hugging Face's
# [diffusers](https://huggingface.co/docs/diffusers), small and with random weights. Then come the layers that need care, with the errors that they lead to.
#
# | | |
# |---|---|
# | **You will learn** | what `losses.grae_approx` wants from a model; how to wrap one whose latents are feature maps; what the regularisers change; which layers break the theory |
# | **You need** | torch, and the idea of [Training GRAE](30_training_grae.ipynb); for the second model the package diffusers, which Colab has (else `pip install diffusers`) |
# | **Time** | reading 15 minutes; running about a minute on two cores (`book`) |

# %% tags=["parameters"]
dataset: str = "auto"  # mnist where it can be had, else digits; or digits, mnist, fashion_mnist
budget: str = "book"  # test, book or full: how many steps and images
beta: float = 0.3  # β of the plain module
library_beta: float = 0.1  # β of the package's model, which has three times as many latents
latent_dim: int = 16  # d, the number of latent variables of the plain module
steps: int = 0  # training steps of the plain module; 0 takes the budget's
library_steps: int = 0  # steps that the package's model is trained as usual, before GRAE≈ goes on; 0 takes the budget's
batch_size: int = 0  # images per step; 0 takes the budget's
learning_rate: float = 0.0  # of Adam; 0 takes the budget's
seed: int = 0  # weights, batches and columns
device: str = "auto"  # cpu, cuda, or auto: the GPU where there is one

# %%
import copy
import os
import time
import warnings

import torch
from torch import nn
from torch.nn import functional as F

from grae_helpers import data, geometry, jacobians, likelihoods, losses, plotting, plotting_samples, runtime, smoothness
from grae_helpers.plotting import show, table

PARAMETERS = dict(
    dataset=dataset, budget=budget, beta=beta, latent_dim=latent_dim, steps=steps, batch_size=batch_size,
    learning_rate=learning_rate, seed=seed, device=device,
)
runtime.check_parameters(**PARAMETERS)
runtime.check_parameters(beta=library_beta, steps=library_steps)
where = runtime.device(device)
plotting.use_style()

# %%
sizes = runtime.sizes(
    budget,
    test={"steps": 20, "library_steps": 4, "more_steps": 2, "batch_size": 16, "learning_rate": 4e-3, "n_train": 300, "n_test": 32, "n_measured": 8},
    book={"steps": 300, "library_steps": 80, "more_steps": 50, "batch_size": 32, "learning_rate": 4e-3, "n_train": 4000, "n_test": 200, "n_measured": 48},
    full={"steps": 20_000, "library_steps": 10_000, "more_steps": 10_000, "batch_size": 128, "learning_rate": 1e-3, "n_train": 0, "n_test": 2000, "n_measured": 256},
    steps=steps, library_steps=library_steps, batch_size=batch_size, learning_rate=learning_rate,
)  # fmt: skip
name = data.resolve(dataset, paper="mnist", among=data.SMALL_GREY)
train, test = data.load(name, "train", n=sizes.n_train or None), data.load(name, "test", n=sizes.n_test)
images, held_out = train.floats(), test.floats().to(where)
show(f"Data: {train.source}. {len(train):,} images to train on, {len(test):,} to test with, {list(images.shape[1:])} each, grey values from 0 to 1.")

# %% [markdown]
# ## What the objective asks for
#
# For images $x$, codes $h=h(x)$ and a decoder $g$, GRAE≈ is (Eq. 13 with the columns of Eq. 14, K&P)
#
# $$\tfrac12\lVert x-g(h)\rVert^2+\tfrac\beta2\lVert h\rVert^2+\tfrac\beta2\,\frac dk\sum_{c}\log\big(1+\tfrac1\beta\lVert J_{:c}\rVert^2\big),$$
#
# with $k$ of the $d$ columns of the decoder's Jacobian $J=J_g(h)$ drawn at random. So it needs
#
# - `x`, of shape `[batch, ...]`;
# - `code`, of shape `[batch, d]`, from any encoder, with its gradients;
# - `decoder`, a function from such a code to something of `x`'s shape, each image for itself. It is called with tangents, so it has to be made of torch's operations;
# - a likelihood, which says what the decoder's output means: `likelihoods.Gaussian()` for a reconstruction $g$ and half its squared error.
#
# ## A plain module
#
# The kind of model that one finds in a tutorial: convolutions, batch normalisation, upsampling, a sigmoid at the end. It knows nothing of this book.

# %%
class ConvAutoencoder(nn.Module):
    """28×28 grey images through d numbers and back."""

    def __init__(self, d):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 7 * 7, d),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(d, 32 * 7 * 7), nn.ReLU(), nn.Unflatten(1, (32, 7, 7)),
            nn.Upsample(scale_factor=2), nn.Conv2d(32, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(16, 1, 3, padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x):
        return self.decoder(self.encoder(x))


torch.manual_seed(seed)
model = ConvAutoencoder(latent_dim).to(where)

# %% [markdown]
# ## A known answer first
#
# Before anything is trained: is the regulariser of this module what the formula says? For so few latents the whole Jacobian can be had by another route, central differences in float64. With all $d$ columns
# `grae_approx` must give the sum of Eq. 14, and `grae` the log-determinant of Eq. 13, which is smaller (Hadamard).

# %%
def relative_error(ours, expected):
    """The largest difference, relative to the largest expected value."""
    return ((ours - expected).abs().max() / expected.abs().max()).item()


def by_differences(decode, codes, beta, step=1e-6):
    """(β/2) Σ log(1 + ‖J_c‖²/β) and (β/2) log|I + JᵀJ/β| of each code, from Jacobians by central differences."""
    moves = step * torch.eye(codes.shape[1], dtype=codes.dtype, device=codes.device)
    rows = [(decode(code + moves) - decode(code - moves)).flatten(1) / (2 * step) for code in codes]  # Jᵀ, [d, D] each
    M = torch.eye(codes.shape[1], dtype=codes.dtype, device=codes.device) + torch.stack([Jt @ Jt.T for Jt in rows]) / beta
    return beta / 2 * M.diagonal(dim1=1, dim2=2).log().sum(1), beta / 2 * torch.logdet(M)


likelihood = likelihoods.Gaussian()
wide, x = copy.deepcopy(model).double().eval(), held_out[:4].double()
with torch.no_grad():
    code = wide.encoder(x)
    sum_of_columns, log_det = by_differences(wide.decoder, code, beta)
    ours = losses.grae_approx(x, code, wide.decoder, likelihood, beta, n_columns=latent_dim).decoder
    exact = losses.grae(x, code, wide.decoder, likelihood, beta).decoder
assert relative_error(ours, sum_of_columns) < 1e-6 and relative_error(exact, log_det) < 1e-6
assert (ours >= exact).all()
show(f"The first image pays {ours[0].item():.4f} nats by Eq. 14 and {exact[0].item():.4f} by Eq. 13; the other route differs by {relative_error(ours, sum_of_columns):.0e} of that.")

# %% [markdown]
# ## Twenty lines
#
# The training loop, as its author would write it, with half the squared error per image as its loss; and beside it the line that replaces the loss.

# %%
def train_with(model, encode, decode, steps, beta=None):
    """Adam on half the squared error, or on GRAE≈ where there is a β."""
    random = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=sizes.learning_rate)
    model.train()
    for _ in range(steps):
        x = images[torch.randint(len(images), (sizes.batch_size,), generator=random)].to(where)
        code = encode(x)
        if beta is None:
            loss = F.mse_loss(decode(code), x, reduction="sum") / 2 / len(x)
        else:
            loss = losses.grae_approx(x, code, decode, likelihood, beta, generator=random).total.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.isfinite()
    return model.eval()


# %%
def clocked(*arguments, **options):
    """A model trained by the loop above, and the seconds that it took."""
    start = time.perf_counter()
    trained = train_with(*arguments, **options)
    return trained, time.perf_counter() - start


plain, regularised = copy.deepcopy(model), copy.deepcopy(model)  # from the same weights
plain, plain_seconds = clocked(plain, plain.encoder, plain.decoder, sizes.steps)
regularised, regularised_seconds = clocked(regularised, regularised.encoder, regularised.decoder, sizes.steps, beta=beta)

# %% [markdown]
# ## What has changed
#
# Four measures on images that were held out.
#
# - **Squared error** per image, summed over the pixels. The mean image is what one pays without learning anything.
# - **Mean square of a code.** A plain autoencoder leaves the scale of its codes to chance. The two regularisers fix it: [at a stationary point](30_training_grae.ipynb#two-weights-and-the-scale-of-the-code) a latent's mean square is at most 1, and near 1 where its column is much longer than √β.
# - **Total variation** of images decoded from $N(0,I)$, the mean difference of neighbouring pixels. Codes of another scale make the prior a bad place to draw from.
# - **Off-diagonal energy** of $J^\top J$, the share of its squared norm off the diagonal, relative to the same matrices after random rotations of the latents: 1 means that the axes are as good as any others, less that the columns are nearer to orthogonal.

# %%
@torch.no_grad()
def measures(encode, decode, beta):
    """The four measures, by name, and images decoded from the prior."""
    codes = encode(held_out)
    J = jacobians.jacobian(decode, codes[: sizes.n_measured]).double().cpu()
    structure = geometry.block_structure(J.mT @ J, beta, masks=[1])[0]
    latents = torch.randn(len(held_out), codes.shape[1], generator=torch.Generator().manual_seed(seed))
    drawn = decode(latents.to(where))
    return {
        "squared error": (decode(codes) - held_out).square().flatten(1).sum(1).mean().item(),
        "mean square of a code": codes.square().mean().item(),
        "total variation": smoothness.total_variation(drawn).mean().item(),
        "off-diagonal energy": structure["energy"] / structure["energy_rotated"],
    }, drawn[:10].clamp(0, 1).cpu()


SHOWN = {"squared error": ".1f", "mean square of a code": ".3g", "total variation": ".3f", "off-diagonal energy": ".2f"}
mean_image = (held_out - images.mean(0).to(where)).square().flatten(1).sum(1).mean().item()
variation = smoothness.total_variation(held_out).mean().item()
before, plain_samples = measures(plain.encoder, plain.decoder, beta)
after, samples = measures(regularised.encoder, regularised.decoder, beta)
table([{"training": "as its author would"} | before, {"training": "with GRAE≈"} | after], **SHOWN)
show(f"The mean image has a squared error of {mean_image:.1f}; real images have a total variation of {variation:.3f}.")

# %%
if sizes.steps >= 200 and 0.1 <= beta <= 0.5:  # fewer steps or another β show less, or pay more for it
    assert max(before["squared error"], after["squared error"]) < 0.5 * mean_image, "they did not learn"
    assert 0.3 < after["mean square of a code"] < 1.3 < before["mean square of a code"]
    assert abs(after["total variation"] - variation) < abs(before["total variation"] - variation)
    assert after["off-diagonal energy"] < before["off-diagonal energy"] - 0.05

# %% mystnb={"image": {"alt": "Two rows of ten images decoded from the same latents of the prior: by the module trained as usual, and with GRAE≈."}, "figure": {"caption": "Images that the plain module decodes from the same draws of N(0, I), after training without and with GRAE≈.", "name": "fig-own-samples"}}
figure = plotting_samples.sample_rows({"as its author would train it": plain_samples.numpy(), f"with GRAE≈, β = {beta:g}": samples.numpy()})

# %%
def nearer(before, after, key, goal):
    """Whether a measure came nearer to where it should be, in words."""
    return "nearer to" if abs(after[key] - goal) < abs(before[key] - goal) else "no nearer to"


show(
    f"The codes have a mean square of {before['mean square of a code']:.2f} without the regularisers and {after['mean square of a code']:.2f} with them. Draws from $N(0,I)$ then decode to images with a total variation of {before['total variation']:.3f} and "
    f"{after['total variation']:.3f}: the regularised model is {nearer(before, after, 'total variation', variation)} the {variation:.3f} of real images. The columns of the Jacobian go from {before['off-diagonal energy']:.2f} to {after['off-diagonal energy']:.2f} of what "
    f"random axes have, and the squared error from {before['squared error']:.1f} to {after['squared error']:.1f}, which is the price. The run took {regularised_seconds / plain_seconds:.1f} times as long."
)

# %% [markdown]
# ## A model of a package
#
# `AutoencoderKL` is the autoencoder in front of latent diffusion models: residual blocks with group normalisation and SiLU, self-attention in the middle, upsampling. Three things are in the way of the twenty lines above, and each is a line or two:
#
# 1. `encode` returns a distribution in an object, and `decode` an image in an object. The code is the distribution's mode, which is its mean; the decoder is `.sample`. (The layer that outputs the variance is then not trained.)
# 2. Its latents are feature maps `[batch, c, h, w]`. Flattened, they are a code.
# 3. The image should have the range that the model outputs: here grey values from 0 to 1, with no sigmoid at the end.
#
# Nothing is downloaded: the weights are random.

# %%
os.environ["HF_HUB_OFFLINE"] = "1"
runtime.torchvision()  # diffusers imports it, and a torchvision built for CUDA fails beside a torch that is not
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a progress bar that nothing here shows
    from diffusers import AutoencoderKL

torch.manual_seed(seed)
library = AutoencoderKL(
    in_channels=1, out_channels=1, sample_size=28, block_out_channels=(4, 8, 16), latent_channels=1,
    down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    layers_per_block=1, norm_num_groups=2,
).to(where)  # fmt: skip


class Wrapped:
    """A diffusers autoencoder as two functions: images → codes [batch, d], and codes → images."""

    def __init__(self, model, x):
        self.model, self.shape = model, model.encode(x[:1]).latent_dist.mode().shape[1:]

    def encode(self, x):
        return self.model.encode(x).latent_dist.mode().flatten(1)

    def decode(self, code):
        return self.model.decode(code.unflatten(1, self.shape)).sample


# %% [markdown]
# The known answer again, through attention, group normalisation and all.

# %%
wide, x = copy.deepcopy(library).double().eval(), held_out[:2].double()
checked = Wrapped(wide, x)
with torch.no_grad():
    code = checked.encode(x)
    sum_of_columns, _ = by_differences(checked.decode, code, library_beta)
    ours = losses.grae_approx(x, code, checked.decode, likelihood, library_beta, n_columns=code.shape[1]).decoder
assert relative_error(ours, sum_of_columns) < 1e-6
parameters = sum(parameter.numel() for parameter in library.parameters())
show(f"{parameters:,} parameters; latents of shape {list(checked.shape)}, so d = {code.shape[1]}. Difference from the other route: {relative_error(ours, sum_of_columns):.0e}.")

# %% [markdown]
# A model of a package is mostly one that has been trained. So here: it is first trained as its author would, and then, from the same weights, for some more steps in the same way and with GRAE≈. (From random weights, with
# a code that means nothing yet, the two regularisers can win at once, and reconstruction waits for many steps.)

# %%
start = Wrapped(library, held_out)
train_with(start.model, start.encode, start.decode, sizes.library_steps)
theirs, own = (Wrapped(copy.deepcopy(library), held_out) for _ in range(2))
_, plain_seconds = clocked(theirs.model, theirs.encode, theirs.decode, sizes.more_steps)
_, regularised_seconds = clocked(own.model, own.encode, own.decode, sizes.more_steps, beta=library_beta)
library_before, plain_samples = measures(theirs.encode, theirs.decode, library_beta)
library_after, samples = measures(own.encode, own.decode, library_beta)
table([{"training": "as its author would"} | library_before, {"training": "with GRAE≈"} | library_after], **SHOWN)
if sizes.library_steps >= 80 and sizes.more_steps >= 50 and 0.05 <= library_beta <= 0.2:
    assert max(library_before["squared error"], library_after["squared error"]) < 0.6 * mean_image, "they did not learn"
    assert 0.2 < library_after["mean square of a code"] < 1.5 < library_before["mean square of a code"]

# %% mystnb={"image": {"alt": "Two rows of ten images decoded from the same latents of the prior: by the package's autoencoder trained as usual, and with GRAE≈."}, "figure": {"caption": "Images that the package's autoencoder decodes from the same draws of N(0, I), after training without and with GRAE≈.", "name": "fig-own-library-samples"}}
figure = plotting_samples.sample_rows({"as its author would train it": plain_samples.numpy(), f"with GRAE≈, β = {library_beta:g}": samples.numpy()})

# %%
show(
    f"After {sizes.library_steps:,} steps as usual and {sizes.more_steps:,} more, the codes of the plain run have a mean square of {library_before['mean square of a code']:.2f}; where GRAE≈ went on, {library_after['mean square of a code']:.2f}. "
    f"The off-diagonal energy is {library_before['off-diagonal energy']:.2f} and {library_after['off-diagonal energy']:.2f} of that of random axes. It is below 1 without the regularisers too, since each latent is a place in the image, and columns of far places are orthogonal whatever the objective. "
    f"The squared error is {library_before['squared error']:.1f} and {library_after['squared error']:.1f}. The total variation of samples from the prior is {library_before['total variation']:.3f} and {library_after['total variation']:.3f}; real images have {variation:.3f}. "
    f"The run took {regularised_seconds / plain_seconds:.1f} times as long."
)

# %% [markdown]
# ## Which layers need care
#
# **Batch normalisation** mixes the images of a batch, and then "the Jacobian of one image" needs a definition. The tangent holds the batch's statistics constant, at the values of the forward pass, as they are constant when the model is used. Gradients with respect to the
# weights flow through them, and the running averages are updated once a step, as without us. The check: the module in train mode, against a copy in eval mode whose running statistics are those of this batch.

# %%
def norms(network):
    return [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]


def with_statistics_of(decoder, code):
    """A copy in eval mode, whose running statistics are those of this batch."""
    still = copy.deepcopy(decoder).train()
    for layer in norms(still):
        layer.momentum = 1.0
        layer.register_forward_hook(lambda layer, given, _: setattr(layer, "seen", given[0]))
    still(code)  # at momentum 1 the running variance is the batch's, times n/(n − 1)
    for layer in norms(still):
        layer._forward_hooks.clear()
        layer.running_var.copy_(layer.seen.var([0, 2, 3], correction=0))
    return still.eval()


x = held_out[:8].double()
training = copy.deepcopy(regularised.decoder).double()
with torch.no_grad():
    code = regularised.encoder(held_out[:8]).double()
    still = with_statistics_of(training, code)
counted = [int(layer.num_batches_tracked) for layer in norms(training)]
with torch.no_grad():
    in_training = losses.grae_approx(x, code, training.train(), likelihood, beta, n_columns=latent_dim).decoder
    held = losses.grae_approx(x, code, still, likelihood, beta, n_columns=latent_dim).decoder
assert relative_error(in_training, held) < 1e-9
assert [int(layer.num_batches_tracked) - before for layer, before in zip(norms(training), counted, strict=True)] == [1] * len(counted)

# %% [markdown]
# Layer and group normalisation look at one image only and need no such care. **Dropout** does: the Jacobian of a random function is not defined, and the package says so. Leave it out of the decoder, or put just these layers in eval mode. The other errors
# that a new model meets first are a code that is not flat, and a decoder that returns an object.

# %%
def refusal(decode, code):
    """What the objective says to a decoder or a code that it cannot take."""
    try:
        losses.grae_approx(held_out[:4], code, decode, likelihood, beta)
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("it was accepted")


code, dropping = model.encoder(held_out[:4]), nn.Sequential(nn.Dropout(0.1), model.decoder)
maps = library.encode(held_out[:4]).latent_dist.mode()
table([
    {"given": "dropout in the decoder, in train mode", "answer": refusal(dropping.train(), code)},
    {"given": "a feature map as the code", "answer": refusal(lambda z: library.decode(z).sample, maps)},
    {"given": "a decoder that returns an object", "answer": refusal(lambda z: library.decode(z.unflatten(1, maps.shape[1:])), maps.flatten(1))},
])  # fmt: skip
dropping[0].eval()
assert losses.grae_approx(held_out[:4], code, dropping, likelihood, beta).total.isfinite().all()

# %% [markdown]
# Not every breach is noticed. A decoder that draws noise of its own (`torch.randn` in its `forward`) is accepted, and its regulariser is that of one draw; so is one in which images meet otherwise than by batch normalisation.
#
# **Attention** works because the package writes it out while it takes tangents: torch's fused kernels have no forward mode, and the tangent of its softmax cannot be differentiated again. (`nn.MultiheadAttention` calls the kernel from within, where nothing can take its place, and ends in torch's own error: write its few lines out.) A kernel of your own, written with `torch.autograd.Function`, needs
# a `jvp`. TorchScript is refused, since it can lose tangents in silence; `torch.compile` the training step instead of the decoder.
#
# **Scaling factors.** Latent diffusion models multiply the code by a stored number, 1 over its standard deviation, to bring it near unit variance. That is what the two regularisers do while training:

# %%
table([
    {"model": kind, "trained": how, "1/√(mean square of a code)": found["mean square of a code"] ** -0.5}
    for kind, pair in {"plain module": (before, after), "AutoencoderKL": (library_before, library_after)}.items()
    for how, found in zip(("as its author would", "with GRAE≈"), pair, strict=True)
], **{"1/√(mean square of a code)": ".2f"})  # fmt: skip
show(f"The default that the package stores, for the model it was made for, is {library.config.scaling_factor}.")

# %% [markdown]
# ## The paper's statement and ours
#
# K&P give no number for this. Their sentence is compared with what was found on two models that are not theirs.

# %%
found = {"plain module": (before, after, beta), "AutoencoderKL": (library_before, library_after, library_beta)}
table([
    {"K&P §5.3": "“should also be possible to use the proposed objectives for training the models”", "model": kind,
     "ours": f"β = {used:g}: squared error {b['squared error']:.1f} (mean image {mean_image:.1f}), mean square of a code {b['mean square of a code']:.2f}, without: {a['mean square of a code']:.1f}",
     "verdict": "holds" if b["squared error"] < 0.6 * mean_image and abs(b["mean square of a code"] - 1) < abs(a["mean square of a code"] - 1) else "not seen in so few steps"}
    for kind, (a, b, used) in found.items()
])  # fmt: skip

# %% [markdown]
# ## What is not reproduced here
#
# - Samples of the paper's quality: for those, [Samples across β](31_samples_over_beta.ipynb) trains the paper's networks for the paper's number of steps.
# - Weights of a published model. To go on from them, replace the constructor by `AutoencoderKL.from_pretrained(...)`, with images scaled as that model expects; its latents have some thousand dimensions, and one column a step still costs one tangent.
# - One seed, one β a model: [FID across β](33_fid_across_beta.ipynb) is about how much that says.
#
# ## Exercises
#
# **1.** Your loop has the mean squared error over all pixels, `F.mse_loss(g, x)`, not half the sum. With which factor do the two other terms of `grae_approx` join it, so that the gradients keep their direction? ([Other conventions of β](../betas.md) have a page of their own.)

# %% tags=["hide-cell"]
# ½ Σ(x − g)² = (D/2)·mse: divide everything by D/2.
x, D = held_out[:8], held_out[0].numel()
code = regularised.encoder(x)
terms = losses.grae_approx(x, code, regularised.decoder, likelihood, beta, generator=torch.Generator().manual_seed(seed))
loss = F.mse_loss(regularised.decoder(code), x) + 2 / D * (terms.latent + terms.decoder).mean()
weight = regularised.encoder[0].weight
ours, whole = (torch.autograd.grad(value, weight, retain_graph=True)[0] for value in (loss, terms.total.mean()))
cosine = F.cosine_similarity(ours.flatten(), whole.flatten(), dim=0).item()
show(f"2/D = {2 / D:.2g}. Cosine between the two gradients: {cosine:.6f}; ratio of their lengths × D/2: {(ours.norm() / whole.norm() * D / 2).item():.4f}.")
assert cosine > 0.9999

# %% [markdown]
# **2.** A package multiplies the code by a scaling factor $s$ and divides by it before decoding. What becomes of the decoder's Jacobian and of its regulariser?

# %% tags=["hide-cell"]
# g(z/s) has the Jacobian J/s: columns shorter by s, as if β were s²β inside the logarithm.
s = 2.0
with torch.no_grad():
    J, scaled = (
        jacobians.jacobian(decode, z)
        for decode, z in ((regularised.decoder, code), (lambda z: regularised.decoder(z / s), s * code))
    )
    shorter = losses.grae_approx(x, s * code, lambda z: regularised.decoder(z / s), likelihood, beta, n_columns=latent_dim).decoder
    same = losses.grae_approx(x, code, regularised.decoder, likelihood, s**2 * beta, n_columns=latent_dim).decoder / s**2
assert relative_error(scaled, J / s) < 1e-4 and relative_error(shorter, same) < 1e-4
show(f"J becomes J/s, and the regulariser that of s²β, divided by s²: {shorter[0].item():.4f} nats by both routes. The term of the code grows by s². Only one s is a stationary point, so fold the factor into the model before training with GRAE.")

# %% [markdown]
# **3. Change a parameter.** Set `beta = 1.0` in the cell of parameters and run the chapter again, on Colab or here. Guess first: do more latents of the plain module fall silent, and what happens to the squared error?

# %% tags=["hide-cell"]
# A latent is worth having while its column is longer than √β, roughly; count on the trained module how many would stay.
with torch.no_grad():
    squares = jacobians.jacobian(regularised.decoder, regularised.encoder(held_out[: sizes.n_measured])).square().sum(1).mean(0)
staying = {b: int((squares > b).sum()) for b in (0.1, beta, 1.0, 10.0)}
show("Latents whose mean squared column is above β: " + ", ".join(f"{n} of {latent_dim} for β = {b:g}" for b, n in sorted(staying.items())) + ". A larger β silences the shortest columns first, and their part of the image goes into the squared error.")
assert all(one >= other for (_, one), (_, other) in zip(sorted(staying.items())[:-1], sorted(staying.items())[1:], strict=True))

# %% [markdown]
# ## What to take away
#
# - A code `[batch, d]` and a decoder from codes to images are all that `losses.grae_approx` needs. A loop changes in one line, a model in none.
# - What it brings to a plain autoencoder is a scale of the code that suits the prior, and columns of the Jacobian nearer to orthogonal; what it costs is a tangent a step, and reconstruction in proportion to β.
# - Check the regulariser of a new model once against differences. It takes five lines, and finds a decoder that mixes images or draws noise.
#
# The functions used here are described in the [API reference](../api.md).
