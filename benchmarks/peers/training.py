"""Training the U-Net of base 32: ours beside those of diffusers, torchcfm and lucidrains, in one interleaved run.

    pip install diffusers torchcfm denoising-diffusion-pytorch
    python benchmarks/peers/training.py --output benchmarks/results/training.json

All are trained by the engine's own step, of rectified flow on digits of 1x32x32, 128 a step: the same data, noise, loss,
AdamW and average; the network alone differs, so a peer has every lever of ours that is not in its network. Each lane is a process of its own, that waits while others are asked; a second is of its processor.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from unets import DISTRIBUTIONS, SIDE, UNETS, model, placed

from diffcli import recipe as recipes
from diffcli.engine.environment import environment
from diffcli.engine.job import Job, prepare
from diffcli.engine.step import step_once

BATCH, SMALL, STEPS, LAST, SEEDS = 128, 16, 400, 100, (0, 1, 2)
WARMUP = 20  # steps, of those trainings whose losses are compared
OURS: dict[str, dict[str, Any]] = {
    "diffcli": {},
    "diffcli keep memory": {"keep_memory": True},
    "diffcli keep memory, channels last": {"keep_memory": True, "channels_last": True},
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Lane:
    """A network in a precision, and how the engine trains it. network: "" is ours."""

    name: str
    network: str
    precision: str
    train: dict[str, Any]

    def job(self, seed: int = 0, batch: int = BATCH, steps: int = 10**6) -> Job:
        """Put together; a peer's network begins as its library has it, from the same seed."""
        train = {"steps": steps, "batch_size": batch, "device": "cpu", "precision": self.precision, "seed": seed}
        tables = {"method": {"name": "rf"}, "model": model(), "dataset": {"name": "digits", "size": SIDE}}
        job = prepare(recipes.resolve({**tables, "train": {**train, **self.train}}))
        return placed(job, self.network, seed) if self.network else job


def lanes(names: list[str] | None = None) -> list[Lane]:
    """All that are installed, or those that are named, each in both precisions."""
    named = [(name, "", train) for name, train in OURS.items()]
    named += [(name, name, {}) for name in UNETS if versions()[DISTRIBUTIONS[name]]]
    asked = [one for one in named if names is None or one[0] in names]
    return [Lane(name, net, precision, train) for name, net, train in asked for precision in ("fp32", "bf16")]


def versions() -> dict[str, str | None]:
    """Of the peers; None where one is not installed."""
    found: dict[str, str | None] = {}
    for name in DISTRIBUTIONS.values():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def serve(lane: Lane) -> None:
    """A lane's own process: for each line it is sent a step, told as a line of JSON."""
    torch.set_num_threads(1)
    begun = resident()
    job = lane.job()
    for number, _ in enumerate(sys.stdin, 1):
        if number == 1:  # not before: the first steps of all lanes at once may be more than there is memory for
            step_once(job, 0, 10**6, 0)
        cpu, wall = time.process_time(), time.perf_counter()
        step_once(job, number, 10**6, 0)
        spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 - begun
        print(json.dumps({**spent, "MiB": peak, "parameters": job.parameters}), flush=True)


