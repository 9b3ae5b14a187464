"""What lies where in a tar: its headers are read, and nothing is ever unpacked.

A name in it is a text to us, no path: it is compared and shown, never opened or written. Links, devices and folders are
passed over.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from diffcli.errors import DataError, show

BLOCK = 512
MOST_MEMBERS, MOST_NOTE = 10_000_000, 65_536  # of a file; bytes of a long name or of a pax header
REGULAR, LONG_NAME, PAX = (b"0", b"\0", b"7"), b"L", b"x"
WITH_DATA = (*REGULAR, LONG_NAME, PAX, b"K", b"g", b"X", b"V", b"M", b"D")
SPARSE = b"S"
SPACES = 8 * ord(" ")  # what a header's own checksum counts as
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """A regular file in a tar: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int


def opened(path: Path) -> int:
    """A descriptor of a regular file, to be closed by the caller. DataError for anything else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"{show(path)} cannot be opened: {error.strerror}; look at --path") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DataError(f"{show(path)} is no regular file; give --path tar files")
    return fd


def members(file: BinaryIO, where: str) -> Iterator[Member]:
    """The regular files of a tar, in its order (POSIX.1-1988 ustar, pax, and GNU's long names). DataError for no whole tar.

    Ends at the first block of zeros, or where the file ends between two members.
    """
    size, at, long = os.fstat(file.fileno()).st_size, 0, dict[str, str]()
    for _ in range(MOST_MEMBERS):
        file.seek(at)
        header = file.read(BLOCK)
        if not header or not any(header):
            return
        data, length = at + BLOCK, header_size(header, where, at)
        kind, name = header[156:157], long.get("path") or named(header)
        if kind in REGULAR and "size" in long:
            length = number(long["size"], where)
        length = length if kind in WITH_DATA else 0
        if data + length > size:
            raise DataError(f"{where} ends early, inside {show(name, 80)}; bring it again")
        if kind in REGULAR and not name.endswith("/"):  # the oldest tars write a folder so
            yield Member(name, data, length)
        long = long | note(file, kind, length, where) if kind in (PAX, LONG_NAME) else {}
        at = data + -(-length // BLOCK) * BLOCK
    raise DataError(f"{where} has more than {MOST_MEMBERS} members; cut it into smaller files")


def header_size(header: bytes, where: str, at: int) -> int:
    """The bytes that follow a header, once it is known to be one."""
    for magic, name in PACKED.items():
        if at == 0 and header.startswith(magic):
            raise DataError(f"{where} is compressed by {name}, and cannot be read at random; unpack it to a plain .tar")
    if len(header) < BLOCK:
        raise DataError(f"{where} ends early, inside a header; bring it again")
    told = header[148:156].strip(b" \0")
    if not told.isdigit() or octal(told, where) != sum(header) - sum(header[148:156]) + SPACES:
        raise DataError(f"{where} is no tar, or damaged: byte {at} begins no header; bring it again")
    if header[156:157] == SPARSE:
        raise DataError(f"{where} has a sparse file, which is not read; make it with plain ones")
    if header[124] & 0x80:  # GNU's way to write sizes of 8 GiB and more
        if header[124] != 0x80 or any(header[125:128]):
            raise DataError(f"{where} is damaged: a size at byte {at} is no size; bring it again")
        return int.from_bytes(header[128:136], "big")
    return octal(header[124:136].strip(b" \0") or b"0", where)


def octal(text: bytes, where: str) -> int:
    """A number as headers write it."""
    try:
        if not text.isdigit():
            raise ValueError
        return int(text, 8)
    except ValueError:
        raise DataError(f"{where} is damaged: {show(text, 20)} is no octal number; bring it again") from None


def number(text: str, where: str) -> int:
    """A size as a pax header writes it."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise DataError(f"{where} is damaged: {show(text, 20)} is no size; bring it again")
    return int(text)


def named(header: bytes) -> str:
    """The name in a ustar header, with its prefix."""
    name, prefix = (
        part.split(b"\0", 1)[0].decode("utf-8", "surrogateescape") for part in (header[:100], header[345:500])
    )
    return f"{prefix}/{name}" if prefix and header[257:262] == b"ustar" and header[263:265] == b"00" else name


def note(file: BinaryIO, kind: bytes, length: int, where: str) -> dict[str, str]:
    """What a long name or a pax header says of the member behind it: its path, its size."""
    if length > MOST_NOTE:
        raise DataError(f"{where} has a name or a note of {length} bytes; at most {MOST_NOTE} are read")
    data = file.read(length)
    if kind == LONG_NAME:
        return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    found: dict[str, str] = {}
    while data:
        told, _, rest = data.partition(b" ")
        long = int(told) if told.isdigit() and len(told) < 6 else 0
        key, equals, value = rest[: max(0, long - len(told) - 2)].partition(b"=")
        if not equals or not len(told) + 2 < long <= len(data):
            raise DataError(f"{where} is damaged: a pax header cannot be read; bring it again")
        if key in (b"path", b"size"):
            found[key.decode()] = value.decode("utf-8", "surrogateescape")
        data = data[long:]
    return found
