"""How much of each other's ground two sets of features cover: precision, recall, density, coverage; in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffcli.metrics.neighbors import squared

ROWS = 1000
BALL, CROWD = 3, 5  # neighbors: Kynkaanniemi et al. 2019, Section 3.1; Naeem et al. 2020, Section 4
TIE = 1 + 1e-9  # of squared radii: pictures of few levels lie at equal distances, which rounding would tell apart


class Manifold(NamedTuple):
    """Features (n, d), and the squared distance of each to its BALL-th and CROWD-th neighbor in the set (n,)."""

    features: Tensor
    ball: Tensor
    crowd: Tensor


class Shares(NamedTuple):
    """Precision and recall of Kynkaanniemi et al. 2019 (Eq. 1, 2), density and coverage of Naeem et al. 2020 (Eq. 3, 4)."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(features: Tensor) -> Manifold:
    """The balls around each of features (n, d), n > CROWD, that reach to its neighbors."""
    x = features.double()
    parts = []
    for start in range(0, len(x), ROWS):
        rows = x[start : start + ROWS]
        away = squared(rows, x)
        own = torch.arange(len(rows), device=x.device)
        away[own, start + own] = torch.inf  # it is no neighbor of itself
        parts.append(away.topk(CROWD, largest=False).values)  # (r, CROWD), nearest first
    near = torch.cat(parts)
    return Manifold(x, near[:, BALL - 1], near[:, CROWD - 1])


def shares(real: Manifold, drawn: Manifold) -> Shares:
    """precision: drawn within a ball of real; recall: real within a ball of drawn; density: real balls that a drawn one
    is in, over CROWD; coverage: real balls with a drawn one in them. Density may be above 1."""
    ball, crowd = real.ball * TIE, real.crowd * TIE
    inside, filled = 0.0, 0.0
    reached = torch.zeros(len(real.features), dtype=torch.bool, device=ball.device)
    covered = torch.zeros_like(reached)
    for rows, own in zip(drawn.features.split(ROWS), drawn.ball.split(ROWS), strict=True):
        away = squared(rows, real.features)  # (r, m)
        inside += float((away <= ball).any(1).sum())
        reached |= (away <= TIE * own[:, None]).any(0)
        crowded = away <= crowd
        filled += float(crowded.sum())
        covered |= crowded.any(0)
    n = len(drawn.features)
    return Shares(
        precision=inside / n,
        recall=float(reached.double().mean()),
        density=filled / (CROWD * n),
        coverage=float(covered.double().mean()),
    )
