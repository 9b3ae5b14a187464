"""Denoisers of tokens: what is revealed is certain, [MASK] is never predicted, and draws have the law they are made from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from diffcli.core.denoiser import Guided
from diffcli.core.exact import Joint
from diffcli.core.masked import MaskedDenoiser, MaskedPrediction, categorical, substitute
from diffcli.core.process import MaskedProcess
from masked_laws import chance, every, law

DRAWS = 100_000


class Net(nn.Module):
    """Random logits, another set for each row of a batch; keeps what it was told."""

    def __init__(self, vocab: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.vocab, self.dtype, self.told = vocab, dtype, list[Tensor]()

    def forward(self, x_t: Tensor, c_noise: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.told.append(c_noise)
        logits = 10 * torch.randn(*x_t.shape, self.vocab, generator=torch.Generator().manual_seed(0))
        return (logits + sum(c.view(-1, 1, 1) * torch.arange(self.vocab) for c in cond.values())).to(self.dtype)


def partly(vocab: int, rows: int = 16, length: int = 12) -> Tensor:
    """Values and [MASK], each alike."""
    return torch.randint(vocab + 1, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [2, 3, 27])
def test_probabilities_sum_to_1_and_what_is_revealed_is_certain(vocab, dtype):
    """To 1e-6, the rounding of float32, whatever the network computes in. [MASK] has no entry at all."""
    x_t = partly(vocab)
    log_probs = MaskedDenoiser(Net(vocab, dtype), MaskedProcess(vocab))(x_t, torch.tensor(0.5), {}).log_probs
    probs, masked = log_probs.exp(), x_t == vocab
    assert log_probs.shape == (16, 12, vocab) and log_probs.dtype == torch.float32
    assert torch.allclose(probs.sum(-1), torch.ones(16, 12), rtol=0, atol=1e-6)
    assert torch.equal(probs[~masked], torch.eye(vocab)[x_t[~masked]])
    logits = Net(vocab, dtype)(x_t, torch.zeros(16), {}).float()
    assert torch.allclose(log_probs[masked], logits.log_softmax(-1)[masked], rtol=0, atol=1e-6)


def test_the_network_is_told_the_masked_share_and_not_the_time():
    """1000 x that of each row, by any clock: the posterior given x_t does not depend on t."""
    net, x_t = Net(2), torch.tensor([[0, 1, 1, 0], [2, 1, 1, 0], [2, 1, 2, 0], [2, 2, 2, 2]])
    denoiser = MaskedDenoiser(net, MaskedProcess(2))
    answers = [denoiser(x_t, t, {}).log_probs for t in (torch.tensor(0.1), torch.full((4,), 0.9))]
    assert torch.equal(*answers)
    assert all(told.tolist() == [0, 250, 500, 1000] for told in net.told) and len(net.told) == 2


def test_substitution_passes_no_gradient_where_it_is_certain():
    """And no NaN where it is masked: -inf is never differentiated."""
    logits = torch.randn(16, 12, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    x_t = partly(3)
    log_probs = substitute(logits.log_softmax(-1), x_t, 3)
    at_x = log_probs.gather(-1, torch.where(x_t == 3, 0, x_t)[..., None])[..., 0]
    torch.where(x_t == 3, at_x, 0.0).sum().backward()
    assert torch.isfinite(logits.grad).all() and torch.equal(logits.grad.abs().sum(-1) > 0, x_t == 3)


# draws


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_draws_have_the_law_they_are_made_from(dtype):
    """Shares of 100,000 draws within 4 standard errors; what is impossible never comes, at the edges either."""
    probs = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0], dtype=torch.float64)
    u = torch.rand(DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u[:2] = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    drawn = categorical(probs.log().expand(DRAWS, 6), u, dtype)
    for value, p in enumerate(probs.tolist()):
        assert abs(float((drawn == value).double().mean()) - p) <= 4 * math.sqrt(p * (1 - p) / DRAWS)
    assert drawn[:2].tolist() == [1, 4]


def test_a_higher_number_is_a_higher_value():
    """The inverse of the cumulative probabilities: one number a token decides it, whatever V is."""
    log_probs = torch.randn(1, 27, generator=torch.Generator().manual_seed(0)).log_softmax(-1).expand(1000, 27)
    drawn = categorical(log_probs, torch.arange(1000).double() / 1000)
    assert (drawn.diff() >= 0).all() and len(drawn.unique()) > 20


def test_values_of_float64_reach_further_into_the_tail():
    """A value of probability 1e-9: float64 can draw it, to float32 it does not exist (Zheng et al. 2024, Section 4)."""
    log_probs = torch.tensor([1 - 1e-9, 1e-9], dtype=torch.float64).log()
    u = torch.tensor(1 - 0.5e-9, dtype=torch.float64)
    assert categorical(log_probs, u) == 1 and categorical(log_probs, u, torch.float32) == 0


# guidance


def test_guidance_is_extrapolation_in_log_space():
    """p ~ p_weak (p_strong/p_weak)^scale: scale 1 is the strong side, 0 the weak one; and it is normalized."""
    generator = torch.Generator().manual_seed(0)
    x_t = partly(3)
    strong, weak = (
        MaskedPrediction(substitute(torch.randn(16, 12, 3, generator=generator).log_softmax(-1), x_t, 3))
        for _ in range(2)
    )
    for scale, same in ((1.0, strong), (0.0, weak)):
        assert torch.allclose(strong.guided(weak, scale).log_probs.exp(), same.log_probs.exp(), atol=1e-6)
    sharp, masked = strong.guided(weak, 3.0).log_probs.exp(), x_t == 3
    assert torch.allclose(sharp.sum(-1), torch.ones(16, 12), atol=1e-6)
    want = weak.log_probs[masked].exp() * (strong.log_probs[masked] - weak.log_probs[masked]).exp() ** 3
    assert torch.allclose(sharp[masked], want / want.sum(-1, keepdim=True), atol=1e-5)
    assert torch.equal(sharp[~masked], torch.eye(3)[x_t[~masked]]), "what is revealed stays certain"


def test_guidance_leaves_out_what_is_impossible():
    """Also where the weak side thinks it possible."""
    strong, weak = (MaskedPrediction(torch.tensor(p).log()) for p in ([[[0.0, 0.5, 0.5]]], [[[0.4, 0.4, 0.2]]]))
    probs = strong.guided(weak, 2.0).log_probs.exp()[0, 0]
    assert torch.allclose(probs, torch.tensor([0.0, 0.625, 1.25]) / 1.875, atol=1e-6)


@pytest.mark.parametrize("batched", [True, False])
def test_guided_tokens_in_one_call_or_two(batched):
    denoiser, x_t = MaskedDenoiser(Net(3), MaskedProcess(3)), partly(3)
    cond = {"c": torch.arange(16.0) / 16}
    drop = lambda cond: {"c": torch.zeros_like(cond["c"])}
    one = lambda c: denoiser.net(x_t, torch.zeros(16), c).log_softmax(-1)
    denoiser.net.forward = lambda x, noise, cond: (
        cond["c"].view(-1, 1, 1) * torch.arange(3.0) * torch.ones(len(x), 12, 1)
    )
    guided = Guided(denoiser, 2.0, drop, batched=batched)(x_t, torch.tensor(0.5), cond).log_probs
    want = (2 * one(cond) - one(drop(cond))).log_softmax(-1)
    assert torch.allclose(guided[x_t == 3], want[x_t == 3], atol=1e-5)


# exact posteriors


@pytest.mark.parametrize(("vocab", "length"), [(2, 4), (3, 3)])
def test_the_posterior_of_a_joint_law_is_bayes(vocab, length):
    """Of every set of masked tokens and every x: P(x_i = v | what is revealed), by summing over all sequences."""
    exact = law(MaskedProcess(vocab), length)
    for x in exact.states:
        for masked in every(2, length).bool():
            fits = (exact.states[:, ~masked] == x[~masked]).all(1)
            x_t = torch.where(masked, vocab, x)[None]
            probs = exact(x_t, torch.tensor(0.5), {}).log_probs.exp()[0]
            for i in range(length):
                for v in range(vocab):
                    want = exact.probs[fits & (exact.states[:, i] == v)].sum() / exact.probs[fits].sum()
                    assert float(probs[i, v]) == pytest.approx(float(want), abs=1e-12)


def test_distance_of_laws_is_half_the_sum_of_differences():
    exact = Joint(MaskedProcess(2), torch.tensor([[0, 0], [1, 1]]), torch.tensor([3.0, 1.0]))
    for rows, distance in (
        ([[0, 0]] * 3 + [[1, 1]], 0),
        ([[0, 0]] * 4, 0.25),
        ([[0, 1]] * 4, 1),
        ([[0, 0], [0, 1], [1, 0], [1, 1]], 0.5),
    ):
        assert exact.distance(torch.tensor(rows)) == pytest.approx(distance, abs=1e-12)


def test_chances_of_sets_sum_to_1():
    """Of the helper that the laws of the bound are enumerated with."""
    assert float(chance(every(2, 6).bool(), 0.3).sum()) == pytest.approx(1, abs=1e-12)
