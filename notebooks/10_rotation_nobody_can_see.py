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
# # The rotation that nobody can see
#
# **Claim.** For every continuous prior, factorised or correlated, there are maps $r$ that mix the latents and leave the prior as it was;
# a model with the decoder $p(x\mid r(z))$ then has the same $p(x)$ as one with $p(x\mid z)$, and other latents
# (Kumar & Poole 2020, §2, App. A, after Locatello et al. 2019; below "K&P").
#
# So no amount of data, and no likelihood however well computed, can say which latents are the right ones. This chapter builds the maps, looks for
# a difference with every instrument it has, and finds none in the data. One sentence of App. A does not survive: $|\det J_r(z)|$ is
# not 1 in general. The conclusion does not need it.
#
# | | |
# |---|---|
# | **You will learn** | how to rotate a prior that is not Gaussian, or not even factorised; why the likelihood cannot notice; what happens to volume on the way |
# | **You need** | cumulative distribution functions, change of variables, Bayes' rule |
# | **Time** | reading 20 minutes; running about twenty seconds on two cores (`book`), about a minute (`full`) |

# %% tags=["parameters"]
budget: str = "book"  # test, book or full: samples, quadrature nodes and observations
angle_degrees: float = 30.0  # the angle of the rotation U, at least 10° away from every multiple of 90°
reflect: bool = False  # let U reflect the second axis before it turns (determinant −1)
samples: int = 0  # draws for the tests and the scatter plots, at least 1,000; 0 takes the budget's
seed: int = 0  # of the draws

# %%
import math

import numpy as np
import torch
from scipy import stats
from scipy.special import ndtr

from grae_helpers import identifiability, plotting, plotting_latents, runtime
from grae_helpers.identifiability import GaussianMixture, conditional_mixing_transform, mixing_transform
from grae_helpers.plotting import show, table

runtime.check_parameters(budget=budget, angle_degrees=angle_degrees, reflect=reflect, samples=samples, seed=seed)
if 0 < samples < 1000:
    raise ValueError(f"samples: expected 0 or at least 1,000, got {samples}")
if not abs((angle_degrees + 45) % 90 - 45) >= 10:
    raise ValueError(f"angle_degrees: expected at least 10° from multiples of 90°, which only permute, got {angle_degrees}")
size = runtime.sizes(
    budget,
    test={"samples": 3000, "nodes": 241, "observations": 30, "cells": 41},
    book={"samples": 8000, "nodes": 321, "observations": 100, "cells": 101},
    full={"samples": 100_000, "nodes": 481, "observations": 250, "cells": 201},
    samples=samples,
)
plotting.use_style()

# %% [markdown]
# ## The map, step by step
#
# A standard normal vector $n$ looks the same from every direction: for an orthogonal $U$, $Un$ has the density of $n$. Other priors
# have no such symmetry to see, but they can borrow it. App. A goes to the normal distribution, turns there, and comes back:
#
# | step | what it does to latent $i$ | distribution afterwards |
# |---|---|---|
# | $F$ | $u_i = F_i(z_i)$, its own CDF | independent, uniform |
# | $\psi^{-1}$ | $n_i = \psi^{-1}(u_i)$, with $\psi$ the normal CDF | independent, standard normal |
# | $U$ | $n' = Un$: the only step in which latents meet | independent, standard normal |
# | $\psi$ | $u'_i = \psi(n'_i)$ | independent, uniform |
# | $F^{-1}$ | $z'_i = F_i^{-1}(u'_i)$ | the prior |
#
# (The paper prints $n_i = \psi^{-1}(z_i)$ in the second step; $u_i$ is meant.) In code, the map is one line a step.

# %%
sign = -1 if reflect else 1
cosine, sine = math.cos(math.radians(angle_degrees)), math.sin(math.radians(angle_degrees))
U = np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([1.0, sign])


def by_hand(z, marginal):
    """Every stage of r(z), for two latents with one marginal: z, u, n, n′, u′, z′, each [..., 2]."""
    u = marginal.cdf(z)
    n = stats.norm.ppf(u)
    turned = n @ U.T  # rows are samples
    v = stats.norm.cdf(turned)
    return z, u, n, turned, v, marginal.ppf(v)


# %% [markdown]
# ## Known answers first
#
# 1. Normal marginals: every step undoes another but $U$, and $r$ is the plain rotation.
# 2. A quarter turn of the unit square: $(u_1, u_2) \mapsto (1 - u_2,\, u_1)$.
# 3. Turning by one angle and then another is turning once: $r_U \circ r_V = r_{UV}$. So $r_{U^\top}$ is the inverse of $r_U$.

