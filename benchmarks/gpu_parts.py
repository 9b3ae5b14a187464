"""What benchmarks/gpu.py measures: each part yields a row as soon as it has one, and stops when its time is up."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcli import recipe as recipes
from diffcli.engine import checkpoint
from diffcli.engine.bench_attention import attention as kernels
from diffcli.engine.bench_train import Lane, flops, now
from diffcli.engine.bench_walks import Still, captured, loop, waits
from diffcli.engine.job import Job, prepare, spread
from diffcli.engine.precision import precision_of, settle
from diffcli.engine.sample import sample
from diffcli.engine.saving import Saver
from diffcli.engine.step import step_once
from diffcli.nn.blocks import Norm
from diffcli.registry import registry

sys.path.insert(0, str(Path(__file__).parent / "peers"))
Row = dict[str, Any]


@dataclass(frozen=True)
class Given:
    """Where to measure, until when (time.monotonic), and whether in tiny form, which proves the code and no speed."""

    device: str
    until: float
    tiny: bool

    @property
    def on(self) -> torch.device:
        return torch.device(self.device)

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def pace(self, work: Callable[[], object], seconds: float = 0.5) -> float:
        """Seconds a call, after some that are not timed."""
        for _ in range(1 if self.tiny else 2):
            work()
        begin, done, queue = now(self.on), 0, 1 if self.tiny else 4
        seconds = 0.001 if self.tiny else seconds
        while not done or time.perf_counter() - begin.wall < seconds:
            for _ in range(queue):  # so that a device is not kept waiting for the clock
                work()
            done += queue
            torch.cuda.synchronize() if self.on.type == "cuda" else None
        return (now(self.on).wall - begin.wall) / done


def guarded(row: Row, measure: Callable[[], Row]) -> Row:
    """The row with what was measured, or with why it was not."""
    try:
        return row | measure()
    except Exception as error:
        return row | {"fault": f"{type(error).__name__}: {str(error)[:300]}"}


def ceilings(given: Given) -> Iterator[Row]:
    """What the device can do: products and convolutions of random numbers, memory, and GroupNorm with SiLU beside memory."""
    on, n = given.on, 64 if given.tiny else 8192
    formats = ("fp32", "bf16") if on.type == "cpu" else ("fp32", "tf32", "fp16", "bf16")
    for precision in formats:

        def product(precision: str = precision) -> Row:
            settle(precision, on)
            a = torch.randn(n, n, device=on).to(precision_of(precision, on))
            return {"TFLOP/s": 2 * n**3 / given.pace(lambda: a @ a) / 1e12}

        yield guarded({"what": f"{n}^3 product", "precision": precision}, product)
    settle("fp32", on)
    b, c, side = (2, 8, 8) if given.tiny else (512, 128, 32)
    for layout, form in (("NCHW", torch.contiguous_format), ("NHWC", torch.channels_last)):

        def convolution(form: torch.memory_format = form) -> Row:
            x = torch.randn(b, c, side, side, device=on).bfloat16().contiguous(memory_format=form)
            w = torch.randn(c, c, 3, 3, device=on).bfloat16().contiguous(memory_format=form)
            return {"TFLOP/s": 18 * b * c**2 * side**2 / given.pace(lambda: F.conv2d(x, w, padding=1)) / 1e12}

        yield guarded(
            {"what": f"3x3 convolution of {b}x{c}x{side}x{side}", "precision": "bf16", "layout": layout}, convolution
        )
    copied = bandwidth(given)
    yield {"what": "copy", "TB/s": copied / 1e12}
    for layout, form in (("NCHW", torch.contiguous_format), ("NHWC", torch.channels_last)):
        for compiled in (False, True):

            def norm(form: torch.memory_format = form, compiled: bool = compiled) -> Row:
                part = Norm(c).to(on, torch.bfloat16)
                maps = torch.randn(b, c, side, side, device=on).bfloat16().contiguous(memory_format=form)
                run = torch.compile(part.activated) if compiled else part.activated
                with torch.no_grad():
                    speed = 4 * maps.numel() / given.pace(lambda: run(maps))  # read once and written once, of 2 bytes
                return {"TB/s": speed / 1e12, "share of copy": speed / copied}

            if not (compiled and given.tiny):
                yield guarded({"what": "GroupNorm and SiLU", "layout": layout, "compiled": compiled}, norm)


def bandwidth(given: Given) -> float:
    """Bytes read and written a second by a copy of 2 GiB."""
    x, y = (torch.randn(2**16 if given.tiny else 2**29, device=given.on) for _ in range(2))
    return 8 * x.numel() / given.pace(lambda: y.copy_(x))


def put_together(given: Given, method: str, network: str = "", **train: Any) -> Job:
    """A training of a method by its defaults; network: "unet", of the size that peers have too, "diffusers", or its own."""
    tables: Row = {"method": {"name": method}, "train": {"steps": 10**6, "device": given.device, **train}}
    tables["train"].setdefault("precision", "bf16")
    if network:
        from unets import SIDE, model, placed

        tables |= {"model": model(), "dataset": {"name": "digits", "size": SIDE}}
    if given.tiny:
        tables["train"]["batch_size"] = 2
        tables |= {"model": {**tables["model"], "channels": 8}} if network else {}
    job = prepare(recipes.resolve(tables))
    return placed(job, network) if network not in ("", "unet") else job


def trained(given: Given, method: str, network: str = "", rounds: int = 5, **train: Any) -> Row:
    """Images a second of the engine's own step: the median of rounds; first_s: of the first step, which compiles."""
    job = put_together(given, method, network, **train)
    o, counted = job.recipe.train, flops(lambda: step_once(job, 0, 10**6, 0))
    spread(job)
    if given.on.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    lane, begin = Lane(method, job, counted, 1), time.perf_counter()
    lane.once()
    first = now(given.on).wall - begin
    for _ in range(0 if given.tiny else 10):
        lane.once()
    for _ in range(1 if given.tiny else rounds):
        lane.round(0.01 if given.tiny else 0.8)
    step = sorted(taken.wall for taken in lane.taken)[len(lane.taken) // 2]
    cuda = given.on.type == "cuda"
    memory, waited = (torch.cuda.max_memory_allocated() / 2**20, waits(lane.once)) if cuda else (None, None)
    row = {"dataset": job.assembly.facts.name, "shape": list(job.assembly.facts.shape), "batch": o.batch_size}
    row |= {"parameters": job.parameters, "images/s": o.batch_size / step, "TFLOP/s": counted / step / 1e12}
    row |= {"MiB": memory, "waits a step": waited}
    return row | {"first_s": first, "rounds": [o.batch_size / taken.wall for taken in lane.taken]}


def training(given: Given) -> Iterator[Row]:
    """The U-Net of the peers' size, ours and diffusers', eager and compiled; then each method by its own recipe."""
    batch, modes = 512, ({}, {"channels_last": True}, {"compile": True}, {"compile": True, "channels_last": True})
    for train in modes[: 2 if given.tiny else None]:  # eager before compiled: what takes long comes last
        for network in ("unet", "diffusers"):
            row = {"method": "rf", "network": network, "precision": "bf16", **train}
            yield guarded(row, lambda n=network, t=train: trained(given, "rf", n, batch_size=batch, **t))  # type: ignore[misc]
    for train in ({}, {"compile": True})[: 1 if given.tiny else None]:
        for method in registry().specs("method"):
            if given.left < 10:
                yield {"method": method, **train, "fault": "no time left"}
                continue
            row = {"method": method, "network": "its own", "precision": "bf16", **train}
            yield guarded(row, lambda m=method, t=train: trained(given, m, "", 3, **t))  # type: ignore[misc]


def attention(given: Given) -> Iterator[Row]:
    """torch's kernels beside the formula written out."""
    for count in (16,) if given.tiny else (16, 64, 256, 1024, 4096):
        yield from kernels(
            given.device, tokens=(count,), rounds=1 if given.tiny else 5, seconds=0.001 if given.tiny else 0.03
        )


def sampling(given: Given) -> Iterator[Row]:
    """Of the U-Net: waits and graph capture of each Gaussian sampler; then latency and throughput of `sample` itself."""
    steps, rows = (3, 2) if given.tiny else (50, 16)
    job = put_together(given, "rf", "unet")
    method, rng = job.method.eval(), Still(rows, given.on)
    x = rng.normal("start", job.assembly.space.shape)
    for name, spec in registry().specs("sampler").items():
        if spec.family == "gaussian":
            run = loop(name, method.denoiser, rng, steps, given.on)
            yield guarded({"sampler": name, "steps": steps, "batch": rows}, lambda r=run: walked(given, r, x))  # type: ignore[misc]
    for n in (1, rows, 4 if given.tiny else 1024):
        o = replace(job.recipe.sample, samples=n, steps=steps, batch_size=n, device=given.device)
        draw = lambda o=o: sample(job.model("here", 0), o, job.recipe.parts.get("sampler"))

        def drawn(draw: Callable[[], object] = draw, n: int = n) -> Row:
            seconds = given.pace(draw, 2.0)
            return {"seconds": seconds, "images/s": n / seconds}

        yield guarded({"what": "sample", "samples": n, "steps": steps}, drawn)


def walked(given: Given, run: Callable[[Tensor], Tensor], x: Tensor) -> Row:
    """Seconds of a walk, eager and as a graph, and how far their ends are apart."""
    row: Row = {"eager_s": given.pace(lambda: run(x), 0.3)}
    if given.on.type != "cuda":
        return row | {"left out": "waits and graphs are of CUDA"}
    row["waits"] = waits(lambda: run(x))
    plain = run(x)
    replay, end = captured(run, x)
    row["graph_s"] = given.pace(replay, 0.3)
    return row | {"apart": float((plain - end).abs().max()), "of": float(plain.abs().max())}


def saving(given: Given) -> Iterator[Row]:
    """What a checkpoint of 60M parameters with average and moments costs a training: in the foreground and behind its back."""
    each = 2**10 if given.tiny else 60 * 2**20
    made = {name: {"weight": torch.randn(each // 4, 4, device=given.on)} for name in ("model", "ema")}
    made["optim"] = {name: torch.randn(each // 4, 4, device=given.on) for name in ("exp_avg", "exp_avg_sq")}
    meta = put_together(replace(given, tiny=True), "rf", "unet").meta
    for background in (False, True):

        def saved(background: bool = background) -> Row:
            with tempfile.TemporaryDirectory() as folder, Saver(background=background) as saver:
                taken = []
                for step in range(1, 4):
                    commit = lambda t, s, m, step=step: checkpoint.save(Path(folder), step, t, s, m, keep=2)
                    begin = now(given.on).wall
                    saver.hand("checkpoint", made, {}, meta, commit)
                    handed = now(given.on).wall - begin
                    saver.wait()
                    taken.append({"stall_s": handed, "durable_s": time.perf_counter() - begin})
            return {"bytes": 16 * each, **taken[-1], "first": taken[0]}

        yield guarded({"what": "checkpoint", "background": background}, saved)
