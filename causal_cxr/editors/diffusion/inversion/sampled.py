"""No inversion: the model's own image in the place of the patient's, to tell what a model has learnt from what its edits show."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from causal_cxr.editors.diffusion.denoiser import Field
from causal_cxr.editors.diffusion.inversion.heun import Heun, advance
from causal_cxr.editors.diffusion.inversion.inversion import Trajectory


@dataclass(frozen=True)
class Sampled:
    """Forgets the image and draws one of the model's own under the factual caption; edits start from that one's noise.

    An audit by it, beside one by the editor, says which it was where an edge is missed: what the model's own images do not show
    under the two captions, it has not learnt; what they show and edits do not, the way to noise and back has held.
    It edits nobody's image, so it is not among :data:`~causal_cxr.editors.diffusion.inversion.INVERSIONS`.

    Attributes:
        steps: of Heun's method.
    """

    steps: int = 10
    name: ClassVar[str] = "sampled"
    exact: ClassVar[bool] = False

    def invert(self, source: Field, image: Tensor, noise: Callable[[], Tensor]) -> Trajectory:
        """A drawn image's way; of ``image`` nothing but its shape is used."""
        process = source.denoiser.process
        times = process.times(self.steps)
        latents = [noise() * process.coefficients(times[-1])[1]]
        for t, t_next in pairwise(reversed(times)):
            latents.append(advance(source, latents[-1], t, t_next))
        return Trajectory(tuple(times), tuple(reversed(latents)))

    def redraw(self, trajectory: Trajectory, target: Field) -> Tensor:
        """From the same noise along the target's field."""
        return Heun(self.steps).redraw(trajectory, target)
