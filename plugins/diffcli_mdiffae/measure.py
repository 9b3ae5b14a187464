"""What a masked diffusion autoencoder is measured by: more steps, guidance, its speed, and what its latents are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffcli.core.random import Rows
from diffcli.engine.precision import autocast
from diffcli.engine.walk import walk
from diffcli.metrics.reconstruction import psnr

Record = dict[str, Any]
MOST = 1000  # held-out images of a measure that reconstructs them several times
COUNTS = (1, 2, 4, 8)  # of steps
SCALE = 1.05  # of guidance: the published one
TIMED = 16  # images at a time; the least of
TURNS = 3  # as many times is told


def held_out(bench: Any, most: int) -> Iterator[tuple[Any, Rows]]:
    """Held-out images a part at a time, each with the noise that sampling gives it."""
    n = min(bench.options.samples, most, len(bench.test))
    for items in torch.arange(n, device=bench.model.device).split(bench.model.space.rows):
        yield bench.test.batch(items, items, bench.model.space), Rows(bench.options.seed, items, n)


@torch.no_grad()
def restored(bench: Any, batch: Any, rng: Rows, **changes: Any) -> Tensor:
    """What comes back of images (B, C, H, W) as [eval] says, but for some of its options."""
    model, o = bench.model, replace(bench.options, **changes)
    way = walk(model, o, bench.recipe.parts["sampler"], len(batch.x))
    with autocast(o.precision, model.device):
        *_, (_, x) = model.method.trajectory(batch, model.space.shape, way.sampler, way.times, way.wrap, rng)
    return x


def nearness(bench: Any, **changes: Any) -> Tensor:
    """(n,) PSNR of held-out images in dB, each by itself, clamped."""
    parts = []
    for batch, rng in held_out(bench, MOST):
        x, y = (((part.clamp(-1, 1) + 1) / 2).cpu() for part in (batch.x, restored(bench, batch, rng, **changes)))
        parts.append(psnr(x, y))
    return torch.cat(parts)


def told(bench: Any, name: str, values: Tensor, **more: Any) -> Record:
    """The mean of values (n,) with its standard error."""
    error = float(values.std() / math.sqrt(len(values)))
    about = {"unit": "dB", "split": bench.test.split, "images": len(values), "seed": bench.options.seed, **more}
    return bench.record(name, float(values.mean()), standard_error=error, **about)  # type: ignore[no-any-return]


def steps(bench: Any) -> Iterator[Record]:
    """`eval mdiffae --metric steps`: PSNR of held-out images by 1, 2, 4 and 8 steps, unguided."""
    for count in COUNTS:
        values = nearness(bench, steps=count, guidance_scale=1.0)
        yield told(bench, f"steps[{count}]", values, steps=count, final=bench.options.final)


def guided(bench: Any) -> Iterator[Record]:
    """`eval mdiffae --metric guided`: PSNR at w = 1.05, and `plain` at w = 1, of the same images."""
    plain = nearness(bench, guidance_scale=1.0)
    values = nearness(bench, guidance_scale=SCALE)
    yield told(bench, "guided[psnr]", values, guidance_scale=SCALE, plain=float(plain.mean()))


@torch.no_grad()
def speed(bench: Any) -> Iterator[Record]:
    """`eval mdiffae --metric speed`: milliseconds an image of encoding and of decoding, the least of three turns."""
    model, method = bench.model, bench.model.method
    items = torch.arange(min(TIMED, len(bench.test)), device=model.device)
    x, rng = bench.test.batch(items, items, model.space).x, Rows(bench.options.seed, items, len(items))
    with autocast(bench.options.precision, model.device):
        z = method.encode(x)
        calls: dict[str, Callable[[], Tensor]] = {
            "encode": lambda: method.encode(x),
            "decode": lambda: method.decode(z, rng),
        }
        for name, call in calls.items():
            least = min(timed(call) for _ in range(TURNS))
            about = {"images": len(items), "threads": torch.get_num_threads(), "steps": 1}
            yield bench.record(f"speed[{name}]", 1000 * least / len(items), unit="ms", **about)


def timed(call: Callable[[], Tensor]) -> float:
    """Seconds of a call, until its result is on the CPU."""
    began = time.perf_counter()
    call().cpu()
    return time.perf_counter() - began


@torch.no_grad()
def statistics(bench: Any) -> Iterator[Record]:
    """`eval mdiffae --metric latents`: mean and deviation of held-out latents, and how many times fewer numbers they are."""
    method, parts, size = bench.model.method, [], 0
    for batch, _ in held_out(bench, bench.options.images):
        parts.append(method.encode(batch.x).cpu().double())
        size = batch.x[0].numel()
    z = torch.cat(parts)
    numbers = {"mean": float(z.mean()), "std": float(z.std()), "compression": size / z[0].numel()}
    for name, value in numbers.items():
        yield bench.record(f"latents[{name}]", value, split=bench.test.split, images=len(z))
