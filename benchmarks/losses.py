"""The cost of a training step of each objective over a β-VAE's, on the paper's MNIST networks, from one run.

A step is encoder, objective, backward pass and Adam. Medians of a few steps after one that warms up; the
objectives take turns, so that a busy machine is busy for all of them.

    python benchmarks/losses.py            # the paper's width
    python benchmarks/losses.py --quick    # width 1/8
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

from grae_helpers import likelihoods, losses, models
from grae_helpers.losses import LossTerms

BETA = 0.1


def objectives(
    options: argparse.Namespace,
) -> dict[str, tuple[list[torch.nn.Module], Callable[..., LossTerms]]]:
    """Each objective's networks and its loss of x."""
    likelihood, width, d = likelihoods.Gaussian(), options.width, options.latent_dim

    def pair(
        loss: Callable[..., LossTerms], **encoder
    ) -> tuple[list[torch.nn.Module], Callable[..., LossTerms]]:
        torch.manual_seed(0)
        nets = [models.mnist_encoder(d, width=width, **encoder), models.mnist_decoder(d, width=width)]
        nets = [net.to(options.device) for net in nets]
        return nets, lambda x: loss(x, nets[0](x), nets[1], likelihood, BETA)

    cases = {
        "beta_vae, mean field": pair(losses.beta_vae, block_size=1),
        "beta_vae, full": pair(losses.beta_vae, block_size=None),
        "taylor, mean field": pair(losses.taylor, block_size=1),
        "taylor, full": pair(losses.taylor, block_size=None),
        "grae, one block": pair(losses.grae, posterior=False),
        "grae_approx, 1 column": pair(losses.grae_approx, posterior=False),
    }
    if options.exact:
        cases["taylor, exact Hessian"] = pair(lambda *a: losses.taylor(*a, hessian="exact"), block_size=1)
    return cases


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="width 1/8")
    parser.add_argument("--exact", action="store_true", help="the exact Hessian too, which takes longest")
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=float)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    options.width = options.width or (1 / 8 if options.quick else 1.0)
    print(
        f"MNIST networks, width {options.width:g}, d = {options.latent_dim}, batch {options.batch}, float32, "
        f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    medians = measure(options)
    base = next(iter(medians.values()))
    print(f"{'objective':<24}{'ms / step':>10}{'over beta_vae':>15}")
    for name, value in medians.items():
        print(f"{name:<24}{1e3 * value:>10.0f}{value / base:>15.1f}")
    return 0


def measure(options: argparse.Namespace) -> dict[str, float]:
    """The median seconds of a step of each objective."""
    x = torch.rand(options.batch, 1, 28, 28, device=options.device)
    cases = objectives(options)
    optimisers = {
        name: torch.optim.Adam([p for net in nets for p in net.parameters()])
        for name, (nets, _) in cases.items()
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(options.steps + 1):
        for name, (_, loss) in cases.items():
            start = time.perf_counter()
            optimisers[name].zero_grad(set_to_none=True)
            loss(x).total.mean().backward()
            optimisers[name].step()
            if options.device.startswith("cuda"):
                torch.cuda.synchronize()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
