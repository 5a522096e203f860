"""What a training step of GRAE≈ costs over a β-VAE's, on the paper's networks, from one run.

A step is a batch by index, encoder, objective, backward pass and Adam, as `training.fit` makes it. Medians, the
objectives taking turns; on a CPU of the process's own time, over its threads, so that other programs do not count. A
tangent is one more pass through the decoder, so that the floor is (3E + 6D)/(3E + 3D), from the counted operations of
encoder and decoder. Bounds: 1.15 times the floor on a GPU and 1.3 on a CPU; for the regulariser on a quarter of the
batch, 1.25 β-VAE steps.

Beside it, where steps are eager and in float32: the same regulariser by double backward, by plain torch.func.jvp and
by finite differences, with what they make of its value, and the exact log-determinant (on a small batch, for each
sample). Memory, in a process of its own for each case, is what a step adds at its peak to weights, moments and data.

    python benchmarks/step_cost.py                        # a CPU: width 1/4, small batches
    python benchmarks/step_cost.py --device cuda          # the paper's width, batch 128
    python benchmarks/step_cost.py --device cuda --precision bfloat16 --channels-last --step graph
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from jacobian import MIB, resident
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from grae_helpers import autoencoders, jacobians, likelihoods, regularizers, runtime, stepping
from grae_helpers.losses import LossTerms

BETA, FRACTION, DIFFERENCE, LIKELIHOOD = 0.1, 0.25, 1e-2, likelihoods.Gaussian()
NETWORKS = {"mnist": ((1, 28, 28), 20, 60_000), "celeba": ((3, 64, 64), 128, 162_770)}  # shape, d, training images
CASES = {
    "β-VAE": ("beta_vae", {}),
    "GRAE≈": ("grae_approx", {}),
    "GRAE≈ on a quarter": ("grae_approx", {"regularizer_fraction": FRACTION}),
    "RAE, gradient penalty": ("rae_gradient", {}),
}
EXACT = "exact log-determinant"
WARM = {"eager": 2, "compiled": 2, "graph": stepping.WARM_UP + 2}  # turns that do not count


def double_backward(decoder: nn.Module, z: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Jᵀu is linear in u: its derivative in u is J, and reverse mode alone does."""
    g = decoder(z)
    u = torch.zeros_like(g, requires_grad=True)
    (back,) = torch.autograd.grad(g, z, u, create_graph=True)
    (pushed,) = torch.autograd.grad(back, u, direction, create_graph=True)
    return g, pushed


