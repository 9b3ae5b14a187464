"""The measures that fit any method; a method brings its own in Spec.metrics. Each takes a Bench and gives records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from diffcli.core.random import Rows
from diffcli.engine.sample import wishes
from diffcli.errors import UsageError
from diffcli.metrics.frechet import frechet
from diffcli.metrics.likelihood import bits_per_dim
from diffcli.metrics.neighbors import vote

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench

JUDGED = 10000  # most held-out images that tell how good a judge is
NLL_IMAGES = 256  # most images that nll integrates: 200 evaluations and 100 gradients each
Record = dict[str, Any]


def loss(bench: Bench) -> Iterator[Record]:
    """The method's own loss on held-out images."""
    n = min(bench.options.images, len(bench.test))
    value = bench.loss(n)
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
    for items in torch.arange(n, device=bench.model.device).split(bench.model.space.rows):
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
    """UsageError where samples are no pictures, or have no covariance."""
    if bench.model.facts.alphabet:
        raise UsageError(f"fd is of pictures, but {bench.model.where} is of text; leave it out of --metric")
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
