"""Whether a run is a finished one of a recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from diffcli import recipe as recipes
from diffcli.engine.assemble import fitted
from diffcli.engine.load import load
from diffcli.engine.resume import HARMLESS, MOVED, unlike
from diffcli.engine.rundir import Found, find, recognize, runs_in
from diffcli.errors import RunError, show
from diffcli.recipe import Recipe
from diffcli.registry import registry

FREE = HARMLESS | MOVED | {"seed", "log_every"}  # in these a run may differ from the recipe


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
        return recipes.resolve(recipes.read(recipes.locate(named)))
    return None


def finished(recipe: Recipe, runs: Path = Path("runs")) -> Iterator[Found]:
    """The finished runs of this very recipe and seed below `runs`, the newest first."""
    for path in sorted(runs_in(runs / recipe.method.name), reverse=True):
        try:
            found = recognize(path)
            if found is None or (found.tables or {}).get("train", {}).get("seed") != recipe.train.seed:
                continue
            same(recipe, found)
            yield found
        except RunError:
            continue


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
    if "model" in recipe.parts:
        model = load(found.path)
        recipe = recipe.replace_part("model", fitted(recipe.parts["model"], model.space).config)
    mine, theirs = recipe.tables(), found.tables
    if first := encoding(recipe):
        place = str(theirs.get("train", {}).get("autoencoder"))
        same(first, find(place))
        mine["train"]["autoencoder"] = place
    for section, name in unlike(mine, theirs, FREE):
        raise RunError(
            f"{show(found.path)} is no run of this recipe: [{section}] {name} was {show(theirs.get(section, {}).get(name), 80)}, "
            f"and the recipe says {show(mine.get(section, {}).get(name), 80)}"
        )
    return seconds
