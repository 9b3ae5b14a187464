"""What `diffcli sample` leaves: a folder with the pictures or texts, the way they came about, and a profile."""

from __future__ import annotations

import os
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console

from diffcli.engine import images, restore
from diffcli.engine.files import acting, at_once, dump_json, durable, room
from diffcli.engine.load import Model, read
from diffcli.engine.media import medium
from diffcli.engine.progress import Bar
from diffcli.engine.ranks import ALONE, World
from diffcli.engine.restored import leave, sheet
from diffcli.engine.rundir import CLOCK, find
from diffcli.engine.sample import Samples, sample, wishes
from diffcli.errors import RunError, UsageError, show
from diffcli.options import options, table
from diffcli.parts import Part
from diffcli.recipe import Recipe
from diffcli.sections import SampleOptions


def draw(
    run: str | Path,
    recipe: Recipe,
    *,
    output: Path | None = None,
    show_them: bool = False,
    console: Console | None = None,
    world: World = ALONE,
) -> tuple[Path, dict[str, Any]]:
    """Draw what the recipe's [sample] and [sampler] ask for; the folder of pictures or texts, and its profile.

    output: a new or empty folder; by default samples/<time>-<method>-<sampler> in the run, or here for a model folder.
    world: the processes that draw together; the first one writes. Where the method keeps files of its own, as reflow its pairs, what is drawn of the samples is a glance.
    Raises DiffcliError. No folder is made before all is drawn; profile.json comes last, so a folder without it is not whole.
    """
    console, o = console or Console(stderr=True), recipe.sample
    found = find(str(run))
    home = (Path() if found.kind == "model" else found.run) / "samples"
    room(output or home, 0)
    if output is not None:
        vacant(output)
    model = read(found, raw=o.raw, device=o.device, place=o.autoencoder)
    media, space, part = medium(model.facts), model.space, recipe.parts.get("sampler")
    media.refuse(o)
    name = f"{recipe.method.name}-{part.name if part else 'none'}"
    if restore.wanted(model, o):
        if world.size > 1:
            raise UsageError("pictures and latents of your own are made anew by one process; leave --devices out")
        return restored(model, o, part, output, home, name, console, show_them)
    n, _ = wishes(model, o)
    with Bar("sample", n, console) as bar:
        samples = sample(model, o, part, tick=bar.update, world=world)
    if not world.first:
        return Path(), {}
    folder = output or fresh(home, f"{datetime.now():{CLOCK}}-{name}")
    with acting("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        kept = model.method.keep(samples, o, folder)
        profile = facts(samples) | {"options": own(o)} | media.write(samples, o, space, folder, glance=bool(kept))
        durable(folder / "profile.json", dump_json(profile))
    if show_them:
        media.show(samples, o, space, Console(), glance=bool(kept))
    return folder, {**profile, "files": [str(path) for path in kept]}


def restored(
    model: Model,
    o: SampleOptions,
    part: Part | None,
    output: Path | None,
    home: Path,
    name: str,
    console: Console,
    show_them: bool,
) -> tuple[Path, dict[str, Any]]:
    """The same of the user's own pictures or latents, each at its own size, with a table a picture in what is returned."""
    with at_once(output.parent if output else home) as folder:
        with Bar("sample", restore.wanted(model, o), console) as bar:
            done = restore.restore(model, o, part, folder, tick=bar.update)
        kept = model.method.keep(done, o, folder)
        means, seconds = leave(done, folder), done.seconds
        profile = {
            **done.facts,
            "options": own(o),
            "samples": done.n,
            "nfe": done.evaluated / done.n,
            "calls": done.calls,
            "seconds_per_sample": {"mean": sum(seconds) / done.n, "min": min(seconds), "max": max(seconds)},
            "mean": means,
        }
        durable(folder / "profile.json", dump_json(profile))
        final = output or fresh(home, f"{datetime.now():{CLOCK}}-{name}")
        os.rename(folder, final)
    if show_them:
        images.show_in_terminal(sheet(done, images.SIDE), Console())
    kept = [final / path.relative_to(folder) for path in kept]
    return final, {**profile, "files": [str(path) for path in kept], "table": done.table}


def vacant(folder: Path) -> None:
    """Refuse a folder that holds something."""
    with acting("read", folder):
        empty = not folder.is_dir() or not any(folder.iterdir())
    if not empty:
        raise RunError(f"{show(folder)} is not empty; choose another --output")


def fresh(parent: Path, name: str) -> Path:
    """A new folder of this name, numbered where there is one already."""
    with acting("create", parent):
        parent.mkdir(parents=True, exist_ok=True)
        for k in count(1):
            folder = parent / (name if k == 1 else f"{name}-{k}")
            try:
                folder.mkdir()
                break
            except FileExistsError:
                continue
    return folder


def facts(samples: Samples) -> dict[str, Any]:
    """What the samples are of, the share of them that was given, and what they cost."""
    seconds, known = samples.seconds, None if samples.given is None else samples.given.known
    return {
        **samples.facts,
        **({} if known is None else {"given": round(float(known.double().mean()), 4)}),
        "samples": len(samples.x),
        "nfe": samples.nfe,
        "calls": samples.calls,
        "seconds_per_sample": {"mean": sum(seconds) / len(seconds), "min": min(seconds), "max": max(seconds)},
    }


def own(o: SampleOptions) -> dict[str, Any]:
    """What was asked for in options that the method alone has, such as a prompt."""
    return {key: value for key, value in table(o).items() if key not in options(SampleOptions)}
