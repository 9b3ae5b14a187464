"""Walks of tokens that are revealed once and never change again: ancestral unmasking, and its limit of one token at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Denoiser
from diffcli.core.masked import categorical
from diffcli.core.process import MaskedProcess, Process
from diffcli.core.random import Rng
from diffcli.plugin import Family
from diffcli.samplers import FirstHittingOptions, MaskedSamplerOptions, UnmaskOptions
from diffcli.samplers.base import Sampler


@dataclass(frozen=True, kw_only=True)
class MaskedSampler(Sampler):
    """Fills in what is [MASK] in x; all other tokens were given, and stay as they are.

    temperature: log-probabilities are divided by it, and normalized again; dtype: in which values are drawn.
    """

    family: ClassVar[Family] = "masked"
    temperature: float = 1.0
    dtype: torch.dtype = torch.float64

    def steps(self, process: Process) -> int:
        return 40

    def nfe(self, steps: int) -> int:
        """At most: one a step. How many steps reveal nothing of a row, and cost it nothing, depends on its length."""
        return steps

    def draw(self, log_probs: Tensor, u: Tensor) -> Tensor:
        """Values (B, L) of all tokens, from log p(x_0 | x_t) (B, L, V) and the numbers u (B, L) in [0, 1)."""
        if self.temperature != 1:
            log_probs = (log_probs.to(self.dtype) / self.temperature).log_softmax(-1)
        return categorical(log_probs, u, self.dtype)


class MaskedPoint(NamedTuple):
    """A step from t to s, and how likely a token is to be masked after it: 1 - alpha_s."""

    t: Tensor
    rate_s: float


class Hidden(NamedTuple):
    """(B, L) float64 numbers of the tokens, drawn once: the rate at which one is revealed, and what its value is drawn by."""

    level: Tensor
    value: Tensor


class Jumps(NamedTuple):
    """The events of each row, that is, the calls after which some of its tokens are revealed.

    rank (B, L): number of the event that reveals a token, -1 where none does; at (B, J): time of each event; total (B,).
    """

    rank: Tensor
    at: Tensor
    total: Tensor


def rates(process: MaskedProcess, times: Tensor) -> list[float]:
    """1 - alpha at each time."""
    found: list[float] = process.rate(times).tolist()
    return found


def hide(process: MaskedProcess, x: Tensor, times: Tensor, rng: Rng) -> Hidden:
    """Levels uniform below the rate at which the walk begins, and numbers for the values."""
    level, value = rng.uniform("reveal", x.shape[1:]), rng.uniform("value", x.shape[1:])
    return Hidden(level * float(process.rate(times[0])), value)


@dataclass(frozen=True, kw_only=True)
class Levels(MaskedSampler):
    """A masked token has one level u ~ U(0, 1) and is revealed in the step from t to s in which 1 - alpha_s <= u < 1 - alpha_t.

    So it stays masked with probability (1 - alpha_s)/(1 - alpha_t), independently of the others: the ancestral law (Sahoo
    et al. 2024, Eq. 6). All levels are known before the first call; each row is then evaluated at its own events alone,
    which is exact because the posterior given x_t does not depend on t: where no token changes, no prediction does.
    """

    def plan(self, process: MaskedProcess, times: Tensor) -> Sequence[MaskedPoint]:
        return list(map(MaskedPoint, times[:-1].unbind(), rates(process, times[1:])))

    def start(self, denoiser: Denoiser, x: Tensor, times: Tensor, rng: Rng) -> Hidden:
        return hide(denoiser.process, x, times, rng)

    @abstractmethod
    def jumps(self, process: MaskedProcess, level: Tensor, step: Tensor, times: Tensor) -> Jumps:
        """The events; step (B, L): in which each token is revealed, len(times) - 1 or -1 where that is in none."""

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, cond: Cond, rng: Rng
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All events, and then x_s at each time of the grid: as tokens never change, the end and their steps say it."""
        process, hidden = denoiser.process, self.start(denoiser, x, times, rng)
        rising = process.rate(times[1:]).flip(0).to(x.device, non_blocking=True)
        step = len(rising) - torch.searchsorted(rising, hidden.level, right=True)  # how many rates are above the level
        step = torch.where(x == process.mask_id, step, -1)
        end = self.walk(denoiser, x, self.jumps(process, hidden.level, step, times), hidden.value, cond)
        for k, s in enumerate(times[1:].unbind()):
            yield s, torch.where(step > k, process.mask_id, end)

    def walk(self, denoiser: Denoiser, x: Tensor, jumps: Jumps, value: Tensor, cond: Cond) -> Tensor:
        """x after all events: call j is of the rows that have an event j, each at its own time.

        Rows with the most events come first, so that those of a call are a slice. The device is waited for once.
        """
        order = jumps.total.argsort(descending=True, stable=True)
        left: list[int] = jumps.total[order].tolist()
        x, value, rank, at = x[order], value[order], jumps.rank[order], jumps.at[order]
        cond, done = {name: v[order] for name, v in cond.items()}, list[Tensor]()
        for j in range(left[0]):
            while left[-1] <= j:
                left.pop()
            if (n := len(left)) < len(x):
                done.append(x[n:])
                x, value, rank, at = x[:n], value[:n], rank[:n], at[:n]
                cond = {name: v[:n] for name, v in cond.items()}
            drawn = self.draw(denoiser(x, at[:, j], cond).log_probs, value)
            x = torch.where(rank == j, drawn, x)
        return torch.cat([x, *reversed(done)])[order.argsort()]


