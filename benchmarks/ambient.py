"""Does the consistency loss help below the rate of missing pixels? The clean-data bound at equal steps, over seeds.

    python benchmarks/ambient.py --seeds 0 1 2 --weights 0 2 --output benchmarks/results/mdlm-ambient-digits.json

trains each weight with each seed on digits of which half of the pixels are missing, as `diffcli train mdlm` does but for 400 steps, and
measures all on the same held-out whole images at the same times and masks, so that differences are paired.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from diffcli.engine.environment import environment

MEASURES = ("nelbo", "nelbo[rate<0.5]")


def diffcli(*argv: object) -> dict[str, Any]:
    """A command in a process and with a thread of its own; its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "diffcli", *map(str, argv), "--json"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(weight: float, seed: int, folder: Path, steps: int) -> dict[str, Any]:
    """Train one run and measure it."""
    run = folder / f"weight-{weight:g}-seed-{seed}"
    ambient = ("--missing", 0.5, "--consistency-weight", weight)
    diffcli("train", "mdlm", *ambient, "--seed", seed, "--steps", steps, "--output", run)
    records = diffcli("eval", run, "--metric", "nelbo", "--draws", 16)["records"]
    found = {r["metric"]: {"value": r["value"], "standard_error": r["standard_error"]} for r in records}
    return {"weight": weight, "seed": seed, **{name: found[name] for name in MEASURES}}


def table(runs: list[dict[str, Any]], weights: list[float]) -> dict[str, Any]:
    """Mean and spread over seeds of each measure at each weight, and of the paired gain over the first weight."""
    value = {(r["weight"], r["seed"], name): r[name]["value"] for r in runs for name in MEASURES}
    seeds = sorted({r["seed"] for r in runs})
    made: dict[str, Any] = {}
    for name in MEASURES:
        for weight in weights:
            made[f"{name}, weight {weight:g}"] = summary([value[weight, seed, name] for seed in seeds])
        for weight in weights[1:]:
            gains = [value[weights[0], seed, name] - value[weight, seed, name] for seed in seeds]
            made[f"{name}, gain of weight {weight:g}"] = summary(gains)
    return made


def summary(values: list[float]) -> dict[str, float]:
    """Mean, standard deviation and standard error over seeds, in nats."""
    spread = statistics.stdev(values)
    return {"mean": statistics.mean(values), "stdev": spread, "standard_error": spread / len(values) ** 0.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 2.0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        asked = [(w, s) for s in options.seeds for w in sorted(options.weights, reverse=True)]
        runs = list(pool.map(lambda ws: measured(*ws, Path(folder), options.steps), asked))
    found = {
        **environment("cpu"),
        "data": "digits, 16x16, binarized by threshold; 359 held-out images, whole, 16 draws each, seed 0",
        "steps": options.steps,
        "unit": "nats an image",
        "runs": runs,
        "table": table(runs, options.weights),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
