"""A small masked method beside the built-in ones, for tests: its network is a table; a set of pictures and one of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from diffcli.core.masked import MaskedDenoiser, categorical
from diffcli.core.method import Batch, Method, Preview
from diffcli.core.random import shuffled
from diffcli.plugin import Spec, Use, hookimpl, opt
from diffcli.samplers.base import Sampler
from diffcli.sections import SampleOptions

ALPHABET = "\n ab\u00e9\x1b\u202e"  # two of them would drive a terminal
LENGTH, SIDE, COMPLETIONS = 20, 6, 3


@dataclass(frozen=True, kw_only=True)
class FillSample(SampleOptions):
    inpaint: bool = opt(False, "Complete held-out images whose right half is missing.")
    prompt: str | None = opt(None, "Text that each sample begins with.")


@hookimpl
def diffcli_methods():
    yield Spec(
        name="fill",
        target="reveal_plugin:Fill",
        summary="A table.",
        family="masked",
        uses={
            "model": Use(name="fill-table"),
            "schedule": Use(name="loglinear"),
            "dataset": Use(name="fill-pictures"),
            "sampler": Use(name="fill-reveal"),
        },
        sample=FillSample,
        plots={"known": "reveal_plugin:known", "held-out": "reveal_plugin:held_out", "wrong": "reveal_plugin:wrong"},
    )


@hookimpl
def diffcli_models():
    yield Spec(name="fill-table", target="reveal_plugin:Table", summary="A table.", family="masked")


@hookimpl
def diffcli_samplers():
    yield Spec(name="fill-reveal", target="reveal_plugin:reveal", summary="Ancestral, plainly.", family="masked")


@hookimpl
def diffcli_datasets():
    for name in ("pictures", "texts"):
        yield Spec(name=f"fill-{name}", target=f"reveal_plugin:{name}", summary=f"Made {name}.")


class Table(nn.Module):
    """Logits of each place, whatever stands in the others."""

    def __init__(self, config: Any, space: Any, *, classes: int = 0):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(*space.shape, space.vocab))

    def forward(self, x_t: Tensor, c_noise: Tensor, cond: Any) -> Tensor:
        return self.logits.expand(len(x_t), -1, -1)


class Fill(Method):
    """E -log p(x_0) of the tokens that are masked, at t = 1/2."""

    def __init__(self, config: Any, space: Any, *, model: Any, process: Any):
        super().__init__()
        self.space, self.denoiser = space, MaskedDenoiser(model(), process)

    def preview(self) -> Preview:
        return Preview(sample={"steps": 3}, plots=("held-out",), opening=("known",))

    def loss(self, batch: Batch, rng: Any) -> dict[str, Tensor]:
        t = torch.full((len(batch.x),), 0.5, dtype=torch.float64)
        x_t = self.denoiser.process.mask(batch.x, t, rng.uniform("mask", self.space.shape))
        log_probs = self.denoiser(x_t, t, {}).log_probs
        return {"loss": F.nll_loss(log_probs.flatten(0, 1), batch.x.flatten())}

    def wish(self, batch: Batch, options: Any, held_out: Any) -> Batch:
        if getattr(options, "inpaint", False):  # measures have options of their own
            data = held_out()
            x = data.batch(batch.index // COMPLETIONS % len(data), batch.index, self.space).x
            known = (torch.arange(SIDE) < SIDE // 2).expand(SIDE, SIDE).flatten()
            return batch._replace(x=x, known=known.expand(x.shape))
        if (prompt := getattr(options, "prompt", None)) is not None:
            given = F.pad(self.space.read(prompt), (0, LENGTH - len(prompt)))
            known = torch.arange(LENGTH) < len(prompt)
            rows = (len(batch.index), LENGTH)
            return batch._replace(x=given.expand(rows), known=known.expand(rows))
        return batch

    def begin(self, shape: tuple[int, ...], batch: Batch, rng: Any) -> Tensor:
        x = super().begin(shape, batch, rng)
        return x if batch.x is None else torch.where(batch.known, batch.x, x)


class Reveal(Sampler):
    """A masked token stays with probability stay(t, s); s = 0 reveals all."""

    family = "masked"

    def step(self, denoiser: Any, x_t: Tensor, point: Any, *, cond: Any, state: Any, rng: Any) -> tuple[Tensor, Any]:
        t, s = point
        stay, _ = denoiser.process.posterior(t, s)
        drawn = categorical(denoiser(x_t, t, cond).log_probs, rng.uniform("value", x_t.shape[1:]))
        reveal = (x_t == denoiser.process.mask_id) & (rng.uniform("reveal", x_t.shape[1:]) >= stay)
        return torch.where(reveal, drawn, x_t), state


def reveal(config: Any) -> Reveal:
    return Reveal()


class Made:
    """A set in memory: pictures (n, 1, 6, 6) in [-1, 1], or numbers (n, 20) of characters."""

    def __init__(self, x: Tensor, name: str, split: str, alphabet: str = ""):
        self.x, self.name, self.split, self.alphabet = x, name, f"{name}/{split}", alphabet
        self.shape, self.classes, self.class_names, self.licence = tuple(x.shape[1:]), 0, (), "CC0-1.0"

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: Any) -> Made:
        return self

    def items(self, seed: int, index: Tensor) -> Tensor:
        return shuffled(seed, index, len(self))

    def batch(self, items: Tensor, index: Tensor, space: Any) -> Batch:
        return Batch(index, space.encode(self.x[items]))


def numbers(split: str, *shape: int) -> Tensor:
    """In [0, 1), another for each split."""
    return torch.rand(8, *shape, generator=torch.Generator().manual_seed(len(split)))


def pictures(config: Any, split: str) -> Made:
    return Made(numbers(split, 1, SIDE, SIDE) * 2 - 1, "fill-pictures", split)


def texts(config: Any, split: str) -> Made:
    return Made((numbers(split, LENGTH) * len(ALPHABET)).long(), "fill-texts", split, ALPHABET)


def known(bench: Any) -> Image.Image:
    """As wide as there are training items."""
    return Image.new("L", (len(bench.train), 3))


def held_out(bench: Any) -> Image.Image:
    """As wide as there are held-out items and as high as there are samples."""
    return Image.new("RGB", (len(bench.test), len(bench.samples.x)))


def wrong(bench: Any) -> str:
    return "no picture"
