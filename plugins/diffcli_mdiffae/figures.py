"""Pictures of what a masked diffusion autoencoder gives back, and what it can give where it is told little."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from diffcli.core.random import Rows
from diffcli.engine.images import table, to_pictures
from diffcli_mdiffae.measure import restored

SHOWN, MOST = 8, 64  # columns; at most
TIMES = 4  # how much a difference is enlarged


def rows(bench: Any) -> Image.Image:
    """Held-out images in four rows: the original; what comes back; 4 times their difference; what the weaker decoder gives.

    A difference is black where there is none. --columns 16 shows more than 8; --pdg says which decoder is the weaker.
    """
    model, options = bench.model, bench.options
    items = torch.arange(min(options.columns or SHOWN, MOST, len(bench.test)), device=model.device)
    batch = bench.test.batch(items, items, model.space)
    full, weak = (
        restored(bench, batch, Rows(options.seed, items, len(items)), guidance_scale=scale) for scale in (1.0, 0.0)
    )
    difference = TIMES * (full.clamp(-1, 1) - batch.x).abs() - 1
    shown = [to_pictures(x) for x in (batch.x, full, difference, weak)]
    return table(shown, ["original", "back", f"{TIMES}x off", "masked"])
