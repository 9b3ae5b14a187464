"""Laws of tars that are looked into and never unpacked: the same members as Python's reader, and nothing for what is none."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from diffcli.errors import DataError
from diffcli_vision.sharded.tar import Member, members

NAMES = ["a.jpg", "deep/er/b.png", "long/" + "x" * 120 + "/c.jpg", "name\N{SNOWMAN}.png", "y" * 96 + ".cls"]


def made(path: Path, format: int, names: list[str] = NAMES) -> dict[str, bytes]:
    """A tar of regular files beside links, a folder and a device; what the files hold."""
    held = {name: bytes([k]) * (300 * k + 1) for k, name in enumerate(names)}
    with tarfile.open(path, "w", format=format) as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"other-{kind.decode()}")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        for name, data in held.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return held


def found(path: Path) -> dict[str, bytes]:
    with path.open("rb") as file:
        return {m.name: os.pread(file.fileno(), m.size, m.offset) for m in members(file, "it")}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_members_are_those_of_the_common_reader(tmp_path, format):
    names = [name for name in NAMES if format != tarfile.USTAR_FORMAT or name.isascii()]
    held = made(tmp_path / "x.tar", format, names)
    assert found(tmp_path / "x.tar") == held
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert [m.name for m in tar if m.isreg()] == list(held)


def test_a_cut_tar_has_some_of_its_members_or_is_refused(tmp_path):
    """A tar may end between two members, as old ones do; anywhere else it is told."""
    held = made(tmp_path / "x.tar", tarfile.PAX_FORMAT)
    data = (tmp_path / "x.tar").read_bytes()
    refused = 0
    for end in range(0, len(data) - tarfile.RECORDSIZE // 2, 100):
        (tmp_path / "cut.tar").write_bytes(data[:end])
        try:
            some = found(tmp_path / "cut.tar")
        except DataError as error:
            assert "ends early" in str(error) or "damaged" in str(error)
            refused += 1
        else:
            assert some == dict(list(held.items())[: len(some)])
    assert refused > 50


def test_a_flipped_bit_in_a_header_is_told(tmp_path):
    """Its checksum is a sum of bytes: a single bit changes it, but for those bits that no number has (case of blanks)."""
    path = tmp_path / "x.tar"
    made(path, tarfile.USTAR_FORMAT, ["a.jpg"])
    data = bytearray(path.read_bytes())
    start = data.index(b"a.jpg")
    for byte in range(0, 512, 7):
        flipped = bytearray(data)
        flipped[start + byte] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(DataError, match=r"is no tar, or damaged|is no octal number"):
            found(path)


def header(size: bytes = b"0000001\0", kind: bytes = b"0", name: bytes = b"a.jpg") -> bytes:
    """A header with a sound checksum."""
    block = bytearray(512)
    block[: len(name)], block[124 : 124 + len(size)], block[156:157], block[257:265] = name, size, kind, b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x1f\x8b" + bytes(600), "compressed by gzip"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "compressed by zstd"),
        (b"PK\x03\x04" * 300, "is no tar, or damaged: byte 0 begins no header"),
        (header(b"77777777777\0") + bytes(512), "ends early, inside a.jpg"),
        (header(b"\x80" + b"\xff" * 11) + bytes(512), "is no size"),
        (header(b"\x80" + bytes(3) + b"\xff" * 8) + bytes(512), "ends early, inside a.jpg"),
        (header(b"\xff" * 12) + bytes(512), "is no size"),
        (header(b"-000001\0") + bytes(512), "is no octal number"),
        (header(kind=b"S") + bytes(512), "sparse"),
        (header(b"00200001\0", b"L") + bytes(2**17), "a name or a note of 65537 bytes"),
        (header(b"0000024\0", b"x") + b"99999 path=x\n".ljust(512) + header() + bytes(512), "pax header cannot be read"),
        (header(b"0000024\0", b"x") + b"0 path=x\n".ljust(512) + header() + bytes(512), "pax header cannot be read"),
        (header(b"0000020\0", b"x") + b"16 size=9999999\n".ljust(512, b"\0") + header() + bytes(512), "ends early"),
        (header(b"0000013\0", b"x") + b"11 size=-1\n".ljust(512, b"\0") + header() + bytes(512), "-1 is no size"),
        (header()[:400], "ends early, inside a header"),
    ],
)  # fmt: skip
def test_what_is_no_whole_tar_is_refused(tmp_path, data, says):
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(DataError, match=says):
        found(tmp_path / "x.tar")


def test_a_name_is_a_text_and_members_are_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = made(Path("x.tar"), tarfile.GNU_FORMAT, ["../../up.jpg", "/etc/abs.jpg", "a\x1b[31m.jpg"])
    assert found(Path("x.tar")) == held and os.listdir(".") == ["x.tar"]
    monkeypatch.setattr("diffcli_vision.sharded.tar.MOST_MEMBERS", 3)
    with pytest.raises(DataError, match="more than 3 members"):
        found(Path("x.tar"))


def test_a_link_has_no_bytes_whatever_its_header_says(tmp_path):
    (tmp_path / "x.tar").write_bytes(header(b"0000144\0", b"2") + header(name=b"b.png") + b"b" + bytes(511))
    assert found(tmp_path / "x.tar") == {"b.png": b"b"}


def test_two_notes_before_a_member_both_hold(tmp_path):
    """A pax header with its size, then GNU's long name: the header itself says neither."""
    size, name = b"11 size=30\n", b"long/name.jpg\0"
    notes = [(b"x", size), (b"L", name)]
    data = b"".join(header(b"%07o\0" % len(text), kind) + text.ljust(512, b"\0") for kind, text in notes)
    (tmp_path / "x.tar").write_bytes(
        data + header() + b"b" * 30 + bytes(482) + header(name=b"c.png") + b"c" + bytes(511)
    )
    assert found(tmp_path / "x.tar") == {"long/name.jpg": b"b" * 30, "c.png": b"c"}


def test_sizes_of_large_members_are_read(tmp_path):
    """Base 256, as GNU writes 8 GiB and more: a sparse file on the disk stands for one."""
    path, size = tmp_path / "x.tar", 2**33 + 5
    with path.open("wb") as file:
        file.write(header(b"\x80" + bytes(3) + size.to_bytes(8, "big")))
        file.truncate(512 + -(-size // 512) * 512)
        file.seek(0, os.SEEK_END)
        file.write(header(name=b"b.jpg") + bytes(1024))
    with path.open("rb") as file:
        assert list(members(file, "it")) == [Member("a.jpg", 512, size), Member("b.jpg", 512 * (2**24 + 3), 1)]
