"""Editing real radiographs: ChestX-ray14, or any part of it in the release's layout; patients that no editor was fitted on.

    python benchmarks/nih_editing.py --data path/to/nih --size 64 --steps 700 --json FILE --figure sheet.png

Disjoint sets of patients: ``fitted`` for the editors, ``watched`` to stop the diffusion editor's fit before it overfits and to
choose the weights of its guidance (``coupled calibrated``; by the readers that judge, and by other patients),
``read`` for the readers that judge, for their calibration and as the held-out side of the copy test, ``edited`` for the
edits. The diffusion editor starts from the shipped base, which
has seen phantoms alone; a deep SCM is fitted to the same rows. The true counterfactual of a real image is not known, so the
readers' word is taken: ``effectiveness`` is the change of a reader's score over the difference that it finds between real
images with and without the attribute, 1 = as much as nature makes. All intervals are 95%, by a bootstrap over patients.

``--phase`` runs the parts one by one, e.g. ``fit`` and ``scm`` on a GPU and ``score`` elsewhere; ``--folder`` holds what they
leave to each other. Weights fitted to patients stay there.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from image_quality import fid
from nih_sheets import contact_sheet, neighbour_sheet
from record import record
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import structural_similarity_index_measure

from causal_cxr.audits.cycles import null_cycles
from causal_cxr.audits.memorisation import CopyTest, copy_test, resampled_means
from causal_cxr.audits.validation import Validation
from causal_cxr.data import Dataset, NIHChestXray14, split_patients
from causal_cxr.editors import Abduction, Editor
from causal_cxr.editors.diffusion import DiffusionEditor, calibrated, captions, fit_diffusion
from causal_cxr.editors.diffusion.guidance import ClassifierFree
from causal_cxr.editors.diffusion.inversion import Coupled, Heun, Inversion, Trajectory
from causal_cxr.editors.finetune import Joint, Watch, finetune, publish
from causal_cxr.editors.scm import SCMEditor, fit_image_model
from causal_cxr.graphs import Binary, CausalGraph, Continuous, default_contrasts
from causal_cxr.readers import Concept, OrientedGradients, Pixels, ProbeReader
from causal_cxr.readers.quality import auroc

SHARES = {"fitted": 0.50, "watched": 0.05, "read": 0.25, "edited": 0.20}  #: of the patients
PHASES = ("fit", "scm", "score")
OLD = 45.0  #: years; the reader of age tells who is older
CONCEPTS = (
    Concept("AP view", ("AP view",), ("PA view",), attribute="view", level="AP"),
    Concept("female", ("woman",), ("man",), attribute="sex", level="F"),
    Concept("aged over 45", ("aged over 45",), ("aged 45 or under",), attribute="age", above=OLD),
    Concept("pneumonia", ("pneumonia",), ("no pneumonia",), attribute="pneumonia", level=1),
)
GUIDANCES = (1.0, 1.5, 2.0, 3.0)
INVERSIONS: tuple[Inversion, ...] = (Coupled(20), Heun(20))  #: the first at all guidances, others at 1
SAMPLING = Heun(20)  #: from noise alone, for the copy test
LOOKS = 10  #: at the watched patients while the fit runs
RESAMPLES = 2_000
BATCH = 64
SHIFT_YEARS = 20.0
SEEN = 0.6  #: a reader sees what it tells apart with an AUROC surely above this
COMPONENTS = 32  #: of the realism features
CYCLED = 32  #: images that are edited over and over


def declared_graph() -> CausalGraph:
    """Age and sex act on pneumonia; age and pneumonia on the view, as who is sicker is imaged in bed.

    Pneumonia has one wording: the base spells it by letters, and takes 32 tokens in all.
    """
    return CausalGraph(
        [
            Continuous("age", unit="years", low=0, high=120, phrases=("{value:.0f} year old", "aged {value:.0f}")),
            Binary("sex", levels=("M", "F"), phrases={"M": ("man", "male"), "F": ("woman", "female")}),
            Binary("view", levels=("PA", "AP"), phrases={"PA": ("PA view", "PA projection"), "AP": ("AP view", "AP projection")}),
            Binary("pneumonia", phrases={0: "no pneumonia", 1: "pneumonia"}),
        ],
        edges=[("age", "pneumonia"), ("sex", "pneumonia"), ("age", "view"), ("pneumonia", "view")],
    )  # fmt: skip


def split(dataset: Dataset, seed: int) -> dict[str, np.ndarray]:
    """Rows by the name of their set of patients; rows without an age or a sex are in none."""
    complete = dataset.attributes.notna().all(axis=1).to_numpy()
    parts = split_patients(dataset, tuple(SHARES.values()), seed=seed)
    return {name: rows[complete[rows]] for name, rows in zip(SHARES, parts, strict=True)}


def first_of_each(patients: pd.Series, rows: np.ndarray, most: int) -> np.ndarray:
    """One row a patient, of at most so many patients."""
    return rows[~patients.iloc[rows].duplicated().to_numpy()][:most]


class Augmented:
    """A dataset in several versions: row ``i * versions`` is image ``i`` as it is, the others turn, shift and scale it a little.

    Never mirrored: the heart lies on the left, and so does the side's marker.

    Args:
        dataset: of square images.
        versions: of each image.
        degrees, shift, zoom: the most that an image is turned, moved (share of its side) and enlarged (factor less 1).
    """

    texts = None

    def __init__(
        self, dataset: Dataset, versions: int, *, degrees: float = 3.0, shift: float = 0.03, zoom: float = 0.06
    ) -> None:
        self.dataset, self.versions, self.most = dataset, versions, (degrees, shift, zoom)
        whose = np.repeat(np.arange(len(dataset.attributes)), versions)
        self.attributes = dataset.attributes.iloc[whose].reset_index(drop=True)
        self.patients = dataset.patients.iloc[whose].reset_index(drop=True)
        key = f"{dataset.fingerprint}|{versions}|{self.most}"
        self.fingerprint = hashlib.sha256(key.encode()).hexdigest()[:16]

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """All versions of these rows of the dataset."""
        return (np.asarray(rows)[:, None] * self.versions + np.arange(self.versions)).ravel()

    def images(self, rows: np.ndarray) -> Tensor:
        """See :class:`causal_cxr.data.Dataset`."""
        whose, at = np.unique(np.asarray(rows) // self.versions, return_inverse=True)
        images = self.dataset.images(whose)[torch.from_numpy(at)]
        affine = np.stack([self._affine(int(row)) for row in rows])
        grid = functional.affine_grid(torch.from_numpy(affine), list(images.shape), align_corners=False)
        moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
        as_is = torch.from_numpy(np.asarray(rows) % self.versions == 0)[:, None, None, None]
        return torch.where(as_is, images, moved)

    def _affine(self, row: int) -> np.ndarray:
        turn, right, down, grow = np.random.default_rng([11, row]).uniform(-1, 1, 4)
        degrees, shift, zoom = self.most
        angle, scale = np.deg2rad(degrees * turn), 1 / (1 + zoom * (grow + 1) / 2)
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        return np.array([[cos, -sin, 2 * shift * right], [sin, cos, 2 * shift * down]], dtype=np.float32)


@dataclass(frozen=True)
class Change:
    """A change of one attribute, for every image: a flip, or of age from one side of :data:`OLD` to the other.

    Attributes:
        attribute: that is set.
        low, high: its two values; the concept of the attribute shows at ``high``.
    """

    attribute: str
    low: Any
    high: Any

    def apply(self, table: pd.DataFrame, concept: Concept) -> tuple[pd.DataFrame, np.ndarray]:
        """The table after the change, and ``(n,)`` +1 towards ``high``, -1 towards ``low``."""
        there = concept.truth(table) == 1
        values = pd.Series(np.where(there, self.low, self.high), index=table.index)
        column = table[self.attribute]
        return table.assign(**{self.attribute: values.astype(column.dtype)}), np.where(there, -1.0, 1.0)


def changes(table: pd.DataFrame) -> dict[str, Change]:
    """One for each concept, by its name; ages go to the mean age of the other side, as it is in ``table``."""
    older = table["age"] > OLD
    young, old = table.loc[~older, "age"].mean(), table.loc[older, "age"].mean()
    return {
        "AP view": Change("view", "PA", "AP"),
        "female": Change("sex", "M", "F"),
        "aged over 45": Change("age", float(np.round(young)), float(np.round(old))),
        "pneumonia": Change("pneumonia", 0, 1),
    }


def resampled(values: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """``(RESAMPLES, k)`` means of ``(n, k)`` values, whole patients drawn with replacement, the same ones at each call."""
    return resampled_means(values, patients, RESAMPLES, np.random.default_rng(0))


def interval(value: float, draws: np.ndarray) -> list[float]:
    """Value, low, high."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return [round(float(v), 4) for v in (value, low, high)]


