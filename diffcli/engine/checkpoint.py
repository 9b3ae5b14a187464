"""Checkpoints: folders that are there whole or not at all, proven by hashes, and rebuilt without running a line of theirs.

run/checkpoints/step-00000200/ holds a safetensors file for each set of tensors, state.json, and manifest.json with the
size and SHA-256 of each, sealed with a hash of its own. There is no pointer file: the latest is the highest whole step.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from diffcli.engine.environment import versions
from diffcli.engine.files import Data, acting, dump_json, publish, sweep, sync_folder
from diffcli.engine.files import parse_json as parse
from diffcli.engine.manifest import FORMAT, PART, Damaged, Listed, seal, sealed, undamaged, verified
from diffcli.engine.rundir import CLOCK, STEP, committed, method_of, recipe_in, step_name
from diffcli.engine.weights import load_into, pack_optimizer, pieces, same, unpack, unpack_optimizer
from diffcli.errors import RunError, show

PIECE = 2**20  # bytes that are hashed and then written: what a processor's cache holds


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint or a model folder, opened: its plain facts are verified, its tensors are when they are asked for.

    files: name -> (size, SHA-256). meta: what rebuilds the model (the recipe, the facts of the data). weights: where the
    tensors of a model folder lie, which may be outside of it: see engine.hub. listed: what config.json says of each tensor.
    """

    path: Path
    step: int
    meta: dict[str, Any]
    files: Listed
    state: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    listed: Any = None

    @property
    def method(self) -> str | None:
        return method_of(recipe_in(self.meta))

    @property
    def sha256(self) -> str:
        """Of the weights that are sampled: an exported model has the hash of the average it was made from."""
        return (self.files.get("ema.safetensors") or self.files["model.safetensors"])[1]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """One set of tensors ("model", "ema", "optim"), read once: what was hashed is what is parsed.

        RunError names the tensors of a model folder that are not as they were exported.
        """
        data = self.read(name)
        if self.listed is not None:
            same(data, self.listed, f"{self.path}/{name}.safetensors")
        return unpack(data, f"{self.path}/{name}.safetensors")

    def read(self, name: str) -> bytes:
        """The bytes of one set of tensors, as they were when this was opened."""
        if f"{name}.safetensors" not in self.files:
            raise RunError(
                f"{show(self.path)} holds no {show(name)} tensors, only {show(', '.join(sorted(self.files)))}"
            )
        return verified(self.weights or self.path / f"{name}.safetensors", self.files[f"{name}.safetensors"])

    def verify(self) -> None:
        """Damaged unless every byte of every file is as it was written."""
        for name in self.files:
            verified(self.path / name, self.files[name])


def save(
    run: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    meta: Mapping[str, Any],
    *,
    keep: int = 3,
    keep_every: int = 0,
) -> Path:
    """Commit a checkpoint, then prune: the newest `keep` stay, and the multiples of keep_every; the caller holds the lock.

    tensors: name -> state dict, for name.safetensors each; state: what a resume needs, meta: what rebuilds the model, both
    plain JSON. Whatever goes wrong, nothing half-written stays and the checkpoints before are untouched.
    """
    final = commit(run / "checkpoints", step, tensors, state, meta)
    prune(final.parent, step, keep, keep_every)
    return final


def commit(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    meta: Mapping[str, Any],
) -> Path:
    """folder/step-..., durable when this returns; nothing else in the folder is touched."""
    with acting("create", folder):
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
    final = folder / step_name(step)
    publish(final, parts(step, tensors, state, meta, str(final)), scratch(folder, step), lambda: make_way(final))
    return final


