"""Interleaved prompts: exemplars with their answers, then the image that is asked about."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Template:
    """How a question is put.

    Attributes:
        image: what stands for an image; large Idefics models want it wrapped, in ``<fake_token_around_image>``.
        question: with a place for the ``{sign}``.
        yes, no: the answers.
        between: what parts an exemplar from what follows.
    """

    image: str = "<image>"
    question: str = "{sign}"
    yes: str = "yes"
    no: str = "no"
    between: str = ""

    def __post_init__(self) -> None:
        if self.image.count(IMAGE) != 1:
            raise ValueError(f"A template's image holds {IMAGE!r} once, got {self.image!r}.")
        if "{sign}" not in self.question:
            raise ValueError(f"A template's question has a place for the sign, '{{sign}}'; got {self.question!r}.")
        if self.yes.strip() == self.no.strip():
            raise ValueError(f"A template's two answers differ; both are {self.yes!r}.")

    def to_dict(self) -> dict[str, str]:
        """Plain data."""
        return asdict(self)


IMAGE = "<image>"


@dataclass(frozen=True)
class Prompt:
    """Token ids of one question to a model.

    Attributes:
        before: ``(t,)`` exemplars and all else before the image that is asked about.
        asked: ``(s,)`` from that image on, up to the answer.
        yes, no: the answers' ids.
        images: how many exemplars there are.
    """

    before: Tensor
    asked: Tensor
    yes: Tensor
    no: Tensor
    images: int


def build_prompt(tokenizer: Any, template: Template, sign: str, answers: Sequence[bool]) -> Prompt:
    """Put a question about one image after as many exemplars as there are answers.

    The two answers are what the whole prompt's ids differ in, so that tokenizers that join an answer to what stands before
    it are served right.

    Args:
        tokenizer: knows :data:`IMAGE` as one token.
        template: of the question.
        sign: what is asked about, in words.
        answers: of the exemplars, in order.

    Raises:
        ValueError: the tokenizer has no image token; an answer has no token of its own.
    """
    image_id = tokenizer.convert_tokens_to_ids(IMAGE)
    if image_id is None or image_id == tokenizer.unk_token_id:
        raise ValueError(f"The tokenizer has no token {IMAGE!r}; add it with add_tokens, and resize the embedding.")
    question = template.question.format(sign=sign)
    shown = [f"{template.image}{question} {template.yes if a else template.no}{template.between}" for a in answers]
    start = f"{tokenizer.bos_token or ''}{''.join(shown)}{template.image}{question} "
    yes, no = (
        tokenizer(start + word, add_special_tokens=False, truncation=False)["input_ids"]
        for word in (template.yes, template.no)
    )
    common = next((i for i, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b), min(len(yes), len(no)))
    if common in (len(yes), len(no)):
        raise ValueError(
            f"One answer begins with the other in this tokenizer ({template.yes!r}, {template.no!r}); choose other words."
        )
    last = max(i for i, token in enumerate(yes[:common]) if token == image_id)
    ids = torch.tensor(yes)
    return Prompt(ids[:last], ids[last:common], ids[common:], torch.tensor(no[common:]), len(answers))


def latest_image(ids: Tensor, image_id: int) -> Tensor:
    """``(n, t)`` which image each token sees: the latest before it, -1 before the first (Alayrac et al., 2022)."""
    return (ids == image_id).cumsum(-1) - 1
