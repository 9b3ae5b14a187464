"""Ten kinds of colored shapes, drawn from signed distances: a color data set that needs no download."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffcli.core.random import key
from diffcli_vision import ShapesOptions
from diffcli_vision.datasets import Images

TRAIN, TEST = 10_000, 2_000
SLANT = math.radians(12)  # a shape turns by at most this, so that a square is no diamond

# Each distance takes x, y relative to the middle, y downward, in units of the shape's radius; it is negative inside.
# Between edges it may be a bound of the true distance: only its zero and its slope there are seen.


def disc(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.95


def ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.72).abs() - 0.26


def square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.82


def diamond(x: Tensor, y: Tensor) -> Tensor:
    return (x.abs() + y.abs() - 1.08) / math.sqrt(2)


def triangle(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(y - 0.65, 0.8944 * x.abs() - 0.4472 * y - 0.4472)


def cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x.abs() - 0.98, y.abs() - 0.3), torch.maximum(y.abs() - 0.98, x.abs() - 0.3))


def saltire(x: Tensor, y: Tensor) -> Tensor:
    return cross((x + y) / math.sqrt(2), (x - y) / math.sqrt(2))


def star(x: Tensor, y: Tensor) -> Tensor:
    """Five points: the angle is folded onto half a point, whose edge is a line from radius 1.1 to radius 0.42."""
    fold = math.pi / 5
    angle = (torch.atan2(x, -y).remainder(2 * fold) - fold).abs()  # 0 in a notch, fold at a point
    r = torch.hypot(x, y)
    u, v = r * angle.cos() - 0.42, r * angle.sin()  # from the notch
    du, dv = 1.1 * math.cos(fold) - 0.42, 1.1 * math.sin(fold)
    return (dv * u - du * v) / math.hypot(du, dv)


def moon(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(x, y) - 1, 0.78 - torch.hypot(x - 0.5, y + 0.15))


def checker(x: Tensor, y: Tensor) -> Tensor:
    inner = torch.where(x * y > 0, -1.0, 1.0) * torch.minimum(x.abs(), y.abs())
    return torch.maximum(torch.maximum(x.abs(), y.abs()) - 0.9, inner)


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disc": disc,
    "ring": ring,
    "square": square,
    "diamond": diamond,
    "triangle": triangle,
    "cross": cross,
    "saltire": saltire,
    "star": star,
    "moon": moon,
    "checker": checker,
}


def color(hue: Tensor, white: Tensor, value: Tensor) -> Tensor:
    """(n,) each in [0, 1] -> RGB (n, 3): a hue mixed with white, times value."""
    corners = torch.tensor([0.0, 2 / 3, 1 / 3])
    pure = (((hue[:, None] + corners) % 1 * 6 - 3).abs() - 1).clamp(0, 1)
    return value[:, None] * torch.lerp(pure, torch.ones(()), white[:, None])


def draw(kind: Callable[[Tensor, Tensor], Tensor], u: Tensor, size: int) -> Tensor:
    """Pictures of one kind from uniform numbers u (n, 11) -> (n, 3, size, size) uint8.

    Bright on dark or dark on bright, at any place where the whole shape is seen; a pixel on an edge is covered in part.
    """
    radius = size * (0.27 + 0.15 * u[:, 0])
    room = size / 2 - radius * 1.05
    middle = size / 2 + room[:, None] * (2 * u[:, 1:3] - 1)
    pixel = torch.arange(size) + 0.5
    dx = ((pixel - middle[:, :1]) / radius[:, None])[:, None, :]  # (n, 1, size)
    dy = ((pixel - middle[:, 1:]) / radius[:, None])[:, :, None]  # (n, size, 1)
    turn = (SLANT * (2 * u[:, 3] - 1))[:, None, None]
    x, y = turn.cos() * dx + turn.sin() * dy, turn.cos() * dy - turn.sin() * dx
    cover = (0.5 - kind(x, y) * radius[:, None, None]).clamp(0, 1)[:, None]  # (n, 1, size, size)
    bright = color(u[:, 4], 0.6 * u[:, 5], 0.8 + 0.2 * u[:, 6])
    dark = color(u[:, 7], 0.7 * u[:, 8], 0.05 + 0.3 * u[:, 9])
    swap = u[:, 10:] < 0.3
    front, back = torch.where(swap, dark, bright), torch.where(swap, bright, dark)
    picture = torch.lerp(back[:, :, None, None], front[:, :, None, None], cover)
    return (picture * 255).round().byte()


def shapes(config: ShapesOptions, split: str) -> Images:
    """10,000 pictures to train on and the next 2,000 to test on; item i is of kind i % 10 and a pure function of i."""
    u = torch.rand(TRAIN + TEST, 11, generator=torch.Generator().manual_seed(key(0, "shapes", 0)))
    u = u[TRAIN:] if split == "test" else u[:TRAIN]
    images = torch.empty(len(u), 3, config.size, config.size, dtype=torch.uint8)
    for i, kind in enumerate(KINDS.values()):
        images[i :: len(KINDS)] = draw(kind, u[i :: len(KINDS)], config.size)
    return Images(
        images,
        torch.arange(len(u)) % len(KINDS),
        name="shapes",
        split=f"shapes/{split}, items {'10000 to 11999' if split == 'test' else '0 to 9999'}",
        class_names=tuple(KINDS),
        licence="none needed: drawn by the program",
    )
