"""The U-Nets of three libraries, of one size and as shipped: base 32, multipliers 1,2,4, 2 blocks a level, attention at 8x8.

Each is asked as ours is: net(x (B, C, 32, 32), c_noise (B,), cond) -> (B, C, 32, 32). What the size leaves open is as the
library has it: norms of 32 groups, heads of 8 or 32 channels or one; lucidrains has linear attention at the other levels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from diffcli.engine import parallel
from diffcli.engine.ema import EMA
from diffcli.engine.job import Job
from diffcli.engine.optimizer import optimizer_of
from diffcli.nn.vit import declare

BASE, MULTIPLIERS, BLOCKS, SIDE = 32, (1, 2, 4), 2, 32


class Asked(nn.Module):
    """A network of other manners."""

    def __init__(self, network: nn.Module, ask: Callable[[nn.Module, Tensor, Tensor], Tensor]):
        super().__init__()
        self.network, self.ask = network, ask

    def forward(self, x: Tensor, c_noise: Tensor, cond: Any) -> Tensor:
        return self.ask(self.network, x, c_noise)


def diffusers(channels: int) -> nn.Module:
    declare()
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=SIDE,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(BASE * m for m in MULTIPLIERS),
        layers_per_block=BLOCKS,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    return Asked(network, lambda net, x, c_noise: net(x, c_noise).sample)


def torchcfm(channels: int) -> nn.Module:
    from torchcfm.models.unet import UNetModel

    network = UNetModel(
        dim=(channels, SIDE, SIDE),
        num_channels=BASE,
        num_res_blocks=BLOCKS,
        channel_mult=MULTIPLIERS,
        attention_resolutions="8",
    )
    return Asked(network, lambda net, x, c_noise: net(c_noise, x))


def lucidrains(channels: int) -> nn.Module:
    declare()
    from denoising_diffusion_pytorch import Unet

    return Asked(Unet(dim=BASE, dim_mults=MULTIPLIERS, channels=channels), lambda net, x, c_noise: net(x, c_noise))


def placed(job: Job, name: str, seed: int = 0) -> Job:
    """The same training with a peer's network in the place of ours, begun from this seed as its library has it."""
    o = job.recipe.train
    torch.manual_seed(seed)
    network = UNETS[name](job.assembly.facts.shape[0]).to(job.device)
    if o.channels_last:
        network = network.to(memory_format=torch.channels_last)
    job.method.denoiser.net = network  # type: ignore[union-attr]
    job.ema, job.optimizer = EMA(job.method, o.ema), optimizer_of(job.method, o, job.device)
    job.step = parallel.Step(job.method)
    return job


def model() -> dict[str, Any]:
    """[model] of ours of the same size."""
    return {
        "name": "unet",
        "channels": BASE,
        "multipliers": list(MULTIPLIERS),
        "blocks": BLOCKS,
        "attention": [0, 0, 1],
    }


UNETS: dict[str, Callable[[int], nn.Module]] = {
    "diffusers": diffusers,
    "torchcfm": torchcfm,
    "lucidrains": lucidrains,
}
DISTRIBUTIONS = {"diffusers": "diffusers", "torchcfm": "torchcfm", "lucidrains": "denoising-diffusion-pytorch"}
