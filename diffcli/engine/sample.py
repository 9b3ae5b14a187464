"""A trained model and a sampler -> images. Image i depends on (seed, i) alone, whatever the batch it is drawn in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffcli.core.denoiser import Clipped, Counted, Denoiser, Final, Guided
from diffcli.core.method import Batch
from diffcli.core.random import Rows
from diffcli.engine.assemble import Facts
from diffcli.engine.load import Model
from diffcli.engine.precision import autocast
from diffcli.errors import NonFinite, UsageError, show
from diffcli.options import nearest
from diffcli.parts import Part
from diffcli.registry import registry
from diffcli.samplers.base import Sampler
from diffcli.samplers.grid import grid
from diffcli.sections import SampleOptions

SPAN = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")  # 3, or 0-4 with both ends
ONE_CALL = 16  # on a CPU a batch up to this is guided in one doubled call, a larger one in two


@dataclass
class Samples:
    """What was drawn, on the CPU.

    x: (n, C, H, W) images in [-1, 1], unclamped; x_0: the same in the process's space; start: x at t = 1;
    label: (n,) or None; frames: snapshots (t, images) from noise to x; nfe: network evaluations per image.
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


@dataclass(frozen=True)
class Walk:
    """How a model is sampled: the sampler, its grid, and the wrappers of the denoiser."""

    sampler: Sampler | None
    times: Tensor
    wrap: Callable[[Denoiser], Denoiser]
    counted: list[Counted]


def wishes(model: Model, o: SampleOptions) -> tuple[int, Tensor | None]:
    """(number of images, their labels): class k of those asked for goes to images k, k + K, k + 2K, ..."""
    conditional, classes = getattr(model.method, "conditional", False), model.facts.classes
    if not conditional:
        for flag, value in (("--label", o.label), ("--per-class", o.per_class)):
            if value is not None:
                raise UsageError(
                    f"{flag} needs a model that knows classes, but {model.where} was trained without; train with --cond label"
                )
        if o.guidance_scale != 1:
            raise UsageError(
                f"--guidance-scale {o.guidance_scale:g} needs a condition, but {model.where} was trained without; train with --cond label"
            )
        return o.samples, None
    wanted = list(range(classes)) if o.label is None else labels(o.label, model.facts)
    n = o.per_class * len(wanted) if o.per_class else o.samples
    return n, torch.tensor(wanted)[torch.arange(n) % len(wanted)]


def labels(text: str, facts: Facts) -> list[int]:
    """The classes that --label asks for: numbers from 0, ranges of them, and names in any case, as in 0-4,star."""
    known = dict(zip(facts.class_names, range(facts.classes), strict=False))
    known = {name.casefold(): label for name, label in known.items()} | known
    found: list[int] = []
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


def walk(model: Model, o: SampleOptions, part: Part | None, images: int) -> Walk:
    """The walk that [sample] and [sampler] describe; images: rows at a time."""
    method, counted = model.method, list[Counted]()
    low, high = interval(o)
    batched = o.guidance_calls == "one" or (
        o.guidance_calls == "auto" and (model.device.type != "cpu" or images <= ONE_CALL)
    )

    def wrap(denoiser: Denoiser) -> Denoiser:
        counted.append(Counted(denoiser))
        wrapped: Denoiser = counted[-1]
        if o.guidance_scale != 1:
            wrapped = Guided(wrapped, o.guidance_scale, method.weaken, interval=(low, high), batched=batched)
        if bound := model.space.bound if o.clip is None else o.clip:
            wrapped = Clipped(wrapped, bound)
        return Final(wrapped) if o.final == "x0" else wrapped

    if part is None:
        return Walk(None, torch.zeros(0, dtype=torch.float64), wrap, counted)
    sampler: Sampler = registry().get("sampler", part.name).load()(part.config)
    steps = o.steps or sampler.steps(method.denoiser.process)
    return Walk(sampler, method.times(steps, o.spacing, partial(grid, rho=o.rho)), wrap, counted)


