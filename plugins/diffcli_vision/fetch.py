"""Files of named data sets: found on disk, or downloaded once into the user's cache, and checked by SHA-256 either way."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import Any
from urllib.error import URLError

from diffcli.errors import DataError, EnvironmentProblem, show

CHUNK = 1 << 20


@dataclass(frozen=True)
class Remote:
    """A file as published: its name, exact size and SHA-256, and the folders (https) that hold it."""

    name: str
    size: int
    sha256: str
    mirrors: tuple[str, ...]


def cache() -> Path:
    """Where downloads go: $XDG_CACHE_HOME/diffcli, else ~/.cache/diffcli."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffcli"


def roots(data_dir: Path | None) -> list[Path]:
    """Folders that may hold named data sets, in order: the given one or DIFFCLI_DATA, then the cache."""
    given = data_dir or os.environ.get("DIFFCLI_DATA") or None
    if given is None:
        return [cache()]
    if not Path(given).is_dir():
        raise DataError(f"data folder {show(given)} is not there; give --data-dir or DIFFCLI_DATA an existing folder")
    return [Path(given), cache()]


def find(places: list[Path]) -> Path | None:
    """The first of these paths that is a regular file."""
    return next((path for path in places if path.is_file()), None)


def check(content: bytes, sha256: str, path: Path) -> bytes:
    """The content, if its SHA-256 is the expected one."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            f"{show(path)} is damaged or another file: its sha256 is {found[:16]}..., expected {sha256}; delete it, or put the right file there"
        )
    return content


def read(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise DataError(f"{show(path)} cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise DataError(
            f"{show(path)} is larger than the {limit} bytes expected; it is another file, delete or move it"
        )
    return content


def download(remote: Remote, folder: Path, looked: str) -> Path:
    """remote in `folder`, from the first mirror that has it. An interrupted download goes on where it stopped.

    looked: where it was not found, for the message. Written under another name, checked, synced, then renamed; processes that want the same file wait for each other.
    """
    target, part = folder / remote.name, folder / f"{remote.name}.part"
    reasons = []
    new = [place for place in (folder, *folder.parents) if not place.exists()]  # innermost first
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if target.is_file():  # another process fetched it meanwhile
                part.unlink(missing_ok=True)
                return target
            for mirror in remote.mirrors:
                try:
                    fetch(mirror + remote.name, remote, file)
                    verify(part, remote)
                    os.fsync(file.fileno())
                    os.replace(part, target)
                    return target
                except (URLError, HTTPException, SSLError, TimeoutError, ConnectionError, ValueError) as error:
                    reasons.append(f"{mirror.split('/')[2]}: {getattr(error, 'reason', None) or error}")
            if part.stat().st_size == 0:
                part.unlink()
        if not part.exists():
            for place in new:  # a download that never began leaves nothing behind
                place.rmdir()
    except OSError as error:
        raise EnvironmentProblem(
            f"{show(folder)} cannot be written: {error.strerror}; set XDG_CACHE_HOME to a folder that can"
        ) from error
    raise DataError(
        f"{remote.name} is not under {show(looked)}, and no mirror gave it ({show('; '.join(reasons), 160)}); "
        "put it there, or name the folder that holds it with --data-dir"
    )


class HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https alone."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://"):
            raise ValueError(f"redirected to {newurl.split(':')[0]}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str, remote: Remote, file: Any) -> None:
    """Appends to `file` what it lacks of `url`, never more than remote.size bytes in all."""
    if not url.startswith("https://"):
        raise ValueError(f"{url} is not https")
    start = file.seek(0, os.SEEK_END)
    if start >= remote.size:
        return
    print(f"downloading {url} ({remote.size / 1e6:.1f} MB)", file=sys.stderr)
    headers = {"User-Agent": "diffcli", **({"Range": f"bytes={start}-"} if start else {})}
    opener = urllib.request.build_opener(HttpsOnly)
    with opener.open(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        if start and answer.status != 206:  # the server sends the whole again
            file.truncate(0)
            start = 0
        while chunk := answer.read(CHUNK):
            start += len(chunk)
            if start > remote.size:
                file.truncate(0)
                raise ValueError(f"more than the {remote.size} bytes expected")
            file.write(chunk)
    file.flush()


def verify(part: Path, remote: Remote) -> None:
    """Keeps an incomplete download for later; removes the bytes of a complete one that is wrong."""
    size = part.stat().st_size
    if size < remote.size:
        raise ValueError(f"stopped after {size} of {remote.size} bytes")
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != remote.sha256:
        os.truncate(part, 0)
        raise ValueError(f"sha256 {found[:16]}..., expected {remote.sha256}")
