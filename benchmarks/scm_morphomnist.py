"""Counterfactuals of Morpho-MNIST by a deep SCM, scored as Melistas et al. (NeurIPS 2024) score them, and more strictly.

Fitted on images 0-7999, tested on 8000-9999 (published: fitted on 60,000 others). Each image is edited under do(thickness),
do(intensity) and do(digit), the value one that training images have, of another bin or digit than its own.

    python benchmarks/scm_morphomnist.py --data DIR --model hvae --device cuda --stages DIR --json FILE --export cf.npz --figure sheet.png

The ladder is fitted in three stages: to the images; on counterfactuals, all of it; on counterfactuals, its detail alone, with
nats made cheap there. ``--stages`` keeps the editor after each, with its seconds and the hardware: a stage that is kept there is not fitted
again. So one may be fitted on a GPU and the next on a CPU, and an editor be scored anew; one that was fitted otherwise is
refused.

In the JSON's ``summary``, the editor after counterfactual fine-tuning, pixel noise times 0.1 (the published temperature):

- ``composition_1``, ``composition_10``: mean absolute change in grey levels after so many null edits, 32x32 pixels
- ``effectiveness``: set -> read -> mean absolute error (digit: accuracy); the thickness predictor is told the intended intensity
- ``fid``: real training images against the counterfactuals of test images, one intervention an image, as in the public code;
  features of our digit predictor, so not comparable with the published figures
- ``cld_published``, ``cld_corrected``: with the mean as log-scale too, as in the public code, and with the log-scale
- ``reversibility_1``: as composition, there and back, mean over the three interventions (each in ``scores``)
- ``seconds_fit`` (all stages; ``conditions.stages`` has each, with its hardware), ``seconds_per_1000`` (abduction and one edit, median of 3)
- ``seconds_run``: this run from its start, predictors' fit and scoring included; not what was kept from an earlier one
- ``scores``: ``after`` and ``before`` fine-tuning, ``before detail`` was tuned, and ``after`` at temperatures 0 and 1 (at 1 a null edit is the
  image itself). In each: all of the above; ``effectiveness_clean`` (no predictor is told anything), ``effectiveness_measured`` (measured on
  the pixels, no predictor); in all three ``intensity_in_support``: do(intensity) with values within 2 residual standard
  deviations of what goes with the image's thickness; ``changes``: what each intervention moved, on target and off
  (``counterfactual_metrics.change_matrix``); ``off_target``: mean over the pairs that were to stay; ``fid_to_test``
- ``on_real_images``: each reading's own error on real test images; ``fid_floor``: real training against real test images
- ``published``: what Melistas et al. report for this kind of model; ``conditions``: all that the numbers depend on
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import counterfactual_metrics as metrics
import image_quality
import numpy as np
import pandas as pd
import torch
from counterfactual_metrics import Counterfactuals, Reading
from morphomnist import FIT_ROWS, GRAPH, TEST_ROWS, MorphoMNIST, measured_intensity, measured_thickness
from PIL import Image
from predictors import GIVEN, Predictor, family_of
from record import record
from torch import Tensor

from causal_cxr.audits.fidelity import answers
from causal_cxr.editors.scm.editor import SCMEditor
from causal_cxr.editors.scm.fine_tune import fine_tune
from causal_cxr.editors.scm.fit import fit_image_model
from causal_cxr.editors.scm.hvae import HierarchicalVAE
from causal_cxr.editors.scm.image_model import ImageModel
from causal_cxr.editors.scm.vae import ConditionalVAE
from causal_cxr.fitting.resumable import STATE


@dataclass(frozen=True)
class Recipe:
    """How a kind of image model is built, fitted and fine-tuned.

    Attributes:
        build: from the number of conditions.
        fit, tuning: options of :func:`fit_image_model` and :func:`fine_tune`, over :data:`FIT` and :data:`TUNING`.
        detail: options of a second :func:`fine_tune`, of the detail alone; none where there is no ladder.
        detail_weights: of the divergence in it.
    """

    build: Callable[[int], ImageModel]
    fit: Mapping[str, Any]
    tuning: Mapping[str, Any]
    detail: Mapping[str, Any] = field(default_factory=dict)
    detail_weights: Sequence[float] = ()


RECIPES = {
    "cvae": Recipe(
        partial(ConditionalVAE, width=48, latent=16, likelihood="discretised_gaussian", size=(32, 32)),
        {"steps": 8_000, "batch_size": 64, "learning_rate": 1.5e-3},
        # The bound comes first: where readings do, this model's edits become textures that no digit has.
        {
            "steps": 1_500,
            "batch_size": 64,
            "first_price": 0.3,
            "slack": 0.03,
            "attribute_weights": {"digit": 4.0},
        },
    ),
    "hvae": Recipe(
        partial(
            HierarchicalVAE,
            stages=((2, 48, 3, 8), (4, 64, 2, 0), (8, 96, 2, 0), (32, 160, 4, 16)),
            prior="mediator",
            upsampling="learnt",
            divergence_weights=(0.7, 1, 1, 0.25),
        ),
        {
            "steps": 2_400,
            "batch_size": 256,
            "learning_rate": 2e-3,
            "ema": 0.995,
            "divergence_warm_up": 600,
            "evaluate_every": 100,
            "patience": 24,
            "mixed_precision": "bf16",
        },
        {
            "steps": 630,
            "batch_size": 256,
            "divergence_warm_up": 210,
            "first_price": 0.03,
            "slack": 0.08,
            "attribute_weights": {"digit": 5.0},
            "misreading": {"digit": 0.06},
            "mixed_precision": "bf16",
        },
        {
            "steps": 4_200,
            "learning_rate": 2e-3,
            "batch_size": 64,
            "ema": 0.995,
            "first_price": 1.0,
            "last_price": 0.03,
            "attribute_weights": {"digit": 5.0, "thickness": 8.0},
        },
        (0.04, 1, 1, 0.25),
    ),
}
FIT: dict[str, Any] = {"learning_rate": 1e-3, "weight_decay": 0.01, "ema": 0.999, "patience": 8, "evaluate_every": 250}
TUNING: dict[str, Any] = {"learning_rate": 1e-3}
BATCH = 250  #: images a predictor reads at once
SHIFT = 2  #: pixels, of the augmentation
TEMPERATURE, OTHERS = 0.1, (0.0, 1.0)  #: of the pixel noise
BEFORE, TUNED, DETAILED = "before", "tuned", "detailed"  #: stages of a fit, in order
STAGE = "stage.json"  #: how long one took, and on what
SUPPORTED, WITHIN = "intensity_in_support", 2.0  #: residual standard deviations
TIMED = 1_000
SUMMARY = (  #: what the main row repeats of the scores
    "composition_1",
    "composition_10",
    "fid",
    "cld_published",
    "cld_corrected",
    "reversibility_1",
)

#: Melistas et al. (2024), slides of the first author: VAE and HVAE; effectiveness as set -> read
PUBLISHED: dict[str, dict[str, Any]] = {
    "cvae": {
        "composition_1": 2.600,
        "composition_10": 7.698,
        "fid": 10.124,
        "cld_published": 0.268,
        "effectiveness": {
            "thickness": {"thickness": 0.109, "intensity": 3.15, "digit": 0.989},
            "intensity": {"thickness": 0.333, "intensity": 5.33, "digit": 0.988},
            "digit": {"thickness": 0.139, "intensity": 4.64, "digit": 0.775},
        },
    },
    "hvae": {
        "composition_1": 0.438,
        "composition_10": 1.550,
        "fid": 5.362,
        "cld_published": 0.272,
        "effectiveness": {
            "thickness": {"thickness": 0.086, "intensity": 1.99, "digit": 0.985},
            "intensity": {"thickness": 0.224, "intensity": 3.52, "digit": 0.935},
            "digit": {"thickness": 0.117, "intensity": 2.10, "digit": 0.972},
        },
    },
}


@dataclass(frozen=True)
class Judges:
    """What scores an editor; fitted on real training images, and no part of any fine-tuning.

    Attributes:
        readings: table (``published``, ``clean``, ``measured``) -> attribute -> how it is read.
        digit: whose penultimate layer gives FID its features.
        embedding: of images, for CLD.
    """

    readings: Mapping[str, Mapping[str, Reading]]
    digit: Predictor
    embedding: image_quality.EmbeddingVAE

    @classmethod
    def fit(cls, images: Tensor, table: pd.DataFrame, *, seed: int) -> "Judges":
        """Fit to real images ``(n, 1, 32, 32)`` and their ``n`` rows of attributes; predictors are cached."""
        family = family_of("scoring", images, table)
        clean = {name: _reading(family[name]) for name in GRAPH.attributes}
        line = np.polyfit(measured_thickness(images), table["thickness"], 1)
        return cls(
            {
                "published": clean | {"thickness": _reading(family[GIVEN])},
                "clean": clean,
                "measured": {
                    "thickness": lambda images, _: np.polyval(line, measured_thickness(images)),
                    "intensity": lambda images, _: measured_intensity(images),
                },
            },
            family["digit"],
            image_quality.fit_embedding(images, seed=seed),
        )

    def fid(self, real: Tensor, made: Tensor) -> float:
        """See :func:`image_quality.fid`."""
        return image_quality.fid(real, made, self.digit.features, self.digit.head.in_features)


def _reading(predictor: torch.nn.Module) -> Reading:
    """Values of a continuous attribute, probabilities of levels."""

    @torch.no_grad()
    def read(images: Tensor, intended: pd.DataFrame) -> np.ndarray:
        told = getattr(predictor, "given_intensity", False)
        intensity = torch.tensor(intended["intensity"].to_numpy(), dtype=torch.float32)
        said = [
            predictor(batch, given) if told else predictor(batch)
            for batch, given in zip(images.split(BATCH), intensity.split(BATCH), strict=True)
        ]
        levels = isinstance(said[0], torch.distributions.Categorical)
        return torch.cat([one.probs if levels else one.mean for one in said]).numpy()

    return read


@dataclass(frozen=True)
class Task:
    """The images to edit and the values to set, the same for every editor.

    Attributes:
        images: ``(n, 1, 32, 32)`` test images.
        factual: ``n`` rows.
        settings: kind of intervention -> ``n`` values; all but :data:`SUPPORTED` are named for the attribute they set.
        chosen: ``(n,)`` which of the attributes is set for FID and CLD, as a position in the graph's order.
        training: attributes of the rows of the fit.
        training_images: their images.
        seed: of abductions.
    """

    images: Tensor
    factual: pd.DataFrame
    settings: Mapping[str, pd.Series]
    chosen: np.ndarray
    training: pd.DataFrame
    training_images: Tensor
    seed: int

    @classmethod
    def draw(cls, dataset: MorphoMNIST, rows: np.ndarray, *, seed: int) -> "Task":
        """Values for these rows, from those of :data:`morphomnist.FIT_ROWS`."""
        factual, training = dataset.attributes.iloc[rows], dataset.attributes.iloc[FIT_ROWS]
        bins = metrics.bins_of(GRAPH, training)
        settings = {
            name: metrics.other_values(GRAPH, name, factual, training, bins, seed=seed + i)
            for i, name in enumerate(GRAPH.attributes)
        }
        settings[SUPPORTED] = supported_intensities(factual, training, seed=seed + len(settings))
        chosen = np.random.default_rng(seed).integers(len(GRAPH.attributes), size=len(rows))
        return cls(dataset.images(rows), factual, settings, chosen, training, dataset.images(FIT_ROWS), seed)


def supported_intensities(factual: pd.DataFrame, training: pd.DataFrame, *, seed: int) -> pd.Series:
    """A training intensity for each row that goes with the row's thickness.

    The logit of intensity is linear in thickness (:mod:`morphomnist`): eligible is what lies within :data:`WITHIN` residual
    standard deviations of the line fitted to the training table.

    Returns:
        ``n`` grey levels with the index of ``factual``.
    """
    low, high = GRAPH.attributes["intensity"].low, GRAPH.attributes["intensity"].high
    share = (training["intensity"].to_numpy() - low) / (high - low)
    logit = np.log(share / (1 - share))
    line = np.polyfit(training["thickness"], logit, 1)
    spread = (logit - np.polyval(line, training["thickness"])).std()
    away = np.abs(logit - np.polyval(line, factual["thickness"])[:, None]) / spread
    return metrics.drawn(factual["intensity"], training["intensity"], away <= WITHIN, seed=seed)


def score(editor: SCMEditor, task: Task, judges: Judges) -> tuple[dict[str, Any], dict[str, Counterfactuals]]:
    """All figures of one editor but its times, as the module describes them, and the counterfactuals that gave them."""
    images, factual, seed = task.images, task.factual, task.seed
    composition = metrics.composition(editor, images, factual, seed=seed)
    targets = {
        kind: editor.scm.counterfactual(factual, {str(values.name): values.to_numpy()}, seed=seed)
        for kind, values in task.settings.items()
    }
    drawn = answers(editor, images, factual, list(targets.values()), seed=seed)
    made = {
        kind: Counterfactuals(kind, target, edited)
        for (kind, target), edited in zip(targets.items(), drawn, strict=True)
    }
    main = [made[name] for name in GRAPH.attributes]
    reversed_ = metrics.reversibility(editor, images, factual, main, seed=seed)
    mixed = torch.stack([main[which].images[i] for i, which in enumerate(task.chosen)])
    spreads = {name: float(task.training[name].std()) for name in ("thickness", "intensity")}
    changes = metrics.change_matrix(GRAPH, images, factual, main, judges.readings["clean"], spreads)
    figures = {
        "composition_1": composition[1],
        "composition_10": composition[10],
        "effectiveness": metrics.effectiveness(GRAPH, made.values(), judges.readings["published"]),
        "effectiveness_clean": metrics.effectiveness(GRAPH, made.values(), judges.readings["clean"]),
        "effectiveness_measured": metrics.effectiveness(GRAPH, made.values(), judges.readings["measured"]),
        "fid": judges.fid(task.training_images, mixed),
        "fid_to_test": judges.fid(images, mixed),
        **{f"cld_{scales}": _cld(task, main, mixed, judges, scales) for scales in ("published", "corrected")},
        "reversibility_1": float(np.mean(list(reversed_.values()))),
        "reversibility": reversed_,
        "changes": changes,
        "off_target": {what: metrics.off_target(changes, what) for what in ("beyond", "amplified")},
    }
    return figures, made


def _cld(task: Task, made: list[Counterfactuals], mixed: Tensor, judges: Judges, scales: image_quality.Scales) -> float:
    bins = metrics.bins_of(GRAPH, task.training)
    names = list(GRAPH.attributes)
    groups = np.column_stack([metrics.groups(GRAPH, name, task.factual[name], bins) for name in names])
    targets = np.column_stack([metrics.groups(GRAPH, one.attribute, one.target[one.attribute], bins) for one in made])
    real, other = (image_quality.embedded(judges.embedding, x, scales) for x in (task.images, mixed))
    own = targets[np.arange(len(mixed)), task.chosen]
    return float(np.nanmean(image_quality.counterfactual_latent_divergence(real, other, groups, task.chosen, own)))


def at_temperature(editor: SCMEditor, residual: float) -> SCMEditor:
    """The same editor with the pixel noise replayed times ``residual``."""
    return SCMEditor(editor.scm, editor.image_model, residual=residual, fitted_on=editor.fitted_on)


def seconds_per_1000(editor: SCMEditor, task: Task) -> float:
    """Abduction and one edit of so many images, median of 3."""
    turns = -(-TIMED // len(task.images))
    images = task.images.repeat(turns, 1, 1, 1)[:TIMED]
    factual = pd.concat([task.factual] * turns, ignore_index=True)[:TIMED]
    target = editor.scm.counterfactual(factual, {"digit": 7}, seed=task.seed)
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        answers(editor, images, factual, [target], seed=task.seed)
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds))


@dataclass(frozen=True)
class Stage:
    """An editor as it is after a stage of its fit.

    Attributes:
        editor: fitted.
        seconds: of this stage.
        hardware: on which it was fitted.
        how: this stage and those before it were fitted, see :func:`told`.
    """

    editor: SCMEditor
    seconds: float
    hardware: str
    how: str


def options_of(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Stage -> options of its fit, in order; ladders alone have :data:`DETAILED`."""
    recipe = RECIPES[args.model]
    steps = {} if args.fine_tune_steps is None else {"steps": args.fine_tune_steps}
    options = {
        BEFORE: FIT | dict(recipe.fit) | ({"steps": args.steps} if args.steps else {}),
        TUNED: TUNING | dict(recipe.tuning) | steps,
    }
    if recipe.detail:
        options[DETAILED] = TUNING | {"detail_only": True} | dict(recipe.detail) | steps
    return options