def plain_jvp(decoder: nn.Module, z: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """On copies of the buffers: batch normalisation may not change its own inside a transform."""

    def run(z: Tensor) -> Tensor:
        return functional_call(decoder, {name: buffer.clone() for name, buffer in decoder.named_buffers()}, (z,))

    return torch.func.jvp(run, (z,), (direction,))


def finite_differences(decoder: nn.Module, z: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    g = decoder(z)
    return g, (decoder(z + DIFFERENCE * direction) - g) / DIFFERENCE


def ours(decoder: nn.Module, z: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    return jacobians.forward_and_push(decoder, z, direction[:, :, None])


ROUTES = {
    "double backward": double_backward,
    "plain torch.func.jvp": plain_jvp,
    "finite differences": finite_differences,
}


def regularizer(route: Callable, decoder: nn.Module, code: Tensor, seed: int | None = None) -> tuple[Tensor, Tensor]:
    """g and Eq. 14 on one column for each sample, by one of the routes."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    direction = regularizers.sampled_columns(code, len(code), 1, generator)[:, :, 0]
    g, pushed = route(decoder, code, direction)
    column = pushed.reshape(len(code), -1, 1).float()
    return g, regularizers.hadamard(column, torch.ones_like(column[:, :, 0]), code.shape[1], BETA)


def by_route(route: Callable, encoder: nn.Module, decoder: nn.Module, x: Tensor) -> LossTerms:
    """GRAE≈ with its column by one of the routes."""
    code = encoder(x)
    g, paid = regularizer(route, decoder, code)
    return LossTerms(-LIKELIHOOD.log_prob(x, g.float()), BETA / 2 * code.square().sum(1), paid)


def build(objective: str, name: str, options: argparse.Namespace) -> list[nn.Module]:
    shape, d, _ = NETWORKS[name]
    layout = {"memory_format": torch.channels_last} if options.channels_last else {}
    networks = autoencoders.build(objective, shape, d, width=options.width)
    return [network.to(device=options.device, **layout).train() for network in networks]


def step_of(case: str, name: str, options: argparse.Namespace, batch: int | None = None) -> Callable[..., object]:
    """A function that makes one training step of a case, on the first n samples if asked."""
    objective, extra = CASES.get(case, ("grae" if case == EXACT else "grae_approx", {}))
    networks, mode = build(objective, name, options), options.step if case in CASES else "eager"
    loss = autoencoders.loss(objective, *networks, LIKELIHOOD, BETA, **extra)
    if case in ROUTES:
        loss = partial(by_route, ROUTES[case], *networks)
    shape, n = NETWORKS[name][0], batch or options.batches[name]
    images = torch.randint(0, 256, (4 * n, *shape), dtype=torch.uint8, device=options.device)

    def batch_of(index: Tensor) -> Tensor:
        x = stepping.as_float(images[index])
        return x.contiguous(memory_format=torch.channels_last) if options.channels_last else x

    where = torch.device(options.device)
    optimiser = stepping.adam(networks, 1e-3, where, mode)
    step = stepping.stepper(loss, batch_of, optimiser, mode=mode, precision=options.precision, device=where)
    index = torch.arange(n, device=options.device)
    return lambda n=n: step(index[:n])


def finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def medians(
    steps: dict[str, Callable[[], object]], options: argparse.Namespace, few: bool = False
) -> dict[str, float]:
    """The median seconds of each, taking turns; the first turns, which compile, capture and warm up, do not count."""
    warm, timed = (1, max(1, options.steps // 5)) if few else (WARM[options.step], options.steps)
    clock = time.perf_counter if options.device.startswith("cuda") else time.process_time
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(warm + timed):
        for name, step in steps.items():
            finish(options.device)
            start = clock()
            step()
            finish(options.device)
            if turn >= warm:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def operations(name: str, options: argparse.Namespace) -> tuple[float, float]:
    """E and D: the operations of a forward pass of encoder and decoder, for each sample."""
    shape, d, _ = NETWORKS[name]
    counts = []
    for network, x in zip(
        build("grae_approx", name, options), (torch.zeros(2, *shape), torch.zeros(2, d)), strict=True
    ):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(x.to(options.device))
        counts.append(counter.get_total_flops() / 2)
    return counts[0], counts[1]


def speed_table(name: str, options: argparse.Namespace) -> tuple[bool, dict[str, float]]:
    e, d = operations(name, options)
    floor = {"GRAE≈": 1 + d / (e + d), "GRAE≈ on a quarter": 1 + FRACTION * d / (e + d)}
    floor["RAE, gradient penalty"] = floor["GRAE≈"]
    plain = options.step == "eager" and options.precision == "float32"
    cases = [*CASES, *(ROUTES if plain else [])]
    found = medians({case: step_of(case, name, options) for case in cases}, options)
    base, slack = found["β-VAE"], 1.15 if options.device.startswith("cuda") else 1.3
    print(
        f"{name}: d = {NETWORKS[name][1]}, batch {options.batches[name]}; decoder {d / (e + d):.0%} of the operations"
    )
    print(f"{'':<26}{'ms / step':>11}{'over β-VAE':>12}{'floor':>8}{'over floor':>12}")
    for case, value in found.items():
        low = floor.get(case)
        text = "" if low is None else f"{low:>8.2f}{value / base / low:>12.2f}"
        print(f"{case:<26}{1e3 * value:>11.1f}{value / base:>12.2f}{text}")
    bounds = {"GRAE≈": slack * floor["GRAE≈"], "GRAE≈ on a quarter": 1.25}
    met = [found[case] / base <= bound for case, bound in bounds.items()]
    for (case, bound), good in zip(bounds.items(), met, strict=True):
        print(f"{case}: at most {bound:.2f} β-VAE steps: {'met' if good else 'MISSED'}")
    return all(met), found


def exact_line(name: str, base: float, options: argparse.Namespace) -> None:
    """The exact objective makes a tangent of every column: it is timed on a few samples, eagerly, and scaled."""
    found = medians({EXACT: step_of(EXACT, name, options, options.exact_batch)}, options, few=True)[EXACT]
    ratio = found / options.exact_batch * options.batches[name] / base
    print(f"{EXACT}, a batch of {options.exact_batch}: {ratio:.0f} times a β-VAE's time for each sample")


def route_errors(name: str, options: argparse.Namespace) -> None:
    """The regulariser's relative error by each route, in single precision against ours in double."""
    _, d, _ = NETWORKS[name]
    print(f"{'error of the regulariser':<26}{'eval mode':>11}{'train mode':>12}  (root mean square, relative)")
    shown = {"ours": ours, **ROUTES}
    errors = {route: [] for route in shown}
    for train in (False, True):
        code = torch.randn(options.batches[name], d, device=options.device)
        exact = regularizer(ours, build("grae_approx", name, options)[1].double().train(train), code.double(), 0)[1]
        for route, function in shown.items():
            decoder = build("grae_approx", name, options)[1].train(train)
            found = regularizer(function, decoder, code.clone().requires_grad_(), 0)[1].detach()
            errors[route].append(
                ((found - exact.detach()).square().mean() / exact.detach().square().mean()).sqrt().item()
            )
    for route, (still, moving) in errors.items():
        print(f"{route:<26}{still:>11.1e}{moving:>12.1e}")
    print("In train mode the other routes but ours let the batch's statistics move with the tangents.\n")


def peak(case: str, name: str, options: argparse.Namespace) -> int:
    """Bytes that an eager step needs at its peak above what stays between steps, in this fresh process."""
    options.step = "eager"
    step = step_of(case, name, options)
    step(2)  # makes Adam's moments
    finish(options.device)
    if options.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = resident("VmRSS")
    step()
    return resident("VmHWM") - before


def memory_table(name: str, arguments: list[str], options: argparse.Namespace) -> None:
    shape, _, n = NETWORKS[name]
    count = sum(p.numel() for network in build("beta_vae", name, options) for p in network.parameters())
    print(f"data, {n} images as uint8: {n * torch.Size(shape).numel() / MIB:.0f} MiB")
    print(f"weights, gradients and Adam's moments, {count / 1e6:.1f} million each: {16 * count / MIB:.0f} MiB")
    for case in ("β-VAE", "GRAE≈", "GRAE≈ on a quarter"):
        command = [sys.executable, __file__, *arguments, "--peak", f"{name}:{case}"]
        found = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        print(f"{case + ', a step at its peak:':<40}{found / MIB:>8.0f} MiB")
    print()


def parser(doc: str | None) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--quick", action="store_true", help="width 1/16, batches of 8, 3 steps; bounds do not count")
    found.add_argument("--network", choices=list(NETWORKS), action="append", help="default: both")
    found.add_argument("--device", default="cpu")
    found.add_argument("--width", type=float, help="of the paper's: default 1 on a GPU, 1/4 on a CPU")
    found.add_argument("--batch", type=int, help="default 128 on a GPU; 32 and 8 on a CPU")
    found.add_argument("--steps", type=int, help="that are timed: default 30 on a GPU, 5 on a CPU")
    found.add_argument("--precision", choices=runtime.PRECISIONS, default="float32")
    found.add_argument("--channels-last", action="store_true")
    found.add_argument("--step", choices=runtime.STEPS, default="eager")
    found.add_argument("--exact-batch", type=int, default=1, help="samples for the exact log-determinant; 0: none")
    found.add_argument("--peak", help=argparse.SUPPRESS)
    return found


def completed(options: argparse.Namespace) -> argparse.Namespace:
    """The options with the sizes that the device calls for."""
    gpu = runtime.device(options.device).type == "cuda"
    if options.step == "graph" and not gpu:
        raise SystemExit("--step graph needs --device cuda")
    options.width = options.width or (1 / 16 if options.quick else 1.0 if gpu else 1 / 4)
    options.steps = options.steps or (3 if options.quick else 30 if gpu else 5)
    sizes = {"mnist": 8, "celeba": 8} if options.quick else {"mnist": 128 if gpu else 32, "celeba": 128 if gpu else 8}
    options.batches = {name: options.batch or size for name, size in sizes.items()}
    return options


def header(options: argparse.Namespace) -> str:
    where = runtime.device_name(runtime.device(options.device))
    layout = ", channels last" if options.channels_last else ""
    return (
        f"{where}, width {options.width:g}, {options.precision}{layout}, {options.step}, torch {torch.__version__}\n"
    )


def main(arguments: list[str]) -> int:
    options = completed(parser(__doc__).parse_args(arguments))
    if options.peak:
        name, case = options.peak.split(":")
        print(peak(case, name, options))
        return 0
    print(header(options))
    met = []
    for name in options.network or NETWORKS:
        good, found = speed_table(name, options)
        met.append(good)
        if options.exact_batch and options.step == "eager":
            exact_line(name, found["β-VAE"], options)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            route_errors(name, options)
        memory_table(name, arguments, options)
    if options.quick:
        print("The bounds are for the default sizes and up: what is small costs what Python does.")
    return 0 if options.quick or all(met) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
