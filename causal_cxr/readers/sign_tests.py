"""Why a sign that was found without a name is none: not moved, an attribute's look, made of others, named already."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from causal_cxr.readers.changes import Changes
from causal_cxr.readers.component_settings import ComponentSearch
from causal_cxr.readers.latent_sign import LatentSign
from causal_cxr.readers.places import Axes

TRACE_COMPONENTS = 40  #: principal components in which a trace is looked for
TRACED = 12  #: patients at least, on either side of a comparison
FOLDS = 5


@dataclass(frozen=True)
class SignTests:
    """What a sign must pass on its own, and beside others; each answer says why not, or is ``""``.

    Attributes:
        changes: edited and null edits, in features as they came.
        features: ``(n, d)`` of unedited images.
        attributes: ``(n, p)`` their labelled attributes as centred numbers.
        looks: ``(n, r)`` scores of what reads these.
        named: concept -> ``(n,)`` scores of what reads it already.
        patients: ``(n,)`` ids.
        search: settings.
        seed: the only source of chance.
    """

    changes: Changes
    features: np.ndarray
    attributes: np.ndarray
    looks: np.ndarray
    named: Mapping[str, np.ndarray]
    patients: np.ndarray
    search: ComponentSearch
    seed: int

    def effects(self, sign: LatentSign) -> dict[str, tuple[float, float]]:
        """Oriented mean change of the sign's posterior under each intervention, with its patient-clustered standard error."""
        changes = self.changes
        change = expit(sign.logits(changes.edited)) - expit(sign.logits(changes.null))
        change = change * changes.orientation
        effects = {}
        for contrast in dict.fromkeys(changes.contrast.tolist()):
            mine = changes.contrast == contrast
            mean, count = float(change[mine].mean()), int(mine.sum())
            sums = np.bincount(np.unique(changes.patients[mine], return_inverse=True)[1], change[mine] - mean)
            clusters = len(sums)
            factor = np.sqrt(clusters / (clusters - 1)) if clusters > 1 else np.inf
            effects[str(contrast)] = (mean, float(factor * np.sqrt((sums**2).sum()) / count))
        return effects

    def not_moved(self, effect: tuple[float, float], contrast: str) -> str:
        """No intervention changes how frequent it is."""
        value, se = effect
        if abs(value) - 1.96 * se > self.search.smallest_effect:
            return ""
        return f"not moved: {contrast} by {value:+.2f} ± {1.96 * se:.2f}"

    def chance(self, selection: float) -> str:
        """Other patients do not lead to it."""
        return "" if selection >= self.search.selected else f"found again in {selection:.0%} of the resamples only"

    def look(self, present: np.ndarray, effect: float, contrast: str) -> str:
        """It is a labelled attribute's own look, not something that goes with it."""
        if abs(effect) > self.search.wholly:
            return f"a look of what {contrast} sets: it moves {abs(effect):.0%} of the images"
        share = self._explained(present, [])
        if share > self.search.explained:
            return f"a look of the labelled attributes, which explain {share:.0%} of it"
        # Labels may be wrong; what reads the attribute from the image then tells its levels better.
        labels = [column > column.mean() for column in self.attributes.T if len(np.unique(column)) == 2]
        for upper in (*labels, *(self.looks.T > 0.5)):
            if min(_sides(upper, self.patients)) < TRACED:
                continue
            for shows in (present, 1 - present):
                shares = sorted((float(shows[upper].mean()), float(shows[~upper].mean())))
                if shares[0] < self.search.exclusive * shares[1]:
                    return f"a look of a labelled attribute: at its other level it shows in {shares[0]:.1%} instead of {shares[1]:.0%}"
        return ""

    def stayed(self, sign: LatentSign, contrast: str, columns: np.ndarray) -> str:
        """It has not come or gone, but moved out of its place, or looks otherwise: then it leaves a trace.

        Images in which the intervention hides the sign are told from those in which it was hidden before, both as edited, by
        a logistic regression on other folds; and images in which it will show from those in which it will not, both as null edits.
        What has really gone cannot be told from what was never there.

        Args:
            sign: its detector.
            contrast: the intervention that moves it most.
            columns: of the features, where it shows.
        """
        told = []
        for pairs in self._turned(contrast):
            for source, goal in ((pairs.null, pairs.edited), (pairs.edited, pairs.null)):
                lacked, hidden = sign.logits(source) < 0, sign.logits(goal) < 0
                was, who = ~lacked[hidden], pairs.patients[hidden]
                had, had_not = _sides(was, who)
                if had >= TRACED > had_not and _sides(lacked, pairs.patients)[0] >= 2 * TRACED:
                    told.append(1.0)  # what lacked it has it now: whatever lacks it now had it
                elif min(had, had_not) >= TRACED:
                    told.append(self._told(goal[hidden], was, who, columns))
        if not told or min(told) <= self.search.trace:
            return ""
        return f"moved, or of another look, under {contrast}, not gone: where it is hidden it can be told (AUROC {min(told):.2f})"

    def kinds(self, sign: LatentSign, contrast: str, columns: np.ndarray) -> np.ndarray | None:
        """Whether an intervention takes away another kind of what the sign is than it leaves: then it is two signs in one.

        Images that keep the sign are told from those that lose it, both as they are while they have it, by a logistic
        regression on other folds. Which images lose what is one thing is chance, or up to the labelled attributes.

        Args:
            sign: its detector.
            contrast: the intervention that moves it most.
            columns: of the features, where it shows.

        Returns:
            ``(n,)`` of the unedited images, whether what they have is of the kind that goes, if it is there at all; ``None``
            where it is one thing, or too few patients tell.
        """
        there, goes, told = [], [], []
        for pairs in self._turned(contrast):
            shows = [sign.logits(side) > 0 for side in (pairs.null, pairs.edited)]
            had, has = (0, 1) if shows[0].sum() > shows[1].sum() else (1, 0)
            images, left = (pairs.null, pairs.edited)[had][shows[had]], ~shows[has][shows[had]]
            there.append(images)
            goes.append(left)
            who = pairs.patients[shows[had]]
            if min(_sides(left, who)) >= TRACED:
                told.append(self._told(images, left, who, columns))
        if not told or min(told) <= self.search.kinds:
            return None
        axes = Axes.fit(self.features, columns, TRACE_COMPONENTS)
        model = _classifier().fit(axes.scores(np.concatenate(there)), np.concatenate(goes))
        gone: np.ndarray = model.predict(axes.scores(self.features)).astype(bool)
        return gone

    def mixture(self, present: np.ndarray, others: Sequence[np.ndarray]) -> str:
        """It is made of other signs and attributes, as "portable, but no marker"."""
        if not others:
            return ""
        share = self._explained(present, others)
        return (
            f"a mixture of other components, which explain {share:.0%} of it" if share > self.search.explained else ""
        )

    def name(self, present: np.ndarray) -> str:
        """A reader has a name for it."""
        likeness = {name: correlation(present, scores) for name, scores in self.named.items() if scores.std() > 0}
        nearest = max(likeness, key=likeness.__getitem__, default=None)
        if nearest is None or likeness[nearest] < self.search.named:
            return ""
        return f"read already as {nearest} (correlation {likeness[nearest]:.2f})"

    def _explained(self, present: np.ndarray, others: Sequence[np.ndarray]) -> float:
        """Share of the variance of a sign's presence that the rest explains, on patients left out of the fit."""
        from sklearn.ensemble import RandomForestRegressor
        from sklearn.model_selection import GroupKFold, cross_val_predict

        shown = np.column_stack([self.attributes, self.looks, *others])
        if not shown.shape[1]:
            return 0.0
        forest = RandomForestRegressor(30, min_samples_leaf=10, random_state=self.seed)
        said = cross_val_predict(forest, shown, present, groups=self.patients, cv=GroupKFold(3))
        return float(1 - np.mean((present - said) ** 2) / max(float(present.var()), 1e-12))

    def _turned(self, contrast: str) -> list[Changes]:
        """The pairs of an intervention, either way."""
        mine = self.changes.contrast == contrast
        turns = np.sign(self.changes.orientation)
        return [self.changes.of(np.flatnonzero(mine & (turns == turn))) for turn in (-1, 1)]

    def _told(self, images: np.ndarray, truth: np.ndarray, patients: np.ndarray, columns: np.ndarray) -> float:
        """AUROC with which images are told apart by some of their features, on patients left out of the fit."""
        from sklearn.metrics import roc_auc_score
        from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

        axes = Axes.fit(self.features, columns, TRACE_COMPONENTS)
        said = cross_val_predict(
            _classifier(), axes.scores(images), truth, groups=patients, method="predict_proba",
            cv=StratifiedGroupKFold(FOLDS, shuffle=True, random_state=self.seed),
        )  # fmt: skip
        return float(roc_auc_score(truth, said[:, 1]))


def _sides(these: np.ndarray, patients: np.ndarray) -> tuple[int, int]:
    """How many patients have some of these images, and how many have others."""
    return len(np.unique(patients[these])), len(np.unique(patients[~these]))


def _classifier() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.02, class_weight="balanced", max_iter=500))


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Size of the correlation of two scores of the same images."""
    return abs(float(np.corrcoef(one, other)[0, 1]))