def told(args: argparse.Namespace, stage: str) -> str:
    """All that an editor depends on after a stage, but for data and hardware."""
    options = options_of(args)
    names = list(options)
    so_far = {name: options[name] for name in names[: names.index(stage) + 1]}
    weights = {"divergence_weights": RECIPES[args.model].detail_weights} if stage == DETAILED else {}
    return json.dumps([args.model, args.seed, so_far | weights])


def fitted(args: argparse.Namespace, dataset: MorphoMNIST) -> dict[str, Stage]:
    """Fit the model on :data:`morphomnist.FIT_ROWS`, then fine-tune it with the ``training`` predictors, all of it, then its detail.

    Returns:
        stage -> how the editor is after it, in order.

    Raises:
        ValueError: a stage that is kept was fitted otherwise, or cannot be used; see :func:`opened`.
    """
    options = options_of(args)
    stages: dict[str, Stage] = {}

    def stage(name: str, fit: Callable[[], tuple[SCMEditor, float]]) -> None:
        folder = args.stages and args.stages / name
        if folder is not None and (folder / STAGE).is_file():
            stages[name] = opened(folder, dataset, told(args, name), device=args.device)
            return
        stages[name] = Stage(*fit(), _hardware(args), told(args, name))
        if folder is not None:
            keep(stages[name], folder)

    def first() -> tuple[SCMEditor, float]:
        with timed(_folder(args, BEFORE)) as fitting:
            editor = fit_image_model(
                dataset, FIT_ROWS, GRAPH, RECIPES[args.model].build, seed=args.seed, shift=SHIFT, residual=TEMPERATURE,
                minutes=args.minutes, device=args.device, checkpoint=fitting.folder, **options[BEFORE],
            )  # fmt: skip
        return editor, fitting.seconds

    stage(BEFORE, first)
    stage(TUNED, lambda: tuned_by(args, dataset, stages[BEFORE].editor, TUNED, options[TUNED]))
    if DETAILED in options:
        stage(DETAILED, lambda: with_detail(args, dataset, stages[TUNED].editor, options[DETAILED]))
    return stages


