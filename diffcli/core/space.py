"""Where a process lives: pixels, latents of an autoencoder, tokens. Training encodes on the way in, sampling decodes on the way out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

from diffcli.core.random import Rng


class Autoencoder(Protocol):
    """A method whose latents another method can live in."""

    @property
    def latent_bound(self) -> float | Tensor: ...

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor, rng: Rng) -> Tensor:
        """rng: a decoder that diffuses draws from its own purpose; others ignore it."""


class Space(ABC):
    """shape: of one x without the batch; classes: of the labels, 0 is none; bound: max |x_0|, None if there is none."""

    shape: tuple[int, ...]
    classes: int
    bound: float | None

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> x_0."""

    @abstractmethod
    def decode(self, x: Tensor, rng: Rng) -> Tensor:
        """x_0 -> images (B, C, H, W)."""


class Pixels(Space):
    """The images themselves."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        self.shape, self.classes, self.bound = shape, classes, 1.0

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, x: Tensor, rng: Rng) -> Tensor:
        return x


class Latents(Space):
    """The latents of a frozen autoencoder (Rombach et al. 2022); their shape is read off encode(zeros)."""

    def __init__(self, autoencoder: Autoencoder, pixels: Space):
        self.autoencoder, self.classes = autoencoder, pixels.classes
        parameters = autoencoder.parameters() if isinstance(autoencoder, nn.Module) else ()
        device = next((p.device for p in parameters), torch.device("cpu"))
        with torch.no_grad():
            self.shape = tuple(autoencoder.encode(torch.zeros(1, *pixels.shape, device=device)).shape[1:])
        self.bound = float(autoencoder.latent_bound)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        return self.autoencoder.encode(x)

    @torch.no_grad()
    def decode(self, x: Tensor, rng: Rng) -> Tensor:
        return self.autoencoder.decode(x, rng)


class Tokens(Space):
    """Images as sequences of `vocab` grey levels; image: (C, H, W) of the picture."""

    def __init__(self, shape: tuple[int, ...], classes: int, vocab: int = 2):
        self.image, self.classes, self.vocab = shape, classes, vocab
        channels, height, width = shape
        self.shape, self.bound = (channels * height * width,), None

    def encode(self, x: Tensor) -> Tensor:
        return ((x.flatten(1) + 1) / 2 * (self.vocab - 1)).round().long()

    def decode(self, x: Tensor, rng: Rng) -> Tensor:
        pictures: Tensor = (x.float() / (self.vocab - 1) * 2 - 1).unflatten(1, self.image)  # type: ignore[no-untyped-call]
        return pictures
