"""An autoencoder of pictures of any size that is known exactly: its latents are the means of 4x4 blocks."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from diffcli.core.space import Pixels
from diffcli.engine.assemble import Facts
from diffcli.engine.load import Model
from diffcli_vision.reconstruction import Reconstruction
from model_folders import model


class Mosaic(Reconstruction):
    any_size: ClassVar[bool] = True
    multiple = 4

    def __init__(self, channels: int):
        super().__init__()
        self.space, self.latent_shape = Pixels((channels, 16, 16), 0), (channels, 4, 4)
        self.gain = nn.Parameter(torch.ones(()), requires_grad=False)
        self.seen: list[tuple[int, ...]] = []  # shapes that were encoded

    def loss(self, batch, rng):
        raise NotImplementedError

    def encode(self, x):
        assert not any(side % 4 for side in x.shape[-2:])
        self.seen.append(tuple(x.shape))
        return self.gain * F.avg_pool2d(x, 4)

    def decode(self, z, rng=None):
        return F.interpolate(z, scale_factor=4)

    def trajectory(self, batch, shape, sampler, times, wrap, rng):
        x = self.decode(self.encode(batch.x) if batch.z is None else batch.z)
        assert tuple(x.shape[1:]) == tuple(shape)
        yield times[0], x
        yield times[-1], x


def mosaic(channels: int = 3) -> Model:
    """It, loaded."""
    facts = Facts("blocks", "all", (channels, 16, 16), 0, ())
    made = Mosaic(channels).eval()
    return Model(model().recipe, made, made.space, facts, torch.device("cpu"), "mosaic", 0, "ema", "")