def parts(
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    meta: Mapping[str, Any],
    where: str,
) -> Iterator[tuple[str, Data]]:
    """The files of a checkpoint, one at a time, each to be written before the next is asked for; the manifest is last."""
    listed: dict[str, dict[str, Any]] = {}

    def note(name: str, data: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        assert PART.fullmatch(name), name
        size, sha256 = 0, hashlib.sha256()
        for piece in data:
            for start in range(0, len(piece), PIECE):
                part = piece[start : start + PIECE]
                size += len(part)
                sha256.update(part)
                yield part
        listed[name] = {"size": size, "sha256": sha256.hexdigest()}

    yield "state.json", note("state.json", [dump_json(state)])
    for name, group in tensors.items():
        file = f"{name}.safetensors"
        yield file, note(file, pieces(group, f"{where}/{name}"))
    method = method_of(recipe_in(meta))
    yield (
        "manifest.json",
        seal({"format": FORMAT, "step": step, "method": method, "versions": versions(), "meta": meta, "files": listed}),
    )


def make_way(final: Path) -> None:
    """Set aside what has this step already: an earlier try that a resume has overtaken."""
    if os.path.lexists(final):
        aside(final, "replaced")


def scratch(folder: Path, step: int) -> Path:
    """A free temporary name. Folders that dead writers, or this one, left behind are removed."""
    sweep(folder)
    return folder / f".tmp-{step:08d}-{os.getpid()}"


def prune(folder: Path, saved: int, keep: int, keep_every: int) -> None:
    """Remove old checkpoints, never the one just saved. Each is renamed first, so that a kill leaves none half there."""
    there = committed(folder.parent)
    stay = {saved, *(step for step, _ in there[-keep:])}
    for step, path in there:
        if step not in stay and not (keep_every and step % keep_every == 0):
            with suppress(OSError):  # the new one is safe; what could not be removed is tried again after the next
                shutil.rmtree(path.rename(scratch(folder, step)))


def latest(run: Path, *, warn: Callable[[str], Any] | None = None, move: bool = True) -> Checkpoint | None:
    """The highest step of a run whose every byte verifies; None where there is none.

    A damaged one is told of by `warn` (by default Python's own) and, with move, set aside as .corrupt-...; it is never
    deleted. The reader of a run that is not its writer gives move=False.
    """
    say = warn or warnings.warn
    for _, path in reversed(committed(run)):
        try:
            found = open_checkpoint(path)
            found.verify()
            return found
        except Damaged as error:
            then = f"moved to {aside(path, 'corrupt').name}" if move else "passed over"
            say(f"warning: damaged checkpoint {then}, going on with the one before: {error}")
    return None


def aside(path: Path, why: str) -> Path:
    """Move a checkpoint out of the count; nothing is lost."""
    base = f".{why}-{path.name}-{datetime.now():{CLOCK}}"
    names = (path.with_name(base if n == 1 else f"{base}-{n}") for n in range(1, 1000))
    free = next(name for name in names if not os.path.lexists(name))
    with acting("move", path):
        path.rename(free)
        sync_folder(path.parent)
    return free


def open_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint whose manifest is sealed, whose files are all there and no others, and whose state verifies.

    Raises Damaged, or RunError for one that a newer diffcli wrote.
    """
    manifest = sealed(folder)
    listed = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
    with acting("read", folder):
        there = set(os.listdir(folder))
    if odd := there ^ {*listed, "manifest.json"}:
        raise Damaged(
            f"{show(folder)}: {show(', '.join(sorted(odd)))} {'is missing' if odd - there else 'does not belong'}"
        )
    if (named := STEP.fullmatch(folder.name)) and int(named[1]) != manifest["step"]:
        raise Damaged(f"{show(folder)} holds step {manifest['step']}; give the folder its name back")
    for name, (size, _) in listed.items():
        if (folder / name).is_symlink() or (folder / name).lstat().st_size != size:
            raise Damaged(f"{show(folder / name)} is a link, or does not have the {size} bytes that were written")
    state = undamaged(parse, verified(folder / "state.json", listed["state.json"]), str(folder / "state.json"))
    return Checkpoint(folder, manifest["step"], manifest["meta"], listed, state)


__all__ = [
    "Checkpoint",
    "latest",
    "load_into",
    "open_checkpoint",
    "pack_optimizer",
    "save",
    "unpack_optimizer",
]
