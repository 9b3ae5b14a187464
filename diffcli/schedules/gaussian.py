"""Gaussian processes x_t = alpha(t) x_0 + sigma(t) eps, and the tables of betas behind some of them. All in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffcli.core.process import GaussianProcess
from diffcli.errors import UsageError
from diffcli.plugin import NoOptions
from diffcli.schedules import (
    CosineOptions,
    EDMOptions,
    LinearOptions,
    ScaledLinearOptions,
    SigmoidOptions,
    TableOptions,
    VPOptions,
)

LOWEST, HIGHEST = (
    0.005,
    80.0,
)  # sigma/alpha beyond which karras and logsnr grids spend no step: measured, least error at 5-50 calls


class Betas(GaussianProcess):
    """A table of betas as a view: t = (i + 1)/T is entry i, t = 0 is clean, between entries the angle is linear.

    alpha = cos(theta), sigma = sin(theta), with alpha^2 = prod (1 - beta) on the entries (Ho et al. 2020, Eq. 4).
    """

    def __init__(self, betas: Tensor):
        if not bool(((betas > 0) & (betas < 1)).all()):
            raise UsageError(
                f"betas lie between {betas.min():g} and {betas.max():g}, but must lie between 0 and 1, both excluded"
            )
        one = torch.ones(1, dtype=torch.float64)
        alpha_bar = torch.cat([one, torch.cumprod(1 - betas.double(), 0)])
        self.angle = torch.atan2(torch.sqrt(1 - alpha_bar), torch.sqrt(alpha_bar))  # (T + 1,)
        self.angles: list[float] = self.angle.tolist()
        self.nodes: int = len(betas)
        self.ratio_min, self.ratio_max = math.tan(self.angles[1]), min(math.tan(self.angles[-1]), HIGHEST)

    def theta(self, t: Tensor) -> Tensor:
        """The angle atan2(sigma, alpha) at t."""
        if not t.ndim:  # one network call: Python's floats cost a tenth of 0-dim tensors
            position = t.item() * self.nodes
            below = min(int(position), self.nodes - 1)
            low, high = self.angles[below : below + 2]
            return torch.tensor(low + (high - low) * (position - below), dtype=torch.float64)
        place = t.double() * self.nodes
        under = place.long().clamp(max=self.nodes - 1)
        return torch.lerp(self.angle[under], self.angle[under + 1], place - under)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(self.theta(t)).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(self.theta(t)).to(t.dtype)

    def derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        below = (t.double() * self.nodes).long().clamp(max=self.nodes - 1)
        speed = (self.angle[below + 1] - self.angle[below]).to(t.dtype) * self.nodes
        return -self.sigma(t) * speed, self.alpha(t) * speed

    def time(self, ratio: Tensor) -> Tensor:
        theta = torch.atan(ratio.double())
        above = torch.searchsorted(self.angle, theta).clamp(1, self.nodes)
        low, high = self.angle[above - 1], self.angle[above]
        return ((above - 1 + (theta - low) / (high - low)) / self.nodes).clamp(0, 1).to(ratio.dtype)


class VP(GaussianProcess):
    """The variance-preserving SDE with beta(t) = beta_min + t (beta_max - beta_min) (Song et al. 2021, App. C).

    With B(t) the integral of beta: alpha = exp(-B/2), sigma^2 = 1 - exp(-B).
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        self.beta_min, self.beta_max = beta_min, beta_max
        self.ratio_min, self.ratio_max = LOWEST, min(math.sqrt(math.expm1((beta_min + beta_max) / 2)), HIGHEST)

    def integral(self, t: Tensor) -> Tensor:
        """B(t)."""
        return t * (self.beta_min + (self.beta_max - self.beta_min) / 2 * t)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self.integral(t) / -2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self.integral(t)))

    def derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        beta, alpha = self.beta_min + (self.beta_max - self.beta_min) * t, self.alpha(t)
        return -beta / 2 * alpha, beta / 2 * alpha**2 / self.sigma(t)

    def time(self, ratio: Tensor) -> Tensor:
        b = torch.log1p(ratio**2)  # B(t), a quadratic in t
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * b)
        return (2 * b / (self.beta_min + root)).clamp(0, 1)


