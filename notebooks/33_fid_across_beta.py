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
# # FID across β
#
# **Claim.** Samples of a β-VAE and of GRAE≈ stay close in terms of FID as β varies (Kumar & Poole 2020, Fig. 4 and §7).
#
# The paper's figure has one curve for each model, five runs at every β, and the remark that all standard deviations are less than 1. Here two questions are asked at each β: are the two models within each other's error bars, and does a test tell them apart?
# First comes what the number measures, what it hides, and how it depends on the number of images and on the network that looks at them.
#
# | | |
# |---|---|
# | **You will learn** | what the Fréchet distance is; how two bad sets of images get the same FID; how its bias is taken off; how to compare two models over β by a test |
# | **You need** | [Samples across β](31_samples_over_beta.ipynb); the models are trained and measured, one each, by [FID of one model](32_fid_of_one_model.ipynb) |
# | **Time** | reading 20 minutes; running a minute and a half on two cores (`book`); `full` reads what a sweep left and runs in a minute, the sweep itself wants GPUs |

# %% tags=["parameters"]
dataset: str = "auto"  # celeba where it is on this disk, else faces (drawn); or lfw, mnist, fashion_mnist, digits, sprites, cifar10
budget: str = "book"  # test, book or full: how many real images, and how large a sweep is run here; full needs one that was run
sweep: str = ""  # the folder that a sweep of chapter 32 left; empty: a small one is run here
betas: list[float] = []  # the values of β of the small sweep; empty takes the budget's
repeats: int = 0  # its models per objective and β, with seeds of their own; 0 takes the budget's
steps: int = 0  # its training steps per model; 0 takes the budget's
latent_dim: int = 16  # d, the number of latent variables; 128 in the paper
n_images: int = 0  # N of the small sweep; 0 takes the budget's
features: str = "auto"  # the network that looks at the images: mnist, cifar10, inception, or auto: what suits the data
workers: int = 2  # models of the small sweep that are trained at a time
seed: int = 0  # of the real images that are compared, and the first of the sweep's
device: str = "auto"  # cpu, cuda, or auto: the GPU where there is one

# %%
import json
import math
import subprocess
import tempfile
import textwrap
import warnings
from collections import Counter, defaultdict
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import integrate, stats

from grae_helpers import data, fid, plotting, plotting_fid, published, results, runtime
from grae_helpers import features as extractors
from grae_helpers import sweep as sweeps
from grae_helpers.plotting import show, table

PARAMETERS = dict(
    dataset=dataset, budget=budget, sweep=sweep, betas=betas, repeats=repeats, steps=steps, latent_dim=latent_dim,
    n_images=n_images, features=features, workers=workers, seed=seed, device=device,
)
runtime.check_parameters(**PARAMETERS)
where = runtime.device(device)
plotting.use_style()
warnings.simplefilter("ignore", fid.SingularCovariance)  # said below, once
UNIT, PAIR = "32_fid_of_one_model", tuple(published.FID_MODELS)
NAMES = published.FID_MODELS | {"rae_gradient": "RAE, gradient", "rae_l2": "RAE, weights", "rae_spectral": "RAE, spectral", "autoencoder": "autoencoder"}

# %%
sizes = runtime.sizes(
    budget,
    test={"betas": [0.1], "repeats": 1, "others": [], "steps": 45, "n_images": 140, "n_real": 150},
    book={
        "betas": [0.1, 1.0], "repeats": 2, "others": ["rae_gradient", "autoencoder"], "steps": 60, "n_images": 150,
        "n_real": 400,
    },
    full={
        "betas": published.SAMPLE_BETAS, "repeats": published.FID["repeats"], "others": list(NAMES)[2:],
        "steps": published.CELEBA["steps"], "n_images": 10_000, "n_real": 5_000,
    },
    betas=betas, repeats=repeats, steps=steps, n_images=n_images,
)  # fmt: skip
if budget == "full" and not sweep:
    raise ValueError(f"sweep: the full budget reads a sweep of notebooks/{UNIT}.py, and got none; the end of this chapter has its command")

# %% [markdown]
# ## The Fréchet distance
#
# Two sets of images go through a network that was trained for something else, and become two clouds of feature vectors. FID (Heusel et al. 2017) takes each cloud for a Gaussian and
# returns the squared Fréchet, or Wasserstein-2, distance of the two: the least mean square distance over which one can be moved onto the other,
#
# $$\mathrm{FID} = \lVert\mu_a - \mu_b\rVert^2 + \operatorname{tr}\Sigma_a + \operatorname{tr}\Sigma_b - 2\operatorname{tr}\big(\Sigma_a^{1/2}\Sigma_b\Sigma_a^{1/2}\big)^{1/2}.$$
#
# Of two Gaussians in one dimension, mass moves from quantile to quantile, and the cost is $\int_0^1 (F_a^{-1}(u) - F_b^{-1}(u))^2 du = (\mu_a - \mu_b)^2 + (\sigma_a - \sigma_b)^2$. Where the covariances commute, each common axis is such a case:
# $\sum_i (\sqrt{\lambda_i} - \sqrt{\lambda_i'})^2$. Both are checked against `fid.frechet_distance`.

