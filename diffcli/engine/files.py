"""Bytes on a disk: written whole or not at all, and read with a cap, from regular files alone."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from diffcli.errors import EnvironmentProblem, RunError, show

Data = bytes | Iterable[bytes | memoryview]  # of a file, at once or piece by piece
CURES = {
    errno.ENOSPC: "no space is left; free some and try again",
    errno.EDQUOT: "the quota is used up; free some space and try again",
    errno.EACCES: "permission is denied; choose another folder",
    errno.EPERM: "permission is denied; choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
}


@contextmanager
def acting(what: str, path: Path) -> Iterator[None]:
    """Turn what the system refuses into an EnvironmentProblem: `cannot <what> <path>: <why>; <what to do>`."""
    try:
        yield
    except OSError as error:
        why = CURES.get(error.errno or 0, f"{error.strerror or error}; check the disk and the path")
        raise EnvironmentProblem(f"cannot {what} {show(path)}: {why}") from error


def write_synced(path: Path, data: Data) -> None:
    """A new file whose bytes are on the disk when this returns."""
    with open(path, "xb") as file:
        for piece in [data] if isinstance(data, bytes) else data:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: a rename is durable only then."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def durable(path: Path, data: bytes) -> None:
    """Replace a file so that, whenever the power fails, the old or the new one is there whole."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    with acting("write", path):
        try:
            temporary.unlink(missing_ok=True)
            write_synced(temporary, data)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sweep(*folders: Path) -> None:
    """Remove what dead writers, or this process before, left half-written right in a folder: .tmp-NAME-PID, never a link."""
    for left in (left for folder in folders for left in folder.glob(".tmp-*-*")):
        pid = left.name.rpartition("-")[2]
        if left.is_symlink() or not pid.isdecimal() or (int(pid) != os.getpid() and alive(int(pid))):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with suppress(OSError):
                left.unlink()


def alive(pid: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def publish(
    folder: Path, files: Iterable[tuple[str, Data]], temporary: Path, make_way: Callable[[], None] = lambda: None
) -> None:
    """A folder that is there with all its files, or not at all.

    files: name, or folder/name, and content; temporary: a free name beside it; make_way: called when all is written, right
    before the folder takes its name. The files are written one by one as they come, so that no more than one is held in
    memory; whatever goes wrong, the temporary folder is removed.
    """
    with acting("write", folder):
        temporary.mkdir()
        try:
            for name, data in files:
                place = temporary / name
                place.parent.mkdir(exist_ok=True)
                write_synced(place, data)
                sync_folder(place.parent)
            sync_folder(temporary)
            make_way()
            os.rename(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(folder.parent)


@contextmanager
def at_once(parent: Path) -> Iterator[Path]:
    """A folder beside its later place, to be renamed when all is in it; it is removed where anything goes wrong."""
    folder = parent / f".tmp-{os.getpid()}"
    with acting("create", parent):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        with acting("write", folder):
            yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def room(folder: Path, size: int) -> None:
    """EnvironmentProblem unless `size` bytes may be written in a folder that may not exist yet; creates nothing."""
    near = Path(os.path.abspath(folder))
    while not os.path.lexists(near):
        near = near.parent
    if not near.is_dir():
        raise EnvironmentProblem(f"cannot write {show(folder)}: {show(near)} is no folder; choose another path")
    with acting("write", folder):
        free = shutil.disk_usage(near).free
        with tempfile.TemporaryFile(dir=near) as probe:
            probe.write(bytes(4096))
    if free < size:
        raise EnvironmentProblem(
            f"cannot write {show(folder)}: {free / 2**20:.0f} MiB are free and {size / 2**20:.0f} are needed; "
            "free some space, or choose another folder"
        )


def read_capped(path: Path, cap: int) -> bytes:
    """The bytes of a regular file; RunError for a link, anything but a file, or more than `cap` bytes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise RunError(f"{show(path)} is missing") from None
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise RunError(f"{show(path)} is a link or a device, not a regular file") from None
        raise EnvironmentProblem(f"cannot read {show(path)}: {error.strerror}; check its permissions") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise RunError(f"{show(path)} is not a regular file")
        if found.st_size > cap:
            raise RunError(f"{show(path)} has {found.st_size} bytes; at most {cap} are read")
        if found.st_size > (memory := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
            raise EnvironmentProblem(
                f"cannot read {show(path)}: it has {found.st_size / 2**30:.0f} GiB, and this machine {memory / 2**30:.0f} GiB "
                "of memory; take a larger machine, if you trust the file"
            )
        with acting("read", path), open(fd, "rb", closefd=False) as file:
            data = file.read(found.st_size + 1)
    finally:
        os.close(fd)
    if len(data) > found.st_size:
        raise RunError(f"{show(path)} grew while it was read")
    return data


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object in UTF-8; RunError for duplicate keys, NaN, infinities, depth bombs and all that is no JSON."""
    try:
        parsed = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError, OverflowError) as error:
        raise RunError(f"{show(where)} is no valid JSON ({show(error, 80)})") from None
    if not isinstance(parsed, dict):
        raise RunError(f"{show(where)} holds no JSON object")
    return parsed


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of pairs whose keys differ."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice")
    return table


def refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is too large")
    return value


def dump_json(table: Any) -> bytes:
    """Plain JSON with sorted keys, the same bytes for the same content; ValueError for NaN and infinities."""
    plain = json.loads(json.dumps(table, allow_nan=False))  # keys become text before they are sorted
    return (json.dumps(plain, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
