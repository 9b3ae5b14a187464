"""Commands on two processes: what they leave is what one process leaves, and nothing is left behind of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from diffcli.engine import checkpoint
from diffcli.engine.load import load

pytestmark = pytest.mark.slow
SMALL = ["--channels", "8", "--batch-size", "32"]


def run(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diffcli", *words]
    plain = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, timeout=240)


def trained(folder: Path, name: str, *words: str, **env: str) -> Path:
    done = run(folder, "train", "rf", *SMALL, "--output", name, *words, **env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines() == [name]  # of one process
    return folder / name


def weights(run: Path) -> dict[str, torch.Tensor]:
    found = checkpoint.latest(run)
    return {f"{part}.{name}": t for part in ("model", "ema", "optim") for name, t in found.tensors(part).items()}


def same(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def near(a: Path, b: Path) -> bool:
    """Sums in another order, some steps long; AdamW divides by small numbers, so weights are held to a share of a step."""
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(
        torch.allclose(one[n], two[n], rtol=1e-3, atol=2e-4) for n in one if n.startswith(("model", "ema"))
    )


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_training_of_two_stops_resumes_and_changes_its_size(tmp_path, strategy):
    """Resumed by two it is exact to the bit; by one, or from one, it takes a flag, and is as near as sums in another order."""
    two = ["--devices", "2", "--strategy", strategy, "--save-every", "10"]
    whole = trained(tmp_path, "whole", "--steps", "20", *two)
    killed = run(tmp_path, "train", "rf", *SMALL, "--output", "part", "--steps", "20", *two, DIFFCLI_TEST="1", DIFFCLI_TEST_NAN_AT="14")  # fmt: skip
    assert killed.returncode == 7 and killed.stderr.count("error: ") == 1
    part = tmp_path / "part"
    resumed = run(tmp_path, "train", "rf", "--resume", "part", *two[:4])
    assert resumed.returncode == 0 and same(whole, part), resumed.stderr
    rows = [json.loads(line) for line in (part / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20]

    first, second = (two[:4], []) if strategy == "ddp" else ([], two[:4])
    lone = ["--output", "other", "--steps", "20", "--save-every", "10"]
    cut = run(tmp_path, "train", "rf", *SMALL, *lone, *first, DIFFCLI_TEST="1", DIFFCLI_TEST_NAN_AT="14")
    assert cut.returncode == 7
    refused = run(tmp_path, "train", "rf", "--resume", "other", *second)
    assert refused.returncode == 4 and "--resize" in refused.stderr
    gone_on = run(tmp_path, "train", "rf", "--resume", "other", "--resize", *second)
    assert gone_on.returncode == 0 and "not exact to the bit" in gone_on.stderr
    assert near(whole, tmp_path / "other")


def test_two_processes_draw_and_measure_what_one_does(tmp_path):
    """Sample i is of (seed, i): the same parts, drawn elsewhere, to the bit; and the same records."""
    trained(tmp_path, "run", "--steps", "10")
    asked = ["--samples", "12", "--steps", "2", "--batch-size", "6"]
    for name, flags in (("one", []), ("two", ["--devices", "2"])):
        done = run(tmp_path, "sample", "run", *asked, "--output", name, *flags)
        assert done.returncode == 0 and done.stdout.strip() == name, done.stderr
    pictures = [
        sorted(path.relative_to(tmp_path / n) for path in (tmp_path / n).rglob("*.png")) for n in ("one", "two")
    ]
    assert pictures[0] == pictures[1] and len(pictures[0]) > 12
    assert all((tmp_path / "one" / p).read_bytes() == (tmp_path / "two" / p).read_bytes() for p in pictures[0])
    values = []
    for flags in ([], ["--devices", "2"]):
        done = run(tmp_path, "eval", "run", "--metric", "loss,fd", "--extractor", "pixels", *asked, "--json", *flags)
        assert done.returncode == 0, done.stderr
        values.append([one["value"] for one in json.loads(done.stdout.splitlines()[-1])["records"]])
    assert values[0] == values[1]
    assert len((tmp_path / "run" / "evals.jsonl").read_text().splitlines()) == 2 * len(values[0])


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ended(pids: list[int], within: float) -> bool:
    until = time.monotonic() + within
    while time.monotonic() < until:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("victim", "number", "code"),
    [("first", signal.SIGKILL, 9), ("launcher", signal.SIGKILL, -9), ("first", signal.SIGTERM, 143)],
)  # fmt: skip
def test_one_that_dies_takes_the_others_along(tmp_path, victim, number, code):
    """Within a minute, whoever it is; nobody is left behind, and what a signal stops has been saved."""
    words = ["train", "rf", *SMALL, "--output", "run", "--steps", "100000", "--save-every", "5", "--devices", "2"]
    words += ["--async-save"]  # what is written while a signal comes must be there when it is said to be
    process = subprocess.Popen(
        [sys.executable, "-m", "diffcli", *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    until = time.monotonic() + 120
    while not list(tmp_path.glob("run/checkpoints/step-*")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill({"first": workers[0], "last": workers[1], "launcher": process.pid}[victim], number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert ended(workers, 60)
    if code == 143:
        assert b"saved; go on with --resume" in said
        assert f"at step {load(tmp_path / 'run').step} of".encode() in said
    assert load(tmp_path / "run").step > 0


def test_a_rank_left_behind_trains_alone(tmp_path):
    trained(tmp_path, "run", "--steps", "2", RANK="1", WORLD_SIZE="4", LOCAL_RANK="1")
