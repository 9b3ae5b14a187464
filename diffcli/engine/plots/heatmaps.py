"""The figures of `eval --plot condition`: rows of the table and their distances, the gap, and the attention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffcli.engine.charts import COLORS
from diffcli.engine.report import STYLE

if TYPE_CHECKING:
    from diffcli.nn.embedding import LabelEmbedding

ACROSS = 4  # maps in a row


def figure(width: float, height: float) -> Any:
    """An empty one."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def table_maps(
    tables: Mapping[str, LabelEmbedding], facts: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> Any:
    """The rows of each table in the form in which the network reads them, beside the distances between them."""
    import matplotlib

    down = {name: rows_of(table, len(names))[0] for name, table in tables.items()}
    with matplotlib.rc_context(STYLE):
        page = figure(6.8, sum(max(2.8, 0.5 + 0.85 * k / ACROSS, 0.5 + 0.22 * k) for k in down.values()))
        for part, (name, table) in zip(
            page.subfigures(len(tables), 1, squeeze=False)[:, 0], tables.items(), strict=True
        ):
            left, right = part.subfigures(1, 2, width_ratios=(1.15, 1))
            maps(left, table, names)
            left.suptitle(f"rows of {name}, {' x '.join(map(str, table.shape))}", fontsize=8)
            distances(right.subplots(), facts[name]["distances"], names)
    return page


def rows_of(table: LabelEmbedding, count: int) -> tuple[int, int]:
    """(down, across) of `count` panels: a few squares in a row, but long strips one under the other."""
    high, wide = table.shape[-2:] if len(table.shape) > 1 else (1, *table.shape)
    return (count, 1) if wide > 4 * high else (math.ceil(count / ACROSS), ACROSS)


def maps(part: Any, table: LabelEmbedding, names: Sequence[str]) -> None:
    """A small map a row, all in one scale of colours."""
    weight = table.weight.detach().float().cpu().numpy()
    limit = float(abs(weight).max()) or 1.0
    down, across = rows_of(table, len(names))
    panels = part.subplots(down, across, squeeze=False)
    style = {"cmap": "RdBu", "vmin": -limit, "vmax": limit, "interpolation": "nearest"}
    for panel in panels.flat:
        panel.set_axis_off()
    for panel, name, row in zip(panels.flat, names, weight, strict=False):
        seen = row.reshape(-1, table.shape[-1])
        if across == 1:
            drawn = panel.imshow(seen, aspect="auto", **style)
            panel.text(-0.02, 0.5, name, transform=panel.transAxes, ha="right", va="center", fontsize=7)
        else:
            drawn = panel.imshow(seen, **style)
            panel.set_title(name, fontsize=7, pad=2)
    part.colorbar(drawn, ax=panels, shrink=0.8, pad=0.02)


def distances(panel: Any, away: Sequence[Sequence[float]], names: Sequence[str]) -> None:
    """Row 0 is the null class."""
    drawn = panel.imshow(away, cmap="viridis", vmin=0)
    panel.set_xticks(range(len(names)), names, rotation=90)
    panel.set_yticks(range(len(names)), names)
    panel.set_title("distances between rows", fontsize=8)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    panel.figure.colorbar(drawn, ax=panel, shrink=0.8, pad=0.02)


def gap_curves(gap: Mapping[str, Mapping[str, float]]) -> Any:
    """How far the class moves eps: against t, and at the middle for each class."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        page = figure(6.8, 2.4)
        left, right = page.subplots(1, 2)
        times = [float(t) for t in gap["by_time"]]
        left.plot(times, list(gap["by_time"].values()), color=COLORS[0], lw=1.8, marker="o", ms=3)
        left.set_xlabel("t")
        left.set_ylabel("rms of eps_c - eps_null")
        left.set_xlim(0, 1)
        right.bar(list(gap["by_class"]), list(gap["by_class"].values()), color=COLORS[0], width=0.7)
        right.set_xlabel("class, at t = 0.5")
        right.tick_params(axis="x", length=0, rotation=0 if max(map(len, gap["by_class"])) <= 2 else 90)
        for panel in (left, right):
            panel.set_ylim(bottom=0)
            panel.grid(axis="y", lw=0.3, color="#dddddd")
            panel.set_axisbelow(True)
    return page


def attention_bars(attention: Mapping[str, Mapping[str, Any]]) -> Any:
    """Entropy of each cross-attention under that of looking everywhere alike, and the spread of what it adds."""
    import matplotlib

    names = list(attention)
    with matplotlib.rc_context(STYLE):
        page = figure(6.8, 1.0 + 0.28 * len(names))
        left, right = page.subplots(1, 2, sharey=True)
        left.barh(names, [one["entropy"] for one in attention.values()], color=COLORS[0], height=0.6)
        left.axvline(max(one["ln_tokens"] for one in attention.values()), color=COLORS[1], ls="--", lw=1)
        left.set_xlabel("entropy over M tokens; dashed: ln M")
        right.barh(names, [one["spatial_std"] for one in attention.values()], color=COLORS[0], height=0.6)
        right.set_xlabel("spatial standard deviation of what is added")
        left.invert_yaxis()
        for panel in (left, right):
            panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
            panel.tick_params(axis="y", length=0)
            panel.grid(axis="x", lw=0.3, color="#dddddd")
            panel.set_axisbelow(True)
    return page
