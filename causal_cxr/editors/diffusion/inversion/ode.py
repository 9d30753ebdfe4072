"""The probability-flow equation in the variables of the network's own output, where it is tame.

What a network predicts is the slope of one form of the equation (Song et al., ICLR 2021), ``dX / dtau = f``:

============  ===========  ===========  ==========================
predicts      ``X``        ``tau``      ``f``
============  ===========  ===========  ==========================
epsilon       ``x / a``    ``s / a``    the noise
v_prediction  ``x``        the angle    ``a e - s x_0``
flow          ``x``        ``t``        the velocity ``e - x_0``
============  ===========  ===========  ==========================

The angle's sine is ``s`` and its cosine ``a``: it ends at a quarter turn where no signal is left, so that networks fitted to
zero terminal signal (Lin et al., WACV 2024) are inverted like others.
"""

from math import atan2

from torch import Tensor

from causal_cxr.editors.diffusion.process import Prediction, Process


def clock(process: Process, t: float) -> tuple[float, float]:
    """``tau(t)``, and the scale by which ``x = scale X``."""
    a, s = process.coefficients(t)
    if process.predicts == "epsilon":
        return s / a, a
    return (atan2(s, a) if process.predicts == "v_prediction" else t), 1.0


def slope(process: Process, said: Prediction, t: float) -> Tensor:
    """``f``: the network's output again, of the image and noise that were read off it."""
    if process.predicts == "epsilon":
        return said.noise
    if process.predicts == "flow":
        return said.velocity
    a, s = process.coefficients(t)
    return a * said.noise - s * said.clean


def affine(process: Process, t: float, t_next: float) -> tuple[float, float]:
    """``A, B`` of DDIM's step ``x' = A x + B f`` from ``t`` to ``t_next``; Euler's where the network predicts a flow."""
    (a, s), (a_next, s_next) = process.coefficients(t), process.coefficients(t_next)
    if process.predicts == "epsilon":
        return a_next / a, s_next - s * a_next / a
    if process.predicts == "flow":
        return 1.0, t_next - t
    return a_next * a + s_next * s, s_next * a - a_next * s
