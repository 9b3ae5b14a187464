"""What every process has by its base class."""

import torch
from torch import Tensor

from diffcli.core.process import CleanEnd, GaussianProcess, MaskedProcess, expand
from diffcli.core.random import Rows
from diffcli.engine.bench import problem, walk
from diffcli.samplers.ddim import DDIM
from diffcli.samplers.grid import grid
from diffcli.samplers.runge_kutta import RungeKutta2
from diffcli.schedules import CosineOptions, LinearOptions, ScaledLinearOptions
from diffcli.schedules.gaussian import EDM, VP, Rectified, cosine, linear, scaled_linear

TABLES = [cosine(CosineOptions(), None), linear(LinearOptions(), None), scaled_linear(ScaledLinearOptions(), None)]


class Floored(GaussianProcess):
    """A process that never gets clean: sigma(0) = 0.1."""

    floor = 0.1
    ratio_min, ratio_max = 0.2, 50.0

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - 0.99 * t

    def sigma(self, t: Tensor) -> Tensor:
        return 0.1 + 0.9 * t


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_expand_follows_the_data_and_leaves_scalars_alone():
    x = torch.zeros(3, 2, 4, 4)
    assert expand(torch.ones(3, dtype=torch.float64), x).shape == (3, 1, 1, 1)
    assert expand(torch.ones(3, dtype=torch.float64), x).dtype == torch.float32
    assert (expand(torch.ones((), dtype=torch.float64), x) * x).dtype == torch.float32


def test_bisection_inverts_the_ratio():
    p, t = Floored(), torch.linspace(0.01, 1, 50, dtype=torch.float64)
    assert torch.allclose(p.time(p.ratio(t)), t, atol=1e-12)


def test_clean_end_is_the_process_but_at_zero():
    p = Floored()
    clean, t = p.ending(), torch.linspace(0.01, 1, 50, dtype=torch.float64)
    assert isinstance(clean, CleanEnd)
    assert torch.equal(clean.alpha(t), p.alpha(t)) and torch.equal(clean.sigma(t), p.sigma(t))
    assert clean.alpha(times(0.0)) == 1 and clean.sigma(times(0.0)) == 0
    assert torch.equal(clean.time(p.ratio(t)), p.time(p.ratio(t)))
    assert (clean.ratio_min, clean.ratio_max, clean.rectified) == (0.2, 50.0, True)


def test_a_process_that_gets_clean_is_its_own_ending():
    p = VP()
    assert p.ending() is p


def test_samplers_end_at_the_data_of_a_process_with_a_floor():
    p = Floored()
    denoiser = problem(p)
    x = p.prior((2,), Rows(0, torch.arange(64), 64)).double()
    noisy = walk(DDIM(), denoiser, x, grid(p, 100))
    denoiser.process = p.ending()
    sharp = walk(DDIM(), denoiser, x, grid(denoiser.process, 100))
    heun = walk(RungeKutta2(), denoiser, x, grid(denoiser.process, 100))
    data = problem(Rectified())
    nats = [data.log_prob(y, times(0.0).squeeze()).mean() for y in (noisy, sharp, heun)]
    assert not torch.allclose(noisy, sharp, atol=0.01)
    assert torch.allclose(sharp, heun, atol=0.05)
    assert nats[1] > nats[0]


def test_posterior_is_the_product_of_two_gaussians():
    for p in (VP(), EDM(), Rectified()):
        t, s = times(0.3, 0.6, 0.9, 0.999), times(0.29, 0.2, 0.85, 0.01)
        large, small = p.posterior(t, s)
        keep = p.alpha(t) / p.alpha(s)
        assert torch.allclose(1 / small, 1 / p.sigma(s) ** 2 + keep**2 / large, rtol=1e-10)
        assert torch.allclose(keep**2 * p.sigma(s) ** 2 + large, p.sigma(t) ** 2, rtol=1e-12)


def test_prior_is_noise_of_sigma_one_that_belongs_to_the_image():
    for p in (VP(), EDM(), Rectified()):
        x = p.prior((1, 8, 8), Rows(0, torch.arange(64), 64))
        assert x.dtype == torch.float32
        assert abs(x.std() / p.sigma(times(1.0)).item() - 1) < 0.05
        assert torch.equal(p.prior((1, 8, 8), Rows(0, torch.tensor([9]), 64))[0], x[9])


def test_masked_prior_is_all_mask():
    p = MaskedProcess(5)
    assert (p.prior((7,), Rows(0, torch.arange(3), 3)) == p.mask_id).all()
    assert p.mask_id == 5 and p.alpha(times(1.0)) == 0


def test_the_rectified_path_begins_at_the_image_and_ends_at_the_noise_exactly():
    p = Rectified()
    for dtype in (torch.float32, torch.float64):
        x_0, eps = torch.randn(2, 4, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)).unbind()
        assert torch.equal(p.diffuse(x_0, eps, times(0.0)[0]), x_0) and torch.equal(
            p.diffuse(x_0, eps, times(1.0)[0]), eps
        )
        assert torch.equal(p.diffuse(x_0, eps, times(0, 0, 1, 1)), torch.cat([x_0[:2], eps[2:]]))


def test_a_table_is_a_process_between_its_entries_too():
    """7,919 is prime: none of these times but the ends is an entry of 1000."""
    t = torch.linspace(0, 1, 7920, dtype=torch.float64)
    for p in TABLES:
        assert torch.allclose(p.alpha(t) ** 2 + p.sigma(t) ** 2, torch.ones_like(t), rtol=0, atol=1e-12)
        assert (p.ratio(t).diff() > 0).all() and p.sigma(t[0]) == 0
        index = (t * 1000).long().clamp(max=999)
        low, high = p.sigma(index.double() / 1000), p.sigma((index.double() + 1) / 1000)
        assert ((p.sigma(t) >= low - 1e-15) & (p.sigma(t) <= high + 1e-15)).all()
