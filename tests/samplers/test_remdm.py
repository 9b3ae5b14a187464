"""Masking again: marginals kept, the strengths of the paper, and unmask where it is off."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from diffcli.core.denoiser import Counted
from diffcli.engine.bench_masked import Uniform, Whole
from diffcli.errors import UsageError
from diffcli.samplers import ReMDMOptions
from diffcli.samplers.grid import grid
from diffcli.samplers.masked import Unmask
from diffcli.samplers.remdm import ReMDM, remdm
from diffcli.schedules.masked import LogLinear
from tokens import PROCESSES, Fixed, Table, partly, path

STRATEGIES = ["cap", "rescale", "conf"]


def sigmas(process, steps: int, strategy: str, eta: float) -> list[float]:
    """Eta below min(1, m_s/(1 - m_t)), or times it (Wang et al. 2025)."""
    rate = process.rate(grid(process, steps)).tolist()
    most = [1.0, *(min(1.0, m_s / (1 - m_t)) for m_t, m_s in pairwise(rate[1:]))]
    return [eta * m if strategy == "rescale" else min(eta, m) for m in most]


@pytest.mark.parametrize("schedule", PROCESSES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_strength_it_is_unmask_to_the_bit(strategy, schedule):
    process = PROCESSES[schedule](3)
    x = partly(process, 16, 24)
    for steps in (1, 7, 100):
        mine, other = Counted(Table(process, 24)), Counted(Table(process, 24))
        frames = path(ReMDM(strategy=strategy, eta=0.0), mine, x, steps)
        assert torch.equal(frames, path(Unmask(), other, x, steps)) and mine.rows == other.rows
        late = ReMDM(strategy=strategy, eta=0.5, t_on=0.0)  # t is above 0 in every step
        assert torch.equal(path(late, Table(process, 24), x, steps), frames)


@pytest.mark.parametrize("schedule", PROCESSES)
@pytest.mark.parametrize("strategy", ["cap", "rescale"])
@pytest.mark.parametrize("eta", [0.02, 0.3, 1.0])
def test_the_masked_share_is_that_of_the_process_at_every_time(strategy, eta, schedule):
    """40,000 tokens: 0.01 are four standard errors at one half. Exactly kept, for any strength and schedule."""
    process = PROCESSES[schedule](2)
    frames = path(
        ReMDM(strategy=strategy, eta=eta),
        Uniform(process),
        process.prior((400,), Whole(0, 100)),
        40,
        rng=Whole(0, 100),
    )
    share = (frames == 2).double().mean((1, 2))
    assert torch.allclose(share, process.rate(grid(process, 40)[1:]), rtol=0, atol=0.01)
    assert (frames[-1] != 2).all()


@pytest.mark.slow
def test_conf_masks_sigma_more_tokens_a_row_and_step():
    """n -> n m_s/m_t + sigma once a token is revealed: at most sigma N/e = 1.47 above m L. That is seen: 0.63 are four errors."""
    process, rows, length, steps, eta = LogLinear(2), 2000, 200, 40, 0.1
    frames = path(
        ReMDM(strategy="conf", eta=eta),
        Uniform(process),
        process.prior((length,), Whole(0, rows)),
        steps,
        rng=Whole(0, rows),
    )
    count = (frames == 2).sum(2).double().mean(1)
    rate, n = process.rate(grid(process, steps)), float(length)
    for k, sigma in enumerate(sigmas(process, steps, "cap", eta)):
        n = n * float(rate[k + 1] / rate[k]) + (sigma if k else 0.0)
        assert float(count[k]) == pytest.approx(n, abs=4 * math.sqrt(length / 4 / rows) + 0.01)
        assert 0 <= n - length * float(rate[k + 1]) < eta * steps / math.e
    assert n == 0


@pytest.mark.parametrize("schedule", PROCESSES)
@pytest.mark.parametrize("strategy", ["cap", "rescale"])
def test_revealed_tokens_are_masked_again_as_often_as_sigma_says(strategy, schedule):
    """Within four standard errors of what is counted; never to s = 0; and never a token that was given."""
    process, eta, steps = PROCESSES[schedule](2), 0.4, 12
    x = process.prior((200,), Whole(0, 200))
    x[:, :50] = 1
    frames = path(ReMDM(strategy=strategy, eta=eta), Uniform(process), x, steps, rng=Whole(0, 200))
    assert (frames[:, :, :50] == 1).all()
    sigma = sigmas(process, steps, strategy, eta)
    for k in range(1, steps):
        revealed = frames[k - 1, :, 50:] != 2
        again = (frames[k, :, 50:] == 2)[revealed].double().mean()
        assert float(again) == pytest.approx(sigma[k], abs=4 * math.sqrt(0.25 / int(revealed.sum())) if sigma[k] else 0)
    assert sigma[-1] == 0


def test_what_is_masked_again_is_drawn_anew():
    """The values before and after agree as often as two draws do, in 0.38 of all cases; four standard errors."""
    process, probs = LogLinear(3), torch.tensor([0.2, 0.5, 0.3])
    x = process.prior((20,), Whole(0, 1000))
    frames = path(ReMDM(eta=0.5), Fixed(process, probs), x, 10, rng=Whole(0, 1000))
    last, equal = x, []
    for before, after in pairwise([x, *frames]):
        drawn = (before == 3) & (after != 3)
        equal.append((last == after)[drawn & (last != 3)])
        last = torch.where(drawn, after, last)
    agree = torch.cat(equal).double()
    assert len(agree) > 5000 and float(agree.mean()) == pytest.approx(0.38, abs=4 * 0.49 * len(agree) ** -0.5)


def test_conf_prefers_what_was_drawn_with_little_confidence():
    """Sigma in all, and exp(0.9) times as often a token drawn at p = 0.1 as a certain one; four errors of the counts."""
    process, steps = LogLinear(10), 10
    probs = torch.cat([torch.full((20, 10), 0.1), torch.eye(10)[:1].expand(20, 10)])
    x = process.prior((40,), Whole(0, 2000))
    frames = path(ReMDM(strategy="conf", eta=1.0), Fixed(process, probs), x, steps, rng=Whole(0, 2000))
    weight = torch.tensor([0.9, 0.0]).exp().repeat_interleave(20)
    counted, expected = torch.zeros(2), torch.zeros(2)
    for sigma, (before, after) in zip(sigmas(process, steps, "conf", 1.0)[1:], pairwise(frames), strict=True):
        free = before != 10
        share = sigma * free * weight / (free * weight).sum(1, keepdim=True).clamp(min=1e-9)
        counted += (free & (after == 10)).unflatten(1, (2, 20)).sum((0, 2))
        expected += share.unflatten(1, (2, 20)).sum((0, 2))
    assert counted.min() > 1000 and ((counted - expected).abs() < 4 * expected.sqrt()).all()


def test_tokens_are_masked_again_between_t_off_and_t_on_alone():
    process = LogLinear(2)
    sampler = ReMDM(eta=0.5, t_on=0.7, t_off=0.3)
    frames = path(sampler, Uniform(process), process.prior((200,), Whole(0, 20)), 20, rng=Whole(0, 20))
    times = grid(process, 20)
    for k, t in list(enumerate(times.tolist()))[1:-1]:
        again = ((frames[k - 1] != 2) & (frames[k] == 2)).any()
        assert bool(again) == (0.3 <= t <= 0.7)


def test_only_rows_that_reveal_a_token_are_evaluated():
    process, seen = LogLinear(3), []

    class Spy(Table):
        def __call__(self, x_t, t, cond):
            seen.append((float(t), cond["row"].tolist()))
            return super().__call__(x_t, t, cond)

    x = partly(process, 16, 12)
    frames = torch.cat([x[None], path(ReMDM(eta=0.3), Spy(process, 12), x, 60, cond={"row": torch.arange(16)})])
    revealed = ((frames[:-1] == 3) & (frames[1:] != 3)).any(2)  # (60, 16)
    times = grid(process, 60).tolist()
    assert seen == [(times[k], rows.nonzero()[:, 0].tolist()) for k, rows in enumerate(revealed) if rows.any()]
    assert 0 < revealed.double().mean() < 0.6


def test_an_interval_that_is_none_is_refused():
    with pytest.raises(UsageError, match=r"--t-off 0.8 is above --t-on 0.2"):
        remdm(ReMDMOptions(t_on=0.2, t_off=0.8))
