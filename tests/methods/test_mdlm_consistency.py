"""Consistency: two histories that share what they reveal, and a product whose mean is the error of h as a martingale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diffcli.core.exact import Joint
from diffcli.core.masked import MaskedPrediction
from diffcli.core.random import Blocks
from diffcli.core.space import Tokens
from diffcli.schedules.masked import LogLinear
from diffcli_mdlm import MaskTransformerOptions, MDLMOptions
from diffcli_mdlm.method import MDLM, chances
from diffcli_mdlm.network import MaskTransformer
from masked_laws import Fixed, Prescribed, every, law, mdlm, off

TWO = LogLinear(2)
N = 20_000


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def half(n: int, length: int = 4) -> Tensor:
    """(n, length) of law(TWO, length), half of the tokens missing."""
    exact = law(TWO, length)
    x = exact.states[torch.multinomial(exact.probs, n, replacement=True, generator=torch.Generator().manual_seed(0))]
    return torch.where(uniform(1, n, length) < 0.5, 2, x)


def stepwise(n: int, length: int, substeps: list[int]) -> Prescribed:
    """Numbers by which so many tokens are revealed in each sub-step, in an order of its own in each row."""
    place, done, reveals = uniform(2, n, length).argsort(1), 0, []
    for count in substeps:
        reveals.append(((place >= done) & (place < done + count)).double())  # 1 is above tau'/tau, 0 below it
        done += count
    values = {f"value {copy}": [uniform(10 * copy + k, n, length) for k in range(len(substeps))] for copy in (1, 2)}
    return Prescribed(n, {"level": [0.5], "reveal": reveals, **values})


def errors(denoiser, substeps: list[int], length: int = 4) -> Tensor:
    """(N,) of the loss, from all tokens masked."""
    method = mdlm(denoiser, missing=0.5, consistency_substeps=len(substeps))
    x_t = torch.full((N, length), denoiser.process.mask_id)
    return method.consistency(x_t, {}, stepwise(N, length, substeps))


class Shifted(Joint):
    """The exact posterior of two values, but that P(x_0 = 1) of the first token is 0.1 off where all are masked."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: object) -> MaskedPrediction:
        probs = super().__call__(x_t, t, cond).log_probs.exp()
        probs[(x_t == self.process.mask_id).all(1), 0] += torch.tensor([-0.1, 0.1])
        return MaskedPrediction(probs.log())


# what the loss is


@pytest.mark.parametrize("vocab", [2, 3])
def test_it_is_0_for_a_predictor_that_ignores_its_input(vocab):
    probs = torch.arange(1.0, vocab + 1) / sum(range(1, vocab + 1))
    method = mdlm(Fixed(LogLinear(vocab), probs), missing=0.5)
    x = torch.where(uniform(0, 256, 4) < 0.5, vocab, 1)
    assert method.consistency(x, {}, Blocks(0, torch.arange(256), 256)).abs().max() < 1e-12


@pytest.mark.parametrize("vocab", [2, 3])
def test_its_mean_is_0_for_the_exact_posterior_one_token_a_substep(vocab):
    """Within 3 standard errors, where single values are not 0."""
    found = errors(law(LogLinear(vocab), 4), [1, 1])
    assert off(found) < 3 and float(found.std()) > 0.005


def test_it_compares_the_chance_of_1_or_of_every_value():
    for vocab, compared in ((2, [1]), (3, [0, 1, 2])):
        exact, x_t = law(LogLinear(vocab), 3), torch.full((1, 3), vocab)
        log_probs = exact(x_t, torch.tensor(0.5), {}).log_probs
        assert torch.equal(chances(log_probs), log_probs.exp()[..., compared])


def test_its_mean_is_0_for_the_exact_posterior_in_many_substeps():
    """Of random levels and sets, 128 of them: that two tokens come at once is rare."""
    method = mdlm(law(TWO, 4), missing=0.5, consistency_substeps=128)
    found = method.consistency(half(2000), {}, Blocks(0, torch.arange(2000), 2000))
    assert off(found) < 3 and float(found.std()) > 0.005


def test_its_mean_is_the_squared_error_of_a_shifted_entry():
    """0.1^2, of one token in four, where it is still masked after one of the others: in 3/4 of the rows.

    Where the first token itself is drawn, by the shifted law, the others' h are off in the mean by 0.1 times the
    difference that its value makes to them; by enumeration.
    """
    exact, blank = law(TWO, 4), torch.tensor(0.5)
    x = torch.full((2, 4), 2)
    x[:, 0] = torch.tensor([0, 1])
    h = chances(exact(x, blank, {}).log_probs)[..., 0]
    others = (0.1 * (h[1] - h[0]))[1:].square().sum()
    found = errors(Shifted(TWO, exact.states, exact.probs), [1])
    assert off(found) > 3 and float(found.mean()) > 0
    assert off(found, float((3 * 0.1**2 + others) / 4 / 4)) < 3


def test_tokens_revealed_at_once_are_drawn_as_if_independent():
    """So the exact posterior is not consistent in one sub-step, which is why there are several.

    Two bits that are mostly equal, and their product: it is 1 less often where they are drawn apart.
    """
    exact = Joint(TWO, every(2, 3), torch.tensor([9, 0.1, 1, 0.1, 1, 0.1, 0.1, 9]))
    assert off(errors(exact, [2], 3)) > 3 > off(errors(exact, [1, 1], 3))


