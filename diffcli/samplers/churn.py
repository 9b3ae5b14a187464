"""The stochastic sampler of Karras et al. 2022: Heun's method with noise put back before each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Denoiser
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Rng
from diffcli.samplers import ChurnOptions
from diffcli.samplers.runge_kutta import RungeKutta2, Stages, second_order


class ChurnPoint(NamedTuple):
    """x_t^ = grow x_t + noise z, then the stages of Heun's step from t^."""

    grow: float
    noise: float
    stages: Stages


@dataclass(frozen=True)
class Churn(RungeKutta2):
    """Algorithm 2 of Karras et al. 2022, with r = sigma/alpha in the place of sigma.

    Where s_min <= r <= s_max, gamma = min(churn/N, sqrt(2) - 1); the noise is raised to r^ = (1 + gamma) r by
    y^ = y + sqrt(r^2^ - r^2) s_noise z, y = x/alpha, and Heun steps from there to s. No noise is raised above t = 1,
    where the process ends. churn = 0 is Heun.
    """

    churn: float = 40.0
    s_min: float = 0.05
    s_max: float = 50.0
    s_noise: float = 1.003

    @property
    def order(self) -> int | None:  # type: ignore[override]
        """Heun's where no noise is put back; else a random walk."""
        return None if self.churn else 2

    def plan(self, process: GaussianProcess, times: Tensor) -> Any:
        t, s = times[:-1], times[1:]
        ratio = process.ratio(t)
        top = process.ratio(torch.ones_like(t))
        gamma = min(self.churn / len(t), math.sqrt(2) - 1)
        raised = ((1 + gamma) * ratio).minimum(top)
        active = (ratio >= self.s_min) & (ratio <= self.s_max) & (t < 1) & (raised > ratio)
        high = torch.where(active, process.time(raised), t)
        alpha = process.alpha(high)
        grow = torch.where(active, alpha / process.alpha(t), 1.0)
        noise = torch.where(active, self.s_noise * alpha * torch.sqrt((raised**2 - ratio**2).clamp(min=0)), 0.0)
        steps = second_order(process, high, s, self.node)
        return [ChurnPoint(*row) for row in zip(grow.tolist(), noise.tolist(), steps, strict=True)]

    def step(
        self, denoiser: Denoiser, x_t: Tensor, point: Any, *, cond: Cond, state: Any, rng: Rng
    ) -> tuple[Tensor, Any]:
        if point.noise:
            z = rng.normal("step", x_t.shape[1:], x_t.dtype)
            x_t = torch.add(point.grow * x_t, z, alpha=point.noise)
        return super().step(denoiser, x_t, point.stages, cond=cond, state=state, rng=rng)


def churn(options: ChurnOptions) -> Churn:
    return Churn(churn=options.churn, s_min=options.s_min, s_max=options.s_max, s_noise=options.s_noise)
