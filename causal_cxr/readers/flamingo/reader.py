"""``FlamingoReader``: reads a concept from a few labelled images of it, with or without a word (transformers' Idefics)."""

import copy
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.patients import fitted_on_all, pack, unpack
from causal_cxr.data.whole_file import write_json
from causal_cxr.readers.calibration import Calibration, calibrated_on
from causal_cxr.readers.concepts import Concept, concept_from_dict
from causal_cxr.readers.features import resized
from causal_cxr.readers.flamingo.exemplars import Exemplars, choose_exemplars
from causal_cxr.readers.flamingo.model import looked_at, seen
from causal_cxr.readers.flamingo.prompt import IMAGE, Prompt, Template, build_prompt, latest_image
from causal_cxr.readers.flamingo.signs import NEUTRAL
from causal_cxr.readers.images import check_images
from causal_cxr.readers.quality import ReaderQuality

if TYPE_CHECKING:
    from causal_cxr.readers.flamingo.eye import Eye

READER, SHOWN, EYE = "reader.json", "exemplars.safetensors", "eye"
BATCH = 128
#: Arguments of the class on which the log odds of every concept hang, and so what was made of them.
READ_BY = frozenset({"template", "orders", "mean", "std", "eye"})
LABELS = ("name", "fitted_on", "renderer_version")  #: arguments of the class that change no score


def nameless(name: str) -> Concept:
    """A concept that is known by example alone: it is asked about in a neutral word."""
    return Concept(name, (NEUTRAL,), (f"not {NEUTRAL}",))


