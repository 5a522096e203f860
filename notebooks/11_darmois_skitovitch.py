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
# # Darmois–Skitovitch
#
# **Claim.** A rotation leaves a factorised posterior factorised where it mixes Gaussians of one variance, and nowhere else: every
# rotation of an isotropic Gaussian, some rotations where only some variances are equal, and otherwise no more than permutations with
# signs (Kumar & Poole 2020, §3.1; below "K&P").
#
# The [chapter before](10_rotation_nobody_can_see.ipynb) showed rotations that the likelihood cannot see. A mean-field posterior can see them, unless
# the rotated posterior is mean-field too. This chapter decides when that is so: first by a theorem, then by eye and by a test,
# then in nats for probabilistic PCA (PPCA).
#
# | | |
# |---|---|
# | **You will learn** | what the Darmois–Skitovitch theorem says about rotations; why correlation is not enough to see it at work; what a rotation costs a mean-field PPCA, in closed form; where the paper's conditions need care |
# | **You need** | covariance, independence, and the [chapter before](10_rotation_nobody_can_see.ipynb) |
# | **Time** | reading 25 minutes; running under a minute on two cores (`book`), a few minutes (`full`) |

# %% tags=["parameters"]
budget: str = "book"  # test, book or full: how many angles and how many permutations in each test
n_samples: int = 500  # samples in each test of independence
beta: float = 1.0  # the weight of the KL term, in the PPCA sections
seed: int = 0  # of all samples and permutations

# %%
import itertools
import math

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import binom

from grae_helpers import dependence, linear_vae, plotting, runtime, sliders
from grae_helpers import plotting_dependence as figures
from grae_helpers.plotting import show, table

runtime.check_parameters(budget=budget, n_samples=n_samples, beta=beta, seed=seed)
size = runtime.sizes(
    budget,
    test={"step": 45, "n_permutations": 99},
    book={"step": 5, "n_permutations": 399},
    full={"step": 5, "n_permutations": 3999},
)
plotting.use_style()
angles = np.arange(0, 91, size.step)  # degrees

# %% [markdown]
# ## The theorem
#
# **Darmois–Skitovitch** (both 1953). Let $z_1,\dots,z_d$ be independent. If the two linear forms $\sum_i a_iz_i$ and $\sum_i b_iz_i$ are independent,
# then every $z_i$ with $a_ib_i\ne0$ is Gaussian. (A constant counts as a Gaussian of variance zero.)
#
# So whatever enters two independent sums must be Gaussian. Now take the rows of an orthogonal $U$ as the forms. Suppose $z$ is a factorised
# posterior and $Uz$ is factorised again.
#
# 1. If column $i$ of $U$ has two entries that are not zero, $z_i$ enters two independent sums: it is Gaussian.
# 2. If it has only one, that entry is $\pm1$ and, since rows have norm one, nothing else enters that sum: $z_i$ is passed on whole, at most with its sign
#    changed. Only this can happen to a $z_i$ that is not Gaussian.
# 3. What is left rotates Gaussians among themselves, and they stay independent exactly if their covariance stays diagonal: $U\Lambda U^\top$, for variances that are the diagonal of $\Lambda$. Then
#    $U$ maps directions of one variance to directions of the same variance: it mixes only latents of *equal* variance, and may permute the results.
#
# The converse is plain, so this is a complete answer: **$U$ survives if and only if the latents that it mixes are Gaussian and $U\Lambda U^\top$ is diagonal.**
# (With a mean-field *Gaussian* family, as in most VAEs, every latent is Gaussian, and only the variances are left to decide.)
# A few lines of code decide it.

# %%
def turn(degrees: float, plane: tuple[int, int] = (0, 1), d: int = 2) -> np.ndarray:
    """A rotation by an angle in the plane of two of d latents; exact at multiples of 90°."""
    i, j = plane
    U = np.eye(d)
    quarter, rest = divmod(degrees, 90)
    cos, sin = math.cos(math.radians(rest)), math.sin(math.radians(rest))
    for _ in range(int(quarter) % 4):
        cos, sin = -sin, cos
    U[i, i], U[i, j], U[j, i], U[j, j] = cos, -sin, sin, cos
    return U


def survives(U: np.ndarray, variances: list[float], gaussian: list[bool]) -> bool:
    """Whether Uz is factorised, for a factorised z, by the theorem."""
    mixed = (np.abs(U) > 1e-9).sum(0) > 1
    covariance = U @ np.diag(variances) @ U.T
    uncorrelated = np.abs(covariance - np.diag(covariance.diagonal())).max() < 1e-9
    return bool(uncorrelated and not (mixed & ~np.array(gaussian)).any())


