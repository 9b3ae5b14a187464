"""U-Nets that are told a class by concatenation or by cross-attention (Rombach et al. 2022, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond
from diffcli.core.space import Space
from diffcli.errors import UsageError
from diffcli.nn.embedding import LabelEmbedding
from diffcli_ldm import ConcatOptions, CrossOptions
from diffcli_vision.unet import UNet


class ConcatUNet(UNet):
    """The class is one more channel of the input: a learned map of (H, W) a class, of the scale of the latents.

    net(x (B, inputs, H, W), c_noise (B,), cond) -> (B, outputs, H, W), with cond["label"] (B,): -1 is the null class.
    """

    conditioning = "concat"

    def __init__(self, config: ConcatOptions, space: Space, *, inputs: int, outputs: int, classes: int = 0):
        needs_classes("unet-concat", classes)
        super().__init__(config, space, inputs=inputs + 1, outputs=outputs)
        self.table = LabelEmbedding(classes, 1, *space.shape[1:])  # N(0, 1), as are latents

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        return super().forward(torch.cat([x, self.table(cond["label"])], 1), c_noise, cond)


class CrossUNet(UNet):
    """The class is M tokens of `context_dim` numbers, which cross-attention looks at after each self-attention.

    net(x (B, inputs, H, W), c_noise (B,), cond) -> (B, outputs, H, W), with cond["label"] (B,): -1 is the null class.
    """

    conditioning = "cross-attention"

    def __init__(self, config: CrossOptions, space: Space, *, inputs: int, outputs: int, classes: int = 0):
        needs_classes("unet-cross", classes)
        super().__init__(config, space, inputs=inputs, outputs=outputs, context=config.context_dim)
        self.table = LabelEmbedding(classes, config.context_tokens, config.context_dim)  # N(0, 1)

    def context(self, cond: Cond) -> Tensor:
        return self.table(cond["label"])  # (B, M, context_dim)


def needs_classes(name: str, classes: int) -> None:
    """UsageError where a method brings none."""
    if not classes:
        raise UsageError(
            f"--model {name} is told a class, but the method learns none; use --cond label, or --model unet"
        )
