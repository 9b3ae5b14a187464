"""Pictures that stay in their files until they are needed, each time another part of them."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from random import Random
from threading import Lock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.random import key, shuffled
from diffcli.core.space import Space
from diffcli.errors import DataError, show
from diffcli_vision import FolderOptions
from diffcli_vision.inputs import UNREADABLE, capped, decoded, middle, pixels

KEPT = 2**31  # bytes of pictures in memory at most, and an eighth of the machine's
AREA, LEAN, TRIES = (0.2, 1.0), 4 / 3, 10  # as in the pre-training of He et al. 2021
Box = tuple[int, int, int, int]  # left, top, right, bottom
File = tuple[Path, int]  # and the number of its class


def window(width: int, height: int, side: int, draw: Random) -> Box:
    """A square of `side` pixels anywhere in a picture; of a smaller one, the largest that it holds."""
    side = min(side, width, height)
    return placed(width, height, side, side, draw)


def part(width: int, height: int, draw: Random) -> Box:
    """A random share of the area, in proportions whose logarithm is uniform; the middle where none of ten fits."""
    for _ in range(TRIES):
        area = width * height * draw.uniform(*AREA)
        ratio = math.exp(draw.uniform(-math.log(LEAN), math.log(LEAN)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return placed(width, height, w, h, draw)
    w, h = min(width, round(height * LEAN)), min(height, round(width * LEAN))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def placed(width: int, height: int, w: int, h: int, draw: Random) -> Box:
    """A box of w x h pixels anywhere in a picture."""
    left, top = int(draw.random() * (width - w + 1)), int(draw.random() * (height - h + 1))
    return left, top, left + w, top + h


class Crops:
    """Training pictures, a random part of each at each access: a function of (seed, position in the stream) alone.

    Item i is the middle square of picture i; n (1 + k) + i is what the draws of k make of it. A few threads read ahead of
    the batches that are asked for, and what is decoded is kept as far as there is room: neither changes any number.
    Files that cannot be read are told when they are met; with skip_bad the picture behind stands in for each.
    """

    fixed, levels = False, 255

    def __init__(
        self, files: list[File], config: FolderOptions, *, split: str, part: str, class_names: tuple[str, ...]
    ):
        self.config, self.split, self.part, self.class_names = config, split, part, class_names
        self.name, self.licence, self.flip = "folder", "that of your files", config.flip
        self.shape, self.classes = (config.channels, config.size, config.size), len(class_names)
        self.device, self.room, self.lock = torch.device("cpu"), room(), Lock()
        self.kept: dict[int, Image.Image] = {}
        self.ahead: dict[int, Future[tuple[np.ndarray, int]]] = {}
        self.bad: set[int] = set()
        # once for all threads; the caps are below those of PIL's own warning of large pictures
        warnings.filterwarnings("ignore", module=r"PIL\.")
        self.files = self.whole(files)
        if len(self.files) < 2:
            raise DataError(f"{split} has {len(self.files)} images, but a split needs 2 or more; give more images")

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.config.workers, "pictures")

    def to(self, device: torch.device | str) -> Crops:
        """Batches are made there; the pictures stay in their files."""
        self.device = torch.device(device)
        return self

    def whole(self, files: list[File]) -> list[File]:
        """The files that are images by their first bytes, and within the caps. DataError names another."""
        reasons = list(self.pool.map(doubt, (path for path, _ in files), chunksize=64))
        bad = [self.reason(path, why) for (path, _), why in zip(files, reasons, strict=True) if why is not None]
        if bad and not self.config.skip_bad:
            raise DataError(f"{bad[0]}; remove it, or count such files with --skip-bad")
        if bad:
            print(f"warning: {len(bad)} of {len(files)} files skipped, the first: {bad[0]}", file=sys.stderr)
        return [file for file, why in zip(files, reasons, strict=True) if why is None]

    @staticmethod
    def reason(path: Path, why: str) -> str:
        return f"{show(path)} is no readable image: {why}"

    def items(self, seed: int, index: Tensor) -> Tensor:
        """Stream positions (B,) -> item numbers (B,), on the CPU; those that come next are read meanwhile."""
        items = self.numbers(seed, index.cpu())
        most = 4 * len(items) + self.config.workers
        for item in self.numbers(seed, index.cpu() + len(items)).tolist():
            if item not in self.ahead:
                self.ahead[item] = self.pool.submit(self.load, item)
        while len(self.ahead) > most:  # asked for once, and never fetched
            self.ahead.pop(next(iter(self.ahead))).cancel()
        return items

    def numbers(self, seed: int, index: Tensor) -> Tensor:
        """The items at these positions: a permutation an epoch, and draws of their own."""
        draws = (key(seed, "crop", 0) + index) % 2**32
        return shuffled(seed, index, len(self)) + len(self) * (1 + draws)

    def batch(self, items: Tensor, index: Tensor, space: Space) -> Batch:
        """The items, in `space`, on the device."""
        futures = [self.ahead.pop(item, None) or self.pool.submit(self.load, item) for item in items.tolist()]
        read = [future.result() for future in futures]
        x = torch.from_numpy(np.stack([seen for seen, _ in read])).to(self.device)
        x = x.float().div_(self.levels).sub_(0.5).div_(0.5)
        label = torch.tensor([self.files[number][1] for _, number in read], device=self.device)
        return Batch(index.to(self.device), space.encode(x), label if self.classes else None)

    def load(self, item: int) -> tuple[np.ndarray, int]:
        """(C, H, W) uint8 of an item, and the number of the picture that it is of."""
        draws, number = divmod(item, len(self))
        for candidate in self.readable(number):
            try:
                picture = self.picture(candidate)
            except UNREADABLE as error:
                self.refuse(candidate, show(error, 120))
                continue
            return self.seen(picture, None if draws == 0 else Random(draws)), candidate
        raise DataError(f"{self.split} has no readable image left; look at its files")

    def readable(self, number: int) -> Iterator[int]:
        """The picture, then those behind it, but none that is known to be bad."""
        order = (n % len(self) for n in range(number, number + len(self)))
        return (n for n in order if n not in self.bad)

    def refuse(self, number: int, why: str) -> None:
        """DataError for a file that cannot be read, or a line about it and its place in the count."""
        told = self.reason(self.files[number][0], why)
        if not self.config.skip_bad:
            raise DataError(f"{told}; remove it, or count such files with --skip-bad")
        with self.lock:
            if number not in self.bad:
                self.bad.add(number)
                print(f"warning: {told}; {len(self.bad)} such, another picture in its place", file=sys.stderr)

    def picture(self, number: int) -> Image.Image:
        """A whole picture, from memory or from its file."""
        found = self.kept.get(number)
        if found is None:
            found = decoded(self.files[number][0], self.config.channels)
            bytes_ = found.width * found.height * self.config.channels
            with self.lock:
                if number not in self.kept and bytes_ <= self.room:
                    self.kept[number] = found
                    self.room -= bytes_
        return found

    def seen(self, picture: Image.Image, draw: Random | None) -> np.ndarray:
        """(C, H, W) uint8: the part of a picture that is drawn, or its middle square."""
        side = self.config.size
        if draw is None:
            return pixels(middle(picture, side, side), self.config.channels)
        random = self.config.crop == "random"
        box = window(*picture.size, side, draw) if random else part(*picture.size, draw)
        if (box[2] - box[0], box[3] - box[1]) == (side, side):
            cut = picture.crop(box)
        else:
            cut = picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
        x = pixels(cut, self.config.channels)
        return x[..., ::-1] if self.flip and draw.random() < 0.5 else x


def doubt(path: Path) -> str | None:
    """Why a file is no image by its first bytes, or beyond the caps; None where it may be one."""
    try:
        with capped(path):
            return None
    except UNREADABLE as error:
        return show(error, 120)


def room() -> int:
    """Bytes of pictures that may be kept in memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(min(KEPT, memory // 8))
