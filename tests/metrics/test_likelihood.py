"""The likelihood along the probability flow: exact where the denoiser is exact."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Counted, Prediction
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Rows
from diffcli.metrics.likelihood import bits_per_dim, log_density
from diffcli.schedules import CosineOptions, LinearOptions, ScaledLinearOptions
from diffcli.schedules.gaussian import EDM, VP, Rectified, cosine, linear, scaled_linear

PROCESSES = {
    "rectified": Rectified(),
    "vp": VP(),
    "edm": EDM(),
    "cosine": cosine(CosineOptions(), None),
    "linear": linear(LinearOptions(), None),
    "scaled-linear": scaled_linear(ScaledLinearOptions(), None),
}
MEAN = torch.tensor([0.2, -0.4, 0.0, 0.1], dtype=torch.float64)
STD = torch.tensor([0.5, 0.25, 1.0, 0.7], dtype=torch.float64)


class Gaussian:
    """The exact denoiser of x_0 ~ N(mean, diag(std^2))."""

    def __init__(self, process: GaussianProcess, mean: Tensor, std: Tensor):
        self.process, self.mean, self.std = process, mean, std

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        away = (x_t - alpha * self.mean) / ((alpha * self.std) ** 2 + sigma**2)
        return Prediction(self.mean + alpha * self.std**2 * away, sigma * away)

    def draw(self, n: int, seed: int = 0) -> Tensor:
        z = torch.randn(n, *self.mean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return self.mean + self.std * z

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.distributions.Normal(self.mean, self.std).log_prob(x).flatten(1).sum(1)

    def walked(self, x: Tensor) -> Tensor:
        """The density of what a perfect solver makes of the prior N(0, sigma_1^2): along the flow (x_t - alpha m)/std_t stays."""
        alpha, sigma = (c(torch.ones((), dtype=torch.float64)) for c in (self.process.alpha, self.process.sigma))
        spread = ((alpha * self.std) ** 2 + sigma**2).sqrt()
        x_1 = alpha * self.mean + spread * (x - self.mean) / self.std
        return (torch.distributions.Normal(0.0, sigma).log_prob(x_1) + (spread / self.std).log()).flatten(1).sum(1)


class Uniform:
    """The exact denoiser of x_0 uniform on [-1, 1], each dimension on its own: a truncated normal's mean."""

    def __init__(self, process: GaussianProcess):
        self.process = process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        tau = sigma / alpha
        low, high = (-1 - x_t / alpha) / tau, (1 - x_t / alpha) / tau
        density = lambda z: torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        pull = (density(low) - density(high)) / (torch.special.ndtr(high) - torch.special.ndtr(low))
        return Prediction(x_t / alpha + tau * pull, -pull)


def probe(x: Tensor, seed: int = 1) -> Tensor:
    return torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(seed)).double() * 2 - 1


@pytest.mark.parametrize("name", [n for n in PROCESSES if n != "scaled-linear"])
def test_of_a_gaussian_it_is_exact(name):
    """Means and spreads differ by dimension: the flow is linear and diagonal, so one probe of +-1 gives its divergence.

    3e-3 nats a dimension; scaled-linear stops at alpha = 0.07, so that its prior alone costs more.
    """
    data = Gaussian(PROCESSES[name], MEAN, STD)
    x = data.draw(64)
    got = log_density(data, x, {}, probe(x))
    assert got.dtype == torch.float64
    assert ((got - data.log_prob(x)) / 4).abs().mean() < 3e-3


@pytest.mark.parametrize("name", PROCESSES)
def test_it_is_the_density_of_what_a_solver_draws(name):
    """Nothing is left but the error of 400 steps: the volume of the frame at both ends is counted."""
    data = Gaussian(PROCESSES[name], MEAN, STD)
    x = data.draw(64)
    error = (log_density(data, x, {}, probe(x), 400) - data.walked(x)) / 4
    assert error.abs().mean() < (3e-3 if name == "scaled-linear" else 4e-4)


