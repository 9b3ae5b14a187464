"""Walks of methods that own their levels, and which samplers keep to a grid."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffcli.core.denoiser import Prediction
from diffcli.core.method import Method
from diffcli.core.random import Rows
from diffcli.engine.walk import walk
from diffcli.errors import UsageError
from diffcli.options import structure
from diffcli.parts import Part, fits, refuse_misfit
from diffcli.plugin import Spec
from diffcli.recipe import resolve
from diffcli.registry import registry
from diffcli.samplers.grid import grid
from diffcli.schedules.gaussian import EDM
from diffcli.sections import SampleOptions

GAUSSIAN = [name for name, spec in registry().specs("sampler").items() if spec.family == "gaussian"]


def sampler(name: str) -> Any:
    """With its own defaults."""
    spec = registry().get("sampler", name)
    return spec.load()(structure(spec.config, {}, "[sampler]"))


class Heard:
    """The denoiser of zeros; it remembers the times it was called at."""

    def __init__(self) -> None:
        self.process, self.times = EDM(), list[float]()

    def __call__(self, x_t: Tensor, t: Tensor, cond: Any) -> Prediction:
        self.times += t.reshape(-1).tolist()
        return Prediction(torch.zeros_like(x_t), x_t / self.process.sigma(t))


@pytest.mark.parametrize("name", GAUSSIAN)
def test_a_sampler_that_is_not_between_calls_at_times_of_its_grid_alone(name: str) -> None:
    """And one that says it is does not."""
    denoiser, times = Heard(), grid(EDM(), 6)
    rng = Rows(0, torch.arange(2), 2)
    list(sampler(name).trajectory(denoiser, 80 * torch.ones(2, 3), times, cond={}, rng=rng))
    off = [t for t in denoiser.times if float((times - t).abs().min()) > 1e-12]
    assert bool(off) == sampler(name).between


class Owner(Method):
    """A method with three levels of its own."""

    spacing, on_grid = "karras", True

    def __init__(self) -> None:
        super().__init__()
        self.denoiser = Heard()

    def loss(self, batch: Any, rng: Any) -> Any: ...

    def steps(self, sampler: Any) -> int:
        return 3

    def times(self, steps: int, spacing: str, grid: Any) -> Tensor:
        return torch.tensor([1.0, 0.5, 0.1, 0.0], dtype=torch.float64)


def owner() -> Any:
    """As sampling sees it."""
    return SimpleNamespace(
        method=Owner(),
        recipe=resolve({"method": {"name": "rf"}}),
        device=torch.device("cpu"),
        space=SimpleNamespace(bound=1),
    )


def part(name: str) -> Part:
    return Part(name, structure(registry().get("sampler", name).config, {}, "[sampler]"))


def test_a_method_that_owns_its_levels_says_how_many_and_how_they_are_called() -> None:
    made = walk(owner(), SampleOptions(), part("heun"), 2)
    assert made.spacing == "karras" and len(made.times) == 4
    assert walk(owner(), SampleOptions(spacing="karras"), part("heun"), 2).spacing == "karras"


def test_another_spacing_than_its_own_is_refused() -> None:
    with pytest.raises(UsageError, match="--spacing uniform is not of rf, whose own levels are karras"):
        walk(owner(), SampleOptions(spacing="uniform"), part("heun"), 2)


@pytest.mark.parametrize("name", ["midpoint", "ralston", "rk4", "churn"])
def test_samplers_between_its_levels_are_refused_with_those_that_are_not(name: str) -> None:
    with pytest.raises(UsageError) as raised:
        walk(owner(), SampleOptions(), part(name), 2)
    assert f"{name} calls the network between" in str(raised.value)
    offered = str(raised.value).partition("use one of: ")[2].split(", ")
    assert "heun" in offered and "euler" in offered and not any(sampler(one).between for one in offered)


def test_a_network_serves_the_methods_of_its_interface_alone() -> None:
    plain = Spec(name="plain", target="a:b", summary="", family="gaussian")
    own = replace(plain, name="own", network="own")
    assert fits("model", plain, plain) and fits("model", own, own)
    assert not fits("model", plain, own) and not fits("model", own, plain)
    assert fits("sampler", plain, own), "an interface is of networks alone"
    with pytest.raises(UsageError, match="own is a network of own, but plain needs a plain denoiser"):
        refuse_misfit(plain, "model", own)
