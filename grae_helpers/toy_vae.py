"""The models of K&P App. C: many β-VAEs of two latents and two outputs, trained as one batch.

Data x = ν(Wz) + ε are fitted by the decoder ν(Az) + b with Gaussian noise of the true variance, held fixed. The
posterior is N(Cx + d, Σ), or N(μ_i, Σ_i) for each sample. O₁ and O₂ are random rotations, one pair per trial, so
that coordinates carry no preference: C = O₁C′ and Σ = O₂D′D′ᵀO₂ᵀ, or μ_i = O₁μ_i′ and Σ_i = O₂D_i′D_i′ᵀO₂ᵀ. (App. C
does not turn the means: gradient descent would not notice, Adam does.) Mean field uses the diagonal of Σ only. Trials
stand in the first dimension and samples in the last.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from grae_helpers import quadrature, runtime

FAMILIES = ("mean_field", "full")
SINGULAR = 1e-7
"""Added to |D′| in quadrature: a step of float32 can land on |D′| = 0, whose logarithm would end the trial."""

Parameters = dict[str, Tensor]


class Experiment(NamedTuple):
    """One of App. C's experiments, and how expectations under q are taken in training.

    The activation ν is one of quadrature.ACTIVATIONS, the family of q one of FAMILIES, `noise` the standard
    deviation of data and decoder. Training uses Gauss–Hermite quadrature with `nodes` points for each output, or as
    many Monte Carlo draws for each sample with monte_carlo=True; nodes=0 takes 5 with amortisation, where q stays
    narrow, else 16 for mean field and 32 for the full covariance, whose posteriors grow long where ν saturates.
    """

    activation: str = "tanh"
    family: str = "mean_field"
    amortized: bool = True
    beta: float = 1.0
    noise: float = 0.05
    nodes: int = 0
    monte_carlo: bool = False

    @property
    def points(self) -> int:
        """The number of nodes or draws, with 0 resolved."""
        return self.nodes or (5 if self.amortized else 16 if self.family == "mean_field" else 32)

    @property
    def name(self) -> str:
        """A short name for tables and files.

        >>> Experiment("elu", "full", amortized=False).name
        'elu.full.unamortized'
        """
        return f"{self.activation}.{self.family}.{'amortized' if self.amortized else 'unamortized'}"


class Data(NamedTuple):
    """Data of several trials: `weights` W [T, 2, 2], `latents` z and `x`, both [T, 2, n]."""

    weights: Tensor
    latents: Tensor
    x: Tensor


def simulate(
    trials: int,
    samples: int,
    activation: str = "identity",
    *,
    noise: float = 0.05,
    columns: str = "random",
    shared: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Data:
    """x = ν(Wz) + ε with z ~ N(0, I), ε ~ N(0, noise² I) (K&P App. C).

    W has standard normal entries, its columns scaled to the norms 2 and 1; columns="orthogonal" turns the second
    at a right angle to the first. shared=True gives all trials the same W, z and ε.

    Raises ValueError for fewer than 1 trial or 2 samples, a bad seed, and an unknown activation or kind of columns.

    >>> data = simulate(3, 50, "tanh", seed=1)
    >>> data.x.shape, data.weights.norm(dim=1)[0].tolist()
    (torch.Size([3, 2, 50]), [2.0, 1.0])
    """
    runtime.integer("trials", trials, 1)
    runtime.integer("samples", samples, 2)
    runtime.positive("noise", noise)
    runtime.one_of("activation", activation, quadrature.ACTIVATIONS)
    runtime.one_of("columns", columns, ("random", "orthogonal"))
    runtime.check_parameters(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    count = 1 if shared else trials
    normal = [torch.randn(count, 2, k, generator=generator, dtype=torch.float64) for k in (2, samples, samples)]
    weights, latents, errors = normal
    if columns == "orthogonal":
        first = weights[:, :, 0]
        weights = torch.stack([first, torch.stack([-first[:, 1], first[:, 0]], 1)], 2)
    weights = weights / weights.norm(dim=1, keepdim=True) * weights.new_tensor([2.0, 1.0])
    x = quadrature.activate(weights @ latents, activation)[0] + noise * errors
    return Data(*(part.expand(trials, -1, -1).to(dtype).contiguous() for part in (weights, latents, x)))


def initial(experiment: Experiment, trials: int, samples: int, *, seed: int = 0) -> tuple[Parameters, Parameters]:
    """Random parameters and fixed rotations: standard normal A and C′, zero offsets, and a narrow start for q.

    Factors D′ and means μ_i′ are normal with standard deviation 0.1: the paper leaves the initial values open, and a
    wide q begins where a saturated ν has no slope.

    >>> parameters, rotations = initial(Experiment("tanh", "full"), 2, 50)
    >>> sorted(parameters), sorted(rotations)
    (['A', 'C', 'D', 'b', 'd'], ['C', 'D'])
    """
    runtime.check_parameters(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    kinds = {"A": (2, 2), "D": (2, 2, 1), "C": (2, 2)}
    if not experiment.amortized:
        kinds = {"A": (2, 2), "D": (2, 2, samples), "mean": (2, samples)}
    parameters = {
        name: torch.randn(trials, *shape, generator=generator, dtype=torch.float64) for name, shape in kinds.items()
    }
    turned = ["C" if experiment.amortized else "mean", "D"]
    turns = 2 * math.pi * torch.rand(len(turned), trials, generator=generator, dtype=torch.float64)
    rotations = {name: rotation(turn) for name, turn in zip(turned, turns, strict=True)}
    for name in ("b", "d") if experiment.amortized else ("b",):
        parameters[name] = torch.zeros(trials, 2, 1, dtype=torch.float64)
    for name in {"D", "mean"} & set(parameters):
        parameters[name] *= 0.1
    return parameters, rotations


def elbo(experiment: Experiment, parameters: Parameters, rotations: Parameters, x: Tensor, nodes: int = 64) -> Tensor:
    """E_q log p(x|z) − β KL(q‖p) of each trial, nats per sample, by Gauss–Hermite quadrature (K&P Eq. 2).

    Each output depends on one linear form of z, Gaussian under q: one dimension each. Shape: x [T, 2, n] gives [T].

    >>> data = simulate(3, 50, "tanh", seed=1)
    >>> model = Experiment("tanh", "full")
    >>> elbo(model, *initial(model, 3, 50), data.x).shape
    torch.Size([3])
    """
    check(experiment)
    return total(parameters, rotations, x, *rule(nodes, x), experiment) / x.shape[-1]


def moments(x: Tensor) -> Tensor:
    """Σ (x, 1)(x, 1)ᵀ over the samples: [T, 2, n] gives [T, 3, 3]; all that ν = identity needs to know of x.

    >>> moments(torch.ones(1, 2, 5))[0, 2].tolist()
    [5.0, 5.0, 5.0]
    """
    with_one = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    return with_one @ with_one.mT


def posterior_means(parameters: Parameters, rotations: Parameters, x: Tensor) -> Tensor:
    """The means of q: Cx + d, or O₁μ_i′; [T, 2, n].

    >>> model = Experiment("tanh", amortized=False)
    >>> posterior_means(*initial(model, 3, 50), torch.zeros(3, 2, 50)).shape
    torch.Size([3, 2, 50])
    """
    if "mean" in parameters:
        return _apply(rotations["mean"], parameters["mean"])
    return _apply(rotations["C"] @ parameters["C"], x) + parameters["d"]


def total(parameters, rotations, observed, nodes, weights, experiment) -> Tensor:
    """The ELBO of each trial summed over its samples, for the nodes and weights of `rule`: [T].

    `observed` are samples [T, 2, n], or their `moments` where ν = identity and C is amortised.

    >>> data, model = simulate(3, 50, "identity", seed=1), Experiment("identity")
    >>> observed = [(part, *rule(5, part), model) for part in (data.x, moments(data.x))]
    >>> torch.allclose(*[total(*initial(model, 3, 50), *terms) for terms in observed])
    True
    """
    A, variance = parameters["A"], experiment.noise**2
    factor = _product(rotations["D"], parameters["D"])
    if experiment.family == "mean_field":
        variances = (factor**2).sum(2)
        spread, trace, log_det = _apply(A**2, variances), variances.sum(1), variances.log().sum(1)
    else:
        spread, trace = (_product(A, factor) ** 2).sum(2), (factor**2).sum((1, 2))
        determinant = factor[:, 0, 0] * factor[:, 1, 1] - factor[:, 0, 1] * factor[:, 1, 0]
        log_det = (determinant**2 + SINGULAR**2).log()
    if observed.shape[1] == 3:
        squared, norms = _of_moments(parameters, rotations, observed)
        n = observed[:, 2, 2]
        squared = squared + n * spread.sum((1, 2))
        entropy_terms = n * (trace - log_det - 2).squeeze(1)
    else:
        n, mean = observed.shape[2], posterior_means(parameters, rotations, observed)
        squared = _squared_error(_apply(A, mean), spread, observed - parameters["b"], nodes, weights, experiment)
        norms = (mean**2).sum((1, 2))
        entropy_terms = (trace - log_det - 2).expand(-1, n).sum(1)
    kl = 0.5 * (norms + entropy_terms)
    return -squared / (2 * variance) - n * math.log(2 * math.pi * variance) - experiment.beta * kl


def _squared_error(mean, spread, target, nodes, weights, experiment) -> Tensor:
    """Σ E (t − ν(u))² over outputs and samples, u ~ N(mean, spread)."""
    if experiment.activation == "identity":
        return ((target - mean) ** 2 + spread).sum((1, 2))
    rule = (nodes, weights, experiment.activation)
    return quadrature.expected_squared_error(mean, spread.sqrt(), target, *rule).sum((1, 2))


def _of_moments(parameters, rotations, observed) -> tuple[Tensor, Tensor]:
    """Σ ‖x − A(Cx + d) − b‖² and Σ ‖Cx + d‖² over the samples, from their moments."""
    encoder = torch.cat([rotations["C"] @ parameters["C"], parameters["d"]], 2)
    decoded = parameters["A"] @ encoder + torch.nn.functional.pad(parameters["b"], (2, 0))
    residual = torch.eye(2, 3, dtype=decoded.dtype, device=decoded.device) - decoded
    return tuple(((form @ observed) * form).sum((1, 2)) for form in (residual, encoder))


def _apply(matrix: Tensor, vectors: Tensor) -> Tensor:
    """[T, 2, 2] times [T, 2, n], as a sum: a batched product of so thin matrices takes several times as long."""
    return (matrix[..., None] * vectors[:, None]).sum(2)


def _product(matrix: Tensor, factors: Tensor) -> Tensor:
    """[T, 2, 2] times each of [T, 2, 2, n]."""
    return (matrix[..., None, None] * factors[:, None]).sum(2)


def rule(nodes: int, like: Tensor, monte_carlo: bool = False, generator: torch.Generator | None = None):
    """Nodes and weights of Gauss–Hermite quadrature, or standard normal draws shaped like `like` and equal weights.

    >>> draws, weights = rule(4, torch.zeros(3, 2, 50), monte_carlo=True)
    >>> draws[0].shape, weights
    (torch.Size([3, 2, 50]), [0.25, 0.25, 0.25, 0.25])
    """
    if not monte_carlo:
        return quadrature.gauss_hermite(nodes)
    draws = torch.randn(nodes, *like.shape, generator=generator, dtype=like.dtype, device=like.device)
    return list(draws), [1 / nodes] * nodes


def rotation(radians: Tensor) -> Tensor:
    """The rotations of the plane by these angles, [...] to [..., 2, 2].

    >>> rotation(torch.tensor(math.pi / 2)).round().abs().tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    cosine, sine = radians.cos(), radians.sin()
    return torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)


def check(experiment: Experiment) -> None:
    """Refuse, by name, an experiment that cannot be run: ValueError or TypeError.

    >>> check(Experiment("elu", "full"))
    """
    runtime.one_of("activation", experiment.activation, quadrature.ACTIVATIONS)
    runtime.one_of("family", experiment.family, FAMILIES)
    for name in ("amortized", "monte_carlo"):
        if not isinstance(value := getattr(experiment, name), bool):
            raise TypeError(f"{name}: expected true or false, got {value!r}")
    runtime.positive("beta", experiment.beta)
    runtime.positive("noise", experiment.noise)
    runtime.integer("nodes", experiment.nodes, 0)


def check_data(data: Data) -> None:
    """Refuse, by name, data whose shapes do not belong together: ValueError.

    >>> check_data(simulate(3, 50))
    """
    shape = list(data.x.shape)
    if data.x.ndim != 3 or shape[1] != 2 or 0 in shape:
        raise ValueError(f"data.x: expected [trials, 2, samples], got {shape}")
    for name, wanted in (("latents", shape), ("weights", [shape[0], 2, 2])):
        if (found := list(getattr(data, name).shape)) != wanted:
            raise ValueError(f"data.{name}: expected {wanted} beside an x of {shape}, got {found}")
