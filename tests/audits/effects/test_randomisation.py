"""Sign flips against scipy on the same flips, against every flip there is, and by simulation."""

import numpy as np
import pytest
from scipy import stats

from causal_cxr.audits.effects import (
    draw_signs,
    family_wise_conjunction,
    multiplier_max_t,
    paired_effect,
    signflip_test,
)
from causal_cxr.statistics.clustered import mean_influence


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def every_sign(patients: int) -> np.ndarray:
    return np.array(np.meshgrid(*[[-1, 1]] * patients)).reshape(patients, -1).T


def score(sums: np.ndarray, axis: int = -1) -> np.ndarray:
    """T as the module prints it."""
    return np.abs(sums.sum(axis=axis)) / np.sqrt((sums**2).sum(axis=axis))


def step_down(differences: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Westfall & Young's algorithm 4.1, written out cell by cell."""
    observed = score(differences, axis=0)
    drawn = np.array([score(differences * flip[:, None], axis=0) for flip in signs])
    order = np.argsort(-observed)
    p = np.empty(len(observed))
    least = 0.0
    for step, cell in enumerate(order):
        family = drawn[:, order[step:]].max(axis=1)
        least = max(least, (1 + (family >= observed[cell] - 1e-12).sum()) / (1 + len(signs)))
        p[cell] = least
    return p


# --- each cell alone


def test_p_and_the_null_are_those_of_scipy_on_the_same_flips(rng) -> None:
    differences = rng.normal(0.3, 1.0, (24, 6))
    flips = []

    def watched(sample: np.ndarray, axis: int) -> np.ndarray:
        """scipy tells no flips, but shows them to the statistic: the first column is never 0."""
        flips.append(np.sign(sample / np.broadcast_to(marked, sample.shape)))
        return score(sample, axis=axis)

    for cell in range(differences.shape[1]):
        marked = differences[:, cell]
        flips.clear()
        reference = stats.permutation_test(
            (marked,), watched, permutation_type="samples", n_resamples=999, vectorized=True, alternative="greater",
            random_state=np.random.default_rng(cell),
        )  # fmt: skip
        signs = np.concatenate([x.reshape(-1, 24) for x in flips if x.size > 24])
        assert signs.shape == (999, 24)
        found = signflip_test(marked[:, None], np.arange(24), signs=signs)
        assert found.statistic[0] == pytest.approx(reference.statistic, abs=1e-12)
        assert found.p[0] == pytest.approx(reference.pvalue, abs=1e-12)
        null = np.abs(signs @ (marked / np.sqrt((marked**2).sum())))
        np.testing.assert_allclose(null, reference.null_distribution, atol=1e-12)


def test_all_flips_of_few_patients_give_the_exact_test_of_scipy(rng) -> None:
    difference = rng.normal(0.5, 1.0, 9)
    reference = stats.permutation_test(
        (difference,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    signs = every_sign(9)
    p = signflip_test(difference[:, None], np.arange(9), signs=signs).p[0]
    assert p * (1 + len(signs)) - 1 == pytest.approx(reference.pvalue * len(signs))  # (1 + b) / (1 + B) against b / B


def test_max_t_for_one_cell_is_the_exact_sign_flip_test() -> None:
    difference = np.array([0.3, -0.1, 0.5, 0.7, 0.2, 0.4, -0.05, 0.6])
    exact = (np.abs(every_sign(8) @ difference) >= difference.sum() - 1e-12).mean()
    assert signflip_test(difference[:, None], np.arange(8), draws=40_000).p_family[0] == pytest.approx(exact, abs=0.005)


def test_ties_count_as_extreme() -> None:
    flips = np.array([1.0, 0.0, 1.0, 0.0, 0.0, -1.0, 1.0])[:, None] * 0.1  # sums of tenths differ by rounding
    signs = every_sign(7)
    exact = (np.abs(signs @ np.round(flips * 10)) >= 2).mean()
    assert signflip_test(flips, np.arange(7), signs=signs).p[0] == pytest.approx((1 + exact * 128) / 129)


def test_images_of_a_patient_flip_together_in_whatever_order(rng) -> None:
    patients = np.array(["b", "a", "c", "a", "b", "b", "d"])
    differences = rng.normal(size=(7, 3))
    sums = np.array([differences[patients == p].sum(axis=0) for p in "abcd"])
    signs = draw_signs(4, 500, seed=3)
    found, summed = signflip_test(differences, patients, signs=signs), signflip_test(sums, np.arange(4), signs=signs)
    np.testing.assert_array_equal(found.p, summed.p)
    np.testing.assert_allclose(found.statistic, summed.statistic)


def test_t_and_the_score_form_say_the_same_where_patients_have_equally_many_images(rng) -> None:
    differences = rng.normal(0.2, 1.0, (30, 8))
    t = np.array([abs(stats.ttest_1samp(column, 0.0).statistic) for column in differences.T])
    T = signflip_test(differences, np.arange(30), draws=10).statistic
    np.testing.assert_allclose(T, t * np.sqrt(30 / (29 + t**2)))


def test_a_rejected_edit_adds_nothing_to_its_cell_and_a_cell_without_edits_says_nothing(rng) -> None:
    differences = rng.normal(size=(40, 3))
    whole = differences.copy()
    differences[5, 0], whole[5, 0], differences[:, 2] = np.nan, 0.0, np.nan
    found, reference = (signflip_test(d, np.arange(40), draws=200) for d in (differences, whole[:, :2]))
    assert np.isnan([found.p[2], found.p_family[2], found.statistic[2]]).all()
    np.testing.assert_array_equal(found.p_family[:2], reference.p_family)


def test_the_same_seed_draws_the_same_signs_and_both_signs_are_as_frequent() -> None:
    signs = draw_signs(50, 2_000, seed=1)
    np.testing.assert_array_equal(signs, draw_signs(50, 2_000, seed=1))
    assert set(np.unique(signs)) == {-1, 1}
    assert abs(signs.mean()) < 4 / np.sqrt(signs.size)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"differences": np.zeros(4)}, "patient id a row"),
        ({"patients": np.arange(3)}, "patient id a row"),
        ({"differences": np.full((4, 1), np.inf)}, "infinite"),
        ({"signs": np.zeros((5, 4))}, "draw_signs"),
        ({"signs": np.ones((5, 3))}, "draw_signs"),
    ],
)
def test_what_cannot_be_flipped_is_refused(change, message) -> None:
    given = {"differences": np.ones((4, 1)), "patients": np.arange(4), "signs": None} | change
    with pytest.raises(ValueError, match=message):
        signflip_test(given["differences"], given["patients"], signs=given["signs"])


