"""Small tars of pictures for the tests of shards."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def png(number: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """A picture whose red is its number."""
    data = io.BytesIO()
    Image.new("RGB", size, (number % 256, number // 256, 255)).save(data, "PNG")
    return data.getvalue()


def tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of these members in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def numbered(folder: Path, counts: Iterable[int], name: str = "train-{:03d}.tar", classed: bool = True) -> Path:
    """Shards of so many pictures, numbered through them; the class of a picture is its number modulo 3."""
    first = 0
    for k, n in enumerate(counts):
        rows = [(f"{i:06d}.png", png(i)) for i in range(first, first + n)]
        labels = [(f"{i:06d}.cls", b"%d\n" % (i % 3)) for i in range(first, first + n)]
        both = [m for pair in zip(rows, labels, strict=True) for m in pair]
        tar(folder / name.format(k), both if classed else rows)
        first += n
    return folder


def photos(folder: Path, n: int = 40, classes: str = "abc") -> Path:
    """n pictures of noise in folders of classes, of several sizes and kinds."""
    rng = np.random.default_rng(0)
    for k in range(n):
        path = folder / classes[k % len(classes)] / f"{k:03d}{('.png', '.jpg', '.WEBP')[k % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        x = rng.integers(0, 256, (10 + k % 7, 12, 3), np.uint8)
        Image.fromarray(x[..., 0] if k % 5 == 0 else x).save(path)
    return folder
