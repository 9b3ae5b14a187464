"""All that means harm, group by group, met in processes of their own."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import json

import bombs
import names
import slots
from canary import Hostile, meet, told
from nursery import LOADED, PATIENCE, diffcli

GROUPS = ("recipes", "pictures", "archives", "headers", "pickles", "names")
Models = tuple[Path, Path, Path]  # a run with classes, a model folder of it, and one that reconstructs pictures


def group(name: str, models: Models) -> list[Hostile]:
    """The files of one group."""
    one, model, encoder = models
    made = {
        "recipes": bombs.recipes, "pictures": bombs.pictures, "archives": bombs.archives,
        "headers": lambda: bombs.headers(one, model), "pickles": lambda: slots.pickles(one, model),
        "names": lambda: names.names(one, encoder),
    }  # fmt: skip
    return made[name]()


def met(name: str, models: Models, folder: Path) -> list[dict[str, Any]]:
    """What the commands did: see canary.Met. The process is one of its own, since it cannot go back to what it was."""
    process = forked(meeting, name, models, folder)
    process.join(5 * PATIENCE)
    if process.exitcode != 0:
        process.kill()
        raise TimeoutError(f"{name} ended with {process.exitcode}")
    found: list[dict[str, Any]] = json.loads((folder / "told.json").read_text())
    return found


def forked(work: Any, *arguments: Any) -> Any:
    """A process of the nursery that does some work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    process = context.Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def meeting(name: str, models: Models, folder: Path) -> None:
    told(meet(group(name, models), folder), folder / "told.json")


def trained(folder: Path) -> Models:
    """Such models."""
    run, model, encoder = (folder / name for name in ("run", "model", "encoder"))
    for argv in (
        ("train", "rf", "--cond", "label", "--dataset", "digits", *slots.TINY, "--output", run),
        ("export", run, model),
    ):
        if diffcli(folder, *argv).wait():
            raise RuntimeError("no model to meet them with")
    process = forked(encoding, encoder)
    process.join(PATIENCE)
    return run, model, encoder


def encoding(folder: Path) -> None:
    import model_folders

    model_folders.folder(folder, "vae")


def row(name: str, models: Models, folder: Path) -> dict[str, Any]:
    """A row of the table: how many commands met files of a group, and how many of them did no harm."""
    found = met(name, models, folder)
    wrong = [f"{one['name']}: {one['argv'][:2]} {one['wrong']}" for one in found if one["wrong"]]
    odd = names.odd(folder)
    return {
        "files": len({one["name"] for one in found}),
        "commands": len(found),
        "harmless": len(found) - len(wrong) - bool(odd),
        "slowest_cpu_seconds": round(max(one["seconds"] for one in found), 2),
        "failures": wrong + odd,
    }
