"""Images in memory: what every data set of this plugin is once it is read."""

from __future__ import annotations

import torch
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.random import Blocks, shuffled
from diffcli.core.space import Space
from diffcli.errors import DataError, show


class Images:
    """uint8 images and their classes on one device, batched by index and normalized there: (x/levels - 0.5)/0.5.

    images: (n, C, H, W) uint8, 0 ... levels; labels: (n,) in 0 ... classes - 1, or None where there are no classes.
    flip doubles the item numbers: n + i is item i, mirrored left to right. part: the address of the split in random
    numbers, where `split` holds what may change, such as the path of a folder.
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
        part: str = "",
    ):
        if len(images) < 2:
            raise DataError(f"{show(split)} has {len(images)} images, but a split needs 2 or more; give more images")
        self.images, self.labels = images.contiguous(), None if labels is None else labels.long()
        self.name, self.split, self.licence, self.part = name, split, licence, part or split
        self.shape: tuple[int, ...] = tuple(images.shape[1:])
        self.classes, self.class_names = len(class_names), class_names
        self.levels, self.flip = levels, flip

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fixed(self) -> bool:
        """Whether an item is the same picture in every epoch."""
        return not self.flip

    def to(self, device: torch.device | str) -> Images:
        """Moves the images; returns self."""
        self.images = self.images.to(device)
        self.labels = None if self.labels is None else self.labels.to(device)
        return self

    def items(self, seed: int, index: Tensor) -> Tensor:
        """Stream positions (B,) -> item numbers (B,), on the CPU: one permutation an epoch, a pure function of (seed, epoch)."""
        index = index.cpu()
        items = shuffled(seed, index, len(self))
        if self.flip:
            positions, place = index.unique(return_inverse=True)
            mirrored = Blocks(seed, positions, len(positions)).uniform("flip", ()) < 0.5
            items = items + len(self) * mirrored[place]
        return items

    def batch(self, items: Tensor, index: Tensor, space: Space) -> Batch:
        """The items, in `space`; index: their stream positions, which come back in the batch. All on the images' device."""
        device = self.images.device
        items = items.to(device, non_blocking=True)
        number = items % len(self)
        x = self.images[number].float().div_(self.levels).sub_(0.5).div_(0.5)
        if self.flip:
            x = torch.where((items >= len(self))[:, None, None, None], x.flip(-1), x)
        label = None if self.labels is None else self.labels[number]
        return Batch(index=index.to(device, non_blocking=True), x=space.encode(x), label=label)
