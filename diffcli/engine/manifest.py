"""The manifest of a checkpoint: what was written, file by file, so that what is read is the same or is refused."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffcli.engine.files import dump_json, parse_json, read_capped
from diffcli.engine.rundir import JSON_CAP
from diffcli.errors import RunError, show

FORMAT = 1
TENSOR_CAP, STATE_CAP = 64 * 2**30, 256 * 2**20
PART = re.compile(r"[a-z][a-z0-9_]*\.(safetensors|json)")
SHA256 = re.compile(r"[0-9a-f]{64}")
Listed = Mapping[str, tuple[int, str]]  # file -> (size, SHA-256)


class Damaged(RunError):
    """A checkpoint that is not what was written."""


def seal(body: Mapping[str, Any]) -> bytes:
    """A manifest with the hash of its own text, so that a flipped bit in it is noticed as well."""
    return dump_json({**body, "seal": hashlib.sha256(dump_json(body)).hexdigest()})


def sealed(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, checked against its seal, byte for byte, and for its form."""
    path = folder / "manifest.json"
    data = undamaged(read_capped, path, JSON_CAP)
    manifest: dict[str, Any] = undamaged(parse_json, data, str(path))
    body = {k: v for k, v in manifest.items() if k != "seal"}
    if seal(body) != data:
        raise Damaged(f"{show(path)} does not match its seal")
    if manifest.get("format") != FORMAT:
        raise RunError(
            f"{show(folder)} has format {show(manifest.get('format'))}, this diffcli reads {FORMAT}; update diffcli"
        )
    form = {"step": int, "meta": dict, "files": dict}
    if not all(type(manifest.get(key)) is kind for key, kind in form.items()) or "state.json" not in manifest["files"]:
        raise Damaged(f"{show(path)} is not what diffcli writes")
    if not all(well_formed(name, entry) for name, entry in manifest["files"].items()):
        raise Damaged(f"{show(path)} lists files that diffcli does not write")
    return manifest


def well_formed(name: str, entry: Any) -> bool:
    """True for a listed file that may be opened: a plain name, a bearable size, a hash."""
    return (
        PART.fullmatch(name) is not None
        and isinstance(entry, dict)
        and type(entry.get("size")) is int
        and 0 <= entry["size"] <= (STATE_CAP if name.endswith(".json") else TENSOR_CAP)
        and SHA256.fullmatch(str(entry.get("sha256"))) is not None
    )


def verified(path: Path, entry: tuple[int, str]) -> bytes:
    """The bytes of a listed file, (size, SHA-256); Damaged unless they are those that were written."""
    size, sha256 = entry
    data: bytes = undamaged(read_capped, path, size)
    if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
        raise Damaged(f"{show(path)} is not what was written: its size or SHA-256 differs")
    return data


def undamaged(read: Callable[..., Any], *arguments: Any) -> Any:
    """What a reader gives; what it finds wrong is damage."""
    try:
        return read(*arguments)
    except RunError as error:
        raise Damaged(str(error)) from None
