"""Micro benchmarks of the samplers: `pytest benchmarks --benchmark-enable`. 50 steps of 16 images of 1x32x32, free denoiser."""

import pytest
import torch

from diffcli.engine.bench import Free, walk
from diffcli.samplers import diffcli_samplers
from diffcli.samplers.grid import grid
from diffcli.schedules import diffcli_schedules

SAMPLERS = {s.name: s.load()(s.config()) for s in diffcli_samplers() if s.family == "gaussian"}
PROCESSES = {s.name: s.load()(s.config(), None) for s in diffcli_schedules() if s.name in ("rectified", "cosine")}


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_walk(benchmark, sampler, process):
    torch.set_num_threads(1)
    p, x = PROCESSES[process], torch.randn(16, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    end = benchmark(walk, SAMPLERS[sampler], Free(p, x), x, grid(p, 50))
    assert torch.isfinite(end).all()


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp-2m", "rk4"])
def test_plan(benchmark, sampler, process):
    p = PROCESSES[process]
    assert len(benchmark(SAMPLERS[sampler].plan, p, grid(p, 50))) == 50