def keep(stage: Stage, folder: Path) -> None:
    """Write a stage where :func:`opened` finds it."""
    stage.editor.save(folder, half=False)
    (folder / STAGE).write_text(json.dumps({"seconds": stage.seconds, "hardware": stage.hardware, "how": stage.how}))


def opened(folder: Path, dataset: MorphoMNIST, how: str, *, device: str = "cpu") -> Stage:
    """The stage in a folder.

    Raises:
        ValueError: it was not fitted so, its editor edits other attributes, or may have seen the test images.
    """
    kept = json.loads((folder / STAGE).read_text())
    if kept["how"] != how:
        raise ValueError(
            f"{folder} was fitted by {kept['how']}, asked for is {how}; give --stages another folder, or delete that one."
        )
    editor = SCMEditor.from_pretrained(folder)
    if editor.scm.graph.fingerprint != GRAPH.fingerprint:
        raise ValueError(f"{folder} holds an editor of other attributes; give one of {list(GRAPH.attributes)}.")
    test = set(dataset.patients.iloc[TEST_ROWS])
    leaked = len(test if editor.fitted_on is None else test & editor.fitted_on)
    if leaked:
        raise ValueError(f"{folder} may have been fitted on {leaked} test images; fit on rows 0-{FIT_ROWS[-1]} only.")
    editor.image_model.to(device)
    return Stage(editor, **kept)


