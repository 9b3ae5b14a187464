"""A resume on another machine is sound, and says in a line each what is no longer the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from diffcli.engine import checkpoint


@pytest.fixture
def run(trained, tmp_path) -> Path:
    (one,) = (trained / "runs" / "rf").iterdir()
    return Path(shutil.copytree(one, tmp_path / "run"))


def changed(run: Path, **state) -> None:
    """Save the newest checkpoint again, with another state."""
    stored = checkpoint.latest(run, warn=pytest.fail)
    tensors = {name: stored.tensors(name) for name in ("model", "ema", "optim")}
    checkpoint.save(run, stored.step, tensors, {**stored.state, **state}, stored.meta)


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if "warning" in line]


def test_on_the_same_machine_there_is_no_warning(run, cli):
    changed(run)
    ran = cli("train", "--resume", run)
    assert ran.code == 0, ran.err
    assert warnings(ran.err) == []


@pytest.mark.parametrize(
    ("what", "then"), [("threads", 77), ("torch", "1.0.0"), ("device", "cuda"), ("deterministic", None)]
)
def test_one_line_says_what_was_and_what_is(run, cli, what, then):
    stored = checkpoint.latest(run, warn=pytest.fail)
    changed(run, **{what: then})
    ran = cli("train", "--resume", run)
    assert ran.code == 0, ran.err
    assert warnings(ran.err) == [
        f"warning: {what} was {then} and is {stored.state[what]}: sound, but not exact to the bit"
    ]
    assert warnings((run / "log.txt").read_text())[-1].endswith(warnings(ran.err)[0])


def test_two_changes_are_two_lines(run, cli):
    changed(run, threads=77, torch="1.0.0")
    ran = cli("train", "--resume", run)
    assert ran.code == 0, ran.err
    assert sorted(line.split()[1] for line in warnings(ran.err)) == ["threads", "torch"]
