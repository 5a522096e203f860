"""The objectives, per sample, in nats, to be minimised: β-VAE, its Taylor expansion, GRAE and GRAE≈.

All of them split into the same three terms, so that they can be compared term by term.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from grae_helpers import jacobians, posteriors, runtime
from grae_helpers.decoding import Decoder, decode
from grae_helpers.likelihoods import Likelihood


class LossTerms(NamedTuple):
    """Three [batch] tensors: −log p(x|·), what the code or posterior pays, and the decoder's regulariser.

    >>> LossTerms(torch.ones(2), torch.ones(2), torch.zeros(2)).total
    tensor([2., 2.])
    """

    reconstruction: Tensor
    latent: Tensor
    decoder: Tensor

    @property
    def total(self) -> Tensor:
        return self.reconstruction + self.latent + self.decoder


def beta_vae(
    x: Tensor,
    posterior: Distribution,
    decoder: Decoder,
    likelihood: Likelihood,
    beta: float,
    *,
    n_samples: int = 1,
) -> LossTerms:
    """The β-VAE objective −E_q log p(x|z) + β KL(q(z|x)‖N(0, I)), by Monte Carlo (K&P Eq. 2, sign reversed).

    Shapes: x like the decoder's output [batch, ...], posterior with batch [batch] and event [d]. `n_samples`
    reparametrised draws per x come from torch's global generator (distributions take no other). Raises
    ValueError for β ≤ 0 or NaN, shapes that do not fit and x outside the likelihood's support; TypeError for
    a posterior that cannot be reparametrised.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> _ = torch.manual_seed(0)
    >>> q = posteriors.gaussian(torch.zeros(4, 2), torch.zeros(4, 2), block_size=1)
    >>> beta_vae(torch.zeros(4, 3), q, torch.nn.Linear(2, 3), Gaussian(), beta=0.5).total.shape
    torch.Size([4])
    """
    beta = runtime.positive("beta", beta)
    _check_posterior(x, posterior)
    runtime.integer("n_samples", n_samples, 1)
    if not posterior.has_rsample:
        raise TypeError(f"posterior: expected one that can be reparametrised, got {type(posterior).__name__}")
    z = posterior.rsample((n_samples,)).flatten(0, 1)
    repeated = x.expand(n_samples, *x.shape).flatten(0, 1)
    log_prob = likelihood.log_prob(repeated, decode(decoder, z))
    reconstruction = -log_prob.unflatten(0, (n_samples, len(x))).mean(0)
    return LossTerms(
        reconstruction, beta * posteriors.kl_to_prior(posterior), torch.zeros_like(reconstruction)
    )


def taylor(
    x: Tensor,
    posterior: Distribution,
    decoder: Decoder,
    likelihood: Likelihood,
    beta: float,
    *,
    hessian: str = "gauss_newton",
) -> LossTerms:
    """The β-VAE objective expanded to second order at the posterior mean h (K&P Eqs. 4 and 7, sign reversed).

    −log p(x|h) + β KL(q(z|x)‖N(0, I)) − ½ tr(HΣ), with H = JᵀH_pJ ("gauss_newton", Eq. 7) or the exact
    Hessian of log p(x|z) ("exact", Eq. 4). Gauss–Newton needs no matrix: tr(JᵀH_pJ CCᵀ) = Σ_p H_p ‖(JC)_p‖²,
    for Σ = CCᵀ.

    Shapes: as `beta_vae`. Raises ValueError for another `hessian`, and as `beta_vae` does.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> q = posteriors.gaussian(torch.zeros(1, 2), torch.zeros(1, 2), block_size=1)
    >>> taylor(torch.zeros(1, 2), q, torch.nn.Identity(), Gaussian(), beta=1.0).decoder  # ½ tr I
    tensor([1.])
    """
    beta = runtime.positive("beta", beta)
    _check_posterior(x, posterior)
    _check_hessian(hessian)
    mean = posterior.mean
    g = decode(decoder, mean)
    reconstruction = -likelihood.log_prob(x, g)
    if hessian == "exact":
        curvature = jacobians.hessian(decoder, likelihood, x, mean)
        trace = (curvature * posteriors.covariance(posterior)).sum((1, 2))
    else:
        pushed = jacobians.push_forward(decoder, mean, posteriors.scale(posterior))
        trace = (likelihood.hessian_diag(x, g).flatten(1) * pushed.square().sum(2)).sum(1)
    return LossTerms(reconstruction, beta * posteriors.kl_to_prior(posterior), -trace / 2)


def grae(
    x: Tensor,
    code: Tensor,
    decoder: Decoder,
    likelihood: Likelihood,
    beta: float,
    *,
    block_size: int | None = None,
    hessian: str = "gauss_newton",
) -> LossTerms:
    """The regularised autoencoder that the expansion becomes at its optimal covariance (K&P Eqs. 10, 12, 13).

    −log p(x|h) + (β/2)‖h‖² + (β/2) Σ_b log|(I − H/β)_bb|, with h the code; for unit-variance Gaussian pixels
    and one block it is Eq. 13, and for block_size=1 it is Eq. 14 summed over all columns, which is then the
    exact objective.

    Shapes: x like the decoder's output, code [batch, d]. `block_size` is the posterior's: None for the full
    covariance; where it does not divide d, the last block is smaller. Raises ValueError for β ≤ 0 or NaN, an
    indefinite I − H/β, shapes that do not fit and x outside the support.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> grae(torch.zeros(1, 2), torch.zeros(1, 2), torch.nn.Identity(), Gaussian(), beta=1.0).decoder  # log 2
    tensor([0.6931])
    """
    beta = runtime.positive("beta", beta)
    _check_hessian(hessian)
    reconstruction, latent = _autoencode(x, code, decode(decoder, code), likelihood, beta)
    derivative = jacobians.wide_hessian if hessian == "exact" else jacobians.wide_gauss_newton
    factor = jacobians.precision_cholesky(derivative(decoder, likelihood, x, code), beta, block_size)
    log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
    return LossTerms(reconstruction, latent, (beta / 2 * log_det).to(reconstruction.dtype))


def grae_approx(
    x: Tensor,
    code: Tensor,
    decoder: Decoder,
    likelihood: Likelihood,
    beta: float,
    *,
    n_columns: int = 1,
    generator: torch.Generator | None = None,
) -> LossTerms:
    """GRAE≈: Hadamard's bound on the log-determinant, on sampled columns of the Jacobian (K&P Eq. 14).

    (β/2)(d/k) Σ_c log(1 − [JᵀH_pJ]_cc/β) over k columns c drawn per sample, uniformly and without
    replacement: unbiased for `grae(..., block_size=1)`, equal to it at k = d. (K&P draw with replacement; at
    their k = 1 it is the same.)

    Shapes: x like the decoder's output, code [batch, d]. Raises ValueError for n_columns outside 1 … d, and
    as `grae` does.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> random = torch.Generator().manual_seed(0)
    >>> x, code, decoder = torch.zeros(1, 2), torch.zeros(1, 2), torch.nn.Identity()
    >>> grae_approx(x, code, decoder, Gaussian(), beta=1.0, generator=random).decoder  # log 2
    tensor([0.6931])
    """
    beta = runtime.positive("beta", beta)
    _check_code(x, code)
    runtime.integer("n_columns", n_columns, 1)
    if n_columns > code.shape[1]:
        raise ValueError(f"n_columns: expected 1 to d = {code.shape[1]}, got {n_columns}")
    device = code.device if generator is None else generator.device
    order = torch.rand(code.shape, generator=generator, device=device).argsort(1)
    g, columns = jacobians.jacobian_columns(decoder, code, order[:, :n_columns].to(code.device))
    reconstruction, latent = _autoencode(x, code, g, likelihood, beta)
    curvature = likelihood.hessian_diag(x, g).flatten(1)
    scaled = -(curvature[:, :, None] * columns.square()).sum(1) / beta
    if not bool((scaled > -1).all()):
        raise ValueError(
            f"1 − [JᵀH_pJ]_cc/β: expected positive, got {1 + scaled.min().item():.3g} with β = {beta:g}"
        )
    return LossTerms(reconstruction, latent, beta / 2 * code.shape[1] * torch.log1p(scaled).mean(1))


def _autoencode(
    x: Tensor, code: Tensor, g: Tensor, likelihood: Likelihood, beta: float
) -> tuple[Tensor, Tensor]:
    _check_code(x, code)
    return -likelihood.log_prob(x, g), beta / 2 * code.square().sum(1)


def _check_code(x: Tensor, code: Tensor) -> None:
    if code.ndim != 2 or 0 in code.shape or code.shape[0] != x.shape[0]:
        raise ValueError(
            f"code: expected [batch = {x.shape[0]}, d] with batch, d ≥ 1, got {list(code.shape)}"
        )


def _check_posterior(x: Tensor, posterior: Distribution) -> None:
    if not isinstance(posterior, Distribution):
        raise TypeError(f"posterior: expected a torch distribution, got {type(posterior).__name__}")
    if len(posterior.event_shape) != 1 or posterior.batch_shape != x.shape[:1] or len(x) == 0:
        raise ValueError(
            f"posterior: expected batch [{x.shape[0]}] (at least 1) and event [d], "
            f"got batch {list(posterior.batch_shape)} and event {list(posterior.event_shape)}"
        )


def _check_hessian(hessian: str) -> None:
    if hessian not in ("gauss_newton", "exact"):
        raise ValueError(f'hessian: expected "gauss_newton" or "exact", got {hessian!r}')
