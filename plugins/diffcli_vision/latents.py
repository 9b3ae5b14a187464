"""Latents as files, of images of one size or of several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from diffcli.engine.files import durable, parse_json
from diffcli.engine.weights import HEADER_CAP, header, unpack
from diffcli.errors import DataError, RunError, show

LARGEST = 4 * 2**30  # bytes of a file
FAR = 1 << 24  # pixels a side of a picture, at most
Size = tuple[int, int]  # (H, W) of the picture that was encoded


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of the weights and the scale: latents mean nothing to another autoencoder."""
    digest = sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write(codes: Sequence[Tensor], sizes: Sequence[Size], whose: str, facts: dict[str, Any], folder: Path) -> Path:
    """latents.safetensors: float32, scaled; z (n, c, h, w) where all are of one size, else z.00000, z.00001, ... (c, h, w).

    sizes: of the pictures; whose: fingerprint of the autoencoder.
    """
    path = folder / "latents.safetensors"
    alike = len({code.shape for code in codes}) == 1
    named = {"z": torch.stack(list(codes))} if alike else {f"z.{k:05d}": code for k, code in enumerate(codes)}
    about = {"autoencoder": whose, "sizes": json.dumps(list(sizes)), "diffcli": json.dumps(facts)}
    durable(path, save({name: z.contiguous() for name, z in named.items()}, about))
    return path


def rows(path: Path) -> int:
    """How many latents a file holds by its header; 0 where it is none, as `read` will say."""
    if not path.is_file():  # a pipe would wait for a writer
        return 0
    try:
        with path.open("rb") as file:
            head = file.read(8)
            head += file.read(min(int.from_bytes(head, "little"), HEADER_CAP))
        listed = header(head, path.name)
        n = int(listed["z"]["shape"][0]) if "z" in listed else sum(name.startswith("z.") for name in listed)
        return n if 0 < 4 * n <= path.stat().st_size else 0
    except (RunError, OSError, ValueError, LookupError, TypeError):
        return 0


def read(path: Path, shape: tuple[int, ...], whose: str, *, any_size: bool = False) -> list[tuple[Tensor, Size | None]]:
    """The latents (c, h, w) of a file that `write` made with the same autoencoder, and the sizes of their pictures.

    shape: theirs, of which only the channels count where they may be of any size. DataError says what is wrong with any
    other file.
    """
    again = "make it with diffcli sample --keep-latents"
    if not path.is_file():
        raise DataError(f"no latents at {show(path)}; {again}")
    if path.stat().st_size > LARGEST:
        raise DataError(f"{show(path)} is larger than {LARGEST // 2**30} GiB; keep fewer latents in a file")
    try:
        data = path.read_bytes()
        found, about = unpack(data, path.name), header(data, path.name).get("__metadata__") or {}
        made_by, sizes = about.get("autoencoder", ""), about.get("sizes")
        codes = list(found["z"]) if "z" in found else [found[f"z.{k:05d}"] for k in range(len(found))]
    except KeyError:
        codes = []
    except (RunError, OSError, TypeError) as error:
        raise DataError(f"{show(path)} is no whole file of latents: {show(error)}; {again}") from None
    if not codes or any(z.ndim != 3 or z.dtype != torch.float32 for z in codes):
        raise DataError(f"{show(path)} holds no float32 z of (n, {', '.join(map(str, shape))}); {again}")
    if odd := [z for z in codes if (z.shape[:1] != shape[:1] if any_size else z.shape != shape)]:
        wanted = f"{(shape[0], 'h', 'w')}".replace("'", "") if any_size else f"{shape}"
        raise DataError(f"{show(path)} holds latents of {tuple(odd[0].shape)}, but this model's are {wanted}; {again}")
    if not all(bool(torch.isfinite(z).all()) for z in codes):
        raise DataError(f"{show(path)} holds latents that are not finite; {again}")
    if made_by != whose:
        raise DataError(
            f"{show(path)} is of another autoencoder ({show(made_by[:12]) or 'which it does not name'}, and this is "
            f"{whose[:12]}); decode it with its own, or {again}"
        )
    return list(zip(codes, pictured(sizes, len(codes), path), strict=True))


def pictured(text: str | None, n: int, path: Path) -> list[Size | None]:
    """The sizes of n pictures; None for each where the file says nothing of them."""
    if text is None:
        return [None] * n
    try:
        sizes = parse_json(f'{{"sizes":{text}}}'.encode(), path.name)["sizes"]
        if len(sizes) == n and all(type(side) is int and 0 < side < FAR for h, w in sizes for side in (h, w)):
            return [(h, w) for h, w in sizes]
    except (RunError, TypeError, ValueError, KeyError):
        pass
    raise DataError(f"{show(path)} says nothing usable of the sizes of its pictures; make it with --keep-latents again")
