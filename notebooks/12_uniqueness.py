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
# # Uniqueness in the β-VAE
#
# **Claim.** If the best posterior would have to leave its family to follow a change of latents, the β-VAE's objective tells the
# changed model from the original, although both give the data the same likelihood (Kumar & Poole 2020, §3.2, Theorem 1, App. B); and
# for each data set, training with the mean-field family singles out one angle of the latents, where the full covariance leaves it open (Fig. 1, 5, 6, App. C).
# That angle is the data set's own, $\theta^*$, and not in general the one of the latents that made the data. Below "K&P".
#
# The chapter first takes the theorem apart: the identity behind it, the premises that its proof uses, an example where it holds, others
# where it fails, and a corollary whose premises exclude each other. Then it repeats the paper's study. All proofs are on the page
# [Proofs](../proofs.md).
#
# | | |
# |---|---|
# | **You will learn** | why moving the model is the same as moving the posterior back; when a rotation of the latents costs something, and exactly how much; what a trained model's latents owe to the family of its posterior |
# | **You need** | [The rotation that nobody can see](10_rotation_nobody_can_see.ipynb), [Darmois–Skitovitch](11_darmois_skitovitch.ipynb) |
# | **Time** | reading 30 minutes; running about a minute on two cores (`book`); `full` is the paper's study and wants a GPU |

# %% tags=["parameters"]
budget: str = "book"  # test, book or full: how many points, observations, angles, trials and iterations
beta: float = 1.0  # weight of the KL term; the theory's examples take it between 0.1 and 10
seed: int = 0  # of the observations, the trials and their initial weights
device: str = "auto"  # cpu, cuda, or auto: the GPU where there is one
angle_degrees: float = 30.0  # the rotation of the theory's examples, in degrees
activations: list[str] = []  # ν of the study, of identity, tanh, sigmoid, elu; empty takes the budget's
iterations: list[int] = []  # the n of the study's schedules; empty takes the budget's
noise: float = 0.0  # standard deviation of the study's noise, 0.05 in the paper; 0 takes the budget's
samples: int = 0  # samples of a trial's data where q is amortised; 0 takes the budget's
samples_unamortized: int = 0  # the same where each sample has a posterior of its own; 0 takes the budget's
repeats: int = 0  # trials for each number of iterations; 0 takes the budget's
long_repeats: int = 0  # trials for each of the two greatest, amortised; 0 takes the budget's
long_repeats_unamortized: int = 0  # the same, not amortised; 0 takes the budget's
restarts: int = 0  # trials on one data set; 0 takes the budget's
restart_iterations: int = 0  # their n; 0 takes the budget's
block: int = 0  # trials in memory at a time; 0: all
compiled: bool = False  # fuse the steps of training, about ten times as fast; needs a C++ compiler
folder: str = ""  # keeps finished experiments, to go on with after an interruption; empty: nowhere

# %%
import math
import time

import numpy as np
import torch
from matplotlib import pyplot as plt
from scipy import stats
from scipy.spatial.transform import Rotation

from grae_helpers import angles, identifiability, plotting, plotting_uniqueness, published, quadrature, results, runtime
from grae_helpers import linear_vae, toy_vae, uniqueness
from grae_helpers.plotting import show, table

# %%
PARAMETERS = dict(
    budget=budget, beta=beta, seed=seed, device=device, angle_degrees=angle_degrees, activations=activations,
    iterations=iterations, noise=noise, samples=samples, samples_unamortized=samples_unamortized, repeats=repeats,
    long_repeats=long_repeats, long_repeats_unamortized=long_repeats_unamortized, restarts=restarts,
    restart_iterations=restart_iterations, block=block, compiled=compiled, folder=folder,
)
runtime.check_parameters(**PARAMETERS)
size = runtime.sizes(
    budget,
    test={"points": 81, "observations": 2, "spacing": 15.0},
    book={"points": 101, "observations": 4, "spacing": 11.25},
    full={"points": 201, "observations": 12, "spacing": 5.0},
)
where, started = runtime.device(device), time.perf_counter()
plotting.use_style()
tempered = min(max(beta, 0.1), 10.0)  # the β of the examples: their grids resolve the posteriors of this range

# %% [markdown]
# ## Eq. 15: move the model, or move the posterior
#
# As in the paper, and unlike the rest of the book, the objective of this chapter is to be *maximised*:
#
# $$L(q,p)=\mathbb E_{q(z\mid x)}\log p(x\mid z)-\beta\,\mathrm{KL}\big(q(z\mid x)\,\Vert\,p(z)\big).$$
#
# Let $r$ be a map of the latents that can be undone and that keeps the prior: for $z$ from the prior, $r(z)$ is a draw from the prior too. The
# transformed model $p_r$ applies it before the decoder, $p_r(x\mid z)=p(x\mid r(z))$. Write $r\#q$ for the distribution of $r(z)$ when $z\sim q$. Then
#
# $$L(q,p_r)=L(r\#q,p).$$
#
# In words: whatever $q$ is worth to the transformed model, $r\#q$ is worth to the original one. The first term says so by definition of $r\#q$. For the
# second, $r$ carries $q$ to $r\#q$ and the prior to itself, and a map that can be undone changes no divergence. That is the whole proof; there is
# no derivative in it. K&P use one in Eqs. 1 and 15, with $|\det J_r|=1$ and $p(z)=p(r(z))$. The previous chapters showed that the maps of App. A
# do not satisfy this, except for special priors. So we test the identity where the paper's steps fail.
#
# Three priors: the Gaussian with a rotation; a logistic and a Gumbel latent with App. A's map; two correlated latents, a mixture of Gaussians, with App. A's
# map through conditional CDFs. The rotation inside is by `angle_degrees`.

# %%
def turn(degrees):
    """The rotation by an angle in degrees, [..., 2, 2]; it acts on rows as z @ U.T."""
    t = np.radians(degrees)
    return np.stack([np.stack([np.cos(t), -np.sin(t)], -1), np.stack([np.sin(t), np.cos(t)], -1)], -2)


U, marginals = turn(angle_degrees), [stats.logistic(), stats.gumbel_r()]
mixture = identifiability.GaussianMixture(
    [0.6, 0.4], [[-0.8, 0.0], [1.0, 0.5]], [[[1.0, 0.5], [0.5, 0.8]], [[0.7, -0.3], [-0.3, 1.0]]]
)
PRIORS = {  # name: log p(z), and r for a rotation
    "Gaussian": (lambda z: stats.norm.logpdf(z).sum(1), lambda z, U: z @ U.T),
    "logistic and Gumbel": (
        lambda z: sum(m.logpdf(z[:, i]) for i, m in enumerate(marginals)),
        lambda z, U: identifiability.mixing_transform(z, U, marginals),
    ),
    "correlated mixture": (
        mixture.log_prob, lambda z, U: identifiability.conditional_mixing_transform(z, U, mixture)
    ),
}

# %% [markdown]
# One observation $x$ of three numbers, a curved decoder, and a mean-field Gaussian $q$. Integrals over the plane are sums over a fine grid:
# for smooth functions that vanish at its border this is accurate almost to rounding.

# %%
W, x = np.array([[1.2, -0.5], [0.3, 0.8], [-0.7, 0.6]]), np.array([0.4, -0.3, 0.6])
mean, std = np.array([0.5, -0.4]), np.array([0.6, 0.3])


def log_likelihood(z):
    """log p(x|z) for z [n, 2]: g(z) = tanh(Wz), noise 0.5."""
    return stats.norm.logpdf(x, np.tanh(z @ W.T), 0.5).sum(1)


def log_q(z):
    return stats.norm.logpdf(z, mean, std).sum(1)


def plane(low, high):
    """The points [n, 2] of a grid from corner to corner, and the area of its cells."""
    axes = [np.linspace(a, b, size.points) for a, b in zip(low, high, strict=True)]
    area = math.prod(axis[1] - axis[0] for axis in axes)
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2), area


