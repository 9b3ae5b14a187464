"""A small KL autoencoder and images for it."""

from __future__ import annotations

from functools import partial

import torch

from diffcli.core.method import Batch
from diffcli.core.random import Blocks
from diffcli.core.space import Pixels
from diffcli_vae import KLAutoencoderOptions, VAEOptions
from diffcli_vae.method import VAE
from diffcli_vae.network import KLAutoencoder

MNIST = (1, 28, 28)


def vae(shape=MNIST, *, kl_weight=1e-6, **model) -> VAE:
    """A small one, from a fixed seed."""
    space, options = Pixels(shape, 0), KLAutoencoderOptions(**{"channels": 8, **model})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VAE(VAEOptions(kl_weight=kl_weight), space, model=partial(KLAutoencoder, options, space))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shapes(n: int, size: int = 28, seed: int = 0) -> torch.Tensor:
    """(n, 1, size, size): discs of any place and size, bright on dark, in [-1, 1]."""
    u = torch.rand(n, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
    place = torch.arange(size) / (size - 1)
    away = torch.hypot(place[:, None] - (0.3 + 0.4 * u[:, 0]), place - (0.3 + 0.4 * u[:, 1]))
    return ((0.15 + 0.15 * u[:, 2] - away) * 20).clamp(-1, 1)[:, None]


def loss(method: VAE, x: torch.Tensor) -> dict[str, torch.Tensor]:
    index = torch.arange(len(x))
    return method.loss(Batch(index, x), Blocks(0, index, len(x)))
