"""A text file as windows of characters."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.random import onto, permutation, shuffled
from diffcli.core.space import Space
from diffcli.errors import DataError, UsageError, show
from diffcli_vision import TextOptions
from diffcli_vision.fetch import Remote, cache, check, download, find, roots

SHAKESPEARE = Path(
    "tinyshakespeare/input.txt"
)  # Karpathy 2015, The Unreasonable Effectiveness of Recurrent Neural Networks
REMOTE = Remote(
    SHAKESPEARE.name,
    1_115_394,
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",),
)
SPLITS = ("train", "validation", "test")
MOST_BYTES, MOST_CHARACTERS = 2 * 2**30, 4096  # of a file; of its alphabet
PIECE = 1 << 20  # characters that are taken apart at once
POINTS = 0x110000  # code points of Unicode


class Texts:
    """A split of a text on one device, in windows of `length` characters, each as its number in the alphabet.

    numbers: (n,) uint8 or int16. Epochs cut the text at their own offsets: item i + len * o is the window that begins at
    character i * length + o, or the last whole one. Within `length` epochs each offset comes up once.
    """

    def __init__(self, numbers: Tensor, *, length: int, alphabet: str, name: str, split: str, part: str):
        windows = len(numbers) // length
        if windows < 2:
            raise DataError(
                f"{split} has {windows} windows of {length} characters, but a split needs 2 or more; "
                "give a longer text, a smaller --length, or other --splits"
            )
        self.numbers, self.windows, self.alphabet = numbers, windows, alphabet
        self.name, self.split, self.part, self.licence = name, split, part, ""
        self.shape: tuple[int, ...] = (length,)
        self.classes, self.class_names = 0, ()

    def __len__(self) -> int:
        return self.windows

    def to(self, device: torch.device | str) -> Texts:
        """Moves the text; returns self."""
        self.numbers = self.numbers.to(device)
        return self

    def items(self, seed: int, index: Tensor) -> Tensor:
        """Stream positions (B,) -> item numbers (B,), on the CPU: an order and an offset an epoch, pure functions of (seed, epoch)."""
        index, length = index.cpu(), self.shape[0]
        items, epochs = shuffled(seed, index, len(self)), index // len(self)
        for epoch in epochs.unique().tolist():
            offset = permutation(seed, "offset", epoch // length, length)[epoch % length]
            items[epochs == epoch] += len(self) * offset
        return items

    def batch(self, items: Tensor, index: Tensor, space: Space) -> Batch:
        """The windows (B, length), in `space`; index: their stream positions, which come back in the batch."""
        device, length = self.numbers.device, self.shape[0]
        items = onto(items, device)
        start = (items % len(self) * length + items // len(self)).clamp(max=len(self.numbers) - length)
        x = self.numbers[start[:, None] + torch.arange(length, device=device)].long()
        return Batch(index=onto(index, device), x=space.encode(x))


def text(config: TextOptions, split: str) -> Texts:
    """The characters of a split. The alphabet is that of the whole file, sorted: every split has the same numbers.

    The file is read as Python reads a text: every end of a line is \\n, and a byte-order mark is left out.
    """
    path, called = locate(config)
    content = whole(path)
    if called == SHAKESPEARE:
        check(content, REMOTE.sha256, path)
    n, alphabet = survey(content, path)
    k, (a, b, _) = SPLITS.index(split), config.splits
    low, high = (0.0, a, min(a + b, 1.0), 1.0)[k : k + 2]
    where = (f"first {100 * high:g} %", f"{100 * low:g} to {100 * high:g} %", f"last {100 - 100 * low:g} %")[k]
    return Texts(
        torch.from_numpy(numbered(content, alphabet, int(n * low + 1e-6), int(n * high + 1e-6))),
        length=config.length,
        alphabet="".join(map(chr, alphabet)),
        name="text",
        split=f"text/{show(called)}, {where}, {len(alphabet)} characters, windows of {config.length}",
        part=f"text/{split}",
    )


def locate(config: TextOptions) -> tuple[Path, Path]:
    """The file, and how it is called: as it was given where it lies below a data folder, else by its name alone."""
    path = config.path
    if path is None:
        raise UsageError(f"the data set text needs --path FILE; {SHAKESPEARE} is downloaded if need be")
    if path.is_absolute() or os.path.exists(path):
        return path, Path(path.name)
    folders = roots(config.data_dir)
    found = find([root / place / path for root in folders for place in ("", "text")])
    looked = f"{' or '.join(map(str, folders))} (or text in it)"
    if found is None and path == SHAKESPEARE:
        found = download(REMOTE, cache() / path.parent, looked)
    if found is None:
        raise DataError(
            f"{show(path)} is neither here nor under {show(looked)}; give --path a text file, or --data-dir the folder that holds it"
        )
    return found, path


def whole(path: Path) -> bytes:
    """The bytes of a file."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"{show(path)} is a folder; give --path the text file in it")
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{show(path)} is no regular file; give --path a text file")
        if status.st_size > MOST_BYTES:
            raise DataError(
                f"{show(path)} has {status.st_size / 2**30:.1f} GiB, above the limit of {MOST_BYTES / 2**30:g}; cut it into smaller files"
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{show(path)} cannot be read: {error.strerror}; give --path a text file") from error


def pieces(content: bytes) -> Iterator[np.ndarray]:
    """The code points (n,) uint32 of a text, a piece at a time: all of them would take four bytes a character."""
    reader = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline=None)
    while piece := reader.read(PIECE):
        yield np.frombuffer(piece.encode("utf-32-le"), "<u4")


def survey(content: bytes, path: Path) -> tuple[int, np.ndarray]:
    """How many characters a text has, and its alphabet as sorted code points."""
    n, seen = 0, np.zeros(POINTS, bool)
    try:
        for piece in pieces(content):
            n, seen[piece] = n + len(piece), True
    except UnicodeDecodeError as error:
        raise DataError(f"{show(path)} is no UTF-8 text: {reason(content)}; save it as UTF-8") from error
    alphabet = np.flatnonzero(seen)
    if len(alphabet) > MOST_CHARACTERS:
        raise DataError(
            f"{show(path)} has {len(alphabet)} different characters, above the limit of {MOST_CHARACTERS}; give a text in an alphabet"
        )
    return n, alphabet


def reason(content: bytes) -> str:
    """Which byte is wrong; the reader knows it within its own piece alone."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start} is 0x{content[error.start]:02x}, {error.reason}"
    return "it ends early"


def numbered(content: bytes, alphabet: np.ndarray, first: int, last: int) -> np.ndarray:
    """(last - first,) the numbers of a stretch of a text: uint8, or int16 for more than 256 characters."""
    table = np.zeros(POINTS, np.uint8 if len(alphabet) <= 256 else np.int16)
    table[alphabet] = np.arange(len(alphabet))
    out, at = np.empty(last - first, table.dtype), 0
    for piece in pieces(content):
        start = max(at, first)
        inside = piece[start - at : max(last - at, 0)]
        out[start - first : start - first + len(inside)] = table[inside]
        at += len(piece)
    return out
