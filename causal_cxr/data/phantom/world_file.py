"""What a world file may say. ``docs/worlds.md`` has an example of every key."""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from causal_cxr.data.phantom.grammar import Mention
from causal_cxr.data.phantom.mechanisms import Mechanism
from causal_cxr.graphs import Value


class _Block(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True, allow_inf_nan=False
    )


class Confounding(_Block):
    """A latent common cause of two attributes: a standard normal, added to both scores.

    Attributes:
        pair: the two attributes.
        strength: weight in the score of each.
    """

    pair: tuple[str, str]
    strength: tuple[float, float] = (1.0, 1.0)


class Selection(_Block):
    """Which images enter the collection.

    Attributes:
        probability_of: a mechanism of two levels: the probability that an image is collected.
        declared: whether the dataset's owner knows of it, so that the declared graph has ``selected_on``.
    """

    probability_of: Mechanism
    declared: bool = True


class Declared(_Block):
    """What the owner's graph says where that is not the truth; a key that is left out says the truth."""

    edges: list[tuple[str, str]] | None = None
    confounded: list[tuple[str, str]] | None = None


class Shown(_Block):
    """How an attribute shows: ``{draws: cardiothoracic_ratio, as: [0.44, 0.57], spread: 0.02}``.

    Attributes:
        draws: a name in :data:`~causal_cxr.data.phantom.radiograph.DRAWABLES`.
        forms: (``as`` in the file) what is drawn: one an attribute's level (numbers, or names of the drawable's levels), or
            for a continuous attribute at the two ends of its range, straight in between. The attribute's own codes unless
            given.
        spread: SD around it, for drawables that are numbers: images of one level differ.
    """

    draws: str
    forms: tuple[float | str, ...] | None = Field(default=None, validation_alias="as", serialization_alias="as")
    spread: float = Field(default=0.0, ge=0)


class Background(_Block):
    """A drawable that goes with no attribute: its mean and SD over images."""

    value: float | str
    spread: float = Field(default=0.0, ge=0)


class Patients(_Block):
    """What the images of a patient share.

    Attributes:
        images: a patient has from the first to the second number of images, evenly spread; 1 to 12.
        same: attributes whose noise is one draw a patient.
        shared: attribute -> share of its noise's variance that a patient's images have in common (a random effect).
        anatomy: correlation of the body between images of a patient.
    """

    images: tuple[int, int] = (1, 3)
    same: tuple[str, ...] = ()
    shared: dict[str, float] = {}
    anatomy: float = Field(default=0.9, ge=0, le=1)

    @field_validator("images")
    @classmethod
    def _in_order(cls, images: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= images[0] <= images[1] <= 12:
            raise ValueError(f"a patient has 1 to 12 images, got {list(images)}; write [1, 3].")
        return images

    @field_validator("shared")
    @classmethod
    def _shares(cls, shared: dict[str, float]) -> dict[str, float]:
        for name, share in shared.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name!r} shares {share} of its noise; give a number in [0, 1].")
        return shared


class Reports(_Block):
    """How often the reports speak of things.

    Attributes:
        present, absent: how often a thing that shows, and the absence of one, is mentioned.
        mentions: attribute -> its own ``{present, absent}``.
    """

    present: float = Field(default=0.9, ge=0, le=1)
    absent: float = Field(default=0.3, ge=0, le=1)
    mentions: dict[str, Mention] = {}


class WorldFile(_Block):
    """The keys of a world file; all but ``name``, ``graph`` and ``mechanisms`` may be left out.

    Attributes:
        name: of the world; begins the patients' names.
        story: what it is about, with the literature.
        graph: the true graph, hidden attributes included: the block that :meth:`CausalGraph.from_dict` reads. Its edges
            among attributes may be left out: the mechanisms say them; so may those into the image: ``shows`` says them.
        metadata: attributes that have a column; all that are not marked ``hidden: true`` unless given.
        mechanisms: attribute -> how it comes about.
        confounding: how strong the latent common causes are; each pair may stand here or in ``graph: confounded``.
        selection: on what the collection was selected.
        declared: where the owner's graph departs from the truth.
        shows: attribute -> how it is drawn (several ways: a list; ``null``: not at all). An attribute that has the name of
            a drawable shows as that unless said otherwise.
        scene: drawable -> mean and spread, for what goes with no attribute.
        missing: attribute -> how often its column is empty: a probability, or a mechanism of two levels.
        label_noise: attribute -> how often its column is wrong: ``{level: probability}`` (then another level stands there),
            or for numbers the SD of the error.
        patients: what images of a patient share.
        coupling: of unrevealed noise between an image and its counterfactuals: ``monotone`` (one uniform an attribute, the
            level rises with its probability), ``gumbel`` (Gumbel-max), ``independent`` (drawn anew where the probabilities
            change).
        reports: how often reports speak of things.
        shifts: attribute -> shift that audits ask of a continuous attribute; a quarter of its range unless given.
    """

    name: str
    story: str = ""
    graph: dict[str, Any]
    metadata: list[str] | None = None
    mechanisms: dict[str, Mechanism]
    confounding: list[Confounding] = []
    selection: Selection | None = None
    declared: Declared = Declared()
    shows: dict[str, Shown | list[Shown] | None] = {}
    scene: dict[str, Background] = {}
    missing: dict[str, float | Mechanism] = {}
    label_noise: dict[str, float | dict[Value, float]] = {}
    patients: Patients = Patients()
    coupling: Literal["monotone", "gumbel", "independent"] = "monotone"
    reports: Reports = Reports()
    shifts: dict[str, float] = {}

    @field_validator("name")
    @classmethod
    def _one_word(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"{name!r} is no name of a world; write letters, digits, '-', '_' and '.': my-world.")
        return name
