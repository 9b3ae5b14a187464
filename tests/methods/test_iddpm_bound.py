"""The variational bound of Improved DDPM: its variances, its two kinds of terms, and its measure."""

from __future__ import annotations

import math

import pytest
import torch

from diffcli.core.denoiser import Prediction
from diffcli.core.random import Rows
from diffcli.samplers.ddim import Ancestral
from diffcli.samplers.grid import grid
from diffcli.schedules import CosineOptions, LinearOptions
from diffcli.schedules.gaussian import cosine, linear
from diffcli_iddpm.bound import HALF, kl, log_likelihood, log_variance, prior, steps, terms

TABLE = cosine(CosineOptions(), None)
DOUBLE = {"dtype": torch.float64}


def full(process=TABLE):
    return steps(process, torch.arange(process.nodes, -1, -1, **DOUBLE) / process.nodes)


@pytest.mark.parametrize("process", [TABLE, linear(LinearOptions(), None)])
def test_the_posterior_is_the_product_of_two_gaussians(process):
    """q(x_s | x_t, x_0) is proportional to q(x_t | x_s) q(x_s | x_0): their precisions add. float64: 1e-10."""
    found, t, s = full(process), torch.arange(2, 1001, **DOUBLE) / 1000, torch.arange(1, 1000, **DOUBLE) / 1000
    ratio, prior_variance = process.alpha(t) / process.alpha(s), process.sigma(s) ** 2
    variance = 1 / (1 / prior_variance + ratio**2 / found.large[1:].exp())
    assert torch.allclose(found.small[1:].exp(), variance, rtol=1e-10, atol=0)
    assert torch.allclose(found.pull[1:], variance * process.alpha(s) / prior_variance, rtol=0, atol=1e-10)
    assert float(found.pull[0]) == pytest.approx(1, abs=1e-12)  # the last step is to x_0 itself


@pytest.mark.parametrize("spacing", ["uniform", "linspace"])
def test_the_mean_is_that_of_the_ancestral_step(spacing):
    """Two predictions that explain one x_t lead to means that are `pull` times the difference of their x_0 apart."""
    times = grid(TABLE, 50, spacing)
    found, t = steps(TABLE, times).pull.flip(0), times[:-1]
    points = Ancestral().plan(TABLE, times)
    apart = torch.tensor(
        [p.x_0 - p.eps * float(TABLE.alpha(u) / TABLE.sigma(u)) for p, u in zip(points, t, strict=True)]
    )
    assert torch.allclose(found.float(), apart, rtol=1e-5, atol=1e-9)


def test_beta_and_beta_tilde_part_at_the_clean_end():
    found = full()
    want = torch.tensor([0.75029, 0.45952, 0.13302, 0.018358, 2.4263e-6], **DOUBLE)
    assert torch.allclose((found.large - found.small)[[1, 2, 10, 100, 999]], want, rtol=0.01, atol=0)
    assert float(found.small[0]) == float(found.small[1])  # where beta~ is 0, that of the next noisier step
    one = steps(TABLE, torch.tensor([1.0, 0.0], **DOUBLE))
    assert float(one.small[0]) == float(one.large[0])


def test_the_mix_goes_from_beta_tilde_to_beta():
    here = full().take(torch.tensor([1, 1, 1, 700]))
    mix = torch.tensor([-1.0, 1.0, 0.0, 0.0], **DOUBLE)
    want = torch.stack(
        [here.small[0], here.large[0], (here.small[0] + here.large[0]) / 2, (here.small[3] + here.large[3]) / 2]
    )
    assert torch.allclose(log_variance(here, mix), want, rtol=0, atol=1e-12)
    beyond = log_variance(here, torch.full((4,), 3.0, **DOUBLE))
    assert (beyond > here.large).all()  # raw: neither tanh nor clamp


def normal(mean, std):
    return torch.distributions.Normal(torch.as_tensor(mean, **DOUBLE), torch.as_tensor(std, **DOUBLE))


