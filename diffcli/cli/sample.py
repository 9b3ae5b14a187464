"""diffcli sample RUN: draw images or texts from a trained model with any sampler that fits."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from diffcli import recipe as recipes
from diffcli.cli import output, reconstructed, several
from diffcli.cli.flags import Given, Section, command, extra
from diffcli.cli.group import Lazy, group
from diffcli.cli.method import belongs, below, chooser, chosen, folder, known_run, method_of, panel, tables_of, values
from diffcli.parts import Tables
from diffcli.plugin import Kind
from diffcli.sections import TrainOptions

CHOOSERS: tuple[Kind, ...] = ("sampler",)
PLACE = "New folder of what is drawn; unset is one below the run. Above 1000 images have no files of their own, above 1024 the grid is of 64."


class Sample(Lazy):
    """diffcli sample."""

    kind = "method"
    missing = "needs a run: a method, whose newest run is taken, a folder, or hub:OWNER/NAME; the methods are"

    @classmethod
    def build(cls, text: str, args: list[str]) -> TyperCommand:
        tables = tables_of(known_run(text), text)
        spec = method_of(tables)
        base = below(tables, spec, args, CHOOSERS)

        def run(given: Given, *, json: bool, output: str | None, show: bool, explain: bool, **more: Any) -> None:
            asked = recipes.overlay(chosen(args, spec, CHOOSERS), given)
            work = lambda world: sample(text, tables, asked, output, show, explain, json, world)
            several.run(several.place(**more), work)

        sections = [panel("sampler", base)] if "sampler" in spec.uses else []
        sections.append(Section("sample", type(base.sample), "Sampling", values(base.sample)))
        extras = [
            *(chooser(kind, base) for kind in CHOOSERS if kind in spec.uses),
            extra("output", str | None, None, PLACE, metavar="<path>"),
            extra("show", bool, False, "Draw the grid, or write the first texts, in the terminal."),
            extra("explain", bool, False, "Print the formulas and the steps of the walk, and draw nothing."),
            *several.extras(),
        ]
        help = f"Draw from {text}: {spec.summary}"
        return command(text, help, sections, run, extras, belongs(spec, base, CHOOSERS, {"train": TrainOptions}))


def sample(
    text: str, tables: Tables, given: Tables, place: str | None, show: bool, explain: bool, json: bool, world: Any
) -> None:
    """Call the engine. world: the processes that draw together."""
    from diffcli.engine.rundir import find

    run = find(text)
    recipe = recipes.resolve(recipes.overlay(tables, given))
    recipes.refuse_count(recipe, given.get("sample", {}).get("samples"))
    if explain:
        from diffcli.engine.explain import explain as engine

        facts = engine(run.path, recipe)
        told(facts)
        output.last(facts, json)
        return
    from diffcli.engine.draw import draw

    pictures, profile = draw(
        run.path, recipe, output=folder(place), show_them=show, console=output.progress(), world=world
    )
    reconstructed.told(profile.pop("table", []), profile.get("mean", {}))
    output.result(pictures)
    output.last({"folder": str(pictures), "run": str(run.path), **profile}, json)


def told(facts: dict[str, Any]) -> None:
    """What --explain knows, the grid last."""
    steps = facts.get("grid", [])
    output.rows(("WHAT", "IS"), ([key, words(value)] for key, value in facts.items() if key != "grid"))
    if steps:
        output.result()
        output.rows(list(steps[0]), ([output.cell(value) for value in step.values()] for step in steps))


def words(value: Any) -> str:
    """A value, or options as they would be typed."""
    if isinstance(value, dict):
        return " ".join(f"{key}={output.cell(one)}" for key, one in value.items()) or "none"
    return output.cell(value)


def build() -> Any:
    """The command."""
    return group("sample", Sample, "Draw images or texts from a trained model.", "RUN [FLAGS]")