# %% [markdown]
# Signed permutations pass, whatever the latents: they mix nothing. Among three latents there are $2^3\cdot3!$ of them.

# %%
signed = [
    np.eye(3)[list(order)] * np.array(signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product([1, -1], repeat=3)
]
assert len(signed) == 48 and all(survives(P, [3, 2, 1], [False] * 3) for P in signed)
generic = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
rows = []
for name, variances, gaussian in (
    ("Gaussian, all variances equal", [1, 1, 1], [True] * 3),
    ("Gaussian, first two equal", [1, 1, 0.25], [True] * 3),
    ("Gaussian, all unequal", [1, 0.5, 0.25], [True] * 3),
    ("all equal, the third not Gaussian", [1, 1, 1], [True, True, False]),
    ("all equal, none Gaussian", [1, 1, 1], [False] * 3),
):
    tried = {"in the plane of the first two": turn(30, (0, 1), 3), "in that of the last two": turn(30, (1, 2), 3),
             "random orthogonal": generic, "signed permutation": signed[-1]}  # fmt: skip
    rows.append({"posterior": name} | {U: "survives" if survives(tried[U], variances, gaussian) else "–" for U in tried})
table(rows)
outcome = ["".join("1" if value == "survives" else "0" for value in list(row.values())[1:]) for row in rows]
assert outcome == ["1111", "1001", "0001", "1001", "0001"]

# %% [markdown]
# Between "every rotation" (first row) and "signed permutations only" (third and fifth) lies a middle: a pair that is Gaussian with one variance
# keeps the rotations of its own plane. Note also the fourth row, where a latent that is not Gaussian does no harm to the other two.
#
# A generative model has a posterior for every $x$, and one rotation must serve them all. It survives only if it survives at almost every $x$. If the variances of a pair are equal at some
# $x$ and not at others, the pair keeps nothing.
#
# ## Known answers
#
# Turn two independent, centred latents of variances $v_1,v_2$ by an angle θ: $x_1=z_1\cos\theta-z_2\sin\theta$, $x_2=z_1\sin\theta+z_2\cos\theta$. Then
#
# $$\mathrm{cov}(x_1,x_2)=\tfrac12\sin2\theta\,(v_1-v_2),$$
#
# whatever their distributions. With equal variances it is zero at every angle: **correlation cannot see that a uniform or a Laplace has been turned.** For symmetric latents the lowest
# moments that can are of fourth order, the covariance of the squares among them. With excess kurtoses $\kappa_i=\mathbb E z_i^4/v_i^2-3$ (Gaussian 0, uniform −6/5, Laplace 3),
#
# $$\mathrm{cov}(x_1^2,x_2^2)=\tfrac14\sin^22\theta\,(\kappa_1v_1^2+\kappa_2v_2^2)+2\,\mathrm{cov}(x_1,x_2)^2 .$$
#
# Both are polynomials in $z$, so Gaussian quadrature with three nodes gives them exactly, and shares nothing with the formulas.

# %%
def quadrature(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of a distribution with mean 0 and variance 1, exact up to the fifth power."""
    if name == "Laplace":
        nodes, weights = np.polynomial.laguerre.laggauss(3)
        return np.concatenate([-nodes, nodes]) / math.sqrt(2), np.tile(weights, 2) / 2
    module = {"Gaussian": np.polynomial.hermite_e.hermegauss, "uniform": np.polynomial.legendre.leggauss}[name]
    nodes, weights = module(3)
    return nodes * (math.sqrt(3) if name == "uniform" else 1), weights / weights.sum()


def covariances(name: str, variances: tuple[float, float], degrees: float) -> tuple[float, float]:
    """cov(x₁, x₂) and cov(x₁², x₂²) by quadrature."""
    nodes, weights = quadrature(name)
    z = np.stack(np.meshgrid(nodes, nodes)).reshape(2, -1) * np.sqrt(variances)[:, None]
    x, w = turn(degrees) @ z, np.outer(weights, weights).ravel()
    return w @ (x[0] * x[1]), w @ (x[0] * x[1]) ** 2 - (w @ x[0] ** 2) * (w @ x[1] ** 2)


# %%
KURTOSIS = {"Gaussian": 0.0, "uniform": -6 / 5, "Laplace": 3.0}
rows = []
for name, variances in (("Gaussian", (1, 1)), ("Gaussian", (1, 0.25)), ("uniform", (1, 1)), ("Laplace", (1, 1)), ("Laplace", (1, 0.25))):
    for degrees in angles:
        wave = math.sin(math.radians(2 * degrees))
        covariance = wave * (variances[0] - variances[1]) / 2
        squares = wave**2 / 4 * KURTOSIS[name] * sum(v**2 for v in variances) + 2 * covariance**2
        np.testing.assert_allclose(covariances(name, variances, degrees), (covariance, squares), atol=1e-12)
    at_45 = covariances(name, variances, 45)
    rows.append({"latents": f"{name}, variances {variances[0]:g} and {variances[1]:g}",
                 "cov(x₁, x₂) at 45°": f"{at_45[0]:.3f}", "cov(x₁², x₂²) at 45°": f"{at_45[1]:.3f}"})  # fmt: skip
table([{key: value.replace("-0.000", "0.000") for key, value in row.items()} for row in rows])

# %% [markdown]
# Only the first row is zero twice. The uniform and the Laplace are dependent after any turn that is not a multiple of 90°, with opposite signs. A turned square is a diamond: where
# one coordinate is large, the other is small. A Laplace's spikes turn to the diagonals: where one is large, so is the other.
#
# ## Two measures and a test
#
# Squares would miss other dependence. Two measures miss none, in the limit of many samples (and with finite means): the *Hilbert–Schmidt independence criterion* (HSIC; Gretton et al. 2005) and the *distance correlation* (Székely et al. 2007), from 0 to 1. Both compare all pairs of samples: do those that are close in one variable tend to be close in the other? Computed from $n$ samples, neither is
# exactly zero for independent variables. So we test: shuffle one variable many times, and count how often chance alone gives an HSIC as large as the observed one.
# That share is the p-value.

# %%
def draw(name: str, variances: list[float], n: int, *key: int) -> np.ndarray:
    """n samples of independent latents, [n, d], mean 0; `key` makes them different from all others."""
    source, shape = np.random.default_rng([seed, *key]), (n, len(variances))
    raw = {
        "Gaussian": lambda: source.normal(size=shape),
        "uniform": lambda: source.uniform(-math.sqrt(3), math.sqrt(3), shape),
        "Laplace": lambda: source.laplace(scale=1 / math.sqrt(2), size=shape),
    }[name]()
    return raw * np.sqrt(variances)


def measure(number: int, name: str, variances: list[float], plane: tuple[int, int]) -> figures.TurnedSample:
    """Both measures, the correlation and the test at every angle, each on a fresh sample."""
    found = []
    for key, degrees in enumerate(angles):
        z = draw(name, variances, n_samples, number, key)
        x, y = (z @ turn(degrees, plane, len(variances)).T)[:, plane].T
        test = dependence.dependence_test(x, y, n_permutations=size.n_permutations, seed=seed + key)
        found.append((np.corrcoef(x, y)[0, 1], dependence.distance_correlation(x, y), *test))
    return figures.TurnedSample(None, angles, *np.array(found).T)


# %% [markdown]
# A fresh sample for each angle makes the tests independent of each other, so that we know how many false alarms to expect. Each case is tested at every angle, so one rejection at the level 0.05 somewhere means little. Divided
# by the number of angles (Bonferroni), the level holds for the case as a whole.

# %%
LEVEL = 0.05
strict = LEVEL / len(angles)
assert 1 / (1 + size.n_permutations) <= strict, "too few permutations to reach the level"
CASES = {  # title: distribution, variances, the plane of the turn
    "Gaussian, equal variances": ("Gaussian", [1, 1], (0, 1)),
    "Gaussian, variances 1 and ¼": ("Gaussian", [1, 0.25], (0, 1)),
    "uniform, equal variances": ("uniform", [1, 1], (0, 1)),
    "Laplace, equal variances": ("Laplace", [1, 1], (0, 1)),
    "Gaussian, in the pair's plane": ("Gaussian", [1, 1, 0.25], (0, 1)),
    "Gaussian, out of that plane": ("Gaussian", [1, 1, 0.25], (1, 2)),
}
measured = {title: measure(number, *case) for number, (title, case) in enumerate(CASES.items())}

# %% [markdown]
# ## Turn the angle
#
# Drag the slider, or focus it and use the arrow keys. The points are one sample, turned. The curves and the numbers were measured on fresh samples, one for each angle.

# %%
def turned(titles: list[str], now: int) -> dict[str, figures.TurnedSample]:
    """The cases of a figure, with their points turned to angle number `now`."""
    rows = {}
    for title in titles:
        name, variances, plane = CASES[title]
        z = draw(name, variances, figures.SHOWN, 1000)
        points = (z @ turn(angles[now], plane, len(variances)).T)[:, plane]
        rows[title] = measured[title]._replace(points=points)
    return rows


def sample_slider(titles: list[str], caption: str) -> sliders.Slider:
    """A frame for each angle, with words for what it shows."""
    start = int(np.abs(angles - 30).argmin())
    frames = (figures.turned_samples(turned(titles, now), now, strict) for now in range(len(angles)))
    alts = [
        f"Turned by {degrees}°. " + " ".join(
            f"{title}: correlation {case.correlation[now]:.2f}, distance correlation "
            f"{case.distance_correlation[now]:.2f}, p = {case.p_value[now]:.2g}."
            for title, case in measured.items() if title in titles
        )
        for now, degrees in enumerate(angles)
    ]  # fmt: skip
    return sliders.slider(frames, [f"{degrees}°" for degrees in angles], "angle of the turn", alts, start, caption=caption)


# %%
two, three = list(CASES)[:4], list(CASES)[4:]
sample_slider(
    two,
    "Two independent latents, turned. Left: 200 samples. Right: correlation and distance correlation against the angle; a mark is "
    f"filled where the permutation test of the HSIC rejects independence at {LEVEL} over {len(angles)} angles.",
)

# %%
middle = int(np.abs(angles - 45).argmin())
table([
    {"latents": title, "correlation": case.correlation[middle], "distance correlation": case.distance_correlation[middle],
     "HSIC · 10³": 1e3 * case.hsic[middle], "p": f"{case.p_value[middle]:.2g}"}
    for title, case in measured.items() if title in two
], correlation="+.2f", **{"distance correlation": ".2f", "HSIC · 10³": ".2f"})  # fmt: skip
blind = max(np.abs(measured[title].correlation).max() for title in two[2:]) * math.sqrt(n_samples)
show(
    f"That was at {angles[middle]}°. Over all angles, the largest correlation of the uniform and the Laplace is {blind:.1f} times $1/\\sqrt n$, "
    "which is what chance does. Their dependence is plain to the other measure, and to the eye."
)
assert blind < 6

# %% [markdown]
# What to see: the round cloud stays round. The ellipse becomes correlated, and both measures say so. The square stands on its corner, the star of the Laplace on its rays, with no correlation and yet dependent. At 90° each is back: a quarter turn is a permutation with a sign.
#
# ### How many false alarms?
#
# The theorem tells which of these tests have something to find. Of the others a share of 0.05 will reject.

# %%
def tally(titles: list[str]) -> list[dict]:
    """Rejections where the theorem says independent, and where it says dependent."""
    rows = []
    for title in titles:
        (name, variances, plane), case = CASES[title], measured[title]
        gaussian, d = [name == "Gaussian"] * len(variances), len(variances)
        null = np.array([survives(turn(degrees, plane, d), variances, gaussian) for degrees in angles])
        row = {"case": title}
        for which, angles_of, alarms in (("independent", null, "false alarms"), ("dependent", ~null, "found")):
            p = case.p_value[angles_of]
            row |= {which: len(p), alarms: int((p <= LEVEL).sum()), f"{alarms}, strict": int((p <= strict).sum())}
        rows.append(row)
    return rows


rows = tally(list(CASES))
table(rows)
nulls, alarms, strictly = (sum(row[key] for row in rows) for key in ("independent", "false alarms", "false alarms, strict"))
show(
    f"{nulls} of the {len(rows) * len(angles)} tests had nothing to find. At the level {LEVEL} we expect {LEVEL * nulls:.1f} false alarms and got {alarms}; at the strict "
    f"level {strict:.2g}, which allows {strict * nulls:.2f}, we got {strictly}."
)
assert alarms <= binom.isf(1e-6, nulls, LEVEL) and strictly <= binom.isf(1e-6, nulls, strict)

# %% [markdown]
# Where there is dependence, it is missed at small angles only: a test of $n$ samples cannot tell a turn by a degree or two from none. The theorem can. At 45° all are found:

# %%
for title in ("Gaussian, variances 1 and ¼", "uniform, equal variances", "Laplace, equal variances", "Gaussian, out of that plane"):
    p = measured[title].p_value[middle]
    assert p <= strict or n_samples < 500, f"{title}: p = {p:.2g} at 45° with {n_samples} samples"
show(f"With {n_samples} samples at {angles[middle]}°, p = " + ", ".join(f"{measured[t].p_value[middle]:.2g} ({t})" for t in two[1:] + three[1:]) + ".")

# %% [markdown]
# ## Three latents: an equal pair beside a third
#
# A Gaussian with the variances 1, 1 and ¼. Its pair has equal variances, its third latent has another. A turn within the pair's plane, or one that mixes the pair with the third:

# %%
sample_slider(
    three,
    "Three Gaussian latents, two of them with equal variance. Above: turned in the plane of the pair, which keeps its independence "
    "at every angle. Below: the second of the pair turned with the third latent.",
)

# %%
pair = next(row for row in rows if row["case"] == three[0])
assert pair["independent"] == len(angles) and pair["dependent"] == 0
show(
    f"Condition (ii) of the paper, *variances … are all equal*, is broken here. Yet the theorem lets all {len(angles)} turns in the pair's plane pass, and the tests "
    f"agree: {pair['false alarms, strict']} rejections at the strict level."
)

# %% [markdown]
# ## Probabilistic PCA: what a rotation costs
#
# The decoder is linear (Tipping and Bishop 1999): $x\sim N(Az+b,\sigma^2I)$ with $z\sim N(0,I)$. For every $x$ the posterior has the same precision $M=I+A^\top A/\sigma^2$ (for other β, the best $q$ has $M=I+A^\top A/\beta\sigma^2$). The likelihood is that
# of $N(b,AA^\top+\sigma^2I)$: with $AV$ in place of $A$, $V$ orthogonal, it does not change. The best mean-field $q$ has the posterior's mean and the variances $1/M_{kk}$, and falls short of the posterior by
#
# $$\text{price}(A)=\beta\,\mathrm{KL}=\tfrac\beta2\Big(\sum_k\log M_{kk}-\log|M|\Big)\ge0,$$
#
# which is zero exactly where $A$'s columns are orthogonal (Hadamard's inequality). Turn two latents by θ, so that $A$ becomes $AR(\theta)$. With the eigenvalues $\lambda_1,\lambda_2$ of $M$ and $\theta^*$ the angle at which the columns of $AR(\theta^*)$ are orthogonal,
#
# $$\text{price}(\theta)=\tfrac\beta2\log\Big(1+\frac{(\lambda_1-\lambda_2)^2}{4\lambda_1\lambda_2}\sin^22(\theta-\theta^*)\Big).$$
#
# It is flat only for $\lambda_1=\lambda_2$, which means orthogonal columns of *equal* norm. Otherwise it has one minimum in 90°, at θ\*, and at 45° from there it costs β times the log of
# the eigenvalues' arithmetic over their geometric mean.

# %%
SIGMA2 = 0.5  # the noise's variance
slant = math.radians(50)
WEIGHTS = {
    "orthogonal, equal norms": [[1.5, 0], [0, 1.5], [0, 0]],
    "orthogonal, norms 2 and 1": [[2, 0], [0, 1], [0, 0]],
    "norms 2 and 1, 50° apart": [[2, math.cos(slant)], [0, math.sin(slant)], [0, 0]],
}
WEIGHTS = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in WEIGHTS.items()}
fine = np.arange(-45, 46, size.step)  # degrees: one period
rotations = torch.from_numpy(np.stack([turn(degrees) for degrees in fine]))


def own_angle(W: torch.Tensor) -> float | None:
    """θ*(W) in degrees, or None where every angle is as good."""
    try:
        return linear_vae.own_angle(W).item()
    except ValueError:
        return None


# %%
price, rows = {}, []
for name, W in WEIGHTS.items():
    price[name] = linear_vae.mean_field_deficit(W @ rotations, SIGMA2, beta=beta).numpy()
    low, high = torch.linalg.eigvalsh(linear_vae.precision(W, SIGMA2, beta=beta)).tolist()
    away = np.radians(2 * (fine - (own_angle(W) or 0)))
    formula = beta / 2 * np.log1p((high - low) ** 2 / (4 * low * high) * np.sin(away) ** 2)
    np.testing.assert_allclose(price[name], formula, atol=1e-12)
    likelihood = linear_vae.log_likelihood(W @ rotations, SIGMA2, torch.eye(3, dtype=torch.float64))
    assert likelihood.max() - likelihood.min() < 1e-12, "the likelihood sees no rotation"
    own = own_angle(W)
    rows.append({"columns of A": name, "θ* (degrees)": "none" if own is None else f"{own:.1f}",
                 "price as given (nats)": price[name][fine == 0][0],
                 "worst angle (nats)": beta * math.log((low + high) / 2 / math.sqrt(low * high))})  # fmt: skip
table(rows, **{"price as given (nats)": ".3f", "worst angle (nats)": ".3f"})

# %% [markdown]
# ### An optimiser finds the same
#
# The formula rests on the best $q$. So let L-BFGS look for it, knowing only the β-VAE's objective, Eq. 2 (K&P): a mean and log-variances for each of a few $x$, at each angle, for each $A$.

# %%
x = torch.from_numpy(np.random.default_rng([seed, 2000]).normal(size=(4, 3)))
x = x - x.mean(0)  # b is the mean
turned_weights = torch.stack([W @ rotations for W in WEIGHTS.values()])  # [case, angle, D, d]


def eq2(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Eq. 2 (K&P) for q = N(mean, diag exp log_variance), both [case, angle, x, d]."""
    A, variance = turned_weights, log_variance.exp()
    squares = (x - mean @ A.mT).square().sum(-1) + (variance @ A.square().sum(-2)[..., None])[..., 0]
    log_prob = -squares / (2 * SIGMA2) - x.shape[1] / 2 * math.log(2 * math.pi * SIGMA2)
    return log_prob - beta / 2 * (mean.square() + variance - log_variance - 1).sum(-1)


def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
    raw = torch.from_numpy(flat.reshape(2, *shape)).requires_grad_()
    value = -eq2(*raw).sum()
    return value.item(), torch.autograd.grad(value, raw)[0].numpy().ravel()


shape = (*turned_weights.shape[:2], len(x), 2)
options = {"maxiter": 5000, "maxfun": 10_000, "ftol": 0, "gtol": 1e-7}
best = minimize(value_and_gradient, np.zeros(2 * math.prod(shape)), jac=True, method="L-BFGS-B", options=options)
found = eq2(*torch.from_numpy(best.x.reshape(2, *shape))).mean(-1)
formula = linear_vae.mean_field_elbo(turned_weights, SIGMA2, x.T @ x / len(x), beta=beta)
difference = (formula - found).abs().max().item()
show(f"Over {found.numel()} models the formula and the optimiser differ by at most {difference:.0e} nats.")
assert difference < 1e-7

# %% [markdown]
# ### Turn it
#
# Ellipses of two standard deviations. The orange one is the best that mean field can do: its axes stay upright, its variances are $1/M_{kk}$. The price is what it lacks.

# %%
def posteriors(now: int) -> dict[str, figures.TurnedPosterior]:
    rows = {}
    for name, W in WEIGHTS.items():
        M = linear_vae.precision(W @ rotations[now], SIGMA2, beta=beta)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(M)).numpy()
        variances = 1 / M.diagonal().numpy()
        rows[name] = figures.TurnedPosterior(covariance, variances, fine, price[name], own_angle(W))
    return rows


frames = (figures.turned_posteriors(posteriors(now), now) for now in range(len(fine)))
alts = [f"Turned by {degrees}°. " + " ".join(f"{name}: price {p[now]:.3f} nats." for name, p in price.items()) for now, degrees in enumerate(fine)]
caption = "PPCA with three sets of columns, turned. Left: the posterior and the best factorised Gaussian. Right: what the restriction costs, in nats."
values = [f"{degrees}°".replace("-", "−") for degrees in fine]
sliders.slider(frames, values, "angle of the turn", alts, int(np.abs(fine - 20).argmin()), caption=caption)

# %% [markdown]
# What to see: with equal norms nothing happens. With unequal norms the price is zero at the turn 0 and only there. With columns that are *not* orthogonal the price of the model as it is given is above zero, and the best
# model is another: the one turned by θ\*, whose columns are orthogonal.
#
# That is PPCA's maximum-likelihood solution in the principal axes: `principal_weights`, computed from the covariance of $x$ alone.

# %%
for W in list(WEIGHTS.values())[1:]:
    noise = beta * SIGMA2 * torch.eye(3, dtype=torch.float64)
    principal = linear_vae.principal_weights(W @ W.T + noise, beta * SIGMA2, 2)
    own = W @ torch.from_numpy(turn(own_angle(W)))
    matched = (own.T @ principal / (own.norm(dim=0)[:, None] * principal.norm(dim=0))).abs()  # |cosines|
    torch.testing.assert_close(matched, matched.round(), atol=1e-9, rtol=0)
    assert linear_vae.mean_field_deficit(own, SIGMA2, beta=beta) < 1e-12
name = list(WEIGHTS)[-1]
show(f"Given, for {name}: {price[name][fine == 0][0]:.3f} nats. Turned by θ* = {own_angle(WEIGHTS[name]):.1f}°: 0.")

# %% [markdown]
# The angle θ\*(W) depends on the columns only, not on the noise and not on β. Data that were generated with $W$ make a mean-field VAE recover latents that are turned by θ\*(W) from the true ones, up to signs and order. The
# [next chapter](12_uniqueness.ipynb) finds it in trained models.
#
# ## Three columns, two of one norm
#
# Orthogonal columns of norms 2, 1 and 1, so the posterior variances are those of the three latents above: one, and an equal pair. Three turns: in the pair's plane, out of it, and about the diagonal $(1,1,1)$.

# %%
A3 = torch.diag(torch.tensor([2, 1, 1], dtype=torch.float64))


def generator(axis: list[float]) -> torch.Tensor:
    """The skew matrix of turns about an axis of unit length, per degree."""
    a, b, c = math.pi / 180 * np.array(axis) / np.linalg.norm(axis)
    return torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]], dtype=torch.float64)