def _hardware(args: argparse.Namespace) -> str:
    if torch.device(args.device).type == "cuda":
        return torch.cuda.get_device_name(args.device)
    return f"{args.threads} CPU thread{'s' if args.threads > 1 else ''}"


def with_detail(
    args: argparse.Namespace, dataset: MorphoMNIST, editor: SCMEditor, options: Mapping[str, Any]
) -> tuple[SCMEditor, float]:
    """The last stage of a ladder, and its seconds: the detail alone, nats cheap there."""
    model, recipe = editor.image_model, RECIPES[args.model]
    assert isinstance(model, HierarchicalVAE)
    cheap = SCMEditor(
        editor.scm, model.reweighted(recipe.detail_weights), residual=TEMPERATURE, fitted_on=editor.fitted_on
    )
    return tuned_by(args, dataset, cheap, DETAILED, options)


def tuned_by(
    args: argparse.Namespace, dataset: MorphoMNIST, editor: SCMEditor, stage: str, options: Mapping[str, Any]
) -> tuple[SCMEditor, float]:
    """The editor after a stage of fine-tuning by the ``training`` predictors, and its seconds."""
    family = family_of("training", dataset.images(FIT_ROWS), dataset.attributes.iloc[FIT_ROWS])
    predictors = {name: predictor.to(args.device) for name, predictor in family.items()}
    with timed(_folder(args, stage)) as tuning:
        after = fine_tune(
            editor, dataset, FIT_ROWS, predictors, seed=args.seed, shift=SHIFT, checkpoint=tuning.folder, **options
        )
    return after, tuning.seconds


