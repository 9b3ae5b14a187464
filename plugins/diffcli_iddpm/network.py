"""The U-Net of Improved DDPM, with the blocks of BigGAN: scaled and shifted by time and class (Nichol and Dhariwal 2021)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcli.core.denoiser import Cond
from diffcli.core.space import Space
from diffcli.nn.attention import attention
from diffcli.nn.blocks import Downsample, Norm, Upsample, crop, pad
from diffcli.nn.embedding import LabelEmbedding, TimeEmbedding
from diffcli_iddpm import BigGANOptions

STD = 0.02  # of class rows, and of the weights of scale and shift: rows of N(0, 1) would drown the time
WIDE = 64  # channels of a head: 4 heads at 256 (Nichol and Dhariwal 2021, appendix A)


def still(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with zero weights: its branch begins as the identity, its output as zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class AdaGN(nn.Module):
    """(1 + scale) norm(x) + shift, [scale | shift] = Linear(emb) (Dhariwal and Nichol 2021, Eq. 3; SiLU is applied to emb before)."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.norm, self.linear = Norm(channels, affine=False), nn.Linear(width, 2 * channels)
        nn.init.normal_(self.linear.weight, std=STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.linear(emb)[..., None, None].chunk(2, 1)
        return torch.addcmul(shift, 1 + scale, self.norm(x))


class Residual(nn.Module):
    """x + conv(silu(AdaGN(conv(silu(AdaGN(x)))))), the last convolution zero at the start. emb: (B, width), SiLU already applied."""

    def __init__(self, inputs: int, outputs: int, width: int, dropout: float):
        super().__init__()
        self.norm1, self.conv1 = AdaGN(inputs, width), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = AdaGN(outputs, width), still(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x, emb), inplace=True))
        h = self.conv2(self.dropout(F.silu(self.norm2(h, emb), inplace=True)))
        return h + self.skip(x)


class SelfAttention(nn.Module):
    """x + conv1x1(attention(norm(x))) over the H*W positions, zero at the start; one head where `heads` do not divide.

    heads: None is one for each WIDE channels.
    """

    def __init__(self, channels: int, heads: int | None = None):
        super().__init__()
        heads = heads or max(1, channels // WIDE)
        self.heads = heads if channels % heads == 0 else 1
        self.norm, self.qkv = Norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = still(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.flatten(2).unflatten(1, (self.heads, -1)).mT for part in self.qkv(self.norm(x)).chunk(3, 1))
        h = attention(q, k, v).mT.flatten(1, 2).unflatten(2, x.shape[2:])  # (B, heads, HW, d) -> (B, C, H, W)
        return x + self.out(h)


class Stage(nn.Module):
    """Residual, then attention if asked for."""

    def __init__(self, inputs: int, outputs: int, config: BigGANOptions, attention: bool):
        super().__init__()
        self.residual = Residual(inputs, outputs, 4 * config.channels, config.dropout)
        self.attention = SelfAttention(outputs, config.heads) if attention else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.attention(self.residual(x, emb))


class Level(nn.Module):
    """The stages of one size of map, and the way to the next."""

    def __init__(self, stages: Iterable[Stage], resize: nn.Conv2d | None):
        super().__init__()
        self.stages, self.resize = nn.ModuleList(stages), resize


class BigGANUNet(nn.Module):
    """net(x (B, inputs, H, W), c_noise (B,), cond) -> (B, outputs, H, W).

    Skips of blocks: the stem, every stage and every strided convolution of the way down go to a stage of the way up, the
    newest first. Skips of levels: one map a level, to the first stage of that level. The class table has a null row, which is
    all there is of it without classes. The picture is padded to a multiple of 2^(levels - 1) inside and cropped again.
    """

    def __init__(self, config: BigGANOptions, space: Space, *, inputs: int, outputs: int, classes: int = 0):
        super().__init__()
        config = config.fit(space.shape)
        assert config.multipliers is not None and config.attention is not None
        base, width, blocks = config.channels, 4 * config.channels, config.blocks
        levels = [(base * m, bool(a)) for m, a in zip(config.multipliers, config.attention, strict=True)]
        last = len(levels) - 1
        self.multiple, self.every, self.classes = 2**last, config.skips == "block", classes
        self.time, self.label = TimeEmbedding(base), LabelEmbedding(classes, width)
        nn.init.normal_(self.label.weight, std=STD)

        self.stem = nn.Conv2d(inputs, base, 3, padding=1)
        kept, c = [base] if self.every else [], base
        self.down = nn.ModuleList()
        for i, (channels, attends) in enumerate(levels):
            stages = [Stage(c if k == 0 else channels, channels, config, attends) for k in range(blocks)]
            self.down.append(Level(stages, Downsample(channels) if i < last else None))
            kept += [channels] * (blocks + (i < last) if self.every else 1)
            c = channels

        self.middle = nn.ModuleList([Stage(c, c, config, True), Stage(c, c, config, False)])

        self.up = nn.ModuleList()
        for i, (channels, attends) in reversed(list(enumerate(levels))):
            stages = []
            for k in range(blocks + 1):
                taken = kept.pop() if self.every or k == 0 else 0
                stages.append(Stage(c + taken, channels, config, attends))
                c = channels
            self.up.append(Level(stages, Upsample(channels) if i > 0 else None))

        self.norm, self.head = Norm(c), still(nn.Conv2d(c, outputs, 3, padding=1))

    def embed(self, c_noise: Tensor, cond: Cond) -> Tensor:
        """(B, 4 channels): time and class, activated once for all blocks. No label is the null label, -1."""
        label = cond["label"] if self.classes and "label" in cond else torch.full_like(c_noise, -1, dtype=torch.long)
        return F.silu(self.time(c_noise) + self.label(label))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        emb = self.embed(c_noise, cond)
        x, box = pad(x, self.multiple)
        x = self.stem(x)
        kept = [x] if self.every else []
        for level in self.down:
            for stage in level.stages:
                x = stage(x, emb)
                kept += [x] if self.every else []
            kept += [] if self.every else [x]
            if level.resize is not None:
                x = level.resize(x)
                kept += [x] if self.every else []
        for stage in self.middle:
            x = stage(x, emb)
        for level in self.up:
            for k, stage in enumerate(level.stages):
                x = stage(torch.cat([x, kept.pop()], 1) if self.every or k == 0 else x, emb)
            x = x if level.resize is None else level.resize(x)
        return crop(self.head(F.silu(self.norm(x), inplace=True)), box)