class FlamingoReader:
    """Asks a vision-language model, after exemplars with their answers, whether a concept shows (Alayrac et al., 2022).

    The score is ``P(yes) / (P(yes) + P(no))`` of the answers at the end of the prompt, each answer's likelihood by the
    geometric mean over its tokens; the mean log odds over a concept's positive phrases and over ``orders`` orders of its
    exemplars. What the model makes of the exemplars is computed once.

    Args:
        model: ``IdeficsForVisionText2Text``, on any device.
        tokenizer: its own.
        concepts: what to read, asked about in their positive phrases.
        exemplars: concept's name -> what is shown before the question; nothing for those left out.
        eye: sees the images in place of the model's own vision tower.
        template: of the prompts; the one that small readers are fitted with unless given.
        mean, std: of the pixels that model or eye awaits, a number a channel.
        orders: how many orders of the exemplars to average over.
        calibration: of the log odds; a concept without one scores their sigmoid.
        name: of this reader in an audit.
        fitted_on: patients of the model's fit; those of exemplars and calibration are added. ``None`` = unknown.
        quality: on other patients.
        renderer_version: of the phantom it was fitted on; ``None`` for real images.

    Raises:
        ValueError: exemplars of a concept that is not read; two concepts of one name.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        concepts: Sequence[Concept],
        *,
        exemplars: Mapping[str, Exemplars] | None = None,
        eye: "Eye | None" = None,
        template: Template | None = None,
        mean: Sequence[float],
        std: Sequence[float],
        orders: int = 1,
        calibration: Calibration | None = None,
        name: str = "flamingo",
        fitted_on: frozenset[str] | None = None,
        quality: ReaderQuality | None = None,
        renderer_version: int | None = None,
    ) -> None:
        self.model, self.tokenizer, self.concepts, self.name = model.eval(), tokenizer, tuple(concepts), name
        self.eye: Any = None if eye is None else eye.eval()
        self.exemplars, self.calibration = dict(exemplars or {}), calibration
        self.template, self.mean, self.std, self.orders = template or Template(), tuple(mean), tuple(std), orders
        self.renderer_version, self._fit_patients = renderer_version, fitted_on
        names = self.names
        if len(set(names)) < len(names):
            raise ValueError(f"Two concepts share a name: {names}; rename one.")
        if strange := sorted(set(self.exemplars) - set(names)):
            raise ValueError(f"There are exemplars for {strange}, which are not read; the concepts are {names}.")
        shown = [exemplar.patients for exemplar in self.exemplars.values()]
        self.fitted_on = fitted_on_all([fitted_on, *shown])
        self.quality = quality or ReaderQuality.unknown(concepts)
        self._questions: dict[str, list[_Question]] = {}
        self.weights_fingerprint = _fingerprint(model, *([] if eye is None else [eye]))
        self.fingerprint = self._digest()

    def _digest(self) -> str:
        digest = hashlib.sha256(self.weights_fingerprint.encode())
        said = {
            "template": self.template.to_dict(), "mean": self.mean, "std": self.std, "orders": self.orders,
            "concepts": [(c.name, c.positive) for c in self.concepts],
            "exemplars": {name: e.fingerprint for name, e in sorted(self.exemplars.items())},
        }  # fmt: skip
        digest.update(json.dumps(said, sort_keys=True).encode())
        digest.update(b"" if self.calibration is None else self.calibration.digest(self.names))
        return digest.hexdigest()[:16]

    @property
    def names(self) -> list[str]:
        """The concepts'."""
        return [concept.name for concept in self.concepts]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def to(self, device: str | torch.device) -> "FlamingoReader":
        """The same reader, its model moved (in place, as torch does)."""
        self.model.to(device)
        if self.eye is not None:
            self.eye.to(device)
        self._questions.clear()
        return self

    def using(self, **changes: Any) -> "FlamingoReader":
        """The same model with other arguments of the class.

        Quality is unknown and must be given anew. Concepts whose phrases and exemplars stay as they are keep their
        calibration, unless one of :data:`READ_BY` is given.
        """
        given: dict[str, Any] = {
            "concepts": self.concepts, "exemplars": self.exemplars, "eye": self.eye, "template": self.template,
            "mean": self.mean, "std": self.std, "orders": self.orders, "name": self.name, "fitted_on": self._fit_patients,
            "renderer_version": self.renderer_version,
        }  # fmt: skip
        given |= changes
        if "calibration" not in changes and self.calibration and not READ_BY & set(changes):
            shown = given["exemplars"]
            given["calibration"] = self.calibration.of(
                [
                    c.name
                    for c in given["concepts"]
                    if c in self.concepts and shown.get(c.name) is self.exemplars.get(c.name)
                ]
            )
        return FlamingoReader(self.model, self.tokenizer, **given)

    def with_exemplars(
        self, dataset: Dataset, rows: np.ndarray, truth: np.ndarray, concept: Concept | str, k: int, *, seed: int = 0
    ) -> "FlamingoReader":
        """A reader that reads one concept more, or this one anew, by ``k`` exemplars.

        Args:
            dataset: of the exemplars; their patients enter ``fitted_on``.
            rows: ``(n,)`` labelled rows.
            truth: ``(n,)`` 1 / 0 / NaN unknown, of these rows.
            concept: what they show; a name alone for what has no word, which is asked about as "this sign".
            k: how many, half of them with the concept.
            seed: of their choice and order.
        """
        concept = nameless(concept) if isinstance(concept, str) else concept
        chosen = choose_exemplars(dataset, rows, truth, k, seed=seed)
        others = [c for c in self.concepts if c.name != concept.name]
        exemplars = {name: e for name, e in self.exemplars.items() if name != concept.name}
        if k:
            exemplars[concept.name] = chosen
        return self.using(concepts=(*others, concept), exemplars=exemplars)

    def calibrated(
        self, dataset: Dataset, rows: np.ndarray, truth: np.ndarray, *, method: str = "platt"
    ) -> "FlamingoReader":
        """This reader, calibrated on labelled patients, who are best no exemplars.

        Args:
            dataset: of the images; the patients enter ``fitted_on``.
            rows: ``(n,)`` labelled rows; each patient counts once.
            truth: ``(n, k)`` 1 / 0 / NaN unknown, a column a concept.
            method: ``"platt"``, ``"temperature"`` or ``"isotonic"``.

        Raises:
            ValueError: see :meth:`Calibration.fit`.
        """
        seen = self._fit_patients
        made = calibrated_on(self.margins, self.names, dataset, rows, truth, method, seen, batch_size=BATCH)
        return self.using(**made)

    # -- reading -------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def states(self, images: Tensor) -> Tensor:
        """``(n, tokens, width)`` what vision tower and perceiver make of ``(n, 1, h, w)`` images in [0, 1]."""
        check_images(images)
        vision = self.model.config.vision_config
        size = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
        if self.eye is not None:
            size = self.eye.size
        mean, std = (torch.tensor(v, device=self.device)[:, None, None] for v in (self.mean, self.std))
        parts = []
        for i in range(0, len(images), BATCH):
            part = resized(images[i : i + BATCH].to(self.device, torch.float32), size)
            parts.append(seen(self.model, (part.expand(-1, vision.num_channels, -1, -1) - mean) / std, self.eye))
        return torch.cat(parts) if parts else torch.zeros(0, 1, vision.embed_dim, device=self.device)

    @torch.no_grad()
    def margins(self, images: Tensor) -> Tensor:
        """``(n, k)`` uncalibrated log odds of yes against no, on the CPU."""
        if not len(images) or not self.concepts:
            return torch.zeros(len(images), len(self.concepts))
        rows = []
        for i in range(0, len(images), BATCH):
            states = self.states(images[i : i + BATCH])
            columns = []
            for concept in self.concepts:
                told = [question.log_odds(self.model, states) for question in self._asked(concept)]
                columns.append(torch.stack(told).mean(0))
            rows.append(torch.stack(columns, dim=1).float().cpu())
        return torch.cat(rows)

    def read(self, images: Tensor, patients: Sequence[str] | None = None) -> Tensor:
        """``(n, k)`` scores in [0, 1]; ``patients`` make no difference."""
        margins = self.margins(images)
        return torch.sigmoid(margins) if self.calibration is None else self.calibration(margins, self.names)

    def _asked(self, concept: Concept) -> "list[_Question]":
        """One question a phrase and order; what stands before the image that is asked about is computed once."""
        if concept.name not in self._questions:
            exemplars = self.exemplars.get(concept.name)
            shown: list[Exemplars | None] = [exemplars]
            if exemplars is not None:
                rng = np.random.default_rng(11)
                shown += [exemplars.shuffled(rng) for _ in range(self.orders - 1)]
            self._questions[concept.name] = [
                _Question.put(self, build_prompt(self.tokenizer, self.template, phrase, e.answers if e else ()), e)
                for phrase in concept.positive
                for e in shown
            ]
        return self._questions[concept.name]

    # -- on disk -------------------------------------------------------------------------------------------------------
    def save(self, folder: str | Path) -> Path:
        """Write an Idefics checkpoint (half precision) with tokenizer and image processor, exemplars, ``reader.json``.

        An eye goes into a folder ``eye`` beside them, as diffusers keeps networks.
        """
        from safetensors.torch import save_file
        from transformers import IdeficsImageProcessor

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        copy.deepcopy(self.model).to("cpu").half().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if self.eye is not None:
            copy.deepcopy(self.eye).to("cpu").half().save_pretrained(folder / EYE)
        size = self.model.config.vision_config.image_size
        IdeficsImageProcessor(
            image_size=size, image_mean=list(self.mean), image_std=list(self.std)
        ).save_pretrained(folder)  # fmt: skip
        save_file(
            {name: e.images.contiguous() for name, e in self.exemplars.items()} or {"none": torch.zeros(1)},
            folder / SHOWN,
        )
        content = {
            "name": self.name,
            "concepts": [asdict(concept) for concept in self.concepts],
            "exemplars": {
                name: {"answers": list(e.answers), "patients": pack(e.patients)} for name, e in self.exemplars.items()
            },
            "template": self.template.to_dict(),
            "orders": self.orders,
            "eye": self.eye is not None,
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "fitted_on": pack(self._fit_patients),
            "quality": self.quality.to_dict(),
            "renderer_version": self.renderer_version,
        }
        write_json(folder / READER, content)
        return folder

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        concepts: Sequence[Concept] | None = None,
        exemplars: Mapping[str, Exemplars] | None = None,
        **settings: Any,
    ) -> "FlamingoReader":
        """Load what :meth:`save` wrote, or any checkpoint of Idefics' format.

        Args:
            folder: with ``config.json``, weights as safetensors, tokenizer and ``preprocessor_config.json``; an eye of
                ours in a folder ``eye``.
            concepts, exemplars: what to read; those saved there unless given. With ``concepts`` alone, saved exemplars of
                concepts that stay as they are. Whatever changes how a saved reader reads, changes it as :meth:`using` does:
                calibration is dropped where it no longer fits, and quality is unknown.
            **settings: other arguments of the class.

        Raises:
            FileNotFoundError: the folder has no model.
            ValueError: the model is no Idefics; no concepts, given or saved.
        """
        from safetensors.torch import load_file
        from transformers import AutoTokenizer, IdeficsForVisionText2Text, IdeficsImageProcessor

        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder} has no config.json; a reader is loaded from an Idefics checkpoint's folder."
            )
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
        if kind != "idefics":
            raise ValueError(f"{folder} holds a model of type {kind!r}; a Flamingo reader awaits 'idefics'.")
        # No code from the folder is run, and no pickle read.
        with torch.random.fork_rng(devices=[]):
            model = IdeficsForVisionText2Text.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
            )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        pixels = IdeficsImageProcessor.from_pretrained(folder, local_files_only=True)
        found: dict[str, Any] = {"mean": pixels.image_mean, "std": pixels.image_std}
        if (folder / READER).is_file():
            content = json.loads((folder / READER).read_text())
            if content.get("eye"):  # before there were eyes, nothing was said of them
                from causal_cxr.readers.flamingo.eye import Eye

                with torch.random.fork_rng(devices=[]):
                    found["eye"] = Eye.from_pretrained(folder / EYE, torch_dtype=torch.float32, use_safetensors=True)
            images = load_file(folder / SHOWN)
            found |= {
                "concepts": [concept_from_dict(entry) for entry in content["concepts"]],
                "exemplars": {
                    name: Exemplars(images[name], tuple(e["answers"]), unpack(e["patients"]))
                    for name, e in content["exemplars"].items()
                },
                "template": Template(**content["template"]),
                "orders": content["orders"],
                "calibration": None
                if content["calibration"] is None
                else Calibration.from_dict(content["calibration"]),
                "name": content["name"],
                "fitted_on": unpack(content["fitted_on"]),
                "quality": ReaderQuality.from_dict(content["quality"]),
                "renderer_version": content["renderer_version"],
            }
            found |= {name: settings.pop(name) for name in LABELS if name in settings}
        elif concepts is None:
            raise ValueError(f"{folder} has no {READER}, so it does not say what to read; pass concepts=.")
        else:
            found["concepts"] = concepts
        reader = cls(model, tokenizer, **found)
        changes: dict[str, Any] = settings
        if concepts is not None:
            stay = [c.name for c in reader.concepts if c in concepts]
            shown = {name: e for name, e in reader.exemplars.items() if name in stay}
            changes = {"concepts": concepts, "exemplars": shown} | changes
        if exemplars is not None:
            changes = changes | {"exemplars": exemplars}
        return reader.using(**changes) if changes else reader