# %%
(m, s), (m2, s2) = (0.3, 1.0), (2.0, 2.5)
moved = integrate.quad(lambda u: (stats.norm.ppf(u, m, s) - stats.norm.ppf(u, m2, s2)) ** 2, 0, 1)[0]
one = fid.frechet_distance(*(np.array(part) for part in ([m], [[s**2]], [m2], [[s2**2]])))
rng = np.random.default_rng(0)
axes, (spread, spread2) = np.linalg.qr(rng.normal(size=(6, 6)))[0], rng.gamma(2.0, size=(2, 6))
commuting = fid.frechet_distance(np.zeros(6), axes * spread @ axes.T, np.zeros(6), axes * spread2 @ axes.T)
closed = np.square(np.sqrt(spread) - np.sqrt(spread2)).sum()
table([
    {"case": "one dimension, quantiles moved", "expected": moved, "frechet_distance": one},
    {"case": "six dimensions, common axes", "expected": closed, "frechet_distance": commuting},
], expected=".9f", frechet_distance=".9f")  # fmt: skip
assert math.isclose(moved, one, rel_tol=1e-6) and math.isclose(one, (m - m2) ** 2 + (s - s2) ** 2, rel_tol=1e-9)
assert math.isclose(commuting, closed, rel_tol=1e-9)

# %% [markdown]
# ## What FID hides
#
# A mean and a covariance are all that FID sees. So take real images only, and damage them in ways that have nothing in common:
#
# - **few, repeated**: one image in twenty, each shown twenty times. Every image is perfect, and most of the data are missing.
# - **noise**: all the images, each with noise on it. None is perfect, and nothing is missing.
# - **blur**: all the images, each out of focus.
#
# The strengths of noise and blur are searched, by interpolation, until their FID is that of the first. Two more numbers tell the copies from the other two (Kynkäänniemi et al. 2019): **precision**, the share of the images that are near a real one, and **recall**, the share of the
# real images that have one of them near. And a last set holds no images at all: feature vectors **drawn from a Gaussian** with the real mean and covariance.

# %%
rows = sweeps.collect(sweep) if sweep else []
found = {row["dataset"] for row in rows} or {data.resolve(dataset, paper="celeba", fallback="faces")}
if len(found) > 1 or (rows and dataset not in ("auto", *found)):
    raise ValueError(f"sweep: expected one data set, {dataset}, got {', '.join(sorted(found))}")
name = found.pop()
train = data.load(name, "train", n=2 * sizes.n_real, **({"size": 64} if name == "cifar10" else {}))
n = min(sizes.n_real, len(train) // 2)
first, second = train.images[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: 2 * n]].split(n)
network = rows[0]["features"] if rows else extractors.choose(features, tuple(first.shape[1:]))
extractor = extractors.load(network, device=where)


def seen(images: torch.Tensor, by=extractor) -> torch.Tensor:
    """The features of uint8 images."""
    return extractors.extract(by, images, batch_size=250 if where.type == "cuda" else 32)


reference, real = seen(first), seen(second)
show(f"Data: {train.source}. Two sets of {n:,} of its training images, features of the **{extractor.title}**, D = {extractor.dimension:,}.")
if n <= extractor.dimension:
    show("N is not above D: the covariances are singular, and every FID here is far too large. They compare with each other only.")

# %%
def noisy(strength: float) -> torch.Tensor:
    """The second set with Gaussian noise of this standard deviation, in grey values from 0 to 1."""
    noise = torch.randn(second.shape, generator=torch.Generator().manual_seed(seed))
    return extractors.as_uint8(second.float() / 255 + strength * noise)


def blurred(strength: float) -> torch.Tensor:
    """The second set under a Gaussian blur of this standard deviation, in pixels."""
    i = torch.arange(-12, 13)
    kernel = torch.softmax(-(i**2) / (2 * strength**2), 0).expand(second.shape[1], 1, 1, -1)
    x = second.float() / 255
    for weights, pad in ((kernel, (12, 12, 0, 0)), (kernel.mT, (0, 0, 12, 12))):
        x = F.conv2d(F.pad(x, pad, mode="replicate"), weights, groups=len(kernel))
    return extractors.as_uint8(x)


def matched(damage, target: float, low: float, high: float) -> tuple[float, torch.Tensor]:
    """The strength at which the damaged set has this FID, within 2 %, and its features: logarithms interpolated."""
    ends = [(math.log(s), math.log(fid.distance(reference, seen(damage(s))) / target)) for s in (low, high)]
    for _ in range(20):
        (a, fa), (b, fb) = ends
        middle = min(max(a - fa * (b - a) / (fb - fa), a + 0.1 * (b - a)), b - 0.1 * (b - a))
        features = seen(damage(math.exp(middle)))
        error = math.log(fid.distance(reference, features) / target)
        if abs(error) < 0.02:
            return math.exp(middle), features
        ends[error > 0] = (middle, error)
    raise RuntimeError(f"no strength from {low} to {high} has a FID of {target:.3g}")


