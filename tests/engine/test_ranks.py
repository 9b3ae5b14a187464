"""Processes that work as one: what they tell each other, and that they compute what one process computes."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
import torch

from diffcli.core.random import Blocks
from diffcli.engine.ranks import ALONE, World
from together import SMALL, losses, start, together


@pytest.fixture(autouse=True)
def one_thread():
    """As each of several processes has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("rows", "size"), [(7, 2), (16, 4), (5, 5), (1000, 7)])
def test_shares_make_the_batch(rows, size):
    """In order, none twice, and none larger than another by more than a row."""
    index = torch.arange(rows)
    shares = [World(rank, size).share(index) for rank in range(size)]
    assert torch.equal(torch.cat(shares), index)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("size", [2, 3])
def test_noise_knows_nothing_of_processes(size):
    """Every row of a batch has the numbers that it has on one process, of any purpose, also those of its stratum."""
    index = torch.arange(64, 64 + 32)
    whole = Blocks(0, index, 32)
    parts = [Blocks(0, World(rank, size).share(index), 32) for rank in range(size)]
    for draw in (lambda r: r.normal("eps", (3, 5)), lambda r: r.uniform("t", ()), lambda r: r.strata("time")):
        assert torch.equal(torch.cat([draw(part) for part in parts]), draw(whole))


def test_alone_everything_is_free():
    assert ALONE.sum(torch.ones(1)).tolist() == [1] and ALONE.told(3) == 3 and ALONE.gathered(3) == [3]
    assert ALONE.alone(lambda: 4) == 4 and ALONE.in_turn(lambda: 5) == 5 and ALONE.agreed(15) == 15
    assert ALONE.copied({"a": torch.ones(2)})["a"].tolist() == [1, 1] and ALONE.blamed()


@pytest.mark.slow
def test_what_processes_tell_each_other(tmp_path):
    first, second = together("talk", {}, tmp_path)
    assert (first["share"], second["share"]) == ([0, 1, 2, 3], [4, 5, 6])
    assert (first["order"], second["order"]) == (["alone", "turn"], ["turn"])
    assert (first["blamed"], second["blamed"]) in ((True, False), (False, True))
    for said in (first, second):
        assert said["sum"] == [3.0, 0.2]
        assert said["agreed"] == [15, 15, None]
        assert said["gathered"] == [0, 1] and said["told"] == "first"
        assert said["rows"] == [[0, 0], [1, 1], [1, 1]]
        assert said["copied"] == {"a": [[[0, 1, 2], [3, 4, 5]], "torch.float32"], "b": [7, "torch.int64"]}


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_who_waits_for_one_that_fails_hears_of_it(tmp_path, kill):
    """At once, though it may have waited for hours: also where the one that is waited for can say nothing any more."""
    processes = start("fail", {"kill": kill, "folder": str(tmp_path)}, stderr=subprocess.PIPE)
    first = processes[0]
    first.communicate(timeout=60)
    assert first.returncode == (-9 if kill else 0)
    until = time.monotonic() + 20
    while not (said := tmp_path / "said-1.json").exists() and time.monotonic() < until:
        time.sleep(0.1)
    heard, seconds = json.loads(said.read_text())
    assert heard.startswith("RankLost: process 1") and seconds < 10
    processes[1].kill()
    processes[1].communicate()


def tables(name: str, **train: object) -> dict[str, dict[str, object]]:
    plain = {"batch_size": 16, "precision": "fp32", "warmup": "0", "lr": 1e-3}
    return {"method": {"name": name}, "train": {**plain, "steps": 3, **train}}


def alike(ours, theirs, bound):
    """Relative to what they are; both are float32 sums of the same numbers in another order, or float64 ones."""
    return all(a["loss"] == pytest.approx(b["loss"], rel=bound) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one(tmp_path, strategy):
    """1e-6 at the first step, 1e-4 at the 20th, where rounding has been amplified; float64 to 1e-9 throughout.

    Also in parts, of which only the last one's gradients are added up over processes.
    """
    asked = [
        tables("rf", steps=20, strategy=strategy),
        tables("rf", steps=20, strategy=strategy, precision="fp64"),
        tables("rf", steps=20, strategy=strategy, accumulate=2, precision="fp64"),
    ]
    found, other = together("train", {"recipes": asked, "steps": 20}, tmp_path)
    assert found == other
    for one, two, bound in zip(asked, found, (1e-4, 1e-9, 1e-9), strict=True):
        expected = losses(one, 20)
        assert alike(expected, two, bound)
        assert expected[0]["loss"] == pytest.approx(two[0]["loss"], rel=1e-6 if bound == 1e-4 else 1e-9)
        assert expected[0]["grad_norm"] == pytest.approx(two[0]["grad_norm"], rel=1e-5)


@pytest.mark.slow
def test_every_method_trains_as_one(tmp_path):
    """Each of them, by either strategy; iddpm by the losses that all processes have seen of each timestep."""
    asked = [
        tables(name, strategy=strategy)
        for name in SMALL
        for strategy in ("ddp", "fsdp")
        if (name, strategy) != ("vae", "fsdp")
    ]
    found, _ = together("train", {"recipes": asked, "steps": 3}, tmp_path)
    for one, two in zip(asked, found, strict=True):
        assert alike(losses(one, 3), two, 1e-5), one
