"""The objectives, per sample, in nats, to be minimised: β-VAE, its Taylor expansion, GRAE and GRAE≈.

All of them split into the same three terms, so that they can be compared term by term.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from grae_helpers import jacobians, posteriors, regularizers, runtime
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
    log_prob = likelihood.log_prob(repeated, _decoded(decoder, z))
    reconstruction = -log_prob.unflatten(0, (n_samples, len(x))).mean(0)
    return LossTerms(reconstruction, beta * posteriors.kl_to_prior(posterior), torch.zeros_like(reconstruction))


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
    g = _decoded(decoder, mean)
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
    encoder_weight: float = 1.0,
    decoder_weight: float = 1.0,
) -> LossTerms:
    """The regularised autoencoder that the expansion becomes at its optimal covariance (K&P Eqs. 10, 12, 13).

    −log p(x|h) + (β/2)‖h‖² + (β/2) Σ_b log|(I − H/β)_bb|, with h the code; for unit-variance Gaussian pixels
    and one block it is Eq. 13, and for block_size=1 it is Eq. 14 summed over all columns, which is then the
    exact objective.

    Shapes: x like the decoder's output, code [batch, d]. `block_size` is the posterior's: None for the full
    covariance; where it does not divide d, the last block is smaller. `encoder_weight` and `decoder_weight` multiply
    the two β/2, which K&P §7 leave to future work. Raises ValueError for β ≤ 0 or NaN, weights below 0, an indefinite
    I − H/β, shapes that do not fit and x outside the support.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> grae(torch.zeros(1, 2), torch.zeros(1, 2), torch.nn.Identity(), Gaussian(), beta=1.0).decoder  # log 2
    tensor([0.6931])
    """
    beta = runtime.positive("beta", beta)
    _check_hessian(hessian)
    for name, value in (("encoder_weight", encoder_weight), ("decoder_weight", decoder_weight)):
        runtime.zero_or_positive(name, value)
    reconstruction, latent = _autoencode(x, code, _decoded(decoder, code), likelihood, encoder_weight * beta)
    derivative = jacobians.wide_hessian if hessian == "exact" else jacobians.wide_gauss_newton
    factor = jacobians.precision_cholesky(derivative(decoder, likelihood, x, code), beta, block_size)
    log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
    return LossTerms(reconstruction, latent, (decoder_weight * beta / 2 * log_det).to(reconstruction.dtype))


def grae_approx(
    x: Tensor,
    code: Tensor,
    decoder: Decoder,
    likelihood: Likelihood,
    beta: float,
    *,
    n_columns: int = 1,
    generator: torch.Generator | None = None,
    regularizer_fraction: float = 1.0,
    encoder_weight: float = 1.0,
    decoder_weight: float = 1.0,
    orthogonality: float = 0.0,
) -> LossTerms:
    """GRAE≈: Hadamard's bound on the log-determinant, on sampled columns of the Jacobian (K&P Eq. 14).

    (β/2)(d/k) Σ_c log(1 − [JᵀH_pJ]_cc/β) over k columns c drawn per sample, uniformly and without
    replacement: unbiased for `grae(..., block_size=1)`, equal to it at k = d. (K&P draw with replacement; at
    their k = 1 it is the same.)

    `regularizer_fraction` puts the regulariser on a random part of the batch, as many times stronger as that part is
    smaller: still unbiased, for each sample. `encoder_weight` and `decoder_weight` multiply the two β/2 (K&P §7 leave
    them to future work). `orthogonality` w adds w (β/2) Σ_{i<j} cos²(J_i, J_j) from the pairs among the drawn columns
    (§5.3; needs n_columns ≥ 2 and a log-concave likelihood).

    Shapes: x like the decoder's output, code [batch, d]. Raises ValueError for n_columns outside
    1 … d, a fraction outside (0, 1], weights below 0, and as `grae` does.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> random = torch.Generator().manual_seed(0)
    >>> x, code, decoder = torch.zeros(1, 2), torch.zeros(1, 2), torch.nn.Identity()
    >>> grae_approx(x, code, decoder, Gaussian(), beta=1.0, generator=random).decoder  # log 2
    tensor([0.6931])
    """
    beta = runtime.positive("beta", beta)
    _check_code(x, code)
    weights = {"encoder_weight": encoder_weight, "decoder_weight": decoder_weight, "orthogonality": orthogonality}
    for name, value in weights.items():
        runtime.zero_or_positive(name, value)
    (batch, d), n = code.shape, _part(len(x), regularizer_fraction)
    order = None
    if n < batch:
        order = regularizers.random_like(code, (batch,), generator).argsort()
        x, code = x[order], code[order]
    directions = regularizers.sampled_columns(code, n, n_columns, generator)
    g, columns = _forward_and_push(decoder, code, directions)
    reconstruction, latent = _autoencode(x, code, g, likelihood, encoder_weight * beta)
    curvature = -_curvature(likelihood, x[:n], g[:n])
    paid = decoder_weight * regularizers.hadamard(columns, curvature, d, beta)
    if orthogonality:
        paid = paid + orthogonality * beta / 2 * regularizers.orthogonality(columns, curvature, d)
    if order is None:
        return LossTerms(reconstruction, latent, paid)
    paid = torch.cat([paid * (batch / n), paid.new_zeros(batch - n)])
    return LossTerms(*(term[order.argsort()] for term in (reconstruction, latent, paid)))


def rae(
    x: Tensor,
    code: Tensor,
    decoder: Decoder,
    likelihood: Likelihood,
    beta: float,
    *,
    penalty: float = 1.0,
    regularizer: str = "gradient",
    n_probes: int = 1,
    generator: torch.Generator | None = None,
) -> LossTerms:
    """The regularised autoencoder of Ghosh et al. 2020: −log p(x|h) + (β/2)‖h‖² + penalty · L_REG.

    "gradient": L_REG = ½ tr(Jᵀ(−H_p)J), ½‖J‖²_F for Gaussian pixels, unbiased from `n_probes` Rademacher probes;
    at penalty 1 it is GRAE's log-determinant to first order in JᵀJ/β (K&P §6). "l2": L_REG = ½‖θ‖², over
    the decoder's parameters, the same number for every sample. (RAE-SN is this with penalty 0, on a decoder
    under `models.spectral_norm`.)

    Shapes: x like the decoder's output, code [batch, d]. Raises ValueError for another regulariser or a penalty below
    0, TypeError for "l2" with a decoder that is no module, and as `grae` does.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> x, code, decoder = torch.zeros(1, 2), torch.zeros(1, 2), torch.nn.Identity()
    >>> rae(x, code, decoder, Gaussian(), beta=1.0).decoder  # ½ tr I
    tensor([1.])
    """
    beta = runtime.positive("beta", beta)
    _check_code(x, code)
    runtime.zero_or_positive("penalty", penalty)
    runtime.one_of("regularizer", regularizer, ("gradient", "l2"))
    if regularizer == "gradient" and penalty:
        probes = regularizers.rademacher(code, n_probes, generator)
        g, pushed = _forward_and_push(decoder, code, probes)
        paid = regularizers.gradient_penalty(pushed, -_curvature(likelihood, x, g))
    else:
        g = _decoded(decoder, code)
        paid = regularizers.half_square_norm(decoder, code) if penalty else code.new_zeros(len(code))
    reconstruction, latent = _autoencode(x, code, g, likelihood, beta)
    return LossTerms(reconstruction, latent, penalty * paid)


def autoencoder(x: Tensor, code: Tensor, decoder: Decoder, likelihood: Likelihood) -> LossTerms:
    """The plain autoencoder, −log p(x|h), with the two other terms zero.

    >>> from grae_helpers.likelihoods import Gaussian
    >>> autoencoder(torch.ones(1, 2), torch.ones(1, 2), torch.nn.Identity(), Gaussian()).total
    tensor([1.8379])
    """
    _check_code(x, code)
    reconstruction = -likelihood.log_prob(x, _decoded(decoder, code))
    return LossTerms(reconstruction, torch.zeros_like(reconstruction), torch.zeros_like(reconstruction))


def _decoded(decoder: Decoder, z: Tensor) -> Tensor:
    return _wide(decode(decoder, z))


def _forward_and_push(decoder: Decoder, code: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    g, pushed = jacobians.forward_and_push(decoder, code, directions)
    return _wide(g), _wide(pushed)


def _wide(result: Tensor) -> Tensor:
    """In single precision at least: a sum over pixels needs more digits than bfloat16 has."""
    return result.to(torch.promote_types(result.dtype, torch.float32))


def _curvature(likelihood: Likelihood, x: Tensor, g: Tensor) -> Tensor:
    return likelihood.hessian_diag(x, g).flatten(1)


def _part(batch: int, fraction: float) -> int:
    """How many samples a fraction of the batch is: at least one."""
    if not (fraction := runtime.positive("regularizer_fraction", fraction)) <= 1:
        raise ValueError(f"regularizer_fraction: expected more than 0 and at most 1, got {fraction}")
    return max(1, round(fraction * batch))


def _autoencode(x: Tensor, code: Tensor, g: Tensor, likelihood: Likelihood, beta: float) -> tuple[Tensor, Tensor]:
    _check_code(x, code)
    return -likelihood.log_prob(x, g), beta / 2 * code.square().sum(1)


def _check_code(x: Tensor, code: Tensor) -> None:
    if code.ndim != 2 or 0 in code.shape or code.shape[0] != x.shape[0]:
        raise ValueError(f"code: expected [batch = {x.shape[0]}, d] with batch, d ≥ 1, got {list(code.shape)}")


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
