"""``PatchDictionary``: small features learned from images without labels, which see small things wherever they are."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from causal_cxr.data.dataset import Dataset
from causal_cxr.data.patients import pack, unpack
from causal_cxr.data.splits import batches
from causal_cxr.data.whole_file import whole_file, write_json
from causal_cxr.readers.features import resized

SETTINGS = "features.json"
FIT_BATCH, BATCH = 64, 8  #: images at a time
FAINT = 0.04  #: grey levels added to a patch's contrast, so that flat patches stay faint
RIDGE = 0.1  #: added to the whitening's variances
PATCHES = 60_000  #: the dictionary is fitted to


class PatchDictionary:
    """Whitened patches, compared with typical ones, strongest response by place (Coates, Ng & Lee, AISTATS 2011).

    A stamp or an electrode covers a thousandth of a radiograph: in histograms over cells it drowns, and where it lies
    varies. The strongest response in each part of the image, and in all of it, keeps it. Fit on unlabelled images of other
    patients than those that a probe will be fitted and judged on.

    Args:
        whitening: ``(p * p, 1, p, p)`` filters to whitened, contrast-normalised patches.
        shift: ``(p * p,)`` taken off them.
        atoms: ``(k, p * p)`` unit-length typical patches.
        settings: ``size``, ``stride``, ``grid``, ``unit_length``, see :meth:`fit`.
        fitted_on: patients; ``None`` when unknown.
    """

    kind = "patch dictionary"

    def __init__(
        self,
        whitening: Tensor,
        shift: Tensor,
        atoms: Tensor,
        settings: dict[str, Any],
        fitted_on: frozenset[str] | None = None,
    ) -> None:
        # Copies in one layout, so that what was loaded computes the same bits as what was fitted.
        self.whitening, self.shift, self.atoms = (
            tensor.float().clone(memory_format=torch.contiguous_format) for tensor in (whitening, shift, atoms)
        )
        self.settings, self.fitted_on = dict(settings), fitted_on
        digest = hashlib.sha256(f"{self.kind}|{sorted(self.settings.items())}".encode())
        for tensor in (self.whitening, self.shift, self.atoms):
            digest.update(tensor.numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        rows: np.ndarray,
        *,
        size: int = 256,
        patch: int = 12,
        atoms: int = 192,
        stride: int = 2,
        grid: int = 4,
        unit_length: bool = False,
        seed: int = 0,
    ) -> "PatchDictionary":
        """Learn the whitening and the typical patches; no label is looked at.

        Args:
            dataset: with the images.
            rows: ``(n,)`` of patients that no probe on these features will be fitted or judged on.
            size: pixels a side that images are brought to.
            patch: pixels a side of a patch.
            atoms: typical patches, by k-means.
            stride: pixels between the patches of an image that is read.
            grid: parts a side over which the strongest response is kept, beside that in the whole image.
            unit_length: whether a whitened patch is scaled to unit length, so that faint things (wires, contours) count as
                much as stark ones (stamps, letters), or not, so that stark ones stand out.
            seed: of the patches drawn (more where there is more contrast) and of k-means.

        Raises:
            ValueError: no rows; a patch that is larger than an image.
            UnreadableImages: some cannot be read.
        """
        from sklearn.cluster import MiniBatchKMeans

        rows = np.asarray(rows)
        if not len(rows) or not 2 <= patch <= size:
            raise ValueError(f"Cannot learn patches of {patch} pixels from {len(rows)} images of {size}; give images.")
        rng = np.random.default_rng(seed)
        drawn = []
        for part in batches(rows, FIT_BATCH):
            for image in resized(dataset.images(part), size):
                every = functional.unfold(image[None], patch)[0].T.numpy()
                contrast = every.std(1) + 1e-6
                picked = rng.choice(len(every), max(1, PATCHES // len(rows)), p=contrast / contrast.sum())
                drawn.append(every[picked])
        P = np.concatenate(drawn).astype(np.float64)
        P -= P.mean(1, keepdims=True)
        P /= P.std(1, keepdims=True) + FAINT
        mean = P.mean(0)
        variances, axes = np.linalg.eigh(np.cov((P - mean).T))
        whiten = (axes / np.sqrt(np.maximum(variances, 0) + RIDGE)) @ axes.T
        P = (P - mean) @ whiten
        P /= np.maximum(np.linalg.norm(P, axis=1, keepdims=True), 1e-6)
        kept = min(atoms, len(P))
        means = MiniBatchKMeans(kept, random_state=seed, n_init=1, batch_size=4096, max_iter=30).fit(P).cluster_centers_
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)
        # Each filter takes its patch's mean off, so that a convolution sees what the fit saw.
        filters = (whiten - whiten.mean(1, keepdims=True)).reshape(-1, 1, patch, patch)
        settings = {"size": size, "stride": stride, "grid": grid, "unit_length": unit_length}
        patients = frozenset(dataset.patients.iloc[rows].astype(str))
        whitening, shift, typical = (torch.as_tensor(array) for array in (filters, whiten @ mean, means))
        return cls(whitening, shift, typical, settings, patients)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """``(n, k * (grid * grid + 1))`` strongest responses."""
        images = resized(images, self.settings["size"])
        parts = [self._strongest(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        return torch.cat(parts) if parts else torch.empty(0, len(self.atoms) * (self.settings["grid"] ** 2 + 1))

    def _strongest(self, images: Tensor) -> Tensor:
        stride, p = self.settings["stride"], self.whitening.shape[-1]
        mean, square = (functional.avg_pool2d(x, p, stride) for x in (images, images.square()))
        # avg_pool2d divides by p * p, as the standard deviation of the fit does
        contrast = (square - mean.square()).clamp_min(0).sqrt() + FAINT
        atoms = self.atoms[:, :, None, None]
        if self.settings["unit_length"]:
            white = functional.conv2d(images, self.whitening, stride=stride) / contrast - self.shift[:, None, None]
            response = functional.conv2d(white, atoms) / white.norm(dim=1, keepdim=True).clamp_min(1e-3)
        else:
            whole = (self.atoms @ self.whitening.flatten(1)).view(-1, 1, p, p)
            offset = (self.atoms @ self.shift)[:, None, None]
            response = functional.conv2d(images, whole, stride=stride) / contrast - offset
        by_place = functional.adaptive_max_pool2d(response, self.settings["grid"]).flatten(1)
        return torch.cat([by_place, response.amax(dim=(2, 3))], dim=1)

    def save(self, folder: str | Path) -> Path:
        """Write ``features.safetensors`` and ``features.json``."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {"whitening": self.whitening, "shift": self.shift, "atoms": self.atoms}
        with whole_file(folder / "features.safetensors") as partial:
            save_file({k: v.contiguous() for k, v in state.items()}, partial)
        write_json(folder / SETTINGS, {"settings": self.settings, "fitted_on": pack(self.fitted_on)})
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "PatchDictionary":
        """Load what :meth:`save` wrote.

        Raises:
            FileNotFoundError: nothing was saved there.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        if not (folder / SETTINGS).is_file():
            raise FileNotFoundError(f"{folder} has no {SETTINGS}; save there with PatchDictionary.save(folder).")
        content, state = json.loads((folder / SETTINGS).read_text()), load_file(folder / "features.safetensors")
        patients = unpack(content["fitted_on"])
        return cls(state["whitening"], state["shift"], state["atoms"], content["settings"], patients)