# %%
generator = np.random.default_rng(seed)
normal, uniform, laplace = stats.norm(), stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)), stats.laplace(scale=math.sqrt(0.5))
z = generator.normal(size=(500, 2))
assert np.allclose(by_hand(z, normal)[-1], z @ U.T, atol=1e-9)

quarter, square = np.array([[0.0, -1.0], [1.0, 0.0]]), generator.uniform(size=(500, 2))
turned = mixing_transform(square, quarter, [stats.uniform()] * 2)
assert np.allclose(turned, np.stack([1 - square[:, 1], square[:, 0]], 1), atol=1e-12)

z = laplace.rvs(size=(500, 2), random_state=generator)
once, twice = mixing_transform(z, U, [laplace] * 2), mixing_transform(z, U @ U, [laplace] * 2)
assert np.allclose(mixing_transform(once, U, [laplace] * 2), twice, atol=1e-9)
assert np.allclose(mixing_transform(once, U.T, [laplace] * 2), z, atol=1e-9)
assert np.allclose(once, by_hand(z, laplace)[-1], atol=1e-9)

# %% [markdown]
# The last line compares the package's `mixing_transform` with the map by hand. The package also minds the tails: at $+9\sigma$ a normal CDF
# is 1 in double precision, and $\psi^{-1}(1) = \infty$. Working with $1 - F$ on the upper side keeps the digits.

# %%
far = np.array([[9.0, 0.5]])
with np.errstate(all="ignore"):
    lost = by_hand(far, normal)[-1]
kept = mixing_transform(far, U, [normal] * 2)
assert not np.isfinite(lost).all() and np.allclose(kept, far @ U.T, atol=1e-9)

# %% [markdown]
# Now the same with a Laplace prior, as a picture. The lines are deciles of each latent; the colours say in which quadrant a sample began.

# %%
n_shown = 600


def grid_lines(quantile):
    """Deciles of each latent as curves [18, 200, 2], for a function from uniform [m, 2] to latents [m, 2]."""
    along, at = ndtr(np.linspace(-3, 3, 200)), np.repeat(np.arange(1, 10) / 10, 200).reshape(9, 200)
    lines = np.stack([at, np.tile(along, (9, 1))], -1)
    return quantile(np.concatenate([lines, lines[..., ::-1]]).reshape(-1, 2)).reshape(18, 200, 2)


def quadrant(u):
    """0 to 3: on which side of its median each latent lies."""
    return (u[:, 0] > 0.5).astype(int) + 2 * (u[:, 1] > 0.5)


# %%
z = laplace.rvs(size=(n_shown, 2), random_state=seed)
titles = ["1. the prior, $z$", "2. $u = F(z)$", "3. $n = \\psi^{-1}(u)$", "4. $n' = Un$", "5. $u' = \\psi(n')$", "6. $z' = F^{-1}(u')$"]
limits = [(-3.2, 3.2), (0, 1), (-3.2, 3.2), (-3.2, 3.2), (0, 1), (-3.2, 3.2)]
stages = zip(by_hand(z, laplace), by_hand(grid_lines(laplace.ppf), laplace), strict=True)
nets = [plotting_latents.Net(points, quadrant(laplace.cdf(z)), lines) for points, lines in stages]

# %% mystnb={"image": {"alt": "Six panels of the same samples and grid. The Laplace prior becomes a uniform square, a round normal cloud, a turned normal cloud, a uniform square in which the grid has become curved, and a Laplace cloud again, with a curved grid."}, "figure": {"caption": "The map step by step for two Laplace latents. Lines: deciles of each latent at the start. Colours: the quadrant in which a sample began.", "name": "fig-steps"}}
figure = plotting_latents.steps(dict(zip(titles, zip(nets, limits, strict=True), strict=True)))

# %% [markdown]
# Compare the panels in pairs: 1 with 6, 2 with 5, 3 with 4. As clouds they are the same; as colours and lines they are not. Steps 2, 3, 5 and 6 act on
# one latent at a time. All the mixing is in step 4.
#
# ## Correlated priors
#
# Where the latents depend on each other, $F_i$ is replaced by the conditional CDF $F_{i\mid 1\ldots i-1}$ of $z_i$ given the latents before it. For
# $u_1 = F_1(z_1)$ and $u_2 = F_{2\mid1}(z_2; z_1)$ the $u_i$ are independent and uniform again (Darmois 1951; Rosenblatt 1952), and the rest
# is as before. On the way back each latent is recovered after the ones that its CDF depends on.
#
# For a Gaussian $N(\mu, LL^\top)$ with Cholesky factor $L$ this is linear, $r(z) = \mu + LUL^{-1}(z - \mu)$. For a mixture of Gaussians the
# conditional CDF is again a mixture of normal CDFs, whose weights depend on the latents before; its inverse needs root finding.

