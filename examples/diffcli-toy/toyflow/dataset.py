"""Lissajous curves x = sin(a s + phase), y = sin(b s): pictures with classes that need no download."""

from __future__ import annotations

import math

import torch
from diffcli.core.random import key
from diffcli_vision.datasets import Images
from torch import Tensor

from toyflow import LissajousOptions

KINDS = {"1:1": (1, 1), "1:2": (1, 2), "2:1": (2, 1), "1:3": (1, 3)}
TRAIN, TEST = 2000, 400
POINTS = 96  # of a curve, joined by its width


def curve(ratio: tuple[int, int], u: Tensor) -> tuple[Tensor, Tensor]:
    """(x, y), each (n, POINTS) in [-0.85, 0.85], from uniform numbers u (n, 3): phase, width and height.

    The phase has the period pi/b, and one in it at which the curve folds onto a line: 0 where a b is odd, else the middle.
    It is drawn from the half of the period that is farthest from there.
    """
    (a, b), s = ratio, torch.arange(POINTS) * (2 * math.pi / POINTS)
    phase = math.pi / b * (a * b % 2 / 2 + 0.5 * u[:, :1] - 0.25)
    width, height = (0.85 * (0.7 + 0.3 * u[:, k : k + 1]) for k in (1, 2))
    return width * torch.sin(a * s + phase), height * torch.sin(b * s)


def draw(x: Tensor, y: Tensor, size: int) -> Tensor:
    """Curves (n, POINTS) -> pictures (n, 1, size, size) uint8: a bell of the distance to the nearest point."""
    pixel = (torch.arange(size) + 0.5) / size * 2 - 1
    square = (x[:, None, None] - pixel[:, None]) ** 2 + (y[:, None, None] - pixel[:, None, None]) ** 2
    near = square.amin(-1)  # (n, size, size)
    return (torch.exp(-near * (size / 2 / 0.8) ** 2)[:, None] * 255).round().byte()


def lissajous(config: LissajousOptions, split: str) -> Images:
    """2,000 curves to train on and the next 400 to test on; item i is of kind i % 4 and a function of i alone."""
    item = torch.arange(TRAIN, TRAIN + TEST) if split == "test" else torch.arange(TRAIN)
    u = torch.rand(TRAIN + TEST, 3, generator=torch.Generator().manual_seed(key(0, "lissajous", 0)))[item]
    label, images = item % len(KINDS), torch.empty(len(item), 1, config.size, config.size, dtype=torch.uint8)
    for k, ratio in enumerate(KINDS.values()):
        rows = (label == k).nonzero().squeeze(1)
        for some in rows.split(100):  # so that the distances of a part fit a cache
            images[some] = draw(*curve(ratio, u[some]), config.size)
    return Images(
        images,
        label,
        name="lissajous",
        split=f"lissajous/{split}, items {int(item[0])} to {int(item[-1])}",
        class_names=tuple(KINDS),
        licence="none needed: drawn by the program",
    )
