"""Latent diffusion learns a law that is known: four classes of latents, each a small ball around its mean."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffcli import recipe as recipes
from diffcli.core.method import Batch
from diffcli.core.random import Blocks
from diffcli.core.space import Latents
from diffcli.engine.assemble import Facts, assemble
from diffcli.engine.ema import EMA
from diffcli.engine.load import Model
from diffcli.engine.sample import sample

FACTS = Facts("balls", "balls/train", (2, 4, 4), 4, tuple("abcd"))
STD, STEPS, ROWS = 0.1, 400, 64


class Same(torch.nn.Module):
    """An autoencoder whose latents are the images."""

    latent_bound = 1.5  # means lie within 1, and five standard deviations around them

    def encode(self, x):
        return x

    def decode(self, z, rng):
        return z


def learnt(conditioning: str, means: torch.Tensor) -> Model:
    """Trained on latents mean_c + STD n, c in turn."""
    tables = {
        "method": {"name": "ldm", "conditioning": conditioning},
        "model": {"channels": 16},
        "sample": {"samples": 200, "steps": 20, "guidance_scale": 1.0},
    }
    made = assemble(recipes.resolve(tables), FACTS, Same())
    assert isinstance(made.space, Latents) and made.space.shape == (2, 4, 4)
    method, generator = made.method.train(), torch.Generator().manual_seed(0)
    optimizer, averaged = torch.optim.AdamW(method.parameters(), 2e-3), EMA(method, 0.98)
    for step in range(STEPS):
        index = torch.arange(step * ROWS, (step + 1) * ROWS)
        x = means[index % 4] + STD * torch.randn(ROWS, 2, 4, 4, generator=generator)
        loss = method.loss(Batch(index, x, index % 4), Blocks(0, index, ROWS))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averaged.update(method, step)
    method = averaged.model.eval().requires_grad_(False)
    return Model(made.recipe, method, made.space, FACTS, torch.device("cpu"), "here", STEPS, "ema", "")


@pytest.mark.slow
@pytest.mark.parametrize("conditioning", ["concat", "cross-attention"])
def test_four_classes_are_drawn_as_asked_and_guidance_draws_them_together(conditioning: str) -> None:
    """200 samples of ddim-20: at least 90 % are nearest to the mean of their class, and their spread falls from w = 1 to 3.

    Measured: 98.5 % and 99.5 % at w = 1; spread 0.166 to 0.132 by concatenation, 0.152 to 0.091 by cross-attention.
    """
    means = 2 * torch.rand(4, 2, 4, 4, generator=torch.Generator().manual_seed(1)) - 1
    model, spread = learnt(conditioning, means), {}
    for scale in (1.0, 3.0):
        drawn = sample(model, replace(model.recipe.sample, guidance_scale=scale), model.recipe.parts["sampler"])
        nearest = torch.cdist(drawn.x.flatten(1), means.flatten(1)).argmin(1)
        right = float((nearest == drawn.label).double().mean())
        spread[scale] = float(torch.stack([drawn.x[drawn.label == k].std(0).mean() for k in range(4)]).mean())
        assert right >= 0.9
    assert spread[3.0] < spread[1.0]
