"""diffcli recipes [list|show NAME|cp NAME [DEST]]: the recipes that come with diffcli."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diffcli import recipe
from diffcli.cli import output
from diffcli.cli.flags import HELP, Command, Debug, Group, Json, complete
from diffcli.errors import UsageError, show

Name = Annotated[str, typer.Argument(help="A shipped recipe.", autocompletion=complete(recipe.shipped))]


def headline(path: Path) -> str:
    """The first line of a recipe: what it reaches, and on what machine."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def listing(json: bool) -> None:
    """Names, and what each reaches."""
    known = {name: headline(path) for name, path in recipe.shipped().items()}
    if known:
        output.rows(("NAME", "REACHES"), known.items())
    else:
        output.result("no recipe is shipped")
    output.last({"recipes": known}, json)


def recipes(ctx: typer.Context, json: Json = False, debug: Debug = False) -> None:
    """List, show and copy the recipes that come with diffcli."""
    if ctx.invoked_subcommand is None:
        listing(json)


def list_(json: Json = False, debug: Debug = False) -> None:
    """List the recipes and what they reach."""
    listing(json)


def show_(name: Name, json: Json = False, debug: Debug = False) -> None:
    """Print a recipe."""
    path = recipe.named(name)
    output.result(path.read_text(encoding="utf-8").rstrip("\n"))
    output.last({"recipe": name, "tables": recipe.read(path)}, json)


def cp(
    name: Name,
    dest: Annotated[
        str | None, typer.Argument(help="File or folder; unset is NAME.toml here.", show_default=False)
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Copy a recipe, to change it."""
    path = recipe.named(name)
    target = Path(dest) if dest is not None else Path(path.name)
    target = target / path.name if target.is_dir() else target
    try:
        with open(target, "x", encoding="utf-8") as file:
            file.write(path.read_text(encoding="utf-8"))
    except FileExistsError:
        raise UsageError(f"{show(target)} exists already; choose another name") from None
    output.result(target)
    output.last({"recipe": str(target)}, json)


def build() -> Any:
    """The command."""
    app = typer.Typer(name="recipes", add_completion=False, rich_markup_mode="rich", context_settings=HELP, cls=Group)
    app.callback(invoke_without_command=True)(recipes)
    app.command("list", context_settings=HELP, cls=Command)(list_)
    app.command("show", context_settings=HELP, cls=Command)(show_)
    app.command("cp", context_settings=HELP, cls=Command)(cp)
    return typer.main.get_command(app)
