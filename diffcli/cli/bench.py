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
    """Measure what each sampler costs and how exact it is: no training, no data, under a minute."""
    names = None if samplers is None else [registry().get("sampler", name.strip()).name for name in samplers.split(",")]
    from diffcli.engine.bench import samplers as measure

    rows: list[dict[str, Any]] = measure(names, lambda name: output.say(f"measuring {name}"))
    if not rows:
        raise UsageError(
            "none of these samplers can be measured: only those of gaussian processes are; see diffcli plugins"
        )
    columns = [key for key in rows[0] if not key.endswith(" spacing")]
    output.rows(columns, ([output.cell(row.get(key)) for key in columns] for row in rows))
    output.last({"samplers": rows}, json)


def build() -> Any:
    """The command."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command("bench", context_settings=HELP)(bench)
    return typer.main.get_command(app)
