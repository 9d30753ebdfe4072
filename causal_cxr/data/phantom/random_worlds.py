"""Worlds drawn at random, for benchmarks that no one has tuned an audit to."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from causal_cxr.data.phantom.world import World

DEMOGRAPHIC = ("age", "sex", "weekday")
DISEASE = ("cardiomegaly", "effusion", "pneumothorax", "pneumonia", "oedema", "nodule")
ACQUISITION = ("view",)
HIDDEN = (
    "pacemaker", "icd", "chest_drain", "central_line", "endotracheal_tube", "nasogastric_tube", "ecg_leads",
    "sternal_wires", "laterality_marker", "arrow_stamp", "portable_marker", "collimation_border", "arms",
    "breast_implant", "jewellery", "exposure_style", "control_dot", "control_bar", "control_ring",
)  # fmt: skip
#: What captions call the levels of attributes, as in the named worlds: an editor that knows one world's words knows all.
WORDS: dict[str, dict[Any, list[str] | str]] = {
    "sex": {"male": ["man", "male"], "female": ["woman", "female"]},
    "weekday": {"weekday": ["on a weekday", "during the week"], "weekend": ["at the weekend", "on a weekend"]},
    "cardiomegaly": {0: ["normal heart", "heart not enlarged"], 1: ["cardiomegaly", "enlarged heart"]},
    "effusion": {0: ["no effusion", "clear bases"], 1: ["pleural effusion", "effusion"]},
    "pneumothorax": {0: ["no pneumothorax", "lung fully expanded"], 1: ["pneumothorax", "collapsed lung"]},
    "pneumonia": {0: ["no pneumonia", "clear lungs"], 1: ["pneumonia", "consolidation"]},
    "oedema": {0: ["no oedema", "no congestion"], 1: ["pulmonary oedema", "congestion"]},
    "nodule": {0: ["no nodule", "no mass"], 1: ["nodule", "lung nodule"]},
    "view": {"PA": ["PA view", "PA projection"], "AP": ["AP view", "AP projection"]},
    "ecg_leads": {0: "no ECG leads", 1: "ECG leads"},
    "exposure_style": {"standard": "standard exposure", "hard": "hard exposure"},
}
YEARS = ["{value:.0f} year old", "aged {value:.0f}"]
LOWEST, HIGHEST = 0.25, 0.75  #: no attribute is rarer or more frequent


def random_world(
    seed: int,
    *,
    labelled: int = 6,
    hidden: int = 8,
    density: float = 0.25,
    strength: float = 2.5,
    confounding: float = 0.15,
    reverse: float = 0.1,
    images: tuple[int, int] = (1, 3),
) -> "World":
    """A world with a random graph and random mechanisms.

    Labelled attributes are drawn in three tiers, demographics, diseases, acquisition; causes come before effects.

    Args:
        seed: of everything.
        labelled: attributes with a column, 2 to 10.
        hidden: attributes without one, all of which show, 1 to 19.
        density: probability of an edge between two labelled attributes of which one may cause the other, and of one from a
            labelled to a hidden attribute.
        strength: edges have weights of this size, give or take a fifth, of either sign (half of it among labelled ones).
        confounding: probability that a hidden attribute without causes shares a latent cause with a labelled disease.
        reverse: probability that a hidden attribute without causes is itself the cause of a labelled one.
        images: fewest and most a patient.

    Raises:
        ValueError: more attributes than there are, or fewer than it takes.
    """
    from causal_cxr.data.phantom.world import World

    most = len(DEMOGRAPHIC) + len(DISEASE) + len(ACQUISITION)
    if not 2 <= labelled <= most or not 1 <= hidden <= len(HIDDEN):
        raise ValueError(
            f"A random world has 2 to {most} labelled and 1 to {len(HIDDEN)} hidden attributes; got {labelled}, {hidden}."
        )
    rng = np.random.default_rng([seed, 2])
    names = _labelled(labelled, rng)
    concealed = [HIDDEN[i] for i in sorted(rng.permutation(len(HIDDEN))[:hidden])]
    causes: dict[str, dict[str, float]] = {name: {} for name in (*names, *concealed)}
    settled = set(DEMOGRAPHIC)  # nothing causes age, sex or the day

    def weight(size: float) -> float:
        return round(float(rng.choice([-1, 1]) * size * rng.uniform(0.8, 1.2)), 2)

    for i, effect in enumerate(names):
        for cause in names[:i]:
            if effect not in settled and cause != "weekday" and rng.uniform() < density:
                causes[effect][cause] = weight(strength / 2)
    confounded: list[dict[str, Any]] = []
    order = list(names)
    for thing in concealed:
        for cause in names:
            if cause != "weekday" and rng.uniform() < density / 2:
                causes[thing][cause] = weight(strength)
        targets = [name for name in names if name in DISEASE]
        if causes[thing] or not targets or thing.startswith("control_"):
            order.append(thing)
            continue
        target, chance = str(rng.choice(targets)), rng.uniform()
        if chance < confounding:
            confounded.append({"pair": [target, thing], "strength": [round(0.8 * strength, 2)] * 2})
            order.append(thing)
        elif chance < confounding + reverse:
            causes[target][thing] = weight(strength)
            order.insert(0, thing)
        else:
            order.append(thing)
    mechanisms = {name: _mechanism(name, causes[name], rng) for name in (*names, *concealed)}
    attributes = [_attribute(name, name in concealed) for name in (*names, *concealed)]
    return World.from_dict(
        {
            "name": f"random-{seed}", "story": "Drawn at random.", "graph": {"attributes": attributes},
            "mechanisms": mechanisms, "confounding": confounded, "shifts": {"age": 20.0} if "age" in names else {},
            "patients": {"images": list(images), "same": [n for n in ("age", "sex") if n in names],
                         "shared": {n: 0.3 for n in names if n in DISEASE}},
            "scene": {"bmi": {"value": 26, "spread": 3}},
        }
    )  # fmt: skip


def _labelled(count: int, rng: np.random.Generator) -> list[str]:
    """Names in causal order: the view always, then age, then others at random."""
    others = (*DEMOGRAPHIC[1:], *DISEASE)
    picked = {"view", "age", *(others[i] for i in rng.permutation(len(others))[: count - 2])}
    return [name for name in (*DEMOGRAPHIC, *DISEASE, *ACQUISITION) if name in picked]


def _attribute(name: str, concealed: bool) -> dict[str, Any]:
    if name == "age":
        return {"name": name, "type": "continuous", "unit": "years", "low": 20, "high": 90, "phrases": YEARS}
    thing = name.replace("_", " ")
    words = WORDS.get(name, {0: f"no {thing}", 1: thing})
    return {"name": name, "type": "binary", "hidden": concealed, "levels": list(words), "phrases": words}


def _mechanism(name: str, causes: dict[str, float], rng: np.random.Generator) -> dict[str, Any]:
    """Uniform age; else logistic, with the bias that makes the attribute about as frequent as drawn."""
    if name == "age":
        return {"uniform": {}}
    frequency = float(rng.uniform(LOWEST, HIGHEST))
    # Causes are about half there, numbers centred on 0: half of the levelled weights is what they add on average.
    pull = sum(w / 2 for cause, w in causes.items() if cause != "age")
    return {"logistic": {"bias": round(float(np.log(frequency / (1 - frequency)) - pull), 3), "weights": causes}}
