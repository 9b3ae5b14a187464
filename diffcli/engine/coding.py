"""Images -> latents -> images, by any method that has encode and decode: a decoder that diffuses walks as any sample does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.random import Rows
from diffcli.engine.load import Model, asked
from diffcli.engine.precision import autocast
from diffcli.engine.sample import finite, wishes
from diffcli.engine.walk import Walk, walk
from diffcli.errors import UsageError
from diffcli.nn.blocks import crop, pad
from diffcli.parts import Part
from diffcli.sections import SampleOptions

BEYOND = 1 + 1e-3  # a number that is larger is not in [-1, 1], whatever was rounded
PIXELS = 2**19  # most of them at a time: larger pictures go through the network one by one
GIVEN = ("samples", "per_class", "input", "latents", "keep_latents", "trajectory")  # say what is decoded, not how


@torch.no_grad()
def encode(model: Model, x: Tensor) -> Tensor:
    """See Model.encode."""
    accept(model, x)
    o = model.recipe.sample
    parts = [encoded(model, part, o) for part in x.split(rows(o, *x.shape[-2:]))]
    return torch.cat(parts).to(x.device)


@torch.no_grad()
def decode(model: Model, z: Tensor, height: int | None = None, width: int | None = None, **options: Any) -> Tensor:
    """See Model.decode."""
    able(model)
    if odd := [name for name in GIVEN if name in options]:
        raise UsageError(f"{odd[0]} is no option of decode, which decodes the latents that it is given; leave it out")
    recipe = asked(model.recipe, samples=len(z), **options)
    o, part = recipe.sample, recipe.parts.get("sampler")
    _, label = wishes(model, o)
    shape = decodes_to(model, z)
    box = centred(model, shape, height, width)
    made = []
    for index in torch.arange(len(z)).split(rows(o, *shape[1:])):
        batch = Batch(index, label=None if label is None else label[index], z=z[index.to(z.device)])
        made.append(crop(decoded(model, o, part, batch, len(z), shape)[0], box))
    return torch.cat(made).clamp(-1, 1).to(z.device)


def reconstruct(model: Model, x: Tensor, **options: Any) -> Tensor:
    """See Model.reconstruct."""
    able(model)
    padded = pad(x, model.method.multiple)[0] if model.method.any_size and x.ndim == 4 else x
    return decode(model, encode(model, padded), *x.shape[-2:], **options)


def encoded(model: Model, x: Tensor, o: SampleOptions) -> Tensor:
    """The latents of one batch, on the model's device."""
    with autocast(o.precision, model.device):
        z: Tensor = model.method.encode(x.to(model.device)).float()  # type: ignore[operator]
    return z


def decoded(
    model: Model, o: SampleOptions, part: Part | None, batch: Batch, n: int, shape: tuple[int, ...]
) -> tuple[Tensor, Walk]:
    """The pictures (B, *shape) that the latents of one batch, batch.z, are walked to, unclamped; and the walk.

    n: how many there are in all. Raises NonFinite.
    """
    area = shape[1] * shape[2] / (model.facts.shape[1] * model.facts.shape[2])
    way = walk(model, o, part, max(1, round(len(batch.index) * area)))  # in rows of the size it was trained on
    batch = Batch(*(None if column is None else column.to(model.device) for column in batch))
    rng = Rows(o.seed, batch.index, n)
    with autocast(o.precision, model.device):
        for _, x in model.method.trajectory(batch, shape, way.sampler, way.times, way.wrap, rng):
            y = x
    finite(y, way, o)
    return y.float(), way


def rows(o: SampleOptions, height: int, width: int) -> int:
    """Pictures of this size in one batch."""
    return max(1, min(o.batch_size, PIXELS // (height * width)))


def able(model: Model) -> None:
    """UsageError for a model that has no latents."""
    if not (hasattr(model.method, "encode") and hasattr(model.method, "decode")):
        raise UsageError(
            f"{model.where} is a model of {model.recipe.method.name}, which encodes nothing; load an autoencoder"
        )


def accept(model: Model, x: Tensor) -> None:
    """UsageError for what are no images, or cannot be encoded as they are."""
    able(model)
    if not isinstance(x, Tensor):
        raise UsageError(
            f"images are a tensor, not a {type(x).__name__}; of files there is diffcli sample RUN --input FILES"
        )
    method, (channels, height, width) = model.method, model.space.shape
    wanted = (
        f"(B, {channels}, H, W) with sides that {method.multiple} divides"
        if method.any_size
        else f"(B, {channels}, {height}, {width})"
    )
    fits = x.ndim == 4 and x.is_floating_point() and x.shape[1] == channels and len(x) > 0
    if fits and method.any_size:
        fits = min(x.shape[-2:]) > 0 and not any(side % method.multiple for side in x.shape[-2:])
    if not fits or (not method.any_size and tuple(x.shape[1:]) != model.space.shape):
        more = "; reconstruct pads and crops others" if method.any_size else ""
        raise UsageError(f"images are floats {wanted} in [-1, 1], not {tuple(x.shape)} of {x.dtype}{more}")
    if not bool(torch.isfinite(x).all()) or float(x.abs().max()) > BEYOND:
        raise UsageError("images are finite and in [-1, 1], and these are not; of 8 bits they are x / 127.5 - 1")


def decodes_to(model: Model, z: Tensor) -> tuple[int, ...]:
    """(C, H, W) of the pictures that latents are of, padded as they were encoded. UsageError for those of another model."""
    method, wanted = model.method, tuple(model.method.latent_shape)  # type: ignore[arg-type]
    fits = z.ndim == 4 and z.is_floating_point() and len(z) > 0
    if not fits or (z.shape[1] != wanted[0] if method.any_size else tuple(z.shape[1:]) != wanted):
        size = "h, w" if method.any_size else f"{wanted[1]}, {wanted[2]}"
        raise UsageError(f"latents are floats (B, {wanted[0]}, {size}), not {tuple(z.shape)} of {z.dtype}")
    if not method.any_size:
        return model.space.shape
    return (model.space.shape[0], z.shape[2] * method.multiple, z.shape[3] * method.multiple)


def centred(model: Model, shape: tuple[int, ...], height: int | None, width: int | None) -> tuple[int, int, int, int]:
    """Where a picture of this size lies in the padded one, as `pad` put it. UsageError where it was not padded to that."""
    sides = [full if side is None else side for full, side in zip(shape[1:], (height, width), strict=True)]
    over = [full - side for full, side in zip(shape[1:], sides, strict=True)]
    if not all(0 <= more < model.method.multiple for more in over):
        raise UsageError(
            f"these latents are of pictures of {shape[1]}x{shape[2]} after padding, which none of {sides[0]}x{sides[1]} is "
            "padded to; give the height and width of the picture that was encoded"
        )
    return over[0] // 2, over[1] // 2, sides[0], sides[1]
