"""The verdict table, every combination of it, against the design's words."""

from itertools import product

import pytest

from causal_cxr.audits.verdicts import MEANING, TABLE, conjunction_p, verdict_of

CALLS = ("yes", "no", "undecided")
SIGNS = (1.0, -1.0)


def by_the_design(
    editor: str, adjusted: str, marginal: str, same_adjusted: bool, same_marginal: bool, path: bool
) -> str:
    """The design's table, written a second time as prose would say it."""
    if editor == "undecided" or adjusted == "undecided":
        return "undecided"
    if editor == "yes" and adjusted == "yes":
        if not same_adjusted:
            return "contradicted"
        return "declared" if path else "hidden"
    if editor == "no" and adjusted == "yes":
        return "missed"
    if editor == "no" and path:
        return "unsupported"
    if marginal == "undecided":
        return "undecided"
    if editor == "yes":
        if marginal == "no":
            return "artifact"
        return "confounded" if same_marginal else "undecided"
    return "spurious" if marginal == "yes" else "none"


@pytest.mark.parametrize(("editor", "adjusted", "marginal"), list(product(CALLS, repeat=3)))
def test_every_combination_of_calls_signs_and_path_has_the_designs_verdict(editor, adjusted, marginal) -> None:
    calls = {"editor": editor, "adjusted": adjusted, "marginal": marginal}
    for s_editor, s_adjusted, s_marginal, path in product(SIGNS, SIGNS, SIGNS, (True, False)):
        signs = {"editor": s_editor, "adjusted": s_adjusted, "marginal": s_marginal}
        expected = by_the_design(editor, adjusted, marginal, s_editor == s_adjusted, s_editor == s_marginal, path)
        assert verdict_of(calls, signs, path) == expected


def test_no_two_rows_of_the_table_can_hold_at_once() -> None:
    for editor, adjusted, marginal in product(("yes", "no"), repeat=3):
        for s_adjusted, s_marginal, path in product(SIGNS, SIGNS, (True, False)):
            p_yes = {
                s: float(c != "yes")
                for s, c in zip(("editor", "adjusted", "marginal"), (editor, adjusted, marginal), strict=True)
            }
            p_no = {s: 1 - p for s, p in p_yes.items()}
            signs = {"editor": 1.0, "adjusted": s_adjusted, "marginal": s_marginal}
            assert sum(conjunction_p(rule, p_yes, p_no, signs, path) == 0.0 for rule in TABLE) <= 1


def test_a_verdicts_p_is_the_largest_of_its_conjuncts() -> None:
    hidden = next(rule for rule in TABLE if rule.verdict == "hidden")
    p_yes = {"editor": 0.01, "adjusted": 0.03, "marginal": 0.9}
    p_no = dict.fromkeys(p_yes, 0.5)
    signs = dict.fromkeys(p_yes, 1.0)
    assert conjunction_p(hidden, p_yes, p_no, signs, path=False) == 0.03
    assert conjunction_p(hidden, p_yes, p_no, signs, path=True) == 1.0
    assert conjunction_p(hidden, p_yes, p_no, {**signs, "adjusted": -1.0}, path=False) == 1.0


def test_every_verdict_has_a_sentence_for_the_user() -> None:
    assert {rule.verdict for rule in TABLE} | {"mediated", "undecided"} == set(MEANING)
