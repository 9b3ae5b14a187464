"""How near what a method makes of held-out images is to them: PSNR and SSIM."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffcli.engine.records import Record
from diffcli.engine.refusals import Refusal, refusing
from diffcli.errors import UsageError
from diffcli.metrics import reconstruction

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench

FITTED = 20_000  # most training images that principal components are fitted on
PIXELS = 4096  # most numbers of an image for that: 32 x 32 x 3 take seconds, the cube of it more


def reconstructs(what: str) -> Refusal:
    """UsageError where samples are not made of whole held-out images."""

    def check(bench: Bench) -> None:
        model = bench.model
        if not model.method.reconstructs:
            name = model.recipe.method.name
            raise UsageError(f"{what} is of reconstructions, but {name} makes none; leave it out")

    return check


def pairs(bench: Bench) -> tuple[Tensor, Tensor]:
    """(held-out images, what came back of them), (n, C, H, W) in [0, 1]: what lies outside is clamped."""
    given = bench.samples.given
    if given is None or given.x is None:
        raise UsageError(f"{bench.model.where} was given no images to reconstruct; leave --metric out")
    x, y = ((part.clamp(-1, 1) + 1) / 2 for part in (given.x, bench.samples.x))
    return x, y


def mean(values: Tensor) -> tuple[float, float]:
    """(mean, standard error) of values (n,)."""
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


@refusing(reconstructs("psnr"))
def psnr(bench: Bench) -> Iterator[Record]:
    """Mean PSNR of held-out images in dB, each by itself, and its floor: as many principal components as latents."""
    x, y = pairs(bench)
    value, error = mean(reconstruction.psnr(x, y))
    about = {"unit": "dB", "split": bench.test.split, "n": len(x)}
    yield bench.record("psnr", value, standard_error=error, **floor(bench, x), **about)


def floor(bench: Bench, x: Tensor) -> dict[str, Any]:
    """Of PSNR, clamped as reconstructions are; {} where the method has no latents, or images are too large."""
    method, model = bench.model.method, bench.model
    if not hasattr(method, "encode") or x[0].numel() > PIXELS:
        return {}
    with torch.no_grad():
        count = method.encode(x[:1].to(model.device) * 2 - 1).numel()
    training = (bench.real(bench.train, FITTED)[0] + 1) / 2
    linear = reconstruction.Components(training, count).reconstruct(x).clamp(0, 1)
    value, error = mean(reconstruction.psnr(x, linear))
    return {"floor": value, "floor_error": error, "floor_n": len(training), "floor_components": count}


@refusing(reconstructs("ssim"))
def ssim(bench: Bench) -> Iterator[Record]:
    """Mean structural similarity of held-out images (Wang et al. 2004); window: pixels a side."""
    x, y = pairs(bench)
    parts = zip(x.split(bench.model.space.rows), y.split(bench.model.space.rows), strict=True)
    value, error = mean(torch.cat([reconstruction.ssim(a, b) for a, b in parts]))
    about = {"window": reconstruction.window(*x.shape[-2:]), "split": bench.test.split, "n": len(x)}
    yield bench.record("ssim", value, standard_error=error, **about)
