"""Editors and readers that are fitted to a world, once: kept in the user's cache by what they were fitted on."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from attribute_network import fit_attribute_networks
from platformdirs import user_cache_path
from sign_network import SignNetwork, fit_sign_network

from causal_cxr.data.phantom import Phantom
from causal_cxr.data.phantom.radiograph import VERSION
from causal_cxr.data.phantom.world import World
from causal_cxr.graphs import Continuous, default_contrasts
from causal_cxr.readers import ProbeReader
from causal_cxr.readers.concepts import world_concepts

SHIPPED = "portable"  #: the world whose editors ship
FIT_SEED, BASE_SEED, READER_SEED, NETWORK_SEED, EXEMPLAR_SEED, TUNING_SEED = 5_001, 5_002, 5_003, 5_004, 5_005, 5_006
FIT_IMAGES, READER_IMAGES, NETWORK_IMAGES, EXEMPLAR_IMAGES, TUNING_IMAGES = 12_000, 4_000, 4_000, 400, 4_000
WEIGHING_SEED, WEIGHING_IMAGES = 5_007, 128  #: of the patients who choose the weights of ``diffusion-calibrated``
#: of the fit to a world; of ``scm-tuned``, those of counterfactual fine-tuning that follow
STEPS = {"scm": 4_000, "scm-map": 4_000, "scm-tuned": 2_000, "scm-hvae": 3_000, "diffusion": 1_200, "balanced": 700}
#: Of an adapter to a world: four times what is customary learns twice the associations in as many steps, and edits no worse.
ADAPTER_RATE = 4e-3
BASE_STEPS = 5_000
#: The hierarchical VAE's stages: its coarsest latents have one position at 64 pixels.
LADDER = ((4, 32, 2, 4), (8, 64, 2, 0), (16, 96, 2, 0), (64, 128, 2, 32))
#: Kinds of deep SCM as they are fitted -> the name under which they are kept, which says how.
SCMS = {"scm": "scm-vector", "scm-map": "scm", "scm-hvae": "scm-hvae"}
DIFFUSION = "diffusion"  #: alone, or with an inversion's name: ``diffusion-heun``
CALIBRATED = "calibrated"  #: after ``diffusion-``: under guidance whose weights readings have found
#: ``scm-map``: latents that are a map, not a vector; ``scm-tuned``: that one, fine-tuned on counterfactuals.
KINDS = (DIFFUSION, "clip-guided", "flamingo", "scm", "scm-map", "scm-tuned", "scm-hvae")


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


def fitted_network(world: World) -> SignNetwork:
    """A convolutional classifier of every sign, fitted as :func:`fitted_reader` is, to other images."""

    def fit(folder: Path) -> None:
        phantom = world.independent().sample(NETWORK_IMAGES, NETWORK_SEED)
        concepts = world_concepts(world)
        truth = pd.concat([phantom.hidden, phantom.attributes], axis=1)
        columns = np.column_stack([concept.truth(truth) for concept in concepts])
        fit_sign_network(_all_images(phantom), columns, concepts, seed=NETWORK_SEED).save(folder)

    return SignNetwork.from_pretrained(_cached(f"signs|{world.fingerprint}|{NETWORK_IMAGES}", fit))


def fitted_editor(kind: str, world: World, *, steps: int | None = None, folder: Path | None = None) -> Any:
    """An editor of a world: the shipped one where there is one, else fitted and kept.

    Args:
        kind: one of :data:`KINDS`, or ``diffusion-`` and the name of an inversion: the same weights inverted by it;
            ``diffusion-sampled`` edits images of their own, and ``diffusion-calibrated`` is guided as much as each attribute
            needs.
        world: that it is to know.
        steps: of a fit, in place of :data:`STEPS`; nothing shipped is used.
        folder: for ``flamingo``: where its layers are, unless they ship.

    Raises:
        ValueError: there is no such kind.
        FileNotFoundError: there are no layers for ``flamingo``.
    """
    from causal_cxr.editors import SCMEditor
    from causal_cxr.editors.diffusion.inversion import INVERSIONS, Sampled

    if kind == "scm-tuned":
        start, count = fitted_editor("scm-map", world), steps or STEPS[kind]
        recipe = f"{kind}|{world.fingerprint}|{FIT_IMAGES}|{TUNING_IMAGES}|{count}|{start.fingerprint}"
        return SCMEditor.from_pretrained(_cached(recipe, lambda to: _tune_scm(start, world, count, to)))
    if kind in SCMS:
        if kind == "scm" and steps is None and _is_shipped(world):
            return SCMEditor.from_shipped()
        count = steps or STEPS[kind]
        recipe = f"{SCMS[kind]}|{world.fingerprint}|{FIT_IMAGES}|{count}"
        return SCMEditor.from_pretrained(_cached(recipe, lambda to: _fit_scm(kind, world, count, to)))
    if kind == "clip-guided":
        from causal_cxr.editors.clip_guided import CLIPGuidedEditor
        from causal_cxr.readers import CLIPReader

        reader = CLIPReader.from_shipped()
        return CLIPGuidedEditor(
            _diffusion(world, steps), reader.model, reader.tokenizer, clip_fitted_on=reader.fitted_on
        )
    if kind == "flamingo":
        return _flamingo(world, folder)
    methods = {**INVERSIONS, Sampled.name: Sampled}
    method = kind.removeprefix(DIFFUSION).removeprefix("-")
    if not kind.startswith(DIFFUSION) or (method and method not in (*methods, CALIBRATED)):
        raise ValueError(
            f"There is no editor {kind!r}; choose from {list(KINDS)}, or diffusion- and one of {[*methods, CALIBRATED]}."
        )
    editor = _diffusion(world, steps)
    if method == CALIBRATED:
        return _calibrated(editor, world)
    return editor.using(inversion=methods[method]()) if method else editor


def balanced_editors(
    world: World, *, steps: int | None = None, fit: bool = True, folder: Path | None = None
) -> dict[str, Any]:
    """Attribute that shows -> an editor of it alone, of balanced fine-tuning on captions that name it only; causes first.

    Left out are attributes whose confounding no labelled attributes block, as no weights can balance them, and attributes
    that nothing confounds, as there is nothing to balance.

    Args:
        world: whose.
        steps: of each fit, in place of ``STEPS["balanced"]``.
        fit: what is not in the cache; takes minutes an attribute.
        folder: where the adapters are, each in ``WORLD-ATTRIBUTE``; they were fitted by ``causal-cxr finetune --balanced
            --captions own``.

    Raises:
        FileNotFoundError: one is not in ``folder``; or ``fit`` is off, and one is not in the cache.
    """
    from causal_cxr.editors.finetune import Balanced, Telling

    graph, start, count = world.declared, _start(world), steps or STEPS["balanced"]
    editors = {}
    for name in graph.topological_order():
        if name not in graph.image_parents or not graph.adjustment_set(name):
            continue
        if folder is not None:
            editors[name] = start.adapted(folder / f"{world.name}-{name}")
            continue
        options = {"weights": Balanced(graph, name), "captions": Telling(names=(name,))}

        def fitted(to: Path, options: dict[str, Any] = options) -> None:
            _fit_adapter(world, start, count, to, **options)

        recipe = f"balanced|{name}|{world.fingerprint}|{FIT_IMAGES}|{count}|{start.weights_fingerprint}"
        editors[name] = start.adapted(_cached(recipe, fitted, allowed=fit))
    return editors


def _is_shipped(world: World) -> bool:
    return world.fingerprint == World.load(SHIPPED).fingerprint


def _shipped_as(world: World) -> str | None:
    """The name under which a named world's diffusion editor ships."""
    from causal_cxr.weights import shipped

    if world.name not in World.names() or world.fingerprint != World.load(world.name).fingerprint:
        return None
    name = f"{DIFFUSION}-{world.name}"
    return name if (shipped(f"{DIFFUSION}-base").parent / name).is_dir() else None


