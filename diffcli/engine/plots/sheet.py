"""Pictures in rows and columns that mean something: heads above, captions beside, a title over all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from diffcli.engine import images
from diffcli.engine.compare import labels

GAP, MARGIN = 6, 8  # pixels between tiles, and around all of it


def sheet(
    rows: Sequence[Sequence[Image.Image]],
    *,
    heads: Sequence[str] = (),
    captions: Sequence[str] = (),
    title: Sequence[str] = (),
    gap: int = GAP,
) -> Image.Image:
    """Tiles of one size under the heads of their columns and behind the captions of their rows.

    title: lines above all of it, broken between words where they are too long.
    """
    tiles = [tile for row in rows for tile in row]
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    line = math.ceil(sum(images.font().getmetrics()[:2])) + 3
    left = MARGIN + (max(map(images.text_width, captions)) + GAP if any(captions) else 0)
    wide = max([width, *(images.text_width(head) for head in heads)])
    across = left + max(map(len, rows)) * (wide + gap) - gap + MARGIN
    lines = [piece for text in title for piece in broken(text, across - 2 * MARGIN)]
    top = MARGIN + line * len(lines) + (GAP if lines else 0) + (line if heads else 0)
    page, pen, ink = images.canvas(tiles, (across, top + len(rows) * (height + gap) - gap + MARGIN))
    for k, text in enumerate(lines):
        pen.text((MARGIN, MARGIN + (k + 1) * line - 3), text, ink, images.font(), anchor="ls")
    for k, head in enumerate(heads):
        pen.text((left + k * (wide + gap) + wide / 2, top - 4), head, ink, images.font(), anchor="ms")
    for r, row in enumerate(rows):
        y = top + r * (height + gap)
        if any(captions):
            pen.text((left - GAP, y + height / 2), captions[r], ink, images.font(), anchor="rm")
        for k, tile in enumerate(row):
            page.paste(tile, (left + k * (wide + gap) + (wide - tile.width) // 2, y))
    return page


def broken(text: str, width: int) -> list[str]:
    """A text in lines of at most this many pixels, where its words allow it."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and images.text_width(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def said(facts: Mapping[str, Any]) -> str:
    """What a picture of samples is of, in a line; facts: engine.sample.Samples.facts, and their nfe if it is told."""
    (run,), sampler = labels([Path(facts["run"])]), facts["sampler"]
    words = [f"{run}: {facts['method']}, {facts['dataset']}", f"step {facts['step']} ({facts['weights']})"]
    if sampler is not None:
        words.append(f"{sampler['name']} {facts['steps']} steps")
    if isinstance(nfe := facts.get("nfe"), int | float):
        words.append(f"NFE {nfe:g}")
    if facts.get("guidance_scale", 1) != 1:
        words.append(f"guidance {facts['guidance_scale']:g}")
    return ", ".join([*words, f"seed {facts['seed']}"])
