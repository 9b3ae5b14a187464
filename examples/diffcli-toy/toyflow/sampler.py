"""Adams-Bashforth of order 3 on any grid, in the frame where the path from noise to data is straight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from diffcli.core.denoiser import Cond, Denoiser
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Rng
from diffcli.plugin import Family, NoOptions
from diffcli.samplers.base import Sampler
from diffcli.samplers.frame import clock, frame, slope
from torch import Tensor

STARTS = 2  # steps that have no two slopes behind them


class Point(NamedTuple):
    """x_s = grow x_t + sum_j moves_j w_j, the newest slope first; a start asks for its one slope in the middle.

    half: (time, grow, move) that lead from x_t and its slope to the middle; None after the starts.
    """

    t: Tensor
    grow: float
    moves: tuple[float, ...]
    half: tuple[Tensor, float, float] | None = None


def integrals(h: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Integrals from 0 to h of the parabolas that are 1 at one of 0, p, q and 0 at the others."""
    now = (h**3 / 3 - (p + q) * h**2 / 2 + p * q * h) / (p * q)
    return now, (h**3 / 3 - q * h**2 / 2) / (p * (p - q)), (h**3 / 3 - p * h**2 / 2) / (q * (q - p))


@dataclass(frozen=True)
class AB3(Sampler):
    """y_s = y_t + the integral of the parabola through the last three slopes dy/du = eps - c x_0.

    y = x/scale and u = sigma/scale (see diffcli.samplers.frame). The first two steps are the midpoint rule's: their local
    error O(h^3), made twice, leaves the global order at 3. So N steps make N + 2 calls.
    """

    family: ClassVar[Family] = "gaussian"
    order: ClassVar[int | None] = 3

    def nfe(self, steps: int) -> int:
        return steps + min(steps, STARTS)

    def plan(self, process: GaussianProcess, times: Tensor) -> list[Point]:
        scale, u = frame(process, times)
        h, grow = u.diff(), scale[1:] / scale[:-1]
        middle = clock(process, (u[:-1] + u[1:]) / 2)
        between = frame(process, middle)[0]
        points = [
            Point(times[k], float(grow[k]), (float(scale[k + 1] * h[k]),), (middle[k], *way))
            for k, way in enumerate(zip((between / scale[:-1]).tolist(), (between * h / 2).tolist(), strict=True))
            if k < STARTS
        ]
        shares = integrals(h[2:], u[1:-2] - u[2:-1], u[:-3] - u[2:-1])
        moves = zip(*((scale[3:] * share).tolist() for share in shares), strict=True)
        return points + [Point(*row) for row in zip(times[2:-1], grow[2:].tolist(), moves, strict=True)]

    def step(
        self, denoiser: Denoiser, x_t: Tensor, point: Point, *, cond: Cond, state: Any, rng: Rng
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        process = denoiser.process
        slopes = (slope(process, denoiser(x_t, point.t, cond)), *(state or ()))
        used = slopes
        if point.half is not None:
            time, grow, move = point.half
            used = (slope(process, denoiser(torch.add(grow * x_t, slopes[0], alpha=move), time, cond)),)
        x_s = point.grow * x_t
        for w, move in zip(used, point.moves, strict=True):
            x_s = torch.add(x_s, w, alpha=move)
        return x_s, slopes[:2]


def ab3(options: NoOptions) -> AB3:
    return AB3()
