import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from causal_cxr.audits.drift import FIGURES, NULL, PAIR, _compare, reader_drift
from causal_cxr.data.phantom import Phantom
from causal_cxr.editors.editor import Abduction, Edit
from causal_cxr.editors.oracle import OracleEditor
from causal_cxr.graphs import default_contrasts
from causal_cxr.readers import Concept, Pixels, ProbeReader, load_concepts

NAMES = ["control_bar", "female", "portable_marker", "AP view"]
N = 160


@pytest.fixture(scope="module")
def reader():
    labelled = Phantom(500, "independent", seed=41, size=32)
    table = pd.concat([labelled.attributes, labelled.hidden], axis=1)
    concepts = load_concepts(NAMES)
    truth = np.column_stack([concept.truth(table) for concept in concepts])
    return ProbeReader.fit(labelled, np.arange(500), truth, concepts, features=Pixels(32), n_folds=3)


@pytest.fixture(scope="module")
def phantom():
    return Phantom(N, "portable", seed=42, size=32)


@pytest.fixture(scope="module")
def contrasts(phantom):
    return [c for c in default_contrasts(phantom.graph) if c.attribute in ("sex", "view")]


class Painter:
    """Sets anything, and paints what it is told to instead."""

    fingerprint, semantics, fitted_on = "painter", "observational", frozenset()
    attributes = frozenset({"sex", "view"})

    def __init__(self, paint, accept=lambda target: np.ones(len(target), dtype=bool)):
        self.paint, self.accept = paint, accept

    def abduct(self, images, attributes, *, seeds):
        return Abduction(attributes, (images, seeds))

    def edit(self, abduction, target, *, phrasing=0, strength=1.0):
        images, seeds = abduction.state
        return Edit(self.paint(images, seeds), self.accept(target), ("",) * len(target))


def noisy(images, seeds):
    noise = [np.random.default_rng(int(s)).normal(0, 0.35, images.shape[1:]) for s in seeds]
    return (images + torch.as_tensor(np.stack(noise), dtype=images.dtype)).clamp(0, 1)


def cell(found, contrast, concept):
    rows = found.cells[found.cells.contrast.str.startswith(contrast) & (found.cells.concept == concept)]
    assert len(rows) == 1
    return rows.iloc[0]


def over(found, what):
    return found.summary.set_index("over").loc[what]


def test_the_oracles_images_are_read_as_the_true_counterfactuals_and_everything_is_known(reader, phantom, contrasts):
    found = reader_drift(OracleEditor(phantom), [reader], phantom, np.arange(N), contrasts)
    assert set(found.cells.kind) == {"null", "set", "held"}
    assert found.cells.auroc_edited.to_numpy() == pytest.approx(found.cells.auroc_true.to_numpy())
    assert over(found, "null").drift == 0
    assert over(found, "edits").drift > -0.03
    # what the view causes has its true counterfactual value, not the factual one
    codes = phantom.counterfactual_codes(
        phantom.attributes.assign(
            view=contrasts[1].apply(phantom.graph.attributes["view"], phantom.attributes["view"])[0]
        )
    )
    truth = phantom.world.presence(codes, phantom.world.hidden_signs)["portable_marker"]
    row = cell(found, "view", "portable_marker")
    assert (row.n_present, row.n_present_real) == (truth.sum(), phantom.hidden["portable_marker"].sum())
    assert row.n_present != row.n_present_real


def test_an_editor_that_does_nothing_drifts_where_something_was_asked_and_only_there(reader, phantom, contrasts):
    found = reader_drift(Painter(lambda images, seeds: images), [reader], phantom, np.arange(N), contrasts)
    same = found.cells[found.cells.kind.isin(["held", "null"])]
    for name in PAIR:
        assert (same[f"{name}_drift"] == 0).all()
        assert (same[f"{name}_low"] < 0).all()
        assert (same[f"{name}_high"] > 0).all()
    row = cell(found, "sex", "female")
    assert row.kind == "set"
    assert row.auroc_edited == pytest.approx(1 - row.auroc_real)  # each image has the sex it was not asked to have
    assert row.slope_edited == pytest.approx(-row.slope_real)
    assert row.auroc_high < -0.03
    assert row.auroc_true > 0.8
    assert over(found, "held").drift == 0
    assert over(found, "set").high < -0.5


