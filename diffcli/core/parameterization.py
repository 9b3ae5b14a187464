"""What a network predicts: F = a x_0 + b eps.

Each parameterization is a function (process, t) -> (a, b). With x_t = alpha x_0 + sigma eps these are two equations in
two unknowns, so one solve reads every network and the same (a, b) write every target.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffcli.core.process import GaussianProcess

Param = Callable[[GaussianProcess, Tensor], tuple[Tensor, Tensor]]


def eps(process: GaussianProcess, t: Tensor) -> tuple[Tensor, Tensor]:
    """F = eps (Ho et al. 2020). Has no x_0 where alpha is 0."""
    return torch.zeros_like(t), torch.ones_like(t)


def x0(process: GaussianProcess, t: Tensor) -> tuple[Tensor, Tensor]:
    """F = x_0. Has no eps where sigma is 0."""
    return torch.ones_like(t), torch.zeros_like(t)


def v(process: GaussianProcess, t: Tensor) -> tuple[Tensor, Tensor]:
    """F = alpha eps - sigma x_0 (Salimans and Ho 2022, Eq. 8)."""
    return -process.sigma(t), process.alpha(t)


def velocity(process: GaussianProcess, t: Tensor) -> tuple[Tensor, Tensor]:
    """F = dx/dt = alpha' x_0 + sigma' eps (Lipman et al. 2022)."""
    return process.derivative(t)


def slope(process: GaussianProcess, t: Tensor) -> tuple[Tensor, Tensor]:
    """F = dy/du = eps - x_0, the velocity in the frame where the path is straight; eps where that frame is x/alpha.

    On the rectified path it is the velocity of Liu et al. 2022; elsewhere it stays of the size of the data, whatever the
    clock of the process.
    """
    one = torch.ones_like(t)
    return (-one if process.rectified else torch.zeros_like(t)), one


def edm(sigma_data: float) -> Param:
    """F of Karras et al. 2022, Table 1, for data of standard deviation sigma_data: unit variance at every noise level."""

    def edm(process: GaussianProcess, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = process.alpha(t), process.sigma(t)
        root = torch.sqrt(sigma**2 + (sigma_data * alpha) ** 2)
        return sigma / (sigma_data * root), -sigma_data * alpha / root

    return edm
