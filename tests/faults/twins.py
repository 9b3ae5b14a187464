"""Two trainings of one recipe, what each tells of its steps, and what happens to one of them."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from blows import limit_files, until
from nursery import Child, diffcli
from trials import NEAR, spoil
from undisturbed import CLOCKS

from diffcli.engine.manifest import sealed
from diffcli.errors import DiffcliError

SAVED = 50  # steps between checkpoints
LENGTH = ("--steps", 1_000_000, "--batch-size", 8, "--save-every", SAVED, "--sample-every", 5 * SAVED, "--log-every", 1, "--keep", 4)  # fmt: skip


@dataclass
class Twin:
    """One of the two trainings."""

    options: tuple[object, ...]
    run: Path
    child: Child | None = None
    hashes: dict[int, str] = field(default_factory=dict)  # step -> what the manifest says of its tensors
    rows: dict[int, str] = field(default_factory=dict)  # step -> its metrics without clocks
    unlike: list[str] = field(default_factory=list)  # what was told twice, and not the same
    tails: int = 0  # bytes of the metrics that were read

    def go(self) -> None:
        """Begin or resume; or go on, where it only stopped for a while."""
        if self.child is not None and self.child.alive:
            self.child.kill(signal.SIGCONT)
            return
        begun = (self.run / "recipe.toml").exists()
        argv = ("train", "--resume", self.run) if begun else ("train", *self.options, *LENGTH, "--output", self.run)
        self.child = diffcli(self.run.parent, *argv)

    def writing(self) -> bool:
        """Whether its process has the lock of the run."""
        lock = self.run / ".lock"
        return self.child is not None and lock.exists() and lock.read_text().strip() == str(self.child.pid)

    @property
    def checkpoints(self) -> list[Path]:
        return sorted((self.run / "checkpoints").glob("step-*"))

    def look(self) -> None:
        """Note the hashes of the checkpoints that are there."""
        for folder in self.checkpoints:
            try:
                listed = sealed(folder)["files"]
            except (OSError, DiffcliError):  # pruned meanwhile, or just damaged by a fault: the seal says so
                continue
            told = " ".join(f"{k} {v['sha256']}" for k, v in sorted(listed.items()) if k.endswith(".safetensors"))
            self.note(self.hashes, int(folder.name[5:]), told, "checkpoint")

    def read(self) -> None:
        """Note the metrics that are whole lines, from the first: a resume wrote some of them again."""
        path = self.run / "metrics.jsonl"
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
            if line.endswith(b"\n"):
                row = json.loads(line)
                told = json.dumps({k: v for k, v in row.items() if k not in CLOCKS}, sort_keys=True)
                self.note(self.rows, row["step"], told, "metrics")

    def note(self, told: dict[int, str], step: int, what: str, name: str) -> None:
        if told.setdefault(step, what) != what:
            self.unlike.append(f"{name} of step {step} told again, and otherwise")


def kill(t: Twin, dice: random.Random) -> None:
    """kill -9"""
    t.child.kill(signal.SIGKILL)


def kill_near(t: Twin, dice: random.Random) -> None:
    """kill -9 near a checkpoint"""
    there = len(t.checkpoints) and t.checkpoints[-1].name
    half = t.run / "checkpoints"
    until(lambda: any(half.glob(".tmp-*")) or (t.checkpoints[-1:] and t.checkpoints[-1].name != there), lambda: t.child.alive)  # fmt: skip
    time.sleep(dice.uniform(0, NEAR))
    t.child.kill(signal.SIGKILL)


def terminate(t: Twin, dice: random.Random) -> None:
    """SIGTERM"""
    t.child.kill(signal.SIGTERM)


def interrupt(t: Twin, dice: random.Random) -> None:
    """SIGINT"""
    t.child.kill(signal.SIGINT)


def interrupt_twice(t: Twin, dice: random.Random) -> None:
    """SIGINT twice"""
    t.child.kill(signal.SIGINT)
    time.sleep(dice.uniform(0, 0.03))
    t.child.kill(signal.SIGINT)


def no_room(t: Twin, dice: random.Random) -> None:
    """files that cannot grow"""
    limit_files(t.child.pid, dice.randrange(400_000))


def no_descriptors(t: Twin, dice: random.Random) -> None:
    """no file can be opened"""
    most = resource.prlimit(t.child.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(t.child.pid, resource.RLIMIT_NOFILE, (3, most))


def bit_rot(t: Twin, dice: random.Random) -> None:
    """kill -9, and the newest checkpoint is damaged"""
    kill(t, dice)
    t.child.wait()
    if len(t.checkpoints) > 1:
        spoil(dice.choice(sorted(t.checkpoints[-1].iterdir())), dice, dice.random() < 0.5)


def torn_line(t: Twin, dice: random.Random) -> None:
    """kill -9, and the last line of the metrics is torn"""
    kill(t, dice)
    t.child.wait()
    path = t.run / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    saved = int(t.checkpoints[-1].name[5:]) if t.checkpoints else 0
    if lines and json.loads(lines[-1])["step"] > saved:  # what is before it was put on the disk with the checkpoint
        os.truncate(path, path.stat().st_size - dice.randrange(1, len(lines[-1])))


def second_writer(t: Twin, dice: random.Random) -> None:
    """a second writer, then SIGTERM"""
    if not t.child.alive:
        return
    second = diffcli(t.run.parent, "train", "--resume", t.run)
    if second.wait() != 8:
        t.unlike.append(f"a second writer ended otherwise than refused: {second.text()[-200:]}")
    t.child.kill(signal.SIGTERM)


FAULTS = (kill, kill_near, terminate, interrupt, interrupt_twice, no_room, no_descriptors, bit_rot, torn_line, second_writer)  # fmt: skip
