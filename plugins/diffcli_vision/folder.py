"""A folder of your own images, flat or with one folder a class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffcli.errors import DataError, UsageError, show
from diffcli_vision import FolderOptions
from diffcli_vision.crops import reading
from diffcli_vision.datasets import Images
from diffcli_vision.files import File, Files, sound
from diffcli_vision.inputs import SUFFIXES, UNREADABLE, picture
from diffcli_vision.reading import Pictures, room, told, unreadable

LARGE = 2**31  # bytes of pictures that are decoded at once; more stay in their files
DEPTH = 32  # folders inside folders
SHIPPED = ("imagenet100",)  # lists of classes beside this file
ANNOTATIONS = "val_annotations.txt"  # as tiny-imagenet has it
MOST_LINES = 2**24  # bytes of such lists


def folder(config: FolderOptions, split: str) -> Images | Pictures:
    """The images of a split, decoded once, or read as they are needed where they are many or each is cropped anew.

    Folders directly inside are the classes, sorted by name; hidden ones are none, nor are those that --classes leaves out.
    """
    names, files, origin = found(config, split)
    called, part, training = f"{show(config.path)}/{split}, {origin}", f"folder/{split}", split == "train"
    about: Any = {
        "name": "folder",
        "split": called,
        "class_names": names,
        "licence": "that of your files",
        "part": part,
    }
    cropped = training and config.crop != "middle"
    if cropped or not fits(len(files) * config.channels * config.size**2):
        kept = room() if cropped else 0  # what is only resized is read once an epoch
        return reading(Files(sound(files, config)), config, training=training, room=kept, **about)
    images, labels, bad = decode(files, config)
    told(bad, len(files), skip=config.skip_bad)
    about["flip"] = config.flip and training
    return Images(torch.from_numpy(images), torch.tensor(labels) if names else None, **about)


def found(config: FolderOptions, split: str) -> tuple[tuple[str, ...], list[File], str]:
    """Class names, files and the rule of a split."""
    if config.path is None:
        raise UsageError("the data set folder needs --path FOLDER")
    if not config.path.is_dir():
        raise DataError(f"{show(config.path)} is no folder; give --path a folder of images")
    return choose(config.path, split, None if config.classes is None else listed(config.classes))


def fits(bytes_: int) -> bool:
    """Whether so many bytes of pictures are decoded at once: a fixed bound, and half of the machine's memory."""
    return bytes_ <= min(LARGE, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)


def listed(given: Path) -> set[str]:
    """The names of classes in a file, one a line without what follows a #, or in a list that is shipped."""
    path = given if given.is_file() else Path(__file__).with_name(f"{given}.txt")
    if path != given and str(given) not in SHIPPED:
        raise UsageError(f"--classes {show(given)} is no file, nor a list that is shipped: {', '.join(SHIPPED)}")
    lines = [line.partition("#")[0].strip() for line in text(path, MOST_LINES).splitlines()]
    names = [line for line in lines if line]
    for name in names:
        if not plainly(name) or names.count(name) > 1:
            why = "stands in it twice" if plainly(name) else "is no name of a folder"
            raise DataError(
                f"{show(path)} is no list of classes: {show(name, 80)} {why}; write a name a line, each once"
            )
    if not names:
        raise DataError(f"{show(path)} lists no classes; write a name a line")
    return set(names)


def plainly(name: str) -> bool:
    """Whether a name is that of a file or folder right inside another one, and not hidden."""
    return name == os.path.basename(name) and not name.startswith(".") and "\0" not in name


def text(path: Path, most: int) -> str:
    """What is written in a small file. DataError where it cannot be read."""
    try:
        with path.open("rb") as file:
            found = file.read(most + 1)
        if len(found) > most:
            raise DataError(f"{show(path)} is larger than the {most} bytes that such a list has at most; give another")
        return found.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{show(path)} cannot be read: {error.strerror}; check its permissions") from error
    except UnicodeDecodeError:
        raise DataError(f"{show(path)} is no UTF-8 text; give another") from None


def choose(path: Path, split: str, wanted: set[str] | None = None) -> tuple[tuple[str, ...], list[File], str]:
    """Class names, files and the rule of the split: the folders train/ and test/ (or val/) if present, else every tenth file.

    val/ may hold its images unsorted, in images/, and their classes in val_annotations.txt: it is then what is held out.
    wanted: names of classes, None is all.
    """
    held_out = next((path / name for name in ("test", "val") if (path / name).is_dir()), None)
    annotations = path / "val" / ANNOTATIONS
    if (path / "train").is_dir() and (held_out or annotations.is_file()):
        names, train = listing(path / "train", path, wanted)
        if split == "train":
            return names, train, "folder train"
        if annotations.is_file():
            return names, annotated(annotations, path, names, wanted), f"folder val by {ANNOTATIONS}"
        assert held_out is not None
        others, test = listing(held_out, path, wanted)
        if others != names and (unknown := sorted(set(others) ^ set(names))):
            raise DataError(
                f"{show(path)}: class {show(unknown[0])} is not in both train and {held_out.name}; give both the same folders"
            )
        return names, test, f"folder {held_out.name}"
    names, files = listing(path, path, wanted)
    kept = [file for i, file in enumerate(files) if (i % 10 == 9) == (split == "test")]
    return names, kept, f"index % 10 {'==' if split == 'test' else '!='} 9"


def annotated(path: Path, root: Path, names: tuple[str, ...], wanted: set[str] | None) -> list[File]:
    """The images beside a list of lines "file TAB class ...", in its order. DataError names what does not fit."""
    number, files = {name: i for i, name in enumerate(names)}, list[File]()
    for line in filter(str.strip, text(path, MOST_LINES).splitlines()):
        file, _, rest = line.partition("\t")
        name, image = rest.partition("\t")[0].strip(), path.parent / "images" / file
        if not rest or not plainly(file):
            raise DataError(f"{show(path)} has the line {show(line, 80)}, which is not: file, tab, class")
        if wanted is not None and name not in wanted:
            continue
        if name not in number:
            raise DataError(
                f"{show(path)} puts {show(file, 80)} into class {show(name, 80)}, which train does not have"
            )
        if not image.is_file():
            raise DataError(f"{show(image)} is not there, but {show(path)} names it; bring it back")
        inspect(image, root)
        files.append((image, number[name]))
    return files


def listing(path: Path, root: Path, wanted: set[str] | None = None) -> tuple[tuple[str, ...], list[File]]:
    """Class names (none where the folder is flat) and all files that are named like images, sorted."""
    inside = [entry for entry in visible(path) if wanted is None or entry.name in wanted or not entry.is_dir()]
    classes = [entry for entry in inside if entry.is_dir() and next(walk(entry, root), None) is not None]
    if wanted is not None and (missing := sorted(wanted - {entry.name for entry in classes})):
        raise DataError(
            f"{show(path)} has no folder {show(missing[0], 80)} with images, which --classes lists; {len(missing)} of "
            f"{len(wanted)} are missing: bring them, or give another list"
        )
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
            bad.append(unreadable(show(path), show(error, 120)))
            if not config.skip_bad:
                break
    return images[: len(labels)], labels, bad
