"""Run folders: how one is found, made, locked and written. Torch-free, so that a wrong name is refused at once."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from diffcli.engine import files, foreign, hub
from diffcli.engine.environment import environment as environment
from diffcli.engine.files import acting, dump_json, durable, parse_json, read_capped
from diffcli.engine.ledger import Ledger, Row
from diffcli.errors import EnvironmentProblem, RunError, RunInUse, UsageError, show
from diffcli.registry import registry

JSON_CAP = 8 * 2**20
METHOD = re.compile(r"[a-z0-9][a-z0-9_-]*")
STAMP = re.compile(r"(\d{8}-\d{6})(?:-(\d+))?")
STEP = re.compile(r"step-(\d{8,})")
CLOCK = "%Y%m%d-%H%M%S"


@dataclass(frozen=True)
class Found:
    """What a RUN on the command line means.

    path: the run, checkpoint or model folder; tables: its recipe, if any; step: its own, or a run's newest, if any.
    """

    path: Path
    kind: Literal["run", "checkpoint", "model"]
    method: str | None
    tables: dict[str, Any] | None
    step: int | None

    @property
    def run(self) -> Path:
        """The folder that pictures and measures of it belong to: a checkpoint's run, or the folder itself."""
        inside = self.kind == "checkpoint" and self.path.parent.name == "checkpoints"
        return self.path.parent.parent if inside else self.path


def find(text: str, runs: Path = Path("runs"), *, started: bool = False) -> Found:
    """The one resolver of RUN: a run, checkpoint or model folder, a folder of runs or of folders of runs (the newest), or a
    method (its newest run), or hub:OWNER/NAME[@REVISION] (see engine.hub).

    Newest is by time stamp, among the runs that hold a checkpoint; or, to go on with, among all that were started. Raises
    RunError where there is none.
    """
    if text.startswith(hub.PREFIX):
        return published(text)
    path = Path(text).expanduser()
    if path.is_dir():
        if found := recognize(path):
            return found
        if inside := runs_in(path) or [found.parent for found in path.glob("*/*/recipe.toml") if is_file(found)]:
            return newest(inside, f"of the {len(inside)} runs in {show(path)}", started)
    if METHOD.fullmatch(text):
        if inside := runs_in(runs / text):
            return newest(inside, f"of the {len(inside)} runs of {text}", started)
        if text in registry().specs("method"):
            raise RunError(f"no run of {text} below {show(runs)}: train one first with diffcli train {text}")
    why = (
        "holds no run, checkpoint or model" if path.is_dir() else "is no folder" if path.exists() else "does not exist"
    )
    raise RunError(f"{show(text)} {why}; give a method's name, or a run, checkpoint or model folder, or hub:OWNER/NAME")


def published(text: str) -> Found:
    """The model folder of the Hub. RunError where it holds no model."""
    path = hub.snapshot(text)
    if found := recognize(path):
        return found
    raise RunError(f"{show(text)} holds no model: diffcli reads a config.json with one file of safetensors beside it")


def recognize(path: Path) -> Found | None:
    """What a folder is by the files in it; None for any other folder."""
    if is_file(path / "recipe.toml"):
        tables: dict[str, Any] | None = recipe_tables(path / "recipe.toml")
        steps = committed(path)
        return Found(path, "run", method_of(tables), tables, steps[-1][0] if steps else None)
    if is_file(path / "manifest.json"):
        manifest = parse_json(read_capped(path / "manifest.json", JSON_CAP), str(path / "manifest.json"))
        step, meta = manifest.get("step"), manifest.get("meta")
        tables = recipe_in(meta)
        return Found(path, "checkpoint", method_of(tables), tables, step if type(step) is int else None)
    if model := hub.model_files(path):
        config = parse_json(read_capped(model.config, JSON_CAP), str(path / "config.json"))
        tables = recipe_in(foreign.described(config))
        return Found(path, "model", method_of(tables), tables, None)
    return None


def newest(inside: list[Path], where: str, started: bool) -> Found:
    """The newest run that holds a checkpoint, or the newest of all."""
    for path in sorted(inside, key=age, reverse=True):
        if (started or committed(path)) and (found := recognize(path)):
            return found
    raise RunError(f"none {where} holds a checkpoint yet; resume one with --resume, or train again")


def runs_in(folder: Path) -> list[Path]:
    """The runs right inside a folder."""
    if not folder.is_dir():
        return []
    with acting("read", folder):
        return [path for path in folder.iterdir() if is_file(path / "recipe.toml")]


