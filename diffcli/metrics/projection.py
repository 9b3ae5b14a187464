"""Points of many dimensions in the plane that keeps most of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Principal(NamedTuple):
    """The first two principal components: mean (d,), axes (d, 2), and the share of the variance that each keeps."""

    mean: Tensor
    axes: Tensor
    share: tuple[float, float]

    def __call__(self, x: Tensor) -> Tensor:
        """(n, d) -> (n, 2)."""
        return (x.double() - self.mean) @ self.axes


def principal(x: Tensor) -> Principal:
    """Of points (n, d), by singular values (Pearson 1901).

    An axis is a direction, up to its sign: that in which its largest weight is positive. Points that lie on a line, or are
    one point, have axes of zeros in place of those that are missing.
    """
    mean = x.double().mean(0)
    _, s, v = torch.linalg.svd(x.double() - mean, full_matrices=False)
    variance = s.square()
    there = variance > 1e-20 * variance.sum().clamp(min=1e-30)
    axes, share = torch.zeros(x.shape[1], 2, dtype=torch.float64), [0.0, 0.0]
    for k in range(min(2, int(there.sum()))):
        axes[:, k] = v[k] * v[k, v[k].abs().argmax()].sign()
        share[k] = float(variance[k] / variance.sum())
    return Principal(mean, axes, (share[0], share[1]))
