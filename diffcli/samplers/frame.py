"""The frame in which a Gaussian process is straight: there every ODE solver is the textbook's.

y = x/scale, u = sigma/scale with scale = alpha + sigma (c = 1) or alpha (c = 0, Karras et al. 2022). In both
y = (1 - c u) x_0 + u eps, so dy/du = eps - c x_0, and a DDIM step is an Euler step.
"""

from __future__ import annotations

from torch import Tensor

from diffcli.core.denoiser import Prediction
from diffcli.core.process import GaussianProcess


def frame(process: GaussianProcess, t: Tensor) -> tuple[Tensor, Tensor]:
    """(scale, u) at t."""
    scale = process.scale(t)
    return scale, process.sigma(t) / scale


def clock(process: GaussianProcess, u: Tensor) -> Tensor:
    """The t of u: sigma/alpha = u/(1 - c u)."""
    return process.time(u / (1 - u) if process.rectified else u)


def slope(process: GaussianProcess, pair: Prediction) -> Tensor:
    """dy/du = eps - c x_0."""
    return pair.eps - pair.x_0 if process.rectified else pair.eps


def half_log_snr(process: GaussianProcess, t: Tensor) -> Tensor:
    """lambda = log(alpha/sigma): -inf where alpha is 0, inf where sigma is 0."""
    return process.alpha(t).log() - process.sigma(t).log()
