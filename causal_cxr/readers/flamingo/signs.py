"""Signs of phantoms: those that the reader is fitted on, their words, and those held out.

The signs in :data:`HELD_OUT` are in no question of a fit, by name or not, and are drawn in no image that is fitted on.
"""

import numpy as np
import pandas as pd

from causal_cxr.data.phantom import Phantom, World
from causal_cxr.data.phantom.grammar import load_grammar

#: Never drawn, named or asked about in the fit: what the claim "reads a new sign by example" is tested on.
HELD_OUT = ("pacemaker", "chest_drain", "laterality_marker", "control_ring", "portable_marker", "effusion")

NEUTRAL = "this"  #: what a sign without a word is called
MOST_WORDS = 3  #: of a phrase in training
_FINDINGS = ("cardiomegaly", "consolidation", "pneumothorax", "oedema", "nodule")
_THINGS = (
    "icd", "central_line", "endotracheal_tube", "nasogastric_tube", "ecg_leads", "sternal_wires", "breast_implant",
    "jewellery", "arms", "arrow_stamp", "collimation_border", "control_dot", "control_bar",
)  # fmt: skip
_RATE = 0.3  #: how often a thing is there


def training_world() -> World:
    """Every sign but those held out, each an independent coin."""
    attributes = [
        {
            "name": "age",
            "type": "continuous",
            "unit": "years",
            "low": 20,
            "high": 90,
            "phrases": ["{value:.0f} year old"],
        },
        {"name": "bmi", "type": "continuous", "unit": "kg/m2", "low": 18, "high": 42, "phrases": ["BMI {value:.0f}"]},
        {"name": "sex", "type": "binary", "levels": ["male", "female"]},
        {"name": "view", "type": "binary", "levels": ["PA", "AP"]},
        *({"name": name, "type": "binary"} for name in _FINDINGS),
        {"name": "exposure_style", "type": "binary", "levels": ["standard", "hard"], "hidden": True},
        *({"name": name, "type": "binary", "hidden": True} for name in _THINGS),
    ]
    rates = dict.fromkeys([*_FINDINGS, *_THINGS], _RATE) | {"sex": 0.5, "view": 0.5, "exposure_style": 0.5}
    mechanisms: dict[str, dict[str, object]] = {name: {"probability": rate} for name, rate in rates.items()}
    mechanisms |= {"age": {"uniform": {}}, "bmi": {"linear": {"intercept": 27, "sd": 4}}}
    return World.from_dict(
        {
            "name": "flamingo", "story": "What the tiny Flamingo reader is fitted on.", "graph": {"attributes": attributes},
            "mechanisms": mechanisms, "patients": {"images": [1, 1]}, "scene": {"exposure": {"value": 0, "spread": 0.3}},
        }
    )  # fmt: skip


def signs_of(phantom: Phantom) -> pd.DataFrame:
    """``(n, signs)`` 1 / 0 / NaN of every sign of a world, labelled or hidden; the middle of a number is neither."""
    world = phantom.world
    table = world.presence(phantom.codes, (*world.labelled_signs, *world.hidden_signs)).astype(float)
    for sign in world.labelled_signs:
        if sign.above is not None:
            values = phantom.codes[sign.attribute]
            low, high = np.quantile(values, [0.4, 0.6])
            table[sign.name] = np.where(values > high, 1.0, np.where(values < low, 0.0, np.nan))
    return table


def words_for(sign: str) -> tuple[str, ...]:
    """Phrases that name a phantom's sign: those of reports, else its name."""
    name = sign.split(" = ")[0]
    entry = load_grammar()["attributes"].get(name, {})
    said = [phrase for phrase in entry.get("present", []) if len(phrase.split()) <= MOST_WORDS]
    plain = sign.replace(" = 1", "").replace("_", " ").replace(" = ", " ").replace(" > ", " over ")
    return tuple(dict.fromkeys([plain, *said]))
