"""The encoders and decoders of K&P App. D, and small multilayer perceptrons of the same interface.

App. D prints filters, kernel and stride. Its shapes (28 → 28 → 14 → 7 → 4 and back) are those of "same"
padding, where a stride s maps n pixels to ⌈n/s⌉ and an odd pixel of padding goes to the right and the bottom;
so that is what the layers here do.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import is_parametrized

from grae_helpers import posteriors, runtime

ACTIVATIONS = {
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}


def activation(name: str) -> nn.Module:
    """The activation of that name; ValueError with the names there are.

    >>> activation("elu")
    ELU(alpha=1.0)
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}; got {name!r}")
    return ACTIVATIONS[name]()


class Encoder(nn.Module):
    """A network followed by linear heads: x → q(z|x), or x → the code h(x).

    With `posterior` the mean has one head and the entries of the Cholesky blocks another ("an additional fc
    layer", K&P §7), whose weights start at zero, so that Σ = I before training. Without it, the code has the
    one head, and `encoder(x)` is a tensor [batch, d].
    """

    def __init__(
        self, features: nn.Module, n_features: int, latent_dim: int, posterior: bool, block_size: int | None
    ):
        super().__init__()
        self.features, self.latent_dim, self.block_size = features, latent_dim, block_size
        self.mean = nn.Linear(n_features, latent_dim)
        self.raw = nn.Linear(n_features, posteriors.n_raw(latent_dim, block_size)) if posterior else None
        if self.raw is not None:
            nn.init.zeros_(self.raw.weight)
            nn.init.zeros_(self.raw.bias)

    def forward(self, x: Tensor) -> Distribution | Tensor:
        features = self.features(x)
        mean = _at_least_float32(self.mean(features))
        if self.raw is None:
            return mean
        return posteriors.gaussian(mean, _at_least_float32(self.raw(features)), self.block_size)


def _at_least_float32(heads: Tensor) -> Tensor:
    """Under autocast the heads come in bfloat16: too coarse for a posterior's scales and for log-determinants."""
    return heads.float() if heads.dtype in (torch.bfloat16, torch.float16) else heads


class Decoder(nn.Module):
    """A network from z [batch, d] to g [batch, ...]; another width of z is refused with a ValueError."""

    def __init__(self, network: nn.Module, latent_dim: int):
        super().__init__()
        self.network, self.latent_dim = network, latent_dim

    def forward(self, z: Tensor) -> Tensor:
        return self.network(self.checked(z))

    def checked(self, z: Tensor) -> Tensor:
        """z itself, if it is [batch, latent_dim]."""
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z: expected [batch, latent_dim = {self.latent_dim}], got {list(z.shape)}")
        return z


