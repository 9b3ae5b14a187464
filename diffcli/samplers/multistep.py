"""Multistep methods: one network call a step, the earlier predictions bring the order."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Denoiser, Prediction
from diffcli.core.process import GaussianProcess, Process
from diffcli.core.random import Rng
from diffcli.plugin import Family, NoOptions
from diffcli.samplers import DPMpp2MSDEOptions
from diffcli.samplers.base import Sampler
from diffcli.samplers.frame import frame, half_log_snr, slope


class Mix(NamedTuple):
    """x_s = x x_t + sum_j past_j f_(k-j) + noise z, f_k being what is remembered of the call at t."""

    t: Tensor
    x: float
    past: tuple[float, ...]
    noise: float


class Multistep(Sampler):
    """x_s is a linear mix of x_t and what was predicted now and before; the coefficients are told by `plan`.

    memory: how many earlier predictions are kept.
    """

    family: ClassVar[Family] = "gaussian"
    spacing: ClassVar[str | None] = "logsnr"
    memory: ClassVar[int] = 1

    def steps(self, process: Process) -> int:
        """20 are closer to the exact end than 50 of ddim, on every law of `diffcli bench samplers`."""
        return min(20, process.nodes or 20)

    @abstractmethod
    def read(self, process: GaussianProcess, pair: Prediction) -> Tensor:
        """What of a prediction is remembered."""

    def step(
        self, denoiser: Denoiser, x_t: Tensor, point: Mix, *, cond: Cond, state: Any, rng: Rng
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        t, x, past, noise = point
        known = (self.read(denoiser.process, denoiser(x_t, t, cond)), *(state or ()))
        x_s = x * x_t
        for f, share in zip(known, past, strict=False):
            x_s.add_(f, alpha=share)
        if noise:
            x_s.add_(rng.normal("step", x_t.shape[1:], x_t.dtype), alpha=noise)
        return x_s, known[: self.memory]


def mixes(times: Tensor, x: Tensor, past: Sequence[Tensor], noise: Tensor | None = None) -> list[Mix]:
    """The plan of coefficients (N,); a past that has no share is not touched."""
    rows = zip(*(p.tolist() for p in past), strict=True)
    trimmed = [row[: max((j + 1 for j, share in enumerate(row) if share), default=1)] for row in rows]
    still = [0.0] * len(x) if noise is None else noise.tolist()
    return [Mix(*step) for step in zip(times[:-1].unbind(), x.tolist(), trimmed, still, strict=True)]


def before(h: Tensor) -> Tensor:
    """The step before each step; infinite before the first, which has no past."""
    return torch.cat([h.new_full((1,), torch.inf), h[:-1]])


def finite(share: Tensor, *steps: Tensor) -> Tensor:
    """`share` where all the steps it was made of are finite, else 0: at alpha = 0 and sigma = 0 lambda has no number."""
    ok = torch.stack([torch.isfinite(step) for step in steps]).all(0)
    return torch.where(ok, share, torch.zeros_like(share))


@dataclass(frozen=True)
class AB2(Multistep):
    """Adams-Bashforth of order 2 in the straight frame: y_s = y_t + d (w_t + d/(2 d') (w_t - w_t')), d' the step before."""

    order: ClassVar[int | None] = 2

    def read(self, process: GaussianProcess, pair: Prediction) -> Tensor:
        return slope(process, pair)

    def plan(self, process: GaussianProcess, times: Tensor) -> list[Mix]:
        scale, u = frame(process, times)
        d = u.diff()
        more = d / (2 * before(d))
        return mixes(times, scale[1:] / scale[:-1], [scale[1:] * d * (1 + more), -scale[1:] * d * more])


def exponential(process: GaussianProcess, times: Tensor, eta: float = 0.0) -> list[Mix]:
    """x_s = sigma_s/sigma_t e^(-eta h) x_t + alpha_s (1 - e^(-(1 + eta) h)) D + sigma_s sqrt(1 - e^(-2 eta h)) z.

    h = lambda_s - lambda_t, D = x_0 + h/(2 h') (x_0 - x_0'), h' the step before. D is x_0 where there is no step before,
    or one of infinite length: the first, one from alpha = 0, and the step to sigma = 0.
    """
    alpha, sigma, h = process.alpha(times), process.sigma(times), half_log_snr(process, times).diff()
    shrink = sigma[1:] / sigma[:-1]
    decay = (shrink * alpha[:-1] / alpha[1:]) ** eta  # e^(-eta h), also where h is infinite
    gain = alpha[1:] - shrink * decay * alpha[:-1]
    more = finite(h / (2 * before(h)), h, before(h))
    return mixes(times, shrink * decay, [gain * (1 + more), -gain * more], sigma[1:] * torch.sqrt(1 - decay**2))


@dataclass(frozen=True)
class DPMpp2M(Multistep):
    """DPM-Solver++(2M): `exponential` with eta = 0 (Lu et al. 2022b, Algorithm 2)."""

    order: ClassVar[int | None] = 2

    def read(self, process: GaussianProcess, pair: Prediction) -> Tensor:
        return pair.x_0

    def plan(self, process: GaussianProcess, times: Tensor) -> list[Mix]:
        return exponential(process, times)


@dataclass(frozen=True)
class DPMpp2MSDE(DPMpp2M):
    """SDE-DPM-Solver++(2M): `exponential` with noise (Lu et al. 2022b, at eta = 1). eta = 0 is DPM-Solver++(2M)."""

    eta: float = 1.0

    @property
    def order(self) -> int | None:  # type: ignore[override]
        """That of dpmpp-2m without noise; with it, a random walk."""
        return None if self.eta else 2

    def steps(self, process: Process) -> int:
        return min(50, process.nodes or 50)

    def plan(self, process: GaussianProcess, times: Tensor) -> list[Mix]:
        return exponential(process, times, self.eta)


@dataclass(frozen=True)
class DPMpp3M(DPMpp2M):
    """Three predictions: x_0 is the parabola in lambda through them, integrated exactly (Lu et al. 2022b).

    Its second step is 2M's and its first Euler's, whose local error O(h^2) stays: the global order is 2, though the
    error is often that of order 3.
    """

    memory: ClassVar[int] = 2

    def plan(self, process: GaussianProcess, times: Tensor) -> list[Mix]:
        alpha, sigma, h = process.alpha(times), process.sigma(times), half_log_snr(process, times).diff()
        shrink, one, two = sigma[1:] / sigma[:-1], before(h), before(before(h))
        gain = alpha[1:] - shrink * alpha[:-1]
        m_0 = -torch.expm1(-h)  # m_j: the integral of e^(r - h) r^j over r from 0 to h
        m_1 = h - m_0
        m_2 = h**2 - 2 * m_1
        # Newton's form: f_0 + r f[0, 1] + r (r + one) f[0, 1, 2]
        line = finite(m_1 / m_0 / one, h, one)
        bend = finite((m_2 + one * m_1) / m_0 / (one + two), h, one, two)
        now = gain * (1 + line + finite(bend / one, one))
        last = -gain * (line + finite(bend / one, one) + finite(bend / two, two))
        return mixes(times, shrink, [now, last, gain * finite(bend / two, two)])


def ab2(options: NoOptions) -> AB2:
    return AB2()


def dpmpp_2m(options: NoOptions) -> DPMpp2M:
    return DPMpp2M()


def dpmpp_3m(options: NoOptions) -> DPMpp3M:
    return DPMpp3M()


def dpmpp_2m_sde(options: DPMpp2MSDEOptions) -> DPMpp2MSDE:
    return DPMpp2MSDE(options.eta)
