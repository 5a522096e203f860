"""Estimators of what the decoder pays: sampled columns, normalised dot products, random probes, Lanczos quadrature.

All are per sample. The first ones take J's products with the sampled directions and −H_p, the weights of the pixels
(1 for unit-variance Gaussian pixels); Lanczos quadrature takes the decoder, which it needs again and again.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from grae_helpers import runtime
from grae_helpers.decoding import ConstantStatistics, Decoder, check_latents
from grae_helpers.likelihoods import Likelihood


def random_like(code: Tensor, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Uniform numbers in [0, 1) on the code's device, drawn where the generator lives.

    >>> random_like(torch.zeros(2, 3), (2, 4), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 4])
    """
    device = code.device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=device).to(code.device)


def sampled_columns(code: Tensor, n: int, k: int, generator: torch.Generator | None = None) -> Tensor:
    """Unit vectors e_c [n, d, k] for k of the d columns, uniform and without replacement, for each of n samples.

    Raises ValueError for k outside 1 … d.

    >>> sampled_columns(torch.zeros(2, 3), 2, 3, torch.Generator().manual_seed(0)).sum((1, 2))
    tensor([3., 3.])
    """
    runtime.integer("n_columns", k, 1)
    if k > (d := code.shape[1]):
        raise ValueError(f"n_columns: expected 1 to d = {d}, got {k}")
    columns = random_like(code, (n, d), generator).argsort(1)[:, :k]
    return F.one_hot(columns, d).to(code.dtype).transpose(1, 2)


def rademacher(code: Tensor, n_probes: int, generator: torch.Generator | None = None) -> Tensor:
    """Random signs [batch, d, n_probes]: E[vvᵀ] = I, and of all independent entries these have the least variance.

    They are the probes of Hutchinson's estimate of a trace, E[vᵀAv] = tr A.

    >>> rademacher(torch.zeros(1, 2), 3, torch.Generator().manual_seed(0)).abs().sum().item()
    6.0
    """
    runtime.integer("n_probes", n_probes, 1)
    signs = random_like(code, (*code.shape, n_probes), generator) < 0.5
    return torch.where(signs, 1.0, -1.0).to(code.dtype)


def hadamard(columns: Tensor, weights: Tensor, latent_dim: int, beta: float) -> Tensor:
    """Eq. 14 (K&P) on k sampled columns: (β/2)(d/k) Σ_c log(1 + J_cᵀ(−H_p)J_c/β), in nats, [batch].

    Shapes: columns [batch, D, k], weights −H_p [batch, D]. Unbiased for the sum over all d columns. Raises ValueError
    where the argument of a logarithm is not positive.

    >>> round(hadamard(torch.ones(1, 1, 1), torch.ones(1, 1), latent_dim=2, beta=1.0).item(), 4)  # log 2
    0.6931
    """
    scaled = (weights[:, :, None] * columns.square()).sum(1) / beta
    if runtime.readable(scaled) and not bool((scaled > -1).all()):
        least = 1 + scaled.min().item()
        raise ValueError(f"1 − [JᵀH_pJ]_cc/β: expected positive, got {least:.3g} with β = {beta:g}")
    return beta / 2 * latent_dim * torch.log1p(scaled).mean(1)


def orthogonality(columns: Tensor, weights: Tensor, latent_dim: int) -> Tensor:
    """Σ_{i<j} cos²(J_i, J_j), the normalised dot products of K&P §5.3, from the pairs among k ≥ 2 sampled columns.

    Where JᵀJ ≫ β, it is to second order what Hadamard's bound leaves out: −log|R| ≈ Σ_{i<j} R_ij² for the matrix R of
    the cosines. The dot products are weighted by −H_p ≥ 0. Unbiased for the sum over all pairs; a column of zeros is
    orthogonal to every other. Shapes: columns [batch, D, k], weights [batch, D] → [batch]. Raises ValueError for
    fewer than two columns.

    >>> orthogonality(torch.ones(1, 3, 2), torch.ones(1, 3), latent_dim=2)
    tensor([1.])
    """
    k = columns.shape[2]
    if k < 2:
        raise ValueError(f"orthogonality: expected n_columns of at least 2, whose pairs it takes, got {k}")
    tiny = torch.finfo(columns.dtype).tiny
    # cosines do not depend on lengths, and squares of very small or large numbers do not fit the dtype
    columns = columns / columns.detach().abs().amax(1, keepdim=True).clamp_min(tiny)
    products = columns.mT @ (weights[:, :, None] * columns)
    squares = products.diagonal(dim1=1, dim2=2)
    norms = squares[:, :, None] * squares[:, None, :]
    known = (norms > tiny).triu(1)
    cosines = torch.where(known, products.square() / torch.where(known, norms, 1), 0)
    return cosines.sum((1, 2)) * (latent_dim * (latent_dim - 1) / (k * (k - 1)))


