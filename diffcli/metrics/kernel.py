"""The kernel distance between two sets of features (Binkowski et al. 2018), in float64, over the whole sets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 1000  # of a kernel matrix at a time: 80 MB beside 10,000 features


class Kernel(NamedTuple):
    """A set of features (n, d), and sum over j != i of k(x_i, x_j) for each i (n,)."""

    features: Tensor
    within: Tensor


class Distance(NamedTuple):
    """The distance and its standard error; it may be a little below 0 where the laws are the same."""

    value: float
    error: float


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) = (x.y/d + 1)^3 of (n, d) and (m, d): (n, m) (Binkowski et al. 2018, Section 4)."""
    return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)


def within(features: Tensor) -> Kernel:
    """The sums of a set against itself; each pair is computed once."""
    x = features.double()
    sums = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for start in range(0, len(x), ROWS):
        for other in range(start, len(x), ROWS):
            block = kernel(x[start : start + ROWS], x[other : other + ROWS])
            if start == other:
                block.fill_diagonal_(0)
            else:
                sums[other : other + ROWS] += block.sum(0)
            sums[start : start + ROWS] += block.sum(1)
    return Kernel(x, sums)


def between(a: Kernel, b: Kernel) -> Distance:
    """The unbiased estimate of MMD^2 over all pairs, and its standard error by the jackknife of two samples (Arvesen 1969).

    sum_{i != j} k(x_i, x_j)/(n(n-1)) + the same of y - 2 sum_ij k(x_i, y_j)/(nm), n, m >= 3. All pairs, where the paper
    takes the mean over random subsets: the same expectation, the least variance, and no seed. Leaving out one row is a
    sum that is known. Where the laws are the same, the error is an upper one.
    """
    (x, xx), (y, yy) = a, b
    n, m = len(x), len(y)
    xy, yx = torch.zeros_like(xx), torch.zeros_like(yy)
    for start in range(0, n, ROWS):
        block = kernel(x[start : start + ROWS], y)
        xy[start : start + ROWS] = block.sum(1)
        yx += block.sum(0)
    sums = xx.sum(), yy.sum(), xy.sum()

    def mmd(xx: Tensor, yy: Tensor, xy: Tensor, n: int, m: int) -> Tensor:
        return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)

    value = mmd(*sums, n, m)
    without_x = mmd(sums[0] - 2 * xx, sums[1], sums[2] - xy, n - 1, m)  # (n,)
    without_y = mmd(sums[0], sums[1] - 2 * yy, sums[2] - yx, n, m - 1)  # (m,)
    variance = sum((k - 1) / k * (w - w.mean()).square().sum() for k, w in ((n, without_x), (m, without_y)))
    return Distance(float(value), float(variance) ** 0.5)


def mmd(a: Tensor, b: Tensor) -> Distance:
    """The distance of features (n, d) and (m, d)."""
    return between(within(a), within(b))
