"""A trained model and a sampler -> images or texts. Sample i depends on (seed, i) alone, whatever the batch it is drawn in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.random import Rows
from diffcli.engine.assemble import Facts
from diffcli.engine.load import Model, split
from diffcli.engine.precision import autocast
from diffcli.engine.ranks import ALONE, World
from diffcli.engine.walk import Walk, walk
from diffcli.errors import NonFinite, UsageError, show
from diffcli.options import nearest
from diffcli.parts import Part
from diffcli.sections import SampleOptions

NULL = -1  # the label of what is drawn without a class
SPAN = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")  # 3, or 0-4 with both ends


@dataclass
class Samples:
    """What was drawn, on the CPU.

    x: images (n, C, H, W) in [-1, 1], unclamped, or the numbers (n, L) of characters; x_0: the same in the process's
    space; start: x at t = 1; label: (n,) or None; frames: snapshots (t, what can be looked at) from noise to x, none
    unless they were asked for; nfe: network evaluations per sample; given: what the samples were drawn around, x in the
    process's space and where it was known, None where nothing was given.
    """

    x: Tensor
    x_0: Tensor
    start: Tensor
    label: Tensor | None
    frames: list[tuple[float, Tensor]]
    nfe: float
    calls: int
    seconds: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    given: Batch | None = None

    def name(self, i: int) -> str:
        """What the files of sample i are called: its number, and its class where it has one."""
        return f"{i:03d}" + ("" if self.label is None or self.label[i] == NULL else f"-class{int(self.label[i])}")


def wishes(model: Model, o: SampleOptions) -> tuple[int, Tensor | None]:
    """(number of samples, their labels): class k of those asked for goes to samples k, k + K, k + 2K, ..."""
    conditional, classes = getattr(model.method, "conditional", False), model.facts.classes
    guidable = model.method.guidable
    if not conditional:
        for key in ("label", "per_class", *(() if guidable else ("guidance_interval",))):
            if getattr(o, key) is not None:
                raise UsageError(
                    f"--{key.replace('_', '-')} needs a model that knows classes, but {model.where} was trained without; train with --cond label"
                )
        if o.guidance_scale != 1 and not guidable:
            raise UsageError(
                f"--guidance-scale {o.guidance_scale:g} needs a condition, but {model.where} was trained without; train with --cond label"
            )
        return o.samples, None
    wanted = list(range(classes)) if o.label is None else labels(o.label, model.facts)
    if wanted == [NULL] and o.guidance_scale not in (1, *defaults(model)):
        raise UsageError(
            f"--guidance-scale {o.guidance_scale:g} leads from the null class to another, but --label none asks for no other; leave one of them out"
        )
    n = o.per_class * len(wanted) if o.per_class else o.samples
    return n, torch.tensor(wanted)[torch.arange(n) % len(wanted)]


def defaults(model: Model) -> Iterator[float]:
    """The guidance scales that the run's own recipe samples and measures with: nobody asked for them."""
    yield model.recipe.sample.guidance_scale
    yield model.recipe.eval.get("guidance_scale", 1.0)


def classes_of(model: Model, o: SampleOptions) -> list[int] | None:
    """The classes that samples are of, in order, as often as --label names them; None is each class once, or none at all."""
    if o.label is None or not getattr(model.method, "conditional", False):
        return None
    wanted = sorted(labels(o.label, model.facts))
    return None if wanted in ([NULL], list(range(model.facts.classes))) else wanted


def unconditioned(model: Model, o: SampleOptions) -> bool:
    """Whether samples of a model that knows classes are asked for without any: --label none."""
    knows = o.label is not None and getattr(model.method, "conditional", False)
    return knows and labels(str(o.label), model.facts) == [NULL]


def guided(model: Model, o: SampleOptions) -> SampleOptions:
    """The options without guidance where only the null class is asked for: both of its sides would be the same."""
    return replace(o, guidance_scale=1.0) if unconditioned(model, o) else o


def labels(text: str, facts: Facts) -> list[int]:
    """The classes that --label asks for: numbers from 0, ranges of them, and names in any case, as in 0-4,star.

    none, where no class is called so, is the null class alone: samples of all data.
    """
    known = dict(zip(facts.class_names, range(facts.classes), strict=False))
    known = {name.casefold(): label for name, label in known.items()} | known
    found: list[int] = []
    if text.strip() == "none" and "none" not in known:
        return [NULL]
    for piece in map(str.strip, text.split(",")):
        span = SPAN.fullmatch(piece)
        low, high = (int(span[1]), int(span[2] or span[1])) if span else (0, -1)
        name = piece if piece in known else piece.casefold()
        if low <= high < facts.classes:
            found += range(low, high + 1)
        elif name in known:
            found.append(known[name])
        else:
            hint = "" if span else nearest(name, known, f"; their names are {', '.join(facts.class_names[:12])}")
            raise UsageError(
                f"--label {show(piece, 80)} is no class of {facts.name}: there are {facts.classes}, 0 to {facts.classes - 1}{hint}"
            )
    return found


def snapshots(
    path: Iterator[tuple[Tensor, Tensor]], wanted: set[int], last: int
) -> Iterator[tuple[int, float, Tensor]]:
    """(number, t, x) of the start, of each wanted step and of the end."""
    for k, (t, x) in enumerate(path):
        if k in wanted or k in (0, last):
            yield k, float(t.max()), x


