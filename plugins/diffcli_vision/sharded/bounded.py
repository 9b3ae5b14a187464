"""A folder of files that can be had again: what was not used longest goes when it grows too large."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from queue import Queue
from threading import Thread

from diffcli.errors import DataError, EnvironmentProblem, show
from diffcli_vision.fetch import cache

TRIES = 100  # to open what others remove to make room


class Bounded:
    """Files by name, of at most `most` bytes in all, shared by all processes of a machine.

    A name from outside is never a path here: its hash is. A file that another thread or process has open may go all the
    same; what is open can be read to its end.
    """

    def __init__(self, most: int, folder: Path | None = None):
        self.most, self.folder = most, folder or cache() / "fetched"

    def place(self, name: str) -> Path:
        """Where a file of this name is kept."""
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.tar"

    def file(self, name: str, size: int, make: Callable[[Path], None]) -> Path:
        """The file, made anew by make(path) if it is not there; size: bytes that it will have, near enough.

        EnvironmentProblem where it cannot be written; what `make` raises goes through.
        """
        place = self.place(name)
        try:
            with suppress(FileNotFoundError):
                os.utime(place)
                return place
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(place.with_suffix(".lock")):
                if not place.exists():  # another process made it meanwhile
                    self.sweep(size)
                    self.fill(place, make)
                    self.sweep(0)  # of what others made meanwhile, each of which saw room for its own
            return place
        except OSError as error:
            why = error.strerror or error
            raise EnvironmentProblem(
                f"cannot keep {show(name, 80)} in {show(self.folder)}: {why}; free some space, or set XDG_CACHE_HOME"
            ) from error

    def open(self, name: str, size: int, make: Callable[[Path], None]) -> int:
        """A descriptor of the file, to be closed by the caller; another thread or process may have made room meanwhile."""
        for _ in range(TRIES):
            with suppress(FileNotFoundError):
                return os.open(self.file(name, size, make), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        raise EnvironmentProblem(
            f"{show(self.folder)} is too small for all that is read at a time; give a larger --cache-gb"
        )

    @contextmanager
    def trusted(self, name: str) -> Iterator[None]:
        """What is found to be damaged in here goes, and is made anew when it is asked for again."""
        try:
            yield
        except DataError:
            self.place(name).unlink(missing_ok=True)
            raise

    def fill(self, place: Path, make: Callable[[Path], None]) -> None:
        """The file is there whole or not at all."""
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=self.folder) as folder:
            new = Path(folder) / "new.tar"
            make(new)
            with open(new, "rb") as file:
                os.fsync(file.fileno())
            os.replace(new, place)

    def sweep(self, needed: int) -> None:
        """Make room for so many bytes: what was used last stays."""
        with locked(self.folder / ".lock"):
            found = []
            for path in self.folder.glob("*.tar"):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    found.append((status.st_mtime_ns, status.st_size, path))
            total = needed + sum(size for _, size, _ in found)
            for _, size, path in sorted(found):
                if total <= self.most:
                    break
                path.unlink(missing_ok=True)
                total -= size
            for path in self.folder.glob(".tmp-*"):  # of processes that were killed
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < self.folder.stat().st_mtime - 86400:
                        shutil.rmtree(path, ignore_errors=True)


class Soon:
    """Things that are got meanwhile, each asked for once. The end of the process does not wait for them."""

    def __init__(self, get: Callable[[int], object]):
        self.get, self.asked = get, set[int]()

    @cached_property
    def queue(self) -> Queue[int]:
        made = Queue[int]()
        for _ in range(2):
            Thread(target=self.work, args=(made,), name="shards", daemon=True).start()
        return made

    def work(self, queue: Queue[int]) -> None:
        """In a thread of its own; what goes wrong is told when the thing is needed."""
        while True:
            with suppress(Exception):
                self.get(queue.get())
            queue.task_done()

    def __call__(self, numbers: list[int]) -> None:
        """Have these got."""
        for number in numbers:
            if number not in self.asked:
                self.queue.put(number)
        self.asked = set(numbers)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time, and one thread."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