def _diffusion(world: World, steps: int | None) -> Any:
    from causal_cxr.editors import DiffusionEditor

    if steps is None and (name := _shipped_as(world)) is not None:
        return DiffusionEditor.from_shipped(name)
    start, count = _start(world), steps or STEPS[DIFFUSION]
    recipe = f"{DIFFUSION}|{world.fingerprint}|{FIT_IMAGES}|{count}|{start.weights_fingerprint}"
    if not _unspoken(world):
        return start.adapted(
            _cached(
                f"{recipe}|{ADAPTER_RATE:g}",
                lambda to: _fit_adapter(world, start, count, to, learning_rate=ADAPTER_RATE),
            )
        )
    return DiffusionEditor.from_pretrained(_cached(f"joint {recipe}", lambda to: _fit_whole(world, start, count, to)))


def _calibrated(editor: Any, world: World) -> Any:
    """Guided as much as each attribute needs, as the world's reader reads held-out patients."""
    from causal_cxr.audits.validation import Validation
    from causal_cxr.editors.diffusion import calibrated
    from causal_cxr.editors.diffusion.guidance import PerAttribute

    phantom = world.sample(WEIGHING_IMAGES, WEIGHING_SEED)

    def fit(folder: Path) -> None:
        reader, contrasts = fitted_reader(world), default_contrasts(world.declared, world.content.shifts)
        read = {concept.attribute for concept in reader.concepts}
        asked = [contrast for contrast in contrasts if contrast.attribute in read]
        validation = Validation([reader], phantom, np.arange(len(phantom)), world.declared, asked)
        (folder / "weights.json").write_text(json.dumps(dict(calibrated(editor, validation).guidance.weights)))

    recipe = f"calibrated|{world.fingerprint}|{editor.fingerprint}|{WEIGHING_IMAGES}"
    weights = json.loads((_cached(recipe, fit) / "weights.json").read_text())
    weighed = editor.using(guidance=PerAttribute(weights))
    weighed.fitted_on = editor.fitted_on | frozenset(phantom.patients)
    return weighed


