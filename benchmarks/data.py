"""200,000 small images in shards: what reading them holds in memory, how fast it is beside the same images in memory, and
that a training that stops inside an epoch goes on exactly.

    python benchmarks/data.py --work FOLDER --output benchmarks/results/data.json

FOLDER gets the images (made of their numbers, 32 x 32, ten classes), their shards, and two short trainings: 2 GB. Memory is
that of a process of its own that reads two epochs. For the speeds both ways are asked in turn in one process, some batches
each; told are the medians, by the wall clock and by the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffcli.core.space import Pixels
from diffcli.engine.environment import environment
from diffcli_vision import FolderOptions, ShardsOptions
from diffcli_vision.folder import folder
from diffcli_vision.sharded.packing import pack
from diffcli_vision.sharded.shards import shards

SIDE, CLASSES, BATCH, SHARD = 32, 10, 128, 16_000_000  # pixels; classes; images; bytes
ROUNDS, BATCHES, EPOCHS = 9, 60, 2
TRAIN = ["--batch-size", "128", "--channels", "8", "--multipliers", "1,2", "--log-every", "1", "--save-every", "20"]


def draw(place: Path, n: int) -> None:
    """n pictures in ten folders, each a blot of colours of its number."""
    for k in range(n):
        path = place / f"{k % CLASSES}" / f"{k:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = np.random.default_rng(k).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, compress_level=1)


def resident() -> float:
    """MiB of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def batches(data: Any, first: int = 0) -> Iterator[int]:
    """The batches of a stream without end; each is the number of its images."""
    space, at = Pixels(data.shape, data.classes), first
    while True:
        index = torch.arange(at, at + BATCH)
        at += len(data.batch(data.items(0, index), index, space).x)
        yield BATCH


def memory(path: Path) -> dict[str, Any]:
    """What two epochs hold: MiB at each twentieth of the way."""
    data = shards(ShardsOptions(path=path, size=SIDE), "train")
    n, found, began = 0, [], time.perf_counter()
    for count in batches(data):
        if n * 20 // (EPOCHS * len(data)) >= len(found):
            found.append(round(resident(), 1))
        n += count
        if n >= EPOCHS * len(data):
            break
    late = found[len(found) // 4 :]  # the first windows fill the caches that are bounded
    return {
        "images": n,
        "seconds": round(time.perf_counter() - began, 1),
        "resident_mib": [*found, round(resident(), 1)],
        "growth_mib": round(max(late) - min(late), 1),
    }


def speed(source: Path, path: Path) -> dict[str, Any]:
    """Images a second of both ways, in turn."""
    began = time.perf_counter()
    held = folder(FolderOptions(path=source, size=SIDE), "train")
    opening = {"memory": time.perf_counter() - began}
    began = time.perf_counter()
    ways = {"memory": batches(held), "shards": batches(shards(ShardsOptions(path=path, size=SIDE), "train"))}
    opening["shards"] = time.perf_counter() - began
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            n = sum(next(way) for _ in range(BATCHES))
            rates[name].append((n / (time.perf_counter() - wall), n / (time.process_time() - cpu)))
    rows = {name: [statistics.median(r[k] for r in found[1:]) for k in (0, 1)] for name, found in rates.items()}
    return {
        "opening_seconds": {name: round(seconds, 3) for name, seconds in opening.items()},
        "images_per_second": {name: round(wall) for name, (wall, _) in rows.items()},
        "images_per_cpu_second": {name: round(cpu) for name, (_, cpu) in rows.items()},
        "rounds": ROUNDS,
        "batch": BATCH,
    }


def diffcli(*argv: object) -> None:
    """The command line, in a process of its own."""
    subprocess.run([sys.executable, "-m", "diffcli", *map(str, argv)], check=True, stdout=subprocess.DEVNULL)


def resume(work: Path, path: Path) -> dict[str, Any]:
    """Forty steps, and the same stopped after twenty, both inside the first epoch: whether their checkpoints are one."""
    asked = ["--dataset", "shards", "--path", path, "--size", SIDE, "--flip", *TRAIN]
    runs = [work / "whole", work / "parts"]
    diffcli("train", "rf", *asked, "--steps", 40, "--output", runs[0], "--workers", 8)
    subprocess.run(["cp", "-r", *map(str, runs)], check=True)
    for file in sorted((runs[1] / "checkpoints" / "step-00000040").iterdir()):
        file.unlink()
    (runs[1] / "checkpoints" / "step-00000040").rmdir()
    diffcli("train", "rf", "--resume", runs[1], "--dataset", "shards", "--path", path, "--workers", 2)
    names = ["model.safetensors", "ema.safetensors", "optim.safetensors"]
    pairs = [[(run / "checkpoints" / "step-00000040" / name).read_bytes() for run in runs] for name in names]
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    losses = [[(row["step"], row.get("loss"), row.get("grad_norm")) for row in each] for each in rows]
    return {
        "steps": 40,
        "stopped_after": 20,
        "same_bytes": all(a == b for a, b in pairs),
        "same_losses": losses[0] == losses[1],
    }


def measured(work: Path, n: int) -> dict[str, Any]:
    """All of it."""
    source, path = work / "images", work / "shards"
    if not source.is_dir():
        draw(source, n)
    if not path.is_dir():
        began = time.perf_counter()
        pack(FolderOptions(path=source), path, None, SHARD, lambda done, total: None)
        packing = round(n / (time.perf_counter() - began))
    else:
        packing = None
    alone = subprocess.run(
        [sys.executable, __file__, "--work", str(work), "--memory"], check=True, capture_output=True, text=True
    )
    about = environment()
    return {
        "images": n,
        "side": SIDE,
        "shards": len(list(path.glob("*.tar"))),
        "bytes": sum(p.stat().st_size for p in path.glob("*.tar")),
        "packed_per_second": packing,
        "memory": json.loads(alone.stdout),
        "speed": speed(source, path),
        "resume": resume(work, path),
        "load_average": [round(load, 1) for load in os.getloadavg()],  # of a machine that others use too
        "environment": about | {"command": [word.replace(str(work), "FOLDER") for word in about["command"]]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory", action="store_true", help="read two epochs alone, and tell what they hold")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory:
        print(json.dumps(memory(given.work / "shards")))
        return
    found = json.dumps(measured(given.work, given.images), indent=1)
    print(found)
    if given.output:
        given.output.write_text(found + "\n")


if __name__ == "__main__":
    main()
