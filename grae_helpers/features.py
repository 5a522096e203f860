"""What an image is turned into before it is compared: the features behind FID, KID, precision and recall."""

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from grae_helpers import classifiers, downloads, runtime
from grae_helpers.data import DatasetCorrupt, DatasetUnavailable

NETWORKS = ("mnist", "cifar10", "inception")
TITLES = {"mnist": "MNIST network", "cifar10": "CIFAR-10 network", "inception": "Inception (2015)"}
WEIGHTS = Path(__file__).parent / "weights"
# FID's own weights, converted from Google's file of 2015: torch-fidelity's name for them, then pytorch-fid's.
INCEPTION = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
BATCH, FIRST = 32, 1024  # images in a network, rows of a table whose length is not known yet
LUMA = (0.299, 0.587, 0.114)  # Rec. 601, as Pillow makes grey of colours


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network that turns uint8 images [n, C, H, W], C = 1 or 3, into features float32 [n, `dimension`].

    They come on `device`, without a graph. `name` is one of `NETWORKS`, `title` its name on a page, and `description`
    what a protocol says of it, line by line. Raises TypeError for images that are not uint8, ValueError for other
    shapes.
    """

    name: str
    title: str
    dimension: int
    description: dict[str, str]
    device: torch.device
    network: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        check_images(images)
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with exact, torch.autocast(self.device.type, enabled=False):
            return self.network(images.to(self.device)).float()


def choose(name: str, image_shape: Sequence[int]) -> str:
    """The name of the network for images [C, H, W]: itself, or for "auto" the one that suits them.

    "auto" is "mnist" for images [1, 28, 28], and for others "inception" where FID's weights are on this machine
    already, else "cifar10". Raises ValueError for another name or shape.

    >>> choose("auto", (1, 28, 28)), choose("cifar10", (1, 28, 28))
    ('mnist', 'cifar10')
    """
    runtime.one_of("features", name, ("auto", *NETWORKS))
    shape = tuple(image_shape)
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
        raise ValueError(f"image_shape: expected [1 or 3, H, W], got {list(shape)}")
    if name != "auto":
        return name
    if shape == (1, 28, 28):
        return "mnist"
    return "inception" if find_inception() else "cifar10"


def load(name: str, *, device: str | torch.device = "cpu") -> Extractor:
    """The extractor of that name, ready to be called on images of any size, grey or coloured.

    - `mnist` (64 features) and `cifar10` (128): small networks trained by tools/train_features.py, which lie in
      this package. Images are resized to 28×28 and 32×32.
    - `inception` (2,048): torch-fidelity's Inception with FID's weights (Heusel et al. 2017), looked for under
      $GRAE_DATA, in the user's cache and in torch.hub's, else downloaded (91 MB). What is compared with published
      numbers needs these features.

    Distances between features of different networks have nothing in common. Raises ValueError for another name,
    DatasetUnavailable where weights cannot be had, DatasetCorrupt for a file with another checksum.

    >>> extractor = load("mnist")
    >>> extractor(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape, extractor.title
    (torch.Size([2, 64]), 'MNIST network')
    """
    runtime.one_of("features", name, NETWORKS)
    where = runtime.device(str(device))
    with torch.random.fork_rng(devices=[]):  # a network draws its weights before others are loaded
        module, description = _inception() if name == "inception" else _small(name)
    layout = torch.channels_last if where.type == "cpu" else torch.preserve_format  # a third faster for Inception
    module = module.to(where, memory_format=layout).eval().requires_grad_(False)
    network = _as_inception(module) if name == "inception" else _as_small(module)
    dimension = 2048 if name == "inception" else module.dimension
    return Extractor(name, TITLES[name], dimension, description, where, network)


def extract(
    extractor: Extractor, images: Tensor | Iterable[Tensor], *, batch_size: int = BATCH, progress: bool = False
) -> Tensor:
    """Features [n, D] of all the images, float32 on the CPU. `images` is uint8 [n, C, H, W] or an iterable of such.

    An iterable is read one item at a time, and no more than `batch_size` images are in the network at once. What
    grows with n is the table itself, 4·D bytes an image; where moments will do, `stream` does without. Raises
    TypeError for floating images (`as_uint8` quantises them), ValueError for other shapes and for no images.

    >>> images = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    >>> extract(load("mnist"), images).shape
    torch.Size([5, 64])
    """
    known = isinstance(images, Tensor)
    if known:
        check_images(images)
    table, n = torch.empty(len(images) if known else 0, extractor.dimension, dtype=torch.float32), 0
    for batch in stream(extractor, images, batch_size=batch_size, progress=progress):
        if n + len(batch) > len(table):  # doubled: many small tensors among a network's large ones fragment memory
            table = torch.cat([table[:n], table.new_empty(max(n, len(batch), FIRST), extractor.dimension)])
        table[n : n + len(batch)] = batch
        n += len(batch)
    if n == 0:
        raise ValueError("images: expected at least one batch of images, got an empty iterable")
    return table if n == len(table) else table[:n].clone()


def stream(
    extractor: Extractor, images: Tensor | Iterable[Tensor], *, batch_size: int = BATCH, progress: bool = False
) -> Iterator[Tensor]:
    """The features of `extract`, one batch [at most batch_size, D] at a time, on the extractor's device.

    >>> images = (torch.zeros(3, 1, 28, 28, dtype=torch.uint8) for _ in range(2))
    >>> [len(batch) for batch in stream(load("mnist"), images, batch_size=2)]
    [2, 1, 2, 1]
    """
    runtime.integer("batch_size", batch_size, 1)
    total = len(images) if isinstance(images, Tensor) else None
    with tqdm(total=total, unit="image", file=sys.stdout, ncols=60, ascii=True, disable=not progress) as bar:
        for item in [images] if isinstance(images, Tensor) else images:
            check_images(item)
            for batch in item.split(batch_size):
                yield extractor(batch)
                bar.update(len(batch))


def as_uint8(images: Tensor) -> Tensor:
    """Images in [0, 1] as 8-bit images: 255·x, rounded, clipped at 0 and 255. A model's images need it first.

    Raises TypeError for integers, ValueError for NaN or infinity.

    >>> as_uint8(torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.2]))
    tensor([  0,   0, 128, 255, 255], dtype=torch.uint8)
    """
    if not images.is_floating_point():
        raise TypeError(f"images: expected floating point in [0, 1], got {images.dtype}")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images: expected finite grey values, got NaN or infinity")
    exact = images if images.dtype == torch.float64 else images.float()  # half precision cannot tell 254.5 from 254
    return (255 * exact).round().clamp(0, 255).to(torch.uint8)


def check_images(images: Tensor) -> None:
    """Raise TypeError for what is not a uint8 tensor, ValueError for what is not [n ≥ 1, 1 or 3, H, W].

    >>> check_images(torch.zeros(2, 3, 8, 8))
    Traceback (most recent call last):
    ...
    TypeError: images: expected uint8, got torch.float32; features.as_uint8 makes it of images in [0, 1]
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images: expected a uint8 tensor or an iterable of such, got {type(images).__name__}")
    if images.dtype != torch.uint8:
        advice = "; features.as_uint8 makes it of images in [0, 1]" if images.is_floating_point() else ""
        raise TypeError(f"images: expected uint8, got {images.dtype}{advice}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images: expected [n ≥ 1, 1 or 3, H, W], got {list(images.shape)}")