def gradient_penalty(pushed: Tensor, weights: Tensor) -> Tensor:
    """½ tr(Jᵀ(−H_p)J) from products of J with Rademacher probes, [batch]; for Gaussian pixels ½‖J‖²_F.

    The first-order term of GRAE's regulariser (K&P §6) and the gradient penalty of Ghosh et al. 2020. It is not the
    gradient of the summed outputs, which is 0 for a linear decoder whose columns sum to zero.
    Shapes: pushed Jv [batch, D, n_probes], weights [batch, D].

    >>> gradient_penalty(torch.ones(1, 4, 1), torch.ones(1, 4))
    tensor([2.])
    """
    return (weights[:, :, None] * pushed.square()).sum(1).mean(1) / 2


def half_square_norm(decoder: Decoder, code: Tensor) -> Tensor:
    """½‖θ‖² over the decoder's parameters, once for each code, [batch]: the weight decay of Ghosh et al. 2020.

    Raises TypeError for a decoder that is no module.

    >>> half_square_norm(torch.nn.BatchNorm1d(3), torch.zeros(2, 3)).tolist()  # weights 1, biases 0
    [1.5, 1.5]
    """
    if not isinstance(decoder, torch.nn.Module):
        raise TypeError(f"decoder: expected a module, for its parameters' norm, got {type(decoder).__name__}")
    squares = [parameter.square().sum() for parameter in decoder.parameters()]
    return sum(squares, code.new_zeros(())).expand(len(code)) / 2


def log_det_lanczos(
    decoder: Decoder,
    likelihood: Likelihood,
    x: Tensor,
    z: Tensor,
    beta: float,
    *,
    n_probes: int = 1,
    n_steps: int = 10,
    generator: torch.Generator | None = None,
) -> Tensor:
    """log|I − JᵀH_pJ/β|, [batch], in nats, by stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017).

    d Σ_i τ_i² log(1 + θ_i/β), averaged over random signs v. θ_i are the eigenvalues of the tridiagonal matrix of
    `n_steps` Lanczos steps from v on JᵀWJ, W = −H_p, and τ_i the first entries of its eigenvectors.

    Bias: the quadrature's, which falls geometrically with the steps; the estimate comes out too large, since even
    derivatives of a logarithm are negative. With n_steps = d (larger ones count as d) it is exact, and the estimate
    unbiased. Variance: the probes', 2 Σ_{i≠j} [log(I + JᵀWJ/β)]_ij²/n_probes. JᵀWJ is never made: the decoder is run
    twice and differentiated once, and then a step costs two passes through it for each probe.

    The gradient is vᵀd(JᵀWJ)(I + JᵀWJ/β)⁻¹v/β, whose last factors the Lanczos steps have solved for: unbiased with
    n_steps = d. It takes third derivatives of the decoder's layers, and is for checks and small models;
    `losses.grae_approx` is the objective to train with.

    Shapes: x like the decoder's output, z [batch, d]. Batch statistics are held constant, and running ones stay as
    they are. Raises ValueError for β ≤ 0 or NaN, fewer than one probe or step, an indefinite I − JᵀH_pJ/β, shapes
    that do not fit and x outside the support.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> x, z = torch.zeros(1, 2), torch.zeros(1, 2)
    >>> log_det_lanczos(torch.nn.Identity(), Gaussian(), x, z, beta=1.0)  # 2 log 2
    tensor([1.3863])
    """
    beta = runtime.positive("beta", beta)
    runtime.integer("n_steps", n_steps, 1)
    check_latents(z)
    keep, d = torch.is_grad_enabled(), z.shape[1]
    probes = rademacher(z, n_probes, generator).movedim(2, 0)
    with torch.inference_mode(False), torch.enable_grad():
        x, z = (tensor.clone() if tensor.is_inference() else tensor for tensor in (x, z))
        g, push, pull = _linearized(decoder, z)
        likelihood.check(x, g)
        weights = -likelihood.hessian_diag(x, g)
        fixed = weights.detach()
        basis, tridiagonal = _lanczos(lambda v: pull(fixed * push(v)), probes, min(n_steps, d))
        nodes, vectors = torch.linalg.eigh(tridiagonal)
        if not bool((nodes > -beta).all()):
            raise ValueError(f"I − JᵀH_pJ/β: expected positive definite, got eigenvalue {1 + nodes.min() / beta:.3g}")
        first = vectors[:, :, 0]
        found = d * (first.square() * torch.log1p(nodes / beta)).sum(2).mean(0)
        if keep and (g.requires_grad or weights.requires_grad):
            inverse = (vectors @ (first / (1 + nodes / beta))[..., None]).mT @ basis  # (I + JᵀWJ/β)⁻¹v, over ‖v‖ = √d
            solved = d**0.5 * inverse[:, :, 0].to(z.dtype)
            forms = [weights * push(v, True) * push(y, True) for v, y in zip(probes, solved, strict=True)]
            slope = sum(form.flatten(1).sum(1) for form in forms) / (n_probes * beta)
            found = found + (slope - slope.detach())
        return found.to(z.dtype)


