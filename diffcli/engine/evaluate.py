"""Numbers that carry their provenance: each measure gives records, appended to the run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from diffcli.core.random import Rows, shuffled
from diffcli.engine.assemble import open_data
from diffcli.engine.load import Model, read
from diffcli.engine.precision import autocast
from diffcli.engine.rundir import find
from diffcli.engine.sample import Samples, sample, wishes
from diffcli.errors import UsageError
from diffcli.metrics.frechet import frechet
from diffcli.metrics.likelihood import bits_per_dim
from diffcli.metrics.neighbors import vote
from diffcli.plugin import load as load_target
from diffcli.recipe import Recipe
from diffcli.sections import EvalOptions

BATCH = 250
JUDGED = 10000  # most held-out images that tell how good a judge is
NLL_IMAGES = 256  # most images that nll integrates: 200 evaluations and 100 gradients each
Record = dict[str, Any]


@torch.no_grad()
def held_out_loss(model: Model, data: Any, images: int = 10000, seed: int = 0) -> float:
    """The loss on held-out images, each at its own fixed noise and stratified time: curves of different runs compare."""
    n, total = min(images, len(data)), 0.0
    method = model.method.eval()
    for items in torch.arange(n, device=model.device).split(BATCH):
        with autocast(model.recipe.train.precision, model.device):
            losses = method.loss(data.batch(items, items, model.space), Rows(seed, items, n))
        total += float(losses["loss"]) * len(items)
    return total / n


@dataclass
class Bench:
    """A model on the bench: its data and its samples are read and drawn once, when a measure asks for them."""

    model: Model
    recipe: Recipe
    options: EvalOptions
    tick: Callable[[int], None]

    @cached_property
    def test(self) -> Any:
        return self.data("test")

    @cached_property
    def train(self) -> Any:
        return self.data("train")

    @cached_property
    def samples(self) -> Samples:
        return sample(self.model, self.options, self.recipe.parts.get("sampler"), tick=self.tick)

    def data(self, split: str) -> Any:
        """A split of the data set, of the kind the model was trained on."""
        data, facts = open_data(self.recipe, split), self.model.facts
        if tuple(data.shape) != facts.shape or tuple(data.class_names) != facts.class_names:
            raise UsageError(
                f"{self.model.where} was trained on images of {'x'.join(map(str, facts.shape))} and {facts.classes} classes, but "
                f"these are of {'x'.join(map(str, data.shape))} and {data.classes}; measure it on data of its own kind"
            )
        return data.to(self.model.device)

    def real(self, data: Any, most: int) -> tuple[Tensor, Tensor | None]:
        """(n, C, H, W) and labels of at most `most` images, chosen and ordered once and for all."""
        items = shuffled(0, torch.arange(min(most, len(data))), len(data))
        parts = [data.batch(i, i, Plain) for i in items.split(BATCH)]
        labels = None if parts[0].label is None else torch.cat([p.label for p in parts]).cpu()
        return torch.cat([p.x for p in parts]).float().cpu(), labels

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


def loss(bench: Bench) -> Iterator[Record]:
    """The method's own loss on held-out images."""
    n = min(bench.options.images, len(bench.test))
    value = held_out_loss(bench.model, bench.test, n, bench.options.seed)
    yield bench.record("loss", value, split=bench.test.split, images=n, seed=bench.options.seed)


def fd(bench: Bench) -> Iterator[Record]:
    """Frechet distance of pixels between samples and held-out images, and its floor: training images in place of samples."""
    drawn = bench.samples.x.clamp(-1, 1).flatten(1)
    real, _ = bench.real(bench.test, 10000)
    floor, _ = bench.real(bench.train, len(drawn))
    real = real.flatten(1)
    more: Record = {
        "n": len(drawn),
        "reference": len(real),
        "split": bench.test.split,
        "floor": frechet(floor.flatten(1), real),
    }
    if len(drawn) <= drawn.shape[1]:
        more["warning"] = (
            f"n = {len(drawn)} is not above the {drawn.shape[1]} features: the covariance is singular and the distance biased"
        )
    yield bench.record("fd[pixels]", frechet(drawn, real), **more)


