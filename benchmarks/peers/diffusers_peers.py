"""diffusers' schedulers in the loop of its own pipelines, on a denoiser that is told the level of noise.

A scheduler steps in time indices of a table of betas, some of them rounded; here the denoiser answers at the very level the
scheduler computes with, which can only help it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LMSDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

Eps = Callable[[Tensor, float], Tensor]  # (x_t of alpha^2 + sigma^2 = 1, sigma/alpha) -> eps
DOUBLE = ("Heun", "KDPM2")  # two calls a step but for the last
KARRAS, LOGSNR = {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}
TRAILING, LINSPACE = {"timestep_spacing": "trailing"}, {"timestep_spacing": "linspace"}

# name: (class, settings); without settings it is the scheduler's default
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "DDIM": (DDIMScheduler, {}),
    "Euler": (EulerDiscreteScheduler, {}),
    "Heun": (HeunDiscreteScheduler, {}),
    "KDPM2": (KDPM2DiscreteScheduler, {}),
    "LMS": (LMSDiscreteScheduler, {}),
    "DPMSolver++(2M)": (DPMSolverMultistepScheduler, {}),
    "DEIS": (DEISMultistepScheduler, {}),
    "UniPC": (UniPCMultistepScheduler, {}),
    "DDIM trailing": (DDIMScheduler, TRAILING),
    "Euler trailing": (EulerDiscreteScheduler, TRAILING),
    "Euler karras": (EulerDiscreteScheduler, KARRAS),
    "Euler exponential": (EulerDiscreteScheduler, LOGSNR),
    "Heun karras": (HeunDiscreteScheduler, KARRAS),
    "Heun exponential": (HeunDiscreteScheduler, LOGSNR),
    "KDPM2 karras": (KDPM2DiscreteScheduler, KARRAS),
    "KDPM2 exponential": (KDPM2DiscreteScheduler, LOGSNR),
    "LMS karras": (LMSDiscreteScheduler, KARRAS),
    "LMS exponential": (LMSDiscreteScheduler, LOGSNR),
    "DPMSolver++(2M) trailing": (DPMSolverMultistepScheduler, TRAILING),
    "DPMSolver++(2M) karras": (DPMSolverMultistepScheduler, KARRAS),
    "DPMSolver++(2M) exponential": (DPMSolverMultistepScheduler, LOGSNR),
    "DPMSolver++(2M) lu": (DPMSolverMultistepScheduler, {"use_lu_lambdas": True}),
    "DPMSolver++(2M) heun karras": (DPMSolverMultistepScheduler, {"solver_type": "heun", **KARRAS}),
    "DPMSolver++(2M) euler at final karras": (DPMSolverMultistepScheduler, {"euler_at_final": True, **KARRAS}),
    "DPMSolver++(3M)": (DPMSolverMultistepScheduler, {"solver_order": 3}),
    "DPMSolver++(3M) karras": (DPMSolverMultistepScheduler, {"solver_order": 3, **KARRAS}),
    "DPMSolver++(3M) exponential": (DPMSolverMultistepScheduler, {"solver_order": 3, **LOGSNR}),
    "DPMSolver(2M) karras": (
        DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", **KARRAS},
    ),
    "DEIS(3) karras": (DEISMultistepScheduler, {"solver_order": 3, **KARRAS}),
    "DEIS karras": (DEISMultistepScheduler, KARRAS),
    "DEIS exponential": (DEISMultistepScheduler, LOGSNR),
    "UniPC karras": (UniPCMultistepScheduler, KARRAS),
    "UniPC exponential": (UniPCMultistepScheduler, LOGSNR),
    "UniPC(3) karras": (UniPCMultistepScheduler, {"solver_order": 3, **KARRAS}),
    "UniPC(3) exponential": (UniPCMultistepScheduler, {"solver_order": 3, **LOGSNR}),
}


def steps_within(name: str, budget: int) -> int:
    """Most steps that take no more than so many calls."""
    return (budget + 1) // 2 if name.split()[0] in DOUBLE else budget


def scheduler(name: str, betas: Tensor) -> Any:
    """A scheduler over this table of betas."""
    kind, settings = SCHEDULERS[name]
    clip = {"clip_sample": False} if kind is DDIMScheduler else {}
    return kind(num_train_timesteps=len(betas), trained_betas=betas.numpy(), **clip, **settings)


def ready(name: str, betas: Tensor, steps: int) -> Any:
    """A scheduler at the start of its walk. It is told where that is, for rounding makes some of its times alike."""
    made = scheduler(name, betas)
    made.set_timesteps(steps)
    if hasattr(made, "set_begin_index"):
        made.set_begin_index(0)
    return made


def levels(made: Any, betas: Tensor) -> list[float]:
    """sigma/alpha at each call of the network."""
    if hasattr(made, "sigmas") and not isinstance(made, KDPM2DiscreteScheduler):
        return [float(s) for s in made.sigmas[: len(made.timesteps)]]
    alpha_bar = torch.cumprod(1 - betas.double(), 0).numpy()
    logs = np.log((1 - alpha_bar) / alpha_bar) / 2
    return [float(r) for r in np.exp(np.interp(made.timesteps.double().numpy(), np.arange(len(logs)), logs))]


def walk(made: Any, eps: Eps, noise: Tensor, ratios: list[float]) -> Tensor:
    """Where the walk from standard normal noise ends."""
    x: Tensor = noise * made.init_noise_sigma
    for t, ratio in zip(made.timesteps, ratios, strict=True):
        x = made.step(eps(made.scale_model_input(x, t), ratio), t, x).prev_sample
    return x
