"""The batched uniqueness study against a plain loop over trials, on equal work.

The loop trains one trial after another as one would write it for a single trial: torch's Adam, autograd, samples and
nodes as dimensions of one array. Trials, samples, nodes, steps and precision are the same. The loop is timed on a few
trials and scaled to all; the batch is timed whole. The two take turns, and the medians are compared. Bounds: 5 at the
book's size on a CPU, 100 for ν = identity with amortisation (whose batch needs second moments only), 100 on a GPU at
full size.

    python benchmarks/uniqueness.py                              # the book's size; ν = identity at the paper's
    python benchmarks/uniqueness.py --full --compiled --device cuda
"""

import argparse
import statistics
import sys
import time

import torch

from grae_helpers import quadrature, toy_vae, uniqueness
from grae_helpers.toy_vae import Experiment

ACTIVATIONS = {"identity": lambda u: u, "tanh": torch.tanh}
SAMPLED = 2  # trials of the plain loop that are timed


def plain(experiment: Experiment, x: torch.Tensor, steps: int) -> None:
    """Train each trial by itself: x [trials, samples, 2]."""
    points, weights = (torch.tensor(part, dtype=x.dtype, device=x.device) for part in quadrature.gauss_hermite(5))
    for data in x:
        like, n = {"dtype": x.dtype, "device": x.device}, len(data)
        A, C, b, d = (torch.randn(*shape, **like) for shape in ((2, 2), (2, 2), (2,), (2,)))
        mean, D = 0.1 * torch.randn(n, 2, **like), 0.1 * torch.randn(1 if experiment.amortized else n, 2, 2, **like)
        used = [A, b, D, *([C, d] if experiment.amortized else [mean])]
        optimiser = torch.optim.Adam([part.requires_grad_() for part in used], lr=0.1)
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            covariance = D @ D.mT
            mu = data @ C.T + d if experiment.amortized else mean
            if experiment.family == "mean_field":
                covariance = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
            deviation = torch.einsum("ji,nik,jk->nj", A, covariance, A).sqrt()
            outputs = ACTIVATIONS[experiment.activation]((mu @ A.T)[..., None] + deviation[..., None] * points)
            squared = (((data - b)[..., None] - outputs) ** 2 @ weights).sum()
            trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
            kl = 0.5 * ((mu**2).sum() + (trace - torch.logdet(covariance) - 2).expand(n).sum())
            (squared / (2 * experiment.noise**2) + kl).backward()
            optimiser.step()


def compare(experiment: Experiment, trials: int, samples: int, options: argparse.Namespace) -> float:
    """How many times as long the loop takes for `trials` trials of 5 × options.iterations steps."""
    precision = torch.float64 if experiment == Experiment("identity", experiment.family, nodes=5) else torch.float32
    data = toy_vae.simulate(trials, samples, experiment.activation, dtype=precision)
    alone = data.x[:SAMPLED].mT.contiguous().to(options.device)
    times: dict[str, list[float]] = {"loop": [], "batch": []}
    for turn in range(options.turns + 1):
        for name in times:
            start = time.perf_counter()
            if name == "loop":
                plain(experiment, alone, 5 * options.iterations)
            else:
                uniqueness.train(
                    experiment, data, [options.iterations] * trials, device=options.device, block=options.block,
                    compiled=options.compiled,
                )  # fmt: skip
            if options.device.startswith("cuda"):
                torch.cuda.synchronize()
            if turn:
                times[name].append((time.perf_counter() - start) * (trials / SAMPLED if name == "loop" else 1))
    loop, batch = (statistics.median(values) / trials / (5 * options.iterations) for values in times.values())
    print(f"{experiment.name:<34}{trials:>7}{samples:>9}{1e6 * loop:>11.0f}{1e6 * batch:>11.1f}{loop / batch:>9.1f}")
    return loop / batch


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the paper's 420 trials of 4,000 samples for every case")
    parser.add_argument("--compiled", action="store_true", help="fused steps; the first turn, not counted, compiles")
    parser.add_argument("--block", type=int, default=0, help="trials in memory at a time (0: all)")
    parser.add_argument("--iterations", type=int, default=10, help="n: a fifth of the steps")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    threads = f"{torch.get_num_threads()} threads"
    print(f"{options.device}, {threads}, torch {torch.__version__}, medians of {options.turns}\n")
    print(f"{'':<34}{'trials':>7}{'samples':>9}{'loop':>11}{'batch':>11}{'ratio':>9}")
    print(f"{'':<50}{'µs per trial and step':>22}")
    for activation in ACTIVATIONS:
        for family in toy_vae.FAMILIES:
            for amortized in (True, False):
                size = (420, 4000) if options.full or (activation == "identity" and amortized) else (72, 200)
                compare(Experiment(activation, family, amortized, nodes=5), *size, options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