class _Question:
    """A prompt with all that stands before the image that is asked about worked out.

    Attributes:
        asked: ``(s,)`` ids from that image on.
        answers: ids of yes and of no.
        cache: keys and values of what stands before, of one sequence.
    """

    def __init__(self, asked: Tensor, answers: tuple[Tensor, Tensor], cache: Any) -> None:
        self.asked, self.answers, self.cache = asked, answers, cache

    @classmethod
    def put(cls, reader: FlamingoReader, prompt: Prompt, exemplars: Exemplars | None) -> "_Question":
        """Run the model over exemplars and answers."""
        from transformers import DynamicCache

        model, device = reader.model, reader.device
        cache = DynamicCache(config=model.config)
        before = prompt.before.to(device)[None]
        if before.shape[1]:
            image_id = reader.tokenizer.convert_tokens_to_ids(IMAGE)
            if exemplars is not None:
                states = reader.states(exemplars.images)
            else:  # what no token sees
                states = reader.states(torch.zeros(1, 1, 8, 8))
            which = latest_image(before, image_id)
            shown = which[..., None] == torch.arange(len(states), device=device)
            model.model(
                input_ids=before, use_cache=True, **_remembered(model, cache), **looked_at(model, states[None]),
                image_attention_mask=shown,
            )  # fmt: skip
        return cls(prompt.asked.to(device), (prompt.yes.to(device), prompt.no.to(device)), cache)

    def log_odds(self, model: Any, states: Tensor) -> Tensor:
        """``(n,)`` log odds of yes against no, for the states of ``n`` images."""
        yes, no = self.answers
        if len(yes) == len(no) == 1:
            told = self._told(model, states, yes[:0])[:, 0]
            return told[:, yes[0]] - told[:, no[0]]
        means = []
        for answer in self.answers:
            told = self._told(model, states, answer[:-1])
            means.append(told.gather(-1, answer.expand(len(states), -1)[..., None])[..., 0].mean(1))
        return means[0] - means[1]

    def _told(self, model: Any, states: Tensor, more: Tensor) -> Tensor:
        """``(n, 1 + m, vocabulary)`` log-likelihoods of the tokens after the question, given ``m`` more of an answer."""
        n = len(states)
        cache = copy.deepcopy(self.cache)
        if cache.get_seq_length():
            cache.batch_repeat_interleave(n)
        ids = torch.cat([self.asked, more]).expand(n, -1)
        shown = torch.ones(*ids.shape, 1, dtype=torch.bool, device=ids.device)
        logits = model(
            input_ids=ids, use_cache=True, **_remembered(model, cache), **looked_at(model, states[:, None]),
            image_attention_mask=shown, logits_to_keep=1 + len(more),
        ).logits  # fmt: skip
        return torch.log_softmax(logits.float(), -1)


def _remembered(model: Any, cache: Any) -> dict[str, Any]:
    """The cache by the name under which this version of transformers takes it; by another it would be ignored."""
    names = inspect.signature(type(model.model).forward).parameters
    return {"cache" if "cache" in names else "past_key_values": cache}


def _fingerprint(*networks: Any) -> str:
    digest = hashlib.sha256()
    for network in networks:
        for key, weight in sorted(network.state_dict().items()):
            digest.update(key.encode() + weight.detach().cpu().half().numpy().tobytes())
    return digest.hexdigest()[:16]
