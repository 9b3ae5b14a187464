"""Where the steps lie: times from 1 to 0, spaced evenly in t, on the entries of a table, or by noise level."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffcli.core.process import GaussianProcess, Process
from diffcli.errors import UsageError

FINEST = 1000  # linspace and leading read a process without a table as one of 1000 entries (Ho et al. 2020)


def grid(process: Process, steps: int, spacing: str | None = None, rho: float = 7.0) -> Tensor:
    """(steps + 1,) float64 CPU times from 1 to exactly 0; the process's own spacing unless one is named.

    uniform: t = 1 - k/N; on a table the entry nearest to it, so always N entries and the first one the last of the
    table. trailing is the same thing (Lin et al. 2024, Table 2).
    cosine: t = (1 + cos(pi k/N))/2, dense at both ends, on a table between its entries.
    linspace: both ends of the table and evenly between, then 0 (Nichol and Dhariwal 2021).
    leading: every (T // N)-th entry from the first one up (Song et al. 2020, as published). It starts below t = 1, at a
    level that is not noise: Lin et al. 2024 call it flawed; here for comparison.
    karras: sigma/alpha evenly in its power 1/rho (Karras et al. 2022, Eq. 5), from ratio_max to ratio_min of the process.
    logsnr: evenly in its logarithm, from N where that is within to ratio_min. Both with the first level replaced by t = 1,
    and then 0.

    The ends of logsnr were chosen on random laws of seed 20, in [-1, 1], by their error over that from ratio_max; here on
    those of seed 1 (`python benchmarks/ends.py --seed 1`), geometric mean over unipc, dpmpp-2m and dpmpp-3m on linear, cosine
    and rectified in 2 and 64 dimensions; worst: of one of these with 10 steps or more:

        standard deviations     0.05 to 0.3          0.005 to 0.03
        N                    5   10   20   50      5   10   20   50   worst
        N to ratio_min     .39  .53  .67  .94    .29  .62  .94 1.00    1.04
        N to 1/(5N)        .20  .34  .57  .94    .16 1.21 1.61 1.00    3.92
    """
    spacing = spacing or process.spacing
    if steps < 1:
        raise UsageError(f"{steps} steps were asked for; at least 1 is needed")
    if process.nodes and steps > process.nodes:
        raise UsageError(
            f"{steps} steps were asked for, but the schedule has {process.nodes} entries; use at most {process.nodes}"
        )
    if spacing in ("karras", "logsnr"):
        times = levels(process, steps, spacing, rho)
    elif spacing in ("uniform", "trailing", "linspace", "leading"):
        times = entries(process.nodes, steps, spacing)
    elif spacing == "cosine":
        times = (1 + torch.cos(torch.arange(steps + 1, dtype=torch.float64) * (math.pi / steps))) / 2
        times[-1] = 0
    else:
        raise UsageError(
            f"spacing {spacing} is unknown; use one of: uniform, cosine, trailing, linspace, leading, karras, logsnr"
        )
    if not bool((times.diff() < 0).all()):
        raise UsageError(
            f"{steps} steps with {spacing} spacing do not fall on this schedule; use fewer steps or uniform spacing"
        )
    return times


def entries(nodes: int | None, steps: int, spacing: str) -> Tensor:
    """Times that fall evenly; on a table, entries of it. Halves round to even."""
    size = nodes or max(FINEST, steps)
    down = range(steps - 1, -1, -1)
    if spacing == "linspace":
        index = [(size - 1) * k / (steps - 1) for k in down] if steps > 1 else [size - 1]
        place = [1 + (round(i) if nodes else i) for i in index]
    elif spacing == "leading":
        place = [1 + (size // steps) * k for k in down]
    elif nodes:
        place = [round(size * (k + 1) / steps) for k in down]
    else:
        size, place = steps, [k + 1 for k in down]
    return torch.tensor([*place, 0], dtype=torch.float64) / size


def levels(process: Process, steps: int, spacing: str, rho: float, ends: tuple[float, float] | None = None) -> Tensor:
    """Times at which sigma/alpha falls as `spacing` says, from the first of ends to the other; see `grid` for its own."""
    if not isinstance(process, GaussianProcess):
        raise UsageError(
            f"{spacing} spaces levels of noise, which a {process.family} process does not have; use uniform"
        )
    k = torch.linspace(0, 1, steps, dtype=torch.float64)
    if ends is None:
        top = max(steps, 2 * process.ratio_min) if spacing == "logsnr" else process.ratio_max
        ends = min(top, process.ratio_max), process.ratio_min
    high, low = torch.tensor(ends, dtype=torch.float64).unbind()
    if spacing == "karras":
        ratio = torch.lerp(high ** (1 / rho), low ** (1 / rho), k) ** rho
    else:
        ratio = torch.exp(torch.lerp(high.log(), low.log(), k))
    times = torch.cat([process.time(ratio), torch.zeros(1, dtype=torch.float64)])
    times[0] = 1
    return times
