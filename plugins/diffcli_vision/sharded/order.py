"""An order of pictures in shards that needs the memory of a few shards, however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from diffcli.core.random import key, permutation


class Windows:
    """Each epoch permutes the shards, then the pictures of each `width` shards that lie side by side now.

    A position of the stream -> a picture's number, counted through the shards as they are given: a pure function of
    (seed, epoch, position), so that a resume and the share of any process need no state. Two numbers a shard and one a
    picture of a window are held. Up to `width` shards are one window: every order is then as likely as another.
    """

    def __init__(self, counts: Sequence[int], width: int):
        """counts: pictures of each shard."""
        self.counts, self.width = torch.tensor(counts, dtype=torch.int64), width
        self.first = self.counts.cumsum(0) - self.counts  # the number of each shard's first picture
        self.total = int(self.counts.sum())
        self.plan, self.window = lru_cache(maxsize=2)(self._plan), lru_cache(maxsize=3)(self._window)

    def _plan(self, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """(shards in their order, where in the epoch each window begins)."""
        shards = permutation(seed, "shards", epoch, len(self.counts))
        before = self.counts[shards].cumsum(0) - self.counts[shards]
        return shards, before[:: self.width].contiguous()

    def _window(self, seed: int, epoch: int, number: int) -> Tensor:
        """(m,) the pictures of a window, in their order."""
        chosen = self.shards(seed, epoch, number)
        pictures = torch.cat([torch.arange(int(self.counts[s])) + self.first[s] for s in chosen])
        generator = torch.Generator().manual_seed(key(seed, "window", epoch, number))
        return pictures[torch.randperm(len(pictures), generator=generator)]

    def shards(self, seed: int, epoch: int, number: int) -> list[int]:
        """Those of a window; none behind the last."""
        shards: list[int] = self.plan(seed, epoch)[0][number * self.width : (number + 1) * self.width].tolist()
        return shards

    def places(self, seed: int, index: Tensor) -> list[tuple[int, int]]:
        """(epoch, window) of these positions, each once, sorted."""
        found = set()
        for epoch in (index // self.total).unique().tolist():
            place = index[index // self.total == epoch] % self.total
            begins = self.plan(seed, epoch)[1]
            found |= {(epoch, w) for w in (torch.searchsorted(begins, place, right=True) - 1).unique().tolist()}
        return sorted(found)

    def items(self, seed: int, index: Tensor) -> Tensor:
        """Positions (B,) -> numbers of pictures (B,), on the CPU."""
        index = index.cpu()
        items, epochs, place = torch.empty_like(index), index // self.total, index % self.total
        for epoch, number in self.places(seed, index):
            begins = self.plan(seed, epoch)[1]
            rows = (epochs == epoch) & (torch.searchsorted(begins, place, right=True) - 1 == number)
            items[rows] = self.window(seed, epoch, number)[place[rows] - begins[number]]
        return items
