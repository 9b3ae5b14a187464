"""What `diffcli eval RUN --plot NAME` draws: of any method diffcli.metrics.PLOTS, of a method's own Spec.plots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console

from diffcli.engine import records
from diffcli.engine.compare import labels, refuse_other_data
from diffcli.engine.draw import fresh, vacant
from diffcli.engine.evaluate import Bench, benched
from diffcli.engine.files import room
from diffcli.engine.plots.drawn import Drawn, keep
from diffcli.engine.progress import Bar
from diffcli.engine.refusals import refuse
from diffcli.engine.rundir import CLOCK, Found, find
from diffcli.engine.sample import wishes
from diffcli.errors import PluginError, UsageError, show
from diffcli.metrics import PLOTS
from diffcli.plugin import Spec, load
from diffcli.recipe import Recipe
from diffcli.sections import EvalOptions

# A plot may have attributes: refuse(bench), which raises before anything costs time, and draws(bench), how many samples
# it draws.
Plot = Callable[[Bench], Any]
# Of several runs of one data set: called with (benches, what the plot drew of each), gives a Drawn.
BESIDE: dict[str, str] = {"guidance": "diffcli.engine.plots.guidance:beside"}


def plot(
    runs: Sequence[tuple[Path, Recipe, EvalOptions]], names: Iterable[str], console: Console, folder: Path | None = None
) -> list[Path]:
    """The files of the plots of these names, in plots/ of each run, or in plots/<folder> here for a model folder.

    runs: where, with what sampler, and how each is drawn. Of several runs the plots in BESIDE are drawn side by side as
    well, into the folder, by default compare/<time>. What was there of the same name is replaced. Raises DiffcliError.
    """
    names = list(dict.fromkeys(names))
    found = [find(str(run)) for run, _, _ in runs]
    for one, (_, recipe, _) in zip(found, runs, strict=True):
        known(recipe.spec, names)
        ready(one)
    benches = [benched(one, recipe, o) for one, (_, recipe, o) in zip(found, runs, strict=True)]
    together = [name for name in names if name in BESIDE] if len(runs) > 1 else []
    if together:
        same_data(benches)
    for bench in benches:
        for name in names:
            refuse(plot_of(name, bench.recipe.spec), bench)
    files, drawn = list[Path](), list[dict[str, Drawn]]()
    for one, bench in zip(found, benches, strict=True):
        drawn.append({})
        for name in names:
            made = drawn[-1][name] = drawing(bench, name, console)
            files += keep(made, home(one), name, bench.options.format, provenance(bench, name))
    if together:
        if folder is None:
            folder = fresh(Path("compare"), f"{datetime.now():{CLOCK}}")
        for name in together:
            made = load(BESIDE[name])(benches, [of_run[name] for of_run in drawn])
            about = {"runs": [provenance(bench, name) for bench in benches]}
            files += keep(made, folder, name, benches[0].options.format, about)
    return files


def same_data(benches: Sequence[Bench]) -> None:
    """UsageError where runs that are to be drawn side by side are of different data."""
    facts = [bench.model.facts for bench in benches]
    refuse_other_data(
        labels([Path(bench.model.where) for bench in benches]),
        [{"dataset": one.name, "shape": one.shape, "class_names": one.class_names} for one in facts],
    )


def known(spec: Spec, names: Iterable[str]) -> None:
    """UsageError where a method has no plot of a name."""
    if unknown := [name for name in names if name not in spec.plots and name not in PLOTS]:
        raise UsageError(f"--plot {show(unknown[0], 80)} is unknown; there are {', '.join([*PLOTS, *spec.plots])}")


def ready(found: Found) -> None:
    """EnvironmentProblem, before anything costs time, where no plots of a run can be written; creates nothing."""
    room(home(found), 0)


def ready_beside(folder: Path | None) -> None:
    """The same of the folder of a comparison. RunError where it holds something."""
    room(folder or Path("compare"), 0)
    if folder is not None:
        vacant(folder)


def home(found: Found) -> Path:
    """Where the plots of a run lie: with it, but never in a model folder."""
    return Path("plots") / found.path.resolve().name if found.kind == "model" else found.run / "plots"


def plot_of(name: str, spec: Spec) -> Plot:
    """A plot of any method, or of this one."""
    target: Plot = load(PLOTS[name] if name in PLOTS else spec.plots[name])
    return target


def drawing(bench: Bench, name: str, console: Console) -> Drawn:
    """One plot, under a bar of the samples that it draws."""
    draws = getattr(plot_of(name, bench.recipe.spec), "draws", lambda bench: wishes(bench.model, bench.options)[0])
    with Bar("sample", draws(bench), console) as bar:
        bench.tick = bar.update
        return draw(bench, name)


@torch.no_grad()
def draw(bench: Bench, name: str) -> Drawn:
    """One plot. PluginError where it is neither a PIL image nor a Drawn of pictures."""
    from matplotlib.figure import Figure

    spec = bench.recipe.spec
    made = plot_of(name, spec)(bench)
    if isinstance(made, Image.Image):
        return Drawn({name: made})
    if not isinstance(made, Drawn):
        raise PluginError(
            f"plot {name} of {spec.name} gave a {type(made).__name__}, not a PIL image or a Drawn; see Spec.plots"
        )
    for stem, picture in made.pictures.items():
        if not isinstance(picture, Image.Image | Figure):
            raise PluginError(
                f"plot {name} of {spec.name}: {stem} is a {type(picture).__name__}, no PIL image or Figure"
            )
    return made


def draw_plots(
    bench: Bench, names: Iterable[str], folder: Path, format: str = "png", *, prefix: str = "", facts: bool = True
) -> list[Path]:
    """The files of some plots in a folder, under names that begin with the prefix: see `keep`.

    facts: False leaves the pictures alone, figures as PNG.
    """
    files = list[Path]()
    for name in names:
        about = provenance(bench, name) if facts else None
        files += keep(draw(bench, name), folder, name, format, about, prefix)
    return files


def provenance(bench: Bench, name: str) -> dict[str, Any]:
    """What any plot depends on; what it is of besides, samples say, it tells in its own facts."""
    return {"plot": name, **records.setting(bench, records.command(bench, "--plot", name))}
