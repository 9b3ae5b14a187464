"""Which samplers are solvers, and their errors on fields whose end is known; that error falls with the order is a law of the kit."""

import math
from itertools import pairwise

import pytest
import torch

from diffcli.core.denoiser import Prediction
from diffcli.engine.bench import walk
from diffcli.samplers import diffcli_samplers
from diffcli.samplers.runge_kutta import Euler, RungeKutta2, RungeKutta4
from diffcli.schedules.gaussian import Rectified

SAMPLERS = {spec.name: spec.load()(spec.config()) for spec in diffcli_samplers() if spec.family == "gaussian"}
SOLVERS = {name: sampler for name, sampler in SAMPLERS.items() if sampler.order is not None}


def even(high: float, low: float, steps: int) -> torch.Tensor:
    return torch.linspace(high, low, steps + 1, dtype=torch.float64)


def test_every_solver_declares_an_order_and_no_random_walk_does():
    assert {n for n in SAMPLERS if n not in SOLVERS} == {"ancestral", "churn", "dpmpp-2m-sde", "renoise"}


class Growing:
    """v = x (1 + t)^power on the rectified path: x(0) = x(1) e^(-3/2) for power 1, e^(-7/3) for power 2."""

    process = Rectified()

    def __init__(self, power: int = 1):
        self.power = power

    def __call__(self, x_t, t, cond):
        v = x_t * (1 + t) ** self.power
        return Prediction(x_t - t * v, x_t + (1 - t) * v)


def ratios(sampler, low: float = 0.0) -> list[float]:
    x, exact = torch.ones(1, 1, dtype=torch.float64), math.exp(-1.5 + low + low**2 / 2)
    errors = [abs(float(walk(sampler, Growing(), x, even(1, low, n))) - exact) for n in (8, 16, 32, 64)]
    return [a / b for a, b in pairwise(errors)]


@pytest.mark.parametrize(
    ("sampler", "low", "want"),
    [
        (Euler(), 0.0, [2.05, 2.02, 2.01]),
        (RungeKutta2(0.5), 0.0, [4.38, 4.18, 4.09]),
        (RungeKutta2(1.0), 0.0, [4.71, 4.32, 4.15]),
        (RungeKutta2(1.0), 0.1, [4.26, 4.12, 4.06]),
    ],
)
def test_error_ratios_on_a_field_with_a_known_end(sampler, low, want):
    assert ratios(sampler, low) == pytest.approx(want, abs=0.02)


def test_midpoint_and_heun_are_two_methods():
    x, times = torch.ones(1, 1, dtype=torch.float64), even(1, 0, 16)
    ends = [walk(RungeKutta2(node), Growing(), x, times) for node in (0.5, 2 / 3, 1.0)]
    for a in range(3):
        for b in range(a):
            assert abs(ends[a] - ends[b]) / ends[a] > 1e-4


def test_rk4_keeps_its_order_to_the_very_end_without_asking_there():
    asked = []

    class Spy(Growing):
        def __call__(self, x_t, t, cond):
            asked.append(float(t))
            return super().__call__(x_t, t, cond)

    x = torch.ones(1, 1, dtype=torch.float64)
    ends = [float(walk(RungeKutta4(), Spy(power=2), x, even(1, 0, n))) for n in (16, 32, 64, 128)]
    errors = [abs(end - math.exp(-7 / 3)) for end in ends]
    assert all(a / b > 2**3.65 for a, b in pairwise(errors)), errors
    assert min(asked) > 0
