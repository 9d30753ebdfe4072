"""What a measurement keeps of the images themselves: against closed forms, on tensors drawn by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from audits.test_limits import DATASET, Drifts, Perfect
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from causal_cxr.audits.changes import another_patient, box_mask, guarded_regions, image_changes
from causal_cxr.audits.cycles import null_cycles, there_and_back
from causal_cxr.audits.likeness import described, identities, suspicions
from causal_cxr.audits.looks import differing


# -- changes -------------------------------------------------------------------------------------------------------------
@given(st.integers(8, 40), st.integers(8, 40))
def test_the_guards_regions_leave_no_pixel_out_and_share_none_without_markers(height, width):
    masks = guarded_regions(height, width)
    assert not masks["markers"].any()
    assert bool((sum(mask.int() for mask in masks.values()) == 1).all())


def test_changes_are_counted_where_they_are():
    factual, null = torch.zeros(2, 1, 20, 20), torch.full((2, 1, 20, 20), 0.01)
    edited = null.clone()
    edited[0, 0, :2, :2] += 0.5  # a corner: four pixels of four
    edited[1, 0, 8:12, 8:12] += 0.3
    own = box_mask(20, 20, [(0.4, 0.4, 0.6, 0.6)])
    found = image_changes(edited, null, factual, guarded_regions(20, 20), own)
    np.testing.assert_allclose(found["beyond"], [0.5 * 4 / 400, 0.3 * 16 / 400], rtol=1e-5)
    np.testing.assert_allclose(found["size"], [0.01 + 0.5 * 4 / 400, 0.01 + 0.3 * 16 / 400], rtol=1e-5)
    np.testing.assert_allclose(found["changed"], [4 / 400, 16 / 400])
    np.testing.assert_allclose(found["corners"], [0.5 * 4 / 16, 0], atol=1e-7)
    np.testing.assert_allclose(found["inside"], [0, 0.3], atol=1e-6)
    np.testing.assert_allclose(found["outside"], [0.5 * 4 / 384, 0], atol=1e-7)
    assert np.isnan(found["markers"]).all()


def test_without_a_declared_place_there_is_no_inside():
    images = torch.rand(3, 1, 16, 16)
    found = image_changes(images, images, images, guarded_regions(16, 16))
    assert np.isnan(found["inside"]).all()
    assert (found["beyond"] == 0).all()


def test_another_patients_image_is_never_the_patients_own():
    images = torch.arange(4.0)[:, None, None, None].expand(-1, 1, 4, 4)
    np.testing.assert_allclose(another_patient(images, np.array(["a", "a", "b", "b"])), [2, 1, 2, 3])
    assert np.isnan(another_patient(images, np.array(["a"] * 4))).all()


# -- cycles --------------------------------------------------------------------------------------------------------------
def test_null_cycles_add_up_image_by_image_whatever_the_batch():
    rows = np.arange(10)
    images, factual = DATASET.images(rows), DATASET.attributes.iloc[rows]
    for batch in (3, 64):
        found, evaluations = null_cycles(
            Drifts(DATASET), images, factual, seeds=lambda cycle: rows + cycle, cycles=(1, 2), batch=batch
        )
        np.testing.assert_allclose(found[1], 0.03, atol=1e-6)
        np.testing.assert_allclose(found[2], 0.06 - 0.03 * 48 / 32**2, atol=1e-6)  # blocks are drawn anew
        assert evaluations == 2 * 2 * 10


def test_an_edit_and_its_edit_back_leave_nothing_of_a_perfect_editor():
    rows = np.arange(10)
    images, factual = DATASET.images(rows), DATASET.attributes.iloc[rows]
    target = factual.assign(view=factual["view"].map({"PA": "AP", "AP": "PA"}).astype(factual["view"].dtype))
    editor = Perfect(DATASET)
    made = editor.edit(editor.abduct(images, factual, seeds=rows), target).images
    assert (made - images).abs().max() > 0.5
    back, _ = there_and_back(editor, images, factual, made, target, seeds=lambda cycle: rows)
    np.testing.assert_allclose(back, 0, atol=1e-6)


# -- likeness ------------------------------------------------------------------------------------------------------------
def test_whom_an_image_looks_like_is_told_by_distance():
    factual = np.array([[0.0, 0.0], [1.0, 0.0], [4.0, 0.0], [9.0, 0.0]])
    patients = np.array(["a", "a", "b", "c"])
    made = np.array([[0.5, 0.0], [3.5, 0.0]])  # of the first image; the second has gone over to b
    found = identities(made, np.array(["a", "a"]), factual, patients, np.array([0, 0]))
    np.testing.assert_allclose(found["to_own"], [0.5, 3.5])
    np.testing.assert_allclose(found["to_nearest"], [3.5, 0.5])
    np.testing.assert_allclose(found["to_others"], [6.0, 3.0])
    np.testing.assert_allclose(found["to_same"], [1.0, 1.0])
    assert found["recognised"].tolist() == [1, 0]


def twice(rng, n, shift):
    """Features of real and made images, two a patient, made ones shifted along one of twenty."""
    features, made = rng.normal(size=(2 * n, 20)), np.arange(2 * n) >= n
    features[made, 0] += shift
    return features, made, np.array([f"p{i // 2}" for i in range(2 * n)])


def test_made_images_are_told_by_what_they_share_and_not_else():
    rng = np.random.default_rng(0)
    told, same = (suspicions(*twice(rng, 150, shift)) for shift in (2.5, 0.0))
    made = np.arange(300) >= 150
    assert roc_auc_score(made, told["suspicion"]) > 0.9
    assert 0.35 < roc_auc_score(made, same["suspicion"]) < 0.65


def test_suspicion_is_of_patients_the_classifier_has_not_seen():
    """Features that name the patient, and patients who are all made or all real: by heart they would be told for sure."""
    rng = np.random.default_rng(1)
    whose = np.repeat(np.arange(60), 5)
    features = rng.normal(size=(60, 100))[whose] + 0.01 * rng.normal(size=(300, 100))
    made = rng.permutation(np.arange(60) < 30)[whose]
    found = suspicions(features, made, whose)
    assert 0.25 < roc_auc_score(made, found["suspicion"]) < 0.75


def test_attributes_that_made_images_rightly_have_make_no_suspicion():
    """A feature shows an attribute; made images have it more often: only without the attributes are they told by it."""
    rng = np.random.default_rng(2)
    made = np.arange(600) >= 300
    attribute = rng.uniform(size=600) < np.where(made, 0.8, 0.2)
    features = rng.normal(size=(600, 10))
    features[:, 0] += 4 * attribute
    patients = np.arange(600)
    naive = suspicions(features, made, patients)
    fair = suspicions(features, made, patients, attribute[:, None].astype(float))
    assert roc_auc_score(made, naive["suspicion"]) > 0.7
    within = [
        roc_auc_score(made[at], fair["suspicion"][at]) for at in (fair["stratum"] == s for s in fair["stratum"].unique())
    ]  # fmt: skip
    assert 0.4 < np.mean(within) < 0.6


def test_where_attributes_never_meet_there_is_nothing_to_compare():
    made = np.arange(100) >= 50
    found = suspicions(np.random.default_rng(0).normal(size=(100, 5)), made, np.arange(100), made[:, None] * 50.0)
    assert found["suspicion"].isna().all()


@pytest.mark.parametrize(("n", "patients"), [(4, np.arange(8)), (20, np.arange(40) % 3)])
def test_too_few_images_or_patients_raise_no_suspicion(n, patients):
    found = suspicions(np.zeros((2 * n, 3)), np.arange(2 * n) >= n, patients)
    assert found["suspicion"].isna().all()


def test_the_same_seed_deals_the_same_folds():
    data = twice(np.random.default_rng(3), 60, 1.0)
    pd.testing.assert_frame_equal(suspicions(*data, seed=4), suspicions(*data, seed=4))
    assert not suspicions(*data, seed=4).equals(suspicions(*data, seed=5))


def test_attributes_are_described_by_indicators_and_squares():
    table = pd.DataFrame({"sex": pd.Categorical(["m", "f", "f"], ["m", "f"]), "age": [20.0, 40.0, 60.0]})
    found = described(table)
    np.testing.assert_allclose(found[:, 0], [0, 1, 1])
    np.testing.assert_allclose(found[:, 1], np.array([-1, 0, 1]) * np.sqrt(1.5))
    np.testing.assert_allclose(found[:, 2], [1.5, 0, 1.5])


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.sampled_from(["x", "y", None]), st.sampled_from([1.0, 2.0, np.nan])), min_size=1, max_size=6),
    st.randoms(),
)
def test_tables_differ_where_rows_compared_one_by_one_do(rows, random):
    def table(entries):
        frame = pd.DataFrame(entries, columns=["level", "number"])
        return frame.astype({"level": pd.CategoricalDtype(["x", "y"]), "number": float})

    other = [(random.choice(["x", "y", None]), random.choice([n, 2.0])) for _, n in rows]
    a, b = table(rows), table(other)
    slow = [not a.loc[i].equals(b.loc[i]) for i in range(len(a))]
    assert differing(a, b).any(axis=1).tolist() == slow
