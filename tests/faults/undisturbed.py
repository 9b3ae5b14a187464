"""Small trainings, and whether one that was disturbed ended as one that was not: the same bytes but for clocks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nursery import diffcli

STEPS, SAVED = 40, 5  # of each training; a checkpoint every so many
COMMON = ("--steps", STEPS, "--batch-size", 8, "--save-every", SAVED, "--sample-every", 2 * SAVED, "--log-every", 1)
CLOCKS = ("seconds", "images_per_second", "memory")  # what differs between two runs of one recipe


@dataclass(frozen=True)
class Subject:
    """A training of a few seconds. options: of `diffcli train`, but for --output."""

    name: str
    options: tuple[object, ...]

    def argv(self, output: Path) -> tuple[object, ...]:
        return ("train", *self.options, *COMMON, "--output", output)


def subjects(data: Path) -> list[Subject]:
    """Pixels from memory, characters of a text, and pictures that threads decode anew; data: a folder for their files."""
    words, pictures = data / "words.txt", data / "pictures"
    if not words.exists():
        words.write_text("the quick brown fox jumps over the lazy dog\n" * 100)
        draw(pictures)
    behind = ("--async-save", "--ema-profiles", "0.05,0.1", "--ema-snapshots", 2 * SAVED)
    unet = ("--channels", 8, "--multipliers", "1,2")
    return [
        Subject("rf on digits", ("rf", "--dataset", "digits", "--size", 8, *unet)),
        Subject("mdlm on text", ("mdlm", "--dataset", "text", "--path", words, "--length", 16, "--width", 16, "--heads", 2, "--depth", 1, "--async-save")),
        Subject("rf on cropped files", ("rf", "--dataset", "folder", "--path", pictures, "--size", 8, "--channels", 1, "--crop", "random", *unet, *behind)),
    ]  # fmt: skip


def draw(folder: Path) -> None:
    """Forty pictures of gradients, in two folders."""
    from PIL import Image

    for n in range(40):
        place = folder / "ab"[n % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").resize((12 + n % 3, 12)).rotate(9 * n).save(place / f"{n:02d}.png")


def reference(subject: Subject, folder: Path) -> Path:
    """The run of a training that nothing disturbs."""
    run = folder / "undisturbed"
    child = diffcli(folder, *subject.argv(run))
    if code := child.wait():
        raise RuntimeError(f"{subject.name} ended with {code}: {child.text()}")
    return run


def go_on(subject: Subject, run: Path) -> tuple[int, str]:
    """Resume a run, or begin it where it has not begun; the exit code, and what was said."""
    begun = (run / "recipe.toml").exists()
    child = diffcli(run.parent, *(("train", "--resume", run) if begun else subject.argv(run)))
    return child.wait(), child.text()


def difference(run: Path, other: Path) -> str | None:
    """The first thing in which two finished runs differ, none of them a clock; None where they are one training."""
    for name, a, b in pairs(run, other):
        if a != b:
            return name
    left = [path.name for path in [*run.iterdir(), *(run / "checkpoints").iterdir()] if path.name.startswith(".tmp")]
    return f"{left[0]} was left behind" if left else None


def pairs(run: Path, other: Path) -> Iterator[tuple[str, Any, Any]]:
    """What must be equal, by name: weights, averages, moments, states, metrics, pictures."""
    both = [{p.name: p for p in (r / "checkpoints").glob("step-*")} for r in (run, other)]
    yield "the last checkpoint", max(both[0]), max(both[1])  # a stop may have left one more before it
    for name in sorted(both[0].keys() & both[1].keys()):
        yield from same_files(f"checkpoints/{name}", "*.safetensors", run, other)
        yield f"{name}/state.json", state(both[0][name]), state(both[1][name])
    yield from same_files("ema", "**/*.safetensors", run, other)
    yield "metrics.jsonl", rows(run), rows(other)
    yield "metrics.csv", table(run), table(other)
    yield from same_files("samples", "**/*.*", run, other)


def same_files(folder: str, pattern: str, run: Path, other: Path) -> Iterator[tuple[str, Any, Any]]:
    """The files of a folder in both runs: their names, then their bytes."""
    names = [sorted(str(p.relative_to(r)) for p in (r / folder).glob(pattern) if p.is_file()) for r in (run, other)]
    yield f"names in {folder}", *names
    yield from ((name, (run / name).read_bytes(), (other / name).read_bytes()) for name in names[0])


def state(checkpoint: Path) -> dict[str, Any]:
    """What a resume needs, without its clock, and without the ledger's: its rows tell the time."""
    told = json.loads((checkpoint / "state.json").read_bytes())
    return {key: value for key, value in told.items() if key not in ("seconds", "metrics")}


def rows(run: Path) -> list[dict[str, Any]]:
    """The metrics without clocks."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in CLOCKS} for line in lines]


def table(run: Path) -> list[str]:
    """The steps in the table of the metrics."""
    return [line.split(",")[0] for line in (run / "metrics.csv").read_text().splitlines()]
