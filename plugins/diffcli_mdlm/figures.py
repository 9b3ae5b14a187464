"""Pictures of what masked diffusion hides and fills in, on held-out images."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.random import Rows
from diffcli.core.space import Text
from diffcli.engine.images import Picture, table, to_pictures
from diffcli.engine.walk import walk
from diffcli.errors import UsageError
from diffcli_mdlm.measure import given, hidden

SHOWN, MOST, CORRUPTED = 16, 64, 4  # columns; at most; of the opening picture


def pictures(bench: Any) -> None:
    """UsageError for texts: their samples are read, not looked at."""
    if isinstance(bench.model.space, Text):
        raise UsageError("these plots are of images, but the model is of text; read its samples with diffcli sample")


def look(bench: Any, x: Tensor) -> Picture:
    """Tokens (B, L) as pictures, [MASK] purple."""
    return to_pictures(bench.model.space.look(x, Rows(0, torch.arange(len(x)), len(x))))


def completion(bench: Any) -> Image.Image:
    """Held-out images in five rows: the truth; what is left of it; P(white) of each pixel; a completion; a free sample.

    The completion and the free sample are drawn by the recipe's sampler. --columns 64 shows more than 16.
    """
    pictures(bench)
    model, method, options = bench.model, bench.model.method, bench.options
    n = min(options.columns or SHOWN, MOST, len(bench.test))
    items = torch.arange(n, device=model.device)
    batch, truth = given(bench, items, hidden(bench))
    way = walk(model, options, bench.recipe.parts["sampler"], n)

    def drawn(wish: Batch) -> Tensor:
        rng = Rows(options.seed, items, n)
        *_, (_, x) = method.trajectory(wish, model.space.shape, way.sampler, way.times, way.wrap, rng)
        return x

    label = batch.label if method.conditional else None
    cond = method.cond(batch, Rows(options.seed, items, n))
    chance = method.denoiser(batch.x, torch.ones(n, dtype=torch.float64), cond).log_probs.exp()
    levels = torch.arange(model.space.vocab, device=model.device)
    grey = (chance * levels).sum(-1)
    rows = [look(bench, x) for x in (truth, batch.x, grey, drawn(batch), drawn(Batch(items, label=label)))]
    return table(rows, ["truth", "given", "P(white)", "completion", "sample"])


def corruption(bench: Any) -> Image.Image:
    """What training data look like: held-out images, and what is left of them when as much is missing."""
    pictures(bench)
    items = torch.arange(min(CORRUPTED, len(bench.test)), device=bench.model.device)
    batch, truth = given(bench, items, hidden(bench))
    return table([look(bench, truth), look(bench, batch.x)], ["whole", "missing"])
