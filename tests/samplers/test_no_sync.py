"""On an accelerator a step never waits for it."""

import pytest
import torch

from diffcli.engine.bench import Free
from diffcli.samplers import diffcli_samplers
from diffcli.samplers.grid import grid
from diffcli.schedules import CosineOptions
from diffcli.schedules.gaussian import Rectified, cosine


class Zeros:
    """Noise that is already there."""

    def normal(self, purpose, shape, dtype=torch.float32):
        return torch.zeros(4, *shape, dtype=dtype, device="cuda")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("process", [Rectified(), cosine(CosineOptions(), None)])
@pytest.mark.parametrize(
    "spec", [spec for spec in diffcli_samplers() if spec.family == "gaussian"], ids=lambda spec: spec.name
)
def test_no_step_waits_for_the_device(spec, process):
    sampler, x = spec.load()(spec.config()), torch.randn(4, 1, 8, 8, device="cuda")
    denoiser = Free(process, x)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _, end in sampler.trajectory(denoiser, x, grid(process, 10), cond={}, rng=Zeros()):
            assert end.device == x.device
    finally:
        torch.cuda.set_sync_debug_mode("default")
