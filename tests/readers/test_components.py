"""Signs without a name: the latent class, where to look for it, what is kept, and the frozen reader."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.mixture import GaussianMixture

from causal_cxr.readers.changes import Changes, change_directions
from causal_cxr.readers.component_search import find_components
from causal_cxr.readers.component_settings import ComponentSearch
from causal_cxr.readers.components import Component, ComponentReader, _quality
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.features import Pixels
from causal_cxr.readers.latent_sign import SignModel

D = 24  #: features
EDITED = 240
QUICK = ComponentSearch(resamples=2, atoms=4)


def correlation(one, other):
    return abs(np.corrcoef(one, other)[0, 1])


class Lab:
    """Features in which a labelled attribute, a sign that hangs on it, and one that hangs on nothing show."""

    def __init__(self, seed=0, n=900, edited=EDITED, edge=True):
        rng = np.random.default_rng(seed)
        self.mixing = np.linalg.qr(rng.standard_normal((D, D)))[0]
        self.attribute = (rng.uniform(size=n) < 0.5).astype(float)
        self.noise, self.u, self.v = rng.standard_normal((n, D)), rng.uniform(size=n), rng.uniform(size=n)
        self.other = (rng.uniform(size=n) < 0.5).astype(float)
        self.patients = np.array([f"p{i}" for i in range(n)])
        self.chance = np.array([0.1, 0.7]) if edge else np.array([0.4, 0.4])
        self.features, self.sign = self.draw(self.attribute, np.arange(n))
        rows = np.arange(edited)
        moved, _ = self.draw(1 - self.attribute[rows], rows)
        step = 1 - 2 * self.attribute[rows]
        labels = np.full(edited, "view: PA -> AP"), np.full(edited, "view")
        self.changes = Changes(self.features[rows], moved, step[:, None], *labels, step, self.patients[rows])
        self.numbers = (self.attribute - self.attribute.mean())[:, None]

    def draw(self, attribute, rows):
        sign = (self.u[rows] < self.chance[attribute.astype(int)]).astype(float)
        strength = 1.5 + 0.5 * self.v[rows]  # the attribute's own look differs from image to image
        plain = 0.7 * self.noise[rows] @ np.diag(np.linspace(0.5, 1, D))
        plain[:, 0] += 3 * attribute * strength
        plain[:, 1] += 4 * sign
        plain[:, 2] += 4 * self.other[rows]
        return plain @ self.mixing.T, sign


def test_without_attributes_the_sign_is_a_gaussian_mixture_with_one_covariance():
    rng = np.random.default_rng(0)
    truth = rng.uniform(size=3000) < 0.3
    X = rng.standard_normal((3000, 4)) + 3.0 * truth[:, None] * np.array([1, 0.5, 0, 0])
    sign = SignModel(X, np.empty((3000, 0))).fit(X[:, 0], iterations=500, tolerance=1e-8)
    mixture = GaussianMixture(2, covariance_type="tied", random_state=0, tol=1e-8, max_iter=500, reg_covar=0).fit(X)
    upper = int(mixture.means_[:, 0].argmax())
    assert sign.prevalence == pytest.approx(mixture.weights_[upper], abs=0.01)
    posterior = mixture.predict_proba(X)[:, upper]
    assert np.abs(expit(sign.logits(X)) - posterior).mean() < 0.02  # the ridge is all the difference


def test_a_detector_is_blind_to_what_an_attribute_does_on_average():
    lab = Lab()
    sign = SignModel(lab.features, lab.numbers).fit(lab.features @ lab.mixing[:, 1])
    scores = expit(sign.logits(lab.features))
    assert correlation(scores, lab.sign) > 0.95
    assert sign.prevalence == pytest.approx(lab.sign.mean(), abs=0.02)
    shift = [scores[(lab.attribute == 1) & (lab.sign == u)].mean() - scores[(lab.attribute == 0) & (lab.sign == u)].mean()
             for u in (0, 1)]  # fmt: skip
    assert np.abs(shift).max() < 0.03


def test_a_sign_that_nearly_always_goes_with_an_attribute_is_not_taken_for_its_exceptions():
    lab = Lab()
    lab.chance = np.array([0.04, 0.85])
    lab.features, lab.sign = lab.draw(lab.attribute, np.arange(len(lab.attribute)))
    exceptions = np.abs(lab.sign - lab.attribute)  # of this, EM starts
    sign = SignModel(lab.features, lab.numbers).fit(exceptions)
    assert correlation(expit(sign.logits(lab.features)), lab.sign) > 0.9


def test_there_is_no_sign_where_the_guess_says_nothing_or_the_attribute_says_it_all():
    lab = Lab()
    model = SignModel(lab.features, lab.numbers)
    assert model.fit(np.ones(len(lab.features))) is None
    sign = model.fit(lab.attribute + 0.0)
    assert sign is None or correlation(sign.logits(lab.features), lab.attribute) < 0.8


def test_directions_of_change_hold_what_an_intervention_moves_in_some_images():
    lab = Lab()
    directions = change_directions(lab.changes, np.cov(lab.features.T), atoms=4)
    difference = (lab.changes.edited - lab.changes.null) @ directions.T
    changed = lab.draw(1 - lab.attribute[:EDITED], np.arange(EDITED))[1] - lab.sign[:EDITED]
    assert max(correlation(column, changed) for column in difference.T) > 0.9


def test_no_change_has_no_direction():
    lab = Lab()
    still = Changes(lab.changes.null, lab.changes.null.copy(), *(getattr(lab.changes, n) for n in
                    ("moved", "contrast", "attribute", "orientation", "patients")))  # fmt: skip
    assert len(change_directions(still, np.cov(lab.features.T))) == 0


def test_the_sign_that_is_moved_is_found_and_nothing_else():
    lab = Lab()
    found = [f for f in find_components(lab.changes, lab.features, lab.numbers, lab.patients, QUICK) if not f.verdict]
    assert len(found) == 1
    assert correlation(expit(found[0].sign.logits(lab.features)), lab.sign) > 0.9
    assert found[0].attribute == "view"
    assert abs(found[0].effect) == pytest.approx(0.6, abs=0.08)
    assert found[0].sign.prevalence <= 0.5


def test_where_nothing_hidden_is_moved_nothing_is_found():
    lab = Lab(edge=False)
    found = find_components(lab.changes, lab.features, lab.numbers, lab.patients, QUICK)
    assert [f.verdict for f in found if not f.verdict] == []


def test_what_a_named_concept_reads_already_is_not_unnamed():
    lab = Lab()
    found = find_components(
        lab.changes, lab.features, lab.numbers, lab.patients, QUICK, named={"leads": lab.sign, "noise": lab.u}
    )
    assert any(f.verdict.startswith("read already as leads") for f in found)
    assert all(f.verdict for f in found)


def test_what_readers_of_the_labelled_attributes_explain_is_a_look():
    lab = Lab()
    looks = lab.sign[:, None] + 0.01 * lab.noise[:, :1]
    found = find_components(lab.changes, lab.features, lab.numbers, lab.patients, QUICK, looks=looks)
    assert any("a look of the labelled attributes" in f.verdict for f in found)
    assert all(f.verdict for f in found)


def test_the_same_seed_finds_the_same_bits():
    lab = Lab()
    one, other = (
        find_components(lab.changes, lab.features, lab.numbers, lab.patients, QUICK, seed=3) for _ in range(2)
    )
    assert [f.verdict for f in one] == [f.verdict for f in other]
    assert all((a.sign.weights == b.sign.weights).all() for a, b in zip(one, other, strict=True))


def test_what_does_not_fit_is_refused():
    lab = Lab()
    with pytest.raises(ValueError, match="use one feature space"):
        find_components(lab.changes, lab.features[:, :5], lab.numbers, lab.patients)
    with pytest.raises(ValueError, match="it is the change of the 0 attributes"):
        find_components(lab.changes, lab.features, np.empty((len(lab.features), 0)), lab.patients)
    with pytest.raises(ValueError, match="components need 20 and 100"):
        find_components(lab.changes.of(np.arange(5)), lab.features, lab.numbers, lab.patients)
    broken = lab.features.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="features hold values that are not finite"):
        find_components(lab.changes, broken, lab.numbers, lab.patients)
    with pytest.raises(ValueError, match="an even number"):
        ComponentSearch(resamples=3)
    with pytest.raises(ValueError, match=r"from 0\.5 to 1"):
        ComponentSearch(selected=0.2)


@pytest.fixture(scope="module")
def frozen():
    """A reader of images of 5 x 5 pixels in [0, 1]: the lab's 24 features, and one that is idle."""
    lab = Lab()

    def pixels(features):
        return np.pad(0.5 + features / 20, ((0, 0), (0, 1)))

    images = pixels(lab.features)
    changes = Changes(pixels(lab.changes.null), pixels(lab.changes.edited),
                      lab.changes.moved, lab.changes.contrast, lab.changes.attribute, lab.changes.orientation,
                      lab.changes.patients)  # fmt: skip
    found = find_components(changes, images, lab.numbers, lab.patients, QUICK)
    return ComponentReader.from_found(found, Pixels(5), images, lab.patients), images, lab


