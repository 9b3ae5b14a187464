"""The pictures and texts a run draws of itself, by the method's cheap sampler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffcli.core.method import Batch
from diffcli.engine.load import Model, overlay
from diffcli.engine.media import medium
from diffcli.engine.sample import Samples, guided, sample, wishes
from diffcli.engine.walk import walk
from diffcli.errors import PluginError
from diffcli.metrics import PLOTS
from diffcli.recipe import Recipe

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench

PREVIEWS = 16
SNAPSHOTS = 10


def settings(model: Model, snapshots: int = 0) -> Recipe:
    """The recipe with the method's own cheap way of drawing."""
    asked = model.method.preview()
    over = {"samples": PREVIEWS, **asked.sample, "trajectory": snapshots}
    made = overlay(model.recipe, None if asked.sampler is None else dict(asked.sampler), over)
    return replace(made, sample=guided(model, made.sample))


def plan(model: Model, held_out: Any) -> None:
    """Refuse what could not be drawn later; held_out: the test split as the method sees it."""
    recipe, asked = settings(model), model.method.preview()
    o = recipe.sample
    medium(model.facts).refuse(o)
    walk(model, o, recipe.parts.get("sampler"), PREVIEWS)
    _, label = wishes(model, o)
    index = torch.arange(1, device=model.device)
    first = Batch(index, label=None if label is None else label[:1].to(model.device))
    model.method.wish(first, o, lambda: held_out)
    for name in (*asked.plots, *asked.opening):
        if name not in recipe.spec.plots and name not in PLOTS:
            raise PluginError(f"method {recipe.method.name}: preview() names {name}, which is none of its Spec.plots")


def draw(model: Model, snapshots: int = 0) -> Samples:
    """Previews by the method's own settings."""
    recipe = settings(model, snapshots)
    return sample(model, recipe.sample, recipe.parts.get("sampler"))


def grid(model: Model, stem: Path) -> None:
    """One file of previews, stem.png of pictures or stem.txt of texts."""
    medium(model.facts).preview(draw(model), model.space, stem)


def plots(bench: Bench, stem: Path) -> None:
    """The pictures that the method wants with each preview: stem-NAME.png, without the numbers behind them."""
    from diffcli.engine.plots import draw_plots

    draw_plots(bench, bench.model.method.preview().plots, stem.parent, prefix=f"{stem.name}-", facts=False)


def opening(bench: Bench, run: Path) -> None:
    """The pictures of the data that the method wants once, at the start of training: NAME.png in the run."""
    from diffcli.engine.plots import draw_plots

    draw_plots(bench, bench.model.method.preview().opening, run, facts=False)


def final(model: Model, run: Path) -> dict[str, Any]:
    """All previews, some of them singly, and the way of the first from noise to the end, if it is one; how long they took."""
    drawn = draw(model, SNAPSHOTS if "sampler" in model.recipe.parts else 0)
    medium(model.facts).final(drawn, model.space, run)
    return {"seconds_per_sample": sum(drawn.seconds) / len(drawn.seconds), "nfe": drawn.nfe, **drawn.facts}
