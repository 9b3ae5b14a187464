"""The parts that convolutional networks are built of. Maps are (B, C, H, W)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcli.nn.attention import attention
from diffcli.nn.norm import channels_innermost, group_norm

Box = tuple[int, int, int, int]  # top, left, height, width of the picture inside a padded map


def pad(x: Tensor, multiple: int) -> tuple[Tensor, Box]:
    """x padded evenly to sides that `multiple` divides, an odd pixel more at the right and bottom; and where x lies in it.

    Reflected at the border, so that the network sees no edge; repeated where the map is too small to reflect.
    """
    height, width = x.shape[-2:]
    down, right = -height % multiple, -width % multiple
    top, left = down // 2, right // 2
    if down or right:
        mode = "reflect" if down - top < height and right - left < width else "replicate"
        x = F.pad(x, (left, right - left, top, down - top), mode=mode)
    return x, (top, left, height, width)


def crop(x: Tensor, box: Box) -> Tensor:
    """The inverse of pad."""
    top, left, height, width = box
    return x[..., top : top + height, left : left + width]


class Chain(nn.ModuleList):
    """Modules, one after the other. Unlike a Sequential, each is a block of the network by itself: see engine.parallel."""

    def forward(self, x: Tensor) -> Tensor:
        for each in self:
            x = each(x)
        return x


class Norm(nn.GroupNorm):
    """Group normalization (Wu and He 2018) with at least 4 channels a group, at most 32 groups.

    Fewer channels a group would normalize away the time embedding, which is one number a channel.
    """

    def __init__(self, channels: int, affine: bool = True):
        most = max(1, min(32, channels // 4))
        super().__init__(max(g for g in range(1, most + 1) if channels % g == 0), channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return group_norm(x, self, silu=False) if channels_innermost(x) else super().forward(x)

    def activated(self, x: Tensor) -> Tensor:
        """silu(norm(x)): in place, as no backward pass needs the norm itself, or in one."""
        return group_norm(x, self, silu=True) if channels_innermost(x) else F.silu(super().forward(x), inplace=True)


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + Linear(temb)))): the block of Ho et al. 2020, appendix B.

    temb: (B, width), SiLU already applied, as all blocks share it.
    """

    def __init__(self, inputs: int, outputs: int, width: int, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.conv1 = Norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(width, outputs)
        self.norm2, self.conv2 = Norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        # In place where no backward pass needs the old value: a fresh map of some MB costs page faults, not arithmetic.
        h = self.conv1(self.norm1.activated(x))
        h += self.time(temb)[:, :, None, None]
        h = self.conv2(self.dropout(self.norm2.activated(h)))
        h += self.skip(x)
        return h


class SelfAttention(nn.Module):
    """x + Linear(attention(norm(x))) over the H*W positions, heads of `head_channels`; one head where they do not divide."""

    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        self.heads = channels // head_channels if channels % head_channels == 0 else 1
        self.norm = Norm(channels)
        self.q, self.k, self.v, self.out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (pointwise(h, part).flatten(2).unflatten(1, (self.heads, -1)).mT for part in (self.q, self.k, self.v))
        h = attention(q, k, v).mT.flatten(1, 2).unflatten(2, x.shape[2:])  # (B, heads, HW, d) -> (B, C, H, W)
        return x + pointwise(h, self.out)


class CrossAttention(nn.Module):
    """x + Linear(attention(norm(x), context)): queries of the H*W positions, keys and values of the tokens of a context.

    context: (B, M, width) (Rombach et al. 2022, section 3.3). With one token its weight is 1 at every position: the same
    vector is added everywhere, and queries and keys are never trained.
    """

    def __init__(self, channels: int, width: int, head_channels: int):
        super().__init__()
        self.heads = channels // head_channels if channels % head_channels == 0 else 1
        self.norm = Norm(channels)
        self.q, self.k, self.v = nn.Linear(channels, channels), nn.Linear(width, channels), nn.Linear(width, channels)
        self.out = nn.Linear(channels, channels)

    def split(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, heads, HW, d), k and v (B, heads, M, d)."""
        q = pointwise(self.norm(x), self.q).flatten(2).unflatten(1, (self.heads, -1)).mT
        k, v = (part(context).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.k, self.v))
        return q, k, v

    def weights(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, heads, HW, M): how much each position looks at each token; they add up to 1."""
        q, k, _ = self.split(x, context)
        return ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = attention(*self.split(x, context)).mT.flatten(1, 2).unflatten(2, x.shape[2:])  # (B, C, H, W)
        return x + pointwise(h, self.out)


def pointwise(x: Tensor, linear: nn.Linear) -> Tensor:
    """A Linear over channels as a 1x1 convolution: no transpose, and faster than a matrix product on most CPUs."""
    return F.conv2d(x, linear.weight[:, :, None, None], linear.bias)


class Downsample(nn.Conv2d):
    """conv3 with stride 2: (H, W) -> (H/2, W/2)."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, stride=2, padding=1)


class Upsample(nn.Conv2d):
    """Nearest x2, then conv3: (H, W) -> (2H, 2W).

    Computed as one transposed convolution with a 4x4 kernel made of sums of the 3x3 one: 16 products for 36, and no
    enlarged map between; the same to rounding.
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        kernel = spread(spread(self.weight, 2), 3).transpose(0, 1)  # (in, out, 4, 4)
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


def spread(w: Tensor, dim: int) -> Tensor:
    """Three taps on an image enlarged by 2 -> four taps that the small image's pixels send to the large one's."""
    a, b, c = w.unbind(dim)
    return torch.stack([c, b + c, a + b, a], dim)
