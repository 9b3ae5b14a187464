"""A method to be tried: put together by the engine as `diffcli train` does it, small and on the CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from diffcli.core.denoiser import Cond
from diffcli.core.method import Batch, Method
from diffcli.core.random import Rows
from diffcli.engine.assemble import Assembly, Facts, assemble, open_data
from diffcli.engine.job import Job, prepare
from diffcli.engine.pace import settle
from diffcli.engine.train import train
from diffcli.options import options
from diffcli.recipe import Recipe, overlay, resolve
from diffcli.registry import registry
from diffcli.testing.dataset import offline
from diffcli.testing.network import awake

BATCH = 16
ONCE: Mapping[str, Any] = {
    "steps": 4,
    "batch_size": BATCH,
    "lr_schedule": "constant",
    "warmup": "0",
    "precision": "fp32",
    "device": "cpu",
    "seed": 0,
}


def recipe(name: str, given: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """The defaults of a method, for a few small steps, with what is given over them."""
    plain = overlay({"method": {"name": name}}, {"train": ONCE, "sample": {"device": "cpu", "precision": "fp32"}})
    return resolve(overlay(plain, given))


def variants(name: str, given: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Recipe]]:
    """(flags, recipe): as it is by default, and as it learns classes, where it can."""
    found = [("", recipe(name, given))]
    choice = options(registry().get("method", name).config).get("cond")
    if choice is not None and "label" in choice.choices and getattr(found[0][1].method.config, "cond", "") != "label":
        over = {**given, "method": {**given.get("method", {}), "cond": "label"}}
        labelled = recipe(name, over)
        with offline():
            if open_data(labelled, "test").classes:
                found.append((" with --cond label", labelled))
    return found


@cache
def encoder(name: str, dataset: str, steps: int = 2) -> tuple[Path, TemporaryDirectory[str]]:
    """A run of an autoencoder on a data set, as JSON of its table, hardly trained; and the folder that it dies with."""
    folder = TemporaryDirectory()
    tables = {"method": {"name": name}, "dataset": json.loads(dataset), "train": {**ONCE, "steps": steps}}
    console = Console(file=StringIO())
    return train(resolve(tables), Path(folder.name) / "autoencoder", console=console), folder


def job(wanted: Recipe) -> Job:
    """All that a training step needs, as at the start of a training; a latent method has an autoencoder by then."""
    with offline():
        if wanted.spec.autoencoder and wanted.train.autoencoder is None:
            place, _ = encoder(wanted.spec.autoencoder, json.dumps(wanted.tables()["dataset"]))
            wanted = wanted.with_train(autoencoder=str(place))
        made = prepare(wanted)
    settle(made)
    return made


def weakened(method: Method, cond: Cond, rows: int) -> bool:
    """Whether there is a condition with a row for each, and a weak side of it that fits."""
    if not cond or not whole(cond, rows):
        return False
    weak = method.weaken(cond)
    return all(name in weak and weak[name].shape == value.shape for name, value in cond.items())


def whole(cond: Cond, rows: int) -> bool:
    """Whether every value of a condition has a row for each."""
    return all(isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows for value in cond.values())


class Subject:
    """A method in evaluation mode, awake, with some rows of its data. flags: what it was made with."""

    def __init__(self, flags: str, wanted: Recipe):
        with offline():
            self.data = open_data(wanted, "train")
        self.flags = flags
        assembly: Assembly = assemble(wanted, Facts.of(self.data))
        self.recipe, self.space, self.classes = assembly.recipe, assembly.space, assembly.facts.classes
        self.method: Method = awake(assembly.method.eval())  # type: ignore[assignment]
        self.data = self.method.view(self.data)

    @property
    def process(self) -> Any:
        return self.method.denoiser.process

    def batch(self, rows: int) -> Batch:
        """The first rows of its data."""
        items = torch.arange(rows)
        found: Batch = self.data.batch(items, items, self.space)
        return found

    def cond(self, batch: Batch) -> Cond:
        """What its denoiser is told of a batch."""
        return self.method.cond(batch, Rows(0, batch.index, len(batch.index)))

    def noisy(self, batch: Batch, t: Tensor) -> Tensor:
        """x_t of a batch."""
        x_0: Any = batch.x
        rng = Rows(0, batch.index, len(batch.index))
        if self.process.family == "masked":
            return self.process.mask(x_0, t, rng.uniform("mask", self.space.shape))  # type: ignore[no-any-return]
        return self.process.diffuse(x_0, rng.normal("eps", self.space.shape), t)  # type: ignore[no-any-return]
