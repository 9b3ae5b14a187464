"""Laws of shards: which pictures and classes there are, that each is read by address, and how little is held."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from commands import TINY
from diffcli.core.space import Pixels
from diffcli.engine.evaluate import Bench
from diffcli.errors import DataError, UsageError
from diffcli_vision import ShardsOptions
from diffcli_vision.sharded import places
from diffcli_vision.sharded import shards as module
from diffcli_vision.sharded.shards import shards
from runs import forget, same
from tars import numbered, png, tar

SPACE = Pixels((3, 8, 8), 3)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Nothing is kept outside of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "diffcli" / "shards"


def opened(path: object, split: str = "train", **how):
    return shards(ShardsOptions(path=Path(str(path)), **{"size": 8, **how}), split)


def seen(data, index: torch.Tensor, seed: int = 0) -> tuple[list[int], list[int]]:
    """(numbers of the pictures, their classes) at these positions of the stream."""
    batch = data.batch(data.items(seed, index), index, SPACE)
    levels = ((batch.x + 1) * 127.5).round().long()
    return (levels[:, 0, 0, 0] + 256 * levels[:, 1, 0, 0]).tolist(), batch.label.tolist() if data.classes else []


def test_pictures_and_classes_are_those_of_the_files(tmp_path):
    """An item's number counts through the shards; an epoch has each once."""
    data = opened(numbered(tmp_path / "in", (7, 5, 9), "part-{:02d}.tar"))  # every tenth of a shard is held out
    assert (len(data), data.class_names, data.shape, data.fixed) == (21, ("0", "1", "2"), (3, 8, 8), False)
    numbers, labels = seen(data, torch.arange(42))
    assert sorted(numbers[:21]) == sorted(numbers[21:]) == list(range(21)) and numbers[:21] != numbers[21:]
    assert labels == [number % 3 for number in numbers]
    items = torch.arange(21)
    classes = [i % 3 for i in range(21)]
    assert data.batch(items, items, SPACE).label.tolist() == classes
    assert data.labels_of(items).tolist() == data.labels_of(items + 21).tolist() == classes


def test_the_splits_are_named_or_every_tenth(tmp_path):
    numbered(tmp_path / "in", (12, 25, 9), "part-{:02d}.tar")
    train, test = opened(tmp_path / "in"), opened(tmp_path / "in", "test")
    held = [9, 12 + 9, 12 + 19]
    assert sorted(seen(test, torch.arange(3))[0]) == held
    assert sorted(seen(train, torch.arange(43))[0]) == [i for i in range(46) if i not in held]
    assert train.split.endswith("3 shards, index % 10 != 9") and test.split.endswith("3 shards, index % 10 == 9")
    for name in ("test-{:d}.tar", "x-val-{:d}.tar"):
        numbered(tmp_path / "both", (5, 5), "birds-train-{:d}.tar"), numbered(tmp_path / "both", (3,), name)
        assert [len(opened(tmp_path / "both", split)) for split in ("train", "test")] == [10, 3]
        shutil.rmtree(tmp_path / "both")
    other = numbered(tmp_path / "other", (4,))
    assert (
        len(opened(tmp_path / "in", held_out=other)) == 46 and len(opened(tmp_path / "in", "test", held_out=other)) == 4
    )


def test_a_pattern_stands_for_files(tmp_path, monkeypatch):
    numbered(tmp_path / "[in]", (2, 3, 4, 5), "x-{:03d}.tar")
    monkeypatch.chdir(tmp_path)
    for text, n in (("[[]in]/x-*.tar", 14), ("[in]/x-{001..002}.tar", 7), ("[in]", 14), ("[in]/x-003.tar", 5)):
        assert sum(opened(text).source.survey.counts) == n, text
    assert list(places.braces("a{1..2}b{08..10}")) == [f"a{i}b{j}" for i in (1, 2) for j in ("08", "09", "10")]
    for text, says in (
        ("no/*.tar", "stands for 0 files"),
        ("none.tar", "cannot be read"),
        ("{3..1}.tar", "counts from 3 to 1"),
    ):
        with pytest.raises((DataError, UsageError), match=says):
            opened(text)
    with pytest.raises(UsageError, match="counts from 0 to 999999999999"):
        opened("{0..999999999999}.tar")
    monkeypatch.setattr(places, "MOST_SHARDS", 1000)
    with pytest.raises(DataError, match="stands for 1001 files"):
        opened("{0..999}{0..999}{0..999}.tar")