# %% [markdown]
# The left side is integrated over the latents of $p_r$, with $r$ inside the decoder. The right side is integrated over the latents of $p$, with the density of $r\#q$ from
# the change of variables, $q(r^{-1}(z))\,|\det J_{r^{-1}}(z)|$. The determinant comes from finite differences of the map alone, so that nothing here knows that $r$ keeps the prior.

# %%
def log_det(function, z, step=1e-3):
    """log|det| of the Jacobian of a map of the plane, by differences of fourth order."""
    def slope(e):
        near, far = (function(z + k * step * e) - function(z - k * step * e) for k in (1, 2))
        return (8 * near - far) / (12 * step)

    return np.log(np.abs(np.linalg.det(np.stack([slope(e) for e in np.eye(2)], -1))))


def both_sides(log_prior, r):
    """L(q, p_r); L(r#q, p); and the last line of Eq. 15 as printed, with the integral of its "density"."""
    z, area = plane(mean - 7 * std, mean + 7 * std)
    moved = r(z, U)
    left = area * np.exp(log_q(z)) @ (log_likelihood(moved) - beta * (log_q(z) - log_prior(z)))
    z, area = plane(moved.min(0), moved.max(0))
    back = log_q(r(z, U.T))
    pushed = back + log_det(lambda z: r(z, U.T), z)
    values = [left]
    for density in (pushed, back):
        values.append(area * np.exp(density) @ (log_likelihood(z) - beta * (density - log_prior(z))))
    return *values, area * np.exp(back).sum()


# %%
rows, sides = [], {name: both_sides(*prior) for name, prior in PRIORS.items()}
for name, (left, right, printed, total) in sides.items():
    assert abs(left - right) < 1e-8 * max(1, beta), (name, left - right)
    rows.append({
        "prior": name, "L(q, p_r)": left, "L(r#q, p)": right, "difference": abs(left - right),
        "with q(r⁻¹(z)) as printed": printed, "whose integral is": total,
    })
table(rows, **dict.fromkeys(list(rows[0])[1:3], ".8f"), **dict.fromkeys(list(rows[0])[4:], ".4f"), difference=".0e")
assert abs(sides["Gaussian"][2] - sides["Gaussian"][0]) < 1e-8 * max(1, beta)

# %% [markdown]
# The identity holds for all three. The last two columns take the printed lines at their word: $q_r(z)=q(r^{-1}(z))$ without a determinant. For the Gaussian prior and a rotation the determinant is 1
# and they are right. For the other priors it is not (unless nothing is turned): the printed $q_r$ is not a density, as its integral shows, and the printed value is another one.
# The first and the last member of the paper's chain, $L(q,p_r)$ and $L(q_r,p)$ with the true density of $r\#q$, are equal all the same, and that is all that Theorem 1 uses.
#
# Eq. 1 is about the true posterior, and holds in the same sense: if $z$ is a draw from the posterior of $p$, then $r^{-1}(z)$ is one from the posterior of $p_r$. As densities,
# $p_r(z\mid x)=p(r(z)\mid x)\,|\det J_r(z)|$, and the printed form lacks the determinant.

# %%
rows = []
for name, (log_prior, r) in PRIORS.items():
    z, area = plane(mean - 5 * std, mean + 5 * std)
    moved = r(z, U)
    transformed = log_prior(z) + log_likelihood(moved)  # log p_r(z|x) + log p(x), by Bayes' rule in p_r
    original = log_prior(moved) + log_likelihood(moved)  # log p(r(z)|x) + log p(x), in p
    determinant = log_det(lambda z, r=r: r(z, U), z)
    assert np.abs(transformed - original - determinant).max() < 1e-6
    exact = np.abs(determinant).max() < 1e-8
    assert exact == (name == "Gaussian") or abs(math.sin(2 * math.radians(angle_degrees))) < 0.1
    rows.append({
        "prior": name, "least determinant": np.exp(determinant.min()), "greatest": np.exp(determinant.max()),
        "Eq. 1 as densities": "as printed" if exact else "needs the determinant",
    })
table(rows, **dict.fromkeys(list(rows[0])[1:3], ".4f"))

# %% [markdown]
# ## Theorem 1, with the premises that its proof uses
#
# Let $Q$ be the family of posteriors, $r\#Q$ all of them moved by $r$, and $q^*$ a maximiser of $L(\cdot,p)$ over $Q$. Suppose that
#
# 1. $q^*$ is the only maximiser over $Q\cup r\#Q$,
# 2. $r^{-1}\#q^*\notin Q$.
#
# Then $L(q,p_r)<L(q^*,p)$ for every $q\in Q$: the transformed model is worse.
#
# **Proof.** $L(q,p_r)=L(r\#q,p)$. By 2, $r\#q\ne q^*$; by 1, $L(r\#q,p)<L(q^*,p)$. ∎
#
# So all of it is in the premises. K&P ask for more: that $r\#q\notin Q$ for *every* $q\in Q$ and *every* $r\in R$, and uniqueness over the completion $\tilde Q$, the union of $Q$ and all $r\#Q$. For the family that everybody uses, mean-field Gaussians,
# with rotations, the printed premise is never true. A rotation carries $N(\mu,S)$ to $N(U\mu,USU^\top)$, whose covariance is $\frac12(s_1-s_2)\sin2\theta$:

# %%
unequal, equal, rows = (0.5, 0.1), (0.3, 0.3), []
for (s1, s2), degrees in ((unequal, angle_degrees), (equal, angle_degrees), (unequal, 90.0), (unequal, 0.0)):
    covariance = (turn(degrees) @ np.diag([s1, s2]) @ turn(degrees).T)[0, 1]
    assert abs(covariance - (s1 - s2) / 2 * math.sin(2 * math.radians(degrees))) < 1e-12
    rows.append({
        "variances of q": f"{s1:g}, {s2:g}", "rotation": f"{degrees:g}°", "covariance of r#q": covariance,
        "r#q is mean field": "no" if abs(covariance) > 1e-12 else "yes",
    })
table(rows, **{"covariance of r#q": "+.4f"})
assert all(row["r#q is mean field"] == "yes" for row in rows[1:])

# %% [markdown]
# Isotropic members of the family stay for every rotation, and all members stay under signed permutations, which include doing nothing. The proof does not mind. It needs premise 2 about *one* posterior, the optimum, and *one* map.
#
# A posterior here is a map from observations to distributions, moved by the same $r$ at all of them, and $L$ is averaged over the data. So $r^{-1}\#q^*\in Q$ must hold at almost every $x$, and one observation of positive weight at which $q^*$ has unequal variances
# is enough for premise 2. It does not matter whether $Q$ is amortised; [Proofs](../proofs.md) says what then counts as being in $Q$.
#
# ## How much a rotation costs
#
# "Worse" can be made a number. Let $q_\beta(z\mid x)\propto p(z)\,p(x\mid z)^{1/\beta}$, the true posterior for β = 1, and $Z_\beta(x)$ its normaliser. For every $q$
#
# $$L(q,p)=\beta\log Z_\beta-\beta\,\mathrm{KL}(q\,\Vert\,q_\beta),$$
#
# so $q_\beta$ is the only maximiser among *all* distributions. If it lies in $Q$, premise 1 holds with nothing more to ask, $q^*=q_\beta$, and
#
# $$L(q^*,p)-\max_{q\in Q}L(q,p_r)=\beta\,\min_{q\in Q}\mathrm{KL}(r\#q\,\Vert\,q^*).$$
#
# We put this to a test with two latents, two observed numbers and orthogonal columns: $x_i=\nu(a_iz_i)+\text{noise}$. Prior and likelihood factorise, so $q_\beta$ does. For ν = identity it is Gaussian, with
# precisions $m_i=1+a_i^2/(\beta\sigma^2)$, and the price of a rotation by θ is
#
# $$\tfrac\beta2\log\!\Big(1+\tfrac{(m_1-m_2)^2}{4m_1m_2}\sin^22\theta\Big).$$
#
# For ν = tanh it is not Gaussian. Two families $Q$: *all* factorised distributions, and mean-field Gaussians.

