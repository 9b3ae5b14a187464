"""The autoencoder that must be trained before a method can live in its latents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffcli.engine.assemble import Facts, assemble, open_data
from diffcli.engine.finished import encoding, finished
from diffcli.engine.job import prepare
from diffcli.errors import UsageError, show
from diffcli.recipe import Recipe


def with_autoencoder(recipe: Recipe, train: Callable[[Recipe], Path], say: Callable[[str], None]) -> Recipe:
    """The recipe with a trained autoencoder where it needs one: a finished run of the very same recipe, or a new one.

    train: trains a recipe; its run folder. What cannot be is refused before minutes go by.
    """
    first = encoding(recipe)
    if first is None:
        return recipe
    name, named = recipe.method.name, recipe.train.autoencoder
    if first.train.autoencoder is not None or first.spec.autoencoder:
        raise UsageError(f"--autoencoder {show(named)} lives in latents itself; give a recipe of an autoencoder")
    why = f"{name} lives in latents" if named is None else f"{name} lives in the latents of {show(named)}"
    if found := next(finished(first), None):
        say(f"{why}; the autoencoder is {show(found.path)}, trained before by the same recipe")
        return recipe.with_train(autoencoder=str(found.path))
    refuse(recipe, first, named or first.method.name)
    small = "a small " if named is None else ""
    say(f"{why}: training {small}{first.method.name} on {first.parts['dataset'].name} first")
    run = train(first)
    say(f"the autoencoder is {show(run)}; now {name}")
    return recipe.with_train(autoencoder=str(run))


def refuse(recipe: Recipe, first: Recipe, named: str) -> None:
    """UsageError where a method could not live in the latents of the autoencoder that is yet to be trained."""
    mine, theirs = (Facts.of(open_data(one, "train")) for one in (recipe, first))
    if not hasattr(assemble(first, theirs).method, "encode"):
        raise UsageError(
            f"--autoencoder {show(named)} is a recipe of {first.method.name}, which encodes nothing; give one of an autoencoder"
        )
    if mine.shape != theirs.shape:
        raise UsageError(
            f"--autoencoder {show(named)} is of {theirs.kind}, but these are {mine.kind}; give a recipe for these"
        )
    prepare(recipe.with_train(autoencoder=None, cache_latents=False), first=first)