def test_kl_is_that_of_two_gaussians():
    """Zero at equals; else the integral of p log p/q, here as a sum of 200,001 terms: error far below 1e-9."""
    log_var = torch.linspace(-9, 1, 11, **DOUBLE)
    assert kl(torch.zeros(11, **DOUBLE), log_var, log_var).abs().max() < 1e-12
    x = torch.linspace(-12, 12, 200_001, **DOUBLE)
    for gap, one, other in ((0.3, -1.0, 0.5), (-2.0, 0.2, 0.2), (0.0, 0.0, -1.5)):
        p, q = (normal(m, math.exp(v / 2)).log_prob(x) for m, v in ((0.0, one), (gap, other)))
        integral = float((p.exp() * (p - q)).sum() * (x[1] - x[0]))
        assert float(kl(*(torch.tensor(v, **DOUBLE) for v in (gap, one, other)))) == pytest.approx(integral, abs=1e-9)


def test_kl_is_no_difference_of_logarithms():
    """At i = 1 with equal means: 0.0083, 0.0312, 0.1113 nats; half the log-difference would be 0.0938, 0.1876, 0.3751."""
    found = full().take(torch.tensor([1, 1, 1]))
    other = torch.lerp(found.small, found.large, torch.tensor([0.25, 0.5, 1.0], **DOUBLE))
    want = torch.tensor([0.0083, 0.0312, 0.1113], **DOUBLE)
    assert torch.allclose(kl(torch.zeros(3, **DOUBLE), found.small, other), want, rtol=0.01, atol=0)


def test_the_best_variance_is_what_the_mean_misses():
    """For a mean off by d the bound is least at var = beta~ + d^2: gradient descent on v finds it to 1 %."""
    k, found = torch.tensor([1]), full()
    here = found.take(k)
    small, large = here.small.exp(), here.large.exp()
    d = (0.4 * (large - small)).sqrt()
    x_0, v = torch.zeros(1, 1, **DOUBLE), torch.zeros(1, 1, **DOUBLE, requires_grad=True)
    for _ in range(200):
        (slope,) = torch.autograd.grad(terms(found, k, x_0, x_0 + d / here.pull, v).sum(), v)
        v = (v - 3 * slope).detach().requires_grad_()
    assert float(log_variance(here, v[0]).exp().detach()) == pytest.approx(float(small + d**2), rel=0.01)


