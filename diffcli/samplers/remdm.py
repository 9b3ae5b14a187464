"""Revealed tokens may be masked again, so that what was drawn too early can be drawn anew (Wang et al. 2025)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Denoiser
from diffcli.core.process import MaskedProcess
from diffcli.core.random import Rng
from diffcli.errors import UsageError
from diffcli.samplers import ReMDMOptions
from diffcli.samplers.masked import MaskedSampler, hide, rates, shared


class ReMDMPoint(NamedTuple):
    """A step from t to s with the rates of both.

    sigma: how likely a revealed token is to be masked again; stay: the level below which a masked one stays masked.
    """

    t: Tensor
    rate_s: float
    sigma: float
    stay: float


class Remaskable(NamedTuple):
    """(B, L) of each token: level and the number its value is drawn by; whether it was given; its probability when drawn."""

    level: Tensor
    value: Tensor
    given: Tensor
    p: Tensor


@dataclass(frozen=True, kw_only=True)
class ReMDM(MaskedSampler):
    """Revealed tokens are masked again with probability sigma, masked ones stay with (m_s - sigma (1 - m_t))/m_t, m = 1 - alpha.

    Else they take a draw from p(x_0 | x_t) (Wang et al. 2025, the ReMDM posterior). So a token is masked at s with
    probability m_s, as without. sigma is at most sigma_max = min(1, m_s/(1 - m_t)), and 0 for t outside [t_off, t_on]:
    "cap" min(eta, sigma_max); "rescale" eta sigma_max; "conf" that of cap, but one for the whole row, which its revealed
    tokens share by softmax(-p at their decoding). There masked tokens stay with m_s/m_t, as published, so that the row
    holds up to sigma N/e masked tokens more in N steps. At s = 0 sigma_max is 0, and nothing is masked again. Given tokens
    never are. eta = 0 is `unmask`. Rows in which a step reveals nothing are not evaluated in it.

    A token that is masked at t has a level uniform in [0, m_t), and stays if it is below m_s - sigma (1 - m_t); then the
    level is stretched to be uniform in [0, m_s).
    """

    strategy: Literal["cap", "rescale", "conf"] = "cap"
    eta: float = 0.02
    t_on: float = 1.0
    t_off: float = 0.0

    def plan(self, process: MaskedProcess, times: Tensor) -> Sequence[ReMDMPoint]:
        rate, points = rates(process, times), []
        for t, m_t, m_s in zip(times[:-1], rate[:-1], rate[1:], strict=True):
            most = min(1.0, m_s / (1 - m_t)) if m_t < 1 else 1.0
            sigma = self.eta * most if self.strategy == "rescale" else min(self.eta, most)
            sigma = sigma if self.t_off <= float(t) <= self.t_on else 0.0
            stay = m_s if self.strategy == "conf" else max(0.0, m_s - sigma * (1 - m_t))
            points.append(ReMDMPoint(t, m_s, sigma, stay))
        return points

    def start(self, denoiser: Denoiser, x: Tensor, times: Tensor, rng: Rng) -> Remaskable:
        hidden = hide(denoiser.process, x, times, rng)
        return Remaskable(*hidden, x != denoiser.process.mask_id, torch.ones_like(hidden.level))

    def step(
        self, denoiser: Denoiser, x_t: Tensor, point: ReMDMPoint, *, cond: Cond, state: Remaskable, rng: Rng
    ) -> tuple[Tensor, Remaskable]:
        mask_id, shape = denoiser.process.mask_id, x_t.shape[1:]
        masked = x_t == mask_id
        x_s, p = self.reveal(denoiser, x_t, masked & (state.level >= point.stay), point.t, cond, state)
        level = state.level * (point.rate_s / point.stay) if point.stay else state.level
        if not point.sigma:
            return x_s, state._replace(level=level, p=p)
        again = rng.uniform("remask", shape) < self.chance(~masked & ~state.given, point.sigma, state)
        level = torch.where(again, rng.uniform("reveal again", shape) * point.rate_s, level)
        value = torch.where(again, rng.uniform("value again", shape), state.value)
        return torch.where(again, mask_id, x_s), Remaskable(level, value, state.given, p)

    def chance(self, free: Tensor, sigma: float, state: Remaskable) -> Tensor:
        """(B, L) how likely each token is to be masked again: of those in `free` sigma, or their shares of it."""
        if self.strategy == "conf":
            share = torch.where(free, -state.p, -math.inf).softmax(1)
            return sigma * share.nan_to_num(0.0)  # where none is free
        return sigma * free.double()

    def reveal(
        self, denoiser: Denoiser, x_t: Tensor, now: Tensor, t: Tensor, cond: Cond, state: Remaskable
    ) -> tuple[Tensor, Tensor]:
        """x and p after the tokens of `now` (B, L) have taken a draw; only rows that have one are evaluated."""
        (rows,) = now.any(1).nonzero(as_tuple=True)  # waits for the device
        if not len(rows):
            return x_t, state.p
        every: Tensor | slice = slice(None) if len(rows) == len(x_t) else rows
        log_probs = denoiser(x_t[every], t, {name: v[every] for name, v in cond.items()}).log_probs
        drawn = self.draw(log_probs, state.value[every])
        chance = log_probs.gather(-1, drawn[..., None])[..., 0].double().exp()
        x_s, p = x_t.clone(), state.p.clone()
        x_s[every] = torch.where(now[every], drawn, x_t[every])
        p[every] = torch.where(now[every], chance, state.p[every])
        return x_s, p


def remdm(options: ReMDMOptions) -> ReMDM:
    if options.t_off > options.t_on:
        raise UsageError(
            f"remdm masks again for t in [t_off, t_on], but --t-off {options.t_off:g} is above --t-on {options.t_on:g}; swap them"
        )
    o = options
    return ReMDM(strategy=o.strategy, eta=o.eta, t_on=o.t_on, t_off=o.t_off, **shared(o))
