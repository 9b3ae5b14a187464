"""All measurements in one file with what they depend on, and the plot of error against network calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from diffcli.engine.bench import defaults, samplers
from diffcli.engine.bench_attention import HEADS, SIZE, WHOLE, attention
from diffcli.engine.bench_errors import (
    BUDGETS,
    DRAWS,
    FAMILIES,
    LAWS,
    MODES,
    PAIRS,
    PROBLEMS,
    SPACINGS,
    WALKS,
    best,
    place,
)
from diffcli.engine.bench_masked import masked_samplers
from diffcli.engine.bench_train import CONV, MATMUL, ROUNDS, train
from diffcli.engine.environment import environment
from diffcli.engine.files import acting, dump_json, durable
from diffcli.engine.report import STYLE, save

# Paul Tol's muted scheme, and black: told apart by colour-blind eyes; markers tell them apart in grey too.
COLOURS = (
    "#332288", "#cc6677", "#117733", "#88ccee", "#999933", "#882255", "#44aa99", "#ddcc77", "#aa4499", "#222222",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")


def bench(
    parts: Iterable[str],
    report: Callable[[str], None],
    *,
    names: Sequence[str] | None = None,
    schedules: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    dataset: str | None = None,
) -> dict[str, Any]:
    """Measure these parts, "samplers", "train" or "attention": a plain table of rows for each, and what they depend on."""
    found: dict[str, Any] = {"environment": environment(), "seconds": {}}
    for part in parts:
        begin = time.perf_counter()
        if part == "samplers":
            found["samplers"], found["errors"] = samplers(names, schedules, report)
            found["masked"] = masked_samplers(names, report)
            found["protocol"] = protocol(schedules)
        elif part == "train":
            found["train"], found["machine"] = train(methods, dataset, report)
            found["train_protocol"] = (
                f"the default recipe of each method; median of {ROUNDS} interleaved rounds; the machine: {MATMUL}^3 matrix "
                f"product, and 3x3 convolution of {CONV[0]}x{CONV[1]}x{CONV[2]}x{CONV[2]}"
            )
        else:
            found["attention"] = attention(report=report)
            found["attention_protocol"] = f"{HEADS} heads of {SIZE}, {WHOLE} tokens in all or more; microseconds a call"
        found["seconds"][part] = round(time.perf_counter() - begin, 1)
    return found


def protocol(schedules: Sequence[str] | None) -> dict[str, Any]:
    """What the errors of samplers were measured on."""
    return {
        "schedules": list(schedules or defaults()),
        "laws": f"{PROBLEMS} random Gaussian mixtures each: "
        + ", ".join(f"{m} modes in {d}d" for d, m in MODES.items())
        + "; standard deviations of a mode: "
        + ", ".join(f"{name} {low} to {high}" for name, (low, high) in FAMILIES.items()),
        "starts": f"{WALKS} a law; {DRAWS} of a random walk, on the first {LAWS} laws",
        "error": "median distance to the end of the exact walk, root mean square over dimensions; of a random walk the "
        "sliced Wasserstein-1 distance to the law, mean over laws",
        "floor": f"mean and standard deviation of that of {PAIRS} pairs of sets of exact samples",
        "budgets": list(BUDGETS),
        "spacings": list(SPACINGS),
        "seed": 0,
    }


def write(found: dict[str, Any], folder: Path) -> list[Path]:
    """bench.json in a folder, and errors.png and errors.pdf where errors were measured; what was there of these names is replaced."""
    with acting("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
    durable(folder / "bench.json", dump_json(found))
    return [folder / "bench.json", *draw(found.get("errors", []), folder / "errors")]


def draw(records: Iterable[Mapping[str, Any]], stem: Path) -> list[Path]:
    """<stem>.png and <stem>.pdf: a panel for each schedule, laws and size, a line for each solver at its best spacing.

    Random walks are left out: their error is of another kind. Lines that fall together are drawn once, under both names.
    Empty where there is no solver.
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels = lines(records)
    if not panels:
        return []
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    looks = dict(zip(names, zip(cycle(COLOURS), cycle(MARKERS), strict=False), strict=False))
    sizes = sorted({size for *_, size in panels})
    cases = list(dict.fromkeys((schedule, laws) for schedule, laws, _ in panels))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.4 + 2.6 * len(sizes), 0.6 + 2.3 * len(cases)), layout="constrained")
        grid = figure.subplots(len(cases), len(sizes), squeeze=False, sharex=True, sharey=True)
        for (schedule, laws, size), panel in panels.items():
            axes = grid[cases.index((schedule, laws))][sizes.index(size)]
            for name, line in panel.items():
                colour, marker = looks[name]
                axes.plot(*zip(*line, strict=True), color=colour, marker=marker, ms=3.5, lw=0.9, label=name)
            axes.set_title(f"{schedule}, {laws}, {size}-d")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(BUDGETS, [str(b) for b in BUDGETS])
            axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
            axes.grid(True, lw=0.3, color="#dddddd")
        figure.supxlabel("network evaluations per sample (NFE)", fontsize=8)
        figure.supylabel("median error, at the best spacing", fontsize=8)
        handles = {h.get_label(): h for row in grid for axes in row for h in axes.get_lines()}
        figure.legend([handles[name] for name in names], names, loc="outside right center")
        return [save(figure, stem, kind) for kind in ("png", "pdf")]


def lines(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, int], dict[str, list[tuple[int, float]]]]:
    """(schedule, laws, dimensions) -> name -> [(NFE, error)], the best solver at the most calls first."""
    panels: dict[tuple[str, str, int], dict[str, list[tuple[int, float]]]] = {}
    for (name, *_), record in best(r for r in records if r["solver"]).items():
        panel = panels.setdefault(place(record), {})
        panel.setdefault(name, []).append((record["nfe"], record["error"]))
    for key, panel in panels.items():
        once: dict[tuple[tuple[int, float], ...], str] = {}
        for name, line in panel.items():
            rounded = tuple((nfe, float(f"{error:.6g}")) for nfe, error in line)
            once[rounded] = f"{once[rounded]}, {name}" if rounded in once else name
        panels[key] = {once[k]: list(k) for k in sorted(once, key=lambda line: line[-1][1])}
    return panels
