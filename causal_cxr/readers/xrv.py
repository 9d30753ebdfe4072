"""``XRVReader``: reads findings with the classifiers of torchxrayvision (Cohen et al., MIDL 2022, arXiv:2111.00595)."""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.patients import pack, unpack
from causal_cxr.data.whole_file import whole_file, write_json
from causal_cxr.graphs import Binary, CausalGraph
from causal_cxr.readers.calibration import Calibration, calibrated_on
from causal_cxr.readers.concepts import Concept, concept_from_dict
from causal_cxr.readers.features import resized
from causal_cxr.readers.images import check_images
from causal_cxr.readers.quality import ReaderQuality
from causal_cxr.readers.xrv_weights import SIZE, build_network, head_of, published, read_weights

READER, MODEL = "reader.json", "model.safetensors"
BATCH = 32
RANGE = 1024.0  #: torchxrayvision's pixels go from -1024 (black) to 1024 (white)

#: Names that graphs give to what torchxrayvision calls otherwise.
ALSO: Mapping[str, tuple[str, ...]] = {
    "effusion": ("pleural_effusion",),
    "edema": ("pulmonary_edema", "oedema"),
    "infiltration": ("infiltrate",),
}


class XRVReader:
    """Scores are sigmoids of the classifier's logits, calibrated once labelled patients are at hand.

    torchxrayvision's own outputs are bent so that each operating point (``op_threshs``) comes to lie at 0.5: they order
    images as the logits do, but are no probabilities. Nor are the plain sigmoids: their networks were trained on pooled
    datasets, so that 0.05 may well mean "present". Use :meth:`calibrated` before believing a score or a slope.

    Args:
        network: images ``(n, 1, size, size)`` in [-1024, 1024] -> ``(n, outputs)`` logits.
        concepts: output -> what it reads; outputs that are not named are not read. See :func:`pathology_concepts`.
        size: pixels a side that the network was trained at.
        calibration: of the logits, by concept; unless given, scores are ``sigmoid(logit)``.
        name: of this reader in an audit.
        fitted_on: patients that the network and the calibration were fitted on; ``None`` = unknown, which reports say. Pass
            ``frozenset()`` where it is known that the network has seen none of the dataset at hand.
        quality: on other patients.

    Raises:
        ValueError: no concept, two of one name, or an output that the network has not.
    """

    def __init__(
        self,
        network: nn.Module,
        concepts: Mapping[int, Concept],
        *,
        size: int = SIZE,
        calibration: Calibration | None = None,
        name: str = "xrv",
        fitted_on: frozenset[str] | None = None,
        quality: ReaderQuality | None = None,
    ) -> None:
        self.network, self.size, self.name, self.calibration = network.eval(), size, name, calibration
        self.outputs, self.concepts = tuple(concepts), tuple(concepts.values())
        self.names = [concept.name for concept in self.concepts]
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"A reader needs concepts, each of its own name; these are {self.names}.")
        wrong = [output for output in self.outputs if not 0 <= output < head_of(network).out_features]
        if wrong:
            raise ValueError(f"The network has {head_of(network).out_features} outputs; it has none at {wrong}.")
        self.fitted_on = fitted_on
        self.quality = quality or ReaderQuality.unknown(self.concepts)
        self.fingerprint = self._digest()

    @classmethod
    def from_weights(
        cls,
        file: str | Path,
        weights: str | None = None,
        *,
        pathologies: Sequence[str] | None = None,
        size: int | None = None,
        graph: CausalGraph | None = None,
        concepts: Mapping[str, Concept] | None = None,
        name: str = "xrv",
        fitted_on: frozenset[str] | None = None,
    ) -> "XRVReader":
        """A classifier from a weight file; nothing is downloaded.

        Args:
            file: safetensors or a state dict. Files as torchxrayvision publishes them are converted first, see
                :mod:`causal_cxr.readers.xrv_weights`.
            weights: torchxrayvision's name for these weights, as ``"densenet121-res224-all"``: it says which output is
                what. Or else:
            pathologies: what each output predicts, in order; an empty name = not trained.
            size: pixels a side that it was trained at; as published, else 224.
            graph: findings that are its labelled attributes are read as those, see :func:`pathology_concepts`.
            concepts: pathology -> concept, in place of those made from the names; others are not read.
            name, fitted_on: see the class.

        Raises:
            FileNotFoundError: there is no such file.
            ImportError: ``weights`` is given and torchxrayvision is missing.
            ValueError: a pickled module; weights of another network; not one of ``weights`` and ``pathologies``; more or
                fewer names than outputs; a concept for an unknown pathology.
        """
        if (weights is None) == (pathologies is None):
            raise ValueError(
                "Say what the outputs are by either weights='densenet121-res224-all' or pathologies=[...]."
            )
        labels, trained_at = published(weights) if weights is not None else (tuple(pathologies or ()), SIZE)
        _, network = build_network(read_weights(file))
        outputs = head_of(network).out_features
        if len(labels) != outputs:
            raise ValueError(f"{file} has {outputs} outputs, there are {len(labels)} names: {list(labels)}.")
        chosen = pathology_concepts(labels, graph) if concepts is None else concepts
        unknown = sorted(set(chosen) - set(filter(None, labels)))
        if unknown:
            raise ValueError(f"The network predicts no {unknown}; it predicts {[label for label in labels if label]}.")
        by_output = {labels.index(pathology): concept for pathology, concept in chosen.items()}
        return cls(network, by_output, size=size or trained_at, name=name, fitted_on=fitted_on)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return head_of(self.network).weight.device

    def to(self, device: str | torch.device) -> "XRVReader":
        """Compute there; images, features and scores come and go on the CPU. Returns itself."""
        self.network.to(device)
        return self

    def margins(self, images: Tensor) -> Tensor:
        """``(n, k)`` logits."""
        return self._in_batches(images, self.network)[:, list(self.outputs)]

    def features(self, images: Tensor) -> Tensor:
        """``(n, width)`` pooled features under the last layer: frozen features for probes."""

        def pooled(part: Tensor) -> Tensor:
            seen: list[Tensor] = []
            hook = head_of(self.network).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
            try:
                self.network(part)
            finally:
                hook.remove()
            return seen[0]

        return self._in_batches(images, pooled)

    def read(self, images: Tensor, patients: Sequence[str] | None = None) -> Tensor:
        """``(n, k)`` scores in [0, 1]; ``patients`` make no difference."""
        margins = self.margins(images)
        return torch.sigmoid(margins) if self.calibration is None else self.calibration(margins, self.names)

    def calibrated(
        self, dataset: Dataset, rows: np.ndarray, truth: np.ndarray, *, method: str = "platt"
    ) -> "XRVReader":
        """This reader, calibrated on labelled patients; its quality is unknown until it is judged on others.

        Args:
            dataset: with the images.
            rows: ``(n,)`` labelled rows; each patient counts once.
            truth: ``(n, k)`` 1 / 0 / NaN unknown.
            method: ``"platt"``, ``"temperature"`` or ``"isotonic"``.

        Raises:
            ValueError: see :meth:`Calibration.fit`.
            UnreadableImages: some cannot be read.
        """
        seen = self.fitted_on
        made = calibrated_on(self.margins, self.names, dataset, rows, truth, method, seen, batch_size=BATCH)
        return self.using(**made)

    def using(self, **changes: Any) -> "XRVReader":
        """The same network with other arguments of the class; quality is unknown and must be given anew.

        Concepts that are read at the output where they were keep their calibration, unless the images are seen otherwise
        (``size``).

        Warns:
            UserWarning: the reader was calibrated, and some of its concepts are not any more.
        """
        read = dict(zip(self.outputs, self.concepts, strict=True))
        same: dict[str, Any] = {"size": self.size, "name": self.name, "fitted_on": self.fitted_on}
        concepts = changes.pop("concepts", read)
        if "calibration" not in changes and self.calibration is not None:
            kept = [] if "size" in changes else [c.name for at, c in concepts.items() if read.get(at) == c]
            same["calibration"] = self.calibration.of(kept) if kept else None
            if lost := [c.name for c in concepts.values() if c.name not in kept]:
                warnings.warn(
                    f"The calibration of {self.name!r} does not hold for {lost}, which are now read at another output, in other words "
                    "or at another size: they score the sigmoid of their logits until they are calibrated anew, calibrated(...).",
                    stacklevel=2,
                )
        return XRVReader(self.network, concepts, **(same | changes))

    def save(self, folder: str | Path) -> Path:
        """Write ``model.safetensors`` and ``reader.json``; the weights in full precision."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "name": self.name,
            "size": self.size,
            "outputs": list(self.outputs),
            "concepts": [asdict(concept) for concept in self.concepts],
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "fitted_on": pack(self.fitted_on),
            "quality": self.quality.to_dict(),
            "renderer_version": None,
        }
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        with whole_file(folder / MODEL) as partial:
            save_file(state, partial)
        write_json(folder / READER, content)
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> "XRVReader":
        """Load what :meth:`save` wrote; torchxrayvision is not needed.

        Raises:
            FileNotFoundError: nothing was saved there.
        """
        folder = Path(folder)
        if not (folder / READER).is_file():
            raise FileNotFoundError(
                f"{folder} has no {READER}; save a reader there with XRVReader.save(folder), or open a weight file with "
                "XRVReader.from_weights(file, ...)."
            )
        content = json.loads((folder / READER).read_text())
        concepts = [concept_from_dict(entry) for entry in content["concepts"]]
        saved = content["calibration"]
        return cls(
            build_network(read_weights(folder / MODEL))[1],
            dict(zip(content["outputs"], concepts, strict=True)),
            size=content["size"],
            calibration=None if saved is None else Calibration.from_dict(saved),
            name=content["name"],
            fitted_on=unpack(content["fitted_on"]),
            quality=ReaderQuality.from_dict(content["quality"]),
        ).to(device)

    def _digest(self) -> str:
        digest = hashlib.sha256(f"{self.size}|{self.outputs}|{self.names}".encode())
        digest.update(b"" if self.calibration is None else self.calibration.digest(self.names))
        for key, weight in sorted(self.network.state_dict().items()):
            digest.update(key.encode() + weight.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def _in_batches(self, images: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        starts = range(0, max(len(images), 1), BATCH)
        return torch.cat([compute(prepared(images[i : i + BATCH], self.size).to(self.device)).cpu() for i in starts])


def prepared(images: Tensor, size: int) -> Tensor:
    """As torchxrayvision prepares images: the middle square, brought to ``size``, in [-1024, 1024].

    What lies at the ends of the longer side is not seen; pad the images to squares to keep it.

    Args:
        images: ``(n, 1, h, w)`` in [0, 1].
        size: pixels a side.

    Raises:
        ValueError: see :func:`~causal_cxr.readers.images.check_images`; torchxrayvision's own range comes of them here.
    """
    check_images(images)
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = height // 2 - side // 2, width // 2 - side // 2
    return (2 * resized(images[..., top : top + side, left : left + side], size) - 1) * RANGE


def pathology_concepts(pathologies: Sequence[str], graph: CausalGraph | None = None) -> dict[str, Concept]:
    """Concepts of torchxrayvision's pathologies.

    Args:
        pathologies: as ``"Pleural_Thickening"``, ``"Lung Opacity"``; empty names are left out.
        graph: an attribute of the same name but for case, spaces and underscores (or a usual other one, :data:`ALSO`) is
            meant: a labelled ``Binary`` one is read at its second level, a hidden one is the candidate.

    Returns:
        pathology -> concept, named as the graph's attribute, else as ``"lung_opacity"``.

    Raises:
        ValueError: a labelled attribute that is not ``Binary``.

    >>> pathology_concepts(["Lung Opacity", ""])["Lung Opacity"].name
    'lung_opacity'
    """
    attributes = {} if graph is None else {_plain(name): graph.attributes[name] for name in graph.attributes}
    concepts: dict[str, Concept] = {}
    for pathology in filter(None, pathologies):
        words, plain = pathology.replace("_", " ").lower(), _plain(pathology)
        attribute = next((attributes[name] for name in (plain, *ALSO.get(plain, ())) if name in attributes), None)
        about: dict[str, Any] = {}
        if attribute is not None and not attribute.hidden:
            if not isinstance(attribute, Binary):
                raise ValueError(
                    f"{pathology!r} is the attribute {attribute.name!r}, which is not Binary; say which of it is present: "
                    f"concepts={{{pathology!r}: Concept(..., attribute={attribute.name!r}, level=...)}}."
                )
            about = {"attribute": attribute.name, "level": attribute.levels[1]}
        concepts[pathology] = Concept(
            plain if attribute is None else attribute.name,
            (words,),
            (f"no {words}",),
            group="findings",
            consequence=True,
            synonyms=(words,),
            sources=(f"torchxrayvision: {pathology}",),
            **about,
        )
    return concepts


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
