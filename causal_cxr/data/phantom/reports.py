"""A report for each phantom: what a radiologist would dictate, hidden things included, some left out."""

import numpy as np
import pandas as pd

P_MENTION_PRESENT = 0.9  #: a thing that shows is mentioned this often
P_MENTION_ABSENT = 0.3  #: the absence of a thing is remarked on this often

_PRESENT = {
    "pacemaker": ("pacemaker in place", "a pacemaker is seen"),
    "chest_drain": ("chest drain in situ", "a chest drain is seen"),
    "ecg_leads": ("ECG leads overlie the chest", "ECG leads are seen"),
    "laterality_marker": ("laterality marker in the corner", "a laterality marker is seen"),
    "portable_marker": ("portable marker at the top", "a portable marker is seen"),
    "control_dot": ("corner dot", "a corner dot is seen"),
    "control_bar": ("corner bar", "a corner bar is seen"),
    "control_ring": ("side ring", "a side ring is seen"),
    "cardiomegaly": ("cardiomegaly", "the heart is enlarged"),
    "effusion": ("pleural effusion", "an effusion is seen"),
}
_ABSENT = {
    "pacemaker": "no pacemaker",
    "chest_drain": "no chest drain",
    "ecg_leads": "no ECG leads",
    "laterality_marker": "no laterality marker",
    "portable_marker": "no portable marker",
    "control_dot": "no corner dot",
    "control_bar": "no corner bar",
    "control_ring": "no side ring",
    "cardiomegaly": "the heart is not enlarged",
    "effusion": "no effusion",
}


def report_sentences(attributes: pd.DataFrame, hidden: pd.DataFrame, rng: np.random.Generator) -> pd.Series:
    """One report an image, e.g. ``"AP view of a man aged over 60 . cardiomegaly . no effusion . ECG leads are seen"``.

    Args:
        attributes: labelled table of a phantom.
        hidden: 0/1 table of its hidden attributes.
        rng: chooses wording, order and omissions.
    """
    things = pd.concat([attributes[["cardiomegaly", "effusion"]].astype(int), hidden], axis=1)
    mention, wording = rng.uniform(size=things.shape), rng.integers(0, 2, size=things.shape)
    texts, shows = [], things.to_numpy()
    for i, (age, sex, view) in enumerate(attributes[["age", "sex", "view"]].itertuples(index=False)):
        band = "aged over 60" if age > 60 else "aged 60 or under"
        parts = [f"{view} view of a {'woman' if sex == 'female' else 'man'} {band}"]
        findings = []
        for j, name in enumerate(things.columns):
            if shows[i, j] and mention[i, j] < P_MENTION_PRESENT:
                findings.append(_PRESENT[name][wording[i, j]])
            elif not shows[i, j] and mention[i, j] < P_MENTION_ABSENT:
                findings.append(_ABSENT[name])
        rng.shuffle(findings)
        texts.append(" . ".join(parts + findings))
    return pd.Series(texts, name="text")
