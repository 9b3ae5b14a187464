"""Pictures of how held-out images are completed, and of what the encoder looks at."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.random import Rows
from diffcli.engine.images import Picture, table, to_pictures
from diffcli.engine.precision import autocast
from diffcli.engine.walk import walk
from diffcli.errors import UsageError

COLUMNS, MOST = 8, 64  # images; at most, by --columns


def shown(bench: Any) -> Tensor:
    """(n,) the numbers of the images that are drawn."""
    return torch.arange(min(bench.options.columns or COLUMNS, MOST, len(bench.test)), device=bench.model.device)


def look(bench: Any, x: Tensor) -> Picture:
    """x in the process's space -> pictures."""
    space = bench.model.space
    return to_pictures(space.look(x, Rows(0, torch.arange(len(x), device=x.device), len(x))))


def frames(bench: Any) -> Image.Image:
    """Held-out images under a fixed mask: the original, what is seen of it, the end of the walk, and all of its points.

    Noise first, each under the sigma that it has; --columns 16 shows more than 8.
    """
    model, method, o = bench.model, bench.model.method, bench.options
    items = shown(bench)
    way = walk(model, o, bench.recipe.parts["sampler"], len(items))
    batch: Batch = method.wish(Batch(items), o, lambda: bench.test)
    with autocast(o.precision, model.device):
        rng = Rows(o.seed, items, len(items))
        walked = list(method.trajectory(batch, model.space.shape, way.sampler, way.times, way.wrap, rng))
    process = method.denoiser.process
    rows = [(f"sigma {float(process.sigma(t)):.3g}", x) for t, x in walked]
    rows = [("completed", walked[-1][1]), *rows]
    if batch.x is not None and batch.known is not None:
        rows = [("original", batch.x), ("seen", torch.where(batch.known, batch.x, 0.0)), *rows]
    return table([look(bench, x) for _, x in rows], [name for name, _ in rows])


def heat(values: Tensor, size: tuple[int, int]) -> Picture:
    """(h, w) -> (H, W, 3): a colour map from 0 to the largest value, each a block of pixels."""
    scaled = (values / values.max().clamp(min=1e-12)).cpu().numpy()
    blocks = np.kron(scaled, np.ones((size[0] // len(scaled), size[1] // scaled.shape[1])))
    colours = matplotlib.colormaps["magma"](blocks)[..., :3]
    return np.ascontiguousarray((255 * colours).round().astype(np.uint8))


def attention(bench: Any) -> Image.Image:
    """Held-out images whole, and how much the class token looks at each patch in the last block: all heads, and each.

    Each map is scaled by its own largest value.
    """
    model, net = bench.model, bench.model.method.denoiser.net
    items = shown(bench)
    x = bench.test.batch(items, items, model.space).x
    size = (int(x.shape[-2]), int(x.shape[-1]))
    if look(bench, x).shape[1:3] != size:
        raise UsageError("--plot attention is of pixels, but the model lives in latents; leave it out")
    with autocast(bench.options.precision, model.device):
        looks = net.encoder.looks(x).float().unflatten(-1, net.grid)  # (n, heads, h, w)
    rows = [[heat(row, size) for row in part] for part in (looks.mean(1), *looks.unbind(1))]
    names = ["all heads", *(f"head {k}" for k in range(looks.shape[1]))]
    return table([look(bench, x), *rows], ["image", *names])
