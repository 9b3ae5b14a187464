"""Error against network calls, on laws whose denoiser is known: fresh random ones, in 2 and in 64 dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffcli.core.denoiser import Denoiser
from diffcli.core.exact import Mixture
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Fill, Rng, Rows
from diffcli.errors import UsageError
from diffcli.registry import registry
from diffcli.samplers.base import Sampler
from diffcli.samplers.grid import grid
from diffcli.samplers.runge_kutta import RungeKutta4

BUDGETS = (5, 10, 20, 50)  # network calls
SPACINGS = ("uniform", "karras", "logsnr")
MODES = {2: 5, 64: 16}  # dimensions: blobs
PROBLEMS, WALKS = 8, 32  # random laws of a case, and walks in each
DRAWS = 1024  # of a random walk, whose law is measured on the first of them
FINE = 150  # steps of the Runge-Kutta walks that stand for the exact ones: within 1e-7 of twice as many


class Problem(NamedTuple):
    """A law, and where the exact walk from each x ends; x, end: (B, D) float64."""

    denoiser: Mixture
    x: Tensor
    end: Tensor


class Case(NamedTuple):
    """Some random laws of one size, along one schedule."""

    schedule: str
    process: GaussianProcess
    size: int
    problems: Sequence[Problem]

    @property
    def name(self) -> str:
        return f"{self.schedule}, {self.size} dimensions"


class Whole(Rng):
    """All rows from one generator: where only their law counts, none needs an address, and each draw is one call."""

    def __init__(self, seed: int, rows: int):
        super().__init__(seed, torch.arange(rows), rows)
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, purpose: str, shape: tuple[int, ...], dtype: torch.dtype, fill: Fill) -> Tensor:
        return fill((self.total, *shape), dtype=dtype, generator=self.generator)

    def strata(self, purpose: str) -> Tensor:
        raise NotImplementedError("samplers draw no strata")


def walk(
    sampler: Sampler, denoiser: Denoiser, x: Tensor, times: Tensor, seed: int = 0, rng: Rng | None = None
) -> Tensor:
    """Where the walk from x ends."""
    rng = rng or Rows(seed, torch.arange(len(x)), len(x))
    for _, end in sampler.trajectory(denoiser, x, times, cond={}, rng=rng):
        x = end
    return x


def start(process: GaussianProcess, shape: tuple[int, ...], seed: int, t: float = 1.0) -> Tensor:
    """The same noise for every sampler, of the size it has at t."""
    noise = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return process.sigma(torch.tensor(t, dtype=torch.float64)) * noise


def case(schedule: str, size: int, seed: int = 0, problems: int = PROBLEMS, walks: int = WALKS) -> Case:
    """Random laws of MODES[size] blobs; seed: of the laws and of the noise. The schedule has its default options."""
    spec = registry().get("schedule", schedule)
    process, made = spec.load()(spec.config(), None), []
    for k in range(seed * problems, (seed + 1) * problems):
        law = Mixture.random(process, size, MODES[size], torch.Generator().manual_seed(k))
        x = start(process, (walks, size), 10_000 + k)
        made.append(Problem(law, x, walk(RungeKutta4(), law, x, grid(process, FINE, "logsnr"))))
    return Case(schedule, process, size, made)


def error(ends: Iterable[Tensor], problems: Iterable[Problem]) -> float:
    """Median over laws and starts of the distance to the exact end, root mean square over dimensions."""
    away = [(end - problem.end).square().mean(-1).sqrt() for end, problem in zip(ends, problems, strict=True)]
    return float(torch.cat(away).median())


def distance(a: Tensor, b: Tensor) -> float:
    """Sliced Wasserstein-1 distance of two sets of as many points (N, D), over 32 directions."""
    size = a.shape[1]
    if size == 2:
        angle = torch.arange(32, dtype=torch.float64) * math.pi / 32
        ways = torch.stack([angle.cos(), angle.sin()])
    else:
        ways = torch.randn(size, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        ways /= ways.norm(dim=0)
    return float(((a @ ways).sort(0).values - (b @ ways).sort(0).values).abs().mean())


def chance(on: Case, draws: int) -> float:
    """The distance between two sets of exact samples: what a random walk cannot be told to be better than."""
    law = on.problems[0].denoiser
    a, b = (law.draw(draws, torch.Generator().manual_seed(seed)) for seed in (1, 4))
    return distance(a, b)


def away(sampler: Sampler, on: Case, times: Tensor, draws: int) -> float:
    """The error of a solver, or the distance between the laws of a random walk and of the data."""
    if sampler.order is not None:
        return error((walk(sampler, p.denoiser, p.x, times) for p in on.problems), on.problems)
    law = on.problems[0].denoiser
    exact = law.draw(draws, torch.Generator().manual_seed(1))
    x = start(on.process, (draws, on.size), 2)
    return distance(walk(sampler, law, x, times, rng=Whole(3, draws)), exact)


def errors(
    name: str, sampler: Sampler, on: Case, budgets: Iterable[int] = BUDGETS, draws: int = DRAWS
) -> list[dict[str, Any]]:
    """A record for each spacing and budget that the sampler can keep, with as many steps as fit.

    error: see `away`; None where it is not finite. floor: of a random walk, what of it is chance. default: whether the
    spacing is the schedule's own.
    """
    found, floor = [], None if sampler.order is not None else chance(on, draws)
    for budget in budgets:
        steps = max((n for n in range(1, budget + 1) if sampler.nfe(n) <= budget), default=0)
        for spacing in SPACINGS if steps else ():
            try:
                times = grid(on.process, steps, spacing)
            except UsageError:  # a short table has no place for them
                continue
            value = away(sampler, on, times, draws)
            facts = {"sampler": name, "schedule": on.schedule, "dimensions": on.size, "spacing": spacing}
            facts |= {"default": spacing == on.process.spacing, "solver": sampler.order is not None}
            facts |= {} if floor is None else {"floor": floor}
            facts |= {"budget": budget, "steps": steps, "nfe": sampler.nfe(steps)}
            found.append(facts | {"error": value if math.isfinite(value) else None})
    return found


def best(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, int, int], Mapping[str, Any]]:
    """(sampler, schedule, dimensions, budget) -> the record of the spacing with the least error."""
    found: dict[tuple[str, str, int, int], Mapping[str, Any]] = {}
    for r in records:
        key = (r["sampler"], r["schedule"], r["dimensions"], r["budget"])
        if r["error"] is not None and (key not in found or r["error"] < found[key]["error"]):
            found[key] = r
    return found
