"""Forward processes: how data turn into noise between t = 0 (clean) and t = 1 (noise)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from diffcli.core.random import Rng
from diffcli.plugin import Family


def slope(curve: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """The derivative of an entry-wise function at t; backwards, for torch's first forward one compiles, under a warning."""
    with torch.inference_mode(False), torch.enable_grad():
        t = t.detach().clone().requires_grad_()
        value = curve(t) + 0 * t  # a constant has a slope as well
        return torch.autograd.grad(value.sum(), t)[0]


def expand(v: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ...) in the dtype and on the device of `like`; () stays a 0-dim tensor, which promotes nothing."""
    return v.to(like).reshape(v.shape + (1,) * (like.ndim - v.ndim)) if v.ndim else v


class Process(ABC):
    """A way from data to noise; `family` says which samplers can walk back.

    nodes: entries of a beta table, or None. spacing: the grid this process is sampled on when none is asked for.
    """

    family: ClassVar[Family]
    nodes: int | None = None
    spacing: ClassVar[str] = "uniform"

    @abstractmethod
    def prior(self, shape: tuple[int, ...], rng: Rng) -> Tensor:
        """x at t = 1, (B, *shape), for the rows of rng."""

    def ending(self) -> Process:
        """The process as a sampler sees it that shall end at x_0; self unless sigma(0) > 0 must be hidden."""
        return self


class GaussianProcess(Process):
    """x_t = alpha(t) x_0 + sigma(t) eps, t in [0, 1]; log(alpha/sigma) strictly falls; sigma(0) = 0 unless the process declares a floor.

    rectified: the frame y = x/scale in which the path is straight. True: scale = alpha + sigma, regular everywhere;
    False: scale = alpha (Karras et al. 2022), for processes that never scale the data.
    ratio_min, ratio_max: the sigma/alpha between which karras and logsnr grids place their levels.
    """

    family = "gaussian"
    rectified: ClassVar[bool] = True
    floor: float = 0.0
    ratio_min: float = 0.002
    ratio_max: float = 1000.0

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor: ...

    def diffuse(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha(t) x_0 + sigma(t) eps.

        x_0, eps: (B, *); t: () or (B,). Makes training data, and, fed predictions, a DDIM step.
        """
        return expand(self.alpha(t), x_0) * x_0 + expand(self.sigma(t), x_0) * eps

    def derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha', sigma') by differentiation."""
        return slope(self.alpha, t), slope(self.sigma, t)

    def scale(self, t: Tensor) -> Tensor:
        """What x is divided by so that the path is straight: alpha + sigma, or alpha."""
        return self.alpha(t) + self.sigma(t) if self.rectified else self.alpha(t)

    def ratio(self, t: Tensor) -> Tensor:
        """sigma/alpha, infinite where alpha is 0."""
        return self.sigma(t) / self.alpha(t)

    def time(self, ratio: Tensor) -> Tensor:
        """The t at which sigma/alpha is `ratio`; by bisection unless a process knows better."""
        low, high = torch.zeros_like(ratio), torch.ones_like(ratio)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.sigma(middle) < ratio * self.alpha(middle)
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high

    def quantile(self, u: Tensor) -> Tensor:
        """The training time at quantile u of this process's own law; uniform unless it says otherwise."""
        return u

    def posterior(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Variances (beta_ts, beta~_ts) of q(x_s | x_t), up to its mean, and of q(x_s | x_t, x_0).

        beta_ts = sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2 and beta~_ts = beta_ts sigma_s^2/sigma_t^2 (Ho et al. 2020,
        Eq. 7, for any pair s < t).
        """
        large = self.sigma(t) ** 2 - (self.alpha(t) / self.alpha(s) * self.sigma(s)) ** 2
        return large, large * (self.sigma(s) / self.sigma(t)) ** 2

    def prior(self, shape: tuple[int, ...], rng: Rng) -> Tensor:
        return self.sigma(torch.ones((), dtype=torch.float64)) * rng.normal("prior", shape)

    def ending(self) -> GaussianProcess:
        return CleanEnd(self) if self.floor else self


class CleanEnd(GaussianProcess):
    """The same process with alpha(0) = 1, sigma(0) = 0 exactly, so that a sampler ends at x_0 and not at its floor."""

    def __init__(self, process: GaussianProcess):
        self.process, self.nodes = process, process.nodes
        self.ratio_min, self.ratio_max = process.ratio_min, process.ratio_max
        self.rectified, self.spacing = process.rectified, process.spacing  # type: ignore[misc]

    def alpha(self, t: Tensor) -> Tensor:
        return torch.where(t == 0, torch.ones_like(t), self.process.alpha(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.where(t == 0, torch.zeros_like(t), self.process.sigma(t))

    def time(self, ratio: Tensor) -> Tensor:
        return self.process.time(ratio)

    def quantile(self, u: Tensor) -> Tensor:
        return self.process.quantile(u)


class MaskedProcess(Process):
    """Each token is [MASK] = vocab with probability 1 - alpha(t), else what it was (Sahoo et al. 2024, Eq. 3).

    A schedule overrides `rate`, which rises from 0 at t = 0 to 1 at t = 1. The rest follows: times and rates are in float64.
    """

    family = "masked"

    def __init__(self, vocab: int):
        self.vocab = self.mask_id = vocab

    def rate(self, t: Tensor) -> Tensor:
        """t: how likely a token is to be masked, 1 - alpha; near t = 0 that difference itself would round to 0."""
        return t

    def alpha(self, t: Tensor) -> Tensor:
        """How likely a token is to be what it was."""
        return 1 - self.rate(t)

    def time(self, rate: Tensor) -> Tensor:
        """The t at which a token is masked with probability `rate`; by bisection unless a process knows better."""
        low, high = torch.zeros_like(rate), torch.ones_like(rate)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.rate(middle) < rate
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high

    def slope(self, t: Tensor) -> Tensor:
        """-alpha'(t), by differentiation."""
        return slope(self.rate, t)

    def posterior(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(stay, reveal): what a token masked at t is at s < t, given x_0 (Sahoo et al. 2024, Eq. 6).

        stay = (1 - alpha_s)/(1 - alpha_t), that it is masked still; reveal = (alpha_s - alpha_t)/(1 - alpha_t).
        """
        stay = self.rate(s) / self.rate(t)
        return stay, 1 - stay

    def mask(self, x_0: Tensor, t: Tensor, u: Tensor) -> Tensor:
        """x_t: the tokens of x_0 (B, L) with [MASK] where u (B, L) in [0, 1) is below 1 - alpha(t); t: () or (B,)."""
        return torch.where(u < expand(self.rate(t), u), self.mask_id, x_0)

    def prior(self, shape: tuple[int, ...], rng: Rng) -> Tensor:
        return torch.full((len(rng.index), *shape), self.mask_id, device=rng.device)
