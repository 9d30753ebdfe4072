"""Audited classifiers as a specification names them, and how each is opened.

There is no ``type`` for pickled scikit-learn models or TorchScript programs: to use such a file is to run code of whoever made
it. Who trusts one opens it in a function of their own (``type: python``).
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from causal_cxr.audits.shortcuts.predictors import Predictor, Scale, as_predictor
from causal_cxr.audits.specs.block import Block, SpecError
from causal_cxr.audits.specs.models import Target, call
from causal_cxr.data.folder import as_ids, read_table  # or the same patient would have two spellings


class PatientsBlock(Block):
    """A column of a table that names patients, spelt as :class:`~causal_cxr.data.FolderDataset` spells them."""

    csv: Path
    patient: str

    def open(self, name: str) -> frozenset[str]:
        """The patients.

        Raises:
            SpecError: no such file or column.
        """
        try:
            table = read_table(self.csv, ids=(self.patient,))
        except FileNotFoundError:
            raise SpecError(
                f"{name}: fitted_on: {self.csv} does not exist; give the table of those patients."
            ) from None
        if self.patient not in table:
            raise SpecError(f"{name}: fitted_on: {self.csv} has no column {self.patient!r}; it has {list(table)}.")
        return frozenset(as_ids(table[self.patient].dropna()))


class _Classifier(Block):
    """Of any classifier.

    Attributes:
        output: which of its outputs is the target, counted from 0, in place of a name.
        fitted_on: patients that it was trained on, or where they are written down; ``[]`` = none of any data that is
            audited; unknown unless given.
    """

    output: int | None = None
    fitted_on: list[str] | PatientsBlock | None = None

    def known(self, name: str) -> dict[str, Any]:
        """What :func:`as_predictor` is told of these."""
        given = self.fitted_on
        seen = given.open(name) if isinstance(given, PatientsBlock) else None if given is None else frozenset(given)
        return {key: value for key, value in (("output", self.output), ("fitted_on", seen)) if value is not None}


class PythonClassifier(_Classifier):
    """Your own: ``target: "module:function"`` is called with ``options`` as keywords and gives anything that
    :func:`~causal_cxr.audits.as_predictor` takes, or what it gives. The module may lie beside the file.

    Attributes:
        scale: of its scores: ``probability`` (unless given), ``logit`` or ``softmax``.
        classes: names of its outputs, in order, where the model does not say so itself.
    """

    type: Literal["python"]
    target: Target
    options: dict[str, Any] = Field(default_factory=dict)
    scale: Scale | None = None
    classes: list[str | int] | None = None

    def open(self, name: str) -> Any:
        """The model; what goes wrong in the function itself is not caught."""
        return call(name, self.target, self.options)

    def known(self, name: str) -> dict[str, Any]:
        """What :func:`as_predictor` is told."""
        said = {"scale": self.scale, "classes": self.classes}
        return super().known(name) | {key: value for key, value in said.items() if value is not None}


class XRVBlock(_Classifier):
    """torchxrayvision's classifier in a weight file, see :class:`~causal_cxr.audits.shortcuts.xrv.XRVClassifier`.

    Attributes:
        path: safetensors or a state dict; files as torchxrayvision publishes them are converted first
            (:mod:`causal_cxr.readers.xrv_weights`).
        weights: torchxrayvision's name for them, as ``densenet121-res224-all``. Or else:
        pathologies: what each output predicts, in order; an empty name = not trained.
        size: pixels a side that it was trained at; as published, else 224.
    """

    type: Literal["xrv"]
    path: Path
    weights: str | None = None
    pathologies: list[str] | None = None
    size: int | None = Field(default=None, gt=0)

    def open(self, name: str) -> Any:
        """The model.

        Raises:
            SpecError: no file of weights, others than are awaited, or torchxrayvision is missing.
        """
        from causal_cxr.audits.shortcuts.xrv import XRVClassifier

        try:
            return XRVClassifier.from_weights(self.path, self.weights, pathologies=self.pathologies, size=self.size)
        except (ValueError, FileNotFoundError, ImportError) as problem:
            raise SpecError(f"{name}: {problem}") from None


ClassifierBlock = Annotated[PythonClassifier | XRVBlock, Field(discriminator="type")]


def open_classifier(name: str, block: PythonClassifier | XRVBlock, target: str) -> Predictor:
    """The model of a target, loaded.

    Args:
        name: for messages.
        block: what the file says.
        target: attribute that it predicts.

    Raises:
        SpecError: it cannot be opened, is no model, or has no output of that name.
    """
    model, known = block.open(name), block.known(name)
    try:
        return as_predictor(model, target, **known)
    except (ValueError, TypeError) as problem:
        raise SpecError(f"{name}: {problem}") from None