@pytest.mark.parametrize("mean", [-1.0, -0.31, 0.0, 0.77, 1.0])
@pytest.mark.parametrize("std", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bins_share_all_of_the_probability(mean, std, dtype):
    """256 of them sum to 1: 1e-5, of which the floor of 1e-12 adds at most 3e-10."""
    x = torch.linspace(-1, 1, 256, dtype=torch.float64).to(dtype)
    log_var = torch.full_like(x, 2 * math.log(std))
    assert float(log_likelihood(x, torch.full_like(x, mean), log_var).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_a_bin_holds_the_integral_of_its_density():
    x, log_var = torch.tensor([0.2, 0.5], **DOUBLE), torch.tensor([-6.0, -2.0], **DOUBLE)
    fine = torch.linspace(-HALF, HALF, 2001, **DOUBLE)
    for mean in (0.1, 0.3):
        want = torch.trapezoid(normal(mean, (log_var / 2).exp()[:, None]).log_prob(x[:, None] + fine).exp(), fine)
        assert torch.allclose(log_likelihood(x, torch.full_like(x, mean), log_var).exp(), want, rtol=1e-5)


def test_far_tails_keep_a_gradient_and_a_floor():
    """Eight deviations out the probability is 2e-14, below the floor. Six out it is 1e-8, which 1 - P rounds away in float32."""
    mean = torch.tensor([0.0], requires_grad=True)
    near = log_likelihood(torch.tensor([0.06]), mean, torch.tensor([2 * math.log(0.01)]))
    near.sum().backward()
    low, high = (0.5 * math.erfc((0.06 + h) / 0.01 / math.sqrt(2)) for h in (-HALF, HALF))
    assert float(near.detach()) == pytest.approx(math.log(low - high), abs=1e-3) and float(mean.grad) > 100
    far = log_likelihood(torch.tensor([0.08]), torch.tensor([0.0]), torch.tensor([2 * math.log(0.01)]))
    assert float(far) == pytest.approx(math.log(1e-12))


def test_the_prior_costs_nothing():
    """KL(q(x_1 | x_0) || N(0, I)) at |x_0| = 1: 1.75e-9 bits a dimension, as its closed form in float64 says."""
    found = float(prior(TABLE, torch.ones(1, 3, 2, 2, **DOUBLE)))
    one = torch.ones((), **DOUBLE)
    alpha, variance = float(TABLE.alpha(one)), float(TABLE.sigma(one)) ** 2
    closed = 0.5 * (alpha**2 + (variance - 1) - math.log1p(variance - 1)) / math.log(2)
    assert found == pytest.approx(1.75e-9, rel=0.02) and found == pytest.approx(closed, rel=0.02)


def test_a_whole_bound_is_a_length():
    """Bits to send an 8x8 image in 20 steps: no less than 0 for any prediction, and least for the truth."""
    process = cosine(CosineOptions(timesteps=20), None)
    found, k = full(process), torch.arange(20)
    generator = torch.Generator().manual_seed(0)
    x_0 = (torch.randint(256, (1, 1, 8, 8), generator=generator) / 127.5 - 1).expand(20, 1, 8, 8)
    guesses = [x_0, x_0 + 0.1, torch.zeros_like(x_0), torch.randn(x_0.shape, generator=generator)]
    bits = [
        float(terms(found, k, x_0, guess, torch.zeros_like(x_0)).sum() + prior(process, x_0)[0]) for guess in guesses
    ]
    assert all(math.isfinite(b) for b in bits) and 0 <= bits[0] < min(bits[1:])


@pytest.mark.parametrize("count", [1000, 7, 50, 300])
def test_respacing_is_any_grid(count):
    """beta_ts = 1 - abar_t/abar_s for each pair, alpha of the kept nodes the table's; all of them are the table: 1e-12."""
    times = grid(TABLE, count, "linspace")
    found = steps(TABLE, times)
    nodes = (times * 1000).round().long()
    assert len(nodes.unique()) == count + 1 and int(nodes[0]) == 1000
    bar = torch.cat([torch.ones(1, **DOUBLE), torch.cos(TABLE.angle[1:]) ** 2])
    assert torch.allclose(TABLE.alpha(times) ** 2, bar[nodes], rtol=0, atol=1e-12)
    s, t = nodes.flip(0)[:-1], nodes.flip(0)[1:]
    assert torch.allclose(found.large.exp(), 1 - bar[t] / bar[s], rtol=0, atol=1e-12)
    if count == 1000:
        assert all(torch.equal(a, b) for a, b in zip(found, full(), strict=True))


@pytest.mark.parametrize("count", [4, 50, 1000])
def test_an_oracle_leads_to_its_point_whatever_the_variance(count):
    class Point:
        process = TABLE

        def __call__(self, x_t, t, cond):
            alpha, sigma = TABLE.alpha(t), TABLE.sigma(t)
            return Prediction(torch.full_like(x_t, 0.4), (x_t - alpha * 0.4) / sigma, torch.sin(40 * x_t))

    index = torch.arange(3)
    rng = Rows(0, index, 3)
    start, times = TABLE.prior((1, 4, 4), rng), grid(TABLE, count, "linspace")
    *_, (_, x) = Ancestral("learned").trajectory(Point(), start, times, cond={}, rng=rng)
    assert float((x - 0.4).abs().max()) < 1e-3
