"""``AttributeNetwork``: what an image says about one attribute, differentiably: what counterfactual fine-tuning watches.

Fitted to images of the world in which nothing goes with anything, so that it reads the attribute and not what goes with it;
none of them was seen by an editor or by the readers that score. Its architecture is not that of ``sign_network.py`` either.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Normal

from causal_cxr.graphs import Attribute, Binary, Continuous

CHANNELS = (24, 48, 72, 96)
HELD = 0.2  #: share of the images, the last ones, that only the error is measured on


class AttributeNetwork(nn.Module):
    """Strided convolutions, each place kept, and one head.

    Args:
        attribute: that it reads; numbers as a normal of one deviation, levels by their probabilities.
        centre: mean of the attribute in the fit; of numbers only.
        spread: its standard deviation, and that of the normal until the errors on held-out images are known.
    """

    def __init__(self, attribute: Attribute, *, centre: float = 0.0, spread: float = 1.0) -> None:
        super().__init__()
        self.attribute, self.centre, self.spread = attribute, centre, spread
        binary_or_number = isinstance(attribute, Binary | Continuous)
        inputs = (1, *CHANNELS[:-1])
        self.body = nn.Sequential(
            *(
                layer
                for into, out in zip(inputs, CHANNELS, strict=True)
                for layer in (nn.Conv2d(into, out, 4, stride=2, padding=1), nn.GroupNorm(4, out), nn.GELU())
            ),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.LazyLinear(1 if binary_or_number else len(attribute.levels)),
        )
        self.register_buffer("deviation", torch.tensor(spread))

    def forward(self, images: Tensor) -> Distribution:
        """The attribute's distribution over its codes, batch shape ``(n,)``, from images ``(n, 1, h, w)`` in [0, 1]."""
        said = self.body(2 * images - 1)
        if isinstance(self.attribute, Continuous):
            return Normal(self.centre + self.spread * said[:, 0], self.deviation.expand(len(said)))
        return Bernoulli(logits=said[:, 0]) if isinstance(self.attribute, Binary) else Categorical(logits=said)


def fit_attribute_networks(
    images: Tensor, codes: Mapping[str, Tensor], attributes: Mapping[str, Attribute], *, epochs: int = 16, seed: int = 0
) -> tuple[dict[str, AttributeNetwork], dict[str, float]]:
    """One network an attribute, by AdamW with a one-cycle schedule; deterministic for a seed and thread count.

    Args:
        images: ``(n, 1, h, w)`` in [0, 1], independent of each other.
        codes: attribute -> ``(n,)``, as :meth:`Attribute.encode` gives them.
        attributes: those to read.
        epochs: over the images.
        seed: of weights and batches.

    Returns:
        The networks, frozen, and each one's error on images held out: mean absolute of numbers, share misread of levels.
    """
    networks, errors = {}, {}
    with torch.random.fork_rng(devices=[]):
        for name, attribute in attributes.items():
            torch.manual_seed(seed)
            networks[name], errors[name] = _fitted(images, codes[name].float(), attribute, epochs)
    return networks, errors


def _fitted(images: Tensor, codes: Tensor, attribute: Any, epochs: int) -> tuple[AttributeNetwork, float]:
    from torch.utils.data import DataLoader, TensorDataset

    seen = round((1 - HELD) * len(images))
    known = codes[:seen]
    scales = {"centre": float(known.mean()), "spread": float(known.std())} if isinstance(attribute, Continuous) else {}
    network = AttributeNetwork(attribute, **scales)
    network(images[:2])  # the head learns its width
    batches = DataLoader(TensorDataset(images[:seen], known), batch_size=64, shuffle=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * len(batches))
    for _ in range(epochs):
        for x, y in batches:
            optimiser.zero_grad()
            (-network(x).log_prob(y).mean()).backward()
            optimiser.step()
            schedule.step()
    network.eval().requires_grad_(False)
    said = torch.cat([_most_likely(network(x)) for x in images[seen:].split(256)])
    if isinstance(attribute, Continuous):
        network.deviation.copy_((said - codes[seen:]).square().mean().sqrt())
        return network, float((said - codes[seen:]).abs().mean())
    return network, float((said != codes[seen:]).float().mean())


def _most_likely(said: Distribution) -> Tensor:
    return said.mean if isinstance(said, Normal) else said.mode
