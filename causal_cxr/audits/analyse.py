"""The cheap half of an audit: the measurement table and the graph in, edges out. Pure and repeatable."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from causal_cxr.audits.acceptance import acceptance_rates
from causal_cxr.audits.agreement import DIFFER, best_reader, heard_with_a_witness, reader_agreement
from causal_cxr.audits.associations import associations
from causal_cxr.audits.cells import cell, decided_about
from causal_cxr.audits.decisions import INTERNAL, decide
from causal_cxr.audits.differences import asked_edits, paired_differences
from causal_cxr.audits.falsification import independence_tests, rejected_at
from causal_cxr.audits.gates import Gate
from causal_cxr.audits.heterogeneity import heterogeneity, reciprocal_edits
from causal_cxr.audits.obedience import EFFECTIVENESS, LEAK, leaks, obedience_of
from causal_cxr.graphs import CausalGraph, Contrast
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import ReaderQuality


@dataclass(frozen=True)
class Analysis:
    """Edges, what else readers say of them, and the limits of editors and graph, as frames (see :func:`analyse`)."""

    edges: pd.DataFrame
    second_readings: pd.DataFrame
    falsification: pd.DataFrame
    effectiveness: pd.DataFrame
    leak: pd.DataFrame
    acceptance: pd.DataFrame
    heterogeneity: pd.DataFrame
    reciprocal: pd.DataFrame


def analyse(
    measurements: pd.DataFrame,
    attributes: pd.DataFrame,
    graph: CausalGraph,
    contrasts: Sequence[Contrast],
    concepts: Mapping[str, Sequence[Concept]],
    quality: Mapping[str, ReaderQuality],
    *,
    alpha: float = 0.05,
    smallest_effect: float = 0.10,
    labelled_outcomes: bool = False,
    apart: Collection[frozenset[str]] = (),
    labels: pd.DataFrame | None = None,
) -> Analysis:
    """Effects, gates, tests, verdicts.

    Args:
        measurements: as :mod:`causal_cxr.audits.measure` writes them.
        attributes: the dataset's labelled table, index = its rows.
        graph: the declared one.
        contrasts: as measured.
        concepts, quality: by reader name.
        alpha: of every test, and of the false-discovery rate of each verdict kind.
        smallest_effect: delta, a risk difference.
        labelled_outcomes: whether what an attribute does to the other labelled attributes is asked too, as the images
            show them (by the concepts that read them); it widens the families that the error control is over.
        apart: pairs of readers' names that share neither backbone nor patients: only such two bear each other out.
        labels: what is known of concepts in some audited images (:class:`causal_cxr.audits.Audit`).

    Returns:
        ``edges``: one row an editor x contrast x concept outside the graph (with ``labelled_outcomes``: or reading another
        labelled attribute), read by the reader that reads the concept
        best, with the three estimates (editor, adjusted, marginal; direct where labelled mediators exist), their calls,
        the verdict, its q and a sentence. ``gained`` and ``lost``: share of images in which the concept appears, of
        those without it, and disappears, of those with it, when the attribute goes from a0 to a1 (a score of 0.5 is
        the border). ``rejected``: share of the edits, or of their null edits, that the editor rejected;
        they enter no estimate, and whatever they would have shown, the estimate from all edits lies between ``bound_low`` and
        ``bound_high`` (:func:`causal_cxr.audits.effects.rejection_bounds`; on the scale of the concept, so beyond [-1, 1] where the
        reader's slope is low), with 95% confidence between ``bound_low_95`` and ``bound_high_95``. ``rival_q``: q of "the adjusted association is there", which needs no editor. ``agreement``: what
        the other readers that read it well enough say; ``witness``: the one that bears out a reader that follows the
        attribute. ``patients_needed``: who would decide what is open, whatever the family's other cells say, if the estimates stood
        still. ``editor_mde`` and ``adjusted_mde``: the effect that such an error lets one call "yes" with a power of 0.8, on that
        side alone and before correction for other cells. ``shift_removed`` with ``shift_se``: what of each estimate from scores was taken off as what the reader sees of the
        attribute itself, in scores. ``effectiveness``: how much of what is asked of the attribute itself the edit does, by the
        reader that reads it best; ``editor_p_no`` and ``direct_p_no`` are of the effects divided by it where it is less than 1. ``refusal``: the type of an ``undecided``
        (:data:`causal_cxr.audits.gates.REFUSALS`). ``labelled``: labels that adjusted and marginal rest on, prediction-powered;
        ``labels_unused``: why those that were given could not serve. ``selected_through``: what was selected
        on among the attribute's declared effects; what runs through it shows only as it is left among the collected
        (:func:`causal_cxr.graphs.identification.selected_effects`). ``path_unsupported``: the graph declares a path and the data show none. ``second_readings``: the estimates and calls of the readers
        that were not chosen. ``falsification``: the graph's implied independences among labelled attributes, tested
        (:func:`causal_cxr.audits.falsification.independence_tests`). ``acceptance``: how many edits were accepted, in each
        group of patients (:func:`causal_cxr.audits.acceptance.acceptance_rates`). ``heterogeneity`` and ``reciprocal``: see
        :mod:`causal_cxr.audits.heterogeneity`.

    Raises:
        ValueError: no concept is a candidate hidden attribute.
    """
    if not any(concept.attribute is None for group in concepts.values() for concept in group):
        raise ValueError("No concept is a candidate hidden attribute; give a reader at least one without attribute=...")
    factual = measurements[(measurements["kind"] == "factual") & measurements["accepted"]].set_index("row").sort_index()
    outcomes = {
        f"{reader}/{concept.name}": concept.attribute for reader, group in concepts.items() for concept in group
    }
    columns = list(outcomes)
    known = {
        f"{reader}/{concept.name}": labels[concept.name]
        for reader, group in concepts.items() for concept in group
        if labels is not None and concept.name in labels
    }  # fmt: skip
    table = graph.coerce(attributes)
    edited = np.sort(measurements.loc[measurements["kind"] == "null", "row"].unique())
    observed = {c.name: associations(graph, table, factual, outcomes, c, edited, known) for c in contrasts}
    falsification = independence_tests(graph, table.loc[factual.index], factual["patient"].to_numpy(), alpha=alpha)

    names = sorted(measurements.loc[measurements["kind"] == "null", "editor"].unique())
    asked_of = {
        (contrast.name, concept.name)
        for contrast in contrasts for group in concepts.values() for concept in group
        if decided_about(contrast, concept, labelled_outcomes)
    }  # fmt: skip
    tests = max(len(names) * len(asked_of), 1)  # what a family counts: a cell an edge, however many read it
    rows, effectiveness, leak = [], [], []
    differences: dict[tuple[str, str], pd.DataFrame | None] = {}
    for editor in names:
        mine = measurements[measurements["editor"] == editor]
        null = mine[mine["kind"] == "null"].set_index("row")
        for contrast in contrasts:
            paired = {kind: paired_differences(mine, null, contrast, kind, columns) for kind in ("total", "direct")}
            differences[editor, contrast.name] = paired["total"]
            seen = observed[contrast.name]
            asked = asked_edits(mine, null, contrast, columns)
            obedience = obedience_of(editor, contrast, concepts, quality, paired["total"], seen)
            effectiveness += obedience.rows
            leak += leaks(editor, contrast, concepts, quality, graph, paired["total"])
            for reader, group in concepts.items():
                for concept in group:
                    if decided_about(contrast, concept, labelled_outcomes):
                        rows.append(cell(editor, contrast, reader, concept, quality[reader], paired, asked,
                                          seen[f"{reader}/{concept.name}"], factual, obedience, graph, alpha,
                                          smallest_effect, tests))  # fmt: skip
    cells = pd.DataFrame(rows)
    chosen = best_reader(cells)
    others = cells[~chosen]
    cells = cells[chosen].assign(agreement=reader_agreement(cells[chosen], others)).reset_index(drop=True)
    cells = heard_with_a_witness(cells, others, apart)
    contradicted = {
        name: Gate("graph falsified", f"graph falsified: {s}") for name, s in rejected_at(falsification).items()
    }
    cells["gates"] = [
        (*gates, *([contradicted[attribute]] if attribute in contradicted else []),
         *([Gate("readers differ", "readers differ")] if agreement == DIFFER else []))
        for gates, attribute, agreement in zip(cells["gates"], cells["attribute"], cells["agreement"], strict=True)
    ]  # fmt: skip
    leak_frame = pd.DataFrame(leak, columns=list(LEAK))
    return Analysis(
        edges=decide(cells, alpha),
        second_readings=others.drop(columns=list(INTERNAL)).reset_index(drop=True),
        falsification=falsification,
        effectiveness=pd.DataFrame(effectiveness, columns=list(EFFECTIVENESS)),
        leak=leak_frame,
        acceptance=acceptance_rates(measurements, table, graph),
        heterogeneity=heterogeneity(differences, contrasts, concepts, quality),
        reciprocal=reciprocal_edits(leak_frame),
    )