TURNS = {
    "in the plane of norms 2 and 1": [0, 0, 1],
    "in the plane of norms 1 and 1": [1, 0, 0],
    "about the diagonal": [1, 1, 1],
}
wide = np.arange(181)
prices = {
    name: linear_vae.mean_field_deficit(
        A3 @ torch.matrix_exp(torch.from_numpy(wide)[:, None, None] * generator(axis)), SIGMA2, beta=beta
    ).numpy()
    for name, axis in TURNS.items()
}

# %% mystnb={"image": {"alt": "The price of mean field against the angle of a turn from 0 to 180 degrees. In the plane of norms 2 and 1 it rises and falls with period 90 degrees. In the plane of norms 1 and 1 it is zero throughout. About the diagonal it returns to zero only at 120 degrees."}, "figure": {"caption": "Three orthogonal columns, two with one norm: what mean field pays after a turn. Turns of the equal pair are free; the turn about the diagonal is free where it is a permutation.", "name": "fig-price-by-plane"}}
figure = figures.price_by_plane(wide, prices)

# %%
apart, together, diagonal = prices.values()
assert together.max() < 1e-12
assert set(wide[apart < 1e-9]) == {0, 90, 180} and set(wide[diagonal < 1e-9]) == {0, 120}
show(
    f"The pair's turns cost {together.max():.1g} nats at most. Out of its plane the price reaches {apart.max():.3f} nats and is zero at "
    f"{', '.join(f'{degrees}°' for degrees in wide[apart < 1e-9])}. About the diagonal it is zero at {wide[diagonal < 1e-9][-1]}°, which permutes the three axes."
)

