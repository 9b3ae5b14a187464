"""Where a logsnr grid of N steps best begins and ends: error over that of a grid from ratio_max to ratio_min.

    python benchmarks/ends.py --seed 1

Geometric mean over unipc, dpmpp-2m and dpmpp-3m and over linear, cosine and rectified in 2 and in 64 dimensions, on coarse
and on fine laws; worst: the largest at 10 calls or more of one sampler in one of these cases.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable
from itertools import product

import torch

from diffcli.core.process import GaussianProcess
from diffcli.engine.bench import one_thread
from diffcli.engine.bench_errors import BUDGETS, FAMILIES, MODES, case, error, walk
from diffcli.registry import registry
from diffcli.samplers.grid import levels

SAMPLERS, SCHEDULES = ("unipc", "dpmpp-2m", "dpmpp-3m"), ("linear", "cosine", "rectified")
FULL = "all levels"
HIGH: dict[str, Callable[[int], float]] = {FULL: lambda n: 1e9, "4N": lambda n: 4 * n, "2N": lambda n: 2 * n}
HIGH |= {"N": lambda n: n, "N/2": lambda n: n / 2}
LOW: dict[str, Callable[[int], float]] = {FULL: lambda n: 0, "1/(25N)": lambda n: 1 / (25 * n)}
LOW |= {"1/(10N)": lambda n: 1 / (10 * n), "1/(5N)": lambda n: 1 / (5 * n)}
Key = tuple[str, str, str, int, str]  # upper end, lower end, family, steps, and what it was measured on


def bounds(process: GaussianProcess, steps: int, high: str, low: str) -> tuple[float, float]:
    """These ends, within what the process declares."""
    top, bottom = process.ratio_max, process.ratio_min
    return min(top, max(HIGH[high](steps), 2 * bottom)), max(bottom, min(LOW[low](steps), top / 2))


def measured(seed: int, problems: int, walks: int) -> dict[Key, float]:
    """Error of each sampler in each case with each pair of ends."""
    made = {name: registry().get("sampler", name) for name in SAMPLERS}
    samplers = {name: spec.load()(spec.config()) for name, spec in made.items()}
    found: dict[Key, float] = {}
    for schedule, size, family in product(SCHEDULES, MODES, FAMILIES):
        on = case(schedule, size, family, seed, problems, walks)
        for steps, high, low, (name, sampler) in product(BUDGETS, HIGH, LOW, samplers.items()):
            times = levels(on.process, steps, "logsnr", 7.0, bounds(on.process, steps, high, low))
            ends = (walk(sampler, p.denoiser, p.x, times) for p in on.problems)
            found[high, low, family, steps, f"{name} {schedule} {size}"] = error(ends, on.problems)
    return found


def mean(values: Iterable[float]) -> float:
    return statistics.geometric_mean(list(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the laws and of the noise")
    parser.add_argument("--problems", type=int, default=6)
    parser.add_argument("--walks", type=int, default=16)
    options = parser.parse_args()
    with one_thread(), torch.no_grad():
        found = measured(options.seed, options.problems, options.walks)
    over = {key: value / found[FULL, FULL, *key[2:]] for key, value in found.items()}
    print(
        f"{'from':10} {'to':10}",
        *(f"{family:>6} {n:2}" for family, n in product(FAMILIES, BUDGETS)),
        "  mean 10+  worst",
    )
    for ends in product(HIGH, LOW):
        here = {key[2:]: value for key, value in over.items() if key[:2] == ends}
        cells = [mean(v for k, v in here.items() if k[:2] == at) for at in product(FAMILIES, BUDGETS)]
        late = [v for k, v in here.items() if k[1] >= 10]
        print(f"{ends[0]:10} {ends[1]:10}", *(f"{c:9.2f}" for c in cells), f"{mean(late):10.2f} {max(late):6.2f}")


if __name__ == "__main__":
    main()
