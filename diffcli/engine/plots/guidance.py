"""`eval --plot guidance`: what the guidance scale does, in pictures of each class, in their diversity and to a judge."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from diffcli.engine import images
from diffcli.engine.compare import labels
from diffcli.engine.compared import REFERENCE, VOTING, classes
from diffcli.engine.measures import TRUSTED, judges
from diffcli.engine.plots.curves import Curve, curves, table
from diffcli.engine.plots.drawn import Drawn
from diffcli.engine.plots.sheet import said, sheet
from diffcli.engine.refusals import conditional, settled
from diffcli.engine.sample import Samples, sample, wishes
from diffcli.engine.walk import interval
from diffcli.errors import UsageError
from diffcli.metrics.neighbors import VOTERS, vote

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench
    from diffcli.sections import EvalOptions

CELL = 10  # images of a class at a scale
SIDE = 24  # an image is enlarged, by a whole factor, to at least this many pixels a side
CONVENTION = "eps = eps_null + w (eps_c - eps_null): w = 1 is no guidance, w = 0 no condition"
OF_TOKENS = CONVENTION.replace("eps", "log p")  # normalized again


class Sweep(NamedTuple):
    """The same noise at each scale. label: (classes,); x: (scales, classes, n, C, H, W) in [0, 1]; seconds a scale."""

    scales: list[float]
    label: Tensor
    x: Tensor
    drawn: list[Samples]
    seconds: list[float]


def refuse(bench: Bench) -> None:
    """UsageError for texts, where the model knows no classes, and for guidance that is not one of --scales at all times."""
    if bench.model.facts.alphabet:
        raise UsageError(f"--plot guidance is of pictures, but {bench.model.where} is of text; leave it out")
    conditional(bench, "--plot guidance")
    settled(bench, "guidance", ["guidance_scale"])
    if interval(bench.options) != (0, 1):
        raise UsageError(
            "--plot guidance is of guidance at all times: outside of --guidance-interval the class is told at w = 0 too; "
            "leave it out, or give 0,1"
        )
    draws(bench)


def options(bench: Bench, scale: float = 1.0) -> EvalOptions:
    """How the images at a scale are drawn: as many a class as --per-class says; nothing but the scale changes."""
    per_class = bench.options.per_class or CELL
    return replace(bench.options, per_class=per_class, guidance_scale=scale, trajectory=0)


def draws(bench: Bench) -> int:
    """How many samples the plot takes."""
    return wishes(bench.model, options(bench))[0] * len(set(bench.options.scales))


def guidance(bench: Bench) -> Drawn:
    """Rows are classes, columns guidance scales, cells --per-class images; their diversity and accuracy against the scale.

    The cells of a row share their initial noise and that of every step: sample i depends on (seed, i) and the scale alone.
    """
    refuse(bench)
    found = sweep(bench)
    names = [bench.model.facts.class_names[k] for k in found.label.tolist()]
    made = [spread(bench, found), *judged(bench, found)]
    convention = OF_TOKENS if bench.model.recipe.spec.family == "masked" else CONVENTION
    facts: dict[str, Any] = {
        **{key: value for key, value in found.drawn[0].facts.items() if key != "guidance_scale"},
        "convention": convention,
        "scales": found.scales,
        "classes": names,
        "per_class": found.x.shape[2],
        "samples": sum(len(one.x) for one in found.drawn),
        "nfe": [one.nfe for one in found.drawn],
        "seconds": found.seconds,
        "curves": {curve.name: curve._asdict() for curve in made},
    }
    title = [f"{said(facts)}, the same noise along a row", convention]
    facts["text"] = table(title, found.scales, names, made)
    pictures = {"guidance": grid(found, names, title), "diversity": curves(found.scales, {"": made})}
    return Drawn(pictures, facts)


guidance.refuse, guidance.draws = refuse, draws  # type: ignore[attr-defined]


def sweep(bench: Bench) -> Sweep:
    """Samples at each scale, with one and the same noise."""
    scales, part = sorted(set(bench.options.scales)), bench.recipe.parts.get("sampler")
    drawn, seconds, before = list[Samples](), list[float](), 0
    for scale in scales:
        began = time.perf_counter()
        drawn.append(sample(bench.model, options(bench, scale), part, tick=lambda done, b=before: bench.tick(b + done)))
        seconds.append(round(time.perf_counter() - began, 3))
        before += len(drawn[-1].x)
    x = torch.stack([(one.x.clamp(-1, 1) + 1) / 2 for one in drawn])
    x = x.unflatten(1, (options(bench).per_class, -1)).transpose(1, 2)  # samples k, k + K, k + 2K, ... are of one class
    assert drawn[0].label is not None
    return Sweep(scales, drawn[0].label[: x.shape[1]], x, drawn, seconds)


def diversity(x: Tensor) -> Tensor:
    """(..., n, C, H, W) in [0, 1] -> (...): the standard deviation of each pixel over the n images, averaged over pixels.

    That of these n, not an estimate for all there could be: 0 of equal images, and of half black, half white ones 0.5,
    the most there is.
    """
    return x.double().std(-4, correction=0).mean((-3, -2, -1))


def spread(bench: Bench, found: Sweep) -> Curve:
    """The diversity of each cell; of real images it is that of cells of as many held-out images of a class."""
    values = diversity(found.x)  # (scales, classes)
    real, label = bench.real(bench.test, REFERENCE)
    n, cells = found.x.shape[2], list[Tensor]()
    for k in found.label.tolist():
        of_class = (real[label == k] + 1) / 2
        cells += of_class[: len(of_class) // n * n].unflatten(0, (-1, n)) if len(of_class) >= n else []
    beside = float(torch.stack([diversity(cell) for cell in cells]).mean()) if cells else None
    return Curve("diversity", values.mean(1).tolist(), values.T.tolist(), beside)


def judged(bench: Bench, found: Sweep) -> list[Curve]:
    """Share of each cell that a judge gives the class asked for: a trained judge, else the nearest training images.

    None where neither is right on 9 in 10 held-out images.
    """
    test, test_label = bench.real(bench.test, REFERENCE)
    for extractor in judges(bench):
        real = float((classes(extractor, test) == test_label).double().mean())
        if real >= TRUSTED:
            told = torch.stack([classes(extractor, one.x.clamp(-1, 1)) for one in found.drawn])
            return [tally(f"accuracy[{extractor.name}]", told, found, real)]
    k = bench.options.neighbors or VOTERS
    train, label = bench.real(bench.train, bench.options.reference or VOTING)
    if len(train) < k:
        return []
    tell = lambda x: vote(x.flatten(1), train.flatten(1), label, k)
    real = float((tell(test) == test_label).double().mean())
    if real < TRUSTED:
        return []
    return [tally(f"agreement[{k}nn]", torch.stack([tell(one.x.clamp(-1, 1)) for one in found.drawn]), found, real)]


def tally(name: str, told: Tensor, found: Sweep, real: float) -> Curve:
    """Of answers (scales, samples), by scale and class."""
    hits = told == torch.stack([one.label for one in found.drawn])  # type: ignore[misc]
    values = hits.double().unflatten(1, (found.x.shape[2], -1)).mean(1)  # (scales, classes)
    return Curve(name, values.mean(1).tolist(), values.T.tolist(), real)


def grid(found: Sweep, names: Sequence[str], title: Sequence[str]) -> Image.Image:
    """Rows are classes, columns scales, cells small grids."""
    scale, columns = max(1, -(-SIDE // min(found.x.shape[-2:]))), across(found.x.shape[2])
    cells = [
        [images.grid(images.to_pictures(cell * 2 - 1), columns, scale=scale, gutter=1) for cell in of_class]
        for of_class in found.x.transpose(0, 1)
    ]
    return sheet(cells, heads=[f"w = {w:g}" for w in found.scales], captions=names, title=title)


def across(n: int) -> int:
    """Columns of a cell of n images: square, or a little wider where that leaves no gap, 5 for 10."""
    square = math.ceil(math.sqrt(n))
    return next((k for k in range(square, math.ceil(2 * math.sqrt(n))) if n % k == 0), square)


def beside(benches: Sequence[Bench], drawn: Sequence[Drawn]) -> Drawn:
    """The grids side by side, and in one figure the means of each run. UsageError where the runs have other scales."""
    names = labels([Path(bench.model.where) for bench in benches])
    scales = [made.facts["scales"] for made in drawn]
    if any(one != scales[0] for one in scales):
        raise UsageError(f"{names[0]} and the others have other scales; give them the same --scales")
    made = {name: [Curve(**c) for c in one.facts["curves"].values()] for name, one in zip(names, drawn, strict=True)}
    pictures = [one.pictures["guidance"] for one in drawn]
    figure = curves(scales[0], made)
    facts = {"scales": scales[0], "curves": {name: {c.name: c._asdict() for c in of} for name, of in made.items()}}
    facts["text"] = "\n\n".join(str(one.facts["text"]) for one in drawn)
    return Drawn({"guidance-comparison": sheet([pictures]), "diversity-comparison": figure}, facts)