# --- the family


@pytest.mark.parametrize(("cells", "draws"), [(1, 50), (7, 300), (600, 40), (30, 1_500)])
def test_step_down_is_westfall_and_youngs_algorithm_across_blocks(rng, cells, draws) -> None:
    differences = rng.normal(size=(20, cells)) + rng.uniform(0, 1, cells)
    signs = draw_signs(20, draws, seed=5)
    found = signflip_test(differences, np.arange(20), signs=signs)
    np.testing.assert_allclose(found.p_family, step_down(differences, signs))
    assert (found.p_family >= found.p).all()


def test_the_order_of_cells_does_not_matter_even_where_they_tie(rng) -> None:
    differences = np.round(rng.normal(0.4, 1.0, (15, 12)))
    differences[:, 6:] = differences[:, :6]
    order = rng.permutation(12)
    a, b = signflip_test(differences, np.arange(15)), signflip_test(differences[:, order], np.arange(15))
    np.testing.assert_array_equal(a.p_family[order], b.p_family)


def test_max_t_keeps_the_family_wise_error(rng) -> None:
    patients = np.repeat(np.arange(40), 2)
    any_false = [
        signflip_test(
            rng.normal(size=(40, 10))[patients] + rng.normal(size=(80, 10)), patients, draws=199, seed=s
        ).p_family.min()
        <= 0.05
        for s in range(300)
    ]
    assert np.mean(any_false) <= 0.09


def test_max_t_finds_the_one_cell_that_moves_and_passes_over_a_constant_one(rng) -> None:
    differences = rng.normal(size=(60, 5))
    differences[:, 0], differences[:, 4] = differences[:, 0] + 1.5, 0.0
    p = signflip_test(differences, np.arange(60), draws=999).p_family
    assert p[0] == pytest.approx(1 / 1_000)
    assert p[4] == 1.0
    alone = [stats.ttest_1samp(column, 0.0).pvalue for column in differences[:, 1:4].T]
    assert (p[1:4] > 2 * np.array(alone)).sum() >= 1
    assert p[1:4].min() == pytest.approx(1 - (1 - min(alone)) ** 3, abs=0.02)  # independent cells: Sidak's of three