# %%
NOISE, ANGLES = 0.5, torch.arange(0, 91, size.spacing, dtype=torch.float64)
TURNS, random = torch.from_numpy(turn(ANGLES.numpy())), torch.Generator().manual_seed(seed)
line = torch.linspace(-6, 6, 161, dtype=torch.float64)
step, square = line[1] - line[0], torch.cartesian_prod(line, line).view(161, 161, 2)
turned = square @ TURNS[:, None].mT  # r(z) on the grid, [angles, 161, 161, 2]


def log_normal(value, mean=0.0, std=1.0):
    return -(((value - mean) / std) ** 2) / 2 - math.log(std * math.sqrt(2 * math.pi))


def observe(nu, columns):
    """Draws of x from the model, [n, 2]."""
    z, noise = torch.randn(2, size.observations, 2, generator=random, dtype=torch.float64)
    return nu(columns * z) + NOISE * noise


DECODERS = {}  # name: ν, the norms of the columns, observations
for name, nu in {"linear": lambda a: a, "tanh": torch.tanh}.items():
    for kind, columns in {"unequal": [2.0, 1.0], "equal": [1.5, 1.5]}.items():
        columns = torch.tensor(columns, dtype=torch.float64)
        DECODERS[f"{name}, {kind} columns"] = (nu, columns, observe(nu, columns))
nu, columns, drawn = DECODERS["tanh, equal columns"]
DECODERS["tanh, equal columns, x₁ = x₂"] = (nu, columns, drawn[:, :1].expand(-1, 2))

# %% [markdown]
# The best *factorised* $q$, of any shape, by coordinate ascent on a grid: with one factor fixed, the best other factor is $\log q_1(z_1)=\mathbb E_{q_2}\big[\log p(z)+\frac1\beta\log p_r(x\mid z)\big]+\text{const}$.
# Each step can only increase $L$. We start from three places, and assert that all end at the same value.

# %%
def ascend(target, second):
    """The factors [batch, n] (summing to one) of the best q1 ⊗ q2 for log densities `target` [batch, n, n]."""
    for _ in range(400):
        first = torch.softmax((target @ second[:, :, None])[..., 0], 1)
        previous, second = second, torch.softmax((target.mT @ first[:, :, None])[..., 0], 1)
        if (second - previous).abs().max() < 1e-13:
            break
    return first, second


log_prior = log_normal(square).sum(-1)


def best_factorised(nu, columns, x):
    """max over all factorised q of L(q, p_r), and q and log q on the grid: [observations, angles] (and the grid)."""
    likelihood = log_normal(x[:, None, None, None], nu(columns * turned), NOISE).sum(-1)
    target, found = (likelihood / tempered + log_prior).flatten(0, 1), []
    for centre, width in ((0.0, 1.0), (2.0, 0.3), (-2.0, 0.3)):
        start = torch.softmax(log_normal(line, centre, width), 0)
        factors = ascend(target, start.expand(len(target), -1))
        q = (factors[0][:, :, None] * factors[1][:, None, :]).view_as(likelihood)
        log_q = sum((f / step).clamp_min(1e-300).log().view(*x.shape[:1], len(ANGLES), *shape)
                    for f, shape in zip(factors, ((161, 1), (1, 161)), strict=True))
        found.append(((q * (likelihood - tempered * (log_q - log_prior))).sum((2, 3)), q, log_q))
    assert max((value - found[0][0]).abs().max() for value, *_ in found) < 1e-9
    return found[0]


# %% [markdown]
# The best mean-field *Gaussian*, by L-BFGS over means and log standard deviations of all observations and angles at once.

# %%
nodes = torch.arange(-7, 7.1, 0.25, dtype=torch.float64)
weights = torch.softmax(-nodes**2 / 2, 0)
nodes, weights = torch.cartesian_prod(nodes, nodes), torch.outer(weights, weights).flatten()
nodes, weights = nodes[weights > 1e-14], weights[weights > 1e-14]


def best_gaussian(nu, columns, x, start=0.0):
    """max over mean-field Gaussians of L(q, p_r), [observations, angles], and the variances [observations, angles, 2]."""
    mean = (torch.zeros(len(x), len(ANGLES), 2, dtype=torch.float64) + start).requires_grad_()
    log_std = torch.full_like(mean, -1.0, requires_grad=True)

    def objective():
        z = mean[:, :, None] + log_std.exp()[:, :, None] * nodes
        outputs = nu(columns * (z @ TURNS.mT))
        kl = ((mean**2 + (2 * log_std).exp() - 1) / 2 - log_std).sum(-1)
        return log_normal(x[:, None, None], outputs, NOISE).sum(-1) @ weights - tempered * kl

    def closure():
        optimiser.zero_grad()
        (loss := -objective().sum()).backward()
        return loss

    optimiser = torch.optim.LBFGS(
        [mean, log_std], max_iter=300, history_size=20, tolerance_grad=1e-9, tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )
    optimiser.step(closure)
    return objective().detach(), (2 * log_std).exp().detach()


# %% [markdown]
# The left side of the formula needs $L(q^*,p)$. As everything factorises, it is a sum of integrals over one latent each. The right side needs $\log q^*$ at $r(z)$. The two share the grid, and no more.

# %%
def optimum(nu, columns, x):
    """L(q*, p) [observations] from its definition, and log Z [observations], by integrals over one latent."""
    likelihood = log_normal(x[..., None], nu(columns[:, None] * line), NOISE)
    log_joint = likelihood / tempered + log_normal(line)
    log_Z = torch.logsumexp(log_joint, -1, keepdim=True) + step.log()
    log_best = log_joint - log_Z
    value = likelihood - tempered * (log_best - log_normal(line))
    return (log_best.exp() * value).sum((1, 2)) * step, log_Z.sum((1, 2))


def price(nu, columns, x):
    """β KL(r#q‖q*) for the best factorised q, and the deficit L(q*, p) − L(q, p_r): [observations, angles] each."""
    value, q, log_q = best_factorised(nu, columns, x)
    top, log_Z = optimum(nu, columns, x)
    likelihood = log_normal(x[:, None, None, None], nu(columns * turned), NOISE).sum(-1)
    log_best = likelihood / tempered + log_normal(turned).sum(-1) - log_Z[:, None, None, None]  # log q* at r(z)
    return tempered * (q * (log_q - log_best)).sum((2, 3)), top[:, None] - value


factorised, gaussian, variances, worst = {}, {}, {}, 0.0
for name, model in DECODERS.items():
    divergence, factorised[name] = price(*model)
    worst = max(worst, (divergence - factorised[name]).abs().max().item())
    value, variances[name] = best_gaussian(*model)
    assert (best_gaussian(*model, start=1.0)[0] - value).abs().max() < 1e-8, name
    gaussian[name] = value[:, :1] - value

# %% [markdown]
# Both sides of the formula agree for five models, every observation and every angle. For the linear decoder so do the two optimisers and the closed form:

# %%
for name in ("linear, unequal columns", "linear, equal columns"):
    m = 1 + DECODERS[name][1] ** 2 / (tempered * NOISE**2)
    closed = tempered / 2 * torch.log1p((m[0] - m[1]) ** 2 / (4 * m[0] * m[1]) * torch.sin(2 * ANGLES.deg2rad()) ** 2)
    for deficit in (factorised[name], gaussian[name]):
        assert (deficit - closed).abs().max() < 1e-8, name
assert worst < 1e-9
show(f"β = {tempered:g}, {size.observations} observations, {len(ANGLES)} angles: formula and deficit differ by at most {worst:.0e} nats.")