def resident() -> float:
    """MiB of this process now, Python and torch with it."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def speeds(rounds: int, on: list[Lane]) -> list[Row]:
    """Images a processor second of each lane, the median of rounds in which each takes a step in turn; MiB: its peak over
    what Python and torch take."""
    command = [sys.executable, __file__, "--lane"]
    asked = [(lane, subprocess.Popen([*command, json.dumps(vars(lane))], **PIPES)) for lane in on]  # type: ignore[call-overload]
    taken: dict[str, list[Row]] = {}
    try:
        for k in range(rounds):
            for lane, process in asked:
                process.stdin.write("step\n")
                process.stdin.flush()
                told = json.loads(process.stdout.readline())
                taken.setdefault(f"{lane.name} {lane.precision}", []).append(told)
                print(f"round {k + 1}: {lane.name} {lane.precision} {BATCH / told['cpu']:.1f} images/CPU-s", flush=True)
    finally:
        for _, process in asked:
            process.stdin.close()
            process.wait()
    rows = []
    for lane, _ in asked:
        told = taken[f"{lane.name} {lane.precision}"]
        row: Row = {**vars(lane), "parameters": told[0]["parameters"], "MiB": max(t["MiB"] for t in told)}
        row["rounds"] = [BATCH / t["cpu"] for t in told]
        rows.append(row | {"images/CPU-s": statistics.median(row["rounds"])})
    return rows


PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


def losses(on: list[Lane]) -> list[Row]:
    """The mean loss of the last steps of a training of each seed. All lanes see the same pictures, times and noise, step by
    step, so what tells them apart is the difference to ours of the same seed. As many at a time as there are processors."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        asked = [[pool.submit(trained, lane, seed) for seed in SEEDS] for lane in on]
        told = [[one.result() for one in of] for of in asked]  # of each lane and seed, step by step
    ours, rows = [statistics.fmean(steps[-LAST:]) for steps in told[0]], []
    for lane, of in zip(on, told, strict=True):
        last = [statistics.fmean(steps[-LAST:]) for steps in of]
        row: Row = {"name": lane.name, "precision": lane.precision, "losses": last, "mean": statistics.fmean(last)}
        row["std"] = statistics.stdev(last)
        row[f"over {on[0].name} {on[0].precision}"] = [a - b for a, b in zip(last, ours, strict=True)]
        row[f"of each {LAST} steps"] = [
            [statistics.fmean(steps[k : k + LAST]) for k in range(0, STEPS, LAST)] for steps in of
        ]
        rows.append(row)
    return rows


def trained(lane: Lane, seed: int) -> list[float]:
    """The loss of each step."""
    job = lane.job(seed, SMALL, STEPS)
    logged = [step_once(job, step, STEPS, WARMUP)["loss"] for step in range(STEPS)]
    print(f"loss: {lane.name} {lane.precision} seed {seed} {statistics.fmean(logged[-LAST:]):.4f}", flush=True)
    return logged


def verdicts(rows: list[Row]) -> Row:
    """Ratios of medians: over diffusers as shipped, which computes in fp32; over the best peer of the same precision."""
    of = {(row["name"], row["precision"]): row for row in rows}
    pace = {key: row["images/CPU-s"] for key, row in of.items()}
    found: Row = {}
    for precision in ("fp32", "bf16"):
        ours = max((key for key in pace if key[0] in OURS and key[1] == precision), key=pace.__getitem__)
        shipped = [key for key in pace if key[0] in UNETS and key[1] == precision]
        found[precision] = {"ours": ours[0]}
        if ("diffusers", "fp32") in pace:
            found[precision]["over diffusers as shipped"] = pace[ours] / pace["diffusers", "fp32"]
            found[precision]["memory over diffusers as shipped"] = of[ours]["MiB"] / of["diffusers", "fp32"]["MiB"]
        if shipped:
            best = max(shipped, key=pace.__getitem__)
            found[precision] |= {"best peer": best[0], "over best peer": pace[ours] / pace[best]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["pace", "losses"], help="measure one of them; unset is both")
    parser.add_argument("--lanes", help="to measure, parted by '; '; unset is all. Each keeps 1 to 4 GB while it waits")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--lane", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.lane:
        return serve(Lane(**given.lane))
    torch.set_num_threads(1)
    on, facts = lanes(given.lanes and given.lanes.split("; ")), environment("cpu")
    found: Row = {"environment": {**facts, "versions": {**facts["versions"], **versions()}}}
    found["protocol"] = (
        f"rf, digits 1x{SIDE}x{SIDE}, split train; pace: {given.rounds} interleaved rounds of a step of {BATCH}, 1 thread a process, "
        f"seed 0; losses: mean of the last {LAST} of {STEPS} steps of {SMALL}, seeds {SEEDS}; no sampling, so no sampler and no NFE"
    )
    if given.only != "losses":
        rows = found["rows"] = speeds(given.rounds, on)
        found["verdicts"] = verdicts(rows)
        for row in rows:
            pace = f"{row['images/CPU-s']:6.1f} images/CPU-s  {row['MiB']:6.0f} MiB"
            print(f"{row['name']:34} {row['precision']}  {pace}  {row['parameters']:,} parameters")
        print(json.dumps(found["verdicts"], indent=1))
    if given.only != "pace":
        found["losses"] = losses([lane for lane in on if not lane.network or lane.precision == "fp32"])
    if given.output:
        given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
