"""The ledger's K10 to K14: the experiments of Kumar & Poole, from the frozen results that the book shows.

Nothing is trained here: each number is computed again from results/, and `published` decides what it means. A run
smaller than the paper's can reproduce a statement or leave it open; only one of the paper's size could refute it.
"""

from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from ledger import entries, verdict
from scipy import stats

from grae_helpers import geometry, jacobians, published, results

PAIR = {"beta_vae": "β-VAE", "grae_approx": "GRAE≈"}
REPRODUCED = "reproduced at a stated smaller size"


@cache
def frozen(name: str) -> results.Frozen:
    return results.load(results.root() / name)


def reproduced(said: list[str], *names: str) -> str:
    """The ledger's word for what `published` said of one statement, in one or more frozen runs."""
    smaller = any(frozen(name).manifest["differs"] for name in names)
    if set(said) == {"holds"}:
        return REPRODUCED if smaller else "holds"
    return "open" if smaller else "refuted"


@pytest.mark.parametrize(("said", "expected"), [(["holds", "holds"], REPRODUCED), (["holds", "not seen"], "open")])
def test_a_smaller_run_never_refutes(said, expected):
    assert reproduced(said, "22_covariance_jacobian_mnist") == expected


def sizes(name: str) -> list[str]:
    """What a note has to say of a frozen run that is smaller than the paper's."""
    differs = frozen(name).manifest["differs"]
    said = {
        "steps": lambda ours: f"{ours:,}", "width": lambda ours: f"{Fraction(ours).limit_denominator(100)} width",
        "dataset": str.upper,
    }  # fmt: skip
    return [text(differs[key][0]) for key, text in said.items() if key in differs]


def test_notes_state_the_size_of_what_they_rest_on():
    checked = 0
    for entry in entries():
        if entry["id"][:3] in ("K10", "K11", "K12", "K13", "K14") and "result" in entry and "errata" not in entry:
            names = entry["result"] if isinstance(entry["result"], list) else [entry["result"]]
            missing = [text for name in names for text in sizes(name) if text not in entry["note"]]
            assert not missing, f"{entry['id']}: expected its note to say {', '.join(missing)}"
            checked += 1
    assert checked > 15


# Fig. 2 and 7 (K10)

MNIST = "22_covariance_jacobian_mnist"


def structure() -> dict[tuple, dict]:
    """(β, d, family) → `published.structure_verdicts`'s line."""
    rows = [row | {"b": row["b"] or None} for row in frozen(MNIST).tables["structure"]]
    return {(line["β"], line["d"], line["posterior"]): line for line in published.structure_verdicts(rows)}


def test_blocks_of_the_covariance_come_back_in_the_jacobian(claim):
    """The off-block energy of JᵀJ over that of randomly rotated latents, for the panels of Fig. 2, and mean field."""
    found = structure()
    twos = [found[beta, 8, "blocks of 2"] for beta in (0.2, 0.4)]
    threes = [found[key] for key in ((0.6, 8, "blocks of 3"), (0.8, 20, "blocks of 3"))]
    singles = [found[beta, d, "mean field"] for beta, d in ((0.2, 8), (0.4, 8), (0.6, 8), (0.8, 20))]
    said = [[line["verdict"] for line in lines] for lines in (twos, threes, singles)]
    ours = [[line["ours"] for line in lines] for lines in (twos, threes, singles)]
    assert all(line["ours"] < 1 for line in found.values())  # less than a basis without meaning
    claim("K10a", reproduced(said[0], MNIST), ours=ours[0])
    claim("K10b", reproduced(said[1], MNIST), ours=ours[1])
    claim("K10c", reproduced(said[2], MNIST), ours=ours[2])


