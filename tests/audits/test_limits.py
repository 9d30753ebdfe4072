"""Limits of editors: each defect is named, by its own limit, where it is; and what is not known is not called fine."""

import dataclasses
import re
import shutil
from functools import partial
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from causal_cxr.audits import measure as measuring
from causal_cxr.audits.effects import paired_effect
from causal_cxr.audits.limits import COLUMNS, _ratio, limits, statement
from causal_cxr.audits.measure import measure
from causal_cxr.audits.plans import plan
from causal_cxr.audits.store import load_composition, load_ledger, load_looks, load_measurements, write_parquet
from causal_cxr.audits.trials import Trials, Tried, carry_out_once, trial_settings
from causal_cxr.data.whole_file import write_json
from causal_cxr.editors.editor import Abduction, Edit
from causal_cxr.graphs import Binary, CausalGraph, Continuous, default_contrasts
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.quality import ReaderQuality

SIZE = 32
GRAPH = CausalGraph(
    [Continuous("age", unit="years", low=20, high=100), Binary("sex", levels=("male", "female")), Binary("view", levels=("PA", "AP"))],
    [("age", "image"), ("sex", "image"), ("view", "image")],
)  # fmt: skip
BLOCKS = {"age": (8, 8), "sex": (8, 20), "view": (20, 14)}  #: top left of a 4 x 4 block whose grey is the attribute
CONCEPTS = (
    Concept("old", ("old",), ("young",), attribute="age", above=60),
    Concept("female", ("woman",), ("man",), attribute="sex", level="female"),
    Concept("AP view", ("AP",), ("PA",), attribute="view", level="AP"),
)
CONTRASTS = default_contrasts(GRAPH)


def greys(table: pd.DataFrame) -> dict[str, np.ndarray]:
    return {
        "age": (table["age"].to_numpy(dtype=float) - 20) / 80,
        "sex": (table["sex"] == "female").to_numpy() * 0.8 + 0.1,
        "view": (table["view"] == "AP").to_numpy() * 0.8 + 0.1,
    }


