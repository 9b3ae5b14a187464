"""Walks of tokens that the tests of the masked samplers share, on known denoisers of the kit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond
from diffcli.core.random import Rng, Rows
from diffcli.samplers import diffcli_samplers
from diffcli.samplers.base import Sampler
from diffcli.samplers.grid import grid
from diffcli.schedules.masked import CosineMask, LogLinear, PolynomialMask
from diffcli.testing.known import Fixed, Table, partly

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


__all__ = ["MORE", "NAMES", "PROCESSES", "SPECS", "Fixed", "Table", "make", "partly", "path"]
