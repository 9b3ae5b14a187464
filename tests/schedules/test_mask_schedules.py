"""The clocks of masked processes: how many tokens are masked when; the laws of every schedule are the kit's."""

from __future__ import annotations

import math

import pytest
import torch

from diffcli.core.process import MaskedProcess
from diffcli.core.random import Rows
from diffcli.core.space import Tokens
from diffcli.errors import UsageError
from diffcli.options import structure
from diffcli.schedules import PolynomialMaskOptions, diffcli_schedules
from diffcli.schedules.masked import PolynomialMask
from masked_laws import SCHEDULES

SPECS = {spec.name: spec for spec in diffcli_schedules() if spec.family == "masked"}
LINE = torch.linspace(0, 1, 1001, dtype=torch.float64)
STEEP = {f"power {power:g}": PolynomialMask(2, power) for power in (1.0, 10.0)}
PROCESSES = {name: spec.load()(spec.config(), Tokens((1, 2, 2), 0)) for name, spec in SPECS.items()} | STEEP


@pytest.fixture(params=PROCESSES)
def process(request) -> MaskedProcess:
    return PROCESSES[request.param]


def test_every_schedule_is_here():
    assert SPECS.keys() == SCHEDULES.keys()


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_those_of_the_papers(name):
    """Near 0 too, to 1e-12 of themselves: the weight of the bound is slope/rate."""
    make, rate, time = SCHEDULES[name]
    small = torch.logspace(-9, 0, 100, dtype=torch.float64)
    assert torch.allclose(make(2).rate(small), rate(small), rtol=1e-12, atol=0)
    assert float(make(2).time(torch.tensor(0.3, dtype=torch.float64))) == pytest.approx(time(0.3), abs=1e-12)


def test_slope_is_the_derivative_of_the_rate(process):
    """Central differences of 1e-5 are off by the third derivative times 2e-11, 720 at most for t^10."""
    t, h = LINE[1:-1], 1e-5
    difference = (process.rate(t + h) - process.rate(t - h)) / (2 * h)
    assert torch.allclose(process.slope(t), difference, rtol=0, atol=5e-8)
    assert process.slope(t[3]).shape == () and not process.slope(t).requires_grad
    with torch.inference_mode():
        assert torch.equal(process.slope(t.clone()), process.slope(t))


def test_time_inverts_the_rate(process):
    """To 1e-9, away from where a rate is flat: that of the cosine at 1, t^10 at 0."""
    t = LINE[100:-10]
    assert torch.allclose(process.time(process.rate(t)), t, rtol=1e-9, atol=1e-9)
    assert torch.allclose(MaskedProcess.time(process, process.rate(t)), t, rtol=1e-9, atol=1e-9)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert torch.equal(process.time(ends), ends)


def test_steps_multiply_up(process):
    """Staying masked from t to r and then to s is staying masked from t to s: the product of ratios of rates."""
    t, r, s = (LINE[k] for k in (900, 500, 200))
    (whole, reveal), (one, _), (two, _) = (process.posterior(*pair) for pair in ((t, s), (t, r), (r, s)))
    assert float(one * two) == pytest.approx(float(whole), rel=1e-12) and float(whole + reveal) == pytest.approx(1)
    assert process.posterior(t, LINE[0])[0] == 0, "the last step reveals all"


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_tokens_are_masked_at_the_rate_and_the_others_are_as_they_were(process, t):
    """Of n = 40,000 tokens, within 3 standard errors."""
    rows, length = 200, 200
    x = torch.randint(2, (rows, length), generator=torch.Generator().manual_seed(0))
    u = Rows(3, torch.arange(rows), rows).uniform("mask", (length,))
    x_t = process.mask(x, torch.full((rows,), t, dtype=torch.float64), u)
    rate, masked = float(process.rate(torch.tensor(t, dtype=torch.float64))), x_t == process.mask_id
    assert abs(float(masked.double().mean()) - rate) <= 3 * math.sqrt(rate * (1 - rate) / x.numel())
    assert torch.equal(x_t[~masked], x[~masked]) and x_t.dtype == torch.int64
    assert torch.equal(process.mask(x, torch.tensor(t, dtype=torch.float64), u), x_t), "one time for all rows is alike"


def test_masks_grow_with_time(process):
    """By the same numbers: what is masked at s is masked at t > s."""
    x, u = torch.ones(8, 50, dtype=torch.int64), Rows(0, torch.arange(8), 8).uniform("mask", (50,))
    before, after = (process.mask(x, torch.tensor(t), u) == process.mask_id for t in (0.4, 0.8))
    assert not (before & ~after).any() and (after & ~before).any()


def test_a_clock_that_runs_ahead_is_refused():
    """Below power 1 half of the bound lies at times that are never drawn: t^0.1 is 1/2 at t = 0.001."""
    with pytest.raises(UsageError, match="power"):
        structure(PolynomialMaskOptions, {"power": 0.5}, "[schedule]")
