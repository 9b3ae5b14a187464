"""How a model is sampled: the sampler, its grid, and the wrappers of the denoiser that [sample] asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diffcli.core.denoiser import Clipped, Cond, Counted, Denoiser, Final, Guided, Prediction
from diffcli.core.process import expand
from diffcli.core.random import Rows
from diffcli.engine.load import Model
from diffcli.errors import UsageError
from diffcli.options import options, structure
from diffcli.parts import Part, fitting
from diffcli.registry import registry
from diffcli.samplers.base import Sampler
from diffcli.samplers.grid import grid
from diffcli.sections import SampleOptions

OF_NOISE = {"clip": "bounds x_0 of numbers", "rho": "spaces levels of noise", "final": "is of a last level of noise"}
OF_WALKS = ("steps", "spacing", "rho", "clip", "final", "trajectory")  # options of [sample]
ROUNDED = 1e-9  # two times that are nearer are one
ONE_CALL = 16  # on a CPU a batch up to this is guided in one doubled call, a larger one in two


@dataclass(frozen=True)
class Walk:
    """How a model is sampled: the sampler, its grid and that grid's name, and the wrappers of the denoiser."""

    sampler: Sampler | None
    times: Tensor
    spacing: str
    wrap: Callable[[Denoiser], Denoiser]
    counted: list[Counted]


def walk(model: Model, o: SampleOptions, part: Part | None, rows: int) -> Walk:
    """The walk that [sample] and [sampler] describe; rows: drawn at a time."""
    method, counted = model.method, list[Counted]()
    low, high = interval(o)
    limit = bound(model, o)
    batched = o.guidance_calls == "one" or (
        o.guidance_calls == "auto" and (model.device.type != "cpu" or rows <= ONE_CALL)
    )

    def wrap(denoiser: Denoiser) -> Denoiser:
        counted.append(Counted(denoiser))
        wrapped: Denoiser = counted[-1]
        if o.guidance_scale != 1:
            weaken = method.weakening(o)
            wrapped = Guided(wrapped, o.guidance_scale, weaken, interval=(low, high), batched=batched)
        if limit:
            wrapped = Clipped(wrapped, limit)
        return Final(wrapped) if o.final == "x0" else wrapped

    if part is None:
        standing(model, o)
        return Walk(None, torch.tensor([1.0, 0.0], dtype=torch.float64), "", wrap, counted)
    sampler: Sampler = registry().get("sampler", part.name).load()(part.config)
    owned(model, o, part.name, sampler)
    steps = o.steps or method.default_steps(sampler)
    spacing = method.spacing or o.spacing or sampler.spacing or method.denoiser.process.spacing
    return Walk(sampler, method.times(steps, spacing, partial(grid, rho=o.rho)), spacing, wrap, counted)


def owned(model: Model, o: SampleOptions, name: str, sampler: Sampler) -> None:
    """UsageError for what does not go with a method that owns its levels."""
    method, who = model.method, model.recipe.method.name
    if method.spacing is not None and o.spacing not in (None, method.spacing):
        raise UsageError(
            f"--spacing {o.spacing} is not of {who}, whose own levels are {method.spacing}; leave --spacing out"
        )
    if method.spacing is not None and o.rho != options(SampleOptions)["rho"].default:
        raise UsageError(f"--rho {o.rho:g} spaces levels of noise, but {who} has levels of its own; leave --rho out")
    if method.on_grid and (strayed := astray(model, o, sampler)):
        able = ", ".join(one for one in fitting(model.recipe.spec, "sampler") if not astray(model, o, default(one)))
        raise UsageError(
            f"{name} calls the network at t = {strayed[0]:.3g}, between the times of its grid, but {who} was trained at its "
            f"own levels alone; use one of: {able}"
        )


def default(name: str) -> Sampler:
    """A sampler as it is when nothing is said."""
    spec = registry().get("sampler", name)
    sampler: Sampler = spec.load()(structure(spec.config, {}, "[sampler]"))
    return sampler


def astray(model: Model, o: SampleOptions, sampler: Sampler) -> list[float]:
    """The times at which a sampler asks the denoiser and that are not in the method's own grid: it is walked to see."""
    process, asked = model.method.denoiser.process.ending(), list[float]()
    times = model.method.times(o.steps or model.method.default_steps(sampler), model.method.spacing or "", grid)

    class Blank:
        """Answers that all is noise."""

        def __init__(self) -> None:
            self.process = process

        def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
            asked.extend(t.reshape(-1).tolist())
            return Prediction(torch.zeros_like(x_t), x_t / expand(process.sigma(t), x_t))

    for _ in sampler.trajectory(Blank(), torch.ones(1, 1), times, cond={}, rng=Rows(0, torch.arange(1), 1)):
        pass
    return [t for t in asked if float((times - t).abs().min()) > ROUNDED]


def bound(model: Model, o: SampleOptions) -> float | None:
    """Of x_0: as asked for, or that of the data; 0 and None are none. UsageError for what has no meaning for tokens."""
    spec, known = model.recipe.spec, options(SampleOptions)
    for key, does in OF_NOISE.items() if spec.family == "masked" else ():
        value = getattr(o, key)
        if value and value != known[key].default:
            given = value if isinstance(value, str) else f"{value:g}"
            raise UsageError(f"--{key} {given} {does}, but {spec.name} is masked; leave --{key} out")
    return model.space.bound if o.clip is None else o.clip


def standing(model: Model, o: SampleOptions) -> None:
    """UsageError for options of a walk where there is none."""
    known = options(SampleOptions)
    for key in OF_WALKS:
        if getattr(o, key) != known[key].default:
            name = model.recipe.method.name
            raise UsageError(f"--{key} is of a walk from noise, but {name} takes none; leave --{key} out")


def interval(o: SampleOptions) -> tuple[float, float]:
    """The times between which guidance acts."""
    if o.guidance_interval is None:
        return 0.0, 1.0
    if len(o.guidance_interval) != 2 or o.guidance_interval[0] > o.guidance_interval[1]:
        raise UsageError(
            f"--guidance-interval takes two times, the lower first, such as 0.2,0.8; not {','.join(map(str, o.guidance_interval))}"
        )
    low, high = o.guidance_interval
    return low, high
