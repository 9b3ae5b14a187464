"""A Gaussian process by its log-SNR, which begins at a finite one. In float64."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcli.core.process import GaussianProcess
from diffcli.errors import UsageError
from diffcli.schedules import LogSNRCosineOptions
from diffcli.schedules.gaussian import HIGHEST, LOWEST


class LogSNRCosine(GaussianProcess):
    """alpha^2 = sigmoid(lambda), sigma = noise_std sqrt(sigmoid(-lambda)), lambda = -2 ln tan(a t + c) (after Hoogeboom et al. 2023).

    a and c lead lambda from logsnr_max at t = 0 to logsnr_min at t = 1, so that sigma(0), the floor, is above 0. The angle
    a t + c is that of the table of cosines; noise_std is of the noise, which the paper has at 1.
    """

    def __init__(self, logsnr_min: float = -10.0, logsnr_max: float = 10.0, noise_std: float = 1.0):
        if logsnr_min >= logsnr_max:
            raise UsageError(f"the log-SNR rises from {logsnr_max:g} to {logsnr_min:g}; logsnr_min must be the smaller")
        self.offset = math.atan(math.exp(-logsnr_max / 2))
        self.slope = math.atan(math.exp(-logsnr_min / 2)) - self.offset
        self.noise_std = noise_std
        first, last = (noise_std * math.exp(-logsnr / 2) for logsnr in (logsnr_max, logsnr_min))
        self.floor = noise_std * math.sin(self.offset)
        above = min(2 * first, math.sqrt(first * last))  # t = 0 is a level of its own
        self.ratio_min, self.ratio_max = max(LOWEST, above), min(HIGHEST, last)

    def angle(self, t: Tensor) -> Tensor:
        """atan(sigma/(noise_std alpha)), float64."""
        return self.slope * t.double() + self.offset

    def logsnr(self, t: Tensor) -> Tensor:
        """lambda(t), of noise of standard deviation 1; float64."""
        return -2 * torch.log(torch.tan(self.angle(t)))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(F.logsigmoid(self.logsnr(t)) / 2).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return (self.noise_std * torch.exp(F.logsigmoid(-self.logsnr(t)) / 2)).to(t.dtype)

    def derivative(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -self.slope / self.noise_std * self.sigma(t), self.noise_std * self.slope * self.alpha(t)

    def time(self, ratio: Tensor) -> Tensor:
        angle = torch.atan(ratio.double() / self.noise_std)
        return ((angle - self.offset) / self.slope).clamp(0, 1).to(ratio.dtype)


def logsnr_cosine(options: LogSNRCosineOptions, space: Any) -> LogSNRCosine:
    return LogSNRCosine(options.logsnr_min, options.logsnr_max, options.noise_std)
