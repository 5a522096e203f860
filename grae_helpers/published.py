"""What Kumar & Poole (2020) print about their experiments, and whether measured numbers bear it out.

The paper gives no numbers for its MNIST figures, so each statement is made a comparison that code can decide.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from grae_helpers import angles, posteriors

MNIST = {"steps": 20_000, "width": 1.0}
"""§7 and App. D: Adam iterations per model, channels relative to the printed ones."""

CELEBA = {"steps": 50_000, "width": 1.0, "latent_dim": 128}
"""§7 and App. D: Adam iterations per model, channels relative to the printed ones, d in all experiments."""

SAMPLE_BETAS = [0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0]
"""App. G: the values of β of the sampled faces; Table 1 shows 0.02, 0.06, 0.1, 0.4 and 0.8."""

FID = {"repeats": 5, "deviation": 1.0, "beta": 0.01}
FID_MODELS = {"beta_vae": "β-VAE", "grae_approx": "GRAE≈"}
"""Fig. 4, §7: runs per β, the bound on their standard deviations, the β from which samples are better; the models."""

TEST_IMAGES = 5_000
"""§7: the held-out images of Fig. 3."""

CONFIGURATIONS = (
    (0.4, 8, 2), (0.6, 8, 3), (0.2, 8, 2), (0.8, 20, 3), (1.0, 8, 2), (0.6, 12, 2), (0.4, 12, 3), (0.8, 16, 2),
)  # fmt: skip
"""(β, d, b) of Fig. 2 and 7; the last is ours, for d = 16, which App. D lists and no figure shows."""

UNIQUENESS = {
    "activations": ["identity", "tanh", "sigmoid", "elu"],
    "iterations": [100, 500, *range(1_000, 10_001, 1_000), 20_000],
    "repeats": 20,
    "long_repeats": 100,
    "long_repeats_unamortized": 100,
    "samples": 4_000,
    "samples_unamortized": 4_000,
    "noise": 0.05,
}
"""App. C: ν, the n of the schedule, trials for each n and for the two greatest, samples, standard deviation of ε."""


def trials(iterations: Sequence[int], repeats: int, long_repeats: int) -> list[int]:
    """The n of each trial of an experiment, the two greatest n with `long_repeats` trials: App. C has 420.

    >>> len(trials(UNIQUENESS["iterations"], 20, 100))
    420
    """
    long = sorted(iterations)[-2:]
    return [n for n in iterations for _ in range(long_repeats if n in long else repeats)]


def uniqueness_verdicts(study: Mapping[str, Mapping[str, np.ndarray]]) -> list[dict]:
    """§3.2, Fig. 1, 5, 6: "diagonal Σ encourages unique solution in terms of inferred latents as the ELBO increases".

    `study` maps "ν.family.(un)amortized" to `uniqueness.study`'s arrays. "mean field" and "full" are the circular
    standard deviations of θ − θ* over the trials of the two greatest n. The statement "holds" where Rayleigh's test
    finds the mean-field angles not uniform (p < 0.001) and less spread than at the least n, and does not find it of
    the full covariance's (p > 0.01 / k with k experiments: by chance, one of the k fails once in a hundred studies).
    """
    table, names = [], [name for name in study if ".mean_field." in name]
    for name in names:
        pair = {"mean field": study[name], "full": study[name.replace("mean_field", "full")]}
        found = {}
        for family, rows in pair.items():
            lengths, distance = rows["iterations"], angles.difference(rows["angle"], rows["own_angle"])
            known, long = np.isfinite(distance), np.unique(lengths)[-2:]
            last, first = (distance[known & np.isin(lengths, n)] for n in (long, lengths.min()))
            found[family] = (angles.spread(last), angles.uniformity(last), angles.spread(first))
        (spread, p, before), (spread_full, p_full, _) = found.values()
        holds = p < 1e-3 and spread < before and p_full > 0.01 / len(names)
        activation, _, inference = name.split(".")
        table.append({
            "ν": activation, "inference": inference, "mean field, least n": before, "mean field": spread, "p": p,
            "full": spread_full, "p (full)": p_full, "verdict": "holds" if holds else "not seen",
        })  # fmt: skip
    return table


def relative_structure(rows: Sequence[Mapping]) -> list[dict]:
    """Each block family under its own mask, relative to rotated latents, beside the full family ("control").

    `rows` are `geometry.block_structure`'s with "b" (the family's block size, None for full); 1 is a basis without
    meaning. "energy" and "price" are the family's ratios, "energy of full" and "price of full" the control's.

    >>> row = {"mask": 1, "energy": 0.1, "energy_rotated": 0.4, "price": 1.0, "price_rotated": 2.0}
    >>> relative_structure([row | {"b": 1}, row | {"b": None, "energy": 0.4}])[0]["energy of full"]
    1.0
    """
    found = {(row["b"], row["mask"]): row for row in rows}
    table = []
    for b in sorted({row["b"] for row in rows if row["b"]}):
        if (b, b) in found and (None, b) in found:
            line = {"posterior": posteriors.family_name(b)}
            for name in ("energy", "price"):
                for column, row in ((name, found[b, b]), (f"{name} of full", found[None, b])):
                    line[column] = row[name] / row[f"{name}_rotated"]
            table.append(line | {"price (nats)": found[b, b]["price"]})
    return table


def structure_verdicts(rows: Sequence[Mapping]) -> list[dict]:
    """§7, Fig. 2 and 7: "similar block diagonal structures" in Σ⁻¹ and JᵀJ, for each (β, d) and block family.

    "holds" where the family's relative off-block energy is below that of the full covariance under the same mask by
    more than two standard errors over the images ("± 2 s.e."; training runs vary by more), "not seen" where it is
    above by as much.
    """
    table = []
    for beta, d in dict.fromkeys((row["beta"], row["d"]) for row in rows):
        chosen = [row for row in rows if (row["beta"], row["d"]) == (beta, d)]
        errors = {(row["b"], row["mask"]): row["energy_error"] / row["energy_rotated"] for row in chosen}
        sizes = {posteriors.family_name(row["b"]): row["b"] for row in chosen}
        for line in relative_structure(chosen):
            b, difference = sizes[line["posterior"]], line["energy of full"] - line["energy"]
            bound = 2 * float(np.hypot(errors[b, b], errors[None, b]))
            verdict = "holds" if difference > bound else "not seen" if difference < -bound else "not distinguishable"
            numbers = {"ours": line["energy"], "full": line["energy of full"], "± 2 s.e.": bound}
            table.append({"β": beta, "d": d, "posterior": line["posterior"]} | numbers | {"verdict": verdict})
    return table


def objective_verdicts(curves: Mapping[str, Mapping[str, np.ndarray]]) -> list[dict]:
    """§7, Fig. 3 and App. F, statement by statement, with the least and greatest number over the families.

    `curves` map a family to arrays over increasing "beta": "beta_vae", "taylor" and "grae", means over images.
    """
    ends, closer, faster = [], [], []
    for curve in curves.values():
        expansion, covariance = np.abs(curve["taylor"] - curve["beta_vae"]), curve["taylor"] - curve["grae"]
        closer.append(expansion[0] < expansion[-1] and covariance[0] < covariance[-1])
        faster.append(covariance[-1] - covariance[0] > expansion[-1] - expansion[0])
        rise = curve["beta_vae"][-1] - curve["beta_vae"][0]
        largest = max(expansion.max(), covariance.max()) / rise
        ends.append([largest, *((curve[key][-1] - curve[key][0]) / rise for key in ("taylor", "grae"))])
    of, (gap, taylor, grae) = len(curves), np.array(ends).T
    statements = {
        "the objectives remain close": f"largest gap {gap.min():.0%} to {gap.max():.0%} of the rise over β",
        "the gaps decrease for smaller β": f"in {sum(closer)} of {of} families",
        "Taylor − GRAE grows faster with β than Taylor − β-VAE": f"in {sum(faster)} of {of} families",
        "the trends are strikingly similar": f"rise over β-VAE's: Taylor {taylor.min():.2f} to {taylor.max():.2f}, "
        f"GRAE {grae.min():.2f} to {grae.max():.2f}",
    }
    return [{"Kumar & Poole, §7": statement, "ours": ours} for statement, ours in statements.items()]


def sample_verdicts(curves: Mapping[str, Mapping[str, np.ndarray]], data_spread: float) -> list[dict]:
    """§7, Table 1 and App. G, statement by statement: larger β, more blurry samples, of β-VAE and GRAE≈ alike.

    `curves` map the two models to arrays over "beta": "tv" and "share" of their samples with "…_error" (standard
    errors), and "spread". A trend "holds" where the rank correlation with β is negative at p < 0.05 (one-sided, by
    permutations: four β are the least that can reach it), is "not seen" where it is positive at as much, and is
    "collapsed" where at some β the samples' spread is below a tenth of the data's: equal samples are not smooth
    samples. "Similar" holds where the mean gap between the models is below a quarter of the β-VAE's range over β, and
    is not seen where it is above a half; "small β" compares the gaps at both halves of the grid.
    """
    names = {"tv": "total variation", "share": "share of short waves"}
    trends = [
        _trend(model, curve, measure, text, data_spread)
        for measure, text in names.items()
        for model, curve in curves.items()
    ]
    return trends + [row for measure, text in names.items() for row in _similarity(curves, measure, text)]


def _similarity(curves: Mapping[str, Mapping[str, np.ndarray]], measure: str, text: str) -> list[dict]:
    (first, one), (second, other) = curves.items()
    extent, half = float(np.ptp(one[measure])), len(one[measure]) // 2
    gap = np.abs(other[measure] - one[measure]) / extent
    bound = 2 * float(np.hypot(one[f"{measure}_error"], other[f"{measure}_error"]).mean()) / extent
    near, lower, upper = gap.mean(), gap[:half].mean(), gap[-half:].mean()
    similar = "holds" if near < 0.25 else "not seen" if near > 0.5 else "in part"
    small = "holds" if lower + bound < upper else "not seen" if upper + bound < lower else "not distinguishable"
    ours = [
        f"mean gap {near:.0%} of {first}'s range over β, largest {gap.max():.0%} (± 2 s.e.: {bound:.0%})",
        f"mean gap {lower:.0%} at the smaller β, {upper:.0%} at the larger (± {bound:.0%})",
    ]
    statements = [f"{second} is similar to {first} ({text})", f"particularly for small β ({text})"]
    return [
        {"statement": s, "ours": o, "verdict": v} for s, o, v in zip(statements, ours, (similar, small), strict=True)
    ]


def _trend(model: str, curve: Mapping[str, np.ndarray], measure: str, text: str, data_spread: float) -> dict:
    values, bars = curve[measure], curve[f"{measure}_error"]
    rho, p = _rank_correlation(curve["beta"], values)
    verdict = "holds" if rho < 0 and p < 0.05 else "not seen" if rho > 0 and p < 0.05 else "not distinguishable"
    if verdict == "holds" and (curve["spread"] < 0.1 * data_spread).any():
        verdict = "collapsed"
    fall, error = 1 - values[-1] / values[0], 2 * float(np.hypot(*bars[[0, -1]])) / values[0]
    moves = f"{'falls' if fall > 0 else 'rises'} by {abs(fall):.0%} ± {error:.0%}"
    ours = f"{moves}, rank correlation {rho:+.2f} (p = {p:.2g})".replace("-", "−")
    return {"statement": f"{model}: larger β, more blurry samples ({text})", "ours": ours, "verdict": verdict}


def _rank_correlation(beta: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Spearman's ρ and its one-sided p in ρ's own direction, from all orders of up to 7 values, else 9,999 random."""
    ranks, own = (stats.rankdata(v) - (len(beta) + 1) / 2 for v in (beta, values))
    if not own.any():
        return 0.0, 1.0
    every = len(beta) <= 7
    random = np.random.default_rng(0)
    orders = list(itertools.permutations(own)) if every else random.permuted(np.tile(own, (9_999, 1)), axis=1)
    rho, others = float(stats.pearsonr(ranks, own)[0]), np.array(orders) @ ranks
    as_far = int((np.sign(rho) * others >= abs(own @ ranks) - 1e-9).sum())
    return rho, as_far / len(orders) if every else (as_far + 1) / (len(orders) + 1)