# %%
def draw_price(deficits):
    """A panel per family: the price over the angle, a line per decoder (mean over observations)."""
    figure, axes = plt.subplots(2, 1, figsize=(0.9 * plotting.WIDTH, 6.2), sharex=True)
    styles = ["-", "--", "-", "--", ":"]
    for axis, (family, by_decoder) in zip(axes, deficits.items(), strict=True):
        for i, (name, deficit) in enumerate(by_decoder.items()):
            options = {"color": plotting.PALETTE[i], "marker": plotting.MARKERS[i], "ls": styles[i], "ms": 5}
            axis.plot(ANGLES, deficit.mean(0), label=name, **options)
        axis.set_yscale("symlog", linthresh=1e-4)
        axis.set(title=family, ylabel="price (nats)", ylim=(-2e-5, 1))
    axes[-1].set(xlabel="rotation (degrees)", xticks=range(0, 91, 15))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=1)
    return figure


# %% mystnb={"image": {"alt": "Two panels, the price of a rotation in nats against its angle from 0 to 90 degrees, one line per decoder. All lines are zero at 0 and 90 degrees. With all factorised distributions only the linear decoder with equal columns stays at zero; with mean-field Gaussians the tanh decoder with equal columns stays at zero too for observations with two equal entries, and costs little otherwise."}, "figure": {"caption": "What a rotation of the latents costs at best, for two families of posteriors and decoders with orthogonal columns. Means over observations; the scale is linear up to 0.0001 nats and logarithmic above.", "name": "fig-uniqueness-price"}}
figure = draw_price({"all factorised distributions": factorised, "mean-field Gaussians": gaussian})

# %% [markdown]
# ### Where Theorem 1 holds, and where it fails
#
# - **Holds.** A linear decoder with unequal columns, for both families. With tanh, *all* factorised distributions: $q^*$ is not Gaussian, and by the Darmois–Skitovitch theorem no mixing rotation keeps it factorised, equal columns or not.
# - **Fails, since premise 2 does.** The linear decoder with equal columns: $q^*$ is isotropic, $r^{-1}\#q^*$ is in the family at every angle, and the objective cannot tell. Signed permutations, at 0° and 90°, for every decoder.
# - **Depends on the family.** With tanh and mean-field Gaussians, $q^*$ is the best Gaussian, whose shape is all that counts. (At 0° it is the best among *all* Gaussians, mean field or not: the likelihood is a product, so only $q$'s marginals count for it, and a correlation would only cost entropy. So it is a maximiser over $\tilde Q$.) It is isotropic at observations with $x_1=x_2$ and equal columns; there a rotation
#   costs nothing, though it would cost the larger family something. At other observations the variances differ, and the price is positive.

# %%
mixing = (ANGLES > 1) & (ANGLES < 89)
rows = []
for name in DECODERS:
    s = variances[name][:, 0]
    rows.append({
        "decoder": name, "largest ratio of variances of q*": (s.amax(1) / s.amin(1)).max().item(),
        "all factorised: least mean price": round(factorised[name].mean(0)[mixing].min().item(), 9) + 0.0,
        "Gaussians: least mean price": round(gaussian[name].mean(0)[mixing].min().item(), 9) + 0.0,
    })
    for deficit in (factorised[name], gaussian[name]):
        assert deficit.min() > -1e-8 and deficit[:, [0, -1]].mean(0).abs().max() < 1e-8, name
table(rows, **{"largest ratio of variances of q*": ".3f"}, **dict.fromkeys(list(rows[0])[2:], ".6f"))

# %% [markdown]
# The last columns are the least price over the angles that mix, averaged over the observations. A Gaussian family sees only the second moments of what a rotation does to a non-Gaussian posterior; the family of all factorised distributions
# sees everything, and asks more.

# %%
costs, free = 1e-6, 1e-8
all_prices, gaussian_prices = ({row["decoder"]: row[key] for row in rows} for key in list(rows[0])[2:])
assert min(price for name, price in all_prices.items() if name != "linear, equal columns") > costs
assert factorised["linear, equal columns"].abs().max() < free and gaussian["linear, equal columns"].abs().max() < free
assert min(gaussian_prices[f"{nu}, unequal columns"] for nu in ("linear", "tanh")) > costs
assert gaussian_prices["tanh, equal columns"] > costs
assert gaussian["tanh, equal columns, x₁ = x₂"].abs().max() < free

# %% [markdown]
# ## Corollary 1
#
# Premise 1 asks for a unique maximiser over $\tilde Q$. Corollary 1 offers a sufficient condition: $\tilde Q$ is convex. $L(\cdot,p)$ is strictly concave, so the maximiser is then unique. In fact, for any average $\bar q=\frac1m\sum_k q_k$,
#
# $$L(\bar q,p)-\frac1m\sum_k L(q_k,p)=\frac\beta m\sum_k\mathrm{KL}(q_k\,\Vert\,\bar q)\ \ge\ 0.$$
#
# But look at what a convex $\tilde Q$ has to contain. Take any $q\in Q$ and a fifth of a turn. All five rotated copies are in $\tilde Q$, so their average $\bar q$ is. And a fifth of a turn carries $\bar q$ to itself.

# %%
M = 5
fifth, spread = turn(360 / M), np.diag([0.6**2, 0.25**2])
centres = [np.linalg.matrix_power(fifth, k) @ [1.5, 0.5] for k in range(M)]
covariances = [np.linalg.matrix_power(fifth, k) @ spread @ np.linalg.matrix_power(fifth, k).T for k in range(M)]
copies = [stats.multivariate_normal(m, S).logpdf for m, S in zip(centres, covariances, strict=True)]


def log_average(z):
    return np.logaddexp.reduce([copy(z) for copy in copies]) - math.log(M)


def worth(log_density, z, area):
    """L(q, p) for the observation and the decoder of the first section, prior N(0, I)."""
    return area * np.exp(log_density(z)) @ (log_likelihood(z) - beta * (log_density(z) - PRIORS["Gaussian"][0](z)))


z, area = plane([-6, -6], [6, 6])
gain = worth(log_average, z, area) - np.mean([worth(copy, z, area) for copy in copies])
divergences = [area * np.exp(copy(z)) @ (copy(z) - log_average(z)) for copy in copies]
assert abs(gain - beta * np.mean(divergences)) < 1e-6 * max(1, beta) and gain > 0
assert np.abs(log_average(z @ fifth.T) - log_average(z)).max() < 1e-9
show(f"The average is worth {gain:.4f} nats more than its parts on average, β times the mean divergence; a fifth of a turn leaves it alone.")

# %%
def draw_average(copies, log_average):
    """The density of one Gaussian, and of the average of its rotated copies."""
    figure, axes = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3.2), sharey=True)
    axis = np.linspace(-3.2, 3.2, 161)
    z = np.stack(np.meshgrid(axis, axis), -1)
    densities = {"one member of Q": copies[0], "the average of five copies": log_average}
    for panel, (title, log_density) in zip(axes, densities.items(), strict=True):
        density = np.exp(log_density(z.reshape(-1, 2))).reshape(161, 161)
        panel.contourf(axis, axis, density, levels=np.linspace(0, 1, 9) * density.max(), cmap="Blues")
        panel.plot(0, 0, "+", color="black")
        panel.set(title=title, xlabel="$z_1$", aspect="equal")
    axes[0].set_ylabel("$z_2$")
    return figure


# %% mystnb={"image": {"alt": "Two contour plots of a density over two latents. Left an elongated Gaussian to the right of the origin. Right five such Gaussians, each turned by 72 degrees from the last, arranged around the origin like petals."}, "figure": {"caption": "A mean-field Gaussian, and the average of its five rotated copies. The average is the same after a fifth of a turn.", "name": "fig-uniqueness-average"}}
figure = draw_average(copies, log_average)

