"""Every flag of the reference projects has its place here: a row for each row of their tables, held to the commands."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

import pytest

from diffcli import recipe as recipes
from diffcli.metrics import MEASURES, PLOTS
from diffcli.options import options
from diffcli.parts import fits
from diffcli.plugin import KINDS
from diffcli.registry import registry
from reference_rows import ROWS, SAID, Row

GROUPS = {"train": "Train", "sample": "Sample", "eval": "Eval"}
SECTIONS = {"train": ("method", "model", "schedule", "dataset", "train"), "sample": ("sampler", "sample"), "eval": ("sampler", "eval")}  # fmt: skip


def cases() -> Iterator[Any]:
    for of, rows in ROWS.items():
        for row in rows:
            yield pytest.param(row, id=f"{of}: {row.reference}")


@cache
def flags(command: str) -> frozenset[str]:
    """The flags that a command takes, as its parser knows them."""
    name, method, *args = command.split()
    made = getattr(import_module(f"diffcli.cli.{name}"), GROUPS[name]).build(method, args)
    return frozenset(flag for param in made.params for flag in (*param.opts, *param.secondary_opts))


@cache
def settled(command: str, recipe: str) -> dict[str, Any]:
    """The defaults of a command's options, of the recipe where one is named; what is unset is left out."""
    name, method, *args = command.split()
    asked = {key.lstrip("-"): value for key, value in zip(args[::2], args[1::2], strict=True)}
    chosen = {kind: {"name": value} for kind, value in asked.items() if kind in KINDS}
    own = {key: value for key, value in asked.items() if key not in KINDS}
    tables = recipes.read(recipes.named(recipe)) if recipe else {"method": {"name": method, **own}, **chosen}
    made = recipes.resolve(tables)
    assert made.method.name == method
    found = {**made.tables(), "eval": {**vars(made.evaluation({}))}}
    values = {kind: part.name for kind, part in made.parts.items()}
    for section in SECTIONS[name]:
        values |= {key: value for key, value in found.get(section, {}).items() if key != "name"}
    return values


def allowed(command: str, flag: str) -> set[str]:
    """The values that a flag takes, where they are names."""
    (_, method, *args), key = command.split(), flag.lstrip("-").replace("-", "_")
    spec = registry().get("method", method)
    if key == "plot":
        return {*PLOTS, *spec.plots}
    if key == "metric":
        return {*MEASURES, *spec.metrics}
    if key in KINDS:
        return {name for name, part in registry().specs(key).items() if fits(key, part, spec)}
    asked = {kind.lstrip("-"): {"name": name} for kind, name in zip(args[::2], args[1::2], strict=True)}
    made = recipes.resolve(
        {"method": {"name": method}, **{kind: name for kind, name in asked.items() if kind in KINDS}}
    )
    configs = [*(type(part.config) for part in made.parts.values()), type(made.train), type(made.sample)]
    return {str(choice) for config in configs if key in options(config) for choice in options(config)[key].choices}


@pytest.mark.parametrize("row", list(cases()))
def test_it_has_its_place(row: Row, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no run changes what a command takes
    assert row.flags or row.note or len(row.command.split()) == 2
    known = flags(row.command)
    missing = [flag for flag in {**row.flags, **row.takes} if flag not in known]
    assert not missing, f"diffcli {row.command} has no {', '.join(missing)}, for {row.reference}"
    for flag, names in row.takes.items():
        assert set(names) <= allowed(row.command, flag), f"diffcli {row.command} {flag} takes no {names}"


@pytest.mark.parametrize("row", [case for case in cases() if any(v is not SAID for v in case.values[0].flags.values())])
def test_it_has_the_default_that_is_stated(row: Row) -> None:
    values = settled(row.command, row.recipe)
    for flag, default in row.flags.items():
        if default is not SAID:
            found = values.get(flag.removeprefix("--").replace("-", "_"))
            assert (list(found) if isinstance(found, tuple) else found) == default, (flag, row.recipe or row.command)
