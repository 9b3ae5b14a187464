"""Parallel decoding by confidence: what the network is surest of is revealed first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Denoiser
from diffcli.core.process import MaskedProcess
from diffcli.core.random import Rng
from diffcli.samplers import ConfidenceOptions
from diffcli.samplers.masked import MaskedSampler, shared

ROUNDING = 1e-9  # a whole number of tokens may come out a little below itself


class ConfidencePoint(NamedTuple):
    """A step from t; keep: share of the tokens that stay masked after it; noise: scale of the Gumbel noise."""

    t: Tensor
    keep: float
    noise: float


class Counts(NamedTuple):
    """How many tokens of each row were masked at the start, and how many are now."""

    start: list[int]
    now: list[int]


@dataclass(frozen=True, kw_only=True)
class Confidence(MaskedSampler):
    """All masked tokens are drawn, and all but the floor(n_0 cos(pi/2 (1 - s))) least confident ones are kept (Chang et al. 2022).

    n_0: tokens masked at the start; 1 - s is k/N after k of N even steps, so that this is their cosine schedule.
    Confidence is log p of the value drawn, as predicted (whatever the temperature), plus Gumbel noise times
    choice_temperature * s, which falls to 0. It does not sample the law: which tokens are kept depends on their values.
    Rows of which a step keeps no token are not evaluated in it.
    """

    choice_temperature: float = 1.0

    def plan(self, process: MaskedProcess, times: Tensor) -> Sequence[ConfidencePoint]:
        s = times[1:].tolist()
        keep = [math.cos(math.pi / 2 * (1 - v)) for v in s]
        return list(map(ConfidencePoint, times[:-1].unbind(), keep, [self.choice_temperature * v for v in s]))

    def start(self, denoiser: Denoiser, x: Tensor, times: Tensor, rng: Rng) -> Counts:
        masked: list[int] = (x == denoiser.process.mask_id).sum(1).tolist()
        return Counts(masked, masked)

    def step(
        self, denoiser: Denoiser, x_t: Tensor, point: ConfidencePoint, *, cond: Cond, state: Counts, rng: Rng
    ) -> tuple[Tensor, Counts]:
        stay = [math.floor(n * point.keep + ROUNDING) for n in state.start]
        u = rng.uniform("value", x_t.shape[1:])
        noise = point.noise * gumbel(rng.uniform("choice", x_t.shape[1:])) if point.noise else torch.zeros_like(u)
        moving = [row for row, (after, before) in enumerate(zip(stay, state.now, strict=True)) if after < before]
        if not moving:
            return x_t, state
        rows = slice(None) if len(moving) == len(x_t) else torch.tensor(moving).to(x_t.device, non_blocking=True)
        x = x_t[rows]
        log_probs = denoiser(x, point.t, {name: v[rows] for name, v in cond.items()}).log_probs
        drawn = self.draw(log_probs, u[rows])
        sure = log_probs.gather(-1, drawn[..., None])[..., 0].double() + noise[rows]
        masked = x == denoiser.process.mask_id
        rising = torch.where(masked, sure, math.inf).argsort(dim=1, stable=True)
        least = torch.tensor([stay[row] for row in moving]).to(x_t.device, non_blocking=True)[:, None]
        late = torch.arange(x.shape[1], device=x.device) >= least
        keep = masked & torch.zeros_like(masked).scatter_(1, rising, late)
        x_s = x_t.clone()
        x_s[rows] = torch.where(keep, drawn, x)
        return x_s, Counts(state.start, stay)


def gumbel(u: Tensor) -> Tensor:
    """Standard Gumbel noise from u uniform in [0, 1)."""
    return -torch.log(-torch.log(u))


def confidence(options: ConfidenceOptions) -> Confidence:
    return Confidence(choice_temperature=options.choice_temperature, **shared(options))
