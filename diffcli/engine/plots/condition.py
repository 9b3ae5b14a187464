"""`eval --plot condition`: does the network listen to the class? Its table, what trains it, and what it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diffcli.engine import images
from diffcli.engine.load import overlay
from diffcli.engine.plots import listening
from diffcli.engine.plots.diagnosis import written
from diffcli.engine.plots.drawn import Drawn
from diffcli.engine.plots.guidance import CONVENTION
from diffcli.engine.plots.heatmaps import attention_bars, gap_curves, table_maps
from diffcli.engine.plots.sheet import sheet
from diffcli.engine.refusals import conditional, settled
from diffcli.engine.sample import Samples, sample, wishes
from diffcli.errors import UsageError
from diffcli.parts import Part

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench
    from diffcli.sections import EvalOptions

SCALE, STEPS, EACH = 3.0, 100, 2  # of the panels: guidance, steps of ddim, images a class
IGNORED = 1e-3  # root mean square of eps_c - eps_null, of eps of size 1, below which the class does nothing
UNTRAINED = 1e-4  # gradient norm of a table over the mean of the other parameters
CONSTANT = 1e-4  # spatial standard deviation, or ln M - entropy, of an attention that looks everywhere alike
PANELS = {
    "ddim, w = 3": ("ddim", SCALE, None),
    "ancestral, w = 3": ("ancestral", SCALE, None),
    "ancestral, w = 1": ("ancestral", 1.0, None),
    "ancestral, w = 1, unclipped": ("ancestral", 1.0, 0.0),
}  # sampler, guidance scale, and clip: None is the bound of the data
OWN = ("steps", "spacing", "rho", "guidance_scale", "guidance_interval", "clip")  # what a panel says itself


def refuse(bench: Bench) -> None:
    """UsageError where the model is not gaussian or knows no classes, or where what a panel says itself is given."""
    model = bench.model
    if model.recipe.spec.family != "gaussian":
        raise UsageError(
            f"--plot condition is of gaussian methods, but {model.recipe.method.name} is none; leave it out"
        )
    conditional(bench, "--plot condition")
    settled(bench, "condition", OWN)
    draws(bench)


def options(bench: Bench, scale: float, clip: float | None, steps: int | None) -> EvalOptions:
    """How a panel is drawn."""
    plain = {"guidance_interval": None, "spacing": None, "trajectory": 0}
    per_class = bench.options.per_class or EACH
    return replace(bench.options, guidance_scale=scale, clip=clip, steps=steps, per_class=per_class, **plain)


def draws(bench: Bench) -> int:
    """How many samples the plot takes."""
    return len(PANELS) * wishes(bench.model, options(bench, 1.0, None, None))[0]


def condition(bench: Bench) -> Drawn:
    """What the network knows of classes, and how far it listens to them, in seven parts.

    (a) the rows of the class table and their distances, (b) what they look like, (c) the gradients of one training batch,
    (d) the stem's weights on a class channel and the attention over class tokens, (e) how far the class moves eps, (f) four
    ways to sample from the same noise, (g) a verdict on each fault that a condition can have.

    --label and --per-class say what (f) is drawn of. Its four ways have their own steps, spacing, guidance and clip, so
    these are refused where they are given. UsageError where the model knows no classes.
    """
    refuse(bench)
    found = listening.measure(bench)
    drawn = panels(bench)
    facts: dict[str, Any] = {
        "convention": CONVENTION,
        "middle": listening.MIDDLE,
        **found,
        "panels": {name: panel_facts(one) for name, one in drawn.items()},
        "verdict": verdict(found),
    }
    names = ["null", *bench.model.facts.class_names]
    pictures: dict[str, Any] = {"condition-gap": gap_curves(found["gap"])}
    if found["tables"]:
        rows = listening.tables(bench.model.method.denoiser)
        pictures["condition-table"] = table_maps(rows, found["tables"], names)
    if found["attention"]:
        pictures["condition-attention"] = attention_bars(found["attention"])
    pictures["condition-panels"] = side_by_side(bench, drawn)
    return Drawn(pictures, {**facts, "text": written(facts)})


condition.refuse, condition.draws = refuse, draws  # type: ignore[attr-defined]


def panels(bench: Bench) -> dict[str, Samples]:
    """The same noise by each of the four ways."""
    drawn, done = dict[str, Samples](), 0
    nodes = bench.model.method.denoiser.process.nodes
    for name, (sampler, scale, clip) in PANELS.items():
        o = options(bench, scale, clip, min(STEPS, nodes or STEPS) if sampler == "ddim" else None)
        drawn[name] = sample(bench.model, o, part(bench, sampler), tick=lambda k, before=done: bench.tick(before + k))
        done += len(drawn[name].x)
    return drawn


def part(bench: Bench, name: str) -> Part:
    """The sampler of this name as `eval --sampler` takes it: with what is given, else what the run or its method says."""
    mine = bench.recipe.parts["sampler"]
    return mine if mine.name == name else overlay(bench.model.recipe, {"name": name}, {}).parts["sampler"]


def panel_facts(drawn: Samples) -> dict[str, Any]:
    """How a panel was drawn, and how large its x_0 are: blobs are of x_0 far outside of what a decoder has seen."""
    keys = ("sampler", "steps", "spacing", "guidance_scale", "clip", "seed")
    size = {"max_x_0": float(drawn.x_0.abs().max()), "std_x_0": float(drawn.x_0.std())}
    return {**{key: drawn.facts[key] for key in keys}, "nfe": drawn.nfe, "n": len(drawn.x), **size}


def side_by_side(bench: Bench, drawn: Mapping[str, Samples]) -> Any:
    """A panel a way; columns are classes."""
    first = next(iter(drawn.values()))
    assert first.label is not None
    across = len(set(first.label.tolist()))
    columns = bench.options.columns or (across if across > 1 else max(1, round(len(first.x) ** 0.5)))
    tiles = [[images.grid(images.to_pictures(one.x), columns)] for one in drawn.values()]
    captions = [f"{name} ({one.facts['steps']} steps)" for name, one in drawn.items()]
    facts = first.facts
    title = f"{facts['method']}, {facts['dataset']}, step {facts['step']} ({facts['weights']}), seed {facts['seed']}: the same noise in each panel"
    return sheet(tiles, captions=captions, title=[title, CONVENTION])


def verdict(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each fault: whether it is there, None where the network has no part that could have it, and by what number."""
    gap = max([*found["gap"]["by_time"].values(), *found["gap"]["by_class"].values()])
    return {
        "condition ignored": {
            "found": gap < IGNORED,
            "why": f"the class moves eps by {gap:.2g} at most; below {IGNORED:g} it does nothing",
        },
        "table not trained": untrained(found),
        "attention constant": constant(found["attention"]),
    }


def untrained(found: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a table of classes gets no gradient to speak of."""
    gradients, rest = [one["gradient"] for one in found["tables"].values()], found["gradients"]["rest_mean"]
    if not gradients:
        return {"found": None, "why": "the network has no table of classes"}
    share = min(gradients) / rest if rest else 0.0
    return {
        "found": share < UNTRAINED,
        "why": f"its gradient is {share:.2g} of the mean of the other parameters; below {UNTRAINED:g} it learns nothing",
    }


def constant(attention: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a cross-attention looks at all tokens alike, or adds the same everywhere."""
    if not attention:
        return {"found": None, "why": "the network has no cross-attention"}
    dead = [
        name
        for name, one in attention.items()
        if one["ln_tokens"] - one["entropy"] < CONSTANT or one["spatial_std"] < CONSTANT
    ]
    named = f": {', '.join(dead)}" if dead else ""
    return {"found": bool(dead), "why": f"{len(dead)} of {len(attention)} look everywhere alike{named}"}
