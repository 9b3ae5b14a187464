"""Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcli.errors import show

if TYPE_CHECKING:
    from rich.console import Console


def progress() -> Console:
    """Where progress and log go. Markup is off: paths and names are only text."""
    from rich.console import Console

    return Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


def say(line: object) -> None:
    """A line of progress."""
    print(show(line, 2000), file=sys.stderr, flush=True)


def result(line: object = "") -> None:
    """A line of results. A path goes into a pipe as it is, for the command behind it, but harmless into a terminal."""
    print(show(line, sys.maxsize) if isinstance(line, Path) and sys.stdout.isatty() else line)


def last(values: dict[str, Any], wanted: bool) -> None:
    """The machine-readable last line, where --json asks for it."""
    if wanted:
        print(json.dumps(values, default=str), flush=True)


def rows(head: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """A table in aligned columns, the last one as long as it likes."""
    cells = [list(head), *([show(cell, 200) for cell in line] for line in lines)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(head))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def cell(value: Any) -> str:
    """A value of a table."""
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