# %% [markdown]
# Now suppose that $\tilde Q$ is convex. Then $\bar q\in\tilde Q$, which leaves two cases.
#
# - $\bar q\in Q$. A fifth of a turn leaves it in $Q$: the premise "$r\#q\notin Q$ for all $q$ and $r$" is violated.
# - $\bar q=s\#q'$ with $q'\in Q$ and a map $s\in R$. Then $t=s^{-1}rs$, "move by $s$, turn, move back", leaves $q'$ where it is: violated again.
#
# So Corollary 1's premises exclude each other whenever $R$ contains, with its conjugates, a rotation by a fraction of a full turn. It is true and says nothing. ([Proofs](../proofs.md) has the exact conditions, and an odd family, of rotations of
# infinite order only, for which it does say something.) In the plane $t=r$, as rotations commute. In three dimensions they do not, and the second case is worth a check:

# %%
rng = np.random.default_rng(seed)
r, s = (Rotation.from_euler(axis, degrees, degrees=True).as_matrix() for axis, degrees in (("z", 360 / M), ("x", 50)))
t = s.T @ r @ s
L = np.diag([0.7, 0.4, 0.2]) + np.tril(rng.normal(size=(3, 3)), -1) / 5
centre, points = rng.normal(size=3), rng.normal(size=(200, 3))


def q_prime(z):
    """log of s⁻¹#q̄ at z, with q̄ the average over the powers of r of one Gaussian in three dimensions."""
    turns = [np.linalg.matrix_power(r, k) for k in range(M)]
    parts = [stats.multivariate_normal(T @ centre, T @ L @ L.T @ T.T).logpdf(z @ s.T) for T in turns]
    return np.logaddexp.reduce(parts) - math.log(M)


assert np.abs(q_prime(points @ t) - q_prime(points)).max() < 1e-9  # log of t#q' at z is log q' at t⁻¹z
assert np.abs(r @ s - s @ r).max() > 0.01  # they do not commute
assert np.abs(np.linalg.matrix_power(t, M) - np.eye(3)).max() < 1e-12 and np.sort(np.abs(t), None)[-4] > 1e-3

# %% [markdown]
# And for mean-field Gaussians, whose $\tilde Q$ is all Gaussians? It is not convex: $\bar q$ is no Gaussian. If it were, it would be the one with its own mean and covariance, and at a distance of zero from it.

# %%
density = area * np.exp(log_average(z))
m = density @ z
S = (z - m).T * density @ (z - m)
distance = density @ (log_average(z) - stats.multivariate_normal(m, S).logpdf(z))
assert distance > 0.01 and np.abs(S - S[0, 0] * np.eye(2)).max() < 1e-6 and np.abs(m).max() < 1e-6
show(f"KL from the average to the Gaussian of its moments, $N(0, {S[0, 0]:.3f}\\,I)$: {distance:.3f} nats.")

# %% [markdown]
# **What can be kept.** Uniqueness does not need convexity. Where $q_\beta\in Q$, as for every decoder of the figure with the family of all factorised distributions, $q_\beta$ is the only maximiser among *all* distributions, so over any $\tilde Q$; and the price
# is known exactly. That is the corollary that [Proofs](../proofs.md) puts in the place of the printed one. Elsewhere uniqueness over $\tilde Q$ must be checked for the model at hand.

# %%
table([
    {"K&P": "Eq. 15, L(q, p_r) = L(r#q, p)", "verdict": "holds for every r that keeps the prior"},
    {"K&P": "Eqs. 1 and 15, the determinant of J_r is ±1", "verdict": "needed by the printed steps, not by the result; not true in general"},
    {"K&P": "Theorem 1", "verdict": "holds; its proof needs r⁻¹#q* ∉ Q and a unique maximiser"},
    {"K&P": "its premise r#q ∉ Q for all q, r", "verdict": "fails for mean-field Gaussians and rotations"},
    {"K&P": "Corollary 1", "verdict": "its premises exclude each other for rotations"},
])

# %% [markdown]
# ## The study of App. C
#
# Theory speaks of the optimum. What does training find? For ν = identity theory says what to expect: the best decoder has orthogonal columns, of unequal norms unless chance
# makes them equal, so $q_\beta$ is mean field, and every mixing rotation of *that* decoder costs something. For other ν nothing above proves premise 1, and the study is the evidence.
#
# K&P draw $z\sim N(0,I)$ and $x=\nu(Wz)+\varepsilon$ in the plane, $\varepsilon\sim N(0,0.05^2I)$, with random
# $W$ whose columns have the norms 2 and 1. A β-VAE with the decoder $\nu(Az)+b$ is trained on $x$, its posterior either *amortised*, $N(Cx+d,\Sigma)$, or not,
# $N(\mu_i,\Sigma_i)$ for each sample. Then the posterior means $M$ are compared with the latents $Z$ that made the data, a column for each sample: the orthogonal $O$ that minimises
# $\lVert Z-OM\rVert_F$ is a rotation by θ times a signed permutation, $\theta\in(-45°,45°]$. So θ, so far a rotation of our choice, is from here on an angle that is measured; and "ELBO", as in
# the paper's figures, is $L$ averaged over the data, its KL term weighted by β. Sixteen experiments: four ν, mean field against full covariance, amortised or not.
#
# A trial has its own $W$, its own data and its own start. It is trained at the learning rates 0.1, 0.01, … 1e-5 for $n$ iterations each, with $n$ from 100 to 20,000, so that trials come to rest at all
# distances from the optimum. So that no coordinate is preferred, $C=O_1C'$ and $\Sigma=O_2D'D'^\top O_2^\top$ with random rotations that stay fixed.
#
# All trials of an experiment are one batch here, each with its own schedule, and leave it when they are done. The decoder's outputs see $z$ through one linear form each, which is Gaussian under $q$, so the
# expectation is a quadrature in *one* dimension; for ν = identity it needs the second moments of the data and nothing else.
#
# The paper leaves choices open. Ours:
#
# | open in the paper | here |
# |---|---|
# | noise of the decoder | Gaussian, fixed at the data's own variance |
# | expectation under $q$ | Gauss–Hermite: 5 nodes amortised; 16 for mean field and 32 for the full covariance when not. All ELBOs reported are taken with 64 |
# | "gradient descent" | Adam on the ELBO of all samples; the next cell shows why |
# | the start | $A$, $C'$: standard normal; $D'$, $\mu_i'$: normal with standard deviation 0.1; $b=d=0$ |
# | the means without amortisation | turned like the rest, $\mu_i=O_1\mu_i'$; below is why |
# | the decoder's $A$ | not turned, as in the paper |
# | $D'$ | any 2×2 matrix; mean field uses the diagonal of Σ only, as the paper says |
# | precision | single; double for ν = identity with amortisation, and for all that is reported |
#
# Why not gradient descent? With noise 0.05 the ELBO is steep. A step of 0.1 cannot settle where the curvature exceeds 2/0.1 = 20. At the optimum of a linear model:

# %%
linear = toy_vae.Experiment("identity", noise=0.05)
example = toy_vae.simulate(1, 500, seed=seed)
A, _ = uniqueness.principal(linear, example)


def mean_elbo(b):
    """The ELBO per sample, as a function of the offset b alone."""
    parameters = {"A": A, "b": b, "C": C, "d": -C @ centre, "D": D}
    rotations = {"C": torch.eye(2).double()[None], "D": torch.eye(2).double()[None]}
    return toy_vae.elbo(linear, parameters, rotations, example.x).sum()


centre = example.x.mean(-1, keepdim=True)
precision = torch.eye(2) + A.mT @ A / linear.noise**2
C = torch.linalg.solve(precision, A.mT / linear.noise**2)
D = torch.diag_embed(precision.diagonal(dim1=1, dim2=2).rsqrt())[..., None]
assert abs(mean_elbo(centre) - uniqueness.best_elbo(linear, example)[0]) < 1e-9  # this is the optimum
curvature = -torch.func.hessian(mean_elbo)(centre).reshape(2, 2)
steepest = torch.linalg.eigvalsh(curvature)[-1].item()
show(f"The curvature in $b$ alone is {steepest:.0f}, that is $1/\\sigma^2$, so gradient descent must stay below a learning rate of {2 / steepest:.4f}.")
assert steepest > 20

