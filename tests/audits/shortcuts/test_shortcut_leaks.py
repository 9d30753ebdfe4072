"""What of a gain the target's own movement explains, where a reader sees something of the attribute in its place."""

import numpy as np
import pandas as pd
import pytest

from causal_cxr.audits.effects import NOTHING
from causal_cxr.audits.shortcuts.leaks import Reading, explained
from causal_cxr.readers.quality import Shift

PATIENTS, SLOPE = 400, 0.5


def differences(score: float, reading: float, seed: int) -> pd.DataFrame:
    """A patient an image; the score follows the reading's scatter by half of it, as that of a disease does."""
    rng = np.random.default_rng(seed)
    scatter = 0.2 * rng.normal(size=PATIENTS)
    patients = [str(i) for i in range(PATIENTS)]
    return pd.DataFrame({"patient": patients, "score": score + SLOPE * scatter, "r/c": reading + scatter})


def reading(shift: Shift) -> Reading:
    return Reading("disease", "c", "r", NOTHING, "open", 1.0, 1.0, np.nan, shift)


BY_TARGET = differences(SLOPE * 0.8, 0.8, seed=1)


def test_what_the_targets_movement_explains_is_no_reliance():
    paired = differences(SLOPE * 0.3, 0.3, seed=2)
    left = explained("score", paired, BY_TARGET, reading(Shift(0.0, 0.0, True)), alpha=0.05)
    assert left.value == pytest.approx(0, abs=1e-9)


def test_what_the_reader_sees_of_the_attribute_explains_no_gain():
    paired = differences(0.15, 0.2, seed=3)  # the disease stays: the reading moves as it sees the attribute
    taken_off = explained("score", paired, BY_TARGET, reading(Shift(0.2, 0.0, True)), alpha=0.05)
    as_moved = explained("score", paired, BY_TARGET, reading(Shift(0.0, 0.0, True)), alpha=0.05)
    assert taken_off.value == pytest.approx(0.15, abs=0.01)
    assert as_moved.value == pytest.approx(0.05, abs=0.01)


def test_the_error_of_what_the_reader_sees_counts_by_the_slope():
    paired = differences(0.15, 0.2, seed=3)
    known, guessed = (
        explained("score", paired, BY_TARGET, reading(Shift(0.2, se, True)), alpha=0.05) for se in (0.0, 0.1)
    )
    assert guessed.se**2 == pytest.approx(known.se**2 + (SLOPE * 0.1) ** 2, rel=1e-3)


def test_without_an_edit_of_the_target_nothing_is_known():
    assert explained("score", BY_TARGET, None, reading(Shift(0.0, 0.0, True)), alpha=0.05) is NOTHING
