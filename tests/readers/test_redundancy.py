import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from torch import nn

from causal_cxr.data.patients import AtLeast
from causal_cxr.graphs import Binary, CausalGraph
from causal_cxr.readers import Concept, Joined, MeasureReader, OrientedGradients, Pixels, ProbeReader
from causal_cxr.readers.redundancy import kinship, redundant_readers, shared_errors

LEADS = Concept("leads", ("leads",), ("no leads",))
AP = Concept("AP", ("AP",), ("PA",), attribute="view", level="AP")


def pair(n: int, shared: float, seed: int = 0, patients: int | None = None):
    """Two readers' scores, ``shared`` of whose error variance is the same; and the truth."""
    rng = np.random.default_rng(seed)
    patient = np.arange(n) if patients is None else rng.integers(0, patients, n)
    truth = (rng.uniform(size=n) < 0.3).astype(float)
    common, own = rng.normal(size=n), rng.normal(size=(2, n))
    return *(truth + np.sqrt(shared) * common + np.sqrt(1 - shared) * e for e in own), truth, patient


def one(a, b, truth, patient) -> pd.Series:
    return shared_errors(a[:, None], b[:, None], truth[:, None], patient, [LEADS]).iloc[0]


def test_readers_that_are_right_for_their_own_reasons_are_apart_though_their_scores_agree():
    a, b, truth, patient = pair(3_000, shared=0.0)
    found = one(4 * truth + a, 4 * truth + b, truth, patient)
    assert np.corrcoef(4 * truth + a, 4 * truth + b)[0, 1] > 0.8
    assert found.verdict == "apart"
    assert found.correlation_low < 0 < found.correlation_high


def test_readers_that_share_their_errors_are_redundant():
    a, b, truth, patient = pair(3_000, shared=0.6)
    found = one(a, b, truth, patient)
    assert found.correlation_low < 0.6 < found.correlation_high
    assert found.verdict == "redundant"
    assert found.kappa_low > 0.2
    assert found.both_err > 1.5 * found.both_err_if_apart
    itself = one(a, a, truth, patient)
    assert itself.correlation == pytest.approx(1)
    assert itself.kappa == pytest.approx(1)


def test_correlation_and_kappa_are_those_of_numpy_and_scikit_learn():
    a, b, truth, patient = pair(400, shared=0.4, seed=1)
    found = one(a, b, truth, patient)
    present = truth == 1
    residual = [s - np.where(present, s[present].mean(), s[~present].mean()) for s in (a, b)]
    assert found.correlation == pytest.approx(np.corrcoef(*residual)[0, 1])
    wrong = [(s >= np.sort(s)[-int(truth.sum())]) != present for s in (a, b)]
    assert found.kappa == pytest.approx(cohen_kappa_score(*wrong))
    assert (found.errors, found.other_errors) == pytest.approx([w.mean() for w in wrong])
    apart = sum(kind.mean() * wrong[0][kind].mean() * wrong[1][kind].mean() for kind in (present, ~present))
    assert found.both_err_if_apart == pytest.approx(apart)


def test_intervals_hold_the_truth_where_patients_have_many_images():
    """Both readers err alike on a whole patient: images are no independent evidence."""
    held, widths = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        patient = np.repeat(np.arange(60), 4)
        truth = rng.integers(0, 2, 240).astype(float)
        common, own = rng.normal(size=60)[patient], rng.normal(size=(2, 60))[:, patient]
        a, b = (truth + np.sqrt(0.5) * (common + e) for e in own)
        found = one(a, b, truth, patient)
        held.append(found.correlation_low <= 0.5 <= found.correlation_high)
        widths.append([found.correlation_high - found.correlation_low, found.kappa_high - found.kappa_low])
    assert np.mean(held) == pytest.approx(0.95, abs=0.05)
    a, b, truth, patient = pair(240, shared=0.5)
    alone = one(a, b, truth, patient)
    assert np.mean(widths, axis=0)[0] > 1.5 * (alone.correlation_high - alone.correlation_low)


