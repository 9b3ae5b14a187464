"""How many pictures each shard has, and which classes there are: what must be known of all of them before the first is read.

It is in a file that `data pack` writes beside the shards, or it is read from all their headers once, and kept in the cache.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from diffcli.engine.files import dump_json, durable, parse_json, read_capped
from diffcli.errors import DataError, DiffcliError, show
from diffcli_vision.fetch import cache
from diffcli_vision.sharded.index import MOST_CLASSES, Index, Where
from diffcli_vision.sharded.tar import BLOCK, MOST_MEMBERS

FORMAT, VERSION = "diffcli shards", 1
MOST_BYTES = 2**28  # of the file: a million shards
READERS = 8  # shards that are looked through at a time


class Place(Protocol):
    """Where shards lie: `Local` and `Remote`. names: as they are called in the file of a survey; text: all of it, in words."""

    names: list[str]
    text: str

    def size(self, number: int) -> int:
        """Bytes of a shard."""
        ...

    def stamp(self) -> Any:
        """Another one where the shards are others, as plain JSON."""

    def open(self, number: int) -> int:
        """A descriptor of a shard, to be closed by the caller."""
        ...

    def soon(self, shards: list[int]) -> None:
        """These are read next: what lies far away may be fetched meanwhile."""

    def index(self, number: int) -> Index:
        """What a shard holds."""
        ...

    def beside(self, name: str) -> bytes | None:
        """A small file that lies where the shards lie."""


class Survey(NamedTuple):
    """counts: pictures of each shard; kind: what their labels are, as Index says; classes: the names of the classes."""

    counts: tuple[int, ...]
    kind: str
    classes: tuple[str, ...]

    def file(self, place: Place) -> bytes:
        """Of these shards, as it is written."""
        rows = [{"name": n, "bytes": place.size(k), "images": self.counts[k]} for k, n in enumerate(place.names)]
        about = {"format": FORMAT, "version": VERSION, "kind": self.kind, "classes": self.classes}
        return dump_json({**about, "shards": rows})


def named(shard: str) -> str:
    """train.index.json, beside train-000012.tar."""
    return re.sub(r"[-_.]?\d*\.tar$", "", os.path.basename(shard)) + ".index.json"


def survey(place: Place, where: Where) -> Survey:
    """Of these shards: from the file beside them, from the cache, or from their headers."""
    files = {named(name) for name in place.names}
    if where in ("auto", "cls") and len(files) == 1 and (beside := place.beside(file := files.pop())) is not None:
        return read(beside, place, f"{file} beside {place.text}")
    key = hashlib.sha256(dump_json([VERSION, where, place.stamp()])).hexdigest()
    kept = cache() / "shards" / f"{key[:32]}.json"
    with suppress(DiffcliError):
        return read(read_capped(kept, MOST_BYTES), place, show(kept))
    found = counted(place)
    with suppress(DiffcliError, OSError):  # a cache that cannot be written costs time alone
        kept.parent.mkdir(parents=True, exist_ok=True)
        durable(kept, found.file(place))
    return found


def read(data: bytes, place: Place, called: str) -> Survey:
    """The survey in a file, if it is one of these shards. DataError where it is not."""
    try:
        table = parse_json(data, called)
        rows = {row["name"]: row for row in table["shards"]}
        chosen = [rows.get(name) or rows.get(os.path.basename(name)) for name in place.names]
        classes = tuple(table["classes"])
        counts = tuple(row["images"] if row else -1 for row in chosen)
        sizes = [row["bytes"] if row else -1 for row in chosen]
        sound = all(type(n) is int for n in (*counts, *sizes)) and all(type(c) is str for c in classes)
    except (DiffcliError, TypeError, KeyError, AttributeError):
        raise DataError(f"{called} is no index of shards; delete it, and it is made anew") from None
    if not sound or table.get("format") != FORMAT or table.get("version") != VERSION:
        raise DataError(f"{called} is no index of shards of this version; delete it, and it is made anew")
    for k, name in enumerate(place.names):
        most = place.size(k) // BLOCK if place.size(k) else MOST_MEMBERS  # a picture has a header at least
        if not 0 <= counts[k] <= most or sizes[k] != place.size(k):
            raise DataError(f"{called} does not fit {show(name, 80)}; bring the shards it was made with, or delete it")
    if table.get("kind") not in ("numbers", "names", "none") or len(classes) > MOST_CLASSES:
        raise DataError(f"{called} has classes that cannot be; delete it, and it is made anew")
    return Survey(counts, table["kind"], classes)


def counted(place: Place) -> Survey:
    """The survey of shards by their headers, a few shards at a time."""
    n = len(place.names)
    if n > 64:
        print(f"reading the headers of {n} shards once: {place.text}", file=sys.stderr)
    with ThreadPoolExecutor(READERS, "headers") as pool:
        facts = list(pool.map(lambda k: digest(place.index(k)), range(n)))
    kinds = {kind for _, kind, _, _ in facts} - {"none"}
    if len(kinds) > 1:
        raise DataError(
            f"{place.text}: some shards number their classes, some name them; ask for one with --label-from"
        )
    kind = next(iter(kinds), "none")
    named = sorted({name for *_, names in facts for name in names})
    if len(named) > MOST_CLASSES:
        raise DataError(
            f"{place.text}: {len(named)} classes are more than {MOST_CLASSES}; leave them out: --label-from none"
        )
    numbered = tuple(map(str, range(1 + max(most for *_, most, _ in facts))))
    if kind == "names" and len(named) == 1:  # one folder that holds all is no class
        return Survey(counts(facts), "none", ())
    return Survey(counts(facts), kind, {"names": tuple(named), "numbers": numbered, "none": ()}[kind])


def digest(index: Index) -> tuple[int, str, int, tuple[str, ...]]:
    """(pictures, kind, the largest number of a class, names) of a shard."""
    return len(index), index.kind, int(index.label.max()), index.names


def counts(facts: Iterable[tuple[int, str, int, tuple[str, ...]]]) -> tuple[int, ...]:
    return tuple(n for n, *_ in facts)
