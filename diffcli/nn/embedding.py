"""Numbers and classes as vectors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(c_noise: Tensor, width: int) -> Tensor:
    """[sin(c f_k) | cos(c f_k)] with f_k = 10000^(-k/half), half = width/2 (Vaswani et al. 2017, section 3.5).

    c_noise: (B,), at the scale 0 ... 1000 -> (B, width) float32.
    """
    half = width // 2
    f = torch.exp(torch.arange(half, device=c_noise.device) * (-math.log(10000) / half))
    angle = c_noise.float()[:, None] * f  # (B, half)
    return torch.cat([angle.sin(), angle.cos()], 1)


class TimeEmbedding(nn.Module):
    """The sinusoid of c_noise through Linear, SiLU, Linear: (B,) -> (B, 4 width)."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, 4 * width)

    def forward(self, c_noise: Tensor) -> Tensor:
        x = sinusoid(c_noise, self.width).to(self.first.weight.dtype)
        return self.second(F.silu(self.first(x)))


def rotary(length: int, width: int) -> Tensor:
    """(2, length, width/2): cosine and sine of position x 10000^(-2k/width) (Su et al. 2021, Eq. 15)."""
    f = torch.exp(torch.arange(width // 2) * (-2 * math.log(10000) / width))
    angle = torch.arange(length)[:, None] * f
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Queries or keys (B, heads, L, d) turned by their positions, so that their products know the distance alone."""
    cos, sin = turn.to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class LabelEmbedding(nn.Embedding):
    """A row a class, after row 0 for the null label -1: (B,) int64 -> (B, *shape)."""

    def __init__(self, classes: int, *shape: int):
        super().__init__(classes + 1, math.prod(shape))
        self.shape = shape

    def forward(self, label: Tensor) -> Tensor:
        return super().forward(label + 1).unflatten(1, self.shape)
