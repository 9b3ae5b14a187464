"""Latents are a wrapper: any Gaussian method lives in them, and nothing in the method knows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffcli import recipe as recipes
from diffcli.core.method import Batch
from diffcli.core.random import Blocks
from diffcli.engine.assemble import Facts, assemble
from diffcli.engine.load import Model
from diffcli.engine.sample import sample

FACTS = Facts("made", "made/train", (1, 28, 28), 10, tuple("0123456789"))


class Folded(nn.Module):
    """An autoencoder that loses nothing: pixels folded into channels."""

    latent_bound = 1.0

    def encode(self, x):
        return nn.functional.pixel_unshuffle(x, 7)

    def decode(self, z, rng):
        return nn.functional.pixel_shuffle(z, 7)


@pytest.mark.parametrize("method", ["rf", "ddpm", "iddpm"])
def test_a_method_in_latents(method):
    tables = {
        "method": {"name": method},
        "model": {"name": "unet", "channels": 8},
        "sample": {"samples": 2, "steps": 3},
    }
    a = assemble(recipes.resolve(tables), FACTS, Folded())
    assert a.space.shape == (49, 4, 4)
    assert a.recipe.parts["model"].config.multipliers == (1,)
    index = torch.arange(4)
    x = a.space.encode(torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    loss = a.method.train().loss(Batch(index, x), Blocks(0, index, 4))["loss"]
    assert torch.isfinite(loss)
    model = Model(a.recipe, a.method.eval(), a.space, FACTS, torch.device("cpu"), "here", 0, "raw", "")
    drawn = sample(model, a.recipe.sample, a.recipe.parts["sampler"])
    assert drawn.x.shape == (2, 1, 28, 28)
    assert drawn.x_0.shape == (2, 49, 4, 4)
