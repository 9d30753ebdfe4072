"""Several datasets as one: rows in order, what a part lacks missing, errors named by the row asked for."""

import numpy as np
import pandas as pd
import pytest
import torch

from causal_cxr.data import Dataset, Joined, Phantom, UnreadableImages


class Grey:
    """Image i is grey ``start + i`` hundredths; some cannot be read."""

    def __init__(self, start, n, torn=(), texts=None, **columns):
        self.start, self.torn, self.fingerprint = start, torn, f"grey-{start}-{n}"
        self.attributes = pd.DataFrame(columns, index=np.arange(n))
        self.patients = pd.Series([f"{start}-{row}" for row in range(n)])
        self.texts = texts

    def images(self, rows):
        problems = {int(row): "torn" for row in rows if row in self.torn}
        if problems:
            raise UnreadableImages(problems)
        return torch.as_tensor((self.start + np.asarray(rows)) / 100, dtype=torch.float32).view(-1, 1, 1, 1)


def test_rows_follow_each_other_in_whatever_order_they_are_asked_for():
    joined = Joined([Grey(0, 3), Grey(10, 2), Grey(20, 4)])
    assert isinstance(joined, Dataset)
    assert len(joined) == 9
    assert joined.patients.tolist() == ["0-0", "0-1", "0-2", "10-0", "10-1", "20-0", "20-1", "20-2", "20-3"]
    greys = joined.images(np.array([8, 0, 4, 3, 0])).flatten()
    assert greys.tolist() == pytest.approx([0.23, 0.0, 0.11, 0.10, 0.0])
    assert joined.images(np.array([], dtype=int)).shape == (0, 1, 1, 1)


def test_what_a_part_lacks_is_missing_in_its_rows_and_types_stay():
    parts = [Phantom(4, "portable", seed=1), Phantom(3, "scanner-site", seed=1)]
    joined = Joined(parts)
    assert joined.attributes["pneumonia"].isna().tolist() == [True] * 4 + [False] * 3
    assert joined.attributes["weekday"].isna().tolist() == [False] * 4 + [True] * 3
    for part in parts:
        for name, column in part.attributes.items():
            assert joined.attributes[name].dtype == column.dtype
    here = joined.attributes.iloc[4:].reset_index(drop=True)[list(parts[1].attributes)]
    pd.testing.assert_frame_equal(here, parts[1].attributes)
    assert torch.equal(joined.images(np.array([5])), parts[1].images(np.array([1])))


def test_texts_are_joined_where_every_part_has_some():
    told = pd.Series(["clear", "effusion"])
    assert Joined([Grey(0, 2, texts=told), Grey(5, 2, texts=told)]).texts.tolist() == [*told, *told]
    assert Joined([Grey(0, 2, texts=told), Grey(5, 2)]).texts is None


def test_every_row_that_cannot_be_read_is_named_as_it_was_asked_for():
    joined = Joined([Grey(0, 3, torn=(1,)), Grey(10, 2), Grey(20, 2, torn=(0, 1))])
    with pytest.raises(UnreadableImages) as unreadable:
        joined.images(np.arange(7))
    assert unreadable.value.problems == {1: "torn", 5: "torn", 6: "torn"}


def test_the_fingerprint_is_of_all_parts_in_their_order():
    a, b = Grey(0, 2), Grey(5, 2)
    assert Joined([a, b]).fingerprint == Joined([a, b]).fingerprint
    assert len({Joined(parts).fingerprint for parts in ([a], [b], [a, b], [b, a])}) == 4


def test_nothing_cannot_be_joined():
    with pytest.raises(ValueError, match="no dataset to join"):
        Joined([])