def _linearized(decoder: Decoder, z: Tensor) -> tuple[Tensor, Callable[..., Tensor], Callable[[Tensor], Tensor]]:
    """g(z), and for each sample v ↦ J v and u ↦ Jᵀu, with constant batch statistics.

    Jᵀu is linear in u, so that its own reverse pass is J: after this a product costs one pass through the decoder.
    """
    passes = ConstantStatistics(decoder)
    g = passes.run(z)
    z = z.view_as(z) if z.requires_grad else z.detach().requires_grad_()  # the statistics are constants to this z
    again = passes.run(z)
    u = torch.zeros_like(again, requires_grad=True)
    back = _gradient(again, z, u, keep=True)
    return g, lambda v, keep=False: _gradient(back, u, v, keep), lambda u: _gradient(again, z, u)


def _gradient(output: Tensor, of: Tensor, along: Tensor, keep: bool = False) -> Tensor:
    """The product of `along` with ∂output/∂of; zeros where nothing depends on it."""
    if not output.requires_grad:
        return torch.zeros_like(of)
    options = {"create_graph": keep, "retain_graph": True, "allow_unused": True, "materialize_grads": True}
    return torch.autograd.grad(output, of, along.to(output.dtype), **options)[0]


def _lanczos(product: Callable[[Tensor], Tensor], start: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
    """Orthonormal vectors [probes, batch, n_steps, d] from `start`, and the tridiagonal matrix that is JᵀWJ in them.

    In float64 but for the products. Where the vectors span all that start reaches, the next ones are zero, and so are
    the rows of the matrix, which is then exact. Full reorthogonalisation, twice: without it, in few digits,
    eigenvalues come back as copies.
    """
    q = F.normalize(start.double(), dim=2)
    basis = q.new_zeros(*start.shape[:2], n_steps, start.shape[2])
    matrix = q.new_zeros(*start.shape[:2], n_steps, n_steps)
    least = start.shape[2] * torch.finfo(start.dtype).eps
    for step in range(n_steps):
        basis[:, :, step] = q
        found = torch.stack([product(v) for v in q.to(start.dtype)]).double()
        matrix[:, :, step, step] = (q * found).sum(2)
        for _ in range(2):
            found = found - (basis.mT @ (basis @ found[..., None]))[..., 0]
        if step + 1 < n_steps:
            size = found.norm(dim=2)
            size = torch.where(size > least * matrix.abs().amax((2, 3)), size, 0.0)
            matrix[:, :, step + 1, step] = matrix[:, :, step, step + 1] = size
            q = torch.where(size[..., None] > 0, found / size[..., None], 0.0)
    if not torch.isfinite(matrix).all():
        raise ValueError("decoder: expected a finite Jacobian, got NaN or infinity")
    return basis, matrix
