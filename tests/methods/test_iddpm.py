"""Improved DDPM: its losses, its labels, and that it learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from diffcli import recipe as recipes
from diffcli.core.denoiser import Guided
from diffcli.core.method import Batch
from diffcli.core.random import Blocks, Rows
from diffcli.engine.assemble import Facts
from diffcli.engine.ema import EMA
from diffcli.errors import UsageError
from diffcli.testing.network import awake
from diffcli_iddpm import IDDPMOptions
from small_iddpm import TINY, batch, build


def settled(**options):
    config = IDDPMOptions(**options)
    return config.objective, config.variance, config.time_sampling


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, ("hybrid", "learned", "uniform")),
        ({"variance": "small"}, ("simple", "small", "uniform")),
        ({"variance": "large"}, ("simple", "large", "uniform")),
        ({"objective": "simple"}, ("simple", "small", "uniform")),
        ({"objective": "vlb"}, ("vlb", "learned", "importance")),
        ({"objective": "vlb", "variance": "large", "time_sampling": "uniform"}, ("vlb", "large", "uniform")),
    ],
)
def test_what_is_unset_follows_from_what_is_set(options, want):
    assert settled(**options) == want
    recipe = recipes.resolve({"method": {"name": "iddpm", **options}})
    assert recipe.parts["sampler"].config.variance == want[1]
    assert recipes.resolve(recipe.tables()) == recipe


@pytest.mark.parametrize(
    "options", [{"objective": "hybrid", "variance": "small"}, {"objective": "simple", "variance": "learned"}]
)
def test_what_cannot_be_is_refused(options):
    with pytest.raises(UsageError, match="--variance"):
        IDDPMOptions(**options)


@pytest.mark.parametrize("options", [{"objective": "simple"}, {"objective": "vlb"}, {"variance": "large"}])
def test_only_hybrid_weighs_the_bound(options):
    with pytest.raises(UsageError, match="--vlb-weight 5 weighs the bound in hybrid, but --objective is"):
        IDDPMOptions(vlb_weight=5.0, **options)
    assert IDDPMOptions(vlb_weight=5.0).vlb_weight == 5 and IDDPMOptions(**options).vlb_weight == 0.001


def test_another_sampler_walks_its_own_way():
    own, other = (recipes.resolve({"method": {"name": "iddpm"}, "sampler": {"name": n}}) for n in ("ancestral", "ddim"))
    assert (own.sample.steps, own.sample.spacing) == (100, "linspace")
    assert (other.sample.steps, other.sample.spacing) == (None, None)


def slopes(objective):
    """(of F, of v): the gradients of T times the bound, by halves of the head's channels, at steps 0, 1, 400 and 999."""
    method, data = build(objective=objective).train(), batch(4)
    awake(method)
    k, eps = torch.tensor([0, 1, 400, 999]), torch.randn(data.x.shape, generator=torch.Generator().manual_seed(1))
    _, vlb = method.errors(data, k, eps, {"label": data.label})
    vlb.mean().backward()
    return method.denoiser.net.head.weight.grad.chunk(2)


def test_in_hybrid_the_bound_trains_the_variance_alone():
    f, v = slopes("hybrid")
    assert not f.any() and v.any()
    f, v = slopes("vlb")
    assert f.any() and v.any()


@pytest.mark.parametrize("objective", ["hybrid", "simple", "vlb"])
def test_the_loss_is_what_it_says(objective):
    method, data = awake(build(objective=objective)).eval(), batch()
    found = {name: float(value.detach()) for name, value in method.loss(data, Rows(0, data.index, 16)).items()}
    want = {"hybrid": found["mse"] + 0.001 * found["vlb"], "simple": found["mse"], "vlb": found["vlb"]}[objective]
    assert found.keys() == {"loss", "mse", "vlb"} and found["loss"] == pytest.approx(want, rel=1e-6)
    channels = 3 if objective == "simple" else 6
    assert len(method.denoiser.net.head.weight) == channels