@dataclass(frozen=True, kw_only=True)
class Unmask(Levels):
    """From t to s a masked token stays with probability (1 - alpha_s)/(1 - alpha_t), else takes a draw from p(x_0 | x_t).

    For alpha = 1 - t that is s/t (Sahoo et al. 2024, Eq. 6). cache: each row is evaluated at its events alone, of which it
    has N (1 - (1 - 1/N)^L) on average, for L tokens, N even steps and alpha = 1 - t; else every row is in every step, to
    the same samples.
    """

    cache: bool = True

    def jumps(self, process: MaskedProcess, level: Tensor, step: Tensor, times: Tensor) -> Jumps:
        """The steps in which a row reveals any token."""
        n, place = len(times) - 1, step.remainder(len(times))  # what is in no step is put behind the last
        happens = torch.zeros(len(step), n + 1, dtype=torch.bool, device=step.device).scatter_(1, place, True)[:, :n]
        rank = (happens.cumsum(1) - 1).gather(1, place.clamp(max=n - 1))
        at = torch.where(happens, times[:-1].to(step.device, non_blocking=True), -1.0)
        return Jumps(torch.where(place < n, rank, -1), at.sort(1, descending=True).values, happens.sum(1))

    def step(
        self, denoiser: Denoiser, x_t: Tensor, point: MaskedPoint, *, cond: Cond, state: Hidden, rng: Rng
    ) -> tuple[Tensor, Hidden]:
        reveal = (x_t == denoiser.process.mask_id) & (state.level >= point.rate_s)
        drawn = self.draw(denoiser(x_t, point.t, cond).log_probs, state.value)
        return torch.where(reveal, drawn, x_t), state

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, cond: Cond, rng: Rng
    ) -> Iterator[tuple[Tensor, Tensor]]:
        way = Levels.trajectory if self.cache else Sampler.trajectory
        yield from way(self, denoiser, x, times, cond=cond, rng=rng)


@dataclass(frozen=True, kw_only=True)
class FirstHitting(Levels):
    """With n tokens masked at t, one of them, any alike, is revealed at t' where m(t') = m(t) u^(1/n), m = 1 - alpha.

    For alpha = 1 - t that is t' = t u^(1/n) (Zheng et al. 2024, the first-hitting sampler). The highest of n levels has
    that law, and the others are levels below it: so they are visited from the top, one at a time. It is the limit of
    `unmask` at infinitely many steps, and exact. A call for each masked token, whatever the grid, which only says when x
    is looked at.
    """

    def nfe(self, steps: int) -> int:
        """One a token: a step is a masked token here, and the grid does not count."""
        return steps

    def jumps(self, process: MaskedProcess, level: Tensor, step: Tensor, times: Tensor) -> Jumps:
        return self.fall(process, level, (step >= 0) & (step < len(times) - 1))

    def fall(self, process: MaskedProcess, level: Tensor, moves: Tensor) -> Jumps:
        """Every token of `moves` (B, L) alone, in falling order of its level, at the time of that rate."""
        falling = torch.where(moves, level, -1.0).sort(dim=1, descending=True, stable=True)
        rank = torch.where(moves, falling.indices.argsort(1), -1)
        return Jumps(rank, process.time(falling.values.clamp(min=0)), moves.sum(1))

    def step(
        self, denoiser: Denoiser, x_t: Tensor, point: MaskedPoint, *, cond: Cond, state: Hidden, rng: Rng
    ) -> tuple[Tensor, Hidden]:
        """The tokens with levels in [1 - alpha_s, 1 - alpha_t), one at a time."""
        reveal = (x_t == denoiser.process.mask_id) & (state.level >= point.rate_s)
        return self.walk(denoiser, x_t, self.fall(denoiser.process, state.level, reveal), state.value, cond), state


def shared(options: MaskedSamplerOptions) -> dict[str, Any]:
    """The options of every masked sampler, as its fields."""
    return {"temperature": options.temperature, "dtype": getattr(torch, options.sampling_dtype)}


def unmask(options: UnmaskOptions) -> Unmask:
    return Unmask(cache=options.cache, **shared(options))


def first_hitting(options: FirstHittingOptions) -> FirstHitting:
    return FirstHitting(**shared(options))
