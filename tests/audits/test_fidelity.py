import numpy as np
import pandas as pd
import pytest
import torch

from causal_cxr.audits.fidelity import counterfactual_errors, error_ratios
from causal_cxr.data.phantom import Phantom
from causal_cxr.editors import Edit, OracleEditor
from causal_cxr.graphs import default_contrasts

ROWS = np.arange(12)


@pytest.fixture(scope="module")
def phantom():
    return Phantom(40, "portable", seed=3, size=32)


class Share(OracleEditor):
    """Makes a share of the true change: 0 does nothing."""

    def __init__(self, phantom, share):
        super().__init__(phantom)
        self.share = share

    def edit(self, abduction, target, **options):
        true, images = super().edit(abduction, target).images, self.phantom.images(target.index.to_numpy())
        return Edit.all_accepted(images + self.share * (true - images))


def errors_of(editor, phantom):
    return counterfactual_errors(editor, phantom, ROWS, default_contrasts(phantom.graph, {"age": 20.0}), k=4)


def test_doing_nothing_has_ratio_one_and_the_truth_about_zero(phantom):
    nothing = error_ratios(errors_of(Share(phantom, 0.0), phantom))
    np.testing.assert_allclose(nothing["ratio"], 1)
    truth = error_ratios(errors_of(OracleEditor(phantom), phantom))
    assert truth["ratio"].max() < 0.35  # it is one more draw of what the image does not tell
    assert (truth["low"] <= truth["ratio"]).all()
    assert (truth["ratio"] <= truth["high"]).all()


def test_half_the_change_is_half_the_effectiveness_and_amplifies_nothing_where_truth_is_one(phantom):
    errors = errors_of(Share(phantom, 0.5), phantom).query("attribute == 'sex'")  # nothing unrevealed hangs on sex
    np.testing.assert_allclose(errors["effectiveness"], 0.5, atol=1e-4)
    np.testing.assert_allclose(errors["amplification"], 0, atol=1e-3)
    assert error_ratios(errors)["ratio"].item() == pytest.approx(0.5, abs=1e-3)


def test_errors_are_root_mean_squares_to_the_nearest_member(phantom):
    errors = errors_of(Share(phantom, 0.0), phantom).query("attribute == 'view'")
    target = phantom.attributes.iloc[ROWS].assign(view=lambda t: np.where(t["view"] == "AP", "PA", "AP"))
    members = phantom.counterfactual_set(target, 4, seed=0)
    distances = torch.stack([(m - phantom.images(ROWS)).square().mean(dim=(1, 2, 3)).sqrt() for m in members])
    np.testing.assert_allclose(errors["nothing"], distances.min(0).values, rtol=1e-5)


def test_an_attribute_that_shows_nowhere_and_images_beyond_the_support_are_left_out(phantom):
    errors = errors_of(OracleEditor(phantom), phantom)
    assert set(errors["attribute"]) == {"age", "sex", "view", "cardiomegaly", "effusion"}
    applies = default_contrasts(phantom.graph, {"age": 20.0})[0].apply(
        phantom.graph.attributes["age"], phantom.attributes["age"]
    )[1][ROWS]
    assert (errors["attribute"] == "age").sum() == (applies != 0).sum()


def test_intervals_resample_patients_not_images():
    rng = np.random.default_rng(0)
    one = pd.DataFrame({"attribute": "a", "edited": rng.uniform(0.3, 0.7, 30), "nothing": 1.0, "floor": 0.0})
    apart = error_ratios(one.assign(patient=np.arange(30)))
    together = error_ratios(pd.concat([one.assign(patient=np.arange(30))] * 5))
    assert (together["high"] - together["low"]).item() == pytest.approx((apart["high"] - apart["low"]).item(), rel=1e-6)
