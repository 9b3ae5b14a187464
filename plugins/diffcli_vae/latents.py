"""Latents in numbers: how many bits they hold, and how they are spread."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from diffcli.core.random import Rows
from diffcli.engine.precision import autocast

FAR = 0.5  # of the standard deviation: a mean beyond it is worth a line


def held_out(bench: Any) -> Iterator[tuple[Any, Rows]]:
    """Held-out images a part at a time, each with its own fixed noise."""
    n = min(bench.options.images, len(bench.test))
    for items in torch.arange(n, device=bench.model.device).split(bench.model.space.rows):
        yield bench.test.batch(items, items, bench.model.space), Rows(bench.options.seed, items, n)


@torch.no_grad()
def rate(bench: Any) -> Iterator[dict[str, Any]]:
    """`eval vae --metric rate`: KL of held-out images in nats and in bits a latent, and the squared error it buys."""
    method, parts = bench.model.method.eval(), []
    for batch, rng in held_out(bench):
        with autocast(bench.options.precision, bench.model.device):
            parts.append(torch.stack(method.terms(batch.x, rng), 1).double().cpu())
    rec, kl = torch.cat(parts).unbind(1)
    bits = kl / (math.log(2) * math.prod(method.network.shape))
    about = {"split": bench.test.split, "images": len(kl)}
    for name, values in (("rate[rec]", rec), ("rate[nats]", kl), ("rate[bits/latent]", bits)):
        error = float(values.std() / math.sqrt(len(values)))
        yield bench.record(name, float(values.mean()), standard_error=error, **about)


@torch.no_grad()
def statistics(bench: Any) -> Iterator[dict[str, Any]]:
    """`eval vae --metric latents`: the scale s and the bound of the model, and mean and deviation of held-out s mode."""
    method = bench.model.method.eval()
    z = torch.cat([method.encode(batch.x).cpu().double() for batch, _ in held_out(bench)])
    mean, std = float(z.mean()), float(z.std())
    about = {"split": bench.test.split, "images": len(z)}
    if abs(mean) > FAR * std:
        bench.note(
            f"the latents lie around {mean:.2f}, with a standard deviation of {std:.2f}: noise of mean 0 is far from them; "
            "a higher --kl-weight draws them in"
        )
    numbers = {"scale": float(method.latent_scale), "bound": float(method.latent_bound), "mean": mean, "std": std}
    for name, value in numbers.items():
        yield bench.record(f"latents[{name}]", value, **about)
