"""What a masked autoencoder by denoising is measured by: each decoder at its own level, the walk along them, and their cost."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffcli.core.denoiser import Cond, Denoiser, Prediction
from diffcli.core.method import Batch
from diffcli.core.random import Rows
from diffcli.engine.precision import autocast
from diffcli.engine.refusals import refusing
from diffcli.engine.sample import provenance
from diffcli.engine.walk import walk as walk_of
from diffcli.errors import UsageError

Record = dict[str, Any]
BEST = 1e-10  # a smaller squared error, in [0, 1], counts as this one: 100 dB
GRADED = 64  # images whose gradients are compared


def psnr(error: Tensor) -> Tensor:
    """10 log10(1/error) in dB of squared errors in [-1, 1], each a quarter in [0, 1]."""
    return -10 * (error / 4).clamp(min=BEST).log10()


def mean(values: Tensor) -> dict[str, float]:
    """value and standard_error over images (n,)."""
    return {"value": float(values.mean()), "standard_error": float(values.std() / math.sqrt(len(values)))}


def refuse_nothing(bench: Any) -> None:
    """UsageError where nothing is seen, or too few images are for an error."""
    ratio, method = bench.options.mask_ratio, bench.model.method
    if not method.seen(method.config.mask_ratio if ratio is None else ratio):
        raise UsageError("hidden patches are measured beside visible ones; give a --mask-ratio below 1")
    if min(bench.options.images, bench.options.samples, len(bench.test)) < 2:
        raise UsageError("a standard error takes 2 images or more; raise --images or --samples")


def completed(bench: Any, n: int) -> Iterator[tuple[Batch, Rows]]:
    """n held-out images a part at a time, each with its mask and its noise, both of (seed, i)."""
    model, o = bench.model, bench.options
    for items in torch.arange(n, device=model.device).split(model.space.rows):
        yield model.method.wish(Batch(items), o, lambda: bench.test), Rows(o.seed, items, n)


@refusing(refuse_nothing)
@torch.no_grad()
def decoders(bench: Any) -> Iterator[Record]:
    """Each decoder at its own level, with the true image under the noise: its squared error of hidden patches, and its PSNR.

    skip: the error of c_skip x_t alone, where F is 0; ratio: the error over that, below 1 where the decoder knows more.
    Numbers in [-1, 1], not clamped; PSNR is the mean over images.
    """
    method, o = bench.model.method, bench.options
    d, n = method.denoiser, min(o.images, len(bench.test))
    found = torch.zeros(method.config.decoders, 2, n, dtype=torch.float64)  # of a decoder and its skip path
    for batch, rng in completed(bench, n):
        with autocast(o.precision, bench.model.device):
            cond, x_0 = method.cond(batch, rng), batch.x
            for i in range(len(found)):
                t = method.levels.draw(i, rng)
                x_t = d.process.diffuse(x_0, rng.normal("eps", x_0.shape[1:]), t)  # type: ignore[union-attr]
                f = d.decoded(i, x_t, t, cond)
                for path, each in enumerate((f, torch.zeros_like(f))):
                    found[i, path, batch.index.cpu()] = (
                        d.hidden((d.solve(x_t, t, each).x_0 - x_0) ** 2, cond).double().cpu()
                    )
    about = {"split": bench.test.split, "images": n, "mask_ratio": ratio(bench)}
    for i, (own, skip) in enumerate(found):
        about["sigma"] = sigmas(method.levels, i)
        share = own.mean() / skip.mean()
        off = float((own - share * skip).std() / skip.mean() / math.sqrt(n))  # of a ratio of means, to first order
        yield bench.record(f"decoders[{i} error]", **mean(own), **about)
        yield bench.record(f"decoders[{i} skip]", **mean(skip), **about)
        yield bench.record(f"decoders[{i} ratio]", value=float(share), standard_error=off, **about)
        yield bench.record(f"decoders[{i} psnr]", **mean(psnr(own)), skip=float(psnr(skip).mean()), unit="dB", **about)


def ratio(bench: Any) -> float:
    """The share of patches that is hidden."""
    asked, own = bench.options.mask_ratio, bench.model.method.config.mask_ratio
    return float(own if asked is None else asked)


def sigmas(levels: Any, i: int) -> list[float]:
    """The level of a decoder, or both ends of its interval."""
    ends = levels.sigma[i : i + 1] if levels.kind == "karras" else levels.sigma[i : i + 2]
    return [float(f"{s:.6g}") for s in ends.tolist()]


class Noted:
    """A denoiser that keeps what it last said of x_0."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser, self.process = denoiser, denoiser.process
        self.x_0: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        pair: Prediction = self.denoiser(x_t, t, cond)
        self.x_0 = pair.x_0
        return pair


def filled(batch: Batch) -> Tensor:
    """The image with its hidden patches in the mean colour of what is seen."""
    x, known = batch.x, batch.known
    assert x is not None and known is not None
    seen = known.to(x)
    colour = (x * seen).sum((2, 3), keepdim=True) / seen.sum((2, 3), keepdim=True)
    return torch.where(known, x, colour)


def timed(path: Iterator[Any], device: torch.device) -> Iterator[float]:
    """Seconds that a walk has taken at each of its points, encoding first; what is done between them is not counted."""
    spent = 0.0
    while True:
        began = time.perf_counter()
        if next(path, None) is None:
            return
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent += time.perf_counter() - began
        yield spent