def mlp(sizes: Sequence[int], hidden: str = "elu", output: str = "identity") -> nn.Sequential:
    """Linear layers of these sizes, with an activation between them and one at the end.

    >>> [type(layer).__name__ for layer in mlp([2, 16, 3], "tanh", "sigmoid")]
    ['Linear', 'Tanh', 'Linear', 'Sigmoid']
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes: expected at least two positive sizes, got {list(sizes)}")
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation(hidden)]
    layers[-1] = activation(output)
    return nn.Sequential(*layers)


def mlp_encoder(
    obs_dim: int,
    latent_dim: int,
    widths: Sequence[int] = (64, 64),
    *,
    hidden: str = "elu",
    posterior: bool = True,
    block_size: int | None = 1,
) -> Encoder:
    """An encoder of flattened observations, x [batch, ...] → q(z|x) or code [batch, d].

    >>> mlp_encoder(784, 8)(torch.zeros(5, 1, 28, 28)).event_shape
    torch.Size([8])
    """
    features = nn.Sequential(nn.Flatten(), mlp([obs_dim, *widths], hidden, hidden))
    return Encoder(features, widths[-1], latent_dim, posterior, block_size)


def mlp_decoder(
    latent_dim: int,
    obs_shape: int | Sequence[int],
    widths: Sequence[int] = (64, 64),
    *,
    hidden: str = "elu",
    output: str = "identity",
) -> Decoder:
    """A decoder z [batch, d] → g [batch, *obs_shape].

    >>> mlp_decoder(8, (1, 28, 28))(torch.zeros(5, 8)).shape
    torch.Size([5, 1, 28, 28])
    """
    shape = [obs_shape] if isinstance(obs_shape, int) else list(obs_shape)
    size = 1
    for n in shape:
        size *= n
    network = nn.Sequential(mlp([latent_dim, *widths, size], hidden, output), nn.Unflatten(1, shape))
    return Decoder(network, latent_dim)


class SameConv2d(nn.Conv2d):
    """A convolution that maps n pixels to ⌈n/stride⌉, an odd pixel of padding at the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[:1:-1]]
        return super().forward(F.pad(x, [side for n in total for side in (n // 2, n - n // 2)]))


class SameConvTranspose2d(nn.ConvTranspose2d):
    """The transposed convolution that maps n pixels to n · stride; an odd pixel is cut right and below."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int):
        super().__init__(n_in, n_out, kernel, stride, padding=max(kernel - stride, 0) // 2)

    def forward(self, x: Tensor) -> Tensor:
        height, width = (n * s for n, s in zip(x.shape[2:], self.stride, strict=True))
        return super().forward(x)[:, :, :height, :width]


def _channels(counts: Sequence[int], width: float) -> list[int]:
    width = runtime.positive("width", width)
    return [max(1, round(count * width)) for count in counts]


def _encoder(image: tuple[int, int], layers, kernel: int, latent_dim: int, width: float, **posterior) -> Encoder:
    (n_in, side), counts = image, _channels([channels for channels, _ in layers], width)
    network: list[nn.Module] = []
    for n_out, (_, stride) in zip(counts, layers, strict=True):
        network += [SameConv2d(n_in, n_out, kernel, stride), nn.BatchNorm2d(n_out), nn.ELU()]
        n_in, side = n_out, -(-side // stride)
    return Encoder(nn.Sequential(*network, nn.Flatten()), n_in * side * side, latent_dim, **posterior)


def _decoder(start: tuple[int, int], layers, kernel: int, latent_dim: int, width: float, colours: int, output: str):
    (first, side), counts = start, _channels([channels for channels, _ in layers], width)
    n_in = _channels([first], width)[0]
    network = [nn.Linear(latent_dim, n_in * side * side), nn.Unflatten(1, (n_in, side, side))]
    network += [nn.BatchNorm2d(n_in), nn.ELU()]
    for n_out, (_, stride) in zip(counts, layers, strict=True):
        network += [SameConvTranspose2d(n_in, n_out, kernel, stride), nn.BatchNorm2d(n_out), nn.ELU()]
        n_in = n_out
    del network[-2]  # App. D prints no normalisation after the last hidden layer
    return Decoder(nn.Sequential(*network, SameConv2d(n_in, colours, kernel), activation(output)), latent_dim)


_MNIST = [(64, 1), (128, 2), (256, 2), (512, 2), (512, 1)], [(512, 1), (256, 1), (128, 2), (64, 2)]
_CELEBA = [(128, 1), (256, 2), (512, 2), (1024, 2), (1024, 2)], [(1024, 1), (512, 2), (256, 2), (128, 2)]


def mnist_encoder(
    latent_dim: int, *, width: float = 1.0, posterior: bool = True, block_size: int | None = 1
) -> Encoder:
    """App. D's MNIST encoder: five 4×4 convolutions with batch normalisation and elu, x [batch, 1, 28, 28].

    `width` scales the channels (1.0 is the paper's), `block_size` is the posterior's; `posterior=False` gives
    the code of the GRAE model.

    >>> mnist_encoder(8, width=1 / 64)(torch.zeros(2, 1, 28, 28)).event_shape
    torch.Size([8])
    """
    return _encoder((1, 28), _MNIST[0], 4, latent_dim, width, posterior=posterior, block_size=block_size)


def mnist_decoder(latent_dim: int, *, width: float = 1.0, output: str = "sigmoid") -> Decoder:
    """App. D's MNIST decoder: z [batch, d] → [batch, 1, 28, 28]; output "identity" gives logits.

    >>> mnist_decoder(8, width=1 / 64)(torch.zeros(2, 8)).shape
    torch.Size([2, 1, 28, 28])
    """
    return _decoder((256, 7), _MNIST[1], 4, latent_dim, width, 1, output)


def celeba_encoder(
    latent_dim: int = 128, *, width: float = 1.0, posterior: bool = True, block_size: int | None = 1
) -> Encoder:
    """App. D's CelebA encoder: five 5×5 convolutions with batch normalisation and elu, x [batch, 3, 64, 64].

    >>> celeba_encoder(width=1 / 128)(torch.zeros(2, 3, 64, 64)).event_shape
    torch.Size([128])
    """
    return _encoder((3, 64), _CELEBA[0], 5, latent_dim, width, posterior=posterior, block_size=block_size)


def celeba_decoder(latent_dim: int = 128, *, width: float = 1.0, output: str = "sigmoid") -> Decoder:
    """App. D's CelebA decoder, z [batch, d] → [batch, 3, 64, 64].

    It starts from 8×8×512: the 16×16×512 that App. D prints would end at 128×128 pixels.

    >>> celeba_decoder(width=1 / 128)(torch.zeros(2, 128)).shape
    torch.Size([2, 3, 64, 64])
    """
    return _decoder((512, 8), _CELEBA[1], 5, latent_dim, width, 3, output)


def spectral_norm(network: nn.Module) -> nn.Module:
    """The network with each linear and convolutional weight divided by its largest singular value, in place.

    The Lipschitz constraint of RAE-SN (Ghosh et al. 2020), as Miyato et al. 2018 define it: of a convolution, the
    kernel flattened to [filters, everything else] counts, not the operator, whose norm is larger. One step of power
    iteration for each pass in train mode, those of a Jacobian included. Returns the network.

    >>> layer = spectral_norm(nn.Linear(3, 2)).eval()
    >>> torch.linalg.matrix_norm(layer.weight, 2).item() < 1.5
    True
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and not is_parametrized(layer):
            parametrizations.spectral_norm(layer)
    return network
