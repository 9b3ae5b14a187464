"""Laws of the named data sets: parsers refuse what is not theirs, files are known by checksum, downloads are safe."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffcli.core.space import Pixels
from diffcli.errors import DataError
from diffcli_vision import ColorOptions, NamedOptions, fetch, formats, named

HERE = Path("here")
SOURCE = os.environ.get("DIFFCLI_DATA", "")


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No data of this machine and no network, unless a test says so."""

    class Offline:
        def open(self, *args, **kwargs):
            raise fetch.URLError("offline")

    monkeypatch.delenv("DIFFCLI_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch.urllib.request, "build_opener", lambda *handlers: Offline())


def idx_file(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def test_idx_round_trip():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(formats.idx(idx_file(array), (2, 3, 4), HERE), array)


GOOD = idx_file(np.zeros((2, 3), np.uint8))


@pytest.mark.parametrize(
    "content", [b"", GOOD[:-1], GOOD + b"\0", b"\x89PNG" + GOOD[4:], GOOD[:2] + b"\x09" + GOOD[3:], os.urandom(18)]
)
def test_idx_that_is_cut_or_foreign_is_refused(content):
    with pytest.raises(DataError, match="here is no idx file of 2 x 3 bytes"):
        formats.idx(content, (2, 3), HERE)


@pytest.mark.parametrize(
    "content", [b"", b"no gzip", gzip.compress(b"x" * 100)[:-9], gzip.compress(b"x" * 100)[:-1] + b"!"]
)
def test_gzip_that_is_cut_or_foreign_is_refused(content):
    if content == b"":
        assert formats.gunzip(content, 100, HERE) == b""
        return
    with pytest.raises(DataError, match="here is no whole gzip"):
        formats.gunzip(content, 100, HERE)


def test_gzip_bomb_is_refused():
    with pytest.raises(DataError, match="more than the 1000 bytes"):
        formats.gunzip(gzip.compress(bytes(10**6)), 1000, HERE)


def test_cifar_records():
    table = np.random.default_rng(0).integers(0, 256, (5, 3073), np.uint8)
    table[:, 0] = [0, 9, 3, 3, 1]
    images, labels = formats.records(table.tobytes(), HERE)
    assert images.shape == (5, 3, 32, 32) and labels.tolist() == [0, 9, 3, 3, 1]
    assert np.array_equal(images[4].ravel(), table[4, 1:])


@pytest.mark.parametrize("content", [b"", bytes(3072), bytes(3074), b"\x0a" + bytes(3072)])
def test_cifar_records_that_are_cut_or_foreign_are_refused(content):
    with pytest.raises(DataError, match="here has"):
        formats.records(content, HERE)


def pack(path: Path, files: dict[str, bytes], *, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), kind
            archive.addfile(member, io.BytesIO(content))
    return path


def test_members_are_read_by_exact_name(tmp_path):
    path = pack(tmp_path / "a.tar.gz", {"../evil": b"1234", "d/a": b"abcd", "d/b": b"efgh"})
    assert formats.members(path, ["d/b", "d/a"], 4) == {"d/a": b"abcd", "d/b": b"efgh"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]


@pytest.mark.parametrize(
    "files",
    [{"d/a": b"abc"}, {"a": b"abcd"}, {"d/a": b"too long by far"}, {f"{i}": b"" for i in range(80)}],
    ids=["short", "name", "long", "many"],
)
def test_members_that_do_not_fit_are_refused(tmp_path, files):
    with pytest.raises(DataError, match=r"a\.tar\.gz"):
        formats.members(pack(tmp_path / "a.tar.gz", files), ["d/a"], 4)


def test_links_and_cut_archives_are_refused(tmp_path):
    with pytest.raises(DataError, match="lacks d/a"):
        formats.members(pack(tmp_path / "l.tar.gz", {"d/a": b""}, kind=tarfile.SYMTYPE), ["d/a"], 0)
    whole = pack(tmp_path / "w.tar.gz", {"d/a": os.urandom(4000)})
    whole.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"no whole \.tar\.gz"):
        formats.members(whole, ["d/a"], 4000)


def test_sheets(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (800, 1280, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "s.webp", lossless=True)
    images = formats.sheet(tmp_path / "s.webp")
    assert np.array_equal(images[41], pixels[32:64, 32:64].transpose(2, 0, 1))
    Image.fromarray(pixels[:32]).save(tmp_path / "t.webp", lossless=True)
    (tmp_path / "u.webp").write_bytes(b"RIFFnonsense")
    for name in ("t.webp", "u.webp", "missing.webp"):
        with pytest.raises(DataError, match=name):
            formats.sheet(tmp_path / name)
    (tmp_path / "labels.txt").write_text("\n".join(str(i) * 10_000 for i in range(6)))
    assert set(formats.sheet_labels(tmp_path / "labels.txt", 4)) == {4}
    (tmp_path / "labels.txt").write_text("12345")
    with pytest.raises(DataError, match="six lines"):
        formats.sheet_labels(tmp_path / "labels.txt", 0)


def make_mnist(folder: Path, monkeypatch, *, unpacked: bool = False) -> None:
    """A test split of MNIST's shape, and checksums that know it."""
    folder.mkdir(parents=True)
    for what, array in (
        ("images", np.full((10_000, 28, 28), 7, np.uint8)),
        ("labels", (np.arange(10_000) % 10).astype(np.uint8)),
    ):
        content, remote = idx_file(array), named.MNIST[f"t10k-{what}"]
        packed = gzip.compress(content)
        monkeypatch.setitem(
            named.MNIST,
            f"t10k-{what}",
            fetch.Remote(remote.name, len(packed), hashlib.sha256(packed).hexdigest(), remote.mirrors),
        )
        (folder / remote.name.removesuffix(".gz")).write_bytes(content) if unpacked else (
            folder / remote.name
        ).write_bytes(packed)


@pytest.mark.parametrize("place", ["MNIST/raw", "mnist/MNIST/raw", "mnist"])
@pytest.mark.parametrize("unpacked", [False, True])
def test_mnist_is_found_in_torchvisions_folders(tmp_path, monkeypatch, place, unpacked):
    make_mnist(tmp_path / place, monkeypatch, unpacked=unpacked)
    data = named.mnist(NamedOptions(data_dir=tmp_path), "test")
    assert (len(data), data.shape, data.classes) == (10_000, (1, 28, 28), 10)
    monkeypatch.setenv("DIFFCLI_DATA", str(tmp_path))
    assert torch.equal(named.mnist(NamedOptions(), "test").labels, data.labels)


def test_damaged_file_is_named_with_its_checksum(tmp_path, monkeypatch):
    make_mnist(tmp_path / "mnist", monkeypatch)
    path, remote = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz", named.MNIST["t10k-labels"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"t10k-labels-idx1-ubyte\.gz is damaged .* expected {remote.sha256}"):
        named.mnist(NamedOptions(data_dir=tmp_path), "test")


@pytest.mark.parametrize("target", [named.mnist, named.fashion_mnist, named.cifar10])
def test_offline_says_what_is_missing_and_where(tmp_path, target):
    with pytest.raises(DataError) as caught:
        target(ColorOptions(data_dir=tmp_path), "train")
    message = str(caught.value)
    assert caught.value.code == 3 and "\n" not in message
    assert str(tmp_path) in message and "offline" in message and "--data-dir" in message
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_data_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="nope is not there"):
        named.mnist(NamedOptions(data_dir=tmp_path / "nope"), "train")


def real(*names: str) -> pytest.MarkDecorator:
    """Runs where DIFFCLI_DATA has one of these paths."""
    there = bool(SOURCE) and any((Path(SOURCE) / name).exists() for name in names)
    return pytest.mark.skipif(not there, reason=f"DIFFCLI_DATA has no {names[0]}")


@real("mnist/MNIST/raw", "MNIST/raw", "mnist")
def test_real_mnist():
    config = NamedOptions(data_dir=Path(SOURCE))
    train, test = named.mnist(config, "train"), named.mnist(config, "test")
    assert (len(train), len(test), train.shape) == (60_000, 10_000, (1, 28, 28))
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    x = train.images.float() / 255
    assert abs(x.mean() - 0.1307) < 1e-4 and abs(x.std() - 0.3081) < 1e-4


@real("cifar10", "cifar-10-batches-bin", "cifar-10-binary.tar.gz")
def test_real_cifar10_test_split():
    data = named.cifar10(ColorOptions(data_dir=Path(SOURCE), flip=True), "test")
    assert (len(data), data.shape, data.flip) == (10_000, (3, 32, 32), False)
    assert data.labels.bincount().tolist() == [1000] * 10
    assert data.labels[:4].tolist() == [3, 8, 8, 0]
    cut, items = named.cifar10(ColorOptions(data_dir=Path(SOURCE), crop=16), "test"), torch.arange(4)
    assert cut.shape == (3, 16, 16) and cut.split == "cifar10/test, 16x16 of each" and cut.fixed
    (whole, part) = (each.batch(items, items, Pixels(each.shape, 10)).x for each in (data, cut))
    assert torch.equal(part, whole[..., 8:24, 8:24])


@real("cifar10", "cifar-10-batches-bin", "cifar-10-binary.tar.gz")
@pytest.mark.slow
def test_real_cifar10():
    """Each batch is compared with the SHA-256 of the published records as it is read."""
    data = named.cifar10(ColorOptions(data_dir=Path(SOURCE)), "train")
    assert len(data) == 50_000 and data.labels.bincount().tolist() == [5000] * 10
    mean = data.images.float().mean((0, 2, 3)) / 255
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=1e-4)
