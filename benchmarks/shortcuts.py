"""Does a shortcut audit tell classifiers that were trained into a shortcut from clean ones, and name the shortcut?

    python benchmarks/shortcuts.py --json benchmarks/results/shortcuts.json

Small classifiers of images (logistic regression on oriented gradients or pixels, a convolutional network) are trained on
phantoms in which their target goes with one attribute (planted), or with nothing (clean). All are audited on the world
``portable``, whose co-occurrences are other ones: images are edited once an editor and target and scored by all classifiers.

Editors: ``oracle`` (true counterfactuals), ``diffusion`` (the shipped one, fitted to ``portable``), or any other that
``benchmarks/editors.py`` compares, such as ``diffusion-heun`` and ``scm``. Beside them ``no_editor``:
the same ranking formula on the association of unedited scores with each attribute given the target's label.

``auroc``: planted against clean, by the score of the attribute that is ranked first. ``ranked_first``: share of the planted
classifiers whose first attribute is the one that shows the planted thing in ``portable``. Both by design: no classifier is
left out because it did not take its shortcut up. What each truly relies on is known from true counterfactuals of other
images: ``taken_up`` counts planted classifiers with a true gain of at least ``delta`` on their attribute, ``clean_relying``
clean ones with such a gain anywhere, ``auroc_by_truth`` and ``ranked_first_by_truth`` judge by true gains. The top level
repeats the figures of the last editor, ``diffusion`` unless ``--editors`` says otherwise.
"""

import argparse
import hashlib
import time
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fitted import DIFFUSION, fitted_editor
from record import rate, record
from torch import Tensor, nn

from causal_cxr import Phantom, ShortcutAudit, World
from causal_cxr.audits import as_predictor
from causal_cxr.audits.effects import benjamini_yekutieli
from causal_cxr.audits.shortcuts import Predictor, ShortcutReport
from causal_cxr.editors import Editor, OracleEditor
from causal_cxr.graphs import default_contrasts
from causal_cxr.readers import OrientedGradients, Pixels, ProbeReader
from causal_cxr.readers.concordance import concordance

WORLD, ORACLE = "portable", "oracle"
TARGETS = ("effusion", "cardiomegaly")
LEARNERS = ("gradients", "pixels", "network")
STRENGTHS = (
    4.0,
    6.0,
)  #: log odds ratios: the thing is there in 88 or 95% of the images with the target, in 12 or 5% of others
TRAINING, EPOCHS = 1_200, 8
DELTA = 0.05
TRUTH_SEED, AUDIT_SEED = 88_001, 88_002
#: Shortcut -> the attribute of ``portable`` that shows it, where the target is effusion, and where it is cardiomegaly.
PLANTED: Mapping[str, tuple[str, str]] = {
    "view": ("view", "view"),
    "portable marker": ("view", "view"),
    "sex": ("sex", "sex"),
    "age": ("age", "age"),
    "comorbidity": ("cardiomegaly", "effusion"),
    "device": ("cardiomegaly", "effusion"),
}
COMPANIONS = ("ecg_leads", "laterality_marker", "portable_marker")  #: what shows with the view in ``portable``


class Remembered:
    """Features of the images that were asked for lately: many classifiers look at the same ones.

    Args:
        features: whose.
        most: batches that are kept.
    """

    def __init__(self, features: Any, most: int = 32) -> None:
        self.source, self.most, self.kept = features, most, OrderedDict[bytes, Tensor]()
        self.fingerprint, self.fitted_on = features.fingerprint, features.fitted_on

    def features(self, images: Tensor) -> Tensor:
        """``(n, d)``."""
        key = hashlib.sha256(images.numpy().tobytes()).digest()
        if key not in self.kept:
            self.kept[key] = self.source.features(images)
            if len(self.kept) > self.most:
                self.kept.popitem(last=False)
        return self.kept[key]


GRADIENTS = Remembered(OrientedGradients())


@dataclass(frozen=True)
class Trained:
    """A classifier with what was planted in its training images; ``shortcut`` and ``attribute`` are empty for a clean one."""

    name: str
    target: str
    shortcut: str
    attribute: str
    model: Predictor
    seconds: float