def test_a_frozen_reader_reads_images_as_it_reads_their_features(frozen):
    reader, values, lab = frozen
    images = torch.as_tensor(values[:50]).float().reshape(50, 1, 5, 5)
    scores = reader.read(images)
    assert scores.shape == (50, 1)
    torch.testing.assert_close(
        scores.double(), torch.as_tensor(reader.read_features(values[:50])), atol=1e-4, rtol=1e-4
    )
    assert [c.name for c in reader.concepts] == ["unnamed 1 (view)"]
    assert reader.fitted_on == frozenset(lab.patients)


def test_its_slope_is_that_of_the_model(frozen):
    reader, values, _ = frozen
    scores = reader.read_features(values)[:, 0]
    drawn = np.random.default_rng(0).uniform(size=(400, len(scores))) < scores  # the sign, if the scores are right
    slopes = [scores[d].mean() - scores[~d].mean() for d in drawn]
    quality = reader.quality.concepts.loc["unnamed 1 (view)"]
    assert quality["slope"] == pytest.approx(np.mean(slopes), abs=0.005)
    assert quality["slope_low"] < quality["slope"] < quality["slope_high"]
    assert np.isnan(quality["auroc"])  # nobody has labels


def test_the_error_of_its_slope_is_the_spread_over_samples_of_patients():
    """60 patients of 20 images each, who have the sign in all images or in none."""
    concept, who = Concept("sign", ("sign",), ("no sign",)), np.repeat(np.arange(60), 20)
    slopes, errors = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        margin = np.where(rng.uniform(size=60) < 0.3, 2.0, -2.0) + rng.normal(0, 1.2, 60)
        scores = expit(margin[who] + rng.normal(0, 0.7, 1_200))
        said = _quality([concept], scores[:, None], who).concepts.loc["sign"]
        slopes.append(said["slope"])
        errors.append(said["slope_se"])
    assert np.mean(errors) == pytest.approx(np.std(slopes), rel=0.15)
    alone = _quality([concept], scores[:, None], np.arange(1_200)).concepts.loc["sign", "slope_se"]
    assert alone < errors[-1] / 3