class Blocks:
    """Images of a texture that is the patient's own, an exposure and a border that are the image's, and blocks of attributes."""

    texts = None

    def __init__(self, n: int = 160, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.attributes = GRAPH.coerce(
            pd.DataFrame({"age": rng.uniform(20, 100, n), "sex": rng.choice(["male", "female"], n), "view": rng.choice(["PA", "AP"], n)})
        )  # fmt: skip
        self.patients = pd.Series([f"p{i // 2}" for i in range(n)])
        self.fingerprint = f"blocks-{n}-{seed}"
        coarse = torch.as_tensor(rng.uniform(-0.05, 0.05, (n // 2, 1, 8, 8)), dtype=torch.float32)
        self.texture = functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")[torch.arange(n) // 2]
        self.exposure = torch.as_tensor(rng.uniform(0.2, 0.7, (n, 1, 1, 1)), dtype=torch.float32)
        self.border = torch.as_tensor(rng.uniform(0.0, 0.15, (n, 1, 1, 1)), dtype=torch.float32)
        self._images = drawn(self, np.arange(n), self.attributes)

    def images(self, rows: np.ndarray) -> torch.Tensor:
        return self._images[torch.as_tensor(np.asarray(rows))]


def drawn(dataset: Blocks, rows, table, *, texture=None, border=None) -> torch.Tensor:
    rows = torch.tensor(np.asarray(rows))
    images = dataset.exposure[rows] + (dataset.texture[rows] if texture is None else texture)
    frame = torch.ones(SIZE, SIZE, dtype=torch.bool)
    frame[2:-2, 2:-2] = False
    images = torch.where(frame, (dataset.border[rows] if border is None else border).expand(-1, 1, SIZE, SIZE), images)
    for name, grey in greys(table).items():
        top, left = BLOCKS[name]
        images[:, 0, top : top + 4, left : left + 4] = torch.as_tensor(grey, dtype=torch.float32)[:, None, None]
    return images.clamp(0, 1)


class Perfect:
    """Redraws the blocks, and nothing else."""

    fingerprint, semantics, fitted_on = "perfect", "structural", frozenset()
    attributes = frozenset(GRAPH.labelled)

    def __init__(self, dataset: Blocks) -> None:
        self.dataset = dataset

    def abduct(self, images, attributes, *, seeds):
        return Abduction(attributes, images, len(images))

    def edit(self, abduction, target, *, phrasing=0, strength=1.0):
        made = self.redraw(abduction.state, abduction.factual, target, strength)
        return Edit(made, *self.stands_by(target), len(made))

    def redraw(self, images, factual, target, strength):
        return self.blocks(images, factual, target, strength)

    def blocks(self, images, factual, target, strength=1.0):
        made, before = images.clone(), greys(factual)
        for name, grey in greys(target).items():
            top, left = BLOCKS[name]
            dosed = before[name] + strength * (grey - before[name])
            made[:, 0, top : top + 4, left : left + 4] = torch.as_tensor(dosed, dtype=torch.float32)[:, None, None]
        return made.clamp(0, 1)

    def stands_by(self, target):
        return np.ones(len(target), dtype=bool), ("",) * len(target)


def moved(factual, target) -> np.ndarray:
    return np.any([factual[c].to_numpy() != target[c].to_numpy() for c in target.columns], axis=0)


def where(mask: np.ndarray, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.tensor(mask)[:, None, None, None], a, b)


class IgnoresWomen(Perfect):
    """Does not set the view of women."""

    def redraw(self, images, factual, target, strength):
        made = self.blocks(images, factual, target, strength)
        top, left = BLOCKS["view"]
        women = torch.tensor((factual["sex"] == "female").to_numpy())
        made[women, :, top : top + 4, left : left + 4] = images[women, :, top : top + 4, left : left + 4]
        return made


class RedrawsBorders(Perfect):
    """Gives an image it edits the border of another."""

    def redraw(self, images, factual, target, strength):
        rows = factual.index.to_numpy()
        other = drawn(self.dataset, rows, target, border=self.dataset.border[(rows + 7) % len(self.dataset.patients)])
        home = ~moved(target, self.dataset.attributes.iloc[rows])
        own = drawn(self.dataset, rows, target)
        return where(moved(factual, target), where(home, own, other), self.blocks(images, factual, target))


class SwapsPatients(Perfect):
    """Whom it edits it makes look like somebody else; editing back it remembers."""

    def redraw(self, images, factual, target, strength):
        rows = factual.index.to_numpy()
        stranger = drawn(
            self.dataset, rows, target, texture=self.dataset.texture[(rows + 30) % len(self.dataset.patients)]
        )
        home = ~moved(target, self.dataset.attributes.iloc[rows])
        own = drawn(self.dataset, rows, target)
        return where(moved(factual, target), where(home, own, stranger), self.blocks(images, factual, target))


class CannotGoBack(Perfect):
    """Undoes a third of what an edit has done."""

    def redraw(self, images, factual, target, strength):
        made = self.blocks(images, factual, target)
        edited = moved(factual, self.dataset.attributes.iloc[factual.index])
        return where(edited, images + 0.3 * (made - images), made)


class Drifts(Perfect):
    """Whatever it redraws becomes a little brighter."""

    def redraw(self, images, factual, target, strength):
        return (self.blocks(images, factual, target) + 0.03).clamp(0, 1)


class Leaks(Perfect):
    """Makes women of those it images AP, and men of the others."""

    def redraw(self, images, factual, target, strength):
        turned = (factual["view"] != target["view"]).to_numpy()
        sex = target["sex"].where(~turned, np.where(target["view"] == "AP", "female", "male"))
        return self.blocks(images, factual, target.assign(sex=sex))


class Refuses(Perfect):
    """Does not stand by edits of women."""

    def stands_by(self, target):
        fine = (target["sex"] == "male").to_numpy() | (np.arange(len(target)) % 3 > 0)
        return fine, tuple("" if ok else "not sure" for ok in fine)


class BlockReader:
    name, fingerprint, concepts, fitted_on = "blocks", "block-reader", CONCEPTS, frozenset()

    def __init__(self) -> None:
        unknown = ReaderQuality.unknown(CONCEPTS)
        self.quality = dataclasses.replace(
            unknown, concepts=unknown.concepts.assign(slope=0.8, slope_se=0.01, slope_low=0.78, slope_high=0.82)
        )

    def read(self, images, patients=None):
        found = [images[:, 0, top : top + 4, left : left + 4].mean(dim=(1, 2)) for top, left in BLOCKS.values()]
        found[0] = torch.sigmoid(20 * (found[0] - 0.5)) * 0.8 + 0.1
        return torch.stack(found, dim=1)


DATASET = Blocks()


@pytest.fixture(autouse=True)
def fewer_looks(monkeypatch):
    monkeypatch.setattr(measuring, "LETTERED", 8)
    monkeypatch.setattr(measuring, "LOOKED_AT", 96)


def judged(editor, tmp_path, n=160, dataset=DATASET, may_touch=MappingProxyType({}), trials=None, **options):
    edited = np.arange(n)
    made = plan(GRAPH, dataset, CONTRASTS, edited, None, seed=1, batch_size=64)
    measure(dataset, {"editor": editor}, [BlockReader()], made, tmp_path, manifest={}, trials=trials, **options)
    reader, looks = BlockReader(), load_looks(tmp_path, trial_settings(trials, {}))
    return limits(
        load_measurements(tmp_path), looks, dataset.attributes, GRAPH, CONTRASTS, {"blocks": CONCEPTS},
        {"blocks": reader.quality}, may_touch=may_touch,
    )  # fmt: skip


def test_an_editor_without_a_defect_has_no_limit_and_is_shown_to_be_fine(tmp_path):
    found = judged(Perfect(DATASET), tmp_path, trials=Trials(reversed=64))
    assert list(found.columns) == list(COLUMNS)
    everyone = found[found["group"] == ""]
    assert set(everyone["state"]) == {"fine"}, everyone[everyone["state"] != "fine"].T.to_string()
    assert not (found["state"] == "limit").any()
    assert statement(found)[0].startswith("No limit of this editor was found in")


DEFECTS = [
    (IgnoresWomen, {("effectiveness", "view: PA -> AP", "sex", "female")}),
    (RedrawsBorders, {("artefacts", c.name, "", "") for c in CONTRASTS}),
    (SwapsPatients, {("identity", c.name, "", "") for c in CONTRASTS}),
    (CannotGoBack, {("reversibility", c.name, "", "") for c in CONTRASTS}),
    (Drifts, {("composition", "", "", "")}),
    (Leaks, {("leak", "view: PA -> AP", "", "")}),
]  # fmt: skip


@pytest.mark.parametrize(("defect", "expected"), DEFECTS)
def test_a_defect_is_named_by_its_own_limit_and_no_other(defect, expected, tmp_path):
    found = judged(defect(DATASET), tmp_path, trials=Trials(reversed=64))
    limit = found[found["state"] == "limit"]
    named = set(limit[["kind", "contrast", "group", "level"]].itertuples(index=False, name=None))
    first = {key for key in named if not key[2]} or named
    assert first == expected, statement(found)
    assert {kind for kind, *_ in named} == {kind for kind, *_ in expected}, statement(found)


def test_rejected_edits_are_a_limit_where_they_are_many(tmp_path):
    found = judged(Refuses(DATASET), tmp_path)
    limit = found[found["state"] == "limit"]
    assert set(limit["kind"]) == {"acceptance"}
    of_sex = limit[limit["group"] == "sex"].set_index(["contrast", "level"])
    assert {("view: PA -> AP", "female"), ("age + 20 years", "female"), ("sex: male -> female", "male")} == set(
        of_sex.index
    )
    assert of_sex["value"].between(0.55, 0.75).all()


def test_few_patients_are_unknown_and_said_so_never_fine_by_default(tmp_path):
    found = judged(Perfect(DATASET), tmp_path, n=4)  # of two patients
    assert (found["state"] == "unknown").all()
    said = statement(found)
    assert said[0].startswith("No limit of this editor was found")
    assert all(sentence.startswith("Not shown to be safe for: ") for sentence in said[1:])
    assert any("do(sex: male -> female)" in sentence and "too few patients" in sentence for sentence in said)


def test_statements_name_the_use_the_group_and_the_evidence(tmp_path):
    said = statement(judged(IgnoresWomen(DATASET), tmp_path))
    (sentence,) = [s for s in said if s.startswith("Do not use")]
    assert re.fullmatch(
        r"Do not use this editor for: do\(view: PA -> AP\) in patients with sex = female: its edits are read back at "
        r"\S+ \[\S+, \S+\] of the real difference \(needs 0\.3\)\.",
        sentence,
    )


def test_of_several_editors_each_is_called_by_its_name(tmp_path):
    found = judged(IgnoresWomen(DATASET), tmp_path, 96)
    said = statement(pd.concat([found.assign(editor="first"), found.assign(editor="second")]))
    refused = [sentence for sentence in said if sentence.startswith("Do not use editor ")]
    assert [sentence.split()[4] for sentence in refused] == ["first", "second"]
    assert refused[0].replace("first", "second") == refused[1]


class KnowsItsOwnImagesOnly(Perfect):
    """As the oracle, which refuses what it has not drawn, and any dose but its own."""

    def abduct(self, images, attributes, *, seeds):
        if not torch.allclose(images, self.dataset.images(attributes.index.to_numpy()), atol=1e-4):
            raise ValueError("not my own image")
        return super().abduct(images, attributes, seeds=seeds)

    def edit(self, abduction, target, *, phrasing=0, strength=1.0):
        if strength != 1.0:
            raise ValueError("no dose but mine")
        return super().edit(abduction, target)


def test_an_editor_that_refuses_a_trial_is_unknown_with_its_own_words(tmp_path):
    found = judged(KnowsItsOwnImagesOnly(DATASET), tmp_path, trials=Trials(doses=(0.5,)))
    back = found[(found["kind"] == "reversibility") & (found["group"] == "")]
    assert set(back["state"]) == {"unknown"}
    assert set(back["why"]) == {"not my own image"}
    looks = load_looks(tmp_path, trial_settings(Trials(doses=(0.5,)), {}))
    assert looks.refused["editor"] == {"reversibility": "not my own image", "doses": "no dose but mine"}
    assert looks.doses.empty


def test_limits_are_the_same_whatever_was_killed_and_resumed(tmp_path):
    options = {"n": 72, "trials": Trials(reversed=8)}
    whole = judged(Perfect(DATASET), tmp_path / "a", **options)
    for file in ("cycles.json", "likeness.parquet", "shard-00001.parquet"):
        shutil.copytree(tmp_path / "a", tmp_path / file)
        (tmp_path / file / "editor" / file).unlink()
        pd.testing.assert_frame_equal(judged(Perfect(DATASET), tmp_path / file, **options), whole)


def test_other_trials_are_done_anew_and_shards_are_not(tmp_path):
    def reversed_(n):
        judged(Perfect(DATASET), tmp_path, 40, trials=Trials(reversed=n))
        looks = load_looks(tmp_path, trial_settings(Trials(reversed=n), {}))
        return int((looks.cycles["test"] == "reversibility").sum())

    assert reversed_(8) <= 24
    shard = (tmp_path / "editor" / "shard-00000.parquet").stat().st_mtime_ns
    assert reversed_(16) > 24
    assert (tmp_path / "editor" / "shard-00000.parquet").stat().st_mtime_ns == shard


@pytest.mark.parametrize("asked", [None, Trials(reversed=4), Trials(doses=(0.5,)), Trials(reversed=4, doses=(0.25,))])
def test_what_other_trials_left_in_a_folder_is_not_told_as_these(tmp_path, asked):
    """An earlier run tried null edits and edits back as by default, at two doses; a resume asks for less or for others."""
    before = trial_settings(Trials(doses=(0.5, 1.5)), {})
    cycles = pd.DataFrame({"row": [0], "test": ["composition"], "cycles": [10], "distance": [0.1]})
    frames = {"cycles": cycles, "doses": pd.DataFrame({"row": [0], "dose": [0.5]})}
    for name, frame in frames.items():
        carry_out_once(tmp_path / "one" / name, before[name], partial(Tried, frame, 7, {name: "no"}))
    write_parquet(pd.DataFrame({"row": [0]}), tmp_path / "one" / "likeness.parquet")
    write_json(tmp_path / "one" / "shard-00000.json", {"evaluations": 100})
    for tried in (before, trial_settings(asked, {})):
        same = {name for name in before if name in tried and tried[name] == before[name]}
        looks = load_looks(tmp_path, tried)
        there = {name for name in before if not getattr(looks, name).empty}
        assert there == same
        assert set(looks.refused.get("one", {})) == same - {"likeness"}
        assert load_composition(tmp_path, tried)["mae"].tolist() == [0.1] * ("cycles" in same)
        assert load_ledger(tmp_path, tried) == {"one": 100 + 7 * len(same - {"likeness"})}
    assert "doses" not in same


def test_what_was_not_tried_and_not_looked_at_is_unknown(tmp_path):
    judged(Perfect(DATASET), tmp_path)
    for pattern in ("looks-*", "features-*"):
        for file in (tmp_path / "editor").glob(pattern):
            file.unlink()
    looks = load_looks(tmp_path, {})
    assert looks.changes.empty
    found = limits(load_measurements(tmp_path), looks, DATASET.attributes, GRAPH, CONTRASTS, {"blocks": CONCEPTS},
                   {"blocks": BlockReader().quality})  # fmt: skip
    states = found[found["group"] == ""].groupby("kind")["state"].agg(set)
    assert states["effectiveness"] == states["acceptance"] == {"fine"}
    assert states["realism"] == states["identity"] == states["reversibility"] == {"unknown"}


def test_a_declared_region_tells_what_spills_out_of_it(tmp_path):
    placed = tuple(
        dataclasses.replace(c, region=(top / SIZE, left / SIZE, (top + 4) / SIZE, (left + 4) / SIZE))
        for c, (top, left) in zip(CONCEPTS, BLOCKS.values(), strict=True)
    )
    dataset = Blocks()
    made = plan(GRAPH, dataset, CONTRASTS, np.arange(64), None, seed=1, batch_size=64)
    reader = BlockReader()
    reader.concepts = placed
    for editor, state in ((Perfect(dataset), "fine"), (Brightens(dataset), "limit")):
        folder = tmp_path / state
        measure(dataset, {"editor": editor}, [reader], made, folder, manifest={})
        found = limits(load_measurements(folder), load_looks(folder, {}), dataset.attributes, GRAPH, CONTRASTS,
                       {"blocks": placed}, {"blocks": reader.quality})  # fmt: skip
        place = found[(found["kind"] == "place") & (found["group"] == "")]
        assert len(place) == 3
        assert place.set_index("contrast")["state"]["age + 20 years"] == state


class Brightens(Perfect):
    """With every edit the whole image becomes brighter or darker."""

    def redraw(self, images, factual, target, strength):
        made = self.blocks(images, factual, target)
        return where(moved(factual, target), (made + 0.3).clamp(0, 1), made)


# -- numbers -------------------------------------------------------------------------------------------------------------
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_fiellers_interval_excludes_a_ratio_exactly_where_the_difference_it_implies_excludes_zero(seed):
    """``a / b = r`` is rejected iff the paired t interval of ``a - r b`` leaves 0 out."""
    rng = np.random.default_rng(seed)
    who = pd.Series(rng.integers(0, 12, 60).astype(str))
    a, b = pd.Series(rng.normal(1, 1, 60)), pd.Series(rng.normal(2, 0.5, 60))
    found = _ratio(a, b, who)
    for ratio in np.linspace(-1, 3, 41):
        low, high = paired_effect((a - ratio * b).to_numpy(), who.to_numpy()).interval()
        assert (low <= 0 <= high) == (found.low - 1e-9 <= ratio <= found.high + 1e-9)


def test_a_change_where_nothing_else_changes_is_infinitely_more():
    found = _ratio(pd.Series([1.0, 1.2, 0.9, 1.1]), pd.Series(np.zeros(4)), pd.Series(list("abcd")))
    assert found.value == found.low == np.inf
    unsure = _ratio(pd.Series([1.0, -1.2, 0.9, 0.1]), pd.Series(np.zeros(4)), pd.Series(list("abcd")))
    assert (unsure.low, unsure.high) == (-np.inf, np.inf)


def test_what_may_be_touched_is_declared_or_not_known(tmp_path):
    found = judged(RedrawsBorders(DATASET), tmp_path, may_touch={"view": ("border", "corners")})
    artefacts = found[(found["kind"] == "artefacts") & (found["state"] == "limit")]
    assert set(artefacts["attribute"]) == {"age", "sex"}
    found = judged(RedrawsBorders(DATASET), tmp_path, may_touch=None)
    border = found[(found["about"] == "border") & (found["group"] == "")]
    assert set(border["state"]) == {"unknown"}
    assert all("whether it may change the border is not declared" in why for why in border["why"])
