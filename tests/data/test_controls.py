import numpy as np
import pandas as pd
import torch

from causal_cxr.data import MARKS, PLACEBO, Dataset, Phantom, WithControls, World


class Grey:
    """Ten patients with two flat images each, one dark and one bright."""

    attributes = pd.DataFrame({"view": ["PA", "AP"] * 10})
    patients = pd.Series([f"p{i // 2}" for i in range(20)])
    texts = None
    fingerprint = "grey"

    def images(self, rows):
        level = torch.tensor([0.2, 0.8])[torch.as_tensor(np.asarray(rows) % 2)]
        return level[:, None, None, None].expand(-1, 1, 64, 64).clone()


def test_it_is_a_dataset_with_a_placebo_column():
    made = WithControls(Grey())
    assert isinstance(made, Dataset)
    assert list(made.attributes.columns) == ["view", "placebo"]
    assert list(made.attributes["placebo"].cat.categories) == list(PLACEBO.levels)


def test_a_patient_has_one_toss_of_each_coin_and_it_does_not_depend_on_the_others():
    phantom = Phantom(600, "independent", seed=3)
    made = WithControls(phantom, seed=4)
    coins = made.marks.assign(placebo=made.attributes["placebo"].cat.codes, patient=phantom.patients)
    assert len(coins.drop_duplicates()) == coins["patient"].nunique()
    fewer = WithControls(Phantom(300, "independent", seed=3), seed=4)  # the same first patients
    pd.testing.assert_frame_equal(fewer.marks, made.marks.iloc[:300])


def test_coins_are_fair_and_independent_of_each_other():
    made = WithControls(Phantom(4000, World.load("independent").changed(patients={"images": [1, 1]}), seed=3), seed=1)
    coins = made.marks.assign(placebo=made.attributes["placebo"].cat.codes.astype(int))
    np.testing.assert_allclose(coins.mean(), 0.5, atol=0.03)
    np.testing.assert_allclose(coins.corr(), np.eye(len(coins.columns)), atol=0.05)  # 3 standard errors


def test_a_mark_shows_where_it_is_said_to_be_and_nowhere_else_on_dark_and_bright():
    made, plain = WithControls(Grey()), Grey()
    rows = np.arange(20)
    change = (made.images(rows) - plain.images(rows)).abs()[:, 0]
    touched = torch.zeros(64, 64, dtype=torch.bool)
    for name, (_, down, right) in MARKS.items():
        top, left = int(down * 64), int(right * 64)
        here = (slice(max(0, top - 5), top + 6), slice(max(0, left - 5), left + 6))
        touched[here] = True
        strength = change[(slice(None), *here)].amax(dim=(1, 2))
        present = torch.as_tensor(made.marks[name].to_numpy() == 1)
        assert strength[present].min() > 0.15, name
        if name != "control_ring":  # the bar lies near nothing else; the ring's surroundings are its own
            assert strength[~present].max() < 0.02, name
    assert change[:, ~touched].max() < 0.02


def test_the_seed_is_in_the_fingerprint():
    assert WithControls(Grey(), 0).fingerprint != WithControls(Grey(), 1).fingerprint != Grey.fingerprint
