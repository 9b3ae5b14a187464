"""What masked diffusion is measured by: the bound on the likelihood, what it fills in, and how consistent it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.random import Rows
from diffcli.engine.precision import autocast
from diffcli.engine.refusals import refusing
from diffcli.engine.sample import provenance
from diffcli.engine.walk import walk
from diffcli.errors import UsageError
from diffcli_vision.wrappers import Corrupted

Record = dict[str, Any]


def mean(values: Tensor) -> tuple[float, float]:
    """(mean, standard error) over images (n,). UsageError for one alone, which has no error."""
    if len(values) < 2:
        raise UsageError("a standard error takes 2 images or more; raise --images or --samples")
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


@torch.no_grad()
def bounds(bench: Any, images: int, draws: int) -> tuple[Tensor, Tensor]:
    """(nats (n, draws), rate (n, draws)) of clean held-out images: weighted terms of the NELBO and where they were taken.

    All n x draws times together are stratified in (0, 1), so the error over images is an upper one.
    """
    model, method, seed = bench.model, bench.model.method, bench.options.seed
    n = min(images, len(bench.test))
    nats, rates = torch.zeros(n, draws, dtype=torch.float64), torch.zeros(n, draws, dtype=torch.float64)
    for draw in range(draws):
        for items in torch.arange(n, device=model.device).split(model.space.rows):
            batch, rng = bench.test.batch(items, items, model.space), Rows(seed, items + draw * n, n * draws)
            u = rng.strata("time")
            with autocast(bench.options.precision, model.device):
                terms, _ = method.bound(batch.x, u, method.cond(batch, rng), rng)
            nats[items.cpu(), draw] = terms.double().cpu()
            rates[items.cpu(), draw] = method.denoiser.process.rate(u)
    return nats, rates


def nelbo(bench: Any) -> Iterator[Record]:
    """The bound on -log p of clean held-out data, in nats a sequence and bits a dimension; and its part at rates below p."""
    model, options = bench.model, bench.options
    length, text, p = model.space.shape[0], bool(model.facts.alphabet), model.method.config.p
    nats, rates = bounds(bench, options.images, options.draws)
    about = {"split": bench.test.split, "images": len(nats), "draws": options.draws, "seed": options.seed}
    value, error = mean(nats.mean(1))
    yield bench.record("nelbo", value, unit="nats", standard_error=error, **about)
    scale = 1 / (length * math.log(2))
    unit = "bits/char" if text else "bits/dim"
    yield bench.record(f"nelbo[{unit}]", value * scale, unit=unit, standard_error=error * scale, **about)
    if text:
        perplexity = math.exp(value / length)
        yield bench.record(
            "perplexity", perplexity, unit="a character", standard_error=perplexity * error / length, **about
        )
    if p:
        below, its_error = mean(torch.where(rates < p, nats, 0.0).mean(1))
        yield bench.record(f"nelbo[rate<{p:g}]", below, unit="nats", standard_error=its_error, **about)


def hidden(bench: Any) -> float:
    """The share of pixels that is hidden: as asked for, as in training, or half."""
    return next((p for p in (bench.options.missing, bench.model.method.config.p) if p), 0.5)


def given(bench: Any, items: Tensor, share: float) -> tuple[Batch, Tensor]:
    """(what is known of held-out images, their truth)."""
    method, space = bench.model.method, bench.model.space
    truth = bench.test.batch(items, items, space)
    batch = Corrupted(bench.test, share, method.config.corruption_seed).batch(items, items, space)
    return batch, truth.x


@torch.no_grad()
def recovery(bench: Any) -> Iterator[Record]:
    """Share of hidden held-out tokens that are filled in rightly: the likeliest in one pass, and drawn by the sampler."""
    model, method, options = bench.model, bench.model.method, bench.options
    share, n = hidden(bench), min(options.samples, len(bench.test))
    sampler = bench.recipe.parts["sampler"]
    way = walk(model, options, sampler, model.space.rows)
    right: dict[str, list[Tensor]] = {"one pass": [], "sampled": []}
    for items in torch.arange(n, device=model.device).split(model.space.rows):
        batch, truth = given(bench, items, share)
        rng = Rows(options.seed, items, n)
        with autocast(options.precision, model.device):
            *_, (_, drawn) = method.trajectory(batch, model.space.shape, way.sampler, way.times, way.wrap, rng)
            cond = method.cond(batch, rng)
            likeliest = method.denoiser(batch.x, rng.strata("time"), cond).log_probs.argmax(-1)
        rows = ~batch.known.all(1)  # an image in which nothing is hidden says nothing
        for name, filled in (("one pass", likeliest), ("sampled", drawn)):
            hits = ((filled == truth) & ~batch.known)[rows].sum(1) / (~batch.known)[rows].sum(1)
            right[name].append(hits.double().cpu())
    if not any(map(len, right["sampled"])):
        raise UsageError(
            f"--missing {share:g} hides nothing of these {n} images; give a larger share, or more --samples"
        )
    about = {"split": bench.test.split, "missing": share, "seed": options.seed}
    drawn_by = provenance(model, options, sampler, way) | {"nfe": sum(c.rows for c in way.counted) / n}
    for name, how in (("one pass", {}), ("sampled", drawn_by)):
        hits = torch.cat(right[name])
        value, error = mean(hits)
        yield bench.record(f"recovery[{name}]", value, standard_error=error, **{**how, **about, "images": len(hits)})


def refuse_consistency(bench: Any) -> None:
    """UsageError where nothing was missing."""
    if not bench.model.method.config.p:
        raise UsageError(
            f"consistency is measured at the rate of missing pixels, but {bench.model.where} was trained with none missing; "
            "measure a model of --missing above 0"
        )


@refusing(refuse_consistency)
@torch.no_grad()
def consistency(bench: Any) -> Iterator[Record]:
    """The squared martingale error below the rate of missing pixels, a token, on held-out images that miss them."""
    model, method, options = bench.model, bench.model.method, bench.options
    share, n = method.config.p, min(options.images, len(bench.test))
    errors = []
    for items in torch.arange(n, device=model.device).split(model.space.rows):
        batch, _ = given(bench, items, share)
        rng = Rows(options.seed, items, n)
        with autocast(options.precision, model.device):
            errors.append(method.consistency(batch.x, method.cond(batch, rng), rng).double().cpu())
    value, error = mean(torch.cat(errors))
    yield bench.record(
        "consistency", value, standard_error=error, split=bench.test.split, images=n, missing=share, seed=options.seed
    )
