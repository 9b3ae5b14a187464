"""diffcli bench [samplers]: what each sampler costs and how exact it is, without training anything."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from diffcli.cli import output
from diffcli.cli.flags import HELP, Debug, Json, complete
from diffcli.errors import UsageError
from diffcli.registry import registry

Names = Annotated[
    str | None,
    typer.Option(
        "--samplers",
        metavar="<a,b>",
        help="Samplers to measure, with commas; unset is all that can be.",
        autocompletion=complete(lambda: registry().specs("sampler")),
    ),
]


def bench(
    what: Annotated[Literal["samplers"], typer.Argument(help="What to measure.")] = "samplers",
    samplers: Names = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure what each sampler costs and how exact it is: no training, no data, under a minute.

    A table for samplers of gaussian processes, and one for those of masked ones.
    """
    names = None if samplers is None else [registry().get("sampler", name.strip()).name for name in samplers.split(",")]
    from diffcli.engine.bench import samplers as gaussian
    from diffcli.engine.bench_masked import masked_samplers as masked

    def report(name: str) -> None:
        output.say(f"measuring {name}")

    tables: dict[str, list[dict[str, Any]]] = {"samplers": gaussian(names, report), "masked": masked(names, report)}
    found = [rows for rows in tables.values() if rows]
    if not found:
        raise UsageError(
            "none of these samplers can be measured: only those of gaussian and masked processes are; see diffcli plugins"
        )
    for k, rows in enumerate(found):
        if k:
            output.result()
        columns = [key for key in rows[0] if not key.endswith((" spacing", " saved"))]
        output.rows(columns, ([told(row, key) for key in columns] for row in rows))
    output.last(tables, json)


def told(row: dict[str, Any], key: str) -> str:
    """A cell, and beside a number of calls what is saved of them."""
    text, saved = output.cell(row.get(key)), row.get(f"{key} saved")
    return text if saved is None or abs(saved) < 0.005 else f"{text} ({-saved:+.0%})"


def build() -> Any:
    """The command."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command("bench", context_settings=HELP)(bench)
    return typer.main.get_command(app)
