"""``causal-cxr audit SPEC.yaml``: an audit written down in one file."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from causal_cxr.audits.specs.block import Block, SpecError
from causal_cxr.audits.specs.datasets import LabelsBlock
from causal_cxr.audits.specs.specification import Specification
from causal_cxr.readers.reader import Reader

if TYPE_CHECKING:
    from causal_cxr.audits.report import Report
    from causal_cxr.audits.unnamed import UnnamedSearch


class UnnamedBlock(Block):
    """A search for concepts without a name, see :class:`~causal_cxr.audits.UnnamedSearch`.

    Attributes:
        features: which of the ``readers`` lends its features: one of ``type: clip``, or your own that has them.
        phrases: which of the ``readers`` names the nearest phrases: one of ``type: clip``.
        without: concepts whose names are withheld.
        local: whether to look place by place, too.
        resamples: halves of the patients on which the search is done anew.
    """

    features: str
    phrases: str | None = None
    without: list[str] = Field(default_factory=list)
    local: bool = True
    resamples: int = Field(default=10, ge=2, multiple_of=2)


class TrialsBlock(Block):
    """What is tried of editors beside the audit's own edits, see :class:`~causal_cxr.audits.Trials`."""

    composed: int = Field(default=32, gt=0)
    reversed: int = Field(default=32, gt=0)
    doses: list[float] = Field(default_factory=list)
    dosed: int = Field(default=32, gt=0)


class StoppingBlock(Block):
    """Edits that stop where verdicts stand, see :class:`~causal_cxr.audits.Anytime`."""

    check_every: int = Field(default=1, gt=0)
    images_per_patient: int | None = Field(default=1, gt=0)


class DiscoveryBlock(Block):
    """A search of the unedited images' table, see :class:`~causal_cxr.audits.TableSearch`."""

    method: Literal["fci", "pc", "ges"] = "fci"
    resamples: int = Field(default=20, gt=0)
    least_frequency: float = Field(default=0.5, ge=0, le=1)
    alpha: float = Field(default=0.01, gt=0, lt=1)
    depth: int | None = Field(default=3, ge=0)
    calls: bool = False


class AuditSpec(Specification):
    """What ``SPEC.yaml`` may say of an audit, beside what :class:`Specification` has.

    Attributes:
        concepts: names to keep of what the readers read; all unless given.
        smallest_effect: delta, the risk difference that matters.
        labelled_outcomes: decide about what attributes do to each other, too.
        unnamed: look for concepts that no reader has a name for, too.
        trials: how many images are edited back and at other doses, see :class:`~causal_cxr.audits.Trials`.
        steps: other shifts of continuous attributes to ask for, as multiples.
        may_touch: attribute -> regions that its edit may change (``corners``, ``border``, ``markers``, ``lettering``).
        observational: set estimators side by side on unedited images, refute them, and test the graph.
        discovery: search the table too, and join declaration, table and edits in one graph, see
            :class:`~causal_cxr.audits.TableSearch`; ``{}`` for its defaults.
        labels: what is known of concepts in some images; adjusted and marginal effects then rest on these, too.
        stopping: stop editing where verdicts stand, see :class:`~causal_cxr.audits.Anytime`; ``{}`` for its defaults.
    """

    concepts: list[str] | None = None
    smallest_effect: float = Field(default=0.10, gt=0, lt=1)
    labelled_outcomes: bool = False
    unnamed: UnnamedBlock | None = None
    trials: TrialsBlock = TrialsBlock()
    steps: list[float] = Field(default_factory=list)
    may_touch: dict[str, list[Literal["corners", "border", "markers", "lettering"]]] | None = None
    observational: bool = False
    discovery: DiscoveryBlock | None = None
    labels: LabelsBlock | None = None
    stopping: StoppingBlock | None = None

    def run(self) -> "Report":
        """Carry the audit out; see :meth:`causal_cxr.audits.Audit.run`.

        Raises:
            SpecError: a model that cannot be opened as the file says, an unsuited reader of a search.
        """
        from causal_cxr.audits.anytime import Anytime
        from causal_cxr.audits.audit import Audit
        from causal_cxr.audits.table_search import TableSearch
        from causal_cxr.audits.trials import Trials

        graph = self.open_graph()
        dataset, readers, editors = self.open_dataset(graph), self.open_readers(), self.open_editors(graph)
        audit = Audit(
            graph, readers, interventions=self.contrasts(graph), alpha=self.alpha,
            smallest_effect=self.smallest_effect, n_edited=self.n_edited, concepts=self.concepts,
            labelled_outcomes=self.labelled_outcomes, unnamed=self.search(readers),
            trials=Trials(**{**dict(self.trials), "doses": tuple(self.trials.doses)}),
            steps=self.steps, may_touch=self.may_touch, observational=self.observational,
            discovery=None if self.discovery is None else TableSearch(**dict(self.discovery)),
            stopping=None if self.stopping is None else Anytime(**dict(self.stopping)),
        )  # fmt: skip
        labels = None if self.labels is None else self.labels.of(dataset)
        return audit.run(editors, dataset, seed=self.seed, batch_size=self.batch_size, out=self.out, labels=labels)

    def search(self, readers: Sequence[Reader]) -> "UnnamedSearch | None":
        """The search for concepts without a name, if there is to be one.

        Args:
            readers: in the order of the file.

        Raises:
            SpecError: no such reader, or one that lends no features or phrases.
        """
        from causal_cxr.audits.unnamed import UnnamedSearch
        from causal_cxr.readers import ComponentSearch, OrientedGradients

        if self.unnamed is None:
            return None
        by_name = dict(zip(self.readers, readers, strict=True))

        def lent(key: str, name: str, method: str) -> Any:
            reader = by_name.get(name)
            if reader is None or not callable(getattr(reader, method, None)):
                able = [n for n, r in by_name.items() if callable(getattr(r, method, None))]
                raise SpecError(f"unnamed.{key}: {name!r} is no reader that has {method}; choose from {able}.")
            return reader

        phrases = self.unnamed.phrases
        return UnnamedSearch(
            lent("features", self.unnamed.features, "features"), ComponentSearch(resamples=self.unnamed.resamples),
            phrases=None if phrases is None else lent("phrases", phrases, "margins"), without=frozenset(self.unnamed.without),
            local=OrientedGradients() if self.unnamed.local else None,
        )  # fmt: skip
