"""The kernel distance: its definition, its expectation, and its error."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffcli.metrics import kernel
from diffcli.metrics.kernel import between, mmd, within

D = 5


def draws(n: int, seed: int, shift: float = 0.0) -> Tensor:
    return shift + torch.randn(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def k(x: Tensor, y: Tensor) -> float:
    return float((x @ y / D + 1) ** 3)


def test_it_is_its_definition():
    """Binkowski et al. 2018, Eq. 4: pairs of one row with itself are left out."""
    x, y = draws(6, 0), draws(4, 1, 0.5)
    same = [sum(k(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j) for a in (x, y)]
    across = sum(k(a, b) for a in x for b in y)
    assert mmd(x, y).value == pytest.approx(same[0] / 30 + same[1] / 12 - 2 * across / 24, rel=1e-12)


def test_its_error_is_that_of_leaving_one_out():
    """The jackknife, done by leaving rows out: (n-1)/n sum (d_i - mean)^2 of each set."""
    x, y = draws(7, 0), draws(5, 1, 0.5)
    variance = 0.0
    for left, make in ((7, lambda i: (drop(x, i), y)), (5, lambda i: (x, drop(y, i)))):
        without = torch.tensor([mmd(*make(i)).value for i in range(left)], dtype=torch.float64)
        variance += (left - 1) / left * float((without - without.mean()).square().sum())
    assert mmd(x, y).error == pytest.approx(math.sqrt(variance), rel=1e-9)


def drop(x: Tensor, i: int) -> Tensor:
    return torch.cat([x[:i], x[i + 1 :]])


def test_it_is_that_of_torchmetrics():
    theirs = pytest.importorskip("torchmetrics.image.kid")
    x, y = draws(40, 0), draws(40, 1, 0.3)
    assert mmd(x, y).value == pytest.approx(float(theirs.poly_mmd(x, y)), rel=1e-9)


def test_it_is_unbiased_and_its_error_is_its_spread():
    """Of 200 pairs of sets: the mean is that of the law, within 4 of its errors, and the spread is what is told, within 4 of
    its own errors of 1/sqrt(400). E k(x, y) = E (x.y/d + 1)^3 = 1 + 3 E (x.y)^2/d^2 where x, y have mean 0."""
    found = [mmd(draws(60, 2 * s), 2 * draws(50, 2 * s + 1)) for s in range(200)]
    values, errors = (torch.tensor(column, dtype=torch.float64) for column in zip(*found, strict=True))
    want = 3 / D * (1 + 16 - 2 * 4)  # E (x.y)^2 = d s_x^2 s_y^2
    assert abs(float(values.mean()) - want) < 4 * float(values.std()) / math.sqrt(200)
    assert float(errors.square().mean().sqrt() / values.std()) == pytest.approx(1, abs=4 / math.sqrt(400))


def test_where_the_laws_are_the_same_it_is_about_nothing_and_the_error_is_an_upper_one():
    found = [mmd(draws(60, 2 * s), draws(50, 2 * s + 1)) for s in range(100)]
    values, errors = (torch.tensor(column, dtype=torch.float64) for column in zip(*found, strict=True))
    assert abs(float(values.mean())) < 4 * float(values.std()) / 10
    assert float(values.min()) < 0 < float(values.max())
    assert float(values.std()) < float(errors.square().mean().sqrt()) < 3 * float(values.std())


def test_parts_make_the_whole(monkeypatch):
    x, y = draws(23, 0), draws(17, 1, 0.2)
    whole = mmd(x, y)
    for rows in (1, 5, 22):
        monkeypatch.setattr(kernel, "ROWS", rows)
        assert between(within(x), within(y)) == pytest.approx(whole, rel=1e-11)


def test_it_is_symmetric_and_takes_any_float():
    x, y = draws(20, 0), draws(30, 1, 0.2)
    assert mmd(x, y) == pytest.approx(mmd(y, x), rel=1e-11)
    assert mmd(x.float(), y.float()).value == pytest.approx(
        mmd(x.float().double(), y.float().double()).value, rel=1e-12
    )
