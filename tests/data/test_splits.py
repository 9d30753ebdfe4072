"""Splits keep patients whole; subsets are datasets."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from causal_cxr.data import Dataset, Subset, UnreadableImages, batches, split_patients


class Numbered:
    """Image i is grey i/100; row 3 cannot be read."""

    fingerprint = "numbered"
    texts = None

    def __init__(self, patients):
        self.patients = pd.Series([str(p) for p in patients])
        self.attributes = pd.DataFrame({"a": np.arange(len(patients), dtype=float)})

    def images(self, rows):
        if 3 in rows:
            raise UnreadableImages({3: "torn"})
        return torch.as_tensor(np.asarray(rows) / 100, dtype=torch.float32).view(-1, 1, 1, 1)


@settings(deadline=None, max_examples=50)
@given(
    patients=st.lists(st.integers(0, 12), min_size=1, max_size=60),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=4).filter(lambda s: sum(s) > 0),
    seed=st.integers(0, 99),
)
def test_no_patient_is_in_two_parts_and_no_row_is_lost(patients, shares, seed):
    dataset = Numbered(patients)
    parts = split_patients(dataset, [s / sum(shares) for s in shares], seed=seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(patients)))
    owners = [set(dataset.patients[rows]) for rows in parts]
    assert sum(map(len, owners)) == len(set().union(*owners))


def test_counts_are_patients_not_images_and_the_seed_decides():
    dataset = Numbered(np.repeat(np.arange(20), 3))
    one, other = split_patients(dataset, counts=[5, 10], seed=1)
    assert (len(one), len(other)) == (15, 30)
    assert one.tolist() == split_patients(dataset, counts=[5, 10], seed=1)[0].tolist()
    assert one.tolist() != split_patients(dataset, counts=[5, 10], seed=2)[0].tolist()


def test_impossible_splits_are_refused():
    dataset = Numbered([1, 2])
    with pytest.raises(ValueError, match="exceed the 2 patients"):
        split_patients(dataset, counts=[3])
    with pytest.raises(ValueError, match="more than 1"):
        split_patients(dataset, [0.9, 0.2])
    with pytest.raises(ValueError, match="either"):
        split_patients(dataset)


def test_a_subset_is_a_dataset_with_its_own_row_numbers():
    subset = Subset(Numbered(range(6)), np.array([5, 3, 1]))
    assert isinstance(subset, Dataset)
    assert subset.attributes["a"].tolist() == [5, 3, 1]
    assert subset.attributes.index.tolist() == [0, 1, 2]
    assert subset.images(np.array([2, 0])).flatten().tolist() == pytest.approx([0.01, 0.05])
    with pytest.raises(UnreadableImages, match="row 1: torn"):
        subset.images(np.arange(3))
    assert subset.fingerprint != Subset(subset.dataset, np.array([1, 3, 5])).fingerprint


def test_a_subset_refuses_rows_that_are_not_there_or_come_twice():
    with pytest.raises(ValueError, match=r"\[9\]"):
        Subset(Numbered(range(6)), np.array([1, 9]))
    with pytest.raises(ValueError, match="twice"):
        Subset(Numbered(range(6)), np.array([1, 1]))


def test_a_mask_is_not_taken_for_the_rows_0_and_1():
    with pytest.raises(ValueError, match=r"rows is a mask .* pass np.flatnonzero\(mask\)"):
        Subset(Numbered(range(4)), np.array([True, False, False, False]))


def test_batches_are_consecutive():
    assert [b.tolist() for b in batches(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]
    with pytest.raises(ValueError, match="batch_size"):
        next(batches(np.arange(5), 0))
