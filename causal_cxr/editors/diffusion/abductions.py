"""``Abductions``: inverted images on disk, so that a second run inverts none anew."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from causal_cxr.data.whole_file import whole_file
from causal_cxr.editors.diffusion.denoiser import Denoiser, Field
from causal_cxr.editors.diffusion.inversion.inversion import Inversion, Trajectory

FORMAT = 2  #: of what inversions keep; files of another are not found


@dataclass(frozen=True)
class Abductions:
    """A folder of trajectories, one safetensors file a batch of images.

    A file is found by all that it depends on: weights, inversion, the images, their seeds and the field that they were
    inverted under, which holds the captions' states. Guidance that only concerns edits is not part of it, so that edits of
    any strength share one file. A batch is kept whole: its rows computed in another would differ in the last bits.

    Attributes:
        folder: made where it is missing; delete files at will.
    """

    folder: Path

    def invert(
        self,
        inversion: Inversion,
        source: Field,
        image: Tensor,
        noise: Callable[[], Tensor],
        *,
        weights: str,
        seeds: Any,
    ) -> Trajectory:
        """As the inversion does, or as it did.

        Args:
            inversion, source, image, noise: see :class:`~causal_cxr.editors.diffusion.inversion.Inversion`.
            weights: fingerprint of the pipeline that the field asks.
            seeds: of ``noise``.
        """
        digest = hashlib.sha256()
        _digest(digest, [FORMAT, weights, repr(inversion), image, [int(seed) for seed in seeds], source])
        file = self.folder / f"{digest.hexdigest()[:32]}.safetensors"
        if file.exists():
            return _read(file, image.device)
        trajectory = inversion.invert(source, image, noise)
        with whole_file(file) as partial:
            _write(trajectory, partial)
        return trajectory


def _write(trajectory: Trajectory, file: Path) -> None:
    from safetensors.torch import save_file

    tensors = {"times": torch.tensor(trajectory.times, dtype=torch.float64), "latents": torch.stack(trajectory.latents)}
    tensors |= {f"kept.{name}": value for name, value in trajectory.kept.items()}
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, file)


def _read(file: Path, device: torch.device) -> Trajectory:
    from safetensors.torch import load_file

    tensors = load_file(file)
    kept = {name.removeprefix("kept."): tensors[name].to(device) for name in tensors if name.startswith("kept.")}
    return Trajectory(tuple(tensors["times"].tolist()), tuple(tensors["latents"].to(device)), kept)


def _digest(digest: Any, value: Any) -> None:
    """Take in a value, down to the bytes of its tensors; each with its type and shape, so that no two run together."""
    digest.update(f"|{type(value).__name__}:".encode())
    if isinstance(value, Denoiser):
        digest.update(str(value.autocast).encode())  # its weights come by their fingerprint
    elif isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    elif is_dataclass(value):
        for part in fields(value):
            digest.update(part.name.encode())
            _digest(digest, getattr(value, part.name))
    elif isinstance(value, (list, tuple)):
        digest.update(str(len(value)).encode())
        for part in value:
            _digest(digest, part)
    elif isinstance(value, (str, int, float, bool, type(None))):
        digest.update(repr(value).encode())
    else:
        raise TypeError(
            f"Cannot tell by its content which field this is: it holds a {type(value).__name__}. Fields that are inverted "
            "under must be dataclasses of tensors and plain values; or use no cache."
        )
