"""``SignNetwork``: a small convolutional classifier of a world's signs: a second reader, and a stated feature extractor.

Inception and LPIPS networks know photographs, and their weights are not at hand offline. This one is fitted to images of the
world in which nothing goes with anything, other ones than editors and probe readers saw: its pooled features are those of FID
and KID, its maps those of a local distance, its heads a reader that shares neither backbone nor images with the probe.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d

from causal_cxr.readers.concepts import Concept, concept_from_dict

CHANNELS = (16, 32, 64, 64)
LOCAL, REACH = 2, 9
BATCH = 256
WEIGHTS, CONFIG = "model.safetensors", "network.json"


class SignNetwork(nn.Module):
    """Four stages of strided convolutions; one logistic head a sign.

    Channels are normalised place by place: normalised over the image, a change in one corner would show in the features of all
    others.

    Args:
        concepts: ``k`` signs.
        slopes: ``(k,)`` E[score | present] - E[score | absent] on images that it was not fitted on.
    """

    n_features = CHANNELS[-1]

    def __init__(self, concepts: Sequence[Concept], slopes: np.ndarray | None = None) -> None:
        super().__init__()
        self.concepts = tuple(concepts)
        self.slopes = np.ones(len(self.concepts)) if slopes is None else np.asarray(slopes, dtype=float)
        inputs = (1, *CHANNELS[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(into, out, 3, stride=2, padding=1), LayerNorm2d(out), nn.SiLU(),
                nn.Conv2d(out, out, 3, padding=1), LayerNorm2d(out), nn.SiLU(),
            )
            for into, out in zip(inputs, CHANNELS, strict=True)
        )  # fmt: skip
        self.head = nn.Linear(CHANNELS[-1] * 16, len(self.concepts))

    def maps(self, images: Tensor) -> list[Tensor]:
        """``(n, channels, h / r, w / r)`` of every stage; ``r`` = 2, 4, 8, 16."""
        x, maps = 2 * images - 1, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """``(n, k)`` logits."""
        return self.head(F.adaptive_avg_pool2d(self.maps(images)[-1], 4).flatten(1))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """``(n, n_features)``: the last maps' mean over the image."""
        return torch.cat([self.maps(batch)[-1].mean(dim=(2, 3)) for batch in images.split(BATCH)])

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """``(n, k)`` probabilities."""
        return torch.cat([self(batch).sigmoid() for batch in images.split(BATCH)])

    @torch.no_grad()
    def distance(self, a: Tensor, b: Tensor, where: Tensor) -> Tensor:
        """Local distance of two sets of images inside a mask: of unit-length features, squared, meaned over place and stage.

        As LPIPS (Zhang et al., CVPR 2018), without its learnt weights, of the :data:`LOCAL` first stages, whose features see
        :data:`REACH` pixels around them.

        Args:
            a, b: ``(n, 1, h, w)`` in [0, 1].
            where: ``(n, 1, h, w)`` bool; a place of a coarser map counts where all of its pixels do.

        Returns:
            ``(n,)``; NaN where the mask is empty.
        """
        distances = []
        for parts in zip(a.split(BATCH), b.split(BATCH), where.split(BATCH), strict=True):
            stages = []
            for one, other in list(zip(self.maps(parts[0]), self.maps(parts[1]), strict=True))[:LOCAL]:
                apart = (F.normalize(one, dim=1) - F.normalize(other, dim=1)).square().sum(1)
                mask = 1 - F.adaptive_max_pool2d(1 - parts[2].float(), one.shape[-2:])[:, 0]
                stages.append((apart * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2)))
            distances.append(torch.stack(stages).nanmean(0))
        return torch.cat(distances)

    def save(self, folder: Path) -> None:
        """Write weights and concepts."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: weight.contiguous() for name, weight in self.state_dict().items()}, folder / WEIGHTS)
        content = {"concepts": [asdict(concept) for concept in self.concepts], "slopes": self.slopes.tolist()}
        (folder / CONFIG).write_text(json.dumps(content, indent=1))

    @classmethod
    def from_pretrained(cls, folder: Path) -> "SignNetwork":
        """Load what :meth:`save` wrote."""
        from safetensors.torch import load_file

        content = json.loads((folder / CONFIG).read_text())
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are read
            network = cls([concept_from_dict(entry) for entry in content["concepts"]], content["slopes"])
        network.load_state_dict(load_file(folder / WEIGHTS))
        return network.eval().requires_grad_(False)


def fit_sign_network(
    images: Tensor,
    truth: np.ndarray,
    concepts: Sequence[Concept],
    *,
    epochs: int = 10,
    held: float = 0.2,
    seed: int = 0,
) -> SignNetwork:
    """Fit to binary labels by AdamW with a one-cycle schedule; deterministic for a seed and thread count.

    Args:
        images: ``(n, 1, h, w)`` in [0, 1], independent of each other.
        truth: ``(n, k)`` 0/1.
        concepts: the ``k`` columns.
        epochs: over the images.
        held: share of the images, the last ones, that only the slopes are measured on.
        seed: of weights and batches.
    """
    from torch.utils.data import DataLoader, TensorDataset

    seen = round((1 - held) * len(images))
    labels = torch.as_tensor(truth, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SignNetwork(concepts)
        batches = DataLoader(TensorDataset(images[:seen], labels[:seen]), batch_size=64, shuffle=True)
        optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * len(batches))
        for _ in range(epochs):
            for x, y in batches:
                optimiser.zero_grad()
                F.binary_cross_entropy_with_logits(network(x), y).backward()
                optimiser.step()
                schedule.step()
    network.eval().requires_grad_(False)
    scores, there = network.read(images[seen:]).double().numpy(), truth[seen:] == 1
    present, absent = (np.where(here, scores, 0).sum(0) / here.sum(0).clip(1) for here in (there, ~there))
    network.slopes = present - absent
    return network
