"""A checkpoint or a model folder -> a model that can be sampled. It rebuilds itself from plain JSON and verified tensors."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffcli import recipe as recipes
from diffcli.core.method import Method
from diffcli.core.space import Space, Text
from diffcli.engine import checkpoint
from diffcli.engine.assemble import Facts, assemble, open_data
from diffcli.engine.precision import device as choose
from diffcli.engine.rundir import Found, committed, find
from diffcli.errors import RunError, UsageError, show
from diffcli.recipe import Recipe

ENCODER = "autoencoder"  # in the folder of an exported model: the model whose latents it lives in


@dataclass
class Model:
    """A method with its trained weights, where it came from, and what its data were like."""

    recipe: Recipe
    method: Method
    space: Space
    facts: Facts
    device: torch.device
    where: str
    step: int
    weights: str  # "ema" or "raw"
    sha256: str
    encoder: Model | None = None  # the one whose latents it lives in

    def sample(self, n: int | None = None, **options: Any) -> Tensor | list[str]:
        """(n, C, H, W) images in [-1, 1], or n texts; n unset is 16, or one for each file that a method is given.

        options: those of [sample] (seed, steps, spacing, guidance_scale, ...), with label 3, (3, 7) or "star"; and
        sampler="midpoint", or a table such as sampler={"name": "ddim", "eta": 1.0}. Sample i depends on (seed, i) alone.
        Raises UsageError for an option that does not exist or does not fit.
        """
        from diffcli.engine.sample import sample

        asked, label = options.pop("sampler", None), options.pop("label", None)
        if label is not None:
            several = isinstance(label, Iterable) and not isinstance(label, str)
            options["label"] = ",".join(map(str, label)) if several else str(label)
        sampler, many = {"name": asked} if isinstance(asked, str) else asked, 16 if n is None else n
        recipe = overlay(self.recipe, sampler, {"samples": many, **options})
        recipes.refuse_count(recipe, n)
        x = sample(self, recipe.sample, recipe.parts.get("sampler")).x
        return self.space.write(x) if isinstance(self.space, Text) else x.clamp(-1, 1)


def overlay(recipe: Recipe, sampler: dict[str, Any] | None, sample: dict[str, Any]) -> Recipe:
    """The recipe with other [sampler] and [sample] values; another sampler drops the options of the one before."""
    over = {"sampler": sampler or {}, "sample": {k: v for k, v in sample.items() if v is not None}}
    return recipes.resolve(recipes.overlay(recipe.tables(), {k: v for k, v in over.items() if v}))


def load(path: str | Path, *, raw: bool = False, device: str = "auto", autoencoder: str | Path | None = None) -> Model:
    """The model at a method's name (its newest run), a run, a checkpoint or a model folder.

    raw: the trained weights in place of their average; autoencoder: where that of a latent model lies now. Raises RunError
    where there is none or it is damaged.
    """
    return read(find(str(path)), raw=raw, device=device, place=None if autoencoder is None else str(autoencoder))


def split(model: Model, recipe: Recipe, name: str) -> Any:
    """A split of the recipe's data set, "train" or "test", as the method sees it, on its device.

    UsageError where it is of another kind than what the model was trained on: other classes or characters, too.
    """
    data, facts = open_data(recipe, name), model.facts
    now = Facts.of(data)
    if (now.shape, now.class_names, now.alphabet) != (facts.shape, facts.class_names, facts.alphabet):
        other = " with other names" if now.kind == facts.kind else ""
        raise UsageError(
            f"{model.where} was trained on {facts.kind}, but these are {now.kind}{other}; give it data of its own kind"
        )
    return model.method.view(data).to(model.device)


def complain(line: str) -> None:
    print(line, file=sys.stderr)


def read(found: Found, *, raw: bool = False, device: str = "auto", place: str | None = None) -> Model:
    """The model that the resolver found; a damaged checkpoint is told on stderr, and the one before is used.

    place: of the autoencoder of a latent model; unset is in the model folder, else where it lay in training.
    """
    if found.kind == "model":
        stored = checkpoint.open_model(found.path)
        tensors, meta, step, weights = (
            stored.tensors("model"),
            stored.meta,
            stored.meta.get("step", 0),
            str(stored.meta.get("weights")),
        )
        complain(f"{show(found.path)}: weights with sha256 {stored.sha256}")
    else:
        stored = (
            checkpoint.open_checkpoint(found.path)
            if found.kind == "checkpoint"
            else checkpoint.latest(found.path, warn=complain, move=False)
        )
        if stored is None:
            raise RunError(f"{show(found.path)} holds no whole checkpoint; train it again, or resume it with --resume")
        weights = "raw" if raw else "ema"
        tensors, meta, step = stored.tensors("model" if raw else "ema"), stored.meta, stored.step
    recipe, facts = parse(meta, found.path)
    on = choose(device)
    encoder = within(found, recipe, facts, meta, place, device)
    assembly = assemble(recipe, facts, encoder and encoder.method)
    checkpoint.load_into(assembly.method, tensors, str(found.path))
    method = assembly.method.to(on).eval().requires_grad_(False)
    return Model(
        assembly.recipe, method, assembly.space, facts, on, str(found.path), step, weights, stored.sha256, encoder
    )


def parse(meta: dict[str, Any], path: Path) -> tuple[Recipe, Facts]:
    """The recipe and the facts of the data that a checkpoint carries, as strictly read as a recipe of the user's."""
    try:
        return recipes.resolve(meta["recipe"]), Facts.read(meta["facts"])
    except (KeyError, TypeError) as error:
        raise RunError(
            f"{show(path)} says nothing usable of its recipe ({error!r}); it was not written by diffcli"
        ) from None
    except UsageError as error:
        raise RunError(f"{show(path)} cannot be rebuilt: {error}") from None