# %%
covariance = np.array([[1.0, 0.8], [0.8, 1.0]])
gaussian = GaussianMixture([1.0], [[0.0, 0.0]], [covariance])
mixture = GaussianMixture(
    [0.45, 0.35, 0.2],
    [[-0.8, 0.1], [0.8, 0.4], [0.3, -1.3]],
    [[[0.5, 0.3], [0.3, 0.6]], [[0.5, -0.3], [-0.3, 0.5]], [[0.6, 0.0], [0.0, 0.5]]],
)
z, L = gaussian.sample(500, seed), np.linalg.cholesky(covariance)
assert np.allclose(conditional_mixing_transform(z, U, gaussian), z @ np.linalg.solve(L.T, (L @ U).T), atol=1e-9)

# %% [markdown]
# Five priors for the rest of the chapter. The factorised ones have mean 0 and variance 1.

# %%
PRIORS = {
    "uniform": [uniform] * 2,
    "Laplace": [laplace] * 2,
    "uniform and gamma": [uniform, stats.gamma(4, loc=-2, scale=0.5)],
    "correlated Gaussian": gaussian,
    "mixture": mixture,
}
assert all(np.allclose(marginal.stats(), (0, 1)) for name in list(PRIORS)[:3] for marginal in PRIORS[name])


def mixed(z, prior, rotation=U):
    """r(z) for marginals or for a mixture."""
    transform = conditional_mixing_transform if isinstance(prior, GaussianMixture) else mixing_transform
    return transform(z, rotation, prior)


def draw(prior, n, seed):
    if isinstance(prior, GaussianMixture):
        return prior.sample(n, seed)
    generator = np.random.default_rng(seed)
    return np.stack([marginal.rvs(n, random_state=generator) for marginal in prior], 1)


# %%
def to_uniform(z, prior):
    """The (conditional) CDFs, [n, 2]: independent and uniform if and only if z has this prior."""
    if isinstance(prior, GaussianMixture):
        return prior.rosenblatt(z)
    return np.stack([marginal.cdf(column) for marginal, column in zip(prior, z.T, strict=True)], 1)


def from_uniform(u, prior):
    if isinstance(prior, GaussianMixture):
        return prior.inverse_rosenblatt(u)
    return np.stack([marginal.ppf(column) for marginal, column in zip(prior, u.T, strict=True)], 1)


def carried(prior):
    """Samples and grid before and after the map."""
    z, lines = draw(prior, n_shown, seed), grid_lines(lambda u: from_uniform(u, prior))
    after = mixed(lines.reshape(-1, 2), prior).reshape(lines.shape)
    colours = quadrant(to_uniform(z, prior))
    return plotting_latents.Net(z, colours, lines), plotting_latents.Net(mixed(z, prior), colours, after)


# %% mystnb={"image": {"alt": "Four rows of two panels: samples of a prior with a coloured grid, and the same after the map. In each row the two clouds have the same shape, a square, a strip that thins out upwards, an ellipse and an arch, while colours and grid are turned and bent."}, "figure": {"caption": "Before (left) and after (right) the map, for two factorised and two correlated priors. Lines: deciles of latent 1, and of latent 2 given latent 1.", "name": "fig-before-and-after"}}
figure = plotting_latents.before_and_after({name: carried(prior) for name, prior in PRIORS.items() if name != "Laplace"})

# %% [markdown]
# Left and right, the clouds agree in every row; the correlated ones keep their correlation and their arch. The lines do not agree: along a line on the left one latent is constant
# (or the quantile of latent 2 given latent 1), along its image on the right both latents change.
#
# ## Looking for a difference
#
# Three kinds of test on $u' = F(r(z))$, which must be independent and uniform if $r$ keeps the prior: Kolmogorov–Smirnov on each of the two
# margins (is it uniform?), Spearman's rank correlation (does one rise with the other?), and a $\chi^2$ test on a grid of 8 × 8 cells (are all equally full?), which sees any dependence that is not finer than a cell. Tests that are run many
# times give false alarms; all of them together are given a chance of one in a thousand, shared out equally (Bonferroni).
#
# Tests that find nothing prove something only if they could have found it. The last row is the control: uniform latents rotated as they
# are, without App. A's detour.

# %%
def alarms(u):
    """p-values of the four tests for uniform and independent u [n, 2]."""
    cells = np.histogram2d(*u.T, bins=8, range=[[0, 1], [0, 1]])[0].ravel()
    margins = [stats.kstest(column, "uniform").pvalue for column in u.T]
    return dict(zip(["KS, latent 1", "KS, latent 2", "Spearman", "χ² on cells"],
                    [*margins, stats.spearmanr(*u.T).pvalue, stats.chisquare(cells).pvalue], strict=True))


