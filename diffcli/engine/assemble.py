"""Recipe -> method and space: the only place that puts components together. No file is read here but the data set's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from diffcli.core.denoiser import Preconditioned
from diffcli.core.method import Method
from diffcli.core.random import key
from diffcli.core.space import Autoencoder, Latents, Pixels, Space, Text, Tokens
from diffcli.errors import PluginError, UsageError, show
from diffcli.parts import Part
from diffcli.recipe import Recipe
from diffcli.registry import registry

FACTS = ("name", "split", "shape", "classes", "class_names")
READING = ("__len__", "to", "items", "batch")


@dataclass(frozen=True)
class Facts:
    """What a model must know of its data when they are gone: it is stored with every checkpoint.

    split: what it was trained on, with all that was done to it; shape: (C, H, W) of a picture, (L,) of a text; classes: 0
    is none; alphabet: the characters of a text, "" of pictures.
    """

    name: str
    split: str
    shape: tuple[int, ...]
    classes: int
    class_names: tuple[str, ...]
    alphabet: str = ""

    @classmethod
    def of(cls, dataset: Any) -> Facts:
        complete(dataset, show(getattr(dataset, "name", type(dataset).__name__), 80), FACTS)
        names, alphabet = tuple(dataset.class_names), getattr(dataset, "alphabet", "")
        return cls(dataset.name, dataset.split, tuple(dataset.shape), dataset.classes, names, alphabet)

    @classmethod
    def read(cls, table: dict[str, Any]) -> Facts:
        """From the plain JSON that `vars` of it made. Raises TypeError where it is something else."""
        facts = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})
        named = all(type(n) is str for n in (facts.name, facts.split, facts.alphabet, *facts.class_names))
        whole = all(type(n) is int and n > 0 for n in facts.shape) and len(facts.shape) == (1 if facts.alphabet else 3)
        if not (named and whole and type(facts.classes) is int and facts.classes >= 0):
            raise TypeError("its facts of the data are of the wrong types")
        return facts

    @property
    def kind(self) -> str:
        """What there is of them, in words."""
        if self.alphabet:
            return f"texts of {self.shape[0]} characters out of {len(self.alphabet)}"
        return f"images of {'x'.join(map(str, self.shape))}" + (f" and {self.classes} classes" if self.classes else "")

    def space(self, family: str | None) -> Space:
        """Where a method of this family lives."""
        if self.alphabet:
            return Text(*self.shape, self.classes, self.alphabet)
        return (Tokens if family == "masked" else Pixels)(self.shape, self.classes)


@dataclass(frozen=True)
class Assembly:
    """The parts, put together; the recipe now says what was chosen for options left to the network."""

    recipe: Recipe
    method: Method
    space: Space
    facts: Facts


def open_data(recipe: Recipe, split: str) -> Any:
    """The recipe's data set: split "train", or "test" for the held-out images."""
    part = recipe.parts["dataset"]
    dataset = registry().get("dataset", part.name).load()(part.config, split)
    complete(dataset, part.name, (*FACTS, *READING))
    return dataset


def complete(dataset: Any, name: str, needed: tuple[str, ...]) -> None:
    """PluginError where a data set has not all that it is read by."""
    if lacking := [what for what in needed if not hasattr(dataset, what)]:
        raise PluginError(f"data set {name} lacks {' and '.join(lacking)}; see docs/writing-a-plugin.md")


def assemble(recipe: Recipe, facts: Facts, autoencoder: Autoencoder | None = None) -> Assembly:
    """The method of a recipe for data of this kind, freshly initialized from the recipe's seed.

    autoencoder: the space is then its latents. Raises UsageError for parts that cannot work together.
    """
    spec = recipe.spec
    space = facts.space(spec.family)
    if autoencoder is not None:
        if spec.family != "gaussian":
            able = [name for name, method in registry().specs("method").items() if method.family == "gaussian"]
            raise UsageError(
                f"{spec.name} cannot live in latents; leave --autoencoder out, or take {' or '.join(able)}"
            )
        space = Latents(autoencoder, space)
    if getattr(recipe.method.config, "cond", "none") == "label" and not facts.classes:
        raise UsageError(
            f"--cond label needs classes, but {facts.name} has none; give --cond none, or take a data set with classes"
        )

    parts: dict[str, Any] = {}
    if "schedule" in recipe.parts:
        schedule = recipe.parts["schedule"]
        parts["process"] = registry().get("schedule", schedule.name).load()(schedule.config, space)
    if "model" in recipe.parts:
        model = fitted(recipe.parts["model"], space)
        recipe = recipe.replace_part("model", model.config)
        parts["model"] = partial(registry().get("model", model.name).load(), model.config, space)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(recipe.train.seed, "init", 0))
        method = spec.load()(recipe.method.config, space, **parts)
    readable(recipe, method)
    return Assembly(recipe, method, space, facts)


def fitted(part: Part, space: Space) -> Part:
    """The part with the options that were left to it filled in for this space."""
    return Part(part.name, part.config.fit(space.layout)) if hasattr(part.config, "fit") else part


def readable(recipe: Recipe, method: Method) -> None:
    """Refuse a network output that has no solution at t = 1, where sampling starts."""
    denoiser = method.denoiser
    if not isinstance(denoiser, Preconditioned):
        return
    one, p = torch.ones((), dtype=torch.float64), denoiser.process
    a, b = denoiser.param(p, one)
    if float(p.alpha(one) * b - p.sigma(one) * a) == 0:
        raise UsageError(
            f"{denoiser.param.__name__}-prediction has no x_0 where alpha is 0 "
            f"({recipe.parts['schedule'].name} at t = 1); use v, x0 or velocity"
        )
