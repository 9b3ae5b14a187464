"""Randomness by address: a number is a pure function of (seed, purpose, position), never of a global stream.

So ranks, workers, the split of a batch and a resume cannot change a result. All numbers are drawn on the CPU, whose
streams are the same on every machine, and moved to where the rows live.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from hashlib import blake2b
from math import prod

import torch
from torch import Tensor

Fill = Callable[..., Tensor]  # torch.randn or torch.rand


def key(seed: int, purpose: str, *numbers: int) -> int:
    """A 32-bit seed, a pure function of its address.

    The last number is added, the others are hashed. torch's CPU generator reads 32 bits of a seed, so hashes of 50,000
    images would hold an equal pair with probability 1/4 (birthday bound); neighbours never do.
    """
    *address, last = numbers
    digest = blake2b(repr((seed, purpose, address)).encode(), digest_size=4).digest()
    return (int.from_bytes(digest, "little") + last) % 2**32


@lru_cache(maxsize=4)
def permutation(seed: int, purpose: str, number: int, n: int) -> Tensor:
    """(n,) a permutation of 0..n-1, a pure function of its address."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(key(seed, purpose, number)))


def shuffled(seed: int, index: Tensor, n: int) -> Tensor:
    """Positions of the endless sample stream -> items 0..n-1: every item once an epoch, in an order of (seed, epoch) alone."""
    epoch, place = index.cpu() // n, index.cpu() % n
    items = torch.empty_like(place)
    for number in range(int(epoch.min()), int(epoch.max()) + 1):
        rows = epoch == number
        items[rows] = permutation(seed, "order", number, n)[place[rows]]
    return items.to(index.device)


def onto(t: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; the host does not wait for what the device still does."""
    if device.type == "cuda" and not t.is_cuda:
        t = t.pin_memory()  # the copy of a page that may be swapped is a wait
    return t.to(device, non_blocking=True)


class Rng(ABC):
    """Named streams of numbers for the rows of one batch; row i depends on its address alone.

    The n-th normal or uniform draw of a purpose differs from the first, so a loss may draw twice; its strata are one law.
    """

    def __init__(self, seed: int, index: Tensor, total: int, *, device: torch.device | None = None):
        """index: (B,) int64, ascending in training; total: the global batch in training, the number of images in evaluation;
        device: where the numbers go, unset is where the index is."""
        self.seed, self.total, self.device = seed, total, device or index.device
        self.index = index.cpu()

    def normal(self, purpose: str, shape: Iterable[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, *shape) standard normal."""
        return onto(self.draw(purpose, tuple(shape), dtype, torch.randn), self.device)

    def uniform(self, purpose: str, shape: Iterable[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """(B, *shape) in [0, 1)."""
        return onto(self.draw(purpose, tuple(shape), dtype, torch.rand), self.device)

    def everyone(self, rows: Tensor) -> Tensor:
        """The rows (B, *) of all processes that share a batch, where each has its own; here those of this one."""
        return rows

    @abstractmethod
    def draw(self, purpose: str, shape: tuple[int, ...], dtype: torch.dtype, fill: Fill) -> Tensor:
        """(B, *shape) on the CPU, by `fill`."""

    @abstractmethod
    def strata(self, purpose: str) -> Tensor:
        """(B,) float64 in (0, 1) on the CPU, one value in each of `total` equal intervals. The time of every loss is a function of it."""


class Blocks(Rng):
    """Training: one generator for a block of positions of the endless sample stream, seeded by (seed, purpose, call, block).

    A block is 16 images, or as many small draws as make 1024 numbers: addressing then costs microseconds. gather: see
    `everyone`.
    """

    def __init__(
        self,
        seed: int,
        index: Tensor,
        total: int,
        gather: Callable[[Tensor], Tensor] | None = None,
        *,
        device: torch.device | None = None,
    ):
        super().__init__(seed, index, total, device=device)
        self.gather = gather
        self.calls: Counter[str] = Counter()
        self.generator = torch.Generator()

    def everyone(self, rows: Tensor) -> Tensor:
        return rows if self.gather is None else self.gather(rows)

    def draw(self, purpose: str, shape: tuple[int, ...], dtype: torch.dtype, fill: Fill) -> Tensor:
        call, self.calls[purpose] = self.calls[purpose], self.calls[purpose] + 1
        size = max(16, 1024 // max(1, prod(shape)))
        first, last = int(self.index[0]) // size, int(self.index[-1]) // size
        out = torch.empty(((last - first + 1) * size, *shape), dtype=dtype)
        for block, rows in zip(range(first, last + 1), out.split(size), strict=True):
            self.generator.manual_seed(key(self.seed, purpose, call, block))
            fill(rows.shape, dtype=dtype, generator=self.generator, out=rows)
        return out[self.index - first * size]

    def strata(self, purpose: str) -> Tensor:
        """Position in the global batch plus one shift that all its rows share."""
        self.generator.manual_seed(key(self.seed, purpose, int(self.index[0]) // self.total))
        shift = torch.rand((), dtype=torch.float64, generator=self.generator).clamp(1e-9, 1 - 1e-9)
        return (self.index % self.total + shift) / self.total


class Rows(Rng):
    """Sampling and evaluation: one generator an image and purpose, seeded by (seed, purpose, image)."""

    @cached_property
    def streams(self) -> dict[str, list[torch.Generator]]:
        return {}

    def draw(self, purpose: str, shape: tuple[int, ...], dtype: torch.dtype, fill: Fill) -> Tensor:
        if purpose not in self.streams:
            images = self.index.tolist()
            self.streams[purpose] = [torch.Generator().manual_seed(key(self.seed, purpose, i)) for i in images]
        out = torch.empty((len(self.index), *shape), dtype=dtype)
        for row, generator in zip(out, self.streams[purpose], strict=True):
            fill(shape, dtype=dtype, generator=generator, out=row)
        return out

    def strata(self, purpose: str) -> Tensor:
        """(pi(i) + 1/2) / total with one permutation pi, fixed by the seed."""
        generator = torch.Generator().manual_seed(key(self.seed, purpose, 0))
        order = torch.randperm(self.total, generator=generator)
        return (order[self.index % self.total].double() + 0.5) / self.total
