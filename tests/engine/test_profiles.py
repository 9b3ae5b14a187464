"""Power-function averages: their width, their update, and how another is made of those that are stored."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from diffcli.engine.ema import PowerEMA
from diffcli.engine.profiles import NARROWEST, WIDEST, Profile, decay, fit, gamma_of, inner
from diffcli.errors import UsageError

WIDTHS = (0.01, 0.05, 0.10, 0.15, 0.25, WIDEST)


def density(p: Profile, tau: np.ndarray) -> np.ndarray:
    return np.where(tau <= p.t, (p.gamma + 1) * tau**p.gamma / p.t ** (p.gamma + 1), 0.0)


def integral(f: np.ndarray, tau: np.ndarray) -> float:
    return float(np.trapezoid(f, tau))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_standard_deviation_of_the_profile_is_its_width(width):
    """By the trapezoid rule with 1e5 points, whose error is of order (gamma/1e5)^2 < 1e-5 relative for gamma <= 97."""
    tau = np.linspace(0, 1, 100_001)
    p = density(Profile(gamma_of(width), 1.0), tau)
    mean = integral(p * tau, tau)
    assert integral(p, tau) == pytest.approx(1, rel=1e-5)
    assert math.sqrt(integral(p * (tau - mean) ** 2, tau)) == pytest.approx(width, rel=1e-5)


@pytest.mark.parametrize("width", WIDTHS)
def test_gamma_is_the_root(width):
    """Of Eq. 3: a cubic whose root is found in float64: 1e-12 leaves a thousand roundings."""
    gamma = gamma_of(width)
    assert math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3)) == pytest.approx(width, rel=1e-12)
    assert gamma >= 0
    assert gamma_of(WIDEST) == pytest.approx(0, abs=1e-12), "the plain mean"


@pytest.mark.parametrize("width", [0.0, -0.1, NARROWEST / 2, WIDEST * 1.01, 0.5, float("nan"), float("inf")])
def test_a_width_that_no_power_has_is_refused(width):
    with pytest.raises(UsageError, match=r"takes a number from 0\.001 to 0\.2887"):
        gamma_of(width)


def weights(gamma: float, steps: int) -> np.ndarray:
    """What each step weighs in the average: integral of p over (tau - 1, tau]."""
    t = np.arange(steps + 1.0) / steps
    return np.diff(t ** (gamma + 1))


@pytest.mark.parametrize("width", [0.05, 0.1, 0.28])
def test_the_update_is_the_integral(width):
    """After n updates with beta = (1 - 1/t)^(gamma + 1) each theta weighs its share of the profile: exactly, by telescoping."""
    gamma, steps = gamma_of(width), 300
    theta = np.random.default_rng(0).normal(size=steps)
    average = 1e9  # what it begins with is forgotten at once
    for n, now in enumerate(theta):
        average = decay(gamma, n) * average + (1 - decay(gamma, n)) * now
    assert average == pytest.approx(float(weights(gamma, steps) @ theta), abs=1e-12)


def test_a_module_is_averaged_by_that_update():
    """float32 has 24 bits and 50 updates round once each: 1e-5 of numbers of size 1."""
    torch.manual_seed(0)
    module, gamma = nn.BatchNorm1d(5), gamma_of(0.1)
    ema, seen = PowerEMA(module, 0.1), []
    for n in range(50):
        nn.init.normal_(module.weight)
        module.running_mean.fill_(n)
        seen.append(module.weight.detach().double().clone())
        ema.update(module, n)
    wanted = torch.tensor(weights(gamma, 50)) @ torch.stack(seen)
    torch.testing.assert_close(ema.model.weight.double(), wanted, atol=1e-5, rtol=0)
    assert ema.model.running_mean[0] == 49, "buffers are copied"


@pytest.mark.parametrize(
    ("a", "b"), [((17.0, 300.0), (7.0, 1000.0)), ((7.0, 1000.0), (0.0, 400.0)), ((3.0, 5.0), (3.0, 5.0))]
)
def test_the_inner_product_is_the_integral(a, b):
    """By the trapezoid rule, which is off by half a cell where the shorter one ends: (g + g' + 1)/(2 cells up to there) < 1e-3."""
    tau = np.linspace(0, max(a[1], b[1]), 200_001)
    p, q = Profile(*a), Profile(*b)
    assert inner(p, q) == pytest.approx(integral(density(p, tau) * density(q, tau), tau), rel=1e-3)
    assert inner(p, q) == inner(q, p)


def stored(snapshots: int, t: float = 1000.0, widths: tuple[float, ...] = (0.05, 0.10)) -> list[Profile]:
    return [Profile(gamma_of(w), t * (k + 1) / snapshots) for k in range(snapshots) for w in widths]


@pytest.mark.parametrize("snapshots", [1, 4, 32])
def test_a_stored_profile_is_itself(snapshots):
    known = stored(snapshots)
    for k, wanted in enumerate(known):
        assert fit(known, wanted) == ([float(i == k) for i in range(len(known))], 0.0)


@pytest.mark.parametrize("width", [0.02, 0.04, 0.07, 0.15, 0.2, 0.25])
def test_another_converges_with_snapshots(width):
    """Twice the snapshots hold the ones before, so the least error cannot grow; it falls with the square of their distance.

    That square is what quadratic interpolation between profiles would give; the wide ones, which reach back to before the
    first snapshot, come to it last.
    """
    wanted = Profile(gamma_of(width), 1000.0)
    errors = [fit(stored(2**k), wanted)[1] for k in range(8)]
    assert all(b <= a + 1e-7 for a, b in pairwise(errors)), errors
    assert errors[-1] < 0.01
    assert errors[-1] < (0.5 if width > 0.2 else 0.3) * errors[-2]


def test_weights_that_stand_still_come_out_as_they_are():
    """sum x = 1, however few snapshots there are; terms of size 100 of a nearly singular system leave 1e-9."""
    for snapshots in (1, 2, 8, 64):
        for width in (0.02, 0.15, 0.28):
            x, _ = fit(stored(snapshots), Profile(gamma_of(width), 1000.0))
            assert sum(x) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("nearly", [1.0, 1 - 1e-9])
def test_averages_that_are_all_but_one_do_no_harm(nearly):
    """The system is then singular, and 1e-16 of it divided by nothing; without the small eigenvalues it is as it was."""
    known, wanted = stored(16), Profile(gamma_of(0.13), 1000.0)
    x, error = fit([*known, *(p._replace(t=nearly * p.t) for p in known)], wanted)
    assert error == pytest.approx(fit(known, wanted)[1], rel=1e-6)
    assert sum(x) == pytest.approx(1, abs=1e-6) and sum(map(abs, x)) < 2


def test_it_is_the_least_squares_solution():
    """Any other x with the same sum is farther off, by the error it states itself, measured on a grid."""
    known, wanted = stored(3, widths=(0.08, 0.2)), Profile(gamma_of(0.13), 1000.0)
    tau = np.linspace(0, 1000, 400_001)
    basis, target = np.array([density(p, tau) for p in known]), density(wanted, tau)
    x, error = fit(known, wanted)

    def off(x: np.ndarray) -> float:
        return math.sqrt(integral((x @ basis - target) ** 2, tau) / integral(target**2, tau))

    assert off(np.array(x)) == pytest.approx(error, rel=1e-3)  # the grid's own error at jumps
    dice = np.random.default_rng(0)
    for _ in range(20):
        push = dice.normal(size=len(x))
        assert off(np.array(x) + 0.05 * (push - push.mean())) > off(np.array(x))


@pytest.mark.parametrize("width", [0.03, 0.07, 0.15, 0.22])
@pytest.mark.parametrize("snapshots", [2, 16, 100])
def test_it_is_the_direct_average_within_its_bound(width, snapshots):
    """|sum_i x_i theta_i - theta*| <= error |p| |theta - c| in L^2, for any constant c, by Cauchy and Schwarz.

    theta is constant in each step, so sums over steps are integrals exactly; 1e-9 is for their rounding. The bound is not
    idle: it is met within a factor of 100 by the worst path, which lies along the error itself.
    """
    steps, gamma = 400, gamma_of(width)
    known = [Profile(g, float(round(t))) for g, t in stored(snapshots, steps)]
    x, error = fit(known, Profile(gamma, steps))
    share = np.zeros(steps)
    for weight, p in zip(x, known, strict=True):
        share[: int(p.t)] += weight * weights(p.gamma, int(p.t))
    residual = share - weights(gamma, steps)
    for path in (np.random.default_rng(0).normal(size=steps).cumsum(), residual / np.abs(residual).max()):
        off = abs(float(residual @ path))
        bound = error * math.sqrt(inner(known[0]._replace(gamma=gamma, t=steps), Profile(gamma, steps)))
        bound *= math.sqrt(float(((path - path.mean()) ** 2).sum()))
        assert off <= bound + 1e-9
    assert off > bound / 100
