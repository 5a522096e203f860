"""The decoder's local geometry beside the posterior's covariance: block structure, and its price in nats."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from grae_helpers import jacobians, losses, posteriors, runtime
from grae_helpers.likelihoods import Likelihood


def off_block_energy(matrices: Tensor, block_size: int) -> Tensor:
    """The share of a matrix's squared Frobenius norm that lies outside its diagonal blocks, [batch].

    0 for a block-diagonal matrix (K&P Fig. 2 shows by eye what this says in a number). Shapes: matrices
    [batch, d, d].
    Raises ValueError for other shapes, NaN, and matrices that are zero.

    >>> off_block_energy(torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, 1.0]]]), block_size=1)
    tensor([0.5000, 0.0000])
    """
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2] or len(matrices) == 0:
        raise ValueError(f"matrices: expected [batch ≥ 1, d, d], got {list(matrices.shape)}")
    mask = posteriors.block_mask(matrices.shape[1], block_size).to(matrices.device)
    energy = matrices.square()
    total = energy.sum((1, 2))
    if not bool((torch.isfinite(total) & (total > 0)).all()):
        raise ValueError("matrices: expected finite and not zero, got NaN, infinity or a zero matrix")
    return (energy * ~mask).sum((1, 2)) / total


def cosines(matrices: Tensor) -> Tensor:
    """Each entry over the roots of its two diagonal entries, M_ij/√(M_ii M_jj), [batch, d, d].

    For JᵀJ the cosine of the angle between two columns of J, whatever their lengths: 0 where they are orthogonal.
    Raises ValueError where a diagonal entry is not positive.

    >>> cosines(torch.tensor([[[4.0, 1.0], [1.0, 1.0]]]))
    tensor([[[1.0000, 0.5000],
             [0.5000, 1.0000]]])
    """
    diagonal = matrices.diagonal(dim1=1, dim2=2)
    if not bool((diagonal > 0).all()):
        raise ValueError(f"matrices: expected positive diagonals, the least entry is {diagonal.min().item():.3g}")
    scale = diagonal.rsqrt()
    return scale[:, :, None] * matrices * scale[:, None, :]


def structure_price(curvature: Tensor, beta: float, block_size: int | None) -> Tensor:
    """What a posterior pays for entries outside its blocks: (β/2)(Σ_b log|M_bb| − log|M|), [batch], nats.

    M = I + curvature/β, with curvature = −JᵀH_pJ (JᵀJ for unit variance); zero where M has the blocks, and
    the only term by which Eq. 13 (K&P) with blocks differs from Eq. 13. Raises ValueError where M is not
    positive definite.

    >>> structure_price(torch.tensor([[[1.0, 0.5], [0.5, 1.0]]]), beta=1.0, block_size=1)  # −½ log(1 − ¼²)
    tensor([0.0323], dtype=torch.float64)
    """
    factors = [jacobians.precision_cholesky(-curvature, beta, size) for size in (block_size, None)]
    in_blocks, whole = (2 * factor.diagonal(dim1=1, dim2=2).log().sum(1) for factor in factors)
    return beta / 2 * (in_blocks - whole)


def rotation_baseline(
    measure: Callable[[Tensor], Tensor], matrices: Tensor, *, n_rotations: int = 32, seed: int = 0
) -> Tensor:
    """A measure of RᵀMR averaged over random orthogonal R, [batch]: what a basis without meaning would show.

    The matrices keep their spectra, so the ratio to this baseline compares models whose spectra differ.

    >>> rotation_baseline(lambda m: off_block_energy(m, 1), torch.eye(3)[None]).round(decimals=6).abs()
    tensor([0.])
    """
    generator = torch.Generator().manual_seed(seed)
    d = matrices.shape[-1]
    normal = torch.randn(n_rotations, d, d, generator=generator, dtype=torch.float64)
    rotations = torch.linalg.qr(normal).Q.to(matrices)
    return torch.stack([measure(r.mT @ matrices @ r) for r in rotations]).mean(0)


def block_structure(curvature: Tensor, beta: float, masks: Sequence[int], *, seed: int = 0) -> list[dict]:
    """Off-block energy and price of −JᵀH_pJ under each mask (a block size), and the same in rotated latents.

    A row a mask, with means over the batch: "energy" (`off_block_energy`) and "price" (`structure_price`, nats),
    each with its standard error "…_error" and its `rotation_baseline` "…_rotated".

    >>> rows = block_structure(torch.eye(4).expand(3, 4, 4), beta=1.0, masks=[1, 2])
    >>> [(row["mask"], row["energy"]) for row in rows]
    [(1, 0.0), (2, 0.0)]
    """
    rows = []
    for mask in masks:
        row: dict = {"mask": mask}
        for name, measure in {"energy": off_block_energy, "price": partial(structure_price, beta=beta)}.items():
            masked = partial(measure, block_size=mask)
            ours, rotated = masked(curvature), rotation_baseline(masked, curvature, seed=seed)
            error = ours.std(correction=0).item() / len(ours) ** 0.5
            row |= {name: ours.mean().item(), f"{name}_error": error, f"{name}_rotated": rotated.mean().item()}
        rows.append(row)
    return rows


def covariance_gap(hessian: Tensor, covariance: Tensor, beta: float) -> Tensor:
    """What a covariance that is not the best costs in Eq. 7 (K&P): β KL(N(0, Σ)‖N(0, M⁻¹)), [batch], nats.

    (β/2)(tr MΣ − log|MΣ| − d) with M = I − H/β: Eq. 7 minus Eq. 12 (K&P App. F, whose parentheses are
    misplaced). Zero where Σ = M⁻¹, Eq. 11. Shapes: hessian and covariance [batch, d, d].
    Raises ValueError where M or Σ is not positive definite.

    >>> covariance_gap(-torch.eye(2)[None], torch.eye(2)[None], beta=1.0)  # ½ (4 − log 4 − 2)
    tensor([0.3069], dtype=torch.float64)
    """
    factor = jacobians.precision_cholesky(hessian, beta)
    scale, failed = torch.linalg.cholesky_ex(covariance.to(factor.dtype))
    if failed.any():
        raise ValueError(
            f"covariance: expected positive definite, {int((failed > 0).sum())} of {len(failed)} are not"
        )
    log_det = 2 * sum(f.diagonal(dim1=1, dim2=2).log().sum(1) for f in (factor, scale))
    trace = (factor.mT @ scale).square().sum((1, 2))
    return beta / 2 * (trace - log_det - hessian.shape[1])


@torch.no_grad()
def covariance_and_jacobian(
    encoder: nn.Module, decoder: nn.Module, likelihood: Likelihood, images: Tensor, chunk: int = 256
) -> tuple[Tensor, Tensor]:
    """(Σ, −JᵀH_pJ) at the posterior mean of every image, both [n, d, d] in float64 on the CPU.

    For Gaussian pixels of unit variance the second is JᵀJ, as in K&P Fig. 2. The encoder returns a posterior.

    >>> from grae_helpers import likelihoods, models
    >>> encoder, decoder = models.mlp_encoder(4, 2, [8]), models.mlp_decoder(2, 4, [8])
    >>> [m.shape for m in covariance_and_jacobian(encoder, decoder, likelihoods.Gaussian(), torch.zeros(3, 4))]
    [torch.Size([3, 2, 2]), torch.Size([3, 2, 2])]
    """
    covariances, curvatures = [], []
    for x in images.split(chunk):
        posterior = encoder(x)
        covariances.append(posteriors.covariance(posterior).double().cpu())
        curvatures.append(-jacobians.wide_gauss_newton(decoder, likelihood, x, posterior.mean).double().cpu())
    return torch.cat(covariances), torch.cat(curvatures)


@torch.no_grad()
def compare_objectives(
    encoder: nn.Module,
    decoder: nn.Module,
    likelihood: Likelihood,
    images: Tensor,
    beta: float,
    *,
    block_size: int | None = None,
    n_samples: int = 8,
    seed: int = 0,
    chunk: int = 128,
) -> dict[str, Tensor]:
    """The three objectives of K&P Fig. 3 and the analytic gap, image by image, nats: each [n], float64, on
    the CPU.

    "beta_vae" (Eq. 2 with `n_samples` draws), "taylor" (Eq. 7), "grae" (Eq. 13, one block whatever the
    posterior's), "gap" (`covariance_gap`, which is taylor − grae), "forced" (`structure_price`, its part
    that the posterior's blocks force) and "squared_error" (‖x − g(h(x))‖²). The caller's random state is
    left as it was.

    >>> from grae_helpers import likelihoods, models
    >>> encoder, decoder = models.mlp_encoder(4, 2, [8]), models.mlp_decoder(2, 4, [8])
    >>> values = compare_objectives(encoder, decoder, likelihoods.Gaussian(), torch.zeros(3, 4), beta=0.5)
    >>> torch.allclose(values["taylor"] - values["grae"], values["gap"], atol=1e-5)
    True
    """
    runtime.positive("beta", beta)
    rows: list[dict[str, Tensor]] = []
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        torch.manual_seed(seed)
        for x in images.split(chunk):
            posterior = encoder(x)
            code, model = posterior.mean, (decoder, likelihood, beta)
            curvature = jacobians.wide_gauss_newton(decoder, likelihood, x, code)
            rows.append(
                {
                    "beta_vae": losses.beta_vae(x, posterior, *model, n_samples=n_samples).total,
                    "taylor": losses.taylor(x, posterior, *model).total,
                    "grae": losses.grae(x, code, *model).total,
                    "forced": structure_price(-curvature, beta, block_size),
                    "gap": covariance_gap(curvature, posteriors.covariance(posterior), beta),
                    "squared_error": (x - likelihood.mean(decoder(code))).square().flatten(1).sum(1),
                }
            )
    return {name: torch.cat([row[name] for row in rows]).double().cpu() for name in rows[0]}
