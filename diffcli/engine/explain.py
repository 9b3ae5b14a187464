"""`diffcli sample RUN --explain`: the walk in numbers, before a single network call."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Denoiser, Preconditioned, Prediction
from diffcli.core.masked import MaskedPrediction
from diffcli.core.method import Batch
from diffcli.core.process import GaussianProcess, MaskedProcess, Process
from diffcli.core.random import Rows
from diffcli.engine.load import Model, read, split
from diffcli.engine.rundir import find
from diffcli.engine.sample import guided, wishes
from diffcli.engine.walk import Walk, interval, walk
from diffcli.errors import UsageError
from diffcli.options import table
from diffcli.recipe import Recipe
from diffcli.sections import SampleOptions

ROWS, COUNTED = 16, 16384  # samples whose evaluations are counted; tokens of them all, where one has fewer
FORMULAS = {
    "eps": "F = eps",
    "x0": "F = x_0",
    "v": "F = alpha eps - sigma x_0",
    "velocity": "F = alpha' x_0 + sigma' eps",
    "slope": "F = eps - x_0 (the velocity in the frame where the path is straight)",
    "edm": "F = (sigma x_0 / sigma_data - sigma_data alpha eps) / sqrt(sigma^2 + sigma_data^2 alpha^2)",
}


def explain(run: str | Path, recipe: Recipe) -> dict[str, Any]:
    """The rows of the grid, (k, t, alpha, sigma, logSNR) or (k, t, alpha, rate), and the formulas that are applied along it."""
    o, part = recipe.sample, recipe.parts.get("sampler")
    if part is None:
        raise UsageError(f"{recipe.method.name} takes no sampler, so there is no walk to explain; leave --explain out")
    model = read(find(str(run)), raw=o.raw, device=o.device, place=o.autoencoder)
    n, _ = wishes(model, o)
    o = guided(model, o)
    way = walk(model, o, part, min(n, o.batch_size))
    denoiser = model.method.denoiser
    process = denoiser.process.ending() if o.final == "x0" else denoiser.process
    return {
        "sampler": part.name,
        "options": table(part.config),
        "order": (way.sampler.order or "random walk") if way.sampler else None,
        "steps": len(way.times) - 1,
        "nfe": counted(model, way, o),
        "schedule": recipe.parts["schedule"].name if "schedule" in recipe.parts else None,
        **(masked(way) if isinstance(process, MaskedProcess) else gaussian(denoiser)),
        "guidance": guidance(process, o),
        "grid": [{"k": k, "t": float(t), **level(process, t)} for k, t in enumerate(way.times)],
    }


def level(process: Process, t: Tensor) -> dict[str, float | None]:
    """What is left of the data at t, and what has come in its place: noise, or masks."""
    if isinstance(process, MaskedProcess):
        return {"alpha": float(process.alpha(t)), "rate": float(process.rate(t))}
    if not isinstance(process, GaussianProcess):
        return {}
    alpha, sigma = process.alpha(t), process.sigma(t)
    return {"alpha": float(alpha), "sigma": float(sigma), "logsnr": finite(float(2 * (alpha.log() - sigma.log())))}


def gaussian(denoiser: Any) -> dict[str, str]:
    """How a network's answer F is read."""
    name = denoiser.param.__name__ if isinstance(denoiser, Preconditioned) else "x0"
    return {
        "parameterization": f"{name}: {FORMULAS.get(name, name)}",
        "solution": "x_0 = (b x_t - sigma F)/det, eps = (alpha F - a x_t)/det, det = alpha b - sigma a, for F = a x_0 + b eps",
    }


def masked(way: Walk) -> dict[str, str]:
    """How logits are read, what a level is, and what the sampler does, which the first line on its class says."""
    return {
        "parameterization": "log p(x_0 | x_t) = log softmax of the logits; certain where a token is revealed (SUBS)",
        "level": "each token is [MASK] with probability rate = 1 - alpha, independently of the others",
        "step": (inspect.getdoc(type(way.sampler)) or "").partition("\n")[0],
        "draw": "value v where the cumulative probability passes a uniform number, one for each token",
    }


def guidance(process: Process, o: SampleOptions) -> str:
    """What is added to the condition, in words."""
    scale, (low, high) = o.guidance_scale, interval(o)
    if scale == 1:
        return "none (scale 1)"
    where = "" if (low, high) == (0.0, 1.0) else f" for {low:g} <= t <= {high:g}"
    if isinstance(process, MaskedProcess):
        return f"log p_null + {scale:g} (log p_cond - log p_null){where}, normalized again"
    return f"eps_null + {scale:g} (eps_cond - eps_null){where}, that is (1 + w) eps_cond - w eps_null with w = {scale - 1:g}"


class Silent:
    """A denoiser that knows nothing and costs nothing: what calls it is counted."""

    def __init__(self, process: GaussianProcess):
        self.process = process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        return Prediction(torch.zeros_like(x_t), x_t, torch.zeros_like(x_t))


class Mute:
    """The same of tokens, as if each had one value: which are revealed when does not depend on what they are.

    But for conf of remdm, which looks at how likely they were, and reveals about as many.
    """

    def __init__(self, process: MaskedProcess):
        self.process = process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> MaskedPrediction:
        return MaskedPrediction(torch.zeros(*x_t.shape, 1, device=x_t.device))


@torch.inference_mode()
def counted(model: Model, way: Walk, o: SampleOptions) -> float:
    """Network evaluations of a sample: the walk is walked without the network.

    Of tokens it is a mean, as they are revealed at random, and it counts what is given; of all others it is the same for
    every sample.
    """
    if way.sampler is None:
        return 0.0
    method, process = model.method, model.method.denoiser.process
    silent: Denoiser = Silent(process)
    n = 1
    if isinstance(process, MaskedProcess):
        silent, n = Mute(process), max(1, min(ROWS, COUNTED // math.prod(model.space.shape)))
    index = torch.arange(n, device=model.device)
    wish = Batch(index, label=torch.zeros_like(index))
    batch = method.wish(wish, o, lambda: split(model, model.recipe, "test"))
    path = method.trajectory(
        batch, model.space.shape, way.sampler, way.times, lambda denoiser: way.wrap(silent), Rows(o.seed, index, n)
    )
    for _ in path:
        pass
    return way.counted[-1].rows / n


def finite(value: float) -> float | None:
    """JSON has no infinity: None in its place."""
    return value if math.isfinite(value) else None
