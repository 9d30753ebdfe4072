"""What is known of the unedited images: their table, and their scores by the best reader of each concept."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from causal_cxr.data.dataset import Dataset
from causal_cxr.readers.reader import Reader


@dataclass(frozen=True)
class Unedited:
    """The images that could be read, as the rows of three tables in one order.

    Attributes:
        table: ``n`` rows of attributes.
        patients: ``(n,)`` ids.
        scores: ``n`` rows, a column a concept, in [0, 1].
        reads: concept of ``scores`` -> the labelled attribute that it reads; the others are candidate hidden attributes.
        readers: concept of ``scores`` -> the name of the reader whose scores they are, where it is one of an audit's.
    """

    table: pd.DataFrame
    patients: pd.Series
    scores: pd.DataFrame
    reads: dict[str, str]
    readers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_audit(
        cls, dataset: Dataset, measurements: pd.DataFrame, edges: pd.DataFrame, readers: Iterable[Reader]
    ) -> "Unedited":
        """Take each concept from the reader that an audit chose for it most often.

        Args:
            dataset: audited.
            measurements: of the audit.
            edges: of the audit; concepts of other readers than these are left out.
            readers: with the names that measurements and edges know them by.
        """
        readers = tuple(readers)
        factual = measurements[(measurements["kind"] == "factual") & measurements["accepted"]].sort_values("row")
        named = edges[edges["reader"].isin([reader.name for reader in readers])]
        best = named.groupby("concept", sort=False)["reader"].agg(lambda chosen: chosen.mode()[0])
        scores = {str(concept): factual[f"{reader}/{concept}"].to_numpy(float) for concept, reader in best.items()}
        shown = {c.name: c.attribute for reader in readers for c in reader.concepts if c.attribute is not None}
        return cls(
            dataset.attributes.iloc[factual["row"]].reset_index(drop=True),
            factual["patient"].reset_index(drop=True),
            pd.DataFrame(scores, index=range(len(factual))),
            {name: shown[name] for name in scores if name in shown},
            {str(concept): str(reader) for concept, reader in best.items()},
        )
