"""Noise put on the predicted image anew at each level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Denoiser
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Rng
from diffcli.plugin import Family, NoOptions
from diffcli.samplers.base import Sampler


class RenoisePoint(NamedTuple):
    """x_s = x_0 x_0^ + noise z."""

    t: Tensor
    x_0: float
    noise: float


@dataclass(frozen=True)
class Renoise(Sampler):
    """x_s = alpha_s x_0 + sigma_s z with fresh z: the predicted image as if it were the data, at the next level.

    The noise of x_t is forgotten, so each network call is asked about a level as in training, whatever the others said
    (the stochastic sampler of the published NoProp code, after Li et al. 2025). In the limit of many steps that is no
    sampler of the law: of N(0, c^2) it ends on N(0, c^2/2). The step to s = 0 returns x_0 and draws nothing.
    """

    family: ClassVar[Family] = "gaussian"
    exact: ClassVar[bool] = False

    def plan(self, process: GaussianProcess, times: Tensor) -> list[RenoisePoint]:
        s = times[1:]
        rows = (process.alpha(s).tolist(), process.sigma(s).tolist())
        return [RenoisePoint(*row) for row in zip(times[:-1].unbind(), *rows, strict=True)]

    def step(
        self, denoiser: Denoiser, x_t: Tensor, point: RenoisePoint, *, cond: Cond, state: Any, rng: Rng
    ) -> tuple[Tensor, Any]:
        t, alpha, noise = point
        x_0 = denoiser(x_t, t, cond).x_0
        if not noise:
            return alpha * x_0, state
        return torch.add(alpha * x_0, rng.normal("step", x_t.shape[1:], x_t.dtype), alpha=noise), state


def renoise(options: NoOptions) -> Renoise:
    return Renoise()
