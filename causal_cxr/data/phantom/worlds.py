"""Worlds: fully known structural causal models over what a phantom shows, labelled and hidden.

Binary mechanisms are thresholds, ``1[u < sigmoid(bias + sum w * parent)]`` with ``u`` uniform: with the noise kept, every
counterfactual is determined.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import expit

from causal_cxr.graphs import Binary, CausalGraph, Continuous

AGE_LOW, AGE_HIGH = 20.0, 90.0

#: The labelled attributes of every phantom, with the phrases that name their values (two wordings each).
LABELLED = (
    Continuous("age", unit="years", low=AGE_LOW, high=AGE_HIGH, phrases=("{value:.0f} year old", "aged {value:.0f}")),
    Binary("sex", levels=("male", "female"), phrases={"male": ("man", "male"), "female": ("woman", "female")}),
    Binary("view", levels=("PA", "AP"), phrases={"PA": ("PA view", "PA projection"), "AP": ("AP view", "AP projection")}),
    Binary("cardiomegaly", phrases={0: ("normal heart", "heart not enlarged"), 1: ("cardiomegaly", "enlarged heart")}),
    Binary("effusion", phrases={0: ("no effusion", "clear bases"), 1: ("pleural effusion", "effusion")}),
    Binary("weekday", levels=("weekday", "weekend"), phrases={"weekday": ("on a weekday", "during the week"),
                                                              "weekend": ("at the weekend", "on a weekend")}),
)  # fmt: skip

#: What the images show and no column names. The last three are spiked-in controls.
HIDDEN = (
    Binary("pacemaker", hidden=True, phrases={0: "no pacemaker", 1: "pacemaker"}),
    Binary("chest_drain", hidden=True, phrases={0: "no chest drain", 1: "chest drain"}),
    Binary("ecg_leads", hidden=True, phrases={0: "no ECG leads", 1: "ECG leads"}),
    Binary("laterality_marker", hidden=True, phrases={0: "no laterality marker", 1: "laterality marker"}),
    Binary("portable_marker", hidden=True, phrases={0: "no portable marker", 1: "portable marker"}),
    Binary("control_dot", hidden=True, phrases={0: "no corner dot", 1: "corner dot"}),
    Binary("control_bar", hidden=True, phrases={0: "no corner bar", 1: "corner bar"}),
    Binary("control_ring", hidden=True, phrases={0: "no side ring", 1: "side ring"}),
)
HIDDEN_NAMES = tuple(attribute.name for attribute in HIDDEN)
CONTROLS = ("control_dot", "control_bar", "control_ring")
SHOWS = ("age", "sex", "view", "cardiomegaly", "effusion")

#: Noise shared by all images of a patient: what a patient brings along, and the spiked-in marks.
PATIENT_LEVEL = frozenset({"age", "sex", "cardiomegaly", "pacemaker", *CONTROLS})


@dataclass(frozen=True)
class Mechanism:
    """``P(1 | parents) = sigmoid(bias + sum weight * parent)``; a parent ``age`` enters as ``(age - 55) / 20``."""

    bias: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)

    def probability(self, values: Mapping[str, np.ndarray], n: int) -> np.ndarray:
        """``(n,)`` probability of 1 given the parents' codes (age in years)."""
        score = np.full(n, self.bias)
        for parent, weight in self.weights.items():
            score += weight * ((values["age"] - 55.0) / 20.0 if parent == "age" else values[parent])
        return expit(score)