pushed = {name: mixed(draw(prior, size.samples, seed + i), prior) for i, (name, prior) in enumerate(PRIORS.items())}
found = {name: alarms(to_uniform(pushed[name], PRIORS[name])) for name in PRIORS}
level = 1e-3 / sum(map(len, found.values()))
plain = draw(PRIORS["uniform"], size.samples, seed) @ U.T
control = alarms(to_uniform(plain, PRIORS["uniform"]))

# %%
rows = [{"prior": name, **values} for name, values in [*found.items(), ("control: plain rotation", control)]]
table(rows, **dict.fromkeys(control, ".2g"))
assert min(min(values.values()) for values in found.values()) > level
assert min(control.values()) < level
show(f"p-values from {size.samples:,} draws. An alarm is a p-value below {level:.1e}: none for the maps, and one at least for the control.")

# %% [markdown]
# The prior is kept. Are the latents mixed? The Jacobian $J_r$ tells, the matrix of the derivatives of $z'_i$ by $z_j$. For independent marginals the chain rule gives
#
# $$J_r(z) = D(z')^{-1}\,U\,D(z), \qquad D(z) = \mathrm{diag}\Big(\frac{p_i(z_i)}{\varphi(n_i)}\Big),$$
#
# with $\varphi$ the normal density: an off-diagonal entry vanishes where $U$'s does, and nowhere else. A signed permutation $U$ only permutes, flips and
# rescales whole latents, which independent component analysis (ICA) does not count as another solution, nor does the paper; any other $U$ mixes, everywhere. (With conditional CDFs, $D$ is lower
# triangular.) Central differences of the map itself agree.

# %%
def central(transform, z, step=1e-5):
    """The Jacobians of a map at z [n, 2] by central differences, [n, 2, 2]."""
    return np.stack([(transform(z + s) - transform(z - s)) / (2 * step) for s in step * np.eye(2)], -1)


def scores(z, prior):
    return stats.norm.ppf(to_uniform(z, prior))


def inner(z, marginals):
    """Samples whose quantiles, and those of their images, lie in 2 to 98 % and not next to a kink of the density."""
    u = np.concatenate([to_uniform(z, marginals), to_uniform(mixed(z, marginals), marginals)], 1)
    return z[((u > 0.02) & (u < 0.98) & (np.abs(u - 0.5) > 1e-3)).all(1)]


# %%
rows = []
for name in ("uniform", "Laplace", "uniform and gamma"):
    prior = PRIORS[name]
    z = inner(draw(prior, 1000, seed), prior)
    image = mixed(z, prior)
    density, slope = ([np.stack([m.pdf(c) for m, c in zip(prior, a.T, strict=True)], 1) / stats.norm.pdf(scores(a, prior))][0]
                      for a in (z, image))
    formula = U * density[:, None, :] / slope[:, :, None]
    J = central(lambda a, prior=prior: mixed(a, prior), z)
    assert np.allclose(J, formula, rtol=1e-5, atol=1e-7)
    off = np.abs(J[:, [0, 1], [1, 0]])
    assert off.min() > 0 and (np.sign(np.linalg.det(J)) == sign).all()
    rows.append({"prior": name, "least off-diagonal entry of J": off.min(), "median": np.median(off)})
table(rows, **dict.fromkeys(list(rows[0])[1:], ".3f"))

# %% [markdown]
# ## What happens to volume
#
# App. A adds that $|\det J_r(z)| = 1$, and Eq. 1 uses it. Take determinants of the formula above. Because $\lVert n'\rVert = \lVert n\rVert$, the normal densities
# cancel, and
#
# $$|\det J_r(z)| = \prod_i\frac{p_i(z_i)}{\varphi(n_i)}\cdot\frac{\varphi(n'_i)}{p_i(z'_i)} = \frac{p(z)}{p(r(z))}.$$
#
# The same follows for any $r$ that keeps the prior, from the change of variables $p(z) = p(r(z))\,|\det J_r(z)|$. So $r$ keeps volume exactly where
# it moves a sample to a place of equal prior density. That is everywhere for a Gaussian, which is turned along its own level lines, and for a uniform prior, which
# has one level only. It is false for a Laplace prior. What does hold is an average: $\mathbb E\log|\det J_r(z)| = \mathbb E\log p(z) - \mathbb E\log p(r(z)) = 0$,
# because $z$ and $r(z)$ have the same distribution.

