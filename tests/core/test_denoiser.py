"""Wrappers: each is a denoiser, and asks of the one inside only its process and the call."""

import pytest
import torch
from torch import Tensor, nn

from diffcli.core import parameterization as param
from diffcli.core.denoiser import Clipped, Cond, Counted, Final, Guided, Preconditioned, network_input
from diffcli.core.masked import MaskedPrediction
from diffcli.engine.bench import walk
from diffcli.samplers.ddim import DDIM
from diffcli.samplers.grid import grid
from diffcli.schedules import CosineOptions
from diffcli.schedules.gaussian import EDM, VP, Rectified, cosine

T = torch.tensor(0.6, dtype=torch.float64)


class Net(nn.Module):
    """Listens to x, to the level and to the label."""

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        return torch.sin(2 * x) + (c_noise / 1000 + cond["label"])[:, None]


def weaken(cond: Cond) -> Cond:
    return {"label": torch.zeros_like(cond["label"])}


def denoiser() -> Preconditioned:
    return Preconditioned(Net(), Rectified(), param.velocity)


def ask() -> tuple[Tensor, Cond]:
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x, {"label": torch.arange(1.0, 6.0, dtype=torch.float64)}


def test_guidance_of_scale_one_is_none_and_of_scale_zero_is_the_weak_side():
    d, (x, cond) = denoiser(), ask()
    for scale, want in ((1.0, d(x, T, cond)), (0.0, d(x, T, weaken(cond)))):
        got = Guided(d, scale, weaken)(x, T, cond)
        assert torch.allclose(got.x_0, want.x_0, atol=1e-12) and torch.allclose(got.eps, want.eps, atol=1e-12)


def test_one_guided_call_is_two_calls():
    x, cond = ask()
    one, two = Counted(denoiser()), Counted(denoiser())
    for t in (T, T.expand(5)):
        a, b = Guided(one, 3.0, weaken)(x, t, cond), Guided(two, 3.0, weaken, batched=False)(x, t, cond)
        assert torch.allclose(a.x_0, b.x_0, atol=1e-12) and torch.allclose(a.eps, b.eps, atol=1e-12)
    assert (one.calls, one.rows) == (2, 20) and (two.calls, two.rows) == (4, 20)


def test_a_guided_pair_still_explains_x_t():
    x, cond = ask()
    got = Guided(denoiser(), 7.5, weaken)(x, T, cond)
    assert torch.allclose(Rectified().diffuse(got.x_0, got.eps, T), x, atol=1e-12)


def test_guidance_acts_in_its_interval_alone():
    x, cond = ask()
    counted = Counted(denoiser())
    guided = Guided(counted, 3.0, weaken, interval=(0.2, 0.5))
    outside, plain = guided(x, T, cond), denoiser()(x, T, cond)
    assert counted.rows == 5 and torch.equal(outside.x_0, plain.x_0)
    assert not torch.allclose(guided(x, T / 2, cond).x_0, denoiser()(x, T / 2, cond).x_0)
    assert counted.rows == 15


def test_guidance_by_another_network():
    x, cond = ask()
    other = Preconditioned(Net(), Rectified(), param.v)
    got = Guided(denoiser(), 2.0, lambda c: c, other)(x, T, cond)
    want = 2 * denoiser()(x, T, cond).x_0 - other(x, T, cond).x_0
    assert torch.allclose(got.x_0, want, atol=1e-12)


def test_nfe_of_a_guided_walk_is_two_a_step():
    x, cond = ask()
    counted = Counted(denoiser())
    guided = Guided(counted, 2.0, weaken)
    for _ in DDIM().trajectory(guided, x, grid(Rectified(), 7), cond=cond, rng=None):
        pass
    assert counted.rows / len(x) == 14 and counted.calls == 7


def test_clipped_is_bounded_and_still_explains_x_t():
    x, cond = ask()
    for d in (denoiser(), Guided(denoiser(), 9.0, weaken)):
        got = Clipped(d, 0.5)(x, T, cond)
        assert got.x_0.abs().max() <= 0.5
        assert torch.allclose(Rectified().diffuse(got.x_0, got.eps, T), x, atol=1e-12)


def test_clipped_is_the_identity_where_nothing_is_clipped():
    x, cond = ask()
    got, want = Clipped(denoiser(), 1e6)(x, T, cond), denoiser()(x, T, cond)
    assert torch.equal(got.x_0, want.x_0) and torch.equal(got.eps, want.eps)


def test_final_changes_nothing_where_the_end_is_clean():
    x, cond = ask()
    d = denoiser()
    assert Final(d).process is d.process
    assert torch.equal(Final(d)(x, T, cond).x_0, d(x, T, cond).x_0)


def test_the_learned_variance_is_the_strong_sides():
    class Two(Preconditioned):
        def raw(self, x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
            f, _ = super().raw(x_t, t, cond)
            return f, cond["label"][:, None] * torch.ones_like(f)

    x, cond = ask()
    d = Two(Net(), Rectified(), param.velocity)
    assert torch.equal(Clipped(Guided(d, 4.0, weaken), 1.0)(x, T, cond).mix, d(x, T, cond).mix)


def test_masked_guidance_is_a_distribution_and_keeps_the_impossible_impossible():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    strong = logits.clone()
    strong[..., 0] = -torch.inf
    weak = logits.flip(-1).clone()
    weak[..., 0] = -torch.inf
    got = MaskedPrediction(strong.log_softmax(-1)).guided(MaskedPrediction(weak.log_softmax(-1)), 2.0).log_probs
    assert torch.allclose(got.exp().sum(-1), torch.ones(2, 3), atol=1e-6)
    assert (got[..., 0] < -1000).all()


@pytest.mark.parametrize("process", [VP(), Rectified(), cosine(CosineOptions(), None)])
def test_input_is_not_scaled_where_x_t_keeps_its_size(process):
    c_in, c_noise = network_input(process)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    assert (c_in(process, t) == 1).all() and torch.equal(c_noise(process, t), 1000 * t)


def test_edm_input_has_unit_variance():
    p, sd = EDM(), 0.5
    c_in, c_noise = network_input(p, sd)
    t = torch.tensor([1e-5, 1e-3, 0.1, 1.0], dtype=torch.float64)
    assert torch.allclose(c_in(p, t) ** 2 * (p.sigma(t) ** 2 + sd**2), torch.ones(4, dtype=torch.float64))
    assert torch.allclose(c_noise(p, t), p.sigma(t).log() / 4)


def test_the_answer_has_the_dtype_of_the_data():
    x, cond = ask()
    got = denoiser()(x.float(), T, {"label": cond["label"].float()})
    assert got.x_0.dtype == got.eps.dtype == torch.float32
    d = Clipped(Guided(denoiser(), 2.0, weaken), 1.0)
    assert d(x.float(), T.expand(5), {"label": cond["label"].float()}).eps.dtype == torch.float32
    assert walk(DDIM(), CloseTo(d, cond), x.float(), grid(Rectified(), 3)).dtype == torch.float32


class CloseTo:
    """A denoiser that brings its own condition."""

    def __init__(self, denoiser, cond: Cond):
        self.denoiser, self.process, self.cond = denoiser, denoiser.process, {k: v.float() for k, v in cond.items()}

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond):
        return self.denoiser(x_t, t, self.cond)