def _folder(args: argparse.Namespace, stage: str) -> Path | None:
    return args.checkpoint and args.checkpoint / f"{args.model}-{stage}"


@dataclass
class Timed:
    """Wall time of a fit, kept beside its checkpoint, so that a killed one is not reported as fast."""

    folder: Path | None
    seconds: float


@contextmanager
def timed(folder: Path | None) -> Iterator[Timed]:
    """Add the time of this block to what earlier runs into the same folder took, unless they had finished.

    A run that was killed counts until it saved its state for the last time: what came after was done again.
    """
    kept = None if folder is None else folder / "seconds.json"
    known = {"seconds": 0.0, "finished": False, "begun": None}
    if kept is not None and kept.exists():
        known |= json.loads(kept.read_text())
    if folder is not None and known["begun"] is not None and (folder / STATE).exists():
        known["seconds"] += max(0.0, (folder / STATE).stat().st_mtime - known["begun"])
    timing, begun = Timed(folder, known["seconds"]), time.time()

    def keep(finished: bool, begun: float | None) -> None:
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps({"seconds": timing.seconds, "finished": finished, "begun": begun}))

    if known["finished"]:
        yield timing
        return
    keep(False, begun)
    yield timing
    timing.seconds += time.time() - begun
    keep(True, None)


