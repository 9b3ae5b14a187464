"""The file formats of the named data sets, parsed from bytes: idx, CIFAR records, and sheets of pictures."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from diffcli.errors import DataError, show
from diffcli_vision.sharded.tar import MOST_NOTE

RECORD = 3073  # a CIFAR-10 image: its label, then 3x32x32 bytes
BATCH = 10_000  # images a CIFAR-10 file
SHEET = (1280, 800)  # 40 x 25 images of 32 x 32


def gunzip(content: bytes, limit: int, path: Path) -> bytes:
    """What a .gz holds, at most `limit` bytes of it."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            plain = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{show(path)} is no whole gzip file: {error}; fetch it again") from error
    if len(plain) > limit:
        raise DataError(f"{show(path)} unpacks to more than the {limit} bytes expected; it is another file")
    return plain


def idx(content: bytes, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """The uint8 array of an idx file, which must have `shape`.

    Two zero bytes, 8 for unsigned bytes, the number of axes, each as 4 bytes, big-endian, then the data.
    """
    head = bytes((0, 0, 8, len(shape))) + b"".join(n.to_bytes(4, "big") for n in shape)
    size = len(head) + int(np.prod(shape))
    if content[: len(head)] != head or len(content) != size:
        raise DataError(
            f"{show(path)} is no idx file of {' x '.join(map(str, shape))} bytes: "
            f"{len(content)} bytes that begin {content[: len(head)].hex()}, expected {size} that begin {head.hex()}"
        )
    return np.frombuffer(content, np.uint8, offset=len(head)).reshape(shape)


def records(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) and labels (n,) of a file of the binary version of CIFAR-10."""
    if not content or len(content) % RECORD:
        raise DataError(
            f"{show(path)} has {len(content)} bytes, which are no whole CIFAR-10 records of {RECORD}; fetch it again"
        )
    table = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    if table[:, 0].max() > 9:
        raise DataError(
            f"{show(path)} has a label {table[:, 0].max()}, but CIFAR-10 has classes 0 to 9; it is another file"
        )
    return table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0]


def sheet(path: Path) -> np.ndarray:
    """(1000, 3, 32, 32) from a lossless sheet of 40 x 25 pictures, row by row."""
    try:
        with Image.open(path, formats=["WEBP", "PNG"]) as image:
            if image.size != SHEET:
                raise DataError(
                    f"{show(path)} is {image.size[0]}x{image.size[1]}, but a sheet is {SHEET[0]}x{SHEET[1]}; fetch it again"
                )
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{show(path)} is no readable sheet of CIFAR-10: {show(error)}; fetch it again") from error
    return pixels.reshape(25, 32, 40, 32, 3).transpose(0, 2, 4, 1, 3).reshape(1000, 3, 32, 32)


def sheet_labels(path: Path, row: int) -> np.ndarray:
    """(10000,) labels of file number `row` of labels.txt, which has one line of digits a file."""
    try:
        with path.open("rb") as file:
            lines = file.read(100_000).split()
    except OSError as error:
        raise DataError(f"{show(path)} cannot be read: {error.strerror}; it belongs to the sheets beside it") from error
    if len(lines) != 6 or any(len(line) != BATCH or not line.isdigit() for line in lines):
        raise DataError(f"{show(path)} is not six lines of {BATCH} digits; fetch it again")
    return np.frombuffer(lines[row], np.uint8) - ord("0")


class Brief(tarfile.TarInfo):
    """A header that brings no long note: a packed megabyte of pax headers keeps tarfile busy for hours."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE) and self.size > MOST_NOTE:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        made: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return made


def members(path: Path, names: Collection[str], size: int) -> dict[str, bytes]:
    """Regular members of a .tar.gz by exact name, each of exactly `size` bytes. Nothing is written to disk."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz", tarinfo=Brief) as archive:
            for count, member in enumerate(archive):
                if count >= 64 or member.size > 2 * size:
                    raise DataError(f"{show(path)} holds more than the files of CIFAR-10; it is another archive")
                if member.isreg() and member.name in names and member.size == size:
                    file = archive.extractfile(member)
                    assert file is not None
                    found[member.name] = file.read()
                if len(found) == len(names):
                    break
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{show(path)} is no whole .tar.gz: {show(error)}; fetch it again") from error
    if missing := sorted(set(names) - set(found)):
        raise DataError(f"{show(path)} lacks {missing[0]} of {size} bytes; it is another archive, or damaged")
    return found
