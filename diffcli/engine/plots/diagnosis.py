"""What `eval --plot condition` found, in words: condition.txt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FOUND = {True: "YES", False: "no", None: "does not apply"}
PARTS = ("q", "k", "v", "o")


def written(facts: Mapping[str, Any]) -> str:
    """All of it, to be read; the letters are those of engine.plots.condition."""
    batch = facts["batch"]
    lines = [
        facts["convention"],
        f"measured on {batch['n']} images of {batch['split']}, noise of seed {batch['seed']}",
    ]
    for part in (tables, gradients, inside, gap, panels, verdict):
        lines += ["", *part(facts)]
    return "\n".join(lines)


def tables(facts: Mapping[str, Any]) -> Iterable[str]:
    """(a) and (b)."""
    if not facts["tables"]:
        yield "(a, b) the network has no table of classes"
    for name, one in facts["tables"].items():
        yield f"(a, b) rows of {name}, {' x '.join(map(str, one['shape']))} numbers each, drawn in condition-table"
        to_null = one["distances"][0]
        columns = zip(one["rows"], one["mean"], one["std"], one["norm"], to_null, strict=True)
        yield from aligned(
            ["row", "mean", "std", "norm", "to null"], ([row, *map(four, more)] for row, *more in columns)
        )
        between = one["class_class"]
        low, mean, high = (four(between[key]) for key in ("min", "mean", "max"))
        yield f"distances from class to class: {low} to {high}, mean {mean}"


def gradients(facts: Mapping[str, Any]) -> Iterable[str]:
    """(c)."""
    rest = facts["gradients"]
    yield "(c) gradient norms of one training batch"
    yield from (f"{name}: {one['gradient']:.3g}" for name, one in facts["tables"].items())
    yield f"the other parameters: mean {rest['rest_mean']:.3g}, max {rest['rest_max']:.3g} ({rest['rest_max_name']})"


def inside(facts: Mapping[str, Any]) -> Iterable[str]:
    """(d): the stem and the attention, where the network has them."""
    stem, attention = facts["stem"], facts["attention"]
    if stem:
        yield "(d) norm of the stem's weights on each channel of its input"
        names = [*(f"channel {k}" for k in range(len(stem["input"]))), "class"]
        yield from aligned(
            [], ([name, four(norm)] for name, norm in zip(names, [*stem["input"], stem["condition"]], strict=True))
        )
    if attention:
        yield f"(d) cross-attention: gradient norms; entropy over the tokens and spatial spread at t = {facts['middle']}"
        keys = ("entropy", "ln_tokens", "spatial_std")
        rows = (
            [name, *(f"{one['gradient'][key]:.3g}" for key in PARTS), *(four(one[key]) for key in keys)]
            for name, one in attention.items()
        )
        yield from aligned(["", *PARTS, "entropy", "ln M", "spatial std"], rows)
    if not stem and not attention:
        yield "(d) the network has neither a channel of the class nor cross-attention"


def gap(facts: Mapping[str, Any]) -> Iterable[str]:
    """(e)."""
    yield "(e) root mean square of eps_c - eps_null, of eps of size 1; condition-gap"
    yield from aligned(["t", "gap"], ([t, four(value)] for t, value in facts["gap"]["by_time"].items()))
    yield f"all images told one class, at t = {facts['middle']}"
    yield from aligned(["class", "gap"], ([name, four(value)] for name, value in facts["gap"]["by_class"].items()))


def panels(facts: Mapping[str, Any]) -> Iterable[str]:
    """(f)."""
    yield "(f) samples from the same noise, drawn in condition-panels"
    rows = (
        [name, str(one["steps"]), f"{one['nfe']:g}", four(one["max_x_0"]), four(one["std_x_0"])]
        for name, one in facts["panels"].items()
    )
    yield from aligned(["", "steps", "nfe", "max |x_0|", "std x_0"], rows)


def verdict(facts: Mapping[str, Any]) -> Iterable[str]:
    """(g)."""
    yield "(g) verdict"
    yield from (f"{name}: {FOUND[one['found']]}; {one['why']}" for name, one in facts["verdict"].items())


def four(value: float) -> str:
    """To four places."""
    return f"{value:.4f}"


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns, the first to the left and the others to the right, under their heads, if they have any."""
    cells = [*([head] if head else []), *rows]
    first, *others = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))])
        for row in cells
    ]
