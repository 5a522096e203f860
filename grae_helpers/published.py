"""What Kumar & Poole (2020) print about their experiments, and whether measured numbers bear it out.

The paper gives no numbers for its MNIST figures, so each statement is made a comparison that code can decide.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from grae_helpers import posteriors

MNIST = {"steps": 20_000, "width": 1.0}
"""§7 and App. D: Adam iterations per model, channels relative to the printed ones."""

TEST_IMAGES = 5_000
"""§7: the held-out images of Fig. 3."""

CONFIGURATIONS = (
    (0.4, 8, 2), (0.6, 8, 3), (0.2, 8, 2), (0.8, 20, 3), (1.0, 8, 2), (0.6, 12, 2), (0.4, 12, 3), (0.8, 16, 2),
)  # fmt: skip
"""(β, d, b) of Fig. 2 and 7; the last is ours, for d = 16, which App. D lists and no figure shows."""


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
            table.append(line)
    return table


def structure_verdicts(rows: Sequence[Mapping]) -> list[dict]:
    """§7, Fig. 2 and 7: "similar block diagonal structures" in Σ⁻¹ and JᵀJ, for each (β, d) and block family.

    Holds where the family's relative off-block energy is below that of the full covariance under the same mask.
    """
    table = []
    for beta, d in dict.fromkeys((row["beta"], row["d"]) for row in rows):
        for line in relative_structure([row for row in rows if (row["beta"], row["d"]) == (beta, d)]):
            ours, control = line["energy"], line["energy of full"]
            verdict = "holds" if ours < control else "not seen"
            table.append(
                {"β": beta, "d": d, "posterior": line["posterior"], "ours": ours, "full": control, "verdict": verdict}
            )
    return table


def objective_verdicts(curves: Mapping[str, Mapping[str, np.ndarray]]) -> list[dict]:
    """§7, Fig. 3 and App. F, statement by statement: in how many of the families it holds over their grid of β.

    `curves` map a family to arrays over increasing "beta": "beta_vae", "taylor" and "grae", means over images.
    """
    closer, faster, trend = [], [], []
    for curve in curves.values():
        expansion, covariance = np.abs(curve["taylor"] - curve["beta_vae"]), curve["taylor"] - curve["grae"]
        closer.append(expansion[0] < expansion[-1] and covariance[0] < covariance[-1])
        faster.append(np.ptp(covariance[[0, -1]]) > np.ptp(expansion[[0, -1]]) and covariance[-1] > covariance[0])
        trend.append(min(np.corrcoef(curve["beta_vae"], curve[key])[0, 1] for key in ("taylor", "grae")))
    of, n = len(curves), min(len(curve["beta"]) for curve in curves.values())
    similar = f"correlation at least {min(trend):.4f}" if n > 2 else f"no trend in {n} values of β"
    return [
        {"Kumar & Poole, §7": "the gaps decrease for smaller β", "ours": f"in {sum(closer)} of {of} families"},
        {"Kumar & Poole, §7": "Taylor − GRAE grows faster with β", "ours": f"in {sum(faster)} of {of} families"},
        {"Kumar & Poole, §7": "the three trends are similar", "ours": similar},
    ]
