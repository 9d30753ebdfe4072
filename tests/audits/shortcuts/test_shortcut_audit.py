"""What a classifier relies on, where that is known: models that read one corner of an image each."""

import numpy as np
import pandas as pd
import pytest
import torch
from audits.fakes import GRAPH, CornerDataset, CornerEditor, CornerReader

from causal_cxr.audits import Audit, ShortcutAudit, ShortcutReport
from causal_cxr.audits.store import ManifestMismatch
from causal_cxr.editors.editor import Abduction, Edit
from causal_cxr.graphs import Binary, CausalGraph, default_contrasts
from causal_cxr.readers.quality import ReaderQuality

VIEW, DISEASE, LEADS = (0, 0), (0, 7), (7, 0)
EDITED = 160


def corner(place):
    """A model whose probability is the brightness of a corner: 0.1 or 0.9."""
    return lambda images: images[:, 0, place[0], place[1]]


MODELS = {
    "reads leads": corner(LEADS),
    "reads disease": corner(DISEASE),
    "reads the view": corner(VIEW),
    "constant": lambda images: torch.full((len(images),), 0.3),
}


class HiddenEditor(CornerEditor):
    """Can also set the leads alone, which no column names."""

    attributes = frozenset({"disease", "view", "leads"})

    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        edit = super().edit(abduction, target, phrasing=phrasing)
        if "leads" in target:
            edit.images[:, 0, 7, 0] = torch.as_tensor((target["leads"] == 1).to_numpy() * 0.8 + 0.1).float()
        return edit


class LeakyEditor(CornerEditor):
    """Where the view is set, the disease's corner goes along."""

    fingerprint = "leaky"

    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        edit = super().edit(abduction, target, phrasing=phrasing)
        moved = (target["view"] != abduction.factual["view"]).to_numpy()
        now = torch.as_tensor((target["view"] == "AP").to_numpy() * 0.8 + 0.1).float()
        edit.images[:, 0, 0, 7] = torch.where(torch.tensor(moved), now, edit.images[:, 0, 0, 7])
        return edit


class IdleEditor(CornerEditor):
    """Does nothing."""

    fingerprint = "idle"

    def edit(self, abduction: Abduction, target: pd.DataFrame, *, phrasing: int = 0, strength: float = 1.0) -> Edit:
        return Edit.all_accepted(abduction.state[0].clone())


def audit(readers=None, **options) -> ShortcutAudit:
    return ShortcutAudit(GRAPH, "disease", readers or [CornerReader()], n_edited=EDITED, **options)


@pytest.fixture(scope="module")
def dataset():
    return CornerDataset(300)


@pytest.fixture(scope="module")
def report(dataset, tmp_path_factory):
    editors = {"true": HiddenEditor(), "leaky": LeakyEditor(), "idle": IdleEditor()}
    folder = tmp_path_factory.mktemp("shortcuts")
    return audit(carriers={"view": ["leads", "control"]}).run(MODELS, editors, dataset, out=folder), folder


@pytest.mark.parametrize(
    ("model", "attribute", "editor", "verdict"),
    [
        ("reads leads", "view", "true", "reliance"),
        ("reads the view", "view", "true", "reliance"),
        ("reads disease", "view", "true", "invariant"),
        ("constant", "view", "true", "invariant"),
        ("reads disease", "disease", "true", "legitimate"),
        ("constant", "disease", "true", "legitimate"),
        ("reads disease", "view", "leaky", "reliance confounded by leak"),
        ("reads the view", "view", "leaky", "reliance confounded by leak"),
        ("reads leads", "view", "idle", "undecided"),
        ("constant", "view", "idle", "undecided"),
    ],
)
def test_verdicts(report, model, attribute, editor, verdict):
    row = report[0].about(attribute, model, editor)
    assert row["verdict"] == verdict
    assert verdict in row["sentence"]


def test_the_gain_is_what_the_model_reads_off_the_edit(report):
    row = report[0].about("view", "reads the view", "true")
    assert row["gain"] == pytest.approx(0.8, abs=1e-6)
    assert row["gain_logit"] == pytest.approx(2 * np.log(9), abs=1e-4)
    assert row["flips_up"] == 1.0
    assert row["flips_down"] == 0.0
    assert row["flips_up_low"] > 0.9
    leads = report[0].about("view", "reads leads", "true")
    assert leads["gain_low"] < 0.8 * 0.7 < leads["gain_high"]  # P(leads | AP) - P(leads | PA) = 0.7, each worth 0.8
    assert leads["moved"] == pytest.approx(leads["flips_up"] + leads["flips_down"])


