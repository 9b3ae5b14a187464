"""Laws of every Gaussian sampler on every schedule: finite ends, honest counts, no side effects."""

import copy

import pytest
import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Counted, Prediction
from diffcli.core.random import Rows
from diffcli.engine.bench import problem, walk
from diffcli.samplers import diffcli_samplers
from diffcli.samplers.grid import grid
from diffcli.schedules import diffcli_schedules
from diffcli.schedules.gaussian import Rectified

SPECS = {spec.name: spec for spec in diffcli_samplers() if spec.family == "gaussian"}
SAMPLERS = {name: spec.load()(spec.config()) for name, spec in SPECS.items()}
PROCESSES = {s.name: s.load()(s.config(), None) for s in diffcli_schedules() if s.family == "gaussian"}
ONE = torch.ones((), dtype=torch.float64)


def noise(process, count: int = 8, dtype: torch.dtype = torch.float64) -> Tensor:
    return process.prior((2,), Rows(0, torch.arange(count), count)).to(dtype)


@pytest.fixture(params=SAMPLERS)
def sampler(request):
    return SAMPLERS[request.param]


@pytest.mark.parametrize("name", PROCESSES)
def test_every_walk_from_1_to_0_is_finite_and_costs_what_it_says(sampler, name):
    process = PROCESSES[name]
    for dtype in (torch.float64, torch.float32):
        for steps in (1, 2, 3, 20):
            for spacing in ("uniform", "karras", "logsnr", "leading"):
                counted = Counted(problem(process))
                end = walk(sampler, counted, noise(process, dtype=dtype), grid(process, steps, spacing))
                assert torch.isfinite(end).all() and end.dtype == dtype
                assert counted.calls == sampler.nfe(steps)
                if steps == 20 and spacing != "leading":  # which starts below the level of its noise
                    assert end.abs().max() < 5


@pytest.mark.parametrize("name", ["vp", "rectified", "edm", "cosine"])
def test_it_ends_on_the_data(sampler, name):
    process = PROCESSES[name]
    end = walk(sampler, problem(process), noise(process, 1024), grid(process, 40, "logsnr"))
    data, nats = problem(Rectified()), problem(Rectified()).log_prob
    exact = data.draw(1024, torch.Generator().manual_seed(3))
    assert torch.allclose(end.mean(0), exact.mean(0), atol=0.12)
    assert abs(nats(end, 0 * ONE).mean() - nats(exact, 0 * ONE).mean()) < 0.25


class Point:
    """The exact denoiser of one image c."""

    def __init__(self, process, c: Tensor):
        self.process, self.c = process, c

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        c = self.c.expand(x_t.shape)
        return Prediction(c, (x_t - self.process.alpha(t) * c) / self.process.sigma(t))


@pytest.mark.parametrize("name", PROCESSES)
def test_of_one_image_every_sampler_finds_it(sampler, name):
    process, c = PROCESSES[name], torch.tensor([0.3, -0.8], dtype=torch.float64)
    for steps in (1, 4, 50):
        assert torch.allclose(
            walk(sampler, Point(process, c), noise(process), grid(process, steps)), c.expand(8, 2), atol=1e-9
        )


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


def test_the_input_and_the_sampler_are_untouched(sampler):
    process = PROCESSES["vp"]
    x = noise(process)
    kept, before = x.clone(), copy.deepcopy(sampler)
    walk(sampler, problem(process), x, grid(process, 6))
    assert torch.equal(x, kept) and sampler == before


def test_the_same_seed_is_the_same_image_in_any_batch(sampler):
    process = PROCESSES["rectified"]
    times, denoiser = grid(process, 6), problem(process)
    x = noise(process, 16)
    whole = walk(sampler, denoiser, x, times)
    assert torch.equal(whole, walk(sampler, denoiser, x, times))
    index = torch.tensor([5, 9])
    *_, (_, part) = sampler.trajectory(denoiser, x[index], times, cond={}, rng=Rows(0, index, 16))
    assert torch.allclose(part, whole[index], atol=1e-12)


def test_only_random_walks_depend_on_the_seed(sampler):
    process = PROCESSES["linear"]
    a, b = (walk(sampler, problem(process), noise(process), grid(process, 10), seed) for seed in (1, 2))
    assert torch.equal(a, b) == (sampler.order is not None)


def test_a_trajectory_tells_the_time_of_each_point(sampler):
    process = PROCESSES["vp"]
    times = grid(process, 5)
    steps = list(sampler.trajectory(problem(process), noise(process), times, cond={}, rng=Rows(0, torch.arange(8), 8)))
    assert [float(s) for s, _ in steps] == times[1:].tolist()


def test_every_spec_says_what_it_is():
    for name, spec in SPECS.items():
        assert spec.summary.endswith(".") and SAMPLERS[name].family == "gaussian"


def test_step_counts_asked_for_by_nobody():
    assert SAMPLERS["ancestral"].steps(PROCESSES["cosine"]) == 1000 == SAMPLERS["ancestral"].steps(PROCESSES["vp"])
    assert SAMPLERS["ddim"].steps(PROCESSES["cosine"]) == 50


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
