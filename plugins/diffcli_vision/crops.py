"""Training pictures of which each epoch sees another part."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from diffcli.core.random import key
from diffcli_vision import PictureOptions
from diffcli_vision.inputs import pixels
from diffcli_vision.reading import Pictures, Source

AREA, LEAN, TRIES = (0.2, 1.0), 4 / 3, 10  # as in the pre-training of He et al. 2021
Box = tuple[int, int, int, int]  # left, top, right, bottom


def window(width: int, height: int, side: int, draw: Random) -> Box:
    """A square of `side` pixels anywhere in a picture; of a smaller one, the largest that it holds."""
    side = min(side, width, height)
    return placed(width, height, side, side, draw)


def part(width: int, height: int, draw: Random) -> Box:
    """A random share of the area, in proportions whose logarithm is uniform; the middle where none of ten fits."""
    for _ in range(TRIES):
        area = width * height * draw.uniform(*AREA)
        ratio = math.exp(draw.uniform(-math.log(LEAN), math.log(LEAN)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return placed(width, height, w, h, draw)
    w, h = min(width, round(height * LEAN)), min(height, round(width * LEAN))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def placed(width: int, height: int, w: int, h: int, draw: Random) -> Box:
    """A box of w x h pixels anywhere in a picture."""
    left, top = int(draw.random() * (width - w + 1)), int(draw.random() * (height - h + 1))
    return left, top, left + w, top + h


class Crops(Pictures):
    """Training pictures, a random part of each at each access: a function of (seed, position in the stream) alone.

    Item i is the middle square of picture i; n (1 + k) + i is what the draws of k make of it.
    """

    def numbers(self, seed: int, index: Tensor) -> Tensor:
        """The items at these positions: an order of pictures, and draws of their own."""
        draws = (key(seed, "crop", 0) + index) % 2**32
        return self.source.order(seed, index) + len(self) * (1 + draws)

    def seen(self, picture: Image.Image, draws: int) -> np.ndarray:
        """(C, H, W) uint8: the part of a picture that is drawn, or its middle square."""
        if draws == 0:
            return super().seen(picture, 0)
        side, draw = self.config.size, Random(draws)
        random = self.config.crop == "random"
        box = window(*picture.size, side, draw) if random else part(*picture.size, draw)
        if (box[2] - box[0], box[3] - box[1]) == (side, side):
            cut = picture.crop(box)
        else:
            cut = picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
        x = pixels(cut, self.config.channels)
        return x[..., ::-1] if self.flip and draw.random() < 0.5 else x


def reading(source: Source, config: PictureOptions, *, training: bool, **about: Any) -> Pictures:
    """The pictures of a split, as --crop and --flip ask for in training; elsewhere their middle squares."""
    kind = Crops if training and config.crop != "middle" else Pictures
    return kind(source, config, flip=training and config.flip, **about)
