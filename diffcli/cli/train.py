"""diffcli train METHOD|RECIPE.toml: train a method; every option of its parts is a flag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from diffcli import recipe as recipes
from diffcli.cli import output, several
from diffcli.cli.flags import Given, Section, command, complete, extra, peek
from diffcli.cli.group import Lazy, group
from diffcli.cli.method import (
    belongs,
    below,
    chooser,
    chosen,
    folder,
    header,
    known_run,
    method_of,
    origins,
    panel,
    tables_of,
    values,
)
from diffcli.errors import RunError, UsageError, show
from diffcli.parts import Tables, readable
from diffcli.plugin import Kind
from diffcli.registry import registry
from diffcli.sections import EvalOptions, SampleOptions, TrainOptions

PANELS: tuple[Kind, ...] = ("model", "schedule", "dataset")
CHOOSERS: tuple[Kind, ...] = (*PANELS, "sampler")


class Train(Lazy):
    """diffcli train."""

    kind = "method"
    missing = "needs a method, or a recipe file that ends in .toml; the methods are"

    @classmethod
    def implied(cls, args: list[str]) -> str | None:
        """A recipe or a run names its method."""
        if (recipe := peek(args, "--recipe")) is not None:
            return method_of(recipes.read(recipes.locate(recipe))).name
        resume = peek(args, "--resume")
        return None if resume in (None, "latest") else run_of(str(resume)).method

    @classmethod
    def build(cls, text: str, args: list[str]) -> TyperCommand:
        tables = start(text, args)
        spec = method_of(tables)
        base = below(tables, spec, args, CHOOSERS)

        def run(given: Given, *, json: bool, output: str | None, resume: str | None, resize: bool, **more: Any) -> None:
            if resize and resume is None:
                raise UsageError("--resize is of a run that is gone on with; give it with --resume")
            asked, where = recipes.overlay(chosen(args, spec, CHOOSERS), given), several.place(**more)
            readable(recipes.resolve(recipes.overlay(tables, asked)).parts)  # refused once, before there are many
            several.run(where, lambda world: train(tables, asked, output, resume, resize, json, world))

        sections = [panel("method", base), *(panel(kind, base) for kind in PANELS if kind in spec.uses)]
        sections.append(Section("train", TrainOptions, "Training", values(base.train)))
        extras = [
            *(chooser(kind, base) for kind in CHOOSERS if kind in spec.uses),
            extra("recipe", str | None, None, "Recipe to start from: a shipped one by name, or a .toml file.", metavar="<name|file>",
                  autocompletion=complete(recipes.shipped)),
            extra("resume", str | None, None, "Run to go on with; latest is the newest of the method.", metavar="<run|latest>"),
            extra("resize", bool, False, "Go on with other --devices than before: sound, but not exact to the bit."),
            extra("output", str | None, None, "Folder of the run; unset is runs/<method>/<time>.", metavar="<path>"),
            *several.extras(),
        ]  # fmt: skip
        elsewhere = {"sample": spec.sample or SampleOptions, "eval": spec.eval or EvalOptions}
        explain = belongs(spec, base, ("model", "schedule", "dataset"), elsewhere)
        return command(text, spec.summary, sections, run, extras, explain)


def start(text: str, args: list[str]) -> dict[str, dict[str, Any]]:
    """The tables below the flags: a recipe's, those of the run that is resumed, or the method's name alone."""
    recipe, resume = peek(args, "--recipe"), peek(args, "--resume")
    if text.endswith(".toml"):
        if recipe is not None:
            raise UsageError(f"two recipes are given, {show(text, 80)} and --recipe {show(recipe, 80)}; keep one")
        tables = recipes.read(text)
    else:
        if text not in registry().specs("method") and text in recipes.shipped():
            raise UsageError(
                f"{show(text, 80)} is a recipe, not a method; write diffcli train --recipe {show(text, 80)}"
            )
        name = registry().get("method", text).name
        tables = {"method": {"name": name}} if recipe is None else recipes.read(recipes.locate(recipe))
        if recipe is not None and method_of(tables).name != name:
            raise UsageError(f"--recipe {show(recipe, 80)} is for {method_of(tables).name}, not for {name}")
    if resume is None:
        return tables
    if recipe is not None or text.endswith(".toml"):
        raise UsageError("--resume goes on with the recipe of its run; leave the recipe out")
    if peek(args, "--output") is not None:
        raise UsageError("--resume goes on in the folder of its run; leave --output out")
    run = run_of(text if resume == "latest" else resume)
    if run.method != text:
        raise UsageError(f"--resume {show(resume, 80)} is a run of {run.method}, not of {text}")
    return {section: dict(table) for section, table in tables_of(run, text).items()}


def run_of(text: str) -> Any:
    """A run that must exist."""
    found = known_run(text, started=True)
    if found is None:
        raise RunError(f"there is no run of {show(text, 80)} to go on with; leave --resume out")
    return found


def train(
    tables: Tables, given: Tables, place: str | None, resume: str | None, resize: bool, json: bool, world: Any
) -> None:
    """Call the engine. world: the processes that train together."""
    recipe = recipes.resolve(recipes.overlay(tables, given))
    going_on = run_of(recipe.method.name if resume == "latest" else resume).path if resume else None
    for line in header(recipe, origins(recipe, tables, given)):
        output.say(line)
    from diffcli.engine.train import train as engine

    run: Path = engine(recipe, folder(place), resume=going_on, resize=resize, console=output.progress(), world=world)
    output.result(run)
    output.last({"run": str(run), "method": recipe.method.name}, json)


def build() -> Any:
    """The command."""
    return group("train", Train, "Train a method, from its defaults or from a recipe.", "METHOD|RECIPE.toml [FLAGS]")
