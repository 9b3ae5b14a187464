"""Features: what pictures are turned into before sets of them are compared."""

from __future__ import annotations

from math import ceil
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor

from diffcli.errors import UsageError

SIDE = 32  # a covariance of 3 x 32 x 32 pixels takes seconds, one of 3 x 64 x 64 many minutes


class Extractor(Protocol):
    """Turns pictures into features, and may tell their class.

    name: what numbers are called after, as in fd[pixels]; sha256: of its weights, "" where there are none; resizer: what
    is done to a picture before, in words; size: of a feature vector; classes: that it tells apart, 0 where it is no judge.
    """

    name: str
    sha256: str
    resizer: str
    size: int
    classes: int

    def features(self, x: Tensor) -> Tensor:
        """(n, C, H, W) in [-1, 1] -> (n, size), each row a function of its picture alone."""

    def classify(self, x: Tensor) -> Tensor:
        """(n, C, H, W) in [-1, 1] -> (n,) int64 in 0 ... classes - 1; never called where classes is 0."""


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """(n, C, height, width): bilinear, and antialiased where it shrinks (Parmar et al. 2022); itself where it fits."""
    if x.shape[-2:] == (height, width):
        return x
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)


def resizing(shape: tuple[int, ...], height: int, width: int) -> str:
    """What `resize` does to pictures (C, H, W), in words that tell two resizers apart."""
    if shape[1:] == (height, width):
        return "none"
    return f"bilinear antialiased {shape[1]}x{shape[2]} to {height}x{width}"


class Pixels:
    """The pixels of a picture in [-1, 1]; pictures above SIDE pixels are shrunk to it, for the sake of the covariance."""

    name, sha256, classes = "pixels", "", 0

    def __init__(self, config: Any, facts: Any):
        """facts: engine.assemble.Facts of the data. UsageError for texts."""
        if facts.alphabet:
            raise UsageError(f"pixels are of pictures, but {facts.name} is text; leave --extractor pixels out")
        channels, height, width = facts.shape
        scale = min(1.0, SIDE / max(height, width))
        self.height, self.width = ceil(height * scale), ceil(width * scale)
        self.size = channels * self.height * self.width
        self.resizer = resizing(facts.shape, self.height, self.width)

    def features(self, x: Tensor) -> Tensor:
        return resize(x, self.height, self.width).flatten(1)

    def classify(self, x: Tensor) -> Tensor:
        raise NotImplementedError("pixels are no judge")
