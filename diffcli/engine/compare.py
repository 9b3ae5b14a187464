"""Several runs side by side: one table and one plot of their records, where the records are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from diffcli.engine.charts import chart
from diffcli.engine.draw import fresh, vacant
from diffcli.engine.evaluate import measured as measure
from diffcli.engine.evaluate import opened
from diffcli.engine.files import acting, dump_json, durable, room
from diffcli.engine.measures import objective
from diffcli.engine.ranks import ALONE, World
from diffcli.engine.records import Record, Unkept, comparable
from diffcli.engine.rundir import CLOCK, STAMP
from diffcli.errors import UsageError, show
from diffcli.recipe import Recipe
from diffcli.sections import EvalOptions

CURES = {
    "objective": "losses of different objectives are different functions; leave loss out of --metric",
    "n": "give them the same --samples",
    "images": "give them the same --images",
    "label": "ask both for the same classes with --label",
    "shape": "give runs of one data set in one size",
    "reference_sha256": "the held-out images differ; give runs of one data set",
}


@dataclass(frozen=True)
class Comparison:
    """Runs under their labels, the records of each, and the files that were written."""

    labels: list[str]
    measured: list[list[Record]]
    files: list[Path]

    @property
    def records(self) -> list[Record]:
        """Of all runs."""
        return [record for records in self.measured for record in records]

    def by_metric(self) -> dict[str, list[Record | None]]:
        """For each metric the record of each run, None where a run has none."""
        names = dict.fromkeys(record["metric"] for record in self.records)
        return {
            name: [next((r for r in records if r["metric"] == name), None) for records in self.measured]
            for name in names
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(head, lines): a line a metric, a column a run; what real images have stands before them."""
        lines = []
        for name, records in self.by_metric().items():
            first = next(record for record in records if record is not None)
            real, n = beside(first), first.get("n", first.get("images"))
            about = [name, "" if n is None else str(n), "" if real is None else f"{real:.4g}"]
            lines.append([*about, *("" if record is None else told(record) for record in records)])
        costs = [next((f"{r['nfe']:g}" for r in records if "nfe" in r), "") for records in self.measured]
        lines.append(["nfe", "", "", *costs])
        return ["metric", "n", "real", *self.labels], lines


def beside(record: Record) -> float | None:
    """What real images have in place of samples: the floor of a distance, the share that a judge gets right."""
    value = record.get("floor", record.get("real"))
    return None if value is None else float(value)


def told(record: Record) -> str:
    """A value and its error."""
    error = record.get("standard_error")
    return f"{record['value']:.4g}" + ("" if error is None else f" ± {error:.1g}")


def compare(
    runs: Sequence[Path],
    recipes: Sequence[Recipe],
    options: Sequence[EvalOptions],
    folder: Path | None = None,
    console: Console | None = None,
    world: World = ALONE,
) -> Comparison:
    """Measure runs and write table.json, compare.png and compare.pdf to a new or empty folder, by default compare/<time>.

    Where auto measures several objectives, the loss is left out. UsageError names the first two records that are unlike;
    those that were measured by then are kept in their runs. Unkept, which carries the comparison, where they could not be.
    """
    room(folder or Path("compare"), 0)
    if folder is not None:
        vacant(folder)
    names, console = labels(runs), console or Console(stderr=True)
    refuse_other_data(names, [{"dataset": recipe.parts["dataset"].name} for recipe in recipes])
    benches = [opened(*one, world) for one in zip(runs, recipes, options, strict=True)]
    refuse_other_data(names, [{"shape": b.model.facts.shape, "split": b.test.split} for _, b in benches])
    several = len({objective(bench.model) for _, bench in benches}) > 1
    without = {"loss": "losses of different objectives are different functions"} if several else {}
    measured: list[list[Record]] = []
    unkept: Unkept | None = None
    for run in runs:
        try:
            records = measure(*benches.pop(0), console, without)
        except Unkept as error:
            records, unkept = error.result, error
        measured.append([{"run": str(run), **record} for record in records])
        for name, before in zip(names, measured[:-1], strict=False):
            refuse_unlike(before, measured[-1], name, names[len(measured) - 1])
    if not world.first:
        return Comparison(names, measured, [])
    if folder is None:
        folder = fresh(Path("compare"), f"{datetime.now():{CLOCK}}")
    with acting("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
    made = Comparison(names, measured, [folder / "table.json"])
    about = [{"label": name, "run": str(run)} for name, run in zip(names, runs, strict=True)]
    durable(made.files[0], dump_json({"runs": about, "records": made.by_metric()}))
    made.files.extend(chart(names, made.by_metric(), folder / "compare"))
    if unkept is not None:
        raise Unkept(unkept, made)
    return made


def refuse_other_data(names: Sequence[str], data: Sequence[Mapping[str, Any]]) -> None:
    """UsageError before anything is measured where what is known of the data of two runs differs."""
    for name, one in zip(names, data, strict=True):
        for field, first in data[0].items():
            if one[field] != first:
                values = [show(plain(value), 120) for value in (first, one[field])]
                raise UsageError(
                    f"numbers of {names[0]} and {name} cannot be compared: {field} is {values[0]} and {values[1]}; "
                    f"{CURES.get(field, 'give runs of one data set')}"
                )


def refuse_unlike(before: Sequence[Record], now: Sequence[Record], a: str, b: str) -> None:
    """UsageError where two runs have records of one metric that cannot be compared; a, b: their labels."""
    known = {record["metric"]: record for record in before}
    for record in now:
        other = known.get(record["metric"])
        if other is not None and (field := comparable(other, record)):
            values = [show(plain(one.get(field)), 120) for one in (other, record)]
            raise UsageError(
                f"{record['metric']} of {a} and {b} cannot be compared: {field} is {values[0]} and {values[1]}; "
                f"{CURES.get(field, 'measure them alike')}"
            )


def plain(value: Any) -> str:
    """A field of a record in words."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "none" if value in (None, "") else str(value)


def labels(runs: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart; a time stamp alone says too little."""
    parts = [run.resolve().parts for run in runs]
    most = max(map(len, parts))
    length = 2 if any(STAMP.fullmatch(run.name) for run in runs) else 1
    while length < most and len({part[-length:] for part in parts}) < len(set(parts)):
        length += 1
    return ["/".join(part[-length:]) for part in parts]
