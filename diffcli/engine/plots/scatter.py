"""`eval --plot latents`: where an autoencoder puts images of each class, and where a latent model puts its samples."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffcli.engine.compare import labels
from diffcli.engine.compared import Plain
from diffcli.engine.draw import facts as cost
from diffcli.engine.plots.drawn import Drawn
from diffcli.engine.plots.sheet import said
from diffcli.engine.report import STYLE
from diffcli.errors import UsageError
from diffcli.metrics.projection import principal

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench

# Ten fixed colours of classes 0 to 9, and of 10 to 19 again; after Paul Tol's schemes, none of them grey.
CLASSES = (
    "#4477aa", "#ee7733", "#228833", "#cc3311", "#aa3377", "#8b5a2b", "#ee99aa", "#009988", "#ccbb44", "#66ccee",
)  # fmt: skip
GREY = "#9a9a9a"  # generated ones
LEGEND = 20  # most classes in it
STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # widths of the axes, and their multiples by powers of ten


def autoencoder(bench: Bench) -> Any:
    """What encodes: the method itself, or what a latent method lives in. UsageError where there is none."""
    model = bench.model
    found = model.method if hasattr(model.method, "encode") else getattr(model.space, "autoencoder", None)
    if found is None:
        raise UsageError(
            f"--plot latents is of an autoencoder or of a model in its latents, but {model.where} is in pixels; leave it out"
        )
    return found


def refuse(bench: Bench) -> None:
    """UsageError where nothing encodes."""
    autoencoder(bench)


def draws(bench: Bench) -> int:
    """How many samples the plot takes: none of an autoencoder."""
    from diffcli.engine.sample import wishes

    return 0 if hasattr(bench.model.method, "encode") else wishes(bench.model, bench.options)[0]


def latents(bench: Bench) -> Drawn:
    """The latents of the first --real held-out images, averaged over places, as points in the colour of their class.

    The axes are the channels where there are two, otherwise the first two principal components of the real points. Of a
    latent model its samples are grey points behind them. The axes are the next of some round ones (see `window`), so that
    the pictures of one run, from step to step, have the same axes as long as their points fit.
    """
    encoder = autoencoder(bench)
    items = torch.arange(min(bench.options.real, len(bench.test)), device=bench.model.device)
    parts = [bench.test.batch(i, i, Plain) for i in items.split(bench.model.space.rows)]
    z = torch.cat([encoder.encode(part.x).float().cpu() for part in parts])
    label = None if parts[0].label is None else torch.cat([part.label for part in parts]).cpu()
    real, ours = averaged(z), None if encoder is bench.model.method else averaged(bench.samples.x_0)
    axes, how = ("channel 1", "channel 2"), f"latents {' x '.join(map(str, z.shape[1:]))}, averaged over places"
    if real.shape[1] != 2:
        found = principal(real)
        real, ours = found(real), None if ours is None else found(ours)
        axes = tuple(f"component {k + 1} ({100 * share:.1f} %)" for k, share in enumerate(found.share))  # type: ignore[assignment]
        how += f"; principal components of the real ones, {100 * sum(found.share):.1f} % of their variance"
    facts = {
        **({} if ours is None else cost(bench.samples)),
        "split": bench.test.split,
        "real": len(real),
        "generated": 0 if ours is None else len(ours),
        "latent_shape": list(z.shape[1:]),
        "axes": list(axes),
        "real_points": rounded(real),
        "real_label": None if label is None else label.tolist(),
        "generated_points": None if ours is None else rounded(ours),
    }
    return Drawn({"latents": figure(bench, real, label, ours, axes, how)}, facts)


latents.refuse, latents.draws = refuse, draws  # type: ignore[attr-defined]


def averaged(z: Tensor) -> Tensor:
    """(n, c, *places) -> (n, c) float64: one point an image."""
    z = z.double()
    return z.flatten(2).mean(2) if z.ndim > 2 else z


def figure(
    bench: Bench, real: Tensor, label: Tensor | None, ours: Tensor | None, axes: tuple[str, str], how: str
) -> Any:
    """One square panel."""
    import matplotlib
    from matplotlib.figure import Figure

    model, held_out = bench.model, f"{len(real)} images of {bench.test.split}"
    (run,) = labels([Path(model.where)])
    title = f"{run}: {model.recipe.method.name}, step {model.step} ({model.weights}), {held_out}"
    title = title if ours is None else f"{said(bench.samples.facts)}, {held_out}"
    with matplotlib.rc_context(STYLE):
        page = Figure(figsize=(4.6, 4.2), layout="compressed")
        panel = page.subplots()
        by_class(panel, real, label, bench.model.facts.class_names, ours)
        (left, low), width = window(torch.cat([real, *([] if ours is None else [ours])]))
        panel.set_xlim(left, left + width)
        panel.set_ylim(low, low + width)
        panel.set_box_aspect(1)
        panel.set_xlabel(axes[0])
        panel.set_ylabel(axes[1])
        legend(page, panel)
        page.suptitle("\n".join([*broken(title), *broken(how)]), fontsize=8)
    return page


def broken(text: str) -> list[str]:
    """Lines of a title."""
    return textwrap.wrap(text, 76)


def window(points: Tensor) -> tuple[list[float], float]:
    """(where it begins on each axis, how wide it is): a square that holds the points (n, 2) with some margin.

    Its width is one of 1, 1.5, 2, 3, 4, 6, 8, 10, 15, ..., and its middle a multiple of a quarter of it.
    """
    low, high = points.double().min(0).values, points.double().max(0).values
    most = max(float((high - low).max()) * 1.06, 1e-9)
    power = 10.0 ** math.floor(math.log10(most))
    for width in (step * power * tens for tens in (1, 10) for step in STEPS):
        middle = ((low + high) / width * 2).round() * width / 4
        if float(torch.maximum(high - middle, middle - low).max()) <= 0.49 * width:
            break
    return (middle - width / 2).tolist(), width


def by_class(
    panel: Any,
    real: Tensor,
    label: Tensor | None,
    names: Sequence[str],
    ours: Tensor | None = None,
    what: str = "generated",
    size: float = 8,
) -> None:
    """Real points in the colours of their classes, and ours, called `what`, in grey behind them."""
    if ours is not None:
        panel.scatter(*ours.T, s=size, color=GREY, lw=0, alpha=0.6)
        panel.scatter([], [], s=14, color=GREY, lw=0, label=what)
    if label is None:
        panel.scatter(*real.T, s=size, color=CLASSES[0], lw=0, alpha=0.8, label="real")
        return
    mixed = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))  # no class hides another
    colors = [CLASSES[k % len(CLASSES)] for k in label[mixed].tolist()]
    panel.scatter(*real[mixed].T, s=size, c=colors, lw=0, alpha=0.8)
    for k in label.unique().tolist():
        panel.scatter([], [], s=14, color=CLASSES[k % len(CLASSES)], lw=0, label=names[k])


def legend(page: Any, panel: Any) -> None:
    """Beside the panels, where it is short enough to be read."""
    handles, texts = panel.get_legend_handles_labels()
    if len(handles) <= LEGEND:
        page.legend(handles, texts, loc="outside right center", frameon=False, handletextpad=0.1)


def rounded(points: Tensor) -> list[list[float]]:
    """Points for a file."""
    return [[round(value, 5) for value in row] for row in points.tolist()]
