"""How close an editor's counterfactuals come to the true ones, on worlds where those are known; and how it keeps still.

Truth of a contrast is a :class:`Question`: it is drawn once, and put to any number of editors. What is read (leak) and what
is done in a row (composition, reversibility) needs no truth of pixels, or only that of readings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from causal_cxr.audits.cycles import null_cycles, there_and_back
from causal_cxr.audits.effects import IntervalEstimate, paired_ratio
from causal_cxr.data.phantom import Phantom
from causal_cxr.editors.editor import Abduction, Editor
from causal_cxr.graphs import Contrast
from causal_cxr.readers.concepts import Concept

RESAMPLES = 1_000
BATCH = 64
AGREE = 0.02  #: of an intensity in [0, 1]: five grey levels, at which two images are alike in a pixel
REVEALED = 0.5  #: least share of a change's squared norm that lies where all true counterfactuals agree
EVERYWHERE = 0.9  #: a change of more of the pixels has no outside
#: What bootstraps resample, a patient.
PARTS = ("edited", "nothing", "floor")


class Reads(Protocol):
    """What is asked of a reader here."""

    concepts: tuple[Concept, ...]

    def read(self, images: Tensor) -> Tensor:
        """``(n, 1, h, w)`` to ``(n, k)`` scores."""
        ...


@dataclass(frozen=True)
class Question:
    """A contrast, and what is true of it; ``n`` images to which it applies.

    Attributes:
        contrast: what is asked.
        rows: ``(n,)`` of the dataset.
        sign: ``(n,)`` +1 from reference to level, -1 back.
        patients: ``(n,)``.
        factual: ``n`` rows, the labelled attributes as they are.
        target: the same with the one set.
        images: ``(n, 1, h, w)`` factual.
        members: ``(k, n, 1, h, w)`` true counterfactuals (:meth:`Phantom.counterfactual_set`).
        redraw: ``(n, 1, h, w)`` another of the same kind, held out: an oracle sampler.
    """

    contrast: Contrast
    rows: np.ndarray
    sign: np.ndarray
    patients: np.ndarray
    factual: pd.DataFrame
    target: pd.DataFrame
    images: Tensor
    members: Tensor
    redraw: Tensor


def questions(
    phantom: Phantom,
    rows: np.ndarray,
    contrasts: Sequence[Contrast],
    *,
    k: int = 16,
    seed: int = 0,
    held: bool = True,
) -> list[Question]:
    """The truth of each contrast.

    Args:
        phantom: whose truth is known; contrasts on attributes that show in no image are passed over.
        rows: to edit; those to which a contrast does not apply are left out of it.
        contrasts: to carry out.
        k: true counterfactuals an image.
        seed: of the redraws.
        held: the other labelled attributes stay as they are; ``False``: what the set one causes follows (total effect).
    """
    asked = []
    for contrast in contrasts:
        if contrast.attribute not in phantom.graph.image_parents:
            continue
        attribute = phantom.graph.attributes[contrast.attribute]
        moved, sign = contrast.apply(attribute, phantom.attributes[contrast.attribute])
        mine = rows[sign[rows] != 0]
        if not len(mine):
            continue
        factual = phantom.attributes.iloc[mine]
        target = factual.assign(**{contrast.attribute: moved.iloc[mine]})
        given = target if held else target[[contrast.attribute]]
        asked.append(
            Question(
                contrast,
                mine,
                sign[mine],
                phantom.patients.iloc[mine].to_numpy(),
                factual,
                target,
                phantom.images(mine),
                phantom.counterfactual_set(given, k, seed=seed, held=held),
                phantom.counterfactual_set(given, 1, seed=seed + 1, held=held)[0],
            )
        )
    return asked


def answers(
    editor: Editor,
    images: Tensor,
    factual: pd.DataFrame,
    targets: Sequence[pd.DataFrame],
    *,
    seed: int = 0,
    phrasing: int = 0,
) -> list[Tensor]:
    """What an editor makes of each target; an image is abducted once for all of them.

    Args:
        editor: under test.
        images: ``(n, 1, h, w)`` factual.
        factual: ``n`` rows; the i-th image has the seed ``seed + i``.
        targets: some of these rows each, in their order.
        phrasing: of the edits.

    Returns:
        for each target, images in its order.
    """
    made: list[list[Tensor]] = [[] for _ in targets]
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        here = factual.iloc[part]
        abduction = _abducted(editor, images[part], here, seed + start)
        for parts, target in zip(made, targets, strict=True):
            applies = here.index.isin(target.index)
            if applies.any():
                whole = here.assign(**{name: target[name].reindex(here.index) for name in target.columns})
                whole = whole.where(pd.Series(applies, here.index), here, axis=0).astype(here.dtypes.to_dict())
                parts.append(editor.edit(abduction, whole, phrasing=phrasing).images[np.flatnonzero(applies).tolist()])
    return [torch.cat(parts) if parts else images[:0] for parts in made]


def _abducted(editor: Editor, images: Tensor, factual: pd.DataFrame, seed: int) -> Abduction:
    return editor.abduct(images, factual, seeds=seed + np.arange(len(images), dtype=np.int64))


# -- against true images -------------------------------------------------------------------------------------------------
def counterfactual_errors(
    editor: Editor, phantom: Phantom, rows: np.ndarray, contrasts: Sequence[Contrast], *, k: int = 16, seed: int = 0
) -> pd.DataFrame:
    """:func:`errors` of an editor's edits, one row an image x contrast; see :func:`questions` for the arguments."""
    asked = questions(phantom, rows, contrasts, k=k, seed=seed)
    made = answers(editor, phantom.images(rows), phantom.attributes.iloc[rows], [one.target for one in asked])
    return pd.concat([errors(one, edited) for one, edited in zip(asked, made, strict=True)], ignore_index=True)


