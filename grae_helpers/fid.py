"""Distances between two sets of images, seen through a network's features: FID, FID∞, KID, precision and recall.

Which features is the first half of a measure's name: see `features`. Inception FIDs of other papers compare with ours
only where the whole `protocol` is the same.
"""

import importlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import accumulate, pairwise
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from grae_helpers import frechet, runtime
from grae_helpers.frechet import SingularCovariance, frechet_distance, moments  # noqa: F401 - part of this one

BLOCKS = 20  # of images, each left out once for a standard error
SUBSET = 1000  # images in a subset of KID, where there are as many
ROWS = 512  # of images whose distances to all others are held at a time


class Extrapolation(NamedTuple):
    """FID_N ≈ limit + slope/N at the sizes measured, with the limit's standard error."""

    sizes: tuple[int, ...]
    values: tuple[float, ...]
    limit: float
    standard_error: float
    slope: float


def distance(real: Tensor, generated: Tensor) -> float:
    """FID: the Fréchet distance of the Gaussians fitted to two tables of features (Heusel et al. 2017, §4).

    Biased upwards by about a constant over N, so compare at equal N only, or see `extrapolated`. Shapes: [n, D] and
    [m, D], n and m ≥ 2. Warns once (`SingularCovariance`) where either has D rows or fewer. Raises as `moments`.

    >>> x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    >>> distance(x, x.flip(0)) < 1e-6, round(distance(x, x + 1), 6)
    (True, 4.0)
    """
    tables = _tables(real, generated)
    frechet.warn_of_few(min(map(len, tables)), tables[0].shape[1])
    return _distance(*tables)


def extrapolated(
    real: Tensor, generated: Tensor, *, sizes: Sequence[int] | None = None, repeats: int = 4, seed: int = 0
) -> Extrapolation:
    """FID∞, where FID_N = FID∞ + slope/N meets 1/N = 0 (Chong & Forsyth 2020, Eq. 9), with its standard error.

    Both sets are cut at random to N, the length of the smaller. A size n is measured on all of the N/n disjoint
    blocks of both that a permutation gives, and that for `repeats` permutations: the means at all sizes share one
    sample, whose noise the slope (least squares, weighted by n, as the means' variances about the line ask for) then
    hardly sees. Default sizes: N/5 … N/2, N; from N/3 if N < 20 D, where the line would bend; N/2 and N if N ≤ 3 D.
    The standard error is of the choice of the N images, by a jackknife of FID_N over twenty disjoint blocks of both
    sets, and of the permutations; it errs to the large side where both sets have one law. Warns where the smallest
    size is D or less. Raises as `distance`, and ValueError for fewer than two sizes in 2 … N, or N < 6.

    >>> x, y = torch.randn(2, 400, 3, generator=torch.Generator().manual_seed(0))
    >>> found = extrapolated(x, y + 1)  # the truth is 3
    >>> abs(found.limit - 3) < 3 * found.standard_error, found.sizes
    (True, (80, 100, 133, 200, 400))
    """
    tables, sizes = _tables(real, generated), _sizes(real, generated, sizes)
    runtime.integer("repeats", repeats, 2)
    frechet.warn_of_few(sizes[0], tables[0].shape[1], "the smallest N to extrapolate from")
    return _extrapolated(tables, sizes, repeats, seed)


