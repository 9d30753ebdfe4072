"""Verdicts on reliance. What is legitimate was declared; all else is earned by a rejection, or undecided."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from causal_cxr.audits.decisions import AS_ASKED
from causal_cxr.audits.effects import benjamini_yekutieli

#: What each verdict tells the user.
MEANING = {
    "reliance": "the score moves when this attribute alone is set: reliance to justify",
    "reliance confounded by leak": "the score moves, but so may what the target shows as: the editor's leak may explain it",
    "invariant": "the score is shown not to move by as much as counts, on average",
    "legitimate": "declared as the target or a manifestation of it: the score should move",
    "undecided": "the data do not decide, and the reason is given; never read as 'invariant'",
}
ORDER = tuple(MEANING)
FEASIBLE = 100  #: times the patients at hand; beyond that no number is told


def decide(rows: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Verdicts of one editor and one model: a family of attributes, one a verdict kind, BY on the conjunction p.

    Args:
        rows: columns ``legitimate``, ``gate`` (empty = passed), ``bars_invariant`` (empty = nothing does), ``p_yes``, ``p_no``
            (of the gain; the second of what it would be, were all done that is asked), ``p_unmoved`` (largest over the
            manifestations), ``p_beyond`` (of what their movements do not explain), ``leak`` (the worst state), ``leak_why``,
            ``beyond`` with its interval, ``effectiveness``,
            ``needed_gain``, ``needed_leak`` and ``n_patients``; ``missing_shown``, and then ``made_up_p_no``, which "invariant"
            must reject too.
        alpha: false-discovery rate of each verdict kind.

    Returns:
        the rows with ``verdict``, ``reason``, ``q`` and ``patients_needed``.
    """
    judged = ~rows["legitimate"].to_numpy() & (rows["gate"] == "").to_numpy()
    short = rows["missing_shown"].to_numpy(dtype=bool)
    p_yes, p_no = (rows[p].fillna(1.0).to_numpy() for p in ("p_yes", "p_no"))
    conjunctions = {
        "reliance": np.max([p_yes, *(rows[p].fillna(1.0).to_numpy() for p in ("p_unmoved", "p_beyond"))], axis=0),
        "invariant": np.where(
            rows["bars_invariant"] == "", np.where(short, np.maximum(p_no, rows["made_up_p_no"]), p_no), 1.0
        ),
        "moves": p_yes,
    }
    q = {}
    for kind, p in conjunctions.items():  # an attribute that failed a gate stays in the family: looking was free
        q[kind] = np.full(len(rows), np.nan)
        family = ~rows["legitimate"].to_numpy()
        q[kind][family] = benjamini_yekutieli(np.where(judged, p, 1.0)[family])
    verdicts, reasons, qs, needed = [], [], [], []
    for i, row in enumerate(rows.to_dict("records")):
        hit = {kind: judged[i] and q[kind][i] <= alpha for kind in q}
        want = np.nan
        if row["legitimate"]:
            verdict, reason, value = "legitimate", "", np.nan
        elif hit["reliance"]:
            verdict, reason, value = "reliance", "", q["reliance"][i]
        elif hit["invariant"]:
            verdict, reason, value = "invariant", "", q["invariant"][i]
        elif hit["moves"] and row["leak"] in ("moved", "open", "unmoved"):
            verdict, reason, value = "reliance confounded by leak", _leak_why(row, alpha), q["moves"][i]
            want = row["needed_leak"]
        else:
            verdict, value = "undecided", np.nan
            reason, want = _why(row, hit["moves"], alpha)
        far = not np.isfinite(want) or want > FEASIBLE * max(row["n_patients"], 1)
        verdicts.append(verdict)
        reasons.append(
            reason if far or verdict != "undecided" else f"{reason}; about {want:,.0f} patients would decide"
        )
        qs.append(value)
        needed.append(np.nan if far else want)
    return rows.assign(verdict=verdicts, reason=reasons, q=qs, q_moves=q["moves"], patients_needed=needed)


