"""Whether a run is a finished one of a recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffcli import recipe as recipes
from diffcli.engine.assemble import fitted
from diffcli.engine.load import load
from diffcli.engine.resume import HARMLESS, MOVED, ROUNDING, unlike
from diffcli.engine.rundir import Found, find, recognize, runs_in
from diffcli.errors import DiffcliError, RunError, show
from diffcli.options import table
from diffcli.parts import Tables
from diffcli.recipe import Recipe
from diffcli.registry import registry

FREE = HARMLESS | ROUNDING | MOVED | {"seed", "log_every"}  # in these a run may differ from the recipe


def encoding(recipe: Recipe) -> Recipe | None:
    """The recipe of the autoencoder that is trained first, or None where a run is given or none is needed.

    It is the shipped recipe, or the .toml file, that [train] autoencoder names; or, where nothing is said, the method that
    a latent method names, with its defaults, on the same data and from the same seed.
    """
    named, spec = recipe.train.autoencoder, recipe.spec
    if named is None:
        if not spec.autoencoder:
            return None
        first = registry().get("method", spec.autoencoder)
        train = {"seed": recipe.train.seed, "device": recipe.train.device}
        return recipes.resolve({"method": {"name": first.name}, "dataset": recipe.tables()["dataset"], "train": train})
    if named.endswith(".toml") or (named in recipes.shipped() and not Path(named).is_dir()):
        tables = recipes.read(recipes.locate(named))
        return recipes.resolve(recipes.overlay(tables, {"train": {"device": recipe.train.device}}))
    return None


def finished(recipe: Recipe, runs: Path = Path("runs")) -> Iterator[Found]:
    """The finished runs of this very recipe, seed and files below `runs`, the newest first."""
    wanted = settled(recipe.tables())
    for path in sorted(runs_in(runs / recipe.method.name), reverse=True):
        try:
            found = recognize(path)
            if found is not None and settled(found.tables or {}) == wanted:
                same(recipe, found)
                yield found
        except DiffcliError:
            continue


def settled(tables: Tables) -> tuple[Any, ...]:
    """The seed, and where the data lie."""
    data = tables.get("dataset", {})
    places = [None if key not in data else Path(str(data[key])).resolve() for key in sorted(MOVED)]
    return (tables.get("train", {}).get("seed"), *places)


def same(recipe: Recipe, found: Found) -> float:
    """Seconds that a run of the recipe took to train. Raises RunError where it is none, or is not finished."""
    if found.kind != "run" or found.tables is None:
        raise RunError(f"{show(found.path)} is no run folder; a claim is held against a whole run")
    try:
        summary = json.loads((found.run / "summary.json").read_text(encoding="utf-8"))
        steps, seconds = int(summary["steps"]), float(summary["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(
            f"{show(found.path)} has no summary, so it has not finished; go on with diffcli train --resume {show(found.path)}"
        ) from None
    if found.step != steps:
        raise RunError(
            f"{show(found.path)} is at step {found.step} of {steps}; go on with diffcli train --resume {show(found.path)}"
        )
    mine, theirs = recipe.tables(), recipes.resolve(found.tables).tables()  # what it leaves out is as it always was
    if first := encoding(recipe):
        place = str(theirs.get("train", {}).get("autoencoder"))
        same(first, find(place))
        mine["train"]["autoencoder"] = place
    network = mine.pop("model", {})
    refuse_unlike({**mine, "model": {}}, {**theirs, "model": {}}, found)
    if network:  # only now is it sure that the network fits these data
        part = fitted(recipe.parts["model"], load(found.path).space)
        network = {"name": part.name, **table(part.config)}
    refuse_unlike({"model": network}, {"model": theirs.get("model", {})}, found)
    return seconds


def refuse_unlike(mine: Tables, theirs: Tables, found: Found) -> None:
    """RunError with the first setting that differs."""
    for section, name in unlike(mine, theirs, FREE):
        raise RunError(
            f"{show(found.path)} is no run of this recipe: [{section}] {name} was {show(theirs.get(section, {}).get(name), 80)}, "
            f"and the recipe says {show(mine.get(section, {}).get(name), 80)}"
        )
