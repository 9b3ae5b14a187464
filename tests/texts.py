"""Small texts, as files in the working folder and as data sets."""

from __future__ import annotations

from pathlib import Path

from diffcli.core.space import Text
from diffcli.engine.assemble import Facts
from diffcli_vision import TextOptions
from diffcli_vision.text import Texts, text

WORDS = "the quick brown fox jumps over the lazy dog\n"
THIRDS = (0.5, 0.25, 0.25)


def write(content: str | bytes, name: str = "a.txt") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def opened(content: str | bytes, split: str = "train", *, length: int = 8, splits=THIRDS) -> Texts:
    return text(TextOptions(path=write(content), length=length, splits=splits), split)


def space_of(data: Texts) -> Text:
    space = Facts.of(data).space("masked")
    assert isinstance(space, Text)
    return space


def said(data: Texts) -> str:
    """All characters of a split."""
    return space_of(data).write(data.numbers[None])[0]
