"""A method that encodes images and makes them again: what is given to it, and what is kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffcli.core.method import Batch, Method
from diffcli.core.random import Rng
from diffcli.core.space import Space
from diffcli.errors import UsageError
from diffcli_vision import inputs, latents
from diffcli_vision.reconstructing import ReconstructionSample


class Reconstruction(Method):
    """An autoencoder. space: of its images; latent_shape: (c, h, w) of what an image of that space is encoded to."""

    reconstructs: ClassVar[bool] = True

    space: Space
    latent_shape: Any  # of three numbers; an attribute, or a property of a network's

    def __init__(self) -> None:
        super().__init__()
        self.opened: tuple[Any, list[tuple[Tensor, latents.Size | None]]] | None = None  # what --latents named last

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> latents (B, c, h, w): a function of x, not a draw."""

    @abstractmethod
    def decode(self, z: Tensor, rng: Rng) -> Tensor:
        """Latents (B, c, h, w) -> images (B, C, H, W), not clamped."""

    def wish(self, batch: Batch, options: Any, held_out: Callable[[], Any]) -> Batch:
        """Held-out image i for sample i, or picture i of --input, all at the size of the method's images; in z, row i of
        --latents."""
        items, device = batch.index.cpu().tolist(), batch.index.device
        if isinstance(options, ReconstructionSample) and options.latents is not None:
            codes = [z for z, _ in self.codes(options)]
            if any(z.shape != codes[0].shape for z in codes):
                raise UsageError(
                    f"the latents of {options.latents} are of several sizes, which are no one batch; draw them with "
                    "diffcli sample, or decode them one by one"
                )
            return batch._replace(z=torch.stack([codes[i % len(codes)] for i in items]).to(device))
        text = options.input if isinstance(options, ReconstructionSample) else None
        return batch._replace(x=given(batch.index, text, held_out, self.space))

    def files(self, options: Any) -> list[Path]:
        given = options.input if isinstance(options, ReconstructionSample) else None
        return [] if given is None else inputs.listed(given)

    def picture(self, path: Path) -> Tensor:
        read = inputs.read_whole if self.any_size else inputs.read
        return scaled(read(path, self.space.shape))

    def codes(self, options: Any) -> list[tuple[Tensor, latents.Size | None]]:
        """The latents of --latents, read once for all batches that are drawn with these options."""
        if not isinstance(options, ReconstructionSample) or options.latents is None:
            return []
        if self.opened is None or self.opened[0] is not options:
            whose = latents.fingerprint(self)
            codes = latents.read(options.latents, tuple(self.latent_shape), whose, any_size=self.any_size)
            self.opened = options, codes
        return self.opened[1]

    def keep(self, samples: Any, options: Any, folder: Path) -> list[Path]:
        """The latents that --keep-latents asked for, of the images as they were given.

        samples: engine.sample.Samples, or engine.restore.Restored, which knows the latents of its pictures.
        """
        if not options.keep_latents:
            return []
        codes = getattr(samples, "codes", None)
        if codes is None:
            device = next(self.parameters()).device
            with torch.no_grad():
                codes = [z for x in samples.given.x.split(self.space.rows) for z in self.encode(x.to(device)).cpu()]
            sizes = [tuple(samples.given.x.shape[-2:])] * len(codes)
        else:
            sizes = samples.sizes
        return [latents.write(codes, sizes, latents.fingerprint(self), samples.facts, folder)]


def scaled(pixels: Any) -> Tensor:
    """uint8 of any shape -> [-1, 1]."""
    return torch.from_numpy(pixels.copy()).float() / 127.5 - 1


def given(index: Tensor, text: str | None, held_out: Callable[[], Any], space: Space) -> Tensor:
    """(B, C, H, W): picture i of the files that a text names, resized to the images of a space, else held-out image i; in turn."""
    items = index.cpu()
    if text is not None:
        files = inputs.listed(text)
        pictures = [scaled(inputs.read(files[i % len(files)], space.shape)) for i in items.tolist()]
        return torch.stack(pictures).to(index.device)
    data = held_out()
    items = items % len(data)
    x: Tensor = data.batch(items, items, space).x.to(index.device)
    return x
