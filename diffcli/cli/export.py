"""diffcli export RUN DIR: a run as a model folder that can be handed to others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diffcli.cli import output
from diffcli.cli.flags import HELP, Command, Debug, Json
from diffcli.cli.method import known_run
from diffcli.engine.rundir import find


def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A method, whose newest run is taken, a folder, or hub:OWNER/NAME.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new model folder.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="The trained weights, not their average.", show_default=False)
    ] = False,
    ema_width: Annotated[
        float | None,
        typer.Option(
            help="Another average, of this standard deviation as a share of the training: 0.15; of a run with "
            "--ema-snapshots.",
            show_default=False,
        ),
    ] = None,
    autoencoder: Annotated[
        str | None, typer.Option(help="Where the autoencoder of a latent model lies now.", show_default=False)
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a run as a model folder: config.json and model.safetensors, and those of the autoencoder it lives in."""
    known_run(run) or find(run)  # a wrong name is refused before torch is imported
    from diffcli.engine.export import export as engine

    made = engine(run, folder, raw=raw, ema_width=ema_width, autoencoder=autoencoder, say=output.say)
    output.result(made)
    output.last({"model": str(made)}, json)


def build() -> Any:
    """The command."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command("export", context_settings=HELP, cls=Command)(export)
    return typer.main.get_command(app)