def within(
    found: Found, recipe: Recipe, facts: Facts, meta: dict[str, Any], place: str | None, device: str
) -> Model | None:
    """The autoencoder of a stored model, None of one in pixels; place: see `read`."""
    shown, sha256 = show(found.path), meta.get("autoencoder")
    if recipe.train.autoencoder is None:
        if place is not None:
            raise UsageError(f"{shown} does not live in latents; leave --autoencoder out")
        if recipe.spec.autoencoder:
            raise RunError(f"{shown} says nothing of the autoencoder it lives in; train it again")
        return None
    if not isinstance(sha256, str):
        raise RunError(
            f"{shown} carries no hash of the autoencoder it lives in, so none can be trusted; train it again"
        )
    if place is None and found.kind == "model" and (found.path / ENCODER).is_dir():
        place = str(found.path / ENCODER)
    return autoencoder(recipe, facts, device, sha256, place)


def autoencoder(
    recipe: Recipe, facts: Facts, device: str, sha256: str | None = None, place: str | None = None
) -> Model | None:
    """The frozen autoencoder a latent method lives in; None in pixels.

    sha256: of its weights when the method was trained; place: where it lies now, if not where the recipe says. Raises
    RunError where it is gone or has changed, UsageError where it is none for images of this shape.
    """
    path = place or recipe.train.autoencoder
    if path is None:
        return None
    try:
        found = find(path)
        if (found.tables or {}).get("train", {}).get("autoencoder") is not None:
            raise UsageError(f"--autoencoder {show(path)} lives in latents itself; give a run of an autoencoder")
        model = read(keeping(found, sha256), device=device)
    except RunError as error:
        again = "" if sha256 is None else "; give the place where it lies now with --autoencoder"
        raise RunError(f"the autoencoder {show(path)} cannot be read: {error}{again}") from None
    if not (hasattr(model.method, "encode") and hasattr(model.method, "decode")):
        raise UsageError(
            f"--autoencoder {show(path)} is a run of {model.recipe.method.name}, which encodes nothing; give a run of an autoencoder"
        )
    if sha256 not in (None, model.sha256):
        raise RunError(
            f"the autoencoder {show(path)} has changed since this model was trained in its latents: its weights are "
            f"{model.sha256[:12]}, and were {str(sha256)[:12]}; restore it, or give another --autoencoder, or train again"
        )
    if model.facts.shape != facts.shape:
        raise UsageError(
            f"the autoencoder {show(path)} was trained on {model.facts.kind}, but these are {facts.kind}; train one on these"
        )
    return model


def keeping(found: Found, sha256: str | None) -> Found:
    """The checkpoint of a run whose weights have this hash, where the newest has gone on from it; else what was found."""
    if found.kind != "run" or sha256 is None:
        return found
    for _, folder in reversed(committed(found.path)):
        try:
            if checkpoint.open_checkpoint(folder).sha256 == sha256:
                return replace(found, path=folder, kind="checkpoint")
        except RunError:
            continue
    return found
