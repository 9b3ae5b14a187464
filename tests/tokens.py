"""Denoisers and walks of tokens that the tests of the masked samplers share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond
from diffcli.core.masked import MaskedPrediction, substitute
from diffcli.core.process import MaskedProcess
from diffcli.core.random import Rng, Rows
from diffcli.samplers import diffcli_samplers
from diffcli.samplers.base import Sampler
from diffcli.samplers.grid import grid
from diffcli.schedules.masked import CosineMask, LogLinear, PolynomialMask

SPECS = {spec.name: spec for spec in diffcli_samplers() if spec.family == "masked"}
MORE: dict[str, dict[str, Any]] = {
    "unmask plain": {"cache": False},
    "confidence surest": {"choice_temperature": 0.0},
    "remdm rescale": {"strategy": "rescale", "eta": 1.0},
    "remdm conf": {"strategy": "conf", "eta": 0.5},
}


def make(name: str, **options: Any) -> Sampler:
    spec = SPECS[name.partition(" ")[0]]
    sampler: Sampler = spec.load()(spec.config(**{**MORE.get(name, {}), **options}))
    return sampler


NAMES = [*SPECS, *MORE]
PROCESSES = {"loglinear": LogLinear, "cosine": CosineMask, "cubic": lambda vocab: PolynomialMask(vocab, 3.0)}


class Table:
    """A denoiser that looks up what it says by a whole number of x_t, so that a row is the same to the bit in any batch."""

    def __init__(self, process: MaskedProcess, length: int, entries: int = 61):
        logits = torch.randn(entries, length, process.vocab, generator=torch.Generator().manual_seed(0))
        self.process, self.table = process, 2 * logits

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> MaskedPrediction:
        entry = (x_t * torch.arange(1, x_t.shape[1] + 1)).sum(1) % len(self.table)
        return MaskedPrediction(substitute(self.table[entry].log_softmax(-1), x_t, self.process.mask_id))


class Fixed:
    """A denoiser of independent tokens: probs (L, V) or (V,), whatever the others are."""

    def __init__(self, process: MaskedProcess, probs: Tensor):
        self.process, self.log_probs = process, probs.double().log()

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> MaskedPrediction:
        log_probs = self.log_probs.expand(*x_t.shape, -1)
        return MaskedPrediction(substitute(log_probs, x_t, self.process.mask_id))


def partly(process: MaskedProcess, rows: int, length: int) -> Tensor:
    """Rows of which none, few, many and all tokens are masked, in turn."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(process.vocab, (rows, length), generator=generator)
    u = torch.rand(rows, length, generator=generator)
    return torch.where(u < (torch.arange(rows) % 4 / 3)[:, None], process.mask_id, values)


def path(
    sampler: Sampler,
    denoiser: Any,
    x: Tensor,
    steps: int,
    *,
    cond: Cond | None = None,
    rng: Rng | None = None,
    spacing: str = "uniform",
) -> Tensor:
    """(steps, B, L): x after each step."""
    rng = rng or Rows(0, torch.arange(len(x)), len(x))
    times = grid(denoiser.process, steps, spacing)
    return torch.stack([x_s for _, x_s in sampler.trajectory(denoiser, x, times, cond=cond or {}, rng=rng)])