def export(file: Path, task: Task, made: Mapping[str, Counterfactuals]) -> None:
    """Write the counterfactuals as arrays, one row each, so that anyone can score them with their own predictors.

    ``rows`` (of the dataset), ``intervention`` (kind), ``thickness``, ``intensity``, ``digit`` (of the counterfactual),
    ``factual_thickness``, ..., ``images`` (``(n, 32, 32)`` float32 in [0, 1]).
    """
    targets, repeated = pd.concat([one.target for one in made.values()]), pd.concat([task.factual] * len(made))
    arrays: dict[str, np.ndarray] = {
        "rows": targets.index.to_numpy(),
        "intervention": np.repeat(list(made), len(task.factual)),
        "images": torch.cat([one.images for one in made.values()])[:, 0].numpy(),
    }
    for name, attribute in GRAPH.attributes.items():
        arrays[name] = attribute.encode(targets[name])
        arrays[f"factual_{name}"] = attribute.encode(repeated[name])
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        np.savez_compressed(opened, **arrays)


def contact_sheet(editor: SCMEditor, task: Task, *, images: int = 8, zoom: int = 3) -> Image.Image:
    """A row an image: factual, reconstruction, thin, thick, dark, bright, three other digits."""
    factual = task.factual[:images]
    low, high = (task.training[["thickness", "intensity"]].quantile(q) for q in (0.03, 0.97))
    digit = factual["digit"].astype(int)
    changes = [{name: end[name]} for name in low.index for end in (low, high)]
    changes += [{"digit": ((digit + step) % 10).to_numpy()} for step in (1, 4, 7)]
    targets = [factual, *(editor.scm.counterfactual(factual, change, seed=task.seed) for change in changes)]
    taken = task.images[:images]
    columns = [taken, *answers(editor, taken, factual, targets, seed=task.seed)]
    sheet = torch.cat(columns, dim=3)[:, 0].flatten(0, 1)
    grey = (255 * sheet).round().byte().numpy().repeat(zoom, 0).repeat(zoom, 1)
    return Image.fromarray(grey)


