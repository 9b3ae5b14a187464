"""The pictures a run draws of itself, by the method's cheap sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffcli.engine import images
from diffcli.engine.load import Model, overlay
from diffcli.engine.sample import Samples, sample, walk
from diffcli.recipe import Recipe

PREVIEWS = 16
SNAPSHOTS = 10


def settings(model: Model, snapshots: int = 0) -> Recipe:
    """The recipe with the method's own cheap way of drawing."""
    asked: Any = {k: dict(v) for k, v in model.method.preview().items()}
    over = {**asked.get("sample", {}), "samples": PREVIEWS, "trajectory": snapshots}
    return overlay(model.recipe, asked.get("sampler"), over)


def plan(model: Model) -> None:
    """Refuse what could not be drawn later."""
    recipe = settings(model)
    walk(model, recipe.sample, recipe.parts.get("sampler"), PREVIEWS)


def draw(model: Model, snapshots: int = 0) -> Samples:
    """Previews by the method's own settings."""
    recipe = settings(model, snapshots)
    return sample(model, recipe.sample, recipe.parts.get("sampler"))


def grid(model: Model, path: Path) -> None:
    """A grid of previews."""
    drawn = draw(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    images.save_picture(images.grid(images.to_pictures(drawn.x), columns=4), path)


def final(model: Model, run: Path) -> dict[str, Any]:
    """samples/final.png with ten single images, and the strip of one image from noise to the end; how long they took."""
    drawn = draw(model, SNAPSHOTS)
    folder, strip = run / "samples" / "final", run / "trajectory"
    for made in (folder, strip):
        made.mkdir(parents=True, exist_ok=True)
    images.save_picture(images.grid(images.to_pictures(drawn.x), columns=4), run / "samples" / "final.png")
    for i, picture in enumerate(images.to_pictures(drawn.x[:10])):
        images.save_picture(images.single(picture), folder / f"{i:03d}.png")
    frames = [(t, images.to_pictures(x[:1])[0]) for t, x in drawn.frames]
    images.save_picture(images.strip(frames), strip / "strip.png")
    for k, (t, picture) in enumerate(frames):
        images.save_picture(images.single(picture), strip / f"step-{k:02d}-t{t:.3f}.png")
    return {"seconds_per_sample": sum(drawn.seconds) / len(drawn.seconds), "nfe": drawn.nfe, **drawn.facts}