def slopes(reader: ProbeReader, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """What each concept's score differs by between real images with and without it: ``(k,)``, and ``(RESAMPLES, k)`` draws."""
    found = reader.quality.concepts.loc[[c.name for c in reader.concepts], ["slope", "slope_se"]].to_numpy()
    normal = np.random.default_rng(seed).standard_normal((RESAMPLES, len(found)))
    return found[:, 0], np.maximum(found[:, 0] + normal * found[:, 1], 1e-3)


@dataclass(frozen=True)
class Edited:
    """Edits of ``n`` images by one method.

    Attributes:
        images: by concept, ``(n, 1, h, w)``.
        signs: by concept, ``(n,)``, see :meth:`Change.apply`.
        seconds: of one edit, inversion shared between the concepts.
    """

    images: Mapping[str, Tensor]
    signs: Mapping[str, np.ndarray]
    seconds: float


def edit_all(
    editor: Editor, abductions: list[Abduction], table: pd.DataFrame, wanted: Mapping[str, Change], seconds: float
) -> Edited:
    """Every change of every image; ``seconds`` were spent on the abductions."""
    begun, images, signs = time.monotonic(), {}, {}
    for concept in CONCEPTS:
        target, signs[concept.name] = wanted[concept.name].apply(table, concept)
        parts = [editor.edit(a, target.loc[a.factual.index]).images for a in abductions]
        images[concept.name] = torch.cat(parts)
    spent = seconds + time.monotonic() - begun
    return Edited(images, signs, spent / (len(table) * len(CONCEPTS)))


def abduct_all(editor: Editor, images: Tensor, table: pd.DataFrame) -> tuple[list[Abduction], float]:
    """In batches; and the seconds it took."""
    begun = time.monotonic()
    made = [
        editor.abduct(images[i : i + BATCH], table.iloc[i : i + BATCH], seeds=np.arange(i, min(i + BATCH, len(table))))
        for i in range(0, len(table), BATCH)
    ]
    return made, time.monotonic() - begun


def judged(edited: Edited, factual: Tensor, patients: np.ndarray, readers: Mapping[str, ProbeReader]) -> dict[str, Any]:
    """Effectiveness and leak by reader, and what stays of the image.

    ``leak``: rows what was set, columns what was read, in units of the reader's own slope, so that the diagonal is the
    effectiveness. ``leak_mean`` and ``leak_worst`` are of the sizes off the diagonal over the row's diagonal. Nothing is
    said of a concept that the reader does not see, see :data:`SEEN`: a change over hardly any difference means nothing.
    """
    found: dict[str, Any] = {"seconds_per_edit": round(edited.seconds, 4)}
    for kind, reader in readers.items():
        sees = reader.quality.concepts["auroc_low"].to_numpy() > SEEN
        names = [concept.name for concept, seen in zip(reader.concepts, sees, strict=True) if seen]
        found[kind] = {"blind": [concept.name for concept in reader.concepts if concept.name not in names]}
        if not names:
            continue
        before, (slope, slope_draws) = reader.read(factual).numpy(), slopes(reader)
        means, draws = [], []
        for name in names:
            change = (reader.read(edited.images[name]).numpy() - before) * edited.signs[name][:, None]
            means.append((change.mean(0) / slope)[sees])
            draws.append((resampled(change, patients) / slope_draws)[:, sees])
        matrix, matrices = np.array(means), np.stack(draws, axis=1)
        off = ~np.eye(len(names), dtype=bool)
        sizes, drawn = (
            (np.abs(m) / np.maximum(np.abs(np.diagonal(m, axis1=-2, axis2=-1)), 1e-3)[..., None])[..., off]
            for m in (matrix, matrices)
        )
        found[kind] |= {
            "effectiveness": {name: interval(matrix[j, j], matrices[:, j, j]) for j, name in enumerate(names)},
            "leak": {
                name: {other: interval(matrix[j, k], matrices[:, j, k]) for k, other in enumerate(names) if k != j}
                for j, name in enumerate(names)
            },
        }
        if off.any():
            found[kind] |= {
                "leak_mean": interval(sizes.mean(), drawn.mean(1)),
                "leak_worst": interval(sizes.max(), drawn.max(1)),
            }
    kept = {name: np.column_stack(likeness(edited.images[name], factual)) for name in names}
    for column, what in enumerate(("ssim", "l1")):
        values = {name: both[:, [column]] for name, both in kept.items()}
        found[what] = {name: interval(v.mean(), resampled(v, patients)[:, 0]) for name, v in values.items()}
    return found


def likeness(made: Tensor, factual: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """SSIM and mean absolute difference of each pair, ``(n,)`` each."""
    ssim: Any = structural_similarity_index_measure(made, factual, data_range=1.0, reduction="none")
    return ssim.numpy(), (made - factual).abs().mean(dim=(1, 2, 3)).numpy()


class Realism:
    """FID and KID on principal components of oriented gradients; both are small where images look alike in their edges.

    With few images FID is too large, by as much as ``floor`` shows: real images against other real ones, as many.

    Args:
        real: images that the made ones are compared to; the components are fitted to them.
    """

    def __init__(self, real: Tensor) -> None:
        self.gradients = OrientedGradients(64)
        features = self.gradients.features(real)
        self.mean = features.mean(0)
        scale, basis = torch.linalg.svd(features - self.mean, full_matrices=False)[1:]
        kept = min(COMPONENTS, len(real) // 2)
        self.basis = basis[:kept].T / scale[:kept] * len(real) ** 0.5
        self.real = self(real)

    def __call__(self, images: Tensor) -> Tensor:
        """``(n, components)``, of unit variance over the real images."""
        return (self.gradients.features(images) - self.mean) @ self.basis

    def of(self, made: Tensor, patients: np.ndarray) -> dict[str, list[float]]:
        """FID and KID x 100, each with an interval by the delete-a-group jackknife over 20 groups of patients."""
        features, codes = self(made), pd.factorize(patients)[0] % 20
        folds = [torch.from_numpy(np.flatnonzero(codes != k)) for k in range(codes.max() + 1)]
        n = self.real.shape[1]
        measures: dict[str, Callable[[Tensor], float]] = {
            "fid": lambda x: fid(self.real, x, torch.nn.Identity(), n),
            "kid_x100": lambda x: 100 * kid(self.real, x),
        }
        found = {}
        for name, measure in measures.items():
            value, left = measure(features), np.array([measure(features[keep]) for keep in folds])
            error = np.sqrt((len(left) - 1) / len(left) * np.square(left - left.mean()).sum())
            found[name] = [round(v, 4) for v in (value, value - 1.96 * error, value + 1.96 * error)]
        return found


def kid(real: Tensor, made: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy under the cubic kernel (Binkowski et al., ICLR 2018)."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x.double() @ y.double().T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.trace()) / (len(x) * (len(x) - 1))

    return float(within(real) + within(made) - 2 * kernel(real, made).mean())


def composition(editor: Editor, images: Tensor, table: pd.DataFrame, patients: np.ndarray) -> dict[str, list[float]]:
    """Mean absolute difference to the image after 1 and 10 edits that ask, in other words, for what is."""
    n = len(images)
    found, _ = null_cycles(editor, images, table, seeds=lambda cycle: np.arange(n) + cycle * n, batch=BATCH)
    return {str(cycles): interval(d.mean(), resampled(d[:, None], patients)[:, 0]) for cycles, d in found.items()}


def samples(editor: DiffusionEditor, table: pd.DataFrame, size: int, seed: int = 0) -> Tensor:
    """Images from noise alone, one for each row's caption."""
    drawing, parts = editor.using(inversion=SAMPLING), []
    process, reduction = editor.pipeline.process, editor.pipeline.latents.reduction
    for i in range(0, len(table), BATCH):
        rows = table.iloc[i : i + BATCH]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + i)
        noise = torch.randn(len(rows), reduction**2, *(size // reduction,) * 2, generator=generator)
        start = Trajectory(tuple(process.times(SAMPLING.steps)), (noise.to(editor.pipeline.device),))
        parts.append(drawing.edit(Abduction(rows, start), rows).images)
    return torch.cat(parts)


@torch.no_grad()
def held_out_loss(editor: DiffusionEditor, dataset: Dataset, rows: np.ndarray, seed: int = 0) -> list[float]:
    """The flow's mean squared error on these rows, times spread evenly: far lower on fitted rows means that it overfitted."""
    images, patients = dataset.images(rows), dataset.patients.iloc[rows].to_numpy()
    latents = editor.pipeline.latents.encode(images)
    process, errors = editor.pipeline.process, np.zeros((len(rows), 1))
    said_of = captions(dataset.attributes.iloc[rows], editor.graph_attributes)
    times = np.linspace(0.1, 0.9, 5)
    for k, t in enumerate(times):
        generator = torch.Generator().manual_seed(seed * 100 + k)
        noise = torch.randn(latents.shape, generator=generator)
        a, s = process.coefficients(float(t))
        for i in range(0, len(rows), BATCH):
            part = slice(i, i + BATCH)
            x = (a * latents[part] + s * noise[part]).to(editor.pipeline.device)
            text = editor.pipeline.text(said_of[part])
            said = editor.unet(x, process.network_time(float(t)), encoder_hidden_states=text).sample.cpu()
            errors[part, 0] += (said - (noise[part] - latents[part])).square().mean(dim=(1, 2, 3)).numpy() / len(times)
    return interval(errors.mean(), resampled(errors, patients)[:, 0])


FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "pixels": lambda images: functional.normalize(_centred(Pixels(32).features(images))),
    "gradients": lambda images: OrientedGradients(64).features(images),
}  #: of the copy test: 32 x 32 pixels, each image of zero mean and unit norm (distances tell correlations); edges


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


def copy_tests(
    made: Mapping[str, tuple[Tensor, np.ndarray]],
    fitted: tuple[Tensor, np.ndarray],
    held_out: tuple[Tensor, np.ndarray],
) -> dict[str, dict[str, CopyTest]]:
    """By features and by what was made; each is images and the patient whom each belongs to."""
    return {
        kind: {
            name: copy_test(
                rule(images).numpy(), rule(fitted[0]).numpy(), rule(held_out[0]).numpy(), groups=groups,
                fitted_patients=fitted[1], held_out_patients=held_out[1],
            )
            for name, (images, groups) in made.items()
        }
        for kind, rule in FEATURES.items()
    }  # fmt: skip


def fit_phase(
    args: argparse.Namespace, dataset: NIHChestXray14, parts: Mapping[str, np.ndarray], graph: CausalGraph
) -> None:
    """Fit the diffusion editor, keep the weights that the watched patients' loss prefers, write them with what they cost."""
    begun = time.monotonic()
    many = Augmented(dataset, args.versions)

    def validate(editor: DiffusionEditor) -> dict[str, float]:
        return {"flow_loss": held_out_loss(editor, dataset, parts["watched"])[0]}

    options: dict[str, Any] = {
        "steps": args.steps, "seed": args.seed, "batch_size": args.batch, "learning_rate": args.learning_rate,
        "watch": Watch(validate, every=max(1, args.steps // LOOKS), select="-flow_loss"),
        "checkpoint": args.folder / "checkpoint", "device": args.device, "minutes": args.minutes,
    }  # fmt: skip
    if args.fresh:
        editor = fit_diffusion(many, many.rows(parts["fitted"]), graph.attributes, **options)
    else:
        base = DiffusionEditor.from_shipped("diffusion-base")
        start = base.using(attributes=graph.attributes)
        editor = finetune(start, many, many.rows(parts["fitted"]), what=Joint(), **options)
    publish(
        editor, args.folder / "editor", title="Diffusion editor of ChestX-ray14",
        data=f"{args.size}x{args.size}, {args.versions} versions of each image, other patients held out",
        command="python benchmarks/nih_editing.py --phase fit",
        use="this benchmark only; fitted to patients, not to be handed on",
    )  # fmt: skip
    history = editor.provenance["history"]
    cost = {
        "fit_seconds": round(time.monotonic() - begun, 1), "fitted_by": editor.provenance["hardware"], "steps": history.steps,
        "kept": dict(history.chosen or {}), "batch": args.batch, "versions": args.versions,
        "start": "fresh" if args.fresh else "diffusion-base",
    }  # fmt: skip
    (args.folder / "fit.json").write_text(json.dumps(cost))


def scm_phase(args: argparse.Namespace, dataset: NIHChestXray14, rows: np.ndarray, graph: CausalGraph) -> None:
    """Fit the deep SCM to the same rows and write it."""
    editor = fit_image_model(
        dataset, rows, graph, steps=args.scm_steps, seed=args.seed, checkpoint=args.folder / "scm-checkpoint",
        device=args.device,
    )  # fmt: skip
    editor.save(args.folder / "scm")


def score_phase(
    args: argparse.Namespace, dataset: NIHChestXray14, parts: Mapping[str, np.ndarray], graph: CausalGraph
) -> None:
    """Fit the readers, edit, judge, test for copies, write numbers and sheets."""
    rows = first_of_each(dataset.patients, parts["edited"], args.edited)
    table, patients = dataset.attributes.iloc[rows], dataset.patients.iloc[rows].to_numpy()
    factual, wanted = dataset.images(rows), changes(dataset.attributes.iloc[parts["fitted"]])
    readers = fit_readers(dataset, parts["read"], graph)
    real, realism_patients = dataset.images(parts["read"]), dataset.patients.iloc[parts["read"]].to_numpy()
    realism = Realism(real)

    diffusion = DiffusionEditor.from_pretrained(args.folder / "editor").to(args.device)
    scm = SCMEditor.from_pretrained(args.folder / "scm")
    made: dict[str, Edited] = {}
    composed = {}
    cycled = slice(0, CYCLED)
    for inversion in INVERSIONS:
        editor = diffusion.using(inversion=inversion)
        abductions, seconds = abduct_all(editor, factual, table)
        for scale in GUIDANCES if inversion is INVERSIONS[0] else GUIDANCES[:1]:
            guided = editor.using(guidance=ClassifierFree(scale))
            made[f"{inversion.name} {scale:g}"] = edit_all(guided, abductions, table, wanted, seconds)
            _say(f"edited by {inversion.name} at guidance {scale:g}")
        if inversion is INVERSIONS[0]:
            contrasts = default_contrasts(graph, {"age": SHIFT_YEARS})
            watched = Validation(list(readers.values()), dataset, parts["watched"], graph, contrasts)
            weighed = calibrated(editor, watched)
            weights = {name: round(weight, 3) for name, weight in weighed.guidance.weights.items()}
            made[f"{inversion.name} calibrated"] = edit_all(weighed, abductions, table, wanted, seconds)
            _say(f"edited by {inversion.name} at guidance {weights}")
        composed[inversion.name] = composition(editor, factual[cycled], table[cycled], patients[cycled])
    abductions, seconds = abduct_all(scm, factual, table)
    made["scm"] = edit_all(scm, abductions, table, wanted, seconds)
    composed["scm"] = composition(scm, factual[cycled], table[cycled], patients[cycled])

    drawn, best = samples(diffusion, table, args.size, args.seed), made[f"{INVERSIONS[0].name} 1"]
    fitted_images, fitted_patients = dataset.images(parts["fitted"]), dataset.patients.iloc[parts["fitted"]].to_numpy()
    of_whom = {"samples": (drawn, np.arange(len(drawn))), "real": (factual, patients)}
    of_whom |= {f"edits: {name}": (images, patients) for name, images in best.images.items()}
    tests = copy_tests(of_whom, (fitted_images, fitted_patients), (real, realism_patients))

    order = np.roll(np.arange(len(factual)), 1)
    ssim, l1 = likeness(factual[order], factual)
    cost = json.loads((args.folder / "fit.json").read_text()) if (args.folder / "fit.json").is_file() else {}
    summary = {
        **cost,
        "images": {name: len(part) for name, part in parts.items()} | {"edited": len(rows)},
        "patients": {name: int(dataset.patients.iloc[part].nunique()) for name, part in parts.items()}
        | {"edited": len(rows)},
        "flow_loss": {
            name: held_out_loss(diffusion, dataset, parts[name][:200]) for name in ("fitted", "watched", "read")
        },
        "readers": {kind: _quality(reader, factual, table) for kind, reader in readers.items()},
        "weights": weights,
        "changes": {name: [change.attribute, change.low, change.high] for name, change in wanted.items()},
        "editors": {name: judged(edits, factual, patients, readers) for name, edits in made.items()},
        "composition": composed,
        "another_patient": {"ssim": round(float(ssim.mean()), 4), "l1": round(float(l1.mean()), 4)},
        "realism": {
            "features": f"{realism.real.shape[1]} principal components of oriented gradients at 64 pixels",
            "real": len(real), "made": len(factual), "floor": realism.of(factual, patients),
            "samples": realism.of(drawn, patients),
            **{name: {c: realism.of(images, patients) for c, images in edits.images.items()} for name, edits in made.items()},
        },
        "copies": {kind: {name: test.to_dict() for name, test in found.items()} for kind, found in tests.items()},
    }  # fmt: skip
    record(args.json, seed=args.seed, summary=summary)
    print(json.dumps(summary, indent=1))
    if args.figure is not None:
        shown = {"as learnt": best.images, "calibrated": made[f"{INVERSIONS[0].name} calibrated"].images}
        shown["scm"] = made["scm"].images
        contact_sheet(args.figure, factual, table, shown, wanted)
        nearest = {name: tests["pixels"][name].nearest for name in ("samples", "real")}
        images = {"samples": drawn, "real": factual}
        neighbour_sheet(args.figure.with_name(f"{args.figure.stem}-neighbours.png"), images, nearest, fitted_images)


def fit_readers(dataset: Dataset, rows: np.ndarray, graph: CausalGraph) -> dict[str, ProbeReader]:
    """Two probes of different features."""
    truth = np.column_stack([concept.truth(dataset.attributes.iloc[rows]) for concept in CONCEPTS])
    kinds = {"gradients": OrientedGradients(64), "pixels": Pixels(64)}
    return {
        name: ProbeReader.fit(
            dataset, rows, truth, CONCEPTS, graph=graph, shifts={"age": SHIFT_YEARS}, features=features, name=name
        )
        for name, features in kinds.items()
    }


def _quality(reader: ProbeReader, images: Tensor, table: pd.DataFrame) -> dict[str, Any]:
    """AUROC out of fold on the readers' patients with its interval, and of the edited patients' real images; slope."""
    scores, found = reader.read(images).numpy(), {}
    for j, concept in enumerate(reader.concepts):
        row = reader.quality.concepts.loc[concept.name]
        value = auroc(scores[:, j], concept.truth(table) == 1)
        found[concept.name] = {
            "auroc": [round(float(row[c]), 3) for c in ("auroc", "auroc_low", "auroc_high")],
            "auroc_edited_patients": round(value, 3) if np.isfinite(value) else None,
            "slope": [round(float(row[c]), 3) for c in ("slope", "slope_low", "slope_high")],
        }
    return found


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def main() -> None:
    """Run the phases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="has Data_Entry_2017_v2020.csv and the images")
    parser.add_argument("--size", type=int, default=64, help="pixels a side, a multiple of 16")
    parser.add_argument("--steps", type=int, default=700, help="of the diffusion editor")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--minutes", type=float, help="of the diffusion editor's fit, at most")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--versions", type=int, default=8, help="of each image, slightly turned, moved and enlarged")
    parser.add_argument("--fresh", action="store_true", help="start from random weights, not from the shipped base")
    parser.add_argument("--scm-steps", type=int, default=1500, help="of 32 images, at most")
    parser.add_argument("--edited", type=int, default=128, help="patients to edit, at most")
    parser.add_argument("--phase", choices=PHASES, nargs="+", default=list(PHASES))
    parser.add_argument("--folder", type=Path, default=Path("runs/nih-editing"), help="what phases leave to each other")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--figure", type=Path, help="contact sheet; its neighbour shows samples with the nearest fitted images"
    )
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    graph = declared_graph()
    dataset = NIHChestXray14(args.data, size=args.size, graph=graph)
    parts = split(dataset, args.seed)
    if "fit" in args.phase:
        fit_phase(args, dataset, parts, graph)
        _say("diffusion editor fitted")
    if "scm" in args.phase:
        scm_phase(args, dataset, parts["fitted"], graph)
        _say("deep SCM fitted")
    if "score" in args.phase:
        score_phase(args, dataset, parts, graph)


if __name__ == "__main__":
    main()
