"""diffcli eval RUN [RUN...]: measure trained models, side by side where there are several."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from diffcli import recipe as recipes
from diffcli.cli import output
from diffcli.cli.flags import Given, Section, command, extra
from diffcli.cli.group import Lazy, group
from diffcli.cli.method import belongs, below, chooser, chosen, known_run, method_of, panel, tables_of, values
from diffcli.parts import Tables
from diffcli.plugin import Kind
from diffcli.sections import EvalOptions, SampleOptions, TrainOptions

CHOOSERS: tuple[Kind, ...] = ("sampler",)
PANELS: tuple[Kind, ...] = ("sampler", "dataset")  # the files of the run's data set may have moved
COLUMNS = {
    "metric": "metric", "value": "value", "standard_error": "error", "floor": "floor", "real": "real",
    "n": "n", "images": "images", "nfe": "nfe", "unit": "unit",
}  # fmt: skip
PLOT = (
    "The method's own pictures, drawn into plots/ of the run; nothing is measured unless --metric asks. There are: {}."
)


class Eval(Lazy):
    """diffcli eval."""

    kind = "method"
    missing = "needs one or more runs: methods, whose newest run is taken, or folders; the methods are"

    @classmethod
    def build(cls, text: str, args: list[str]) -> TyperCommand:
        tables = tables_of(known_run(text), text)
        spec = method_of(tables)
        base = below(tables, spec, args, CHOOSERS)

        def run(given: Given, *, json: bool, others: list[str] | None, plot: str | None, **_: Any) -> None:
            plots = [] if plot is None else [name.strip() for name in plot.split(",")]
            evaluate([text, *(others or [])], recipes.overlay(chosen(args, spec, CHOOSERS), given), plots, json)

        sections = [panel(kind, base) for kind in PANELS if kind in spec.uses]
        config = spec.eval or EvalOptions
        sections.append(Section("eval", config, "Evaluation", values(base.evaluation({}))))
        more = typer.Argument(metavar="[RUN]...", help="More runs to compare with.", show_default=False)
        extras = [
            inspect.Parameter(
                "others", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[list[str] | None, more]
            ),
            *(chooser(kind, base) for kind in CHOOSERS if kind in spec.uses),
            extra("plot", str | None, None, PLOT.format(", ".join(spec.plots) or "none"), metavar="<name,...>"),
        ]
        elsewhere = {"sample": spec.sample or SampleOptions, "train": TrainOptions}
        return command(
            text, f"Measure {text}: {spec.summary}", sections, run, extras, belongs(spec, base, CHOOSERS, elsewhere)
        )


def evaluate(texts: list[str], given: Tables, plots: list[str], json: bool) -> None:
    """Call the engine for each run, after all have been found. plots: names; with any, measures are taken only by name."""
    from diffcli.engine.rundir import find

    runs = [find(text) for text in texts]
    over = {section: table for section, table in given.items() if section != "eval"}
    made = [recipes.resolve(recipes.overlay(tables_of(run, text), over)) for run, text in zip(runs, texts, strict=True)]
    asked = [recipe.evaluation(given.get("eval", {})) for recipe in made]
    console, records, drawn = output.progress(), [], []
    if plots:
        from diffcli.engine.plots import known, plot

        for recipe in made:
            known(recipe.spec, plots)
    if not plots or "metric" in given.get("eval", {}):
        from diffcli.engine.evaluate import evaluate as engine

        for run, recipe, wanted in zip(runs, made, asked, strict=True):
            records += [{"run": str(run.path), **record} for record in engine(run.path, recipe, wanted, console)]
        told(records)
        for place in dict.fromkeys(run.run / "evals.jsonl" for run in runs if run.kind != "model"):
            output.result(place)
    for run, recipe, wanted in zip(runs, made, asked, strict=True) if plots else ():
        drawn += plot(run.path, recipe, wanted, plots, console)
    for path in drawn:
        output.result(path)
    output.last({"records": records, "plots": [str(path) for path in drawn]}, json)


def told(records: list[dict[str, Any]]) -> None:
    """Records as a table, under what they were measured on and what makes a number doubtful."""
    for run, split in dict.fromkeys((record["run"], record["split"]) for record in records if "split" in record):
        output.say(f"{run}: measured on {split}")
    for record in records:
        if "warning" in record:
            output.say(f"warning: {record['metric']} of {record['run']}: {record['warning']}")
    keys = [key for key in COLUMNS if any(key in record for record in records)]
    head = ["run", *(COLUMNS[key] for key in keys)]
    output.rows(head, ([output.cell(record.get(key)) for key in ("run", *keys)] for record in records))


def build() -> Any:
    """The command."""
    return group("eval", Eval, "Measure trained models, and compare them.", "RUN... [FLAGS]")