def test_what_the_set_attribute_truly_causes_is_in_no_mean_of_a_fitted_editor(reader, phantom, contrasts):
    found = reader_drift(Painter(lambda images, seeds: images), [reader], phantom, np.arange(N), contrasts)
    row = cell(found, "view", "portable_marker")
    assert row.kind == "moved"
    assert np.isnan(row.auroc_edited)
    pooled = found.concepts[found.concepts.over == "edits"].set_index("concept").n
    assert pooled.to_dict() == {"control_bar": 2 * N, "female": 2 * N, "portable_marker": N, "AP view": 2 * N}


def test_an_editor_that_paints_everything_grey_takes_all_there_is_to_read(reader, phantom, contrasts):
    found = reader_drift(
        Painter(lambda images, seeds: torch.full_like(images, 0.5)), [reader], phantom, np.arange(N), contrasts
    )
    for what in ("edits", "null"):
        assert over(found, what).drift == pytest.approx(
            0.5 - found.concepts[found.concepts.over == what].auroc_real.mean()
        )
        assert over(found, what).high < -0.3
    row = cell(found, NULL, "control_bar")
    assert (row.auroc_edited, row.slope_edited) == (0.5, 0)
    assert row.auroc_true == row.auroc_real
    assert row.ece_low > 0


def test_a_null_edit_in_the_editors_handwriting_costs_accuracy_by_the_paired_bootstrap(reader, phantom, contrasts):
    found = reader_drift(Painter(noisy), [reader], phantom, np.arange(N), contrasts[:1], seed=3)
    row = cell(found, NULL, "female")
    assert row.kind == "null"
    assert row.auroc_high < 0
    truth = (phantom.attributes["sex"] == "female").to_numpy()
    images = phantom.images(np.arange(N))
    with torch.no_grad():
        real, made = (reader.read(x).numpy()[:, 1] for x in (images, noisy(images, 3 + np.arange(N))))
    assert row.auroc_real == pytest.approx(roc_auc_score(truth, real))
    assert row.auroc_edited == pytest.approx(roc_auc_score(truth, made))
    assert row.slope_drift == pytest.approx((made - real)[truth].mean() - (made - real)[~truth].mean(), abs=1e-6)
    patient = pd.factorize(phantom.patients)[0]
    members = [np.flatnonzero(patient == p) for p in np.unique(patient)]
    rng, draws = np.random.default_rng(0), []
    for _ in range(400):
        at = np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))])
        draws.append([
            roc_auc_score(truth[at], made[at]) - roc_auc_score(truth[at], real[at]),
            (made - real)[at][truth[at]].mean() - (made - real)[at][~truth[at]].mean(),
        ])  # fmt: skip
    for name, spread in zip(("auroc", "slope"), np.std(draws, axis=0), strict=True):
        assert (row[f"{name}_high"] - row[f"{name}_low"]) / 3.92 == pytest.approx(spread, rel=0.2)
    assert row.auroc_drift == pytest.approx((row.auroc_low + row.auroc_high) / 2)


def told(real, edited, present, groups):
    """Figures of one concept on paired images whose truth the edit leaves."""
    return dict(zip(FIGURES, _compare(real, present, edited, present, groups, None, 0)[0], strict=True))