class EDM(GaussianProcess):
    """x_t = x_0 + sigma eps, sigma = sigma_max t (Karras et al. 2022).

    The clock is linear so that sigma can be read off it; where the levels lie is the business of grids (karras, by
    default) and of `quantile`: in training log sigma is normal.
    """

    rectified: ClassVar[bool] = False
    spacing: ClassVar[str] = "karras"

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, p_mean: float = -1.2, p_std: float = 1.2):
        self.ratio_min, self.ratio_max, self.p_mean, self.p_std = sigma_min, sigma_max, p_mean, p_std

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.ratio_max * t

    def derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.full_like(t, self.ratio_max)

    def time(self, ratio: Tensor) -> Tensor:
        return ratio / self.ratio_max

    def quantile(self, u: Tensor) -> Tensor:
        """log sigma ~ N(p_mean, p_std^2) (Karras et al. 2022, Table 1), kept inside (0, 1]."""
        return (torch.exp(self.p_mean + self.p_std * torch.special.ndtri(u)) / self.ratio_max).clamp(1e-8, 1)


class Rectified(GaussianProcess):
    """x_t = (1 - t) x_0 + t eps (Liu et al. 2022, Eq. 1). Reaches alpha = 0."""

    ratio_min, ratio_max = LOWEST, HIGHEST

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)
        return -one, one

    def time(self, ratio: Tensor) -> Tensor:
        return 1 / (1 + 1 / ratio)


def table(betas: Tensor, options: TableOptions) -> Betas:
    """The process of a table, its betas kept between floor and cap."""
    return Betas(betas.clamp(options.beta_floor, options.beta_cap))


def falling(alpha_bar: Callable[[Tensor], Tensor], options: TableOptions) -> Betas:
    """beta_i = 1 - alpha_bar((i + 1)/T)/alpha_bar(i/T): the table of a given alpha_bar."""
    steps = alpha_bar(torch.arange(options.timesteps + 1, dtype=torch.float64) / options.timesteps)
    return table(1 - steps[1:] / steps[:-1], options)


def linear(options: LinearOptions, space: Any) -> Betas:
    """beta from beta_start to beta_end evenly (Ho et al. 2020, Sec. 4), both times 1000/T."""
    start, end = (b * 1000 / options.timesteps for b in (options.beta_start, options.beta_end))
    return table(torch.linspace(start, end, options.timesteps, dtype=torch.float64), options)


def scaled_linear(options: ScaledLinearOptions, space: Any) -> Betas:
    """sqrt(beta) evenly (Rombach et al. 2022, in the published configuration), both betas times 1000/T."""
    start, end = (math.sqrt(b * 1000 / options.timesteps) for b in (options.beta_start, options.beta_end))
    return table(torch.linspace(start, end, options.timesteps, dtype=torch.float64) ** 2, options)


def cosine(options: CosineOptions, space: Any) -> Betas:
    """alpha_bar = f(t)/f(0), f(t) = cos^2((t + s)/(1 + s) pi/2) (Nichol and Dhariwal 2021, Eq. 17)."""
    s = options.offset
    return falling(lambda t: torch.cos((t + s) / (1 + s) * math.pi / 2) ** 2, options)


def sigmoid(options: SigmoidOptions, space: Any) -> Betas:
    """alpha_bar falls from 1 to 0 along sigmoid((start + t (end - start))/tau) (Jabri et al. 2022; Chen 2023, Algorithm 1).

    The betas are those of this alpha_bar, not a sigmoid of their own.
    """
    if options.end <= options.start:
        raise UsageError(f"sigmoid starts at {options.start:g} and ends at {options.end:g}; end must be larger")
    start, end = torch.tensor([options.start, options.end], dtype=torch.float64) / options.tau
    high, low = torch.sigmoid(end), torch.sigmoid(start)
    return falling(lambda t: (high - torch.sigmoid(torch.lerp(start, end, t))) / (high - low), options)


def vp(options: VPOptions, space: Any) -> VP:
    return VP(options.beta_min, options.beta_max)


def edm(options: EDMOptions, space: Any) -> EDM:
    return EDM(options.sigma_min, options.sigma_max, options.p_mean, options.p_std)


def rectified(options: NoOptions, space: Any) -> Rectified:
    return Rectified()
