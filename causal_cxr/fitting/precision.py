"""In what precision a network computes while it is fitted."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

#: ``"bf16"``: layers compute in bfloat16, weights and their optimiser stay in float32; ``"no"``: all in float32
Precision = Literal["bf16", "no"]


def autocast(device: "str | torch.device", precision: Precision) -> "torch.autocast":
    """The context in which a network computes so."""
    import torch

    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")
