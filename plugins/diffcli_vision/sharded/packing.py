"""A folder of images -> tar files in the layout of WebDataset: the same folder makes the same bytes."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from diffcli.core.random import permutation
from diffcli.engine.files import acting, at_once, dump_json, parse_json, sync_folder, write_synced
from diffcli.errors import DataError, UsageError, show
from diffcli_vision import FolderOptions
from diffcli_vision.checking import Tick, threaded
from diffcli_vision.files import File
from diffcli_vision.folder import found
from diffcli_vision.inputs import MOST_BYTES, UNREADABLE, decoded, middle, pixels
from diffcli_vision.reading import told, unreadable
from diffcli_vision.sharded.places import Local
from diffcli_vision.sharded.survey import Survey, named
from diffcli_vision.sharded.tar import BLOCK


class Sample(NamedTuple):
    """A picture to be packed: its bytes with their suffix, and its class; where it is bad, why, in place of them."""

    data: bytes
    suffix: str
    label: int
    bad: str = ""


def pack(config: FolderOptions, out: Path, size: int | None, most: int, tick: Tick) -> list[tuple[str, int, int]]:
    """Write both splits of a folder as shards: train-000000.tar ... and test-000000.tar ..., with an index beside each split.

    The files as they are, or, with size, their middle squares of that many pixels a side, as PNG; most: bytes of a shard.
    The pictures are shuffled once and for all, so that shards hold all classes. The folder is there whole or not at all.
    -> (split, images, shards). Raises UsageError for a place that is taken, DataError for bad files, unless --skip-bad.
    """
    if os.path.lexists(out):
        raise UsageError(f"{show(out)} exists; give the name of a new folder, or move it away")
    with at_once(out.parent) as folder:
        made = [split_into(config, split, folder, size, most, tick) for split in ("train", "test")]
        sync_folder(folder)
        os.rename(folder, out)
    with acting("write", out):
        sync_folder(out.parent)
    return made


def split_into(
    config: FolderOptions, split: str, folder: Path, size: int | None, most: int, tick: Tick
) -> tuple[str, int, int]:
    """The shards of a split and their index; what was made."""
    classes, files, origin = found(config, split)
    if not files:
        raise DataError(f"{show(config.path)} has no images for the split {split} ({origin}); give twenty or more")
    order = permutation(0, "pack", 0, len(files)).tolist()
    bad: list[str] = []
    pictures = sound(
        threaded(partial(sample, size=size), (files[i] for i in order), config.workers), bad, config, tick, len(files)
    )
    counts, paths = [], []
    for k, part in enumerate(cut(pictures, most)):
        paths.append(folder / f"{split}-{k:06d}.tar")
        counts.append(write(paths[-1], part, classed=bool(classes)))
    told(bad, len(files), skip=True)
    if not counts:
        raise DataError(f"{show(config.path)}/{split} has no readable image; look at its files")
    place = Local(paths, "auto", split)
    survey = Survey(tuple(counts), "numbers" if classes else "none", classes)
    write_synced(folder / named(paths[0].name), hashed(survey.file(place), place))
    return split, sum(counts), len(counts)


def sample(file: File, size: int | None) -> Sample:
    """A picture as it is packed; it is decoded either way, so that no shard holds a bad one."""
    path, label = file
    try:
        whole = decoded(path, 3)
        if size is not None:
            return Sample(shrunk(whole, size), ".png", label)
        with path.open("rb") as opened:
            return Sample(opened.read(MOST_BYTES), path.suffix.lower(), label)
    except UNREADABLE as error:
        return Sample(b"", "", label, unreadable(show(path), show(error, 120)))


def shrunk(whole: Image.Image, size: int) -> bytes:
    """The middle square as PNG; of one channel where all are alike."""
    x = pixels(middle(whole, size, size), 3)
    grey = bool((x[0] == x[1]).all() and (x[0] == x[2]).all())
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(x[0] if grey else x.transpose(1, 2, 0))).save(data, "PNG")
    return data.getvalue()


def sound(samples: Iterable[Sample], bad: list[str], config: FolderOptions, tick: Tick, n: int) -> Iterator[Sample]:
    """The samples that are no bad ones; those are told in `bad`, or, without --skip-bad, raised."""
    for k, one in enumerate(samples):
        if one.bad:
            bad.append(one.bad)
            if not config.skip_bad:
                told(bad, n, skip=False)
        else:
            yield one
        tick(k + 1, n)


def cut(samples: Iterable[Sample], most: int) -> Iterator[Iterator[Sample]]:
    """Runs of samples of `most` bytes in a tar, or of one sample."""
    rest = iter(samples)
    left = [next(rest, None)]

    def part() -> Iterator[Sample]:
        used = 0
        while left[0] is not None:
            used += 3 * BLOCK + -(-len(left[0].data) // BLOCK) * BLOCK  # two headers, the picture, its class
            if used > most and used > len(left[0].data) + 4 * BLOCK:
                return
            yield left[0]
            left[0] = next(rest, None)

    while left[0] is not None:
        yield part()


def write(path: Path, samples: Iterable[Sample], *, classed: bool) -> int:
    """A tar of samples, on the disk when this returns; how many there are. No time, owner or place is in it."""
    n = 0
    with path.open("xb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for n, one in enumerate(samples, 1):
            labels = [(".cls", b"%d" % one.label)] if classed else []
            for suffix, data in [(one.suffix, one.data), *labels]:
                info = tarfile.TarInfo(f"{n - 1:08d}{suffix}")
                info.size, info.mode = len(data), 0o644
                tar.addfile(info, io.BytesIO(data))
    with path.open("rb") as written:
        os.fsync(written.fileno())
    return n


def hashed(survey: bytes, place: Local) -> bytes:
    """The index with the SHA-256 of each shard, by which `data check` knows it."""
    table = parse_json(survey, "the index")
    for number, row in enumerate(table["shards"]):
        with place.paths[number].open("rb") as file:
            row["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return dump_json(table)
