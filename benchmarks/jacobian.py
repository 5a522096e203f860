"""Memory and speed of the decoder's derivatives on the paper's MNIST decoder, as ratios from one run.

Memory: each case runs in a process of its own, which first warms up the allocator on two samples. Its peak is
the highest resident set that the system saw (VmHWM, reset before the case) less the resident set before it;
on CUDA it is `max_memory_allocated` less what was allocated before. The bound is twice the result plus one
plain forward pass.

Speed: time per sample, ours on the whole batch, in the process that measures its memory. The reverse routes
are timed on one sample and one output in 14, and scaled: they make one backward pass per output. The routes
are `jacobians.jacobian`, `torch.autograd.functional.jacobian` in a Python loop, and vmap of jacrev and of
jacfwd.

    python benchmarks/jacobian.py            # the paper's width, d = 20, batch 256
    python benchmarks/jacobian.py --quick    # width 1/8, batch 64
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from grae_helpers import jacobians, likelihoods, models

CASES = ("forward", "jacobian", "gauss_newton")
MIB = 2**20


def setup(options: argparse.Namespace) -> tuple[models.Decoder, Tensor]:
    torch.manual_seed(0)
    decoder = models.mnist_decoder(options.latent_dim, width=options.width).to(options.device).eval()
    return decoder, torch.randn(options.batch, options.latent_dim, device=options.device)


def run(case: str, decoder: models.Decoder, z: Tensor) -> Tensor:
    with torch.no_grad():
        if case == "forward":
            return decoder(z)
        if case == "jacobian":
            return jacobians.jacobian(decoder, z)
        x = torch.zeros(len(z), 1, 28, 28, device=z.device)
        return jacobians.gauss_newton(decoder, likelihoods.Gaussian(), x, z)


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (the highest so far) of this process, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024


def peak(case: str, options: argparse.Namespace) -> tuple[int, float]:
    """Bytes above the start that one case needs at its peak, its result included, and its seconds."""
    decoder, z = setup(options)
    run(case, decoder, z[:2])
    if z.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        elapsed = seconds(lambda: run(case, decoder, z), options.device)
        return torch.cuda.max_memory_allocated() - before, elapsed
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = resident("VmRSS")
    elapsed = seconds(lambda: run(case, decoder, z), options.device)
    return resident("VmHWM") - before, elapsed


def measured(case: str, arguments: list[str]) -> tuple[int, float]:
    command = [sys.executable, __file__, *arguments, "--case", case]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return int(done[0]), float(done[1])


def seconds(route: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    route()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def routes(decoder: models.Decoder, z: Tensor) -> dict[str, tuple[float, Callable[[], object]]]:
    """Each other route, with the number of samples' Jacobians that it is timed on."""

    def outputs(row: Tensor) -> Tensor:
        return decoder(row[None])[0].flatten()

    def some_outputs(row: Tensor) -> Tensor:
        return outputs(row)[::14]

    def loop() -> Tensor:
        return torch.autograd.functional.jacobian(some_outputs, z[0])

    reverse = torch.vmap(torch.func.jacrev(some_outputs))
    forward = torch.vmap(torch.func.jacfwd(outputs))
    return {
        "autograd.functional in a loop": (1 / 14, loop),
        "vmap(jacrev)": (1 / 14, torch.no_grad()(lambda: reverse(z[:1]))),
        "vmap(jacfwd)": (min(16, len(z)), torch.no_grad()(lambda: forward(z[:16]))),
    }


def memory_table(options: argparse.Namespace, peaks: dict[str, int]) -> bool:
    results = {
        "jacobian": 4 * options.batch * 784 * options.latent_dim,
        "gauss_newton": 4 * options.batch * options.latent_dim**2,
    }
    print(f"one forward pass: {peaks['forward'] / MIB:.0f} MiB at its peak\n")
    print(f"{'memory':<14}{'peak MiB':>10}{'result MiB':>12}{'peak / (result + forward)':>28}")
    ratios = {}
    for case, result in results.items():
        ratios[case] = peaks[case] / (result + peaks["forward"])
        print(f"{case:<14}{peaks[case] / MIB:>10.0f}{result / MIB:>12.1f}{ratios[case]:>28.2f}")
    met = max(ratios.values()) <= 2
    print(f"at most 2: {'met' if met else 'MISSED'}\n")
    return met


def speed_table(options: argparse.Namespace, ours: float) -> bool:
    decoder, z = setup(options)
    timed = routes(decoder, z)
    run("jacobian", decoder, z[:2])
    per_sample = {"jacobians.jacobian": ours}
    per_sample |= {name: seconds(route, options.device) / n for name, (n, route) in timed.items()}
    print(f"{'speed':<32}{'ms / sample':>13}{'time / ours':>13}")
    for name, value in per_sample.items():
        print(f"{name:<32}{1e3 * value:>13.1f}{value / ours:>13.1f}")
    met = per_sample["autograd.functional in a loop"] >= 5 * ours
    print(f"at least 5 for the loop: {'met' if met else 'MISSED'}")
    return met


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="width 1/8 and batch 64")
    parser.add_argument("--latent-dim", type=int, default=20)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--width", type=float)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.batch = options.batch or (64 if options.quick else 256)
    options.width = options.width or (1 / 8 if options.quick else 1.0)
    if options.case:
        print(*peak(options.case, options))
        return 0
    print(
        f"MNIST decoder, width {options.width:g}, d = {options.latent_dim}, batch {options.batch}, float32, "
        f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    found = {case: measured(case, arguments) for case in CASES}
    met = [memory_table(options, {case: bytes_ for case, (bytes_, _) in found.items()})]
    met += [speed_table(options, found["jacobian"][1] / options.batch)]
    if options.quick:
        print("\nThe bounds are for the paper's width and batch 256; a few MiB say little.")
    return 0 if options.quick or all(met) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
