"""The bound of masked diffusion, and its part that can be had where data are missing: by enumeration, then by draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from diffcli.core.method import Batch
from diffcli.core.random import Blocks, Rows
from diffcli.core.space import Text, Tokens
from diffcli.schedules.masked import LogLinear, PolynomialMask
from diffcli_mdlm import MaskTransformerOptions, MDLMOptions
from diffcli_mdlm.method import LEAST, MDLM
from diffcli_mdlm.network import MaskTransformer
from masked_laws import SCHEDULES, Prescribed, chance, coin, every, gauss, law, mdlm, nelbo, off, surprise

LAWS = {"4 bits": (2, 4), "3 of 3": (3, 3)}


def expected(method: MDLM, x: Tensor, p: float, u: Tensor, rate: Tensor) -> Tensor:
    """(points,) E bound(x_obs, u, p) of the tokens x (L,) at u (points,), where a token is masked at `rate` (points,).

    Over every set of missing tokens, each with probability p, and every outcome of the draws, of which one is below
    r = (rate - p)/(1 - p) with probability r. They are prescribed just below r and just above it.
    """
    masks, size, process = every(2, len(x)).bool(), len(x), method.denoiser.process
    missing, new = (m.reshape(-1, size) for m in torch.broadcast_tensors(masks[:, None], masks[None]))
    r = ((rate - p) / (1 - p))[:, None, None]  # (points, 1, 1)
    draws = torch.where(new, r * (1 - 1e-9), r * (1 + 1e-9)).flatten(0, 1)
    weight = chance(missing, p) * chance(new, r)  # (points, sets)
    x_obs = torch.where(missing, process.mask_id, x).repeat(len(u), 1)
    rng = Prescribed(len(x_obs), {"mask": [draws]})
    nats, _ = method.bound(x_obs, u.repeat_interleave(len(missing)), {}, rng, p)
    return (nats.reshape(len(u), -1) * weight).sum(1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", LAWS)
def test_the_bound_of_the_exact_posterior_is_the_likelihood(kind, schedule):
    """Sahoo et al. 2024, Eq. 10: of any x, by any clock. The mean over draws is a sum, the one over times Gauss's rule."""
    make, rate, _ = SCHEDULES[schedule]
    vocab, length = LAWS[kind]
    exact = law(make(vocab), length)
    method, (u, weights) = mdlm(exact), gauss(0, 1)
    for x, prob in zip(exact.states, exact.probs, strict=True):
        assert nelbo(exact, x) == pytest.approx(-math.log(prob), abs=1e-10)
        bound = expected(method, x, 0.0, u, rate(u)) @ weights
        assert float(bound) == pytest.approx(-math.log(prob), abs=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("p", [0.5, 0.9])
def test_what_is_observed_gives_the_bound_above_the_rate_of_what_is_missing(p, schedule):
    """In expectation over what is missing, for any predictor; here the exact one. Gauss's rule leaves 1e-10."""
    make, rate, time = SCHEDULES[schedule]
    exact, low = law(make(2), 4), time(p)
    method, (u, weights) = mdlm(exact), gauss(0, 1)
    for x in exact.states:
        above = expected(method, x, p, u, rate(low + (1 - low) * u)) @ weights
        assert float(above) == pytest.approx(nelbo(exact, x, p), abs=1e-10)


def test_new_masks_are_a_thinning_of_all():
    """E[sum over the new]/(t - p) = E[sum over all masked]/t at p = 0.5, t = 0.7, by enumeration."""
    exact, p, t = law(LogLinear(2), 4), 0.5, 0.7
    u = torch.tensor([(t - p) / (1 - p)], dtype=torch.float64)
    method = mdlm(exact)
    for x in exact.states:
        sets, sums = surprise(exact, x)
        whole = (chance(sets, t) * sums).sum() / t
        new = expected(method, x, p, u, torch.tensor([t], dtype=torch.float64)) / (
            1 - p
        )  # the bound is sum/u, and u (1 - p) = t - p
        assert float(new) == pytest.approx(float(whole), abs=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_the_mean_over_draws_is_that_of_the_enumeration(p, schedule):
    """3 standard errors over all x, and 4 for each of the 16: a true one is beyond them once in a thousand times."""
    exact = law(SCHEDULES[schedule][0](2), 4)
    x = exact.states.repeat(2000, 1)
    lost = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < p
    rng = Blocks(0, torch.arange(len(x)), len(x))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))  # strata of time are not those of x
    nats, _ = mdlm(exact).bound(torch.where(lost, 2, x), rng.strata("time")[order], {}, rng, p)
    error = nats - torch.tensor([nelbo(exact, state, p) for state in exact.states]).repeat(2000)
    assert off(error) < 3
    assert max(off(error[i::16]) for i in range(16)) < 4


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_a_token_is_masked_at_the_rate_of_the_process(p, schedule):
    """Observed and not together: 0.01 are 8 standard errors of 156,800 tokens; and t = 0.7 is the rate by any clock."""
    make, _, time = SCHEDULES[schedule]
    method, low = mdlm(coin(make(2)), space=Tokens((1, 28, 28), 0)), time(p)
    u = torch.full((200,), (time(0.7) - low) / (1 - low), dtype=torch.float64)
    lost = torch.rand(200, 784, generator=torch.Generator().manual_seed(1)) < p
    x, rng = torch.where(lost, 2, 1), Rows(0, torch.arange(200), 200)
    nats, share = method.bound(x, u, {}, rng, p)
    assert float(share.mean()) == pytest.approx(0.7, abs=0.01)
    (x_t,) = method.denoiser.seen
    assert torch.equal(share, (x_t == 2).float().mean(1)) and torch.equal(x_t[x_t != 2], x[x_t != 2])
    assert (x_t[lost] == 2).all() and torch.equal(nats > 0, ((x_t == 2) & ~lost).any(1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("vocab", "length"), [(2, 784), (27, 256)])
def test_a_coin_costs_the_entropy_of_the_alphabet(vocab, length, training):
    """L ln V within 1 %, which is 3 standard errors and more: sums of Binomial(L, t)/t over 4,096 times t."""
    method = mdlm(coin(LogLinear(vocab)), space=Tokens((1, 1, length), 0, vocab)).train(training)
    index = torch.arange(4096)
    losses = method.loss(Batch(index, torch.ones(4096, length, dtype=torch.int64)), Blocks(0, index, 4096))
    assert float(losses["nats"]) == pytest.approx(length * math.log(vocab), rel=0.01)
    assert float(losses["loss"]) == pytest.approx(float(losses["nats"]) / length, rel=1e-6)
    assert float(losses["masked"]) == pytest.approx(0.5, abs=0.01)


def test_an_untrained_transformer_is_a_coin():
    """Its head begins at zero; to the rounding of float32."""
    space, index = Text(64, 0, "abcdefghijklmnopqrstuvwxyz "), torch.arange(64)
    net = lambda **_: MaskTransformer(MaskTransformerOptions(width=16, heads=2, depth=1), space)
    method = MDLM(MDLMOptions(), space, model=net, process=LogLinear(27))
    x = torch.randint(27, (64, 64), generator=torch.Generator().manual_seed(0))
    (fresh, _), (even, _) = (
        m.bound(x, Blocks(0, index, 64).strata("time"), {}, Blocks(0, index, 64))
        for m in (method, mdlm(coin(LogLinear(27)), space=space))
    )
    assert torch.allclose(fresh.double(), even, rtol=1e-5, atol=0)


@pytest.mark.parametrize("power", [1.0, 5.0, 10.0])
def test_a_steep_clock_costs_no_more(power):
    """At t = 1/20,000 its rate is 1e-43, which 1 - alpha would round to 0. Within 1 %: 4 standard errors of 10,000 rows."""
    method, n = mdlm(coin(PolynomialMask(2, power)), space=Tokens((1, 1, 196), 0)), 10_000
    rng = Rows(0, torch.arange(n), n)
    nats, _ = method.bound(torch.zeros(n, 196, dtype=torch.int64), rng.strata("time"), {}, rng)
    assert float(nats.mean()) == pytest.approx(196 * math.log(2), rel=0.01)


class Spy(nn.Module):
    """A predictor of black pixels that is the less sure the more is masked; keeps the times it is asked at."""

    def __init__(self):
        super().__init__()
        self.process, self.times = LogLinear(2), list[Tensor]()

    def forward(self, x_t: Tensor, t: Tensor, cond: object):
        self.times.append(t)
        share = (x_t == 2).double().mean(1)
        chance = torch.stack([torch.exp(-share), 1 - torch.exp(-share)], -1)  # -log p(0) is the share itself
        return type("Said", (), {"log_probs": chance.log()[:, None].expand(*x_t.shape, 2)})


@pytest.mark.parametrize("training", [True, False])
def test_times_are_stratified(training):
    """One in each of B equal intervals of (0, 1), or of (0.001, 1) in training."""
    method = mdlm(coin(LogLinear(2)), space=Tokens((1, 1, 1), 0)).train(training)
    method.denoiser = spy = Spy()
    for rng in (Blocks(0, torch.arange(640, 704), 64), Rows(5, torch.arange(64), 64)):
        method.loss(Batch(rng.index, torch.zeros(64, 1, dtype=torch.int64)), rng)
        u = (spy.times[-1] - LEAST) / (1 - LEAST) if training else spy.times[-1]
        assert torch.allclose(u, rng.strata("time"), rtol=0, atol=1e-12)
        assert sorted((u * 64).floor().tolist()) == list(range(64))
    assert not torch.equal(u, u.sort().values), "in evaluation time must not follow the order of the data"


def test_stratified_times_make_the_loss_of_a_batch_steadier():
    """Variance over 300 batches of 16, against independent times: by more than 3 standard errors of their log ratio.

    That is 3 sqrt(2 x 2/300) = 0.35 for normal means. The means agree within 3 standard errors: neither way is biased.
    """
    method, n, size = mdlm(coin(LogLinear(2)), space=Tokens((1, 20, 20), 0)), 300, 16
    method.denoiser = Spy()
    x, apart = torch.zeros(size, 400, dtype=torch.int64), torch.Generator().manual_seed(0)
    means = torch.zeros(2, n, dtype=torch.float64)
    for k in range(n):
        rng = Blocks(0, torch.arange(k * size, (k + 1) * size), size)
        u = rng.strata("time"), torch.rand(size, dtype=torch.float64, generator=apart)
        for row, times in zip(means, u, strict=True):
            row[k] = method.bound(x, times, {}, rng)[0].mean()
    together, independent = means.var(1)
    assert math.log(independent / together) > 0.35
    assert abs(float(means[0].mean() - means[1].mean())) < 3 * math.sqrt(float(together + independent) / n)
