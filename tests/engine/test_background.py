"""A training that saves in the background is never told as saved before it is."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from commands import run as command
from diffcli.engine import checkpoint
from diffcli.engine import train as training
from diffcli.engine.rundir import RunDir, committed
from diffcli.engine.signals import Signals
from diffcli.errors import EnvironmentProblem

TINY = ("--channels", "8", "--batch-size", "2", "--async-save")
LONGER = ("--steps", "12", "--save-every", "4", "--log-every", "1")


def test_a_finished_run_has_its_last_checkpoint(tmp_path, monkeypatch):
    """What says that it is finished, summary.json, is written when the last checkpoint is durable."""
    real_save, real_finish, there = checkpoint.save, training.finish, []

    def slow(*given: object, **options: int) -> Path:
        time.sleep(0.2)
        return real_save(*given, **options)

    def finish(job: object, run: RunDir, *given: object) -> None:
        there.extend(step for step, _ in committed(run.path))
        real_finish(job, run, *given)

    monkeypatch.setattr(checkpoint, "save", slow)
    monkeypatch.setattr(training, "finish", finish)
    ran = command("train", "rf", *TINY, "--steps", "2", "--save-every", "0", "--output", tmp_path / "run")
    assert ran.code == 0 and there == [2], ran.err


def test_a_save_that_fails_at_a_signal_is_not_told_as_saved(tmp_path, monkeypatch):
    class Heard(Signals):
        def __enter__(self) -> Signals:
            self.received = 15
            return self

    def full(*_: object, **__: object) -> Path:
        time.sleep(0.2)
        raise EnvironmentProblem("no space is left; free some and try again")

    monkeypatch.setattr(training, "Signals", Heard)
    monkeypatch.setattr(checkpoint, "save", full)
    ran = command("train", "rf", *TINY, "--steps", "4", "--output", tmp_path / "run")
    assert ran.code == 6 and "saved; go on" not in ran.err, ran.err


@pytest.mark.slow
def test_a_save_that_fails_in_the_background_stops_the_training(tmp_path, monkeypatch):
    real = checkpoint.save

    def full(run: Path, step: int, *given: object, **options: int) -> Path:
        if step == 8:
            raise EnvironmentProblem("cannot write step-00000008: no space is left; free some and try again")
        return real(run, step, *given, **options)

    monkeypatch.setattr(checkpoint, "save", full)
    ran = command("train", "rf", *TINY, *LONGER, "--output", tmp_path / "run")
    assert ran.code == 6 and "no space is left" in ran.err
    assert [step for step, _ in committed(tmp_path / "run")] == [4]
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] < 12, "at once"
    monkeypatch.undo()
    ran = command("train", "--resume", tmp_path / "run")
    assert ran.code == 0 and [step for step, _ in committed(tmp_path / "run")] == [4, 8, 12], ran.err
