"""Improved DDPM: its network, its losses, its times, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from diffcli import recipe as recipes
from diffcli.core.denoiser import Guided
from diffcli.core.method import Batch
from diffcli.core.random import Blocks, Rows
from diffcli.core.space import Pixels
from diffcli.engine.assemble import Facts, assemble
from diffcli.engine.ema import EMA
from diffcli.engine.job import step_once
from diffcli.engine.resume import restore, save
from diffcli.errors import UsageError
from diffcli.nn.blocks import Norm
from diffcli.testing.network import awake
from diffcli.testing.subject import job
from diffcli.testing.training import run_of
from diffcli_iddpm import BigGANOptions, IDDPMOptions
from diffcli_iddpm.method import KEPT, Importance
from diffcli_iddpm.network import AdaGN, BigGANUNet, SelfAttention

PAPER = {"channels": 128, "multipliers": (1, 2, 2, 2), "attention": (0, 1, 1, 0), "heads": 4, "dropout": 0.1}
TINY = {"channels": 32, "multipliers": (1, 2), "blocks": 1, "attention": (0, 1)}
SMALL = {"name": "biggan-unet", "channels": 8, "multipliers": [1, 2], "attention": [0, 1]}
FACTS = Facts("made", "made/train", (3, 8, 8), 10, tuple("0123456789"))


def network(shape=(3, 32, 32), classes=10, **options):
    space = Pixels(shape, classes)
    return BigGANUNet(BigGANOptions(**options), space, inputs=shape[0], outputs=2 * shape[0], classes=classes)


def count(*parts):
    return sum(p.numel() for part in parts for p in part.parameters())


def build(facts=FACTS, model=SMALL, timesteps=1000, **method):
    schedule = {"name": "cosine", "timesteps": timesteps}
    tables = {"method": {"name": "iddpm", **method}, "model": model, "schedule": schedule}
    return assemble(recipes.resolve(tables), facts).method


def batch(n=16, shape=(3, 8, 8)):
    index = torch.arange(n)
    return Batch(index, torch.rand(n, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1, index % 10)


def settled(**options):
    config = IDDPMOptions(**options)
    return config.objective, config.variance, config.time_sampling


# ---- the network


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({**PAPER, "blocks": 2}, 47_357_958),
        ({**PAPER, "blocks": 3}, 63_024_262),
        ({**PAPER, "blocks": 2, "skips": "level"}, 41_290_758),
        (TINY, 905_062),
    ],
)
def test_it_has_the_published_size(options, want):
    with torch.device("meta"):
        assert count(network(**options)) == want


def test_each_part_has_the_published_size():
    with torch.device("meta"):
        net = network(**PAPER, blocks=2)
    assert [count(part) for part in (net.time, net.label, net.stem)] == [328_704, 5_632, 3_584]
    assert [count(level) for level in net.down] == [1_263_232, 4_135_168, 4_528_384, 3_410_944]
    assert count(net.middle) == 3_674_624 and count(net.norm, net.head) == 7_174
    assert [count(level) for level in net.up] == [8_657_920, 9_448_960, 8_989_952, 2_903_680]


@pytest.mark.parametrize("skips", ["block", "level"])
@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 4, 4), (1, 7, 9)])
def test_any_size_goes_in_and_out(shape, skips):
    net = awake(network(shape, channels=8, skips=skips)).eval()
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    out = net(x, torch.tensor([1.0, 900.0]), {"label": torch.tensor([3, -1])})
    assert out.shape == (2, 2 * shape[0], *shape[1:])
    out.square().sum().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in without if "qkv.bias" not in name]


def test_the_size_of_the_image_decides_the_levels():
    fitted = {side: BigGANOptions().fit((3, side, side)) for side in (4, 8, 16, 28, 32)}
    assert {side: (o.multipliers, o.attention) for side, o in fitted.items()} == {
        4: ((1,), (0,)),
        8: ((1, 2), (0, 0)),
        16: ((1, 2, 2), (0, 1, 0)),
        28: ((1, 2, 2, 2), (0, 1, 1, 0)),
        32: ((1, 2, 2, 2), (0, 1, 1, 0)),
    }
    assert BigGANOptions(multipliers=(1, 2)).fit((3, 32, 32)).attention == (0, 0)
    with pytest.raises(UsageError, match=r"--attention 0,1 does not go with --multipliers 1,2,2"):
        BigGANOptions(attention=(0, 1)).fit((3, 16, 16))


def test_at_the_start_it_says_nothing():
    """Zero-init: F and v are 0 exactly, so L_simple is E eps^2 = 1, here of 64 x 192 draws: 3 % is 2.4 standard errors."""
    method, data = build().train(), batch(64)
    t = torch.full((64,), 0.5, dtype=torch.float64)
    f, mix = method.denoiser.raw(data.x, t, method.cond(data, Blocks(0, data.index, 64)))
    assert not f.any() and not mix.any() and f.shape == mix.shape == data.x.shape
    mse = method.loss(data, Blocks(0, data.index, 64))["mse"]
    assert float(mse.detach()) == pytest.approx(1, abs=0.03)
    x = torch.randn(2, 16, 4, 4)
    assert (SelfAttention(16, 4)(x) - x).abs().max() < 1e-7
    norm = AdaGN(16, 32)
    nn.init.zeros_(norm.linear.weight)
    assert (norm(x, torch.randn(2, 32)) - Norm(16)(x)).abs().max() < 1e-6
    assert 0.015 < float(network((3, 8, 8), channels=32).label.weight.std().detach()) < 0.025


def test_without_classes_only_the_null_row_is_there():
    method = build(cond="none").eval()
    assert len(method.denoiser.net.label.weight) == 1 and not method.conditional
    assert method.cond(batch(), Rows(0, torch.arange(16), 16)) == {}
    assert torch.isfinite(method.loss(batch(), Rows(0, torch.arange(16), 16))["loss"])


# ---- the losses


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


# ---- its times


def test_importance_sampling_is_unbiased():
    """The mean of weighted losses is the uniform mean: within 3 standard errors of 20,000 draws; and times are drawn as the law says."""
    method = build(timesteps=50, time_sampling="importance").train()
    loss = 1 / (1 + torch.arange(50, dtype=torch.float64))
    for _ in range(KEPT):
        method.importance.keep(torch.arange(50), loss)
    u = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k, weight = method.draw(u)
    values = weight * loss[k]
    error = float(values.std()) / math.sqrt(len(u))
    assert float(values.mean()) == pytest.approx(float(loss.mean()), abs=3 * error)
    assert error < float(loss[torch.floor(u * 50).long()].std()) / math.sqrt(len(u)) / 10  # which is what it is for
    law = method.importance.law()
    assert torch.allclose(law, 0.999 * loss / loss.sum() + 0.001 / 50, rtol=0, atol=1e-12)
    assert float((torch.bincount(k, minlength=50) / len(u) - law).abs().max()) < 4 * math.sqrt(0.25 / len(u))
    assert torch.equal(method.eval().draw(u)[0], torch.floor(u * 50).long())  # in training alone


def test_importance_waits_until_it_has_seen_all():
    law = Importance(4)
    for _ in range(KEPT):
        law.keep(torch.tensor([0, 1, 3]), torch.ones(3))
    law.keep(torch.tensor([2] * (KEPT - 1)), torch.full((KEPT - 1,), 5.0))
    assert torch.equal(law.law(), torch.full((4,), 0.25, dtype=torch.float64))
    law.keep(torch.tensor([2]), torch.tensor([5.0]))
    assert float(law.law()[2]) == pytest.approx(0.999 * 5 / 8 + 0.001 / 4)


def test_importance_keeps_the_latest():
    """In one batch or in many, the last ten squares of a timestep are kept, whatever order the rows are in."""
    generator = torch.Generator().manual_seed(0)
    k, losses = torch.randint(3, (200,), generator=generator), torch.rand(200, generator=generator)
    one, many = Importance(3), Importance(3)
    one.keep(k, losses)
    for part in torch.arange(200).split(7):
        many.keep(k[part], losses[part])
    for number in range(3):
        want = losses[k == number][-KEPT:].double().square().sort().values
        for law in (one, many):
            assert torch.equal(law.squares[number].sort().values, want)
    assert torch.equal(one.seen, many.seen)


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


def test_a_resume_remembers_the_losses(tmp_path: Path):
    """Importance sampling is under way when the run is stopped: the next five losses are the same to the bit."""
    tables = {
        "method": {"name": "iddpm", "objective": "vlb"},
        "model": {**SMALL, "multipliers": [1], "attention": [0], "dropout": 0.1},
        "dataset": {"name": "shapes", "size": 8},
        "schedule": {"name": "cosine", "timesteps": 8},
        "train": {"steps": 15, "batch_size": 16, "device": "cpu", "precision": "fp32"},
    }
    whole = job(recipes.resolve(tables))
    run = run_of(whole, tmp_path)
    for step in range(10):
        step_once(whole, step, 15, 0)
    assert int(whole.method.importance.seen.min()) >= KEPT and int(whole.method.importance.seen.sum()) == 160
    save(whole, run, 10, 0.0, [])
    after = [step_once(whole, step, 15, 0) for step in range(10, 15)]
    again = job(recipes.resolve(tables))
    assert not again.method.importance.seen.any()  # the trial batch left nothing
    assert restore(again, run, print)[0] == 10
    assert [step_once(again, step, 15, 0) for step in range(10, 15)] == after
    fresh = job(recipes.resolve(tables))
    assert step_once(fresh, 10, 15, 0)["loss"] != after[0]["loss"]


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
