"""diffcli data [list|check NAME]: the data sets, and whether one can be read here."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from diffcli import options
from diffcli.cli import output
from diffcli.cli.flags import HELP, Debug, Given, Json, Section, command
from diffcli.cli.group import Lazy, group
from diffcli.registry import registry


def listing(json: bool) -> None:
    """Names and summaries."""
    specs = registry().specs("dataset")
    if specs:
        output.rows(("NAME", "SUMMARY"), ((name, spec.summary) for name, spec in specs.items()))
    else:
        output.result("no data set is installed")
    output.last({"datasets": list(specs)}, json)


def data(ctx: typer.Context, json: Json = False, debug: Debug = False) -> None:
    """List the data sets, and check that one can be read here."""
    if ctx.invoked_subcommand is None:
        listing(json)


def list_(json: Json = False, debug: Debug = False) -> None:
    """List the data sets."""
    listing(json)


class Check(Lazy):
    """diffcli data check."""

    kind = "dataset"
    missing = "needs a data set; there are"

    @classmethod
    def build(cls, text: str, args: list[str]) -> TyperCommand:
        spec = registry().get("dataset", text)

        def run(given: Given, *, json: bool, **_: Any) -> None:
            check(spec.name, options.structure(spec.config, given.get("dataset", {}), "[dataset]"), json)

        return command(text, spec.summary, [Section("dataset", spec.config, f"Data set: {text}")], run)


def check(name: str, config: Any, json: bool) -> None:
    """Open both splits and read the first items."""
    spec = registry().get("dataset", name)
    target = spec.load()
    import torch

    from diffcli.engine.assemble import Facts

    found = []
    for split in ("train", "test"):
        dataset = target(config, split)
        facts = Facts.of(dataset)
        index = torch.arange(min(16, len(dataset)))
        dataset.batch(dataset.items(0, index), index, facts.space(spec.family))
        row = {"split": facts.split, "images": len(dataset), "shape": list(facts.shape), "classes": facts.classes}
        found.append({**row, "characters": len(facts.alphabet)} if facts.alphabet else row)
    output.rows([key.upper() for key in found[0]], ([output.cell(value) for value in row.values()] for row in found))
    output.last({"dataset": name, "splits": found}, json)


def build() -> Any:
    """The command."""
    app = typer.Typer(name="data", add_completion=False, rich_markup_mode="rich", context_settings=HELP)
    app.callback(invoke_without_command=True)(data)
    app.command("list", context_settings=HELP)(list_)
    made: Any = typer.main.get_command(app)
    made.add_command(group("check", Check, "Check that a data set can be read here.", "NAME [FLAGS]"))
    return made