# %%
rows, volumes = [], {}
for name, prior in {"Gaussian": [normal] * 2, **PRIORS}.items():
    z = draw(prior, size.samples, seed)
    volumes[name] = identifiability.log_det_jacobian(z, U, prior)
    check = z[:500] if isinstance(prior, GaussianMixture) else inner(z[:1000], prior)
    differences = np.linalg.slogdet(central(lambda a, prior=prior: mixed(a, prior), check))[1]
    error = np.abs(differences - identifiability.log_det_jacobian(check, U, prior)).max()
    mean, spread = volumes[name].mean(), volumes[name].std()
    assert error < 1e-4 and abs(mean) < 5 * spread / math.sqrt(len(z)) + 1e-9
    rows.append({"prior": name, "mean of log det": f"{mean:+.4f} ± {spread / math.sqrt(len(z)):.4f}",
                 "determinant, 5 % to 95 %": " to ".join(f"{math.exp(q):.3f}" for q in np.quantile(volumes[name], [0.05, 0.95])),
                 "against differences": f"{error:.0e}"})
table(rows)

# %%
keeps = {name for name, values in volumes.items() if np.abs(values).max() < 1e-9}
assert keeps == {"Gaussian", "uniform", "correlated Gaussian"}
assert all(np.abs(values).mean() > 0.02 for name, values in volumes.items() if name not in keeps)
show(f"Volume is kept everywhere for: {', '.join(sorted(keeps))}. Not for: {', '.join(sorted(set(volumes) - keeps))}.")

# %%
def log_prior(z, prior):
    if isinstance(prior, GaussianMixture):
        return prior.log_prob(z)
    return sum(marginal.logpdf(column) for marginal, column in zip(prior, z.T, strict=True))


def volume_map(prior):
    """log|det J_r| and log p(z) on a grid; the orbit of one z under all rotations; z and r(z)."""
    start = from_uniform(np.array([[0.93, 0.7]]), prior)
    turns = np.linspace(0, 2 * np.pi, 361)
    circle = np.linalg.norm(scores(start, prior)) * np.stack([np.cos(turns), np.sin(turns)], 1)
    low, high = np.quantile(draw(prior, 4000, seed), [0.005, 0.995], axis=0)
    axes = [np.linspace(a, b, size.cells) for a, b in zip(low, high, strict=True)]
    z = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    fields = identifiability.log_det_jacobian(z, U, prior), log_prior(z, prior)
    maps = [field.reshape(size.cells, size.cells) for field in fields]
    return plotting_latents.VolumeMap(*axes, *maps, from_uniform(ndtr(circle), prior), np.concatenate([start, mixed(start, prior)]))


shown = {"Gaussian": [normal] * 2, "uniform": PRIORS["uniform"], "Laplace": PRIORS["Laplace"], "mixture": mixture}

# %% mystnb={"image": {"alt": "Four maps of log absolute determinant over latent space. Gaussian and uniform are white everywhere. Laplace and mixture have lobes of red and blue. A black closed curve, the orbit of one point, lies on a level line of the Gaussian and crosses those of Laplace and mixture."}, "figure": {"caption": "Change of volume, log|det J_r|, over latent space. Red: the map stretches, blue: it shrinks; colours end at a factor of e. Grey: level lines of the prior. Black: the orbit of one z under all rotations; circle: z, square: r(z).", "name": "fig-volume"}}
figure = plotting_latents.volume_maps({name: volume_map(prior) for name, prior in shown.items()})

# %% [markdown]
# Along an orbit, which is all that one $z$ can be turned into, $\lVert n\rVert$ is constant. For the Gaussian that makes it a level line of the prior. A Laplace prior has diamonds for level lines, and the orbit crosses them:
# where it leads to a thinner place the map must stretch, where it leads to a denser one it must shrink.
#
# ## Identical data, identical likelihood
#
# Now a decoder: $x = \tanh(Wz) + \varepsilon$ with two outputs and noise $\varepsilon$ of standard deviation $\sigma$ (`noise`). The rotated model $p_r$ keeps the prior and decodes $r(z)$ instead of $z$. With $z' = r(z)$,
#
# $$p_r(x) = \int p(z)\,p(x\mid r(z))\,dz = \int p(z')\,p(x\mid z')\,dz' = p(x),$$
#
# and the middle step is nothing but "$r(z)$ has the density $p$ if $z$ has". (App. A writes it in two steps, $p(z)\,dz \to p(r^{-1}(z'))\,dz' \to p(z')\,dz'$.
# Each is off by the determinant; the two errors cancel.)

# %%
W, noise = torch.tensor([[1.5, -0.7], [0.5, 1.2]], dtype=torch.float64), 0.3


def decoder(z):
    """The means of x given z, [n, 2]."""
    return torch.tanh(torch.as_tensor(z) @ W.T)


def observe(z, seed):
    outputs = decoder(z)
    return outputs + noise * torch.randn(outputs.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# %%
prior = PRIORS["Laplace"]
z, fresh = draw(prior, size.samples, seed), draw(prior, size.samples, seed + 1)
x, x_r = observe(z, seed), observe(mixed(fresh, prior), seed + 1)
p_values = [stats.ks_2samp((x @ line).numpy(), (x_r @ line).numpy()).pvalue
            for line in torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)]
