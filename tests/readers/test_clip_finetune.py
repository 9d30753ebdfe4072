"""Fine-tuning on images and reports: the losses, what is trained, resumption, the curves."""

import copy
import json

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from clip_models import CONCEPTS, phantoms, tiny_reader, write_folder
from open_clip.loss import SigLipLoss
from sklearn.metrics import roc_auc_score
from torch.nn import functional
from torchmetrics.retrieval import RetrievalHitRate

from causal_cxr.fitting.resumable import ResumableFit
from causal_cxr.readers import CLIPReader, HeldOut, finetune_clip
from causal_cxr.readers.clip import contrastive_loss, sigmoid_loss
from causal_cxr.readers.clip import finetune as module
from causal_cxr.readers.clip.corpus import Corpus, sentences_of
from causal_cxr.readers.clip.curves import retrieval, zero_shot

LATER = np.arange(96, 128)


@pytest.fixture(scope="module")
def phantom():
    return phantoms(128)


@pytest.fixture(scope="module")
def seen(phantom):
    return np.flatnonzero(~phantom.patients.isin(phantom.patients.iloc[LATER]))


@pytest.fixture(scope="module")
def truth(phantom):
    table = pd.concat([phantom.attributes, phantom.hidden], axis=1)
    return np.column_stack([concept.truth(table) for concept in CONCEPTS])


@pytest.fixture(scope="module")
def reader(phantom):
    return tiny_reader(phantom)


@pytest.fixture
def fit(reader, phantom, seen):
    def call(start=reader, steps=6, **options):
        return finetune_clip(
            start, phantom, seen, **{"steps": steps, "batch_size": 16, "learning_rate": 1e-3} | options
        )

    return call


def changed(before, after):
    there, here = before.model.state_dict(), after.model.state_dict()
    assert set(there) | {"logit_bias"} == set(here) | {"logit_bias"}
    # open_clip leaves CoCa's unused decoder unset; what lies there may be NaN
    return {name for name in there if not torch.equal(there[name].nan_to_num(), here[name].nan_to_num())}


def features(n, seed, width=8):
    return functional.normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_with_one_match_each_the_contrastive_loss_is_clips():
    image, text, scale = features(6, 0), features(6, 1), torch.tensor(7.0)
    expected = open_clip.ClipLoss()(image, text, scale)
    torch.testing.assert_close(contrastive_loss(scale * image @ text.T, torch.eye(6)), expected)


def test_with_one_match_each_the_sigmoid_loss_is_siglips():
    image, text, scale, bias = features(6, 0), features(6, 1), torch.tensor(7.0), torch.tensor(-3.0)
    expected = SigLipLoss()(image, text, scale, bias) / 6  # theirs is a sum over texts
    torch.testing.assert_close(sigmoid_loss(scale * image @ text.T + bias, torch.eye(6)), expected)


def test_the_contrastive_loss_does_not_punish_a_second_true_match():
    positive = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    logits = torch.tensor([[30.0, 30.0, -30.0], [-30.0, -30.0, 30.0]], requires_grad=True)
    loss = contrastive_loss(logits, positive)
    assert loss.item() == pytest.approx(np.log(2) / 4, abs=1e-6)  # the least: one of the images has two matches
    loss.backward()
    assert float(logits.grad.abs().max()) < 1e-6


def test_sentences_nobody_here_has_are_negatives_only():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    positive = torch.eye(3, 4)
    expected = (
        functional.cross_entropy(logits, torch.arange(3)) + functional.cross_entropy(logits.T[:3], torch.arange(3))
    ) / 2
    torch.testing.assert_close(contrastive_loss(logits, positive), expected)


def test_reports_are_sets_of_sentences_and_missing_ones_have_none():
    corpus = Corpus(["No effusion. Clear lungs.", None, "Clear lungs.\nNo effusion", " ", float("nan"), "Wire seen."])
    assert corpus.sentences == ["Clear lungs", "No effusion", "Wire seen"]
    assert corpus.reports == [(0, 1), (2,)]
    assert corpus.own.tolist() == [0, -1, 0, -1, -1, 1]


