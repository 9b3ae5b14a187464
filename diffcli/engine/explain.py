"""`diffcli sample RUN --explain`: the walk in numbers, before a single network call."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Preconditioned, Prediction
from diffcli.core.method import Batch
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Rows
from diffcli.engine.load import Model, read
from diffcli.engine.rundir import find
from diffcli.engine.sample import Walk, interval, walk, wishes
from diffcli.recipe import Recipe

FORMULAS = {
    "eps": "F = eps",
    "x0": "F = x_0",
    "v": "F = alpha eps - sigma x_0",
    "velocity": "F = alpha' x_0 + sigma' eps",
    "slope": "F = eps - x_0 (the velocity in the frame where the path is straight)",
    "edm": "F = (sigma x_0 / sigma_data - sigma_data alpha eps) / sqrt(sigma^2 + sigma_data^2 alpha^2)",
}


def explain(run: str | Path, recipe: Recipe) -> dict[str, Any]:
    """The rows (k, t, alpha, sigma, logSNR) of the grid, and the formulas that are applied along it."""
    o = recipe.sample
    model = read(find(str(run)), raw=o.raw, device=o.device)
    n, _ = wishes(model, o)
    way = walk(model, o, recipe.parts.get("sampler"), min(n, o.batch_size))
    denoiser = model.method.denoiser
    process = denoiser.process.ending() if o.final == "x0" else denoiser.process
    rows = []
    for k, t in enumerate(way.times):
        row: dict[str, Any] = {"k": k, "t": float(t), "alpha": float(process.alpha(t))}
        if isinstance(process, GaussianProcess):
            sigma = process.sigma(t)
            row |= {"sigma": float(sigma), "logsnr": finite(float(2 * (process.alpha(t).log() - sigma.log())))}
        rows.append(row)
    name = denoiser.param.__name__ if isinstance(denoiser, Preconditioned) else "x0"
    scale, (low, high) = o.guidance_scale, interval(o)
    where = "" if (low, high) == (0.0, 1.0) else f" for {low:g} <= t <= {high:g}"
    guidance = (
        "none (scale 1)"
        if scale == 1
        else f"eps_null + {scale:g} (eps_cond - eps_null){where}, that is (1 + w) eps_cond - w eps_null with w = {scale - 1:g}"
    )
    part = recipe.parts.get("sampler")
    sampler = way.sampler
    return {
        "sampler": part.name if part else None,
        "order": getattr(sampler, "order", None),
        "steps": len(way.times) - 1,
        "nfe": counted(model, way),
        "schedule": recipe.parts["schedule"].name if "schedule" in recipe.parts else None,
        "parameterization": f"{name}: {FORMULAS.get(name, name)}",
        "solution": "x_0 = (b x_t - sigma F)/det, eps = (alpha F - a x_t)/det, det = alpha b - sigma a, for F = a x_0 + b eps",
        "guidance": guidance,
        "grid": rows,
    }


class Silent:
    """A denoiser that knows nothing and costs nothing: what calls it is counted."""

    def __init__(self, process: GaussianProcess):
        self.process = process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        return Prediction(torch.zeros_like(x_t), x_t)


def counted(model: Model, way: Walk) -> float:
    """Network evaluations of an image: the walk is walked without the network."""
    if way.sampler is None:
        return 0.0
    index = torch.zeros(1, dtype=torch.int64)
    rng, denoiser = Rows(0, index, 1), way.wrap(Silent(model.method.denoiser.process))
    cond = model.method.cond(Batch(index, label=index), rng)
    for _ in way.sampler.trajectory(denoiser, torch.zeros(1, *model.space.shape), way.times, cond=cond, rng=rng):
        pass
    return float(way.counted[-1].rows)


def finite(value: float) -> float | None:
    """JSON has no infinity: None in its place."""
    return value if math.isfinite(value) else None
