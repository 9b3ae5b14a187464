"""diffcli bench [all|samplers|train|attention]: what samplers, training steps and attention cost here, and how exact samplers are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from diffcli.cli import output
from diffcli.cli.blame import warn
from diffcli.cli.flags import HELP, Command, Debug, Json, complete
from diffcli.errors import CheckFailed, UsageError
from diffcli.plugin import Kind
from diffcli.registry import registry

Rows = Sequence[dict[str, Any]]
SAMPLER = ("sampler", "kind", "order", "measured", "nfe", "counted", "overhead_us")
TRAIN = (
    "method", "dataset", "batch", "precision", "step_ms", "images/s", "images/CPU-s", "GFLOP", "GFLOP/s", "share",
)  # fmt: skip


def several(flag: str, kind: Kind, help: str) -> Any:
    """A flag that takes names with commas."""
    return typer.Option(flag, metavar="<a,b>", help=help, autocompletion=complete(lambda: registry().specs(kind)))


Samplers = Annotated[str | None, several("--samplers", "sampler", "Samplers to measure; unset is all that can be.")]
Schedules = Annotated[
    str | None,
    several("--schedules", "schedule", "Schedules to measure them on; unset is cosine, rectified and those of others."),
]
Methods = Annotated[str | None, several("--methods", "method", "Methods whose training to measure; unset is all.")]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="<name>",
        help="Data set to train on; unset is each method's own.",
        autocompletion=complete(lambda: registry().specs("dataset")),
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", metavar="<path>", help="Folder of bench.json and the plot; unset is bench/<date and time>."
    ),
]


def bench(
    what: Annotated[Literal["all", "samplers", "train", "attention"], typer.Argument(help="What to measure.")] = "all",
    samplers: Samplers = None,
    schedules: Schedules = None,
    methods: Methods = None,
    dataset: Dataset = None,
    output_: Output = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure samplers, training steps and attention on this machine; all of it takes under three minutes.

    samplers: order, network calls, overhead, and error at 5 to 50 calls on denoisers that are known exactly. train: a step
    of each method beside what the machine can do. attention: torch's kernels beside the formula written out.
    """
    warn()
    parts = ["samplers", "train", "attention"] if what == "all" else [what]
    for flag, given, part in (
        ("--samplers", samplers, "samplers"),
        ("--schedules", schedules, "samplers"),
        ("--methods", methods, "train"),
        ("--dataset", dataset, "train"),
    ):
        if given is not None and part not in parts:
            raise UsageError(f"{flag} is of bench {part}, but {what} was asked for; leave it out")
    chosen = named("sampler", samplers), named("schedule", schedules), named("method", methods)
    refuse("samplers", "gaussian or masked", "sampler", chosen[0], ("gaussian", "masked"))
    refuse("schedules", "gaussian", "schedule", chosen[1], ("gaussian",))
    if chosen[0] and chosen[1] and all(registry().get("sampler", name).family == "masked" for name in chosen[0]):
        raise UsageError(
            f"--schedules is of gaussian samplers, but {', '.join(chosen[0])} walks on tokens, which no schedule changes; "
            "leave --schedules out"
        )
    if dataset is not None:
        registry().get("dataset", dataset)
    folder = Path(output_ or f"bench/{datetime.now().strftime('%Y%m%d-%H%M%S')}")
    from diffcli.engine.bench_report import bench as engine
    from diffcli.engine.bench_report import write
    from diffcli.engine.files import room

    room(folder, 2**20)
    found = engine(
        parts,
        lambda part: output.say(f"measuring {part}"),
        names=chosen[0],
        schedules=chosen[1],
        methods=chosen[2],
        dataset=dataset,
    )
    told(found)
    written = [str(path) for path in write(found, folder)]
    for path in written:
        output.result(path)
    output.last({**found, "files": written}, json)
    made = [row for _, _, rows in tables(found) for row in rows]
    if all("fault" in row for row in made):
        raise CheckFailed(f"nothing could be measured; what is wrong with each is in {written[0]}")


def named(kind: Kind, text: str | None) -> list[str] | None:
    """The components that are named with commas. UsageError for an unknown one."""
    return None if text is None else [registry().get(kind, name.strip()).name for name in text.split(",")]


