"""F = a x_0 + b eps: two equations, two unknowns."""

import pytest
import torch
from torch import Tensor, nn

from diffcli.core import parameterization as param
from diffcli.core.denoiser import Preconditioned
from diffcli.core.process import expand
from diffcli.schedules import CosineOptions, LinearOptions
from diffcli.schedules.gaussian import EDM, VP, Rectified, cosine, linear

PROCESSES = {
    "vp": VP(),
    "edm": EDM(),
    "rectified": Rectified(),
    "cosine": cosine(CosineOptions(), None),
    "linear": linear(LinearOptions(), None),
}
PARAMS = {
    "eps": param.eps,
    "x0": param.x0,
    "v": param.v,
    "velocity": param.velocity,
    "slope": param.slope,
    "edm": param.edm(0.5),
}


class Says(nn.Module):
    """A network that answers F, whatever it is asked."""

    def __init__(self, f: Tensor):
        super().__init__()
        self.f = f

    def forward(self, x: Tensor, c_noise: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.f


def pair() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", PARAMS)
def test_what_a_network_says_is_read_back(process, name):
    p, f = PROCESSES[process], PARAMS[name]
    x_0, eps = pair()
    for t in (torch.tensor([0.05, 0.2, 0.5, 0.7, 0.95], dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)):
        a, b = (expand(c, x_0) for c in f(p, t))
        denoiser = Preconditioned(Says(a * x_0 + b * eps), p, f)
        got = denoiser(p.diffuse(x_0, eps, t), t, {})
        assert torch.allclose(got.x_0, x_0, atol=1e-8) and torch.allclose(got.eps, eps, atol=1e-8)
        assert float(denoiser.error(x_0, eps, t.expand(5), {}).max()) < 1e-16


def test_velocity_and_slope_are_one_on_the_rectified_path():
    p, t = Rectified(), torch.linspace(0, 1, 5, dtype=torch.float64)
    assert all(torch.equal(x, y) for x, y in zip(param.velocity(p, t), param.slope(p, t), strict=True))


def test_slope_is_eps_where_the_data_are_not_scaled():
    a, b = param.slope(EDM(), torch.tensor([0.1, 0.5]))
    assert (a == 0).all() and (b == 1).all()


def test_rectified_velocity_is_finite_at_both_ends():
    p, (x_0, eps) = Rectified(), pair()
    t = torch.tensor([0, 1e-3, 0.5, 1 - 1e-9, 1], dtype=torch.float64)
    got = Preconditioned(Says(eps - x_0), p, param.velocity)(p.diffuse(x_0, eps, t), t, {})
    assert torch.allclose(got.x_0, x_0, atol=1e-6) and torch.allclose(got.eps, eps, atol=1e-6)


def test_edm_is_the_c_skip_and_c_out_of_the_paper():
    p, sd = EDM(), 0.5
    t = torch.tensor([0.001, 0.01, 0.1, 0.5, 1.0], dtype=torch.float64)
    x, f = pair()
    s = p.sigma(t)[:, None]
    c_skip, c_out = sd**2 / (s**2 + sd**2), s * sd / torch.sqrt(s**2 + sd**2)
    got = Preconditioned(Says(f), p, param.edm(sd))(x, t, {})
    assert torch.allclose(got.x_0, c_skip * x + c_out * f, rtol=1e-12)


def test_edm_target_has_unit_variance_at_every_level():
    p, sd = EDM(), 0.5
    a, b = param.edm(sd)(p, torch.tensor([1e-5, 1e-3, 0.1, 1.0], dtype=torch.float64))
    assert torch.allclose((a * sd) ** 2 + b**2, torch.ones(4, dtype=torch.float64))


def test_v_has_unit_variance_on_unit_data():
    a, b = param.v(VP(), torch.linspace(0.01, 1, 9, dtype=torch.float64))
    assert torch.allclose(a**2 + b**2, torch.ones(9, dtype=torch.float64))


@pytest.mark.parametrize("process", PROCESSES)
def test_derivative_is_the_slope_of_alpha_and_sigma(process):
    p, t, h = PROCESSES[process], torch.tensor([0.1234, 0.4567, 0.9123], dtype=torch.float64), 1e-5
    for exact, f in zip(p.derivative(t), (p.alpha, p.sigma), strict=True):
        assert torch.allclose(exact, (f(t + h) - f(t - h)) / (2 * h), rtol=1e-5, atol=1e-8)
