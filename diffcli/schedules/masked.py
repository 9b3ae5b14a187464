"""Masked processes: tokens turn into [MASK], by different clocks. What a trained model is does not depend on them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from diffcli.core.process import MaskedProcess
from diffcli.plugin import NoOptions
from diffcli.schedules import PolynomialMaskOptions


class LogLinear(MaskedProcess):
    """alpha = 1 - t: masked with probability t, so that -log(1 - alpha) is log-linear (Sahoo et al. 2024)."""

    def time(self, rate: Tensor) -> Tensor:
        return rate


class CosineMask(MaskedProcess):
    """alpha = 1 - sin(pi t/2): few tokens are left clean for most of the time (Shi et al. 2024, Table 1, in t of noise)."""

    def rate(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def time(self, rate: Tensor) -> Tensor:
        return torch.asin(rate) * (2 / math.pi)


class PolynomialMask(MaskedProcess):
    """alpha = 1 - t^power (Shi et al. 2024, Table 1); power 1 is log-linear."""

    def __init__(self, vocab: int, power: float):
        super().__init__(vocab)
        self.power = power

    def rate(self, t: Tensor) -> Tensor:
        rate: Tensor = t**self.power
        return rate

    def time(self, rate: Tensor) -> Tensor:
        return rate ** (1 / self.power)


def loglinear(options: NoOptions, space: Any) -> LogLinear:
    return LogLinear(space.vocab)


def cosine_mask(options: NoOptions, space: Any) -> CosineMask:
    return CosineMask(space.vocab)


def polynomial_mask(options: PolynomialMaskOptions, space: Any) -> PolynomialMask:
    return PolynomialMask(space.vocab, options.power)
