"""Where a process lives: pixels, latents of an autoencoder, tokens. Training encodes on the way in, sampling decodes on the way out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod
from typing import Protocol

import torch
from torch import Tensor, nn

from diffcli.core.random import Rng
from diffcli.errors import UsageError


class Autoencoder(Protocol):
    """A method whose latents another method can live in."""

    @property
    def latent_bound(self) -> float | Tensor: ...

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor, rng: Rng) -> Tensor:
        """rng: a decoder that diffuses draws from its own purpose; others ignore it."""


class Space(ABC):
    """Where x_0 lives.

    shape: of one x without the batch; classes: of the labels, 0 is none; bound: max |x_0|, None if there is none;
    blank: what a missing entry of x holds; rows: how many of x are evaluated at a time, which changes no result.
    """

    shape: tuple[int, ...]
    classes: int
    bound: float | None
    blank: int = 0
    rows: int = 250

    @property
    def layout(self) -> tuple[int, ...]:
        """The shape in which entries lie side by side as networks see them: (C, H, W) of a map, (L,) of a sequence."""
        return self.shape

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """What a data set holds, images (B, C, H, W) in [-1, 1] or sequences (B, L), -> x_0."""

    @abstractmethod
    def decode(self, x: Tensor, rng: Rng) -> Tensor:
        """x_0 -> what a data set holds."""

    def look(self, x: Tensor, rng: Rng) -> Tensor:
        """x at any time -> what can be looked at; as decode unless x may hold what data cannot."""
        return self.decode(x, rng)


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


class Masked(Space):
    """Sequences of `vocab` values, or [MASK] = vocab."""

    def __init__(self, shape: tuple[int, ...], classes: int, vocab: int):
        self.shape, self.classes, self.bound = shape, classes, None
        self.vocab = self.blank = vocab
        length = prod(shape)  # a row costs its log-probabilities and, in a transformer, every pair of tokens
        self.rows = max(1, min(Space.rows, 2**26 // (length * vocab), 2**28 // length**2))


PURPLE = (0.333, -0.6, -0.067)  # of [MASK] in pictures: the one colour that grey pictures do not have


class Tokens(Masked):
    """Images as sequences of `vocab` grey levels; image: (C, H, W) of the picture."""

    def __init__(self, image: tuple[int, ...], classes: int, vocab: int = 2):
        super().__init__((prod(image),), classes, vocab)
        self.image = image

    @property
    def layout(self) -> tuple[int, ...]:
        return self.image

    def encode(self, x: Tensor) -> Tensor:
        """vocab equal intervals of [-1, 1]; of two levels, 0 ... 127 of 255 are 0 and 128 ... 255 are 1."""
        return ((x.flatten(1) + 1) / 2 * self.vocab).long().clamp(0, self.vocab - 1)

    def decode(self, x: Tensor, rng: Rng) -> Tensor:
        pictures: Tensor = (x.float() / (self.vocab - 1) * 2 - 1).unflatten(1, self.image)  # type: ignore[no-untyped-call]
        return pictures

    def look(self, x: Tensor, rng: Rng) -> Tensor:
        """(B, 3, H, W): [MASK] is purple."""
        pictures = self.decode(x, rng)
        masked = (x == self.vocab).unflatten(1, self.image).any(1, keepdim=True)  # type: ignore[no-untyped-call]
        return torch.where(
            masked, pictures.new_tensor(PURPLE)[:, None, None], pictures[:, : 3 if self.image[0] >= 3 else 1]
        )


HIDDEN = "\u2591"  # of [MASK] in texts: a light shade


class Text(Masked):
    """Sequences of characters, as their numbers in `alphabet`."""

    def __init__(self, length: int, classes: int, alphabet: str):
        super().__init__((length,), classes, len(alphabet))
        self.alphabet = alphabet

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, x: Tensor, rng: Rng) -> Tensor:
        return x

    def read(self, text: str) -> Tensor:
        """(n,) int64: the numbers of its characters. UsageError names one that the alphabet lacks."""
        numbers = {character: number for number, character in enumerate(self.alphabet)}
        if unknown := [character for character in text if character not in numbers]:
            raise UsageError(
                f"{unknown[0]!r} is none of the {self.vocab} characters of the training text; leave it out"
            )
        return torch.tensor([numbers[character] for character in text], dtype=torch.int64)

    def write(self, x: Tensor) -> list[str]:
        """The texts of x (B, L); [MASK] is a shaded box."""
        characters = self.alphabet + HIDDEN
        return ["".join(characters[number] for number in row) for row in x.tolist()]