# %%
try:
    uniqueness.train(linear, example, [100], optimizer="gradient_descent")
    raise AssertionError("gradient descent was expected to diverge")
except FloatingPointError as error:
    show(f"At 0.1: *{error}*.")

# %% [markdown]
# The fixed rotations say something about the paper's optimiser too. Gradient descent commutes with a rotation: with $D=OD'$, a step for $D'$ is a step for $D$. So all it could notice of $O_1$ and $O_2$ is another
# start. Adam divides each coordinate by its own scale, so it does prefer axes. Two runs that begin alike, one with the rotations and one without, and more noise, so that both optimisers settle:

# %%
curved = toy_vae.Experiment("tanh", "full", noise=1.0)


def apart(optimiser):
    """How far the decoders of the two runs end from each other."""
    x, ends = toy_vae.simulate(1, 50, "tanh", noise=curved.noise, seed=seed).x, []
    for turned in (True, False):
        parameters, rotations = toy_vae.initial(curved, 1, 50, seed=seed)
        if not turned:
            parameters["C"] = rotations["C"] @ parameters["C"]
            parameters["D"] = (rotations["D"] @ parameters["D"][..., 0])[..., None]
            rotations = dict.fromkeys(rotations, torch.eye(2, dtype=torch.float64)[None])
        steps = optimiser([part.requires_grad_() for part in parameters.values()], lr=0.1)
        for _ in range(30):
            steps.zero_grad()
            (-toy_vae.elbo(curved, parameters, rotations, x, nodes=8)).sum().backward()
            steps.step()
        ends.append(parameters["A"].detach())
    return (ends[0] - ends[1]).abs().max().item()


descent, adam = apart(torch.optim.SGD), apart(torch.optim.Adam)
assert descent < 1e-9 < 1e-4 < adam
show(f"The decoders differ by {descent:.0e} after gradient descent, and by {adam:.2g} after Adam.")

# %% [markdown]
# K&P notice that *without* the rotations the optimiser imparts "some degree of uniqueness", most of all without amortisation. Plain gradient descent cannot have done that, unless their start preferred the axes.
# For the same reason we turn the means $\mu_i$ as well, which App. C does not say.
#
# ### The live study
#
# The live study is smaller, and has more noise, so that fewer iterations suffice. It is not the paper's; the paper's sizes follow below, frozen.

# %%
live = runtime.sizes(
    budget,
    test={
        "activations": ["identity", "tanh"], "iterations": [2, 5, 10], "repeats": 3, "long_repeats": 4, "noise": 0.3,
        "long_repeats_unamortized": 4, "samples": 50, "samples_unamortized": 20, "nodes": 5, "restarts": 4,
        "restart_iterations": 10,
    },
    book={
        "activations": ["identity", "tanh"], "iterations": [10, 30, 100, 300], "repeats": 12, "long_repeats": 24,
        "long_repeats_unamortized": 24, "samples": 200, "samples_unamortized": 100, "noise": 0.3, "nodes": 8,
        "restarts": 12, "restart_iterations": 200,
    },
    full=published.UNIQUENESS | {"nodes": 0, "restarts": 20, "restart_iterations": 10_000},
    activations=activations, iterations=iterations, samples=samples, samples_unamortized=samples_unamortized,
    noise=noise, repeats=repeats, long_repeats=long_repeats, long_repeats_unamortized=long_repeats_unamortized,
    restarts=restarts, restart_iterations=restart_iterations,
)


# %% tags=["hide-output"]
def run(activations, families, amortized, iterations, **data):
    """The experiments of one kind: name → arrays over the trials."""
    found = {}
    for activation in activations:
        for family in families:
            experiment = toy_vae.Experiment(activation, family, amortized, beta, live.noise, live.nodes)
            found[experiment.name] = rows = uniqueness.study(
                experiment, iterations, samples=live.samples if amortized else live.samples_unamortized,
                seed=1000 * seed + 10 * quadrature.ACTIVATIONS.index(activation), folder=folder or None,
                device=str(where), block=block, compiled=compiled, **data,
            )
            print(f"{experiment.name}: {len(iterations)} trials, {rows['seconds'][0]:.0f} s", flush=True)
    return found


study, families = {}, toy_vae.FAMILIES
for amortized, long in ((True, live.long_repeats), (False, live.long_repeats_unamortized)):
    lengths = published.trials(live.iterations, live.repeats, long)
    study |= run(live.activations, families, amortized, lengths)

# %% [markdown]
# **A known answer first.** For ν = identity everything is known in closed form. The greatest ELBO is that of probabilistic PCA, whose columns are orthogonal, so mean field loses nothing; and the angle
# $\theta^*$ of its latents follows from the second moments of $x$ and $z$. (At β ≠ 1 the noise variance in it is $\beta\sigma^2$.)

# %%
def title(name):
    """An experiment's name as a reader would write it."""
    return name.replace(".", ", ").replace("_", " ")


def known_rows(study):
    """How many of the longest runs reach the optimum of their own data, and where they come to rest."""
    rows = []
    for name in (name for name in study if name.startswith("identity")):
        found = study[name]
        last = found["iterations"] == found["iterations"].max()
        gap = found["best"][last] - found["elbo"][last]
        distance = angles.difference(found["angle"], found["own_angle"])[last]
        rows.append({
            "experiment": title(name), "n": found["iterations"].max(), "trials": last.sum(), "within 1e-3 nats": (gap < 1e-3).mean(),
            "θ within 0.5° of θ*": (np.abs(distance) < 0.5).mean(),
            "p, θ − θ* uniform": angles.uniformity(distance[np.isfinite(distance)]),
        })
    return rows


formats = {"n": ",", "within 1e-3 nats": ".0%", "θ within 0.5° of θ*": ".0%", "p, θ − θ* uniform": ".2g"}
if known := known_rows(study):
    table(known, **formats)
for name in (name for name in study if name.startswith("identity")):
    assert (study[name]["best"] - study[name]["elbo"] > -1e-8).all(), "no run may exceed the optimum"

# %% [markdown]
# The last column is the p-value of Rayleigh's test, for angles with a period of 90°, that $\theta-\theta^*$ is uniform. A tiny one for mean field says that runs gather around their own optimum; for the full covariance
# it is the test that no angle is preferred. (Raw angles would be no test: each trial has another $W$ and so another $\theta^*$, which makes θ uniform whatever the family.)

# %% mystnb={"image": {"alt": "Rows for the experiments of the live study, amortised. Left the raw angle, right the angle less its predicted optimum, over the ELBO. For mean field the right panels draw together at zero as the ELBO grows; for the full covariance they stay spread."}, "figure": {"caption": "The live study, amortised: each point is a trained model. Left its rotation angle, as the paper draws it; right the same less the angle that is best for the trial's own data. The worst 8 % lie left of the axis.", "name": "fig-uniqueness-live"}}
def panels(study, kind):
    """The experiments of a kind, by title."""
    chosen = [name for name in study if name.endswith(f".{kind}")]
    return {title(name.removesuffix(f".{kind}")): study[name] for name in chosen}


figure = plotting_uniqueness.angle_against_elbo(panels(study, "amortized"))

# %% mystnb={"image": {"alt": "The same for the experiments of the live study in which every sample has a posterior of its own."}, "figure": {"caption": "The live study, not amortised: a posterior for each sample.", "name": "fig-uniqueness-live-unamortized"}}
figure = plotting_uniqueness.angle_against_elbo(panels(study, "unamortized"))