# %%
few = real[torch.arange(n) % max(2, n // 20)]
target = fid.distance(reference, few)
grain, grainy = matched(noisy, target, 0.01, 1.0)
radius, soft = matched(blurred, target, 0.3, 6.0)
mean, covariance = fid.moments(real)
values, vectors = np.linalg.eigh(covariance)
drawn = mean + (rng.normal(size=real.shape) * np.sqrt(values.clip(min=0))) @ vectors.T
sets = {
    "real": real, "few, repeated": few, "noise": grainy, "blur": soft, "no images, Gaussian": torch.from_numpy(drawn).float(),
}  # fmt: skip
MEASURES = {"fid": "FID", "kid": "KID", "precision": "precision", "recall": "recall"}
damaged = {what: fid.measure(reference, seen_as) for what, seen_as in sets.items()}
table(
    [{"set": what} | {label: of[key] for key, label in MEASURES.items()} for what, of in damaged.items()],
    FID=".3g", KID=".3g", precision=".2f", recall=".2f",
)  # fmt: skip

# %% mystnb={"image": {"alt": "Four panels, FID, KID, precision and recall, with a mark each for real images, few repeated, noise, blur and a Gaussian: three have the same FID and different precision and recall."}, "figure": {"caption": "Sets of real images, damaged until three of them have the same FID. Dotted: real images, undamaged.", "name": "fig-damaged"}}
panels = {what: {"": {key: [value] for key, value in of.items()}} for what, of in damaged.items() if what != "real"}
figure = plotting_fid.by_model(panels, MEASURES, damaged["real"])

# %%
same = [damaged[what]["fid"] for what in ("few, repeated", "noise", "blur")]
apart = max(abs(damaged["few, repeated"][key] - damaged["noise"][key]) for key in ("precision", "recall"))
assert max(same) / min(same) < 1.05 and apart > 0.25
assert damaged["few, repeated"]["recall"] < damaged["real"]["recall"] / 2
assert damaged["no images, Gaussian"]["fid"] < target and damaged["no images, Gaussian"]["precision"] < damaged["real"]["precision"]
show(
    f"Noise of {grain:.3f} grey values and a blur of {radius:.1f} pixels have the FID of one image in {n // max(2, n // 20)}: {same[1]:.3g}, {same[2]:.3g} and {same[0]:.3g}. "
    f"Their precision is {damaged['noise']['precision']:.2f}, {damaged['blur']['precision']:.2f} and {damaged['few, repeated']['precision']:.2f}, "
    f"and their recall {damaged['noise']['recall']:.2f}, {damaged['blur']['recall']:.2f} and {damaged['few, repeated']['recall']:.2f} "
    "(copies have no distance from each other, so nothing but themselves is near them). "
    f"The Gaussian, which is no set of images, has a FID of {damaged['no images, Gaussian']['fid']:.3g}, where real images have {damaged['real']['fid']:.3g}. "
    f"Its precision of {damaged['no images, Gaussian']['precision']:.2f} gives it away."
)

# %% [markdown]
# KID (Bińkowski et al. 2018) compares the clouds themselves, by a kernel of third degree, so that it sees third moments as well; and its estimate has no bias in N. It may rank the sets otherwise than FID does; neither is wrong, they measure different things.
#
# ## The number of images
#
# The FID of two sets of the *same* images' distribution should be 0, and is not: with N images on each side the means and covariances are estimates, and their errors move the two apart. The expectation is about
# $\mathrm{FID}_\infty + c/N$, so FIDs at different N do not compare. A straight line through a few N, continued to $1/N = 0$, takes the bias off (Chong & Forsyth 2020). The known answer here is 0.

# %%
lines = {"real images": fid.extrapolated(reference, real, seed=seed), "the same with noise": fid.extrapolated(reference, grainy, seed=seed)}
table([
    {"set": what, f"FID at N = {line.sizes[-1]:,}": f"{line.values[-1]:.3g}", f"at N = {line.sizes[0]:,}": f"{line.values[0]:.3g}",
     "FID∞": f"{line.limit:.3g}".replace("-", "−"), "± s.e.": f"{line.standard_error:.2g}"}
    for what, line in lines.items()
])  # fmt: skip
floor = lines["real images"]
away = floor.limit / floor.standard_error
verdict = "consistent with 0" if abs(away) < 3 else "not 0"
show(
    f"Between N = {floor.sizes[0]:,} and {floor.sizes[-1]:,} the FID of real images falls from {floor.values[0]:.3g} to {floor.values[-1]:.3g}; "
    f"FID∞ is {floor.limit:.2g} ± {floor.standard_error:.2g}: {verdict}.".replace("-", "−")
)
assert floor.slope > 0 and floor.values[0] > floor.values[-1] > 0
assert abs(away) < 3 or floor.sizes[0] <= extractor.dimension, "with more images than features, the bias is a line in 1/N"

# %% mystnb={"image": {"alt": "FID against one over N for real images and for real images with noise: two straight lines, the first ending near zero at infinitely many images."}, "figure": {"caption": "FID at several N against 1/N, the straight lines, and their limits at infinitely many images (open, ± 2 standard errors). For real images against real images the limit is 0.", "name": "fig-fid-size"}}
figure = plotting_fid.against_size(lines)

# %% [markdown]
# ## Which features
#
# FID's own network is an Inception trained on ImageNet, with the weights of 2015 and a resizing of its own. Where these weights are, they can be asked for by name (`-p features inception`), and numbers then
# compare with published ones of the same protocol. Elsewhere two small networks that come with this book look at the images. A distance in other features is another number, and its name says whose it is:

# %%
other = extractors.load("mnist" if network == "cifar10" else "cifar10", device=where)
also = {"real images": second, "the same with noise": noisy(grain)}
per_network = [
    {"set": what, extractor.title: fid.distance(reference, sets["real" if what == "real images" else "noise"]),
     other.title: fid.distance(seen(first, other), seen(images, other))}
    for what, images in also.items()
]  # fmt: skip
table(per_network, **dict.fromkeys((extractor.title, other.title), ".3g"))
ratios = [row[other.title] / row[extractor.title] for row in per_network]
comparable = "The numbers of this page are Inception FIDs." if network == "inception" else "No number of this page compares with the paper's, nor with any other Inception FID."
show(f"The FID of the {other.title} is {ratios[0]:#.2g} times that of the {extractor.title} for real images, and {ratios[1]:#.2g} times for noisy ones: no factor turns one into the other. {comparable}")

# %% [markdown]
# ## The sweep
#
# One job is one model: [chapter 32](32_fid_of_one_model.ipynb) with its objective, β and seed. The β-VAE and GRAE≈ run at every β, the other autoencoders at β = 0.1. The table is what the finished jobs recorded.

# %%
def unit() -> Path:
    """Chapter 32 as a file: of this checkout, else of the commit that the package was installed from (on Colab)."""
    for place in (Path(results.__file__).parents[1] / "notebooks", Path.cwd(), Path.cwd() / "notebooks"):
        if (place / f"{UNIT}.py").is_file():
            return place / f"{UNIT}.py"
    origin, copy = json.loads(distribution("grae-helpers").read_text("direct_url.json") or "{}"), tempfile.mkdtemp()
    if "vcs_info" not in origin:
        raise FileNotFoundError(f"{UNIT}.py: expected it in notebooks/ beside the package; run this chapter in a checkout")
    subprocess.run(["git", "clone", "-q", origin["url"], copy], check=True)
    subprocess.run(["git", "-C", copy, "checkout", "-q", origin["vcs_info"]["commit_id"]], check=True)
    return Path(copy, "notebooks", f"{UNIT}.py")


def swept(folder: str) -> list[dict]:
    """Run the small sweep: both models over β, the others at β = 0.1, one of each."""
    fixed = {"dataset": name, "budget": "test", "latent_dim": latent_dim, "steps": sizes.steps, "n_images": sizes.n_images, "features": network, "device": device}
    seeds = [seed + i for i in range(sizes.repeats)]
    grids = [{"objective": list(PAIR), "beta": sorted(sizes.betas), "seed": seeds}]
    grids += [{"objective": sizes.others, "beta": [0.1], "seed": seeds[:1]}] if sizes.others else []
    for grid in grids:
        outcomes = sweeps.run(unit(), grid, folder, fixed=fixed, workers=workers, threads=1, report=None)
        for outcome in outcomes:
            if outcome.state == "failed":
                raise RuntimeError(f"{outcome.job}: {outcome.problem}")
    return sweeps.collect(folder)


# %% tags=["hide-output"]
if not sweep:
    with tempfile.TemporaryDirectory() as folder:
        rows = swept(folder)
if not rows:
    raise ValueError(f"sweep: {sweep} has no finished job")

# %%
DESIGN = ("dataset", "budget", "latent_dim", "steps", "width", "batch_size", "learning_rate", "n_images", "n_codes", "features", "components", "arithmetic")


def design(rows: list[dict]) -> dict:
    """What all jobs have in common; ValueError where they do not, for then they do not compare."""
    found = {key: {row[key] for row in rows} for key in DESIGN}
    if mixed := {key: sorted(map(str, values)) for key, values in found.items() if len(values) > 1}:
        raise ValueError(f"sweep: expected jobs that differ in objective, β and seed only, got {mixed}")
    return {key: values.pop() for key, values in found.items()}


def described(rows: list[dict], label: str) -> None:
    """Say what was run, and from which code."""
    common, commits = design(rows), sorted({str(row["commit"]) for row in rows})
    at = [f"commit {commit[:7]}" + " with uncommitted changes" * commit.endswith("-dirty") for commit in commits]
    seconds = sum(row["train_seconds"] for row in rows)
    show(
        f"**{label}**: {len(rows)} models on {common['dataset']}, {common['steps']:,} steps, d = {common['latent_dim']}, width {common['width']:.3g}; "
        f"features of the **{extractors.TITLES[common['features']]}**, N = {common['n_images']:,}; trained in {seconds / 60:,.1f} minutes in all, on {', '.join(sorted({row['device'] for row in rows}))}. "
        + (f"All jobs ran at {at[0]}." if len(at) == 1 else f"**The jobs ran at different states of the code**: {'; '.join(at)}.")
    )


learnt = [row["error"] < row["trivial_error"] for row in rows if row["objective"] in PAIR and row["beta"] <= 0.1]
show(f"{sum(learnt)} of the {len(learnt)} β-VAEs and GRAE≈s at β ≤ 0.1 reconstruct held-out images better than the mean image does.")
as_given = not (steps or sweep or repeats or betas)  # at 60 steps, another seed or β may not be there yet
assert all(learnt) or not as_given, "at a small β, a model did not learn"
label = f"Sweep {Path(sweep).name}" if sweep else f"Live sweep, `{budget}` budget"
described(rows, label)

# %%
def protocol(rows: list[dict]) -> dict[str, str]:
    """The protocol that the jobs have in common; what differs from model to model is left out."""
    each = [json.loads(row["protocol"]) for row in rows]
    return {key: value for key, value in each[0].items() if all(one.get(key) == value for one in each)}


table([{"protocol": key, "value": value} for key, value in protocol(rows).items()])

# %% [markdown]
# ## FID over β, the figure
#
# Samples from the prior as the models were trained, which is the paper's protocol, and beside them from the settled models: short runs at small β have not brought their codes to the prior, and then the
# samples say more about the number of steps than about β ([Samples across β](31_samples_over_beta.ipynb) explains it, and why nothing else about the model changes).

# %% mystnb={"image": {"alt": "FID and KID of samples over beta for beta-VAE and GRAE approximation, as trained and settled, with bars of one standard deviation, a dot for each run, and the floor of real images dotted."}, "figure": {"caption": "FID and KID over β, the sweep described above: as trained (above) and settled (below). Mean ± standard deviation over seeds, a dot for each run; each panel has a scale of its own. Dotted, or noted above the panel where far away: real images of the training split against the same held-out images.", "name": "fig-fid-beta"}}
def over_beta(rows: list[dict], measures: tuple[str, str]):
    """Two measures over β, as trained and settled: the figure of both models."""
    labels = {f"{key}{end}": MEASURES[key] + text for end, text in {"": ", as trained", "_settled": ", settled"}.items() for key in measures}
    curves = {NAMES[objective]: {key: defaultdict(list) for key in labels} for objective in PAIR}
    for row in rows:
        for key in labels if row["objective"] in PAIR else ():
            curves[NAMES[row["objective"]]][key][row["beta"]].append(row[key])
    floor = {key: rows[0][f"{key.removesuffix('_settled')}_floor"] for key in labels}
    return plotting_fid.over_beta(curves, labels, floor)


figure = over_beta(rows, ("fid", "kid"))

# %% mystnb={"image": {"alt": "Precision and recall of samples over beta for beta-VAE and GRAE approximation, as trained and settled, with the floor of real images dotted."}, "figure": {"caption": "Precision and recall over β, the same sweep, as the figure above. Dotted: real images against real images.", "name": "fig-precision-recall"}}
figure = over_beta(rows, ("precision", "recall"))

# %% [markdown]
# FID is one number for two faults that precision and recall keep apart: samples that are near no real image lower the precision, and real images that no sample is near, as where all samples are alike, lower the recall.
#
# ## The verdict, by a test
#
# For each β: the means and standard deviations of both models, whether they are within each other's error bars (their difference at most the smaller of the two standard deviations, so that each mean lies on the other's bar), and whether they can be told
# apart: Welch's t-test, which lets the two deviations differ, with Holm's correction, which makes a false alarm at any of the β no likelier than in a single test. With one run each neither can be said, and is not. The paper's own bound, a standard deviation below 1, belongs to its features: beside it stands the
# deviation as a share of the range over β.

# %%
KINDS = {"": "prior, as trained", "_settled": "prior, settled", "_mixture": "mixture"}
DECIDED = {True: "yes", False: "no", None: "–"}


def text(value: float | None, form: str = ".3g") -> str:
    """A number, or a dash where there is none to give; large ones in full, not with an exponent."""
    form = form if value is None or abs(value) < 100 else form.replace(".3g", ",.0f").replace(".2g", ",.0f")
    return "–" if value is None else format(value, form).replace("-", "−")


def with_deviation(mean: float | None, deviation: float | None) -> str:
    return text(mean) + ("" if deviation is None else f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{text(deviation, '.2g')}")


def lines_of(verdicts: list[dict]) -> list[dict]:
    """The table of `published.fid_verdicts` as a page shows it."""
    return [
        {"β": f"{line['β']:g}", "runs": line["runs"]}
        | {NAMES[o]: with_deviation(line["means"][i], line["deviations"][i]) for i, o in enumerate(PAIR)}
        | {"difference": text(line["difference"], "+.3g"), "within error bars": DECIDED[line["within"]],
           "p (Holm)": text(line["p"], ".2g"), "distinguishable": DECIDED[line["distinguishable"]],
           "deviation / range": text(line["share"], ".0%")}
        for line in verdicts
    ]  # fmt: skip


# %%
def by_chance(runs: int) -> float:
    """How often two equal models with so many runs each are within each other's error bars: 20,000 pairs of Gaussian samples."""
    draws = np.random.default_rng(0).normal(size=(2, 20_000, runs))
    means, deviations = draws.mean(2), draws.std(2, ddof=1)
    return float((abs(means[0] - means[1]) <= deviations.min(0)).mean())

# %%
def decided(rows: list[dict], label: str) -> dict[str, list[dict]]:
    """Show what holds for each way to sample, and for samples from the prior the table behind it."""
    found = {end: published.fid_verdicts(rows, f"fid{end}") for end in KINDS}
    said = []
    for end, kind in KINDS.items():
        statements = published.fid_statements(found[end])
        said += [{"samples": kind} | line for line in (statements[:1] if end else statements)]
        tested = [line for line in found[end] if line["within"] is not None]
        assert (statements[0]["verdict"] == "holds") == (0 < len(tested) == sum(line["within"] for line in tested))
        if end != "_mixture":
            show(f"{label}, FID of samples from the **{kind}**; {len(tested)} of {len(found[end])} β have two runs or more of each model:")
            table(lines_of(found[end]))
    show(f"{label}, what the paper says of them:")
    table(said)
    if apart := [line for line in found[""] if line["distinguishable"]]:
        worse = sorted({NAMES[PAIR[line["difference"] > 0]] for line in apart})
        ratio = max(max(line["means"]) / min(line["means"]) for line in apart)
        show(f"As trained they are told apart at β = {', '.join(text(line['β'], 'g') for line in apart)}; the higher FID there is that of {' or '.join(worse)}, up to {ratio:.2g} times the other's.")
    if equal := [by_chance(line["runs"]) for line in tested]:
        show(f"Two models with no difference at all would be within the bars at {sum(equal):.1f} of {len(equal)} β on average, and at every one with a probability of {math.prod(equal):.0%}.")
    return found


verdicts = decided(rows, label)

# %% [markdown]
# Neither answer alone will do. Equal models leave the error bars by chance, more often with fewer runs; and models that a test cannot tell apart need not be equal, for with few runs it sees large differences only.
# The test takes the runs as independent, although a seed means the same first weights and latents for both models. At the `book` budget the models are small and hardly trained, and the
# table is there to show how the question is decided. The frozen sweeps at the end are the ones to read.
#
# ## Regularised autoencoders, from the prior and from a mixture
#
# K&P §6 relates GRAE to the regularised autoencoders of Ghosh et al. (2020), which have no prior: their samples come from a mixture of Gaussians that is fitted to the codes after training. Which of the two is better for which model?

# %%
def baselines(rows: list[dict]) -> tuple[float, dict[str, dict[str, dict[str, list]]]]:
    """Every model at the β where the others ran (at the one next to 0.1, if none did): kind → measure → runs."""
    at = {row["beta"] for row in rows if row["objective"] in list(NAMES)[2:]} or {row["beta"] for row in rows}
    beta = min(at, key=lambda beta: abs(math.log(beta / 0.1)))
    found = {}
    for objective, label in NAMES.items():
        runs = [row for row in rows if (row["objective"], row["beta"]) == (objective, beta)]
        if runs:
            found[label] = {kind: {key: [run[f"{key}{end}"] for run in runs] for key in MEASURES} for end, kind in KINDS.items()}
    return beta, found


def beside_mixture(rows: list[dict]):
    """The figure of all models at one β."""
    return plotting_fid.by_model(baselines(rows)[1], MEASURES, {key: rows[0][f"{key}_floor"] for key in MEASURES})


# %%
def better(rows: list[dict]) -> None:
    """Say for which model prior or mixture has the lower FID, by a paired test over the runs where there are two."""
    beta, found = baselines(rows)
    lines = []
    for label, kinds in found.items():
        prior, mixture = (np.array(kinds[kind]["fid"]) for kind in ("prior, as trained", "mixture"))
        several = len(prior) > 1
        p = float(stats.ttest_rel(prior, mixture).pvalue) if several else None
        lower = "mixture" if mixture.mean() < prior.mean() else "prior"
        lines.append({
            "model": label, "runs": len(prior), "prior": with_deviation(prior.mean(), prior.std(ddof=1) if several else None),
            "mixture": with_deviation(mixture.mean(), mixture.std(ddof=1) if several else None),
            "lower": lower, "p": text(p, ".2g"), "verdict": "not decidable" if p is None else lower if p < 0.05 else "not distinguishable",
        })  # fmt: skip
    show(f"FID at β = {beta:g}, samples from the prior (as trained) and from the mixture, and p of a t-test paired by seed, for each model alone:")
    table(lines)
    show(f"The mixture has the lower FID for {'; '.join(line['model'] for line in lines if line['lower'] == 'mixture') or 'none of the models'}.")


better(rows)

# %% mystnb={"image": {"alt": "For each model at one beta, FID, KID, precision and recall of samples from the prior as trained, from the prior settled and from the mixture, with the floor dotted."}, "figure": {"caption": "All models at one β, the same sweep: samples from the prior, as trained and settled, and from a mixture of Gaussians fitted to the codes. Mean ± standard deviation over runs. Dotted: real images.", "name": "fig-fid-mixture"}}
figure = beside_mixture(rows)

# %% [markdown]
# ## How to make it again
#
# These commands make the sweep of the table above on one machine. With `--scheduler` instead of `--workers` the same goes to a cluster: the page [how-to](../howto.md) has Slurm and Kubernetes. The chapter then reads it.

# %%
def commands(rows: list[dict], folder: str = "DIR") -> list[str]:
    """The sweeps that make these rows: one for each set of objectives and β that have the same seeds."""
    seeds = defaultdict(set)
    for row in rows:
        seeds[row["objective"], row["beta"]].add(row["seed"])
    per_objective = defaultdict(lambda: defaultdict(list))
    for (objective, beta), own in sorted(seeds.items()):
        per_objective[objective][tuple(sorted(own))].append(beta)
    blocks = defaultdict(list)
    for objective, of in per_objective.items():
        for own, at in of.items():
            blocks[tuple(at), own].append(objective)
    common = design(rows)
    fixed = " ".join(f"-p {'precision' if key == 'arithmetic' else key} {value}" for key, value in common.items())
    lines = [
        f"python -m grae_helpers.sweep notebooks/{UNIT}.py --grid objective={','.join(of)} --grid beta={','.join(f'{beta:g}' for beta in at)} "
        f"--grid seed={','.join(map(str, own))} {fixed} --out {folder} --workers 2"
        for (at, own), of in blocks.items()
    ]  # fmt: skip
    return [*lines, f"python -m tools.run_notebooks --only 33 -p budget full -p dataset {common['dataset']} -p sweep {folder}"]


for command in commands(rows):
    show("```bash\n" + " \\\n  ".join(textwrap.wrap(command, 90, break_long_words=False, break_on_hyphens=False)) + "\n```")

# %% [markdown]
# The `full` budget reads a sweep and writes its table, with the protocol, to `results/`, for each data set apart.

# %%
if budget == "full":
    common, counts = design(rows), Counter((row["objective"], row["beta"]) for row in rows if row["objective"] in PAIR)
    if lacking := sorted({(objective, beta) for objective in PAIR for _, beta in counts} - set(counts)):
        raise ValueError(f"sweep: {sweep} is not whole, and not frozen: no finished job of {lacking}")
    made = {key: value for key, value in common.items() if key not in PARAMETERS} | {
        "repeats": min(counts.values()), "betas": sorted({row["beta"] for row in rows}),
        "others": sorted({row["objective"] for row in rows} - set(PAIR)),
    }  # fmt: skip
    commits, devices = ({str(row[key]) for row in rows} for key in ("commit", "device"))
    provenance = runtime.provenance(where) | {"device": ", ".join(sorted(devices))}
    provenance["dirty"] = any(commit.endswith("-dirty") for commit in commits) or len(commits) > 1
    provenance["commit"] = min(commits).removesuffix("-dirty")  # of the jobs; where they differ, the table has each one's
    jobs = [{key: value for key, value in row.items() if key != "protocol"} for row in rows]
    given = {key: common[key] for key in ("dataset", "latent_dim", "steps", "n_images", "features")} | {"sweep": "", "device": "auto"}
    results.freeze(
        results.root() / f"33_fid_across_beta_{name}", parameters=PARAMETERS | given, sizes=vars(sizes) | {key: given[key] for key in ("steps", "n_images")} | made,
        paper=published.CELEBA | {"dataset": "celeba", "features": "inception", "repeats": published.FID["repeats"]},
        seeds=sorted({row["seed"] for row in rows}), seconds=sum(row["train_seconds"] + row["measure_seconds"] for row in rows),
        tables={"jobs": jobs, "protocol": protocol(rows)}, notebook="33_fid_across_beta", provenance=provenance,
        command=" && ".join(commands(rows)),
    )  # fmt: skip

# %% [markdown]
# ## The sweeps, frozen

# %%
kept = {which: results.find(f"33_fid_across_beta_{which}") for which in ("celeba", "lfw", "mnist")}
kept = {which: frozen for which, frozen in kept.items() if frozen is not None}
for which, frozen in kept.items():
    described(frozen.tables["jobs"], f"Frozen sweep on {which}")
    show(f"{frozen.label}.")
    table([{"protocol": key, "value": value} for key, value in frozen.tables["protocol"].items()])
if not kept:
    show("This checkout has no frozen result for this chapter; the commands above, with the sizes of the paper, make one.")


def frozen_figure(which: str, draw, *arguments):
    """A figure of a frozen sweep, or nothing where there is none."""
    return draw(kept[which].tables["jobs"], *arguments) if which in kept else None


# %% mystnb={"image": {"alt": "The frozen sweep on CelebA: FID and KID over beta for both models, as trained and settled, with bars, dots for each run, and the floor."}, "figure": {"caption": "FID and KID over β, frozen sweep on CelebA, of the size stated above, as trained (above) and settled (below). Mean ± standard deviation over seeds, a dot for each run. Dotted: real images against real images.", "name": "fig-fid-beta-celeba"}}
figure = frozen_figure("celeba", over_beta, ("fid", "kid"))

# %% mystnb={"image": {"alt": "The frozen sweep on CelebA: precision and recall over beta for both models, as trained and settled, with the floor."}, "figure": {"caption": "Precision and recall over β, frozen sweep on CelebA, of the size stated above, as the figure above.", "name": "fig-precision-recall-celeba"}}
figure = frozen_figure("celeba", over_beta, ("precision", "recall"))

# %% mystnb={"image": {"alt": "The frozen sweep on CelebA: for each model at one beta, FID, KID, precision and recall from the prior, as trained and settled, and from the mixture."}, "figure": {"caption": "All models at one β, frozen sweep on CelebA, of the size stated above: samples from the prior, as trained and settled, and from the mixture. Dotted: real images.", "name": "fig-fid-mixture-celeba"}}
figure = frozen_figure("celeba", beside_mixture)

# %% mystnb={"image": {"alt": "The frozen sweep on Labeled Faces in the Wild: FID and KID over beta for both models, as trained and settled, with bars, dots for each run, and the floor."}, "figure": {"caption": "FID and KID over β, frozen sweep on Labeled Faces in the Wild, of the size stated above, as trained (above) and settled (below). Mean ± standard deviation over seeds, a dot for each run. Dotted: real images against real images.", "name": "fig-fid-beta-lfw"}}
figure = frozen_figure("lfw", over_beta, ("fid", "kid"))

# %% mystnb={"image": {"alt": "The frozen sweep on Labeled Faces in the Wild: precision and recall over beta for both models, as trained and settled, with the floor."}, "figure": {"caption": "Precision and recall over β, frozen sweep on Labeled Faces in the Wild, of the size stated above, as the figure above.", "name": "fig-precision-recall-lfw"}}
figure = frozen_figure("lfw", over_beta, ("precision", "recall"))

# %% mystnb={"image": {"alt": "The frozen sweep on Labeled Faces in the Wild: for each model at one beta, FID, KID, precision and recall from the prior, as trained and settled, and from the mixture."}, "figure": {"caption": "All models at one β, frozen sweep on Labeled Faces in the Wild, of the size stated above: samples from the prior, as trained and settled, and from the mixture. Dotted: real images.", "name": "fig-fid-mixture-lfw"}}
figure = frozen_figure("lfw", beside_mixture)

# %% mystnb={"image": {"alt": "The frozen sweep on MNIST: FID and KID over beta for both models, as trained and settled, with bars, dots for each run, and the floor."}, "figure": {"caption": "FID and KID over β, frozen sweep on MNIST, of the size stated above, as trained (above) and settled (below). Mean ± standard deviation over seeds, a dot for each run. Dotted: real images against real images.", "name": "fig-fid-beta-mnist"}}
figure = frozen_figure("mnist", over_beta, ("fid", "kid"))

# %% mystnb={"image": {"alt": "The frozen sweep on MNIST: precision and recall over beta for both models, as trained and settled, with the floor."}, "figure": {"caption": "Precision and recall over β, frozen sweep on MNIST, of the size stated above, as the figure above.", "name": "fig-precision-recall-mnist"}}
figure = frozen_figure("mnist", over_beta, ("precision", "recall"))

# %% mystnb={"image": {"alt": "The frozen sweep on MNIST: for each model at one beta, FID, KID, precision and recall from the prior, as trained and settled, and from the mixture."}, "figure": {"caption": "All models at one β, frozen sweep on MNIST, of the size stated above: samples from the prior, as trained and settled, and from the mixture. Dotted: real images.", "name": "fig-fid-mixture-mnist"}}
figure = frozen_figure("mnist", beside_mixture)

# %%
for which, frozen in kept.items():
    decided(frozen.tables["jobs"], f"Frozen, {which}")
    better(frozen.tables["jobs"])

# %% [markdown]
# ## What is not reproduced here
#
# - **The numbers.** The paper's FIDs are of CelebA, 50,000 steps and, presumably, Inception. It states neither N nor crop nor the features' source, so that even the same sweep at full size would compare in shape and spread, and not number by number.
# - **The bound of 1 on the deviations.** It is a statement in the units of the paper's features. In those of another network it is decided all the same, and means something else; the share of the range over β is what carries over.
# - **β below 0.01.** Where a sweep has no such β, the remark that samples are better from 0.01 on is not decided. That the models are closest there, which §7 says too, is put to no test here.
# - **Settled samples, the mixture, KID, precision and recall** are ours.
#
# ## Exercises
#
# **1.** Where does FID's bias come from? Compute the FID of two sets of N draws from one standard Gaussian in D dimensions, and compare it with $c/N$ for $c = D(D + 5)/2$.

# %% tags=["hide-cell"]
D, N = 20, 2_000
draws = torch.randn(20, 2, N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
biases = [fid.distance(*pair) for pair in draws]
predicted = D * (D + 5) / (2 * N)
assert abs(np.mean(biases) - predicted) < 4 * np.std(biases, ddof=1) / math.sqrt(len(biases)) + 0.02 * predicted
show(
    "The means differ by a Gaussian of variance 2/N in each direction: 2D/N in all. For $\\Sigma = I + E$ and $I + E'$ the other part is "
    "$\\lVert E - E'\\rVert_F^2/4$ to second order, and $\\mathbb E\\lVert E - E'\\rVert_F^2 = 2 D(D+1)/N$. Together $D(D+5)/(2N)$. "
    f"Measured {np.mean(biases):.4f} on average over {len(biases)} pairs, and $D(D+5)/(2N)$ = {predicted:.4f}."
)

# %% [markdown]
# **2.** Two models have means 10.0 and 10.6 and standard deviations of 0.5 over five runs each. Are they within each other's error bars? Distinguishable? How many runs with the same numbers would tell them apart?

# %% tags=["hide-cell"]
def welch(n: int) -> float:
    """p for two sets of n runs with these means and deviations."""
    return float(stats.ttest_ind_from_stats(10.0, 0.5, n, 10.6, 0.5, n, equal_var=False).pvalue)


enough = next(n for n in range(2, 100) if welch(n) < 0.05)
assert welch(enough) < 0.05 <= welch(enough - 1)
show(f"0.6 > 0.5: no. Welch's p is {welch(5):.3f} with five runs, before any correction over β; {enough} runs are the least with p < 0.05.")

# %% [markdown]
# **3. Change a parameter.** Set `repeats = 5` and run the chapter again, on Colab or here. Guess first: with so many runs of each model, how large must a difference be, in standard deviations of a run, to be found four times out of five?

# %% tags=["hide-cell"]
def found_share(difference: float, n: int, trials: int = 2_000) -> float:
    """How often Welch's test at 0.05 tells n runs of each model apart, if their means differ by so many deviations."""
    draws = np.random.default_rng(0).normal(size=(2, trials, n))
    return float((stats.ttest_ind(draws[0], draws[1] + difference, axis=1, equal_var=False).pvalue < 0.05).mean())


least = {n: next(step / 4 for step in range(1, 100) if found_share(step / 4, n) >= 0.8) for n in (3, 5, 10)}
assert least[3] > least[5] > least[10]
show("The least difference that is found with a probability of 80 %, in standard deviations, rounded up to quarters: " + ", ".join(f"{value:g} with {n} runs" for n, value in least.items())
     + ". Over several β, Holm's correction asks for more. What is not found may well be there.")

# %% [markdown]
# ## What to take away
#
# - FID is the distance of two Gaussians in the features of some network. Copies, noise and blur can have the same; precision and recall tell missing images from damaged ones.
# - It depends on N, on the features and on the crop. Print the protocol and the floor, take off the bias, and compare within one protocol only.
# - Whether two models are "close" over β is a question about runs: with error bars, and a test that says where they differ.
