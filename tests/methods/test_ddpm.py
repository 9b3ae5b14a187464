"""DDPM: its times, its targets, and that it learns."""

from __future__ import annotations

import pytest
import torch

from diffcli import recipe as recipes
from diffcli.core.method import Batch
from diffcli.core.random import Blocks, Rows
from diffcli.core.space import Pixels
from diffcli.engine.assemble import Facts, assemble, open_data
from diffcli_ddpm import DDPMOptions
from diffcli_ddpm.method import DDPM

FACTS = Facts("made", "made/train", (1, 28, 28), 10, tuple("0123456789"))


def build(**sections):
    tables = {"method": {"name": "ddpm"}, "model": {"name": "unet", "channels": 8, "multipliers": [1, 2]}, **sections}
    return assemble(recipes.resolve(tables), FACTS).method


def batch(n=16):
    index = torch.arange(n)
    x = torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    return Batch(index, x, index % 10)


def test_times_are_nodes_each_as_likely_as_any_other():
    method = build()
    t = method.time(Blocks(0, torch.arange(4000), 4000).strata("time"))
    i = (t * 1000).round()
    assert torch.allclose(t, i / 1000, atol=1e-12)
    assert torch.bincount(i.long(), minlength=1001)[1:].tolist() == [4] * 1000


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_a_network_that_knows_the_answer_has_no_loss(prediction):
    """F = a x_0 + b eps by the parameterization's own words: the error is rounding, 1e-10."""
    method = build(method={"name": "ddpm", "prediction": prediction})
    data, rng = batch(), Rows(0, torch.arange(16), 16)
    t, eps = method.time(rng.strata("time")), rng.normal("eps", (1, 28, 28))
    p = method.denoiser.process
    alpha, sigma = (c.float().view(-1, 1, 1, 1) for c in (p.alpha(t), p.sigma(t)))
    answer = {"eps": eps, "x0": data.x, "v": alpha * eps - sigma * data.x}[prediction]

    class Knows(torch.nn.Module):
        def forward(self, x, c_noise, cond):
            return answer

    method.denoiser.net = Knows()
    assert float(method.denoiser.error(data.x, eps, t, {}).mean()) < 1e-10


def test_loss_at_the_start_is_that_of_an_unknown_noise():
    method, data = build().train(), batch()
    with torch.no_grad():
        loss = float(method.loss(data, Blocks(0, data.index, 16))["loss"])
    assert 0.9 < loss < 1.6


@pytest.mark.slow
def test_fifty_steps_halve_the_loss():
    torch.manual_seed(0)
    method, data = build(), batch()
    optimizer = torch.optim.AdamW(method.parameters(), 1e-3)

    @torch.no_grad()
    def measure() -> float:
        return float(method.eval().loss(data, Rows(0, data.index, 16))["loss"])

    before = measure()
    for step in range(50):
        method.train()
        loss = method.loss(data, Blocks(step, data.index, 16))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert measure() < before / 2


def test_labels_are_dropped_in_training_alone():
    config = DDPMOptions(cond="label", label_dropout=0.3)
    seen = {}
    method = DDPM(
        config,
        Pixels((1, 8, 8), 10),
        model=lambda **k: seen.update(k) or torch.nn.Identity(),
        process=build().denoiser.process,
    )
    index = torch.arange(20000)
    wish = Batch(index, label=index % 10)
    dropped = (method.train().cond(wish, Blocks(0, index, 20000))["label"] == -1).double().mean()
    assert dropped == pytest.approx(0.3, abs=0.015)  # 4 sigma of 20,000 draws
    assert torch.equal(method.eval().cond(wish, Blocks(0, index, 20000))["label"], wish.label)
    assert seen["classes"] == 10
    weak = method.weaken({"label": wish.label})["label"]
    assert (weak == -1).all() and weak.shape == wish.label.shape


def test_the_same_recipe_is_the_same_network():
    a, b = (dict(build().named_parameters()) for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_held_out_images_are_not_trained_on():
    recipe = recipes.resolve({"method": {"name": "ddpm"}})
    train, test = (open_data(recipe, split) for split in ("train", "test"))
    assert len(train) + len(test) == 1797
    assert len(test) == 359