def test_a_leak_is_bounded_by_what_the_target_moves_when_it_is_set(report):
    """The disease's corner explains all of one model's gain and nothing of the other's."""
    read = report[0].about("view", "reads disease", "leaky")
    assert read["leak"] == "moved"
    assert read["leak_concept"] == "sick"
    assert read["beyond"] == pytest.approx(0, abs=1e-6)
    assert read["bound_low"] <= 0 < read["gain"] <= read["bound_high"]
    assert read["amount"] == pytest.approx(0, abs=1e-6)
    view = report[0].about("view", "reads the view", "leaky")
    assert view["beyond"] == pytest.approx(view["gain"], abs=1e-6)


def test_an_editor_that_does_nothing_proves_nothing(report):
    row = report[0].about("view", "constant", "idle")
    assert row["reason"] == "editor not effective on view"


def test_what_carries_the_gain_is_edited_alone(report):
    carriers = report[0].carriers
    mine = carriers[(carriers["model"] == "reads leads") & (carriers["editor"] == "true")].set_index("concept")
    assert mine.loc["leads", "how"] == "edited alone"
    assert mine.loc["leads", "own_gain"] == pytest.approx(0.8, abs=1e-6)
    assert mine.loc["leads", "share"] == pytest.approx(1, abs=0.05)
    assert mine.loc["leads", "share_low"] <= 1 <= mine.loc["leads", "share_high"]
    assert mine.loc["control", "how"].startswith("regression")  # this editor cannot set it
    direct = carriers[(carriers["model"] == "reads the view") & (carriers["editor"] == "true")].set_index("concept")
    assert direct.loc["leads", "share"] == pytest.approx(0, abs=1e-6)
    assert carriers[carriers["model"] == "constant"].empty


def test_the_three_ways_are_told_apart(report):
    """In these data disease goes with the view, whatever the model does."""
    for model in MODELS:
        row = report[0].about("view", model, "true")
        assert row["data_marginal_low"] > 0.2
    assert report[0].about("view", "reads leads", "true")["association"] == pytest.approx(0.56, abs=0.1)
    assert report[0].about("view", "reads disease", "true")["association"] == pytest.approx(0, abs=1e-6)


def test_the_ranking_has_the_legitimate_nowhere(report):
    ranked = report[0].ranked("reads leads", "true")
    assert ranked["attribute"].tolist() == ["view"]
    row = ranked.iloc[0]
    assert row["score"] == pytest.approx(abs(row["gain"]) * row["prevalence"] * row["confidence"])


def test_a_report_comes_back_as_it_was_saved(report):
    saved, folder = report
    again = ShortcutReport.load(folder)
    for name in ("reliance", "manifestations", "carriers", "subgroups", "gaps"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(saved, name))
    assert (folder / "shortcuts.html").read_text() == again.to_html()
    assert len(pd.read_csv(folder / "shortcuts.csv")) == len(saved.reliance)


def test_the_page_escapes_what_comes_from_outside(dataset):
    name = "<script>alert(1)</script>"
    found = audit().run({name: MODELS["constant"]}, CornerEditor(), dataset)
    for page in (found.to_html(), found._repr_html_()):
        assert "<script>" not in page
        assert "&lt;script&gt;" in page


def test_the_same_folder_goes_on_only_with_the_same_models(report, dataset):
    saved, folder = report
    editors = {"true": HiddenEditor(), "leaky": LeakyEditor(), "idle": IdleEditor()}
    again = audit(carriers={"view": ["leads", "control"]}, smallest_effect=0.2).run(
        MODELS, editors, dataset, out=folder
    )
    assert again.about("view", "reads leads", "true")["gain"] == saved.about("view", "reads leads", "true")["gain"]
    with pytest.raises(ManifestMismatch, match="models"):
        audit().run({**MODELS, "constant": corner(LEADS)}, editors, dataset, out=folder)


def test_a_blind_reader_leaves_reliance_undecided(dataset):
    reader = CornerReader()
    concepts = reader.quality.concepts.assign(slope=0.4, slope_low=0.2, slope_high=0.6)
    reader.quality = ReaderQuality(concepts, reader.quality.within, reader.quality.follows)
    row = audit([reader]).run(corner(LEADS), CornerEditor(), dataset).about("view")
    assert row["verdict"] == "undecided"
    assert row["reason"].startswith("reader blind: sick")


def test_a_manifestation_that_is_declared_makes_a_concepts_attribute_legitimate(dataset):
    found = audit(manifestations={"disease": ["view"]}).run(corner(VIEW), CornerEditor(), dataset)
    assert found.about("view")["verdict"] == "legitimate"


