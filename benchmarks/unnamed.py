"""Are signs found that no reader has a name for, where they are, and none where nothing is?

    python benchmarks/unnamed.py --worlds portable label-noise selection null --json benchmarks/results/unnamed.json

Each world's hidden attributes are deleted from the vocabulary: no reader has them. An audit looks for components in half of
its patients, true counterfactuals being the edits (``--editor oracle``) or the shipped diffusion editor's (``diffusion``,
world ``portable`` only), and freezes them. In the unedited images of the *other* half, a component's score is then compared
with the truth.

``unnamed_recovered``: share of the deleted names with a true effect (a hidden edge, at least twice the smallest effect that
counts) that some component matches with a correlation of at least 0.7. ``readable``: the same among those that a probe with
all true labels of the searched half reads that well from the same features: no search finds what features do not hold.
``unnamed_spurious``: components a world that match nothing that is hidden there. ``unnamed_spurious_null``: the same in
worlds where nothing hidden goes with anything, where *every* component is spurious, whatever it matches.

The features are those of the shipped CLIP reader, whose training captions named the signs of ``portable``, and beside them
histograms of gradients, which know no name, place by place; or either alone (``--features clip``, ``gradients``).
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from record import record

from causal_cxr.audits import Audit
from causal_cxr.audits.unnamed import UnnamedSearch
from causal_cxr.data.phantom.phantom import Phantom
from causal_cxr.data.phantom.truth import truth_of
from causal_cxr.editors import DiffusionEditor, OracleEditor
from causal_cxr.graphs import default_contrasts
from causal_cxr.readers import CLIPReader, OrientedGradients
from causal_cxr.readers.component_settings import ComponentSearch
from causal_cxr.readers.components import ComponentReader

WORLDS = ("portable", "label-noise", "selection", "chest-drain", "pacemaker-age", "sex-breast")
NULL = ("null", "independent")  #: worlds where nothing hidden goes with anything
MATCH = 0.7  #: correlation of a component's scores with the truth
UNEDITED = 4_000  #: images; half of their patients are searched
DRAWS = 50_000  #: of the Monte Carlo behind the truth


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Size of the correlation; 0 where one is constant.

    >>> correlation(np.array([0, 1, 2]), np.array([5, 3, 1])), correlation(np.ones(3), np.arange(3))
    (1.0, 0.0)
    """
    if not one.std() or not other.std():
        return 0.0
    return round(abs(float(np.corrcoef(one, other)[0, 1])), 4)