def test_masking_complete_draws_again_would_be_biased():
    """The other way to get at x_s: what was given is hidden too, and so h(x_s) is no refinement of h(x_t)."""
    exact, x_t = law(TWO, 4), half(N)
    fits = ((x_t[:, None] == exact.states) | (x_t == 2)[:, None]).all(-1) * exact.probs
    h = lambda x: chances(exact(x, torch.tensor(0.5), {}).log_probs)[..., 0]
    whole = [exact.states[torch.multinomial(fits, 1, generator=torch.Generator().manual_seed(k))[:, 0]] for k in (1, 2)]
    x_s = [torch.where(uniform(30 + k, N, 4) < 0.25, 2, x) for k, x in enumerate(whole)]
    masked = (x_s[0] == 2) & (x_s[1] == 2)
    found = torch.where(masked, (h(x_s[0]) - h(x_t)) * (h(x_s[1]) - h(x_t)), 0.0).sum(1) / 4
    assert off(found) > 3


# the histories


def test_both_histories_reveal_more_of_the_same():
    x_t, n = half(4000, 6), 4000
    method = mdlm(law(TWO, 6), missing=0.5)
    first, second, h_t = method.histories(x_t, {}, Blocks(0, torch.arange(n), n))
    given, masked = x_t != 2, first == 2
    assert torch.equal(first[given], x_t[given]) and torch.equal(second[given], x_t[given])
    assert torch.equal(masked, second == 2) and not (masked & given).any()
    assert torch.equal(h_t, chances(method.denoiser(x_t, torch.tensor(0.5), {}).log_probs))
    kept = masked[~given].double()  # s/p of them on average, with s ~ U(0, p): tokens of a row share s
    share = (masked.sum(1) / (x_t == 2).sum(1).clamp(min=1))[(x_t == 2).any(1)].double()
    assert abs(float(kept.mean()) - 0.5) < 0.03 and off(share, 0.5) < 3
    assert 0.05 < float((share == 0).double().mean()) < 0.95, "levels differ from row to row"


def test_values_of_the_histories_are_independent():
    """Fair coins agree half of the time, and each is fair: 3 standard errors."""
    method, x_t = mdlm(Fixed(TWO, torch.ones(2) / 2), missing=0.5), torch.full((N, 4), 2)
    first, second, _ = method.histories(x_t, {}, Blocks(0, torch.arange(N), N))
    drawn = first != 2
    for values in (first == second, first == 1, second == 1):
        assert off(values[drawn].double(), 0.5) < 3


def test_each_history_draws_given_its_own_values():
    """Of P(00) = P(11) = 1/2: once a token is known, the other is the same in that history."""
    exact = Joint(TWO, torch.tensor([[0, 0], [1, 1]]), torch.ones(2))
    first, second, _ = mdlm(exact, missing=0.5, consistency_substeps=2).histories(
        torch.full((N, 2), 2), {}, stepwise(N, 2, [1, 1])
    )
    for x in (first, second):
        assert torch.equal(x[:, 0], x[:, 1])
    assert off((first == second).all(1).double(), 0.5) < 3


# gradients


class Table(nn.Module):
    """Logits by how many tokens are masked, so that the gradient of each call shows; `modes` of training when called."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.logits = nn.Parameter(torch.randn(5, 4, 2, generator=generator))
        self.modes = list[bool]()

    def forward(self, x_t: Tensor, c_noise: Tensor, cond: object) -> Tensor:
        self.modes.append(self.training)
        return self.logits[(x_t == 2).sum(1)]


def test_the_gradient_goes_through_h_of_x_s_alone():
    """From 4 masked tokens to 3, 2 and 1: none to what h(x_t) and the draws were read off."""
    net = Table()
    method = MDLM(
        MDLMOptions(missing=0.5, consistency_substeps=3), Tokens((1, 2, 2), 0), model=lambda **_: net, process=TWO
    )
    method.consistency(torch.full((8, 4), 2), {}, stepwise(8, 4, [1, 1, 1])).mean().backward()
    touched = net.logits.grad.abs().sum((1, 2)) > 0
    assert touched.tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("training", [True, False])
def test_histories_are_drawn_in_evaluation_mode(training):
    """Dropout would blur h(x_t); the mode is as it was afterwards, for the pass with gradient."""
    net = Table()
    method = MDLM(
        MDLMOptions(missing=0.5, consistency_substeps=3), Tokens((1, 2, 2), 0), model=lambda **_: net, process=TWO
    ).train(training)
    method.consistency(torch.full((8, 4), 2), {}, stepwise(8, 4, [1, 1, 1]))
    assert net.modes == [False] * 3 + [training] and method.training is method.denoiser.training is training


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_weight_has_a_gradient(precision):
    """Also under autocast, which keeps weights that were cast without a gradient."""
    torch.manual_seed(0)
    space = Tokens((1, 2, 4), 0)
    net = MaskTransformer(MaskTransformerOptions(width=16, heads=2, depth=2), space)
    nn.init.normal_(net.head.weight)
    method = MDLM(MDLMOptions(missing=0.5), space, model=lambda **_: net, process=TWO).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
        loss = method.consistency(half(64, 8), {}, Blocks(0, torch.arange(64), 64)).mean()
    loss.backward()
    assert loss.dtype == torch.float32
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name
