"""What `diffcli eval RUN --plot NAME` draws: pictures of any method, and of a method's own, `Spec.plots`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console

from diffcli.engine.evaluate import Bench
from diffcli.engine.files import acting, room
from diffcli.engine.images import save_picture
from diffcli.engine.load import read
from diffcli.engine.neighbors import neighbors
from diffcli.engine.progress import Bar
from diffcli.engine.rundir import Found, find
from diffcli.engine.sample import wishes
from diffcli.errors import PluginError, UsageError, show
from diffcli.plugin import Spec, load
from diffcli.recipe import Recipe
from diffcli.sections import EvalOptions

# Of any method. The names are those of diffcli.metrics.PLOTS.
PLOTS: dict[str, Callable[[Bench], Image.Image]] = {"neighbors": neighbors}


def plot(run: str | Path, recipe: Recipe, o: EvalOptions, names: Iterable[str], console: Console) -> list[Path]:
    """The files of the pictures of these names, in plots/ of the run, or in plots/<folder> here for a model folder.

    What was there of the same name is replaced. Raises DiffcliError.
    """
    found, names = find(str(run)), list(names)
    known(recipe.spec, names)
    ready(found)
    model = read(found, raw=o.raw, device=o.device)
    with Bar("sample", wishes(model, o)[0], console) as bar:
        return draw_plots(Bench(model, recipe, o, bar.update), names, home(found), o.format)


def known(spec: Spec, names: Iterable[str]) -> None:
    """UsageError where a method has no plot of a name."""
    if unknown := [name for name in names if name not in spec.plots and name not in PLOTS]:
        raise UsageError(f"--plot {show(unknown[0], 80)} is unknown; there are {', '.join([*PLOTS, *spec.plots])}")


def ready(found: Found) -> None:
    """EnvironmentProblem, before anything costs time, where no plots of a run can be written; creates nothing."""
    room(home(found), 0)


def home(found: Found) -> Path:
    """Where the plots of a run lie: with it, but never in a model folder."""
    return Path("plots") / found.path.resolve().name if found.kind == "model" else found.run / "plots"


@torch.no_grad()
def draw_plots(
    bench: Bench, names: Iterable[str], folder: Path, format: str = "png", *, prefix: str = ""
) -> list[Path]:
    """folder/<prefix><name>.<format> of each plot. PluginError where one is no picture."""
    drawn, spec = [], bench.recipe.spec
    for name in names:
        image = PLOTS[name](bench) if name in PLOTS else load(spec.plots[name])(bench)
        if not isinstance(image, Image.Image):
            raise PluginError(
                f"plot {name} of {spec.name} gave a {type(image).__name__}, not a PIL image; see Spec.plots"
            )
        with acting("write", folder):
            folder.mkdir(parents=True, exist_ok=True)
        drawn.append(save_picture(image, folder / f"{prefix}{name}", format))
    return drawn
