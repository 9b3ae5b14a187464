"""diffcli eval RUN [RUN...]: measure trained models, side by side where there are several."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from diffcli import recipe as recipes
from diffcli.cli import output, several
from diffcli.cli.flags import Given, Section, command, extra
from diffcli.cli.group import Lazy, group
from diffcli.cli.method import belongs, below, chooser, chosen, folder, known_run, method_of, panel, tables_of, values
from diffcli.errors import EnvironmentProblem, UsageError
from diffcli.metrics import PLOTS
from diffcli.parts import Tables
from diffcli.plugin import Kind
from diffcli.sections import EvalOptions, SampleOptions, TrainOptions

CHOOSERS: tuple[Kind, ...] = ("sampler",)
PANELS: tuple[Kind, ...] = ("sampler", "dataset")  # the files of the run's data set may have moved
COLUMNS = {
    "metric": "metric", "value": "value", "standard_error": "error", "floor": "floor", "real": "real", "n": "n",
    "nfe": "nfe", "unit": "unit",
}  # fmt: skip
PLOT = "Pictures, drawn into plots/ of each run; nothing is measured unless --metric asks. There are: {}."
OUTPUT = "Folder of what is made of several runs together; unset is compare/<time>."
OWN = " Its own: {}."


class Eval(Lazy):
    """diffcli eval."""

    kind = "method"
    missing = "needs one or more runs: methods, whose newest run is taken, folders, or hub:OWNER/NAME; the methods are"

    @classmethod
    def build(cls, text: str, args: list[str]) -> TyperCommand:
        tables = tables_of(known_run(text), text)
        spec = method_of(tables)
        base = below(tables, spec, args, CHOOSERS)

        def run(
            given: Given, *, json: bool, others: list[str] | None, plot: str | None, output: str | None, **more: Any
        ) -> None:
            plots = [] if plot is None else [name.strip() for name in plot.split(",")]
            tables, where = recipes.overlay(chosen(args, spec, CHOOSERS), given), several.place(**more)
            if plots and where.count > 1:
                raise UsageError("pictures are drawn by one process; leave --devices out, or --plot")
            runs = [text, *(others or [])]
            several.run(where, lambda world: evaluate(runs, tables, plots, output, json, world))

        sections = [panel(kind, base) for kind in PANELS if kind in spec.uses]
        config = spec.eval or EvalOptions
        own = {"metric": OWN.format(", ".join(spec.metrics))} if spec.metrics else {}
        sections.append(Section("eval", config, "Evaluation", values(base.evaluation({})), more=own))
        more = typer.Argument(metavar="[RUN]...", help="More runs to compare with.", show_default=False)
        extras = [
            inspect.Parameter(
                "others", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[list[str] | None, more]
            ),
            *(chooser(kind, base) for kind in CHOOSERS if kind in spec.uses),
            extra("plot", str | None, None, PLOT.format(", ".join([*PLOTS, *spec.plots])), metavar="<name,...>"),
            extra("output", str | None, None, OUTPUT, metavar="<path>", show_default=False),
            *several.extras(),
        ]
        elsewhere = {"sample": spec.sample or SampleOptions, "train": TrainOptions}
        return command(
            text, f"Measure {text}: {spec.summary}", sections, run, extras, belongs(spec, base, CHOOSERS, elsewhere)
        )


def evaluate(texts: list[str], given: Tables, plots: list[str], place: str | None, json: bool, world: Any) -> None:
    """Call the engine for each run, after all have been found. plots: names; with any, measures are taken only by name.

    world: the processes that measure together.
    """
    from diffcli.engine.rundir import find

    runs = [find(text) for text in texts]
    over = {section: table for section, table in given.items() if section != "eval"}
    made = [recipes.resolve(recipes.overlay(tables_of(run, text), over)) for run, text in zip(runs, texts, strict=True)]
    asked = [recipe.evaluation(given.get("eval", {})) for recipe in made]
    wanted, beside = not plots or "metric" in given.get("eval", {}), folder(place)
    if place is not None and len(runs) == 1:
        raise UsageError("--output is the folder of a comparison; give two runs or more, or leave it out")
    if plots:
        drawable(runs, made, plots, beside, wanted)
    records, files = measured(runs, made, asked, beside, world) if wanted else ([], [])
    if plots:
        from diffcli.engine.plots import plot

        each = [(run.path, recipe, options) for run, recipe, options in zip(runs, made, asked, strict=True)]
        compared = files[-1].parent if wanted and len(runs) > 1 else beside
        files = [*files, *plot(each, plots, output.progress(), compared)]
    for path in files:
        output.result(path)
    output.last({"records": records, "plots": [str(path) for path in files if path.suffix != ".jsonl"]}, json)


def drawable(runs: list[Any], made: list[recipes.Recipe], plots: list[str], beside: Path | None, wanted: bool) -> None:
    """Refuse, before anything costs time, plots that do not exist or could not be written; wanted: measures, too."""
    from diffcli.engine.plots import BESIDE, known, ready, ready_beside

    for run, recipe in zip(runs, made, strict=True):
        known(recipe.spec, plots)
        ready(run)
    if len(runs) > 1 and any(name in BESIDE for name in plots):
        ready_beside(beside)
    elif beside is not None and not wanted:
        raise UsageError(
            f"--output is the folder of a comparison, but {', '.join(plots)} is drawn of each run alone; leave it out"
        )


def measured(
    runs: list[Any], made: list[recipes.Recipe], asked: list[EvalOptions], place: Path | None, world: Any
) -> tuple[list[dict[str, Any]], list[Path]]:
    """Measure one run, or several side by side, and tell it; the records, and where they are kept.

    What could not be kept is told before that is raised.
    """
    kept = list(dict.fromkeys(run.run / "evals.jsonl" for run in runs if run.kind != "model"))
    if len(runs) > 1:
        from diffcli.engine.compare import compare

        paths = [run.path for run in runs]
        comparison, unkept = whole(lambda: compare(paths, made, asked, place, output.progress(), world))
        warned(comparison.records)
        output.rows(*comparison.table())
        if unkept is not None:
            raise unkept
        return comparison.records, [*kept, *comparison.files]
    from diffcli.engine.evaluate import evaluate as engine

    path = runs[0].path
    found, unkept = whole(lambda: engine(path, made[0], asked[0], output.progress(), world))
    records = [{"run": str(path), **one} for one in found]
    told(records)
    if unkept is not None:
        raise unkept
    return records, kept


def whole(measure: Callable[[], Any]) -> tuple[Any, EnvironmentProblem | None]:
    """What the engine gives, and why it could not be kept, if it could not: see engine.records.Unkept."""
    try:
        return measure(), None
    except EnvironmentProblem as error:
        if not hasattr(error, "result"):
            raise
        return error.result, error


def warned(records: list[dict[str, Any]]) -> None:
    """What makes numbers doubtful, on stderr, each thing once a run."""
    doubted: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if "warning" in record:
            doubted.setdefault((record["run"], record["warning"]), []).append(record["metric"])
    for (run, why), metrics in doubted.items():
        output.say(f"warning: {', '.join(metrics)} of {run}: {why}")


def told(records: list[dict[str, Any]]) -> None:
    """Records of a run as a table, under what they were measured on and what makes a number doubtful."""
    for run, split in dict.fromkeys(
        (one["run"], one["split"]) for one in records if one.get("split", "none") != "none"
    ):
        output.say(f"{run}: measured on {split}")
    warned(records)
    lines = [{**one, "n": one.get("n", one.get("images"))} for one in records]
    keys = [key for key in COLUMNS if any(line.get(key) is not None for line in lines)]
    cells = ([output.cell(rounded(key, line.get(key))) for key in keys] for line in lines)
    output.rows([COLUMNS[key] for key in keys], cells)


def rounded(key: str, value: Any) -> Any:
    """An error to two digits, what stands beside a value to four."""
    if not isinstance(value, float) or key == "value":
        return value
    return f"{value:.2g}" if key == "standard_error" else f"{value:.4g}"


def build() -> Any:
    """The command."""
    return group("eval", Eval, "Measure trained models, and compare them.", "RUN... [FLAGS]")
