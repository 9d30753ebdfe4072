"""Fine-tuning: what is fitted and what is left, the same bits after a kill, judged by what edits do, written down."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from causal_cxr.data.phantom import Phantom
from causal_cxr.editors.diffusion import DiffusionEditor
from causal_cxr.editors.diffusion.captions import captions
from causal_cxr.editors.diffusion.fit import build
from causal_cxr.editors.diffusion.latents import Autoencoded, Unshuffled
from causal_cxr.editors.diffusion.pipeline import Pipeline
from causal_cxr.editors.diffusion.process import Process
from causal_cxr.editors.diffusion.text import CLIPText
from causal_cxr.editors.finetune import (
    Balanced,
    Denoiser,
    Joint,
    LoRA,
    Telling,
    Tokens,
    Watch,
    finetune,
    loop,
    publish,
)
from causal_cxr.editors.finetune.telling import Captions
from causal_cxr.fitting.resumable import ResumableFit
from causal_cxr.graphs import Binary

WORDS = Tokens({"view": {"AP": "<view-ap>", "PA": "<view-pa>"}})
WHATS = [Joint(), Denoiser(), LoRA(2), WORDS]
ROWS = np.arange(20)
FAST = {"batch_size": 4, "learning_rate": 0.05}


class PowerCutError(Exception):
    pass


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def phantom():
    return Phantom(24, "portable", seed=11, size=32)


@pytest.fixture(scope="module")
def base(phantom):
    return random_editor(phantom)


def random_editor(phantom: Phantom, predicts: str = "flow") -> DiffusionEditor:
    """With weights as they are drawn: on folded pixels, or in the way of Stable Diffusion."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from causal_cxr.data.tokenizer import build_tokenizer

    attributes = dict(phantom.graph.attributes)
    corpus = [text for k in (0, 1) for text in captions(phantom.attributes, attributes, k)]
    torch.manual_seed(0)
    tokenizer = build_tokenizer(corpus, 48)
    unet, text = build(tokenizer, 32, (16, 32))
    space, process = Unshuffled(4), Process("flow")
    if predicts != "flow":
        unet = UNet2DConditionModel(
            sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
            cross_attention_dim=128, attention_head_dim=4, norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        space = Autoencoded(
            AutoencoderKL(
                in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            )
        )  # fmt: skip
        process = Process.from_scheduler(DDIMScheduler(prediction_type=predicts))
    pipeline = Pipeline(unet, CLIPText(text, tokenizer), space, process)
    return DiffusionEditor(pipeline, attributes, fitted_on=frozenset({"before"}), size=32, renderer_version=2)


def weights(editor: DiffusionEditor) -> dict[str, Tensor]:
    both = {"unet": editor.unet, "text": editor.pipeline.text.model}
    return {f"{part}.{name}": w.clone() for part, model in both.items() for name, w in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(weight, other[name]) for name, weight in one.items())


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    after = {name.replace(".base_layer", ""): weight for name, weight in after.items()}
    return {
        n for n, w in after.items() if n not in before or w.shape != before[n].shape or not torch.equal(w, before[n])
    }


def lines(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


# What is fitted


@pytest.mark.parametrize("what", WHATS, ids=lambda what: type(what).__name__)
def test_the_base_is_left_as_it_is_and_what_is_fitted_changes_alone(what, base, phantom):
    before, fingerprint, wishes = weights(base), base.fingerprint, [p.requires_grad for p in base.unet.parameters()]
    fitted = finetune(base, phantom, ROWS, what=what, steps=2, **FAST)
    assert same(weights(base), before)
    assert base.pipeline.text.tokenizer.get_added_vocab().keys().isdisjoint({"<view-ap>"})
    assert (base.fingerprint, [p.requires_grad for p in base.unet.parameters()]) == (fingerprint, wishes)
    touched = changed(before, weights(fitted))
    assert touched
    if isinstance(what, Joint):
        assert {name.split(".")[0] for name in touched} == {"unet", "text"}
    if isinstance(what, Denoiser):
        assert {name.split(".")[0] for name in touched} == {"unet"}
    if isinstance(what, LoRA):
        assert all(name.startswith("unet.") and "lora_" in name for name in touched)
    if isinstance(what, Tokens):
        (name,) = touched
        assert name.endswith("token_embedding.weight")
        table = weights(fitted)[name]
        assert len(table) == len(before[name]) + 2
        assert torch.equal(table[:-2], before[name])
    assert fitted.fitted_on == {"before"} | set(phantom.patients[ROWS])
    assert not fitted.unet.training


def test_learned_words_start_where_the_phrase_was_and_captions_use_them(base, phantom, tmp_path):
    fitted = finetune(base, phantom, ROWS, what=WORDS, steps=1, batch_size=4, learning_rate=0.0)
    text = base.pipeline.text
    ids = text.tokenizer("AP view", add_special_tokens=False)["input_ids"]
    start = text.model.get_input_embeddings().weight[ids].mean(0)
    new = fitted.pipeline.text.model.get_input_embeddings().weight[-2:]
    torch.testing.assert_close(new[0], start)
    assert not torch.equal(new[0], new[1])
    (told,) = captions(phantom.attributes.iloc[:1], fitted.graph_attributes)
    assert f"<view-{phantom.attributes['view'].iloc[0].lower()}>" in told
    tokenizer = fitted.pipeline.text.tokenizer
    assert tokenizer.get_vocab()["<view-ap>"] in tokenizer("x-ray , <view-ap> , woman")["input_ids"]
    again = DiffusionEditor.from_pretrained(fitted.save(tmp_path, half=False))
    assert again.weights_fingerprint == fitted.weights_fingerprint
    assert again.graph_attributes == fitted.graph_attributes


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("what", [LoRA(2), WORDS], ids=["LoRA", "Tokens"])
def test_pipelines_in_the_way_of_stable_diffusion_are_fitted_alike(predicts, what, phantom):
    start = random_editor(phantom, predicts)
    fitted = finetune(start, phantom, ROWS, what=what, steps=2, **FAST)
    touched = changed(weights(start), weights(fitted))
    if isinstance(what, LoRA):
        assert {name.split(".lora_")[0].rsplit("attn", 1)[1][2:] for name in touched} == {
            "to_q", "to_k", "to_v", "to_out.0",
        }  # fmt: skip
    assert touched
    assert fitted.size == 32
    assert np.isfinite(fitted.provenance["history"].loss)


@pytest.mark.parametrize("predicts", ["flow", "epsilon", "v_prediction"])
def test_the_network_is_told_a_time_whose_noise_the_image_has(predicts, phantom):
    process = random_editor(phantom, predicts).pipeline.process
    said, a, s = loop._times(process, 500, torch.Generator().manual_seed(0))
    for k in (0, 1, 499):
        t = float(said[k]) / 1000 if predicts == "flow" else float(said[k])
        assert process.network_time(t) == pytest.approx(float(said[k]))
        assert (float(a[k]), float(s[k])) == pytest.approx(process.coefficients(t), abs=1e-6)
    clean, noise = torch.randn(2, 500, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    target, noised = process.target(clean, noise, a, s), a * clean + s * noise
    t = float(said[0]) / 1000 if predicts == "flow" else float(said[0])
    torch.testing.assert_close(process.split(target[0], noised[0], t).clean, clean[0], atol=2e-4, rtol=1e-3)


def test_images_are_encoded_once_and_other_rows_never_looked_at(base, phantom):
    class Watched:
        attributes, patients, texts, fingerprint = phantom.attributes, phantom.patients, None, "watched"
        seen: list[int] = []  # noqa: RUF012 - one instance

        def images(self, rows):
            self.seen.extend(int(row) for row in rows)
            return phantom.images(rows)

    rows = np.array([3, 8, 13])
    finetune(base, Watched(), rows, steps=3, **FAST)
    assert Watched.seen == rows.tolist()


# Killed and going on


@pytest.mark.parametrize("what", WHATS, ids=lambda what: type(what).__name__)
def test_a_killed_fit_goes_on_to_the_same_bits_and_the_same_curve(what, base, phantom, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVED_EVERY", 2)

    def fit(folder: Path, **options) -> DiffusionEditor:
        return finetune(base, phantom, ROWS, what=what, steps=5, checkpoint=tmp_path / folder, **FAST, **options)

    whole = fit(Path("whole"))
    fit(Path("killed"), minutes=0.0)  # by the clock, after one step
    with monkeypatch.context() as patch:
        descend, left = ResumableFit.descend, iter(range(3))

        def descend_once_more(self, loss, learning_rate):
            if next(left, None) is None:
                raise PowerCutError
            descend(self, loss, learning_rate)

        patch.setattr(ResumableFit, "descend", descend_once_more)
        with pytest.raises(PowerCutError):
            fit(Path("killed"))  # by force, after the fourth
    with (tmp_path / "killed" / "loss.jsonl").open("a") as log:
        log.write('{"step": 5, "loss": 0}\n')  # written, and its state was not
    assert same(weights(fit(Path("killed"))), weights(whole))
    assert lines(tmp_path / "killed" / "loss.jsonl") == lines(tmp_path / "whole" / "loss.jsonl")
    assert [line["step"] for line in lines(tmp_path / "whole" / "loss.jsonl")] == [2, 4, 5]


def test_the_same_seed_gives_the_same_bits_and_disturbs_no_others_chance(base, phantom):
    state = torch.random.get_rng_state()
    one, again = (finetune(base, phantom, ROWS, steps=2, **FAST) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(weights(one), weights(again))
    assert not same(weights(one), weights(finetune(base, phantom, ROWS, steps=2, seed=1, **FAST)))


def test_the_state_of_another_fit_is_refused(base, phantom, tmp_path):
    def fit(start: DiffusionEditor = base, **options) -> DiffusionEditor:
        return finetune(start, phantom, ROWS, **({"steps": 1, "checkpoint": tmp_path} | FAST | options))

    fit()
    others = [{"steps": 2}, {"seed": 1}, {"captions": Telling(dropout=0.5)}, {"weights": Balanced(phantom.graph, "view")},
              {"mixed_precision": "no"}, {"ema": 0.5}]  # fmt: skip
    for other in others:
        with pytest.raises(ValueError, match="state of another fit"):
            fit(**other)
    wordless = base.graph_attributes | {"view": Binary("view", levels=("PA", "AP"))}
    for start in (
        base.using(template="[{view}]"),
        base.using(attributes=wordless),
    ):  # other captions of the same images
        with pytest.raises(ValueError, match="state of another fit"):
            fit(start)


# Captions and weights


def test_captions_of_one_attribute_name_it_or_nothing(phantom):
    told = Telling(names=("view",), dropout=0.3, partial=0.5)
    drawn = Captions(phantom.attributes, told.chosen(dict(phantom.graph.attributes)), told)
    texts = drawn.drawn(np.resize(np.arange(24), 2_000), np.random.default_rng(0))
    assert {text.removeprefix("chest x-ray , ") for text in texts} == {
        "", "AP view", "PA view", "AP projection", "PA projection",
    }  # fmt: skip
    assert np.mean([text == "" for text in texts]) == pytest.approx(0.3, abs=0.04)


def test_shares_of_captions_without_and_with_some_attributes(phantom):
    told = Telling(dropout=0.1, partial=0.3)
    drawn = Captions(phantom.attributes.iloc[:1], dict(phantom.graph.attributes), told)
    texts = pd.Series(drawn.drawn(np.zeros(4_000, dtype=int), np.random.default_rng(0)))
    assert (texts == "").mean() == pytest.approx(0.1, abs=0.03)
    assert (~texts.isin([worded.caption(0, worded.columns) for worded in drawn.worded])).mean() == pytest.approx(
        0.4, abs=0.03
    )


def test_an_editor_of_its_own_captions_sets_that_attribute_alone_also_from_its_folder(base, phantom, tmp_path):
    stored = DiffusionEditor.from_pretrained(base.save(tmp_path / "base"))
    fitted = finetune(stored, phantom, ROWS, steps=1, captions=Telling(names=("view",)), **FAST)
    assert fitted.attributes == {"view"}
    told = {"title": "", "data": "", "command": "", "use": ""}
    publish(fitted, tmp_path / "view", **told)
    again = DiffusionEditor.from_pretrained(tmp_path / "base", adapter=tmp_path / "view")
    assert again.attributes == {"view"}
    assert list(again.graph_attributes) == ["view"]


def test_rows_are_drawn_by_their_weights():
    chances = np.array([0.0, 3.0, 0.0, 1.0])
    picked = loop._picked(np.random.default_rng(0), 4, 4_000, np.cumsum(chances / chances.sum()))
    assert set(picked) == {1, 3}
    assert np.mean(picked == 1) == pytest.approx(0.75, abs=0.03)


def test_rows_of_which_the_attribute_is_unknown_do_not_teach_it(base, phantom, monkeypatch):
    class Holey:
        attributes, patients, texts, fingerprint = phantom.attributes.copy(), phantom.patients, None, "holey"
        images = staticmethod(phantom.images)

    Holey.attributes.loc[:9, "view"] = np.nan
    seen: set[int] = set()
    drawn = Captions.drawn
    monkeypatch.setattr(
        Captions, "drawn", lambda self, picked, rng: seen.update(picked.tolist()) or drawn(self, picked, rng)
    )
    fitted = finetune(base, Holey(), ROWS, steps=4, weights=Balanced(phantom.graph, "view"), **FAST)
    assert seen <= set(range(10, 20))
    assert fitted.provenance["balance"].effective <= 10


# Judged while it runs


def scripted(*numbers: float):
    """Says these numbers in turn, and keeps the weights that it was shown."""
    shown: list[dict[str, Tensor]] = []

    def validate(editor: DiffusionEditor) -> dict[str, float]:
        assert not editor.unet.training
        shown.append(weights(editor))
        return {"effectiveness": numbers[len(shown) - 1], "leak": 0.25}

    return validate, shown


def test_the_best_is_kept_and_the_fit_stops_when_patience_ends(base, phantom, tmp_path):
    validate, shown = scripted(0.5, 0.9, 0.7, 0.8)
    watch = Watch(validate, every=1, patience=2)
    fitted = finetune(base, phantom, ROWS, steps=50, watch=watch, checkpoint=tmp_path, **FAST)
    assert len(shown) == 4
    assert same(weights(fitted), shown[1])
    history = fitted.provenance["history"]
    assert (history.steps, history.stopped) == (4, "for want of improvement")
    assert history.chosen == {"step": 2, "score": 0.65, "effectiveness": 0.9, "leak": 0.25}
    assert [line["effectiveness"] for line in lines(tmp_path / "validation.jsonl")] == [0.5, 0.9, 0.7, 0.8]


def test_a_fit_killed_while_watched_keeps_what_it_saw(base, phantom, tmp_path):
    numbers = (0.5, 0.9, 0.7, 0.8)
    whole_says, _ = scripted(*numbers)
    whole = finetune(base, phantom, ROWS, steps=4, watch=Watch(whole_says, every=1), **FAST)

    def cut(editor: DiffusionEditor) -> dict[str, float]:
        said = first(editor)
        if len(shown) == 3:
            raise PowerCutError
        return said

    first, shown = scripted(*numbers)
    with pytest.raises(PowerCutError):
        finetune(base, phantom, ROWS, steps=4, watch=Watch(cut, every=1), checkpoint=tmp_path, **FAST)
    rest, _ = scripted(*numbers[2:])
    fitted = finetune(base, phantom, ROWS, steps=4, watch=Watch(rest, every=1), checkpoint=tmp_path, **FAST)
    assert same(weights(fitted), weights(whole))
    assert fitted.provenance["history"].chosen == whole.provenance["history"].chosen
    assert [line["step"] for line in lines(tmp_path / "validation.jsonl")] == [1, 2, 3, 4]


def test_watching_does_not_change_the_fit(base, phantom):
    validate, _ = scripted(0.1, 0.2)
    watched = finetune(base, phantom, ROWS, steps=4, watch=Watch(validate, every=2), **FAST)
    assert same(weights(watched), weights(finetune(base, phantom, ROWS, steps=4, **FAST)))


def test_what_decides_is_arithmetic_over_the_numbers():
    watch = Watch(dict, select="2 * effectiveness - leak_worst")
    assert watch.score({"effectiveness": 0.5, "leak_worst": 0.25}) == 0.75
    with pytest.raises(ValueError, match=r"no arithmetic over the validation's \['loss'\]"):
        watch.score({"loss": 1.0})
    with pytest.raises(ValueError, match="must be 1 or more"):
        Watch(dict, every=0)


# Written down


def test_the_card_says_where_the_weights_come_from(base, phantom, tmp_path):
    validate, _ = scripted(0.5)
    fitted = finetune(
        base, phantom, ROWS, steps=1, weights=Balanced(phantom.graph, "view"), watch=Watch(validate), seed=5,
        captions=Telling(names=("view",)), **FAST,
    )  # fmt: skip
    publish(fitted, tmp_path, title="An adapter", data="phantoms; split by patient", command="fit it", use="tests")
    assert {p.name for p in tmp_path.iterdir()} == {"pytorch_lora_weights.safetensors", "editor.json", "card.md"}
    card = (tmp_path / "card.md").read_text()
    effective = fitted.provenance["balance"].effective
    for told in (
        "# An adapter\n", "- data: phantoms; split by patient", phantom.fingerprint,
        f"- fitted on: 20 images of {phantom.patients[ROWS].nunique()} patients", "- seed: 5\n",
        f"effective sample size {effective:.0f} of 20", "LoRA(rank=8", base.weights_fingerprint, "- captions: view;",
        "- steps: 1 of 4 images", "- hardware: cpu", "- command: `fit it`", "kept: the average after step 1", "- use: tests",
    ):  # fmt: skip
        assert told in card, told


def test_a_lora_can_be_written_merged(base, phantom, tmp_path):
    fitted = finetune(base, phantom, ROWS, steps=2, **FAST)
    before = weights(fitted)
    publish(fitted, tmp_path, title="", data="", command="", use="", whole=True)
    assert same(weights(fitted), before)
    again = DiffusionEditor.from_pretrained(tmp_path)
    assert again.weights_fingerprint != base.weights_fingerprint
    assert set(weights(again)) == set(weights(base))


def test_an_editor_of_unknown_origin_has_no_card(base, tmp_path):
    with pytest.raises(ValueError, match="no account of its fit"):
        publish(base, tmp_path, title="", data="", command="", use="")


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captions": Telling(names=("weight",))}, r"cannot name \['weight'\]"),
        ({"what": Tokens({"age": {40: "<age>"}})}, "'age' is not one of these"),
        ({"what": Tokens({"view": {"AP": "<x>", "PA": "<x>"}})}, "'<x>' is no new word"),
        ({"what": Tokens({"view": {"lateral": "<x>"}})}, "cannot be 'lateral'"),
        ({"what": Tokens({"view": {"AP": "view</w>"}})}, "has the words"),
        ({"what": Tokens({})}, "no word to learn"),
        ({"steps": 0}, "one step or more"),
        ({"device": "cuda"}, "no device 'cuda' here"),
        ({"graphs": True}, "leave graphs out on device='cpu'"),
    ],
)
def test_what_cannot_be_fitted_is_refused(options, message, base, phantom):
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match=message):
        finetune(base, phantom, ROWS, **({"steps": 1} | FAST | options))


def test_no_row_and_shares_that_exceed_the_whole_are_refused(base, phantom):
    with pytest.raises(ValueError, match="no row to fit on"):
        finetune(base, phantom, ROWS[:0], steps=1)
    with pytest.raises(ValueError, match="within 0 and 1"):
        Telling(dropout=0.8, partial=0.4)


def test_an_adapter_that_is_not_merged_cannot_be_bent_again(base, phantom):
    bent = finetune(base, phantom, ROWS, steps=1, **FAST)
    with pytest.raises(ValueError, match="carries an adapter"):
        finetune(bent, phantom, ROWS, steps=1, **FAST)


def test_a_finished_fit_is_not_fitted_again(base, phantom, tmp_path, monkeypatch):
    one = finetune(base, phantom, ROWS, steps=2, checkpoint=tmp_path, **FAST)
    state = load_file(tmp_path / "state.safetensors")
    monkeypatch.setattr(ResumableFit, "descend", None)
    again = finetune(base, phantom, ROWS, steps=2, checkpoint=tmp_path, **FAST)
    assert same(weights(again), weights(one))
    assert again.provenance["history"] == one.provenance["history"]
    assert int(state["step"]) == 2
