"""Images in memory: what every data set of this plugin is once it is read."""

from __future__ import annotations

import torch
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.random import Blocks, onto, shuffled
from diffcli.core.space import Space
from diffcli.errors import DataError, show


class Images:
    """uint8 images and their classes on one device, batched by index and normalized there: (x/levels - 0.5)/0.5.

    images: (n, C, H, W) uint8, 0 ... levels; labels: (n,) in 0 ... classes - 1, or None where there are no classes.
    An item's number says what is done to the picture: i is item i as it is, n + i the same mirrored left to right, which
    flip asks for. window: pixels a side of a part of each picture; its middle, or, with moving, the part that the number
    says: 2n (1 + k) + i and 2n (1 + k) + n + i for window k, row by row. part: the address of the split in random numbers,
    where `split` holds what may change, such as the path of a folder.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None,
        *,
        name: str,
        split: str,
        class_names: tuple[str, ...] = (),
        licence: str = "",
        levels: int = 255,
        flip: bool = False,
        window: int | None = None,
        moving: bool = False,
        part: str = "",
    ):
        if len(images) < 2:
            raise DataError(f"{show(split)} has {len(images)} images, but a split needs 2 or more; give more images")
        self.images, self.labels = images.contiguous(), None if labels is None else labels.long()
        self.name, self.split, self.licence, self.part = name, split, licence, part or split
        self.moving = moving and window is not None
        self.shape: tuple[int, ...] = tuple(images.shape[1:])
        if window is not None:
            self.shape = (self.shape[0], window, window)
        self.classes, self.class_names = len(class_names), class_names
        self.levels, self.flip = levels, flip

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fixed(self) -> bool:
        """Whether an item is the same picture in every epoch."""
        return not self.flip and not self.moving

    @property
    def places(self) -> tuple[int, int]:
        """Where a window may begin: rows and columns."""
        height, width = self.images.shape[2:]
        return height - self.shape[1] + 1, width - self.shape[2] + 1

    def to(self, device: torch.device | str) -> Images:
        """Moves the images; returns self."""
        self.images = self.images.to(device)
        self.labels = None if self.labels is None else self.labels.to(device)
        return self

    def items(self, seed: int, index: Tensor) -> Tensor:
        """Stream positions (B,) -> item numbers (B,), on the CPU: one permutation an epoch, a pure function of (seed, epoch)."""
        index = index.cpu()
        items = shuffled(seed, index, len(self))
        if self.fixed:
            return items
        if self.flip:
            items = items + len(self) * mirrored(seed, index)
        if self.moving:
            (rows, columns), u = self.places, drawn(seed, index, "crop", (2,))
            window = (u[:, 0] * rows).long() * columns + (u[:, 1] * columns).long()
            items = items + 2 * len(self) * (1 + window)
        return items

    def batch(self, items: Tensor, index: Tensor, space: Space) -> Batch:
        """The items, in `space`; index: their stream positions, which come back in the batch. All on the images' device."""
        device = self.images.device
        items = onto(items, device)
        number = items % len(self)
        x = self.seen(number, items // (2 * len(self))).float().div_(self.levels).sub_(0.5).div_(0.5)
        if self.flip:
            x = torch.where((items // len(self) % 2 == 1)[:, None, None, None], x.flip(-1), x)
        label = None if self.labels is None else self.labels[number]
        return Batch(index=onto(index, device), x=space.encode(x), label=label)

    def seen(self, number: Tensor, window: Tensor) -> Tensor:
        """(B, C, H, W) uint8: the windows of these pictures, 0 the middle one."""
        (rows, columns), (channels, height, width) = self.places, self.shape
        if rows == columns == 1:
            return self.images[number]
        window = torch.where(window == 0, (rows - 1) // 2 * columns + (columns - 1) // 2, window - 1)
        down = (window // columns)[:, None] + torch.arange(height, device=window.device)  # (B, H)
        right = (window % columns)[:, None] + torch.arange(width, device=window.device)  # (B, W)
        channel = torch.arange(channels, device=window.device)[:, None, None]
        return self.images[number[:, None, None, None], channel, down[:, None, :, None], right[:, None, None, :]]


def drawn(seed: int, index: Tensor, purpose: str, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) in [0, 1): of these stream positions, in any order."""
    positions, place = index.unique(return_inverse=True)
    return Blocks(seed, positions, len(positions)).uniform(purpose, shape)[place]


def mirrored(seed: int, index: Tensor) -> Tensor:
    """(B,) bool: whether the picture at each of these stream positions is mirrored."""
    return drawn(seed, index, "flip", ()) < 0.5
