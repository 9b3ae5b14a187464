"""mae-noprop: the levels of its decoders, the grid along them, and the preconditioning at each."""

from __future__ import annotations

import math

import pytest
import torch

from completions import batch, images, mae, rows
from diffcli.core.parameterization import edm
from diffcli.errors import UsageError
from diffcli.samplers.grid import grid
from diffcli.schedules.gaussian import EDM, Rectified
from diffcli_mae_noprop.levels import Levels


def below(sigma: torch.Tensor) -> torch.Tensor:
    """The share of N(-1.2, 1.2^2) below ln sigma."""
    return torch.special.ndtr((sigma.log() + 1.2) / 1.2)


def test_karras_levels_are_the_published_ones():
    """Karras et al. 2022, Eq. 5, with rho = 7, from 80 to 0.002."""
    levels = Levels("karras", 4, EDM())
    assert torch.allclose(levels.sigma, torch.tensor([80, 9.7232, 0.46998, 0.002]).double(), rtol=1e-4)
    assert Levels("karras", 1, EDM()).sigma.tolist() == [80]
    many = Levels("karras", 10, EDM()).sigma
    assert (many.diff() < 0).all()
    # the grid of the same name has them too, computed elsewhere
    assert torch.allclose(levels.grid(4), grid(EDM(), 4, "karras"), rtol=1e-12, atol=0)


def test_equiprob_intervals_are_equally_probable():
    """ln sigma ~ N(-1.2, 1.2^2) on [0.002, 80]; the borders are those of the specification, and a draw falls evenly."""
    sigma = Levels("equiprob", 4, EDM()).sigma
    assert torch.allclose(sigma[1:-1], torch.tensor([0.6766, 0.3012, 0.1341]).double(), rtol=1e-3)
    assert sigma[0] == 80 and sigma[-1] == 0.002
    share = below(sigma).diff().abs()
    assert torch.allclose(share, share.mean().expand(4), rtol=1e-9)


@pytest.mark.parametrize("decoders", [1, 3, 10])
def test_training_times_are_stratified_inside_the_interval(decoders):
    """Equal parts of an interval's probability have one draw each, and none lies outside."""
    levels, n = Levels("equiprob", decoders, EDM()), 64
    for i in range(decoders):
        sigma = EDM().sigma(levels.draw(i, rows(n)))
        high, low = levels.sigma[i], levels.sigma[i + 1]
        assert (sigma <= high).all() and (sigma >= low).all()
        place = (below(sigma) - below(low)) / (below(high) - below(low))
        # half a stratum, and what float64 leaves of a cdf near 1: 1e-16/1e-3
        assert ((place.sort().values - (torch.arange(n) + 0.5) / n).abs() < 0.5 / n + 1e-9).all()


@pytest.mark.parametrize("kind", ["karras", "equiprob"])
@pytest.mark.parametrize("decoders", [1, 2, 4, 10])
def test_along_its_own_grid_every_decoder_is_asked_in_turn(kind, decoders):
    levels = Levels(kind, decoders, EDM())
    for each in (1,) if kind == "karras" else (1, 2, 3, 7):
        times = levels.grid(decoders * each)
        asked = [levels.decoder(float(s)) for s in EDM().sigma(times[:-1])]
        assert asked == [i for i in range(decoders) for _ in range(each)]
        assert times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all() and times.dtype == torch.float64


def test_equiprob_steps_cut_each_interval_evenly_in_log_sigma():
    levels = Levels("equiprob", 4, EDM())
    logs = EDM().sigma(levels.grid(12)[:-1]).log().reshape(4, 3)
    ends = levels.sigma.log()
    for i in range(4):
        expected = torch.stack([torch.lerp(ends[i], ends[i + 1], k / 3) for k in range(3)])
        assert torch.allclose(logs[i], expected, atol=1e-12)


def test_between_levels_the_nearest_decoder_in_log_sigma_answers():
    levels = Levels("karras", 4, EDM())
    for s in torch.logspace(-2.7, 1.9, 50).tolist():
        assert levels.decoder(s) == min(range(4), key=lambda i: abs(math.log(s / levels.sigma[i])))
    assert levels.decoder(0.0) == 3  # at the end there is no logarithm


@pytest.mark.parametrize(
    ("kind", "steps"), [("karras", 7), ("karras", 8), ("karras", 1), ("equiprob", 6), ("equiprob", 2)]
)
def test_steps_that_the_levels_have_not_are_refused(kind, steps):
    method = mae(decoders=4, levels=kind)
    with pytest.raises(
        UsageError, match=rf"{steps} steps were asked for, but the 4 decoders have {kind} levels.*--steps .*4"
    ):
        method.times(steps, kind, grid)
    assert method.default_steps(None) == 4 and method.spacing == kind


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_the_preconditioning_is_that_of_karras_et_al(sigma):
    """Karras et al. 2022, Table 1: c_in, c_out, c_skip, and lambda = 1/c_out^2."""
    method, sd = mae(), 0.5
    d, t = method.denoiser, torch.tensor(sigma / 80, dtype=torch.float64)
    c_in, c_out, c_skip = 1 / math.hypot(sigma, sd), sigma * sd / math.hypot(sigma, sd), sd**2 / (sigma**2 + sd**2)
    assert float(d.c_in(d.process, t)) == pytest.approx(c_in, rel=1e-12)
    assert float(method.c_out(t)) == pytest.approx(c_out, rel=1e-12)
    assert (sigma**2 + sd**2) / (sigma * sd) ** 2 * c_out**2 == pytest.approx(1, rel=1e-12)
    assert float(d.c_noise(d.process, t)) == pytest.approx(math.log(sigma) / 4, rel=1e-12)
    x, f = torch.randn(2, 8, 3, dtype=torch.float64)
    # F and x in float64: what is left is the rounding of the coefficients
    assert torch.allclose(d.solve(x, t, f).x_0, c_skip * x + c_out * f, rtol=1e-10, atol=1e-10)
    assert torch.allclose(d.solve(x, t, 0 * f).x_0, c_skip * x, rtol=1e-10, atol=1e-12)


def test_the_target_has_the_size_of_one_at_every_level():
    """For data of standard deviation sigma_data: mean squared (a x_0 + b eps) is 1."""
    x_0, eps = 0.5 * torch.randn(2, 100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for sigma in (0.002, 0.5, 80.0):
        a, b = edm(0.5)(EDM(), torch.tensor(sigma / 80, dtype=torch.float64))
        assert float(((a * x_0 + b * 2 * eps) ** 2).mean()) == pytest.approx(1, abs=0.02)  # 4.5 / sqrt(100,000)


def test_the_denoiser_asks_the_decoder_of_each_row():
    """Times of several decoders in one batch: each row is what it is alone."""
    method = mae(decoders=3, levels="equiprob").eval()
    x = images(6)
    with torch.no_grad():
        cond = method.cond(batch(x), rows(6))
        t = EDM().time(torch.tensor([80, 1.0, 0.4, 0.3, 0.1, 0.002], dtype=torch.float64))
        whole = method.denoiser(x, t, cond).x_0
        for k in range(6):
            alone = method.denoiser(x[k : k + 1], t[k], {name: v[k : k + 1] for name, v in cond.items()}).x_0
            assert torch.allclose(whole[k : k + 1], alone, atol=1e-5)


def test_other_processes_are_refused():
    with pytest.raises(UsageError, match="--schedule edm"):
        mae(process=Rectified())
