"""Re-noising with the predicted noise: DDIM, and the ancestral sampler of DDPM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Denoiser
from diffcli.core.process import GaussianProcess, Process
from diffcli.core.random import Rng
from diffcli.errors import UsageError
from diffcli.plugin import Family
from diffcli.samplers import AncestralOptions, DDIMOptions
from diffcli.samplers.base import Sampler

Variance = Literal["small", "large", "learned"]


class DDIMPoint(NamedTuple):
    """x_s = x_0 x_0^ + eps eps^ + noise z, the three coefficients of a step from t."""

    t: Tensor
    x_0: float
    eps: float
    noise: float


@dataclass(frozen=True)
class DDIM(Sampler):
    """x_s = alpha_s x_0 + sqrt(sigma_s^2 - v) eps + sqrt(v) z, v = eta^2 beta~_ts (Song et al. 2020, Eq. 12 and 16).

    eta = 0 is Euler's method on the probability flow; eta = 1 is DDPM with the small variance.
    """

    family: ClassVar[Family] = "gaussian"
    eta: float = 0.0

    @property
    def order(self) -> int | None:  # type: ignore[override]
        """1 without noise; with it, a random walk."""
        return None if self.eta else 1

    def plan(self, process: GaussianProcess, times: Tensor) -> list[DDIMPoint]:
        t, s = times[:-1], times[1:]
        alpha, sigma = process.alpha(s), process.sigma(s)
        variance = self.eta**2 * process.posterior(t, s)[1] if self.eta else torch.zeros_like(s)
        eps = torch.sqrt((sigma**2 - variance).clamp(min=0)) if self.eta else sigma
        rows = (alpha.tolist(), eps.tolist(), variance.clamp(min=0).sqrt().tolist())
        return [DDIMPoint(*row) for row in zip(t.unbind(), *rows, strict=True)]

    def step(
        self, denoiser: Denoiser, x_t: Tensor, point: DDIMPoint, *, cond: Cond, state: Any, rng: Rng
    ) -> tuple[Tensor, Any]:
        t, a, b, noise = point
        pair = denoiser(x_t, t, cond)
        x_s = torch.add(a * pair.x_0, pair.eps, alpha=b)
        if noise:
            x_s = torch.add(x_s, rng.normal("step", x_t.shape[1:], x_t.dtype), alpha=noise)
        return x_s, state


class AncestralPoint(NamedTuple):
    """x_s = x_0 x_0^ + eps eps^ + small^(1 - m) large^m z with m the learned mix, or fixed at 0 or 1; final: no z."""

    t: Tensor
    x_0: float
    eps: float
    small: float
    large: float
    final: bool


@dataclass(frozen=True)
class Ancestral(Sampler):
    """x_s ~ q(x_s | x_t, x_0) at the predicted x_0 (Ho et al. 2020, Eq. 7 and Algorithm 2).

    variance: of the noise around that mean: beta~_ts (small), beta_ts (large), or the learned point between their
    logarithms (Nichol and Dhariwal 2021, Eq. 15). The step to s = 0 returns x_0 and draws nothing.
    """

    family: ClassVar[Family] = "gaussian"
    variance: Variance = "small"

    def steps(self, process: Process) -> int:
        """One step an entry of the table; 1000 where there is none."""
        return process.nodes or 1000

    def plan(self, process: GaussianProcess, times: Tensor) -> list[AncestralPoint]:
        t, s = times[:-1], times[1:]
        alpha, sigma = process.alpha(s), process.sigma(s)
        large, small = (v.clamp(min=0) for v in process.posterior(t, s))
        eps = torch.sqrt((sigma**2 - small).clamp(min=0))
        rows = (alpha, eps, small.sqrt(), large.sqrt(), sigma == 0)
        return [AncestralPoint(*row) for row in zip(t.unbind(), *(r.tolist() for r in rows), strict=True)]

    def step(
        self, denoiser: Denoiser, x_t: Tensor, point: AncestralPoint, *, cond: Cond, state: Any, rng: Rng
    ) -> tuple[Tensor, Any]:
        t, a, b, small, large, final = point
        pair = denoiser(x_t, t, cond)
        if final:
            return pair.x_0, state
        mean = torch.add(a * pair.x_0, pair.eps, alpha=b)
        z = rng.normal("step", x_t.shape[1:], x_t.dtype)
        if self.variance != "learned":
            return torch.add(mean, z, alpha=small if self.variance == "small" else large), state
        if pair.mix is None:
            raise UsageError("variance learned needs a model that predicts its variance; use small or large")
        share = (pair.mix + 1) / 2
        return torch.addcmul(mean, (large / small) ** share, z, value=small), state


def ddim(options: DDIMOptions) -> DDIM:
    return DDIM(options.eta)


def ancestral(options: AncestralOptions) -> Ancestral:
    return Ancestral(options.variance)
