"""Reports of phantoms: often silent, never wrong."""

import numpy as np
import pandas as pd
import pytest

from causal_cxr.data.phantom import HIDDEN_NAMES, Phantom
from causal_cxr.data.phantom.reports import P_MENTION_ABSENT, P_MENTION_PRESENT, report_sentences

N = 4000
THINGS = ("cardiomegaly", "effusion", *HIDDEN_NAMES)

#: sentence -> (what it is about, whether it says that the thing is there), written down independently of the module
MEANING = {
    "cardiomegaly": ("cardiomegaly", True),
    "the heart is enlarged": ("cardiomegaly", True),
    "the heart is not enlarged": ("cardiomegaly", False),
    "pleural effusion": ("effusion", True),
    "an effusion is seen": ("effusion", True),
    "no effusion": ("effusion", False),
    "pacemaker in place": ("pacemaker", True),
    "a pacemaker is seen": ("pacemaker", True),
    "no pacemaker": ("pacemaker", False),
    "chest drain in situ": ("chest_drain", True),
    "a chest drain is seen": ("chest_drain", True),
    "no chest drain": ("chest_drain", False),
    "ECG leads overlie the chest": ("ecg_leads", True),
    "ECG leads are seen": ("ecg_leads", True),
    "no ECG leads": ("ecg_leads", False),
    "laterality marker in the corner": ("laterality_marker", True),
    "a laterality marker is seen": ("laterality_marker", True),
    "no laterality marker": ("laterality_marker", False),
    "portable marker at the top": ("portable_marker", True),
    "a portable marker is seen": ("portable_marker", True),
    "no portable marker": ("portable_marker", False),
    "corner dot": ("control_dot", True),
    "a corner dot is seen": ("control_dot", True),
    "no corner dot": ("control_dot", False),
    "corner bar": ("control_bar", True),
    "a corner bar is seen": ("control_bar", True),
    "no corner bar": ("control_bar", False),
    "side ring": ("control_ring", True),
    "a side ring is seen": ("control_ring", True),
    "no side ring": ("control_ring", False),
}


@pytest.fixture(scope="module")
def phantom():
    return Phantom(N, "portable", seed=3)


@pytest.fixture(scope="module")
def truth(phantom):
    return pd.concat([phantom.attributes[["cardiomegaly", "effusion"]].astype(int), phantom.hidden], axis=1)


@pytest.fixture(scope="module")
def reports(phantom):
    return report_sentences(phantom.attributes, phantom.hidden, np.random.default_rng(0))


@pytest.fixture(scope="module")
def said(reports):
    """One row a sentence after the first: report, text, thing, whether it says that the thing is there."""
    rows = [(i, s, *MEANING[s]) for i, text in enumerate(reports) for s in text.split(" . ")[1:]]
    return pd.DataFrame(rows, columns=["report", "text", "thing", "there"])


def test_no_sentence_claims_what_is_not_there_or_denies_what_is(said, truth):
    true = truth.to_numpy()[said["report"], truth.columns.get_indexer(said["thing"])] == 1
    assert (said["there"] == true).all()


def test_nothing_is_spoken_of_twice_in_a_report(said):
    assert not said.duplicated(["report", "thing"]).any()


@pytest.mark.parametrize(("there", "rate"), [(1, P_MENTION_PRESENT), (0, P_MENTION_ABSENT)])
@pytest.mark.parametrize("thing", THINGS)
def test_present_and_absent_things_are_mentioned_at_the_stated_rates(said, truth, thing, there, rate):
    about = truth.index[truth[thing] == there]
    mentioned = np.isin(about, said.loc[said["thing"] == thing, "report"])
    assert mentioned.mean() == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / len(about)))


def test_the_stated_rates_are_nine_and_three_in_ten():
    assert (P_MENTION_PRESENT, P_MENTION_ABSENT) == (0.9, 0.3)


def test_both_wordings_of_a_thing_are_used_alike(said):
    for thing, group in said[said["there"]].groupby("thing"):
        counts = group["text"].value_counts()
        assert len(counts) == 2, thing
        assert counts.iloc[0] / len(group) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(group))), thing


def test_the_first_sentence_tells_view_sex_and_whether_the_patient_is_over_60(phantom, reports):
    table = phantom.attributes
    for i, text in enumerate(reports):
        who = "woman" if table["sex"][i] == "female" else "man"
        band = "over 60" if table["age"][i] > 60 else "60 or under"
        assert text.split(" . ")[0] == f"{table['view'][i]} view of a {who} aged {band}"


def test_sixty_is_not_over_60():
    table = Phantom(2, seed=0).attributes.assign(age=[60.0, 60.5])
    texts = report_sentences(table, Phantom(2, seed=0).hidden, np.random.default_rng(0))
    assert "aged 60 or under" in texts[0]
    assert "aged over 60" in texts[1]


def test_findings_come_in_no_fixed_order(said):
    first = said.groupby("report")["thing"].first().value_counts(normalize=True)
    assert set(first.index) == set(THINGS)
    assert first.max() < 0.3


def test_reports_are_the_same_for_the_same_seed(phantom, reports):
    again = report_sentences(phantom.attributes, phantom.hidden, np.random.default_rng(0))
    pd.testing.assert_series_equal(again, reports)
    other = report_sentences(phantom.attributes, phantom.hidden, np.random.default_rng(1))
    assert (other != reports).mean() > 0.9


def test_a_phantoms_texts_are_its_reports(phantom, truth):
    assert phantom.texts is not None
    for i, text in phantom.texts.items():
        for sentence in text.split(" . ")[1:]:
            thing, there = MEANING[sentence]
            assert truth.loc[i, thing] == there
