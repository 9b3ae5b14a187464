"""Curves over the guidance scale: a figure with a panel a quantity, and the numbers as a table to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffcli.engine.charts import COLORS, REAL
from diffcli.engine.report import STYLE

NEAR = 0.3  # least decades between two ticks


class Curve(NamedTuple):
    """A quantity at each scale: its mean over classes, that of each class, and what real images have."""

    name: str
    mean: list[float]
    by_class: list[list[float]]
    real: float | None = None


def curves(scales: Sequence[float], runs: Mapping[str, Sequence[Curve]]) -> Any:
    """A panel a quantity: a thick line the mean, and of one run alone a thin one each class; a dashed one real images.

    runs: curves by what the legend calls their run. The axis is linear up to 1 and logarithmic beyond.
    """
    import matplotlib
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(curve.name for made in runs.values() for curve in made))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.3 * len(names), 2.5 + 0.14 * (len(runs) > 1)), layout="constrained")
        for panel, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            for color, (label, made) in zip(COLORS * len(runs), runs.items(), strict=False):
                for curve in made:
                    if curve.name == name:
                        lines(panel, scales, curve, color, label, alone=len(runs) == 1)
            panel.axvline(1, color="#dddddd", lw=0.8, zorder=0)
            panel.set_xlabel("guidance scale w (1 is none)")
            panel.set_ylabel("diversity: std of a pixel" if name == "diversity" else name)
            if name != "diversity":
                panel.set_ylim(-0.02, 1.02)
            axis(panel, scales)
            panel.grid(axis="y", lw=0.3, color="#dddddd")
            panel.set_axisbelow(True)
        handles, texts = panel.get_legend_handles_labels()
        unique = dict(zip(texts, handles, strict=True))
        figure.legend(
            unique.values(), unique.keys(), loc="outside upper center", ncols=min(4, len(unique)), frameon=False
        )
    return figure


def lines(panel: Any, scales: Sequence[float], curve: Curve, color: str, label: str, *, alone: bool) -> None:
    """One run in one panel."""
    if alone:
        for k, values in enumerate(curve.by_class):
            panel.plot(scales, values, color=color, lw=0.5, alpha=0.45, label="" if k else "a class")
    panel.plot(scales, curve.mean, color=color, lw=1.8, marker="o", ms=3, label=label or "mean over classes")
    if curve.real is not None:
        panel.axhline(curve.real, color=REAL, ls="--", lw=0.8, zorder=0, label="real images")


def axis(panel: Any, scales: Sequence[float]) -> None:
    """Linear up to 1, a decade wide, then logarithmic; a tick at each scale that has room for one."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    panel.set_xscale("symlog", linthresh=1, linscale=1)
    low, high = min(scales), max(scales)
    panel.set_xlim(low - 0.08 if low <= 1 else low / 1.15, high * 1.15 if high > 1 else high + 0.08)
    ticks = list[float]()
    for scale in sorted(scales, key=lambda w: (w not in (0, 1, 10, 100), w)):
        if all(abs(place(scale) - place(tick)) >= NEAR for tick in ticks):
            ticks.append(scale)
    panel.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda w, _: f"{w:g}"))
    panel.xaxis.set_minor_locator(NullLocator())


def place(scale: float) -> float:
    """Where a scale lies on the axis, in decades."""
    return scale if scale <= 1 else 1 + math.log10(scale)


def table(head: Sequence[str], scales: Sequence[float], classes: Sequence[str], made: Sequence[Curve]) -> str:
    """A table a curve: a line a scale, with the mean and each class."""
    width = max(8, *(len(name) + 2 for name in classes))
    text = list(head)
    for curve in made:
        real = "" if curve.real is None else f"; of real images {curve.real:.4f}"
        text += ["", f"{curve.name}{real}", "".join(f"{word:>{width}}" for word in ("w", "mean", *classes))]
        for k, scale in enumerate(scales):
            values = [curve.mean[k], *(values[k] for values in curve.by_class)]
            text.append("".join([f"{scale:>{width}g}", *(f"{value:>{width}.4f}" for value in values)]))
    return "\n".join(text)
