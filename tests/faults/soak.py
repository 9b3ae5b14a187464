"""A long training with a fault a minute: `python tests/faults/soak.py [--minutes 30]` keeps whether every resume was exact, and what memory did.

Two trainings of one recipe take turns, so that one runs at a time. One is never disturbed; its memory and descriptors are
counted. The other one meets a random fault in each turn and is resumed in the next. Whatever both have told of a step
(its metrics, its checkpoint's hashes) must be equal, as often as it was told.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from blows import until
from table import machine
from twins import FAULTS, LENGTH, Twin
from undisturbed import subjects

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "soak.json"
EXPECTED = {0, 6, 8, 128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}


def main(argv: list[str]) -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--minutes", type=float, default=30)
    asked.add_argument("--every", type=float, default=60, help="seconds between two faults")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--output", type=Path, default=RESULTS)
    asked.add_argument("--options", default="", help="more options of the training")
    o = asked.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        options = (*subjects(Path(folder))[2].options, *o.options.split())
        still, moved = (Twin(options, Path(folder) / name / "run") for name in ("still", "moved"))
        for twin in (still, moved):
            twin.run.parent.mkdir()
        about: dict[str, Any] = {
            "command": " ".join(["python", "tests/faults/soak.py", *argv]),
            "seed": o.seed,
            **machine(),
        }
        about["training"] = " ".join(map(str, (*options, *LENGTH))).replace(folder, "...")
        try:
            for found in soak(still, moved, o):
                about |= found
                o.output.write_text(json.dumps(about, indent=1) + "\n")
        finally:
            for twin in (still, moved):
                if twin.child is not None:
                    twin.child.kill(signal.SIGKILL)
                    twin.child.wait()
    print(o.output)
    return int(bool(about["inexact"]) or not about["flat"])


def soak(still: Twin, moved: Twin, o: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Turn after turn; what is told after each."""
    dice, begun, end = random.Random(o.seed), time.monotonic(), time.monotonic() + 60 * o.minutes
    turns, samples, lives = list[dict[str, Any]](), list[tuple[float, float, int]](), list[tuple[float, float, int]]()
    order = list[Callable[[Twin, random.Random], None]]()
    while time.monotonic() < end:
        turn = time.monotonic()
        order = order or dice.sample(FAULTS, len(FAULTS))
        turns.append(disturbed(moved, order.pop(), dice.uniform(0.15, 0.6) * o.every, dice, lives))
        still.go()
        run_until(still, min(turn + o.every, end), begun, samples)
        assert still.child is not None and still.child.alive, still.child and still.child.text()
        still.child.kill(signal.SIGSTOP)
        turns[-1] |= {"minute": round((turn - begun) / 60, 2), "still": max(still.rows, default=0)}
        print(json.dumps(turns[-1]), file=sys.stderr, flush=True)
        yield told(still, moved, turns, samples, lives)


def disturbed(t: Twin, fault: Callable[..., None], seconds: float, dice: random.Random, lives: list[Any]) -> dict[str, Any]:  # fmt: skip
    """A turn of the one: resumed, it runs for some seconds and then meets a fault."""
    came = int(t.checkpoints[-1].name[5:]) if t.checkpoints else 0
    t.go()
    assert t.child is not None
    child, mine = t.child, list[tuple[float, float, int]]()
    until(t.writing, lambda: child.alive, 0.05)  # a busy machine may take long to get there
    run_until(t, time.monotonic() + seconds, time.monotonic(), mine)
    early = None if child.alive else f"ended by itself: {child.text()[-300:]}"
    fault(t, dice)
    code = child.wait()
    said = child.text()
    if early is None and code not in EXPECTED:
        early = f"ended with exit code {code}: {said[-300:]}"
    if early:
        t.unlike.append(early)
    t.look()
    t.read()
    lives += mine[-1:]
    return {"fault": fault.__doc__, "newest": came, "code": code, "reached": max(t.rows, default=0), "failed": early}


def run_until(t: Twin, end: float, begun: float, samples: list[tuple[float, float, int]]) -> None:
    """Let a training run; note its checkpoints, and twice a second its memory in MiB and its descriptors."""
    assert t.child is not None
    while time.monotonic() < end and t.child.alive:
        time.sleep(0.5)
        t.look()
        try:
            pages = int(Path(f"/proc/{t.child.pid}/statm").read_text().split()[1])
            descriptors = len(os.listdir(f"/proc/{t.child.pid}/fd"))
        except (OSError, IndexError):
            continue
        samples.append((time.monotonic() - begun, pages * resource.getpagesize() / 2**20, descriptors))
    t.read()


def told(still: Twin, moved: Twin, turns: list[Any], samples: list[Any], lives: list[Any]) -> dict[str, Any]:
    """What both told of each step, side by side; and whether memory and descriptors of the undisturbed one grew."""
    inexact = still.unlike + moved.unlike
    for name in ("hashes", "rows"):
        mine, theirs = getattr(still, name), getattr(moved, name)
        inexact += [f"{name} of step {step} differ" for step in sorted(mine.keys() & theirs.keys()) if mine[step] != theirs[step]]  # fmt: skip
    quarter = max(1, len(samples) // 4)
    samples = samples if len(samples) > 4 else [*samples, *[(0.0, 0.0, 0)] * 5]
    before, after = samples[quarter : 2 * quarter], samples[3 * quarter :]
    memory = [statistics.median(s[1] for s in part) for part in (before, after)]
    descriptors = [max(s[2] for s in part) for part in (before, after)]
    return {
        "turns": len(turns),
        "resumes": len(turns) - 1,
        "inexact": len(inexact),
        "first_inexact": inexact[:5],
        "steps": {"undisturbed": max(still.rows), "disturbed": max(moved.rows)},
        "compared": {"checkpoints": len(still.hashes.keys() & moved.hashes.keys()), "steps": len(still.rows.keys() & moved.rows.keys())},
        "memory_mib": {"second_quarter": round(memory[0], 1), "last_quarter": round(memory[1], 1), "most": round(max(s[1] for s in samples), 1)},
        "descriptors": {"second_quarter": descriptors[0], "last_quarter": descriptors[1]},
        "flat": memory[1] - memory[0] < max(4.0, 0.01 * memory[0]) and descriptors[1] <= descriptors[0],
        "memory_by_minute": {str(int(s[0] // 60)): [round(s[1], 1), s[2]] for s in samples},
        "disturbed_memory_at_each_end": [[round(s[1], 1), s[2]] for s in lives],
        "each_turn": turns,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
