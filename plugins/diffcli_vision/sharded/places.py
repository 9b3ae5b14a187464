"""Where shards lie: here, or on the Hub; and which of them are of a split."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from glob import escape, glob, has_magic
from itertools import chain, islice
from pathlib import Path
from typing import Any

from diffcli.engine.hub import PREFIX
from diffcli.errors import DataError, UsageError, show
from diffcli_vision import ShardsOptions
from diffcli_vision.fetch import read
from diffcli_vision.sharded.index import Index, Where, read_index
from diffcli_vision.sharded.remote import Remote, remote
from diffcli_vision.sharded.survey import MOST_BYTES, Place
from diffcli_vision.sharded.tar import opened

MOST_SHARDS = 1_000_000
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
HELD_OUT = re.compile(r"(?:^|[-_.])(?:test|val|valid|validation)(?=[-_.\d])")
TRAIN = re.compile(r"(?:^|[-_.])train(?=[-_.\d])")
SHARES = {"all": "all", "train": "index % 10 != 9", "test": "index % 10 == 9"}


class Local:
    """Shards that are files here."""

    def __init__(self, paths: list[Path], where: Where, text: str):
        self.paths, self.where, self.text = paths, where, text
        self.names = [path.name for path in paths]
        if len(set(self.names)) < len(paths):  # in several folders
            self.names = [str(path) for path in paths]
        self.status = [stated(path) for path in paths]

    def only(self, chosen: list[int]) -> Local:
        """Some of them."""
        return Local([self.paths[k] for k in chosen], self.where, self.text)

    def size(self, number: int) -> int:
        return self.status[number].st_size

    def stamp(self) -> Any:
        return [(os.path.abspath(p), s.st_size, s.st_mtime_ns) for p, s in zip(self.paths, self.status, strict=True)]

    def open(self, number: int) -> int:
        return opened(self.paths[number])

    def index(self, number: int) -> Index:
        return read_index(self.open(number), self.paths[number], self.where)

    def beside(self, name: str) -> bytes | None:
        path = self.paths[0].parent / name
        return read(path, MOST_BYTES) if path.is_file() and path.parent == self.paths[-1].parent else None

    def soon(self, shards: list[int]) -> None:
        """They are here already."""


def stated(path: Path) -> os.stat_result:
    """DataError where a file is not there."""
    try:
        return path.stat()
    except OSError as error:
        raise DataError(f"{show(path)} cannot be read: {error.strerror}; look at --path") from None


def chosen(config: ShardsOptions, split: str) -> tuple[Place, str, str]:
    """(where the shards of a split lie, which of their pictures, the rule in words).

    Held out are the shards of --held-out, else those of the folder that are named test or val, else every tenth picture.
    """
    if config.held_out is not None:
        given = config.path if split == "train" else config.held_out
        return located(str(given), config), "all", f"held out {show(config.held_out)}"
    place = located(str(config.path), config)
    last = [name.rpartition("/")[2] for name in place.names]
    parts = {
        "train": [k for k, n in enumerate(last) if TRAIN.search(n)],
        "test": [k for k, n in enumerate(last) if HELD_OUT.search(n)],
    }
    if all(parts.values()) and len(parts["train"]) + len(parts["test"]) == len(last):
        return place.only(parts[split]), "all", "by their names"
    return place, split, SHARES[split]


def located(text: str, config: ShardsOptions) -> Local | Remote:
    """The shards that a text stands for: of the Hub, or here."""
    if not text.startswith(PREFIX):
        return Local(expanded(text), config.label_from, show(text))
    patterns = list(islice(braces(text.split("/", 2)[-1]), MOST_SHARDS + 1))
    return remote(text, patterns, config.label_from, round(config.cache_gb * 1e9), config.window)


def expanded(text: str) -> list[Path]:
    """The files that a folder, a name with {000..099} or a pattern stands for, sorted. DataError where there are none."""
    each = (
        sorted(glob(name)) if has_magic(name) and not os.path.exists(name) else [name]
        for name in ([text] if os.path.exists(text) else braces(text))
    )
    names = list(islice(chain.from_iterable(each), MOST_SHARDS + 1))
    if len(names) == 1 and os.path.isdir(names[0]):
        names = sorted(glob(os.path.join(escape(names[0]), "*.tar")))
    if not names or len(names) > MOST_SHARDS:
        raise DataError(
            f"{show(text)} stands for {len(names)} files; give a folder of .tar files, or a pattern of 1 to {MOST_SHARDS}"
        )
    return [Path(name) for name in names]


def braces(text: str) -> Iterator[str]:
    """a-{00..02} -> a-00, a-01, a-02; as wide as the first number."""
    match = BRACES.search(text)
    if match is None:
        yield text
        return
    low, high = int(match[1]), int(match[2])
    if not low <= high < low + MOST_SHARDS or len(match[1]) > 12:
        raise UsageError(f"{show(text)} counts from {show(match[1], 20)} to {show(match[2], 20)}; give {{first..last}}")
    for n in range(low, high + 1):
        number = text[: match.start()] + str(n).zfill(len(match[1]))
        yield from (number + rest for rest in braces(text[match.end() :]))
