import numpy as np
import pandas as pd
import pytest
import torch

from causal_cxr.audits.readings import read_scores
from causal_cxr.readers import Concept, ReaderQuality

CONCEPTS = (Concept("wires", ("wires",), ("no wires",)), Concept("leads", ("leads",), ("no leads",)))
PATIENTS = pd.Series(["a", "b", "c"])


class FirstPixels:
    """Scores are the first two pixels."""

    name, fingerprint, concepts, fitted_on = "pixels", "pixels", CONCEPTS, frozenset()
    quality = ReaderQuality.unknown(CONCEPTS)

    def read(self, images, patients=None):
        return images[:, 0, 0, :2]


def images(*leads):
    return torch.stack([torch.full((3,), 0.5), torch.tensor(leads)], dim=1)[:, None, None]


def test_scores_are_columns_of_reader_and_concept():
    found = read_scores([FirstPixels()], images(0.0, 0.25, 1.0), PATIENTS)
    assert list(found) == ["pixels/wires", "pixels/leads"]
    np.testing.assert_array_equal(found["pixels/leads"], np.array([0, 0.25, 1], dtype=np.float32))


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_stops_the_reading_with_the_readers_name(score):
    with pytest.raises(
        ValueError, match=rf"Concept 'leads' of reader 'pixels' has 2 scores .*, e.g. {score}; the reader"
    ):
        read_scores([FirstPixels()], images(score, 0.5, score), PATIENTS)


def test_features_and_log_odds_are_read_as_they_are():
    assert read_scores([FirstPixels()], images(0.0, -2.0, 1.75), PATIENTS)["pixels/leads"].tolist() == [0, -2, 1.75]
