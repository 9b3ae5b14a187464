"""One fault each: a training is disturbed, and then goes on. What is returned says how that went."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blows import count_changes, die_at, fail_at, limit_files, until
from nursery import PATIENCE, Child, diffcli
from undisturbed import SAVED, STEPS, Subject, difference, go_on

WORKED, STOPPED, ENVIRONMENT = {0}, {-signal.SIGKILL}, {6}
NEAR = 0.03  # seconds after the first sign of a checkpoint


@dataclass
class Trial:
    """subject: what is trained; undisturbed: its run; run: a free path for the one that is disturbed."""

    subject: Subject
    undisturbed: Path
    run: Path
    dice: random.Random

    def begin(self, **setup: object) -> Child:
        """Start the training; setup: see nursery.command."""
        return diffcli(self.run.parent, *self.subject.argv(self.run), **setup)

    def begun(self) -> bool:
        return (self.run / "recipe.toml").exists()

    def moment(self, child: Child, steps: range) -> None:
        """Wait for a random step, as the metrics tell it, and a little more; below 0 it is before the first, above the last after it."""
        step = self.dice.choice(steps)
        if step >= 0:
            until(lambda: self.told() >= min(step, STEPS), lambda: child.alive)
        time.sleep(self.dice.uniform(0, 0.05 if 0 <= step < STEPS else 0.8))

    def told(self) -> int:
        """How many steps the metrics tell of."""
        path = self.run / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def end(self, code: int, expected: set[int]) -> str | None:
        """What went wrong with a process that ended with `code`, or with the run that goes on after it; None where nothing did."""
        if code not in expected:
            return f"exit code {code}"
        code, said = go_on(self.subject, self.run)
        return f"resumed with exit code {code}: {said[-300:]}" if code else difference(self.run, self.undisturbed)

    @property
    def checkpoints(self) -> Path:
        return self.run / "checkpoints"


def kill_at_random(t: Trial) -> str | None:
    """kill -9 at a random moment"""
    child = t.begin()
    t.moment(child, range(-5, STEPS + 5))
    child.kill(signal.SIGKILL)
    return t.end(child.wait(), WORKED | STOPPED)


def kill_near_checkpoint(t: Trial) -> str | None:
    """kill -9 within 30 ms of a checkpoint being begun"""
    child, step = t.begin(), SAVED * t.dice.randrange(1, STEPS // SAVED)
    until(lambda: any(t.checkpoints.glob(f"*{step:08d}*")), lambda: child.alive)
    time.sleep(t.dice.uniform(0, NEAR))
    child.kill(signal.SIGKILL)
    return t.end(child.wait(), WORKED | STOPPED)


def changes(t: Trial) -> int:
    """How many operations of a whole training change its folder."""
    into = t.run.parent / "changes"
    if not into.exists():
        child = diffcli(t.run.parent, *t.subject.argv(t.run), setup=(count_changes, {"folder": t.run, "into": into}))
        if child.wait():
            raise RuntimeError(child.text())
        shutil.rmtree(t.run)
    return int(into.read_text())


def kill_at_change(t: Trial) -> str | None:
    """kill -9 right before one of the operations that create, rename, remove or sync a file of the run"""
    child = t.begin(setup=(die_at, {"folder": t.run, "number": t.dice.randint(1, changes(t))}))
    return t.end(child.wait(), STOPPED)


def error_at_change(t: Trial) -> str | None:
    """an I/O error in one of these operations"""
    child = t.begin(setup=(fail_at, {"folder": t.run, "number": t.dice.randint(1, changes(t))}))
    code = child.wait()
    if code == 6 and child.text().count("error: ") != 1:
        return f"not one line of an error: {child.text()[-300:]}"
    return t.end(code, WORKED | ENVIRONMENT)


def file_limit(t: Trial) -> str | None:
    """writes that fail half way, at a limit of the size of files"""
    child = t.begin()
    t.moment(child, range(STEPS + 1))
    if child.alive:
        limit_files(child.pid, t.dice.randrange(400_000))
    return t.end(child.wait(), WORKED | ENVIRONMENT)


def disk_full(t: Trial) -> str | None:
    """a full disk, with room for a part of the next checkpoint or less"""
    disk = t.run.parent / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], check=True)
    try:
        small = Trial(t.subject, t.undisturbed, disk / "run", t.dice)
        child, filler = small.begin(), disk / "filler"
        step = SAVED * t.dice.randrange(1, STEPS // SAVED)
        until(lambda: (small.checkpoints / f"step-{step:08d}").exists(), lambda: child.alive)
        space = os.statvfs(disk)
        with filler.open("wb") as file:
            file.truncate(0)
            os.posix_fallocate(
                file.fileno(), 0, max(1, space.f_bavail * space.f_bsize - int(t.dice.random() ** 3 * 700_000))
            )
        code = child.wait()
        filler.unlink()
        return small.end(code, WORKED | ENVIRONMENT)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
        disk.rmdir()


def asked_to_stop(t: Trial) -> str | None:
    """SIGTERM or SIGINT at a random moment of the training"""
    number = t.dice.choice([signal.SIGTERM, signal.SIGINT])
    child = t.begin()
    until(t.begun, lambda: child.alive)
    t.moment(child, range(-3, STEPS))
    child.kill(number)
    code = child.wait()
    if code == 128 + number and not any(t.checkpoints.glob("step-*")):
        return "nothing was saved"
    return t.end(code, {0, 128 + number})


def asked_twice(t: Trial) -> str | None:
    """two of them, the second within 50 ms"""
    child = t.begin()
    until(t.begun, lambda: child.alive)
    t.moment(child, range(-3, STEPS))
    both = [t.dice.choice([signal.SIGTERM, signal.SIGINT]) for _ in range(2)]
    child.kill(both[0])
    time.sleep(t.dice.uniform(0, 0.05))
    child.kill(both[1])
    return t.end(child.wait(), {0, 128 + both[0], -both[1], 128 + both[1]})


def closed_streams(t: Trial) -> str | None:
    """stdout, stderr or both closed, or a pipe that nobody reads"""
    how = t.dice.choice([">&-", "2>&-", "<&- >&- 2>&-", "| true", "2>&1 | head -n 1", "2> >(true)"])
    line = 'exec "$0" -m diffcli "$@" ' if "|" not in how else '"$0" -m diffcli "$@" '
    words = [sys.executable, *map(str, t.subject.argv(t.run))]
    code = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}{how}", *words], capture_output=True, cwd=t.run.parent
    ).returncode
    return t.end(code, {0, 141})


def second_writer(t: Trial) -> str | None:
    """a second training into the same run"""
    child = t.begin()
    until(lambda: any(t.checkpoints.glob("step-*")), lambda: child.alive)
    resume = t.dice.random() < 0.5
    second = diffcli(t.run.parent, *(("train", "--resume", t.run) if resume else t.subject.argv(t.run)))
    refused, code = second.wait(), child.wait()
    if refused not in ({8, 0} if resume else {4, 8}):  # 0: the first one was done when it came
        return f"the second one ended with {refused}: {second.text()[-300:]}"
    return t.end(code, WORKED)


def stale_rank(t: Trial) -> str | None:
    """RANK, WORLD_SIZE and their like left over in the environment"""
    left = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "MASTER_ADDR": "10.255.255.1", "MASTER_PORT": "29500",
            "SLURM_PROCID": "3", "SLURM_NTASKS": "8"}  # fmt: skip
    some = {key: value for key, value in left.items() if t.dice.random() < 0.8}
    argv = [sys.executable, "-m", "diffcli", *map(str, t.subject.argv(t.run))]
    code = subprocess.run(
        argv, capture_output=True, cwd=t.run.parent, env={**os.environ, **some}, timeout=PATIENCE
    ).returncode
    return t.end(code, WORKED)


def spoil(path: Path, dice: random.Random, cut: bool) -> None:
    """Truncate a file, or flip a bit of it, somewhere."""
    data = bytearray(path.read_bytes())
    if cut:
        path.write_bytes(data[: dice.randrange(len(data))])
        return
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def stopped(t: Trial) -> None:
    """A run that was killed in its middle, and has two checkpoints at least."""
    child, step = t.begin(), SAVED * t.dice.randrange(2, STEPS // SAVED)
    until(lambda: (t.checkpoints / f"step-{step:08d}").exists(), lambda: child.alive)
    child.kill(signal.SIGKILL)
    child.wait()


def damaged_checkpoint(t: Trial) -> str | None:
    """a truncated file, or a flipped bit, in the newest checkpoint"""
    stopped(t)
    newest = sorted(t.checkpoints.glob("step-*"))[-1]
    spoil(t.dice.choice(sorted(newest.iterdir())), t.dice, t.dice.random() < 0.5)
    code, said = go_on(t.subject, t.run)
    if code or "damaged checkpoint moved" not in said:
        return f"exit code {code}, and the damage was not told: {said[-300:]}"
    return difference(t.run, t.undisturbed)


def damaged_record(t: Trial) -> str | None:
    """the same in another file of the run: mended, or refused until it is brought back; never gone on with otherwise"""
    stopped(t)
    files = ("metrics.jsonl", "metrics.csv", "recipe.toml", "env.json", "log.txt", ".lock")
    path = t.run / t.dice.choice(files)
    whole = path.read_bytes()
    spoil(path, t.dice, t.dice.random() < 0.5)
    code, said = go_on(t.subject, t.run)
    if code in (2, 4) and said.count("error: ") == 1:
        path.write_bytes(whole)
        code, said = go_on(t.subject, t.run)
    found = f"exit code {code}: {said[-300:]}" if code else difference(t.run, t.undisturbed)
    if found is not None and found.startswith("metrics") and "warning: metrics.jsonl" in said:
        return None  # its rows are gone, and it was said
    return f"{path.name}: {found}" if found else None


ALL: dict[Callable[[Trial], str | None], int] = {
    kill_at_random: 50, kill_near_checkpoint: 50, kill_at_change: 20, error_at_change: 20, disk_full: 8,
    file_limit: 8, damaged_checkpoint: 20, damaged_record: 20, asked_to_stop: 12, asked_twice: 8,
    closed_streams: 6, second_writer: 6, stale_rank: 4,
}  # fmt: skip