def test_phantom_reports_are_split_as_they_were_put_together(phantom):
    assert all(sentences_of(text) == text.split(" . ") for text in phantom.texts)


def test_of_many_sentences_an_image_is_held_against_its_own_and_some_others():
    corpus = Corpus([f"a{i}. b{i}. shared" for i in range(100)])
    chosen, positive = corpus.drawn(np.array([3, 50]), 20, np.random.default_rng(0))
    words = np.array(corpus.sentences)[chosen]
    for row, report in zip(positive, (3, 50), strict=True):
        own = {corpus.sentences[i] for i in corpus.reports[report]}
        assert set(words[row == 1]) == own
    assert 10 < len(chosen) <= 20
    few, positive = corpus.drawn(np.array([3, 50]), 3, np.random.default_rng(0))
    assert len(few) == 3
    assert positive.sum() >= 3
    everything, _ = corpus.drawn(np.array([3]), 201, np.random.default_rng(0))
    assert len(everything) == 201


def test_recall_is_torchmetrics_hit_rate_and_any_image_of_an_equal_report_is_a_hit():
    images, reports = features(30, 0), features(12, 1)
    own = torch.arange(30) % 12
    found = retrieval(images, reports, own)
    similarity = images @ reports.T
    match = own[:, None] == torch.arange(12)
    for name, scores, true in (("image_to_text", similarity, match), ("text_to_image", similarity.T, match.T)):
        queries = torch.arange(len(scores))[:, None].expand_as(scores)
        for k in (1, 5, 10):
            reference = RetrievalHitRate(top_k=k)(scores.flatten(), true.flatten(), indexes=queries.flatten())
            assert found[f"{name}@{k}"] == pytest.approx(float(reference)), (name, k)


def test_the_zero_shot_curve_is_the_auroc_of_labelled_images():
    draw = np.random.default_rng(0)
    margins, labels = draw.normal(size=(50, 2)), (draw.uniform(size=(50, 2)) < 0.4).astype(float)
    labels[:9, 0], labels[:, 1] = np.nan, 1.0
    found = zero_shot(margins, labels, ["wire", "tube"])
    assert found == {
        "auroc/wire": pytest.approx(roc_auc_score(labels[9:, 0], margins[9:, 0])),
        "auroc": found["auroc/wire"],
    }


@pytest.mark.parametrize("loss", ["sigmoid", "contrastive"])
@pytest.mark.parametrize("lora", [None, 2])
@pytest.mark.parametrize(("train", "towers"), [("both", {"image", "text"}), ("image", {"image"}), ("text", {"text"})])
def test_only_the_trained_towers_change_and_the_start_stays_as_it_was(fit, reader, loss, lora, train, towers):
    before = {name: value.clone() for name, value in reader.model.state_dict().items()}
    found = fit(steps=2, loss=loss, lora=lora, train=train)
    names = changed(reader, found.reader)
    assert {"image" if name.startswith("visual") else "text" for name in names if "logit" not in name} == towers
    assert ("logit_bias" in names) == (loss == "sigmoid")
    assert all(torch.equal(value, before[name]) for name, value in reader.model.state_dict().items())
    if lora:
        for name in names - {"logit_scale", "logit_bias"}:
            change = (found.reader.model.state_dict()[name] - before[name]).flatten(1)
            assert torch.linalg.matrix_rank(change, rtol=1e-3) <= lora, name


@pytest.mark.parametrize("options", [{"train": "text", "loss": "contrastive"}, {"lora": 4}])
def test_a_fit_lowers_the_loss(fit, options):
    assert fit(steps=20, learning_rate=1e-2, **options).loss < 0.97 * fit(steps=1, **options).loss


def test_a_fitted_reader_reads_what_its_reports_told_it(phantom, seen, truth, reader):
    held_out = HeldOut(LATER, truth[LATER], every=70)
    found = finetune_clip(reader, phantom, seen, steps=70, batch_size=32, learning_rate=1e-2, held_out=held_out)
    first, last = found.curves.iloc[0], found.curves.iloc[-1]
    assert last["auroc/AP view"] > 0.8 > first["auroc/AP view"]
    assert last["text_to_image@10"] > first["text_to_image@10"]
    assert found.reader.fitted_on == frozenset(phantom.patients.iloc[seen])


