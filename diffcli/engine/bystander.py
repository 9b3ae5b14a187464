"""A run as the processes see it that do not write it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffcli.engine.ledger import Row


class Bystander:
    """In place of a RunDir: knows where the run is; what it is told to write, the first process writes."""

    def __init__(self, path: Path):
        self.path = path

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def rows(self) -> list[Row]:
        return []

    def silent(self, *_: Any) -> None:
        """Nothing."""

    write_recipe = write_env = write_summary = log = append = cut = sync = digest = silent
