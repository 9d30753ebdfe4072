"""In what precision a network computes while it is fitted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

#: ``"bf16"``: layers compute in bfloat16, weights and their optimiser stay in float32; ``"no"``: all in float32
Precision = Literal["bf16", "no"]


@contextmanager
def autocast(device: "str | torch.device", precision: Precision) -> Iterator[None]:
    """The context in which a network computes so."""
    import torch

    with (
        torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"),
        attention(device, precision),
    ):
        yield


@contextmanager
def attention(device: "str | torch.device", precision: Precision) -> Iterator[None]:
    """The context in which attention is as fast as it can be; whoever has autocast from elsewhere needs it beside.

    On a CPU and in bfloat16, PyTorch's fused attention runs backwards at a tenth of its speed in float32, a third of a
    step of a diffusion fit: there, attention is composed of its matrix products.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if torch.device(device).type != "cpu" or precision == "no":
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield
