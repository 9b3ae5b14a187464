"""diffcli repro RECIPE [RUN]: hold a recipe to the number it claims."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffcli import recipe as recipes
from diffcli.cli import output
from diffcli.cli.blame import warn
from diffcli.cli.flags import HELP, Command, Debug, Json, complete
from diffcli.cli.method import folder, known_run, tables_of
from diffcli.errors import CheckFailed, UsageError, show
from diffcli.parts import Tables
from diffcli.registry import registry
from diffcli.sections import Device

if TYPE_CHECKING:
    from diffcli.engine.repro import Verdict

What = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE|RUN",
        help="A shipped recipe, a .toml file, or a run, which carries its recipe.",
        autocompletion=complete(recipes.shipped),
    ),
]
Run = Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run of the recipe, in place of training it.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Training seed; unset is the recipe's own.", show_default=False)]
Output = Annotated[
    str | None,
    typer.Option(metavar="<path>", help="Folder of the run; unset is runs/<method>/<time>.", show_default=False),
]
On = Annotated[Device, typer.Option(help="Where to compute; auto takes CUDA, then MPS, then the CPU.")]


def repro(
    recipe: What,
    run: Run = None,
    seed: Seed = None,
    output: Output = None,
    device: On = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a recipe, or take a run of it, measure what it claims, and say whether the claim holds; exit 1 if not."""
    warn()
    tables, run = start(recipe, run)
    if run is not None:
        for flag, given in (("--seed", seed), ("--output", output)):
            if given is not None:
                raise UsageError(f"{flag} is of training, but the run {show(run, 80)} is given; leave one of them out")
    over = {"device": device} | ({} if seed is None else {"seed": seed})
    made = recipes.resolve(recipes.overlay(tables, {"train": over}))
    if made.claim is None:
        raise UsageError(f"{show(recipe, 80)} claims no number; these recipes do: {', '.join(claiming())}")
    if run is not None:
        known_run(run)
    held(made, run, output, device, json)


def start(text: str, run: str | None) -> tuple[Tables, str | None]:
    """(tables, run): of a recipe, with the run beside it; or of a run, which is then that run."""
    if text in recipes.shipped() or text.endswith(".toml"):
        return recipes.read(recipes.locate(text)), run
    if run is not None and os.path.lexists(text):
        raise UsageError(f"{show(text, 80)} is no recipe; a run stands alone, or behind the recipe it is held to")
    if run is not None or not (text in registry().specs("method") or os.path.lexists(text)):
        recipes.named(text)  # says which name is near
    found = known_run(text)
    if found is None:
        raise UsageError(f"there is no run of {show(text, 80)}; give a recipe, one of: {', '.join(claiming())}")
    return tables_of(found, text), str(found.path)


def claiming() -> list[str]:
    """The shipped recipes that claim a number."""
    return [name for name, path in recipes.shipped().items() if "claim" in recipes.read(path)]


def held(recipe: recipes.Recipe, run: str | None, place: str | None, device: str, json: bool) -> None:
    """Call the engine, and tell its verdict."""
    from diffcli.engine.repro import repro as engine

    verdict = engine(recipe, run, output=folder(place), device=device, console=output.progress())
    output.rows(("WHAT", "IS"), told(verdict))
    output.result(verdict.run)
    output.last(verdict.plain(), json)
    if not verdict.holds:
        raise CheckFailed(
            f"{verdict.claim.metric} of {show(verdict.run)} is {verdict.record['value']:.5g}, but {verdict.claim.value:g} +- "
            f"{verdict.claim.tolerance:g} is claimed; see repro.json there for all that gave it"
        )


def told(verdict: Verdict) -> list[tuple[str, Any]]:
    """The verdict as lines."""
    claim, record = verdict.claim, verdict.record
    error = f" (standard error {record['standard_error']:.2g})" if "standard_error" in record else ""
    seeds = f", over {len(claim.seeds)} training seeds" if claim.seeds else ""
    side = "above" if verdict.off > 0 else "below"
    return [
        ("metric", f"{claim.metric} {record.get('unit', '')}".rstrip()),
        ("claimed", f"{claim.value:g}{seeds}"),
        ("tolerance", f"{claim.tolerance:g}"),
        ("measured", f"{record['value']:.5g}{error}, training seed {verdict.seed}"),
        ("verdict", "reproduced" if verdict.holds else f"not reproduced: {abs(verdict.off):.3g} {side} the claim"),
        ("cost", f"trained in {verdict.trained:.0f} s, measured in {verdict.measuring:.0f} s"),
        ("claimed on", claim.hardware),
        ("protocol", claim.protocol),
    ]


def build() -> Any:
    """The command."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command("repro", context_settings=HELP, cls=Command)(repro)
    return typer.main.get_command(app)
