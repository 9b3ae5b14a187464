"""Ancestral unmasking and its limit: the law of the levels, event by event, and what both cost."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from diffcli.core.denoiser import Counted
from diffcli.core.exact import Joint
from diffcli.engine.bench_masked import DRAWS, Uniform, Whole, distance, pair, spent, triple
from diffcli.samplers.grid import grid
from diffcli.samplers.masked import FirstHitting, Unmask
from diffcli.schedules.masked import LogLinear
from tokens import PROCESSES, Table, partly, path

XOR = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]])


@pytest.mark.parametrize("schedule", PROCESSES)
@pytest.mark.parametrize("spacing", ["uniform", "leading"])
@pytest.mark.parametrize("sampler", [Unmask(), Unmask(cache=False), FirstHitting()], ids=["cache", "plain", "first"])
def test_the_masked_share_follows_the_schedule_and_what_is_revealed_stays(sampler, spacing, schedule):
    """20,000 tokens: 0.01 are 2.8 standard errors at one half. A grid that begins below t = 1 begins with all masked too."""
    process = PROCESSES[schedule](2)
    rate = process.rate(grid(process, 40, spacing))
    x = process.prior((200,), Whole(0, 100))
    frames = path(sampler, Uniform(process), x, 40, rng=Whole(0, 100), spacing=spacing)
    share = (frames == 2).double().mean((1, 2))
    assert len(frames) == 40 and share[-1] == 0
    assert torch.allclose(share, rate[1:] / rate[0], rtol=0, atol=0.01)
    if schedule == "loglinear" and spacing == "uniform":
        assert torch.allclose(share[[9, 19, 29]], torch.tensor([0.75, 0.5, 0.25]).double(), rtol=0, atol=0.01)
    for before, after in pairwise(frames):
        assert (after == before)[before != 2].all()


@pytest.mark.parametrize("schedule", PROCESSES)
@pytest.mark.parametrize("spacing", ["uniform", "leading"])
def test_the_cache_changes_no_bit_of_any_frame(schedule, spacing):
    process = PROCESSES[schedule](3)
    x, denoiser = partly(process, 16, 24), Table(process, 24)
    for steps in (1, 5, 100):
        cached, plain = (path(Unmask(cache=cache), denoiser, x, steps, spacing=spacing) for cache in (True, False))
        assert torch.equal(cached, plain)


def test_a_row_is_evaluated_at_its_own_events_and_as_it_is_then():
    """Each row is known by its condition: what the denoiser saw is the frame of that time, and the next frame is another."""
    process, seen = LogLinear(3), []
    table = Table(process, 24)

    class Spy:
        def __init__(self):
            self.process = process

        def __call__(self, x_t, t, cond):
            seen.extend(zip(cond["row"].tolist(), t.tolist(), x_t.clone(), strict=True))
            return table(x_t, t, cond)

    x, times = partly(process, 16, 24), grid(process, 50)
    frames = torch.cat([x[None], path(Unmask(), Spy(), x, 50, cond={"row": torch.arange(16)})])
    changes = [(row, k) for row in range(16) for k in range(50) if not torch.equal(frames[k, row], frames[k + 1, row])]
    assert sorted((row, times.tolist().index(t)) for row, t, _ in seen) == changes
    for row, t, x_t in seen:
        assert torch.equal(x_t, frames[times.tolist().index(t), row])


def test_calls_with_and_without_cache():
    """N (1 - (1 - 1/N)^L) = 62.0 and 543.6 events on average; a row varies by 1.4 and 9.2, so 3 % and 1.2 % are four errors."""
    process = LogLinear(2)
    x = process.prior((64,), Whole(0, 64))
    cached, plain = Counted(Table(process, 64)), Counted(Table(process, 64))
    assert torch.equal(path(Unmask(), cached, x, 1000)[-1], path(Unmask(cache=False), plain, x, 1000)[-1])
    assert plain.calls == 1000 and plain.rows == 64 * 1000
    assert cached.rows / 64 == pytest.approx(62.0, rel=0.03)
    of_784 = spent(Unmask(), 784, 1000)
    assert of_784 <= 550 and of_784 == pytest.approx(543.6, rel=0.018)
    assert spent(FirstHitting(), 784, 1000) == 784 and spent(FirstHitting(), 784, 3) == 784


@pytest.mark.parametrize("steps", [1, 4, 64])
def test_unmask_is_half_a_step_away_from_two_equal_tokens(steps):
    """Both are drawn in one step with probability 1/N, and then differ in one case of two. 0.01 is four standard errors."""
    assert distance(Unmask(), pair(LogLinear(2)), steps) == pytest.approx(1 / (2 * steps), abs=0.01)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_unmask_is_as_far_from_the_parity_of_three_tokens_as_its_coincidences_say(steps):
    """Wrong in one case of two if the last two, or all three, are drawn in one step: (3 (N - 1)/2 + 1)/N^2 of all cases."""
    law = Joint(LogLinear(2), XOR, torch.ones(4))
    assert distance(Unmask(), law, steps) == pytest.approx((3 * (steps - 1) / 2 + 1) / steps**2 / 2, abs=0.01)


@pytest.mark.parametrize("schedule", PROCESSES)
@pytest.mark.parametrize("law", [pair, triple])
def test_first_hitting_is_exact_whatever_the_schedule(law, schedule):
    """Zero but for counting 40,000 draws, which is 0.004 on four sequences."""
    assert distance(FirstHitting(), law(PROCESSES[schedule](3)), 3) < 0.01


def counts(sampler, steps: int, seed: int, draws: int) -> torch.Tensor:
    law = triple(LogLinear(3))
    end = path(sampler, law, law.process.prior((3,), Whole(0, draws)), steps, rng=Whole(seed, draws))[-1]
    return (end @ torch.tensor([9, 3, 1])).bincount(minlength=27).double()


@pytest.mark.slow
def test_with_and_without_cache_and_one_at_a_time_are_samples_of_one_law():
    """Chi-squared over 27 sequences: 54 is the 99.9 % point of 26 degrees of freedom. At many steps unmask is 1/N from exact."""
    a, b = counts(Unmask(), 8, 1, DRAWS), counts(Unmask(cache=False), 8, 2, DRAWS)
    assert (a + b).min() >= 20 and ((a - b) ** 2 / (a + b)).sum() < 54
    many, exact = counts(Unmask(), 500, 3, 20_000), counts(FirstHitting(), 1, 4, 20_000)
    assert (many - exact).abs().sum() / 40_000 < 0.01 + 1 / 500  # 0.007 is what counting leaves


@pytest.mark.parametrize("schedule", PROCESSES)
def test_first_hitting_reveals_at_the_order_statistics(schedule):
    """With n masked at t, (m(t')/m(t))^n is uniform and independent of the one before; any token is as likely as another."""
    process, rows, length = PROCESSES[schedule](2), 20_000, 5
    uniform, rate, masked = Uniform(process), [torch.ones(rows).double()], []

    class Spy:
        def __init__(self):
            self.process = process

        def __call__(self, x_t, t, cond):
            rate.append(process.rate(t))
            masked.append(x_t == 2)
            return uniform(x_t, t, cond)

    x = process.prior((length,), Whole(0, rows))
    frames = path(FirstHitting(), Spy(), x, 10, rng=Whole(0, rows))
    u = torch.stack([(b / a) ** (length - j) for j, (a, b) in enumerate(pairwise(rate))])
    assert len(u) == length and [int(m.sum()) for m in masked] == [rows * n for n in (5, 4, 3, 2, 1)]
    se = rows**-0.5
    assert torch.allclose(u.mean(1), torch.full((length,), 0.5).double(), rtol=0, atol=4 * 0.289 * se)
    assert torch.allclose(u.var(1), torch.full((length,), 1 / 12).double(), rtol=0, atol=4 * 0.075 * se)
    assert torch.allclose(u.corrcoef(), torch.eye(length).double(), rtol=0, atol=4 * se)
    for before, after in zip(masked, [*masked[1:], torch.zeros_like(x).bool()], strict=True):
        assert ((before & ~after).sum(1) == 1).all()
        where = (before & ~after).double().mean(0)
        assert torch.allclose(where, torch.full((length,), 1 / length).double(), rtol=0, atol=4 * 0.4 * se)
    for s, frame in zip(grid(process, 10)[1:], frames, strict=True):
        late = torch.stack(rate[1:]) < process.rate(s)  # events that are still to come at s
        assert torch.equal((frame == 2).sum(1), late.sum(0))


def test_a_step_of_first_hitting_is_a_piece_of_its_walk():
    process = LogLinear(3)
    x, denoiser, sampler, rng = partly(process, 16, 24), Table(process, 24), FirstHitting(), Whole(0, 16)
    times = grid(process, 4)
    state, whole = sampler.start(denoiser, x, times, rng), path(sampler, denoiser, x, 4, rng=Whole(0, 16))
    for point, frame in zip(sampler.plan(process, times), whole, strict=True):
        x, state = sampler.step(denoiser, x, point, cond={}, state=state, rng=rng)
        assert torch.equal(x, frame)