def _flamingo(world: World, folder: Path | None) -> Any:
    """One exemplar attribute at a time, as its layers were fitted; numbers, which have no exemplars, by their words."""
    from causal_cxr.editors.finetune import PerAttributeEditor
    from causal_cxr.editors.flamingo import Exemplars, FlamingoEditor
    from causal_cxr.weights import shipped

    layers = folder or shipped("flamingo-phantom")
    if not (layers / "editor.json").is_file():
        raise FileNotFoundError(
            f"{layers} holds no layers that read exemplars: fit them with `python -m causal_cxr.editors.flamingo.fit` "
            "and pass their folder (benchmarks/editors.py --flamingo FOLDER)."
        )
    base = _start(world)
    editor = FlamingoEditor.from_pretrained(layers, base=base)
    others = world.independent().sample(EXEMPLAR_IMAGES, EXEMPLAR_SEED)
    shown = {}
    for name in world.declared.image_parents:
        attribute = world.declared.attributes[name]
        if isinstance(attribute, Continuous):
            continue
        values = others.attributes[name]
        rows = np.concatenate([values.index[values == level][:16] for level in attribute.levels])
        examples = Exemplars(others.images(rows), values.loc[rows].tolist(), frozenset(others.patients.iloc[rows]))
        shown[name] = editor.shown({name: examples})
    return PerAttributeEditor(shown, base)


def _fit_scm(kind: str, world: World, steps: int, folder: Path) -> None:
    from causal_cxr.editors.scm import ConditionalVAE, HierarchicalVAE
    from causal_cxr.editors.scm.fit import fit_image_model

    phantom = world.sample(FIT_IMAGES, FIT_SEED)
    ladder = {"divergence_warm_up": 500, "learning_rate": 1e-3}
    models: dict[str, tuple[Any, dict[str, Any]]] = {
        "scm": (None, {}),
        "scm-map": (ConditionalVAE, {}),
        "scm-hvae": (partial(HierarchicalVAE, stages=LADDER, prior="mediator"), ladder),
    }
    model, options = models[kind]
    fit_image_model(phantom, np.arange(len(phantom)), phantom.graph, model, steps=steps, seed=FIT_SEED, **options).save(
        folder
    )