def kid(
    real: Tensor, generated: Tensor, *, subsets: int = 100, subset_size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """KID and its standard error: the squared MMD of the kernel (xᵀy/D + 1)³ (Bińkowski et al. 2018, §4).

    The mean of torch-fidelity's unbiased estimate over random subsets of both sets (default size: 1,000, or the
    smaller set's length), which may be a little below 0. The spread over subsets that is often quoted is another
    number: of fewer images, and vanishing as subsets come to overlap. The error here is of the choice of all images,
    by a jackknife of the estimate on whole sets over twenty disjoint blocks, and of the subsets; it errs to the large
    side where both sets have one law. Raises as `distance`, and ValueError for a subset larger than a set, or sets of
    fewer than four.

    >>> x, y = torch.randn(2, 300, 4, generator=torch.Generator().manual_seed(0))
    >>> (same, error), (other, _) = kid(x, y), kid(x, y + 1)
    >>> abs(same) < 3 * error, other > 10 * error
    (True, True)
    """
    tables, size = _tables(real, generated, 4), _subset_size(real, generated, subset_size)
    runtime.integer("subsets", subsets, 1)
    if size == max(map(len, tables)):
        subsets = 1  # all are the whole
    found = _fidelity("metric_kid").kid_features_to_metric(
        *(table.double() for table in tables),
        kid_subsets=subsets, kid_subset_size=size, rng_seed=seed, verbose=False,
    )  # fmt: skip
    mean, spread = (found[f"kernel_inception_distance_{name}"] for name in ("mean", "std"))
    return mean, float(np.hypot(_kid_jackknife(*tables, seed), spread / np.sqrt(subsets)))


def precision_recall(real: Tensor, generated: Tensor, *, neighbours: int = 3) -> tuple[float, float]:
    """What FID hides: the shares of generated images near real ones, and of real images near generated ones.

    Near is within the distance of some image of the other set to its k-th neighbour there (Kynkäänniemi et al. 2019,
    Eqs. 1 and 2; torch-fidelity's). Samples away from the data cost precision, modes without samples recall. Both
    depend on N, so compare at equal N. Raises as `distance`, and ValueError for sets of k images or fewer.

    >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    >>> precision_recall(x, x), precision_recall(x, x + 100)
    ((1.0, 1.0), (0.0, 0.0))
    """
    runtime.integer("neighbours", neighbours, 1)
    tables = _tables(real, generated, neighbours + 1)
    centre = tables[0].double().mean(0)  # distances from products of coordinates keep more digits about 0
    most = max(float((table - centre).abs().max()) for table in tables)
    unit = 2.0 ** (np.frexp(most)[1] - 1)  # the squares of single precision stay finite, and all digits the same
    centred = [((table - centre) / unit).to(torch.promote_types(table.dtype, torch.float32)) for table in tables]
    found = _fidelity("metric_prc").prc_features_to_metric(
        *reversed(centred), prc_neighborhood=neighbours, prc_batch_size=ROWS, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    return found["precision"], found["recall"]


def measure(real: Tensor, generated: Tensor, *, seed: int = 0) -> dict[str, float]:
    """Every measure of the module on two tables of features, as a row of a table.

    Keys: fid, fid_infinity, fid_infinity_se, kid, kid_se, precision, recall. At the functions' defaults; N ≥ 6.
    Raises and warns as they do.

    >>> x, y = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(0))
    >>> list(measure(x, y))
    ['fid', 'fid_infinity', 'fid_infinity_se', 'kid', 'kid_se', 'precision', 'recall']
    """
    line = extrapolated(real, generated, seed=seed)
    found = {"fid": _distance(*_tables(real, generated))}
    found |= {"fid_infinity": line.limit, "fid_infinity_se": line.standard_error}
    found["kid"], found["kid_se"] = kid(real, generated, seed=seed)
    found["precision"], found["recall"] = precision_recall(real, generated)
    return found


def protocol(
    extractor: object, *, real: str, generated: str, n_real: int, n_generated: int, split: str, preparation: str,
    seeds: int | Mapping[str, int], **others: str,
) -> dict[str, str]:  # fmt: skip
    """What `measure` depends on, to be printed beside its numbers: a table's rows.

    `extractor` is a `features.Extractor`, whose title, dimension and description are shown; `preparation` says how
    images are cropped, resized and quantised; `seeds` is one for all or names each; `others` are further rows. Raises
    ValueError for sets of fewer than two.

    >>> from types import SimpleNamespace as Stub
    >>> net = Stub(title="MNIST network", dimension=64, description={"weights": "features_mnist"})
    >>> rows = protocol(net, real="mnist", generated="β-VAE", n_real=500, n_generated=400, split="test",
    ...                 preparation="28×28, 8 bits", seeds={"model": 1, "latents": 2})
    >>> rows["features"], rows["N"], rows["seeds"]
    ('MNIST network, D = 64', '500 real, 400 generated', 'model 1, latents 2')
    """
    for name, n in (("n_real", n_real), ("n_generated", n_generated)):
        runtime.integer(name, n, 2)
    sizes = f"{n_real:,} real, {n_generated:,} generated"
    smaller = min(n_real, n_generated, SUBSET)
    subsets = "on whole sets" if smaller == max(n_real, n_generated) else f"100 subsets of {smaller:,}"
    named = {"all": seeds} if isinstance(seeds, int) else seeds
    return {
        "real images": real, "split": split, "generated images": generated, "N": sizes, "preparation": preparation,
        "features": f"{extractor.title}, D = {extractor.dimension}", **extractor.description,
        "FID": "covariances over N − 1; FID∞: a line in 1/N through disjoint blocks; its error: a jackknife",
        "KID": f"cubic kernel, {subsets}; its error: a jackknife over {BLOCKS} blocks",
        "precision and recall": "3 neighbours", **others,
        "seeds": ", ".join(f"{name} {seed}" for name, seed in named.items()),
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "torch-fidelity", "numpy")),
    }  # fmt: skip


def _tables(real: Tensor, generated: Tensor, least: int = 2) -> list[Tensor]:
    tables = [frechet.table("real", real).cpu(), frechet.table("generated", generated).cpu()]
    shapes = [list(table.shape) for table in tables]
    if shapes[0][1] != shapes[1][1] or min(map(len, tables)) < least:
        raise ValueError(f"real and generated: expected [n, D] and [m, D], n and m ≥ {least}, got {shapes}")
    return tables


def _distance(real: Tensor, generated: Tensor) -> float:
    return frechet.distance_of_sums(frechet.summed([real]), frechet.summed([generated]))


