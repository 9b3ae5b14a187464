"""UniPC: a multistep predictor whose every prediction also corrects the step before, at no further call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Denoiser
from diffcli.core.process import GaussianProcess, Process
from diffcli.core.random import Rng
from diffcli.plugin import Family, NoOptions
from diffcli.samplers.base import Sampler
from diffcli.samplers.frame import half_log_snr
from diffcli.samplers.multistep import before, finite


class UniPCPoint(NamedTuple):
    """base = x y + now x_0 + last x_0' + older x_0'', y the last base if `corrected`, else x_t; x_s = base + slant (x_0 - x_0')."""

    t: Tensor
    corrected: bool
    x: float
    now: float
    last: float
    older: float
    slant: float


@dataclass(frozen=True)
class UniPC(Sampler):
    """UniPC-2 with B(h) = e^h - 1 in data prediction (Zhao et al. 2023).

    The step before, with h' to t and h'' to its start, is done again knowing x_0 at t: with B = e^(-h') - 1 and
    q = -h''/h', x_t = base' - alpha_t B (rho_0 (x_0'' - x_0')/q + rho_1 (x_0 - x_0')), where rho solves
    [[1, 1], [q, 1]] rho = (phi, 2 (-phi/h' - 1/2))/B, phi = -B/h' - 1. Then base = DDIM's step from it, x_s = base + gain h/(2 h') (x_0 - x_0').
    The corrector is of order 3 but starts from Euler's step.
    """

    family: ClassVar[Family] = "gaussian"
    order: ClassVar[int | None] = 2
    spacing: ClassVar[str | None] = "logsnr"

    def steps(self, process: Process) -> int:
        """20 are closer to the exact end than 50 of ddim, on every law of `diffcli bench samplers`."""
        return min(20, process.nodes or 20)

    def plan(self, process: GaussianProcess, times: Tensor) -> list[UniPCPoint]:
        alpha, sigma, h = process.alpha(times), process.sigma(times), half_log_snr(process, times).diff()
        shrink, one, two = sigma[1:] / sigma[:-1], before(h), before(before(h))
        gain = alpha[1:] - shrink * alpha[:-1]
        # the corrector, where the step before was finite; of one difference where the one before that was not
        b, q = torch.expm1(-one), -two / one
        phi = -b / one - 1
        b_0, b_1 = phi / b, 2 * (-phi / one - 1 / 2) / b
        rho_0 = finite((b_0 - b_1) / (1 - q), one, two)
        rho_1 = torch.where(torch.isfinite(two), b_0 - rho_0, torch.full_like(b, 1 / 2))
        now, older = (finite(-alpha[:-1] * b * rho, one) for rho in (rho_1, finite(rho_0 / q, one, two)))
        slant = finite(gain * h / (2 * one), h, one)
        rows = (torch.isfinite(one), shrink, gain + shrink * now, -shrink * (now + older), shrink * older, slant)
        return [UniPCPoint(*row) for row in zip(times[:-1].unbind(), *(r.tolist() for r in rows), strict=True)]

    def step(
        self, denoiser: Denoiser, x_t: Tensor, point: UniPCPoint, *, cond: Cond, state: Any, rng: Rng
    ) -> tuple[Tensor, Any]:
        t, corrected, x, now, last, older, slant = point
        x_0 = denoiser(x_t, t, cond).x_0
        y, x_1, x_2 = state or (x_t, x_0, x_0)
        base = torch.add(x * (y if corrected else x_t), x_0, alpha=now)
        base = torch.add(base, x_1, alpha=last) if last else base
        base = torch.add(base, x_2, alpha=older) if older else base
        x_s = torch.add(torch.add(base, x_0, alpha=slant), x_1, alpha=-slant) if slant else base
        return x_s, (base, x_0, x_1)


def unipc(options: NoOptions) -> UniPC:
    return UniPC()