# %% [markdown]
# How many rotations are lost? Look at the second derivative of the price in all three planes at once, at no turn. In the plane of latents $i$ and $j$ it is $\beta(\lambda_i-\lambda_j)^2/\lambda_i\lambda_j$, and it vanishes
# where the two variances are equal.

# %%
def price_of(small: torch.Tensor) -> torch.Tensor:
    """The price after a small turn about each axis, radians."""
    turns = sum(value * generator(axis) for value, axis in zip(small, np.eye(3).tolist(), strict=True))
    return linear_vae.mean_field_deficit(A3 @ torch.matrix_exp(math.degrees(1) * turns), SIGMA2, beta=beta)


hessian = torch.autograd.functional.hessian(price_of, torch.zeros(3, dtype=torch.float64))
eigenvalues = linear_vae.precision(A3, SIGMA2, beta=beta).diagonal()
planes = [(1, 2), (0, 2), (0, 1)]  # about the first, second and third axis
expected = torch.stack([beta * (eigenvalues[i] - eigenvalues[j]) ** 2 / (eigenvalues[i] * eigenvalues[j]) for i, j in planes])
torch.testing.assert_close(hessian, torch.diag(expected), atol=1e-9, rtol=1e-9)
rank = int(torch.linalg.matrix_rank(hessian, tol=1e-9))
show(f"{rank} of the 3 dimensions of rotations are lost, {3 - rank} is kept: the pair's.")
assert rank == 2