@pytest.mark.parametrize("images", [1, 3])
def test_that_no_image_changes_proves_no_more_than_one_patient_gone_wrong_would(images):
    groups = np.repeat(np.arange(60), images)
    present = groups % 2 == 0
    still = told(present.astype(float), present.astype(float), present, groups)
    flipped = np.where(groups == 0, 0.0, present.astype(float))  # one patient, in all images
    gone = told(present.astype(float), flipped, present, groups)
    for name in PAIR:
        assert (still[f"{name}_drift"], still[f"{name}_low"]) == (0, -still[f"{name}_high"])
        assert still[f"{name}_high"] == pytest.approx((gone[f"{name}_high"] - gone[f"{name}_low"]) / 2, rel=0.1)
    assert still["slope_high"] == pytest.approx(2 * still["auroc_high"])  # of scores 0 and 1 it is 2 AUROC - 1


def test_a_change_alike_in_all_images_is_no_certain_one():
    groups = np.arange(60)
    present = groups % 2 == 0
    found = told(np.where(present, 0.8, 0.2), np.where(present, 0.9, 0.1), present, groups)
    for name, drift in (("slope", 0.2), ("ece", -0.1)):
        assert found[f"{name}_drift"] == pytest.approx(drift)
        assert found[f"{name}_low"] < drift - 0.02
        assert found[f"{name}_high"] > drift + 0.02


def test_rejected_edits_are_counted_and_left_out_on_both_sides(reader, phantom, contrasts):
    def accept(target):
        return (target["sex"] == "male").to_numpy()

    found = reader_drift(Painter(lambda images, seeds: images, accept), [reader], phantom, np.arange(N), contrasts)
    women = (phantom.attributes["sex"] == "female").mean()
    assert found.rejected[NULL] == pytest.approx(women)
    assert found.rejected[contrasts[0].name] == pytest.approx(1 - women)
    assert cell(found, NULL, "control_bar").n == (phantom.attributes["sex"] == "male").sum()
    assert np.isnan(cell(found, NULL, "female").auroc_real)  # only men are left
    assert over(found, "null").without == 1


def test_several_readers_are_read_from_the_same_edits(reader, phantom, contrasts):
    other = ProbeReader(
        reader.concepts, reader.weights, reader.bias, reader.folds, features=reader.features, name="other"
    )
    found = reader_drift(Painter(noisy), [reader, other], phantom, np.arange(64), contrasts[:1])
    mine, others = (found.cells[found.cells.reader == name].drop(columns="reader") for name in ("probe", "other"))
    pd.testing.assert_frame_equal(mine.reset_index(drop=True), others.reset_index(drop=True))
    halves = reader_drift(Painter(noisy), [reader], phantom, np.arange(64), contrasts[:1], batch_size=16)
    assert halves.cells.auroc_edited.to_numpy() == pytest.approx(mine.auroc_edited.to_numpy(), nan_ok=True)


def test_what_cannot_be_judged_is_refused(reader, phantom, contrasts):
    rows = np.arange(20)
    painter = Painter(lambda images, seeds: images)
    painter.fitted_on = frozenset(phantom.patients[:1])
    with pytest.raises(ValueError, match="The editor was fitted on 1 of the"):
        reader_drift(painter, [reader], phantom, rows, contrasts)
    painter.fitted_on, painter.attributes = frozenset(), frozenset({"weekday"})
    with pytest.raises(ValueError, match=r"The editor sets \['weekday'\]: none of the contrasts"):
        reader_drift(painter, [reader], phantom, rows, contrasts)
    moon = ProbeReader([Concept("moon", ("moon",), ("no moon",))], np.zeros((1, 1024, 1)), np.zeros((1, 1)), {},
                       features=Pixels(32))  # fmt: skip
    with pytest.raises(ValueError, match="knows none of the concepts of 'probe'"):
        reader_drift(Painter(lambda images, seeds: images), [moon], phantom, rows, contrasts)
    gappy = Phantom(20, "portable", seed=42, size=32)
    gappy.attributes.loc[3, "sex"] = None
    with pytest.raises(ValueError, match=r"Rows \[3\] lack an attribute"):
        reader_drift(Painter(lambda images, seeds: images), [reader], gappy, rows, contrasts)
