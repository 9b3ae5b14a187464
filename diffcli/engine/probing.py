"""What a method's encoder knows of classes: a linear probe of its frozen features, and its fine-tuning, each beside the same
of an encoder that was never trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffcli.core.method import Method
from diffcli.core.random import shuffled
from diffcli.engine.assemble import assemble
from diffcli.engine.distances import share
from diffcli.engine.finetuning import finetune
from diffcli.engine.precision import autocast
from diffcli.engine.records import Record
from diffcli.engine.refusals import Refusal, refusing
from diffcli.errors import PluginError, UsageError
from diffcli.metrics import probe as linear

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench

LEAST = 10  # training images, so that a tenth of them can choose


def needing(name: str, hook: str) -> Refusal:
    """UsageError where the method has not what is measured, or the data have no classes, or too few images are fitted on."""

    def check(bench: Bench) -> None:
        facts, method = bench.model.facts, bench.recipe.method.name
        if not hasattr(bench.model.method, hook):
            raise UsageError(f"{name} is of methods with {hook}() of an image, and {method} has none; leave it out")
        if not facts.classes:
            raise UsageError(f"{name} needs classes, but {facts.name} has none; take a data set with classes")
        if (n := fitted_on(bench)) < LEAST:
            raise UsageError(f"{name} needs {LEAST} training images or more, but there are {n}; raise --reference")

    return check


def fitted_on(bench: Bench) -> int:
    """How many training images: all, or as many as --reference says."""
    there = len(bench.train)
    return there if bench.options.reference is None else min(there, bench.options.reference)


def untrained(bench: Bench) -> tuple[Method, int]:
    """The method as it was before training, from another seed, and that seed."""
    model = bench.model
    seed = (model.recipe.train.seed + 1) % 2**31
    encoder = model.encoder and model.encoder.method
    made = assemble(model.recipe.with_train(seed=seed), model.facts, encoder)  # type: ignore[arg-type]
    return made.method.to(model.device).eval().requires_grad_(False), seed


@torch.no_grad()
def features(bench: Bench, method: Method, data: Any, items: Tensor) -> tuple[Tensor, Tensor]:
    """(n, D) float32 features of these items of a split and their labels (n,), some at a time."""
    model, found, labels = bench.model, list[Tensor](), list[Tensor]()
    place = model.device if model.device.type == "cuda" else torch.device("cpu")  # where there is float64
    for some in items.split(model.space.rows):
        batch = data.batch(some, some, model.space)
        with autocast(bench.options.precision, model.device):
            x = method.features(batch.x)  # type: ignore[operator]
        if not isinstance(x, Tensor) or x.ndim != 2 or len(x) != len(some) or not bool(torch.isfinite(x).all()):
            name = bench.recipe.method.name
            raise PluginError(f"method {name}: features() gave no finite numbers (B, D) of {len(some)} images")
        found.append(x.float().to(place))
        labels.append(batch.label.to(place))
    return torch.cat(found), torch.cat(labels)


def held_out(bench: Bench) -> Tensor:
    """Numbers of the held-out images that are told."""
    return bench.order(bench.test, bench.options.images)


def told(method: Method, bench: Bench) -> tuple[Tensor, linear.Probe]:
    """(n,) whether each held-out image is told right, and the classifier, of features of the method."""
    x, label = features(bench, method, bench.train, bench.order(bench.train, fitted_on(bench)))
    passes, seed = bench.options.probe_epochs, bench.options.seed
    found = linear.probe(x, label, bench.model.facts.classes, passes=passes, seed=seed)
    test, test_label = features(bench, method, bench.test, held_out(bench))
    return found.classify(test) == test_label, found


def beside(bench: Bench, hits: Tensor, floor: Tensor, seed: int) -> Record:
    """What both measures say: the errors of both numbers, how many images, and whose floor it is."""
    return {
        "standard_error": share(hits)[1],
        "floor": share(floor)[0],
        "floor_error": share(floor)[1],
        "floor_seed": seed,
        "split": bench.test.split,
        "images": len(hits),
        "n_train": fitted_on(bench),
    }


@refusing(needing("probe", "features"))
def probe(bench: Bench) -> Iterator[Record]:
    """Share of held-out images that a linear classifier of frozen features of whole training images tells right.

    floor: of the same network, freshly initialized. See metrics.probe for how the classifier is found.
    """
    fresh, seed = untrained(bench)
    (hits, found), (floor, _) = told(bench.model.method, bench), told(fresh, bench)
    about = {"epochs": bench.options.probe_epochs, "features": len(found.mean), "ridge": found.ridge}
    yield bench.record("probe", share(hits)[0], **beside(bench, hits, floor, seed), **about)


def stream(bench: Bench) -> Callable[[Tensor], Tensor]:
    """Stream positions (B,) -> items of the images that are fitted on, mirrored or cut as the data set does in training."""
    data, n, seed = bench.train, fitted_on(bench), bench.options.seed
    if n == len(data):
        return lambda index: data.items(seed, index)
    chosen = bench.order(data, n)

    def items(index: Tensor) -> Tensor:
        changed = data.items(seed, index).cpu() // len(data)
        return chosen[shuffled(seed, index, n)] + len(data) * changed

    return items


def tuned(method: Method, bench: Bench, what: str) -> Tensor:
    """(n,) whether each held-out image is told right after the backbone of the method was trained for it."""
    o, model, n = bench.options, bench.model, fitted_on(bench)
    backbone = copy.deepcopy(method).requires_grad_(True).backbone()  # type: ignore[operator]
    items, size = stream(bench), min(o.finetune_batch, n)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        index = torch.arange(step * size, (step + 1) * size)
        made = bench.train.batch(items(index).to(model.device), index.to(model.device), model.space)
        return made.x, made.label

    steps = max(1, round(o.finetune_epochs * n / size))
    classifier = finetune(backbone, model.facts.classes, batch, steps, o, model.device, what)
    answers = list[Tensor]()
    for some in held_out(bench).split(model.space.rows):
        made = bench.test.batch(some, some, model.space)
        with torch.no_grad(), autocast(o.precision, model.device):
            answers.append(classifier(made.x).argmax(1) == made.label)
    return torch.cat(answers)


@refusing(needing("finetune", "backbone"))
def tuning(bench: Bench) -> Iterator[Record]:
    """Share of held-out images told right once the encoder is trained for it, with a linear layer on its features.

    floor: of the same network trained alike from fresh initialization.
    """
    fresh, seed = untrained(bench)
    hits, floor = tuned(bench.model.method, bench, "finetune"), tuned(fresh, bench, "finetune from scratch")
    about = {"epochs": bench.options.finetune_epochs, "lr": bench.options.finetune_lr}
    yield bench.record("finetune", share(hits)[0], **beside(bench, hits, floor, seed), **about)
