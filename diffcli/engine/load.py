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
from diffcli.engine import checkpoint, foreign, model_folder
from diffcli.engine.assemble import Facts, assemble, open_data
from diffcli.engine.precision import device as choose
from diffcli.engine.rundir import Found, committed, find
from diffcli.engine.weights import as_in
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

        recipe = asked(self.recipe, samples=16 if n is None else n, **options)
        recipes.refuse_count(recipe, n)
        x = sample(self, recipe.sample, recipe.parts.get("sampler")).x
        return self.space.write(x) if isinstance(self.space, Text) else x.clamp(-1, 1)

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> latents (B, c, h, w), of a method that encodes; on the device of x.

        Of any size whose sides the method's patches divide, if it takes any, else of its own. UsageError for others.
        """
        from diffcli.engine import coding

        return coding.encode(self, x)

    def decode(self, z: Tensor, height: int | None = None, width: int | None = None, **options: Any) -> Tensor:
        """Latents (B, c, h, w) -> images (B, C, H, W) in [-1, 1], on the device of z.

        height, width: of images that were padded before they were encoded, which are cropped again. options: as those of
        `sample`; without any the result is that of the recipe's [sample]. Image i depends on (z_i, seed, i) alone.
        """
        from diffcli.engine import coding

        return coding.decode(self, z, height, width, **options)

    def reconstruct(self, x: Tensor, **options: Any) -> Tensor:
        """decode(encode(x)): images (B, C, H, W) in [-1, 1] of any size, where the method takes any, padded by reflection."""
        from diffcli.engine import coding

        return coding.reconstruct(self, x, **options)


def asked(recipe: Recipe, *, sampler: Any = None, label: Any = None, **options: Any) -> Recipe:
    """The recipe with the options of a Python call; sampler: a name or a table, label: a number, a name or several."""
    if label is not None:
        several = isinstance(label, Iterable) and not isinstance(label, str)
        options["label"] = ",".join(map(str, label)) if several else str(label)
    return overlay(recipe, {"name": sampler} if isinstance(sampler, str) else sampler, options)


def overlay(recipe: Recipe, sampler: dict[str, Any] | None, sample: dict[str, Any]) -> Recipe:
    """The recipe with other [sampler] and [sample] values; another sampler drops the options of the one before."""
    over = {"sampler": sampler or {}, "sample": {k: v for k, v in sample.items() if v is not None}}
    return recipes.resolve(recipes.overlay(recipe.tables(), {k: v for k, v in over.items() if v}))


def load(path: str | Path, *, raw: bool = False, device: str = "auto", autoencoder: str | Path | None = None) -> Model:
    """The model at a method's name (its newest run), a run, a checkpoint or a model folder, or at hub:OWNER/NAME.

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
    stored, name = opened(found, raw)
    tensors, meta = stored.tensors(name), stored.meta
    weights = str(meta.get("weights", "published")) if found.kind == "model" else "raw" if raw else "ema"
    recipe, facts = parse(meta, found.path)
    on = choose(device)
    encoder = within(found, recipe, facts, meta, place, device)
    assembly = assemble(recipe, facts, encoder and encoder.method)
    tensors, inferred = foreign.translated(meta, tensors, assembly.method)
    for line in inferred:
        complain(f"{show(found.path)}: {show(line)}")
    double = recipe.train.precision == "fp64"  # what was proven in float64 is used in float32
    checkpoint.load_into(assembly.method, as_in(assembly.method, tensors) if double else tensors, str(found.path))
    method = assembly.method.to(on).eval().requires_grad_(False)
    where, a = str(found.path), assembly
    return Model(a.recipe, method, a.space, facts, on, where, stored.step, weights, stored.sha256, encoder)


def opened(found: Found, raw: bool) -> tuple[checkpoint.Checkpoint, str]:
    """What was found, and the name of the tensors in it that are asked for; a model folder's hash is told on stderr."""
    if found.kind == "model":
        folder = model_folder.open_model(found.path)
        each = "" if folder.listed else "; it does not say the hash of each tensor"
        complain(f"{show(found.path)}: weights with sha256 {folder.sha256}{each}")
        return folder, "model"
    if found.kind == "checkpoint":
        return checkpoint.open_checkpoint(found.path), "model" if raw else "ema"
    stored = checkpoint.latest(found.path, warn=complain, move=False)
    if stored is None:
        raise RunError(f"{show(found.path)} holds no whole checkpoint; train it again, or resume it with --resume")
    return stored, "model" if raw else "ema"


def parse(meta: dict[str, Any], path: Path) -> tuple[Recipe, Facts]:
    """The recipe and the facts of the data that a checkpoint carries, as strictly read as a recipe of the user's."""
    tables, facts = meta.get("recipe"), meta.get("facts")
    try:
        if not (isinstance(tables, dict) and isinstance(facts, dict)):
            raise TypeError("none is known")
        return recipes.resolve(tables), Facts.read(facts)
    except TypeError as error:
        why = show(error, 120)
        raise RunError(f"{show(path)} says nothing usable of its recipe ({why}); diffcli did not write it") from None
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
