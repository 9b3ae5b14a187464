"""The power fails at any moment of a save: whatever the disk had kept by then, a whole checkpoint is there.

A disk keeps the bytes of a file for sure when the file was synced, and a name when its folder was. What was not synced may
be there or not, so three disks are tried: one that keeps nothing but that, one that keeps every name at once and bytes
when they are synced, and one that keeps the names of the checkpoints at once and the rest when it is synced.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffcli.engine.checkpoint import latest, save

DISKS = ("synced alone", "names at once", "names of checkpoints at once")


class Disk:
    """What is kept for sure of a folder: the bytes of files and the names in folders, by their inodes."""

    def __init__(self, root: Path):
        self.root = root
        self.bytes: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        for path in [root, *root.rglob("*")]:
            self.keep(path)

    def keep(self, path: Path) -> None:
        """What fsync does."""
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode):
            self.names[found.st_ino] = {entry.name: entry.inode() for entry in os.scandir(path)}
        else:
            self.bytes[found.st_ino] = path.read_bytes()

    def after(self, place: Path, disk: str) -> None:
        """The folder as it is found when the power is back."""
        self.build(self.root.stat().st_ino, self.root, place, disk)

    def build(self, inode: int, real: Path, place: Path, disk: str) -> None:
        place.mkdir(parents=True)
        at_once = disk == DISKS[1] or (disk == DISKS[2] and real.name == "checkpoints")
        names = (
            {e.name: e.inode() for e in os.scandir(real)} if at_once and real.is_dir() else self.names.get(inode, {})
        )
        folders = {e.inode() for e in os.scandir(real) if e.is_dir()} if real.is_dir() else set()
        for name, inside in names.items():
            if inside in self.names or inside in folders:
                self.build(inside, real / name, place / name, disk)
            else:
                (place / name).write_bytes(self.bytes.get(inside, b""))


def watched(patch: pytest.MonkeyPatch, disk: Disk, look: Callable[[], None]) -> None:
    """Keep what is synced, and look before and after each sync and each rename."""
    fsync, rename = os.fsync, os.rename

    def synced(fd: int) -> None:
        look()
        fsync(fd)
        disk.keep(Path(os.readlink(f"/proc/self/fd/{fd}")))
        look()

    def renamed(source: str, target: str) -> None:
        look()
        rename(source, target)
        look()

    patch.setattr(os, "fsync", synced)
    patch.setattr(os, "rename", renamed)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the file behind a descriptor is read from /proc")
def test_a_whole_checkpoint_is_there_whenever_the_power_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, moments, found = tmp_path / "run", 0, dict[str, list[int]]()

    def put(step: int) -> None:
        w = torch.full((50,), float(step))
        save(run, step, {"model": {"w": w}, "ema": {"w": w}}, {"step": step}, {}, keep=2)

    def look() -> None:
        nonlocal moments
        moments += 1
        for disk in DISKS:
            place = tmp_path / "after"
            kept.after(place, disk)
            there = latest(place, warn=lambda line: None, move=False)
            assert there is not None, (moments, disk)
            found.setdefault(disk, []).append(there.step)
            shutil.rmtree(place)

    for step in (1, 2):
        put(step)
    kept = Disk(run)
    watched(monkeypatch, kept, look)
    for step in (3, 4):
        put(step)
        look()
        assert all(steps[-1] == step for steps in found.values()), "what save has returned of is there for good"
    monkeypatch.undo()
    assert moments > 20 and all(steps == sorted(steps) and {2, 3, 4} == set(steps) for steps in found.values())