# %% [markdown]
# The left panels are what Fig. 1, 5 and 6 are said to show. For a random $W$ they do *not* draw together at zero, mean field or not, because the optimum's own angle differs from trial to trial:
# $\theta^*(W)=\frac12\operatorname{atan2}\big(2(W^\top W)_{12},(W^\top W)_{11}-(W^\top W)_{22}\big)$ for a linear model with many samples. The columns of $W$ are not orthogonal, so mean field *must* turn the latents. Its uniqueness
# shows on the right, where $\theta^*$ is taken off.
#
# For ν ≠ identity, $\theta^*$ is the angle at which mean field pays least among the decoders $\nu(WR(\theta)z)$, which all have one likelihood. This is [Eq. 14](21_optimal_covariance_grae.ipynb), and right to leading order in the noise.
#
# The paper's sentence, "diagonal Σ encourages unique solution … as the ELBO increases", becomes a verdict. It "holds" where three things are true of $\theta-\theta^*$ in the trials of the two greatest $n$: with mean field it is not uniform
# ($p<0.001$), and less spread than at the least $n$; with the full covariance no preference is found ($p>0.01/k$ for $k$ rows, since $k$ tests are made). The spread is the circular standard deviation, in degrees, with the period of 90°.

# %%
def verdict_table(rows):
    """K&P's sentence for each ν and kind of inference."""
    degrees = dict.fromkeys(["mean field, least n", "mean field", "full"], ".1f")
    table(rows, **degrees, **dict.fromkeys(["p", "p (full)"], ".1g"))


show(f"Live, `{budget}` budget: spread (circular standard deviation) of $\\theta-\\theta^*$ in degrees, and p-values for uniform angles:")
verdict_table(published.uniqueness_verdicts(study))

# %% [markdown]
# ### One data set, many starts
#
# The sharpest form of the claim needs no $\theta^*$: all trials on *one* data set, with different starts. If it is right, mean-field runs at the best ELBO agree on one angle, and full-covariance runs do not.
# Beside it a control: $W$ with orthogonal columns of the norms 2 and 1. There $\theta^*(W)=0$ for the linear model, up to what finite samples do; for a curved ν it need not be. (Live runs are too short to settle
# there. The frozen control at the end of the chapter is long enough.)

# %% tags=["hide-output"]
starts = [live.restart_iterations] * live.restarts
shared, orthogonal = {}, {}
for amortized in (True, False):
    curved = [activation for activation in live.activations if activation != "identity"]
    shared |= run(curved, families, amortized, starts, shared=True)
    orthogonal |= run(live.activations, families[:1], amortized, starts, columns="orthogonal")

# %%
def agreement(shared):
    """For each experiment: runs within 0.01 nats of its best, and the spread of their angles."""
    rows = []
    for name, found in shared.items():
        best = found["elbo"] > np.nanmax(found["elbo"]) - 0.01
        rows.append({
            "experiment": title(name), "best ELBO": np.nanmax(found["elbo"]), "runs within 0.01 nats": f"{best.sum()} of {best.size}",
            "spread of θ": angles.spread(found["angle"][best]), "θ of the best": found["angle"][np.nanargmax(found["elbo"])],
            "θ* predicted": found["own_angle"][0],
        })
    return rows


numbers = {"best ELBO": ".3f", "spread of θ": ".2f", "θ of the best": ".1f", "θ* predicted": ".1f"}
if shared:
    table(agreement(shared), **numbers)

# %%
def control(orthogonal):
    """Where mean-field runs come to rest if the columns of W are orthogonal."""
    return [
        {
            "experiment": title(name), "trials": len(found["angle"]),
            "median |θ|": np.nanmedian(np.abs(found["angle"])), "median |θ*| predicted": np.median(np.abs(found["own_angle"])),
        }
        for name, found in orthogonal.items()
    ]


show(f"Orthogonal columns, {live.restart_iterations:,} iterations at each rate, degrees:")
table(control(orthogonal), **{"median |θ|": ".2f", "median |θ*| predicted": ".2f"})

# %% [markdown]
# ## The paper's sizes, frozen

# %%
KINDS = {"study": study, "shared": shared, "orthogonal": orthogonal}
if budget == "full":
    results.freeze(
        results.root() / "12_uniqueness", parameters=PARAMETERS | {"folder": ""}, sizes=vars(live), paper=published.UNIQUENESS,
        arrays={
            f"{kind}-{name}-{column}": column_values
            for kind, found in KINDS.items() for name, rows in found.items() for column, column_values in rows.items()
        },
        seeds=[seed], seconds=sum(rows["seconds"][0] for found in KINDS.values() for rows in found.values()),
    )


def thaw(arrays):
    """The frozen arrays as kind → experiment → column."""
    found = {kind: {} for kind in KINDS}
    for key, array in arrays.items():
        kind, name, column = key.split("-")
        found[kind].setdefault(name, {})[column] = array
    return found


frozen = results.find("12_uniqueness")
kept = thaw(frozen.arrays) if frozen else None
if frozen is None:
    show("This checkout has no frozen result for this chapter; `-p budget full` makes one.")
else:
    count = sum(len(rows["angle"]) for rows in kept["study"].values())
    show(f"**Frozen result**, {count:,} trained models in the study: {frozen.label}.")

# %% [markdown]
# Again the known answer first, now with the paper's noise and at $n=20{,}000$:

# %%
if kept:
    table(known := known_rows(kept["study"]), **formats)
    for row in known:
        mean_field = "mean field" in row["experiment"]
        if row["experiment"].endswith(", amortized") and row["n"] >= 20_000:
            assert row["within 1e-3 nats"] >= 0.95 and (row["θ within 0.5° of θ*"] >= 0.95) == mean_field
        assert mean_field or row["p, θ − θ* uniform"] > 1e-3

# %% mystnb={"image": {"alt": "Scatter of the distance from the predicted angle against the distance from the greatest ELBO, for linear models. Mean-field runs form a funnel that closes at zero; full-covariance runs stay at every angle however close they come to the optimum."}, "figure": {"caption": "Linear models, amortised, frozen run: how far each run is from the greatest ELBO of its own data, and from the angle predicted by second moments. The dotted line is 0.001 nats; runs at the right end are at the optimum to nine digits.", "name": "fig-uniqueness-known"}}
if kept:
    names = {"mean field": "identity.mean_field.amortized", "full covariance": "identity.full.amortized"}
    figure = plotting_uniqueness.known_answer({family: kept["study"][name] for family, name in names.items()})

# %% [markdown]
# ### Fig. 1 and 5: amortised
#
# Mean field, then the full covariance. Fig. 1 of the paper is the row for tanh.

# %% mystnb={"image": {"alt": "Four rows, one for each activation, mean field, amortised. Left the raw angle over the ELBO, right the angle less its predicted optimum, which draws together near zero as the ELBO and the number of iterations grow."}, "figure": {"caption": "Mean field, amortised, from the frozen run.", "name": "fig-uniqueness-5-mean-field"}}
def of_family(study, kind, family):
    return {title: rows for title, rows in panels(study, kind).items() if title.endswith(family)}


if kept:
    figure = plotting_uniqueness.angle_against_elbo(of_family(kept["study"], "amortized", "mean field"))

# %% mystnb={"image": {"alt": "Four rows, one for each activation, full covariance, amortised. Raw angle and angle less prediction are spread over all values at every ELBO."}, "figure": {"caption": "Full covariance, amortised, from the frozen run.", "name": "fig-uniqueness-5-full"}}
if kept:
    figure = plotting_uniqueness.angle_against_elbo(of_family(kept["study"], "amortized", "full"))

# %% [markdown]
# ### Fig. 6: not amortised

# %% mystnb={"image": {"alt": "Four rows, one for each activation, mean field with a posterior for each sample. The angle less its predicted optimum draws together at zero."}, "figure": {"caption": "Mean field, not amortised, from the frozen run.", "name": "fig-uniqueness-6-mean-field"}}
if kept:
    figure = plotting_uniqueness.angle_against_elbo(of_family(kept["study"], "unamortized", "mean field"))

# %% mystnb={"image": {"alt": "Four rows, one for each activation, full covariance with a posterior for each sample. The angles stay spread."}, "figure": {"caption": "Full covariance, not amortised, from the frozen run.", "name": "fig-uniqueness-6-full"}}
if kept:
    figure = plotting_uniqueness.angle_against_elbo(of_family(kept["study"], "unamortized", "full"))

