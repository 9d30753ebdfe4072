"""Editors and readers as a specification names them, and how each is opened."""

import importlib
import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field

from causal_cxr.audits.specs.block import Block, SpecError
from causal_cxr.graphs import CausalGraph

if TYPE_CHECKING:
    from causal_cxr.readers.concepts import Concept

EDITORS = ("diffusion", "scm")
READERS = ("clip", "probe", "measure", "xrv", "flamingo")
#: What is also opened as others publish it, and what may be said about it.
PUBLISHED = {"diffusion": {"template", "variant", "revision"}, "clip": {"bank", "names", "regions", "revision"}}

Target = Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]  #: ``module:function``


class ModelBlock(Block):
    """A saved editor or reader (``path``), the shipped one (no ``path``), or your own.

    ``type: diffusion`` also opens text-to-image pipelines as they are published, in a folder (``path``) or on the hub
    (``hub: owner/name``); captions then name what the graph does, and ``options`` may hold ``template``, ``variant`` and
    ``revision``. An ``adapter``, a folder that ``causal-cxr finetune`` wrote, is merged into the pipeline that it was fitted to, the
    shipped base unless ``path`` or ``hub`` is given.

    ``type: clip`` also opens open_clip's checkpoints, in a folder or on the hub; ``options`` then say what to read: ``bank``
    (``phantom``, ``radiographs`` or a YAML file), ``names`` of it (all unless given), ``regions`` and ``revision``.

    ``type: measure``, ``xrv`` and ``flamingo`` open what these readers' ``save`` wrote.

    ``type: python`` calls ``target: "module:function"`` with ``options`` as keywords; the module may lie beside the file.
    """

    type: Literal["diffusion", "scm", "clip", "probe", "measure", "xrv", "flamingo", "python"]
    path: Path | None = None
    adapter: Path | None = None
    hub: str | None = Field(default=None, pattern=r"^\w[\w.-]*/\w[\w.-]*$")
    target: Target | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    def beside(self, folder: Path) -> Self:
        """See :meth:`Block.beside`; a bank that is a file is a path, too."""
        moved = super().beside(folder)
        if not str(self.options.get("bank", "")).endswith((".yaml", ".yml")):
            return moved
        return moved.model_copy(update={"options": self.options | {"bank": folder / self.options["bank"]}})

    def mistake(self, suited: Collection[str]) -> tuple[str, str] | None:
        """The key that is wrong where a model of these types is awaited, and why; None where all is well."""
        if self.type == "python":
            if not self.target:
                return "target", "type: python needs target: module:function."
            for key in ("path", "hub", "adapter"):
                if getattr(self, key) is not None:
                    return key, f"{key}: is not for type: python; give it to {self.target} among its options:."
            return None
        if self.type not in suited:
            return "type", f"type {self.type!r} does not suit here; use one of {[*suited, 'python']}."
        if self.target:
            return "target", (
                f"target: is for type: python, and type: {self.type} would not call {self.target}; write type: python, or "
                "leave target: out."
            )
        if self.path and self.hub:
            return "hub", f"path: and hub: name two models, {self.path} and {self.hub}; leave one out."
        allowed = PUBLISHED.get(self.type, set()) if self.path or self.hub else set()
        unknown = sorted(set(self.options) - allowed)
        if unknown:
            return "options", f"type: {self.type} has no options {unknown} here; there are {sorted(allowed)}."
        if self.adapter and self.type != "diffusion":
            return "adapter", f"adapter: is for diffusion; give path: the folder of a saved {self.type} model."
        if self.hub and self.type not in PUBLISHED:
            published = " and ".join(PUBLISHED)
            return "hub", f"hub: is for {published}; give path: the folder of a saved {self.type} model."
        return None


def open_model(name: str, block: ModelBlock, suited: Collection[str], graph: CausalGraph | None = None) -> Any:
    """The editor or reader.

    Args:
        name: for messages.
        block: what the file says.
        suited: types that may stand there, beside ``python``.
        graph: whose attributes captions name.

    Raises:
        SpecError: a model of another type, a key or an option that its type has not, two places at once, none that ships, no
            such function.
    """
    mistake = block.mistake(suited)
    if mistake is not None:
        raise SpecError(f"{name}: {mistake[1]}")
    if block.target is not None and block.type == "python":
        return call(name, block.target, block.options)
    model = _class(block.type)
    if block.type == "diffusion" and (block.path or block.hub):
        return model.from_pretrained(block.path or block.hub, adapter=block.adapter, graph=graph, **block.options)
    if block.adapter:
        return model.from_shipped("diffusion-base").adapted(block.adapter)
    if block.type == "clip" and (block.path or block.hub):
        return model.from_pretrained(block.path or f"hf-hub:{block.hub}", _asked(block.options), **_rest(block.options))
    if block.path:
        return model.from_pretrained(block.path)
    if not hasattr(model, "from_shipped"):
        raise SpecError(f"{name}: no {block.type} model ships; give path: the folder of a saved one.")
    return model.from_shipped()


def call(name: str, target: str, options: Mapping[str, Any]) -> Any:
    """What a function of the user's gives.

    Args:
        name: for messages.
        target: ``module:function``.
        options: its keywords.

    Raises:
        SpecError: no such module or function, or one that does not take these options.
    """
    module, function = target.split(":")
    try:
        called = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as problem:
        if not f"{module}.".startswith(f"{problem.name}."):
            raise  # one that the user's own module imports
        raise SpecError(
            f"{name}: target: there is no module {module!r}; let {module}.py lie beside the file, or install it."
        ) from None
    if not callable(called):
        raise SpecError(f"{name}: target: the module {module!r} has no function {function!r}; correct the name.")
    try:
        inspect.signature(called).bind(**options)
    except TypeError as problem:
        raise SpecError(f"{name}: options: {function} cannot be called so: {problem}.") from None
    return called(**options)


def _class(kind: str) -> Any:
    from causal_cxr import editors, readers

    return {
        "diffusion": editors.DiffusionEditor, "scm": editors.SCMEditor, "clip": readers.CLIPReader,
        "probe": readers.ProbeReader, "measure": readers.MeasureReader, "xrv": readers.XRVReader,
        "flamingo": readers.FlamingoReader,
    }[kind]  # fmt: skip


def _asked(options: dict[str, Any]) -> "tuple[Concept, ...] | None":
    from causal_cxr.readers import load_concepts

    return load_concepts(options.get("names"), bank=options["bank"]) if "bank" in options else None


def _rest(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in ("bank", "names")}