def errors(question: Question, edited: Tensor) -> pd.DataFrame:
    """Distance of each edit to the nearest true counterfactual, and how much of the true change it makes.

    The true counterfactuals of an image share all noise that it reveals and differ in what it does not, such as where an
    object will appear; the nearest one counts. Doing nothing and an oracle sampler, a held-out redraw, are scored alike.

    Args:
        question: asked.
        edited: ``(n, 1, h, w)`` the answer.

    Returns:
        One row an image: attribute, row, patient, sign; root mean square errors ``edited``, ``nothing`` and ``floor`` on
        intensities in [0, 1]. With v the change to the nearest member and w the change made, relative to the factual
        image, what :func:`true_effect_agreement` adds up: ``along`` ``<v, w>``, ``across``, the norm of w orthogonal to v,
        ``true`` ``|v|`` and ``made`` ``|w|``. A v that is nowhere over :data:`AGREE` does not show, and is 0. The first three
        ``_revealed`` are on the pixels where all members agree (:data:`AGREE`), NaN where less than :data:`REVEALED` of the
        change lies there, or none shows: an appearing object's place, which no editor can know, is left out. Minimality:
        ``outside``, the share of ``|w|^2`` in pixels that no member changes, NaN where members change nearly all.
    """
    members, images = question.members, question.images
    error, nearest = _nearest(members, edited)
    v, w = (nearest - images).flatten(1), (edited - images).flatten(1)
    shows = (v.abs() > AGREE).any(1)
    v = v * shows[:, None]
    agree = ((members.amax(0) - members.amin(0)) <= AGREE).flatten(1)
    still = ~changed(question).flatten(1)
    seen = shows & ((v * agree).square().sum(1) >= REVEALED * v.square().sum(1))
    outside = (w * still).square().sum(1) / w.square().sum(1).clamp_min(1e-12)
    outside[still.float().mean(1) < 1 - EVERYWHERE] = torch.nan
    return pd.DataFrame(
        {
            "attribute": question.contrast.attribute,
            "row": question.rows,
            "patient": question.patients,
            "sign": question.sign,
            "edited": error.numpy(),
            "nothing": _nearest(members, images)[0].numpy(),
            "floor": _nearest(members, question.redraw)[0].numpy(),
            **_parts(v, w),
            **{f"{name}_revealed": np.where(seen, part, np.nan) for name, part in _parts(v * agree, w * agree).items()},
            "made": w.norm(dim=1).numpy(),
            "outside": outside.numpy(),
        }
    )


def changed(question: Question) -> Tensor:
    """``(n, 1, h, w)`` bool: pixels that some true counterfactual changes by more than :data:`AGREE`."""
    return (question.members - question.images).abs().amax(0) > AGREE


