"""What a step costs beside the network: ours and the peers', in interleaved rounds of one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from diffcli.engine.bench import Free, walk
from diffcli.registry import registry
from diffcli.samplers.grid import grid
from diffcli.schedules.gaussian import Rectified

STEPS, REPEATS, ROUNDS = 50, 5, 15  # of the walks that are timed: the median of rounds


def loops() -> dict[str, Callable[[], object]]:
    """Walks of 16 images of 1x32x32 with a network that costs nothing, plan or set_timesteps included."""
    x = torch.randn(16, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    process, eps = Rectified(), x.tanh()
    found: dict[str, Callable[[], object]] = {}
    for name in ("ddim", "dpmpp-2m", "unipc"):
        spec = registry().get("sampler", name)
        found[name] = partial(walk, spec.load()(spec.config()), Free(process, x), x, grid(process, STEPS))
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    try:
        import diffusers_peers

        for name in ("DDIM", "DPMSolver++(2M)", "UniPC"):

            def run(name: str = name) -> None:
                made = diffusers_peers.ready(name, betas, STEPS)
                diffusers_peers.walk(made, lambda x_t, ratio: eps, x, [0.0] * STEPS)

            found[f"diffusers {name}"] = run
    except ImportError:
        pass
    try:
        import k_diffusion_peers

        sampling = k_diffusion_peers.load()
        for name in ("euler", "dpmpp_2m"):
            sample = k_diffusion_peers.samplers(sampling)[name]

            def go(sample: Callable[..., Tensor] = sample) -> None:
                sample(
                    lambda y, sigma: eps, x, k_diffusion_peers.sigmas(sampling, "karras", STEPS, betas), disable=True
                )

            found[f"k-diffusion {name}"] = go
    except ImportError:
        pass
    return found


def overheads() -> dict[str, float]:
    """CPU microseconds a step of each loop: median of interleaved rounds."""
    there, taken = loops(), dict[str, list[float]]()
    for _ in range(ROUNDS):
        for name, loop in there.items():
            loop()  # what ran before has left other things in the caches
            begin = time.process_time()
            for _ in range(REPEATS):
                loop()
            taken.setdefault(name, []).append((time.process_time() - begin) / STEPS / REPEATS * 1e6)
    return {name: statistics.median(values) for name, values in taken.items()}
