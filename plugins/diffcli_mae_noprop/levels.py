"""The noise levels of decoders that are trained apart, and the grid that a walk along them takes."""

from __future__ import annotations

import math
from bisect import bisect_right

import torch
from torch import Tensor

from diffcli.core.random import Rng
from diffcli.errors import UsageError
from diffcli.schedules.gaussian import EDM

RHO = 7.0  # of the levels (Karras et al. 2022, Table 1)
ROUNDED = 1e-9  # of ln sigma: a level on a border is the upper end of the interval below it


class Levels:
    """The noise levels of T decoders, noisiest first, between sigma_min and sigma_max of the process. All in float64.

    karras: sigma_i = (max^(1/7) + i/(T - 1) (min^(1/7) - max^(1/7)))^7, one a decoder, which answers for the levels that
    are nearest to it in ln sigma (Karras et al. 2022, Eq. 5). equiprob: ln sigma ~ N(p_mean, p_std^2), truncated, in T
    intervals of equal probability (after DiffusionBlocks, arXiv 2506.14202).

    equiprob is the default, as measured with T = 4 from one training seed: error of each decoder at its own level over that
    of the noised image alone (F = 0), which karras' last decoder, at 0.002, does not beat; PSNR of hidden patches after the
    first and the last step of renoise; linear probe of the encoder, fitted on 10,000 images. shapes: 600 steps of 64,
    250 to 500 held-out images; CIFAR-10: 3,000 steps of 64, 1,000 to 2,000 held-out images.

        levels (p_mean, p_std)     data      own/skip                first   last    probe, before training
        karras                     shapes    .250 .248 .140 1.0006   15.94   15.28
        equiprob (-1.2, 1.2)       shapes    .20  .17  .18  .38      12.81   12.68
        equiprob (0.5, 2)          shapes    .254 .237 .173 .201     15.73   14.34
        karras                     CIFAR-10  .360 .355 .189 1.0000   17.02   16.33   47.6 %  44.8 %
        equiprob (0.5, 2)          CIFAR-10  .354 .283 .205 .246     17.00   15.80   51.1 %  44.8 %
    """

    def __init__(self, kind: str, decoders: int, process: EDM):
        high, low = torch.tensor([process.ratio_max, process.ratio_min], dtype=torch.float64).unbind()
        self.kind, self.count, self.process = kind, decoders, process
        if kind == "karras":
            k = torch.linspace(0, 1, decoders, dtype=torch.float64)
            self.sigma = torch.lerp(high ** (1 / RHO), low ** (1 / RHO), k) ** RHO  # (T,) of each
            borders = (self.sigma[1:].log() + self.sigma[:-1].log()) / 2
        else:
            k = torch.linspace(0, 1, decoders + 1, dtype=torch.float64)
            self.share = torch.lerp(self.below(high), self.below(low), k)
            self.sigma = self.at(self.share)  # (T + 1,) both ends of each
            self.sigma[0], self.sigma[-1] = high, low
            borders = self.sigma[1:-1].log()
            if not bool((self.sigma.diff() < 0).all()):
                raise UsageError(
                    f"--p-mean {process.p_mean:g} and --p-std {process.p_std:g} put nothing between sigma {low:g} and {high:g}, "
                    f"where {decoders} decoders are to share it; give others"
                )
        self.rising = (-borders).tolist()  # of -ln sigma

    def below(self, sigma: Tensor) -> Tensor:
        """The share of levels below one, by N(p_mean, p_std^2)."""
        share: Tensor = torch.special.ndtr((sigma.log() - self.process.p_mean) / self.process.p_std)
        return share

    def at(self, share: Tensor) -> Tensor:
        """Its inverse."""
        return torch.exp(self.process.p_mean + self.process.p_std * torch.special.ndtri(share))

    def decoder(self, sigma: float) -> int:
        """Which decoder answers for a level."""
        return bisect_right(self.rising, -math.log(max(sigma, self.process.ratio_min)) + ROUNDED)

    def draw(self, i: int, rng: Rng) -> Tensor:
        """Training times of decoder i: its level (), or (B,) stratified in its interval."""
        if self.kind == "karras":
            return self.process.time(self.sigma[i])
        sigma = self.at(torch.lerp(self.share[i], self.share[i + 1], rng.strata(f"time {i}")))
        return self.process.time(sigma.clamp(self.sigma[i + 1], self.sigma[i]))

    def grid(self, steps: int) -> Tensor:
        """(steps + 1,) times from 1 to 0: the levels, or each interval from its upper end down, evenly in ln sigma."""
        each, rest = divmod(steps, self.count)
        if rest or not each or (each > 1 and self.kind == "karras"):
            listed = ", ".join(str(self.count * k) for k in (1, 2, 3))
            able = (
                f"{self.count}, or leave it out" if self.kind == "karras" else f"a multiple of them, such as {listed}"
            )
            raise UsageError(
                f"{steps} steps were asked for, but the {self.count} decoders have {self.kind} levels of their own; "
                f"give --steps {able}"
            )
        sigma = self.sigma
        if self.kind == "equiprob":
            part = torch.arange(each, dtype=torch.float64) / each
            high, low = self.sigma[:-1, None].log(), self.sigma[1:, None].log()
            sigma = torch.lerp(high, low, part).exp().flatten()
        times = torch.cat([self.process.time(sigma), torch.zeros(1, dtype=torch.float64)])
        times[0] = 1
        return times
