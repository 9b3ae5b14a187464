"""`eval --plot neighbors`: samples beside the training images nearest to them, so that copies can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image

from diffcli.engine import images
from diffcli.engine.compared import Plain, extractors, features
from diffcli.errors import UsageError
from diffcli.metrics.memorization import RATIO, nearest

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench

SHOWN, NEAR, BESIDE = 16, 4, 2  # samples in all; training images of each; samples in a row
GAP, TITLE = 8, 18  # pixels


@torch.no_grad()
def neighbors(bench: Bench) -> Image.Image:
    """The samples most suspected of being copies, each before the training images nearest to it in pixels.

    Above a sample: its number, and its distance to the nearest over that to the second, below 1/3 where it counts as
    memorized (Yoon et al. 2023); the least come first. Above a training image: its distance, a pixel (root mean square,
    of values in [-1, 1]). UsageError for texts.
    """
    facts = bench.model.facts
    if facts.alphabet:
        raise UsageError(f"--plot neighbors is of pictures, but {bench.model.where} is of text; leave it out")
    (pixels,) = extractors("pixels", facts)
    x = bench.samples.x.clamp(-1, 1)
    training = (features(pixels, part) for part in bench.pictures(bench.train))
    found = nearest(features(pixels, x), training, min(NEAR, len(bench.train)))
    ratio = found.distance[:, 0] / found.distance[:, 1].clamp(min=1e-12)
    blocks = []
    for rows in ratio.argsort(stable=True)[:SHOWN].split(-(-min(SHOWN, len(x)) // BESIDE)):
        items = found.number[rows].flatten()
        near = images.to_pictures(bench.train.batch(items, items, Plain).x.float().cpu())
        away = (found.distance[rows].flatten() / pixels.size**0.5).tolist()
        asked = [f"#{i}: {ratio[i]:.2f}" + ("!" if ratio[i] < RATIO else "") for i in rows.tolist()]
        blocks.append(images.grid(images.to_pictures(x[rows]), 1, captions=asked))
        blocks.append(images.grid(near, found.number.shape[1], captions=[f"{d:.3f}" for d in away]))
    return titled(blocks, ["sample", "nearest training images"])


def titled(blocks: list[Image.Image], titles: list[str]) -> Image.Image:
    """Pictures side by side, each under its title; the titles come again where there are more pictures."""
    gaps = [GAP * (1 if k % len(titles) else 3) for k in range(len(blocks))]
    gaps[0] = 0
    width = sum(gaps) + sum(block.width for block in blocks)
    sheet, pen, ink = images.canvas(blocks, (width, TITLE + max(block.height for block in blocks)))
    left = 0
    for k, (gap, block) in enumerate(zip(gaps, blocks, strict=True)):
        left += gap
        sheet.paste(block, (left, TITLE))
        pen.text((left + block.width / 2, TITLE - 2), titles[k % len(titles)], ink, images.font(), anchor="ms")
        left += block.width
    return sheet
