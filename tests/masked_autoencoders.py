"""A small masked diffusion autoencoder and images for it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.random import Blocks, Rows
from diffcli.core.space import Pixels
from diffcli.schedules.logsnr import LogSNRCosine
from diffcli.testing.network import awake
from diffcli_mdiffae import DiCoOptions, MDiffAEOptions
from diffcli_mdiffae.method import MDiffAE
from diffcli_mdiffae.network import DiCoAutoencoder

TINY = {"patch_size": 4, "width": 32, "encoder_depth": 2, "decoder_depth": 2, "latent_channels": 8}
TINY |= {"kernel": 3, "mlp_ratio": 2, "adaln_rank": 8}
SKIP = {**TINY, "topology": "skip", "decoder_depth": 4}
SHAPE = (3, 16, 24)


def network(shape: tuple[int, ...] = SHAPE, options: dict[str, Any] | None = None, **more: Any) -> DiCoAutoencoder:
    """The tiny one, from a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = DiCoOptions(**{**(TINY if options is None else options), **more})
        return DiCoAutoencoder(config, Pixels(shape, 0), inputs=shape[0], outputs=shape[0])


def bare(shape: tuple[int, ...] = (3, 256, 256), **options: Any) -> DiCoAutoencoder:
    """One of any size, without its numbers."""
    with torch.device("meta"):
        return DiCoAutoencoder(DiCoOptions(**options), Pixels(shape, 0), inputs=shape[0], outputs=shape[0])


def mdiffae(
    shape: tuple[int, ...] = SHAPE, options: dict[str, Any] | None = None, *, asleep: bool = False, **method: Any
) -> MDiffAE:
    """The tiny one, from a fixed seed, in evaluation mode; its layers that begin at zero are drawn, unless asleep."""
    model, space = {**(TINY if options is None else options)}, Pixels(shape, 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = MDiffAE(
            MDiffAEOptions(**method),
            space,
            model=partial(DiCoAutoencoder, DiCoOptions(**model), space),
            process=LogSNRCosine(noise_std=0.558),
        )
    return (made if asleep else awake(made)).eval()  # type: ignore[return-value]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows(n: int, seed: int = 0) -> Rows:
    return Rows(seed, torch.arange(n), n)


def blocks(n: int, seed: int = 0) -> Blocks:
    return Blocks(seed, torch.arange(n), n)


def batch(x: Tensor) -> Batch:
    return Batch(torch.arange(len(x)), x)


def told(method: MDiffAE, x: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """What the decoder is told of images in training."""
    with torch.no_grad():
        return method.train().cond(batch(x), blocks(len(x), seed))