@pytest.mark.parametrize("workers", [1, 5])
def test_neither_threads_nor_memory_nor_batches_change_a_bit(tmp_path, monkeypatch, workers):
    """With room for two open files and the indices of two shards, of which twelve are in a window."""
    path = numbered(tmp_path / "in", [3, 8, 5, 7, 6, 4, 9, 2, 5, 5, 5, 5])
    plain = opened(path, flip=True, window=4)
    one = [plain.batch(plain.items(3, i), i, SPACE) for i in torch.arange(128).split(64)]
    monkeypatch.setattr(module, "INDEXED", 1)
    small = opened(path, flip=True, window=4, workers=workers)
    small.source.most = 2
    other = [small.batch(small.items(3, i), i, SPACE) for i in torch.arange(128).split(9)]
    for what in ("x", "label"):
        assert torch.equal(*(torch.cat([getattr(part, what) for part in parts]) for parts in (one, other)))
    assert len(small.source.files) <= 2 and len(small.source.indices) <= 2
    assert small.source.held == sum(index.bytes for index in small.source.indices.values())


def test_processes_that_share_batches_read_ahead_what_they_need(tmp_path):
    """Of batches of 8, two processes take 4 each; what one asks for next is what was read for it, but for its first guess."""
    path = numbered(tmp_path / "in", (60, 60))
    for rank in (0, 1):
        data, hits = opened(path), 0
        for step in range(6):
            index = torch.arange(8 * step + 4 * rank, 8 * step + 4 * rank + 4)
            items = data.numbers(0, index)
            hits += step > 1 and all(item in data.ahead for item in items.tolist())
            data.batch(data.items(0, index), index, SPACE)
        assert hits == 4


@pytest.mark.parametrize(
    ("members", "how", "classes", "labels"),
    [
        ([("a.jpg", 0), ("a.cls", b"1"), ("b.jpg", 1), ("b.cls", b"0")], {}, ("0", "1"), [1, 0]),
        ([("a.png", 0), ("a.json", b'{"label": 2}'), ("b.png", 1), ("b.json", b"{}")], {}, ("0", "1", "2"), [2, -1]),
        ([("a.png", 0), ("a.json", b'{"cls": "cat"}'), ("b.png", 1), ("b.json", b'{"class": "ant"}')], {}, ("ant", "cat"), [1, 0]),
        ([("a.png", 0), ("a.json", b'{"cls": "cat"}'), ("b.png", 1), ("b.json", b"{}"), ("c.png", 2), ("c.cls", b"ant")], {}, ("ant", "cat"), [1, -1, 0]),
        ([("cat/a.png", 0), ("ant/b.png", 1), ("./cat/c.d.png", 2), ("cat/c.png", 3)], {}, ("ant", "cat"), [1, 0, 1]),
        ([("x/a.png", 0), ("x/b.png", 1)], {}, (), None),
        ([("a.png", 0), ("b.png", 1)], {}, (), None),
        ([("x/a.png", 0), ("x/a.cls", b"5"), ("y/b.png", 1)], {"label_from": "folder"}, ("x", "y"), [0, 1]),
        ([("a.png", 0), ("a.cls", b"5"), ("b.png", 1)], {"label_from": "none"}, (), None),
        ([("a.txt", b"no"), ("b.cls", b"3"), ("c.PNG", 0), ("d.seg.png", 7), ("d.png", 1), (".e.png", 9)], {}, (), None),
    ],
)  # fmt: skip
def test_what_tells_the_class(tmp_path, members, how, classes, labels):
    rows = [(name, png(data) if isinstance(data, int) else data) for name, data in members]
    tar(tmp_path / "a.tar", rows)
    data = opened(tmp_path / "a.tar", **how)
    items = torch.arange(len(data))
    batch = data.batch(items, items, SPACE)
    assert data.class_names == classes and (batch.label if batch.label is None else batch.label.tolist()) == labels


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("a.png", b""), ("a.cls", b"-3")], "a.png has the label '-3', which is no number"),
        ([("a.png", b""), ("a.cls", b"1000000")], "a.png has the label '1000000'"),
        ([("a.png", b""), ("a.cls", b"\xff")], "no UTF-8"),
        ([("a.png", b""), ("a.cls", b"1" * 300)], "a label of 300 bytes"),
        ([("a.png", b""), ("a.json", b"[" * 100_000)], "a .json that cannot be read"),
        ([("a.png", b""), ("a.json", b'{"label": [1]}')], "has the label"),
        ([("a.png", b""), ("a.cls", b"1"), ("b.png", b""), ("b.cls", b"cat")], "numbers and names of classes"),
        ([("a.txt", b"")], "holds no pictures"),
    ],
)
def test_labels_that_cannot_be_are_told(tmp_path, members, says):
    tar(tmp_path / "[x].tar", members)
    with pytest.raises(DataError, match=says):
        opened(tmp_path)


