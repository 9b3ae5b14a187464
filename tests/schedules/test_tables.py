"""Tables of betas: the published numbers, and the view of a table as a continuous process."""

import pytest
import torch

from diffcli.core.parameterization import velocity
from diffcli.errors import UsageError
from diffcli.schedules import CosineOptions, LinearOptions, ScaledLinearOptions, SigmoidOptions
from diffcli.schedules.gaussian import Betas, cosine, linear, scaled_linear, sigmoid

NODES = torch.arange(1, 1001, dtype=torch.float64) / 1000
AT = torch.tensor([0, 250, 500, 750, 999])


def alpha_bar(process: Betas) -> torch.Tensor:
    return process.alpha(NODES) ** 2


@pytest.mark.parametrize(
    ("process", "want"),
    [
        (cosine(CosineOptions(), None), [0.99995872, 0.84588799, 0.49228517, 0.14317865, 2.42877e-9]),
        (linear(LinearOptions(), None), [0.9999, 0.52142303, 0.07779666, 0.00330016, 4.03583e-5]),
        (scaled_linear(ScaledLinearOptions(), None), [0.99915, 0.67379263, 0.27633268, 0.05616985, 0.00466010]),
        (
            cosine(CosineOptions(beta_cap=0.9999, beta_floor=1e-4), None),
            [0.9999, 0.84556291, 0.49209599, 0.14312362, 2.42783e-10],
        ),
    ],
)
def test_alpha_bar_is_the_published_table(process, want):
    want = torch.tensor(want, dtype=torch.float64)
    got = alpha_bar(process)[AT]
    assert torch.allclose(got[:4], want[:4], rtol=2e-6, atol=0)
    assert torch.allclose(got[4], want[4], rtol=2e-3, atol=0)


def test_the_view_gives_the_table_back():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    process, want = Betas(betas), torch.cumprod(1 - betas, 0)
    assert torch.allclose(process.alpha(NODES), want.sqrt(), rtol=0, atol=1e-12)
    assert torch.allclose(process.sigma(NODES), (1 - want).sqrt(), rtol=0, atol=1e-12)
    large, small = process.posterior(NODES[1:], NODES[:-1])
    assert torch.allclose(large, betas[1:], rtol=1e-9, atol=0)
    assert torch.allclose(small, betas[1:] * (1 - want[:-1]) / (1 - want[1:]), rtol=1e-9, atol=0)


def test_one_time_and_many_are_the_same():
    process, t = cosine(CosineOptions(), None), torch.linspace(0, 1, 137, dtype=torch.float64)
    assert torch.allclose(process.alpha(t), torch.stack([process.alpha(r) for r in t]), rtol=0, atol=1e-15)
    assert torch.allclose(process.sigma(t), torch.stack([process.sigma(r) for r in t]), rtol=0, atol=1e-15)
    assert all(torch.isfinite(c).all() for c in velocity(process, t))


def test_other_lengths_reach_the_same_noise():
    for make, options in ((linear, LinearOptions), (scaled_linear, ScaledLinearOptions), (cosine, CosineOptions)):
        ends = [
            make(options(timesteps=n), None).alpha(torch.tensor(0.5, dtype=torch.float64)) for n in (250, 1000, 4000)
        ]
        assert max(ends) - min(ends) < 0.01


def test_sigmoid_is_the_stretch_between_start_and_end():
    process = sigmoid(SigmoidOptions(), None)
    t, half = NODES[:-1], torch.tensor(0.5, dtype=torch.float64)
    want = (torch.sigmoid(torch.tensor(3.0)) - torch.sigmoid(6 * t - 3)) / (torch.sigmoid(torch.tensor(3.0)) * 2 - 1)
    assert torch.allclose(alpha_bar(process)[:-1], want, rtol=0, atol=1e-6)
    assert torch.allclose(process.alpha(half) ** 2, half, atol=1e-12)
    steep = sigmoid(SigmoidOptions(tau=0.3), None)
    assert steep.alpha(half / 2) > process.alpha(half / 2)
    with pytest.raises(UsageError, match="end must be larger"):
        sigmoid(SigmoidOptions(start=1.0, end=0.0), None)


def test_the_cap_and_the_floor_hold():
    process = cosine(CosineOptions(beta_cap=0.5, beta_floor=0.01), None)
    betas = process.posterior(NODES[1:], NODES[:-1])[0]
    assert abs(betas.max() - 0.5) < 1e-12 and abs(betas.min() - 0.01) < 1e-12


def test_betas_outside_of_0_and_1_are_refused():
    for bad in (0.0, 1.0, -0.1):
        with pytest.raises(UsageError, match="between 0 and 1"):
            Betas(torch.tensor([0.1, bad]))