@dataclass(frozen=True)
class World:
    """A named SCM over :data:`LABELLED` and :data:`HIDDEN`; mechanisms in topological order, age uniform."""

    name: str
    story: str
    mechanisms: Mapping[str, Mechanism]

    @property
    def graph(self) -> CausalGraph:
        """What the metadata's owner would declare: the labelled attributes and the arrows among them."""
        names = {attribute.name for attribute in LABELLED}
        edges = [(parent, child) for child, m in self.mechanisms.items() for parent in m.weights if child in names]
        return CausalGraph(LABELLED, [*edges, *((name, "image") for name in SHOWS)])

    @property
    def full_graph(self) -> CausalGraph:
        """The true graph, hidden attributes included."""
        edges = [(parent, child) for child, m in self.mechanisms.items() for parent in m.weights]
        return CausalGraph((*LABELLED, *HIDDEN), [*edges, *((name, "image") for name in (*SHOWS, *HIDDEN_NAMES))])

    def sample(self, uniforms: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Attribute codes (age in years) from ``(n,)`` uniforms, one array a name."""
        n = len(uniforms["age"])
        values = {"age": AGE_LOW + (AGE_HIGH - AGE_LOW) * uniforms["age"]}
        for name, mechanism in self.mechanisms.items():
            values[name] = (uniforms[name] < mechanism.probability(values, n)).astype(float)
        return values

    def hidden_given(
        self, labelled: Mapping[str, np.ndarray], uniforms: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Hidden codes under a labelled vector, the hidden attributes' own noise kept."""
        n = len(labelled["age"])
        values = dict(labelled)
        for name in HIDDEN_NAMES:
            values[name] = (uniforms[name] < self.mechanisms[name].probability(values, n)).astype(float)
        return {name: values[name] for name in HIDDEN_NAMES}

    def truth(self, *, shift_years: float = 20.0, draws: int = 200_000, seed: int = 0) -> pd.DataFrame:
        """The true relation and effects of every (labelled, hidden) pair, computed from the SCM.

        Returns:
            One row a pair: attribute, concept, relation (``hidden``: a directed path that avoids labelled mediators;
            ``mediated``; ``confounded``: a common cause only; ``none``), total and direct effect (Monte Carlo over
            ``draws``; risk difference under the audit's contrast).
        """
        rng = np.random.default_rng(seed)
        uniforms = {name: rng.uniform(size=draws) for name in ("age", *self.mechanisms)}
        factual = self.sample(uniforms)
        full = self.full_graph
        rows = []
        for attribute in (a.name for a in LABELLED):
            if attribute == "age":
                keep = factual["age"] + shift_years <= AGE_HIGH
                levels = (factual["age"][keep], factual["age"][keep] + shift_years)
            else:
                keep = np.ones(draws, dtype=bool)
                levels = (np.zeros(draws), np.ones(draws))
            kept = {name: u[keep] for name, u in uniforms.items()}
            held = {name: v[keep] for name, v in factual.items()}
            total, direct = [], []
            for level in levels:
                total.append(self._do(attribute, level, kept))
                direct.append(self.hidden_given({**held, attribute: level}, kept))
            for concept in HIDDEN_NAMES:
                rows.append(
                    {
                        "attribute": attribute,
                        "concept": concept,
                        "relation": self._relation(full, attribute, concept),
                        "total": float((total[1][concept] - total[0][concept]).mean()),
                        "direct": float((direct[1][concept] - direct[0][concept]).mean()),
                    }
                )
        return pd.DataFrame(rows)

    def _do(self, attribute: str, level: np.ndarray, uniforms: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = {"age": AGE_LOW + (AGE_HIGH - AGE_LOW) * uniforms["age"]}
        values[attribute] = level
        for name, mechanism in self.mechanisms.items():
            if name != attribute:
                p = mechanism.probability(values, len(level))
                values[name] = (uniforms[name] < p).astype(float)
        return values

    def _relation(self, full: CausalGraph, attribute: str, concept: str) -> str:
        if attribute in full.ancestors(concept):
            around = full.without({a.name for a in LABELLED} - {attribute})
            return "hidden" if attribute in around.ancestors(concept) else "mediated"
        return "confounded" if full.ancestors(attribute) & full.ancestors(concept) else "none"


def _mechanisms(**given: Mechanism) -> dict[str, Mechanism]:
    order = ("sex", "weekday", "cardiomegaly", "effusion", "view", *HIDDEN_NAMES)
    return {name: given.get(name, Mechanism()) for name in order}


_SICKER_IS_AP = {
    "weekday": Mechanism(-0.8),
    "cardiomegaly": Mechanism(-0.4, {"age": 0.9}),
    "effusion": Mechanism(-0.9, {"cardiomegaly": 1.3}),
    "view": Mechanism(-0.9, {"effusion": 1.6, "age": 0.5}),
}

WORLDS: Mapping[str, World] = {
    world.name: world
    for world in (
        World("independent", "Every attribute an independent coin: what base editors and readers are fitted on.",
              _mechanisms()),
        World("null", "Sicker patients are imaged AP, but nothing hidden goes with anything.",
              _mechanisms(**_SICKER_IS_AP)),
        World("portable", "Sicker patients are imaged AP with portable equipment, so markers and leads go with the view; "
              "devices go with disease (cf. Zech et al., PLOS Medicine 2018; Oakden-Rayner et al., 2020).",
              _mechanisms(**_SICKER_IS_AP,
                          pacemaker=Mechanism(-2.6, {"cardiomegaly": 3.2}),
                          chest_drain=Mechanism(-2.8, {"effusion": 3.6}),
                          ecg_leads=Mechanism(-1.8, {"view": 3.2}),
                          laterality_marker=Mechanism(1.3, {"view": -2.6}),
                          portable_marker=Mechanism(-2.8, {"view": 4.3}))),
    )
}  # fmt: skip
