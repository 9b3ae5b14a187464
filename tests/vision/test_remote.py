"""Shards of the Hub: one commit, fetched as they are needed, known by size and hash, in a cache of bounded size."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

from diffcli import recipe as recipes
from diffcli.core.space import Pixels
from diffcli.engine.job import anchored
from diffcli.errors import DataError, EnvironmentProblem, RunError, UsageError
from diffcli_vision import FolderOptions, HubOptions, ShardsOptions
from diffcli_vision.sharded.bounded import Bounded, Soon
from diffcli_vision.sharded.packing import pack
from diffcli_vision.sharded.shards import shards
from tars import numbered, photos

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SPACE = Pixels((3, 8, 8), 3)


class Hub:
    """A data set of the Hub in a folder here, and what was asked of it."""

    def __init__(self, folder: Path):
        self.folder, self.fetched, self.down, self.more = folder, list[str](), False, list[Any]()

    def info(self, repo_id: str, revision: str | None, files_metadata: bool) -> Any:
        if self.down:
            raise ConnectionError("no route")
        if repo_id != "me/birds":
            raise errors.RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))
        siblings = [self.about(path) for path in sorted(self.folder.rglob("*")) if path.is_file()]
        return SimpleNamespace(sha=COMMIT, siblings=siblings + self.more)

    def about(self, path: Path) -> Any:
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        lfs = SimpleNamespace(sha256=sha) if path.suffix == ".tar" else None
        return SimpleNamespace(rfilename=str(path.relative_to(self.folder)), size=path.stat().st_size, lfs=lfs)

    def download(self, repo_id: str, filename: str, repo_type: str, revision: str, local_dir: Path) -> str:
        if self.down:
            raise ConnectionError("no route")
        assert (repo_id, repo_type, revision) == ("me/birds", "dataset", COMMIT)
        self.fetched.append(filename)
        (local_dir / filename).parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(self.folder / filename, local_dir / filename))


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(dataset_info=made.info))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.download)
    return made


def opened(address: str = "hub:me/birds/data/train-*.tar", split: str = "train", **how):
    return shards(ShardsOptions(path=Path(address), size=8, **how), split)


def pictures(data, n: int) -> torch.Tensor:
    index = torch.arange(n)
    return torch.cat([data.batch(data.items(0, i), i, SPACE).x for i in index.split(4)])


def test_they_are_the_shards_as_they_would_be_here(hub, tmp_path):
    local = shards(ShardsOptions(path=numbered(hub.folder / "data", (5, 6, 4)) / "train-*.tar", size=8), "train")
    far = opened()
    assert torch.equal(pictures(far, 40), pictures(local, 40)) and sorted(set(hub.fetched)) == sorted(hub.fetched)
    assert torch.equal(pictures(opened("hub:me/birds@v1/data/train-{000..002}.tar"), 40), pictures(local, 40))
    assert len(hub.fetched) == 3, "what is there is not fetched again"


def test_with_an_index_nothing_is_fetched_before_it_is_needed(hub, tmp_path):
    pack(FolderOptions(path=photos(tmp_path / "in", 60)), hub.folder / "data", None, 3000, lambda done, total: None)
    data = opened("hub:me/birds/data/*.tar", window=2)
    assert hub.fetched == ["data/train.index.json"] and len(data) == 54 and data.class_names == ("a", "b", "c")
    data.batch(torch.tensor([0]), torch.tensor([0]), SPACE)
    assert hub.fetched[1:] == ["data/train-000000.tar"]
    data.items(0, torch.arange(2))
    data.source.place.ahead.queue.join()
    data.pool.shutdown()
    chosen = {*data.source.windows.shards(0, 0, 0), *data.source.windows.shards(0, 0, 1)}
    assert set(hub.fetched[2:]) | {"data/train-000000.tar"} >= {f"data/train-{k:06d}.tar" for k in chosen}


def test_the_cache_holds_no_more_than_it_may(hub, tmp_path):
    """Of ten shards, six fit: two windows of two, and some. Each epoch fetches some again; the pictures are the same."""
    numbered(hub.folder / "data", [5] * 10)
    size = (hub.folder / "data" / "train-000.tar").stat().st_size
    data = opened(window=2, cache_gb=6.5 * size / 1e9)
    seen = pictures(data, 100)
    data.source.place.ahead.queue.join()
    kept = list((tmp_path / "cache" / "diffcli" / "fetched").glob("*.tar"))
    assert len(hub.fetched) > 10 and sum(p.stat().st_size for p in kept) <= 6.5 * size
    assert torch.equal(seen, pictures(opened(window=2), 100))
    with pytest.raises(UsageError, match=r"two windows of 4 shards .* larger --cache-gb, or a smaller --window"):
        opened(window=4, cache_gb=6.5 * size / 1e9)


def test_what_came_damaged_is_told(hub):
    numbered(hub.folder / "data", (5, 6))
    plain = hub.info
    for field, value in (("size", 7), ("lfs", SimpleNamespace(sha256="0" * 64))):

        def other(*args: Any, _field: str = field, _value: Any = value, **how: Any) -> Any:
            found = plain(*args, **how)
            setattr(found.siblings[0], _field, _value)
            return found

        hub.info = other  # type: ignore[method-assign]
        huggingface_hub.HfApi = lambda: SimpleNamespace(dataset_info=hub.info)  # the fixture puts it back
        with pytest.raises(DataError, match=r"train-000\.tar of .* came damaged from the Hub"):
            opened()


def test_what_is_damaged_in_the_cache_is_fetched_again(hub):
    numbered(hub.folder / "data", (5, 6))
    place = opened().source.place
    place.file(0).write_bytes(place.file(0).read_bytes()[:520])
    hub.fetched.clear()
    with pytest.raises(DataError, match="train-"):
        place.index(0)
    assert len(place.index(0)) == 5 and len(hub.fetched) == 1


def test_without_the_hub_what_is_kept_is_read(hub, capsys):
    numbered(hub.folder / "data", (5, 6))
    first = pictures(opened(), 20)
    hub.down = True
    assert torch.equal(pictures(opened(), 20), first)
    assert f"is taken to be {COMMIT[:12]}, as before" in capsys.readouterr().err
    with pytest.raises(EnvironmentProblem, match="the Hub cannot be asked"):
        opened("hub:me/other/*.tar")


def test_a_run_names_the_commit_it_was_trained_on(hub):
    """So that a resume has the same files when a branch has moved; a commit that is given needs no Hub."""
    numbered(hub.folder / "data", (5, 6))
    asked = {"name": "shards", "path": "hub:me/birds@v1/data/*.tar", "held_out": "hub:me/birds/data/train-000.tar"}
    given = anchored(recipes.resolve({"method": {"name": "rf"}, "dataset": asked})).parts["dataset"].config
    assert str(given.path) == f"hub:me/birds@{COMMIT}/data/*.tar"
    assert str(given.held_out) == f"hub:me/birds@{COMMIT}/data/train-000.tar"
    hub.down = True
    assert given.pinned() == given
    hub.down = False
    assert str(HubOptions(path=Path("me/birds")).pinned().path) == f"me/birds@{COMMIT}"
    assert HubOptions(path=hub.folder).pinned().path == hub.folder


def test_names_with_tricks_are_passed_over(hub, tmp_path):
    numbered(hub.folder / "data", (5, 6))
    for name in ("../up.tar", "/etc/abs.tar", "data/../../x.tar", "data/\x1b.tar", "./data/a.tar"):
        hub.more.append(SimpleNamespace(rfilename=name, size=512, lfs=None))
    data = opened("hub:me/birds/*.tar")
    assert data.source.place.names == ["data/train-000.tar", "data/train-001.tar"]


@pytest.mark.parametrize(
    ("address", "error", "says"),
    [
        ("hub:me/birds", UsageError, "is no address of shards: it is written"),
        ("hub:me/../x/*.tar", UsageError, "is no address of shards"),
        ("hub:birds/*.tar", UsageError, "is no address of shards"),
        ("hub:me/birds/*.tgz", DataError, "the data set has no such files, of 1"),
        ("hub:you/birds/*.tar", RunError, "the Hub has no model or data set of that name"),
    ],
)
def test_wrong_addresses_are_refused(hub, address, error, says):
    numbered(hub.folder, (5,))
    with pytest.raises(error, match=says):
        opened(address)


def test_a_kept_file_is_made_once_whole_or_not_at_all(tmp_path):
    """By sixteen threads at a time; a making that fails leaves nothing, and what was used last stays."""
    kept, made = Bounded(30, tmp_path / "kept"), list[str]()

    def make(path: Path) -> None:
        made.append(path.name)
        time.sleep(0.05)  # so that all wait for the first
        path.write_bytes(bytes(10))

    threads = [threading.Thread(target=kept.file, args=("../a", 10, make)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and not (tmp_path / "a").exists()

    def fail(path: Path) -> None:
        path.write_bytes(b"part")
        raise DataError("no")

    with pytest.raises(DataError):
        kept.file("b", 10, fail)
    assert [p.name for p in kept.folder.glob("*.tar")] == [kept.place("../a").name] and not list(
        kept.folder.glob(".tmp-*")
    )
    for name in ("b", "c", "../a", "d"):
        kept.file(name, 10, make)
    assert [kept.place(name).exists() for name in ("../a", "b", "c", "d")] == [True, False, True, True]


def test_what_is_fetched_ahead_may_fail_and_the_rest_goes_on():
    """It is told when it is needed; each is asked for once while it is wanted."""
    got = list[int]()

    def get(number: int) -> None:
        got.append(number)
        if number < 3:
            raise DataError("no")

    soon = Soon(get)
    soon([0, 1, 2, 3, 4])
    soon([3, 4, 5])
    until = time.monotonic() + 5
    while len(got) < 6 and time.monotonic() < until:
        time.sleep(0.01)
    assert sorted(got) == [0, 1, 2, 3, 4, 5]
