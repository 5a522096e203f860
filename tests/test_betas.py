"""The page on conventions of β: every row of its tables, on random numbers."""

import re

import pytest
import torch
import torch.nn.functional as F
from reading import code, tables

from grae_helpers import likelihoods
from tools.project import ROOT

PAGE = ROOT / "book" / "betas.md"
NUMBERED = {row[0]: tuple(map(code, row[1:])) for row in tables(PAGE) if len(row) == 4 and all(map(code, row[1:]))}
SQUARED = [row for number, row in NUMBERED.items() if number.isdigit()]
BERNOULLI = [row for number, row in NUMBERED.items() if number.startswith("B")]
IDIOMS = [(code(row[0]), row[1]) for row in tables(PAGE) if len(row) == 2 and code(row[0])]
D, d, BATCH = 6, 4, 5

seeds = pytest.mark.parametrize("seed", [0, 1])


def settings(seed):
    """Random numbers, in double precision, and a generator for more of them."""
    random = torch.Generator().manual_seed(seed)
    beta, v, s = (torch.rand(3, generator=random, dtype=torch.float64) + 0.1).tolist()
    return random, {"D": D, "d": d, "beta": beta, "v": v, "s": s, "F": F}


def draw(random, *shape):
    return torch.randn(shape, generator=random, dtype=torch.float64)


def test_the_tables_are_read():
    numbers = [str(n + 1) for n in range(10)] + [f"B{n + 1}" for n in range(4)]
    assert list(NUMBERED) == numbers and len(IDIOMS) == 8


def same_model(row, seed, x, reconstruction):
    """The row's objective and the book's differ by the stated factor and a constant: changes show the factor."""
    objective, weight, factor = row
    random, names = settings(seed)
    w = eval(weight, dict(names))
    ours, theirs = [], []
    for _ in range(3):
        g, kl = draw(random, D), draw(random).square()
        theirs.append(eval(objective, names | {"x": x, "g": g, "kl": kl, "w": w}))
        ours.append(reconstruction(x, g) + names["beta"] * kl)
    expected = eval(factor, dict(names)) * torch.stack(ours).diff()
    assert torch.allclose(torch.stack(theirs).diff(), expected, rtol=1e-12)


@pytest.mark.parametrize("row", SQUARED, ids=lambda row: row[0])
@seeds
def test_a_conversion_of_beta_gives_the_same_model(row, seed):
    same_model(row, seed, draw(torch.Generator().manual_seed(seed + 10), D), lambda x, g: ((x - g) ** 2).sum() / 2)


@pytest.mark.parametrize("row", BERNOULLI, ids=lambda row: row[0])
@seeds
def test_a_conversion_of_beta_for_bernoulli_pixels_is_the_package_s_model(row, seed):
    x = (draw(torch.Generator().manual_seed(seed + 10), D) > 0).double()
    same_model(row, seed, x, lambda x, g: -likelihoods.Bernoulli().log_prob(x[None], g[None])[0])


def over_last_axis(loss):
    """As Keras means it: the mean over the last axis, and the target first."""
    return lambda target, output: loss(output, target, reduction="none").mean(-1)


KERAS = {
    "mean_squared_error": over_last_axis(F.mse_loss),
    "binary_crossentropy": lambda target, output: over_last_axis(F.binary_cross_entropy)(
        target[..., None], output[..., None]
    ),
}


@pytest.mark.parametrize(("idiom", "row"), IDIOMS)
def test_an_idiom_is_the_row_that_it_is_said_to_be(idiom, row):
    """A batch's objective is the row's, averaged or summed over the batch: a factor of 1 or of the batch's size."""
    random, names = settings(0)
    X, G, KL = (draw(random, BATCH, D) > 0).double(), draw(random, BATCH, D), draw(random, BATCH, d).square()
    given = names | KERAS | {"binary_cross_entropy": F.binary_cross_entropy, "X": X, "G": G, "KL": KL, "w": 0.7}
    objective = NUMBERED[row][0]
    each = [
        eval(objective, names | {"x": x, "g": g, "kl": kl.sum(), "w": 0.7}) for x, g, kl in zip(X, G, KL, strict=True)
    ]
    total = 1 if 'reduction="sum"' in idiom else BATCH
    assert torch.allclose(eval(idiom, given), torch.stack(each).sum() / total)


def test_the_multiplier_of_taming_vaes_and_its_fixed_points_differ_by_a_factor_of_two():
    """Its Eq. 5 with C = ‖x − g‖² − κ²: weights e^(−λC), which are Eq. 19's at λ = 1/2β and not at 1/β."""
    beta, errors = 0.3, torch.tensor([0.1, 0.5, 1.2], dtype=torch.float64)
    printed = torch.softmax(-errors / (2 * beta), 0)
    assert torch.allclose(torch.softmax(-(errors - 0.04) / (2 * beta), 0), printed)
    assert not torch.allclose(torch.softmax(-(errors - 0.04) / beta, 0), printed, rtol=0.1)


def test_the_example_at_the_top_is_computed_right():
    beta, weight, number, pixels = re.search(
        r"A β of (\S+) and a weight of (\S+) are .* and the other the (\w+)'s and the images have (\d+)",
        PAGE.read_text("utf8"),
    ).groups()
    assert number == "third"
    assert float(weight) == round(eval(NUMBERED["3"][1], {"beta": float(beta), "D": int(pixels)}), 4)