# %% [markdown]
# ## The paper's sentences and ours
#
# §3.1 states the matter for "all $r$ belonging to the set of orthonormal transformations". As such it is right: conditions (i), a factorised Gaussian, and (ii), all variances equal, are necessary and sufficient for *every* rotation
# to survive. What follows when one is broken is that *some* rotation is ruled out, and the sentences after it are easily read as *every*. Each check below was computed above or is computed here.

# %%
plane, noplane = turn(30, (0, 1), 3), turn(30, (1, 2), 3)
gaussian, mixed = [True] * 3, [True, True, False]
flips = [P for P in signed if (P < 0).any()]
checks = {
    "(i) and (ii) are sufficient for all rotations": survives(generic, [1, 1, 1], gaussian) and np.ptp(price["orthogonal, equal norms"]) < 1e-12,
    "(i) and (ii) are necessary for all rotations": not survives(generic, [1, 1, 0.25], gaussian) and not survives(generic, [1, 1, 1], mixed),
    "(ii) broken: no rotation survives": not survives(plane, [1, 1, 0.25], gaussian),
    "(i) broken: no rotation survives": not survives(plane, [1, 1, 1], mixed),
    "variances all unequal: only permutations": not any(survives(P, [3, 2, 1], gaussian) for P in flips),
    "… only permutations with signs": all(survives(P, [3, 2, 1], gaussian) for P in signed) and not survives(noplane, [3, 2, 1], gaussian),
    "PPCA, orthogonal columns of equal norm: all V are free": price["orthogonal, equal norms"].max() < 1e-12,
    "PPCA, some norms different: no V but signed permutations is free": together.max() > 1e-9,
    "PPCA, all norms different: no V but signed permutations is free": price["orthogonal, norms 2 and 1"].max() > 1e-9,
}
table([{"reading": reading, "verdict": "holds" if holds else "does not hold"} for reading, holds in checks.items()])
assert list(checks.values()) == [True, True, False, False, False, True, True, False, True]