def rank(rows: pd.DataFrame) -> pd.DataFrame:
    """Reliance to look at first, of one editor and one model: amount x prevalence x confidence.

    - amount: size of the gain; where the editor's leak is not excluded, of what the leak does not explain, if that is less
      and known (0 if the two have opposite signs); where the edit is shown to move signs by less or more than they go with
      the attribute in unedited images, both with that made up (:mod:`causal_cxr.audits.shortcuts.shortfalls`);
    - prevalence: share of the patients' images to which the reliance applies: those at the level that the contrast goes to,
      or that a shift moves;
    - confidence: 1 - q, with q the BY-corrected p of "the gain is 0", made up where it is, among the attributes of this model.

    Args:
        rows: columns ``legitimate``, ``gate``, ``gain``, ``beyond``, ``leak``, ``prevalence``, ``p_zero``, ``contrast``;
            ``missing``, ``missing_shown`` and ``made_up_p_zero``.

    Returns:
        the rows with ``amount``, ``confidence``, ``score`` and ``rank`` (1 = first; 0 = legitimate, not ranked). Ties are
        broken by amount x prevalence, then by the contrast's name.
    """
    family = ~rows["legitimate"].to_numpy()
    short = rows["missing_shown"].to_numpy(dtype=bool)
    p_zero = np.where(short, rows["made_up_p_zero"], rows["p_zero"].fillna(1.0))
    p = np.where(rows["gate"] == "", p_zero, 1.0)
    q = np.full(len(rows), np.nan)
    q[family] = benjamini_yekutieli(p[family])
    missing = np.where(short, rows["missing"], 0.0)
    gain, beyond = (rows[name].to_numpy(dtype=float) + missing for name in ("gain", "beyond"))
    same = np.where(gain * beyond > 0, np.minimum(np.abs(gain), np.abs(beyond)), 0.0)
    whole = (rows["leak"] == "unmoved").to_numpy() | np.isnan(beyond)
    amount = np.nan_to_num(np.where(whole, np.abs(gain), same))
    confidence = np.nan_to_num(1 - q)
    ranked = rows.assign(amount=amount, confidence=confidence, score=amount * rows["prevalence"].fillna(0) * confidence)
    ranked.loc[~family, ["score", "confidence"]] = np.nan
    order = ranked.assign(tie=amount * rows["prevalence"].fillna(0))[family]
    order = order.sort_values(["score", "tie", "contrast"], ascending=[False, False, True], kind="stable")
    places = pd.Series(0, index=rows.index)
    places.loc[order.index] = np.arange(1, len(order) + 1)
    return ranked.assign(rank=places)


def sentence(row: pd.Series) -> str:
    """The verdict with its numbers, in words."""
    reason = f" ({row['reason']})" if row["reason"] else ""
    note = " Its cause by the declared graph, which makes it no less a reliance to justify."
    note = note if row["ancestor"] and row["verdict"].startswith("reliance") else ""
    if row["missing_shown"] and row["missing_why"] not in row["reason"]:
        note += f" But {row['missing_why']}."
    if np.isnan(row["gain"]):
        return f"{row['model']}, {row['contrast']}: {row['verdict']}{reason}.{note}"
    flips = (
        f"{row['flips_up']:.0%} of the decisions become positive and {row['flips_down']:.0%} negative"
        f"; {row['moved']:.0%} of the scores move by {row['delta']:g} or more"
    )
    return (
        f"{row['model']}, {row['contrast']}: {row['verdict']}{reason}: {MEANING[row['verdict']]}; gain {row['gain']:+.3f} "
        f"[{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]; {flips}.{note}"
    )


def _why(row: dict, moves: bool, alpha: float) -> tuple[str, float]:
    if row["gate"]:
        return row["gate"], float("nan")
    if moves:
        return f"{row['leak']}: {row['leak_why']}", float("nan")
    if row["p_no"] <= alpha and row["bars_invariant"]:
        return row["bars_invariant"], float("nan")
    if min(row["p_yes"], row["p_no"]) <= alpha:
        return "not after correction for the number of attributes", float("nan")
    half = f"; of what was asked of {row['attribute']} itself the edit does {row['effectiveness']:.2f}"
    half = half if row["effectiveness"] < AS_ASKED else ""
    return f"the gain is neither shown nor shown to be too small to count{half}", row["needed_gain"]


def _leak_why(row: dict, alpha: float) -> str:
    """Each movement is small, but the score may follow it far."""
    if row["leak"] != "unmoved":
        return row["leak_why"]
    if row["p_beyond"] <= alpha:
        return f"{row['leak_why']}, though not after correction for the number of attributes"
    if np.isnan(row["beyond"]):
        return f"{row['leak_why']}; how much of the gain it may explain is not known, as no edit moves the target"
    beyond = f"{row['beyond']:+.3f} [{row['beyond_low']:+.3f}, {row['beyond_high']:+.3f}]"
    return f"{row['leak_why']}; of the gain it leaves {beyond} unexplained"


def leak_in_words(readings: Sequence) -> str:
    """What is known of the manifestations that were not shown to stay."""
    said = []
    for r in readings:
        low, high = r.effect.interval() if r.effect.n else (float("nan"), float("nan"))
        how = {"moved": "moves", "open": "is not shown to stay", "unmoved": "stays",
               "reader blind": "cannot be read", "reader follows": "is read by a reader that follows the attribute"}  # fmt: skip
        said.append(f"{r.concept} {how[r.state]}: {r.effect.value:+.2f} [{low:+.2f}, {high:+.2f}]")
    return "; ".join(said)
