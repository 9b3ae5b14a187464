"""Copies of training images are found, and what is as new as held-out images is not taken for one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffcli.metrics import memorization
from diffcli.metrics.memorization import closer, memorized, nearest


def draws(n: int, seed: int, d: int = 30) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("part", [1, 7, 100])
def test_the_nearest_of_all_parts_are_found(part, monkeypatch):
    monkeypatch.setattr(memorization, "ROWS", 11)
    query, training = draws(25, 0), draws(60, 1)
    want = torch.cdist(query, training).topk(4, largest=False)
    found = nearest(query, training.split(part), 4)
    assert torch.allclose(found.distance, want.values) and torch.equal(found.number, want.indices)


def test_a_copy_is_at_no_distance_at_all():
    """What |a|^2 + |b|^2 - 2 a.b cancels is not left over: far from the origin that would be 1e-3."""
    training = 1e4 + draws(50, 0)
    found = nearest(training, training.split(20))
    assert found.distance[:, 0].tolist() == [0] * 50 and found.number[:, 0].tolist() == list(range(50))


def test_the_ratio_is_a_third():
    """Yoon et al. 2023: memorized where d_1 < d_2/3."""
    assert memorized(torch.tensor([[0.33, 1.0], [0.34, 1.0], [0.0, 1e-9], [0.0, 0.0]])).tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_copies_are_memorized_and_new_draws_are_not():
    """In 30 dimensions all distances are about the same; a copy with little noise is much nearer to its origin."""
    training = draws(200, 0)
    copies, new = training[:40] + 0.1 * draws(40, 1), draws(40, 2)
    share = memorized(nearest(torch.cat([copies, new]), [training]).distance)
    assert share[:40].all() and not share[40:].any()


def test_of_one_law_half_are_closer_and_copies_all():
    """Within 4 of the errors that the test of Mann and Whitney has of itself; copies are closer whatever the law."""
    training = draws(200, 0)
    away = {name: nearest(x, [training]).distance[:, 0] for name, x in (("a", draws(300, 1)), ("b", draws(250, 2)))}
    value, error = closer(away["a"], away["b"])
    assert abs(value - 0.5) < 4 * error and error == pytest.approx(math.sqrt(551 / (12 * 300 * 250)))
    copies = nearest(training[:50] + 1e-3, [training]).distance[:, 0]
    assert closer(copies, away["b"])[0] == 1
    assert closer(away["b"], copies)[0] == 0


def test_its_error_is_the_spread_of_what_has_no_copies():
    values = torch.tensor([closer(*torch.rand(60, generator=g).split([35, 25]))[0] for g in map(generator, range(400))])
    _, error = closer(*torch.rand(60).split([35, 25]))
    assert float(values.std()) == pytest.approx(error, rel=4 / math.sqrt(800))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_ties_count_half_and_the_two_sides_make_one():
    a, b = torch.tensor([1.0, 2.0, 2.0]), torch.tensor([2.0, 3.0])
    assert closer(a, b)[0] == pytest.approx((2 + 1.5 + 1.5) / 6)
    assert closer(a, b)[0] + closer(b, a)[0] == pytest.approx(1)
    assert closer(a, a)[0] == 0.5