def _tune_scm(start: Any, world: World, steps: int, folder: Path) -> None:
    """Fine-tune on counterfactuals, by networks that read every attribute that shows (De Sousa Ribeiro et al., ICML 2023)."""
    from causal_cxr.editors.scm.fine_tune import fine_tune

    phantom, others = world.sample(FIT_IMAGES, FIT_SEED), world.independent().sample(TUNING_IMAGES, TUNING_SEED)
    shown = [name for name in phantom.graph.image_parents if name in phantom.graph.labelled]
    attributes = {name: phantom.graph.attributes[name] for name in shown}
    codes = {name: torch.tensor(attributes[name].encode(others.attributes[name])) for name in shown}
    networks, _ = fit_attribute_networks(_all_images(others), codes, attributes, seed=TUNING_SEED)
    fine_tune(start, phantom, np.arange(len(phantom)), networks, steps=steps, seed=FIT_SEED).save(folder)


def _all_images(phantom: Phantom) -> torch.Tensor:
    return torch.cat([phantom.images(rows) for rows in np.array_split(np.arange(len(phantom)), 20)])


def _fit_adapter(world: World, start: Any, steps: int, folder: Path, **options: Any) -> None:
    from causal_cxr.editors.finetune import finetune

    phantom = world.sample(FIT_IMAGES, FIT_SEED)
    fitted = finetune(start, phantom, np.arange(len(phantom)), steps=steps, seed=FIT_SEED, **options)
    fitted.save_adapter(folder, base=start.weights_fingerprint, fitted_on=frozenset(phantom.patients))


def _unspoken(world: World) -> set[str]:
    """Attributes that no caption of the shipped base named, or not in these words: its text encoder never learnt them."""
    from causal_cxr.editors import DiffusionEditor
    from causal_cxr.weights import shipped

    spoken = DiffusionEditor.from_pretrained(shipped(f"{DIFFUSION}-base")).graph_attributes
    attributes = world.declared.attributes
    return {name for name in world.declared.labelled
            if name not in spoken or attributes[name].phrases != spoken[name].phrases}  # fmt: skip


def _fit_whole(world: World, start: Any, steps: int, folder: Path) -> None:
    """UNet and text encoder together, as an adapter of the UNet alone cannot teach words."""
    from causal_cxr.editors.finetune import Joint, finetune

    phantom = world.sample(FIT_IMAGES, FIT_SEED)
    finetune(start, phantom, np.arange(len(phantom)), what=Joint(), steps=steps, seed=FIT_SEED).save(folder)


def _start(world: World) -> Any:
    """A base that never saw a co-occurrence, naming the world's attributes; what it does not know an adapter learns.

    The shipped one, unless its text encoder is too short for the world's captions: then one of its own.
    """
    from causal_cxr.editors import DiffusionEditor
    from causal_cxr.editors.diffusion.captions import captions
    from causal_cxr.editors.diffusion.fit import fit_diffusion
    from causal_cxr.weights import shipped

    named = dict(world.declared.attributes)
    base = DiffusionEditor.from_pretrained(shipped("diffusion-base"), attributes=named)
    table = world.sample(500, BASE_SEED).attributes
    longest = [max(base.pipeline.text.lengths(captions(table, named, phrasing))) for phrasing in (0, 1)]
    if max(longest) <= base.pipeline.text.tokenizer.model_max_length:
        return base

    def fit(folder: Path) -> None:
        phantom = world.independent().sample(FIT_IMAGES, BASE_SEED)
        fit_diffusion(phantom, np.arange(len(phantom)), named, steps=BASE_STEPS, seed=BASE_SEED).save(folder)

    recipe = f"base|{world.independent().fingerprint}|{FIT_IMAGES}|{BASE_STEPS}"
    return DiffusionEditor.from_pretrained(_cached(recipe, fit))


def _cached(recipe: str, fit: Callable[[Path], None], *, allowed: bool = True) -> Path:
    """The folder that ``fit`` has filled for this recipe and renderer; filled now if it is not there, and that is allowed."""
    key = hashlib.sha256(f"{VERSION}|{recipe}".encode()).hexdigest()[:24]
    folder = user_cache_path("causal_cxr") / "worlds" / key
    if not folder.exists():
        if not allowed:
            raise FileNotFoundError(
                f"No weights are kept for {recipe!r}: fit them first (benchmarks/editors.py --fit-missing does)."
            )
        unfinished = folder.with_name(f"{key}.partial")
        unfinished.mkdir(parents=True, exist_ok=True)
        fit(unfinished)
        unfinished.rename(folder)
    return folder
