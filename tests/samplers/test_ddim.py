"""DDIM and DDPM: the identities between them, and with Euler's method."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Prediction
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Rows
from diffcli.engine.bench import problem, walk
from diffcli.errors import UsageError
from diffcli.samplers.ddim import DDIM, Ancestral
from diffcli.samplers.grid import grid
from diffcli.samplers.runge_kutta import Euler
from diffcli.schedules import CosineOptions, LinearOptions, ScaledLinearOptions
from diffcli.schedules.gaussian import EDM, VP, Betas, Rectified, cosine, linear, scaled_linear

TABLES = [cosine(CosineOptions(), None), linear(LinearOptions(), None), scaled_linear(ScaledLinearOptions(), None)]
PROCESSES = [VP(), EDM(), Rectified(), *TABLES]


class Rough:
    """No mixture's denoiser: a smooth field of no meaning, whose pair explains x_t."""

    def __init__(self, process: GaussianProcess):
        self.process = process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        scale = self.process.scale(t)
        y, u = x_t / scale, self.process.sigma(t) / scale
        w = torch.sin(y / (1 + u) + t)  # slope in the frame
        x_0 = y - u * w
        return Prediction(x_0, w + self.process.rectified * x_0)


def noise(process: GaussianProcess) -> Tensor:
    return process.prior((3,), Rows(0, torch.arange(8), 8)).double()


@pytest.mark.parametrize("process", PROCESSES)
def test_ddim_is_euler(process):
    for steps in (1, 7, 40):
        a, b = (walk(s, Rough(process), noise(process), grid(process, steps)) for s in (DDIM(), Euler()))
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("process", [VP(), EDM()])
def test_ddim_is_euler_in_both_frames(process):
    t, s, x = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64), noise(process)
    pair = problem(VP())(x[:, :2], t, {})
    x = process.diffuse(*pair[:2], t)
    for c in (0, 1):
        scale = [process.alpha(r) + c * process.sigma(r) for r in (t, s)]
        u = [process.sigma(r) / k for r, k in zip((t, s), scale, strict=True)]
        euler = scale[1] * (x / scale[0] + (u[1] - u[0]) * (pair.eps - c * pair.x_0))
        assert torch.allclose(process.diffuse(*pair[:2], s), euler, rtol=1e-12)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_planned_ddim_step_is_the_published_one(process):
    denoiser, x = Rough(process), noise(process).float()
    times = grid(process, 9)
    for eta in (0.0, 0.6):
        planned = DDIM(eta)
        want = x
        rng = Rows(0, torch.arange(8), 8)
        for t, s in pairwise(times):
            pair = denoiser(want, t, {})
            v = eta**2 * process.posterior(t, s)[1]
            z = rng.normal("step", (3,)) if eta and s > 0 else 0
            want = process.alpha(s) * pair.x_0 + (process.sigma(s) ** 2 - v).sqrt() * pair.eps + v.sqrt() * z
        got = walk(planned, denoiser, x, times)
        assert (got - want).abs().max() <= 5e-7 * want.abs().max().clamp(min=1) * (20 if process.nodes else 1)


@pytest.mark.parametrize("process", TABLES)
def test_ancestral_step_is_the_product_of_two_gaussians(process: Betas):
    times = grid(process, 1000)
    points = Ancestral().plan(process, times)
    x_0, x_t = 0.7, -0.4
    for k in range(999):  # entries 999 ... 1
        t, s = times[k], times[k + 1]
        a_t, a_s, v_t, v_s = process.alpha(t), process.alpha(s), process.sigma(t) ** 2, process.sigma(s) ** 2
        keep, beta = a_t / a_s, v_t - (a_t / a_s) ** 2 * v_s
        variance = 1 / (1 / v_s + keep**2 / beta)
        mean = variance * (a_s * x_0 / v_s + keep * x_t / beta)
        got = points[k].x_0 * x_0 + points[k].eps * (x_t - a_t * x_0) / v_t.sqrt()
        assert abs(got - mean) < 1e-10 and abs(points[k].small ** 2 / variance - 1) < 1e-10
        clean = points[k].x_0 * x_0 + points[k].eps * 0  # x_t = alpha_t x_0: no noise to keep
        assert abs(clean - a_s * x_0) < 1e-12


