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
    rows = zip(*columns, strict=True) if columns else [()] * len(table)
    return [TEMPLATE.format(" , ".join(p for p in phrases if p)) for phrases in rows]