# %% [markdown]
# The paper's own last sentence says it: the symmetry of PPCA "vanishes only when all columns of A have different norms". That is true, and it is not the opposite of condition (ii). Between "all equal" and "all different" lie the posteriors that keep a part of the symmetry. In
# two dimensions, where the paper's experiments are, there is no room for that middle.
#
# ## What is not reproduced here
#
# - The theorem's proof; see Darmois (1953), Skitovitch (1953), or Lukacs and King (1954). It concerns exact independence: a posterior that is nearly Gaussian is nearly kept, and the price in nats says how nearly.
# - The paper shows no figure for §3.1. The cases, sample sizes and tests are ours.
# - Posteriors of nonlinear decoders, whose variances change with $x$: the [next chapter](12_uniqueness.ipynb).
#
# ## Exercises
#
# **1.** Two uniform latents of equal variance, turned by 45°. Find the correlation of the *squares* in closed form, and check it on samples.

# %% tags=["hide-cell"]
# Var x₁² = E x₁⁴ − 1, and the excess kurtosis of x₁ at 45° is κ (cos⁴ + sin⁴) = κ/2.
kappa = KURTOSIS["uniform"]
closed = kappa / 2 / (kappa / 2 + 2)
x1, x2 = turn(45) @ draw("uniform", [1, 1], 200_000, 3000).T
sampled = np.corrcoef(x1**2, x2**2)[0, 1]
assert abs(closed - sampled) < 0.02 and math.isclose(closed, -3 / 7)
show(f"cov(x₁², x₂²) = κ/2 and Var(x²) = 2 + κ/2, so the correlation is κ/(4 + κ) = −3/7 ≈ {closed:.3f}. Sampled: {sampled:.3f}.")