def training_world(target: str, shortcut: str, strength: float) -> World:
    """The attributes of ``portable``, independent but for the shortcut."""
    portable = World.load(WORLD)
    free = portable.independent()
    other = next(name for name in TARGETS if name != target)
    follows = {"logistic": {"bias": -strength / 2, "weights": {target: strength}}}
    changes: dict[str, Any] = {
        "": {},
        "view": {"view": follows, **{name: portable.to_dict()["mechanisms"][name] for name in COMPANIONS}},
        "portable marker": {"portable_marker": follows},
        "sex": {"sex": follows},
        "age": {target: {"logistic": {"bias": 0.0, "weights": {"age": strength / 2}}}},
        "comorbidity": {other: follows},
        "device": {("pacemaker" if target == "effusion" else "chest_drain"): follows},
    }[shortcut]
    # who has what is told apart by image, so that nothing is learnt from a patient's other images
    return free.changed(mechanisms={**free.to_dict()["mechanisms"], **changes}, patients={"images": [1, 1]})


def train(target: str, shortcut: str, learner: str, strength: float, seed: int) -> Trained:
    """Draw training images, fit one classifier."""
    begun = time.monotonic()
    phantom = Phantom(TRAINING, training_world(target, shortcut, strength), seed=seed)
    images = phantom.images(np.arange(TRAINING))
    present = (phantom.attributes[target] == 1).to_numpy()
    seen = frozenset(phantom.patients)
    if learner == "network":
        made = as_predictor(fit_network(images, present, seed), target, scale="logit", fitted_on=seen)
    else:
        features: Any = GRADIENTS if learner == "gradients" else Pixels()
        made = as_predictor(fit_logistic(features, images, present, seed), target, features=features, fitted_on=seen)
    where = dict(zip(TARGETS, PLANTED.get(shortcut, ("", "")), strict=True))[target]
    name = f"{shortcut or 'clean'}, {learner}, {strength:g}, {seed}" if shortcut else f"clean, {learner}, {seed}"
    return Trained(name, target, shortcut, where, made, time.monotonic() - begun)