def readable(features: np.ndarray, truth: np.ndarray, first: np.ndarray) -> float:
    """How well a probe with all labels of the first half reads the others: what a search could reach at best."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(truth[first])) < 2:
        return 0.0
    scores = PCA(min(100, features.shape[1]), whiten=True, random_state=0).fit(features[first]).transform(features)
    probe = LogisticRegression(C=0.1, max_iter=1000).fit(scores[first], truth[first])
    return correlation(probe.predict_proba(scores[~first])[:, 1], truth[~first])


def search_world(
    name: str, *, editor: str = "oracle", features: str = "both", images: int = 1024, resamples: int = 10, seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One audit of one world with its hidden attributes deleted from the vocabulary."""
    begun = time.monotonic()
    phantom = Phantom(UNEDITED, name, seed=seed)
    clip = CLIPReader.from_shipped()
    hidden = set(phantom.hidden.columns)
    reader = clip.using(concepts=[c for c in clip.concepts if c.attribute in phantom.graph.labelled or c.control])
    unnamed = UnnamedSearch(
        OrientedGradients() if features == "gradients" else clip, ComponentSearch(resamples=resamples), phrases=clip,
        without=frozenset(hidden), local=OrientedGradients() if features == "both" else None,
    )  # fmt: skip
    contrasts = default_contrasts(phantom.graph, phantom.world.content.shifts)
    audit = Audit(phantom.graph, [reader], interventions=contrasts, n_edited=images, unnamed=unnamed)
    made: Any = OracleEditor(phantom) if editor == "oracle" else DiffusionEditor.from_shipped()
    with tempfile.TemporaryDirectory() as folder:
        report = audit.run({editor: made}, phantom, seed=seed, out=out or Path(folder) / "run")
        components = ComponentReader.from_pretrained((out or Path(folder) / "run") / "unnamed")
    factual = report.measurements[report.measurements["kind"] == "factual"].set_index("row").sort_index()
    values = factual[[c for c in factual if str(c).startswith("features/")]].to_numpy(dtype=float)
    searched = factual["patient"].isin(components.fitted_on or ()).to_numpy()
    scores = components.read_features(values)[~searched]
    truth = truth_of(phantom.world, contrasts, draws=DRAWS)
    planted = list(dict.fromkeys(truth.loc[truth["edge_structural"].fillna(False).astype(bool), "concept"]))
    there = phantom.hidden.iloc[factual.index]
    likeness = {
        sign: [correlation(scores[:, k], there[sign].to_numpy()[~searched]) for k in range(scores.shape[1])]
        for sign in there
    }
    best = {sign: max(likeness[sign], default=0.0) for sign in planted}
    reach = {sign: readable(values, there[sign].to_numpy(), searched) for sign in planted}
    matched = [max((likeness[s][k] for s in planted), default=0.0) >= MATCH for k in range(scores.shape[1])]
    found = report.provenance["unnamed"]["components"]
    nearest = [max(likeness, key=lambda s, k=k: likeness[s][k]) for k in range(len(found))]
    return {
        "planted": best, "reachable": reach, "spurious": matched.count(False),
        "components": [
            {"name": c["name"], "effect": round(c["effect"], 3), "selection": c["selection"],
             "separation": round(c["separation"], 1), "nearest": s, "correlation": likeness[s][k]}
            for k, (c, s) in enumerate(zip(found, nearest, strict=True))
        ],
        "images": UNEDITED, "edited": images, "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip


def summarise(worlds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures over all worlds; see the script's description."""
    planted = [(world[0], sign) for world in worlds.items() for sign in world[1]["planted"]]
    hit = {key: worlds[key[0]]["planted"][key[1]] >= MATCH for key in planted}
    within = [key for key in planted if worlds[key[0]]["reachable"][key[1]] >= MATCH]
    null = [world["spurious"] for name, world in worlds.items() if name in NULL]
    others = [world["spurious"] for name, world in worlds.items() if name not in NULL]

    def share(keys: list[tuple[str, str]]) -> dict[str, Any]:
        count = sum(hit[key] for key in keys)
        return {"found": count, "of": len(keys), "share": round(count / len(keys), 4) if keys else None}

    return {
        "unnamed_recovered": share(planted)["share"], "recovered": share(planted), "readable": share(within),
        "unnamed_spurious_null": max(null, default=None), "spurious_null": null,
        "unnamed_spurious": round(float(np.mean(others)), 4) if others else None,
        "worlds": worlds,
    }  # fmt: skip


def main() -> None:
    """Search, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="*", default=[*WORLDS, *NULL])
    parser.add_argument("--editor", choices=("oracle", "diffusion"), default="oracle")
    parser.add_argument("--features", choices=("both", "clip", "gradients"), default="both")
    parser.add_argument("--images", type=int, default=1024, help="edited images an audit")
    parser.add_argument("--resamples", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--add", action="store_true", help="keep the worlds that the file already has")
    args = parser.parse_args()
    if args.editor == "diffusion" and args.worlds != ["portable"]:
        parser.error("the shipped diffusion editor was fitted to the world 'portable': --worlds portable")
    worlds = _there(args.json) if args.add else {}
    for name in args.worlds:
        worlds[name] = found = search_world(
            name,
            editor=args.editor,
            features=args.features,
            images=args.images,
            resamples=args.resamples,
            seed=args.seed,
        )
        print(name, found, flush=True)
        record(args.json, seed=args.seed, summary=summarise(worlds))
    print({key: value for key, value in summarise(worlds).items() if key != "worlds"})


def _there(file: Path | None) -> dict[str, Any]:
    if file is None or not file.is_file():
        return {}
    worlds: dict[str, Any] = json.loads(file.read_text())["summary"]["worlds"]
    return worlds


if __name__ == "__main__":
    main()
