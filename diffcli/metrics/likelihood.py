"""Log-likelihood by the probability-flow ODE (Song et al. 2021, Eq. 39; Grathwohl et al. 2019), in the frame where the path is straight."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Denoiser
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Rng
from diffcli.samplers.frame import slope
from diffcli.samplers.grid import grid

FIRST = 1e-5


def log_density(denoiser: Denoiser, x_0: Tensor, cond: Cond, probe: Tensor, steps: int = 100) -> Tensor:
    """(B,) log p(x_0) in nats: log p(y_1) plus the integral of the divergence of dy/du along the path.

    y = x/scale with scale = alpha + sigma (or alpha), u = sigma/scale, dy/du = eps - c x_0. The divergence is estimated
    with one fixed probe of +-1 (B, *) an image (Hutchinson); midpoint rule along the process's own grid, from t = 1e-5, where
    every parameterization has an answer (Song et al. 2021, C), to t = 1.
    """
    p: GaussianProcess = denoiser.process
    steps = min(steps, p.nodes or steps)
    times = grid(p, steps).flip(0)
    times[0] = FIRST
    middle = (times[1:] + times[:-1]) / 2
    u, u_middle = (p.sigma(t) / p.scale(t) for t in (times, middle))
    y = x_0 / p.scale(times[0])
    total = torch.zeros(len(x_0), dtype=torch.float64)
    for k in range(steps):
        w, _ = field(denoiser, y, times[k], cond, None)
        w, divergence = field(denoiser, y + (u_middle[k] - u[k]) * w, middle[k], cond, probe)
        y = y + (u[k + 1] - u[k]) * w
        total += float(u[k + 1] - u[k]) * divergence
    std = float(p.sigma(times[-1]) / p.scale(times[-1]))
    normal = -0.5 * (y.cpu().double() / std).square().flatten(1).sum(1) - y[0].numel() * math.log(
        std * math.sqrt(2 * math.pi)
    )
    return normal + total - y[0].numel() * math.log(float(p.scale(times[0])))


def field(denoiser: Denoiser, y: Tensor, t: Tensor, cond: Cond, probe: Tensor | None) -> tuple[Tensor, Tensor | float]:
    """dy/du at (y, t), and probe . d(dy/du)/dy . probe (B,)."""
    p: GaussianProcess = denoiser.process
    with torch.set_grad_enabled(probe is not None):
        y = y.detach().requires_grad_(probe is not None)
        pair = denoiser(p.scale(t) * y, t, cond)
        w = slope(p, pair)
        if probe is None:
            return w, 0.0
        (product,) = torch.autograd.grad((w * probe).sum(), y)
    return w.detach(), (product.detach() * probe).flatten(1).sum(1).cpu().double()


def bits_per_dim(denoiser: Denoiser, x: Tensor, cond: Cond, rng: Rng, steps: int = 100) -> Tensor:
    """(B,) -log2 p(byte)/D of 8-bit images x in [-1, 1], by uniform dequantization: x = (byte + u)/128 - 1, hence + 7."""
    byte = ((x + 1) * 127.5).round()
    dequantized = (byte + rng.uniform("dequantize", x.shape[1:], x.dtype)) / 128 - 1
    probe = (rng.uniform("probe", x.shape[1:], x.dtype) < 0.5).to(x.dtype) * 2 - 1
    return -log_density(denoiser, dequantized, cond, probe, steps) / (math.log(2) * x[0].numel()) + 7
