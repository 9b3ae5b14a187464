"""Averages of the weights whose width is chosen after the training (Karras et al. 2024, Sec. 3 and App. C).

With t the steps done and p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) on [0, t], the power-function average is

    theta_gamma(t) = integral of p(tau) theta(tau) d tau,

whose weight has the standard deviation sigma_rel t: sigma_rel is the width of the average, as a share of the training. Two or
three of them are kept up to date in training, and stored from time to time. Each stored one is a function p_i of tau, and the
average of any other width is sum_i x_i theta_i, with the x for which sum_i x_i p_i is nearest to its p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffcli.errors import UsageError

WIDEST = 12**-0.5  # of gamma = 0, the plain mean of all weights
NARROWEST = 1e-3  # of a training of a thousand steps, one step
TINY = 1e-13  # share of the largest eigenvalue below which one is rounding, and is left out


def gamma_of(width: float) -> float:
    """The gamma >= 0 of a sigma_rel: the largest root of gamma^3 + 7 gamma^2 + (16 - k) gamma + 12 - k, k = sigma_rel^-2 (Eq. 3).

    UsageError unless NARROWEST <= sigma_rel <= WIDEST.
    """
    if not NARROWEST <= width <= WIDEST:
        raise UsageError(
            f"the relative width of an average is {width:g}, but takes a number from {NARROWEST} to {WIDEST:.4f}"
        )
    k = width**-2.0
    return max(0.0, float(np.roots([1.0, 7.0, 16.0 - k, 12.0 - k]).real.max()))


def decay(gamma: float, n: int) -> float:
    """beta = (1 - 1/t)^(gamma + 1), t = n + 1, after n updates (Eq. 2): theta(tau) then weighs the integral of p over its step."""
    return (1 - 1 / (n + 1)) ** (gamma + 1)


class Profile(NamedTuple):
    """p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) on [0, t], of an average after t steps."""

    gamma: float
    t: float


def inner(a: Profile, b: Profile) -> float:
    """integral of p_a p_b: (g_a + 1)(g_b + 1) (t_a / t_b)^g_b / ((g_a + g_b + 1) t_b), where t_a <= t_b (App. C)."""
    a, b = sorted((a, b), key=lambda p: p.t)
    return (a.gamma + 1) * (b.gamma + 1) * (a.t / b.t) ** b.gamma / ((a.gamma + b.gamma + 1) * b.t)


def fit(stored: Sequence[Profile], wanted: Profile) -> tuple[list[float], float]:
    """The x with sum x = 1 that makes |sum_i x_i p_i - p| least, and that error over |p|, in the norm of L^2 over [0, t].

    By Cauchy and Schwarz the average is then off by at most error |p| |theta - c|, for any constant c: that is what sum x = 1
    is for, which the paper does not ask for. Weights that stand still come out as they are, however few snapshots there are.
    """
    if wanted in stored:
        return [float(p == wanted and i == stored.index(p)) for i, p in enumerate(stored)], 0.0
    norm = math.sqrt(inner(wanted, wanted))
    size = np.array([math.sqrt(inner(p, p)) for p in stored]) / norm  # |p_i| / |p|
    gram = np.array([[inner(a, b) for b in stored] for a in stored]) / norm**2 / np.outer(size, size)
    b = np.array([inner(p, wanted) for p in stored]) / norm**2 / size
    values, vectors = np.linalg.eigh(gram)
    keep = values > TINY * values.max()
    inverse = (vectors[:, keep] / values[keep]) @ vectors[:, keep].T
    c = 1 / size  # y = x size, so sum x = c y
    y = inverse @ (b + (1 - c @ inverse @ b) / (c @ inverse @ c) * c)
    return list(y / size), math.sqrt(max(0.0, 1 - 2 * b @ y + y @ gram @ y))
