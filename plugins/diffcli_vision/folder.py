"""A folder of your own images, flat or with one folder a class."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from diffcli.errors import DataError, UsageError, show
from diffcli_vision import FolderOptions
from diffcli_vision.datasets import Images
from diffcli_vision.inputs import SUFFIXES, UNREADABLE, picture

DEPTH = 32  # folders inside folders


def folder(config: FolderOptions, split: str) -> Images:
    """The images of a split, decoded once. Folders directly inside are the classes, sorted by name; hidden ones are none."""
    if config.path is None:
        raise UsageError("the data set folder needs --path FOLDER")
    if not config.path.is_dir():
        raise DataError(f"{show(config.path)} is no folder; give --path a folder of images")
    names, files, origin = choose(config.path, split)
    needed, memory = (
        len(files) * config.channels * config.size**2,
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    )
    if needed > memory // 2:
        raise DataError(
            f"{show(config.path)}: {len(files)} images of {config.size}x{config.size} take {needed / 2**30:.1f} GiB, "
            f"over half of this machine's {memory / 2**30:.1f} GiB; use a smaller --size or fewer files"
        )
    images, labels, bad = decode(files, config)
    if bad:
        print(f"warning: {len(bad)} of {len(files)} files skipped, the first: {bad[0]}", file=sys.stderr)
    return Images(
        torch.from_numpy(images),
        torch.tensor(labels) if names else None,
        name="folder",
        split=f"{show(config.path)}/{split}, {origin}",
        class_names=names,
        licence="that of your files",
        flip=config.flip and split == "train",
        part=f"folder/{split}",
    )


File = tuple[Path, int]  # and the number of its class


def choose(path: Path, split: str) -> tuple[tuple[str, ...], list[File], str]:
    """Class names, files and the rule of the split: the folders train/ and test/ (or val/) if present, else every tenth file."""
    held_out = next((path / name for name in ("test", "val") if (path / name).is_dir()), None)
    if (path / "train").is_dir() and held_out:
        names, train = listing(path / "train", path)
        if split == "train":
            return names, train, "folder train"
        others, test = listing(held_out, path)
        if others != names and (unknown := sorted(set(others) ^ set(names))):
            raise DataError(
                f"{show(path)}: class {show(unknown[0])} is not in both train and {held_out.name}; give both the same folders"
            )
        return names, test, f"folder {held_out.name}"
    names, files = listing(path, path)
    kept = [file for i, file in enumerate(files) if (i % 10 == 9) == (split == "test")]
    return names, kept, f"index % 10 {'==' if split == 'test' else '!='} 9"


def listing(path: Path, root: Path) -> tuple[tuple[str, ...], list[File]]:
    """Class names (none where the folder is flat) and all files that are named like images, sorted."""
    inside = visible(path)
    classes = [entry for entry in inside if entry.is_dir() and next(walk(entry, root), None) is not None]
    loose = [entry for entry in inside if entry.is_file() and entry.suffix.lower() in SUFFIXES]
    if classes and loose:
        raise DataError(
            f"{show(path)} holds images beside folders of images, as {show(loose[0].name)}; move them into a class, or the folders away"
        )
    for entry in loose:
        inspect(entry, root)
    if not classes and not loose:
        raise DataError(f"{show(path)} holds no images ({', '.join(sorted(SUFFIXES))}); give --path a folder of images")
    files = [(file, i) for i, entry in enumerate(classes) for file in walk(entry, root)]
    return tuple(entry.name for entry in classes), files or [(entry, 0) for entry in loose]


def visible(path: Path) -> list[Path]:
    """What a folder holds, sorted by name, without hidden entries."""
    try:
        return sorted(
            (entry for entry in path.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name
        )
    except OSError as error:
        raise DataError(f"{show(path)} cannot be listed: {error.strerror}; check its permissions") from error


def walk(path: Path, root: Path, depth: int = 0) -> Iterator[Path]:
    """The images in a folder and the folders inside it."""
    inspect(path, root)
    if depth > DEPTH:
        raise DataError(f"{show(path)} lies more than {DEPTH} folders deep, or a link leads in a circle; remove it")
    for entry in visible(path):
        if entry.is_dir():
            yield from walk(entry, root, depth + 1)
        elif entry.suffix.lower() in SUFFIXES:
            inspect(entry, root)
            yield entry


def inspect(path: Path, root: Path) -> None:
    """Refuses a link that leaves the folder."""
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{show(path)} is a link out of {show(root)}; copy the files in, or remove the link")


def decode(files: list[File], config: FolderOptions) -> tuple[np.ndarray, list[int], list[str]]:
    """Images (n, C, size, size), their classes, and what was wrong with the files left out."""
    images = np.empty((len(files), config.channels, config.size, config.size), np.uint8)
    labels: list[int] = []
    bad: list[str] = []
    for path, label in files:
        try:
            images[len(labels)] = picture(path, (config.channels, config.size, config.size))
            labels.append(label)
        except UNREADABLE as error:
            reason = f"{show(path)} is no readable image: {show(error, 120)}"
            if not config.skip_bad:
                raise DataError(f"{reason}; remove it, or count such files with --skip-bad") from error
            bad.append(reason)
    return images[: len(labels)], labels, bad
