"""Inversions by name, as tables and configurations call them."""

from causal_cxr.editors.diffusion.inversion.belm import BELM
from causal_cxr.editors.diffusion.inversion.coupled import Coupled, FlowEdit
from causal_cxr.editors.diffusion.inversion.ddim import DDIM
from causal_cxr.editors.diffusion.inversion.ddpm import DDPM
from causal_cxr.editors.diffusion.inversion.edict import EDICT
from causal_cxr.editors.diffusion.inversion.heun import Heun
from causal_cxr.editors.diffusion.inversion.inversion import Inversion
from causal_cxr.editors.diffusion.inversion.negative_prompt import NegativePrompt
from causal_cxr.editors.diffusion.inversion.null_text import NullText
from causal_cxr.editors.diffusion.inversion.offsets import Offsets

INVERSIONS: dict[str, type[Inversion]] = {
    method.name: method
    for method in (DDIM, BELM, EDICT, DDPM, Offsets, NegativePrompt, NullText, Heun, FlowEdit, Coupled)
}
