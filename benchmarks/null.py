"""How often an audit claims a hidden relation where there is none, and how often it finds those that are there.

Measurement level: no pixels. Worlds, editors and readers are simulated as score tables, with everything that makes
audits hard: labelled attributes that cause one another, one to three images a patient, an editor whose drift is shared
by the images of a patient, readers of slope 0.4 to 0.8 whose slopes are estimated on other patients. The verdicts are
those of :func:`causal_cxr.audits.analyse`, as in any audit.

    python benchmarks/null.py --json benchmarks/results/null.json --seeds 100 --drift 0.05
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from record import rate, record

from causal_cxr.audits.analyse import analyse
from causal_cxr.data.phantom.worlds import CONTROLS, HIDDEN_NAMES, LABELLED, PATIENT_LEVEL, WORLDS, World
from causal_cxr.graphs import CausalGraph, Contrast, default_contrasts
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import ReaderQuality, assess

READER = "simulated"
SHIFTS = {"age": 20.0}
CONCEPTS = (
    *(Concept(name, (name,), (f"no {name}",), control=name in CONTROLS) for name in HIDDEN_NAMES),
    Concept("old", ("old",), ("young",), attribute="age", above=55.0),
    Concept("female", ("woman",), ("man",), attribute="sex", level="female"),
    Concept("AP", ("AP",), ("PA",), attribute="view", level="AP"),
    Concept("large heart", ("large heart",), ("normal heart",), attribute="cardiomegaly", level=1),
    Concept("effusion", ("effusion",), ("no effusion",), attribute="effusion", level=1),
)
Codes = dict[str, np.ndarray]


def draw(world: World, n: int, rng: np.random.Generator) -> tuple[Codes, np.ndarray]:
    """Uniforms of ``n`` images, shared within a patient where the world says so, and the images' patients."""
    patient = np.repeat(np.arange(n), rng.integers(1, 4, size=n))[:n]
    first = np.searchsorted(patient, patient)
    uniforms = {name: rng.uniform(size=n) for name in ("age", *world.mechanisms)}
    return {k: u[first] if k in PATIENT_LEVEL else u for k, u in uniforms.items()}, patient


def typed(codes: Codes) -> pd.DataFrame:
    """The labelled table."""
    return pd.DataFrame({a.name: a.decode(codes[a.name]) for a in LABELLED})


def presence(codes: Codes) -> np.ndarray:
    """``(n, k)`` whether each of :data:`CONCEPTS` is there, 0/1."""
    table = typed(codes).assign(**{name: codes[name] for name in HIDDEN_NAMES})
    return np.column_stack([concept.truth(table) for concept in CONCEPTS])


def intervene(
    world: World, graph: CausalGraph, codes: Codes, uniforms: Codes, contrast: Contrast, kind: str
) -> tuple[Codes, np.ndarray]:
    """Every code under the contrast, noise kept; labelled descendants follow (``total``) or are held (``direct``)."""
    attribute = graph.attributes[contrast.attribute]
    moved, orientation = contrast.apply(attribute, attribute.decode(codes[contrast.attribute]))
    new = dict(codes) | {contrast.attribute: attribute.encode(moved)}
    follow = graph.descendants(contrast.attribute) if kind == "total" else frozenset()
    for name, mechanism in world.mechanisms.items():
        if name in follow or name in HIDDEN_NAMES:
            new[name] = (uniforms[name] < mechanism.probability(new, len(orientation))).astype(float)
    return new, orientation


def audit(world: World, seed: int, *, n: int, n_edited: int, n_judged: int, drift: float) -> pd.DataFrame:
    """Simulate one audit of a world; its edges."""
    rng = np.random.default_rng([seed, 7])
    graph, k = world.graph, len(CONCEPTS)
    contrasts = default_contrasts(graph, SHIFTS)
    slopes = rng.uniform(0.4, 0.8, size=k)
    base = 0.5 * (1 - slopes)  # calibrated where half show a concept, as in the world of independent attributes

    def read(there: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return base + slopes * there + noise

    # The reader is judged on patients of its own, from a world of independent attributes.
    uniforms, judged = draw(WORLDS["independent"], n_judged, rng)
    codes = WORLDS["independent"].sample(uniforms)
    truth = presence(codes)
    quality = assess(read(truth, rng.normal(0, 0.15, truth.shape)), truth, typed(codes),
                     pd.Series(judged), graph, CONCEPTS, shifts=SHIFTS, resamples=2)  # fmt: skip

    uniforms, patient = draw(world, n, rng)
    codes = world.sample(uniforms)
    image = rng.normal(0, 0.15, (n, k))
    columns = [f"{READER}/{concept.name}" for concept in CONCEPTS]

    def rows(
        kind: str, row: np.ndarray, scores: np.ndarray, contrast: Contrast | None, orientation: np.ndarray
    ) -> pd.DataFrame:
        frame = pd.DataFrame(scores.astype(np.float32), columns=columns)
        return frame.assign(
            editor="" if kind == "factual" else "drifting", row=row, patient=patient[row].astype(str), kind=kind,
            contrast=contrast.name if contrast else "", attribute=contrast.attribute if contrast else "",
            orientation=orientation.astype(np.int8), accepted=True, reason="",
        )  # fmt: skip

    edited = np.sort(rng.permutation(n)[:n_edited])
    here, now = {name: u[edited] for name, u in uniforms.items()}, {name: c[edited] for name, c in codes.items()}
    person = np.unique(patient[edited], return_inverse=True)[1]

    def redrawn(there: np.ndarray) -> np.ndarray:
        shared = rng.normal(0, drift, (person.max() + 1, k))[person]  # zero-mean, one draw a patient and concept
        return read(there, image[edited] + shared + rng.normal(0, drift, there.shape))

    still = np.zeros(n, dtype=np.int8)
    parts = [rows("factual", np.arange(n), read(presence(codes), image), None, still)]
    parts.append(rows("null", edited, redrawn(presence(now)), None, still[edited]))
    for contrast in contrasts:
        for kind in ("total", "direct") if graph.descendants(contrast.attribute) else ("total",):
            new, orientation = intervene(world, graph, now, here, contrast, kind)
            parts.append(rows(kind, edited, redrawn(presence(new)), contrast, orientation))
    measurements = pd.concat(parts, ignore_index=True)
    readers: dict[str, ReaderQuality] = {READER: quality}
    return analyse(measurements, typed(codes), graph, contrasts, {READER: CONCEPTS}, readers).edges


def main() -> None:
    """Run both variants side by side: a test that refuses everything would pass the first and fail the second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--drift", type=float, default=0.05, help="SD of the editor's drift, in score units")
    parser.add_argument("--images", type=int, default=4_000)
    parser.add_argument("--edited", type=int, default=256)
    parser.add_argument("--judged", type=int, default=1_000, help="labelled images that the readers' slopes come from")
    arguments = parser.parse_args()

    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    sizes = {
        "n": arguments.images,
        "n_edited": arguments.edited,
        "n_judged": arguments.judged,
        "drift": arguments.drift,
    }
    summary: dict[str, object] = dict(sizes)
    for variant, name in (("null", "null"), ("power", "portable")):
        world = WORLDS[name]
        truth = world.truth(draws=20_000)
        relation = dict(zip(zip(truth["attribute"], truth["concept"], strict=True), truth["relation"], strict=True))
        started, false_runs = time.monotonic(), 0
        found: Counter[str] = Counter()
        verdicts: dict[str, Counter[str]] = {}
        for seed in seeds:
            edges = audit(world, seed, **sizes)
            edges["relation"] = [relation[pair] for pair in zip(edges["attribute"], edges["concept"], strict=True)]
            claimed = edges[edges["verdict"] == "hidden"]
            false_runs += bool((claimed["relation"] != "hidden").any())
            right = claimed[claimed["relation"] == "hidden"]
            found.update(right["attribute"] + " - " + right["concept"])
            for kind, group in edges.groupby("relation"):
                verdicts.setdefault(str(kind), Counter()).update(group["verdict"])
        planted = sorted(" - ".join(map(str, pair)) for pair, r in relation.items() if r == "hidden")
        summary[variant] = {
            "world": name,
            "runs_with_false_hidden": rate(false_runs, len(seeds)),
            "planted_found": {edge: rate(found[edge], len(seeds)) for edge in planted},
            "verdicts_by_true_relation": {
                kind: dict(counts.most_common()) for kind, counts in sorted(verdicts.items())
            },
            "seconds_per_audit": round((time.monotonic() - started) / len(seeds), 2),
        }
        print(variant, json.dumps(summary[variant], indent=1), flush=True)

    record(arguments.json, seed=arguments.first_seed, summary=summary)


if __name__ == "__main__":
    main()