assert min(p_values) > 1e-3 / len(p_values)
show(f"Two-sample tests along four directions of data space: p-values {', '.join(f'{p:.2f}' for p in p_values)}.")

# %% mystnb={"image": {"alt": "Two scatter plots of data that fill the same region. In each, colour shows latent 1. The direction in which the colour changes differs between the two."}, "figure": {"caption": "Data from the model p (left) and from the rotated model (right), with a Laplace prior. The clouds agree. The latents behind them, as colours, do not.", "name": "fig-same-data"}}
figure = plotting_latents.same_data(
    {"$p$": (x[:1500].numpy(), laplace.cdf(z[:1500, 0])), "$p_r$": (x_r[:1500].numpy(), laplace.cdf(fresh[:1500, 0]))}
)

# %% [markdown]
# On the right latent 1 follows another direction of data space. A reader of $x$ alone sees two equal clouds.
#
# Samples could hide a small difference. The likelihood of a given $x$ is an integral over two latents, which the trapezoidal rule finds to many digits:
# on a grid of $z$ for the smooth mixtures, and on a grid of normal scores $n$, with nodes $z = F^{-1}(\psi(n))$, for marginals with edges and kinks. The
# same nodes give the posterior's mean.
#
# Its known answer: for a linear decoder and a standard normal prior, $x \sim N(0, WW^\top + \sigma^2I)$.

# %%
def nodes(prior, count):
    """Nodes z [count², 2] and the logarithms of their weights, for integrals over the prior."""
    line = np.linspace(-6.5, 6.5, count)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    if isinstance(prior, GaussianMixture):
        z, log_weights = grid, prior.log_prob(grid)
    else:
        z, log_weights = from_uniform(ndtr(grid), prior), -(grid**2).sum(1) / 2 - math.log(2 * math.pi)
    return torch.from_numpy(z), torch.from_numpy(log_weights + 2 * math.log(line[1] - line[0]))


def infer(x, outputs, z, log_weights):
    """log p(x) [n] in nats and the posterior mean E[z|x] [n, 2], from the decoder's outputs at the nodes z."""
    found = []
    for part in x.split(16):
        square = part.square().sum(1, keepdim=True) - 2 * part @ outputs.T + outputs.square().sum(1)
        log_joint = log_weights - square / (2 * noise**2) - math.log(2 * math.pi * noise**2)
        log_p = log_joint.logsumexp(1)
        found.append((log_p, (log_joint - log_p[:, None]).exp() @ z))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


# %%
z, log_weights = nodes([normal] * 2, size.nodes)
test_points = torch.from_numpy(generator.normal(size=(20, 2)))
log_p, means = infer(test_points, z @ W.T, z, log_weights)
total = W @ W.T + noise**2 * torch.eye(2, dtype=torch.float64)
exact = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float64), total).log_prob(test_points)
assert torch.allclose(log_p, exact, atol=1e-9)
assert torch.allclose(means, test_points @ torch.linalg.solve(total, W), atol=1e-9)

# %% [markdown]
# For each prior: the same observations, their likelihood under both models, and the latents that each model infers, its posterior means. An encoder trained to
# regress the latents of its model would find just these means, so no training is needed to see what it would recover.

# %%
def both(prior, count):
    """Observations of p with their latents, and what p and p_r make of them: (log p(x), E[z|x]) each."""
    truth = draw(prior, size.observations, seed)
    x, (z, log_weights) = observe(truth, seed), nodes(prior, count)
    ours = infer(x, decoder(z), z, log_weights)
    return truth, x, ours, infer(x, decoder(mixed(z, prior)), z, log_weights)


seen = {name: both(prior, size.nodes) for name, prior in {"Gaussian": [normal] * 2, **PRIORS}.items()}

# %%
rows = []
for name, (truth, _, (log_p, means), (log_p_r, means_r)) in seen.items():
    difference = (log_p - log_p_r).abs().max().item()
    moved = (means - means_r).norm(dim=1).mean().item()
    angles = [identifiability.rotation_angle(torch.from_numpy(truth), found) for found in (means, means_r)]
    rows.append({"prior": name, "log p(x), mean (nats)": log_p.mean().item(), "largest difference": difference,
                 "means apart by": moved, "angle, p": angles[0], "angle, p_r": angles[1]})
table(rows, **dict(zip(list(rows[0])[1:], [".4f", ".0e", ".2f", ".1f", ".1f"], strict=True)))
largest = max(row["largest difference"] for row in rows)
assert largest < 1e-5 and min(row["means apart by"] for row in rows) > 0.05
show(f"Over {size.observations} observations for each prior, log p(x) under the two models differs by at most {largest:.0e} nats. "
     "The inferred latents differ by the average distance in the fourth column; the latents have a standard deviation of about 1.")