def age(run: Path) -> tuple[str, int, str]:
    """The time stamp of a run, from its name or else from its recipe, for sorting."""
    if named := STAMP.fullmatch(run.name):
        return named[1], int(named[2] or 1), run.name
    return datetime.fromtimestamp((run / "recipe.toml").stat().st_mtime).strftime(CLOCK), 0, run.name


def committed(run: Path, name: str = "checkpoints") -> list[tuple[int, Path]]:
    """(step, folder) of the checkpoints of a run, lowest first: whole when they were written, not verified since."""
    folder = run / name
    if not folder.is_dir():
        return []
    with acting("read", folder):
        named = [(STEP.fullmatch(path.name), path) for path in folder.iterdir()]
        found = [(int(m[1]), path) for m, path in named if m and not path.is_symlink() and path.is_dir()]
    return sorted((step, path) for step, path in found if path.name == step_name(step))


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def recipe_tables(path: Path) -> dict[str, Any]:
    """The tables of a run's own recipe, under the rules of any recipe."""
    from diffcli.recipe import read

    try:
        return dict(read(path))
    except UsageError as error:
        raise RunError(f"the recipe of a run is damaged: {error}") from None


def recipe_in(meta: Any) -> dict[str, Any] | None:
    """The recipe that a checkpoint or a model folder carries."""
    tables = meta.get("recipe") if isinstance(meta, dict) else None
    if isinstance(tables, dict) and not all(isinstance(table, dict) for table in tables.values()):
        raise RunError(
            "the recipe that a model carries holds something else than tables; it was changed, or is damaged"
        )
    return tables if isinstance(tables, dict) else None


def method_of(tables: dict[str, Any] | None) -> str | None:
    name = (tables or {}).get("method", {}).get("name")
    return name if isinstance(name, str) else None


class RunDir:
    """One run, as its writer sees it."""

    def __init__(self, path: Path):
        self.path = path
        self.ledger = Ledger(path)
        self.append, self.rows = self.ledger.append, self.ledger.rows
        self.cut, self.sync, self.digest = self.ledger.cut, self.ledger.sync, self.ledger.digest

    @classmethod
    def create(cls, path: Path | None, method: str, *, room: int = 0, runs: Path = Path("runs")) -> RunDir:
        """A new run, by default runs/<method>/<time>; nothing is created unless `room` bytes are free.

        Raises RunError where the folder is in use for something: a run is never overwritten.
        """
        files.room(path or runs / method, room)
        if path is not None:
            if path.is_dir() and any(not p.name.startswith((".lock", ".tmp-recipe")) for p in path.iterdir()):
                raise RunError(
                    f"{show(path)} is not empty; go on with --resume {show(path)}, or choose another --output"
                )
            with acting("create", path):
                path.mkdir(parents=True, exist_ok=True)
            return cls(path)
        stamp = datetime.now().strftime(CLOCK)
        with acting("create", runs / method):
            (runs / method).mkdir(parents=True, exist_ok=True)
            for n in range(1, 1000):
                path = runs / method / (stamp if n == 1 else f"{stamp}-{n}")
                try:
                    path.mkdir()
                    return cls(path)
                except FileExistsError:
                    continue
        raise EnvironmentProblem(f"a thousand runs of {method} started at {stamp}; choose an --output")

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """A run to go on with."""
        if not is_file(path / "recipe.toml"):
            raise RunError(f"{show(path)} is no run: it has no recipe.toml; start one with --output {show(path)}")
        return cls(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer; RunInUse with the other's process id. The system frees it when a process dies, however it dies."""
        with acting("lock", self.path / ".lock"):
            fd = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
                raise RunInUse(
                    f"{show(self.path)} is in use by process {show(pid)}; wait for it, or choose another run"
                ) from None
            except OSError as error:
                raise EnvironmentProblem(
                    f"cannot lock {show(self.path)}: {error.strerror}; choose a folder on another disk"
                ) from error
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            files.sweep(self.path, self.path / "samples")
            yield
        finally:
            os.close(fd)

    def write_recipe(self, text: str) -> None:
        durable(self.path / "recipe.toml", text.encode())

    def write_env(self, facts: dict[str, Any]) -> None:
        durable(self.path / "env.json", dump_json(facts))

    def write_summary(self, facts: dict[str, Any]) -> None:
        durable(self.path / "summary.json", dump_json(facts))

    def log(self, line: str) -> None:
        """A line of log.txt, with the time."""
        with acting("write", self.path / "log.txt"), open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {show(line, 2000)}\n")


__all__ = ["Found", "Row", "RunDir", "committed", "environment", "find"]
