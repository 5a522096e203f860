"""Layers whose derivatives torch lacks or cannot differentiate again: attention, softmax, group normalisation."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import DOUBLE, fd_jacobian, gradient_error, normal, relative
from torch import Tensor, nn

from grae_helpers import decoding, jacobians, likelihoods, losses

BATCH, LATENT, TOKENS, WIDTH = 3, 4, 6, 6
LOWER = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
ATTENTION = {
    "plain": {},
    "masked": {"attn_mask": LOWER},
    "added": {"attn_mask": torch.linspace(-1, 1, TOKENS * TOKENS, dtype=DOUBLE).view(TOKENS, TOKENS)},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.7},
}


class Attending(nn.Module):
    """Latents → tokens, which attend to each other in two heads, then make an image in another memory order."""

    def __init__(self, **options):
        super().__init__()
        self.options = options
        self.tokens, self.out = nn.Linear(LATENT, 3 * TOKENS * WIDTH), nn.Linear(WIDTH, 4)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, z: Tensor) -> Tensor:
        query, key, value = self.tokens(z).view(-1, 3, TOKENS, 2, WIDTH // 2).transpose(2, 3).unbind(1)
        mixed = F.scaled_dot_product_attention(query, key, value, **self.options)
        mixed = self.out(mixed.transpose(1, 2).flatten(2))  # [batch, tokens, 4]
        image = (mixed + mixed.softmax(1)).transpose(1, 2).unflatten(2, (3, 2))  # channels last, in memory
        return self.norm(image).flatten(1)


def made(module: type[nn.Module] = Attending, **options) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return module(**options).double()


@pytest.mark.parametrize("options", ATTENTION.values(), ids=ATTENTION)
def test_the_jacobian_through_attention_is_that_of_differences(options):
    decoder, z = made(**options), normal(BATCH, LATENT)
    assert relative(jacobians.jacobian(decoder, z), fd_jacobian(decoder, z)) < 1e-6
    g, first = jacobians.jacobian_columns(decoder, z, torch.tensor([0]))
    assert relative(g, decoder(z)) < 1e-12
    assert relative(first, fd_jacobian(decoder, z)[:, :, :1]) < 1e-6


@pytest.mark.parametrize("options", ATTENTION.values(), ids=ATTENTION)
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_the_objective_trains_through_attention(options, fraction):
    """The gradient of GRAE≈ with respect to weights and code, against finite differences."""
    decoder, code = made(**options), normal(BATCH, LATENT).requires_grad_()
    x = normal(BATCH, 4 * TOKENS, seed=1)

    def loss() -> Tensor:
        given = {"generator": torch.Generator().manual_seed(0), "regularizer_fraction": fraction, "n_columns": 2}
        return losses.grae_approx(x, code, decoder, likelihoods.Gaussian(), 0.3, **given).total.sum()

    assert gradient_error(loss, [code, *decoder.parameters()]) < 1e-5


@pytest.mark.parametrize("options", [*ATTENTION.values(), {"enable_gqa": True}], ids=[*ATTENTION, "grouped"])
def test_attention_in_plain_operations_is_torchs(options):
    query, key, value = (normal(BATCH, 2, TOKENS, WIDTH, seed=n) for n in range(3))
    if options.get("enable_gqa"):
        key, value = key[:, :1], value[:, :1]
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    assert relative(decoding._attention(query, key, value, **options), expected) < 1e-12


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_softmax_in_plain_operations_is_torchs_also_far_out(dtype):
    x = torch.tensor([[1e4, 1e4 - 1, -math.inf], [-1e4, 0.0, 1.0]])
    ours, expected = decoding._softmax(x, 1, dtype), F.softmax(x, 1, dtype=dtype)
    assert ours.dtype == expected.dtype
    assert relative(ours, expected) < 1e-6


def test_dropout_of_attention_is_refused_as_dropout_is():
    decoder = made(dropout_p=0.1)
    with pytest.raises(ValueError, match="dropout is in train mode"):
        jacobians.jacobian(decoder, normal(BATCH, LATENT))


class MultiHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.MultiheadAttention(LATENT, 1, batch_first=True)

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z[:, None], z[:, None], z[:, None], need_weights=False)[0].flatten(1)


def test_attention_inside_torchs_own_module_fails_aloud():
    """It calls the kernel from within, where nothing can be put in its place: chapter 34 says so."""
    decoder, code = made(MultiHead), normal(BATCH, LATENT).requires_grad_()
    with pytest.raises((NotImplementedError, RuntimeError)):
        losses.grae_approx(normal(BATCH, LATENT), code, decoder, likelihoods.Gaussian(), 0.3).total.sum().backward()