def find_inception() -> Path | None:
    """Where FID's weights are on this machine, or None: under $GRAE_DATA, in the user's cache, in torch.hub's.

    Nothing is downloaded and nothing read. Raises ValueError for a $GRAE_DATA that does not exist.
    """
    roots = downloads.data_root(), downloads.cache_root(), Path(torch.hub.get_dir(), "checkpoints")
    places = [root / name for root in roots if root for name in INCEPTION]
    return next((place for place in places if place.is_file()), None)


def _small(name: str) -> tuple[classifiers.Network, dict[str, str]]:
    from safetensors import safe_open

    path, network = WEIGHTS / f"features_{name}.safetensors", classifiers.untrained(name)
    if not path.exists():
        raise DatasetUnavailable(f"{path} is not there: install the package again, or run tools/train_features.py")
    try:
        with safe_open(path, "pt") as file:
            state, made = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
        network.load_state_dict(state)
        share = f"{float(made['test accuracy']):.2%} of {int(made['test images']):,} test images"
    except Exception as error:  # a file that was cut off, a pointer to one, another network's
        expected = f"expected the weights of the {TITLES[name]}"
        raise DatasetCorrupt(f"{path}: {expected}, found: {_reason(error)}") from error
    description = {
        "features": f"{TITLES[name]}, the {network.dimension} before the classes",
        "weights": f"{path.name}, sha256 {_sha256(path)[:12]}",
        "test accuracy": share,
        "resizing": f"to {network.size}×{network.size}, bilinear with antialiasing, not rounded again",
        "channels": "1, colours to grey (Rec. 601)" if name == "mnist" else "3, grey repeated",
        "library": f"torch {torch.__version__}",
    }
    return network, description


def _as_small(network: classifiers.Network) -> Callable[[Tensor], Tensor]:
    channels, size = len(network.mean), (network.size, network.size)

    def run(images: Tensor) -> Tensor:
        x = images.float() / 255
        if channels == 1 and x.shape[1] == 3:
            x = torch.einsum("nchw,c->nhw", x, x.new_tensor(LUMA))[:, None]
        if x.shape[2:] != size:
            x = nn.functional.interpolate(x, size, mode="bilinear", antialias=True)
        return network.features(x.expand(-1, channels, -1, -1))

    return run


def _inception() -> tuple[nn.Module, dict[str, str]]:
    runtime.torchvision()  # before torch-fidelity imports it, which fails beside a torch of another build
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

    path = find_inception()
    if path is None:
        path = downloads.cache_root() / INCEPTION[0]
        downloads.fetch([URL_INCEPTION_V3], path, f"sha256:{INCEPTION_SHA256}", "the file into $GRAE_DATA")
    if (found := _sha256(path)) != INCEPTION_SHA256:
        raise DatasetCorrupt(f"{path}: expected sha256 {INCEPTION_SHA256}, found {found}. Delete or replace it.")
    try:
        module = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
    except Exception as error:  # unpickling and loading raise what they like
        raise DatasetCorrupt(f"{path}: expected the weights of FID's Inception, found: {_reason(error)}") from error
    description = {
        "features": f"{TITLES['inception']}, the 2,048 of its last pooling (Heusel et al. 2017)",
        "weights": f"{path.name}, sha256 {found[:12]}",
        "resizing": "to 299×299, bilinear as TensorFlow 1 did, without antialiasing",
        "channels": "3, grey repeated",
        "library": f"torch-fidelity {version('torch-fidelity')}, torch {torch.__version__}",
    }
    return module, description


def _as_inception(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda images: module(images.expand(-1, 3, -1, -1))[0]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
