"""Memory and speed of the decoder's derivatives on the paper's MNIST decoder, as ratios from one run.

Memory: each case runs in a process of its own, which first warms up the allocator on two samples. Its peak is
the highest resident set that the system saw (VmHWM, reset before the case) less the resident set before it;
on CUDA it is `max_memory_allocated` less what was allocated before. The bound is twice the result plus one
plain forward pass.

Speed: seconds per sample on the largest batch that a route is given, the slow ones on a few samples. The
routes are `jacobians.jacobian`, `torch.autograd.functional.jacobian` in a Python loop, and vmap of jacrev and
of jacfwd.

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


def peak(case: str, options: argparse.Namespace) -> int:
    """Bytes above the start that one case needs at its peak, its result included."""
    decoder, z = setup(options)
    run(case, decoder, z[:2])
    if z.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(case, decoder, z)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = resident("VmRSS")
    run(case, decoder, z)
    return resident("VmHWM") - before


def measured(case: str, arguments: list[str]) -> int:
    command = [sys.executable, __file__, *arguments, "--case", case]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def seconds(route: Callable[[], object], device: str, repeats: int = 1) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        route()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def routes(decoder: models.Decoder, z: Tensor) -> dict[str, tuple[int, Callable[[], object]]]:
    """Each route with the number of samples that it is timed on."""

    def one(row: Tensor) -> Tensor:
        return decoder(row[None])[0].flatten()

    def loop(rows: Tensor) -> list[Tensor]:
        return [torch.autograd.functional.jacobian(one, row) for row in rows]

    reverse = torch.vmap(torch.func.jacrev(one, chunk_size=98))
    forward = torch.vmap(torch.func.jacfwd(one))
    few, some = 1, min(16, len(z))
    return {
        "jacobians.jacobian": (len(z), lambda: run("jacobian", decoder, z)),
        "autograd.functional in a loop": (few, lambda: loop(z[:few])),
        "vmap(jacrev)": (few, torch.no_grad()(lambda: reverse(z[:few]))),
        "vmap(jacfwd)": (some, torch.no_grad()(lambda: forward(z[:some]))),
    }


def memory_table(options: argparse.Namespace, arguments: list[str]) -> bool:
    peaks = {case: measured(case, arguments) for case in CASES}
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


def speed_table(options: argparse.Namespace) -> bool:
    decoder, z = setup(options)
    timed = routes(decoder, z)
    run("jacobian", decoder, z[:2])
    per_sample = {name: seconds(route, options.device) / n for name, (n, route) in timed.items()}
    ours = per_sample["jacobians.jacobian"]
    print(f"{'speed':<32}{'timed on':>9}{'ms / sample':>13}{'time / ours':>13}")
    for name, value in per_sample.items():
        print(f"{name:<32}{timed[name][0]:>9}{1e3 * value:>13.1f}{value / ours:>13.1f}")
    met = per_sample["autograd.functional in a loop"] >= 5 * ours
    print(f"at least 5 for the loop: {'met' if met else 'MISSED'}")
    return met


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
        print(peak(options.case, options))
        return 0
    print(
        f"MNIST decoder, width {options.width:g}, d = {options.latent_dim}, batch {options.batch}, float32, "
        f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    met = [memory_table(options, arguments), speed_table(options)]
    if options.quick:
        print("\nThe bounds are for the paper's width and batch 256; a few MiB say little.")
    return 0 if options.quick or all(met) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
