"""The pictures a run draws of itself, by the method's cheap sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffcli.engine import images
from diffcli.engine.load import Model, overlay
from diffcli.engine.sample import Samples, sample

PREVIEWS = 16
SNAPSHOTS = 10


def draw(model: Model, n: int, snapshots: int = 0) -> Samples:
    """n images by the method's own preview settings."""
    settings: Any = {k: dict(v) for k, v in model.method.preview().items()}
    recipe = overlay(
        model.recipe, settings.get("sampler"), {**settings.get("sample", {}), "samples": n, "trajectory": snapshots}
    )
    return sample(model, recipe.sample, recipe.parts.get("sampler"))


def grid(model: Model, path: Path) -> None:
    """A grid of previews."""
    drawn = draw(model, PREVIEWS)
    path.parent.mkdir(parents=True, exist_ok=True)
    images.save_picture(images.grid(images.to_pictures(drawn.x), columns=4), path)


def final(model: Model, run: Path) -> dict[str, Any]:
    """samples/final.png with ten single images, and the strip of one image from noise to the end; how long they took."""
    drawn = draw(model, PREVIEWS, SNAPSHOTS)
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
