"""The plane of the first two principal components: the one that loses least."""

from __future__ import annotations

import torch

from diffcli.metrics.projection import principal

G = torch.Generator().manual_seed(0)
X = torch.randn(60, 7, generator=G, dtype=torch.float64) @ torch.randn(7, 7, generator=G, dtype=torch.float64) + 5


def test_it_keeps_what_the_first_two_singular_values_say() -> None:
    """Eckart and Young 1936: what the plane loses is the sum of the squares of the others, and no plane loses less."""
    found, middle = principal(X), X - X.mean(0)
    s = torch.linalg.svdvals(middle).square()
    lost = (middle - found(X) @ found.axes.T).square().sum()
    torch.testing.assert_close(lost, s[2:].sum())
    torch.testing.assert_close(torch.tensor(found.share, dtype=torch.float64), s[:2] / s.sum())
    torch.testing.assert_close(found.axes.T @ found.axes, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(found(X).square().sum(0), s[:2])
    for seed in range(20):
        other = torch.linalg.qr(torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).Q
        assert (middle - middle @ other @ other.T).square().sum() > lost


def test_signs_are_those_of_the_points() -> None:
    """Points turned over have the same axes, so that their coordinates turn over; the order of points does not matter."""
    found, turned = principal(X), principal(-X)
    torch.testing.assert_close(turned.axes, found.axes)
    torch.testing.assert_close(turned(-X), -found(X))
    torch.testing.assert_close(principal(X.flip(0))(X), found(X))
    assert (found.axes.gather(0, found.axes.abs().argmax(0, keepdim=True)) > 0).all()


def test_points_on_a_line_and_in_one_place() -> None:
    line = torch.arange(5.0)[:, None] * torch.tensor([3.0, -4.0, 0.0])
    found = principal(line)
    torch.testing.assert_close(found(line)[:, 0], -5 * torch.arange(-2.0, 3, dtype=torch.float64))
    assert (found(line)[:, 1] == 0).all() and found.share[1] == 0
    assert found.share[0] > 1 - 1e-12
    here = principal(torch.ones(4, 3))
    assert (here(torch.ones(4, 3)) == 0).all() and here.share == (0.0, 0.0)
    one = principal(torch.arange(4.0)[:, None])
    assert one.axes.tolist() == [[1.0, 0.0]]