def test_headers_are_read_once_and_kept_until_the_files_change(tmp_path, cache, monkeypatch):
    path = numbered(tmp_path / "in", (11, 11), "x-{:d}.tar")
    opened(path)
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(places, "read_index", lambda *_: pytest.fail("headers were read again"))
        assert len(opened(path)) == 20 and len(opened(path, "test")) == 2
    numbered(path, (11, 12), "x-{:d}.tar")
    assert sum(opened(path).source.survey.counts) == 23
    for file in cache.iterdir():
        file.write_text("{}")
    assert sum(opened(path).source.survey.counts) == 23, "a damaged cache is no obstacle"
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    assert sum(opened(path).source.survey.counts) == 23, "nor is one that cannot be written"


def test_files_that_change_under_a_training_are_told(tmp_path):
    data = opened(numbered(tmp_path / "in", (6, 6)))
    numbered(tmp_path / "in", (6, 5))
    with pytest.raises(DataError, match=r"train-001\.tar has 5 pictures, but the index of the shards says 6"):
        seen(data, torch.arange(12))


def test_a_bad_picture_is_told_where_it_lies_or_counted(tmp_path, capsys):
    rows = [(f"{i}.png", png(i) if i != 3 else b"\x80\x04pickle") for i in range(6)]
    tar(tmp_path / "in" / "a.tar", rows)
    with pytest.raises(DataError, match=r"a\.tar, picture 3 is no readable image: .*--skip-bad"):
        seen(opened(tmp_path / "in"), torch.arange(6))
    numbers, _ = seen(opened(tmp_path / "in", skip_bad=True), torch.arange(12))
    assert Counter(numbers) == Counter({0: 2, 1: 2, 2: 2, 4: 4, 5: 2})
    assert capsys.readouterr().err.count("picture 3 is no readable image") == 1


def test_items_of_some_classes_are_found_without_decoding(tmp_path, monkeypatch):
    """As a measure of some classes asks for them; the rest of the bench is not needed for it."""
    data = opened(numbered(tmp_path / "in", (9, 9, 9)))
    monkeypatch.setattr(type(data), "load", lambda *_: pytest.fail("a picture was decoded"))
    found = Bench.order(SimpleNamespace(), data, 12, [1])
    assert len(found) == 9 and {int(i) % 3 for i in found} == {1}


def test_caps_hold_inside_of_shards(tmp_path, monkeypatch):
    tar(tmp_path / "a.tar", [(f"{i}.png", png(i, (20, 15))) for i in range(3)])
    for name, value, says in (
        ("MOST_PIXELS", 299, "20x15, above the limit"),
        ("MOST_BYTES", 20, "MB, above the limit"),
    ):
        with monkeypatch.context() as patch, pytest.raises(DataError, match=says):
            patch.setattr(f"diffcli_vision.inputs.{name}", value)
            patch.setattr(module, name, value, raising=False)
            seen(opened(tmp_path), torch.arange(3))


def test_a_member_of_gigabytes_costs_no_memory_above_the_cap(tmp_path, monkeypatch):
    """As a sparse file of zeros: 3 GiB that take no room on the disk."""
    tar(tmp_path / "a.tar", [("a.png", png(0)), ("b.png", png(1))])
    whole = (tmp_path / "a.tar").read_bytes()
    header = bytearray(whole[:512])
    header[124:136], header[148:156] = b"%011o\0" % (3 * 2**30), b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(header)
        file.truncate(512 + 3 * 2**30)
        file.seek(0, os.SEEK_END)
        file.write(whole)
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    data = opened(tmp_path)
    assert len(data) == 2 and len(data.source.read(0)[0]) == 1001


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(DataError, match="is no regular file"):
        opened(tmp_path)
    with pytest.raises(UsageError, match="needs --path"):
        shards(ShardsOptions(), "train")


def test_a_resumed_run_is_the_whole_one(cli, tmp_path):
    """Stopped inside an epoch, with other threads, from another place: batches of 8, 32 pictures, windows of 2 of 3 shards."""
    numbered(tmp_path / "in", (10, 12, 13), "x-{:03d}.tar")
    asked = ["--dataset", "shards", "--size", "8", "--window", "2", "--flip", "--crop", "resized"]
    args = ["train", "rf", *asked, *TINY, "--save-every", "2"]
    ran = cli(*args, "--path", "in/x-{000..002}.tar", "--workers", "1", "--output", "whole")
    assert ran.code == 0, ran.err
    assert f'path = "{tmp_path}/in/x-{{000..002}}.tar"' in Path("whole/recipe.toml").read_text(), (
        "it means the same elsewhere"
    )
    shutil.copytree("whole", "parts")
    forget(Path("parts"), 4)
    Path("elsewhere").mkdir()
    shutil.move("in", "elsewhere/in")
    ran = cli(
        "train",
        "rf",
        "--resume",
        "parts",
        "--dataset",
        "shards",
        "--path",
        "elsewhere/in/x-*.tar",
        "--workers",
        "3",
    )
    assert ran.code == 0, ran.err
    same(Path("whole"), Path("parts"))
