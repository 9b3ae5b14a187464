"""Error against network calls, on laws whose denoiser is known: random ones, coarse and fine, in 2 and in 64 dimensions."""

from __future__ import annotations

import math
import statistics
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
FAMILIES = {"coarse": (0.05, 0.3), "fine": (0.005, 0.03)}  # of laws: standard deviations of their blobs
MODES = {2: 5, 64: 16}  # dimensions: blobs
PROBLEMS, WALKS = 8, 32  # random laws of a case, and walks in each
LAWS, DRAWS = 3, 1024  # a random walk is measured on the first so many of them, by so many draws of each
PAIRS = 8  # of sets of exact samples of each, which say how far apart chance alone puts two
# steps of the Runge-Kutta walks that stand for the exact ones, and the sigma/alpha before their last: far below any blob, or
# that last step shows. Within 1e-7 of four times as many.
EXACT, LAST = 150, 1e-4


class Problem(NamedTuple):
    """A law, and where the exact walk from each x ends; x, end: (B, D) float64."""

    denoiser: Mixture
    x: Tensor
    end: Tensor


class Case(NamedTuple):
    """Some random laws of one family and size, along one schedule."""

    schedule: str
    process: GaussianProcess
    size: int
    family: str
    problems: Sequence[Problem]

    @property
    def known(self) -> list[Mixture]:
        """The laws that random walks are measured on."""
        return [problem.denoiser for problem in self.problems[:LAWS]]


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


def exact(law: Mixture, x: Tensor, steps: int = EXACT) -> Tensor:
    """Where the exact walks from x end: levels even in their logarithm from ratio_max to LAST, then 0."""
    process, high = law.process, law.process.ratio_max
    levels = torch.logspace(math.log10(high), math.log10(LAST), steps, dtype=torch.float64)
    times = torch.cat([process.time(levels), torch.zeros(1, dtype=torch.float64)])
    times[0] = 1
    return walk(RungeKutta4(), law, x, times)


def case(
    schedule: str, size: int, family: str = "coarse", seed: int = 0, problems: int = PROBLEMS, walks: int = WALKS
) -> Case:
    """Random laws of MODES[size] blobs; seed: of the laws and of the noise. The schedule has its default options."""
    spec = registry().get("schedule", schedule)
    process, made = spec.load()(spec.config(), None), []
    for k in range(seed * problems, (seed + 1) * problems):
        law = Mixture.random(process, size, MODES[size], torch.Generator().manual_seed(k), FAMILIES[family])
        x = start(process, (walks, size), 10_000 + k)
        made.append(Problem(law, x, exact(law, x)))
    return Case(schedule, process, size, family, made)


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


def chance(laws: Sequence[Mixture], draws: int, pairs: int = PAIRS) -> tuple[float, float]:
    """Mean and standard deviation over pairs of sets of exact samples of their distance, the mean over laws.

    A random walk whose distance is within two of the latter of the former cannot be told from an exact one.
    """
    seeds = [1000 * k for k in range(1, pairs + 1)]
    found = []
    for seed in seeds:
        sets = ([law.draw(draws, torch.Generator().manual_seed(s)) for law in laws] for s in (seed, seed + 1))
        found.append(statistics.mean(distance(a, b) for a, b in zip(*sets, strict=True)))
    return statistics.mean(found), statistics.stdev(found)


def away(sampler: Sampler, on: Case, times: Tensor, draws: int) -> float:
    """The error of a solver; of a random walk the distance between its law and that of the data, the mean over laws.

    Solvers walk in float64, random walks in float32: of their error all but a millionth is their own, or chance.
    """
    if sampler.order is not None:
        return error((walk(sampler, p.denoiser, p.x, times) for p in on.problems), on.problems)
    found = []
    for k, law in enumerate(on.known):
        x = start(on.process, (draws, on.size), 10 * k + 2).float()
        end = walk(sampler, law, x, times, rng=Whole(10 * k + 3, draws)).double()
        found.append(distance(end, law.draw(draws, torch.Generator().manual_seed(10 * k + 1))))
    return statistics.mean(found)


def errors(
    name: str, sampler: Sampler, on: Case, budgets: Iterable[int] = BUDGETS, draws: int = DRAWS
) -> list[dict[str, Any]]:
    """A record for each spacing and budget that the sampler can keep, with as many steps as fit.

    error: see `away`; None where it is not finite. floor, floor_std: of a random walk, see `chance`. default: whether the
    spacing is the schedule's own.
    """
    found, floor = [], dict[str, float]()
    if sampler.order is None:
        floor = dict(zip(("floor", "floor_std"), chance(on.known, draws), strict=True))
    for budget in budgets:
        steps = max((n for n in range(1, budget + 1) if sampler.nfe(n) <= budget), default=0)
        for spacing in SPACINGS if steps else ():
            try:
                times = grid(on.process, steps, spacing)
            except UsageError:  # a short table has no place for them
                continue
            value = away(sampler, on, times, draws)
            facts = {"sampler": name, "schedule": on.schedule, "laws": on.family, "dimensions": on.size}
            facts |= {"spacing": spacing, "default": spacing == on.process.spacing, "solver": sampler.order is not None}
            facts |= floor
            facts |= {"budget": budget, "steps": steps, "nfe": sampler.nfe(steps)}
            found.append(facts | {"error": value if math.isfinite(value) else None})
    return found


def place(record: Mapping[str, Any]) -> tuple[str, str, int]:
    """(schedule, family of laws, dimensions) of a record."""
    return record["schedule"], record["laws"], record["dimensions"]


def best(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str, int, int], Mapping[str, Any]]:
    """(sampler, schedule, laws, dimensions, budget) -> the record of the spacing with the least error."""
    found: dict[tuple[str, str, str, int, int], Mapping[str, Any]] = {}
    for r in records:
        key = (r["sampler"], *place(r), r["budget"])
        if r["error"] is not None and (key not in found or r["error"] < found[key]["error"]):
            found[key] = r
    return found
