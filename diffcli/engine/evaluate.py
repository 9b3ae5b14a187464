"""Numbers that carry their provenance: each measure gives records, appended to the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from diffcli.core.random import Rows, shuffled
from diffcli.core.space import Space
from diffcli.engine.compared import REFERENCE, Compared, Plain, digest, extractors
from diffcli.engine.load import Model, read, split
from diffcli.engine.measures import measure, refuse_unknown
from diffcli.engine.precision import autocast
from diffcli.engine.ranks import ALONE, World
from diffcli.engine.records import Record, Unkept, append, ready, record
from diffcli.engine.refusals import refuse
from diffcli.engine.rundir import Found, find
from diffcli.engine.sample import Samples, classes_of, sample, wishes
from diffcli.errors import DiffcliError, UsageError
from diffcli.metrics.features import Extractor
from diffcli.recipe import Recipe
from diffcli.sections import EvalOptions

NOTHING: Mapping[str, str] = {}
PART = 5000  # training images at a time: their distances to 1,000 samples then take 40 MB


@torch.no_grad()
def held_out_loss(model: Model, data: Any, images: int = 10000, seed: int = 0, world: World = ALONE) -> float:
    """The loss on held-out images, each at its own fixed noise and stratified time: curves of different runs compare.

    Each process of the world takes parts of them; the sum is the same to the bit for any number of processes.
    """
    n, found = min(images, len(data)), dict[int, float]()
    method, parts = model.method.eval(), torch.arange(n, device=model.device).split(model.space.rows)
    for number in range(world.rank, len(parts), world.size):
        items = parts[number]
        with autocast(model.recipe.train.precision, model.device):
            losses = method.loss(data.batch(items, items, model.space), Rows(seed, items, n))
        found[number] = float(losses["loss"]) * len(items)
    sums = {number: loss for each in world.gathered(found) for number, loss in each.items()}
    return sum(sums[number] for number in range(len(parts))) / n


class Bench:
    """A model on the bench: its data and its samples are read and drawn once, when a measure or a plot asks for them.

    test: the held-out split as the method sees it, where it is open already; world: the processes that measure together.
    """

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        options: EvalOptions,
        tick: Callable[[int], None] = lambda done: None,
        *,
        test: Any = None,
        world: World = ALONE,
    ):
        self.world = world
        self.model, self.recipe, self.options, self.tick = model, recipe, options, tick
        self.splits = {} if test is None else {"test": test}
        self.hashes: dict[str, str] = {}
        self.notes: list[str] = []
        self.measuring = ""  # the measure that is being taken

    @property
    def test(self) -> Any:
        return self.split("test")

    @property
    def train(self) -> Any:
        return self.split("train")

    @cached_property
    def samples(self) -> Samples:
        o, method = self.options, self.model.method
        if method.reconstructs:
            o = replace(o, samples=min(o.samples, len(self.test)))  # each held-out image once
        return sample(self.model, o, self.recipe.parts.get("sampler"), tick=self.tick, world=self.world)

    def split(self, name: str) -> Any:
        """A split of the data set as the method sees it, of the kind the model was trained on."""
        if name not in self.splits:
            self.splits[name] = split(self.model, self.recipe, name)
        return self.splits[name]

    @cached_property
    def classes(self) -> list[int] | None:
        """Those that samples are asked for; None is each once, or none at all."""
        return classes_of(self.model, self.options)

    def order(self, data: Any, most: int, classes: list[int] | None = None) -> Tensor:
        """(n,) numbers of at most `most` items, of these classes or of all, chosen and ordered once and for all."""
        if classes is None:
            return shuffled(0, torch.arange(min(most, len(data))), len(data))
        items = shuffled(0, torch.arange(len(data)), len(data))
        told = getattr(
            data, "labels_of", lambda i: data.batch(i, i, Plain).label.cpu()
        )  # what lies in files is not decoded
        labels = torch.cat([told(i) for i in items.split(Space.rows)])
        return items[torch.isin(labels, torch.tensor(classes))][:most]

    def alike(self, data: Any, most: int) -> Tensor:
        """(n, C, H, W) of at most `most` images, of the classes that samples are asked for."""
        return self.real(data, most, self.classes)[0]

    def real(self, data: Any, most: int, classes: list[int] | None = None) -> tuple[Tensor, Tensor | None]:
        """(n, C, H, W) and labels of at most `most` images, of these classes or of all: see `order`."""
        parts = [data.batch(i, i, Plain) for i in self.order(data, most, classes).split(Space.rows)]
        labels = None if parts[0].label is None else torch.cat([p.label for p in parts]).cpu()
        return torch.cat([p.x for p in parts]).float().cpu(), labels

    def loss(self, images: int) -> float:
        """The method's own loss on this many held-out images."""
        return held_out_loss(self.model, self.test, images, self.options.seed, self.world)

    def pictures(self, data: Any) -> Iterator[Tensor]:
        """All images (m, C, H, W) of a split in their order, some at a time, on the CPU."""
        for items in torch.arange(len(data)).split(PART):
            yield data.batch(items, items, Plain).x.float().cpu()

    @cached_property
    def extractors(self) -> list[Extractor]:
        """Those that --extractor asks for."""
        return extractors(self.options.extractor, self.model.facts)

    @cached_property
    def compared(self) -> list[Compared]:
        """Samples, held-out and training images in the features of each extractor."""
        return [Compared(self, extractor) for extractor in self.extractors]

    @cached_property
    def reference_sha256(self) -> str:
        """Of the held-out images that samples are compared with."""
        if self.classes is None:
            return self.sha256(self.test.split) or ""
        return digest([self.alike(self.test, REFERENCE)])

    def sha256(self, split: str) -> str | None:
        """Of at most REFERENCE images or texts of a split that is open, called as data sets call it; None of any other."""
        name = next((name for name, data in self.splits.items() if data.split == split), None)
        if name is not None and name not in self.hashes:
            data, space = self.splits[name], self.model.facts.space(None)
            parts = self.order(data, REFERENCE).split(Space.rows)
            self.hashes[name] = digest(data.batch(items, items, space).x for items in parts)
        return None if name is None else self.hashes[name]

    def note(self, line: str) -> None:
        """A line that stands in place of a number, or beside one."""
        self.notes.append(line)

    def record(self, metric: str, value: float, **more: Any) -> Record:
        """The number with all that it depends on; with n among what a measure says, also how the samples were drawn."""
        return record(self, metric, value, more)


