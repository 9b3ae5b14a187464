"""`--explain` of masked runs: the walk in numbers, and what it will cost."""

from __future__ import annotations

import pytest
import torch

from diffcli.core.random import Rows
from diffcli.engine.explain import Silent
from diffcli.samplers.ddim import Ancestral
from diffcli.samplers.grid import grid
from diffcli.schedules import CosineOptions
from diffcli.schedules.gaussian import cosine

NAMES = ["unmask", "first-hitting", "confidence", "remdm"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", ["pictures", "texts"])
def test_a_masked_walk_is_told_and_counted_as_it_is_drawn(data, name, filled, cli):
    """To the digit: when a token is revealed is drawn without the network, by the seed and the number of the sample."""
    given = [] if name == "remdm" else {"pictures": ["--inpaint"], "texts": ["--prompt", "ab a"]}[data]
    for more in ([], given, ["--seed", "3", "--steps", "30"]):
        args = [filled / data, "--sampler", name, "--steps", "7", *more]
        said = cli("sample", *args, "--explain", "--json")
        assert said.code == 0, said.err
        drawn = cli("sample", *args, "--samples", "16", "--json")
        assert drawn.code == 0, drawn.err
        assert said.json["nfe"] == drawn.json["nfe"] and said.json["sampler"] == name
        grid = said.json["grid"]
        assert [row["k"] for row in grid] == list(range(said.json["steps"] + 1))
        assert all(row["alpha"] + row["rate"] == 1 and row["rate"] == pytest.approx(row["t"]) for row in grid)


def test_the_formulas_are_in_words(filled, cli):
    ran = cli("sample", filled / "pictures", "--sampler", "unmask", "--steps", "4", "--explain")
    assert ran.code == 0, ran.err
    for words in ("(1 - alpha_s)/(1 - alpha_t)", "SUBS", "none (scale 1)", "rate", "loglinear"):
        assert words in ran.out
    assert "logsnr" not in ran.out


def test_a_learned_variance_can_be_explained():
    """Whatever the sampler reads of a prediction is there without a network."""
    process = cosine(CosineOptions(timesteps=5), None)
    rng, times = Rows(0, torch.arange(2), 2), grid(process, 5)
    walk = list(Ancestral("learned").trajectory(Silent(process), torch.ones(2, 1, 4, 4), times, cond={}, rng=rng))
    assert len(walk) == 5


def test_what_does_not_fit_is_refused(filled, cli):
    for args, said in (
        (["--spacing", "karras"], "karras spaces levels of noise, which a masked process does not have; use uniform"),
        (["--sampler", "ddim"], "ddim samples gaussian processes, but fill is masked; use one of: "),
        (["--sampler", "unmask", "--temperature", "0"], "--temperature"),
    ):
        ran = cli("sample", filled / "pictures", *args, "--explain")
        assert ran.code == 2 and said in ran.err, (args, ran.err)


def test_the_sampler_is_told_with_its_options_and_its_order(filled, cli):
    for args, order, options in (
        (["--sampler", "remdm", "--eta", "0.25"], "random walk", ["eta=0.25"]),
        (["--sampler", "unmask", "--no-cache"], "random walk", ["cache=False"]),
    ):
        ran = cli("sample", filled / "pictures", *args, "--steps", "3", "--explain", "--json")
        assert ran.code == 0, ran.err
        table = dict(line.split(None, 1) for line in ran.out.splitlines() if " " in line and not line.startswith("{"))
        assert table["order"] == ran.json["order"] == order
        assert set(options) <= set(table["options"].split())
        assert [one.partition("=")[0] for one in table["options"].split()] == list(ran.json["options"])