# %% [markdown]
# The angles are those that later chapters plot: how far the inferred latents must turn to meet the true ones, with permutations and reflections of
# axes left out (App. C), in (−45°, 45°]. Under $p$ there is nothing to turn, but for the chance of few observations: $\mathbb E[z\,\mathbb E[z\mid x]^\top]$ is symmetric. For a normal prior the two columns differ by the angle of $U$ exactly, because posterior means then rotate with the
# latents: $\mathbb E_r[z\mid x] = U^\top\mathbb E[z\mid x]$. For other priors $r$ is not linear, and the angle only says roughly how far it turns.

# %%
_, _, (_, means), (_, means_r) = seen["Gaussian"]
assert torch.allclose(means_r, means @ torch.from_numpy(U), atol=1e-7)
measured, wrapped = identifiability.rotation_angle(means, means_r), identifiability.angle(U).item()
assert abs((measured - wrapped + 45) % 90 - 45) < 1e-4
show(f"Between the two models' means: {measured:.4f}°; the angle of $U$ in (−45°, 45°] is {wrapped:.4f}°.")

# %% [markdown]
# ## The posterior moves the other way
#
# Behind the means are the posteriors. By Bayes' rule and the change of variables,
#
# $$p_r(z\mid x) = \frac{p(z)\,p(x\mid r(z))}{p(x)} = \frac{p(r(z))\,p(x\mid r(z))}{p(x)}\,|\det J_r(z)| = p(r(z)\mid x)\,|\det J_r(z)| :$$
#
# the posterior of the rotated model is that of the first, moved by $r^{-1}$. This is Eq. 1 (K&P) with its determinant. Without it the right-hand side is no
# density in general. For a few observations, with the mixture as prior:

# %%
_, x, (log_p, means), (_, means_r) = seen["mixture"]
line = np.linspace(-5.5, 5.5, size.cells * 2)
z = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
image, volume = mixed(z, mixture), np.exp(identifiability.log_det_jacobian(z, U, mixture))


def posterior(z, decoded, k=0):
    """p(z) p(x | decoded) / p(x) for observation k."""
    log_likelihood = -(x[k] - decoder(decoded)).square().sum(1) / (2 * noise**2) - math.log(2 * math.pi * noise**2)
    return np.exp(mixture.log_prob(z) + (log_likelihood - log_p[k]).numpy())


triples = [(posterior(z, z, k), posterior(z, image, k), posterior(image, image, k)) for k in range(8)]
assert all(np.allclose(after, printed * volume, atol=1e-9) for _, after, printed in triples)
integrals = np.array([[density.sum() for density in triple] for triple in triples]) * (line[1] - line[0]) ** 2
assert np.abs(integrals[:, :2] - 1).max() < 1e-3 and np.abs(integrals[:, 2] - 1).max() > 0.01
low, high = integrals.min(0), integrals.max(0)
show(f"Integrals: of $p(z|x)$ {low[0]:.3f} to {high[0]:.3f}, of $p_r(z|x)$ {low[1]:.3f} to {high[1]:.3f}, "
     f"of Eq. 1's $p(r(z)|x)$ without the determinant {low[2]:.3f} to {high[2]:.3f}.")

# %%
near = np.abs(line) < 3
square = np.ix_(near, near)
densities = {title: density.reshape(len(line), -1)[square] for title, density in zip(("$p(z|x)$", "$p_r(z|x)$"), triples[0][:2], strict=True)}
centres = {title: mean[0].numpy() for title, mean in zip(densities, (means, means_r), strict=True)}

# %% mystnb={"image": {"alt": "Two contour plots of the posterior of the same observation over the two latents. The second is a turned and bent copy of the first, in another place."}, "figure": {"caption": "The posterior of one observation under p and under the rotated model, with the mixture prior. Shades hold 50, 80 and 95 % of the posterior; crosses are its means.", "name": "fig-posteriors"}}
figure = plotting_latents.posterior_pair(line[near], line[near], densities, centres)

# %% [markdown]
# The right posterior is the left one, carried by $r^{-1}$: turned back by the angle and bent. Both explain $x$ equally well. But they have different shapes, and a variational family may
# contain a good copy of one of them and not of the other.
#
# ## The paper's statements and ours
#
# App. A gives no numbers. Its statements, and what the cells above found:

