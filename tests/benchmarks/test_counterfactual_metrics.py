"""Metrics of counterfactuals, on editors whose answers are known: three squares whose grey levels are the attributes."""

from dataclasses import dataclass
from typing import ClassVar

import counterfactual_metrics as metrics
import numpy as np
import pandas as pd
import pytest
import torch
from counterfactual_metrics import Counterfactuals
from morphomnist import GRAPH

from causal_cxr.audits.fidelity import answers
from causal_cxr.editors.editor import Abduction, Edit

N = 300  # more than a batch
SEED = 3


def table(n=N, seed=0):
    rng = np.random.default_rng(seed)
    thickness, intensity = rng.uniform(1, 6, n), rng.uniform(70, 250, n)
    columns = {"thickness": thickness, "intensity": intensity, "digit": rng.integers(0, 10, n)}
    return GRAPH.coerce(pd.DataFrame(columns, index=np.arange(1_000, 1_000 + n)))


def drawing(attributes):
    """``(n, 1, 8, 24)``, a square each: thickness / 7, intensity / 255, digit / 9."""
    codes = [GRAPH.attributes[name].encode(attributes[name]) / top for name, top in zip(GRAPH.attributes, (7, 255, 9), strict=True)]  # fmt: skip
    return (
        torch.tensor(np.stack(codes, axis=1), dtype=torch.float32)
        .repeat_interleave(8, 1)[:, None, None]
        .repeat(1, 1, 8, 1)
    )


def square(images, which):
    return images[:, 0, :, 8 * which : 8 * which + 8].mean((1, 2)).numpy().astype(float)


READINGS = {
    "thickness": lambda images, _: 7 * square(images, 0),
    "intensity": lambda images, _: 255 * square(images, 1),
    "digit": lambda images, _: np.eye(10)[np.rint(9 * square(images, 2)).astype(int)],
}


@dataclass
class FakeEditor:
    """Draws the target (``oracle``), or adds ``step`` to the image whatever the target."""

    oracle: bool = False
    step: float = 0.0
    fingerprint: ClassVar[str] = "fake"
    attributes: ClassVar[frozenset] = frozenset(GRAPH.attributes)
    semantics: ClassVar[str] = "structural"
    fitted_on: ClassVar[None] = None

    def abduct(self, images, attributes, *, seeds):
        assert len(images) == len(attributes) == len(seeds) < N
        return Abduction(attributes, images)

    def edit(self, abduction, target, *, phrasing=0, strength=1.0):
        return Edit.all_accepted(drawing(target) if self.oracle else abduction.state + self.step)


ORACLE, NOTHING = FakeEditor(oracle=True), FakeEditor()


def made_by(editor, factual, **changes):
    target = factual.assign(**{name: GRAPH.attributes[name].coerce(v) for name, v in changes.items()})
    return Counterfactuals(next(iter(changes)), target, *answers(editor, drawing(factual), factual, [target]))


def moved(factual):
    """do(thickness) that moves intensity too, do(intensity), do(digit)."""
    thinner = {"thickness": factual["thickness"] - 0.5, "intensity": factual["intensity"] - 5}
    return [thinner, {"intensity": factual["intensity"] + 4}, {"digit": (factual["digit"].astype(int) + 1) % 10}]


@pytest.mark.parametrize(("editor", "each"), [(NOTHING, 0.0), (ORACLE, 0.0), (FakeEditor(step=0.01), 2.55)])
def test_composition_counts_grey_levels_cycle_by_cycle(editor, each):
    factual = table()
    distances = metrics.composition(editor, drawing(factual), factual, seed=SEED)
    assert distances == {1: pytest.approx(each, abs=1e-4), 10: pytest.approx(10 * each, abs=1e-4)}


@pytest.mark.parametrize(("editor", "distance"), [(ORACLE, 0.0), (FakeEditor(step=0.01), 2 * 2.55)])
def test_reversibility_goes_there_and_back(editor, distance):
    factual = table()
    made = [made_by(editor, factual, **change) for change in moved(factual)]
    distances = metrics.reversibility(editor, drawing(factual), factual, made, seed=SEED)
    assert distances == dict.fromkeys(("thickness", "intensity", "digit"), pytest.approx(distance, abs=1e-4))


