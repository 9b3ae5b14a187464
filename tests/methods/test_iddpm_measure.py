"""The bound of Improved DDPM as a measure."""

from __future__ import annotations

import math

import pytest
import torch

from diffcli import recipe as recipes
from diffcli.core.random import Rows
from diffcli.engine.assemble import Facts, assemble, open_data
from diffcli.engine.evaluate import Bench
from diffcli.engine.load import Model
from diffcli.errors import UsageError
from diffcli_iddpm import IDDPMEval
from diffcli_iddpm.bound import measure, prior, timesteps

DOUBLE = {"dtype": torch.float64}


def test_random_timesteps_stand_for_all_of_them():
    """The weights of each draw's law add up: the estimate of a sum over 0 ... T - 1 is right on average, 4 standard errors."""
    rows, entries = 4000, 100
    value = 1 / (1 + torch.arange(entries, **DOUBLE))
    total = torch.zeros(rows, **DOUBLE)
    for k, weight in timesteps(entries, 5, Rows(0, torch.arange(rows), rows)):
        total += weight * value[k]
    assert float(total.mean()) == pytest.approx(float(value.sum()), abs=4 * float(total.std()) / math.sqrt(rows))
    for levels in (0, entries):
        drawn = list(timesteps(entries, levels, Rows(0, torch.arange(2), 2)))
        assert [int(k[0]) for k, _ in drawn] == list(range(entries))
        assert all(float(w[0]) == 1 for _, w in drawn)


def test_random_timesteps_fall_anywhere_in_their_strata():
    """One quantile of each draw's law in each of as many equal intervals as rows; which, the seed says, so that no timestep
    is out of reach. An entry k is at the quantiles between the sums of the law before it and with it."""
    rows, levels, k = 8, 3, torch.arange(1, 1000, **DOUBLE)
    cdf = torch.cumsum(0.5 / 999 + 0.5 / k / (1 / k).sum(), 0)
    below = torch.cat([torch.zeros(1, **DOUBLE), cdf[:-1]])
    seen = []
    for seed in (0, 1):
        _, *draws = timesteps(1000, levels, Rows(seed, torch.arange(rows), rows))
        place = torch.stack([k.sort().values - 1 for k, _ in draws])  # (levels, rows)
        stratum = torch.arange(levels * rows, **DOUBLE).view(levels, rows)
        assert (cdf[place] * levels * rows > stratum - 1e-9).all()
        assert (below[place] * levels * rows < stratum + 1 + 1e-9).all()
        seen.append(place.flatten().tolist())
    assert sum(a != b for a, b in zip(*seen, strict=True)) > 12


def test_the_record_says_how_many_timesteps_were_drawn():
    assert [next(measure(bench(images=2, levels=n)))["draws"] for n in (4, 38, 39, 60)] == [4, 38, 40, 40]


def bench(images=16, data="shapes", size=8, levels=4, **method):
    tables = {
        "method": {"name": "iddpm", **method},
        "model": {"name": "biggan-unet", "channels": 8},
        "dataset": {"name": data, "size": size},
        "schedule": {"name": "cosine", "timesteps": 40},
    }
    recipe = recipes.resolve(tables)
    held_out = open_data(recipe, "test")
    a = assemble(recipe, Facts.of(held_out))
    model = Model(a.recipe, a.method.eval(), a.space, a.facts, torch.device("cpu"), "here", 0, "raw", "")
    return Bench(model, a.recipe, IDDPMEval(images=images, nll_levels=levels), test=held_out)


def test_the_measure_is_the_sum_of_its_quarters_and_of_all_terms():
    whole, some = ({r["metric"]: r for r in measure(bench(levels=levels))} for levels in (0, 20))
    for found in (whole, some):
        quarters = [r["value"] for name, r in found.items() if name.startswith("vlb[t")]
        assert len(quarters) == 4 and sum(quarters) == pytest.approx(found["vlb"]["value"], rel=1e-9)
        assert all(abs(r["value"] - 1) < 0.1 for name, r in found.items() if name.startswith("vlb[mse"))  # F = 0
    assert some["vlb"]["value"] == pytest.approx(whole["vlb"]["value"], abs=5 * some["vlb"]["standard_error"])


@torch.no_grad()
def test_the_measure_of_all_timesteps_is_the_bound():
    """Every term of every image and the prior's, x_0 clipped: the same numbers, added in another order. 1e-9."""
    made = bench(images=4, levels=0)
    method, rng, index = made.model.method, Rows(0, torch.arange(4), 4), torch.arange(4)
    head = method.denoiser.net.head
    head.weight.normal_(
        0, 0.1, generator=torch.Generator().manual_seed(0)
    )  # away from the start: x_0 goes beyond its bounds
    data = made.test.batch(index, index, made.model.space)
    total, wild = prior(method.denoiser.process, data.x).double(), torch.zeros(4, **DOUBLE)
    assert float(total.min()) > 1e-8
    for number in range(40):
        k, eps = torch.full((4,), number), rng.normal("eps", data.x.shape[1:])
        for sums, clip in ((total, 1.0), (wild, None)):
            sums += method.errors(data, k, eps, {"label": data.label}, clip)[1].double() / 40
    found = next(measure(made))
    assert found["metric"] == "vlb" and found["unit"] == "bits/dim" and found["images"] == 4 and found["draws"] == 40
    assert found["value"] == pytest.approx(float(total.mean()), rel=1e-9)
    assert found["standard_error"] == pytest.approx(float(total.std()) / 2, rel=1e-9)
    assert float(wild.mean()) > 1.01 * found["value"]


def test_the_measure_is_refused_where_it_has_no_meaning():
    with pytest.raises(UsageError, match="8-bit images"):
        list(measure(bench(data="digits")))
    with pytest.raises(UsageError, match="2 images or more"):
        list(measure(bench(images=1)))