def fit_logistic(features: Any, images: Tensor, present: np.ndarray, seed: int) -> Any:
    """Standardised features, 150 principal components, logistic regression."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X = features.features(images).numpy().astype(np.float64)
    reduced = PCA(150, svd_solver="randomized", random_state=seed)
    return make_pipeline(StandardScaler(), reduced, LogisticRegression(C=0.01, max_iter=500)).fit(
        X, present.astype(int)
    )


def fit_network(images: Tensor, present: np.ndarray, seed: int) -> nn.Module:
    """Blocks of 4 x 4 pixels as channels, three convolutions, a linear layer over 4 x 4 places."""
    labels = torch.tensor(present, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.PixelUnshuffle(4)]
        for before, after, stride in ((16, 32, 1), (32, 48, 2), (48, 48, 2)):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(48 * 16, 1), nn.Flatten(0))
        steps = EPOCHS * (len(images) // 64)
        optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(images))[: len(images) // 64 * 64].split(64):
                loss = nn.functional.binary_cross_entropy_with_logits(model(images[chosen]), labels[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    return model.eval().requires_grad_(False)


def true_gains(trained: Sequence[Trained], images: int) -> pd.DataFrame:
    """``(classifiers, attributes)`` mean true change of the probability, others held, on images that no audit sees."""
    phantom = Phantom(images, WORLD, seed=TRUTH_SEED)
    rows = np.arange(images)
    before = {t.name: t.model.probabilities(phantom.images(rows)).numpy() for t in trained}
    found: dict[str, dict[str, float]] = {t.name: {} for t in trained}
    for contrast in default_contrasts(phantom.graph, phantom.world.content.shifts):
        name = contrast.attribute
        new, sign = contrast.apply(phantom.graph.attributes[name], phantom.attributes[name])
        moved = phantom.counterfactual(phantom.attributes.assign(**{name: new}))
        for t in trained:
            change = (t.model.probabilities(moved).numpy() - before[t.name]) * sign
            found[t.name][name] = float(change[sign != 0].mean())
    return pd.DataFrame.from_dict(found, orient="index")


def audits(
    trained: Sequence[Trained], name: str, editor: Editor, phantom: Phantom, images: int, seed: int
) -> tuple[dict[str, ShortcutReport], float]:
    """One report a target; seconds."""
    begun = time.monotonic()
    reader, contrasts = ProbeReader.from_shipped(), default_contrasts(phantom.graph, phantom.world.content.shifts)
    reports = {}
    for target in TARGETS:
        models = {t.name: t.model for t in trained if t.target == target}
        if models:
            audit = ShortcutAudit(
                phantom.graph, target, [reader], interventions=contrasts, smallest_effect=DELTA, n_edited=images
            )
            reports[target] = audit.run(models, {name: editor}, phantom, seed=seed)
    return reports, time.monotonic() - begun


def no_editor(reliance: pd.DataFrame) -> pd.DataFrame:
    """The rows ranked by the association of unedited scores with the attribute given the label, by the same formula."""

    def one(rows: pd.DataFrame) -> pd.DataFrame:
        confidence = 1 - benjamini_yekutieli(rows["association_p"].to_numpy())
        score = (rows["association"].abs() * rows["prevalence"] * confidence).fillna(0.0)
        order = rows.assign(score=score).sort_values(["score", "contrast"], ascending=[False, True], kind="stable")
        return order.assign(rank=range(1, len(order) + 1))

    return pd.concat([one(rows) for _, rows in reliance[~reliance["legitimate"]].groupby("model", sort=False)])


def summarise(
    trained: Sequence[Trained], ranked: Mapping[str, pd.DataFrame], truth: pd.DataFrame, *, delta: float = DELTA
) -> dict[str, Any]:
    """Figures of one way to rank.

    Args:
        trained: the classifiers.
        ranked: target -> rows with ``model``, ``attribute``, ``rank``, ``score``.
        truth: of :func:`true_gains`.
        delta: a true gain that counts.
    """
    first = {}
    for rows in ranked.values():
        top = rows[rows["rank"] == 1]
        first |= dict(zip(top["model"], zip(top["attribute"], top["score"], strict=True), strict=True))
    planted = np.array([bool(t.shortcut) for t in trained])
    scores = np.array([first[t.name][1] for t in trained])
    right = np.array([first[t.name][0] == t.attribute for t in trained])
    gains = [truth.loc[t.name].drop(t.target).abs() for t in trained]
    relies = np.array([g.max() >= delta for g in gains])
    taken = np.array(
        [bool(t.shortcut) and g.get(t.attribute, 0.0) >= delta for t, g in zip(trained, gains, strict=True)]
    )
    largest = np.array([first[t.name][0] == g.idxmax() for t, g in zip(trained, gains, strict=True)])
    return {
        **_auroc("auroc", scores, planted),
        "ranked_first": round(float(right[planted].mean()), 4),
        "ranked_first_interval": rate(int(right[planted].sum()), int(planted.sum()))["interval"],
        "ranked_first_taken_up": _share(right[taken]),
        **_auroc("auroc_by_truth", scores, relies),
        "ranked_first_by_truth": _share(largest[relies]),
        "by_shortcut": {
            shortcut: _share(right[np.array([t.shortcut == shortcut for t in trained])])
            for shortcut in PLANTED
            if any(t.shortcut == shortcut for t in trained)
        },
        "wrong": {
            t.name: f"{t.target}: {first[t.name][0]}, not {t.attribute}"
            for t, ok in zip(trained, right, strict=True)
            if t.shortcut and not ok
        },
    }


def _auroc(name: str, scores: np.ndarray, positive: np.ndarray) -> dict[str, Any]:
    """AUROC and its interval; ``None`` without both kinds."""
    if positive.all() or not positive.any():
        return {name: None, f"{name}_interval": None}
    found = concordance(scores, positive, np.arange(len(scores)))
    return {name: round(found.value, 4), f"{name}_interval": [round(end, 4) for end in found.interval()]}


def _share(right: np.ndarray) -> dict[str, Any]:
    return {"share": round(float(right.mean()), 4) if len(right) else None, "of": len(right)}


def verdicts(reports: Mapping[str, ShortcutReport], trained: Sequence[Trained], truth: pd.DataFrame) -> dict[str, Any]:
    """How often each verdict is given where the true gain counts, and where it does not; gains beside true ones."""
    rows = pd.concat([report.reliance for report in reports.values()])
    rows = rows[~rows["legitimate"]]
    true = np.array([truth.loc[m, a] for m, a in zip(rows["model"], rows["attribute"], strict=True)])
    kinds = np.where(np.abs(true) >= DELTA, "true gain counts", "true gain does not count")
    counts = {str(kind): mine["verdict"].value_counts().to_dict() for kind, mine in rows.groupby(kinds)}
    inside = (rows["gain_low"] <= true) & (true <= rows["gain_high"])
    return {
        "verdicts": counts,
        "gain_error": round(float((rows["gain"] - true).abs().mean()), 4),
        "gain_correlation": round(float(np.corrcoef(rows["gain"], true)[0, 1]), 4),
        "intervals_hold_true_gain": round(float(inside.mean()), 4),
    }


def classifiers(
    seeds: int, clean: int, first_seed: int, targets: Sequence[str] = TARGETS, learners: Sequence[str] = LEARNERS
) -> list[Trained]:
    """``seeds`` classifiers a target, shortcut and learner, and ``clean`` a target and learner; every one on its own images."""
    made: list[Trained] = []
    jobs = [(t, s, a, k) for t in targets for s in PLANTED for a in learners for k in range(seeds)]
    jobs += [(t, "", a, k) for t in targets for a in learners for k in range(clean)]
    for i, (target, shortcut, learner, _) in enumerate(jobs):
        made.append(train(target, shortcut, learner, STRENGTHS[i % len(STRENGTHS)], first_seed + i))
        print(f"{i + 1} of {len(jobs)}: {target}: {made[-1].name}, {made[-1].seconds:.1f} s", flush=True)
    return made


def main() -> None:
    """Train, measure the truth, audit, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--editors", nargs="*", default=(ORACLE, DIFFUSION), help=f"{ORACLE}, or of benchmarks/editors.py"
    )
    parser.add_argument("--targets", nargs="*", choices=TARGETS, default=TARGETS)
    parser.add_argument("--learners", nargs="*", choices=LEARNERS, default=LEARNERS)
    parser.add_argument("--seeds", type=int, default=1, help="planted classifiers a target, shortcut and learner")
    parser.add_argument("--clean", type=int, default=4, help="clean classifiers a target and learner")
    parser.add_argument("--first-seed", type=int, default=1_000, help="of the training images")
    parser.add_argument("--images", type=int, default=128, help="edited images an audit")
    parser.add_argument("--unedited", type=int, default=800)
    parser.add_argument("--truth", type=int, default=400, help="images of the true gains")
    parser.add_argument("--seed", type=int, default=0, help="of the audits")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    phantom = Phantom(options.unedited, WORLD, seed=AUDIT_SEED + options.seed)
    editors = {  # first, as a name that is none should not cost the classifiers
        name: OracleEditor(phantom) if name == ORACLE else fitted_editor(name, World.load(WORLD))
        for name in options.editors
    }
    trained = classifiers(options.seeds, options.clean, options.first_seed, options.targets, options.learners)
    truth = true_gains(trained, options.truth)
    planted = [t for t in trained if t.shortcut]
    clean = [t for t in trained if not t.shortcut]
    taken = [t for t in planted if abs(truth.loc[t.name, t.attribute]) >= DELTA]
    relying = {
        t.name: {a: round(float(g), 3) for a, g in truth.loc[t.name].drop(t.target).items() if abs(g) >= DELTA}
        for t in clean
    }
    summary: dict[str, Any] = {
        "classifiers": {"planted": len(planted), "clean": len(clean), "seconds_a_fit": round(np.mean([t.seconds for t in trained]), 1)},
        "taken_up": {"count": len(taken), "of": len(planted),
                     "not": {f"{t.target}: {t.name}": round(float(truth.loc[t.name, t.attribute]), 3) for t in planted if t not in taken}},
        "clean_relying": {"count": sum(bool(found) for found in relying.values()), "of": len(clean),
                          "which": {name: found for name, found in relying.items() if found}},
        "delta": DELTA, "images": options.images,
    }  # fmt: skip
    for editor, made in editors.items():
        reports, seconds = audits(trained, editor, made, phantom, options.images, options.seed)
        ranked = {target: report.ranked() for target, report in reports.items()}
        summary[editor] = (
            summarise(trained, ranked, truth) | verdicts(reports, trained, truth) | {"seconds": round(seconds, 1)}
        )
        rival = {target: no_editor(report.reliance) for target, report in reports.items()}
        summary["no_editor"] = summarise(trained, rival, truth)
        show(editor, summary)
        headline = {
            "auroc": summary[editor]["auroc"],
            "ranked_first": summary[editor]["ranked_first"],
            "editor": editor,
        }
        record(options.json, seed=options.seed, summary=headline | summary)  # the last editor's are the headline


def show(editor: str, summary: Mapping[str, Any]) -> None:
    """The figures of an editor beside those without one."""
    for name in (editor, "no_editor"):
        found = summary[name]
        print(f"{name}: AUROC {found['auroc']} {found['auroc_interval']}, ranked first {found['ranked_first']:.3f} "
              f"{found['ranked_first_interval']}, by truth {found['auroc_by_truth']}, {found['ranked_first_by_truth']}; {found['wrong']}",
              flush=True)  # fmt: skip
    print(summary[editor]["verdicts"], summary["taken_up"], summary["clean_relying"], flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    main()