def test_the_images_of_a_patient_count_together_in_what_is_frozen(frozen):
    _, _, lab = frozen
    found = find_components(lab.changes, lab.features, lab.numbers, lab.patients, QUICK)
    twice, patients = np.repeat(lab.features, 2, axis=0), np.repeat(lab.patients, 2)
    once, doubled = (
        ComponentReader.from_found(found, Pixels(5), images, lab.patients, image_patients=owners).quality.concepts
        for images, owners in ((lab.features, None), (twice, patients))
    )
    np.testing.assert_allclose(doubled[["slope", "slope_se"]], once[["slope", "slope_se"]])
    with pytest.raises(ValueError, match="3 image_patients for 900 unedited images"):
        ComponentReader.from_found(found, Pixels(5), lab.features, lab.patients, image_patients=["a", "b", "c"])


def test_a_reader_comes_back_as_it_was_frozen_and_another_is_refused(frozen, tmp_path):
    reader, values, _ = frozen
    described = reader.described(
        [
            Component(
                **{**vars(c), "phrases": (("leads", 2.0),), "regions": ((0.1, 0.2, 0.3, 0.4), (0.1, 0.6, 0.3, 0.8))}
            )
            for c in reader.components
        ]
    )
    assert described.fingerprint == reader.fingerprint  # what is said about it changes nothing
    back = ComponentReader.from_pretrained(described.save(tmp_path / "reader"))
    assert back.components == described.components
    assert back.fingerprint == reader.fingerprint
    np.testing.assert_array_equal(back.read_features(values), reader.read_features(values))
    file = tmp_path / "reader" / "components.json"
    file.write_text(file.read_text().replace(reader.fingerprint, "0" * 16))
    with pytest.raises(ValueError, match="search anew"):
        ComponentReader.from_pretrained(tmp_path / "reader")
    with pytest.raises(FileNotFoundError, match=r"components\.json"):
        ComponentReader.from_pretrained(tmp_path)
