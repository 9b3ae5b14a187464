"""How fast each installed method trains: the engine's own step on the method's default data, beside what the machine can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffcli import recipe as recipes
from diffcli.engine.job import Job, prepare
from diffcli.engine.precision import precision_of
from diffcli.engine.step import step_once
from diffcli.errors import UsageError, show
from diffcli.registry import registry

ROUNDS = 5  # of which the median is taken; each asks every method in turn, so that all see the same machine
SECONDS = 0.8  # of steps a round
WARM = 2  # steps not timed
MATMUL, CONV = 1024, (32, 64, 32)  # n of n x n by n x n; batch, channels, pixels of a side of a 3x3 convolution


class Clock(NamedTuple):
    """Seconds by the wall; and of the processor, of all threads together: on a CPU what others do there counts in neither."""

    wall: float
    cpu: float

    def since(self, other: Clock, device: torch.device) -> float:
        """Seconds that what was computed took: of the processor on a CPU, else by the wall."""
        return self.cpu - other.cpu if device.type == "cpu" else self.wall - other.wall


def now(device: torch.device) -> Clock:
    """After all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Clock(time.perf_counter(), time.process_time())


def flops(step: Callable[[], object]) -> int:
    """Floating-point operations of products and convolutions, two a multiplication; attention as it is written out."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return int(counter.get_total_flops())


class Limit:
    """What the machine can do in one precision, in GFLOP/s: a matrix product, and a 3x3 convolution.

    As in the rows of methods, a second is the processor's on a CPU, of one thread: what else runs there does not count.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype):
        generator = torch.Generator().manual_seed(0)
        batch, channels, side = CONV
        a = torch.randn(MATMUL, MATMUL, generator=generator).to(device, dtype)
        x = torch.randn(batch, channels, side, side, generator=generator).to(device, dtype)
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(device, dtype)
        self.device = device
        self.work = {"matmul": lambda: a @ a, "conv3x3": lambda: F.conv2d(x, conv.weight, padding=1)}
        self.flops = {name: flops(work) for name, work in self.work.items()}
        self.found: dict[str, list[float]] = {name: [] for name in self.work}

    @torch.no_grad()
    def round(self, seconds: float = 0.2) -> None:
        """Measure both once more."""
        for name, work in self.work.items():
            work()
            begin, done = now(self.device), 0
            while not done or now(self.device).wall - begin.wall < seconds:
                work()
                done += 1
            self.found[name].append(done * self.flops[name] / now(self.device).since(begin, self.device) / 1e9)

    @property
    def gflops(self) -> dict[str, float]:
        """The median of each."""
        return {name: statistics.median(values) for name, values in self.found.items()}


@dataclass
class Lane:
    """A method on the track: its job, and what its rounds took."""

    name: str
    job: Job
    flops: int
    step: int = WARM
    taken: list[Clock] = field(default_factory=list)  # a step, in each round

    def once(self) -> None:
        step_once(self.job, self.step, 10**6, 0)
        self.step += 1

    def round(self, seconds: float) -> None:
        """Steps for so long, at least one."""
        begin, first = now(self.job.device), self.step
        while self.step == first or now(self.job.device).wall - begin.wall < seconds:
            self.once()
        end, done = now(self.job.device), self.step - first
        self.taken.append(Clock((end.wall - begin.wall) / done, (end.cpu - begin.cpu) / done))

    def row(self, limits: dict[torch.dtype, Limit]) -> dict[str, Any]:
        """What was measured; share: of the better of the machine's two limits in the same precision."""
        o, facts, on = self.job.recipe.train, self.job.assembly.facts, self.job.device
        wall, cpu = (statistics.median(taken) for taken in zip(*self.taken, strict=True))
        dtype = precision_of(o.precision, on)
        gflops = self.flops / Clock(wall, cpu).since(Clock(0, 0), on) / 1e9
        return {
            "method": self.name,
            "dataset": facts.name,
            "shape": list(facts.shape),
            "batch": o.batch_size,
            "parameters": self.job.parameters,
            "precision": str(dtype).removeprefix("torch."),
            "device": str(on),
            "step_ms": 1e3 * wall,
            "images/s": o.batch_size / wall,
            "images/CPU-s": o.batch_size / cpu,
            "GFLOP": self.flops / 1e9,
            "GFLOP/s": gflops,
            "share": gflops / max(limits[dtype].gflops.values()),
        }


def enter(name: str, dataset: str | None) -> Lane:
    """Assemble a method by its default recipe, on its default data unless others are named, and warm it up."""
    tables = {"method": {"name": name}} | ({} if dataset is None else {"dataset": {"name": dataset}})
    job = prepare(recipes.resolve(tables))
    counted = flops(lambda: step_once(job, 0, 10**6, 0))
    lane = Lane(name, job, counted, 1)
    while lane.step < WARM + 1:
        lane.once()
    return lane


def train(
    names: Sequence[str] | None = None,
    dataset: str | None = None,
    report: Callable[[str], None] = lambda what: None,
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(a row for each installed method, a row for each precision of what the machine can do).

    A step is the engine's own: data, forward, backward, clipping, AdamW and the average of the weights. GFLOP counts its
    products and convolutions alone, so share says how far the whole step is from the machine's own pace in those.
    fault: why a method could not be measured; that is its row, and the others go on. UsageError where one that was named
    does not fit the data.
    """
    rows: dict[str, dict[str, Any]] = {}
    lanes: list[Lane] = []
    for name in registry().specs("method"):
        if names is None or name in names:
            report(name)
            rows[name] = {"method": name}
            try:
                lanes.append(enter(name, dataset))
            except UsageError as error:  # of what was asked for by name, and could only be left out
                if names is not None:
                    raise
                rows[name]["fault"] = f"{type(error).__name__}: {show(error, 120)}"
            except Exception as error:  # third parties' code, or data that are not here
                rows[name]["fault"] = f"{type(error).__name__}: {show(error, 120)}"
    jobs = [lane.job for lane in lanes]
    dtypes = {precision_of(job.recipe.train.precision, job.device): job.device for job in jobs}
    measured = {dtype: Limit(device, dtype) for dtype, device in dtypes.items()}
    for k in range(rounds if lanes else 0):
        report(f"round {k + 1} of {rounds}")
        for limit in measured.values():
            limit.round()
        for lane in list(lanes):
            try:
                lane.round(seconds)
            except Exception as error:
                rows[lane.name]["fault"] = f"{type(error).__name__}: {show(error, 120)}"
                lanes.remove(lane)
    for lane in lanes:
        rows[lane.name] = lane.row(measured)
    machine = [
        {"precision": str(dtype).removeprefix("torch."), "device": str(limit.device), "GFLOP/s": limit.gflops}
        for dtype, limit in measured.items()
    ]
    return list(rows.values()), machine
