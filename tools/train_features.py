"""Train the small networks behind FID: python -m tools.train_features mnist|cifar10

Writes grae_helpers/weights/features_NAME.safetensors: convolutions and the head rounded to 16 bits, the test accuracy
measured with what is stored, and the seed, epochs, data and commit in its metadata. On one core, about 20 minutes for
CIFAR-10 and 3 for MNIST. Stochastic gradient descent with Nesterov momentum, a cosine schedule after a short warm-up,
shifts (and flips for photographs). A run that is stopped goes on at its last whole epoch.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from grae_helpers import classifiers, data, runtime
from tools.project import ROOT

BATCH, WARM_UP, MOMENTUM, DECAY = 128, 0.1, 0.9, 5e-4


@dataclass(frozen=True)
class Recipe:
    epochs: int
    shift: int
    flip: bool
    rate: float = 0.1


RECIPES = {"mnist": Recipe(6, 2, False), "cifar10": Recipe(12, 4, True)}


def shifted(padded: Tensor, chosen: Tensor, recipe: Recipe, rng: torch.Generator) -> Tensor:
    """The chosen images, moved by up to `shift` pixels each way and half of them mirrored, [n, C, H, W] in [0, 1].

    `padded` is uint8 [n, C, H + 2·shift, W + 2·shift].
    """
    n, side = len(chosen), padded.shape[-1] - 2 * recipe.shift
    corner = torch.randint(0, 2 * recipe.shift + 1, (2, n, 1), generator=rng)
    rows, columns = corner + torch.arange(side)
    if recipe.flip:
        mirrored = torch.rand(n, 1, generator=rng) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    picked = padded[chosen[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [n, H, W, C]
    return picked.permute(0, 3, 1, 2).float() / 255


def batches(images: data.Images, recipe: Recipe, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in a random order; what does not fill a batch is left out."""
    border, mode = (recipe.shift, recipe.shift), "reflect" if recipe.flip else "constant"
    padded = torch.from_numpy(np.pad(images.images.numpy(), ((0, 0), (0, 0), border, border), mode))
    order = torch.randperm(len(images), generator=rng)
    for chosen in order[: len(order) // BATCH * BATCH].split(BATCH):
        yield shifted(padded, chosen, recipe, rng), images.labels[chosen]


def rate(step: int, steps: int) -> float:
    """The learning rate over its highest: a line up, then half a cosine down to 0."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def optimiser_of(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Weights decay, normalisation and biases do not."""
    kinds = [p for p in network.parameters() if p.ndim > 1], [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": kinds[0], "weight_decay": DECAY}, {"params": kinds[1], "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=MOMENTUM, nesterov=True)


def standardise(network: classifiers.Network, images: data.Images) -> None:
    """Set the network's own mean and deviation of each channel to those of the training images."""
    values = images.images.double() / 255
    network.mean.copy_(values.mean((0, 2, 3))[:, None, None])
    network.deviation.copy_(values.std((0, 2, 3))[:, None, None])


def epoch(
    network: classifiers.Network,
    optimiser: torch.optim.Optimizer,
    images: data.Images,
    recipe: Recipe,
    number: int,
    options: argparse.Namespace,
) -> float:
    """One pass over the images; its mean cross entropy. The random numbers depend on seed and epoch alone."""
    rng, per_epoch = torch.Generator().manual_seed(1000 * options.seed + number), len(images) // BATCH
    total, bfloat16 = 0.0, options.precision == "bfloat16"
    network.train()
    for step, (x, y) in enumerate(batches(images, recipe, rng)):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * rate(number * per_epoch + step, options.epochs * per_epoch)
        x, y = x.to(options.device), y.to(options.device)
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=bfloat16):
            loss = nn.functional.cross_entropy(network(x).float(), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.item()
    return total / per_epoch


@torch.no_grad()
def accuracy(network: classifiers.Network, images: data.Images) -> float:
    """The share of images classified rightly, in eval mode and single precision."""
    network.eval()
    device, right = network.mean.device, 0
    for chosen in torch.arange(len(images)).split(500):
        found = network(images.floats(chosen).to(device)).argmax(1).cpu()
        right += int((found == images.labels[chosen]).sum())
    return right / len(images)


def train(name: str, options: argparse.Namespace) -> tuple[classifiers.Network, data.Images, data.Images]:
    """The trained network with its data; goes on where an earlier run of the same settings stopped."""
    recipe, (images, test) = RECIPES[name], [data.load(name, split) for split in ("train", "test")]
    torch.manual_seed(options.seed)
    network = classifiers.untrained(name).to(options.device, memory_format=torch.channels_last)
    standardise(network, images)
    optimiser, start = optimiser_of(network, recipe), 0
    kept = options.build / f"{name}.pt"
    settings = [options.epochs, options.seed, options.precision, repr(recipe)]
    if kept.exists() and (state := torch.load(kept, weights_only=True))["settings"] == settings:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["epoch"]
    for number in range(start, options.epochs):
        began = time.process_time()
        loss = epoch(network, optimiser, images, recipe, number, options)
        text = f"{name}: epoch {number + 1} of {options.epochs}, cross entropy {loss:.4f}"
        seconds = time.process_time() - began
        print(f"{text}, test accuracy {accuracy(network, test):.2%}, {seconds:.0f} s of CPU", flush=True)
        state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
        keep(kept, state | {"epoch": number + 1, "settings": settings})
    return network, images, test


def keep(path: Path, state: dict) -> None:
    """A checkpoint, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def rounded(network: classifiers.Network) -> dict[str, Tensor]:
    """The weights as they are stored: matrices and convolutions in 16 bits; statistics and biases, few, in 32."""
    state = {name: tensor.cpu() for name, tensor in network.state_dict().items() if "num_batches" not in name}
    return {name: (t.half() if t.ndim in (2, 4) else t.float()).contiguous() for name, t in state.items()}


@torch.no_grad()
def store(
    name: str, network: classifiers.Network, images: data.Images, test: data.Images, options: argparse.Namespace
) -> None:
    """Write the rounded weights, having measured with them, and print what the rounding changed."""
    network = network.cpu().eval()
    sample, before = test.floats(slice(0, 500)), accuracy(network, test)
    exact = network.features(sample)
    state = rounded(network)
    network.load_state_dict(state)
    found, changed = accuracy(network, test), (network.features(sample) - exact).norm() / exact.norm()
    made = runtime.provenance(torch.device(options.device))
    metadata = {
        "network": name, "test accuracy": f"{found:.4f}", "test images": str(len(test)), "seed": str(options.seed),
        "epochs": str(options.epochs), "precision of training": options.precision, "data": images.source,
        "commit": str(made["commit"]), "torch": made["versions"]["torch"], "time": made["time"],
        "command": f"python -m tools.train_features {name}",
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"features_{name}.safetensors"
    path.with_suffix(".new").write_bytes(save(state, metadata))
    os.replace(path.with_suffix(".new"), path)
    count = sum(p.numel() for p in network.parameters())
    print(f"{path.name}: {count:,} parameters, {path.stat().st_size:,} bytes, test accuracy {found:.2%}")
    print(f"Rounding moved the features by {changed:.1e} of their norm, the accuracy from {before:.2%}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(RECIPES))
    parser.add_argument("--epochs", type=int, help="default: 6 for MNIST, 12 for CIFAR-10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "features", help="for checkpoints")
    parser.add_argument("--out", type=Path, default=ROOT / "grae_helpers" / "weights")
    options = parser.parse_args(arguments)
    if options.epochs is None:
        options.epochs = RECIPES[options.name].epochs
    if options.epochs < 1 or options.seed < 0:
        parser.error(f"expected --epochs of 1 or more and --seed of 0 or more, got {options.epochs}, {options.seed}")
    network, images, test = train(options.name, options)
    store(options.name, network, images, test, options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
