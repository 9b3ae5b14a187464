"""What distinguishes the solvers: the frame, the ends, the history, the noise."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Prediction
from diffcli.core.exact import Mixture
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Fill, Rng, Rows
from diffcli.engine.bench import problem, walk
from diffcli.samplers.churn import Churn
from diffcli.samplers.ddim import DDIM, Ancestral
from diffcli.samplers.frame import clock, frame
from diffcli.samplers.grid import grid
from diffcli.samplers.multistep import DPMpp2M, DPMpp2MSDE, DPMpp3M
from diffcli.samplers.runge_kutta import RungeKutta2, RungeKutta4
from diffcli.samplers.unipc import UniPC
from diffcli.schedules import CosineOptions
from diffcli.schedules.gaussian import EDM, VP, Rectified, cosine

COSINE = cosine(CosineOptions(), None)
PROCESSES = [VP(), EDM(), Rectified(), COSINE]


def noise(process: GaussianProcess, count: int = 8) -> Tensor:
    return process.prior((2,), Rows(0, torch.arange(count), count)).double()


class Unscaled(Rectified):
    """The rectified path seen in the frame x/alpha, almost reaching alpha = 0."""

    rectified = False

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t * (1 - 1e-12)


def test_the_frame_x_over_alpha_sends_heun_to_1e8_where_alpha_vanishes():
    wrong, right = Unscaled(), Rectified()
    x = noise(right)
    assert walk(RungeKutta2(), problem(wrong), x, grid(right, 10)).abs().max() > 1e7
    assert walk(RungeKutta2(), problem(right), x, grid(right, 10)).abs().max() < 2


@pytest.mark.parametrize("process", PROCESSES)
def test_the_clock_of_the_frame_runs_with_the_process(process):
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    assert torch.allclose(clock(process, frame(process, t)[1]), t, atol=1e-9)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_path_is_straight_in_the_frame(process):
    t = torch.linspace(0.01, 1, 20, dtype=torch.float64)
    scale, u = frame(process, t)
    y = (
        process.diffuse(torch.full((20,), 0.3, dtype=torch.float64), torch.full((20,), -1.1, dtype=torch.float64), t)
        / scale
    )
    assert torch.allclose(y, (1 - process.rectified * u) * 0.3 + u * -1.1, rtol=1e-12)


def test_heun_on_edm_is_algorithm_1_of_the_paper():
    process, x = EDM(), noise(EDM())
    denoiser, times = problem(process), grid(process, 12)
    want, sigma = x, process.sigma(times)
    for k in range(12):
        d = (want - denoiser(want, times[k], {}).x_0) / sigma[k]
        step = sigma[k + 1] - sigma[k]
        euler = want + step * d
        if sigma[k + 1] > 0:
            late = (euler - denoiser(euler, times[k + 1], {}).x_0) / sigma[k + 1]
            euler = want + step * (d + late) / 2
        want = euler
    assert torch.allclose(walk(RungeKutta2(), denoiser, x, times), want, rtol=1e-11, atol=1e-12)


def test_midpoint_on_the_rectified_path_is_the_textbooks():
    process, x = Rectified(), noise(Rectified())
    denoiser, times = problem(process), grid(process, 9)

    def v(x_t: Tensor, t: Tensor) -> Tensor:
        pair = denoiser(x_t, t, {})
        return pair.eps - pair.x_0

    want = x
    for t, s in pairwise(times):
        m = (t + s) / 2
        want = want - (t - s) * v(want - (t - m) * v(want, t), m)
    assert torch.allclose(walk(RungeKutta2(0.5), denoiser, x, times), want, atol=1e-12)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_planned_dpmpp_2m_is_the_published_algorithm(process):
    denoiser, times, x = problem(process), grid(process, 15, "logsnr"), noise(process).float()
    got, want, past = walk(DPMpp2M(), denoiser, x, times), x, None
    for t, s in pairwise(times):
        lambda_t, lambda_s = (process.alpha(r).log() - process.sigma(r).log() for r in (t, s))
        x_0, h = denoiser(want, t, {}).x_0, lambda_s - lambda_t
        d = x_0 if past is None or not torch.isfinite(h) else x_0 + h / (2 * past[1]) * (x_0 - past[0])
        shrink = process.sigma(s) / process.sigma(t)
        want = shrink * want + (process.alpha(s) - shrink * process.alpha(t)) * d
        past = (x_0, h)
    assert (got - want).abs().max() < 5e-7 * 4


@pytest.mark.parametrize("process", PROCESSES)
def test_a_planned_unipc_is_the_published_algorithm(process):
    """UniPC-2 with B(h) = e^h - 1, one step at a time: correct what led to t, then predict s."""
    denoiser, times, x = problem(process), grid(process, 15, "logsnr"), noise(process)
    got, want, past = walk(UniPC(), denoiser, x, times), x, []
    for t, s in pairwise(times):
        x_0, now = denoiser(want, t, {}).x_0, process.alpha(t).log() - process.sigma(t).log()
        if past and torch.isfinite(past[-1]["h"]):
            last, h = past[-1], -past[-1]["h"]
            b = torch.expm1(h)
            if len(past) > 1 and torch.isfinite(past[-2]["h"]):
                q, phi = past[-2]["h"] / h, b / h - 1
                right = torch.stack([phi / b, 2 * (phi / h - 0.5) / b])
                one = torch.ones_like(q)
                rho = torch.linalg.solve(torch.stack([torch.stack([one, one]), torch.stack([q, one])]), right)
                term = rho[0] * (past[-2]["x_0"] - last["x_0"]) / q + rho[1] * (x_0 - last["x_0"])
            else:
                term = (x_0 - last["x_0"]) / 2
            want = last["base"] - process.alpha(t) * b * term
        h, shrink = process.alpha(s).log() - process.sigma(s).log() - now, process.sigma(s) / process.sigma(t)
        gain = process.alpha(s) - shrink * process.alpha(t)
        base = shrink * want + gain * x_0
        want = base
        if past and torch.isfinite(past[-1]["h"]) and torch.isfinite(h):
            want = base + gain * h / (2 * past[-1]["h"]) * (x_0 - past[-1]["x_0"])
        past.append({"x_0": x_0, "h": h, "base": base})
    assert torch.allclose(got, want, rtol=1e-9, atol=1e-10)


class Line:
    """x_0 is a polynomial of lambda, whatever x_t is."""

    def __init__(self, process: GaussianProcess, *coefficients: float):
        self.process, self.coefficients = process, coefficients

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        log_snr = self.process.alpha(t).log() - self.process.sigma(t).log()
        x_0 = sum(c * log_snr**k for k, c in enumerate(self.coefficients)) + 0 * x_t
        return Prediction(x_0, (x_t - self.process.alpha(t) * x_0) / self.process.sigma(t))


def test_dpmpp_3m_integrates_a_parabola_exactly():
    """x/sigma grows by the integral of e^lambda x_0(lambda), known in closed form for a polynomial."""
    process, times = VP(), torch.linspace(0.9, 0.1, 9, dtype=torch.float64)
    log_snr = process.alpha(times).log() - process.sigma(times).log()
    x = torch.zeros(1, 1, dtype=torch.float64)
    points, state, sampler = DPMpp3M().plan(process, times), None, DPMpp3M()
    denoiser = Line(process, 0.3, -0.2, 0.5)
    for k, point in enumerate(points):
        after, state = sampler.step(denoiser, x, point, cond={}, state=state, rng=None)
        if k >= 2:
            a, b, c = 0.3, -0.2, 0.5
            whole = [torch.exp(r) * (a + b * (r - 1) + c * (r**2 - 2 * r + 2)) for r in log_snr[k : k + 2]]
            want = process.sigma(times[k + 1]) * (x / process.sigma(times[k]) + whole[1] - whole[0])
            assert torch.allclose(after, want, rtol=1e-10)
        x = after


@pytest.mark.parametrize("process", PROCESSES)
def test_multistep_methods_begin_with_a_ddim_step(process):
    for sampler in (DPMpp2M(), DPMpp3M(), UniPC()):
        assert torch.allclose(
            walk(sampler, problem(process), noise(process), grid(process, 1)),
            walk(DDIM(), problem(process), noise(process), grid(process, 1)),
            atol=1e-9,
        )


@pytest.mark.parametrize("process", PROCESSES)
def test_dpmpp_2m_sde_without_noise_is_dpmpp_2m(process):
    x, times = noise(process), grid(process, 20)
    assert torch.equal(walk(DPMpp2MSDE(0.0), problem(process), x, times), walk(DPMpp2M(), problem(process), x, times))


@pytest.mark.parametrize("process", PROCESSES)
def test_churn_of_nothing_is_heun(process):
    x, times = noise(process), grid(process, 20)
    assert torch.equal(
        walk(Churn(churn=0.0), problem(process), x, times), walk(RungeKutta2(), problem(process), x, times)
    )


def test_churn_is_algorithm_2_of_the_paper():
    process, x = EDM(), noise(EDM())
    denoiser, times, rng = problem(process), grid(process, 18), Rows(0, torch.arange(8), 8)
    want, gamma, s = x, min(40 / 18, math.sqrt(2) - 1), process.sigma(times)
    for k in range(18):
        grown = s[k] * (1 + gamma) if 0.05 <= s[k] <= 50 else s[k]
        if grown > s[k]:
            want = want + (grown**2 - s[k] ** 2).sqrt() * 1.003 * rng.normal("step", (2,), torch.float64)
        d = (want - denoiser(want, grown / 80, {}).x_0) / grown
        euler = want + (s[k + 1] - grown) * d
        if s[k + 1] > 0:
            late = (euler - denoiser(euler, times[k + 1], {}).x_0) / s[k + 1]
            euler = want + (s[k + 1] - grown) * (d + late) / 2
        want = euler
    assert torch.allclose(walk(Churn(), denoiser, x, times), want, rtol=1e-10, atol=1e-12)


class OneStream(Rng):
    """One generator for all rows: quick where thousands of rows are wanted for their statistics alone."""

    generator = torch.Generator().manual_seed(0)

    def draw(self, purpose: str, shape: tuple[int, ...], dtype: torch.dtype, fill: Fill) -> Tensor:
        return fill((self.total, *shape), dtype=dtype, generator=self.generator)

    def strata(self, purpose: str) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(
    "sampler", [DPMpp2MSDE(), DPMpp2MSDE(0.5), DDIM(1.0), Ancestral(), Ancestral("large"), Churn()]
)
def test_random_walks_keep_the_moments_of_gaussian_data(process, sampler):
    n, mean, std = 20_000, 0.4, 0.5
    data = Mixture(process, torch.ones(1), torch.full((1, 1), mean), torch.full((1,), std))
    rng = OneStream(0, torch.arange(n), n)
    x = process.prior((1,), rng).double()
    for _, end in sampler.trajectory(data, x, grid(process, 100, "logsnr"), cond={}, rng=rng):
        x = end
    assert abs(x.mean() - mean) < 0.02
    assert abs(x.std() / std - 1) < (
        0.08 if sampler == Ancestral("large") or isinstance(sampler, DDIM | Ancestral) else 0.03
    )


def test_rk4_asks_at_the_levels_between():
    process, times = VP(), torch.tensor([0.8, 0.4, 0.0], dtype=torch.float64)
    first, last = RungeKutta4().plan(process, times)
    u = [frame(process, torch.stack([first.t, *(s.t for s in first.rest[:-1])]))[1]][0]
    assert torch.allclose(u, torch.stack([u[0], (u[0] + u[3]) / 2, (u[0] + u[3]) / 2, u[3]]))
    assert len(first.rest) == 4 and len(last.rest) == 3 and first.rest[2].t == times[1]
