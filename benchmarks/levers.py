"""The three levers of causal disentanglement, each off and on: what each takes off the naive prompt's leak.

- ``naive``: the world's adapter, fitted to images as they co-occur; the prompt names the edited attribute alone.
- ``scm target``: the prompt is the whole attribute vector that the graph's fitted SCM predicts (abduct, act, predict).
- ``balanced``: the naive prompt, to an adapter of each attribute that was fitted to balanced images (one that nothing
  confounds, or whose confounding no labelled attributes block, keeps the world's adapter).
- ``orthogonal``: the edited attribute's direction less the held ones', within the region where it acts.
- ``all``: SCM target, balanced adapters one after the other, causes first, each within the region where it acts. An adapter
  that knows one attribute has no held directions: orthogonal guidance is that of the attributes without an adapter.

Truth is the total effect: labelled attributes follow the one that is set, here as in the SCM's target.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from causal_cxr.audits.fidelity import Leak, Question, Readings, answers, leak
from causal_cxr.data.phantom import Phantom
from causal_cxr.data.phantom.world import World

LEVERS = ("naive", "scm target", "balanced", "orthogonal", "all")


def lever_editors(
    world: World, levers: Sequence[str], *, fit: bool = True, steps: int | None = None, folder: Path | None = None
) -> dict[str, Any]:
    """Lever set -> its editor; see the module.

    Args:
        world: whose adapters are taken.
        levers: of :data:`LEVERS`.
        fit: adapters that are not in the cache.
        steps: of these fits.
        folder: where balanced adapters are, instead of the cache.

    Raises:
        FileNotFoundError: ``fit`` is off and a balanced adapter is missing.
    """
    from fitted import balanced_editors, fitted_editor

    from causal_cxr.editors.diffusion.guidance import ClassifierFree, NaivePrompt, Orthogonal, Region
    from causal_cxr.editors.diffusion.masks import Estimated
    from causal_cxr.editors.finetune import PerAttributeEditor

    unknown = sorted(set(levers) - set(LEVERS))
    if unknown:
        raise ValueError(f"There are no levers {unknown}; choose from {list(LEVERS)}.")
    plain = fitted_editor("diffusion", world)
    naive = plain.using(guidance=NaivePrompt())
    orthogonal = plain.using(guidance=Region(Orthogonal(plain.graph_attributes), Estimated()))
    made = {"naive": naive, "scm target": plain, "orthogonal": orthogonal}
    if {"balanced", "all"} & set(levers):
        balanced = balanced_editors(world, steps=steps, fit=fit, folder=folder)
        within = {name: e.using(guidance=Region(ClassifierFree(), Estimated())) for name, e in balanced.items()}
        made["balanced"] = PerAttributeEditor(balanced, naive)
        made["all"] = PerAttributeEditor(within, orthogonal)
    return {name: made[name] for name in levers}


def lever_leaks(
    editors: dict[str, Any],
    scm: Any,
    phantom: Phantom,
    asked: Sequence[Question],
    read: Sequence[Callable[..., Readings]],
    concepts: Sequence[Any],
    slopes: Any,
    *,
    seed: int = 0,
) -> dict[str, Leak]:
    """Lever set -> its leak.

    Args:
        editors: of :func:`lever_editors`.
        scm: fitted attribute mechanisms of the world's declared graph.
        phantom: edited.
        asked: questions about total effects.
        read: for each question, reads an answer (:func:`~causal_cxr.audits.fidelity.true_readings`).
        concepts, slopes: of the reader.
        seed: of abductions.
    """
    rows = sorted({int(row) for one in asked for row in one.rows})
    images, factual = phantom.images(rows), phantom.attributes.iloc[rows]
    alone = [one.target for one in asked]
    followed = [predicted(scm, one, seed) for one in asked]
    found = {}
    for name, editor in editors.items():
        made = answers(editor, images, factual, followed if name in ("scm target", "all") else alone, seed=seed)
        readings = [of(edited) for of, edited in zip(read, made, strict=True)]
        found[name] = leak(readings, concepts, slopes=slopes, seed=seed)
    return found


def predicted(scm: Any, question: Question, seed: int) -> pd.DataFrame:
    """The whole attribute vector under the question's intervention, by the SCM."""
    name = question.contrast.attribute
    factual = question.factual
    moved = scm.counterfactual(factual, {name: question.target[name]}, seed=seed)
    return moved[list(factual.columns)].astype(factual.dtypes.to_dict())