def error_ratios(errors: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """``(error - floor) / (nothing - floor)`` an attribute: 0 is an oracle sampler, 1 is doing nothing; skill is 1 - it.

    Args:
        errors: of :func:`counterfactual_errors`.
        seed: of the bootstrap.

    Returns:
        index attribute: ``ratio`` of means over images, ``low`` and ``high``, a 95% patient bootstrap, and ``n``.
    """
    found = {}
    for attribute, mine in errors.groupby("attribute", sort=False):
        sums = mine.groupby("patient")[list(PARTS)].sum().to_numpy(dtype=float)
        counts = _resampled(len(sums), seed)
        ratios = _ratio(np.vstack([sums.sum(0), counts @ sums]))
        low, high = np.quantile(ratios[1:], [0.025, 0.975])
        found[attribute] = {"ratio": ratios[0], "low": low, "high": high, "n": len(mine)}
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("attribute")


def mean_error_ratio(errors: pd.DataFrame, *, seed: int = 0) -> dict[str, float]:
    """The mean of :func:`error_ratios` over attributes, ``ratio``, ``low`` and ``high``; patients are resampled once for all."""
    patients = pd.Index(errors["patient"].unique())
    counts = np.vstack([np.ones(len(patients)), _resampled(len(patients), seed)])
    ratios = [
        _ratio(counts @ mine.groupby("patient")[list(PARTS)].sum().reindex(patients, fill_value=0.0).to_numpy())
        for _, mine in errors.groupby("attribute", sort=False)
    ]
    mean = np.mean(ratios, axis=0)
    low, high = np.nanquantile(mean[1:], [0.025, 0.975])
    return {"ratio": float(mean[0]), "low": float(low), "high": float(high)}


def true_effect_agreement(errors: pd.DataFrame) -> pd.DataFrame:
    """How much of an attribute's true change is made, and what else (TEA; Xia et al., MICCAI 2025).

    Ratios are of sums over images, so that an image in which the truth changes nothing that shows, such as an opacity behind
    the heart, adds what was made of it and is not divided by.

    Args:
        errors: of :func:`errors`; v and w are explained there.

    Returns:
        index attribute: ``effectiveness``, sum of ``<v, w>`` over that of ``|v|^2`` (ideal 1); ``amplification``, sum of the
        norms of w orthogonal to v over that of ``|v|`` (ideal 0); ``size``, sum of ``|w|`` over that of ``|v|``; and the first
        two ``_revealed``, of the ``share_revealed`` of the images. Each with Fieller's 95% interval, patients as clusters,
        ``_low`` and ``_high``. ``left_out`` and ``left_out_revealed`` say why there are none (NaN): the true change is not told
        from 0, or there are fewer than three patients.
    """
    found = {attribute: _agreed(mine) for attribute, mine in errors.groupby("attribute", sort=False)}
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("attribute")


def mean_true_effect_agreement(errors: pd.DataFrame) -> dict[str, float]:
    """``effectiveness`` and ``amplification`` where the image reveals the change, means over attributes that are not left out."""
    found = true_effect_agreement(errors)
    return {name: float(found[f"{name}_revealed"].mean()) for name in ("effectiveness", "amplification")}


def _agreed(errors: pd.DataFrame) -> dict[str, Any]:
    patients = errors["patient"].to_numpy()
    found: dict[str, Any] = {}
    for where in ("", "_revealed"):
        along, across, true = (errors[f"{part}{where}"].to_numpy(dtype=float) for part in ("along", "across", "true"))
        pairs = {"effectiveness": (along, true**2), "amplification": (across, true)}
        if not where:
            pairs["size"] = (errors["made"].to_numpy(dtype=float), true)
        ratios = {name: paired_ratio(above, below, patients) for name, (above, below) in pairs.items()}
        left_out = _left_out(list(ratios.values()), true)
        for name, ratio in ratios.items():
            told = {"": ratio.value, "_low": ratio.low, "_high": ratio.high}
            found |= {f"{name}{where}{end}": np.nan if left_out else value for end, value in told.items()}
        found[f"left_out{where}"] = left_out
    return found | {"share_revealed": float(errors["true_revealed"].notna().mean())}


def _left_out(ratios: Sequence[IntervalEstimate], true: np.ndarray) -> str:
    if any(not ratio.patients for ratio in ratios):
        return f"fewer than three patients ({int((~np.isnan(true)).sum())} of {len(true)} images)"
    if not np.isfinite([(ratio.low, ratio.high) for ratio in ratios]).all():
        return f"a true change of {np.nanmean(true):.2g} an image is not told from 0"
    return ""


def _ratio(sums: np.ndarray) -> np.ndarray:
    edited, nothing, floor = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold no patient of an attribute
        return (edited - floor) / (nothing - floor)


def _resampled(patients: int, seed: int) -> np.ndarray:
    """``(RESAMPLES, patients)`` how often each patient is in a bootstrap sample."""
    return np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), RESAMPLES).astype(float)


