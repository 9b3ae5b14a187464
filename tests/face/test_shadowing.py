"""A plugin may not take the names of what is measured and drawn of any method."""

from __future__ import annotations

import pytest

from diffcli.errors import PluginError
from diffcli.hooks import check
from diffcli.metrics import MEASURES, PLOTS
from diffcli.plugin import NoOptions, Spec, load, opt


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_of_its_own_has_another_name(name: str) -> None:
    spec = Spec(name="mine", target="mine:Mine", summary="Mine.", metrics={name: "mine:measure"})
    with pytest.raises(PluginError, match=f"{name} is already a measure of any method; rename it"):
        check(spec, "method", "diffcli_methods")
    check(Spec(name="mine", target="mine:Mine", summary="Mine.", metrics={f"my-{name}": "mine:m"}), "method", "h")


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_of_its_own_has_another_name(name: str) -> None:
    spec = Spec(name="mine", target="mine:Mine", summary="Mine.", plots={name: "mine:plot"})
    with pytest.raises(PluginError, match=f"{name} is already a plot of any method; rename it"):
        check(spec, "method", "diffcli_methods")


def test_the_names_are_those_of_the_engine() -> None:
    from diffcli.engine import measures

    assert tuple(measures.MEASURES) == MEASURES


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_of_any_method_is_called_as_it_is_named(name: str) -> None:
    made = load(PLOTS[name])
    assert callable(made) and made.__name__ == name


def test_an_extractor_takes_no_options() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Options:
        depth: int = opt(3, "Layers.")

    check(Spec(name="mine", target="mine:Mine", summary="Mine.", config=NoOptions), "extractor", "diffcli_extractors")
    with pytest.raises(PluginError, match="an extractor takes no options"):
        check(Spec(name="mine", target="mine:Mine", summary="Mine.", config=Options), "extractor", "diffcli_extractors")
