"""What is done to a process, from inside before it begins, or from outside while it runs."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")  # events that name what they change first


def at_change(folder: Path, act: Callable[[], None]) -> None:
    """Call `act` before each operation of this process that changes a folder or a file in it, and before each fsync."""

    def heard(event: str, args: tuple[Any, ...]) -> None:
        changing = event in CHANGES or (event == "open" and bool(args[2] & (os.O_WRONLY | os.O_RDWR)))
        if changing and isinstance(args[0], str | os.PathLike) and os.fspath(args[0]).startswith(str(folder)):
            act()

    fsync = os.fsync

    def synced(fd: int) -> None:
        act()
        fsync(fd)

    sys.addaudithook(heard)
    os.fsync = synced


def die_at(folder: Path, number: int) -> None:
    """Kill -9 at the change with this number."""
    count = itertools.count(1)

    def act() -> None:
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    at_change(folder, act)


def fail_at(folder: Path, number: int, code: int = errno.EIO) -> None:
    """An error of the disk at the change with this number, as the system would raise it."""
    count = itertools.count(1)

    def act() -> None:
        if next(count) == number:
            raise OSError(code, os.strerror(code), str(folder))

    at_change(folder, act)


def count_changes(folder: Path, into: Path) -> None:
    """Keep the number of changes so far in a file."""
    count = itertools.count(1)

    def act() -> None:
        into.write_text(str(next(count)))

    at_change(folder, act)


def limit_files(pid: int, size: int) -> None:
    """From now on no file of a process may grow beyond `size` bytes: a write stops in its middle, as on a full disk."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]))


def until(seen: Callable[[], bool], going: Callable[[], bool], pause: float = 0.0005) -> bool:
    """Wait for something to be seen while a process is going; False where it ended first."""
    while going():
        if seen():
            return True
        time.sleep(pause)
    return seen()
