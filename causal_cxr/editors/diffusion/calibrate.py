"""As much guidance as each attribute needs: an editor that does what it is asked, as held-out patients are read.

A prediction under a caption says what an editor has learnt of it. Of a finding that it has learnt by a third, fitted briefly or to
few patients, it draws a third: an edit that hardly does what is asked shows little of what follows from it, and an audit says so
and refuses. A weight on the attribute's own direction (classifier-free guidance; Ho and Salimans, 2022) makes up for it; what weight,
only readings can tell.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

import numpy as np

from causal_cxr.data.patients import fitted_on_all
from causal_cxr.editors.diffusion.editor import DiffusionEditor
from causal_cxr.editors.diffusion.guidance import ClassifierFree, PerAttribute

NEAR = 0.1  #: an effect so near 1 is as asked
STEP = 2.5  #: a weight is changed by this factor at most before it is read what it does
PREFIX = "effectiveness_"


class Validate(Protocol):
    """Reads what edits do on held-out patients, such as :class:`causal_cxr.audits.validation.Validation`."""

    @property
    def patients(self) -> frozenset[str]:
        """Whose images are edited and read."""
        ...

    @property
    def told(self) -> frozenset[str]:
        """Attributes that are read well enough to tell how far an edit of them goes."""
        ...

    def __call__(self, editor: DiffusionEditor, /, *, attributes: Collection[str]) -> Mapping[str, float]:
        """``effectiveness_A`` of each attribute A of ``attributes``: the change that is read over the change asked for."""
        ...


def calibrated(
    editor: DiffusionEditor, validate: Validate, *, rounds: int = 4, least: float = 0.5, most: float = 4.0
) -> DiffusionEditor:
    """The editor under :class:`~causal_cxr.editors.diffusion.guidance.PerAttribute` guidance, its weights found by reading.

    Each attribute's weight is divided by its effectiveness, read anew, and so on, until it is within 0.1 of 1; of the weights that
    were tried the one with the effectiveness nearest 1 is kept. Attributes that do as asked keep their weight of 1, and so do
    those that an edit moves the wrong way, which no weight mends, and those that are not read well enough to tell. Where the border comes first the editor falls short
    still, as the effectiveness in an audit's report says.

    A weight scales all that the editor has learnt to go with an attribute, wrong associations too. It does not teach it anything.

    Args:
        editor: under no guidance but a caption's own, or under weights of attributes, from which it starts.
        validate: on patients that the editor was not fitted on.
        rounds: how often it is asked, at most; first of the editor as it is, so one round changes nothing.
        least, most: borders of the weights.

    Returns:
        An editor that shares all but the guidance. Its ``fitted_on`` has the patients of ``validate`` too: they chose the
        weights, so they are not to be audited. :meth:`DiffusionEditor.save` writes the weights down.

    Raises:
        ValueError: ``rounds`` is not positive, the borders hold no 1, the editor has a guidance that weights would replace, or
            nothing is read well enough.
    """
    if rounds < 1 or not 0 < least <= 1 <= most:
        raise ValueError(
            f"Guidance is calibrated in rounds >= 1 and within 0 < least <= 1 <= most, got {rounds=}, {least=}, {most=}."
        )
    guidance = editor.guidance
    if isinstance(guidance, PerAttribute) and guidance.default == 1.0:
        weights = dict(guidance.weights)
    elif guidance == ClassifierFree():
        weights = {}
    else:
        raise ValueError(
            f"Calibration would replace the guidance {guidance!r}; pass editor.using(guidance=ClassifierFree())."
        )
    kept: dict[str, tuple[float, float]] = {}  # attribute -> how far its effect is from 1, and the weight
    asked: Collection[str] = validate.told & editor.attributes
    if not asked:
        raise ValueError(
            f"Of what the editor sets, {sorted(editor.attributes)}, nothing is read well enough to choose a weight by; calibrate "
            "with readers whose slopes are known and high, on more labelled patients."
        )
    for _ in range(rounds):
        said = validate(editor.using(guidance=PerAttribute(weights)), attributes=asked)
        effects = {name.removeprefix(PREFIX): value for name, value in said.items() if name.startswith(PREFIX)}
        ahead = dict(weights)
        for name, effect in effects.items():
            now = weights.get(name, 1.0)
            kept[name] = min(kept.get(name, (np.inf, now)), (abs(effect - 1), now))
            if effect > 0 and kept[name][0] > NEAR:
                ahead[name] = float(np.clip(now * np.clip(1 / effect, 1 / STEP, STEP), least, most))
        asked = sorted(name for name in ahead if ahead[name] != weights.get(name, 1.0))
        if not asked:
            break
        weights = ahead
    chosen = {name: kept[name][1] if name in kept else weight for name, weight in weights.items()}
    chosen = {name: weight for name, weight in chosen.items() if weight != 1.0}
    made = editor.using(guidance=PerAttribute(chosen))
    made.fitted_on = fitted_on_all([editor.fitted_on, validate.patients])
    if editor.provenance:
        made.provenance = {**editor.provenance, "guidance": chosen, "weighed_on": validate.patients}
    return made
