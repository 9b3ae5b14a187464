"""Everything on an accelerator, in one command of at most ten minutes and one JSON file.

    python benchmarks/gpu.py --output benchmarks/results/gpu.json

Ceilings of the device; waits, graph capture, latency and throughput of sampling; what a checkpoint costs; attention kernels;
training images/s of each method and, where it is installed (pip install diffusers), of diffusers' U-Net, eager and compiled,
in bf16. Each part is a process of its own with a share of the time that is left, and its rows are kept as they come: what
fails, or takes too long, is a line of the JSON. `--device cpu --tiny` proves the code and no speed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE

import torch

sys.path.insert(0, str(Path(__file__).parent))
import gpu_parts
from gpu_parts import Given, Row

from diffcli.engine.environment import environment

SECONDS, STARTING = 570.0, 20.0  # in all; of a part, that go before its own time: torch and the device have to start
PARTS: dict[str, tuple[float, Callable[[Given], Iterator[Row]]]] = {  # weight: of the time that is left
    "ceilings": (1.0, gpu_parts.ceilings),
    "sampling": (1.5, gpu_parts.sampling),
    "saving": (0.7, gpu_parts.saving),
    "attention": (1.0, gpu_parts.attention),
    "training": (6.0, gpu_parts.training),
}


def serve(name: str, given: Given) -> None:
    """A part's own process: a line of JSON for each row."""
    for row in PARTS[name][1](given):
        print(json.dumps(row), flush=True)


def measured(name: str, seconds: float, given: Given) -> Row:
    """The rows of a part, as many as it made within its time, and why it ended early if it did."""
    begin, form = time.monotonic(), ["--tiny"] if given.tiny else []
    command = [sys.executable, __file__, "--part", name, "--device", given.device, "--seconds", str(seconds), *form]
    said: list[str] = []
    # a group of its own: what compiles for it is to end with it, and holds its pipe
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True) as child:
        clock = threading.Timer(seconds + (STARTING if given.device == "cuda" else 0), end, [child])
        listener = threading.Thread(target=lambda: said.extend(child.stderr or ()))
        clock.start()
        listener.start()
        rows = [row for line in child.stdout or () if (row := read(line)) is not None]
        code = child.wait()
        clock.cancel()
        listener.join()
    found: Row = {"seconds": round(time.monotonic() - begin, 1), "share": round(seconds, 1), "rows": rows}
    if code:
        why = "".join(said).strip().splitlines()[-1:] or [f"exit code {code}"]
        found["fault"] = "out of time" if code < 0 else why[0][:300]
    return found


def end(child: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def read(line: str) -> Row | None:
    """The row of a line; None for what libraries say, and for half a row of a part that was ended."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def verdicts(parts: Row) -> Row:
    """The goals: training over diffusers, one wait a step and none in a walk, whole walks captured, norms at 0.6 of what memory allows."""
    rows = [row for part in parts.values() for row in part["rows"]]
    pace: dict[tuple[str, bool], float] = {}
    for row in rows:
        if row.get("network") in ("unet", "diffusers") and "images/s" in row:
            key = row["network"], bool(row.get("compile"))
            pace[key] = max(pace.get(key, 0.0), row["images/s"])
    best = max((v for (network, _), v in pace.items() if network == "unet"), default=None)
    walks = [row for row in rows if "sampler" in row]
    waits = [row["waits"] for row in walks if "waits" in row]
    reads = [row["waits a step"] for row in rows if row.get("waits a step") is not None]
    norms = [row["share of copy"] for row in rows if "share of copy" in row]

    def over(compiled: bool) -> float | None:
        theirs = pace.get(("diffusers", compiled))
        return best / theirs if best and theirs else None

    return {
        "over diffusers eager, goal 2": over(False),
        "over diffusers compiled, goal 1.2": over(True),
        "waits a step of training, at most, goal 1": max(reads, default=None),
        "waits in walks, goal 0": sum(waits) if waits else None,
        "walks captured whole": f"{sum('graph_s' in row for row in walks)} of {len(walks)}",
        "norm and SiLU over copy, goal 0.6": max(norms, default=None),
        "faults": [f"{name}: {part['fault']}" for name, part in parts.items() if "fault" in part]
        + [
            f"{json.dumps({k: v for k, v in row.items() if k != 'fault'})}: {row['fault']}"
            for row in rows
            if "fault" in row
        ],
    }


def run(names: Iterable[str], given: Given, keep: Callable[[Row], None]) -> Row:
    """Each part in turn, with its share of the time that is left; what is there so far is kept after each."""
    names = list(names)
    about = environment(given.device) | {"tiny": given.tiny}
    parts: Row = {}
    for k, name in enumerate(names):
        weight, all_of = PARTS[name][0], sum(PARTS[other][0] for other in names[k:])
        start = STARTING * len(names[k:]) if given.device == "cuda" else 0
        seconds = max(1.0, (given.left - start) * weight / all_of)
        print(f"{name}: {seconds:.0f} s at most", file=sys.stderr, flush=True)
        parts[name] = measured(name, seconds, given)
        found = {"environment": about, "verdicts": verdicts(parts), "parts": parts}
        keep(found)
    return found


def told(found: Row) -> Iterator[str]:
    """The rows, a line each."""
    for name, part in found["parts"].items():
        yield f"{name}: {part['seconds']} s" + (f"; {part['fault']}" if "fault" in part else "")
        for row in part["rows"]:
            cells = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "rounds")
            yield "  " + ", ".join(cells)
    yield json.dumps(found["verdicts"], indent=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the smallest of everything: proves the code, and no speed")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that all of it may take")
    parser.add_argument("--parts", default=",".join(PARTS), help="to measure, with commas")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    o = parser.parse_args()
    given = Given(o.device, time.monotonic() + o.seconds, o.tiny)
    if o.part:
        return serve(o.part, given)
    names = [name.strip() for name in o.parts.split(",")]
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--parts {','.join(unknown)}: unknown; use some of {','.join(PARTS)}")
    if o.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has none that torch can use; --device cpu --tiny proves the code")

    def keep(found: Row) -> None:
        if o.output:
            o.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    print("\n".join(told(run(names, given, keep))))
    return None


if __name__ == "__main__":
    main()
