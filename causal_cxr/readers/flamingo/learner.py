"""What the second phase minimises: the answers' loss after every number of exemplars."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from causal_cxr.readers.flamingo.episodes import Episodes
from causal_cxr.readers.flamingo.model import looked_at
from causal_cxr.readers.flamingo.prompt import IMAGE, Template, build_prompt, latest_image


class Learner(nn.Module):
    """A language model under fit, with what images look like given.

    A sequence of ``k`` images is one episode for every number of exemplars from 0 to ``k - 1``: each answer is predicted
    from those before it.

    Args:
        model: ``IdeficsForVisionText2Text``.
        tokenizer: its own.
        wordings: of the questions, by position.
        template: of the questions.

    Raises:
        ValueError: an answer is more than one token.
    """

    def __init__(self, model: Any, tokenizer: Any, wordings: list[str], template: Template) -> None:
        super().__init__()
        self.model = model
        self.image_id: int = tokenizer.convert_tokens_to_ids(IMAGE)
        self.pad: int = tokenizer.pad_token_id
        self.start = _start(tokenizer)
        blocks = [_block(tokenizer, template, words) for words in wordings]
        self.yes, self.no = blocks[0][1:]
        self.blocks = [torch.tensor(block) for block, _, _ in blocks]

    def answer(self, episodes: Episodes) -> Tensor:
        """``(n, k, vocabulary)`` logits of each answer, told from the images and answers before it."""
        n, k = episodes.answers.shape
        device = self.model.device
        asked = [self.blocks[i] for i in episodes.words.tolist()]
        block = nn.utils.rnn.pad_sequence(asked, batch_first=True, padding_value=-1)[:, None].expand(-1, k, -1)
        said = torch.where(episodes.answers, self.yes, self.no)[..., None].to(block)
        start = torch.tensor(self.start).expand(n, -1)
        ids = torch.cat([start, torch.cat([block, said], -1).flatten(1)], 1).to(device)
        real = ids >= 0
        ids = ids.where(real, self.pad)
        shown = latest_image(ids, self.image_id)[..., None] == torch.arange(k, device=device)
        # Idefics hides what may not be seen behind the least number of the states' precision; in a lower one, in which
        # attention is computed under autocast, that would be minus infinity, and a token that sees no image not a number.
        states = episodes.states.to(device)
        if torch.is_autocast_enabled(device.type):
            states = states.to(torch.get_autocast_dtype(device.type))
        hidden = self.model.model(
            input_ids=ids, attention_mask=real.long(), image_attention_mask=shown, use_cache=False,
            **looked_at(self.model, states),
        ).last_hidden_state  # fmt: skip
        lengths = torch.tensor([len(block) for block in asked])[:, None]
        last = len(self.start) + torch.arange(k) * (block.shape[-1] + 1) + lengths - 1
        last = last[..., None].expand(-1, -1, hidden.shape[-1]).to(device)
        logits: Tensor = self.model.lm_head(hidden.gather(1, last))
        return logits

    def forward(self, episodes: Episodes) -> Tensor:
        """``(k,)`` mean loss of the log odds of yes against no, which is what is read, after each number of exemplars."""
        logits = self.answer(episodes).float()
        odds = logits[..., self.yes] - logits[..., self.no]
        told = episodes.answers.to(odds)
        return functional.binary_cross_entropy_with_logits(odds, told, reduction="none").mean(0)


def _start(tokenizer: Any) -> list[int]:
    """Ids before the first image."""
    ids: list[int] = tokenizer(tokenizer.bos_token or "", add_special_tokens=False)["input_ids"]
    return ids


def _block(tokenizer: Any, template: Template, words: str) -> tuple[list[int], int, int]:
    """Ids from an image to its answer, and of the answers; as in a whole prompt."""
    alone = build_prompt(tokenizer, template, words, [])
    if len(alone.yes) != 1 or len(alone.no) != 1:
        raise ValueError(
            f"{template.yes!r} and {template.no!r} are {len(alone.yes)} and {len(alone.no)} tokens; a fit needs answers "
            "of one token each: choose other words."
        )
    ids = torch.cat([alone.before, alone.asked]).tolist()
    return ids[len(_start(tokenizer)) :], int(alone.yes), int(alone.no)
