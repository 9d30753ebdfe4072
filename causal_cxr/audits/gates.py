"""Gates: what must hold before a verdict is asked for. Where one does not, the refusal has a type and says why."""

from typing import NamedTuple

#: Why a cell is undecided -> what would mend it.
REFUSALS = {
    "reader unknown": "judge a reader of this concept on labelled patients",
    "reader inseparable": "judge the reader on images at both levels of the attribute that are labelled for the concept",
    "reader follows": "a reader fitted where concept and attribute are independent, or two readers that share nothing",
    "reader blind": "a reader with a higher slope: more labels, more pixels",
    "readers differ": "look at the gallery: the readers do not see the same thing",
    "no edits": "an editor that can set the attribute, and whose edits are accepted",
    "editor not effective": "a longer fit, guidance that is calibrated (editors.diffusion.calibrated), or another editor",
    "declared cause": "ask what the concept does to the attribute instead",
    "not identifiable": "measure the common cause, or use an instrument",
    "no overlap": "images of patients who could have had either level",
    "too few": "more images of the rarer level",
    "asymmetric": "look at the gallery: appearing and disappearing are not mirror images here",
    "graph falsified": "mend the declared graph where the table contradicts it",
    "opposite signs": "look at the gallery: the editor and the unadjusted association disagree",
    "correction": "ask about fewer cells, or of more patients",
    "more patients": "more patients, as many as are told",
    "border": "a smallest effect that is further from the estimate; more patients would not help",
}


class Gate(NamedTuple):
    """One that failed.

    Attributes:
        kind: of :data:`REFUSALS`.
        reason: in words, names and numbers included.
    """

    kind: str
    reason: str
