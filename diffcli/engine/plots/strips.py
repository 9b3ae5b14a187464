"""`eval --plot strips`: the way of some samples from noise to the end, as `sample --trajectory` draws that of each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diffcli.engine import images
from diffcli.engine.draw import facts as cost
from diffcli.engine.plots.drawn import Drawn
from diffcli.engine.plots.sheet import said, sheet
from diffcli.engine.preview import SNAPSHOTS
from diffcli.engine.sample import sample, wishes
from diffcli.errors import UsageError

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench
    from diffcli.sections import EvalOptions

ROWS = 8  # samples of a model without classes


def refuse(bench: Bench) -> None:
    """UsageError for texts, whose way is read with `sample --trajectory`, and where there is no way from noise."""
    if bench.model.facts.alphabet:
        raise UsageError(
            f"--plot strips is of pictures, but {bench.model.where} is of text; read its way with diffcli sample --trajectory 10"
        )
    if "sampler" not in bench.recipe.parts:
        raise UsageError(
            f"--plot strips is of a walk from noise, but {bench.recipe.method.name} takes none; leave it out"
        )
    draws(bench)


def options(bench: Bench) -> EvalOptions:
    """A sample a class, or --per-class; some without classes; with snapshots, as many as --trajectory says."""
    conditional = getattr(bench.model.method, "conditional", False)
    number = (
        {"per_class": bench.options.per_class or 1} if conditional else {"samples": min(ROWS, bench.options.samples)}
    )
    return replace(bench.options, **number, trajectory=bench.options.trajectory or SNAPSHOTS)


def draws(bench: Bench) -> int:
    """How many samples the plot takes."""
    return wishes(bench.model, options(bench))[0]


def strips(bench: Bench) -> Drawn:
    """A row a class, or ROWS samples, and a column a snapshot, under the t at which it exists; latents are decoded."""
    refuse(bench)
    o = options(bench)
    drawn = sample(bench.model, o, bench.recipe.parts.get("sampler"), tick=bench.tick)
    n, label = len(drawn.x), drawn.label
    order, captions = list(range(n)), [""] * n
    if label is not None:
        order = label.argsort(stable=True).tolist()
        names = [bench.model.facts.class_names[k] for k in label[order].tolist()]
        captions = ["" if name in names[:i] else name for i, name in enumerate(names)]
    seen = [images.to_pictures(x[order]) for _, x in drawn.frames]
    tiles = [[images.single(frame[i]) for frame in seen] for i in range(n)]
    heads = [f"t={t:.3f}" for t, _ in drawn.frames]
    facts: dict[str, Any] = {**cost(drawn), "times": [t for t, _ in drawn.frames], "order": order}
    return Drawn({"strips": sheet(tiles, heads=heads, captions=captions, title=[said(facts)], gap=2)}, facts)


strips.refuse, strips.draws = refuse, draws  # type: ignore[attr-defined]