# --- multipliers


def influences(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Effects' t numerators are left to the caller: influence and dof of each column's mean."""
    groups = np.arange(len(differences))
    influence, dof = mean_influence(differences - differences.mean(axis=0), groups, len(groups))
    return influence, np.full(differences.shape[1], dof)


def test_multipliers_agree_with_the_t_test_for_one_cell(rng) -> None:
    difference = rng.normal(0.3, 1.0, (40, 1))
    effect = paired_effect(difference[:, 0], np.arange(40))
    influence, dof = influences(difference)
    p = multiplier_max_t(np.array([effect.value / effect.se]), influence, dof, draws=40_000)
    assert p[0] == pytest.approx(effect.p_yes(0.0), abs=0.01)


def test_multipliers_agree_with_sidak_for_independent_cells(rng) -> None:
    influence = rng.normal(size=(2_000, 20))
    p = multiplier_max_t(np.array([2.8] + [0.0] * 19), influence, np.full(20, np.inf), draws=4_000)
    assert p[0] == pytest.approx(1 - (1 - 2 * stats.norm.sf(2.8)) ** 20, abs=0.02)
    assert p[1:].min() > 0.99


def test_a_cell_that_says_nothing_is_no_member_of_the_family(rng) -> None:
    influence = rng.normal(size=(50, 3))
    statistic, dof = np.array([2.0, np.nan, 1.0]), np.full(3, 49.0)
    p = multiplier_max_t(statistic, influence, dof)
    assert np.isnan(p[1])
    np.testing.assert_array_equal(p[[0, 2]], multiplier_max_t(statistic[[0, 2]], influence[:, [0, 2]], dof[[0, 2]]))


def test_multipliers_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="influences"):
        multiplier_max_t(np.zeros(3), np.zeros((10, 2)), np.ones(3))


# --- conjunctions


def test_a_conjunction_has_the_largest_p_of_its_sides() -> None:
    p = family_wise_conjunction(np.array([0.01, 0.20, np.nan]), np.array([0.04, 0.03, 0.01]))
    np.testing.assert_array_equal(p, [0.04, 0.20, np.nan])
    with pytest.raises(ValueError, match="from each side"):
        family_wise_conjunction(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="from each side"):
        family_wise_conjunction()


def test_conjunctions_of_sides_keep_the_family_wise_error(rng) -> None:
    """In all cells side 1 has an effect and side 2 has none: the conjunction is as often wrong as side 2 alone is."""
    runs, cells, wrong = 400, 8, 0
    for run in range(runs):
        common = rng.normal(size=(40, 1))
        one = 2.0 + common + rng.normal(size=(40, cells))
        two = common + rng.normal(size=(40, cells))
        sides = [signflip_test(x, np.arange(40), draws=199, seed=run).p_family for x in (one, two)]
        wrong += family_wise_conjunction(*sides).min() <= 0.05
    assert stats.binomtest(wrong, runs, 0.05, alternative="greater").pvalue > 0.01
    assert wrong > 0  # the error is spent: a test that never rejects would pass the line above


def test_conjunctions_whose_sides_are_one_family_keep_it_whichever_side_is_wrong(rng) -> None:
    """Half the cells lack the effect on one side, half on the other: two families of level 5% may be wrong in 10%."""
    runs, apart, together = 400, 0, 0
    moved = np.repeat([[2.0, 0.0], [0.0, 2.0]], 4, axis=0)  # (cell, side)
    for run in range(runs):
        differences = rng.normal(size=(60, 16)) + moved.T.ravel()
        joint = signflip_test(differences, np.arange(60), draws=199, seed=run).p_family
        sides = [signflip_test(x, np.arange(60), draws=199, seed=run).p_family for x in np.hsplit(differences, 2)]
        apart += family_wise_conjunction(*sides).min() <= 0.05
        together += family_wise_conjunction(*np.split(joint, 2)).min() <= 0.05
    assert stats.binomtest(together, runs, 0.05, alternative="greater").pvalue > 0.01
    assert stats.binomtest(apart, runs, 0.10, alternative="greater").pvalue > 0.01
    assert apart > together
