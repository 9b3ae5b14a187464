"""Tar files of pictures (the layout of WebDataset), read at random where they lie: nothing is unpacked, and little held."""

from __future__ import annotations

import os
import resource
from collections import OrderedDict, defaultdict
from dataclasses import replace
from threading import Lock

import numpy as np
from torch import Tensor

from diffcli.errors import DataError, UsageError, show
from diffcli_vision import ShardsOptions
from diffcli_vision.crops import reading
from diffcli_vision.inputs import MOST_BYTES
from diffcli_vision.reading import Pictures
from diffcli_vision.sharded.index import Index
from diffcli_vision.sharded.order import Windows
from diffcli_vision.sharded.places import chosen
from diffcli_vision.sharded.survey import Place, Survey, survey
from diffcli_vision.sharded.tar import BLOCK

INDEXED = 2**26  # bytes of indices that are kept in memory: five million pictures
OPEN = 64  # shards open at a time, and twice a window at least


class Open:
    """An open shard; it is closed when no thread reads it any more."""

    def __init__(self, fd: int):
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Shards:
    """The pictures of shards by number, counted through them as they are given.

    share: all of them, or of each shard all but every tenth ("train"), or those ("test"). Indices are read again when they
    are needed and there was no room to keep them.
    """

    def __init__(self, place: Place, found: Survey, share: str, width: int):
        self.place, self.survey, self.share = place, found, share
        tenth = [n // 10 for n in found.counts]
        self.counts = {"all": list(found.counts), "test": tenth}.get(share) or [
            n - t for n, t in zip(found.counts, tenth, strict=True)
        ]
        self.windows, self.most = Windows(self.counts, width), min(max(OPEN, 2 * width), descriptors() // 2)
        self.ends = np.cumsum(self.counts)
        self.indices: OrderedDict[int, Index] = OrderedDict()
        self.files: OrderedDict[int, Open] = OrderedDict()
        self.lock, self.locks, self.held = Lock(), defaultdict[int, Lock](Lock), 0

    def __len__(self) -> int:
        return int(self.ends[-1])

    def order(self, seed: int, index: Tensor) -> Tensor:
        """Positions -> numbers; the window behind the last of them is got ready."""
        places = self.windows.places(seed, index)
        epoch, number = places[-1]
        behind = self.windows.shards(seed, epoch, number + 1) or self.windows.shards(seed, epoch + 1, 0)
        self.place.soon([*self.windows.shards(seed, epoch, number), *behind])
        return self.windows.items(seed, index)

    def read(self, number: int) -> tuple[bytes, int]:
        """The bytes of a picture, and its class; -1 is none."""
        shard, place = self.find(number)
        index, file = self.opened(shard)
        size = min(int(index.size[place]), MOST_BYTES + 1)  # above the cap no more is read than shows it
        data = os.pread(file.fd, size, int(index.block[place]) * BLOCK)
        return data, int(index.label[place])

    def label(self, number: int) -> int:
        """The number of a picture's class alone, -1 for none."""
        shard, place = self.find(number)
        return int(self.opened(shard)[0].label[place])

    def called(self, number: int) -> str:
        """A picture's place in words."""
        shard, place = self.find(number)
        return f"{show(self.place.names[shard])}, picture {place}"

    def find(self, number: int) -> tuple[int, int]:
        """(shard, number in it) of a picture."""
        shard = int(np.searchsorted(self.ends, number, "right"))
        place = number - int(self.ends[shard]) + self.counts[shard]
        return shard, {"all": place, "train": place + place // 9, "test": 10 * place + 9}[self.share]

    def opened(self, shard: int) -> tuple[Index, Open]:
        """A shard's index and the open file, from memory if it was read lately."""
        with self.lock:
            lock = self.locks[shard]
        with lock:
            file = self.files.get(shard) or Open(self.place.open(shard))
            index = self.indices.get(shard) or self.indexed(shard)
        with self.lock:
            self.keep(shard, index, file)
        return index, file

    def indexed(self, shard: int) -> Index:
        """The index of a shard with the numbers that its classes have among those of all. DataError where it is unlike its survey."""
        index = self.place.index(shard)
        classes, name = self.survey.classes, show(self.place.names[shard])
        if len(index) != self.survey.counts[shard]:
            raise DataError(
                f"{name} has {len(index)} pictures, but the index of the shards says {self.survey.counts[shard]}; delete "
                "that index, and it is made anew"
            )
        if not classes:
            return replace(index, label=np.full_like(index.label, -1), names=())
        label = index.label
        if index.names:
            number = {called: k for k, called in enumerate(classes)}
            known = np.array([number.get(called, len(classes)) for called in index.names], np.int32)
            label = np.where(label < 0, -1, known[label])
        if index.kind not in ("none", self.survey.kind) or int(label.max()) >= len(classes):
            raise DataError(f"{name} has a class that the index of the shards has not; delete that index")
        return replace(index, label=label, names=())

    def keep(self, shard: int, index: Index, file: Open) -> None:
        """For the next picture; what was not asked for longest goes."""
        self.held += 0 if shard in self.indices else index.bytes
        self.indices[shard], self.files[shard] = index, file
        self.indices.move_to_end(shard)
        self.files.move_to_end(shard)
        while len(self.files) > self.most:
            self.files.popitem(last=False)
        while self.held > INDEXED and len(self.indices) > self.most:
            self.held -= self.indices.popitem(last=False)[1].bytes


def descriptors() -> int:
    """How many files this process may have open."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return OPEN**2 if most == resource.RLIM_INFINITY else most


def shards(config: ShardsOptions, split: str) -> Pictures:
    """The pictures of a split: of the shards named train, or of those named test or val; see `chosen`."""
    if config.path is None:
        raise UsageError("the data set shards needs --path FOLDER, or a pattern such as 'train-{000..099}.tar'")
    place, share, origin = chosen(config, split)
    source = Shards(place, survey(place, config.label_from), share, config.window)
    called = f"{show(config.path)}/{split}, {len(place.names)} shards, {origin}"
    return reading(
        source,
        config,
        name="shards",
        split=called,
        part=f"shards/{split}",
        training=split == "train",
        class_names=source.survey.classes,
        licence="that of your files",
    )
