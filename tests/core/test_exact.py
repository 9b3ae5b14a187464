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
