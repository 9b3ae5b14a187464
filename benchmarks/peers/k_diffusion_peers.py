"""k-diffusion's deterministic samplers on its own grids. Of that package only `sampling` is loaded, not its training code."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

DOUBLE = ("heun", "dpm_2")  # two calls a step but for the last
GRIDS = ("default", "karras", "exponential")


def load() -> Any:
    """k_diffusion.sampling; ImportError where it is not installed.

    Its package imports a training stack (and clip, kornia, wandb ...), its `utils` torchvision: neither is used here.
    """
    found = find_spec("k_diffusion")
    if found is None:
        raise ImportError("k-diffusion is not installed")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(found.submodule_search_locations or [])
    utils: Any = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]
    package.utils = utils  # type: ignore[attr-defined]
    with patch.dict(sys.modules, {"k_diffusion": package, "k_diffusion.utils": utils}):
        return importlib.import_module("k_diffusion.sampling")


def samplers(module: Any) -> dict[str, Callable[..., Tensor]]:
    """name -> sample(model, x, sigmas)."""
    names = ("euler", "heun", "dpm_2", "lms", "dpmpp_2m")
    found = {name: getattr(module, f"sample_{name}") for name in names}
    return found | {"dpmpp_3m": partial(module.sample_dpmpp_3m_sde, eta=0.0)}


def steps_within(name: str, budget: int) -> int:
    """Most steps that take no more than so many calls."""
    return (budget + 1) // 2 if name in DOUBLE else budget


def sigmas(module: Any, grid: str, steps: int, betas: Tensor) -> Tensor:
    """Levels sigma/alpha and 0: evenly in the entries of the table (its default), or its karras or exponential grid."""
    alpha_bar = torch.cumprod(1 - betas.double(), 0)
    table = ((1 - alpha_bar) / alpha_bar).sqrt()
    if grid == "default":  # DiscreteSchedule.get_sigmas
        t = torch.linspace(len(table) - 1, 0, steps, dtype=torch.float64)
        low, high = t.floor().long(), t.ceil().long()
        return torch.cat([torch.lerp(table[low].log(), table[high].log(), t - low).exp(), torch.zeros(1)]).float()
    made: Tensor = getattr(module, f"get_sigmas_{grid}")(steps, float(table[0]), float(table[-1]))
    return made.float()