def fid_verdicts(rows: Sequence[Mapping], measure: str = "fid") -> list[dict]:
    """Fig. 4, for each β: do the two models "stay close in terms of FID scores"? By a test, not a look.

    `rows` are runs with "objective", "beta", "seed" and `measure`; other objectives, and values that are not finite,
    are left out. A line has "β", "runs" (the smaller number of the two), "means" and "deviations" (n − 1) of β-VAE
    and GRAE≈, their "difference", "within" (at most the smaller deviation: within each other's error bars), "p" of
    Welch's t-test with Holm's correction over the β, "distinguishable" (p < 0.05), and "share", the larger deviation
    over the range of all means. What the runs cannot decide is None: one run has no deviation, one β no range.

    Raises ValueError for no run, or one that is there twice.
    """
    rows = [row for row in rows if row["objective"] in FID_MODELS and np.isfinite(row[measure])]
    keys = [(row["objective"], row["beta"], row["seed"]) for row in rows]
    if not rows or len(set(keys)) < len(keys):
        raise ValueError(f"rows: expected each run of {' and '.join(FID_MODELS)} once, with {measure}, got {keys}")
    table = []
    for beta in sorted({beta for _, beta, _ in keys}):
        runs = [[row[measure] for row in rows if (row["objective"], row["beta"]) == (o, beta)] for o in FID_MODELS]
        table.append(_fid_line(beta, *runs))
    extent = np.ptp([mean for line in table for mean in line["means"] if mean is not None])
    for line, p in zip(table, _holm([line["p"] for line in table]), strict=True):
        share = max(line["deviations"]) / extent if line["runs"] > 1 and len(table) > 1 and extent > 0 else None
        line |= {"p": p, "distinguishable": None if p is None else p < 0.05, "share": share}
    return table