def _sizes(real: Tensor, generated: Tensor, sizes: Sequence[int] | None) -> list[int]:
    n, d = min(len(real), len(generated)), real.shape[1]
    if sizes is None:
        parts = 5 if n >= 20 * d else 3 if n > 3 * d else 2
        sizes = [n // part for part in range(1, parts + 1)]
    for size in sizes:
        runtime.integer("sizes", size, 2)
    found = sorted(set(sizes))
    if len(found) < 2 or found[-1] > n or n < 6:
        raise ValueError(f"sizes: expected two or more different ones from 2 to N ≥ 6, got {found} of N = {n}")
    return found


def _extrapolated(tables: list[Tensor], sizes: list[int], repeats: int, seed: int) -> Extrapolation:
    generator = torch.Generator().manual_seed(seed)
    n = min(map(len, tables))
    shuffled = [[table[torch.randperm(len(table), generator=generator)[:n]] for table in tables]]
    shuffled += [[t[torch.randperm(n, generator=generator)] for t in shuffled[0]] for _ in range(repeats - 1)]
    whole = _distance(*shuffled[0])  # in any order
    values = np.array([[whole if size == n else _mean_of_blocks(*pair, size) for size in sizes] for pair in shuffled])
    inverse, blocks = 1 / np.array(sizes), n // np.array(sizes)
    slopes, limits = np.polyfit(inverse, values.T, 1, w=np.sqrt(blocks) / inverse)
    error = np.hypot(_jackknife(*shuffled[0]), limits.std(ddof=1) / np.sqrt(repeats))
    means = tuple(values.mean(0).tolist())
    return Extrapolation(tuple(sizes), means, float(limits.mean()), float(error), float(slopes.mean()))


def _mean_of_blocks(real: Tensor, generated: Tensor, size: int) -> float:
    """The mean distance over all disjoint blocks of a size."""
    starts = range(0, len(real) - size + 1, size)
    return float(np.mean([_distance(real[i : i + size], generated[i : i + size]) for i in starts]))


def _jackknife(*tables: Tensor) -> float:
    """The standard error of FID_N, by leaving out each of twenty disjoint blocks of both sets."""
    n = len(tables[0])
    edges = np.linspace(0, n, min(BLOCKS, n // 2) + 1).astype(int).tolist()
    left = [
        frechet.distance_of_sums(*pair)
        for pair in zip(*(_all_but_one(table, edges) for table in tables), strict=True)
    ]
    return float(np.sqrt((len(left) - 1) * np.var(left)))


def _all_but_one(table: Tensor, edges: Sequence[int]) -> list[frechet.Sums]:
    """The sums over the table without its i-th block, for each i: of all before it and all after it."""
    blocks = [frechet.summed([table[i:j]]) for i, j in pairwise(edges)]
    before, after = (  # sums up to each block, and from each block on
        list(accumulate(blocks, frechet.Sums.plus)),
        list(accumulate(blocks[::-1], frechet.Sums.plus))[::-1],
    )
    middle = [first.plus(last) for first, last in zip(before, after[2:], strict=False)]
    return [after[1], *middle, before[-2]]


def _fidelity(name: str) -> ModuleType:
    runtime.torchvision()  # torch-fidelity imports it, and it may need help beside this torch
    return importlib.import_module(f"torch_fidelity.{name}")


def _subset_size(real: Tensor, generated: Tensor, size: int | None) -> int:
    n = min(len(real), len(generated))
    if size is None:
        return min(SUBSET, n)
    runtime.integer("subset_size", size, 2)
    if size > n:
        raise ValueError(f"subset_size: expected at most the {n} images of the smaller set, got {size}")
    return size


def _kid_jackknife(real: Tensor, generated: Tensor, seed: int) -> float:
    """The standard error of the unbiased MMD² by leaving out each of twenty blocks of both sets."""
    generator = torch.Generator().manual_seed(seed)
    tables = [table[torch.randperm(len(table), generator=generator)] for table in (real, generated)]
    blocks = min(BLOCKS, *(len(table) // 2 for table in tables))
    parts = [table.double().tensor_split(blocks) for table in tables]
    left = [torch.tensor([len(table) - len(part) for part in own]) for table, own in zip(tables, parts, strict=True)]
    within = [_left_out(_kernel_sums(own, own, True)) / (n * (n - 1)) for own, n in zip(parts, left, strict=True)]
    between = _left_out(_kernel_sums(*parts, False)) / (left[0] * left[1])
    return float(((blocks - 1) * (sum(within) - 2 * between).var(correction=0)).sqrt())


def _kernel_sums(x: Sequence[Tensor], y: Sequence[Tensor], same: bool) -> Tensor:
    """The sums of KID's kernel over pairs of blocks, [blocks, blocks]; of the same set without each image's own."""

    def kernel(inner: Tensor) -> Tensor:
        return (inner / x[0].shape[1] + 1).pow(3).sum()

    sums = torch.stack([torch.stack([kernel(a @ b.T) for b in y]) for a in x])
    return sums - torch.diag(torch.stack([kernel(a.square().sum(1)) for a in x])) if same else sums


def _left_out(sums: Tensor) -> Tensor:
    """What remains of a sum over pairs without each block's row and column, [blocks]."""
    return (sums.sum() - sums.sum(0) - sums.sum(1) + sums.diagonal()).cpu()
