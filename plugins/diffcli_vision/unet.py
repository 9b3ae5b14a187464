"""The U-Net of Ho et al. 2020 (appendix B), small by default."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcli.core.denoiser import Cond
from diffcli.core.space import Space
from diffcli.nn.blocks import CrossAttention, Downsample, Norm, Residual, SelfAttention, Upsample, crop, pad
from diffcli.nn.embedding import LabelEmbedding, TimeEmbedding
from diffcli_vision import UNetOptions


class Stage(nn.Module):
    """Residual, then attention if asked for: over the map and, where there is a context of this width, over its tokens."""

    def __init__(self, inputs: int, outputs: int, config: UNetOptions, attention: bool, context: int = 0):
        super().__init__()
        self.residual = Residual(inputs, outputs, 4 * config.channels, config.dropout)
        self.attention = SelfAttention(outputs, config.head_channels) if attention else nn.Identity()
        crossed = attention and context > 0
        self.cross = CrossAttention(outputs, context, config.head_channels) if crossed else None

    def forward(self, x: Tensor, temb: Tensor, context: Tensor | None) -> Tensor:
        x = self.attention(self.residual(x, temb))
        return x if self.cross is None else self.cross(x, context)


class UNet(nn.Module):
    """net(x (B, inputs, H, W), c_noise (B,), cond) -> (B, outputs, H, W).

    Down: stages and strided convolutions, each output kept; middle; up: stages that each take one kept map back, the
    newest first. The picture is padded to a multiple of 2^(levels - 1) inside and cropped again. classes > 0 adds a
    class table to the time embedding, read with cond["label"]: -1 is the null label. A subclass may take the class
    otherwise; context: width of the tokens that its `context` makes of it, which are looked at after each attention.

    Forward and backward on one Zen 5 core, float32, B = 128, over the same network with nearest + conv3 and nothing in
    place: 0.89 of its CPU time at 1x8x8 (48 channels), 0.85 at 1x28x28 (32 channels); convolutions are 3/4 of the rest.
    bfloat16 autocast takes 0.79 and 0.56 of that.

    Training at 1x32x32 (32 channels, multipliers 1,2,4, 2 blocks, B = 128), images a CPU second and MiB over Python's own,
    medians of 5 interleaved rounds of benchmarks/peers/training.py on that core, shared with others:

                              float32         bfloat16
        as it is              38  2070 MiB    69  1110 MiB    diffusers' 33 and 36, torchcfm's 34 and 60
        --channels-last       40  1410 MiB    69   880 MiB    by nn.norm; by torch's own GroupNorm 0.75 in bfloat16

    and over the same without, in single runs: --accumulate 4 1.3 and 1.0; torch.compile with --channels-last 0.87 in
    bfloat16, after 200 s; --keep-memory (engine.memory) 1.2 to 1.5 and 1.05 to 1.1, as convolutions page in what they
    write. So maps are (B, C, H, W) unless asked: innermost channels save up to a third of the memory and hardly any time.

    It trains to no higher a loss: the mean of steps 301 to 400 of 16 images, three seeds of the same pictures, times and noise, is
    .1037 (.1042 in bfloat16), beside .1086 of diffusers' and .1104 of torchcfm's; each standard deviation is .002.
    """

    conditioning: ClassVar[str] = "embedding"  # how it is told the class

    def __init__(
        self, config: UNetOptions, space: Space, *, inputs: int, outputs: int, classes: int = 0, context: int = 0
    ):
        super().__init__()
        config = config.fit(space.shape)
        assert config.multipliers is not None and config.attention is not None
        base, width = config.channels, 4 * config.channels
        levels = [(base * m, bool(a)) for m, a in zip(config.multipliers, config.attention, strict=True)]
        last = len(levels) - 1
        self.multiple = 2**last
        self.time = TimeEmbedding(base)
        self.label = LabelEmbedding(classes, width) if classes else None

        self.stem = nn.Conv2d(inputs, base, 3, padding=1)
        skips, c = [base], base
        self.down = nn.ModuleList()
        for i, (channels, attention) in enumerate(levels):
            level = nn.ModuleList()
            for _ in range(config.blocks):
                level.append(Stage(c, channels, config, attention, context))
                c = channels
                skips.append(c)
            if i < last:
                level.append(Downsample(c))
                skips.append(c)
            self.down.append(level)

        self.middle = nn.ModuleList([Stage(c, c, config, True, context), Stage(c, c, config, False)])

        self.up = nn.ModuleList()
        for i, (channels, attention) in reversed(list(enumerate(levels))):
            level = nn.ModuleList()
            for _ in range(config.blocks + 1):
                level.append(Stage(c + skips.pop(), channels, config, attention, context))
                c = channels
            if i > 0:
                level.append(Upsample(c))
            self.up.append(level)

        self.norm, self.head = Norm(c), nn.Conv2d(c, outputs, 3, padding=1)

    def embed(self, c_noise: Tensor, cond: Cond) -> Tensor:
        """(B, 4 channels): time and class, activated once for all blocks."""
        temb = self.time(c_noise)
        if self.label is not None:
            temb = temb + self.label(cond["label"])
        return F.silu(temb)

    def context(self, cond: Cond) -> Tensor | None:
        """(B, tokens, width) that the attention of a subclass looks at."""
        return None

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        temb, context = self.embed(c_noise, cond), self.context(cond)
        x, box = pad(x, self.multiple)
        x = self.stem(x)
        skips = [x]
        for level in self.down:
            for part in level:
                x = part(x, temb, context) if isinstance(part, Stage) else part(x)
                skips.append(x)
        for stage in self.middle:
            x = stage(x, temb, context)
        for level in self.up:
            for part in level:
                x = part(torch.cat([x, skips.pop()], 1), temb, context) if isinstance(part, Stage) else part(x)
        return crop(self.head(self.norm.activated(x)), box)
