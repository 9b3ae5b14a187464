"""Denoisers in closed form, and walks on them: what the laws of samplers are measured on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcli.core.denoiser import Cond, Prediction
from diffcli.core.masked import MaskedPrediction, substitute
from diffcli.core.process import GaussianProcess, MaskedProcess
from diffcli.core.random import Rng, Rows
from diffcli.engine.bench import problem
from diffcli.engine.bench_errors import walk
from diffcli.samplers.base import Sampler
from diffcli.samplers.grid import grid
from diffcli.samplers.runge_kutta import RungeKutta4
from diffcli.schedules import diffcli_schedules


class Image:
    """The exact denoiser of one image: every x_t is that image and noise."""

    def __init__(self, process: GaussianProcess, x_0: Tensor):
        self.process, self.x_0 = process, x_0

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        x_0 = self.x_0.expand(x_t.shape)
        return Prediction(x_0, (x_t - self.process.alpha(t) * x_0) / self.process.sigma(t))


class Table:
    """A denoiser of tokens that looks up what it says by a whole number of x_t, so that a row is the same to the bit in any batch."""

    def __init__(self, process: MaskedProcess, length: int, entries: int = 61):
        logits = torch.randn(entries, length, process.vocab, generator=torch.Generator().manual_seed(0))
        self.process, self.table = process, 2 * logits

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> MaskedPrediction:
        entry = (x_t * torch.arange(1, x_t.shape[1] + 1)).sum(1) % len(self.table)
        return MaskedPrediction(substitute(self.table[entry].log_softmax(-1), x_t, self.process.mask_id))


class Fixed:
    """A denoiser of independent tokens: probs (V,) or (L, V), whatever the others are."""

    def __init__(self, process: MaskedProcess, probs: Tensor):
        self.process, self.log_probs = process, probs.double().log()

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> MaskedPrediction:
        log_probs = self.log_probs.expand(*x_t.shape, -1)
        return MaskedPrediction(substitute(log_probs, x_t, self.process.mask_id))


class Told:
    """A denoiser whose answer is the number in its condition; it is asked about rows and conditions that go together."""

    def __init__(self, process: Any):
        self.process = process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Any:
        told = cond["label"]
        if len(told) != len(x_t) or (t.ndim and len(t) != len(x_t)):
            raise AssertionError(f"it asked about {len(x_t)} rows with {len(told)} conditions and t {tuple(t.shape)}")
        if isinstance(self.process, GaussianProcess):
            return Image(self.process, told.to(x_t)[:, None])(x_t, t, cond)
        sure = F.one_hot(told, self.process.vocab).double()[:, None].expand(*x_t.shape, -1)
        return MaskedPrediction(substitute(sure.log(), x_t, self.process.mask_id))


def partly(process: MaskedProcess, rows: int, length: int) -> Tensor:
    """(rows, length): rows of which none, few, many and all tokens are masked, in turn."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(process.vocab, (rows, length), generator=generator)
    u = torch.rand(rows, length, generator=generator)
    return torch.where(u < (torch.arange(rows) % 4 / 3)[:, None], process.mask_id, values)


@cache
def gaussian() -> dict[str, GaussianProcess]:
    """Every built-in Gaussian process, with its default options, as a sampler sees it: it ends at x_0."""
    made = {spec.name: spec.load()(spec.config(), None) for spec in diffcli_schedules() if spec.family == "gaussian"}
    return {name: process.ending() for name, process in made.items()}


def noise(process: GaussianProcess, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """(count, 2) at t = 1, row i the same for any count."""
    return process.prior((2,), Rows(0, torch.arange(count), count)).to(dtype)


def path(
    sampler: Sampler,
    denoiser: Any,
    x: Tensor,
    times: Tensor,
    *,
    cond: Cond | None = None,
    rng: Rng | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """(s, x_s) after each step of a walk from a copy of x."""
    rng = rng or Rows(0, torch.arange(len(x)), len(x))
    walked = sampler.trajectory(denoiser, x.clone(), times, cond=cond or {}, rng=rng)
    return [(s, x_s.clone()) for s, x_s in walked]


class Stretch(NamedTuple):
    """A part of a process on which an order is measured: its name, where it begins, and the grid of N steps along it."""

    name: str
    high: float
    grid: Callable[[int], Tensor]
    counts: tuple[int, ...]
    fine: int


def even(high: float, low: float) -> Callable[[int], Tensor]:
    return lambda steps: torch.linspace(high, low, steps + 1, dtype=torch.float64)


def geometric(high: float, low: float) -> Callable[[int], Tensor]:
    return lambda steps: torch.exp(even(math.log(high), math.log(low))(steps))


# away from both ends; the numbers of steps of a table hit its entries, between which it is not smooth
STRETCHES = (
    Stretch("vp", 0.98, even(0.98, 0.02), (32, 64, 128), 384),
    Stretch("edm", 0.5, geometric(0.5, 0.0025), (32, 64, 128), 384),
    Stretch("rectified", 0.98, even(0.98, 0.02), (32, 64, 128), 384),
    Stretch("linear", 0.95, even(0.95, 0.05), (45, 90, 180), 450),
    Stretch("cosine", 0.95, even(0.95, 0.05), (45, 90, 180), 450),
)


@cache
def exact(stretch: Stretch) -> tuple[Tensor, Tensor]:
    """(x where a stretch begins, where the exact path from there ends), (16, 2)."""
    process = gaussian()[stretch.name]
    start = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = process.sigma(torch.tensor(stretch.high, dtype=torch.float64)) * start
    return x, walk(RungeKutta4(), problem(process), x, stretch.grid(stretch.fine))


def errors(sampler: Sampler, stretch: Stretch) -> tuple[float, list[float]]:
    """(slope of log error against log N, the errors): mean distance to the end of the exact path on a known mixture."""
    denoiser, (x, end) = problem(gaussian()[stretch.name]), exact(stretch)
    found = [
        float((walk(sampler, denoiser, x.clone(), stretch.grid(n)) - end).norm(dim=-1).mean()) for n in stretch.counts
    ]
    logs = [math.log(max(error, 1e-300)) for error in found]
    return -statistics.linear_regression([math.log(n) for n in stretch.counts], logs).slope, found


def uniform(process: Any, steps: int) -> Tensor:
    """The grid of `steps` even steps."""
    return grid(process, steps, "uniform")
