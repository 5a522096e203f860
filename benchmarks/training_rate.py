"""How fast training goes: 20,000 MNIST iterations, CelebA's networks against the matrix rate, models side by side.

Through `training.fit` and `training.fit_many`, on random images, at the device's best settings unless told otherwise
(bfloat16, channels last and a CUDA graph on a GPU). Bounds, on an H200: a β-VAE's 20,000 iterations of App. D (batch
128) in 60 s; CelebA's networks at 40 % of the bfloat16 rate of a large matrix product, measured in the same run. The
operations of a step are three times those of a forward pass; Adam, normalisation and activations count as nothing.

    python benchmarks/training_rate.py --device cuda
    python benchmarks/training_rate.py                 # a CPU: small networks and few steps, to see that it runs
"""

import argparse
import statistics
import sys
import time

import torch
from step_cost import BETA, LIKELIHOOD, NETWORKS, completed, finish, header, operations, parser

from grae_helpers import autoencoders, runtime, training

ITERATIONS, SECONDS, SHARE = 20_000, 60.0, 0.4


def loop(options: argparse.Namespace) -> dict:
    return {
        "device": options.device, "precision": options.precision, "channels_last": options.channels_last,
        "step": options.step, "log_every": -1,
    }  # fmt: skip


def images(name: str, batch: int) -> torch.Tensor:
    return torch.randint(0, 256, (16 * batch, *NETWORKS[name][0]), dtype=torch.uint8)


def seconds_per_step(objective: str, name: str, options: argparse.Namespace) -> float:
    """Of `training.fit`, from two runs of different lengths: what a run costs once, such as a capture, cancels."""
    d, batch, found = NETWORKS[name][1], options.batches[name], []
    for steps in (options.steps, 4 * options.steps):
        history = autoencoders.fit(
            objective, images(name, batch), LIKELIHOOD, beta=BETA, latent_dim=d, width=options.width, steps=steps,
            batch_size=batch, **loop(options),
        )[2]  # fmt: skip
        found.append(float(history["seconds"]))
    return (found[1] - found[0]) / (3 * options.steps)


def matrix_rate(options: argparse.Namespace, size: int) -> float:
    """Operations per second of a large bfloat16 matrix product: the best of a few."""
    a = torch.randn(size, size, device=options.device, dtype=torch.bfloat16)
    times = []
    for _ in range(10):
        finish(options.device)
        start = time.perf_counter()
        for _ in range(5):
            a @ a
        finish(options.device)
        times.append((time.perf_counter() - start) / 5)
    return 2 * size**3 / min(times)


def mnist_iterations(options: argparse.Namespace) -> bool:
    print(f"MNIST's networks, batch {options.batches['mnist']}")
    print(f"{'':<16}{'iterations / s':>16}{f's for {ITERATIONS}':>14}")
    seconds = {name: seconds_per_step(name, "mnist", options) for name in ("beta_vae", "grae_approx", "rae_gradient")}
    for name, value in seconds.items():
        print(f"{name:<16}{1 / value:>16.1f}{ITERATIONS * value:>14.1f}")
    met = ITERATIONS * seconds["beta_vae"] <= SECONDS
    print(f"bound, on an H200: a β-VAE in {SECONDS:g} s: {'met' if met else 'MISSED'}\n")
    return met


def celeba_share(options: argparse.Namespace, size: int) -> bool:
    encoder, decoder = operations("celeba", options)
    batch, rate = options.batches["celeba"], matrix_rate(options, size)
    costs = {"beta_vae": 3 * (encoder + decoder), "grae_approx": 3 * (encoder + 2 * decoder)}
    print(f"CelebA's networks, batch {batch}; bfloat16 matrix rate {rate / 1e12:.2f} TFLOP/s, {size} × {size}")
    shares = {}
    for name, cost in costs.items():
        value = seconds_per_step(name, "celeba", options)
        achieved = batch * cost / value
        shares[name] = achieved / rate
        print(
            f"{name:<16}{1 / value:>10.1f} iterations / s{achieved / 1e12:>10.2f} TFLOP/s{shares[name]:>8.0%} of it"
        )
    met = shares["beta_vae"] >= SHARE
    print(f"bound, on a GPU: a β-VAE at {SHARE:.0%} or better: {'met' if met else 'MISSED'}\n")
    return met


def side_by_side(options: argparse.Namespace) -> None:
    """Several small models by `fit_many`, and the same ones one after another."""
    shape, d, _ = NETWORKS["mnist"]
    pixels = images("mnist", options.batches["mnist"])

    def runs() -> list[dict]:
        found = []
        for seed in range(options.models):
            networks = autoencoders.build("beta_vae", shape, d, width=options.width / 8, seed=seed)
            objective = autoencoders.loss("beta_vae", *networks, LIKELIHOOD, BETA)
            found.append({
                "objective": objective, "modules": networks, "images": pixels, "steps": 4 * options.steps,
                "batch_size": options.batches["mnist"], "seed": seed, **loop(options),
            })  # fmt: skip
        return found

    times: dict[str, list[float]] = {"one after another": [], "side by side": []}
    for _ in range(3):
        for name in times:
            made = runs()
            finish(options.device)
            start = time.perf_counter()
            if name == "side by side":
                training.fit_many(made)
            else:
                for run in made:
                    training.fit(**run)
            finish(options.device)
            times[name].append(time.perf_counter() - start)
    apart, together = (statistics.median(values) for values in times.values())
    print(f"{options.models} MNIST networks of 1/8 of the width, {4 * options.steps} steps each, captures included")
    print(f"one after another {apart:.1f} s, side by side {together:.1f} s: {apart / together:.2f} times as fast")


def main(arguments: list[str]) -> int:
    accepted = parser(__doc__)
    accepted.add_argument("--models", type=int, default=8, help="that are trained side by side")
    gpu = runtime.device(accepted.parse_args(arguments).device).type == "cuda"
    best = {"precision": "bfloat16", "step": "graph", "channels_last": True}
    accepted.set_defaults(**best if gpu else {"quick": True, "models": 2})
    options = completed(accepted.parse_args(arguments))
    options.steps = max(options.steps, 300) if gpu else options.steps
    print(header(options))
    met = [mnist_iterations(options), celeba_share(options, 8192 if gpu else 512)]
    side_by_side(options)
    if not gpu:
        print("The bounds are for a GPU: small networks and few steps only show that it runs.")
    return 0 if not gpu or all(met) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
