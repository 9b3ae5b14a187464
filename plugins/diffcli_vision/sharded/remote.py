"""hub:OWNER/NAME[@REVISION]/PATTERN: shards of a data set of the Hugging Face Hub, fetched as they are needed."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from diffcli.engine.files import dump_json, durable, parse_json, read_capped
from diffcli.engine.hub import PART, download, parse
from diffcli.errors import DataError, DiffcliError, EnvironmentProblem, UsageError, show
from diffcli_vision.fetch import cache
from diffcli_vision.sharded.bounded import Bounded, Soon
from diffcli_vision.sharded.index import Index, Where, read_index

ADDRESS = re.compile(rf"hub:({PART}/{PART})(?:@({PART}))?/(.+)")
MOST_LISTING, MOST_INDEX = 2**28, 2**28  # bytes of what the Hub says of its files; of the index of shards
SHA256, COMMIT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


class Far(NamedTuple):
    """A file of a data set: its bytes, and its SHA-256 where the Hub knows it."""

    name: str
    size: int
    sha256: str


class Remote:
    """Shards of one commit. What is fetched is known by its size and hash, and kept as far as there is room."""

    def __init__(
        self, text: str, commit: str, files: Sequence[Far], where: Where, kept: Bounded, listed: Sequence[Far]
    ):
        """text: the address; files: the shards; listed: all files of the commit."""
        self.text, self.commit, self.files, self.where, self.kept, self.listed = (
            text,
            commit,
            files,
            where,
            kept,
            listed,
        )
        self.names, self.ahead = [far.name for far in files], Soon(self.file)

    def only(self, chosen: Sequence[int]) -> Remote:
        """Some of them."""
        files = [self.files[k] for k in chosen]
        return Remote(self.text, self.commit, files, self.where, self.kept, self.listed)

    def size(self, number: int) -> int:
        return self.files[number].size

    def stamp(self) -> Any:
        return [self.commit, *self.files]

    def file(self, number: int) -> Path:
        """A shard in the cache, from which it may go at any time."""
        return self.kept.file(*self.wanted(self.files[number]))

    def wanted(self, far: Far) -> tuple[str, int, Callable[[Path], None]]:
        """A file as the cache asks for it: its name, its bytes, and how it is made."""
        return f"{self.commit}/{far.name}", far.size, lambda path: self.fetch(far, path)

    def open(self, number: int) -> int:
        return self.kept.open(*self.wanted(self.files[number]))

    def index(self, number: int) -> Index:
        with self.kept.trusted(self.wanted(self.files[number])[0]):
            return read_index(self.open(number), self.names[number], self.where)

    def beside(self, name: str) -> bytes | None:
        """The index of shards that lies in the folder of the first one."""
        path = str(PurePosixPath(self.names[0]).parent / name)
        far = next((far for far in self.listed if far.name == path), None)
        if far is None:
            return None
        if far.size > MOST_INDEX:
            raise DataError(f"{show(path)} of {show(self.text)} has {far.size} bytes; at most {MOST_INDEX} are read")
        with open(self.kept.open(*self.wanted(far)), "rb") as file:
            return file.read()

    def soon(self, shards: list[int]) -> None:
        self.ahead(shards)

    def fetch(self, far: Far, path: Path) -> None:
        """A file of the Hub. DataError where it is not what the Hub said it would be."""
        from huggingface_hub import hf_hub_download

        asked = {"repo_id": repository(self.text), "filename": far.name, "repo_type": "dataset"}
        got = Path(
            download(
                hf_hub_download, {**asked, "revision": self.commit, "local_dir": path.parent}, self.text, path.parent
            )
        )
        if got.is_symlink() or got.stat().st_size != far.size or (far.sha256 and sha256(got) != far.sha256):
            raise DataError(f"{show(far.name)} of {show(self.text)} came damaged from the Hub; try again")
        os.replace(got, path)


def repository(text: str) -> str:
    """OWNER/NAME of an address."""
    match = ADDRESS.fullmatch(text)
    if match is None or ".." in match[1]:
        raise UsageError(
            f"{show(text)} is no address of shards: it is written hub:OWNER/NAME/PATTERN or hub:OWNER/NAME@REVISION/PATTERN, "
            "such as hub:me/birds/train-*.tar"
        )
    return match[1]


def pinned(text: str) -> str:
    """An address with its commit of now; what is no address of the Hub as it is."""
    match = ADDRESS.fullmatch(text)
    return (
        text if match is None or COMMIT.fullmatch(match[2] or "") else f"hub:{match[1]}@{listing(text)[0]}/{match[3]}"
    )


def committed(text: str) -> str:
    """OWNER/NAME@COMMIT of OWNER/NAME[@REVISION]."""
    repo, revision = parse(text)
    return text if COMMIT.fullmatch(revision or "") else f"{repo}@{asked(repo, revision, text)['commit']}"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remote(text: str, patterns: Sequence[str], where: Where, most: int, window: int) -> Remote:
    """The shards of an address, in the order of their names; patterns: what the end of the address stands for.

    UsageError for a wrong address, or where the cache does not hold two windows: each picture would be fetched again.
    """
    commit, listed = listing(text)
    files = sorted(far for far in listed if any(fnmatchcase(far.name, p) for p in patterns) and plainly(far.name))
    if not files:
        raise DataError(f"{show(text)}: the data set has no such files, of {len(listed)}; look at its names on the Hub")
    needed = 2 * min(window, len(files)) * max(far.size for far in files)
    if needed > most and sum(far.size for far in files) > most:
        raise UsageError(
            f"two windows of {window} shards of {show(text)} take {needed / 1e9:.2g} GB, but --cache-gb holds {most / 1e9:.2g}; "
            "give a larger --cache-gb, or a smaller --window"
        )
    return Remote(text, commit, files, where, Bounded(most), listed)


def plainly(name: str) -> bool:
    """Whether a name of the Hub is a relative path without tricks: it becomes a path while it is fetched."""
    path = PurePosixPath(name)
    return name.isprintable() and not path.is_absolute() and ".." not in path.parts and str(path) == name


def listing(text: str) -> tuple[str, list[Far]]:
    """(commit, the files in it) of an address, as the Hub says, or as it said when it was asked last."""
    repo, revision = repository(text), ADDRESS.fullmatch(text)[2]  # type: ignore[index]
    kept = cache() / "fetched" / f"{repo.replace('/', '--')}@{revision or 'main'}.json"
    try:
        found = asked(repo, revision, text)
    except EnvironmentProblem:
        with suppress(DiffcliError, KeyError, TypeError, ValueError):
            found = parse_json(read_capped(kept, MOST_LISTING), show(kept))
            commit, files = str(found["commit"]), [Far(str(n), int(s), str(h)) for n, s, h in found["files"]]
            print(
                f"warning: the Hub cannot be asked; {show(text)} is taken to be {commit[:12]}, as before",
                file=sys.stderr,
            )
            return commit, files
        raise
    with suppress(DiffcliError, OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        durable(kept, dump_json(found))
    return found["commit"], [Far(*row) for row in found["files"]]


def asked(repo: str, revision: str | None, text: str) -> dict[str, Any]:
    """What the Hub says of a data set, as plain JSON."""
    from huggingface_hub import HfApi

    info: Any = download(
        HfApi().dataset_info, {"repo_id": repo, "revision": revision, "files_metadata": True}, text, cache()
    )
    files = []
    for one in info.siblings or []:
        known = str(getattr(one.lfs, "sha256", "") or "") if one.lfs else ""
        files.append([str(one.rfilename), int(one.size or 0), known if SHA256.fullmatch(known) else ""])
    if not COMMIT.fullmatch(str(info.sha)):
        raise DataError(f"{show(text)}: the Hub gave no commit for it; try again")
    return {"commit": info.sha, "files": files}
