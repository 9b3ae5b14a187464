"""`eval --plot reconstructions`: the held-out images that came back worst."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffcli.engine import images
from diffcli.engine.plots.drawn import Drawn
from diffcli.engine.reconstructions import mean, pairs, reconstructs
from diffcli.metrics import reconstruction

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench

WORST, ACROSS = 16, 8  # reconstructions in the picture; in a row


def reconstructions(bench: Bench) -> Drawn:
    """The 16 held-out images with the least PSNR, each above what came back of it.

    Above an image: its number; above what came back: its PSNR.
    """
    x, y = pairs(bench)
    found = reconstruction.psnr(x, y)
    worst = found.argsort(stable=True)[:WORST]
    order, captions = list[Tensor](), list[str]()
    for row in worst.split(ACROSS):
        order += [x[row], y[row]]
        captions += [f"#{i}" for i in row.tolist()] + [f"{found[i]:.1f} dB" for i in row.tolist()]
    grid = images.grid(images.to_pictures(torch.cat(order) * 2 - 1), min(ACROSS, len(worst)), captions=captions)
    value, error = mean(found)
    facts = {
        "split": bench.test.split,
        "images": len(x),
        "psnr": value,
        "standard_error": error,
        "worst": [{"image": i, "psnr": round(float(found[i]), 3)} for i in worst.tolist()],
    }
    return Drawn({"reconstructions": grid}, facts)


reconstructions.refuse = reconstructs("--plot reconstructions")  # type: ignore[attr-defined]
