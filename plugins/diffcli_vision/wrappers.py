"""Data sets seen through what is done to them: greys drawn as black and white, entries gone missing."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.random import Rows, onto
from diffcli.core.space import Pixels, Space
from diffcli.errors import UsageError

Binarization = Literal["threshold", "static", "dynamic"]


class View:
    """A data set as another one shows it: the same items, and the same facts under a longer name.

    dataset: any data set. It may say `part`, the address of its split in random numbers, where `split` holds what may
    change, such as the path of a folder.
    """

    def __init__(self, dataset: Any, done: str):
        self.dataset, self.name, self.split = dataset, dataset.name, f"{dataset.split}, {done}"
        self.part: str = getattr(dataset, "part", dataset.split)
        self.shape: tuple[int, ...] = tuple(dataset.shape)
        self.classes, self.class_names = dataset.classes, tuple(dataset.class_names)
        self.alphabet: str = getattr(dataset, "alphabet", "")
        self.licence: str = getattr(dataset, "licence", "")
        self.levels: int = getattr(dataset, "levels", 255)
        self.flip: bool = getattr(dataset, "flip", False)

    def __len__(self) -> int:
        return len(self.dataset)

    def to(self, device: torch.device | str) -> Any:
        """Moves the data; returns self."""
        self.dataset = self.dataset.to(device)
        return self

    def items(self, seed: int, index: Tensor) -> Tensor:
        """Stream positions (B,) -> item numbers (B,)."""
        items: Tensor = self.dataset.items(seed, index)
        return items


class Binarized(View):
    """Images of -1 and 1, of images whose pixels p in [0, 1] are greys; each channel for itself.

    threshold: 1 where p >= 1/2, so that of 0 ... 255 all above 127 are white. static: one Bernoulli(p) draw fixed by
    (seed, split, item) (Salakhutdinov and Murray 2008). dynamic: in training a new draw at each access, fixed by (seed,
    position in the stream); elsewhere the static one. Nats of different protocols cannot be compared: `split` names it.
    """

    def __init__(self, dataset: Any, protocol: Binarization, seed: int = 0, *, training: bool = False):
        if len(dataset.shape) != 3:
            raise UsageError(f"{dataset.name} has no pictures that could be binarized; take a data set of images")
        if protocol == "dynamic" and not training:
            protocol = "static"
        black = (getattr(dataset, "levels", 255) - 1) // 2  # the lightest grey that is black
        bounds: dict[Binarization, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
            "threshold": (self.half, f"by threshold at {black}"),
            "static": (self.fixed, f"statically, seed {seed}"),
            "dynamic": (self.fresh, f"dynamically, seed {seed}"),
        }
        self.bound, done = bounds[protocol]
        super().__init__(dataset, f"binarized {done}")
        self.seed, self.protocol, self.levels = seed, protocol, 1
        self.pixels = Pixels(self.shape, self.classes)

    def batch(self, items: Tensor, index: Tensor, space: Space) -> Batch:
        """The items, in `space`."""
        batch: Batch = self.dataset.batch(items, index, self.pixels)
        white = (batch.x + 1) / 2 > onto(self.bound(items.cpu(), index), batch.x.device)
        return batch._replace(x=space.encode(torch.where(white, 1.0, -1.0)))

    def half(self, items: Tensor, index: Tensor) -> Tensor:
        """1/2, less what normalizing to [-1, 1] rounds off."""
        return torch.tensor(0.5 - 1e-6)

    def fixed(self, items: Tensor, index: Tensor) -> Tensor:
        """Uniform numbers (B, C, H, W) of the items, mirrored where the image is."""
        n = len(self)
        u = Rows(self.seed, items % n, n).uniform(f"static {self.part}", self.shape, torch.float32)
        return torch.where((items >= n)[:, None, None, None], u.flip(-1), u) if self.flip else u

    def fresh(self, items: Tensor, index: Tensor) -> Tensor:
        """Uniform numbers (B, C, H, W) of the positions in the stream."""
        return Rows(self.seed, index.cpu(), len(self)).uniform(f"dynamic {self.part}", self.shape, torch.float32)


class Corrupted(View):
    """A data set of which a share `missing` can never be seen: batches say in `known` what is there, and hold blanks elsewhere.

    Each entry of x is missing on its own, with equal probability (MCAR); which ones is fixed by (seed, split, item), and so
    the same in every epoch and batch. An item has no mirrored or shifted twins here: together they would show more of it.
    """

    def __init__(self, dataset: Any, missing: float, seed: int = 0):
        if not 0 <= missing < 1:
            percent = missing if 1 < missing < 100 else 90
            raise UsageError(
                f"missing is {missing:g}, but missing is a fraction: for {percent:g} % write {percent / 100:g}"
            )
        super().__init__(dataset, f"{100 * missing:g} % missing (seed {seed})")
        self.missing, self.seed, self.flip = missing, seed, False

    def items(self, seed: int, index: Tensor) -> Tensor:
        return super().items(seed, index) % len(self)

    def batch(self, items: Tensor, index: Tensor, space: Space) -> Batch:
        """The items, in `space`, with `known` (B, *space.shape); x is space.blank where it is False."""
        items = items % len(self)
        batch: Batch = self.dataset.batch(items, index, space)
        known = onto(self.known(items, space.shape), batch.x.device)
        return batch._replace(x=torch.where(known, batch.x, space.blank), known=known)

    def known(self, items: Tensor, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) bool, on the CPU: what is there. Equal for shapes of as many entries."""
        u = Rows(self.seed, items.cpu(), len(self)).uniform(f"missing {self.part}", (prod(shape),), torch.float32)
        return (u >= self.missing).reshape(-1, *shape)

    def rate(self) -> float:
        """The share that is missing in the first 256 items."""
        return 1 - float(self.known(torch.arange(min(256, len(self))), self.shape).double().mean())
