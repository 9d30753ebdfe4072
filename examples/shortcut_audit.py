"""Train a classifier into a shortcut, and have the audit name it, and what carries it.

    python examples/shortcut_audit.py [--images 200] [--out FOLDER]

In the training images AP views (with the portable marker and ECG leads that come with them) go with effusions. The audited
images are of other patients. Edits are the phantom's own truth, so that the concepts that no column names can be set alone.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from causal_cxr import Phantom, ShortcutAudit, World
from causal_cxr.audits import ShortcutReport, as_predictor
from causal_cxr.editors import OracleEditor
from causal_cxr.readers import Pixels, ProbeReader


def training_images(n: int, seed: int) -> Phantom:
    """``portable`` with nothing going with anything, but views with effusions, and marks with views."""
    portable = World.load("portable")
    free = portable.independent()
    marks = {name: portable.to_dict()["mechanisms"][name] for name in ("portable_marker", "ecg_leads")}
    view = {"logistic": {"bias": -2.5, "weights": {"effusion": 5.0}}}
    return Phantom(n, free.changed(mechanisms={**free.to_dict()["mechanisms"], **marks, "view": view}), seed=seed)


def audited(images: int, training: int, out: Path | None) -> ShortcutReport:
    """Train on some patients, audit on others."""
    fit, dataset = training_images(training, seed=1), Phantom(3 * images, "portable", seed=2)
    features, present = Pixels(), (fit.attributes["effusion"] == 1).to_numpy()
    X = features.features(fit.images(np.arange(training))).numpy()
    classifier = make_pipeline(PCA(100, random_state=0), LogisticRegression(C=0.1, max_iter=500)).fit(
        X, present.astype(int)
    )
    model = as_predictor(classifier, "effusion", features=features, fitted_on=frozenset(fit.patients))
    audit = ShortcutAudit(
        dataset.graph, target="effusion", readers=[ProbeReader.from_shipped()],
        carriers={"view": ["portable_marker", "ecg_leads", "laterality_marker"]}, n_edited=images,
    )  # fmt: skip
    return audit.run({"classifier": model}, OracleEditor(dataset), dataset, seed=0, out=out)


def main() -> None:
    """Train, audit, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="to edit")
    parser.add_argument("--training", type=int, default=1_500)
    parser.add_argument("--out", type=Path, help="folder for shortcuts.html and its like")
    options = parser.parse_args()
    report = audited(options.images, options.training, options.out)
    print(*report.ranked()["sentence"], sep="\n")
    print(*report.carriers["sentence"], sep="\n")


if __name__ == "__main__":
    main()
