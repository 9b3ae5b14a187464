"""Devices and number formats."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from diffcli.errors import EnvironmentProblem


def device(name: str) -> torch.device:
    """The device asked for; auto takes CUDA, then MPS, then the CPU. EnvironmentProblem where it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(n for n, present in there.items() if present)
    if not there[name]:
        raise EnvironmentProblem(f"--device {name}: this machine has none that torch can use; take --device auto")
    return torch.device(name)


def precision_of(precision: str, on: torch.device) -> torch.dtype:
    """What a network computes in; auto is bfloat16 on CUDA and float32 elsewhere."""
    if precision == "auto":
        precision = "bf16" if on.type == "cuda" else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def autocast(precision: str, on: torch.device) -> AbstractContextManager[None]:
    """Where a network computes in the precision asked for; weights, losses and coefficients stay float32."""
    dtype = precision_of(precision, on)
    return nullcontext() if dtype == torch.float32 else torch.autocast(on.type, dtype)
