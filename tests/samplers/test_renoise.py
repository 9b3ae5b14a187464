"""Fresh noise on the predicted image: what it ends on, and that it forgets the noise it came with."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from diffcli.core.denoiser import Prediction
from diffcli.core.process import expand
from diffcli.core.random import Rows
from diffcli.samplers.grid import grid
from diffcli.samplers.renoise import Renoise
from diffcli.schedules import CosineOptions
from diffcli.schedules.gaussian import EDM, VP, Rectified, cosine

ROWS = 20_000


class Normal:
    """The exact denoiser of N(0, sd^2)."""

    def __init__(self, process, sd):
        self.process, self.sd = process, sd

    def gain(self, t):
        """E[x_0 | x_t] / x_t = alpha sd^2 / (alpha^2 sd^2 + sigma^2)."""
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        return alpha * self.sd**2 / ((alpha * self.sd) ** 2 + sigma**2)

    def __call__(self, x_t, t, cond):
        x_0 = expand(self.gain(t), x_t) * x_t
        alpha, sigma = (expand(c, x_t) for c in (self.process.alpha(t), self.process.sigma(t)))
        return Prediction(x_0, (x_t - alpha * x_0) / sigma)


def walk(process, denoiser, x, steps, spacing="karras", seed=0):
    rng = Rows(seed, torch.arange(len(x)), len(x))
    return list(Renoise().trajectory(denoiser, x, grid(process, steps, spacing), cond={}, rng=rng))


@pytest.mark.parametrize(
    "process", [EDM(), VP(), Rectified(), cosine(CosineOptions(), None)], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("steps", [1, 4, 12])
def test_the_variance_after_each_step_is_known(process, steps):
    """Of N(0, sd^2): V_s = (alpha_s c_t)^2 V_t + sigma_s^2, c_t the gain of the denoiser; at s = 0 the noise is none."""
    denoiser, generator = Normal(process, 0.5), torch.Generator().manual_seed(0)
    times = grid(process, steps, "uniform")
    rng = torch.Generator().manual_seed(1)

    class Drawn:
        def normal(self, purpose, shape, dtype):
            return torch.randn(ROWS, *shape, dtype=dtype, generator=rng)

    x = torch.randn(ROWS, 1, dtype=torch.float64, generator=generator) * float(process.sigma(times[0]))
    variance = float(process.sigma(times[0])) ** 2
    path = Renoise().trajectory(denoiser, x, times, cond={}, rng=Drawn())
    for t, (s, x_s) in zip(times, path, strict=False):
        variance = float((process.alpha(s) * denoiser.gain(t)) ** 2) * variance + float(process.sigma(s)) ** 2
        # four standard errors of a variance of 20,000 draws, sqrt(2/n), are 4 %; none is left where there is none
        assert float(x_s.var()) == pytest.approx(variance, rel=0.04, abs=1e-12)


def test_in_many_steps_it_ends_narrower_than_the_law():
    """Of N(0, sd^2) on N(0, sd^2/2): the fixed point W = c^2 (W + sigma^2) of its variance, as sigma goes to 0.

    c = sd^2/(sigma^2 + sd^2) gives W = sd^4/(sigma^2 + 2 sd^2). So it declares that it is not exact.
    """
    denoiser, times = Normal(EDM(), 0.5), grid(EDM(), 4000, "karras")
    variance = 80.0**2
    for t, s in pairwise(times):
        variance = float(denoiser.gain(t)) ** 2 * variance + float(EDM().sigma(s)) ** 2
    assert variance == pytest.approx(0.25 / 2, rel=0.01)
    assert not Renoise.exact and Renoise().order is None


def test_the_noise_it_came_with_is_forgotten():
    """Two walks whose denoisers say the same x_0 and another eps are one walk."""

    class Told:
        process = EDM()

        def __init__(self, eps):
            self.eps = eps

        def __call__(self, x_t, t, cond):
            return Prediction(torch.full_like(x_t, 0.3), torch.full_like(x_t, self.eps))

    x = torch.randn(4, 3)
    one, other = (walk(EDM(), Told(eps), x, 5) for eps in (0.0, 9.0))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True))


def test_the_end_is_what_was_predicted_to_the_bit():
    class Odd:
        process = EDM()

        def __call__(self, x_t, t, cond):
            self.said = torch.sin(x_t) / 3
            return Prediction(self.said, x_t)

    denoiser = Odd()
    assert torch.equal(walk(EDM(), denoiser, torch.randn(4, 3), 4)[-1][1], denoiser.said)


def test_every_step_has_noise_of_its_own():
    class Nothing:
        process = EDM()

        def __call__(self, x_t, t, cond):
            return Prediction(torch.zeros_like(x_t), x_t)

    path = walk(EDM(), Nothing(), torch.randn(4, 3), 4)
    drawn = [x_s / EDM().sigma(s) for s, x_s in path[:-1]]
    assert len({tuple(z.flatten().tolist()) for z in drawn}) == 3
