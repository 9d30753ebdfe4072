"""What a CLIP checkpoint does to an image before it looks: size, filter, frame, normalisation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

Box = tuple[float, float, float, float]  #: top, left, bottom, right as fractions


@dataclass(frozen=True)
class Preprocess:
    """open_clip's ``preprocess_cfg``, for batches of grey tensors in [0, 1].

    Attributes:
        size: height and width that the image tower takes.
        mean, std: of the three channels.
        interpolation: ``"bilinear"`` or ``"bicubic"``, antialiased.
        resize_mode: ``"squash"`` = both sides to ``size``; ``"shortest"`` = the shorter side, then the centre is cut out
            (what lies at the ends of the longer side is not seen); ``"longest"`` = the longer side, then padded.
        fill: grey value of the padding.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.3, 0.3, 0.3)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    resize_mode: Literal["squash", "shortest", "longest"] = "squash"
    fill: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in (("interpolation", ("bilinear", "bicubic")),
                              ("resize_mode", ("squash", "shortest", "longest"))):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise ValueError(f"Preprocessing has {name}={getattr(self, name)!r}; it must be one of {allowed}.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"Preprocessing needs three means and three deviations > 0, got {self.mean}, {self.std}.")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Preprocess":
        """From open_clip's keys, all of them there."""
        size = config["size"]
        return cls(
            size=(int(size), int(size)) if isinstance(size, int | float) else (int(size[0]), int(size[1])),
            mean=_three(config["mean"]),
            std=_three(config["std"]),
            # open_clip, too, reads with bicubic what was trained with random filters
            interpolation="bicubic" if config["interpolation"] == "random" else config["interpolation"],
            resize_mode=config["resize_mode"],
            fill=float(config["fill_color"]) / 255,
        )

    def to_config(self) -> dict[str, Any]:
        """open_clip's keys."""
        return {
            "size": list(self.size), "mode": "RGB", "mean": list(self.mean), "std": list(self.std),
            "interpolation": self.interpolation, "resize_mode": self.resize_mode, "fill_color": round(self.fill * 255),
        }  # fmt: skip

    def __call__(self, images: Tensor) -> Tensor:
        """``(n, 1, h, w)`` in [0, 1] -> ``(n, 3, *size)`` as the image tower takes them."""
        return self.normalise(self.framed(images))

    def framed(self, images: Tensor) -> Tensor:
        """``(n, 1, h, w)`` -> ``(n, 1, *size)``, still grey and in [0, 1]."""
        height, width = self._resized(*images.shape[-2:])
        if images.shape[-2:] != (height, width):
            images = functional.interpolate(images, (height, width), mode=self.interpolation, antialias=True)
            images = images.clamp(0, 1) if self.interpolation == "bicubic" else images  # it overshoots at edges
        top, left = self._offset(height, width)
        images = images[..., max(top, 0) : max(top, 0) + self.size[0], max(left, 0) : max(left, 0) + self.size[1]]
        if top < 0 or left < 0:
            spare = [self.size[i] - images.shape[i - 2] for i in (0, 1)]
            pads = (max(-left, 0), spare[1] - max(-left, 0), max(-top, 0), spare[0] - max(-top, 0))
            images = functional.pad(images, pads, value=self.fill)
        return images

    def normalise(self, images: Tensor) -> Tensor:
        """``(n, 1, h, w)`` -> ``(n, 3, h, w)``, shifted and scaled."""
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.mean, self.std))
        return (images.expand(-1, 3, -1, -1) - mean) / std

    def seen(self, region: Box, height: int, width: int) -> Box:
        """A region of an image of that height and width, as fractions of what the tower sees, cut off at its borders."""
        tall, wide = self._resized(height, width)
        top, left = self._offset(tall, wide)
        rows = [min(max((edge * tall - top) / self.size[0], 0.0), 1.0) for edge in (region[0], region[2])]
        columns = [min(max((edge * wide - left) / self.size[1], 0.0), 1.0) for edge in (region[1], region[3])]
        return rows[0], columns[0], rows[1], columns[1]

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.resize_mode == "squash":
            return self.size
        ratios = height / self.size[0], width / self.size[1]
        if self.resize_mode == "longest":
            return round(height / max(ratios)), round(width / max(ratios))
        if self.size[0] == self.size[1]:  # torchvision's, which rounds down
            side, short = self.size[0], min(height, width)
            return int(side * height / short), int(side * width / short)
        return round(height / min(ratios)), round(width / min(ratios))

    def _offset(self, height: int, width: int) -> tuple[int, int]:
        """Where the tower's frame begins in the resized image; below 0 where it is padded."""
        top, left = height - self.size[0], width - self.size[1]
        return (round(top / 2) if top >= 0 else -(-top // 2)), (round(left / 2) if left >= 0 else -(-left // 2))


def _three(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in values) if isinstance(values, list | tuple) else (float(values),) * 3
