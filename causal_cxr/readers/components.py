"""``ComponentReader``: reads signs that have no name, found by what interventions move; frozen before it is tested."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy.special import expit
from torch import Tensor

from causal_cxr.data.patients import fitted_on_all, pack, unpack
from causal_cxr.data.whole_file import write_json
from causal_cxr.readers.component_search import Found
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.concordance import Z, clustered_error
from causal_cxr.readers.features import Features
from causal_cxr.readers.probe import ProbeReader
from causal_cxr.readers.quality import COLUMNS, ReaderQuality

COMPONENTS, PROBE = "components.json", "probe"
Region = tuple[float, float, float, float]  #: top, left, bottom, right, as fractions of the image


@dataclass(frozen=True)
class Component:
    """What is known of a sign without a name.

    Attributes:
        name: ``unnamed 1 (view)``: its number, and the attribute whose intervention moves it most.
        attribute, contrast: that intervention.
        effect, se: by how much it changes the sign's prevalence, oriented, on the patients it was found on.
        prevalence: share of their unedited images with the sign (which of the two classes counts as present is the rarer).
        separation: squared Mahalanobis distance of present and absent.
        selection: share of the resampled halves of the patients in which it was found again.
        phrases: (name, margin) of the nearest ones, the nearest first: how much stronger the phrase becomes in images where
            the sign appears than in others under the same intervention, in standard deviations (negative: weaker; the sign is
            then that it is absent). Its lead over the next is what the naming is worth.
        regions: (top, left, bottom, right) as fractions of the image, where it changes most surely, the surest first: two of
            a thing on either side; none if not known.
    """

    name: str
    attribute: str
    contrast: str
    effect: float
    se: float
    prevalence: float
    separation: float
    selection: float
    phrases: tuple[tuple[str, float], ...] = ()
    regions: tuple[Region, ...] = ()


class ComponentReader:
    """Linear detectors on frozen features, one a component.

    Args:
        probe: the detectors, as a probe of one fold.
        components: what they read, in the order of the probe's concepts.
        fitted_on: patients on which they were found; ``None`` when unknown.

    Attributes:
        fingerprint: of features, detectors and the patients they were found on: what is kept to show that nothing was
            changed after the other patients were looked at. Phrases and regions are no part of it.

    Raises:
        ValueError: other names than the probe's.
    """

    def __init__(
        self, probe: ProbeReader, components: Sequence[Component], fitted_on: frozenset[str] | None = None
    ) -> None:
        if [c.name for c in components] != [c.name for c in probe.concepts]:
            raise ValueError(
                f"The probe reads {[c.name for c in probe.concepts]}, the components are {[c.name for c in components]}."
            )
        self.probe, self.components, self.fitted_on = probe, tuple(components), fitted_on
        self.name, self.concepts, self.quality = probe.name, probe.concepts, probe.quality
        digest = hashlib.sha256(probe.fingerprint.encode() + json.dumps(pack(fitted_on)).encode())
        self.fingerprint = digest.hexdigest()[:16]

    @classmethod
    def from_found(
        cls,
        found: Iterable[Found],
        features: Features,
        unedited: np.ndarray,
        patients: Sequence[str],
        *,
        image_patients: Sequence[str] | None = None,
        name: str = "unnamed",
    ) -> "ComponentReader":
        """Freeze the components that were kept.

        Args:
            found: by :func:`~causal_cxr.readers.find_components`; those with a verdict are left out.
            features: that they were found in.
            unedited: ``(n, d)`` these features of unedited images of the same patients: the reader's slope comes from them,
                by the latent-class model itself, since nobody has labels (Hui & Walter, Biometrics 1980, estimate error
                rates alike without a gold standard). Everything else about its quality is unknown.
            patients: all ids that were looked at.
            image_patients: ``(n,)`` whose image each row of ``unedited`` is: the slope's error counts the images of a patient
                together. Unless given, every image counts as a patient of its own, and the error is too small where it is not.
            name: of the reader.

        Raises:
            ValueError: ``image_patients`` has not one id a row.
        """
        groups = pd.factorize(np.arange(len(unedited)) if image_patients is None else np.asarray(image_patients))[0]
        if len(groups) != len(unedited):
            raise ValueError(
                f"There are {len(groups)} image_patients for {len(unedited)} unedited images; give one an image."
            )
        kept = [f for f in found if not f.verdict]
        components = [
            Component(f"{name} {i} ({f.attribute})", f.attribute, f.contrast, f.effect, f.se, f.sign.prevalence,
                      f.sign.separation, cast("float", f.selection))  # a kept one has been resampled
            for i, f in enumerate(kept, start=1)
        ]  # fmt: skip
        concepts = [Concept(c.name, (c.name,), (f"no {c.name}",)) for c in components]
        width = unedited.shape[1]
        weights = np.ascontiguousarray(np.array([f.sign.weights for f in kept]).reshape(-1, width).T[None])
        bias = np.array([f.sign.offset for f in kept])[None]
        probe = ProbeReader(concepts, weights, bias, {}, features=features, name=name,
                            quality=_quality(concepts, expit(unedited @ weights[0] + bias[0]), groups))  # fmt: skip
        everyone = frozenset(str(p) for p in patients)
        return cls(probe, components, fitted_on_all([features.fitted_on, everyone]))

    def read(self, images: Tensor, patients: Sequence[str] | None = None) -> Tensor:
        """``(n, k)`` probabilities that each sign is there; ``patients`` make no difference."""
        return self.probe.read(images)

    def read_features(self, features: np.ndarray) -> np.ndarray:
        """The same from features that were computed before: ``(n, d)`` -> ``(n, k)``."""
        return expit(features @ self.probe.weights[0].astype(float) + self.probe.bias[0].astype(float))

    def described(self, components: Sequence[Component]) -> "ComponentReader":
        """The same detectors with more said about them: phrases, regions."""
        return ComponentReader(self.probe, components, self.fitted_on)

    def save(self, folder: str | Path) -> Path:
        """Write ``components.json`` and the detectors in ``probe/``.

        Raises:
            TypeError: the features are of a class that is not the package's; see :meth:`ProbeReader.save`.
        """
        folder = Path(folder)
        self.probe.save(folder / PROBE)
        content = {"components": [asdict(c) for c in self.components], "fitted_on": pack(self.fitted_on),
                   "fingerprint": self.fingerprint}  # fmt: skip
        write_json(folder / COMPONENTS, content)
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "ComponentReader":
        """Load what :meth:`save` wrote.

        Raises:
            FileNotFoundError: nothing was saved there.
            ValueError: the detectors are not those that were frozen.
        """
        folder = Path(folder)
        if not (folder / COMPONENTS).is_file():
            raise FileNotFoundError(f"{folder} has no {COMPONENTS}; save there with ComponentReader.save(folder).")
        content = json.loads((folder / COMPONENTS).read_text())
        reader = cls(
            ProbeReader.from_pretrained(folder / PROBE),
            [_component(entry) for entry in content["components"]],
            unpack(content["fitted_on"]),
        )
        if reader.fingerprint != content["fingerprint"]:
            raise ValueError(
                f"{folder} holds other detectors ({reader.fingerprint}) than were frozen there ({content['fingerprint']}); "
                "search anew."
            )
        return reader


def _component(entry: dict[str, Any]) -> Component:
    component = Component(**entry)
    phrases = tuple((str(name), float(margin)) for name, margin in component.phrases)
    return replace(component, phrases=phrases, regions=tuple(cast("Region", tuple(r)) for r in component.regions))


def _quality(concepts: Sequence[Concept], scores: np.ndarray, groups: np.ndarray) -> ReaderQuality:
    """Slope by the model: E[score | present] - E[score | absent], where an image is present with the score's probability.

    Args:
        concepts: the ``k`` columns.
        scores: ``(n, k)``.
        groups: ``(n,)`` patient numbers from 0.
    """
    unknown = ReaderQuality.unknown(concepts)
    table = unknown.concepts.copy()
    for j, concept in enumerate(concepts):
        s = scores[:, j]
        share = float(s.mean())
        slope = float(s.var() / (share * (1 - share)))
        # delta method on (mean of s^2, mean of s)
        influence = (s**2 - 2 * share * s - slope * (1 - 2 * share) * s) / (share * (1 - share))
        se = clustered_error((influence - influence.mean()) / len(s), groups)
        values = {"slope": slope, "slope_se": se, "slope_low": slope - Z * se, "slope_high": slope + Z * se,
                  "prevalence": share}  # fmt: skip
        table.loc[concept.name, list(values)] = list(values.values())
    assert set(table.columns) == set(COLUMNS)
    return ReaderQuality(pd.DataFrame(table), unknown.within, unknown.follows)
