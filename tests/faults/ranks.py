"""Two processes many times over: none hangs at its end, and one that is killed costs nothing but the time since the last checkpoint.

    python tests/faults/ranks.py --runs 30 --kills 10 --output benchmarks/results/ranks.json

Trainings end by themselves, by ddp and fsdp in turn; others lose a process, chosen at random and at random times, to SIGKILL, and
are resumed. Each must leave the very weights of an undisturbed one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from diffcli.engine import checkpoint
from diffcli.engine.environment import environment

STEPS, EVERY = 60, 5
LIMIT = 60.0  # seconds in which all processes of a group must have ended
WORDS = ["--channels", "8", "--batch-size", "32", "--steps", str(STEPS), "--save-every", str(EVERY), "--devices", "2"]


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "diffcli", "train", "rf", *words]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def workers(process: subprocess.Popen[bytes]) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except OSError:
        return []


def there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ended(pids: list[int], since: float) -> float | None:
    """Seconds until none is there; None where some still are after LIMIT."""
    while any(map(there, pids)):
        if time.monotonic() - since > LIMIT:
            return None
        time.sleep(0.05)
    return time.monotonic() - since


def digest(run: Path) -> str:
    """Of the weights, their average and the moments."""
    stored, found = checkpoint.latest(run), hashlib.sha256()
    assert stored is not None
    for part in ("model", "ema", "optim"):
        found.update(stored.read(part))
    return f"{stored.step} {found.hexdigest()}"


def trial(folder: Path, name: str, strategy: str, kill: random.Random | None) -> dict[str, Any]:
    """One training; what became of it. kill: when and whom."""
    process, began = start(folder, *WORDS, "--strategy", strategy, "--output", name), time.monotonic()
    row: dict[str, Any] = {"strategy": strategy}
    if kill is not None:
        while not list((folder / name).glob("checkpoints/step-*")) and process.poll() is None:
            time.sleep(0.05)
        group = workers(process)
        time.sleep(kill.uniform(0, 1.5))
        whom = kill.randrange(2)
        if process.poll() is not None or len(group) != 2:
            return row | {"late": True, "same": digest(folder / name)}
        os.kill(group[whom], signal.SIGKILL)
        killed = time.monotonic()
        row |= {"killed": whom, "ended_s": ended([*group, process.pid], killed)}
        row["exit"] = process.wait(timeout=LIMIT)
        process.communicate()
        again = start(folder, "--resume", name, "--devices", "2", "--strategy", strategy)
        again.communicate(timeout=240)
        return row | {"resumed": again.returncode, "same": digest(folder / name)}
    group: list[int] = []
    while process.poll() is None:
        group = workers(process) or group
        if time.monotonic() - began > 240:
            process.kill()
            return row | {"hung": True}
        time.sleep(0.1)
    process.communicate()
    return row | {"exit": process.returncode, "ended_s": ended(group, time.monotonic()), "same": digest(folder / name)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    o = parser.parse_args()
    chance, rows = random.Random(o.seed), []
    with tempfile.TemporaryDirectory() as place:
        whole = {s: trial(Path(place), f"whole-{s}", s, None)["same"] for s in ("ddp", "fsdp")}
        for k in range(o.runs + o.kills):
            strategy = ("ddp", "fsdp")[k % 2]
            row = trial(Path(place), f"run-{k}", strategy, chance if k >= o.runs else None)
            row["same"] = row.get("same") == whole[strategy]
            rows.append(row)
            print(json.dumps(row), flush=True)
    plain, killed = ([r for r in rows if ("killed" in r or "late" in r) == late] for late in (False, True))
    found = {
        "command": " ".join(["python", "tests/faults/ranks.py", *sys.argv[1:]]),
        "environment": environment(),
        "runs": {"n": len(plain), "ended and equal": sum(r.get("exit") == 0 and r["same"] for r in plain)},
        "kills": {
            "n": len(killed),
            "ended within 60 s": sum(r.get("ended_s") is not None or "late" in r for r in killed),
            "resumed and equal": sum(r["same"] for r in killed),
            "slowest end, s": max((r["ended_s"] or LIMIT for r in killed if "ended_s" in r), default=None),
        },
        "rows": rows,
    }
    if o.output:
        o.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: found[key] for key in ("runs", "kills")}))
    return 0 if all(r["same"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
