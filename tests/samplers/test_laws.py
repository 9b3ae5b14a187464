"""What the Gaussian samplers do where the answer is known in closed form; the laws of every sampler are the kit's."""

import pytest
import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Prediction
from diffcli.core.random import Rows
from diffcli.engine.bench import walk
from diffcli.engine.bench_errors import case, error
from diffcli.samplers import diffcli_samplers
from diffcli.samplers.grid import grid
from diffcli.schedules import LinearOptions, diffcli_schedules
from diffcli.schedules.gaussian import Rectified, linear

SPECS = {spec.name: spec for spec in diffcli_samplers() if spec.family == "gaussian"}
SAMPLERS = {name: spec.load()(spec.config()) for name, spec in SPECS.items()}
PROCESSES = {s.name: s.load()(s.config(), None) for s in diffcli_schedules() if s.family == "gaussian"}


def noise(process, count: int = 8, dtype: torch.dtype = torch.float64) -> Tensor:
    return process.prior((2,), Rows(0, torch.arange(count), count)).to(dtype)


class Constant:
    """v = 1/2 everywhere on the rectified path."""

    process = Rectified()

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        return Prediction(x_t - t * 0.5, x_t + (1 - t) * 0.5)


class Nothing:
    """v = 0 on the rectified path, as a network would say it; remembers how large its inputs were."""

    process = Rectified()
    largest = 0.0

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        self.largest = max(self.largest, float(x_t.abs().max()))
        return Prediction(x_t, x_t)


def solvers() -> dict:
    return {name: s for name, s in SAMPLERS.items() if s.order is not None}


@pytest.mark.parametrize("name", solvers())
def test_a_constant_velocity_is_integrated_exactly(name):
    x = noise(Rectified())
    for steps in (1, 2, 7, 50):
        assert torch.allclose(
            walk(SAMPLERS[name], Constant(), x, grid(Rectified(), steps)), x - 0.5, rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("name", ["euler", "midpoint", "heun", "ralston", "rk4", "ab2"])
def test_no_velocity_gives_the_noise_back_bitwise(name):
    x, denoiser = noise(Rectified(), 64, torch.float32), Nothing()
    assert torch.equal(walk(SAMPLERS[name], denoiser, x, grid(Rectified(), 50)), x)
    assert denoiser.largest > 1  # nothing is clamped on the way


def test_step_counts_asked_for_by_nobody():
    assert SAMPLERS["ancestral"].steps(PROCESSES["cosine"]) == 1000 == SAMPLERS["ancestral"].steps(PROCESSES["vp"])
    assert SAMPLERS["ddim"].steps(PROCESSES["cosine"]) == 50 == SAMPLERS["dpmpp-2m-sde"].steps(PROCESSES["vp"])
    short = linear(LinearOptions(timesteps=10), None)
    for name in ("ab2", "dpmpp-2m", "dpmpp-3m", "unipc"):
        assert SAMPLERS[name].steps(PROCESSES["cosine"]) == 20 and SAMPLERS[name].steps(short) == 10


def test_the_own_grid_of_a_sampler_is_the_better_one():
    """What is taken when nothing is asked for: 20 calls are nearer to the exact end than 50 of ddim, and than the process's own grid."""
    for schedule in ("cosine", "rectified"):
        for size in (2, 64):
            on = case(schedule, size, seed=3, problems=3, walks=16)

            def off(name, steps, spacing, on=on):
                times = grid(on.process, steps, spacing)
                return error((walk(SAMPLERS[name], p.denoiser, p.x, times) for p in on.problems), on.problems)

            for name in ("ab2", "dpmpp-2m", "dpmpp-3m", "unipc"):
                own = off(name, 20, SAMPLERS[name].spacing)
                assert own < off(name, 20, None) and own < off("ddim", 50, None), (schedule, size, name)


def test_network_calls_of_a_walk():
    """The counts that the papers give, as numbers: what a sampler declares is compared with what it calls above."""
    asked = {"ddim": 10, "ancestral": 10, "euler": 10, "midpoint": 20, "heun": 19, "dpmpp-2m": 10, "churn": 19}
    assert {name: SAMPLERS[name].nfe(10) for name in asked} == asked


class Straight:
    """v = (x - c)/t on the rectified path, the flow to one image, read as a network's velocity is: 0/0 at t = 0 alone."""

    process = Rectified()

    def __init__(self, c: Tensor):
        self.c = c

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        v = (x_t - self.c) / t
        return Prediction(x_t - t * v, x_t + (1 - t) * v)


@pytest.mark.parametrize("name", solvers())
def test_the_velocity_to_one_image_is_followed_there_in_one_step(name):
    c = torch.tensor([0.3, -0.8], dtype=torch.float64)
    for steps in (1, 5):
        end = walk(SAMPLERS[name], Straight(c), noise(Rectified()), grid(Rectified(), steps))
        assert torch.allclose(end, c.expand(8, 2), rtol=0, atol=1e-12)