def test_the_bound_is_in_bits_a_dimension_and_times_T():
    """Of a network that knows x_0 and says beta~, only the last step has a term: that of its bin."""
    method, data = build(timesteps=10).eval(), batch(10)
    eps, k = torch.randn(data.x.shape, generator=torch.Generator().manual_seed(1)), torch.arange(10)

    class Knows(nn.Module):
        def forward(self, x, c_noise, cond):
            return torch.cat([eps, torch.full_like(eps, -1.0)], 1)

    method.denoiser.net = Knows()
    mse, vlb = method.errors(data, k, eps, {})
    assert not mse.any() and vlb[1:9].abs().max() < 1e-3
    std = math.exp(float(method.steps.small[0]) / 2)
    inside = math.erf(1 / 255 / std / math.sqrt(2))
    assert float(vlb[0]) == pytest.approx(-10 * math.log2(inside), rel=0.02)


def test_labels_are_dropped_in_training_alone_and_train_the_null_row():
    method = build()
    index = torch.arange(20_000)
    wish = Batch(index, label=index % 10)
    label = method.train().cond(wish, Blocks(0, index, 20_000))["label"]
    assert float((label == -1).double().mean()) == pytest.approx(0.1, abs=0.01)  # 4.7 standard errors
    assert torch.equal(method.eval().cond(wish, Blocks(0, index, 20_000))["label"], wish.label)
    optimizer, data = torch.optim.SGD(method.train().parameters(), 0.1), batch(64)
    for step in range(3):
        optimizer.zero_grad()
        method.loss(data, Blocks(step, data.index, 64))["loss"].backward()
        optimizer.step()
    rows = method.denoiser.net.label.weight.grad.abs().sum(1)
    assert bool((rows > 0).all())  # by the third step, and not by the first: the head begins at zero


def test_guidance_goes_from_the_null_prediction_on():
    method, data = awake(build()).eval(), batch(4)
    t, cond = torch.tensor(0.6, dtype=torch.float64), {"label": data.label}
    with torch.no_grad():
        null, label = (method.denoiser(data.x, t, c) for c in (method.weaken(cond), cond))
        at = {w: Guided(method.denoiser, w, method.weaken)(data.x, t, cond) for w in (0.0, 1.0, 2.0, 3.0, 4.0)}
    assert (at[0.0].eps - null.eps).abs().max() < 1e-6 and (at[1.0].eps - label.eps).abs().max() < 1e-6
    assert (at[4.0].eps - 2 * at[3.0].eps + at[2.0].eps).abs().max() < 1e-5
    assert not torch.equal(null.mix, label.mix) and all(torch.allclose(at[w].mix, label.mix) for w in (1.0, 2.0, 4.0))


def test_the_average_forgets_the_start():
    """After 1520 updates with warm-up the initial weights have less than 1e-3 of it; without, 0.859."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    ema = EMA(model, 0.9999)
    nn.init.zeros_(model.weight)
    for n in range(1520):
        ema.update(model, n)
    assert float(ema.model.weight) < 1e-3 < 0.85 < 0.9999**1520


@pytest.mark.slow
def test_sixty_steps_on_one_batch():
    """Tiny network, 16 pictures: L_simple on fixed (t, eps) from 1 to below 0.6, and the bound below its start."""
    torch.manual_seed(0)
    facts = Facts("made", "made/train", (3, 16, 16), 10, tuple("0123456789"))
    method = build(facts, {"name": "biggan-unet", **TINY})
    x = torch.nn.functional.interpolate(batch(16, (3, 2, 2)).x, (16, 16), mode="bicubic").clamp(-1, 1)
    data = Batch(torch.arange(16), x, torch.arange(16) % 10)
    optimizer = torch.optim.AdamW(method.parameters(), 1e-3)

    @torch.no_grad()
    def measured():
        found = method.eval().loss(data, Rows(0, data.index, 16))
        return float(found["mse"]), float(found["vlb"])

    before = measured()
    for step in range(60):
        loss = method.train().loss(data, Blocks(step, data.index, 16))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = measured()
    assert after[0] < 0.6 and after[1] < before[1]
