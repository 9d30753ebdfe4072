"""Reports as sets of sentences: what is true of an image is each sentence of its report, whoever else's has it too."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

_ENDS = re.compile(r"\s*[.;!?](?:\s+|$)|\s*\n+\s*")


def sentences_of(report: str) -> list[str]:
    """A report's sentences; they end with ``. ; ! ?`` and a space, or with a line.

    >>> sentences_of("Heart size normal. Tube tip 3.5 cm above the carina;no effusion")
    ['Heart size normal', 'Tube tip 3.5 cm above the carina;no effusion']
    """
    return [part.strip() for part in _ENDS.split(report) if part.strip()]


class Corpus:
    """The different sentences of some reports, and which report has which.

    Args:
        texts: one report an image; missing or empty ones have no sentences.
        split: a report into its sentences.

    Attributes:
        sentences: sorted, each once.
        reports: different sets of sentences, as tuples of positions in ``sentences``.
        own: ``(n,)`` position of each image's report in ``reports``; -1 without one.
    """

    def __init__(self, texts: Sequence[object], split: Callable[[str], list[str]] = sentences_of) -> None:
        parts = [[] if text is None or pd.isna(text) else split(str(text)) for text in texts]  # type: ignore[call-overload]
        self.sentences = sorted({sentence for report in parts for sentence in report})
        position = {sentence: i for i, sentence in enumerate(self.sentences)}
        sets = [tuple(sorted({position[sentence] for sentence in report})) for report in parts]
        self.reports = sorted(set(sets) - {()})
        place = {report: i for i, report in enumerate(self.reports)}
        self.own = np.array([place.get(report, -1) for report in sets], dtype=np.int64)

    def drawn(self, own: np.ndarray, limit: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Sentences to hold some images against: all if there are few, else the images' own and others at random.

        Args:
            own: ``(b,)`` reports of the images.
            limit: sentences at most.
            draw: what is left to chance.

        Returns:
            ``(s,)`` positions of sentences, ``(b, s)`` float32 1 where the report has the sentence.
        """
        reports = [self.reports[i] for i in own]
        count = len(self.sentences)
        chosen = np.arange(count)
        if count > limit:
            mine = np.unique(np.concatenate([np.asarray(report) for report in reports]))
            if len(mine) > limit:
                mine = draw.choice(mine, limit, replace=False)
            others = draw.choice(count, limit - len(mine), replace=False)
            chosen = np.unique(np.concatenate([mine, others]))
        column = np.full(count, -1)
        column[chosen] = np.arange(len(chosen))
        positive = np.zeros((len(own), len(chosen)), dtype=np.float32)
        for row, report in enumerate(reports):
            columns = column[list(report)]
            positive[row, columns[columns >= 0]] = 1
        return chosen, positive
