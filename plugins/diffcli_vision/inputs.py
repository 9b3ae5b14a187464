"""Picture files of any kind -> pixels of a wanted shape, read as files from anywhere must be: with caps, and never run."""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from diffcli.errors import DataError, UsageError, show

FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
MOST_PIXELS, MOST_BYTES = 64_000_000, 256_000_000  # of one file
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, MemoryError, Warning, Image.DecompressionBombError)


def listed(text: str) -> list[Path]:
    """The pictures that a text names: files with commas between them, a folder, or a pattern such as *.png, sorted.

    UsageError for a piece that names none.
    """
    found: list[Path] = []
    for piece in [text] if os.path.exists(text) else text.split(","):
        try:
            files = below(piece)
        except OSError as error:
            raise UsageError(f"{show(piece, 80)} cannot be listed: {error.strerror}; check its permissions") from None
        if not files:
            what = "a folder without pictures" if os.path.isdir(piece) else "no picture that is there"
            raise UsageError(
                f"{show(piece, 80) or 'an empty name'} is {what}; give files with commas between them, a folder, or a "
                "quoted pattern such as '*.png'"
            )
        found += files
    return found


def count(text: str) -> int:
    """How many pictures a text names; 0 where it cannot be read, as whoever reads them will say."""
    try:
        return len(listed(text))
    except UsageError:
        return 0


def below(piece: str) -> list[Path]:
    """One file, the pictures of a folder without hidden ones, or the files that a pattern fits; none where there are none."""
    path = Path(piece)
    if os.path.isdir(piece):
        inside = sorted(path.iterdir(), key=lambda entry: entry.name)
        return [p for p in inside if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith(".")]
    if os.path.exists(piece):
        return [path]
    return [Path(name) for name in sorted(glob(piece)) if os.path.isfile(name)] if has_magic(piece) else []


def read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A picture as (C, H, W) uint8: see `picture`. DataError names a file that is none."""
    return checked(path, shape, picture)


def read_whole(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A whole picture as (C, H, W) uint8 at its own size; shape: only its channels count. DataError as `read`."""
    return checked(path, shape, lambda path, shape: pixels(opened(path, shape[0]), shape[0]))


def checked(path: Path, shape: tuple[int, ...], load: Callable[[Path, tuple[int, ...]], np.ndarray]) -> np.ndarray:
    """What `load` makes of a file, its errors in our words."""
    if shape[0] not in (1, 3):
        raise UsageError(
            f"picture files have 1 or 3 channels, but this model is of {'x'.join(map(str, shape))}; give it data of its own"
        )
    try:
        return load(path, shape)
    except UNREADABLE as error:
        raise DataError(f"{show(path)} is no readable image: {show(error, 120)}; give another") from error


def picture(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The middle of a picture, as much as has the proportions of shape (C, H, W), turned as its EXIF says and resized.

    uint8 of that shape; C is 1 (grey) or 3 (red, green, blue). Raises one of UNREADABLE.
    """
    channels, height, width = shape
    return pixels(middle(opened(path, channels), height, width), channels)


def middle(whole: Image.Image, height: int, width: int) -> Image.Image:
    """The middle of a picture, as much as has these proportions, resized."""
    w, h = min(whole.width, whole.height * width / height), min(whole.height, whole.width * height / width)
    left, top = (whole.width - w) / 2, (whole.height - h) / 2
    return whole.resize((width, height), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))


def pixels(image: Image.Image, channels: int) -> np.ndarray:
    """(C, H, W) uint8."""
    return np.asarray(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)


def opened(path: Path, channels: int) -> Image.Image:
    """A picture, turned as its EXIF says, in 8 bits of grey or of red, green and blue. Raises one of UNREADABLE."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return decoded(path, channels)


def decoded(file: Path | bytes, channels: int) -> Image.Image:
    """`opened` for threads, which share one list of what is warned of: what PIL warns of is the caller's to settle."""
    with capped(file) as image:
        image.load()
        return plain(ImageOps.exif_transpose(image), "RGB" if channels == 3 else "L")


@contextmanager
def capped(file: Path | bytes) -> Iterator[Image.Image]:
    """A regular file, or the bytes of one, that is a picture by its start, not decoded yet, within the caps of bytes and pixels."""
    size = len(file) if isinstance(file, bytes) else regular(file)
    if size > MOST_BYTES:
        raise ValueError(f"{size / 1e6:.0f} MB, above the limit of {MOST_BYTES / 1e6:.0f}")
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width}x{image.height}, above the limit of {MOST_PIXELS / 1e6:.0f} Mpixel")
        yield image


def regular(path: Path) -> int:
    """Bytes of a regular file; ValueError for anything else."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    return status.st_size


def plain(image: Image.Image, mode: str) -> Image.Image:
    """The picture in 8 bits: 16-bit grey is scaled, and what is transparent lies on white."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), above)
    return image.convert(mode)