def shown(model: str, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables: each set of scores beside the published figures."""
    rows = {f"published {model}": PUBLISHED[model], **scores}
    plain = ["composition_1", "composition_10", "reversibility_1", "fid", "cld_published", "cld_corrected"]
    parts = [pd.DataFrame({name: {key: row.get(key, np.nan) for key in plain} for name, row in rows.items()}).T]
    for table in ("effectiveness", "effectiveness_clean", "effectiveness_measured"):
        cells = {
            name: {(set_, read): x for set_, line in row[table].items() for read, x in line.items()}
            for name, row in rows.items()
            if table in row
        }
        parts.append(pd.DataFrame(cells).T.rename_axis(table))
    for name, row in scores.items():
        lines = {(do, read): cell for do, line in row["changes"].items() for read, cell in line.items()}
        parts.append(pd.DataFrame(lines).T.astype(float).rename_axis(("do", f"read, {name}")))
    return "\n\n".join(part.round(3).to_string() for part in parts)


def main() -> None:
    """Fit, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of Morpho-MNIST")
    parser.add_argument("--model", choices=tuple(RECIPES), default="hvae")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--export", type=Path, help="where the counterfactuals go, .npz")
    parser.add_argument("--figure", type=Path, help="where the contact sheet goes, .png")
    parser.add_argument("--checkpoint", type=Path, help="folder from which a killed fit goes on")
    parser.add_argument("--stages", type=Path, help="folder where the editor is kept after each stage, and found again")
    parser.add_argument("--steps", type=int, help="of the fit")
    parser.add_argument("--fine-tune-steps", type=int, help="of each stage of fine-tuning")
    parser.add_argument("--minutes", type=float, help="of the fit, at most; the result then depends on the machine")
    parser.add_argument("--images", type=int, default=len(TEST_ROWS), help="test images to score on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="of the editor; what scores it stays on the CPU")
    parser.add_argument("--threads", type=int, default=2)
    args, begun = parser.parse_args(), time.perf_counter()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # denormal numbers in the optimiser's moments make a step several times slower
    dataset = MorphoMNIST(args.data)
    task = Task.draw(dataset, TEST_ROWS[: args.images], seed=args.seed)
    stages = fitted(args, dataset)
    last = DETAILED if DETAILED in stages else TUNED
    after = stages[last].editor
    judges = Judges.fit(task.training_images, task.training, seed=args.seed)
    scores, made = {}, {}
    wanted = {"after": (after, TEMPERATURE)}
    if last == DETAILED:
        wanted["before detail"] = stages[TUNED].editor, TEMPERATURE
    wanted["before"] = stages[BEFORE].editor, TEMPERATURE
    wanted |= {f"after, temperature {t:g}": (after, t) for t in OTHERS}
    for name, (editor, temperature) in wanted.items():
        scores[name], made[name] = score(at_temperature(editor, temperature), task, judges)
    print(shown(args.model, scores))
    main_editor = at_temperature(after, TEMPERATURE)
    if args.export:
        export(args.export, task, made["after"])
    if args.figure:
        contact_sheet(main_editor, task).save(args.figure)
    summary = {
        **{key: scores["after"][key] for key in SUMMARY},
        "effectiveness": {name: scores["after"]["effectiveness"][name] for name in GRAPH.attributes},
        "seconds_fit": sum(stage.seconds for stage in stages.values()),
        "seconds_per_1000": seconds_per_1000(main_editor, task),
        "seconds_run": time.perf_counter() - begun,
        "scores": scores,
        "fid_floor": judges.fid(task.training_images, task.images),
        "on_real_images": {
            table: metrics.reading_errors(GRAPH, task.images, task.factual, readings)
            for table, readings in judges.readings.items()
        },
        "published": PUBLISHED[args.model],
        "conditions": {
            "model": args.model,
            "settings": main_editor.image_model.settings,
            "parameters": sum(p.numel() for p in main_editor.image_model.parameters()),
            "fingerprint": main_editor.fingerprint,
            "fitted_on": len(main_editor.fitted_on or ()),
            "tested_on": len(task.images),
            "threads": args.threads,
            "device": args.device,
            "stages": {name: {"seconds": stage.seconds, "hardware": stage.hardware} for name, stage in stages.items()},
            "temperature": TEMPERATURE,
            "bins": f"{metrics.BINS} quantile bins of the training values",
            "fid_features": "layer before the last of our digit predictor, fitted on real training images",
        },
    }
    record(args.json, seed=args.seed, summary=_rounded(summary))


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
