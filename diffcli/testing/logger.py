"""The laws of a logger: it takes what a training gives, and leaves the run as it is. What it connects to, the check does too."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from copy import deepcopy
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from diffcli import recipe as recipes
from diffcli.engine.loggers import made
from diffcli.testing.suite import Suite, need

TABLES = {"method": {"name": "rf"}, "train": {"steps": 4, "lr": 1e-3, "budget": None}, "eval": {"scales": [0.0, 1.0]}}
ROWS: tuple[dict[str, Any], ...] = (  # columns come and go, as in metrics.jsonl
    {"step": 0, "entropy": 0.5},
    {"step": 2, "images": 8, "loss": 0.25, "lr": 1e-3},
    {"step": 4, "images": 16, "loss": 0.125, "held_out": 0.5, "lr": 0.0},
)
CALLS: dict[str, tuple[Any, ...]] = {
    "start": (Path("run"), TABLES),
    "log": (ROWS[0],),
    "picture": (2, Path("step-00000002.png")),
    "close": (),
}


@contextmanager
def run_folder(rows: int) -> Iterator[Path]:
    """A run whose metrics hold so many rows, with a picture."""
    with tempfile.TemporaryDirectory(prefix="diffcli-check-") as folder:
        run = Path(folder)
        (run / "recipe.toml").write_text(recipes.dumps(recipes.resolve({"method": {"name": "rf"}})), encoding="utf-8")
        text = "".join(json.dumps(row) + "\n" for row in ROWS[:rows])
        (run / "metrics.jsonl").write_text(text, encoding="utf-8")
        (run / "samples").mkdir()
        Image.linear_gradient("L").resize((8, 8)).save(picture(run))
        yield run


def picture(run: Path) -> Path:
    return run / "samples" / "step-00000002.png"


def files(run: Path) -> dict[str, bytes]:
    """What a run holds: path -> bytes."""
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


class LoggerSuite(Suite):
    """The laws of a logger. It is really called: let one that connects to a service do so offline while it is checked."""

    kind: ClassVar[str] = "logger"

    @classmethod
    def make(cls) -> Any:
        return made(cls.name)

    def logged(self, run: Path, rows: tuple[dict[str, Any], ...]) -> tuple[Any, ...]:
        """A training, or a part of one; what the logger was given, as it is then."""
        logger, tables, given = made(self.name), deepcopy(TABLES), deepcopy(rows)
        logger.start(run, tables)
        for row in given:
            logger.log(row)
        logger.picture(2, picture(run))
        logger.close()
        return tables, given

    def test_it_is_called_as_a_training_calls_it(self) -> None:
        """start(run, tables), log(row), picture(step, path) and close() can be called so."""
        for name, given in CALLS.items():
            call = signature(getattr(self.made, name))
            try:
                call.bind(*given)
            except TypeError as error:
                raise AssertionError(f"{name}{call} cannot be called with {len(given)}: {error}") from error

    def test_making_it_leaves_nothing(self) -> None:
        """Making it writes nothing: that is for start, when the run is there."""
        if self.made:
            with tempfile.TemporaryDirectory(prefix="diffcli-check-") as folder, chdir(folder):
                made(self.name)
                left = sorted(path.name for path in Path().iterdir())
            need(not left, f"it leaves {', '.join(left)}")

    def test_it_takes_a_run(self) -> None:
        """It takes the rows and pictures of a training from its start to its end."""
        if self.made:
            with run_folder(0) as run:
                self.logged(run, ROWS)

    def test_it_goes_on_with_a_run(self) -> None:
        """Another one takes the rest of the same run, as after a resume, and rows that were logged before."""
        if self.made:
            with run_folder(2) as run:
                self.logged(run, ROWS)
                self.logged(run, ROWS[2:])

    def test_it_leaves_the_run_as_it_is(self) -> None:
        """What it is given stays as it is: the rows, the recipe, and every file of the run."""
        if self.made:
            with run_folder(2) as run:
                before, given, after = files(run), self.logged(run, ROWS), files(run)
                changed = [name for name, data in before.items() if after.get(name) != data]
                need(not changed, f"it changes {', '.join(changed)} of the run; write to files of its own")
                need(given == (TABLES, ROWS), "it changes the rows or the recipe that it is given; copy them")
