"""Networks of masked diffusion: net(x_t (B, L), c_noise (B,), cond) -> logits (B, L, V)."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcli.core.denoiser import Cond
from diffcli.core.space import Masked, Pixels
from diffcli.nn.attention import attention
from diffcli.nn.embedding import LabelEmbedding, rotary, rotate
from diffcli_mdlm import MaskTransformerOptions
from diffcli_vision import UNetOptions
from diffcli_vision.unet import UNet


class MaskUNet(nn.Module):
    """A U-Net on two planes for each plane of the picture: the revealed values in [-1, 1], 0 where masked; and the mask.

    Of two values one logit l is predicted, log p(1) = logsigmoid(l); of more a logit each. The time input is c_noise.
    """

    def __init__(self, config: UNetOptions, space: Masked, *, classes: int = 0):
        super().__init__()
        self.layout, self.vocab = space.layout, space.vocab
        self.planes = 1 if space.vocab == 2 else space.vocab  # logits of a token
        channels = self.layout[0]
        picture = Pixels(self.layout, classes)
        self.unet = UNet(config, picture, inputs=2 * channels, outputs=channels * self.planes, classes=classes)

    def forward(self, x_t: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        masked = x_t == self.vocab
        value = torch.where(masked, 0.0, x_t * (2 / (self.vocab - 1)) - 1)
        planes = torch.cat([part.float().unflatten(1, self.layout) for part in (value, masked)], 1)  # (B, 2C, H, W)
        logits = self.unet(planes, c_noise, cond).float()
        logits = logits.unflatten(1, (self.planes, -1)).flatten(2).mT  # (B, L, planes)
        return F.pad(logits, (1, 0)) if self.vocab == 2 else logits  # softmax of (0, l) is the sigmoid of l


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): pre-norm (Xiong et al. 2020), GELU, four times the width."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))  # (B, L, 3, heads, d)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        q, k = rotate(q, turn), rotate(k, turn)
        x = x + self.dropout(self.out(attention(q, k, v).transpose(1, 2).flatten(2)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class MaskTransformer(nn.Module):
    """Bidirectional transformer (Vaswani et al. 2017) with learned positions and a head that begins at zero.

    Attention is rotary as well (Su et al. 2021; so is the network of Sahoo et al. 2024): it adds no parameter, and on
    characters the loss leaves that of single letters after 60 steps, not after 200. It reads no time: what is masked says
    all of it. A class is added to every token.
    """

    def __init__(self, config: MaskTransformerOptions, space: Masked, *, classes: int = 0):
        super().__init__()
        length, width = prod(space.layout), config.width
        self.table = nn.Embedding(space.vocab + 1, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.register_buffer("turn", rotary(length, width // config.heads), persistent=False)
        self.label = LabelEmbedding(classes, width) if classes else None
        self.blocks = nn.ModuleList(Block(width, config.heads, config.dropout) for _ in range(config.depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, space.vocab)
        nn.init.normal_(self.table.weight, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x_t: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        x = self.table(x_t) + self.position
        if self.label is not None:
            x = x + self.label(cond["label"])[:, None]
        for block in self.blocks:
            x = block(x, self.turn)
        return self.head(self.norm(x))