def test_a_declared_manifestation_bars_reliance_where_the_edit_moves_it(dataset):
    found = audit(manifestations={"disease": ["leads"]}).run(corner(VIEW), CornerEditor(), dataset)
    row = found.about("view")
    assert row["verdict"] == "reliance confounded by leak"
    assert row["leak_concept"] == "leads"


def test_an_ancestor_of_the_target_is_a_reliance_to_justify_all_the_same(dataset):
    turned = CausalGraph(GRAPH.attributes.values(), [("view", "disease"), ("view", "image"), ("disease", "image")])
    row = ShortcutAudit(turned, "disease", [CornerReader()], n_edited=EDITED).run(
        corner(VIEW), CornerEditor(), dataset
    ).about("view")  # fmt: skip
    assert row["verdict"] == "reliance"
    assert "no less a reliance to justify" in row["sentence"]


def test_what_the_editor_cannot_set_is_undecided(dataset):
    class ViewOnly(CornerEditor):
        attributes = frozenset({"view"})

    graph = CausalGraph([*GRAPH.attributes.values()], GRAPH.declared_edges)
    found = ShortcutAudit(graph, "disease", [CornerReader()], n_edited=EDITED).run(corner(VIEW), ViewOnly(), dataset)
    assert found.about("view")["verdict"] == "reliance"
    assert np.isnan(found.about("disease")["gain"])


def test_an_audits_report_names_the_candidate_carriers(dataset):
    revealed = Audit(GRAPH, [CornerReader()], n_edited=EDITED).run(CornerEditor(), dataset)
    assert set(revealed.revealed()["concept"]) == {"leads"}
    found = audit().run(corner(LEADS), CornerEditor(), dataset, report=revealed)
    assert found.carriers["concept"].tolist() == ["leads"]
    assert found.carriers["share"].iloc[0] == pytest.approx(1, abs=0.05)


def test_the_same_seed_gives_the_same_numbers(dataset):
    one, other = (audit().run(corner(LEADS), CornerEditor(), dataset, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(one.reliance, other.reliance)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "view age"}, r"no labelled Binary attribute.*\['disease', 'view'\]"),
        ({"manifestations": {"disease": ["consolidation"]}}, "No reader reads 'consolidation'"),
        ({"manifestations": {"view": ["leads"]}}, "one audit has one target"),
        ({"smallest_effect": 0.0}, "smallest_effect is 0.0"),
        ({"threshold": "best"}, "threshold is 'best'"),
        ({"carriers": {"leads": ["control"]}}, "'leads' is no labelled attribute"),
        ({"carriers": {"view": ["disease"]}}, "a carrier is a hidden Binary"),
        ({"carriers": {"view": ["drain"]}}, "no reader reads 'drain'"),
    ],
)
def test_what_is_declared_must_be_there(options, said):
    with pytest.raises(ValueError, match=said):
        ShortcutAudit(**({"graph": GRAPH, "target": "disease", "readers": [CornerReader()]} | options))


def test_without_a_reader_of_the_target_nothing_can_be_shown():
    graph = CausalGraph([*GRAPH.attributes.values(), Binary("fracture")])
    with pytest.raises(ValueError, match="no edit can be shown to leave it as it was"):
        ShortcutAudit(graph, "fracture", [CornerReader()])


def test_images_that_cannot_be_read_take_no_part_and_hide_nothing():
    bad = (0, 1, 40)
    found = audit().run(corner(LEADS), CornerEditor(), CornerDataset(200, unreadable=bad))
    whole = audit().run(corner(LEADS), CornerEditor(), CornerDataset(200))
    missing = set(found.provenance["specification"]["edited"]) & set(bad)
    assert missing
    assert found.about("view")["n"] == whole.about("view")["n"] - len(missing)
    assert found.about("view")["verdict"] == "reliance"


def test_models_may_not_be_audited_on_their_own_patients(dataset):
    from causal_cxr.audits import as_predictor

    trained = as_predictor(corner(LEADS), "disease", fitted_on=frozenset(dataset.patients[:2]))
    with pytest.raises(ValueError, match="'model' was trained on 1 of the audited patients"):
        audit().run(trained, CornerEditor(), dataset)


def test_contrasts_are_of_labelled_attributes():
    hidden = CausalGraph([*GRAPH.attributes.values(), Binary("leads", hidden=True)])
    wrong = [*default_contrasts(GRAPH), default_contrasts(CausalGraph([Binary("leads")]))[0]]
    with pytest.raises(ValueError, match="set no labelled attribute"):
        ShortcutAudit(hidden, "disease", [CornerReader()], interventions=wrong)
