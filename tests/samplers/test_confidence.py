"""MaskGIT's decoding: how many tokens stay masked, and which."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from diffcli.core.denoiser import Counted
from diffcli.engine.bench_masked import Uniform, Whole
from diffcli.samplers.confidence import Confidence
from diffcli.schedules.masked import CosineMask, LogLinear
from tokens import Fixed, Table, partly, path


@pytest.mark.parametrize("steps", [1, 3, 8, 40])
@pytest.mark.parametrize("process", [LogLinear(3), CosineMask(3)], ids=["loglinear", "cosine"])
def test_so_many_tokens_stay_masked_as_the_cosine_says(process, steps):
    """In each row by its own number of masked tokens, whatever the process; what is revealed stays."""
    x = partly(process, 32, 100)
    frames = path(Confidence(), Table(process, 100), x, steps)
    start = (x == process.mask_id).sum(1).tolist()
    for k, frame in enumerate(frames, 1):
        stay = [math.floor(n * math.cos(math.pi / 2 * k / steps) + 1e-9) for n in start]
        assert (frame == process.mask_id).sum(1).tolist() == stay
    for before, after in pairwise(frames):
        assert (after == before)[before != process.mask_id].all()


def test_half_of_the_tokens_stay_at_two_thirds_of_the_way():
    """cos(pi/3) = 1/2 is a whole number of tokens, which must not be rounded below itself."""
    for n in range(2, 200, 2):
        process = LogLinear(2)
        frames = path(Confidence(), Uniform(process), process.prior((n,), Whole(0, 1)), 3, rng=Whole(0, 1))
        assert int((frames[1] == 2).sum()) == n // 2


def uneven(length: int, process: LogLinear) -> Fixed:
    """Token i is one of i + 1 values, all alike: the confidence in any draw of it is -log(i + 1)."""
    probs = torch.tril(torch.ones(length, process.vocab, dtype=torch.float64))
    return Fixed(process, probs / probs.sum(1, keepdim=True))


def test_without_noise_the_surest_come_first_at_any_temperature():
    process = LogLinear(12)
    for temperature in (0.5, 1.0):
        sampler = Confidence(choice_temperature=0.0, temperature=temperature)
        for frame in path(sampler, uneven(12, process), process.prior((12,), Whole(0, 8)), 6, rng=Whole(0, 8)):
            assert (((frame == 12).long()).diff(dim=1) >= 0).all()  # revealed ones to the left


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_noise_mixes_the_order_as_gumbel_noise_does(temperature):
    """Of three tokens the one kept is i with probability p_i^2 / sum p^2, p_i = 1/(i + 1), whatever the temperature.

    That is Gumbel-max with noise of scale choice_temperature s = 1/2. 20,000 rows, four standard errors.
    """
    process, rows, error = LogLinear(6), 20_000, 4 * 0.5 * 20_000**-0.5
    x = process.prior((3,), Whole(0, rows))
    sampler = Confidence(temperature=temperature)
    revealed = path(sampler, uneven(3, process), x, 2, rng=Whole(0, rows))[0] != 6
    assert (revealed.sum(1) == 1).all()  # floor(3 cos(pi/4)) = 2 stay
    weight = 1 / torch.arange(1, 4).double() ** 2
    assert torch.allclose(revealed.double().mean(0), weight / weight.sum(), rtol=0, atol=error)
    loud = path(Confidence(choice_temperature=1e3), uneven(3, process), x, 2, rng=Whole(0, rows))[0] != 6
    assert torch.allclose(loud.double().mean(0), torch.full((3,), 1 / 3).double(), rtol=0, atol=error)


def test_rows_are_evaluated_in_steps_that_reveal_any_of_them():
    """One masked token goes in the first of 200 steps, a hundred in as many as floor(100 cos) falls in; none is no call."""
    process, x = LogLinear(3), torch.zeros(3, 100, dtype=torch.int64)
    x[1, 7] = x[2] = process.mask_id
    seen = []

    class Spy(Table):
        def __call__(self, x_t, t, cond):
            seen.append(cond["row"].tolist())
            return super().__call__(x_t, t, cond)

    counted = Counted(Spy(process, 100))
    path(Confidence(), counted, x, 200, cond={"row": torch.arange(3)})
    left = [math.floor(100 * math.cos(math.pi / 2 * k / 200) + 1e-9) for k in range(201)]
    falls = sum(a > b for a, b in pairwise(left))
    assert seen == [[1, 2]] + [[2]] * (falls - 1) and falls == 100 and counted.rows == falls + 1
