"""Rectified flow: the laws of its times, its likelihood and its reflow."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from commands import TINY
from diffcli.core.denoiser import Prediction
from diffcli.core.method import Batch
from diffcli.core.random import Blocks, Rows
from diffcli.core.space import Pixels
from diffcli.engine.evaluate import held_out_loss
from diffcli.engine.load import load
from diffcli.metrics.likelihood import log_density
from diffcli.samplers.grid import grid
from diffcli.schedules.gaussian import Rectified
from diffcli_rf import RFOptions
from diffcli_rf.method import RectifiedFlow
from diffcli_rf.reflow import Pairs, straightness


class Nothing(nn.Module):
    """A network that answers 0."""

    def forward(self, x, c_noise, cond):
        return torch.zeros_like(x)


def flow(**options) -> RectifiedFlow:
    return RectifiedFlow(RFOptions(**options), Pixels((1, 4, 4), 0), model=lambda **_: Nothing(), process=Rectified())


def times(n: int = 100_000, **options) -> torch.Tensor:
    rng = Blocks(0, torch.arange(n), n)
    return flow(**options).train().time(rng.strata("time"), rng)


def test_logit_normal_times():
    t = times()
    assert t.mean() == pytest.approx(0.5, abs=0.003)
    assert t.std() == pytest.approx(0.208, abs=0.003)
    assert ((t > 0.25) & (t < 0.75)).double().mean() == pytest.approx(0.728, abs=0.005)
    assert (t > 0).all() and (t < 1).all()


def test_uniform_times():
    for t in (times(time_sampling="uniform"), times(time_uniform=1.0)):
        assert t.mean() == pytest.approx(0.5, abs=0.003)
        assert t.std() == pytest.approx(math.sqrt(1 / 12), abs=0.003)


def test_a_share_of_uniform_times():
    """The middle half holds 0.728 of logit-normal times and 0.5 of uniform ones."""
    t = times(time_uniform=0.5)
    assert ((t > 0.25) & (t < 0.75)).double().mean() == pytest.approx((0.728 + 0.5) / 2, abs=0.005)


def test_evaluation_does_not_depend_on_the_law_of_training_times():
    rng = Rows(0, torch.arange(64), 64)
    u = rng.strata("time")
    for options in ({}, {"time_sampling": "uniform"}, {"time_mean": 1.0}):
        assert torch.equal(flow(**options).eval().time(u, rng), u)


def test_loss_of_a_silent_network_is_the_size_of_its_target():
    """F = 0: the loss is the mean of (eps - x_0)^2 itself, to rounding."""
    method, index = flow().train(), torch.arange(64)
    x = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    eps = Blocks(0, index, 64).normal("eps", (1, 4, 4))
    loss = method.loss(Batch(index, x), Blocks(0, index, 64))["loss"]
    assert float(loss) == pytest.approx(float((eps - x).square().mean()), rel=1e-6)


def test_reflow_uses_the_noise_of_the_pair():
    method, index = flow().train(), torch.arange(8)
    x, eps = torch.full((8, 1, 4, 4), 0.25), torch.full((8, 1, 4, 4), 2.25)
    assert float(method.loss(Batch(index, x, eps=eps), Blocks(0, index, 8))["loss"]) == pytest.approx(4.0, rel=1e-6)


def test_likelihood_of_a_gaussian():
    """x_0 ~ N(0, 1/4) has a linear field and a known density: 1e-3 nats a dimension."""

    class Exact:
        process = Rectified()

        def __call__(self, x_t, t, cond):
            variance = (1 - t) ** 2 / 4 + t**2
            x_0 = (1 - t) / 4 / variance * x_t
            return Prediction(x_0, t / variance * x_t)

    x = 0.5 * torch.randn(16, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    probe = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    exact = torch.distributions.Normal(0.0, 0.5).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(log_density(Exact(), x, {}, probe) / 12, exact / 12, atol=1e-3)


def test_held_out_loss_is_repeatable_to_the_bit(trained):
    from diffcli.engine.assemble import open_data

    model = load(trained / "runs" / "rf")
    data = open_data(model.recipe, "test")
    assert held_out_loss(model, data, 100) == held_out_loss(model, data, 100)


@pytest.mark.slow
def test_pairs_round_trip_and_train(cli):
    assert cli("train", "rf", "--cond", "label", *TINY, "--output", "one").code == 0
    ran = cli("sample", "one", "--pairs", "24", "--steps", "3", "--output", "drawn")
    assert ran.code == 0, ran.err
    pairs = Pairs(Path("drawn/pairs.safetensors"), (1, 8, 8), 10)
    index = torch.arange(24)
    batch = pairs.batch(index, index, None)
    assert batch.x.shape == batch.eps.shape == (24, 1, 8, 8)
    assert torch.equal(batch.eps, Rows(0, index, 24).normal("prior", (1, 8, 8)))
    ran = cli(
        "train",
        "rf",
        "--cond",
        "label",
        *TINY,
        "--pairs",
        "drawn/pairs.safetensors",
        "--init",
        "one",
        "--output",
        "two",
    )
    assert ran.code == 0, ran.err
    assert "straightness" in Path("two/metrics.jsonl").read_text()


def test_pairs_hold_standard_noise_on_any_schedule(cli):
    """x at t = 1 has the std of the schedule (80 for edm); eps has 1, within 5 sigma of 24 x 64 draws."""
    assert cli("train", "rf", "--schedule", "edm", *TINY, "--output", "one").code == 0
    ran = cli("sample", "one", "--pairs", "24", "--steps", "2", "--clip", "1", "--output", "drawn")
    assert ran.code == 0, ran.err
    assert Pairs(Path("drawn/pairs.safetensors"), (1, 8, 8)).eps.std() == pytest.approx(
        1, abs=5 / math.sqrt(2 * 24 * 64)
    )


class Dots:
    """-1 and +1, equally likely, as 1x1x1 images."""

    def __len__(self):
        return 4096

    def batch(self, index):
        return (index % 2 * 2.0 - 1).view(-1, 1, 1, 1)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, x, c_noise, cond):
        return self.net(torch.stack([x.flatten(), c_noise / 1000], 1)).view_as(x)


@pytest.mark.slow
def test_reflow_straightens(tmp_path):
    """Two points: one reflow makes the paths at least five times straighter, and one Euler step lands on a mode."""
    torch.manual_seed(0)

    def fit(method, batch, steps=1500):
        optimizer = torch.optim.Adam(method.parameters(), 2e-3)
        method.train()
        for step in range(steps):
            index = torch.arange(step * 256, (step + 1) * 256)
            loss = method.loss(batch(index), Blocks(0, index, 256))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return method.eval()

    def walk(method, n, steps):
        rng = Rows(7, torch.arange(n), n)
        x = start = method.denoiser.process.prior((1, 1, 1), rng)
        with torch.no_grad():
            ts = grid(method.denoiser.process, steps, "uniform")
            for t, s in pairwise(ts):
                x = method.denoiser.process.diffuse(*method.denoiser(x, t, {})[:2], s)
        return x, start

    make = lambda **o: RectifiedFlow(
        RFOptions(**o), Pixels((1, 1, 1), 0), model=lambda **_: Small(), process=Rectified()
    )
    first = fit(make(), lambda index: Batch(index, Dots().batch(index)))
    x_0, eps = walk(first, 4096, 100)
    save_file({"x_0": x_0, "eps": eps}, tmp_path / "pairs.safetensors")
    second = make(pairs=tmp_path / "pairs.safetensors")
    second.load_state_dict(first.state_dict())
    pairs = second.data(Dots())
    second = fit(second, lambda index: pairs.batch(pairs.items(0, index), index, None), steps=3000)
    near = [float((walk(m, 2000, 1)[0].abs() - 1).abs().lt(0.2).float().mean()) for m in (first, second)]
    bend = [straightness(m, (1, 1, 1), torch.device("cpu")) for m in (first, second)]
    assert near[0] < 0.2 and near[1] > 0.8
    assert bend[1] < bend[0] / 5
