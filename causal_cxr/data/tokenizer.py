"""A small CLIP tokenizer learnt from a dataset's own texts."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


def build_tokenizer(corpus: list[str], max_length: int = 48) -> "CLIPTokenizer":
    """A CLIP tokenizer (lower-cased BPE with word ends) of at most 2,000 tokens, learnt from captions."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    raw = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    # The trainer numbers word-final letters in hash order, which also breaks its ties between merges: fix their order.
    words = {word for text in set(corpus) for word, _ in raw.pre_tokenizer.pre_tokenize_str(text.lower())}
    special = ["<|startoftext|>", "<|endoftext|>", *sorted({f"{word[-1]}</w>" for word in words})]
    trainer = trainers.BpeTrainer(
        vocab_size=2_000, special_tokens=special, end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789-,."),
    )  # fmt: skip
    raw.train_from_iterator(corpus, trainer)
    learnt = json.loads(raw.to_str())["model"]
    merges: Any = [tuple(pair) for pair in learnt["merges"]]
    return CLIPTokenizer(
        vocab=learnt["vocab"], merges=merges, model_max_length=max_length,
        pad_token="<|endoftext|>",
    )  # fmt: skip
