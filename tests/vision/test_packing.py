"""Laws of shards made of a folder: the same pictures, the same bytes each time, and all of them or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from diffcli.core.space import Pixels
from diffcli.errors import DataError, EnvironmentProblem, UsageError
from diffcli_vision import FolderOptions, ShardsOptions
from diffcli_vision.folder import folder
from diffcli_vision.sharded import packing
from diffcli_vision.sharded.packing import pack
from diffcli_vision.sharded.shards import shards
from tars import photos, png


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def packed(source: Path, out: Path, size: int | None = None, most: int = 10**9, **how) -> Path:
    pack(FolderOptions(path=source, **how), out, size, most, lambda done, total: None)
    return out


def pictures(data, side: int = 8) -> dict[bytes, int]:
    """The class of each picture."""
    items = torch.arange(len(data))
    batch = data.batch(items, items, Pixels((3, side, side), data.classes))
    return {x.numpy().tobytes(): -1 if batch.label is None else int(batch.label[k]) for k, x in enumerate(batch.x)}


def names_of(path: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in path.iterdir()}


@pytest.mark.parametrize("size", [None, 8])
def test_shards_hold_the_pictures_of_the_folder(tmp_path, size):
    """Both splits, bit for bit and with the same classes; shrunk, at the size they are shrunk to, in grey as in colour."""
    source = photos(tmp_path / "in")
    out = packed(source, tmp_path / "out", size, 19_000)  # with the two blocks of its end, two records of a tar
    for split in ("train", "test"):
        data, plain = shards(ShardsOptions(path=out, size=8), split), folder(FolderOptions(path=source, size=8), split)
        assert pictures(data) == pictures(plain) and len(data) == len(plain) and data.class_names == ("a", "b", "c")
        assert data.items(0, torch.arange(len(data))).sort().values.equal(torch.arange(len(data)))
    sizes = [p.stat().st_size for p in sorted(out.glob("train-*.tar"))]
    assert len(sizes) > 2 and max(sizes) <= 2 * tarfile.RECORDSIZE and min(sizes[:-1]) == 2 * tarfile.RECORDSIZE


def test_the_same_folder_makes_the_same_bytes(tmp_path):
    """Whatever the threads, the times of the files and the order in which they were made."""
    source = photos(tmp_path / "in")
    again = tmp_path / "again"
    for path in sorted((p for p in source.rglob("*") if p.is_file()), reverse=True):
        new = again / path.relative_to(source)
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, new)
        os.utime(new, (1, 1))
    found = [names_of(packed(s, tmp_path / f"o{w}", most=5000, workers=w)) for s, w in ((source, 1), (again, 7))]
    assert found[0] == found[1] and len(found[0]) > 5
    assert names_of(packed(source, tmp_path / "small", 8, 5000, workers=1)) == names_of(
        packed(again, tmp_path / "s", 8, 5000)
    )


def test_files_are_kept_as_they_are_and_read_by_the_common_reader(tmp_path):
    source = photos(tmp_path / "in", 20)
    out = packed(source, tmp_path / "out")
    files = sorted(p.read_bytes() for p in source.rglob("*") if p.is_file())
    inside, labels = [], []
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                data = tar.extractfile(member).read()
                (labels if member.name.endswith(".cls") else inside).append(data)
                assert (member.mtime, member.uid, member.uname, member.mode) == (0, 0, "", 0o644)
    assert sorted(inside) == files and sorted(labels) == sorted(b"%d" % (k % 3) for k in range(20))


def test_a_flat_folder_has_no_classes_and_each_shard_is_a_mixture_of_a_sorted_one(tmp_path):
    for k in range(60):
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / f"{k:02d}.png").write_bytes(png(k))
    data = shards(ShardsOptions(path=packed(tmp_path / "flat", tmp_path / "out", most=20_000), size=8), "train")
    assert (data.classes, len(data)) == (0, 54)
    x = data.batch(torch.arange(20), torch.arange(20), Pixels((3, 8, 8), 0)).x[:, 0, 0, 0]
    assert (x.diff() > 0).float().mean() < 0.9


def test_a_bad_file_is_told_and_nothing_is_left(tmp_path, capsys):
    source = photos(tmp_path / "in")
    bad = source / "b" / "bad.png"
    bad.write_bytes(png(3, (64, 64))[:-30])
    with pytest.raises(DataError, match=r"bad\.png is no readable image: .*--skip-bad"):
        packed(source, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    out = packed(source, tmp_path / "out", skip_bad=True)
    assert sum(len(shards(ShardsOptions(path=out, size=8), split)) for split in ("train", "test")) == 40
    assert "1 of 37 files skipped, the first" in capsys.readouterr().err


def test_a_split_without_images_is_told(tmp_path):
    with pytest.raises(DataError, match=r"has no images for the split test \(index % 10 == 9\)"):
        packed(photos(tmp_path / "in", 9), tmp_path / "out")


def test_a_place_that_is_taken_stays_as_it_is(tmp_path):
    source, out = photos(tmp_path / "in"), tmp_path / "out"
    out.write_text("mine")
    with pytest.raises(UsageError, match="out exists"):
        packed(source, out)
    assert out.read_text() == "mine"


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    source = photos(tmp_path / "in")

    def full(path: Path, samples: object, *, classed: bool) -> int:
        path.write_bytes(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "write", full)
    with pytest.raises(EnvironmentProblem, match="no space is left"):
        packed(source, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_an_index_that_does_not_fit_is_told(tmp_path):
    out = packed(photos(tmp_path / "in"), tmp_path / "out")
    index = out / "train.index.json"
    whole = index.read_text()
    for text, says in (
        (whole.replace('"images": 36', '"images": 35'), "has 36 pictures, but the index of the shards says 35"),
        (whole.replace('"images": 36', f'"images": {2**60}'), r"does not fit train-000000\.tar; bring the shards"),
        (whole.replace('"bytes": ', '"bytes": 1'), r"does not fit train-000000\.tar; bring the shards"),
        (whole.replace('"version": 1', '"version": 2'), "is no index of shards of this version"),
        (whole.replace('"images": 36', '"images": true'), "is no index of shards"),
        (whole.replace('"c"\n', "3\n"), "is no index of shards"),
        (whole.replace("numbers", "runes"), "has classes that cannot be"),
        (whole[:50], "is no index of shards"),
        ("[" * 100_000, "is no index of shards"),
        (whole.replace('  "b",\n', ""), "has a class that the index of the shards has not"),
    ):  # fmt: skip
        assert text != whole
        index.write_text(text)
        with pytest.raises(DataError, match=says):
            data = shards(ShardsOptions(path=out, size=8), "train")
            data.batch(torch.arange(2), torch.arange(2), Pixels((3, 8, 8), 3))
    index.unlink()
    assert len(shards(ShardsOptions(path=out, size=8), "train")) == 36


def test_the_command_and_its_check(cli, tmp_path):
    source = photos(tmp_path / "in")
    ran = cli("data", "pack", "in", "out", "--size", "8", "--shard-size", "0.01", "--json")
    assert ran.code == 0 and [row["images"] for row in ran.json["splits"]] == [36, 4], ran.err
    ran = cli("data", "check", "shards", "--path", "out", "--json")
    assert ran.code == 0 and [row["images"] for row in ran.json["splits"]] == [36, 4], ran.err
    shard = Path("out/train-000001.tar")
    data = bytearray(shard.read_bytes())
    data[data.index(b"IDAT") + 9] ^= 255
    shard.write_bytes(data)
    for k in (0, 3):
        (source / "a" / f"bad{k}[.png").write_bytes(b"")
    for what, n, names in (
        ("shards", 40, ["train-000001.tar is another file", "train-000001.tar, picture"]),
        ("folder", 42, ["bad0[.png", "bad3[.png"]),
    ):
        ran = cli("data", "check", what, "--path", "out" if what == "shards" else "in", "--json")
        assert ran.code == 3 and f"2 faults in {n} pictures" in ran.err and len(ran.json["bad"]) == 2, (
            ran.out,
            ran.err,
        )
        assert all(name in ran.out for name in names), ran.out
    ran = cli("data", "pack", "in", "out")
    assert ran.code == 2 and "out exists" in ran.err
