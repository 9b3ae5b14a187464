"""The Frechet distance between two sets of features (Dowson and Landau 1982; Heusel et al. 2017, Eq. 6), in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 4096  # features that are folded into a factor at a time


class Moments(NamedTuple):
    """Of a set of features: the mean (d,), and the covariance as F' F with a factor F (r, d), r <= d.

    The factor is kept, and never squared: square roots of a covariance's rounded zeros would be 1e-8 each, not 1e-16.
    """

    mean: Tensor
    factor: Tensor


def moments(features: Tensor) -> Moments:
    """Mean and unbiased covariance of features (n, d), n >= 2: F is the triangle of their QR over sqrt(n - 1)."""
    f = features.double()
    mean = f.mean(0)
    triangle = f[:0]
    for rows in f.split(ROWS):
        triangle = torch.linalg.qr(torch.cat([triangle, rows - mean]), mode="r").R
    return Moments(mean, triangle / (len(f) - 1) ** 0.5)


def between(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of two sets.

    With C = F' F the eigenvalues of C_a C_b are those of (F_a F_b') (F_a F_b')', so the trace of its root is the sum of
    the singular values of F_a F_b'. Rounding then stays below 1e-12 of the traces, also where both are singular.
    """
    cross = torch.linalg.svdvals(a.factor @ b.factor.T).sum()
    spread = a.factor.square().sum() + b.factor.square().sum()
    return float(((a.mean - b.mean).square().sum() + spread - 2 * cross).clamp(min=0))


def frechet(a: Tensor, b: Tensor) -> float:
    """The distance of features (n, d) and (m, d)."""
    return between(moments(a), moments(b))