def chosen(bench: Bench, without: Mapping[str, str] = NOTHING) -> list[str]:
    """The measures asked for by name; auto is what the method says, less what does not apply, of which a note is taken.

    without: what auto leaves out, and why. UsageError before anything costs time.
    """
    spec, names = bench.recipe.spec, list(dict.fromkeys(name.strip() for name in bench.options.metric.split(",")))
    if auto := names == ["auto"]:
        names = list(bench.model.method.measures(bench.model.facts))
    refuse_unknown(spec, names)
    fit = []
    for name in names:
        if auto and name in without:
            bench.note(f"{name} is left out: {without[name]}")
            continue
        try:
            refuse(measure(name, spec), bench)
            fit.append(name)
        except UsageError as error:
            if not auto:
                raise
            bench.note(f"{name} is left out: {error}")
    return fit


def evaluate(
    run: str | Path,
    recipe: Recipe,
    options: EvalOptions,
    console: Console | None = None,
    world: World = ALONE,
) -> list[Record]:
    """Measure a run; its records, each appended to evals.jsonl beside it when it is known.

    recipe: the run's, with the sampler to use; options: see Recipe.evaluation; world: the processes that measure together:
    they draw samples and take the held-out loss each in parts, and the first one writes. Raises DiffcliError; Unkept, which carries
    the records, where they were measured and could not be appended.
    """
    return measured(*opened(run, recipe, options, world), console or Console(stderr=True))


def opened(run: str | Path, recipe: Recipe, options: EvalOptions, world: World = ALONE) -> tuple[Found, Bench]:
    """A run and its model on the bench. Raises DiffcliError, also where its records could not be kept."""
    found = find(str(run))
    ready(found)
    return found, benched(found, recipe, options, world)


def benched(found: Found, recipe: Recipe, options: EvalOptions, world: World = ALONE) -> Bench:
    """The model of a run on the bench, as the options say that it is read."""
    model = read(found, raw=options.raw, device=options.device, place=options.autoencoder)
    return Bench(model, recipe, options, world=world)


def measured(found: Found, bench: Bench, console: Console, without: Mapping[str, str] = NOTHING) -> list[Record]:
    """The records of a run on the bench: see `evaluate` and `chosen`."""
    from diffcli.engine.progress import Bar

    total, _ = wishes(bench.model, bench.options)
    records, unkept = list[Record](), None
    with Bar("sample", total, console) as bar:
        bench.tick = bar.update
        for name in chosen(bench, without):
            bench.measuring = name
            made = list(measure(name, bench.recipe.spec)(bench))
            records += made
            try:
                append(found, made if bench.world.first else [])
            except DiffcliError as error:
                unkept = error
    for line in bench.notes:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if unkept is not None:
        raise Unkept(unkept, records)
    return records