def test_an_oracle_is_effective_without_error():
    factual = table()
    found = metrics.effectiveness(GRAPH, [made_by(ORACLE, factual, **change) for change in moved(factual)], READINGS)
    for line in found.values():
        assert line == {"thickness": pytest.approx(0, abs=1e-5), "intensity": pytest.approx(0, abs=1e-4), "digit": 1.0}


def test_doing_nothing_errs_by_the_mean_change():
    factual = table()
    found = metrics.effectiveness(GRAPH, [made_by(NOTHING, factual, **change) for change in moved(factual)], READINGS)
    assert found["thickness"]["thickness"] == pytest.approx(0.5, abs=1e-5)
    assert found["thickness"]["intensity"] == pytest.approx(5, abs=1e-4)
    assert found["intensity"]["intensity"] == pytest.approx(4, abs=1e-4)
    assert found["intensity"]["digit"] == 1.0
    assert found["digit"] == {"thickness": pytest.approx(0, abs=1e-5), "intensity": pytest.approx(0, abs=1e-4), "digit": 0.0}  # fmt: skip


def changes_of(editor, factual, **change):
    made = [made_by(editor, factual, **change)]
    spreads = {"thickness": 2.0, "intensity": 50.0}
    return metrics.change_matrix(GRAPH, drawing(factual), factual, made, READINGS, spreads)


def test_the_change_matrix_of_an_oracle_has_nothing_beyond_what_was_intended():
    factual = table()
    matrix = changes_of(ORACLE, factual, **moved(factual)[0])
    on, effect, off = (matrix["thickness"][name] for name in ("thickness", "intensity", "digit"))
    assert (on["changed"], on["intended"]) == (pytest.approx(0.25, abs=1e-5), pytest.approx(0.25))
    assert on["beyond"] == pytest.approx(0, abs=1e-5)
    assert effect["amplified"] is None, "intensity is caused by thickness: it was to move"
    assert off == {"changed": 0.0, "intended": 0.0, "beyond": 0.0, "amplified": 0.0}
    assert metrics.off_target(matrix, "beyond") == 0.0


def test_the_change_matrix_tells_amplification_from_its_reverse():
    factual = table()
    centre = factual["intensity"].mean()
    matrices = []
    for times in (1.05, 0.95):
        wrong = factual.assign(intensity=centre + times * (factual["intensity"] - centre))
        image = drawing(wrong)
        made = [Counterfactuals("digit", factual, image)]
        matrices.append(
            metrics.change_matrix(
                GRAPH, drawing(factual), factual, made, READINGS, {"thickness": 2.0, "intensity": 50.0}
            )
        )
    more, less = (matrix["digit"]["intensity"]["amplified"] for matrix in matrices)
    expected = 0.05 * (factual["intensity"] - centre).abs().mean() / 50
    assert (more, less) == (pytest.approx(expected, abs=1e-4), pytest.approx(-expected, abs=1e-4))


def test_values_are_of_another_bin_or_level_and_follow_the_seed():
    factual, training = table(), table(500, seed=1)
    bins = metrics.bins_of(GRAPH, training)
    for name in GRAPH.attributes:
        values = metrics.other_values(GRAPH, name, factual, training, bins, seed=SEED)
        before, after = (metrics.groups(GRAPH, name, x, bins) for x in (factual[name], values))
        assert (before != after).all()
        assert values.isin(training[name]).all()
        assert values.index.equals(factual.index)
        pd.testing.assert_series_equal(values, metrics.other_values(GRAPH, name, factual, training, bins, seed=SEED))
        assert not values.equals(metrics.other_values(GRAPH, name, factual, training, bins, seed=SEED + 1))


def test_a_row_without_an_eligible_value_is_named():
    factual = table(3)
    eligible = np.array([[True, True], [False, False], [True, False]])
    with pytest.raises(ValueError, match=r"No training value of 'thickness' is eligible for rows \[1001\]"):
        metrics.drawn(factual["thickness"], table(2)["thickness"], eligible, seed=SEED)
