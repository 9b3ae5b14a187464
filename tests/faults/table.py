"""The table of faults: `python tests/faults/table.py [--only NAMES] [--times SHARE]` tries all of them, and all that means harm.

How many were survived goes into benchmarks/results/faults.json, and from there into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import harm
from trials import ALL, Trial, disk_full
from undisturbed import reference, subjects

HARM = {
    "recipes": "recipes: bombs of TOML, names of code, markup",
    "pictures": "pictures: decompression bombs, sizes and strips that lie",
    "archives": "archives: escapes, links, devices, bombs of gzip and of headers",
    "headers": "weights and JSON: headers that lie or are endless, files of 60 GiB, depth, names of code",
    "pickles": "a pickle, a torch.save and an array of objects in every slot of a run, a checkpoint, a model folder, a data set",
    "names": "names with markup, HTML, escape codes, formulas and bytes that are no UTF-8, wherever one may surface",
}
MARK, HALF = "<!-- faults -->", "<!-- soak -->"
SOAKED = Path(__file__).parents[2] / "benchmarks" / "results" / "soak.json"
DOCS = Path(__file__).parents[2] / "docs" / "reliability.md"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "faults.json"


def main(argv: list[str]) -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--only", help="names of faults, or of groups of hostile files, with commas")
    asked.add_argument("--times", type=float, default=1.0, help="share of the tries of each fault")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--output", type=Path, default=RESULTS)
    asked.add_argument("--docs", action="store_true", help="try nothing: write what is known into docs/reliability.md")
    o = asked.parse_args(argv)
    known: dict[str, Any] = json.loads(o.output.read_text()) if (o.only or o.docs) and o.output.exists() else {}
    if not o.docs:
        known = {**known, "command": " ".join(["python", "tests/faults/table.py", *argv]), "seed": o.seed, **machine()}
        for kind, name, row in rows(o, o.only.split(",") if o.only else None):
            known.setdefault(kind, {})[name] = row
            o.output.write_text(json.dumps(known, indent=1) + "\n")
    if o.output == RESULTS:
        begin, _, between, _, end = re.split(f"({MARK}.*?{MARK}|{HALF}.*?{HALF})", DOCS.read_text(), flags=re.DOTALL)
        DOCS.write_text(f"{begin}{MARK}{markdown(known)}{MARK}{between}{HALF}{half_hour()}{HALF}{end}")
    print(o.output)
    return int(any(row["failures"] for kind in ("faults", "hostile") for row in known.get(kind, {}).values()))


def rows(o: argparse.Namespace, only: list[str] | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """("faults" or "hostile", name, row) of all that is asked for, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        for trial, n in ALL.items():
            if only is None or trial.__name__ in only:
                yield "faults", trial.__name__, tried(trial, max(1, round(o.times * n)), o.seed, Path(folder))
        asked = [name for name in harm.GROUPS if only is None or name in only]
        models = harm.trained(Path(folder)) if asked else None
        for name in asked:
            assert models is not None
            place = Path(folder) / "harm" / name
            place.mkdir(parents=True)
            yield "hostile", name, harm.row(name, models, place)
            print(f"{name}: met", file=sys.stderr)


def markdown(known: dict[str, Any]) -> str:
    """Two tables of what is known."""
    faults, hostile = ([known.get(kind, {}).get(name) for name in names] for kind, names in
                       (("faults", [trial.__name__ for trial in ALL]), ("hostile", harm.GROUPS)))  # fmt: skip
    lines = ["", "| fault | survived |", "|---|---|"]
    again = lambda row: f"; {row['repeated']}" if "repeated" in row else ""
    lines += [f"| {row['fault']} | {row['survived']} of {row['n']}{again(row)} |" for row in faults if row]
    lines += [
        "",
        "| files that mean harm | files | commands | harmless | slowest, CPU seconds |",
        "|---|---|---|---|---|",
    ]
    told = [(HARM[name], row) for name, row in zip(harm.GROUPS, hostile, strict=True) if row]
    lines += [
        f"| {what} | {row['files']} | {row['commands']} | {row['harmless']} | {row['slowest_cpu_seconds']} |"
        for what, row in told
    ]
    versions = known.get("versions", {})
    about = f"{known.get('command')}, seed {known.get('seed')}, {known.get('date')}, {known.get('hardware')}, torch {versions.get('torch')}"
    return "\n".join([*lines, "", f"({about})", ""])


def half_hour() -> str:
    """What the soak told."""
    if not SOAKED.exists():
        return ""
    s = json.loads(SOAKED.read_text())
    memory, descriptors = s["memory_mib"], s["descriptors"]
    return (
        f"\n{s['turns']} faults of ten kinds, {s['resumes']} resumes, {s['inexact']} of them inexact: {s['compared']['steps']} steps and "
        f"{s['compared']['checkpoints']} checkpoints of the disturbed training are those of its twin, which nothing disturbed. The twin's "
        f"memory was {memory['second_quarter']} MiB in the second quarter and {memory['last_quarter']} MiB in the last one, its "
        f"descriptors {descriptors['second_quarter']} and {descriptors['last_quarter']} at most, over {s['steps']['undisturbed']} steps.\n\n"
        f"({s['command']}, {s['date']}, {s['hardware']}, torch {s['versions']['torch']}; {s['training']})\n"
    )


def tried(trial: Any, times: int, seed: int, folder: Path) -> dict[str, Any]:
    """One row: how many of so many tries were survived, over the trainings in turn, and what went wrong with the others."""
    row: dict[str, Any] = {"fault": trial.__doc__, "n": 0, "survived": 0, "failures": []}
    if trial is disk_full and os.geteuid() != 0:
        return {**row, "skipped": "only root mounts a small disk"}
    begun = time.monotonic()
    for n in range(times):
        subject = subjects(folder)[n % 3]
        home = folder / subject.name.replace(" ", "-")
        if not home.exists():
            home.mkdir()
            reference(subject, home)
        dice = random.Random(f"{seed} {trial.__name__} {n}")
        try:
            failure = trial(Trial(subject, home / "undisturbed", home / "run", dice))
        except TimeoutError as error:
            failure = str(error)
        row["n"], row["survived"] = row["n"] + 1, row["survived"] + (failure is None)
        if failure is not None:
            row["failures"].append(f"try {n}, {subject.name}: {failure}")
            print(f"{trial.__name__} {row['failures'][-1]}", file=sys.stderr)
        shutil.rmtree(home / "run", ignore_errors=True)
    row["seconds"] = round(time.monotonic() - begun, 1)
    print(f"{row['survived']} of {row['n']} survived: {trial.__doc__} ({row['seconds']:.0f} s)", file=sys.stderr)
    return row


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    from diffcli.engine.environment import cpu, versions

    return {"hardware": f"{cpu()}, 1 thread", "versions": versions(), "date": time.strftime("%Y-%m-%d")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
