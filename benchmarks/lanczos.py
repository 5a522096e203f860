"""Bias and standard deviation of stochastic Lanczos quadrature for log|I + JᵀJ/β|, beside Eq. 14's sampled columns.

At one code, in per cent of the exact value, against the number of passes through the decoder that a value costs:
k + 1 for k columns; two for each Lanczos step of each probe, and three before (two to run the decoder, one to
differentiate it). The mean of Eq. 14 is Hadamard's bound: its bias stays, however many columns are drawn, unless the
columns are orthogonal.

The Jacobians: App. D's CelebA decoder at small width, untrained, in eval mode, with a β far below its JᵀJ; and linear
decoders with singular values spread over four decades, whose right singular vectors are the axes (orthogonal columns)
or a random basis.

    python benchmarks/lanczos.py            # d = 128
    python benchmarks/lanczos.py --quick    # d = 16
"""

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from grae_helpers import likelihoods, losses, models, regularizers

LIKELIHOOD = likelihoods.Gaussian()


def spread(d: int, rotated: bool) -> nn.Module:
    """A linear decoder of 2d pixels with singular values from 10 to 0.001."""
    decoder = nn.Linear(d, 2 * d, bias=False)
    decoder.weight.data = torch.linalg.qr(torch.randn(2 * d, d)).Q * torch.logspace(1, -3, d)
    if rotated:
        decoder.weight.data = decoder.weight.data @ torch.linalg.qr(torch.randn(d, d)).Q
    return decoder


def estimators(d: int, beta: float) -> dict[str, tuple[int, Callable[..., Tensor]]]:
    """Each estimator of the log-determinant of (decoder, x, z), with the passes that it costs."""

    def columns(k: int) -> Callable[..., Tensor]:
        return lambda decoder, x, z: (
            losses.grae_approx(x, z, decoder, LIKELIHOOD, beta, n_columns=k).decoder * 2 / beta
        )

    def quadrature(m: int, probes: int) -> Callable[..., Tensor]:
        options = {"n_steps": m, "n_probes": probes}
        return lambda decoder, x, z: regularizers.log_det_lanczos(decoder, LIKELIHOOD, x, z, beta, **options)

    found = {f"Eq. 14, k = {k}": (k + 1, columns(k)) for k in (1, 8, 12, 22, 42, d) if k <= d}
    cases = [(m, probes) for m, probes in ((3, 1), (5, 1), (10, 1), (5, 2), (20, 1), (10, 2), (d, 1)) if m <= d]
    return found | {
        f"Lanczos, {m} steps, {p} probe{'s'[: p > 1]}": (2 * m * p + 3, quadrature(m, p)) for m, p in cases
    }


@torch.no_grad()
def table(title: str, decoder: nn.Module, d: int, beta: float, draws: int) -> None:
    decoder.eval()
    z = torch.randn(1, d)
    x = torch.zeros_like(decoder(z))
    exact = losses.grae(x, z, decoder, LIKELIHOOD, beta).decoder.item() * 2 / beta
    print(f"{title}: exact {exact:.1f} nats, d = {d}, β = {beta:g}, {draws} draws")
    print(f"{'':<30}{'passes':>8}{'bias %':>10}{'sd %':>8}{'rms error %':>13}")
    rows = []
    for name, (passes, estimate) in estimators(d, beta).items():
        torch.manual_seed(1)
        found = torch.cat(
            [estimate(decoder, x.repeat(n, *[1] * (x.ndim - 1)), z.repeat(n, 1)) for n in chunks(draws)]
        )
        bias, deviation = found.double().mean().item() / exact - 1, found.double().std().item() / exact
        rows.append((passes, name, bias, deviation))
    for passes, name, bias, deviation in sorted(rows):
        error = (bias**2 + deviation**2) ** 0.5
        print(f"{name:<30}{passes:>8}{100 * bias:>10.2f}{100 * deviation:>8.2f}{100 * error:>13.2f}")
    print()


def chunks(draws: int, size: int = 25) -> list[int]:
    return [min(size, draws - start) for start in range(0, draws, size)]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="d = 16 and 40 draws")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--width", type=float, default=1 / 32)
    options = parser.parse_args(arguments)
    d, draws = (16, 40) if options.quick else (128, options.draws)
    torch.manual_seed(0)
    table("CelebA decoder", models.celeba_decoder(d, width=options.width), d, 1e-5, draws)
    table("orthogonal columns", spread(d, rotated=False), d, 0.1, draws)
    table("rotated", spread(d, rotated=True), d, 0.1, draws)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