# %%
if kept:
    show("Frozen: spread of $\\theta-\\theta^*$ over the trials of the two greatest n, degrees, and p-values for uniform angles:")
    verdict_table(verdicts := published.uniqueness_verdicts(kept["study"]))
    least = min(verdicts, key=lambda row: row["p (full)"])
    low = sum(row["p (full)"] < 0.01 for row in verdicts)
    show(
        f"The least p-value of a full covariance is {least['p (full)']:.1g} ({least['ν']}, {least['inference']}). At a level of 0.01 for each row "
        f"instead of all rows together, {low} of {len(verdicts)} would be \"not seen\". So slight a preference may be chance in so many tests, or what "
        "Adam leaves with an unturned $A$; it is far from one angle."
    )
    assert all(row["verdict"] == "holds" for row in verdicts), "Fig. 1, 5 and 6"
    worst = max(np.nanmax(np.abs(rows["quadrature_error"])) for rows in kept["study"].values())
    show(f"The quadrature of training and the one of 64 nodes differ by at most {worst:.1g} nats at the end of a run.")

# %% [markdown]
# ### One data set, many starts: frozen

# %% mystnb={"image": {"alt": "For three activations, amortised and not: the angles of the runs that reached the best ELBO. Mean-field runs all lie on one point, full-covariance runs at all angles."}, "figure": {"caption": "Runs on one data set from different starts, frozen: the angles of all runs within 0.01 nats of the best ELBO of their family. Each blue dot is many runs on top of each other.", "name": "fig-uniqueness-starts"}}
if kept:
    pairs = {}
    for name, rows in kept["shared"].items():
        activation, family, inference = name.split(".")
        pairs.setdefault(f"{activation}, {inference}", {})[family.replace("_", " ")] = rows
    figure = plotting_uniqueness.one_data_set(pairs)

# %%
if kept:
    table(agreed := agreement(kept["shared"]), **numbers)
    for row in agreed if frozen.manifest["sizes"]["restart_iterations"] >= 10_000 else []:
        assert (row["spread of θ"] < 5) == ("mean field" in row["experiment"]), row
    best = {row["experiment"]: row["best ELBO"] for row in agreed}
    price = {name: best[name.replace("mean field", "full")] - best[name] for name in best if "mean field" in name}
    for kind in ("amortized", "unamortized"):
        low, high = (f(value for name, value in price.items() if name.endswith(f" {kind}")) for f in (min, max))
        show(f"What mean field costs at its best, {kind}: {low:.4f} to {high:.4f} nats.")
    show("Control, orthogonal columns, degrees:")
    table(control(kept["orthogonal"]), **{"median |θ|": ".2f", "median |θ*| predicted": ".2f"})

# %% [markdown]
# With one Σ for all samples mean field costs next to nothing: there is a turn of the latents at which the averaged precision is diagonal, and training finds it. With a posterior for each sample no one turn suits all of them, and the
# price is real; it still singles out an angle.
#
# So training finds what Theorem 1 leads one to expect, also where its premises are not proved: one data set, one angle, if the posterior's family is mean field; any angle with the full covariance.
#
# ## What is not reproduced here
#
# - The paper's figures could not be compared point by point: it prints no numbers, and its optimiser, the decoder's noise and the starts are our choices, listed above.
# - A frozen run that is smaller than the paper's says so in its label.
# - App. C leaves the decoder's $A$ unturned, and so do we. Under Adam that may leave a preference which the fixed rotations do not take away; the p-values for the full covariance say how far it shows.
# - Why some $\theta^*$ predicted for ν ≠ identity misses: the formula is the leading order in the noise, with the true decoder. Where ν saturates, posteriors are wide; an amortised mean $Cx+d$ cannot follow the curve of ν. The
#   experiment with many starts shows by how much.
#
# ## Exercises
#
# **1.** A linear decoder with orthogonal, unequal columns: at which angle is a rotation dearest, and what does it cost in the limit of small β, measured in units of β?

# %% tags=["hide-cell"]
a, small = torch.tensor([2.0, 1.0], dtype=torch.float64), 1e-6
m = 1 + a**2 / (small * NOISE**2)
dearest = 0.5 * torch.log1p((m[0] - m[1]) ** 2 / (4 * m[0] * m[1])).item()
limit = math.log((a.square().sum() / (2 * a.prod())).item())
assert math.isclose(dearest, limit, rel_tol=1e-4)
show(
    "At 45°, where $\\sin^22\\theta=1$ and the bracket is $(m_1+m_2)^2/(4m_1m_2)$. As β shrinks, $m_i$ is in proportion to $a_i^2$, and the price divided by β tends to "
    f"$\\log\\frac{{a_1^2+a_2^2}}{{2a_1a_2}}$: here {limit:.4f}. In nats the price itself vanishes with β."
)

# %% [markdown]
# **2.** Let $Q$ be all *full-covariance* Gaussians. Which premise of Theorem 1 fails, and what does Corollary 1's $\tilde Q$ look like?

# %% tags=["hide-cell"]
show(
    "A rotated Gaussian is a Gaussian: $r\\#Q=Q$, so $r^{-1}\\#q^*\\in Q$ always and premise 2 fails for every rotation; the price is zero at every angle. $\\tilde Q=Q$, "
    "which is not convex, since an average of Gaussians is no Gaussian. For maps that do not keep Gaussians Gaussian, App. A's with another prior, premise 2 can hold again."
)

# %% [markdown]
# **3.** The paper wants latents that are unique "ignoring the permutations and reflections". How many orthogonal matrices of the plane does one θ stand for, and why can the angle not leave $(-45°,45°]$?

# %% tags=["hide-cell"]
signed = [np.diag(signs) @ order for signs in ([1, 1], [1, -1], [-1, 1], [-1, -1]) for order in (np.eye(2), np.eye(2)[::-1])]
found = {round(float(identifiability.angle(turn(20.0) @ S)), 6) for S in signed}
assert found == {20.0} and len(signed) == 8
show(f"{len(signed)} of them: $2^2\\cdot2!$ signed permutations. A quarter turn is one, so angles are only known up to 90°; with a reflection, $R(\\theta)S$ has the same first axis.")

# %% [markdown]
# **4. Change a parameter.** Set `seed = 1` and run the chapter again, on Colab or here: the study gets other data sets. Guess first which angles move, and where $\theta^*$ may lie. Then draw the matrices of a thousand data sets.

# %% tags=["hide-cell"]
own = linear_vae.own_angle(toy_vae.simulate(1000, 2, seed=seed + 1).weights)
quarters = np.quantile(own.numpy(), [0.25, 0.75])
furthest = math.degrees(math.atan2(4, 3)) / 2  # columns of norms 2 and 1 in one direction
within = (own.abs() < 5).double().mean().item()
assert 0.95 * furthest < own.abs().max() <= furthest + 1e-9
show(
    f"θ moves with θ*, and θ − θ* stays at 0 for long mean-field runs. With norms 2 and 1, θ* = ½ atan2(4c, 3), where c is the cosine between the columns: at most {furthest:.1f}°. "
    f"Half of the θ* lie between {quarters[0]:.0f}° and {quarters[1]:.0f}°, and {within:.0%} within 5° of 0. For most data sets the latents that mean field singles out are not those that made the data."
)

# %% [markdown]
# ## What to take away
#
# - Changing the latents of a model is the same, for the objective, as changing the posteriors back. If the changed posteriors stay in the family, nothing is lost; if they leave it, the loss is β times a KL divergence.
# - The printed premises of Theorem 1 are too strong, those of Corollary 1 exclude each other. What the proof needs is little, and can be checked.
# - For one data set, mean field makes the latents of the plane unique up to order and sign, at an angle that the data decide: $\theta^*$, where the decoder's columns are orthogonal if it is linear. The latents that made the data
#   are at another angle, except where their own columns were orthogonal to begin with. Uniqueness is not recovery.
