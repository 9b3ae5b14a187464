"""Enumerable laws of tokens, and random numbers that a test prescribes: what the tests of masked diffusion share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffcli.core.exact import Joint
from diffcli.core.masked import MaskedPrediction
from diffcli.core.process import MaskedProcess
from diffcli.core.random import Rng
from diffcli.core.space import Masked, Tokens
from diffcli.schedules.masked import CosineMask, LogLinear, PolynomialMask
from diffcli.testing.known import Fixed
from diffcli_mdlm import MDLMOptions
from diffcli_mdlm.method import MDLM

# of each schedule: the process, its masking rate by the paper's formula, and the inverse of that
SCHEDULES: dict[str, tuple[Any, Any, Any]] = {
    "loglinear": (LogLinear, lambda t: t, lambda m: m),
    "cosine-mask": (CosineMask, lambda t: torch.sin(math.pi / 2 * t), lambda m: 2 / math.pi * math.asin(m)),
    "polynomial-mask": (lambda vocab: PolynomialMask(vocab, 3.0), lambda t: t**3, lambda m: m ** (1 / 3)),
}


class Prescribed(Rng):
    """Hands out what a test prescribes: for each purpose tensors (B, *shape), or what expands to it, one after the other."""

    def __init__(self, n: int, streams: Mapping[str, Iterable[Tensor | float]]):
        super().__init__(0, torch.arange(n), n)
        self.streams = {purpose: iter(numbers) for purpose, numbers in streams.items()}

    def draw(self, purpose: str, shape: tuple[int, ...], dtype: torch.dtype, fill: Any) -> Tensor:
        return torch.as_tensor(next(self.streams[purpose]), dtype=dtype).expand(len(self.index), *shape)

    def strata(self, purpose: str) -> Tensor:
        raise AssertionError("the law of times is not what is tested here")


class Known(nn.Module):
    """A denoiser in closed form in the place of a network; `seen` holds each x_t it was asked about."""

    def __init__(self, law: Any):
        super().__init__()
        self.law, self.process, self.seen = law, law.process, list[Tensor]()

    def forward(self, x_t: Tensor, t: Tensor, cond: Any) -> MaskedPrediction:
        self.seen.append(x_t)
        return self.law(x_t, t, cond)


def coin(process: MaskedProcess) -> Fixed:
    """Every value of a token is as likely as any other."""
    return Fixed(process, torch.ones(process.vocab) / process.vocab)


def every(vocab: int, length: int) -> Tensor:
    """(vocab^length, length): all sequences."""
    return torch.cartesian_prod(*[torch.arange(vocab)] * length).reshape(-1, length)


def law(process: MaskedProcess, length: int, spread: float = 1.5) -> Joint:
    """A random law in which every sequence is possible."""
    states = every(process.vocab, length)
    logits = spread * torch.randn(len(states), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Joint(process, states, logits.softmax(0))


def mdlm(denoiser: Any, *, space: Masked | None = None, **options: Any) -> MDLM:
    """The method on a denoiser in closed form, as after training; by default its space is a row of pixels."""
    space = space or Tokens((1, 1, 4), 0, denoiser.process.vocab)
    method = MDLM(MDLMOptions(**options), space, model=lambda **_: nn.Identity(), process=denoiser.process)
    method.denoiser = Known(denoiser)
    return method.eval()


def surprise(denoiser: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """(sets (S, L), sums (S,)): every set of masked tokens of x (L,), and the sum over it of -log p(x_i | the others)."""
    sets = every(2, len(x)).bool()
    log_probs = denoiser(torch.where(sets, denoiser.process.mask_id, x), torch.tensor(0.5), {}).log_probs
    at_x = log_probs.gather(-1, x.expand(len(sets), -1)[..., None])[..., 0]
    return sets, torch.where(sets, -at_x, 0.0).sum(1)


def chance(events: Tensor, rate: float | Tensor) -> Tensor:
    """How likely it is that of independent events (..., L), each of probability `rate`, just these happen."""
    rate = torch.as_tensor(rate, dtype=torch.float64)
    return torch.where(events, rate, 1 - rate).prod(-1)


def gauss(low: float, high: float, points: int = 40) -> tuple[Tensor, Tensor]:
    """Nodes and weights of an integral from low to high; for polynomials of a degree below 80 it is exact."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(points))
    return low + (high - low) * (nodes + 1) / 2, weights * (high - low) / 2


def nelbo(denoiser: Any, x: Tensor, p: float = 0.0) -> float:
    """The part of the bound at masking rates m above p: the integral of E_m [sum over masked of -log p(x_i)] dm/m.

    By enumeration: k given tokens of L are the masked ones with probability m^k (1 - m)^(L - k).
    """
    sets, sums = surprise(denoiser, x)
    m, weights = gauss(p, 1.0)
    k, size = sets.sum(1, keepdim=True), len(x)
    density = torch.where(k > 0, m ** (k - 1.0) * (1 - m) ** (size - k), 0.0)  # (S, points)
    return float((sums * (density @ weights)).sum())


def standard_error(values: Tensor) -> float:
    """Of the mean of independent values."""
    return float(values.std()) / math.sqrt(len(values))


def off(values: Tensor, expected: float = 0.0) -> float:
    """By how many standard errors the mean is off."""
    return abs(float(values.mean()) - expected) / standard_error(values)
