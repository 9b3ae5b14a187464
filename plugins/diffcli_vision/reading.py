"""Pictures that stay in their files until they are needed, and are read ahead by a few threads."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.random import onto
from diffcli.core.space import Space
from diffcli.errors import DataError, show
from diffcli_vision import PictureOptions
from diffcli_vision.datasets import mirrored
from diffcli_vision.inputs import UNREADABLE, decoded, middle, pixels

KEPT = 2**31  # bytes of pictures in memory at most, and an eighth of the machine's
AHEAD = 2**28  # bytes of pictures that are read ahead at most
PIECE = 16  # pictures that a thread takes at a time, at most
Seen = tuple[np.ndarray, int]  # (C, H, W) uint8, and the number of its class


class Source(Protocol):
    """Pictures by number, in files of their own or in shards."""

    def __len__(self) -> int: ...

    def order(self, seed: int, index: Tensor) -> Tensor:
        """Stream positions (B,) -> numbers (B,), on the CPU: each once an epoch, in an order of (seed, epoch) alone."""

    def read(self, number: int) -> tuple[Path | bytes, int]:
        """Where a picture is, or what it is, and the number of its class, -1 for none; called by several threads."""

    def label(self, number: int) -> int:
        """The number of a picture's class alone, -1 for none."""
        ...

    def called(self, number: int) -> str:
        """A picture's place in words."""


