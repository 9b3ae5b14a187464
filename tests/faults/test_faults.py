"""A few of the faults of the table, each on a training of its own: it goes on as if nothing had been."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from trials import (
    ALL,
    Trial,
    asked_to_stop,
    closed_streams,
    damaged_checkpoint,
    damaged_record,
    error_at_change,
    kill_at_change,
    kill_near_checkpoint,
    second_writer,
    spoil,
)
from twins import Twin
from undisturbed import difference, reference, subjects


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return reference(subjects(folder)[0], folder)


def trial(undisturbed: Path, seed: int) -> Trial:
    free = undisturbed.with_name("run")
    shutil.rmtree(free, ignore_errors=True)
    return Trial(subjects(undisturbed.parent)[0], undisturbed, free, random.Random(seed))


@pytest.mark.slow
def test_a_kill_near_a_checkpoint_is_survived(undisturbed: Path) -> None:
    assert kill_near_checkpoint(trial(undisturbed, 0)) is None


@pytest.mark.slow
@pytest.mark.parametrize("fault", [kill_at_change, error_at_change, damaged_checkpoint, damaged_record, asked_to_stop, closed_streams, second_writer])  # fmt: skip
def test_a_fault_is_survived(undisturbed: Path, fault) -> None:
    assert fault(trial(undisturbed, 1)) is None


def test_the_comparison_sees_each_file_that_differs(undisturbed: Path) -> None:
    """What says that a run is exact must be able to say that it is not."""
    run = undisturbed
    copy, dice = run.with_name("copy"), random.Random(0)
    for name in ("checkpoints/step-00000040/optim.safetensors", "checkpoints/step-00000035/ema.safetensors",
                 "samples/final.png", "samples/step-00000010.png"):  # fmt: skip
        shutil.copytree(run, copy)
        assert difference(copy, run) is None
        spoil(copy / name, dice, cut=False)
        assert difference(copy, run) == name
        shutil.rmtree(copy)
    shutil.copytree(run, copy)
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[:7] + lines[8:]))
    assert difference(copy, run) == "metrics.jsonl"
    shutil.rmtree(copy)
    shutil.copytree(run, copy)
    (copy / ".tmp-1-2").mkdir()
    assert "left behind" in str(difference(copy, run))
    shutil.rmtree(copy)


def test_the_soak_sees_a_step_that_is_told_otherwise(tmp_path: Path) -> None:
    twin = Twin((), tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5, "seconds": 1}\n{"step": 2, "los')
    twin.read()
    path.write_text('{"step": 1, "loss": 0.5, "seconds": 2}\n{"step": 2, "loss": 0.25}\n')
    twin.read()
    assert twin.unlike == [] and set(twin.rows) == {1, 2}
    path.write_text('{"step": 1, "loss": 0.5, "seconds": 2}\n{"step": 2, "loss": 0.26}\n')
    twin.read()
    assert twin.unlike == ["metrics of step 2 told again, and otherwise"]


def test_every_fault_says_what_it_is() -> None:
    assert all(fault.__doc__ and "\n" not in fault.__doc__ for fault in ALL)
