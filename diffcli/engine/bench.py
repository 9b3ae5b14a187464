"""What each sampler costs and how exact it is, measured on denoisers that are known: no training, no data, under a minute."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Counted, Denoiser, Prediction
from diffcli.core.exact import Mixture
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Rows
from diffcli.registry import registry
from diffcli.samplers.base import Sampler
from diffcli.samplers.grid import grid
from diffcli.samplers.runge_kutta import RungeKutta4
from diffcli.schedules.gaussian import VP, Rectified

BUDGETS = (5, 10, 20, 50)  # network calls
SPACINGS = ("uniform", "karras", "logsnr")
WALKS = 1024  # points that an error is measured on


def problem(process: GaussianProcess) -> Mixture:
    """Three modes in the plane, of the size of images in [-1, 1]: none alike, so that no symmetry flatters a sampler."""
    means = torch.tensor([[-0.9, 0.2], [0.6, 0.6], [0.25, -0.7]], dtype=torch.float64)
    return Mixture(process, torch.tensor([0.5, 0.3, 0.2]), means, torch.tensor([0.25, 0.2, 0.3]))


def walk(sampler: Sampler, denoiser: Denoiser, x: Tensor, times: Tensor, seed: int = 0) -> Tensor:
    """Where the walk from x ends."""
    index = torch.arange(len(x))
    for _, end in sampler.trajectory(denoiser, x, times, cond={}, rng=Rows(seed, index, len(x))):
        x = end
    return x


def start(process: GaussianProcess, t: float, walks: int) -> Tensor:
    """The same noise for every sampler, of the size it has at t."""
    noise = torch.randn(walks, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return process.sigma(torch.tensor(t, dtype=torch.float64)) * noise


def measured_order(sampler: Sampler) -> float:
    """Slope of log error against log N, N = 32 ... 128, on the rectified path between t = 0.98 and 0.02."""
    process, counts = Rectified(), (32, 45, 64, 90, 128)
    denoiser, x = problem(process), start(process, 0.98, 64)

    def line(steps: int) -> Tensor:
        return torch.linspace(0.98, 0.02, steps + 1, dtype=torch.float64)

    exact = walk(RungeKutta4(), denoiser, x, line(400))
    errors = [float((walk(sampler, denoiser, x, line(n)) - exact).norm(dim=-1).mean()) for n in counts]
    return -statistics.linear_regression([math.log(n) for n in counts], [math.log(e) for e in errors]).slope


def distance(a: Tensor, b: Tensor) -> float:
    """Sliced Wasserstein-1 distance of two sets of points in the plane, over 32 directions."""
    angle = torch.arange(32, dtype=torch.float64) * math.pi / 32
    ways = torch.stack([angle.cos(), angle.sin()])
    return float(((a @ ways).sort(0).values - (b @ ways).sort(0).values).abs().mean())


def errors(sampler: Sampler, process: GaussianProcess, x: Tensor, exact: Tensor) -> dict[str, Any]:
    """Least error over the spacings at each budget of calls, on [1, 0], and the spacing that has it.

    A solver: median distance to the end of the exact path. A random walk: distance of the laws, whose floor is what
    two sets of as many exact samples have.
    """
    name, denoiser = type(process).__name__.lower(), problem(process)
    law = denoiser.draw(len(x), torch.Generator().manual_seed(1))
    row: dict[str, Any] = {}
    for budget in BUDGETS:
        steps = max((n for n in range(1, budget + 1) if sampler.nfe(n) <= budget), default=0)
        found = []
        for spacing in SPACINGS if steps else ():
            end = walk(sampler, denoiser, x, grid(process, steps, spacing))
            path = float((end - exact).norm(dim=-1).median())
            found.append((distance(end, law) if sampler.order is None else path, spacing))
        row[f"{name}@{budget}"], row[f"{name}@{budget} spacing"] = min(found, default=(None, None))
    return row


class Free:
    """A denoiser that costs nothing."""

    def __init__(self, process: GaussianProcess, x: Tensor):
        self.process, self.pair = process, Prediction(x.tanh(), x, torch.zeros_like(x))

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        return self.pair


def overhead(sampler: Sampler, steps: int = 50, rounds: int = 7) -> float:
    """CPU microseconds a step of 16 images of 1x32x32, plan included, with a denoiser that costs nothing. Median of rounds."""
    process, x = Rectified(), torch.randn(16, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    times, denoiser, taken = grid(process, steps), Free(process, x), []
    for _ in range(rounds):
        begin = time.process_time()
        walk(sampler, denoiser, x, times)
        taken.append((time.process_time() - begin) / steps * 1e6)
    return statistics.median(taken)


def samplers(
    names: Sequence[str] | None = None, report: Callable[[str], None] | None = None, walks: int = WALKS
) -> list[dict[str, Any]]:
    """A row for each installed Gaussian sampler, with its default options.

    order: declared; measured: see `measured_order`; nfe: declared calls of 20 steps; counted: as a wrapper counts them;
    kind: "solver" or "random walk"; vp@5, rectified@50, ...: see `errors`; overhead_us: see `overhead`.
    report is called with the name of each sampler before it is measured.
    """
    found = {name: spec for name, spec in registry().specs("sampler").items() if spec.family == "gaussian"}
    wanted = {name: spec for name, spec in found.items() if names is None or name in names}
    if not wanted:
        return []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        processes = [VP(), Rectified()]
        starts = [start(p, 1.0, walks) for p in processes]
        ends = [
            walk(RungeKutta4(), problem(p), x, grid(p, 300, "logsnr")) for p, x in zip(processes, starts, strict=True)
        ]
        rows = []
        for name, spec in wanted.items():
            if report:
                report(name)
            sampler: Sampler = spec.load()(spec.config())
            counted = Counted(problem(processes[0]))
            walk(sampler, counted, starts[0], grid(processes[0], 20))
            row = {
                "sampler": name,
                "kind": "random walk" if sampler.order is None else "solver",
                "order": sampler.order,
                "measured": None if sampler.order is None else measured_order(sampler),
                "nfe": sampler.nfe(20),
                "counted": counted.rows / walks,
            }
            for process, x, exact in zip(processes, starts, ends, strict=True):
                row |= errors(sampler, process, x, exact)
            rows.append(row | {"overhead_us": overhead(sampler)})
        return rows
    finally:
        torch.set_num_threads(threads)