class Pictures:
    """The middle squares of pictures, read as they are needed: the same as `Images` of them, bit for bit.

    Item i is picture i; n + i is the same mirrored left to right, which flip asks for. A few threads read ahead of the
    batches that are asked for, and what is decoded is kept as far as there is `room`: neither changes any number. Files that
    cannot be read are told when they are met; with skip_bad the picture behind stands in for each.
    fixed is False although the middle square is one picture in every epoch: what does not fit in memory is not encoded at
    once either.
    """

    fixed, levels = False, 255

    def __init__(
        self,
        source: Source,
        config: PictureOptions,
        *,
        name: str,
        split: str,
        part: str,
        class_names: tuple[str, ...] = (),
        licence: str = "",
        flip: bool = False,
        room: int = 0,
    ):
        self.source, self.config, self.flip, self.room = source, config, flip, room
        self.name, self.split, self.part, self.licence = name, split, part, licence
        self.classes, self.class_names = len(class_names), class_names
        self.shape = (config.channels, config.size, config.size)
        self.device, self.lock, self.last = torch.device("cpu"), Lock(), 0
        self.kept: dict[int, tuple[Image.Image, int]] = {}
        self.ahead: dict[int, tuple[Future[list[Seen]], int]] = {}
        self.bad: set[int] = set()
        # once for all threads; the caps are below those of PIL's own warning of large pictures
        warnings.filterwarnings("ignore", module=r"PIL\.")
        if len(source) < 2:
            raise DataError(f"{split} has {len(source)} images, but a split needs 2 or more; give more images")

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.config.workers, "pictures")

    def to(self, device: torch.device | str) -> Pictures:
        """Batches are made there; the pictures stay in their files."""
        self.device = torch.device(device)
        return self

    def items(self, seed: int, index: Tensor) -> Tensor:
        """Stream positions (B,) -> item numbers (B,), on the CPU; those that come next are read meanwhile."""
        index = index.cpu()
        items, first = self.numbers(seed, index), int(index[0])
        stride, self.last = first - self.last, first  # a process of several takes its share of each batch
        if len(items) * int(np.prod(self.shape)) <= AHEAD:
            far = stride if len(items) <= stride <= 4096 * len(items) else len(items)
            self.ask(self.numbers(seed, index + far).tolist())
            self.forget(4 * len(items) + self.config.workers)
        return items

    def numbers(self, seed: int, index: Tensor) -> Tensor:
        """The items at these positions."""
        items = self.source.order(seed, index)
        return items + len(self) * mirrored(seed, index) if self.flip else items

    def ask(self, items: list[int]) -> None:
        """Have these read, those apart that are being read already."""
        new = [item for item in dict.fromkeys(items) if item not in self.ahead]
        step = max(1, min(PIECE, -(-len(new) // self.config.workers)))
        for k in range(0, len(new), step):
            piece = new[k : k + step]
            future = self.pool.submit(self.loaded, piece)
            self.ahead |= {item: (future, place) for place, item in enumerate(piece)}

    def forget(self, most: int) -> None:
        """What was asked for once and never fetched is dropped, the oldest first."""
        while len(self.ahead) > most:
            oldest = next(iter(self.ahead.values()))[0]
            oldest.cancel()
            self.ahead = {item: found for item, found in self.ahead.items() if found[0] is not oldest}

    def batch(self, items: Tensor, index: Tensor, space: Space) -> Batch:
        """The items, in `space`, on the device."""
        wanted = items.tolist()
        self.ask(wanted)
        futures = {item: self.ahead.pop(item) for item in dict.fromkeys(wanted)}
        read = {item: future.result()[place] for item, (future, place) in futures.items()}
        x = onto(torch.from_numpy(np.stack([read[item][0] for item in wanted])), self.device)
        x = x.float().div_(self.levels).sub_(0.5).div_(0.5)
        label = onto(torch.tensor([read[item][1] for item in wanted]), self.device)
        return Batch(onto(index, self.device), space.encode(x), label if self.classes else None)

    def loaded(self, items: list[int]) -> list[Seen]:
        """By one thread."""
        return [self.load(item) for item in items]

    def labels_of(self, items: Tensor) -> Tensor:
        """(B,) the classes of items, without a look at their pictures."""
        return torch.tensor([self.source.label(item % len(self)) for item in items.tolist()], dtype=torch.int64)

    def load(self, item: int) -> Seen:
        """(C, H, W) uint8 of an item, and its class."""
        draws, number = divmod(item, len(self))
        for candidate in self.readable(number):
            try:
                picture, label = self.picture(candidate)
            except UNREADABLE as error:
                self.refuse(candidate, show(error, 120))
                continue
            return self.seen(picture, draws), label
        raise DataError(f"{self.split} has no readable image left; look at its files")

    def readable(self, number: int) -> Iterator[int]:
        """The picture, then those behind it, but none that is known to be bad."""
        order = (n % len(self) for n in range(number, number + len(self)))
        return (n for n in order if n not in self.bad)

    def refuse(self, number: int, why: str) -> None:
        """DataError for a file that cannot be read, or a line about it and its place in the count."""
        told = unreadable(self.source.called(number), why)
        if not self.config.skip_bad:
            raise DataError(f"{told}; remove it, or count such files with --skip-bad")
        with self.lock:
            if number not in self.bad:
                self.bad.add(number)
                print(f"warning: {told}; {len(self.bad)} such, another picture in its place", file=sys.stderr)

    def picture(self, number: int) -> tuple[Image.Image, int]:
        """A whole picture and its class, from memory or from its file."""
        found = self.kept.get(number)
        if found is None:
            file, label = self.source.read(number)
            picture = decoded(file, self.config.channels)
            bytes_, found = picture.width * picture.height * self.config.channels, (picture, label)
            with self.lock:
                if number not in self.kept and bytes_ <= self.room:
                    self.kept[number] = found
                    self.room -= bytes_
        return found

    def seen(self, picture: Image.Image, draws: int) -> np.ndarray:
        """(C, H, W) uint8: the middle square; mirrored where draws is 1."""
        x = pixels(middle(picture, *self.shape[1:]), self.shape[0])
        return x[..., ::-1] if draws else x


def unreadable(called: str, why: str) -> str:
    """What is told of a bad file."""
    return f"{called} is no readable image: {why}"


def told(bad: list[str], n: int, *, skip: bool) -> None:
    """DataError for bad files, or a line of how many were skipped."""
    if bad and not skip:
        raise DataError(f"{bad[0]}; remove it, or count such files with --skip-bad")
    if bad:
        print(f"warning: {len(bad)} of {n} files skipped, the first: {bad[0]}", file=sys.stderr)


def room() -> int:
    """Bytes of pictures that may be kept in memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(min(KEPT, memory // 8))
