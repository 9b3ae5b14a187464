"""What a run says of itself: its header, what it cost, and its loss curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffcli.engine.files import durable

if TYPE_CHECKING:
    from diffcli.engine.job import Job

STYLE = {
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}
TRAIN, HELD_OUT = "#4477aa", "#cc3311"  # Paul Tol's vibrant scheme, told apart by colour-blind eyes as well


def curves(rows: Sequence[Mapping[str, Any]], stem: Path) -> list[Path]:
    """<stem>.png and <stem>.pdf: train and held-out loss against the optimizer step, log y where all are positive and differ.

    rows: of metrics.jsonl, columns "loss" and "held_out". The same rows give the same bytes. Empty where there is no loss.
    """
    train, held_out = points(rows, "loss"), points(rows, "held_out")
    if not train and not held_out:
        return []
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.0), layout="constrained")
        axes = figure.subplots()
        if train:
            axes.plot(
                *zip(*train, strict=True), color=TRAIN, lw=0.8, marker="." if len(train) == 1 else "", label="train"
            )
        if held_out:
            axes.plot(*zip(*held_out, strict=True), color=HELD_OUT, lw=0.8, marker="o", ms=2.5, label="held out")
        values = [value for _, value in train + held_out]
        if max(values) > min(values) > 0:
            logarithmic(axes, max(values) / min(values))
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.legend(loc="upper right")
        return [save(figure, stem, kind) for kind in ("png", "pdf")]


def points(rows: Sequence[Mapping[str, Any]], column: str) -> list[tuple[int, float]]:
    """(step, value) where a row has the column."""
    return [(row["step"], float(row[column])) for row in rows if isinstance(row.get(column), (int, float))]


def logarithmic(axes: Any, span: float) -> None:
    """A log axis whose ticks read 0.02, 0.05, 0.1; below a decade, where those would be few, more of them."""
    from matplotlib import ticker

    axes.set_yscale("log")
    subs = (1.0, 2.0, 5.0) if span > 4 else tuple(1 + 0.5 * k for k in range(18))
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=12))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f"{y:.4g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def save(figure: Any, stem: Path, kind: str) -> Path:
    """One file of a figure, without dates, so that nothing but its content changes it."""
    path, data = stem.with_name(f"{stem.name}.{kind}"), io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"CreationDate": None, "Producer": None, "Creator": None}
    figure.savefig(data, format=kind, dpi=200, metadata=metadata)
    durable(path, data.getvalue())
    return path


def header(job: Job, steps: int) -> str:
    """What is trained on what, with what was chosen for the user."""
    r, facts = job.recipe, job.assembly.facts
    network = r.tables().get("model", {})
    chosen = ", ".join(
        f"{k} {network[k]}" for k in ("channels", "multipliers", "attention", "width", "depth") if k in network
    )
    line = (
        f"{network.get('name', r.method.name)}: {chosen}; {job.parameters:,} parameters. {job.data.split}: {len(job.data)} "
        f"{facts.kind}. {steps} steps of {r.train.batch_size} on {spread_over(job)}"
    )
    return "\n".join([line, *job.method.notes(job.data)])


def spread_over(job: Job) -> str:
    """The device, or how many processes share the work."""
    return (
        str(job.device)
        if job.world.size == 1
        else f"{job.world.size} x {job.device.type} ({job.recipe.train.strategy})"
    )


def cost(job: Job, seconds: float, speed: float) -> dict[str, float]:
    """What training took so far: seconds, images a second in the last step, and the peak of memory in MiB."""
    if job.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(job.device) / 2**20
    else:
        import resource

        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": round(seconds, 3), "images_per_second": round(speed, 1), "memory": round(memory, 1)}
