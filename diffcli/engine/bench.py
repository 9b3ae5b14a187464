"""What each sampler costs and how exact it is, measured on denoisers that are known: no training, no data, about a minute."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Counted, Prediction
from diffcli.core.exact import Mixture
from diffcli.core.process import GaussianProcess
from diffcli.engine.bench_errors import DRAWS, FAMILIES, MODES, PROBLEMS, WALKS, Case, case, errors, start, walk
from diffcli.errors import show
from diffcli.plugin import Spec
from diffcli.registry import OWN, registry
from diffcli.samplers.base import Sampler
from diffcli.samplers.grid import grid
from diffcli.samplers.runge_kutta import RungeKutta4
from diffcli.schedules.gaussian import Rectified

SCHEDULES = ("cosine", "rectified")  # the defaults of ddpm and rf, and with them those that other distributions brought
Report = Callable[[str], None]


def problem(process: GaussianProcess) -> Mixture:
    """Three modes in the plane, of the size of images in [-1, 1]: none alike, so that no symmetry flatters a sampler."""
    means = torch.tensor([[-0.9, 0.2], [0.6, 0.6], [0.25, -0.7]], dtype=torch.float64)
    return Mixture(process, torch.tensor([0.5, 0.3, 0.2]), means, torch.tensor([0.25, 0.2, 0.3]))


def measured_order(sampler: Sampler) -> float:
    """Slope of log error against log N, N = 32 ... 128, on the rectified path between t = 0.98 and 0.02."""
    process, counts = Rectified(), (32, 45, 64, 90, 128)
    denoiser, x = problem(process), start(process, (64, 2), 0, 0.98)

    def line(steps: int) -> Tensor:
        return torch.linspace(0.98, 0.02, steps + 1, dtype=torch.float64)

    exact = walk(RungeKutta4(), denoiser, x, line(400))
    found = [float((walk(sampler, denoiser, x, line(n)) - exact).norm(dim=-1).mean()) for n in counts]
    return -statistics.linear_regression([math.log(n) for n in counts], [math.log(e) for e in found]).slope


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


def spent(sampler: Sampler, steps: int = 20) -> float:
    """Network calls of a walk, as a wrapper counts them."""
    counted, x = Counted(problem(Rectified())), start(Rectified(), (8, 2), 0)
    walk(sampler, counted, x, grid(Rectified(), steps))
    return counted.rows / len(x)


def defaults() -> list[str]:
    """The schedules that samplers are measured on when none are asked for: ours, and all that others brought."""
    found = {name: spec for name, spec in registry().specs("schedule").items() if spec.family == "gaussian"}
    others = [name for name in found if registry().origin("schedule", name).distribution != OWN]
    return [*(name for name in SCHEDULES if name in found), *others]


@contextmanager
def one_thread() -> Iterator[None]:
    """Small tensors: one thread is fastest, and its time is the same anywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def samplers(
    names: Sequence[str] | None = None,
    schedules: Sequence[str] | None = None,
    report: Report = lambda what: None,
    *,
    problems: int = PROBLEMS,
    walks: int = WALKS,
    draws: int = DRAWS,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row for each installed Gaussian sampler with its default options, and a record for each of its errors.

    Of a row: kind: "solver" or "random walk"; order: declared; measured: see `measured_order`; nfe: declared calls of 20
    steps; counted: as a wrapper counts them; overhead_us: see `overhead`; fault: what went wrong, where anything did, which
    ends what is measured of that sampler alone. The records: see `bench_errors.errors`.
    report is called with the name of what is measured next.
    """
    found = {name: spec for name, spec in registry().specs("sampler").items() if spec.family == "gaussian"}
    wanted = {name: spec for name, spec in found.items() if names is None or name in names}
    if not wanted:
        return [], []
    rows: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    with one_thread(), torch.no_grad():
        report("exact walks")
        chosen = defaults() if schedules is None else schedules
        kinds = [(name, size, laws) for name in chosen for laws in FAMILIES for size in MODES]
        cases = [case(*kind, problems=problems, walks=walks) for kind in kinds]
        for name, spec in wanted.items():
            report(name)
            rows.append(row := {"sampler": name})
            try:
                measure(row, records, spec, cases, draws)
            except Exception as error:  # third parties' code: whatever it does is its own row
                row["fault"] = f"{type(error).__name__}: {show(error, 120)}"
    return rows, records


def measure(row: dict[str, Any], records: list[dict[str, Any]], spec: Spec, cases: Sequence[Case], draws: int) -> None:
    """Fill the row of one sampler, and add its records; as far as it gets."""
    sampler: Sampler = spec.load()(spec.config())
    row |= {"kind": "random walk" if sampler.order is None else "solver", "order": sampler.order}
    row |= {"nfe": sampler.nfe(20), "counted": spent(sampler)}
    made = [record for on in cases for record in errors(spec.name, sampler, on, draws=draws)]
    records += made
    if bad := [r for r in made if r["error"] is None]:
        r = bad[0]
        where = f"{r['schedule']}, {r['laws']} laws in {r['dimensions']} dimensions, {r['steps']} {r['spacing']} steps"
        row["fault"] = f"not finite: {where}" + (f", and {len(bad) - 1} more" if len(bad) > 1 else "")
    if row["nfe"] != row["counted"]:
        row["fault"] = f"it declares {row['nfe']} calls for 20 steps and makes {row['counted']:g}"
    if sampler.order is not None and not bad:
        row["measured"] = measured_order(sampler)
    row["overhead_us"] = overhead(sampler)
