"""What `diffcli sample` leaves: a folder with the grid, the single images, the way they came about, and a profile."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from diffcli.engine import images
from diffcli.engine.files import dump_json, durable
from diffcli.engine.load import read
from diffcli.engine.progress import Bar
from diffcli.engine.rundir import Found, find
from diffcli.engine.sample import Samples, sample, wishes
from diffcli.errors import EnvironmentProblem, show
from diffcli.recipe import Recipe

MOVING = {"webp", "gif"}


def draw(
    run: str | Path,
    recipe: Recipe,
    *,
    output: Path | None = None,
    show_them: bool = False,
    console: Console | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Draw what the recipe's [sample] and [sampler] ask for; the folder of pictures and its profile.

    output: the folder, by default samples/<time>-<method>-<sampler> in the run. Raises DiffcliError; nothing is written then.
    """
    console, o = console or Console(stderr=True), recipe.sample
    found = find(str(run))
    model = read(found, raw=o.raw, device=o.device)
    part = recipe.parts.get("sampler")
    n, _ = wishes(model, o)
    with Bar("sample", n, console) as bar:
        samples = sample(model, o, part, tick=bar.update)
    folder = output or fresh(
        home(found) / "samples",
        f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe.method.name}-{part.name if part else 'none'}",
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        profile = write(samples, recipe, folder)
        kept = model.method.keep(samples, o, folder)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write to {show(folder)}: {error.strerror}; choose another --output") from None
    if show_them:
        images.show_in_terminal(picture_of(samples, o.columns, scale=1, gutter=1, background=0), Console())
    return folder, {**profile, "files": [str(path) for path in kept]}


def home(found: Found) -> Path:
    """Where samples go by default: into the run; a model folder of others is not written to."""
    return {"run": found.path, "checkpoint": found.path.parent.parent, "model": Path()}[found.kind]


def fresh(parent: Path, name: str) -> Path:
    """A folder that is not there yet."""
    folder, k = parent / name, 2
    while folder.exists():
        folder, k = parent / f"{name}-{k}", k + 1
    return folder


def columns_of(n: int, columns: int | None, labels: list[int] | None) -> int:
    """As asked for, or one a class where images have classes, or near square."""
    if columns:
        return columns
    if labels is not None and 1 < len(set(labels)) <= n:
        return len(set(labels))
    return max(1, round(n**0.5))


def picture_of(samples: Samples, columns: int | None, x: Any = None, **style: Any) -> Any:
    """The grid of the images, or of a snapshot x of them."""
    labels = None if samples.label is None else samples.label.tolist()
    pictures = images.to_pictures(samples.x if x is None else x)
    return images.grid(pictures, columns=columns_of(len(pictures), columns, labels), **style)


def write(samples: Samples, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """grid, images/, and with --trajectory the moving grid and a folder an image; profile.json last."""
    o, still = recipe.sample, recipe.sample.format
    images.save_picture(picture_of(samples, o.columns), folder / f"grid.{still}")
    singles = folder / "images"
    singles.mkdir(exist_ok=True)
    labels = [None] * len(samples.x) if samples.label is None else samples.label.tolist()
    names = [f"{i:03d}" + ("" if label is None else f"-class{label}") for i, label in enumerate(labels)]
    for name, picture in zip(names, images.to_pictures(samples.x), strict=True):
        images.save_picture(images.single(picture), singles / f"{name}.{still}")
    if o.trajectory:
        moving = still if still in MOVING else "gif"
        grids = [picture_of(samples, o.columns, x) for _, x in samples.frames]
        images.save_animation(grids, folder / f"animation.{moving}")
        frames = [(t, images.to_pictures(x)) for t, x in samples.frames]
        for i, name in enumerate(names):
            way(folder / "trajectory" / name, [(t, pictures[i]) for t, pictures in frames], still)
    seconds = samples.seconds
    profile = {
        **samples.facts,
        "samples": len(samples.x),
        "nfe": samples.nfe,
        "calls": samples.calls,
        "seconds_per_sample": {"mean": sum(seconds) / len(seconds), "min": min(seconds), "max": max(seconds)},
    }
    durable(folder / "profile.json", dump_json(profile))
    return profile


def way(folder: Path, frames: list[tuple[float, Any]], still: str) -> None:
    """One image from noise to the end: a strip, and each snapshot under the t at which it exists."""
    folder.mkdir(parents=True, exist_ok=True)
    images.save_picture(images.strip(frames), folder / f"strip.{still}")
    images.save_picture(images.single(frames[-1][1]), folder / f"final.{still}")
    for k, (t, picture) in enumerate(frames):
        images.save_picture(images.single(picture), folder / f"step-{k:02d}-t{t:.3f}.{still}")
