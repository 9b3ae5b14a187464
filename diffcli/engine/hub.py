"""hub:OWNER/NAME[@REVISION]: a model folder of the Hugging Face Hub, from its local cache, else downloaded into it.

Only config.json and safetensors files are asked for, and nothing of them is run. The cache keeps contents in blobs/ and
fills snapshots with links into it; a link is followed once, and must end inside the folder of its own repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from diffcli.errors import EnvironmentProblem, RunError, UsageError, show

PREFIX = "hub:"
PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
NAME = re.compile(rf"({PART}/{PART})(?:@({PART}(?:/{PART})*))?")
WANTED = ["config.json", "*.safetensors", "*/config.json"]  # the last one: of an autoencoder inside
CONFIG, WEIGHTS = "config.json", "model.safetensors"


class ModelFiles(NamedTuple):
    """The two files of a model folder, where they really lie."""

    config: Path
    weights: Path


def parse(text: str) -> tuple[str, str | None]:
    """(OWNER/NAME, REVISION or None) of hub:OWNER/NAME[@REVISION]. UsageError for anything else."""
    named = NAME.fullmatch(text.removeprefix(PREFIX))
    if named is None or ".." in text or "--" in named[1]:
        raise UsageError(
            f"{show(text)} is no model of the Hub: it is written hub:OWNER/NAME or hub:OWNER/NAME@REVISION, with letters, "
            "digits and single . _ - in each"
        )
    return named[1], named[2]


def snapshot(text: str) -> Path:
    """The folder in the cache that hub:OWNER/NAME[@REVISION] means: what is cached is taken as it is, the rest downloaded.

    Raises UsageError for a wrong name, RunError where the Hub or its cache has no such model, EnvironmentProblem where the
    Hub cannot be asked.
    """
    repo, revision = parse(text)
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise EnvironmentProblem(
            f"{show(text)} needs huggingface_hub, which cannot be imported ({show(error, 80)}); pip install huggingface_hub"
        ) from None
    root = Path(constants.HF_HUB_CACHE).expanduser().resolve()
    asked = {"repo_id": repo, "revision": revision, "cache_dir": root, "allow_patterns": WANTED}
    home = root / f"models--{repo.replace('/', '--')}"
    try:
        folder = inside(snapshot_download(**asked, local_files_only=True), home, text)
        if model_files(folder):
            return folder
    except HFValidationError as error:
        raise UsageError(f"{show(text)} is no model of the Hub: {show(error, 160)}") from None
    except (OSError, ValueError):  # not cached, not whole, or not readable: the Hub is asked
        pass
    return inside(download(snapshot_download, asked, text, root), home, text)


def download(snapshot_download: Any, asked: dict[str, Any], text: str, root: Path) -> str:
    """What the Hub has, in the cache; its refusals in our words."""
    from huggingface_hub import errors

    try:
        path: str = snapshot_download(**asked)
        return path
    except errors.RevisionNotFoundError:
        raise RunError(f"{show(text)}: the Hub has no such revision of it; give a branch, a tag or a commit") from None
    except errors.GatedRepoError:
        raise RunError(
            f"{show(text)} is not open to all; accept its terms on the Hub and log in with hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise RunError(
            f"{show(text)}: the Hub has no model or data set of that name, or does not show it to you; check the name"
        ) from None
    except Exception as error:  # a library that speaks to the network fails in many ways, none of them a bug of ours
        why = show(str(error).strip().split("\n", 1)[0] or type(error).__name__, 160)
        raise EnvironmentProblem(
            f"{show(text)} is not in the cache {show(root)}, and the Hub cannot be asked ({why}); connect, or copy its "
            "folder here and give its path"
        ) from None


def inside(path: str, home: Path, text: str) -> Path:
    """The snapshot, if it is one of this repository: the name of a commit, right in its snapshots/."""
    folder = Path(path)
    if folder.resolve() != home / "snapshots" / folder.name:
        raise RunError(
            f"{show(text)}: its snapshot {show(path)} is not inside {show(home)}; delete that folder and try again"
        )
    return folder


def model_files(folder: Path) -> ModelFiles | None:
    """config.json and model.safetensors of a folder, or the one file of safetensors that it holds; None where there are none.

    Links are no files, but for those of a snapshot of the Hub's cache: see `real`.
    """
    config, weights = real(folder / CONFIG), real(folder / WEIGHTS)
    if weights is None and config is not None:
        others = [path for path in folder.glob("*.safetensors") if real(path)]
        weights = real(others[0]) if len(others) == 1 else None
    return None if config is None or weights is None else ModelFiles(config, weights)


def real(path: Path) -> Path | None:
    """Where a regular file lies: the path itself, or what it leads to from a snapshot; None where there is no such file.

    RunError where a link of a snapshot, of the file or of a folder above it, leaves the folder of its repository.
    """
    home = repository(path)
    if home is None:
        return path if path.is_file() and not path.is_symlink() else None
    try:
        end = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    if not end.is_relative_to(home):
        raise RunError(
            f"{show(path)} is a link that leaves {show(home)}; nothing outside of it is read, delete the snapshot"
        )
    return end if end.is_file() else None


def repository(path: Path) -> Path | None:
    """models--OWNER--NAME, resolved, of a file in one of its snapshots; None for any other file."""
    for folder in Path(os.path.abspath(path)).parents:
        if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
            return folder.parent.parent.resolve()
    return None
