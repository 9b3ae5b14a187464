"""The picture of uncertain-flow: what it expects, beside what it gets."""

from __future__ import annotations

import torch
from diffcli.core.random import Rows
from diffcli.engine.evaluate import Bench
from PIL import Image

BANDS = 20  # of time, over which errors are averaged


def uncertainty(bench: Bench) -> Image.Image:
    """e^u(t) as a line, and the mean error of held-out images in each band of time as points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    method, n = bench.model.method.eval(), min(bench.options.images, len(bench.test))
    items = torch.arange(n, device=bench.model.device)
    batch = bench.test.batch(items, items, bench.model.space)
    t, error = (v.cpu() for v in method.errors(batch, Rows(bench.options.seed, items, n)))
    band = (t * BANDS).long().clamp(max=BANDS - 1)
    middle = (torch.arange(BANDS) + 0.5) / BANDS
    mean = torch.stack([error[band == k].mean() for k in range(BANDS)])  # not a number where a band is empty
    line = torch.linspace(0, 1, 101, dtype=torch.float64)

    figure = Figure(figsize=(4, 3), dpi=120, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    axes.plot(line, method.uncertainty(line.to(bench.model.device)).exp().cpu(), label="$e^{u(t)}$, learned")
    axes.plot(middle, mean, "o", markersize=4, label=f"error, {n} held-out images")
    axes.set(xlabel="t", ylabel="squared error", yscale="log")
    axes.legend(frameon=False)
    canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")
