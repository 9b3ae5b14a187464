"""Precision, recall, density and coverage: their definitions, and what they say of sets whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffcli.metrics import manifold as module
from diffcli.metrics.manifold import BALL, CROWD, manifold, shares


def draws(n: int, seed: int, d: int = 2) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def of(real: Tensor, drawn: Tensor) -> module.Shares:
    return shares(manifold(real), manifold(drawn))


def radii(x: Tensor, k: int) -> list[float]:
    """Distance of each to its k-th neighbor, by sorting."""
    return [sorted(float((a - b).norm()) for j, b in enumerate(x) if j != i)[k - 1] for i, a in enumerate(x)]


def test_they_are_their_definitions():
    """Kynkaanniemi et al. 2019, Eq. 1 and 2; Naeem et al. 2020, Eq. 3 and 4: point by point."""
    real, drawn = draws(15, 0), 1.5 * draws(12, 1) + 1
    away = torch.cdist(drawn, real)  # (12, 15)
    ball, crowd, own = radii(real, BALL), radii(real, CROWD), radii(drawn, BALL)
    found = of(real, drawn)
    assert found.precision == sum(any(row[i] <= ball[i] for i in range(15)) for row in away) / 12
    assert found.recall == pytest.approx(sum(any(away[j, i] <= own[j] for j in range(12)) for i in range(15)) / 15)
    assert found.density == pytest.approx(
        sum(int(row[i] <= crowd[i]) for row in away for i in range(15)) / (CROWD * 12)
    )
    assert found.coverage == pytest.approx(sum(any(row[i] <= crowd[i] for row in away) for i in range(15)) / 15)
    assert 0 < found.precision < 1 and 0 < found.recall < 1 and 0 < found.coverage < 1, "the sets say something"


def test_a_set_covers_itself():
    x = draws(50, 0)
    found = of(x, x)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density == pytest.approx((CROWD + 1) / CROWD), (
        "each is in its own ball and in those of CROWD on average"
    )


def test_sets_apart_have_nothing_in_common():
    assert of(draws(50, 0), draws(50, 1) + 100) == (0, 0, 0, 0)


def test_a_mode_that_is_missing_is_seen_by_recall_and_coverage_alone():
    real = torch.cat([draws(60, 0), draws(60, 1) + 100])
    found = of(real, draws(60, 2))
    assert found.precision > 0.8 and found.density > 0.7
    assert found.recall < 0.55 and found.coverage < 0.55


def test_a_mode_that_is_invented_is_seen_by_precision_and_density_alone():
    drawn = torch.cat([draws(60, 0), draws(60, 1) + 100])
    found = of(draws(60, 2), drawn)
    assert found.precision < 0.55 and found.density < 0.6
    assert found.recall > 0.8 and found.coverage > 0.8


def test_one_outlier_widens_recall_but_not_coverage():
    """Naeem et al. 2020, Figure 1: a far drawn point has a ball that holds everything."""
    drawn = torch.cat([draws(60, 0) - 30, torch.tensor([[1000.0, 1000.0]], dtype=torch.float64)])
    found = of(draws(60, 1), drawn)
    assert found.recall == 1 and found.coverage == 0


def test_parts_make_the_whole(monkeypatch):
    real, drawn = draws(40, 0), 0.9 * draws(30, 1)
    whole = of(real, drawn)
    for rows in (1, 7, 29):
        monkeypatch.setattr(module, "ROWS", rows)
        assert of(real, drawn) == whole


def test_equal_distances_are_equal_after_rounding():
    """Of black and white pictures many distances tie; a turn of the space, which rounds them all, must change no share."""
    x = torch.randint(0, 2, (120, 12), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    turn = torch.linalg.qr(draws(12, 1, 12)).Q
    real, drawn = x[:60], x[60:]
    assert of(real @ turn, drawn @ turn) == of(real, drawn)
