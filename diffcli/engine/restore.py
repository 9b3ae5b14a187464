"""Pictures or latents of the user's own -> what comes back of each at its own size, how near it is, and how long it took."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.engine import images
from diffcli.engine.coding import centred, decoded, decodes_to, encoded, rows
from diffcli.engine.load import Model
from diffcli.engine.sample import provenance, wishes
from diffcli.engine.walk import Walk
from diffcli.errors import DataError, UsageError
from diffcli.metrics.reconstruction import psnr, ssim
from diffcli.nn.blocks import crop, pad
from diffcli.parts import Part
from diffcli.sections import SampleOptions

Size = tuple[int, int]  # (H, W)
FEW = 8  # pictures that are shown side by side
STILL = ("png", "webp")  # formats that keep every pixel
UNSAFE = re.compile(r"[^A-Za-z0-9_]+")


class Item(NamedTuple):
    """Something to reconstruct: picture x (C, H, W) of a file, or its latents z (c, h, w), and its size."""

    number: int
    file: str
    x: Tensor | None
    z: Tensor | None
    size: Size


@dataclass
class Restored:
    """What was made; the pictures themselves are files by then, but for the first few.

    table: a row a picture, see `row`; codes, sizes: the latents (c, h, w) of each, and the (H, W) of its picture; shown: of
    the first, (given, made), given None where latents were decoded; seconds: of each; facts: see sample.provenance.
    """

    n: int
    table: list[dict[str, Any]] = field(default_factory=list)
    codes: list[Tensor] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    shown: list[tuple[images.Picture | None, images.Picture]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    evaluated: int = 0
    calls: int = 0


def wanted(model: Model, o: SampleOptions) -> int:
    """How many pictures or latents of the user's own there are to make, each at its own size; 0 where sampling does it.

    UsageError for options that have no meaning then.
    """
    method = model.method
    if not (method.reconstructs and hasattr(method, "encode")):
        return 0
    n = len(method.files(o)) or (len(method.codes(o)) if method.any_size else 0)
    if n and o.trajectory:
        raise UsageError("--trajectory shows samples of one size on their way, not files; leave it out")
    if n and o.format not in STILL:
        raise UsageError(f"--format {o.format} does not keep every pixel of what is reconstructed; give png or webp")
    if n:
        wishes(model, o)
    return n


def restore(
    model: Model, o: SampleOptions, part: Part | None, folder: Path, *, tick: Callable[[int], None] = lambda done: None
) -> Restored:
    """Write images/ and, of pictures that were given, given/ into a folder. tick: told how many are done.

    Neighbours of one size share a batch, as many as the memory of a large picture. Raises NonFinite.
    """
    done = Restored(wanted(model, o))
    (folder / "images").mkdir()
    for group in groups(items(model, o), o):
        write(make(model, o, part, group, done), group, o, folder, done)
        tick(len(done.table))
    return done


def items(model: Model, o: SampleOptions) -> Iterator[Item]:
    """The pictures of the files, or the latents that were kept, in their order, each when it is needed."""
    method = model.method
    if files := method.files(o):
        for k, path in enumerate(files):
            x = method.picture(path)
            yield Item(k, str(path), x, None, (x.shape[1], x.shape[2]))
        return
    for k, (z, size) in enumerate(method.codes(o)):
        shape = decodes_to(model, z[None])
        try:
            _, _, height, width = centred(model, shape, *(size or shape[1:]))
        except UsageError as error:
            raise DataError(f"number {k} of the latents cannot be: {error}") from None
        yield Item(k, "", None, z, (height, width))


def groups(things: Iterator[Item], o: SampleOptions) -> Iterator[list[Item]]:
    """Neighbours of one size, as many as fit in a batch."""
    group: list[Item] = []
    for item in things:
        alike = bool(group) and item.size == group[0].size
        if group and not (alike and len(group) < rows(o, *item.size)):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def make(model: Model, o: SampleOptions, part: Part | None, group: list[Item], done: Restored) -> Tensor:
    """The pictures (B, C, H, W) of a group, unclamped; what they took is noted in `done`."""
    index, began = torch.tensor([item.number for item in group]), time.perf_counter()
    if group[0].x is None:
        z = torch.stack([item.z for item in group if item.z is not None])
        shape = decodes_to(model, z)
        box = centred(model, shape, *group[0].size)
    else:
        x = torch.stack([item.x for item in group if item.x is not None])
        x, box = pad(x, model.method.multiple if model.method.any_size else 1)
        z, shape = encoded(model, x, o).cpu(), tuple(x.shape[1:])  # copying waits for the device
    between = time.perf_counter()
    y, way = decoded(model, o, part, Batch(index, z=z), done.n, shape)
    y = y.cpu()
    ended = time.perf_counter()
    note(done, group, z, between - began, ended - between, way)
    done.facts = done.facts or provenance(model, o, part, way)
    return crop(y, box)


def note(done: Restored, group: list[Item], z: Tensor, encoding: float, decoding: float, way: Walk) -> None:
    """A row a picture: its file, size, latents and milliseconds; the rest comes when it is measured."""
    for item, code in zip(group, z, strict=True):
        row = {"file": item.file, "width": item.size[1], "height": item.size[0], "latent": list(code.shape)}
        row |= {} if item.x is None else {"encode_ms": 1000 * encoding / len(group)}
        done.table.append({**row, "decode_ms": 1000 * decoding / len(group)})
        done.codes.append(code)
        done.sizes.append(item.size)
        done.seconds.append((encoding + decoding) / len(group))
    done.evaluated += sum(counted.rows for counted in way.counted)
    done.calls += sum(counted.calls for counted in way.counted)


def write(made: Tensor, group: list[Item], o: SampleOptions, folder: Path, done: Restored) -> None:
    """The files of a group, and how near each picture is to the one that was given."""
    pictures = images.to_pictures(made)
    for item, y, picture in zip(group, made, pictures, strict=True):
        row, name = (
            done.table[item.number],
            f"{item.number:0{max(3, len(str(done.n - 1)))}d}{slug(item.file)}.{o.format}",
        )
        given = None if item.x is None else images.to_pictures(item.x[None])[0]
        for place, seen in (("images", picture), ("given", given)):
            if seen is not None:
                (folder / place).mkdir(exist_ok=True)
                alone = images.single(seen, None if o.upscale else 1, side=o.upscale or 1)
                row[place] = str(images.save_picture(alone, folder / place / name).relative_to(folder))
        if item.x is not None:
            a, b = ((part[None].clamp(-1, 1) + 1) / 2 for part in (item.x, y))
            row["psnr"], row["ssim"] = float(psnr(a, b)), float(ssim(a, b))
        if len(done.shown) < (o.columns or FEW):
            done.shown.append((given, picture))


def slug(file: str) -> str:
    """`-its-name` of a file, in letters, digits and - alone; nothing where nothing of it is left."""
    plain = unicodedata.normalize("NFKD", Path(file).stem).encode("ascii", "ignore").decode()
    name = UNSAFE.sub("-", plain).strip("-")[:60].rstrip("-")
    return f"-{name}" if name else ""
