"""The exact denoiser obeys Tweedie's formula, so that what is measured on it means something."""

import pytest
import torch

from diffcli.core.exact import Mixture
from diffcli.engine.bench import problem
from diffcli.schedules import CosineOptions
from diffcli.schedules.gaussian import EDM, VP, Rectified, cosine

PROCESSES = {"vp": VP(), "edm": EDM(), "rectified": Rectified(), "cosine": cosine(CosineOptions(), None)}


@pytest.mark.parametrize("name", PROCESSES)
def test_eps_is_the_score(name):
    p = PROCESSES[name]
    d = problem(p)
    t = torch.tensor([0.01, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    score = torch.autograd.grad(d.log_prob(x, t).sum(), x)[0]
    assert torch.allclose(d(x, t, {}).eps, -p.sigma(t)[:, None] * score, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_pair_explains_x_t_and_is_finite_at_both_ends(name):
    p = PROCESSES[name]
    t = torch.tensor([0.0, 1e-6, 0.3, 1.0], dtype=torch.float64)
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pair = problem(p)(x, t, {})
    assert torch.isfinite(pair.x_0).all() and torch.isfinite(pair.eps).all()
    assert torch.allclose(p.diffuse(pair.x_0, pair.eps, t), x, atol=1e-12)


def test_density_integrates_to_one_and_draws_follow_it():
    d = problem(Rectified())
    line = torch.linspace(-3, 3, 301, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    mass = d.log_prob(x, torch.tensor(0.0)).exp() * 0.02**2
    assert abs(mass.sum() - 1) < 1e-6
    draws = d.draw(20_000, torch.Generator().manual_seed(0))
    assert torch.allclose(draws.mean(0), (mass[:, None] * x).sum(0), atol=0.02)
    assert torch.allclose(draws.var(0), (mass[:, None] * x**2).sum(0) - (mass[:, None] * x).sum(0) ** 2, atol=0.02)


def test_images_keep_their_shape_and_dtype():
    d = Mixture(
        VP(), torch.tensor([0.5, 0.5]), torch.stack([torch.ones(1, 4, 4), -torch.ones(1, 4, 4)]), torch.full((2,), 0.1)
    )
    pair = d(torch.ones(3, 1, 4, 4), torch.tensor(0.05), {})
    assert pair.x_0.shape == (3, 1, 4, 4) and pair.eps.dtype == torch.float32
    assert pair.x_0.mean() > 0.9 and d.draw(2, torch.Generator()).shape == (2, 1, 4, 4)


def test_a_random_law_is_as_it_is_said_to_be():
    """1000 blobs: the largest and least of a thousand uniform numbers lie within 1 % of the ends."""
    law = Mixture.random(VP(), 3, 1000, torch.Generator().manual_seed(0))
    assert law.means.abs().max() <= 1 and law.means.max() > 0.98 and law.means.min() < -0.98
    assert 0.05 <= law.stds.min() < 0.051 and 0.294 < law.stds.max() <= 0.3
    assert (
        abs(law.stds.log().mean() - (torch.tensor(0.05 * 0.3).log() / 2)) < 0.06
    )  # log-uniform: its spread is 0.52/sqrt(1000)
    assert abs(law.weights.sum() - 1) < 1e-12 and law.weights.max() / law.weights.min() <= 6


def test_multiplied_out_the_distance_is_the_same():
    """The posterior mean against the sum over components written out, where alpha is small and where it is 1."""
    p = EDM()
    law = Mixture.random(p, 64, 5, torch.Generator().manual_seed(0))
    for t in (1.0, 0.1, 1e-4):
        time = torch.tensor(t, dtype=torch.float64)
        x = torch.randn(7, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * p.sigma(time)
        variance = law.stds**2 + p.sigma(time) ** 2  # (K,)
        away = x[:, None] - law.means  # (B, K, D)
        joint = law.weights.log() - (away**2).sum(-1) / (2 * variance) - 32 * variance.log()
        want = (joint.softmax(-1)[..., None] * (law.means + (law.stds**2 / variance)[:, None] * away)).sum(1)
        assert torch.allclose(law(x, time, {}).x_0, want, rtol=1e-9, atol=1e-11)
