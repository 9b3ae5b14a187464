"""What `diffcli sample` leaves: a folder with the grid, the single images, the way they came about, and a profile."""

from __future__ import annotations

from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console

from diffcli.engine import images
from diffcli.engine.files import acting, dump_json, durable, room
from diffcli.engine.load import read
from diffcli.engine.progress import Bar
from diffcli.engine.rundir import CLOCK, find
from diffcli.engine.sample import Samples, sample, wishes
from diffcli.errors import RunError, show
from diffcli.recipe import Recipe
from diffcli.sections import SampleOptions

MOVING = {"webp", "gif"}
SINGLES, WHOLE, GLANCE = 1000, 1024, 64  # most images that get files of their own; in a grid of all; in a grid of some


def draw(
    run: str | Path,
    recipe: Recipe,
    *,
    output: Path | None = None,
    show_them: bool = False,
    console: Console | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Draw what the recipe's [sample] and [sampler] ask for; the folder of pictures and its profile.

    output: a new or empty folder; by default samples/<time>-<method>-<sampler> in the run, or here for a model folder.
    Where the method keeps files of its own, as reflow its pairs, the pictures are a glance: one grid of GLANCE images.
    Raises DiffcliError. No folder is made before all is drawn; profile.json comes last, so a folder without it is not whole.
    """
    console, o = console or Console(stderr=True), recipe.sample
    found = find(str(run))
    home = (Path() if found.kind == "model" else found.run) / "samples"
    room(output or home, 0)
    if output is not None:
        vacant(output)
    model = read(found, raw=o.raw, device=o.device)
    part = recipe.parts.get("sampler")
    n, _ = wishes(model, o)
    with Bar("sample", n, console) as bar:
        samples = sample(model, o, part, tick=bar.update)
    folder = output or fresh(home, f"{datetime.now():{CLOCK}}-{recipe.method.name}-{part.name if part else 'none'}")
    with acting("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        kept = model.method.keep(samples, o, folder)
        shown, singles = min(n, GLANCE if kept or n > WHOLE else n), 0 if kept or n > SINGLES else n
        write(samples, o, folder, shown, singles)
        profile = facts(samples) | {"pictures": {"grid": shown, "singles": singles}}
        durable(folder / "profile.json", dump_json(profile))
    if show_them:
        images.show_in_terminal(sheet(samples, o, shown, scale=1, gutter=1, background=0), Console())
    return folder, {**profile, "files": [str(path) for path in kept]}


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


def columns_of(n: int, columns: int | None, labels: list[int] | None) -> int:
    """As asked for, or one a class where images have classes, or near square."""
    if columns:
        return columns
    if labels is not None and 1 < len(set(labels)) <= n:
        return len(set(labels))
    return max(1, round(n**0.5))


def sheet(samples: Samples, o: SampleOptions, shown: int, x: Any = None, **style: Any) -> Any:
    """The grid of the first images, or of a snapshot x of them."""
    labels = None if samples.label is None else samples.label[:shown].tolist()
    pictures = images.to_pictures((samples.x if x is None else x)[:shown])
    return images.grid(pictures, columns=columns_of(shown, o.columns, labels), **style)


def write(samples: Samples, o: SampleOptions, folder: Path, shown: int, singles: int) -> None:
    """grid and images/; with --trajectory the moving grid and a folder an image.

    shown: images in the grids; singles: images with files of their own.
    """
    still = o.format
    images.save_picture(sheet(samples, o, shown), folder / f"grid.{still}")
    if o.trajectory:
        grids = [sheet(samples, o, shown, x) for _, x in samples.frames]
        images.save_animation(grids, folder / f"animation.{still if still in MOVING else 'gif'}")
    if not singles:
        return
    (folder / "images").mkdir()
    frames = [(t, images.to_pictures(x)) for t, x in samples.frames]
    for i, picture in enumerate(images.to_pictures(samples.x)):
        name = f"{i:03d}" + ("" if samples.label is None else f"-class{int(samples.label[i])}")
        images.save_picture(images.single(picture), folder / "images" / f"{name}.{still}")
        if o.trajectory:
            way(folder / "trajectory" / name, [(t, pictures[i]) for t, pictures in frames], still)


def facts(samples: Samples) -> dict[str, Any]:
    """What the samples are of, and what they cost."""
    seconds = samples.seconds
    return {
        **samples.facts,
        "samples": len(samples.x),
        "nfe": samples.nfe,
        "calls": samples.calls,
        "seconds_per_sample": {"mean": sum(seconds) / len(seconds), "min": min(seconds), "max": max(seconds)},
    }


def way(folder: Path, frames: list[tuple[float, Any]], still: str) -> None:
    """One image from noise to the end: a strip, and each snapshot under the t at which it exists."""
    folder.mkdir(parents=True, exist_ok=True)
    images.save_picture(images.strip(frames), folder / f"strip.{still}")
    images.save_picture(images.single(frames[-1][1]), folder / f"final.{still}")
    for k, (t, picture) in enumerate(frames):
        images.save_picture(images.single(picture), folder / f"step-{k:02d}-t{t:.3f}.{still}")
