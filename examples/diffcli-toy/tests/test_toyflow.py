"""toyflow keeps every law of diffcli, and some of its own."""

from __future__ import annotations

import math

import pytest
import torch
from diffcli.core.random import Rows
from diffcli.samplers.frame import clock
from diffcli.schedules.gaussian import Rectified
from diffcli.testing import DatasetSuite, DenoiserSuite, MethodSuite, PluginSuite, SamplerSuite

from toyflow.dataset import KINDS, curve, draw
from toyflow.method import Uncertainty
from toyflow.sampler import AB3, integrals


class TestPlugin(PluginSuite):
    name = "toyflow"


class TestUncertainFlow(MethodSuite):
    name = "uncertain-flow"


class TestUncertainDenoiser(DenoiserSuite):
    name = "uncertain-flow"


class TestAB3(SamplerSuite):
    name = "ab3"


class TestLissajous(DatasetSuite):
    name = "lissajous"


def test_parabolas_are_integrated_exactly():
    """The weights give h^(k+1)/(k+1) for z^k, k = 0, 1, 2, wherever the earlier nodes lie."""
    h, p, q = torch.tensor([[-0.1, 0.07, 0.3], [-0.02, 0.5, 0.6]], dtype=torch.float64).T
    for k in range(3):
        now, one, two = integrals(h, p, q)
        total = now * 0.0**k + one * p**k + two * q**k
        torch.testing.assert_close(total, h ** (k + 1) / (k + 1), atol=1e-12, rtol=1e-12)


class Swing:
    """dy/du = k u^(k-1) on the rectified path, where y = x and u = t: x falls by 1 - s^k between t = 1 and s."""

    process = Rectified()

    def __init__(self, power: int):
        self.power = power

    def __call__(self, x_t, t, cond):
        from diffcli.core.denoiser import Prediction

        velocity = torch.full_like(x_t, self.power) * t ** (self.power - 1)
        return Prediction(x_t - t * velocity, x_t + (1 - t) * velocity)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_after_its_start_it_is_exact_where_the_slope_is_a_parabola(power):
    """On an uneven grid; the two midpoint steps are exact only up to a straight slope, so they are left out."""
    times = clock(Rectified(), torch.tensor([1, 0.8, 0.75, 0.5, 0.3, 0.28, 0.0], dtype=torch.float64))
    x = torch.zeros(1, 1, dtype=torch.float64)
    path = AB3().trajectory(Swing(power), x, times, cond={}, rng=Rows(0, torch.arange(1), 1))
    ends = [float(x) for _, x in path]
    assert ends[-1] - ends[1] == pytest.approx(-(0.75**power), abs=1e-12)


def test_the_weight_settles_at_the_logarithm_of_the_error():
    """e^-u error + u is least at u = log error; here the error is e^cos(pi t), so the second share is 1, the rest 0."""
    u, t = Uncertainty(4), torch.linspace(0, 1, 201, dtype=torch.float64)
    error = torch.exp(torch.cos(math.pi * t)).float()
    step = torch.optim.LBFGS(u.parameters(), max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure():
        step.zero_grad()
        loss = (torch.exp(-u(t)) * error + u(t)).mean()
        loss.backward()
        return loss

    step.step(closure)
    torch.testing.assert_close(u.shares.detach(), torch.tensor([0.0, 1, 0, 0, 0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_curve_crosses_the_middle_where_sin_bs_is_0(kind):
    """There the row is lit, within a pixel; it is dark 8 pixels away, for no curve is flatter than 0.35 there."""
    (a, b), u = KINDS[kind], torch.rand(10, 3, generator=torch.Generator().manual_seed(0))
    lit = draw(*curve((a, b), u), 64)[:, 0, 31:33].amax(1) > 100  # (10, 64)
    phase = math.pi / b * (a * b % 2 / 2 + 0.5 * u[:, :1] - 0.25)
    crossed = 0.85 * (0.7 + 0.3 * u[:, 1:2]) * torch.sin(torch.arange(2 * b) * (a * math.pi / b) + phase)
    pixel = (torch.arange(64) + 0.5) / 64 * 2 - 1
    away = (pixel[:, None] - crossed[:, None]).abs() * 32  # (10, 64, 2b), in pixels
    assert all((picture & (d < 1)).any() for k in range(2 * b) for picture, d in zip(lit, away[..., k], strict=True))
    assert not (lit & (away.amin(-1) > 8)).any()
