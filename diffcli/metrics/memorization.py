"""Whether samples are copies of training images: judged by the training images nearest to them, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from diffcli.metrics.neighbors import squared

RATIO = 1 / 3  # Yoon et al. 2023, Section 2
ROWS = 1000


class Nearest(NamedTuple):
    """Of each query: distances (n, k) to the nearest training images, nearest first, and their numbers (n, k)."""

    distance: Tensor
    number: Tensor


def nearest(query: Tensor, training: Iterable[Tensor], k: int = 2) -> Nearest:
    """The k nearest of all training features, which come in parts (m_i, d) so that they never fill memory, to query (n, d)."""
    query = query.double()
    best = torch.full((len(query), k), torch.inf, dtype=torch.float64, device=query.device)
    number, first = torch.full(best.shape, -1, device=query.device), 0
    for part in training:
        part = part.double().to(query.device)
        for start in range(0, len(query), ROWS):
            rows = slice(start, start + ROWS)
            found = squared(query[rows], part).topk(min(k, len(part)), largest=False).indices
            away = (query[rows, None] - part[found]).square().sum(-1)  # without what cancels: a copy is at 0
            away, found = torch.cat([best[rows], away], 1), torch.cat([number[rows], first + found], 1)
            best[rows], order = away.topk(k, largest=False)
            number[rows] = found.gather(1, order)
        first += len(part)
    return Nearest(best.sqrt(), number)


def memorized(distance: Tensor) -> Tensor:
    """(n,) bool: nearer to one training image than 1/3 of the way to the second (Yoon et al. 2023). distance: (n, >= 2)."""
    return distance[:, 0] < RATIO * distance[:, 1]


def closer(samples: Tensor, held_out: Tensor) -> tuple[float, float]:
    """P(a sample lies nearer to its nearest training image than a held-out image to its own), and its error if that is 1/2.

    samples (n,), held_out (m,): distances. Above 1/2 samples are nearer than they should be: data-copying, tested by the
    U of Mann and Whitney (Meehan et al. 2020, Section 3.1, over one cell). Ties count half.
    """
    n, m = len(samples), len(held_out)
    ordered, samples = held_out.sort().values, samples.contiguous()
    below, up_to = torch.searchsorted(ordered, samples), torch.searchsorted(ordered, samples, right=True)
    farther = (m - up_to) + 0.5 * (up_to - below)
    return float(farther.double().sum()) / (n * m), math.sqrt((n + m + 1) / (12 * n * m))
