"""What a shard holds: where each of its pictures lies, and of which class it is (the layout of WebDataset).

Members that lie side by side and share a name up to its first dot are one sample: a picture (.jpg, .png, ...), and beside
it a .cls with the number of its class, or a .json that says its "label"; else the folder that it lies in may be its class.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np

from diffcli.errors import DataError, show
from diffcli_vision.inputs import SUFFIXES
from diffcli_vision.sharded.tar import BLOCK, Member, members

Where = Literal["auto", "cls", "json", "folder", "none"]
KEYS = ("label", "cls", "class")  # of a .json
MOST_LABEL, MOST_JSON, MOST_CLASSES = 256, 1 << 20, 100_000  # bytes; bytes; classes of a set
Label = int | str | None


@dataclass(frozen=True)
class Index:
    """The pictures of a shard.

    block, size: (n,) uint32, where the bytes begin, in blocks of 512, and how many they are; label: (n,) int32, numbers of
    classes, or of `names` where there are any; -1 is none.
    """

    block: np.ndarray
    size: np.ndarray
    label: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.block)

    @property
    def kind(self) -> str:
        """What labels are: numbers, names or none."""
        return "names" if self.names else "numbers" if (self.label >= 0).any() else "none"

    @property
    def bytes(self) -> int:
        """That it takes in memory, near enough."""
        return 12 * len(self) + 256 * len(self.names) + 1024


def read_index(fd: int, path: object, where: Where) -> Index:
    """The index of an open tar, from its headers and the members that tell classes; it is closed then.

    path: what it is called. DataError for no tar, or one without pictures.
    """
    with open(fd, "rb", buffering=1 << 16) as file:
        found = list(samples(file, show(path), where))
    if not found:
        raise DataError(
            f"{show(path)} holds no pictures ({', '.join(sorted(SUFFIXES))} behind the first dot of a name); give other files"
        )
    blocks, sizes, labels = zip(*((block, size, label) for block, size, label in found), strict=True)
    given = {type(label) for label in labels if label is not None}
    if given == {int, str}:
        raise DataError(f"{show(path)} has numbers and names of classes; ask for one of them with --label-from")
    names = tuple(sorted(set(filter(None, labels)))) if given == {str} else ()
    number = {name: k for k, name in enumerate(names)}
    told = [-1 if label is None else number.get(label, label) for label in labels]
    return Index(np.array(blocks, np.uint32), np.array(sizes, np.uint32), np.array(told, np.int32), names)


def samples(file: BinaryIO, where: str, labels: Where) -> Iterator[tuple[int, int, Label]]:
    """(block, size, label) of each picture of a tar, in its order; `where` is its name in words."""
    stem, group = "", dict[str, Member]()
    for member in members(file, where):
        key, _, suffix = split(member.name)
        if key != stem:
            yield from sample(file, stem, group, where, labels)
            stem, group = key, {}
        group.setdefault(suffix, member)
    yield from sample(file, stem, group, where, labels)


def split(name: str) -> tuple[str, str, str]:
    """("a/b.x/c", "a/b.x", ".tar.gz") of a/b.x/c.tar.gz; the suffix in small letters."""
    folder, _, last = name.rpartition("/")
    stem, dot, suffix = last.partition(".")
    return f"{folder}/{stem}", folder.removeprefix("./"), (dot + suffix).lower()


def sample(
    file: BinaryIO, stem: str, group: dict[str, Member], where: str, labels: Where
) -> Iterator[tuple[int, int, Label]]:
    """The picture of a sample, if it has one."""
    picture = next((member for suffix, member in group.items() if suffix in SUFFIXES), None)
    if picture is None or stem.rpartition("/")[2] == "":  # hidden files have no stem
        return
    size = min(picture.size, 2**32 - 1)  # above all caps either way
    yield picture.offset // BLOCK, size, labelled(file, picture, group, where, labels)


def labelled(file: BinaryIO, picture: Member, group: dict[str, Member], where: str, labels: Where) -> Label:
    """The class that a sample says it is of."""
    told = f"{where}: {show(picture.name, 80)}"
    if labels in ("auto", "cls") and ".cls" in group:
        return plain(content(file, group[".cls"], MOST_LABEL, told).strip(), told)
    if labels in ("auto", "json") and ".json" in group:
        return of_json(content(file, group[".json"], MOST_JSON, told), told, needed=labels == "json")
    if labels in ("auto", "folder"):
        return split(picture.name)[1] or None
    return None


def content(file: BinaryIO, member: Member, most: int, told: str) -> str:
    """The text of a small member."""
    if member.size > most:
        raise DataError(
            f"{told} has a label of {member.size} bytes; at most {most} are read: leave it out with --label-from"
        )
    file.seek(member.offset)
    try:
        return file.read(member.size).decode()
    except UnicodeDecodeError:
        raise DataError(f"{told} has a label that is no UTF-8 text; leave it out with --label-from") from None


def plain(text: Any, told: str) -> Label:
    """A number of a class, or its name."""
    if type(text) is str and text.isascii() and text.isdigit() and len(text) < 10:
        text = int(text)
    if type(text) is int and 0 <= text < MOST_CLASSES:
        return text
    if type(text) is str and text and not text.lstrip("-").isdigit():
        return text
    raise DataError(
        f"{told} has the label {show(text, 40)!r}, which is no number below {MOST_CLASSES} and no name; leave it out with "
        "--label-from"
    )


def of_json(text: str, told: str, *, needed: bool) -> Label:
    """The class that a .json tells; None where it tells none and none is needed."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError, OverflowError) as error:
        raise DataError(
            f"{told} has a .json that cannot be read ({show(error, 60)}); leave it out with --label-from"
        ) from None
    table = found if isinstance(found, dict) else {}
    label = next((table[key] for key in KEYS if table.get(key) is not None), None)
    if label is None and needed:
        raise DataError(f"{told} has a .json without {' or '.join(KEYS)}; leave it out with --label-from")
    return None if label is None else plain(label, told)