@torch.inference_mode()
def sample(
    model: Model,
    o: SampleOptions,
    part: Part | None,
    *,
    tick: Callable[[int], None] = lambda done: None,
    world: World = ALONE,
) -> Samples:
    """What [sample] and [sampler] ask for. tick: told how many are done. Raises NonFinite where any is not finite.

    world: the processes that draw together, each some of the parts; all of them have all samples in the end.
    """
    n, label = wishes(model, o)
    o = guided(model, o)
    way = walk(model, o, part, min(o.batch_size, n))
    held_out = cache(lambda: split(model, model.recipe, "test"))
    parts, size = list[Samples](), min(o.batch_size, -(-n // world.size))
    for index in torch.arange(n, device=model.device).split(size)[world.rank :: world.size]:
        began = time.perf_counter()
        wish = Batch(index, label=None if label is None else label[index.cpu()].to(model.device))
        parts.append(walked(model, o, way, model.method.wish(wish, o, held_out), n))
        parts[-1].seconds.append((time.perf_counter() - began) / len(index))
        tick(min(n, (int(index[-1]) + 1) * world.size))
    shares = world.gathered((parts, sum(c.rows for c in way.counted), sum(c.calls for c in way.counted)))
    parts = [p for row in zip_longest(*(drawn for drawn, _, _ in shares)) for p in row if p is not None]
    return Samples(
        x=torch.cat([p.x for p in parts]),
        x_0=torch.cat([p.x_0 for p in parts]),
        start=torch.cat([p.start for p in parts]),
        label=None if label is None else torch.cat([p.label for p in parts if p.label is not None]),
        frames=[(k[0][0], torch.cat([x for _, x in k])) for k in zip(*(p.frames for p in parts), strict=True)],
        nfe=sum(rows for _, rows, _ in shares) / n,
        calls=sum(calls for _, _, calls in shares),
        seconds=[s for p in parts for s in p.seconds],
        facts=provenance(model, o, part, way),
        given=joined([p.given for p in parts if p.given is not None]),
    )


def walked(model: Model, o: SampleOptions, way: Walk, wish: Batch, n: int) -> Samples:
    """Some rows of n, walked at once."""
    last = len(way.times) - 1
    wanted = {round(k * last / max(1, o.trajectory - 1)) for k in range(o.trajectory)} | {last}
    with autocast(o.precision, model.device):
        rng = Rows(o.seed, wish.index, n)
        path = model.method.trajectory(wish, model.space.shape, way.sampler, way.times, way.wrap, rng)
        seen = list(snapshots(path, wanted, last))
    finite(seen[-1][2], way, o)
    # every decoding begins its streams anew: x is the same whatever is shown, and a decoder's noise does not flicker
    x = model.space.decode(seen[-1][2], Rows(o.seed, wish.index, n))
    finite(x, way, o)
    shown = [(t, x_t) for k, t, x_t in seen if k in wanted] if o.trajectory else []
    frames = [(t, host(model.space.look(x_t, Rows(o.seed, wish.index, n)))) for t, x_t in shown]
    start, end = (host(seen[k][2]) for k in (0, -1))
    label = None if wish.label is None else wish.label.cpu()  # of what is completed, where the method is given an image
    return Samples(host(x), end, start, label, frames, 0.0, 0, given=None if wish.x is None else joined([wish]))


def host(x: Tensor) -> Tensor:
    """On the CPU: numbers in float32, tokens as they are."""
    return (x.float() if x.is_floating_point() else x).cpu()


def joined(batches: list[Batch]) -> Batch | None:
    """The rows of all batches, on the CPU; None where there are none."""
    columns = [None if rows[0] is None else torch.cat([r.cpu() for r in rows]) for rows in zip(*batches, strict=True)]
    return Batch(*columns) if columns else None


def finite(x: Tensor, way: Walk, o: SampleOptions) -> None:
    """Refuse samples with NaN or infinity: they would be drawn as black pictures. Tokens are always finite."""
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        name = f" of {type(way.sampler).__name__}" if way.sampler else ""
        remedy = "bound x_0 with --clip, take more --steps, or train longer"
        if way.sampler is None:  # one pass through the network, and no walk
            remedy = "draw from an earlier checkpoint of the run, or train it again with a lower --lr"
        raise NonFinite(f"{bad} of {len(x)} samples{name} are not finite; {remedy} (seed {o.seed})")


def provenance(model: Model, o: SampleOptions, part: Part | None, way: Walk) -> dict[str, Any]:
    """What every number and picture made of these samples must name."""
    from diffcli.options import table

    return {
        "run": model.where,
        "step": model.step,
        "weights": model.weights,
        "method": model.recipe.method.name,
        "dataset": model.facts.name,
        "trained_on": model.facts.split,
        "sampler": None if part is None else {"name": part.name, **table(part.config)},
        "steps": None if part is None else len(way.times) - 1,
        "spacing": way.spacing or None,
        "label": "none" if unconditioned(model, o) else classes_of(model, o),
        "per_class": o.per_class,
        "guidance_scale": o.guidance_scale,
        "guidance_interval": o.guidance_interval and list(o.guidance_interval),
        "clip": model.space.bound if o.clip is None else o.clip,
        "autoencoder_sha256": model.encoder and model.encoder.sha256,
        "seed": o.seed,
        "device": str(model.device),
        "torch": torch.__version__,
    }
