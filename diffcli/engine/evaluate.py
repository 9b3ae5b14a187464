"""Numbers that carry their provenance: each measure gives records, appended to the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from diffcli.core.random import Rows, shuffled
from diffcli.core.space import Space
from diffcli.engine.load import Model, read, split
from diffcli.engine.measures import MEASURES, REFUSALS, Record
from diffcli.engine.precision import autocast
from diffcli.engine.rundir import find
from diffcli.engine.sample import Samples, sample, wishes
from diffcli.errors import UsageError
from diffcli.plugin import load as load_target
from diffcli.recipe import Recipe
from diffcli.sections import EvalOptions


@torch.no_grad()
def held_out_loss(model: Model, data: Any, images: int = 10000, seed: int = 0) -> float:
    """The loss on held-out images, each at its own fixed noise and stratified time: curves of different runs compare."""
    n, total = min(images, len(data)), 0.0
    method = model.method.eval()
    for items in torch.arange(n, device=model.device).split(model.space.rows):
        with autocast(model.recipe.train.precision, model.device):
            losses = method.loss(data.batch(items, items, model.space), Rows(seed, items, n))
        total += float(losses["loss"]) * len(items)
    return total / n


class Bench:
    """A model on the bench: its data and its samples are read and drawn once, when a measure or a plot asks for them.

    test: the held-out split as the method sees it, where it is open already.
    """

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        options: EvalOptions,
        tick: Callable[[int], None] = lambda done: None,
        *,
        test: Any = None,
    ):
        self.model, self.recipe, self.options, self.tick = model, recipe, options, tick
        self.splits = {} if test is None else {"test": test}

    @property
    def test(self) -> Any:
        return self.split("test")

    @property
    def train(self) -> Any:
        return self.split("train")

    @cached_property
    def samples(self) -> Samples:
        return sample(self.model, self.options, self.recipe.parts.get("sampler"), tick=self.tick)

    def split(self, name: str) -> Any:
        """A split of the data set as the method sees it, of the kind the model was trained on."""
        if name not in self.splits:
            self.splits[name] = split(self.model, self.recipe, name)
        return self.splits[name]

    def real(self, data: Any, most: int) -> tuple[Tensor, Tensor | None]:
        """(n, C, H, W) and labels of at most `most` images, chosen and ordered once and for all."""
        items = shuffled(0, torch.arange(min(most, len(data))), len(data))
        parts = [data.batch(i, i, Plain) for i in items.split(Space.rows)]
        labels = None if parts[0].label is None else torch.cat([p.label for p in parts]).cpu()
        return torch.cat([p.x for p in parts]).float().cpu(), labels

    def loss(self, images: int) -> float:
        """The method's own loss on this many held-out images."""
        return held_out_loss(self.model, self.test, images, self.options.seed)

    def record(self, metric: str, value: float, **more: Any) -> Record:
        facts = (
            self.samples.facts | {"nfe": self.samples.nfe}
            if "n" in more
            else {
                "run": self.model.where,
                "step": self.model.step,
                "weights": self.model.weights,
                "device": str(self.model.device),
            }
        )
        return {"metric": metric, "value": value, "dataset": self.model.facts.name, **facts, **more}


class Plain:
    """The space of images as they are: what real pictures are measured in."""

    @staticmethod
    def encode(x: Tensor) -> Tensor:
        return x


def chosen(bench: Bench) -> list[Callable[[Bench], Iterator[Record]]]:
    """The measures asked for by name; auto is what the method says."""
    own = bench.recipe.spec.metrics
    names = [name.strip() for name in bench.options.metric.split(",")]
    if names == ["auto"]:
        names = list(bench.model.method.measures(bench.model.facts))
    if unknown := [name for name in names if name not in MEASURES and name not in own]:
        raise UsageError(f"--metric {unknown[0]} is unknown; there are {', '.join([*MEASURES, *own])}")
    for name in names:
        if name in REFUSALS:
            REFUSALS[name](bench)
    return [MEASURES[name] if name in MEASURES else load_target(own[name]) for name in names]


def evaluate(run: str | Path, recipe: Recipe, options: EvalOptions, console: Console | None = None) -> list[Record]:
    """Measure a run; its records, appended to evals.jsonl beside it.

    recipe: the run's, with the sampler to use. Raises DiffcliError.
    """
    from diffcli.engine.progress import Bar

    found = find(str(run))
    model = read(found, raw=options.raw, device=options.device)
    total, _ = wishes(model, options)
    with Bar("sample", total, console or Console(stderr=True)) as bar:
        bench = Bench(model, recipe, options, bar.update)
        records = [record for measure in chosen(bench) for record in measure(bench)]
    if found.kind != "model":
        with open(found.run / "evals.jsonl", "a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, allow_nan=False) + "\n" for record in records)
    return records
