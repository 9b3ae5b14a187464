"""The autoencoder that must be trained before a method can live in its latents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffcli.engine.finished import encoding, finished
from diffcli.engine.job import prepare, with_train
from diffcli.errors import show
from diffcli.recipe import Recipe


def with_autoencoder(recipe: Recipe, train: Callable[[Recipe], Path], say: Callable[[str], None]) -> Recipe:
    """The recipe with a trained autoencoder where it needs one: a finished run of the very same recipe, or a new one.

    train: trains a recipe; its run folder.
    """
    first = encoding(recipe)
    if first is None:
        return recipe
    name, named = recipe.method.name, recipe.train.autoencoder
    why = f"{name} lives in latents" if named is None else f"{name} lives in the latents of {named}"
    if found := next(finished(first), None):
        say(f"{why}; the autoencoder is {show(found.path)}, trained before by the same recipe")
        return with_train(recipe, autoencoder=str(found.path))
    if recipe.spec.autoencoder:
        prepare(
            with_train(recipe, autoencoder=None, cache_latents=False)
        )  # what cannot be is refused before minutes go by
    say(
        f"{why}: training {'a small ' if named is None else ''}{first.method.name} on {first.parts['dataset'].name} first"
    )
    if recipe.spec.autoencoder:
        prepare(
            with_train(recipe, autoencoder=None, cache_latents=False)
        )  # what cannot be is refused before minutes go by
    run = train(first)
    say(f"the autoencoder is {show(run)}; now {name}")
    return with_train(recipe, autoencoder=str(run))