def _nearest(members: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
    """``(n,)`` root mean square distance to the nearest of ``(k, n, 1, h, w)`` members, and ``(n, 1, h, w)`` that one."""
    distance = (members - candidate[None]).square().mean(dim=(2, 3, 4)).sqrt()
    error, index = distance.min(dim=0)
    return error, members[index, range(len(candidate))]


def _parts(v: Tensor, w: Tensor) -> dict[str, np.ndarray]:
    along, square = (v * w).sum(1), v.square().sum(1)
    across = (w - (along / square.clamp_min(1e-12))[:, None] * v).norm(dim=1)
    return {"along": along.numpy(), "across": across.numpy(), "true": square.sqrt().numpy()}


# -- against true readings -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Readings:
    """What a reader says of one contrast's images, ``k`` concepts; any scale, one for all.

    Attributes:
        attribute: that was set.
        own: column of the concept that reads it.
        sign: ``(n,)`` +1 or -1, the direction of the contrast.
        patients: ``(n,)``.
        before: ``(n, k)`` of the factual images.
        true: ``(n, k)`` of the true counterfactuals, their mean.
        made: ``(n, k)`` of the edited images.
    """

    attribute: str
    own: int
    sign: np.ndarray
    patients: np.ndarray
    before: np.ndarray
    true: np.ndarray
    made: np.ndarray


def true_readings(reader: Reads, question: Question) -> Callable[[Tensor], Readings]:
    """Read the truth of a question; what is returned then reads an editor's answers to it.

    Raises:
        ValueError: the reader has no concept of the attribute that is set.
    """
    contrast, scores = question.contrast, _read(reader, question.images)
    own = [
        j
        for j, concept in enumerate(reader.concepts)
        if concept.attribute == contrast.attribute and (concept.above is not None or concept.level == contrast.level)
    ]
    if not own:
        raise ValueError(
            f"No concept of the reader is about {contrast.name!r}: the change that is intended cannot be read. It reads "
            f"{[concept.name for concept in reader.concepts]}."
        )
    true = np.mean([_read(reader, member) for member in question.members], axis=0)

    def of(edited: Tensor) -> Readings:
        made = _read(reader, edited)
        return Readings(contrast.attribute, own[0], question.sign, question.patients, scores, true, made)

    return of


def _read(reader: Reads, images: Tensor) -> np.ndarray:
    with torch.no_grad():
        return reader.read(images).double().numpy()


@dataclass(frozen=True)
class Leak:
    """What edits change that they should not, attribute x attribute.

    Attributes:
        cells: one row a contrast, direction and concept: ``attribute`` that was set, ``sign``, ``concept`` that was read,
            ``own`` (whether it reads the attribute itself), oriented mean changes ``made`` and ``true`` in units of the
            intended change of the attribute (the true one of its own reading, both directions together), ``leak`` = made -
            true, a 95% patient bootstrap ``low`` and ``high``, ``n``.
        mean: of the leak's absolute values off target, with ``mean_low`` and ``mean_high``. Noise counts: an editor that leaks
            nothing has a small one above 0.
        worst: the largest of them, with ``worst_low`` and ``worst_high``.
        worst_cell: where that is, in words.
    """

    cells: pd.DataFrame
    mean: float
    mean_low: float
    mean_high: float
    worst: float
    worst_low: float
    worst_high: float
    worst_cell: str

    def matrix(self) -> pd.DataFrame:
        """Attribute set x concept read: mean of the absolute leak over directions; NaN on target."""
        off = self.cells[~self.cells["own"]]
        off = off.assign(leak=off["leak"].abs())
        return off.pivot_table("leak", index="attribute", columns="concept", aggfunc="mean", sort=False)

    def effectiveness(self) -> pd.Series:
        """Attribute set -> how far its own reading moved, over how far it moves in truth (ideal 1), over all its images."""
        own = self.cells[self.cells["own"]]
        sums = own[["made", "true"]].mul(own["n"], axis=0).groupby(own["attribute"], sort=False).sum()
        return sums["made"] / sums["true"]


def leak(readings: Sequence[Readings], concepts: Sequence[Concept], *, slopes: Any = None, seed: int = 0) -> Leak:
    """``(made - true) / intended``: the change of each concept beyond the true one, over the intended change of the attribute.

    Each direction of a contrast is a cell of its own, on one scale: leaks that cancel between them are leaks all the same. Readings err,
    so changes are divided by the reader's slope; comparing edited images with the true counterfactuals of the same images,
    read by the same reader, subtracts what a reader sees of an attribute in others' places.

    Args:
        readings: one for each contrast.
        concepts: the ``k`` columns; another concept of the attribute that is set is no other attribute, and left out.
        slopes: ``(k,)`` of the reader (``E[score | present] - E[score | absent]``); 1 unless given.
        seed: of the bootstrap; patients are resampled once for all cells.

    Raises:
        ValueError: a contrast moves its own attribute's reading nowhere in truth.
    """
    corrected = np.ones(len(concepts)) if slopes is None else np.asarray(slopes, dtype=float)
    everyone = np.unique(np.concatenate([one.patients for one in readings]))
    counts = np.vstack([np.ones(len(everyone)), _resampled(len(everyone), seed)])
    rows, draws = [], []
    for one in readings:
        who = np.searchsorted(everyone, one.patients)
        oriented = [one.sign[:, None] * (scores - one.before) / corrected for scores in (one.made, one.true)]
        intended = _means(oriented[1], who, counts)[:, one.own]
        if not abs(intended[0]) > 1e-6:
            raise ValueError(
                f"In truth {one.attribute!r} moves {concepts[one.own].name!r} nowhere: nothing to measure leaks by."
            )
        for sign in (1, -1):
            here = one.sign == sign
            if not here.any():
                continue
            made, true = (_means(change[here], who[here], counts) / intended[:, None] for change in oriented)
            for j, concept in enumerate(concepts):
                if j != one.own and concept.attribute == one.attribute:
                    continue
                excess = made[:, j] - true[:, j]
                low, high = _interval(excess[1:])
                rows.append([one.attribute, sign, concept.name, j == one.own, made[0, j], true[0, j], excess[0], low, high,
                             int(here.sum())])  # fmt: skip
                draws.append(np.abs(excess))
    columns = ["attribute", "sign", "concept", "own", "made", "true", "leak", "low", "high", "n"]
    cells = pd.DataFrame(rows, columns=columns)
    off = np.array(draws)[~cells["own"].to_numpy(dtype=bool)]
    mean, worst = np.nanmean(off, axis=0), np.nanmax(off, axis=0)
    at = cells[~cells["own"]].iloc[int(off[:, 0].argmax())]
    return Leak(
        cells, float(mean[0]), *_interval(mean[1:]), float(worst[0]), *_interval(worst[1:]),
        f"do({at['attribute']}) {'forth' if at['sign'] == 1 else 'back'} moves {at['concept']}",
    )  # fmt: skip


def _interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _means(values: np.ndarray, who: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``(resamples, k)`` means of ``(n, k)`` values of patients ``who``, each patient counted so often; NaN of none."""
    sums = np.zeros((counts.shape[1], values.shape[1] + 1))
    np.add.at(sums, who, np.column_stack([values, np.ones(len(values))]))
    totals = counts @ sums
    with np.errstate(divide="ignore", invalid="ignore"):
        return totals[:, :-1] / totals[:, -1:]


# -- in a row ------------------------------------------------------------------------------------------------------------
def composition(
    editor: Editor, images: Tensor, factual: pd.DataFrame, *, cycles: Sequence[int] = (1, 10), seed: int = 0
) -> dict[int, float]:
    """Mean over images of :func:`causal_cxr.audits.cycles.null_cycles`, by number of cycles.

    Args:
        editor: under test.
        images: ``(n, 1, h, w)``.
        factual: ``n`` rows.
        cycles: after which to look.
        seed: of the abductions; each cycle draws anew.
    """
    found, _ = null_cycles(editor, images, factual, seeds=_drawn(seed, len(images)), cycles=cycles, batch=BATCH)
    return {cycle: float(distances.mean()) for cycle, distances in found.items()}


def reversibility(
    editor: Editor, images: Tensor, factual: pd.DataFrame, edited: Tensor, target: pd.DataFrame, *, seed: int = 0
) -> float:
    """Mean over images of :func:`causal_cxr.audits.cycles.there_and_back`.

    Args:
        editor: under test.
        images: ``(n, 1, h, w)`` factual.
        factual: ``n`` rows.
        edited: ``(n, 1, h, w)`` what the editor made of ``target``.
        target: ``n`` rows.
        seed: of the second abduction.
    """
    seeds = _drawn(seed - len(images), len(images))  # it is the first cycle
    distances, _ = there_and_back(editor, images, factual, edited, target, seeds=seeds, batch=BATCH)
    return float(distances.mean())


def _drawn(seed: int, n: int) -> Callable[[int], np.ndarray]:
    return lambda cycle: seed + cycle * n + np.arange(n, dtype=np.int64)