def encoders(beta: float, d: int, b: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ of the encoder and JᵀJ of the decoder, of the first 50 test images."""
    arrays = frozen(MNIST).arrays
    return tuple(torch.from_numpy(arrays[f"{part}-{beta}-{d}-{b}"]).double() for part in ("covariance", "gram"))


def relative_norm(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The median over the images of the relative Frobenius error."""
    return float((torch.linalg.matrix_norm(found - expected) / torch.linalg.matrix_norm(expected)).median())


def test_how_close_the_encoders_precision_is_to_the_best_one(claim):
    """Eq. 11 in the families of Fig. 2's panels, and β(Σ⁻¹ − I) as a metric beside JᵀJ, at full covariance."""
    errors = []
    for beta, d, b in ((0.2, 8, 2), (0.4, 8, 2), (0.6, 8, 3), (0.8, 20, 3)):
        sigma, gram = encoders(beta, d, b)
        best = torch.linalg.inv(jacobians.optimal_covariance(-gram, beta, b))
        errors.append(relative_norm(torch.linalg.inv(sigma), best))
    close = ["holds" if error < 0.1 else "not seen" for error in errors]
    claim("K10e", reproduced(close, MNIST), ours=errors)
    metrics = []
    for beta, d in ((0.2, 8), (0.4, 8), (0.6, 8), (0.8, 20)):
        sigma, gram = encoders(beta, d, 0)
        metrics.append(relative_norm(beta * (torch.linalg.inv(sigma) - torch.eye(d, dtype=torch.float64)), gram))
    claim("K14b", reproduced(["holds" if error < 0.1 else "not seen" for error in metrics], MNIST), ours=metrics)


# Fig. 3 (K11)

OBJECTIVES = "23_objectives_mnist"


def objectives() -> dict[str, dict[str, np.ndarray]]:
    """Each family's means over the images, as arrays over β."""
    found = {}
    for key, array in frozen(OBJECTIVES).arrays.items():
        name, b, beta = key.split("-")
        found.setdefault(b, {}).setdefault(name, {})[float(beta)] = array.astype(float).mean()
    return {
        b: {"beta": np.array(sorted(values["taylor"]))}
        | {name: np.array([over[beta] for beta in sorted(over)]) for name, over in values.items()}
        for b, values in found.items()
    }


def in_all(numbers: dict[str, str], statement: str) -> str:
    """Whether `published.objective_verdicts` counts every family for the statement."""
    seen, of = numbers[statement].removeprefix("in ").removesuffix(" families").split(" of ")
    return "holds" if seen == of else "not seen"


def test_the_three_objectives_over_beta(claim):
    """b = 1, 2, 3 in this order; shares of the β-VAE's own rise over β."""
    curves = objectives()
    said = {row["Kumar & Poole, §7"]: row["ours"] for row in published.objective_verdicts(curves)}
    rise = {b: np.ptp(curve["beta_vae"]) for b, curve in curves.items()}
    expansion = {b: np.abs(curve["taylor"] - curve["beta_vae"]) for b, curve in curves.items()}
    covariance = {b: curve["taylor"] - curve["grae"] for b, curve in curves.items()}
    largest = [float(max(expansion[b].max(), covariance[b].max()) / rise[b]) for b in curves]
    assert said["the objectives remain close"] == (
        f"largest gap {min(largest):.0%} to {max(largest):.0%} of the rise over β"
    )
    claim("K11a", reproduced(["holds" if gap < 0.1 else "not seen" for gap in largest], OBJECTIVES), ours=largest)
    ends = [float(gaps[b][i]) for gaps in (expansion, covariance) for b in curves for i in (0, -1)]
    claim("K11b", reproduced([in_all(said, "the gaps decrease for smaller β")], OBJECTIVES), ours=ends)
    growth = [float(gaps[b][-1] - gaps[b][0]) for gaps in (covariance, expansion) for b in curves]
    faster = in_all(said, "Taylor − GRAE grows faster with β than Taylor − β-VAE")
    claim("K11c", reproduced([faster], OBJECTIVES), ours=growth)
    trends = [float(np.ptp(curve[name]) / rise[b]) for name in ("taylor", "grae") for b, curve in curves.items()]
    alike = ["holds" if abs(trend - 1) < 0.1 else "not seen" for trend in trends]
    claim("K11d", reproduced(alike, OBJECTIVES), ours=trends)
    rising = [[bool((np.diff(gaps[b]) > 0).all()) for b in curves] for gaps in (expansion, covariance)]
    monotone = ["holds" if rises else "not seen" for row in rising for rises in row]
    claim("K11g", reproduced(monotone, OBJECTIVES), ours=[sum(row) for row in rising])


def test_the_analytic_gap_image_by_image(claim):
    """App. F with Σ where it belongs, over 12 models of 5,000 images; as printed it does not vanish at the best Σ."""
    arrays = frozen(OBJECTIVES).arrays
    models = [key.removeprefix("gap-") for key in arrays if key.startswith("gap-")]
    errors = [arrays[f"taylor-{m}"].astype(float) - arrays[f"grae-{m}"] - arrays[f"gap-{m}"] for m in models]
    assert len(models) == 12 and all(error.shape == (5000,) for error in errors)
    beta, d = 0.4, 8
    sigma, gram = encoders(beta, d, 2)
    best = jacobians.optimal_covariance(-gram, beta)
    literal = torch.eye(d, dtype=torch.float64) + gram @ best / beta
    trace = literal.diagonal(dim1=1, dim2=2).sum(1)
    printed = beta / 2 * (trace - torch.linalg.slogdet(literal).logabsdet - d)
    corrected = geometry.covariance_gap(-gram, best, beta)
    assert corrected.abs().max() < 1e-9 and (geometry.covariance_gap(-gram, sigma, beta) > 0.01).all()
    largest = float(max(np.abs(error).max() for error in errors))
    found = verdict(printed=bool(printed.abs().max() < 1e-9), corrected=largest < 1e-3)
    claim("K11e", found, ours=largest)


# Table 1 and App. G (K12)


def samples(name: str, kind: str = "prior") -> dict[str, dict[str, np.ndarray]]:
    """The two models' numbers over β, as `published.sample_verdicts` takes them: "prior" is as trained."""
    arrays, found = frozen(name).arrays, {}
    for objective, shown in PAIR.items():
        betas = sorted({float(key.split("--")[1]) for key in arrays if key.startswith(f"{objective}--")})
        found[shown] = curve = {"beta": np.array(betas)}
        for measure in ("tv", "share", "spread"):
            rows = [arrays[f"{objective}--{beta:g}--0--{kind}.{measure}"].astype(float) for beta in betas]
            curve[measure] = np.array([row.mean() for row in rows])
            curve[f"{measure}_error"] = np.array([row.std(ddof=1) / len(row) ** 0.5 for row in rows])
    return found


def sample_verdicts(name: str, kind: str = "prior") -> dict[str, str]:
    curves = samples(name, kind)
    rows = published.sample_verdicts(curves, float(frozen(name).arrays["data--spread"].mean()))
    return {row["statement"]: row["verdict"] for row in rows}


SAMPLES = ("31_samples_over_beta_mnist", "31_samples_over_beta_lfw")


def mean_gap(name: str, measure: str, part: slice = slice(None)) -> float:
    """The mean gap between the models' curves, as a share of the β-VAE's range over β."""
    one, other = samples(name).values()
    return float((np.abs(other[measure] - one[measure]) / np.ptp(one[measure]))[part].mean())


def test_larger_beta_more_blurry_samples(claim):
    """The rank correlation with β of the share of short waves and of total variation, on MNIST and on LFW."""
    said = {name: sample_verdicts(name) for name in SAMPLES}
    for name in SAMPLES:
        assert list(samples(name)["β-VAE"]["beta"]) == published.SAMPLE_BETAS

    def found(model: str, measure: str, text: str) -> tuple[list[str], list[float]]:
        curves = [samples(name)[model] for name in SAMPLES]
        correlations = [float(stats.spearmanr(curve["beta"], curve[measure])[0]) for curve in curves]
        return [said[name][f"{model}: larger β, more blurry samples ({text})"] for name in SAMPLES], correlations

    words, numbers = found("β-VAE", "share", "share of short waves")
    claim("K12a", reproduced(words, *SAMPLES), ours=numbers)
    words, numbers = found("GRAE≈", "share", "share of short waves")
    claim("K12b", reproduced(words, *SAMPLES), ours=numbers)
    both = [found(model, "tv", "total variation") for model in PAIR.values()]
    words, numbers = ([value for pair in both for value in pair[i]] for i in (0, 1))
    assert words == 2 * ["not distinguishable", "holds"]  # MNIST, LFW
    settled = [sample_verdicts(name, "settled") for name in SAMPLES]
    assert {w for rows in settled for s, w in rows.items() if "larger β" in s and "total" in s} == {"holds"}
    claim("K12d", reproduced(words, *SAMPLES), ours=numbers)


def test_samples_of_both_models_are_alike(claim):
    """The mean gap between the models by the share of short waves and by total variation, on MNIST and on LFW."""
    said = {name: sample_verdicts(name) for name in SAMPLES}

    def words(statement: str) -> list[str]:
        return [said[name][statement] for name in SAMPLES]

    alike = words("GRAE≈ is similar to β-VAE (share of short waves)")
    claim("K12c", reproduced(alike, *SAMPLES), ours=[mean_gap(name, "share") for name in SAMPLES])
    statement = "GRAE≈ is similar to β-VAE (total variation)"
    alike = words(statement)
    assert alike == ["holds", "not seen"]  # MNIST, LFW; with settled codes alike in both:
    assert all(sample_verdicts(name, "settled")[statement] == "holds" for name in SAMPLES)
    claim("K12e", reproduced(alike, *SAMPLES), ours=[mean_gap(name, "tv") for name in SAMPLES])
    small = words("particularly for small β (share of short waves)")
    assert small == ["holds", "not seen"]
    halves = [mean_gap(name, "share", part) for name in SAMPLES for part in (slice(0, 5), slice(5, 10))]
    claim("K12f", reproduced(small, *SAMPLES), ours=halves)


# Fig. 4 (K13)

FID = {which: f"33_fid_across_beta_{which}" for which in ("mnist", "lfw")}


def fid(which: str, measure: str = "fid") -> tuple[list[dict], dict[str, str]]:
    """The table over β of samples from the prior, as trained, and what it says of the paper's statements."""
    table = published.fid_verdicts(frozen(FID[which]).tables["jobs"], measure)
    return table, {row["statement"]: row["verdict"] for row in published.fid_statements(table)}


def test_fid_of_both_models_over_beta(claim):
    """GRAE≈ − β-VAE at each β and the largest deviations, on MNIST and on LFW; which β are better, on MNIST."""
    (mnist, said), (faces, of_faces) = fid("mnist"), fid("lfw")
    close = [words["samples from the two models stay close"] for words in (said, of_faces)]
    claim("K13a", reproduced(close, *FID.values()), ours=[line["difference"] for line in mnist + faces])
    assert [line["within"] for line in mnist + faces] == 3 * [True] + 5 * [False]
    assert [line["β"] for line in mnist if line["distinguishable"]] == [0.4, 1.0]
    assert not any(line["distinguishable"] for line in faces)
    assert all(line["difference"] > 0 for line in mnist if line["distinguishable"])  # GRAE≈ is worse there
    deviations = [max(max(line["deviations"]) for line in table) for table in (mnist, faces)]
    bounded = [words["all standard deviations are less than 1"] for words in (said, of_faces)]
    claim("K13b", reproduced(bounded, *FID.values()), ours=deviations)
    better = [said[f"{model}: better (lower FID) for β ≥ 0.01"] for model in PAIR.values()]
    settled = fid("mnist", "fid_settled")[1]
    assert all(settled[f"{model}: better (lower FID) for β ≥ 0.01"] == "not seen" for model in PAIR.values())
    means = np.array([line["means"] for line in mnist])  # [β, model]; the first β is 0.005
    ours = [float(v) for model in means.T for v in (model[0], model[1:].mean())]
    claim("K13c", reproduced(better, FID["mnist"]), ours=ours)
    apart = np.abs([line["difference"] for line in mnist])
    closest = "holds" if apart[1:].mean() < apart[0] else "not seen"
    claim("K13d", reproduced([closest], FID["mnist"]), ours=[float(apart[0]), float(apart[1:].mean())])
    assert mnist[0]["β"] < published.FID["beta"] < mnist[1]["β"]
