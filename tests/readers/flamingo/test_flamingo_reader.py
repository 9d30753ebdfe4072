"""A Flamingo reader reads by example; what it works out once is what the whole prompt would say."""

import json

import numpy as np
import pytest
import torch

from causal_cxr.data.patients import AtLeast, all_known
from causal_cxr.data.phantom import Phantom
from causal_cxr.readers import Reader
from causal_cxr.readers.calibration import Calibration, Platt
from causal_cxr.readers.concepts import Concept
from causal_cxr.readers.features import resized
from causal_cxr.readers.flamingo import Exemplars, FlamingoReader, Template, choose_exemplars, nameless
from causal_cxr.readers.flamingo.episodes import Episodes
from causal_cxr.readers.flamingo.eye import Eye
from causal_cxr.readers.flamingo.learner import Learner
from causal_cxr.readers.flamingo.model import small_idefics, small_tokenizer
from causal_cxr.readers.flamingo.prompt import build_prompt, latest_image

WORDINGS = ["this", "pacemaker", "a chest drain"]
PIXELS = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def tiny():
    torch.manual_seed(0)
    tokenizer = small_tokenizer(WORDINGS, Template())
    return small_idefics(
        tokenizer, size=64, channels=3, vision_width=32, vision_layers=1, latents=3, width=32
    ), tokenizer


@pytest.fixture(scope="module")
def phantom():
    return Phantom(60, "independent", seed=3)


@pytest.fixture(scope="module")
def blank():
    return FlamingoReader(*tiny(), (), **PIXELS, fitted_on=frozenset({"someone"}))


@pytest.fixture(scope="module")
def reader(blank, phantom):
    rows = np.arange(40)
    return blank.with_exemplars(phantom, rows, phantom.hidden["pacemaker"].to_numpy()[rows], "u", 6)


def test_it_is_a_reader(reader, phantom):
    assert isinstance(reader, Reader)
    scores = reader.read(phantom.images(np.arange(5)))
    assert scores.shape == (5, 1)
    assert scores.dtype == torch.float32
    assert ((scores > 0) & (scores < 1)).all()


def test_images_in_another_range_are_refused(reader, phantom):
    with pytest.raises(ValueError, match=r"Images go from .* to 2\d\d.* by 255"):
        reader.read(phantom.images(np.arange(2)) * 255)


def test_no_images_and_no_concepts_are_read_as_such(reader, blank):
    assert reader.read(torch.zeros(0, 1, 64, 64)).shape == (0, 1)
    assert blank.read(torch.zeros(3, 1, 64, 64)).shape == (3, 0)


def test_the_score_is_that_of_the_whole_interleaved_prompt(reader, phantom):
    """One pass over exemplars, answers and question, with no cache, by the model as transformers runs it."""
    shown = reader.exemplars["u"]
    images = phantom.images(np.arange(40, 44))
    prompt = build_prompt(reader.tokenizer, reader.template, "this", shown.answers)
    ids = torch.cat([prompt.before, prompt.asked])[None]
    image_id = reader.tokenizer.convert_tokens_to_ids("<image>")
    for image, score in zip(images, reader.read(images)[:, 0], strict=True):
        every = torch.cat([shown.images.float(), image[None]])
        mask = latest_image(ids, image_id)[..., None] == torch.arange(len(every))
        pixels = (every.expand(-1, 3, -1, -1) - 0.5) / 0.25
        with torch.no_grad():
            logits = reader.model(input_ids=ids, pixel_values=pixels[None], image_attention_mask=mask).logits[0, -1]
        assert score == pytest.approx(float(torch.softmax(logits[[int(prompt.yes), int(prompt.no)]], 0)[0]), abs=1e-5)


