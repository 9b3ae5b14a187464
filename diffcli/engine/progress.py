"""What the user sees while work goes on: a bar with ETA on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Say = Callable[[str], None]
PLAIN_EVERY = 10.0  # seconds between two plain lines


class Bar:
    """Progress of `total` steps; `say` also keeps each plain line in the log of the run."""

    def __init__(self, what: str, total: int, console: Console, log: Say | None = None, done: int = 0):
        self.what, self.total, self.console, self.log = what, total, console, log
        self.first = self.shown = time.monotonic()
        self.start = done
        self.text = ""
        self.bar: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self.bar = Progress(
                *columns, TextColumn("{task.fields[text]}", markup=False), console=console, transient=True
            )
            self.task = self.bar.add_task(what, total=total, completed=done, text="")

    def __enter__(self) -> Bar:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, done: int, text: str | None = None) -> None:
        """`done` steps are behind us; text: what is worth seeing beside the bar, None leaves what is there."""
        self.text = text = self.text if text is None else text
        if self.bar:
            self.bar.update(self.task, completed=done, text=text)
        now = time.monotonic()
        if now - self.shown < PLAIN_EVERY and done < self.total:
            return
        self.shown = now
        line, seconds = f"{self.what} {done}/{self.total}", now - self.first
        if done < self.total:
            left = seconds / max(1, done - self.start) * (self.total - done)
            line = "  ".join(part for part in (line, text, f"{left:.0f} s to go") if part)
        else:
            line = f"{line} in {seconds:.1f} s  {text}".rstrip()
        if not self.bar:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        if self.log:
            self.log(line)
