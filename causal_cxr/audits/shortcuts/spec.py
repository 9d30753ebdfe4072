"""``causal-cxr shortcuts SPEC.yaml``: a shortcut audit written down in one file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from causal_cxr.audits.shortcuts.classifiers import ClassifierBlock, open_classifier
from causal_cxr.audits.shortcuts.decisions import Rule
from causal_cxr.audits.specs.block import SpecError
from causal_cxr.audits.specs.specification import Specification
from causal_cxr.data.yaml_file import BadKey

if TYPE_CHECKING:
    from causal_cxr.audits.report import Report
    from causal_cxr.audits.shortcuts.report import ShortcutReport

Share = Annotated[float, Field(gt=0, lt=1)]


class ShortcutSpec(Specification):
    """What ``SPEC.yaml`` may say of a shortcut audit, beside what :class:`Specification` has.

    See :class:`~causal_cxr.audits.ShortcutAudit` for what the declarations mean.

    Attributes:
        target: labelled ``binary`` attribute that the models predict.
        models: name -> classifier.
        manifestations: attributes or concepts that the target shows as: they are legitimate.
        carriers: attribute -> hidden concepts that may carry its reliance.
        report: folder of a finished audit of the same data, whose revealed edges name the candidate carriers of the other
            attributes.
        threshold: of the decision: a probability, one a model, ``youden`` or ``prevalence``.
        prevalence: of the target, for ``threshold: prevalence``.
        smallest_effect: delta, a change of the predicted probability that counts.
        largest_leak: a change of a manifestation that counts.
    """

    target: str
    models: dict[str, ClassifierBlock] = Field(min_length=1)
    manifestations: list[str] = Field(default_factory=list)
    carriers: dict[str, list[str]] = Field(default_factory=dict)
    report: Path | None = None
    threshold: Share | Rule | dict[str, Share] = "youden"
    prevalence: Share | None = None
    smallest_effect: Share = 0.05
    largest_leak: Share = 0.10

    def check(self) -> None:
        """See :meth:`Specification.check`.

        Raises:
            BadKey: also: a target that is no labelled ``binary`` attribute, carriers of what is not labelled, thresholds of
                other models.
        """
        from causal_cxr.audits.shortcuts.audit import refuse_target

        super().check()
        graph = self.open_graph()
        try:
            refuse_target(graph, self.target)
        except ValueError as problem:
            raise BadKey(("target",), str(problem)) from None
        for attribute in self.carriers:
            if attribute not in graph.labelled:
                said = f"{attribute!r} is no labelled attribute; those are {list(graph.labelled)}."
                raise BadKey(("carriers", attribute), said)
        if isinstance(self.threshold, dict) and set(self.threshold) != set(self.models):
            raise BadKey(("threshold",), f"names {sorted(self.threshold)}; the models are {sorted(self.models)}.")

    def run(self) -> "ShortcutReport":
        """Carry the audit out; see :meth:`causal_cxr.audits.ShortcutAudit.run`.

        Raises:
            SpecError: a model that cannot be opened as the file says, no audit where ``report`` says.
        """
        from causal_cxr.audits.shortcuts.audit import ShortcutAudit

        graph, report = self.open_graph(), self.open_report()
        models = {name: open_classifier(f"models.{name}", block, self.target) for name, block in self.models.items()}
        audit = ShortcutAudit(
            graph, self.target, self.open_readers(), manifestations={self.target: self.manifestations},
            interventions=self.contrasts(graph), alpha=self.alpha, smallest_effect=self.smallest_effect,
            largest_leak=self.largest_leak, threshold=self.threshold, prevalence=self.prevalence,
            carriers=self.carriers, n_edited=self.n_edited,
        )  # fmt: skip
        return audit.run(
            models, self.open_editors(graph), self.open_dataset(graph), seed=self.seed, out=self.out,
            batch_size=self.batch_size, report=report,
        )  # fmt: skip

    def open_report(self) -> "Report | None":
        """The finished audit, if one is named.

        Raises:
            SpecError: there is none.
        """
        from causal_cxr.audits.report import Report

        try:
            return None if self.report is None else Report.load(self.report)
        except FileNotFoundError as problem:
            raise SpecError(f"report: {problem}") from None
