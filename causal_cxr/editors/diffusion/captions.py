"""Captions: a table of attributes in words, through the graph's own phrases."""

from collections.abc import Mapping

import pandas as pd

from causal_cxr.graphs import Attribute

TEMPLATE = "chest x-ray , {}"


def captions(table: pd.DataFrame, attributes: Mapping[str, Attribute], phrasing: int = 0) -> list[str]:
    """One caption a row, e.g. ``"chest x-ray , 63 year old , woman , AP view , cardiomegaly , no effusion"``.

    Args:
        table: has a column for each attribute that is named; a missing value is left out of the caption.
        attributes: in the order in which the caption names them.
        phrasing: 0 is the default wording, 1 the neutral paraphrase of null edits.
    """
    present = {name: attribute for name, attribute in attributes.items() if name in table.columns}
    columns = [
        [None if pd.isna(value) else attribute.phrase(value, phrasing) for value in table[name]]
        for name, attribute in present.items()
    ]
    return [TEMPLATE.format(" , ".join(p for p in phrases if p)) for phrases in zip(*columns, strict=True)]


def build_tokenizer(corpus: list[str], max_length: int = 48) -> "CLIPTokenizer":  # noqa: F821
    """A CLIP tokenizer (lower-cased BPE with word ends) of at most 2,000 tokens, learnt from captions."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    raw = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=2_000, special_tokens=special, end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789-,."),
    )  # fmt: skip
    raw.train_from_iterator(corpus, trainer)
    import json

    learnt = json.loads(raw.to_str())["model"]
    return CLIPTokenizer(
        vocab=learnt["vocab"], merges=[tuple(pair) for pair in learnt["merges"]], model_max_length=max_length,
        pad_token="<|endoftext|>",
    )  # fmt: skip
