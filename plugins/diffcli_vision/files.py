"""Pictures in files of their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from diffcli.core.random import shuffled
from diffcli.errors import show
from diffcli_vision import PictureOptions
from diffcli_vision.inputs import UNREADABLE, capped
from diffcli_vision.reading import told, unreadable

File = tuple[Path, int]  # and the number of its class


class Files:
    """A source of pictures, with the numbers of their classes: see `reading.Source`."""

    def __init__(self, files: list[File]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def order(self, seed: int, index: Tensor) -> Tensor:
        return shuffled(seed, index.cpu(), len(self))

    def read(self, number: int) -> tuple[Path, int]:
        return self.files[number]

    def label(self, number: int) -> int:
        return self.files[number][1]

    def called(self, number: int) -> str:
        return show(self.files[number][0])


def sound(files: list[File], config: PictureOptions) -> list[File]:
    """The files that are images by their first bytes, and within the caps. DataError names another."""
    with ThreadPoolExecutor(config.workers, "headers") as pool:
        reasons = list(pool.map(why_not, (path for path, _ in files), chunksize=64))
    bad = [unreadable(show(path), why) for (path, _), why in zip(files, reasons, strict=True) if why is not None]
    told(bad, len(files), skip=config.skip_bad)
    return [file for file, why in zip(files, reasons, strict=True) if why is None]


def why_not(path: Path) -> str | None:
    """Why a file is no image by its first bytes, or beyond the caps; None where it may be one."""
    try:
        with capped(path):
            return None
    except UNREADABLE as error:
        return show(error, 120)
