"""Identification: what to adjust for, checked by DoWhy."""

import warnings
from functools import lru_cache

from causal_cxr.graphs.graph import CausalGraph

CONCEPT = "concept outside the graph"


@lru_cache(maxsize=256)
def adjustment_set(graph: CausalGraph, treatment: str, outcome: str | None = None) -> frozenset[str] | None:
    """Attributes to adjust for so that association is the total effect of ``treatment``.

    For an ``outcome`` of the graph: DoWhy's backdoor set. For a concept outside it (``None``): the Markov boundary of
    the treatment among its declared non-descendants (its parents; with bidirected edges its district and that
    district's parents), which serves whatever non-descendants cause the concept. DoWhy checks it on the graph with
    edges to the concept added from the treatment and from every declared ancestor of it: a concept that hung on
    nothing would silently be left unadjusted.

    Returns:
        The set, empty when nothing needs adjusting, ``None`` when the effect is not identifiable: the treatment shares
        a latent cause with a descendant, the set holds a descendant, or DoWhy finds no valid set.
    """
    if outcome is not None:
        return _dowhy_backdoor(graph.to_dowhy(), treatment, outcome, candidates=None)
    descendants = graph.descendants(treatment)
    district = graph.district(treatment)
    if district & descendants:
        return None
    boundary = (district | frozenset().union(*(graph.parents(member) for member in district))) - {treatment}
    if boundary & descendants:
        return None
    extended = graph.to_dowhy()
    extended.add_node(CONCEPT, observed="yes")
    extended.add_edges_from((cause, CONCEPT) for cause in {treatment, *graph.ancestors(treatment)})
    return _dowhy_backdoor(extended, treatment, CONCEPT, candidates=boundary)


def _dowhy_backdoor(graph, treatment: str, outcome: str, candidates: frozenset[str] | None) -> frozenset[str] | None:  # type: ignore[no-untyped-def]
    """DoWhy's backdoor set, or ``candidates`` if DoWhy holds them valid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DoWhy 0.14 calls deprecated pandas
        from dowhy.causal_identifier import EstimandType
        from dowhy.causal_identifier.auto_identifier import AutoIdentifier, BackdoorAdjustment
        from dowhy.causal_identifier.identify_effect import identify_effect_auto  # noqa: F401
        from dowhy.graph import check_valid_backdoor_set

        observed = [node for node, data in graph.nodes(data=True) if data["observed"] == "yes"]
        if candidates is not None:
            valid = check_valid_backdoor_set(graph, [treatment], [outcome], sorted(candidates))["is_dseparated"]
            return candidates if valid else None
        identifier = AutoIdentifier(
            EstimandType.NONPARAMETRIC_ATE, backdoor_adjustment=BackdoorAdjustment.BACKDOOR_EXHAUSTIVE
        )
        estimand = identifier.identify_effect(graph, [treatment], [outcome], observed)
        found = estimand.backdoor_variables or {}
        sets = [frozenset(variables) for variables in found.values() if variables is not None]
        return min(sets, key=lambda s: (len(s), sorted(s))) if sets else None
