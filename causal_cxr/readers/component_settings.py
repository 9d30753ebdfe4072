"""What counts as a component without a name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ComponentSearch:
    """How components are looked for, and which are kept.

    Attributes:
        components: principal components of the features; at most one for every ten unedited images.
        atoms: of each dictionary.
        penalty: of its codes.
        resamples: halves of the patients on which everything is done anew, in complementary pairs.
        selected: least share of the halves in which a component is found again (0.5 to 1).
        smallest_effect: a component counts as moved from this change of its prevalence on.
        separation: least squared Mahalanobis distance of present and absent; 5 is an AUROC of 0.94.
        crisp: the same, of a sign found in a place; 20 is an AUROC of 0.999.
        valley: of a sign found in a place, the most images that may lie between present and absent; see
            :func:`~causal_cxr.readers.places.valley`.
        trace: a sign has not come or gone but moved or changed its look, if images in which an intervention shows (hides)
            it can be told by this AUROC from others where it is (is not) there either.
        kinds: images in which an intervention takes a sign away are told by this AUROC from those in which it leaves it: then
            it is two signs in one.
        explained: a sign of whose variance the labelled attributes, and what reads them, explain this share is how they look.
        wholly: a sign that an intervention moves in this share of images is how the attribute that it sets looks.
        named: correlation with the scores of a named concept from which a sign is that concept.
        exclusive: a sign that shows at one level of an attribute this much more rarely than at the other is how that
            attribute looks (as the side of an effusion); so is, for want of a difference, a device that never comes without it.
        rarest: least prevalence of either class.
    """

    components: int = 100
    atoms: int = 12
    penalty: float = 0.1
    resamples: int = 10
    selected: float = 0.5
    smallest_effect: float = 0.10
    separation: float = 5.0
    crisp: float = 20.0
    valley: float = 0.3
    trace: float = 0.7
    kinds: float = 0.75
    explained: float = 0.7
    wholly: float = 0.9
    named: float = 0.8
    exclusive: float = 0.05
    rarest: float = 0.03

    def __post_init__(self) -> None:
        if self.resamples < 2 or self.resamples % 2:
            raise ValueError(
                f"Resamples are complementary halves, so an even number of at least 2, not {self.resamples}."
            )
        if not 0.5 <= self.selected <= 1:
            raise ValueError(f"selected is a share of the resamples from 0.5 to 1, got {self.selected}.")
