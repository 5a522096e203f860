"""The Fréchet distance against a matrix square root's, and what each measure costs.

The square root is the usual tr Σ_a + tr Σ_b − 2 tr (Σ_a Σ_b)^½ by scipy.linalg.sqrtm, on the same covariances: of
2 D random samples, and steep ones, whose eigenvalues fall over ten decades, where our distance takes a longer route.
Σ_b is C Σ_a C, so that tr (Σ_a Σ_b)^½ = tr C Σ_a is known. Times are of the process over its threads, so that other
programs do not count; medians, the two taking turns. Bound: 5 on random covariances of D = 2048. Beside it a set's
distance from itself in another order, and what each measure takes on N pairs of random features.

    python benchmarks/fid.py                          # four sizes, then N = 10,000 in 128 dimensions
    python benchmarks/fid.py --dimension 128 --dimension 2048
    python benchmarks/fid.py --quick
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy import linalg

from grae_helpers import fid, frechet

SIZES = (64, 256, 1024, 2048)
BOUND = 5


def random_covariance(d: int, generator: np.random.Generator) -> np.ndarray:
    x = generator.normal(size=(2 * d, d))
    return x.T @ x / (2 * d)


def steep_covariance(d: int, generator: np.random.Generator) -> np.ndarray:
    basis = np.linalg.qr(generator.normal(size=(d, d)))[0] * np.geomspace(1e-5, 1, d)
    return basis @ basis.T


def pair(kind: str, d: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Two covariances, with their Fréchet distance in closed form."""
    generator = np.random.default_rng(0)
    a = (random_covariance if kind == "random" else steep_covariance)(d, generator)
    c = random_covariance(d, generator)
    b = c @ a @ c
    return a, (b + b.T) / 2, float(np.trace(a) + np.trace(b) - 2 * np.trace(c @ a))


def ours(a: np.ndarray, b: np.ndarray) -> float:
    return fid.frechet_distance(np.zeros(len(a)), a, np.zeros(len(b)), b)


def by_root(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.trace(a) + np.trace(b) - 2 * np.trace(linalg.sqrtm(a @ b)).real)


def timed(function: Callable, *arguments: object) -> tuple[float, object]:
    start = time.process_time()
    found = function(*arguments)
    return time.process_time() - start, found


def compare(kind: str, d: int, turns: int) -> float:
    """Print one line, and return the ratio of times."""
    a, b, truth = pair(kind, d)
    seconds: dict[Callable, list[float]] = {ours: [], by_root: []}
    values = {}
    for _ in range(turns):
        for route, taken in seconds.items():
            took, values[route] = timed(route, a, b)
            taken.append(took)
    errors = [abs(values[route] / truth - 1) for route in (ours, by_root)]
    mine, its = (statistics.median(taken) for taken in seconds.values())
    ratio = its / mine
    print(f"{kind:<8}{d:>6}{mine:>10.3f}{its:>10.3f}{ratio:>8.1f}{errors[0]:>12.0e}{errors[1]:>12.0e}", flush=True)
    return ratio


def ratios(sizes: list[int], turns: int) -> list[tuple[int, float]]:
    print(f"{'':<8}{'D':>6}{'ours s':>10}{'sqrtm s':>10}{'ratio':>8}{'our error':>12}{'its':>12}")
    found = [(d, compare("random", d, turns)) for d in sizes]
    for d in sizes:
        compare("steep", d, turns)
    print("errors: relative, from the closed form\n")
    return found


def itself(sizes: list[int]) -> bool:
    """Print the distance of a set from itself in another order, of full rank and singular, features times 1,000."""
    worst, generator = 0.0, torch.Generator().manual_seed(0)
    for d in sizes:
        for n in (2 * d, d // 2):
            x = 1000 * torch.randn(n, d, generator=generator, dtype=torch.float64)
            sums = [frechet.summed([table]) for table in (x, x.flip(0))]
            took, found = timed(frechet.distance_of_sums, *sums)
            print(f"itself, D = {d}, N = {n}, features of size 1,000: {found:.0e} in {took:.2f} s", flush=True)
            worst = max(worst, abs(found))
    print()
    return worst < 1e-6


def measures(n: int, d: int) -> None:
    generator = torch.Generator().manual_seed(0)
    real, generated = (torch.randn(n, d, generator=generator).relu() for _ in range(2))
    fid.precision_recall(real[:9], generated[:9])  # imports torch-fidelity
    print(f"N = {n:,} and as many, D = {d}", flush=True)
    for measure in (fid.moments, fid.distance, fid.extrapolated, fid.kid, fid.precision_recall):
        tables = (real,) if measure is fid.moments else (real, generated)
        took, _ = timed(measure, *tables)
        print(f"  {measure.__name__:<20}{took:>8.2f} s", flush=True)
    print()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="D up to 256 and N = 1,000; the bound does not count")
    parser.add_argument("--turns", type=int, default=1, help="of both routes, for a median")
    parser.add_argument("--images", type=int, default=10_000, help="N of the measures")
    parser.add_argument("--dimension", type=int, action="append", help="D of the measures: default 128")
    parser.add_argument("--only", choices=("ratio", "itself", "measures"))
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", fid.SingularCovariance)  # wanted here
    threads = torch.get_num_threads()
    print(f"{threads} thread{'s' if threads > 1 else ''}, numpy {np.__version__}, torch {torch.__version__}\n")
    sizes, good = [d for d in SIZES if d <= 256 or not options.quick], True
    if options.only in (None, "ratio"):
        largest, ratio = ratios(sizes, options.turns)[-1]
        good &= options.quick or ratio >= BOUND
        print(f"{ratio:.1f} times as fast on random covariances of D = {largest} (bound {BOUND})\n")
    if options.only in (None, "itself"):
        good &= itself(sizes)
    if options.only in (None, "measures"):
        for d in options.dimension or [128]:
            measures(1_000 if options.quick else options.images, d)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
