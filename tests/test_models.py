"""The networks: App. D's shapes, convolutions against plain loops, and what encoders return."""

import numpy as np
import pytest
import torch
from helpers import DOUBLE, normal, relative
from ledger import verdict
from torch import nn
from torch.distributions import Distribution

from grae_helpers import models, posteriors


def same_convolution(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """ "Same" padding as its definition says: ⌈n/s⌉ outputs, an odd pixel of padding after the image."""
    side, kernel = x.shape[2], weight.shape[2]
    out = -(-side // stride)
    total = max((out - 1) * stride + kernel - side, 0)
    before = total // 2
    padded = np.pad(x, ((0, 0), (0, 0), (before, total - before), (before, total - before)))
    found = np.zeros((x.shape[0], weight.shape[0], out, out))
    for i in range(out):
        for j in range(out):
            patch = padded[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            found[:, :, i, j] = np.einsum("ncij,ocij->no", patch, weight)
    return found


@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [4, 7, 8])
def test_same_convolution_is_the_plain_loop(kernel, stride, side):
    layer = models.SameConv2d(2, 3, kernel, stride, bias=False).double()
    x = normal(2, 2, side, side)
    expected = same_convolution(x.numpy(), layer.weight.detach().numpy(), stride)
    assert relative(layer(x), torch.tensor(expected)) < 1e-12


@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_transposed_convolution_is_the_adjoint_of_the_convolution(kernel, stride):
    up = models.SameConvTranspose2d(3, 2, kernel, stride).double()
    small, large = normal(2, 3, 5, 5), normal(2, 2, 5 * stride, 5 * stride, seed=1)
    nn.init.zeros_(up.bias)
    down = same_convolution(large.numpy(), up.weight.detach().numpy(), stride)
    assert up(small).shape == large.shape
    assert (up(small) * large).sum().item() == pytest.approx((small.numpy() * down).sum(), rel=1e-12)


def test_the_mnist_networks_have_the_papers_shapes():
    encoder, decoder = models.mnist_encoder(8, width=1 / 64), models.mnist_decoder(8, width=1 / 64)
    sides = []
    for layer in encoder.features:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda m, args, out: sides.append(tuple(out.shape[1:])))
    encoder(torch.zeros(2, 1, 28, 28))
    assert sides == [(1, 28, 28), (2, 14, 14), (4, 7, 7), (8, 4, 4), (8, 4, 4)]
    sides.clear()
    for layer in decoder.network:
        if isinstance(layer, nn.ConvTranspose2d):
            layer.register_forward_hook(lambda m, args, out: sides.append(tuple(out.shape[1:])))
    assert decoder(torch.zeros(2, 8)).shape == (2, 1, 28, 28)
    assert sides == [(8, 7, 7), (4, 7, 7), (2, 14, 14), (1, 28, 28)]


def test_width_one_has_the_papers_channels():
    with torch.device("meta"):
        mnist = models.mnist_encoder(8), models.mnist_decoder(8)
        celeba = models.celeba_encoder(), models.celeba_decoder()

    def channels(net, kind):
        return [m.out_channels for m in net.modules() if isinstance(m, kind)]

    assert channels(mnist[0], nn.Conv2d) == [64, 128, 256, 512, 512]
    assert channels(mnist[1], nn.ConvTranspose2d) == [512, 256, 128, 64]
    assert channels(celeba[0], nn.Conv2d) == [128, 256, 512, 1024, 1024]
    assert channels(celeba[1], nn.ConvTranspose2d) == [1024, 512, 256, 128]
    assert mnist[1].network[0].out_features == 7 * 7 * 256
    assert celeba[1].network[0].out_features == 8 * 8 * 512


def test_the_celeba_networks_end_at_64_pixels():
    encoder, decoder = models.celeba_encoder(6, width=1 / 128), models.celeba_decoder(6, width=1 / 128)
    q = encoder(torch.zeros(2, 3, 64, 64))
    assert (q.batch_shape, q.event_shape) == ((2,), (6,))
    assert decoder(q.mean).shape == (2, 3, 64, 64)


def test_the_printed_celeba_decoder_ends_at_twice_the_size(claim):
    """App. D's transposed convolutions, one channel each, from the printed side and from half of it."""
    layers = [models.SameConvTranspose2d(1, 1, 5, stride) for stride in (1, 2, 2, 2)]
    sides = [nn.Sequential(*layers)(torch.zeros(1, 1, start, start)).shape[-1] for start in (16, 8)]
    claim("K12g", verdict(printed=sides[0] == 64, corrected=sides[1] == 64), ours=sides)


@pytest.mark.parametrize("make", [lambda **k: models.mnist_encoder(5, width=1 / 64, **k),
                                  lambda **k: models.mlp_encoder(784, 5, [8], **k)])  # fmt: skip
def test_encoders_return_a_posterior_or_a_code(make):
    x = torch.rand(3, 1, 28, 28)
    code = make(posterior=False)(x)
    assert isinstance(code, torch.Tensor)
    assert code.shape == (3, 5)
    for block in (1, 2, None):
        q = make(block_size=block)(x)
        assert isinstance(q, Distribution)
        assert (q.batch_shape, q.event_shape) == ((3,), (5,))
        assert torch.equal(posteriors.covariance(q), torch.eye(5).expand(3, 5, 5))  # Σ = I before training


@pytest.mark.parametrize("output", ["sigmoid", "identity"])
def test_the_output_activation(output):
    decoder = models.mnist_decoder(3, width=1 / 64, output=output)
    for parameter in decoder.parameters():
        parameter.data.mul_(5)
    g = decoder(torch.randn(4, 3))
    assert (bool((g.min() >= 0) & (g.max() <= 1))) is (output == "sigmoid")


def test_mlps_are_the_matrix_products_they_name():
    decoder = models.mlp_decoder(3, (2, 2), [5], hidden="tanh", output="sigmoid").double()
    z, (first, second) = normal(4, 3), [m for m in decoder.modules() if isinstance(m, nn.Linear)]
    hidden = np.tanh(z.numpy() @ first.weight.detach().numpy().T + first.bias.detach().numpy())
    g = 1 / (1 + np.exp(-(hidden @ second.weight.detach().numpy().T + second.bias.detach().numpy())))
    assert relative(decoder(z), torch.tensor(g.reshape(4, 2, 2), dtype=DOUBLE)) < 1e-12
    assert models.mlp_decoder(3, 7, []).network[0][0].out_features == 7


@pytest.mark.parametrize("z", [torch.zeros(2, 4), torch.zeros(3), torch.zeros(1, 2, 3)])
@pytest.mark.parametrize(
    "decoder", [models.mlp_decoder(3, 4, [5]), models.mnist_decoder(3, width=1 / 64)], ids=["mlp", "cnn"]
)
def test_decoders_refuse_another_latent_width(decoder, z):
    with pytest.raises(ValueError, match=r"z: expected \[batch, latent_dim = 3\], got"):
        decoder(z)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"activation: expected one of elu, .*; got 'swish'"):
        models.mlp_decoder(2, 3, hidden="swish")
    with pytest.raises(ValueError, match=r"sizes: expected at least two positive sizes, got \[3\]"):
        models.mlp([3])
    with pytest.raises(ValueError, match="sizes: expected at least two positive sizes"):
        models.mlp_decoder(0, 3)
    with pytest.raises(ValueError, match="block_size: expected 1 to d = 5, got 6"):
        models.mlp_encoder(784, 5, block_size=6)
    for width, error in ((0, ValueError), (-1.0, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        with pytest.raises(error, match="width: expected a positive"):
            models.mnist_decoder(8, width=width)


def largest(weight: torch.Tensor) -> float:
    """The largest singular value of a weight as a matrix of outputs by everything else."""
    return float(np.linalg.svd(weight.detach().flatten(1).double().numpy(), compute_uv=False)[0])


@pytest.mark.parametrize(
    "make", [lambda: models.mnist_decoder(4, width=1 / 32), lambda: models.mlp_decoder(4, 9, [16])]
)
def test_spectral_norm_bounds_every_weight(make):
    torch.manual_seed(0)
    decoder = make()
    for parameter in decoder.parameters():
        parameter.data.mul_(3)
    assert models.spectral_norm(decoder) is decoder
    for _ in range(60):  # of power iteration, one a pass
        decoder(torch.randn(4, 4))
    decoder.eval()
    layers = [m for m in decoder.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    assert layers
    for layer in layers:
        weight = layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
        original = layer.parametrizations.weight.original
        assert largest(weight) == pytest.approx(1, abs=5e-3)
        original = original.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else original
        assert relative(weight * largest(original), original) < 5e-3
    before = [p.detach().clone() for p in decoder.state_dict().values()]
    decoder(torch.randn(4, 4))
    assert all(torch.equal(a, b) for a, b in zip(before, decoder.state_dict().values(), strict=True))


def test_a_multilayer_perceptron_under_spectral_norm_is_1_lipschitz():
    torch.manual_seed(0)
    decoder = models.spectral_norm(models.mlp_decoder(4, 9, [16, 16], hidden="tanh"))
    for _ in range(60):
        decoder(torch.randn(4, 4))
    decoder.eval()
    a, b = torch.randn(200, 4), torch.randn(200, 4)
    assert ((decoder(a) - decoder(b)).norm(dim=1) <= (a - b).norm(dim=1) * 1.005).all()


def test_spectral_norm_is_applied_once_and_trains_the_original_weight():
    layer = models.spectral_norm(models.spectral_norm(nn.Linear(3, 2)))
    assert len(layer.parametrizations.weight) == 1
    layer(torch.randn(5, 3)).square().sum().backward()
    assert layer.parametrizations.weight.original.grad.abs().sum() > 0
