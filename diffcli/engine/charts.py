"""The plot of a comparison: a small panel a metric, a row a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffcli.engine.report import STYLE, save

COLORS = ("#4477aa", "#cc3311", "#228833", "#aa3377", "#ccbb44", "#66ccee")  # Paul Tol's bright and vibrant schemes
REAL = "#777777"
ACROSS = 4
LESS, MORE = (
    ("loss", "fd", "kd", "memorization", "nll"),
    ("precision", "recall", "density", "coverage", "accuracy", "agreement"),
)


def chart(labels: Sequence[str], metrics: Mapping[str, Sequence[Mapping[str, Any] | None]], stem: Path) -> list[Path]:
    """<stem>.png and .pdf: a panel a metric, with the value of each run, its error, and what real images have as a line."""
    if not metrics:
        return []
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(ACROSS, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    with matplotlib.rc_context(STYLE):
        margin = 0.9 + 0.065 * max(map(len, labels))
        size = (margin + 1.7 * columns, 0.5 + rows * (0.62 + 0.2 * len(labels)))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for k, panel in enumerate(panels.flat):
            panel.set_visible(k < len(metrics))
        for panel, (name, records) in zip(panels.flat, metrics.items(), strict=False):
            draw(panel, name, records)
        panels[0][0].set_yticks(range(len(labels)), labels)
        panels[0][0].set_ylim(len(labels) - 0.5, -0.5)
        line = matplotlib.lines.Line2D([], [], color=REAL, ls="--", lw=0.8)
        figure.legend(
            [line],
            ["real images in place of samples; arrows point to better"],
            loc="outside lower right",
            frameon=False,
        )
        return [save(figure, stem, kind) for kind in ("png", "pdf")]


def draw(panel: Any, name: str, records: Sequence[Mapping[str, Any] | None]) -> None:
    """One metric: a point a run, with its standard error, and a dashed line where real images are."""
    from matplotlib.ticker import MaxNLocator

    for k, record in enumerate(records):
        if record is None:
            continue
        color = COLORS[k % len(COLORS)]
        panel.errorbar(
            record["value"], k, xerr=record.get("standard_error"), fmt="o", ms=4, color=color, lw=1, capsize=2
        )
        real = record.get("floor", record.get("real"))
        if real is not None:
            panel.axvline(real, color=REAL, ls="--", lw=0.8, zorder=0)
    low, high = panel.get_xlim()
    if high - low < 1e-9:  # all runs and real images at one value
        panel.set_xlim(low - 0.05, high + 0.05)
    unit = next((record["unit"] for record in records if record is not None and "unit" in record), "")
    better = {**dict.fromkeys(LESS, " \u2193"), **dict.fromkeys(MORE, " \u2191")}.get(name.partition("[")[0], "")
    panel.set_title((f"{name} ({unit})" if unit and unit not in name else name) + better, fontsize=8)
    panel.xaxis.set_major_locator(MaxNLocator(3))
    panel.tick_params(axis="y", length=0)
    panel.margins(x=0.2)
    panel.grid(axis="x", lw=0.3, color="#dddddd")
    panel.set_axisbelow(True)
