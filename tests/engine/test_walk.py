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
from diffcli.engine.walk import walk
from diffcli.errors import UsageError
from diffcli.options import structure
from diffcli.parts import Part, fits, refuse_misfit
from diffcli.plugin import Spec
from diffcli.recipe import resolve
from diffcli.registry import registry
from diffcli.schedules.gaussian import EDM
from diffcli.sections import SampleOptions

OFF = ("midpoint", "ralston", "rk4", "churn")  # call between the times of a grid by their definition
ON = ("ddim", "ancestral", "euler", "heun", "ab2", "dpmpp-2m", "dpmpp-3m", "dpmpp-2m-sde", "unipc")


class Nothing:
    """The denoiser of zeros."""

    process = EDM()

    def __call__(self, x_t: Tensor, t: Tensor, cond: Any) -> Prediction:
        return Prediction(torch.zeros_like(x_t), x_t / self.process.sigma(t))


class Owner(Method):
    """A method with three levels of its own."""

    spacing, on_grid = "karras", True

    def __init__(self) -> None:
        super().__init__()
        self.denoiser = Nothing()

    def loss(self, batch: Any, rng: Any) -> Any: ...

    def default_steps(self, sampler: Any) -> int:
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


def test_the_exponent_of_another_spacing_is_refused() -> None:
    with pytest.raises(UsageError, match="--rho 3 spaces levels of noise, but rf has levels of its own"):
        walk(owner(), SampleOptions(rho=3.0), part("heun"), 2)


@pytest.mark.parametrize("name", OFF)
def test_samplers_between_its_levels_are_refused_with_those_that_are_not(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} calls the network at t = ") as raised:
        walk(owner(), SampleOptions(), part(name), 2)
    offered = str(raised.value).partition("use one of: ")[2].split(", ")
    assert {*ON} <= {*offered} and not {*OFF} & {*offered}


@pytest.mark.parametrize("name", ON)
def test_samplers_on_its_levels_walk_them(name: str) -> None:
    assert walk(owner(), SampleOptions(), part(name), 2).sampler is not None


def test_churn_that_puts_no_noise_back_stays_on_the_grid() -> None:
    still = Part("churn", structure(registry().get("sampler", "churn").config, {"churn": 0.0}, "[sampler]"))
    assert walk(owner(), SampleOptions(), still, 2).sampler is not None


def test_a_network_serves_the_methods_of_its_interface_alone() -> None:
    plain = Spec(name="plain", target="a:b", summary="", family="gaussian")
    own = replace(plain, name="own", network="own")
    assert fits("model", plain, plain) and fits("model", own, own)
    assert not fits("model", plain, own) and not fits("model", own, plain)
    assert fits("sampler", plain, own), "an interface is of networks alone"
    with pytest.raises(UsageError, match="own is a network of own, but plain needs a plain denoiser"):
        refuse_misfit(plain, "model", own)