# %% [markdown]
# **2.** Five Gaussian latents with variances 1, 1, 1, 2 and 2. How many dimensions of rotations survive, of how many? Count them, then check with `survives`.

# %% tags=["hide-cell"]
variances, gaussian = [1, 1, 1, 2, 2], [True] * 5
free = [(i, j) for i, j in itertools.combinations(range(5), 2) if survives(turn(30, (i, j), 5), variances, gaussian)]
assert len(free) == math.comb(3, 2) + math.comb(2, 2)
show(f"A block of m equal variances keeps its m(m − 1)/2 planes: 3 + 1 = {len(free)} of {math.comb(5, 2)}.")

# %% [markdown]
# **3.** A posterior has the variances (1, 1) at one $x$ and (1, 2) at another. Which rotations does the *model* keep?

# %% tags=["hide-cell"]
every = [degrees for degrees in range(360) if all(survives(turn(degrees), v, [True, True]) for v in ([1, 1], [1, 2]))]
assert every == [0, 90, 180, 270]
show(f"Those that survive at both: of the whole degrees, {', '.join(f'{degrees}°' for degrees in every)}, the signed permutations.")

# %% [markdown]
# **4. Change a parameter.** Set `beta = 100.0` and run the chapter again, on Colab or here; then `beta = 0.01`. Guess first: at which of the two is a rotation dearer, in nats?

