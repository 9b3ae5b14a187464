"""What is handed over is saved as it was then, in its order, and no failure is silent."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from diffcli.engine import checkpoint
from diffcli.engine.rundir import committed
from diffcli.engine.saving import Saver
from diffcli.errors import EnvironmentProblem, NonFinite


class Gate:
    """Holds every fsync until it is opened."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.open, real = threading.Event(), os.fsync

        def fsync(fd: int) -> None:
            assert self.open.wait(20)
            real(fd)

        patch.setattr(os, "fsync", fsync)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.open.set()


def tensors(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {name: {"w": torch.full((3, 4), value).T, "n": torch.tensor(int(value))} for name in ("model", "ema")}


def hand(saver: Saver, run: Path, step: int, groups: Any = None, kind: str = "checkpoint", **options: int) -> None:
    def commit(tensors: Any, state: Any, meta: Any) -> None:
        checkpoint.save(run, step, tensors, state, meta, **options)

    saver.hand(kind, groups or tensors(step), {"step": step}, {"facts": {"shape": (1, 2)}}, commit)


def steps(run: Path) -> list[int]:
    return [step for step, _ in committed(run)]


def test_what_changes_after_it_is_handed_over_is_saved_as_it_was(tmp_path, gate):
    groups, state, meta = tensors(5.0), {"pending": [{"loss": 1.0}]}, {"facts": {"names": ["a"]}}
    with Saver(background=True) as saver:
        saver.hand("checkpoint", groups, state, meta, partial(checkpoint.save, tmp_path, 5))
        groups["model"]["w"].zero_()
        groups["ema"]["n"].zero_()
        state["pending"].append({"loss": 2.0})
        meta["facts"]["names"].clear()
        assert steps(tmp_path) == [], "it is not there before it is durable, and no one waits"
        gate.open.set()
    found = checkpoint.open_checkpoint(tmp_path / "checkpoints" / "step-00000005")
    found.verify()
    assert found.state == {"pending": [{"loss": 1.0}]} and found.meta == {"facts": {"names": ["a"]}}
    for name, group in tensors(5.0).items():
        assert all(torch.equal(found.tensors(name)[key], t) for key, t in group.items())


@pytest.mark.parametrize("background", [False, True])
def test_both_ways_leave_the_same_bytes(tmp_path, background):
    places = tmp_path / "now", tmp_path / "either"
    for run, saver in zip(places, (Saver(background=False), Saver(background=background)), strict=True):
        with saver:
            for step in (1, 2, 3, 4):
                hand(saver, run, step, keep=2)
    a, b = ({p.relative_to(run): p.read_bytes() for p in run.rglob("*") if p.is_file()} for run in places)
    assert a == b and steps(places[0]) == [3, 4]


def test_old_ones_go_only_when_the_new_one_is_durable(tmp_path, gate):
    gate.open.set()
    with Saver(background=True) as saver:
        for step in (1, 2):
            hand(saver, tmp_path, step, keep=2)
        saver.wait()
        gate.open.clear()
        hand(saver, tmp_path, 3, keep=2)
        time.sleep(0.05)
        assert steps(tmp_path) == [1, 2]
        gate.open.set()
        saver.wait()
        assert steps(tmp_path) == [2, 3]


def test_one_of_a_kind_waits_for_the_one_before_and_no_two_run_at_once(tmp_path):
    running, most, order = 0, 0, []

    def commit(step: int, groups: Any, state: Any, meta: Any) -> None:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        time.sleep(0.03)
        order.append((step, float(groups["model"]["w"][0, 0])))
        running -= 1

    with Saver(background=True) as saver:
        for step in range(4):
            for kind in ("snapshot", "checkpoint"):
                saver.hand(kind, tensors(step), {}, {}, partial(commit, step))
    assert most == 1
    assert order == [(step, step) for step in range(4) for _ in range(2)], "of buffers that are filled anew each time"


def test_buffers_are_kept_from_save_to_save():
    places: list[list[int]] = []
    seen: list[Any] = []

    def commit(groups: Any, state: Any, meta: Any) -> None:
        places.append([t.data_ptr() for group in groups.values() for t in group.values()])
        seen.append({key: t.clone() for key, t in groups["model"].items()})
        assert all(t.is_contiguous() for group in groups.values() for t in group.values())

    with Saver(background=True) as saver:
        for step in (1, 2):
            saver.hand("checkpoint", tensors(float(step)), {}, {}, commit)
        other = {"w": torch.ones(1, 3), "n": torch.tensor(2.5)}
        saver.hand("checkpoint", {"model": other}, {}, {}, commit)
    assert places[0] == places[1]
    assert all(torch.equal(seen[2][key], t) and seen[2][key].dtype == t.dtype for key, t in other.items())


@pytest.mark.parametrize("how", ["check", "hand", "wait", "end"])
def test_a_failure_is_raised_once_and_saving_goes_on(tmp_path, monkeypatch, how):
    real = os.fsync
    with Saver(background=True) as saver:
        hand(saver, tmp_path, 1)
        saver.wait()
        monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        hand(saver, tmp_path, 2, kind="snapshot")
        while not saver.pending["snapshot"].done():
            time.sleep(0.001)
        monkeypatch.setattr(os, "fsync", real)
        act = {
            "check": saver.check,
            "hand": lambda: hand(saver, tmp_path, 3),
            "wait": saver.wait,
            "end": lambda: saver.end("snapshot"),
        }[how]
        with pytest.raises(EnvironmentProblem, match="no space is left"):
            act()
        act()
        hand(saver, tmp_path, 4)
    assert steps(tmp_path) in ([1, 4], [1, 3, 4])


def test_check_never_waits(tmp_path, gate):
    with Saver(background=True) as saver:
        hand(saver, tmp_path, 1)
        saver.check()
        assert steps(tmp_path) == [] and saver.pending
        gate.open.set()


def test_numbers_that_are_not_finite_are_told_after_the_step(tmp_path):
    with pytest.raises(NonFinite, match="in w; it is not saved"), Saver(background=True) as saver:
        hand(saver, tmp_path, 1, {"model": {"w": torch.tensor([float("nan")])}})
    assert steps(tmp_path) == []


def test_whatever_ends_a_training_what_was_handed_over_is_durable(tmp_path, monkeypatch):
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (time.sleep(0.02), real(fd)))
    with pytest.raises(KeyError, match="mine") as told, Saver(background=True) as saver:
        hand(saver, tmp_path, 2, {"model": {"w": torch.tensor([float("inf")])}}, kind="snapshot")
        hand(saver, tmp_path, 1)
        raise KeyError("mine")
    assert steps(tmp_path) == [1]
    assert "the last save failed, too" in told.value.__notes__[0]
