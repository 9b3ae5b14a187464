"""Runge-Kutta methods in the straight frame: Euler, the second-order family with a free node, and the classic fourth order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Denoiser
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Rng
from diffcli.plugin import Family, NoOptions
from diffcli.samplers.base import Sampler
from diffcli.samplers.frame import clock, frame, slope

Row = Sequence[Tensor | float]  # coefficients of the earlier slopes, as parts of the whole step


class Stage(NamedTuple):
    """x = grow x_t + sum_i moves_i slope_i; the slope there is asked for at t, or x is the result where t is None."""

    t: Tensor | None
    grow: float
    moves: tuple[float, ...]


class Stages(NamedTuple):
    """A step from t: what follows the slope at t."""

    t: Tensor
    rest: tuple[Stage, ...]


def explicit(
    process: GaussianProcess, t: Tensor, s: Tensor, nodes: Sequence[Tensor], rows: Sequence[Row]
) -> list[Stages]:
    """The plan of an explicit Runge-Kutta method for the steps t -> s, each (N,).

    nodes: times of the stages after the first, each (N,). rows: the method's matrix below its first row, then its
    weights. With the frame's d = u_s - u_t: y_i = y_t + d sum_j a_ij w_j.
    """
    (scale, u), (_, u_s) = frame(process, t), frame(process, s)
    stages = []
    for k, (time, row) in enumerate(zip([*nodes, s], rows, strict=True)):
        here = frame(process, time)[0]
        asked = time.unbind() if k < len(nodes) else [None] * len(t)
        moves = [(here * (u_s - u) * a).tolist() for a in row]
        stages.append(map(Stage, asked, (here / scale).tolist(), zip(*moves, strict=True)))
    return [Stages(*step) for step in zip(t.unbind(), zip(*stages, strict=True), strict=True)]


class RungeKutta(Sampler):
    """An explicit Runge-Kutta method on dy/du = eps - c x_0; which one is told by `plan`."""

    family: ClassVar[Family] = "gaussian"

    def step(
        self, denoiser: Denoiser, x_t: Tensor, point: Stages, *, cond: Cond, state: Any, rng: Rng
    ) -> tuple[Tensor, Any]:
        process, x = denoiser.process, x_t
        slopes = [slope(process, denoiser(x_t, point.t, cond))]
        for t, grow, moves in point.rest:
            x = grow * x_t
            for w, move in zip(slopes, moves, strict=True):
                x = torch.add(x, w, alpha=move) if move else x
            if t is not None:
                slopes.append(slope(process, denoiser(x, t, cond)))
        return x, state


@dataclass(frozen=True)
class Euler(RungeKutta):
    """y_s = y_t + (u_s - u_t) w_t: DDIM with eta = 0, whatever the frame; on the rectified path x_s = x_t - (t - s) v."""

    order: ClassVar[int | None] = 1

    def plan(self, process: GaussianProcess, times: Tensor) -> list[Stages]:
        return explicit(process, times[:-1], times[1:], [], [[1.0]])


def second_order(process: GaussianProcess, t: Tensor, s: Tensor, node: float) -> list[Stages]:
    """Two stages, the second at lerp(t, s, node): with c its part of the way in u, the weights are 1 - 1/(2c) and 1/(2c).

    Where sigma(m) = 0 there is no second stage: Euler's step.
    """
    m = torch.lerp(t, s, node)
    u_t, u_m, u_s = (frame(process, r)[1] for r in (t, m, s))
    part = (u_m - u_t) / (u_s - u_t)
    two = explicit(process, t, s, [m], [[part], [1 - 1 / (2 * part), 1 / (2 * part)]])
    one = explicit(process, t, s, [], [[1.0]])
    return [b if clean else a for a, b, clean in zip(two, one, (process.sigma(m) == 0).tolist(), strict=True)]


@dataclass(frozen=True)
class RungeKutta2(RungeKutta):
    """The second-order methods of two stages: node 1 is Heun, 1/2 midpoint, 2/3 Ralston.

    Heun in the frame x/alpha is Algorithm 1 of Karras et al. 2022. Its step to sigma = 0 is Euler's, so it calls 2N - 1.
    """

    order: ClassVar[int | None] = 2
    node: float = 1.0

    def nfe(self, steps: int) -> int:
        return 2 * steps - (self.node == 1)

    def plan(self, process: GaussianProcess, times: Tensor) -> list[Stages]:
        return second_order(process, times[:-1], times[1:], self.node)


@dataclass(frozen=True)
class RungeKutta4(RungeKutta):
    """The classic method of Kutta 1901, stages at u_t, twice the middle, and u_s.

    No denoiser can be asked at sigma = 0, so the step to it is Ralston's third-order method (nodes 0, 1/2, 3/4): its one
    local error O(d^4) leaves the global order at 4. It calls 4N - 1.
    """

    order: ClassVar[int | None] = 4

    def nfe(self, steps: int) -> int:
        return 4 * steps - 1

    def plan(self, process: GaussianProcess, times: Tensor) -> list[Stages]:
        t, s = times[:-1], times[1:]
        u_t, u_s = frame(process, t)[1], frame(process, s)[1]
        middle, late = (clock(process, torch.lerp(u_t, u_s, part)) for part in (1 / 2, 3 / 4))
        classic = [[1 / 2], [0.0, 1 / 2], [0.0, 0.0, 1.0], [1 / 6, 1 / 3, 1 / 3, 1 / 6]]
        four = explicit(process, t, s, [middle, middle, s], classic)
        three = explicit(process, t, s, [middle, late], [[1 / 2], [0.0, 3 / 4], [2 / 9, 1 / 3, 4 / 9]])
        return [b if clean else a for a, b, clean in zip(four, three, (process.sigma(s) == 0).tolist(), strict=True)]


def euler(options: NoOptions) -> Euler:
    return Euler()


def heun(options: NoOptions) -> RungeKutta2:
    return RungeKutta2(node=1.0)


def midpoint(options: NoOptions) -> RungeKutta2:
    return RungeKutta2(node=1 / 2)


def ralston(options: NoOptions) -> RungeKutta2:
    return RungeKutta2(node=2 / 3)


def rk4(options: NoOptions) -> RungeKutta4:
    return RungeKutta4()