def agreement(bench: Bench) -> Iterator[Record]:
    """Share of conditional samples that the nearest real training images give the class that was asked for."""
    label, k = bench.samples.label, bench.options.neighbors
    real, real_label = bench.real(bench.train, bench.options.reference)
    test, test_label = bench.real(bench.test, JUDGED)
    judged = vote(bench.samples.x.clamp(-1, 1).flatten(1), real.flatten(1), real_label, k)
    on_real = vote(test.flatten(1), real.flatten(1), real_label, k)
    yield bench.record(
        f"agreement[{k}nn]",
        float((judged == label).double().mean()),
        n=len(judged),
        reference=len(real),
        split=bench.train.split,
        real=float((on_real == test_label).double().mean()),
    )


def nll(bench: Bench) -> Iterator[Record]:
    """Bits per dimension of held-out images by the probability-flow ODE, with the standard error over images."""
    n = min(bench.options.images, len(bench.test), NLL_IMAGES)
    bits = []
    for items in torch.arange(n, device=bench.model.device).split(BATCH):
        rng, batch = Rows(bench.options.seed, items, n), bench.test.batch(items, items, bench.model.space)
        method = bench.model.method
        bits.append(bits_per_dim(method.denoiser, batch.x, method.cond(batch, rng), rng).cpu())
    value = torch.cat(bits)
    yield bench.record(
        "nll",
        float(value.mean()),
        unit="bits/dim",
        images=n,
        standard_error=float(value.std() / math.sqrt(n)),
        split=bench.test.split,
        seed=bench.options.seed,
    )


def refuse_nll(bench: Bench) -> None:
    """UsageError where bits per dimension have no meaning."""
    if bench.recipe.train.autoencoder is not None:
        raise UsageError("nll is measured in pixels; a latent model has none")
    if bench.model.recipe.spec.family != "gaussian":
        raise UsageError("nll by the probability-flow ODE is of gaussian methods; this one has none")
    if (levels := getattr(bench.test, "levels", 255)) != 255:
        raise UsageError(
            f"nll is of 8-bit images, but {bench.model.facts.name} has {levels + 1} levels; measure another data set"
        )
    if min(bench.options.images, len(bench.test)) < 2:
        raise UsageError("nll needs 2 images or more for a standard error; raise --images")


def refuse_fd(bench: Bench) -> None:
    """UsageError where samples have no covariance."""
    if wishes(bench.model, bench.options)[0] < 2:
        raise UsageError("fd needs 2 samples or more for a covariance; raise --samples or --per-class")


def refuse_agreement(bench: Bench) -> None:
    """UsageError where no class was asked for, or too few real images vote."""
    if not getattr(bench.model.method, "conditional", False):
        raise UsageError(
            f"agreement needs classes, but {bench.model.where} was trained without; train with --cond label"
        )
    voters = min(bench.options.reference, len(bench.train))
    if voters < bench.options.neighbors:
        raise UsageError(
            f"--neighbors {bench.options.neighbors} needs as many real images, but there are {voters}; raise --reference"
        )


# What is refused before any measure has cost time.
REFUSALS: dict[str, Callable[[Bench], None]] = {"nll": refuse_nll, "fd": refuse_fd, "agreement": refuse_agreement}
MEASURES: dict[str, Callable[[Bench], Iterator[Record]]] = {"loss": loss, "fd": fd, "agreement": agreement, "nll": nll}


def chosen(bench: Bench) -> list[Callable[[Bench], Iterator[Record]]]:
    """The measures asked for by name; auto is loss, fd, and agreement where there are classes."""
    own = bench.recipe.spec.metrics
    names = [name.strip() for name in bench.options.metric.split(",")]
    if names == ["auto"]:
        conditional = getattr(bench.model.method, "conditional", False)
        names = ["loss", "fd"] + (["agreement"] if conditional else [])
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
    total = options.per_class * max(1, model.facts.classes) if options.per_class else options.samples
    with Bar("sample", total, console or Console(stderr=True)) as bar:
        bench = Bench(model, recipe, options, bar.update)
        records = [record for measure in chosen(bench) for record in measure(bench)]
    if found.kind != "model":
        with open(found.run / "evals.jsonl", "a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, allow_nan=False) + "\n" for record in records)
    return records