# %% tags=["hide-cell"]
weights = list(WEIGHTS.values())[1] @ torch.from_numpy(turn(45))
grid = np.geomspace(1e-3, 1e3, 25)
dear = [linear_vae.mean_field_deficit(weights, SIGMA2, beta=float(b)).item() for b in grid]
assert 0 < np.argmax(dear) < len(grid) - 1 and max(dear[0], dear[-1]) < 0.1 * max(dear)
show(
    f"At 100, but it is cheap at both: the price of a turn by 45° is {dear[4]:.4f} nats at β = {grid[4]:g} and {dear[-5]:.4f} at {grid[-5]:g}, and greatest near {grid[np.argmax(dear)]:.2g}, with {max(dear):.3f}. "
    "A small β makes the KL term cheap, whatever it is; a large one makes the posterior almost the prior, which is round."
)

# %% [markdown]
# ## What to take away
#
# - A rotation survives mean field if and only if it mixes only Gaussian latents and keeps their covariance diagonal. Signed permutations always do.
# - Correlation sees unequal variances, and nothing else. That a non-Gaussian latent has been mixed shows in higher moments only.
# - Breaking a condition breaks the symmetry in part: an equal pair keeps the rotations of its own plane.
# - For PPCA the price of a turn has a closed form. It is flat only for orthogonal columns of one norm, and its minimum lies at the data's own angle θ\*(W), which need not be the angle of the columns that made the data.