def interval(o: SampleOptions) -> tuple[float, float]:
    """The times between which guidance acts."""
    if o.guidance_interval is None:
        return 0.0, 1.0
    if len(o.guidance_interval) != 2 or o.guidance_interval[0] > o.guidance_interval[1]:
        raise UsageError(
            f"--guidance-interval takes two times, the lower first, such as 0.2,0.8; not {','.join(map(str, o.guidance_interval))}"
        )
    low, high = o.guidance_interval
    return low, high


def snapshots(
    path: Iterator[tuple[Tensor, Tensor]], wanted: set[int], last: int
) -> Iterator[tuple[int, float, Tensor]]:
    """(number, t, x) of the start, of each wanted step and of the end."""
    for k, (t, x) in enumerate(path):
        if k in wanted or k in (0, last):
            yield k, float(t.max()), x


@torch.inference_mode()
def sample(
    model: Model, o: SampleOptions, part: Part | None, *, tick: Callable[[int], None] = lambda done: None
) -> Samples:
    """Images as [sample] and [sampler] ask for. tick: told how many are done. Raises NonFinite where any is."""
    n, label = wishes(model, o)
    way = walk(model, o, part, min(o.batch_size, n))
    last = len(way.times) - 1
    wanted = {round(k * last / max(1, o.trajectory - 1)) for k in range(o.trajectory)}
    parts: list[Samples] = []
    for index in torch.arange(n, device=model.device).split(o.batch_size):
        began = time.perf_counter()
        rng = Rows(o.seed, index, n)
        wish = Batch(index, label=None if label is None else label[index.cpu()].to(model.device))
        with autocast(o.precision, model.device):
            path = model.method.trajectory(wish, model.space.shape, way.sampler, way.times, way.wrap, rng)
            seen = list(snapshots(path, wanted, last))
        frames = [(t, model.space.decode(x, rng).float().cpu()) for k, t, x in seen if k in wanted or k == last]
        finite(seen[-1][2], way, o)
        finite(frames[-1][1], way, o)
        start, end = (seen[k][2].float().cpu() for k in (0, -1))
        parts.append(
            Samples(frames[-1][1], end, start, None, frames, 0.0, 0, [(time.perf_counter() - began) / len(index)])
        )
        tick(int(index[-1]) + 1)
    counters = way.counted
    return Samples(
        x=torch.cat([p.x for p in parts]),
        x_0=torch.cat([p.x_0 for p in parts]),
        start=torch.cat([p.start for p in parts]),
        label=label,
        frames=[(k[0][0], torch.cat([x for _, x in k])) for k in zip(*(p.frames for p in parts), strict=True)],
        nfe=sum(c.rows for c in counters) / n,
        calls=sum(c.calls for c in counters),
        seconds=[s for p in parts for s in p.seconds],
        facts=provenance(model, o, part, len(way.times) - 1),
    )


def finite(x: Tensor, way: Walk, o: SampleOptions) -> None:
    """Refuse images with NaN or infinity: they would be drawn as black pictures."""
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        raise NonFinite(
            f"{bad} of {len(x)} samples of {type(way.sampler).__name__} are not finite; "
            f"bound x_0 with --clip, take more --steps, or train longer (seed {o.seed})"
        )


def provenance(model: Model, o: SampleOptions, part: Part | None, steps: int) -> dict[str, Any]:
    """What every number and picture made of these samples must name."""
    from diffcli.options import table

    return {
        "run": model.where,
        "step": model.step,
        "weights": model.weights,
        "method": model.recipe.method.name,
        "dataset": model.facts.name,
        "sampler": None if part is None else {"name": part.name, **table(part.config)},
        "steps": steps,
        "spacing": o.spacing or getattr(model.method.denoiser.process, "spacing", "uniform"),
        "guidance_scale": o.guidance_scale,
        "clip": model.space.bound if o.clip is None else o.clip,
        "seed": o.seed,
        "device": str(model.device),
        "torch": torch.__version__,
    }
