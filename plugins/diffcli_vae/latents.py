"""Latents as files, and in numbers: how many bits they hold, and how they are spread."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from diffcli.core.random import Rows
from diffcli.engine.files import durable
from diffcli.engine.precision import autocast
from diffcli.engine.weights import HEADER_CAP, header, unpack
from diffcli.errors import DataError, RunError, show

LARGEST = 4 * 2**30  # bytes of a file
FAR = 0.5  # of the standard deviation: a mean beyond it is worth a line


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of the weights and the scale: latents mean nothing to another autoencoder."""
    digest = sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write(z: Tensor, whose: str, facts: dict[str, Any], folder: Path) -> Path:
    """latents.safetensors: z (n, z, h, w) float32, scaled; whose: fingerprint of the autoencoder."""
    path = folder / "latents.safetensors"
    durable(path, save({"z": z.contiguous()}, {"autoencoder": whose, "diffcli": json.dumps(facts)}))
    return path


def rows(path: Path) -> int:
    """How many latents a file holds by its header; 0 where it is none, as `read` will say."""
    if not path.is_file():  # a pipe would wait for a writer
        return 0
    try:
        with path.open("rb") as file:
            head = file.read(8)
            head += file.read(min(int.from_bytes(head, "little"), HEADER_CAP))
        n = int(header(head, path.name)["z"]["shape"][0])
        return n if 0 < 4 * n <= path.stat().st_size else 0
    except (RunError, OSError, ValueError, LookupError, TypeError):
        return 0


def read(path: Path, shape: tuple[int, ...], whose: str) -> Tensor:
    """(n, *shape) of a file that `write` made with the same autoencoder. DataError says what is wrong with any other."""
    again = "make it with diffcli sample vae --keep-latents"
    if not path.is_file():
        raise DataError(f"no latents at {show(path)}; {again}")
    if path.stat().st_size > LARGEST:
        raise DataError(f"{show(path)} is larger than {LARGEST // 2**30} GiB; keep fewer latents in a file")
    try:
        data = path.read_bytes()
        z, about = unpack(data, path.name).get("z"), header(data, path.name).get("__metadata__") or {}
        made_by = about.get("autoencoder", "")
    except (RunError, OSError) as error:
        raise DataError(f"{show(path)} is no whole file of latents: {show(error)}; {again}") from None
    if z is None or z.ndim != 4 or z.dtype != torch.float32 or not len(z):
        raise DataError(f"{show(path)} holds no float32 z of (n, {', '.join(map(str, shape))}); {again}")
    if tuple(z.shape[1:]) != shape:
        raise DataError(f"{show(path)} holds latents of {tuple(z.shape[1:])}, but this model's are {shape}; {again}")
    if not bool(torch.isfinite(z).all()):
        raise DataError(f"{show(path)} holds latents that are not finite; {again}")
    if made_by != whose:
        raise DataError(
            f"{show(path)} is of another autoencoder ({show(made_by[:12]) or 'which it does not name'}, and this is "
            f"{whose[:12]}); decode it with its own, or {again}"
        )
    return z


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