@pytest.mark.parametrize("options", [{}, {"lora": 2, "loss": "contrastive"}])
def test_a_killed_fit_goes_on_to_the_same_bits_and_the_same_curves(fit, truth, tmp_path, monkeypatch, options):
    monkeypatch.setattr(module, "SAVED_EVERY", 4)
    options |= {"steps": 10, "held_out": HeldOut(LATER, truth[LATER], every=3)}
    whole = fit(**options, checkpoint=tmp_path / "whole")
    descend, left = ResumableFit.descend, iter(range(7))

    def killed(self, *given):
        if next(left, None) is None:
            raise KeyboardInterrupt
        descend(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(ResumableFit, "descend", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(**options, checkpoint=tmp_path / "killed")
    resumed = fit(**options, checkpoint=tmp_path / "killed")
    assert not changed(whole.reader, resumed.reader)
    assert resumed.loss == whole.loss
    pd.testing.assert_frame_equal(resumed.curves, whole.curves)
    assert whole.curves["step"].tolist() == [0, 3, 6, 9, 10]
    for file in ("loss.jsonl", "curves.jsonl"):
        assert (tmp_path / "killed" / file).read_text() == (tmp_path / "whole" / file).read_text()
    lines = (tmp_path / "whole" / "curves.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["auroc"] == whole.curves["auroc"].iloc[-1]


def test_a_fit_killed_before_its_first_state_begins_its_curves_anew(fit, truth, tmp_path, monkeypatch):
    options = {"steps": 2, "held_out": HeldOut(LATER, truth[LATER]), "checkpoint": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(ResumableFit, "descend", None)
        with pytest.raises(TypeError):
            fit(**options)
    assert fit(**options).curves["step"].tolist() == [0, 2]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(fit):
    assert not changed(fit().reader, fit().reader)
    assert changed(fit().reader, fit(seed=1).reader)


@torch.no_grad()
def test_low_rank_changes_are_merged_into_what_they_were_beside_the_weights(reader, phantom):
    model = copy.deepcopy(reader.model)
    beside = module._Unlocked(model, "both", "sigmoid", 2)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) / 4)
    images = reader.preprocess(phantom.images(np.arange(4)))
    expected = model.encode_image(images, normalize=True)
    assert not torch.allclose(expected, reader.features(phantom.images(np.arange(4))), atol=0.05)
    torch.testing.assert_close(beside.whole().encode_image(images, normalize=True), expected)


def test_the_last_point_of_the_curves_is_that_of_the_fitted_reader(fit, phantom, truth):
    found = fit(held_out=HeldOut(LATER, truth[LATER]), lora=2, learning_rate=1e-2)  # low-rank changes merged
    margins = found.reader.margins(phantom.images(LATER)).numpy()
    again = zero_shot(margins, truth[LATER], found.reader.names)
    assert again == pytest.approx({name: found.curves.iloc[-1][name] for name in again}, abs=0.02)


def test_images_that_do_not_fit_into_memory_are_read_again_with_the_same_result(fit, monkeypatch):
    kept = fit(steps=3)
    monkeypatch.setattr(module, "MEMORY", 0)
    assert not changed(kept.reader, fit(steps=3).reader)


@pytest.mark.parametrize("kind", ["resnet", "coca"])
def test_other_architectures_are_fitted_resumed_and_saved(kind, phantom, seen, tmp_path, monkeypatch):
    write_folder(tmp_path / "model", kind)
    start = CLIPReader.from_pretrained(tmp_path / "model", CONCEPTS)
    monkeypatch.setattr(module, "SAVED_EVERY", 1)
    options = {"batch_size": 8, "learning_rate": 1e-3}
    whole = finetune_clip(start, phantom, seen, steps=2, **options)
    descend, left = ResumableFit.descend, iter(range(1))

    def killed(self, *given):
        if next(left, None) is None:
            raise KeyboardInterrupt
        descend(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(ResumableFit, "descend", killed)
        with pytest.raises(KeyboardInterrupt):
            finetune_clip(start, phantom, seen, steps=2, checkpoint=tmp_path / "state", **options)
    resumed = finetune_clip(start, phantom, seen, steps=2, checkpoint=tmp_path / "state", **options)
    assert not changed(whole.reader, resumed.reader)  # a batch norm's running moments with it
    assert changed(start, whole.reader)
    assert start.model.logit_bias is None
    assert whole.reader.model.logit_bias.item() != 0
    again = CLIPReader.from_pretrained(whole.reader.save(tmp_path / "saved"))
    torch.testing.assert_close(again.model.logit_bias, whole.reader.model.logit_bias, rtol=1e-3, atol=1e-2)


@torch.no_grad()
def test_a_bias_that_was_missing_begins_where_the_answers_are_right_on_average(phantom, seen, tmp_path):
    write_folder(tmp_path / "model", "clip")
    start = CLIPReader.from_pretrained(tmp_path / "model", CONCEPTS)
    with torch.enable_grad():
        model = finetune_clip(start, phantom, seen, steps=1, batch_size=64, learning_rate=1e-9).reader.model
    corpus = Corpus(phantom.texts.iloc[seen].tolist())
    share = np.mean([len(corpus.reports[i]) for i in corpus.own]) / len(corpus.sentences)
    text = model.encode_text(start.tokenizer(corpus.sentences), normalize=True)
    logits = start.features(phantom.images(seen)) @ text.T * model.logit_scale.exp() + model.logit_bias
    assert float(logits.mean()) == pytest.approx(np.log(share / (1 - share)), abs=0.1)


def test_time_that_is_up_stops_a_fit_and_says_so(fit, tmp_path):
    found = fit(steps=50, minutes=0.0, checkpoint=tmp_path)
    assert (found.steps, found.stopped) == (1, "after 0 minutes")


def test_the_state_of_another_fit_is_refused(fit, tmp_path):
    fit(steps=2, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="holds the state of another fit"):
        fit(steps=2, checkpoint=tmp_path, seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "triplet"}, r"no loss='triplet'; choose from \['sigmoid', 'contrastive'\]"),
        ({"train": "none"}, "no train='none'"),
        ({"steps": 0}, "a step or more"),
        ({"lora": 0}, "rank of 1 or more"),
        ({"held_out": HeldOut(np.arange(4))}, "patients are both fitted on and held out"),
        ({"held_out": HeldOut(LATER, np.zeros((3, 3)))}, r"held_out.truth is \(3, 3\)"),
        ({"held_out": HeldOut(LATER, np.full((len(LATER), 3), -1.0))}, "labels that are neither 0 nor 1, e.g. -1"),
    ],
)
def test_what_cannot_be_asked_is_refused(fit, options, message):
    with pytest.raises(ValueError, match=message):
        fit(**options)


def test_a_dataset_without_texts_is_refused(reader, phantom):
    class Silent:
        attributes, patients, texts = phantom.attributes, phantom.patients, None

    with pytest.raises(ValueError, match="no texts"):
        finetune_clip(reader, Silent(), np.arange(3), steps=1)

    class Empty(Silent):
        texts = pd.Series([None] * 128)

    with pytest.raises(ValueError, match="None of the rows has a text"):
        finetune_clip(reader, Empty(), np.arange(3), steps=1)


def test_patients_that_the_reader_saw_before_are_not_held_out(fit, reader, phantom):
    before = reader.using(fitted_on=frozenset(phantom.patients[LATER[:2]]))
    with pytest.raises(ValueError, match=r"was fitted on . of the .* patients of these rows"):
        fit(start=before, held_out=HeldOut(LATER))
    assert len(fit(start=before, steps=1).curves) == 0  # nothing is judged, nothing refused
    with pytest.warns(RuntimeWarning, match="not known on which patients the reader"):
        fit(start=reader.using(fitted_on=None), steps=1, held_out=HeldOut(LATER))