def refuse(what: str, families: str, kind: Kind, names: list[str] | None, known: tuple[str, ...]) -> None:
    """UsageError where something named cannot be measured."""
    for name in names or ():
        family = registry().get(kind, name).family
        if family not in known:
            raise UsageError(f"{kind} {name} is {family or 'of no family'}, but only {families} {what} can be measured")


def told(found: dict[str, Any]) -> None:
    """The tables, each under its title; a column of faults where there are any."""
    for title, keys, rows in tables(found):
        output.result(title)
        faults = ["fault"] if any("fault" in row for row in rows) else []
        output.rows([*keys, *faults], ([cell(row, key) for key in [*keys, *faults]] for row in rows))
        output.result()


def tables(found: dict[str, Any]) -> Iterator[tuple[str, Sequence[str], Rows]]:
    """(title, columns, rows)."""
    if found.get("samplers"):
        yield "gaussian samplers; nfe and counted: calls of 20 steps; overhead: a step", SAMPLER, found["samplers"]
    yield from accuracy(found.get("errors", []))
    if found.get("masked"):
        whole = max(found["masked"], key=len)  # without a fault
        keys = [key for key in whole if key != "fault" and not key.endswith(" saved")]
        yield "masked samplers; tokens@steps: calls; law@steps: distance to the law", keys, found["masked"]
    if found.get("train"):
        share = f"; share of {machine(found['machine'])}" if found["machine"] else ""
        yield f"training; a second is of the CPU on a CPU{share}", TRAIN, found["train"]
    if found.get("attention"):
        rows = [{**row, **row["us"], "chosen": told_choice(row)} for row in found["attention"]]
        ways = dict.fromkeys(way for row in found["attention"] for way in row["us"])
        keys = ["dtype", "tokens", "pass", *ways, "fastest", "chosen"]
        yield "attention; microseconds a call", keys, rows


def accuracy(records: Rows) -> Iterator[tuple[str, Sequence[str], Rows]]:
    """A table for each schedule, laws and size: the least error over spacings at each number of calls, and the spacing that has it."""
    if not records:
        return
    from diffcli.engine.bench_errors import best, place

    least = best(records)
    budgets = list(dict.fromkeys(r["budget"] for r in records))
    for at in dict.fromkeys(map(place, records)):
        rows: dict[str, dict[str, Any]] = {}
        for budget in budgets:
            here = {r["sampler"]: r for r in least.values() if (*place(r), r["budget"]) == (*at, budget)}
            lowest = min((r["error"] for r in here.values() if r["solver"]), default=None)
            for name, r in here.items():
                star = " *" if r["solver"] and r["error"] == lowest else ""
                row = rows.setdefault(name, {"sampler": name if r["solver"] else f"{name} (law)"})
                row[str(budget)] = f"{r['error']:.2g} {r['spacing']}{star}"
        title = "error by network calls; {}, {} laws, {} dimensions; * least of the solvers".format(*at)
        walks = [r for r in records if "floor" in r and place(r) == at]
        title += "; (law): of which {floor:.2g} +- {floor_std:.1g} is chance".format_map(walks[0]) if walks else ""
        yield title, ["sampler", *map(str, budgets)], list(rows.values())


def machine(limits: Rows) -> str:
    """The machine's own pace, in words."""
    each = (
        f"{row['precision']} on {row['device']}: "
        + ", ".join(f"{name} {value:.0f} GFLOP/s" for name, value in row["GFLOP/s"].items())
        for row in limits
    )
    return "; ".join(each)


def told_choice(row: dict[str, Any]) -> str:
    """What nn.attention takes, and what it loses by that where it can be told."""
    return str(row["chosen"]) + ("" if row["ok"] else f" ({row['loss'] - 1:+.0%})")


def cell(row: dict[str, Any], key: str) -> str:
    """A cell; beside a number of calls what is saved of them."""
    value, saved = row.get(key), row.get(f"{key} saved")
    text = f"{value:.4g}" if isinstance(value, float) else output.cell(value)
    return text if saved is None or abs(saved) < 0.005 else f"{text} ({-saved:+.0%})"


def build() -> Any:
    """The command."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command("bench", context_settings=HELP, cls=Command)(bench)
    return typer.main.get_command(app)