@pytest.mark.parametrize("name", PROCESSES)
def test_more_steps_are_closer(name):
    """Order 2, or nearly: four times the steps have a third of the error at most."""
    data = Gaussian(PROCESSES[name], MEAN, STD)
    x = data.draw(16)
    few, many = (
        float((log_density(data, x, {}, probe(x), steps) - data.walked(x)).abs().mean()) for steps in (25, 100)
    )
    assert many < few / 3


@pytest.mark.parametrize("name", ["rectified", "vp", "edm"])
def test_a_probe_of_any_sign_gives_the_trace_of_a_turned_gaussian_on_average(name):
    """Of a full Jacobian the estimate is unbiased: over all 8 probes of 3 dimensions it is the trace itself."""
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    inner = Gaussian(PROCESSES[name], MEAN[:3], STD[:3])

    class Turned:
        process = PROCESSES[name]

        def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
            pair = inner(x_t @ turn.T, t, cond)
            return Prediction(pair.x_0 @ turn, pair.eps @ turn)

    x = inner.draw(16).repeat_interleave(8, 0)
    probes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3).repeat(16, 1)
    got = log_density(Turned(), x @ turn, {}, probes).view(16, 8)
    assert got.std(1).min() > 1e-2, "one probe is not the trace"
    assert ((got.mean(1) - inner.log_prob(x[::8])) / 3).abs().mean() < 3e-3


def test_every_pixel_counts_whatever_the_shape():
    data = Gaussian(Rectified(), MEAN.view(1, 2, 2), STD.view(1, 2, 2))
    flat = Gaussian(Rectified(), MEAN, STD)
    x = flat.draw(5)
    assert torch.allclose(
        log_density(data, x.view(5, 1, 2, 2), {}, probe(x).view(5, 1, 2, 2)),
        log_density(flat, x, {}, probe(x)),
        atol=1e-10,
    )


def test_it_costs_two_calls_a_step_and_leaves_no_graph():
    counted = Counted(Gaussian(Rectified(), MEAN, STD))
    x = counted.denoiser.draw(2)
    kept = x.clone()
    with torch.no_grad():
        got = log_density(counted, x, {}, probe(x), 7)
    assert counted.calls == 14 and not got.requires_grad
    assert torch.equal(x, kept) and not x.requires_grad


@pytest.mark.parametrize(
    ("process", "tolerance"), [(Rectified(), 0.02), (VP(), 0.02), (cosine(CosineOptions(timesteps=60), None), 0.05)]
)
def test_bits_are_those_of_the_bins(process, tolerance):
    """Bytes of a wide Gaussian: the model's bits are -log2 of the mass of each bin, by its own cumulative function.

    A table may be shorter than the 100 steps of the walk.
    """
    shape, std = (1, 4, 4), 0.3
    data = Gaussian(process, torch.zeros(shape, dtype=torch.float64), torch.full(shape, std, dtype=torch.float64))
    byte = ((data.draw(64) + 1) * 128).floor()
    assert byte.min() >= 0 and byte.max() <= 255, "a Gaussian that wide would be clipped"
    edge = lambda b: torch.special.ndtr((b / 128 - 1) / std)
    exact = -(edge(byte + 1) - edge(byte)).log2().mean()
    got = bits_per_dim(data, byte / 127.5 - 1, {}, Rows(0, torch.arange(64), 64))
    assert got.shape == (64,)
    assert float(got.mean()) == pytest.approx(float(exact), abs=tolerance)


def test_noise_over_all_bytes_costs_eight_bits():
    byte = torch.randint(0, 256, (32, 1, 4, 4), generator=torch.Generator().manual_seed(0)).double()
    got = bits_per_dim(Uniform(VP()), byte / 127.5 - 1, {}, Rows(0, torch.arange(32), 32))
    assert float(got.mean()) == pytest.approx(8.0, abs=0.05)


def test_bits_do_not_depend_on_the_batch():
    data = Gaussian(Rectified(), MEAN.view(1, 2, 2), STD.view(1, 2, 2))
    x = (data.draw(6).clamp(-1, 1) * 127.5).round() / 127.5
    whole = bits_per_dim(data, x, {}, Rows(0, torch.arange(6), 6), 10)
    parts = [bits_per_dim(data, x[i], {}, Rows(0, i, 6), 10) for i in torch.arange(6).split(4)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-12)
