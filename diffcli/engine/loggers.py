"""Where else the numbers and pictures of a training go: the loggers that [train] loggers names. None can cost the training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from diffcli.engine.progress import Say
from diffcli.errors import DiffcliError, PluginError, UsageError, show
from diffcli.options import structure
from diffcli.registry import registry

PICTURES = (".png", ".webp", ".gif")


class Logger(Protocol):
    """What the target of a logger gives, called with its options. Each call is in the training's own time: hand over, and return.

    Making one writes and connects to nothing, but raises DiffcliError where what it needs is not installed.
    """

    def start(self, run: Path, tables: Mapping[str, Mapping[str, Any]]) -> None:
        """Once, before all else; tables: the resolved recipe. A resume starts another one for the same run."""

    def log(self, row: dict[str, Any]) -> None:
        """A line of metrics.jsonl: "step", and numbers by name. After a resume, from the step it resumes from."""

    def picture(self, step: int, path: Path) -> None:
        """A picture of the run, drawn at this step."""

    def close(self) -> None:
        """Once, at the end, also of a training that was stopped."""


class Loggers:
    """All loggers of a training. One that raises is told of once and dropped: metrics.jsonl and metrics.csv go on.

    names: with commas, "" is none. DiffcliError for one that is unknown or cannot be used here, before anything is created.
    """

    def __init__(self, names: str):
        self.kept: dict[str, Any] = {}
        self.say: Say = lambda line: None
        for name in filter(None, (part.strip() for part in names.split(","))):
            if name in self.kept:
                raise UsageError(f"--loggers names {show(name, 80)} twice; keep one")
            self.kept[name] = made(name)

    def start(self, run: Path, tables: Mapping[str, Mapping[str, Any]], say: Say) -> None:
        """Begin, or go on with, a run whose metrics are cut already; say: told of a logger that is dropped."""
        self.say = say
        self.each("start", run, tables)

    def log(self, row: Mapping[str, Any]) -> None:
        """A row of the metrics."""
        for name in list(self.kept):
            self.call(name, "log", dict(row))  # each its own, to do with as it likes

    def pictures(self, step: int, paths: Iterable[Path]) -> None:
        """Those of some files that are pictures, in the order of their names."""
        for path in sorted(path for path in paths if path.suffix in PICTURES):
            self.each("picture", step, path)

    def close(self) -> None:
        """The end; nothing is logged after it."""
        self.each("close")
        self.kept.clear()

    def each(self, what: str, *given: Any) -> None:
        for name in list(self.kept):
            self.call(name, what, *given)

    def call(self, name: str, what: str, *given: Any) -> None:
        """One call; a logger may do anything, SystemExit included, and what it prints is no result of ours."""
        try:
            with redirect_stdout(sys.stderr):
                getattr(self.kept[name], what)(*given)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            dropped = self.kept.pop(name)
            why = f"{type(error).__name__}: {show(error, 160)}"
            self.say(f"warning: logger {name} is dropped, as its {what}() failed with {why}; metrics.jsonl goes on")
            if what != "close":
                with suppress(Exception), redirect_stdout(sys.stderr):
                    dropped.close()  # what it has so far may still be kept

    def __enter__(self) -> Loggers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def made(name: str) -> Logger:
    """A logger by its name. PluginError where it cannot be made, or is none."""
    spec = registry().get("logger", name)
    build: Callable[[Any], Any] = spec.load()
    try:
        with redirect_stdout(sys.stderr):
            logger = build(structure(spec.config, {}, "[logger]"))
    except (DiffcliError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginError(
            f"logger {name} cannot be made: {type(error).__name__}: {show(error, 160)}; leave it out of --loggers"
        ) from error
    if lacks := [what for what in ("start", "log", "picture", "close") if not callable(getattr(logger, what, None))]:
        raise PluginError(f"logger {name} lacks {' and '.join(lacks)}; see docs/writing-a-plugin.md")
    return logger  # type: ignore[no-any-return]