@pytest.mark.parametrize("patients", [10, 30])
def test_a_few_patients_of_many_images_do_not_show_that_readers_err_apart_or_alike(patients):
    """The correlation lies at the limit: either verdict is wrong."""
    held, verdicts, limit = [], [], 0.2
    for seed in range(150):
        rng = np.random.default_rng(seed)
        patient = np.repeat(np.arange(patients), 12)
        truth = np.arange(len(patient)) % 2.0
        own, image = rng.normal(size=(2, patients)), rng.normal(size=(2, len(patient)))
        own[1] = limit * own[0] + np.sqrt(1 - limit**2) * own[1]
        image[1] = limit * image[0] + np.sqrt(1 - limit**2) * image[1]
        found = one(*(2 * truth + np.sqrt(0.8) * own[:, patient] + np.sqrt(0.2) * image), truth, patient)
        held.append(found.correlation_low <= limit <= found.correlation_high)
        verdicts.append(found.verdict)
    assert np.mean(held) > 0.88
    assert verdicts.count("undecided") == sum(held)


def test_images_of_too_few_patients_say_nothing_of_two_readers():
    a, b, truth, patient = pair(400, shared=0.5, patients=9)
    found = one(a, b, truth, patient)
    assert found.verdict == f"unknown: {found.n_present} images of 9 patients present, {found.n_absent} of 9 absent"
    assert np.isnan(found.correlation_low)
    one_patients = np.where(truth == 1, patient // 5, np.arange(400))  # with images present: two patients
    assert one(a, b, truth, one_patients).verdict.startswith("unknown: ")


def test_kappas_error_is_the_bootstraps():
    a, b, truth, patient = pair(600, shared=0.4, seed=3)
    found = one(a, b, truth, patient)
    wrong = np.stack([(s >= np.sort(s)[-int(truth.sum())]) != (truth == 1) for s in (a, b)])
    rng = np.random.default_rng(0)
    draws = [cohen_kappa_score(*wrong[:, rng.integers(0, 600, 600)]) for _ in range(300)]
    assert (found.kappa_high - found.kappa_low) / 3.92 == pytest.approx(np.std(draws), rel=0.15)


def test_scores_that_are_no_numbers_and_labels_that_are_none_are_refused():
    scores, truth, patients = np.full((40, 1), 0.5), np.zeros((40, 1)), np.arange(40)
    concept = [Concept("leads", ("leads",), ("no leads",))]
    with pytest.raises(ValueError, match="of reader 'other' has 1 scores that are no finite numbers"):
        shared_errors(scores, np.where(np.arange(40)[:, None] == 3, np.nan, scores), truth, patients, concept)
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        shared_errors(scores, scores, truth - 1, patients, concept)


def test_what_cannot_be_compared_is_unknown():
    a, b, truth, patient = pair(200, shared=0.4)
    few = np.where(np.arange(200) < 20, truth, np.nan)
    assert one(a, b, few, patient).verdict.startswith("unknown: ")
    constant = one(np.full(200, 0.3), b, truth, patient)
    assert constant.verdict == "unknown: a reader's scores do not vary"
    assert np.isnan(constant.correlation)


# -- what they share ---------------------------------------------------------------------------------------------------
class Net:
    """A reader with a network."""

    concepts = (LEADS, AP)

    def __init__(self, name, seed=0, fitted_on=frozenset(), backbone=None, tower=None):
        torch.manual_seed(seed)
        self.name, self.fitted_on, self.fingerprint = name, fitted_on, f"{name}-{seed}"
        self.model = nn.Sequential(tower or nn.Linear(64, 64), nn.Linear(64, 2))
        if backbone:
            self.backbone = backbone

    def read(self, images, patients=None):
        return torch.sigmoid(self.model(images.flatten(1)))


def probe(features, patients, name="probe"):
    folds = dict.fromkeys(patients, 0)
    return ProbeReader([LEADS], np.zeros((1, 1, 1)), np.zeros((1, 1)), folds, features=features, name=name)


def test_readers_that_share_nothing_are_apart():
    found = kinship(Net("a", 1, frozenset({"p1"})), Net("b", 2, frozenset({"p2"})))
    assert (found.backbone, found.patients, found.apart, found.why) == (False, 0, True, ())


def test_the_same_tower_under_two_heads_is_found_by_its_weights():
    tower = nn.Linear(64, 64)
    found = kinship(Net("a", 1, tower=tower), Net("b", 2, tower=tower))
    assert (found.backbone, found.apart) == (True, False)
    assert found.why == ("1 weight tensors are the same in both",)


def test_a_backbone_may_be_named():
    assert kinship(Net("a", 1, backbone="ViT-B-16/openai"), Net("b", 2, backbone="ViT-B-16/openai")).backbone
    assert not kinship(Net("a", 1, backbone="ViT-B-16/openai"), Net("b", 2, backbone="ViT-B-32/openai")).backbone


def test_probes_on_the_same_features_or_of_the_same_patients_are_not_apart():
    assert kinship(probe(Pixels(32), ["p1"]), probe(Pixels(32), ["p2"])).backbone
    found = kinship(probe(Pixels(32), ["p1", "p2"]), probe(OrientedGradients(64), ["p2", "p3"]))
    assert (found.backbone, found.patients, found.apart) == (False, 1, False)
    assert found.why == ("both were fitted on 1 of the same patients",)
    assert kinship(probe(Pixels(32), ["p1"]), probe(OrientedGradients(64), ["p3"])).apart


def test_a_part_of_joined_features_is_found_as_well():
    joined = probe(Joined(Pixels(32), OrientedGradients(64)), ["p1"])
    assert kinship(joined, probe(Pixels(32), ["p2"])).backbone
    assert kinship(joined, probe(Joined(OrientedGradients(64), Pixels(16)), ["p2"])).backbone
    assert kinship(joined, probe(Pixels(16), ["p2"])).backbone


def test_a_fixed_rule_is_shared_whatever_its_size_or_its_reference():
    assert not kinship(probe(Pixels(64), ["p1"]), probe(Pixels(48), ["p2"])).apart
    gradients = [probe(OrientedGradients(64, cell), [f"p{cell}"]) for cell in (8, 16)]
    assert kinship(*gradients).why == ("both read through the rule 'oriented gradients'",)
    rng = np.random.default_rng(0)
    references = [
        {name: rng.uniform(size=30) for name in names}
        for names in (("blur",), ("blur", "noise_level"), ("noise_level",))
    ]
    blur, both, noise = (
        MeasureReader(reference, name=str(i), fitted_on=frozenset({f"p{i}"})) for i, reference in enumerate(references)
    )
    assert kinship(blur, both).apart is False
    assert kinship(blur, both).why == ("both read through the rule 'blur'",)
    assert kinship(blur, noise).apart
    assert not kinship(probe(both, ["p8"]), noise).apart


def test_whose_training_patients_are_known_in_part_is_not_counted_as_another():
    assert not kinship(Net("a", 1), Net("b", 2, fitted_on=AtLeast({"p9"}))).apart


def test_two_readers_of_unknown_upbringing_are_not_counted_as_two():
    found = kinship(Net("a", 1), Net("b", 2, fitted_on=None))
    assert (found.patients, found.apart) == (None, None)
    assert found.why == ("nobody knows on which patients 'b' was fitted",)


class Pictures:
    texts, fingerprint = None, "pictures"
    graph = CausalGraph([Binary("view", levels=("PA", "AP"))])

    def __init__(self, n=300):
        rng = np.random.default_rng(0)
        self.attributes = self.graph.coerce(pd.DataFrame({"view": rng.choice(["PA", "AP"], n)}))
        self.patients = pd.Series([f"p{i // 2}" for i in range(n)])
        self._images = torch.as_tensor(rng.uniform(size=(n, 1, 8, 8)), dtype=torch.float32)

    def images(self, rows):
        return self._images[rows]


def test_readers_are_compared_on_a_dataset_over_what_both_read():
    dataset, rows = Pictures(), np.arange(300)
    labels = pd.DataFrame({"leads": np.random.default_rng(1).integers(0, 2, 300)})
    a, b = Net("a", 1), Net("b", 2)
    b.concepts = (AP, LEADS)
    related, found = redundant_readers(a, b, dataset, rows, labels)
    assert related.apart
    assert found.concept.tolist() == ["leads", "AP"]
    with torch.no_grad():
        scores, others = (r.read(dataset.images(rows)).double().numpy() for r in (a, b))
    truth = np.column_stack([labels["leads"], dataset.attributes["view"] == "AP"]).astype(float)
    again = shared_errors(scores, others[:, ::-1], truth, dataset.patients, [LEADS, AP], names=("a", "b"))
    pd.testing.assert_frame_equal(found, again)
    a.fitted_on = frozenset({"p3"})
    with pytest.raises(ValueError, match="reader 'a' was fitted on 1 of the 150 patients"):
        redundant_readers(a, b, dataset, rows, labels)
    b.concepts = (AP, Concept("tube", ("tube",), ("no tube",)))
    a.fitted_on, a.concepts = frozenset(), (LEADS,)
    with pytest.raises(ValueError, match="no concept in common"):
        redundant_readers(a, b, dataset, rows, labels)
