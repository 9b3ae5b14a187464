"""Every picture of a folder or of shards decoded once: which of them are bad."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

from diffcli.engine.files import parse_json
from diffcli.errors import show
from diffcli_vision import FolderOptions, HubOptions, ShardsOptions
from diffcli_vision.files import Files
from diffcli_vision.folder import found
from diffcli_vision.inputs import UNREADABLE, decoded
from diffcli_vision.reading import Source, unreadable
from diffcli_vision.sharded.places import Local
from diffcli_vision.sharded.shards import shards
from diffcli_vision.sharded.streamed import streamed
from diffcli_vision.sharded.survey import named

Tick = Callable[[int, int], None]  # done, of all
ROUND = 4096  # pictures that threads are given at a time: what is asked of them is bounded


def folder(config: FolderOptions, split: str, tick: Tick) -> tuple[int, list[str]]:
    """(how many pictures a split has, a line for each bad one)."""
    files = found(config, split)[1]
    return len(files), faults(Files(files), config.workers, tick)


def tars(config: ShardsOptions, split: str, tick: Tick) -> tuple[int, list[str]]:
    """(how many pictures a split has, a line for each bad one, and for each shard that is another one than was packed)."""
    source: Any = shards(config, split).source
    changed = list(rotten(source.place)) if isinstance(source.place, Local) else []
    return len(source), changed + faults(source, config.workers, tick)


def streams(config: HubOptions, split: str, tick: Tick) -> tuple[int, list[str]]:
    """(how many pictures a split has, a line for each bad one)."""
    source = streamed(config, split).source
    return len(source), faults(source, config.workers, tick)


def faults(source: Source, workers: int, tick: Tick) -> list[str]:
    """A line for each picture that cannot be decoded, in the order of their numbers."""
    bad: list[str] = []
    for number, why in enumerate(threaded(partial(why_bad, source), range(len(source)), workers)):
        if why is not None:
            bad.append(unreadable(source.called(number), why))
        if number % 64 == 63 or number + 1 == len(source):
            tick(number + 1, len(source))
    return bad


def why_bad(source: Source, number: int) -> str | None:
    """Why a picture cannot be decoded; None where it can."""
    try:
        decoded(source.read(number)[0], 3)
        return None
    except UNREADABLE as error:
        return show(error, 120)


def threaded(work: Callable[[Any], Any], of: Iterable[Any], workers: int) -> Iterator[Any]:
    """What some threads make of each, in order; few are taken up at a time."""
    rest = iter(of)
    with ThreadPoolExecutor(workers, "pictures") as pool:
        while some := list(islice(rest, ROUND)):
            yield from pool.map(work, some, chunksize=8)


def rotten(place: Local) -> Iterator[str]:
    """A line for each shard whose bytes are not those that were packed, where that was written down."""
    name = named(place.names[0])
    if (data := place.beside(name)) is None:
        return
    rows = {row["name"]: row.get("sha256") for row in parse_json(data, name)["shards"]}
    for number, called in enumerate(place.names):
        with place.paths[number].open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if rows.get(called) not in (None, digest):
            yield f"{show(called)} is another file than was packed: its sha256 is {digest[:16]}..., not {str(show(rows[called]))[:16]}..."
