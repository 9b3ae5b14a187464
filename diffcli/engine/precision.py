"""Devices and number formats."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from diffcli.errors import EnvironmentProblem, UsageError

FORMATS = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}


def device(name: str, number: int | None = None) -> torch.device:
    """The device asked for; auto takes CUDA, then MPS, then the CPU. EnvironmentProblem where it is not there.

    number: of a process among those of its machine, each of which has a CUDA device of its own.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(n for n, present in there.items() if present)
    if not there[name]:
        raise EnvironmentProblem(f"--device {name}: this machine has none that torch can use; take --device auto")
    if name != "cuda" or number is None:
        return torch.device(name)
    if number >= (devices := torch.cuda.device_count()):
        raise EnvironmentProblem(
            f"--devices: process {number + 1} finds {devices} CUDA devices; take as many as there are"
        )
    return torch.device(name, number)


def precision_of(precision: str, on: torch.device) -> torch.dtype:
    """What a network computes in; auto is bfloat16 on CUDA and float32 elsewhere. UsageError for tf32 off CUDA."""
    if precision == "auto":
        precision = "bf16" if on.type == "cuda" else "fp32"
    if precision == "tf32" and on.type != "cuda":
        raise UsageError(
            f"--precision tf32 is a number format of CUDA devices, and this is {on.type}; take fp32 or bf16"
        )
    return FORMATS[precision]


def settle(precision: str, on: torch.device) -> None:
    """What products and convolutions of float32 are computed in on CUDA: TensorFloat-32 where that is asked for."""
    precision_of(precision, on)
    if on.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"


def autocast(precision: str, on: torch.device) -> AbstractContextManager[None]:
    """Where a network computes in the precision asked for; weights, losses and coefficients stay as they are."""
    dtype = precision_of(precision, on)
    return torch.autocast(on.type, dtype) if dtype in (torch.bfloat16, torch.float16) else nullcontext()