def apart(x: Tensor | None, batch: Batch) -> Tensor:
    """(B,) mean squared error of hidden patches, on the CPU."""
    assert x is not None and batch.x is not None and batch.known is not None
    hidden = ~batch.known
    return (((x - batch.x) ** 2 * hidden).flatten(1).sum(1) / hidden.flatten(1).sum(1)).double().cpu()


@refusing(refuse_nothing)
@torch.no_grad()
def walk(bench: Any) -> Iterator[Record]:
    """The run's sampler from noise: PSNR of hidden patches in what is predicted after each step, and the seconds it took.

    floor: hidden patches in the mean colour of the visible ones of the same masks; gain: of the first step over it, image by
    image. Nothing is clamped. Later steps add detail, and the mean of all that is possible has the least squared error: PSNR
    need not rise along the walk.
    """
    model, method, o = bench.model, bench.model.method, bench.options
    part, n = bench.recipe.parts["sampler"], min(o.samples, len(bench.test))
    way = walk_of(model, o, part, model.space.rows)
    errors = torch.zeros(len(way.times), n, dtype=torch.float64)  # of the floor, and of each step
    seconds = torch.zeros(len(way.times), dtype=torch.float64)
    for batch, rng in completed(bench, n):
        noted, rows = list[Noted](), batch.index.cpu()
        with autocast(o.precision, model.device):
            path = method.trajectory(batch, model.space.shape, way.sampler, way.times, noting(way.wrap, noted), rng)
            for k, took in enumerate(timed(path, model.device)):
                seconds[k] += took / n
                errors[k, rows] = apart(noted[-1].x_0 if k else filled(batch), batch)
        bench.tick(int(rows[-1]) + 1)
    about = provenance(model, o, part, way) | {"nfe": sum(c.rows for c in way.counted) / n}
    about |= {"split": bench.test.split, "images": n, "mask_ratio": ratio(bench), "unit": "dB"}
    floor, *steps = psnr(errors)
    yield bench.record("walk[floor]", **mean(floor), of_mean=float(psnr(errors[0].mean())), **about)
    sigma = method.denoiser.process.sigma(way.times).tolist()
    for k, one in enumerate(steps, 1):
        yield bench.record(f"walk[{k}]", **mean(one), sigma=sigma[k - 1], seconds_per_image=float(seconds[k]), **about)
    yield bench.record("walk[gain]", **mean(steps[0] - floor), **about)


def noting(wrap: Callable[[Denoiser], Denoiser], noted: list[Noted]) -> Callable[[Denoiser], Denoiser]:
    """The wrappers of a walk, and around them one that keeps x_0."""

    def both(denoiser: Denoiser) -> Denoiser:
        noted.append(Noted(wrap(denoiser)))
        return noted[-1]

    return both


@torch.no_grad()
def flops(bench: Any) -> Iterator[Record]:
    """Floating-point operations of one image, two a multiplication with addition, as torch counts matrix products.

    Those of attention are counted as it is written out, whichever kernel computes it.
    """
    method, model = bench.model.method, bench.model
    net, (batch, rng) = method.denoiser.net, next(completed(bench, 1))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        cond = method.cond(batch, rng)
    encoder = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        net.decode(0, cond["features"], cond["visible"], batch.x, torch.zeros(1, device=model.device))
    decoder = counter.get_total_flops()
    about = {"unit": "FLOP", "split": bench.test.split, "images": 1, "mask_ratio": ratio(bench)}
    yield bench.record("flops[encoder]", encoder, **about)
    yield bench.record("flops[decoder]", decoder, **about)
    yield bench.record("flops[walk]", encoder + method.config.decoders * decoder, **about)


def refuse_detached(bench: Any) -> None:
    """UsageError where decoders send the encoder no gradient."""
    if bench.model.method.config.encoder_grad == "detach":
        raise UsageError("with --encoder-grad detach no decoder trains the encoder; leave gradients out")


@refusing(refuse_detached)
def gradients(bench: Any) -> Iterator[Record]:
    """Each decoder's share of the gradient of the encoder, by norm, on held-out images, under both weightings."""
    method: Any = copy.deepcopy(bench.model.method).eval().requires_grad_()
    d, n = method.denoiser, min(GRADED, len(bench.test))
    batch, rng = next(completed(bench, n))
    x_0: Any = batch.x
    trained, norms = list(d.net.encoder.parameters()), dict[str, list[float]](edm=[], none=[])
    with torch.enable_grad():
        cond = method.cond(batch, rng)
        for i in range(method.config.decoders):
            t = method.levels.draw(i, rng)
            errors = d.errors(i, x_0, rng.normal("eps", x_0.shape[1:]), t, cond)
            for name, weight in (("edm", torch.ones_like(t)), ("none", method.c_out(t) ** 2)):
                found = torch.autograd.grad((weight.to(errors) * errors).mean(), trained, retain_graph=True)
                norms[name].append(float(torch.nn.utils.get_total_norm(list(found))))
    about = {"split": bench.test.split, "images": n}
    for name, values in norms.items():
        for i, value in enumerate(values):
            yield bench.record(f"gradients[{i} {name}]", value / sum(values), norm=value, **about)