def with_eye(phantom):
    """A reader that has an eye; every call draws another eye."""
    tokenizer = small_tokenizer(WORDINGS, Template())
    shown = choose_exemplars(phantom, np.arange(40), phantom.hidden["pacemaker"].to_numpy()[:40], 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = small_idefics(tokenizer, vision_width=32, width=32)
    return FlamingoReader(
        model, tokenizer, [nameless("u")], exemplars={"u": shown}, eye=Eye(16, channels=(8, 16), width=32),
        mean=(0.5,), std=(0.25,),
    )  # fmt: skip


def test_an_eye_sees_in_place_of_the_models_own_vision_tower(phantom):
    """What transformers answers when it is given what the eye saw of all images."""
    torch.manual_seed(0)
    reader = with_eye(phantom)
    model, tokenizer, shown, eye = reader.model, reader.tokenizer, reader.exemplars["u"], reader.eye
    image = phantom.images(np.array([50]))
    every = (resized(torch.cat([shown.images.float(), image]), 16) - 0.5) / 0.25
    prompt = build_prompt(tokenizer, reader.template, "this", shown.answers)
    ids = torch.cat([prompt.before, prompt.asked])[None]
    mask = latest_image(ids, tokenizer.convert_tokens_to_ids("<image>"))[..., None] == torch.arange(len(every))
    with torch.no_grad():
        logits = model(
            input_ids=ids, image_encoder_embeddings=eye(every)[None], image_attention_mask=mask
        ).logits[0, -1]  # fmt: skip
    told = torch.softmax(logits[[int(prompt.yes), int(prompt.no)]], 0)[0]
    assert float(reader.read(image)) == pytest.approx(float(told), abs=1e-5)


def test_an_eye_is_saved_beside_the_model_and_counts_for_the_fingerprint(phantom, tmp_path):
    torch.manual_seed(0)
    reader, other = with_eye(phantom), with_eye(phantom)
    once = FlamingoReader.from_pretrained(reader.save(tmp_path / "a"))
    again = FlamingoReader.from_pretrained(once.save(tmp_path / "b"))
    images = phantom.images(np.arange(4))
    assert torch.equal(once.read(images), again.read(images))
    assert torch.allclose(once.margins(images), reader.margins(images), atol=2e-2)  # kept in half precision
    assert reader.fingerprint != other.fingerprint
    assert once.using(orders=2).eye is once.eye
    reader.using(eye=None).save(tmp_path / "a")  # over it; what is left there of an eye is nobody's
    assert FlamingoReader.from_pretrained(tmp_path / "a").eye is None


def test_maps_that_do_not_divide_the_image_are_refused():
    with pytest.raises(ValueError, match="multiple of 8, not 20"):
        Eye(20)


def test_the_fit_asks_as_the_reader_does(reader, phantom):
    shown = reader.exemplars["u"]
    learner = Learner(reader.model, reader.tokenizer, WORDINGS, reader.template)
    image = phantom.images(np.array([50]))
    states = reader.states(torch.cat([shown.images.float(), image]))
    episodes = Episodes(states[None], torch.tensor([[*shown.answers, True]]), torch.tensor([0]))
    with torch.no_grad():
        logits = learner.answer(episodes)[0, -1]
    assert float(logits[learner.yes] - logits[learner.no]) == pytest.approx(
        float(reader.margins(image)[0, 0]), abs=1e-4
    )


@pytest.mark.parametrize("answer", ["yes", "no sign of it"])
def test_an_answer_of_several_tokens_is_told_by_their_mean_log_likelihood(answer):
    model, tokenizer = tiny()
    template = Template(no=answer) if answer != "yes" else Template(yes="yes it does", no="no")
    reader = FlamingoReader(model, tokenizer, (nameless("u"),), template=template, **PIXELS)
    image = torch.rand(2, 1, 64, 64)
    prompt = build_prompt(tokenizer, template, "this", ())
    told = []
    for words in (prompt.yes, prompt.no):
        ids = torch.cat([prompt.before, prompt.asked, words]).expand(2, -1)
        mask = (latest_image(ids, tokenizer.convert_tokens_to_ids("<image>")) == 0)[..., None]
        with torch.no_grad():
            pixels = (image.expand(-1, 3, -1, -1)[:, None] - 0.5) / 0.25
            logits = model(input_ids=ids, pixel_values=pixels, image_attention_mask=mask).logits
        log_p = torch.log_softmax(logits, -1)[:, -len(words) - 1 : -1]
        told.append(log_p.gather(-1, words.expand(2, -1)[..., None])[..., 0].mean(1))
    assert torch.allclose(reader.margins(image)[:, 0], told[0] - told[1], atol=1e-5)
    assert len(prompt.yes) + len(prompt.no) > 2


def test_each_token_sees_the_latest_image_as_in_transformers():
    from transformers.models.idefics.processing_idefics import image_attention_mask_for_packed_input_ids

    _, tokenizer = tiny()
    prompt = build_prompt(tokenizer, Template(), "pacemaker", [True, False, True])
    ids = torch.cat([prompt.before, prompt.asked])[None]
    theirs, _ = image_attention_mask_for_packed_input_ids(ids, tokenizer, "pt")
    assert latest_image(ids, tokenizer.convert_tokens_to_ids("<image>")).tolist() == theirs.tolist()


def test_exemplars_are_half_with_the_sign_one_image_a_patient(phantom):
    rows = np.arange(60)
    truth = phantom.hidden["chest_drain"].to_numpy().astype(float)
    chosen = choose_exemplars(phantom, rows, truth, 8, seed=1)
    assert sum(chosen.answers) == 4
    assert len(chosen.patients) == 8
    drawn = phantom.images(rows).half()
    for image, answer in zip(chosen.images, chosen.answers, strict=True):
        at = [i for i in rows if torch.equal(drawn[i], image)]
        assert truth[at[0]] == answer
        assert phantom.patients[at[0]] in chosen.patients
    assert choose_exemplars(phantom, rows, truth, 8, seed=1).fingerprint == chosen.fingerprint
    assert choose_exemplars(phantom, rows, truth, 8, seed=2).fingerprint != chosen.fingerprint


def test_exemplars_that_do_not_exist_are_asked_for_in_words(phantom):
    truth = np.full(60, np.nan)
    truth[:3] = [1, 0, 0]
    with pytest.raises(ValueError, match="8 exemplars need 4 patients with the sign; the labelled rows have 1"):
        choose_exemplars(phantom, np.arange(60), truth, 8)
    with pytest.raises(ValueError, match="one label a row"):
        choose_exemplars(phantom, np.arange(60), truth[:5], 2)
    with pytest.raises(ValueError, match="3 answers"):
        Exemplars(torch.zeros(2, 1, 8, 8), (True, False, True))


def test_an_audit_leaves_out_the_patients_of_exemplars(reader):
    assert reader.fitted_on == {"someone"} | reader.exemplars["u"].patients


def test_the_fingerprint_covers_weights_exemplars_and_phrases(reader, blank, phantom):
    rows, truth = np.arange(40), phantom.hidden["pacemaker"].to_numpy()[:40]
    others = [
        blank.with_exemplars(phantom, rows, truth, "u", 6, seed=1),
        blank.with_exemplars(phantom, rows, truth, Concept("u", ("pacemaker",), ("no pacemaker",)), 6),
        reader.using(orders=2),
        reader.using(calibration=Calibration({"u": Platt(1.0, 0.5)})),
    ]
    model, tokenizer = tiny()
    model.lm_head.weight.data[0, 0] += 1
    others.append(FlamingoReader(model, tokenizer, (), **PIXELS).with_exemplars(phantom, rows, truth, "u", 6))
    prints = {reader.fingerprint, *(other.fingerprint for other in others)}
    assert len(prints) == 6
    assert blank.with_exemplars(phantom, rows, truth, "u", 6).fingerprint == reader.fingerprint


def test_orders_of_exemplars_are_averaged_over(reader, phantom):
    images = phantom.images(np.arange(3))
    both = reader.using(orders=2)
    other = reader.using(exemplars={"u": reader.exemplars["u"].shuffled(np.random.default_rng(11))})
    expected = (reader.margins(images) + other.margins(images)) / 2
    assert torch.allclose(both.margins(images), expected, atol=1e-5)


def test_calibration_is_fitted_on_margins_and_its_patients_are_left_out_too(reader, phantom):
    rows = np.arange(40, 60)
    margins = reader.margins(phantom.images(rows))
    truth = (margins > margins.median()).numpy().astype(float)
    truth[::5] = 1 - truth[::5]
    calibrated = reader.calibrated(phantom, rows, truth, method="temperature")
    temperature = calibrated.calibration.maps["u"].temperature
    assert torch.allclose(calibrated.read(phantom.images(rows)), torch.sigmoid(margins / temperature), atol=1e-5)
    assert set(phantom.patients[rows]) <= calibrated.fitted_on
    assert not calibrated.with_exemplars(phantom, rows, truth[:, 0], "u", 2).calibration.maps


def test_a_saved_reader_reads_the_same(reader, phantom, tmp_path):
    images = phantom.images(np.arange(4))
    once = FlamingoReader.from_pretrained(reader.save(tmp_path / "a"))
    again = FlamingoReader.from_pretrained(once.save(tmp_path / "b"))
    assert torch.equal(once.read(images), again.read(images))
    assert once.fingerprint == again.fingerprint
    assert torch.allclose(once.margins(images), reader.margins(images), atol=2e-2)  # weights are kept in half precision
    assert once.fitted_on == reader.fitted_on
    assert once.concepts == reader.concepts
    assert (tmp_path / "a" / "model.safetensors").stat().st_size < 2.2 * sum(
        p.numel() for p in reader.model.parameters()
    )


@pytest.fixture(scope="module")
def saved(reader, phantom, tmp_path_factory):
    """A reader that was calibrated and judged, and the folder that it is in."""
    rows = np.arange(40, 60)
    truth = phantom.hidden[["pacemaker"]].to_numpy()[rows].astype(float)
    judged = reader.calibrated(phantom, rows, truth)
    judged.quality.concepts.loc["u", "auroc"] = 0.9
    return judged, judged.save(tmp_path_factory.mktemp("judged"))


@pytest.mark.parametrize("changed", ["exemplars", "orders", "template", "mean", "concepts"])
def test_what_reads_otherwise_than_it_was_saved_is_as_if_changed_after_loading(saved, phantom, changed):
    _, folder = saved
    truth = phantom.hidden["chest_drain"].to_numpy()[:40]
    change = {
        "exemplars": {"u": choose_exemplars(phantom, np.arange(40), truth, 4)}, "orders": 2, "mean": (0.4,) * 3,
        "template": Template(yes="no sign of it", no="yes"), "concepts": [Concept("u", ("pacemaker",), ("no pacemaker",))],
    }[changed]  # fmt: skip
    opened = FlamingoReader.from_pretrained(folder, **{changed: change})
    assert opened.calibration is None or not opened.calibration.maps
    assert opened.quality.concepts.isna().all(axis=None)
    if changed != "concepts":
        assert opened.fingerprint == FlamingoReader.from_pretrained(folder).using(**{changed: change}).fingerprint


def test_what_reads_as_it_was_saved_keeps_what_is_known_of_it(saved):
    judged, folder = saved
    for same in ({}, {"name": "other"}, {"fitted_on": frozenset({"anyone"})}):
        opened = FlamingoReader.from_pretrained(folder, **same)
        assert opened.calibration.maps == judged.calibration.maps
        assert opened.quality.concepts.loc["u", "auroc"] == 0.9
    assert opened.fitted_on == {"anyone"} | judged.exemplars["u"].patients
    same = FlamingoReader.from_pretrained(folder, concepts=judged.concepts)
    assert same.calibration.maps == judged.calibration.maps
    assert set(same.exemplars) == {"u"}


def test_another_eye_is_not_calibrated_as_the_one_before(phantom):
    calibrated = with_eye(phantom).using(calibration=Calibration({"u": Platt(2.0, 0.5)}))
    assert calibrated.using(name="other").calibration.maps
    assert calibrated.using(eye=Eye(16, channels=(8, 16), width=32)).calibration is None


def test_exemplars_of_patients_known_in_part_are_saved_so(reader, tmp_path):
    shown = reader.exemplars["u"]
    partly = reader.using(exemplars={"u": Exemplars(shown.images, shown.answers, AtLeast(shown.patients))})
    opened = FlamingoReader.from_pretrained(partly.save(tmp_path))
    assert isinstance(opened.fitted_on, AtLeast)
    assert opened.fitted_on == reader.fitted_on


def test_any_idefics_checkpoint_loads(blank, phantom, tmp_path):
    """No file of ours, and no perceiver: what is there is a folder as transformers writes it."""
    from transformers import IdeficsForVisionText2Text, IdeficsImageProcessor

    _, tokenizer = tiny()
    config = blank.model.config.__class__(**(blank.model.config.to_dict() | {"use_resampler": False}))
    torch.manual_seed(1)
    IdeficsForVisionText2Text(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    IdeficsImageProcessor(image_size=64).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pass concepts="):
        FlamingoReader.from_pretrained(tmp_path)
    concept = Concept("pacemaker", ("pacemaker",), ("no pacemaker",))
    shown = choose_exemplars(phantom, np.arange(60), phantom.hidden["pacemaker"].to_numpy(), 4)
    reader = FlamingoReader.from_pretrained(tmp_path, concepts=[concept], exemplars={"pacemaker": shown})
    assert not all_known(reader.fitted_on)  # nobody says whom it was fitted on
    assert reader.fitted_on == shown.patients
    assert reader.mean == pytest.approx(IdeficsImageProcessor().image_mean)
    assert reader.read(torch.rand(3, 1, 50, 70)).shape == (3, 1)


def test_another_kind_of_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        FlamingoReader.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(ValueError, match="'llava'"):
        FlamingoReader.from_pretrained(tmp_path)


def test_bad_templates_and_arguments_are_refused(blank):
    with pytest.raises(ValueError, match="'<image>' once"):
        Template(image="picture")
    with pytest.raises(ValueError, match="place for the sign"):
        Template(question="is it there?")
    with pytest.raises(ValueError, match="differ"):
        Template(yes="no")
    with pytest.raises(ValueError, match="exemplars for"):
        blank.using(exemplars={"other": Exemplars(torch.zeros(0, 1, 1, 1), ())})
    with pytest.raises(ValueError, match="share a name"):
        blank.using(concepts=(nameless("u"), nameless("u")))
    with pytest.raises(ValueError, match="begins with the other"):
        build_prompt(blank.tokenizer, Template(yes="no sign", no="no"), "x", ())