def _fid_line(beta: float, one: list[float], other: list[float]) -> dict:
    """A β's line but for what depends on the other β; "p" is not corrected yet."""
    means = [float(np.mean(values)) if values else None for values in (one, other)]
    deviations = [float(np.std(values, ddof=1)) if len(values) > 1 else None for values in (one, other)]
    runs, difference = min(len(one), len(other)), means[1] - means[0] if one and other else None
    line = {"β": beta, "runs": runs, "means": means, "deviations": deviations, "difference": difference}
    if runs < 2:
        return line | {"within": None, "p": None}
    p = stats.ttest_ind(one, other, equal_var=False).pvalue if max(deviations) > 0 else difference == 0
    return line | {"within": abs(difference) <= min(deviations), "p": float(p)}


def _holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction: the k-th least of m is multiplied by m − k + 1, and none falls below a lesser one.

    >>> _holm([0.04, None, 0.01, 0.03])
    [0.06, None, 0.03, 0.06]
    """
    order = sorted((i for i, p in enumerate(values) if p is not None), key=lambda i: values[i])
    corrected, highest = list(values), 0.0
    for rank, i in enumerate(order):
        highest = corrected[i] = max(highest, min(1.0, values[i] * (len(order) - rank)))
    return corrected


def fid_statements(table: Sequence[Mapping]) -> list[dict]:
    """§7 and Fig. 4, statement by statement, from `fid_verdicts`'s table.

    "Stay close" holds where the models are within each other's error bars at every β (equal ones often miss it, by
    chance); "not seen" if they are distinguishable at every one. Deviations have the features' scale: see "share".
    """
    tested = [line for line in table if line["within"] is not None]
    within, apart = ([f"{line['β']:g}" for line in tested if line[key]] for key in ("within", "distinguishable"))
    largest = max((max(line["deviations"]) for line in tested), default=np.inf)
    shares = [line["share"] for line in tested if line["share"] is not None]
    listed = [f"β = {', '.join(betas)}" if betas else "no β" for betas in (within, apart)]
    ours = [f"within each other's error bars at {listed[0]}; distinguishable at {listed[1]}"]
    ours += [f"the largest is {largest:.3g}" + (f", {max(shares):.0%} of the range over β" if shares else "")]
    close = "not seen" if len(apart) == len(tested) else "in part" if apart else "not distinguishable"
    close = "holds" if len(within) == len(tested) else close
    verdicts = [close, "holds" if largest < FID["deviation"] else "not seen"]
    if not tested:
        ours, verdicts = ["fewer than two runs of a model have no error bars"] * 2, ["not decidable"] * 2
    said = "samples from the two models stay close", f"all standard deviations are less than {FID['deviation']:g}"
    rows = [{"statement": said[i], "ours": ours[i], "verdict": verdicts[i]} for i in range(2)]
    return rows + [row for i, name in enumerate(FID_MODELS.values()) for row in _better(name, table, i)]


def _better(name: str, table: Sequence[Mapping], model: int) -> list[dict]:
    """Is a model's FID lower from β = 0.01 on, and where is it least?"""
    known = np.array([(line["β"], line["means"][model]) for line in table if line["means"][model] is not None])
    if not len(known):
        return []
    beta, means = known.T
    above, below = means[beta >= FID["beta"]], means[beta < FID["beta"]]
    ours = f"least at β = {beta[means.argmin()]:g} ({means.min():.3g} of up to {means.max():.3g})"
    verdict = "not decidable"
    if len(above) and len(below):
        ours += f"; mean {above.mean():.3g} for these, {below.mean():.3g} below"
        verdict = "holds" if above.mean() < below.mean() else "not seen"
    return [{"statement": f"{name}: better (lower FID) for β ≥ {FID['beta']:g}", "ours": ours, "verdict": verdict}]
