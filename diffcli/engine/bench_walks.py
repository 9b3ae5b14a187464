"""Walks of samplers on a device: whether the host ever waits for it, and a whole walk as one CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffcli.core.random import Rng
from diffcli.registry import registry
from diffcli.samplers.grid import grid


class Still(Rng):
    """Noise that is on the device already, the same at each call: no sampler is measured by what draws it."""

    def __init__(self, rows: int, on: torch.device):
        super().__init__(0, torch.arange(rows), rows)
        self.on, self.kept = on, dict[Any, Tensor]()

    def normal(self, purpose: str, shape: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        key = tuple(shape), dtype
        if key not in self.kept:
            self.kept[key] = torch.randn(len(self.index), *key[0], dtype=dtype).to(self.on)
        return self.kept[key]

    uniform = normal

    def draw(self, purpose: str, shape: Any, dtype: torch.dtype, fill: Any) -> Tensor:
        raise NotImplementedError("noise lies on the device")

    def strata(self, purpose: str) -> Tensor:
        raise NotImplementedError("nothing is trained")


def loop(name: str, denoiser: Any, rng: Rng, steps: int, on: torch.device) -> Callable[[Tensor], Tensor]:
    """x at t = 1 -> the end of the walk of a sampler, in bf16."""
    spec = registry().get("sampler", name)
    sampler = spec.load()(spec.config())
    times = grid(denoiser.process, steps, sampler.spacing)

    def run(x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(on.type, torch.bfloat16, cache_enabled=False):
            *_, (_, end) = sampler.trajectory(denoiser, x, times, cond={}, rng=rng)
        return end

    return run


def waits(run: Callable[[], object]) -> int:
    """How often the host waits for the device, as torch tells it."""
    run()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in told)


def captured(run: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Callable[[], object], Tensor]:
    """(replay, where its result lies) of the whole walk as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries choose and allocate outside of a capture
        for _ in range(2):
            run(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        end = run(x)
    return graph.replay, end
