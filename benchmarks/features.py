"""How fast images are turned into features, and that memory does not grow with their number.

Random images of 64×64 are made a batch at a time and go through `features.stream`, a quarter of them and all of
them, each in a process of its own. Memory is what a run needs at its peak above the loaded network and the warmed-up
allocator: it may not grow by more than a quarter and 16 MiB, and stays under 3 GB with the table of features that
`features.extract` makes, 4·D bytes an image, twice that for a moment.

    python benchmarks/features.py                                              # a few images, to see that it holds
    python benchmarks/features.py --network inception --images 50000 --device cuda

Inception's weights are random where FID's are not on this machine: speed and memory do not depend on them.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
from jacobian import MIB, resident
from step_cost import finish
from torch import Tensor

from grae_helpers import features, runtime

BOUND, GROWTH, SLACK = 3e9, 1.25, 16 * MIB  # the slack is the allocator's
DIMENSIONS = {"mnist": 64, "cifar10": 128, "inception": 2048}
WARM = 4  # images before it counts
IMAGES = {"mnist": 4096, "cifar10": 4096, "inception": 128}


def batches(n: int, size: int) -> Iterator[Tensor]:
    """n random images, no more than `size` of them at once."""
    rng = torch.Generator().manual_seed(0)
    for start in range(0, n, size):
        yield torch.randint(0, 256, (min(size, n - start), 3, 64, 64), dtype=torch.uint8, generator=rng)


def random_inception(path: Path) -> None:
    """Write a file of weights as torch-fidelity reads it, with random ones."""
    runtime.torchvision()
    from torch_fidelity import feature_extractor_inceptionv3 as library

    kind = library.FeatureExtractorInceptionV3
    nothing = {"load_state_dict": lambda self, state: None}
    with mock.patch.object(library, "load_state_dict_from_url"), mock.patch.multiple(kind, **nothing):
        network = kind("random", ["2048"])
    torch.save(network.state_dict(), path)


def load(name: str, options: argparse.Namespace) -> features.Extractor:
    """The extractor; of random weights the checksum is the file's own."""
    if name == "inception" and options.weights:
        os.environ["GRAE_DATA"] = str(options.weights.parent)
        features.INCEPTION_SHA256 = hashlib.sha256(options.weights.read_bytes()).hexdigest()
    return features.load(name, device=options.device)


def case(name: str, n: int, options: argparse.Namespace) -> tuple[int, float, float]:
    """Peak bytes of extracting n images in this fresh process, its seconds, and its seconds of CPU."""
    extractor = load(name, options)
    features.extract(extractor, batches(WARM, WARM))
    gpu = extractor.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = resident("VmRSS")
    start, cpu = time.perf_counter(), time.process_time()
    found = sum(len(rows) for rows in features.stream(extractor, batches(n, options.batch), batch_size=options.batch))
    finish(options.device)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert found == n
    return (torch.cuda.max_memory_allocated() if gpu else resident("VmHWM")) - before, seconds, cpu


def measured(name: str, n: int, batch: int, options: argparse.Namespace) -> tuple[int, float, float]:
    command = [sys.executable, __file__, "--case", f"{name}:{n}", "--device", options.device]
    command += ["--batch", str(batch), *(["--weights", str(options.weights)] if options.weights else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return int(done[0]), float(done[1]), float(done[2])


def report(name: str, options: argparse.Namespace) -> bool:
    n = options.images or IMAGES[name]
    numbers = (max(1, n // 4), n)
    batch = max(1, min(options.batch, n // 16))  # four batches or more in a quarter: the allocator settles over a few
    runs = [measured(name, number, batch, options) for number in numbers]
    (first, *_), (peak, seconds, cpu) = runs
    kind = ", random weights" if name == "inception" and options.weights else ""
    print(f"{features.TITLES[name]}{kind}: {n:,} images of 64×64, batches of {batch}")
    per_cpu = "" if options.device.startswith("cuda") else f", {n / cpu:.0f} a second of CPU"
    print(f"{n / seconds:.0f} images a second{per_cpu}")
    table, growth = 4 * DIMENSIONS[name] * n, peak / max(first, 1)
    print(f"memory beside the network {peak / MIB:.0f} MiB, {growth:.2f} times that of {numbers[0]:,} images")
    met = peak <= GROWTH * first + SLACK and peak + 2 * table < BOUND
    text = f"flat, and under {BOUND / 1e9:g} GB with twice the table of {table / MIB:.1f} MiB"
    print(f"{text}: {'met' if met else 'MISSED'}\n")
    return met


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=features.NETWORKS, action="append", help="default: all")
    parser.add_argument("--images", type=int, help="default: 128 for Inception, 4,096 for the others")
    parser.add_argument("--batch", type=int, default=features.BATCH, help="at most (default 32)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.case:
        name, n = options.case.split(":")
        print(*case(name, int(n), options))
        return 0
    print(f"{runtime.device_name(runtime.device(options.device))}, torch {torch.__version__}\n")
    names = options.network or features.NETWORKS
    with tempfile.TemporaryDirectory() as folder:
        if "inception" in names and not features.find_inception():
            options.weights = Path(folder) / features.INCEPTION[0]
            random_inception(options.weights)
        met = [report(name, options) for name in names]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
