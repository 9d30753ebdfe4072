"""Editors and readers that are fitted to a world, once: kept in the user's cache by what they were fitted on."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from platformdirs import user_cache_path

from causal_cxr.data.phantom.radiograph import VERSION
from causal_cxr.data.phantom.world import World
from causal_cxr.readers import ProbeReader
from causal_cxr.readers.concepts import world_concepts

SHIPPED = "portable"  #: the world whose editors ship
FIT_SEED, BASE_SEED, READER_SEED = 5_001, 5_002, 5_003
FIT_IMAGES, READER_IMAGES = 12_000, 4_000
STEPS = {"scm": 4_000, "diffusion": 1_500}  #: of the fit to a world
BASE_STEPS = 5_000


def fitted_reader(world: World) -> ProbeReader:
    """A probe of every sign, fitted on images of the world in which nothing goes with anything."""

    def fit(folder: Path) -> None:
        phantom = world.independent().sample(READER_IMAGES, READER_SEED)
        concepts = world_concepts(world)
        truth = pd.concat([phantom.hidden, phantom.attributes], axis=1)
        columns = np.column_stack([concept.truth(truth) for concept in concepts])
        ProbeReader.fit(
            phantom, np.arange(len(phantom)), columns, concepts, graph=phantom.graph, n_folds=3,
            shifts=dict(world.content.shifts), components=400, seed=READER_SEED,
        ).save(folder)  # fmt: skip

    return ProbeReader.from_pretrained(_cached(f"probe|{world.fingerprint}|{READER_IMAGES}", fit))


def fitted_editor(kind: str, world: World, *, steps: int | None = None) -> Any:
    """The deep SCM or the diffusion editor of a world: the shipped one where there is one, else fitted and kept."""
    from causal_cxr.editors import DiffusionEditor, SCMEditor

    if steps is None and world.fingerprint == World.load(SHIPPED).fingerprint:
        return SCMEditor.from_shipped() if kind == "scm" else DiffusionEditor.from_shipped()
    count = steps or STEPS[kind]
    recipe = f"{kind}|{world.fingerprint}|{FIT_IMAGES}|{count}"
    if kind == "scm":
        return SCMEditor.from_pretrained(_cached(recipe, lambda folder: _fit_scm(world, count, folder)))
    base = _base(world)
    fingerprint = DiffusionEditor.from_pretrained(base).fingerprint
    adapter = _cached(f"{recipe}|{fingerprint}", lambda folder: _fit_adapter(world, base, count, folder))
    return DiffusionEditor.from_pretrained(base, adapter=adapter)


def _fit_scm(world: World, steps: int, folder: Path) -> None:
    from causal_cxr.editors.scm.fit import fit_image_model

    phantom = world.sample(FIT_IMAGES, FIT_SEED)
    fit_image_model(phantom, np.arange(len(phantom)), phantom.graph, steps=steps, seed=FIT_SEED).save(folder)


def _fit_adapter(world: World, base: Path, steps: int, folder: Path) -> None:
    from causal_cxr.editors import DiffusionEditor
    from causal_cxr.editors.diffusion.fit import fit_adapter

    phantom, editor = world.sample(FIT_IMAGES, FIT_SEED), DiffusionEditor.from_pretrained(base)
    fitted = fit_adapter(phantom, np.arange(len(phantom)), editor, steps=steps, seed=FIT_SEED)
    fitted.save_adapter(folder, base=editor.fingerprint, fitted_on=frozenset(phantom.patients))


def _base(world: World) -> Path:
    """A base that never saw a co-occurrence: the shipped one if it knows the world's attributes, else one of its own."""
    from causal_cxr.editors import DiffusionEditor
    from causal_cxr.editors.diffusion.fit import fit_diffusion
    from causal_cxr.weights import shipped

    named = dict(world.declared.attributes)
    if DiffusionEditor.from_shipped("diffusion-base").graph_attributes == named:
        return shipped("diffusion-base")

    def fit(folder: Path) -> None:
        phantom = world.independent().sample(FIT_IMAGES, BASE_SEED)
        fit_diffusion(phantom, np.arange(len(phantom)), named, steps=BASE_STEPS, seed=BASE_SEED).save(folder)

    return _cached(f"base|{world.independent().fingerprint}|{FIT_IMAGES}|{BASE_STEPS}", fit)


def _cached(recipe: str, fit: Callable[[Path], None]) -> Path:
    """The folder that ``fit`` has filled for this recipe and renderer; filled now if it is not there."""
    key = hashlib.sha256(f"{VERSION}|{recipe}".encode()).hexdigest()[:24]
    folder = user_cache_path("causal_cxr") / "worlds" / key
    if not folder.exists():
        partial = folder.with_name(f"{key}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        fit(partial)
        partial.rename(folder)
    return folder
