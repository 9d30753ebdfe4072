"""Two editors, or two readers, of the same patients: their difference, estimated image by image."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from causal_cxr.audits.heterogeneity import heterogeneity, reciprocal_edits
from causal_cxr.graphs import Contrast
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import COLUMNS, ReaderQuality

VIEW = Contrast("view", "flip", level="AP", reference="PA")
LEADS = Concept("leads", ("leads",), ("no leads",))
N = 400


def quality(slope: float, se: float = 0.0) -> ReaderQuality:
    values = dict.fromkeys(COLUMNS, 0.9) | {"slope": slope, "slope_se": se, "slope_low": slope - 2 * se}
    unknown = ReaderQuality.unknown((LEADS,))
    return ReaderQuality(
        pd.DataFrame([values], index=pd.Index(["leads"], name="concept")), unknown.within, unknown.follows
    )


def edits(seed: int, effect: float, readers: dict[str, float], shared: np.ndarray) -> pd.DataFrame:
    """Oriented differences of one editor as readers of these slopes see them; ``shared`` is the patients' own part."""
    rng = np.random.default_rng(seed)
    truth = effect + shared + rng.normal(0, 0.1, N)
    frame = {f"{name}/leads": slope * truth for name, slope in readers.items()}
    return pd.DataFrame(frame).assign(patient=[f"p{i}" for i in range(N)], orientation=1)


@pytest.fixture
def shared() -> np.ndarray:
    return np.random.default_rng(7).normal(0, 0.5, N)


def test_editors_are_compared_on_the_same_images_so_that_what_patients_share_cancels(shared: np.ndarray) -> None:
    a, b = edits(0, 0.5, {"r": 0.8}, shared), edits(1, 0.4, {"r": 0.8}, shared)
    frame = heterogeneity({("a", VIEW.name): a, ("b", VIEW.name): b}, [VIEW], {"r": (LEADS,)}, {"r": quality(0.8)})
    (row,) = frame.to_dict("records")
    expected = stats.ttest_rel(a["r/leads"] / 0.8, b["r/leads"] / 0.8)
    assert row["difference"] == pytest.approx(0.1, abs=0.03)
    assert row["p"] == pytest.approx(expected.pvalue, rel=0.05)
    apart = stats.ttest_ind(a["r/leads"], b["r/leads"]).pvalue
    assert row["p"] < 1e-6 < apart, "as independent studies the two would have been called alike"


def test_editors_of_one_effect_do_not_differ_and_the_family_is_corrected(shared: np.ndarray) -> None:
    frames = {(name, VIEW.name): edits(i, 0.5, {"r": 0.8}, shared) for i, name in enumerate("abc")}
    frame = heterogeneity(frames, [VIEW], {"r": (LEADS,)}, {"r": quality(0.8)})
    assert frame[["one", "other"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert (frame["q"] >= frame["p"]).all()
    assert (frame["q"] > 0.05).all()


def test_readers_of_one_edit_differ_where_their_slopes_do_not_explain_it(shared: np.ndarray) -> None:
    a = edits(0, 0.5, {"r": 0.8, "s": 0.4}, shared)
    alike = heterogeneity({("a", VIEW.name): a}, [VIEW], {"r": (LEADS,), "s": (LEADS,)},
                          {"r": quality(0.8, 0.01), "s": quality(0.4, 0.01)})  # fmt: skip
    wrong = heterogeneity({("a", VIEW.name): a}, [VIEW], {"r": (LEADS,), "s": (LEADS,)},
                          {"r": quality(0.8, 0.01), "s": quality(0.8, 0.01)})  # fmt: skip
    assert alike["difference"].iloc[0] == pytest.approx(0, abs=1e-9)
    assert wrong["p"].iloc[0] < 1e-6
    assert (wrong["between"].iloc[0], wrong["held"].iloc[0]) == ("readers", "a")


def test_a_blind_reader_is_held_against_nobody(shared: np.ndarray) -> None:
    a = edits(0, 0.5, {"r": 0.8, "s": 0.1}, shared)
    frame = heterogeneity({("a", VIEW.name): a}, [VIEW], {"r": (LEADS,), "s": (LEADS,)},
                          {"r": quality(0.8), "s": quality(0.1)})  # fmt: skip
    assert frame.empty


def test_reciprocal_edits_stand_side_by_side() -> None:
    leak = pd.DataFrame(
        [
            ["e", "age + 20", "age", "AP", "r", "view", 0.3, 0.2, 0.4],
            ["e", "view: PA -> AP", "view", "old", "r", "age", 0.1, 0.0, 0.2],
            ["e", "age + 20", "age", "old", "r", "age", 0.9, 0.8, 1.0],
        ],
        columns=["editor", "contrast", "attribute", "concept", "reader", "target", "effect", "low", "high"],
    )
    (row,) = reciprocal_edits(leak).to_dict("records")
    assert (row["a"], row["b"], row["a_on_b"], row["b_on_a"]) == ("age", "view", 0.3, 0.1)
    assert (row["b_on_a_low"], row["b_on_a_high"]) == (0.0, 0.2)