# %%
rows = [
    ["r keeps a factorised prior", "yes", f"no alarm in {4 * 3} tests at {level:.0e} each", "holds"],
    ["conditional CDFs do the same for a correlated prior", "yes", f"no alarm in {4 * 2} tests", "holds"],
    ["r mixes: off-diagonal entries of J are not zero", "yes", "for every U but signed permutations", "holds"],
    ["det J_r = ±1", "yes", "for " + ", ".join(sorted(keeps)), "only where r keeps p(z)"],
    ["p(x) is unchanged", "yes", f"to {largest:.0e} nats", "holds, without the line above"],
    ["the posterior moves by r⁻¹ (Eq. 1)", "yes", "with the determinant", "holds, the formula lacks a factor"],
]
assert [len(found[name]) for name in PRIORS] == [4] * 5
table([dict(zip(("statement", "K&P", "here", "verdict"), row, strict=True)) for row in rows])

# %% [markdown]
# The corrections are collected in the [errata](../errata.md).
#
# ## What is not reproduced here, and why
#
# - Locatello et al. (2019) prove more than the construction: that infinitely many such maps exist in every dimension. Here there are two latents, so that everything
#   can be drawn and integrated. The package's functions take any number.
# - Priors without a density have no such map: where a CDF jumps, $F(z)$ is not uniform.
# - No model is trained. Which of the equivalent models training finds is the subject of the [third chapter](12_uniqueness.ipynb).
#
# ## Exercises
#
# **1.** In the conditional construction the order of the latents is arbitrary. Take the mixture's latents in the other order. Is it the same map? Does it keep the prior?

# %% tags=["hide-cell"]
backwards = GaussianMixture(mixture.weights, mixture.means[:, ::-1], mixture.covariances[:, ::-1, ::-1])
z = mixture.sample(size.samples, seed)
other = conditional_mixing_transform(z[:, ::-1], U[::-1, ::-1], backwards)[:, ::-1]
apart = np.linalg.norm(other - mixed(z, mixture), axis=1).mean()
assert apart > 0.01 and min(alarms(mixture.rosenblatt(other)).values()) > level
show(f"Another map (the two are {apart:.2f} apart on average), and it keeps the prior as well. For independent latents the order would not matter.")

# %% [markdown]
# **2.** Which rotations of two Laplace latents keep volume everywhere? And for the pair of uniform and gamma?

# %% tags=["hide-cell"]
# Those after which the density is the same at every point: a quarter turn of two equal, symmetric marginals permutes and flips them.
others = [np.radians(degrees) for degrees in range(5, 90, 5)]
turns = [np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) for t in others]
assert min(np.abs(identifiability.log_det_jacobian(pushed["Laplace"][:500], turn, [laplace] * 2)).max() for turn in turns) > 0.01
quarters = {name: np.abs(identifiability.log_det_jacobian(pushed[name], quarter, PRIORS[name])).max() for name in list(PRIORS)[:3]}
assert quarters["Laplace"] < 1e-9 < quarters["uniform and gamma"]
show("Multiples of 90° for Laplace. For different marginals a quarter turn sends each latent through the other's quantiles, and "
     f"log|det| reaches {quarters['uniform and gamma']:.1f}: a permutation of $n$ is then no permutation of $z$.")

# %% [markdown]
# **3. Change a parameter.** Set `angle_degrees = 80.0` in the cell of parameters and run the chapter again, on Colab or here. Guess first: is any prior no longer kept, and does a Laplace prior's volume change more than at 30°, or less?

# %% tags=["hide-cell"]
def volume_spread(degrees):
    """How much log|det J| varies over draws from the Laplace prior."""
    t = np.radians(degrees)
    rotation = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    return identifiability.log_det_jacobian(pushed["Laplace"][:1000], rotation, [laplace] * 2).std()


spreads = {degrees: volume_spread(degrees) for degrees in (10, 30, 45, 80)}
assert max(spreads, key=spreads.get) == 45 and math.isclose(spreads[10], spreads[80], rel_tol=0.2)
show("Every prior is kept at every angle. The standard deviation of log|det| is "
     + ", ".join(f"{value:.2f} at {degrees}°" for degrees, value in spreads.items())
     + ". A turn by 80° is one by −10° and then a quarter turn, which only permutes and flips.")

# %% [markdown]
# ## What to take away
#
# - Any continuous prior can borrow the normal distribution's symmetry through its (conditional) CDFs. Each orthogonal $U$ gives a map that keeps it.
# - Putting such a map in front of a decoder changes the latents and nothing that maximum likelihood can see: not the data, not $p(x)$ of a single observation.
# - Volume is kept only between places of equal prior density. What the argument needs is that $r$ keeps the prior: $r(z)$ has the distribution of $z$.
# - The posterior does see it: it moves by $r^{-1}$, and takes on another shape.
#
# What breaks the symmetry? A variational family that contains the one posterior and not the other. Which rotations can a factorised posterior stand?
# [Darmois–Skitovitch](11_darmois_skitovitch.ipynb) answers it, and [Uniqueness in the β-VAE](12_uniqueness.ipynb) shows what follows for training.
