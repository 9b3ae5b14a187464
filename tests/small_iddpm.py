"""Improved DDPM, small, and some rows of its data."""

import torch

from diffcli import recipe as recipes
from diffcli.core.method import Batch
from diffcli.engine.assemble import Facts, assemble

TINY = {"channels": 32, "multipliers": (1, 2), "blocks": 1, "attention": (0, 1)}
SMALL = {"name": "biggan-unet", "channels": 8, "multipliers": [1, 2], "attention": [0, 1]}
FACTS = Facts("made", "made/train", (3, 8, 8), 10, tuple("0123456789"))


def build(facts=FACTS, model=SMALL, timesteps=1000, **method):
    schedule = {"name": "cosine", "timesteps": timesteps}
    tables = {"method": {"name": "iddpm", **method}, "model": model, "schedule": schedule}
    return assemble(recipes.resolve(tables), facts).method


def batch(n=16, shape=(3, 8, 8)):
    index = torch.arange(n)
    return Batch(index, torch.rand(n, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1, index % 10)