@pytest.mark.parametrize("process", TABLES)
def test_ddim_with_eta_1_on_every_entry_is_ddpm(process: Betas):
    times = grid(process, 1000)
    a, b = DDIM(1.0).plan(process, times), Ancestral().plan(process, times)
    betas, alpha_bar = process.posterior(times[:-1], times[1:])[0], process.alpha(times) ** 2
    small = betas * (1 - alpha_bar[1:]) / (1 - alpha_bar[:-1])  # Ho et al. 2020, Eq. 7
    for k in range(1000):
        assert a[k].noise ** 2 == pytest.approx(float(small[k]), rel=1e-9, abs=1e-18)
        assert (a[k].x_0, a[k].eps, a[k].noise) == pytest.approx((b[k].x_0, b[k].eps, b[k].small), rel=1e-9, abs=1e-12)
        # Ho et al. 2020, Eq. 7: the mean's coefficient of x_t is sqrt(1 - beta) (1 - abar_s)/(1 - abar_t)
        of_x_t = float((1 - betas[k]).sqrt() * (1 - alpha_bar[k + 1]) / (1 - alpha_bar[k]))
        assert a[k].eps / float(process.sigma(times[k])) == pytest.approx(of_x_t, rel=1e-9, abs=1e-12)


def test_ddim_with_eta_1_walks_with_ddpm():
    process = TABLES[1]
    a, b = (walk(s, problem(process), noise(process)[:, :2], grid(process, 40)) for s in (DDIM(1.0), Ancestral()))
    assert torch.allclose(a, b, atol=1e-9)


def test_large_variance_is_beta():
    process = TABLES[1]
    times = grid(process, 1000)
    points = Ancestral("large").plan(process, times)
    betas = torch.linspace(0.02, 1e-4, 1000, dtype=torch.float64)
    assert torch.allclose(torch.tensor([p.large for p in points], dtype=torch.float64) ** 2, betas, rtol=1e-9)


def test_learned_variance_lies_between_on_a_logarithmic_scale():
    process, x = TABLES[0], torch.zeros(64, 4, dtype=torch.float64)
    times = grid(process, 10)

    class Learned:
        def __init__(self, mix: float):
            self.process, self.mix = process, mix

        def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
            return Prediction(0 * x_t, 0 * x_t, torch.full_like(x_t, self.mix))

    def spread(variance: str, mix: float) -> float:
        sampler = Ancestral(variance)
        point, rng = sampler.plan(process, times)[4], Rows(0, torch.arange(64), 64)
        return float(sampler.step(Learned(mix), x, point, cond={}, state=None, rng=rng)[0].std())

    small, large = spread("small", 0.0), spread("large", 0.0)
    assert spread("learned", -1.0) == pytest.approx(small) and spread("learned", 1.0) == pytest.approx(large)
    assert spread("learned", 0.0) == pytest.approx((small * large) ** 0.5) and small < large


def test_learned_variance_of_a_model_that_has_none_is_refused():
    process = TABLES[0]
    with pytest.raises(UsageError, match="use small or large"):
        walk(Ancestral("learned"), problem(process), noise(process)[:, :2], grid(process, 4))


def test_last_step_is_x_0_and_draws_nothing():
    process = TABLES[0]
    for sampler in (DDIM(1.0), Ancestral(), Ancestral("large")):
        point = sampler.plan(process, grid(process, 4))[-1]
        x = noise(process)[:, :2]
        end = sampler.step(problem(process), x, point, cond={}, state=None, rng=None)[0]
        assert torch.allclose(end, problem(process)(x, point.t, {}).x_0, rtol=0, atol=0)


class Point:
    """The exact denoiser of one image c, as an eps-network says it: eps = (x_t - alpha c)/sigma, and x_0 from eps."""

    def __init__(self, process: GaussianProcess, c: Tensor):
        self.process, self.c = process, c

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        eps = (x_t - alpha * self.c) / sigma
        return Prediction((x_t - sigma * eps) / alpha, eps)


@pytest.mark.parametrize("process", TABLES)
@pytest.mark.parametrize("steps", [1, 4, 50, 1000])
def test_one_image_is_found_by_its_noise_on_every_entry_of_the_table(process, steps):
    c = torch.tensor([0.3, -0.8, 1.0], dtype=torch.float64)
    for sampler, tolerance in ((DDIM(), 1e-5), (Ancestral(), 1e-3), (Ancestral("large"), 1e-3)):
        end = walk(sampler, Point(process, c), noise(process), grid(process, steps))
        assert torch.allclose(end, c.expand(8, 3), rtol=0, atol=tolerance)


@pytest.mark.parametrize("process", TABLES)
def test_without_noise_a_walk_repeats_to_the_bit(process):
    for dtype in (torch.float64, torch.float32):
        x = noise(process).to(dtype)
        a, b = (walk(DDIM(), Rough(process), x, grid(process, 50), seed) for seed in (0, 1))
        assert torch.equal(a, b)
