"""Data sets that stream through `datasets`: the same pictures and classes, read by address, and what cannot be is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from diffcli.core.space import Pixels
from diffcli.errors import DataError, EnvironmentProblem, UsageError
from diffcli_vision import HubOptions
from diffcli_vision.sharded import streamed
from tars import photos, png

SPACE = Pixels((3, 8, 8), 2)
CLASSES = {"names": ["even", "odd"], "_type": "ClassLabel"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.fixture
def library(monkeypatch) -> None:
    """The package; it is an extra, and imports much that warns."""
    with streamed.quiet():
        datasets = pytest.importorskip("datasets", reason="the extra diffcli[hub] is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def label_of(k: int) -> int:
    """The class of picture k."""
    return k % 2


def table(folder: Path, split: str, first: int, n: int, label: object = CLASSES, name: str = "") -> Path:
    """A parquet file of n pictures, as the Hub's own."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    features = {"image": {"_type": "Image"}, "label": label}
    kind = pa.string() if label == {"dtype": "string", "_type": "Value"} else pa.int64()
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", kind)],
        metadata={b"huggingface": json.dumps({"info": {"features": features}}).encode()},
    )
    labels = [("ant", "bee")[k % 2] if kind == pa.string() else label_of(k) for k in range(first, first + n)]
    rows = {"image": [{"bytes": png(k), "path": None} for k in range(first, first + n)], "label": labels}
    path = folder / "data" / f"{split}-{name or first:05}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pa.table(rows, schema=schema), path)
    return path


def opened(path: Path, split: str = "train", **how):
    return streamed.streamed(HubOptions(path=path, size=8, **how), split)


def seen(data, index: torch.Tensor) -> tuple[list[int], list[int]]:
    batch = data.batch(data.items(0, index), index, SPACE)
    return ((batch.x[:, 0, 0, 0] + 1) * 127.5).round().int().tolist(), batch.label.tolist() if data.classes else []


def test_rows_of_parquet_files_are_read_by_address(library, tmp_path):
    for first in (0, 10, 20):
        table(tmp_path / "set", "train", first, 10)
    table(tmp_path / "set", "test", 100, 7)
    train, test = opened(tmp_path / "set", window=2), opened(tmp_path / "set", "test")
    assert (len(train), len(test), train.class_names) == (30, 7, ("even", "odd"))
    assert not list((tmp_path / "cache").rglob("*.tar")), "counted without being read"
    numbers, labels = seen(train, torch.arange(60))
    assert sorted(numbers[:30]) == sorted(numbers[30:]) == list(range(30)) and labels == [n % 2 for n in numbers]
    assert sorted(seen(test, torch.arange(7))[0]) == list(range(100, 107))
    again = opened(tmp_path / "set", window=2, workers=1)
    assert [n for i in torch.arange(60).split(7) for n in seen(again, i)[0]] == numbers


def test_without_a_second_split_every_tenth_is_held_out(library, tmp_path):
    table(tmp_path / "set", "train", 0, 20)
    train, test = opened(tmp_path / "set"), opened(tmp_path / "set", "test")
    assert sorted(seen(test, torch.arange(2))[0]) == [9, 19] and len(train) == 18
    with pytest.raises(UsageError, match="has no split valid; there are: train"):
        opened(tmp_path / "set", "test", held_out="valid")


def test_classes_are_names_or_left_out(library, tmp_path):
    table(tmp_path / "set", "train", 0, 12, {"dtype": "string", "_type": "Value"})
    assert opened(tmp_path / "set").classes == 0, "a text is a class only where it is asked for"
    data = opened(tmp_path / "set", target="label")
    numbers, labels = seen(data, torch.arange(11))
    assert data.class_names == ("ant", "bee") and labels == [n % 2 for n in numbers]
    assert opened(tmp_path / "set", target="none").classes == 0
    for how, says in (
        ({"image": "label"}, "--image is to be one column of images"),
        ({"target": "x"}, "has no column x"),
    ):
        with pytest.raises(UsageError, match=says):
            opened(tmp_path / "set", **how)


def test_a_row_without_a_class_has_none(library, tmp_path, monkeypatch):
    monkeypatch.setattr("test_streamed.label_of", lambda k: -1 if k % 3 == 0 else k % 2)
    table(tmp_path / "set", "train", 0, 12)
    numbers, labels = seen(opened(tmp_path / "set"), torch.arange(11))
    assert labels == [-1 if n % 3 == 0 else n % 2 for n in numbers]


def test_a_folder_of_images_streams_too(library, tmp_path):
    data = opened(photos(tmp_path / "in", 30))
    assert data.class_names == ("a", "b", "c") and len(data) == 27
    index = torch.arange(27)
    assert data.batch(data.items(0, index), index, SPACE).label.bincount().tolist() == [9, 9, 9]


def test_a_file_outside_of_the_folder_is_no_picture(library, tmp_path):
    """A row may name a file; only those of the data set are opened."""
    given = streamed.Given(HubOptions(path=photos(tmp_path / "in")))
    (tmp_path / "secret.png").write_bytes(png(1))
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    for path in (
        tmp_path / "secret.png",
        tmp_path / "in" / "link.png",
        tmp_path / "in" / ".." / "secret.png",
        "/dev/zero",
    ):
        assert given.file(str(path)) is None
    assert given.file(str(tmp_path / "in" / "a" / "000.png"))


def test_every_picture_of_it_is_checked(library, tmp_path, cli):
    table(tmp_path / "set", "train", 0, 20)
    ran = cli("data", "check", "hub", "--path", "set", "--json")
    assert ran.code == 0 and [row["images"] for row in ran.json["splits"]] == [18, 2], ran.err


def test_what_cannot_be_read_is_told(library, tmp_path):
    whole = table(tmp_path / "set", "train", 0, 12)
    whole.write_bytes(whole.read_bytes()[:300])
    with pytest.raises(DataError, match=r"cannot be read by datasets|is no whole parquet file"):
        opened(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be read by datasets"):
        opened(tmp_path / "empty")


def test_a_network_that_fails_is_no_fault_of_the_cache(library, tmp_path, monkeypatch):
    def down(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("fsspec.open", down)
    stream = streamed.Given(HubOptions(path=Path("me/birds")))
    with pytest.raises(EnvironmentProblem, match=r"^me/birds cannot be streamed: no route; connect, and try again"):
        stream.file("hf://datasets/me/birds@main/1.png")
    table(tmp_path / "set", "train", 0, 12)
    with pytest.raises(EnvironmentProblem, match="cannot be streamed: no route; look at its files"):
        opened(tmp_path / "set")


def test_without_the_package_the_cure_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(EnvironmentProblem, match=r"needs the package datasets .*pip install 'diffcli\[hub\]'"):
        opened(tmp_path)
    with pytest.raises(UsageError, match="needs --path"):
        streamed.streamed(HubOptions(), "train")


def test_an_old_package_that_runs_code_is_refused(tmp_path, monkeypatch):
    old = type(sys)("datasets")
    old.__version__ = "3.6.0"
    monkeypatch.setitem(sys.modules, "datasets", old)
    with pytest.raises(EnvironmentProblem, match=r"datasets 3\.6\.0 runs code of data sets"):
        opened(tmp_path)
