"""What `diffcli bench samplers` measures."""

import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from diffcli.core.exact import Mixture
from diffcli.engine import bench, bench_errors
from diffcli.engine.bench_errors import (
    BUDGETS,
    FAMILIES,
    MODES,
    SPACINGS,
    best,
    case,
    chance,
    distance,
    error,
    errors,
    exact,
    place,
)
from diffcli.plugin import Spec
from diffcli.registry import Registry, sources
from diffcli.samplers.base import Sampler
from diffcli.samplers.ddim import DDIM
from diffcli.samplers.runge_kutta import RungeKutta2, RungeKutta4
from diffcli.samplers.unipc import UniPC

SMALL = {"problems": 1, "walks": 4, "draws": 32}


@pytest.fixture
def installed(monkeypatch):
    found = Registry(sources("diffcli.samplers"))
    for module in (bench, bench_errors):
        monkeypatch.setattr(module, "registry", lambda: found)
    return found


@dataclass(frozen=True)
class Euler(Sampler):
    """DDIM that goes wrong in a way of its own."""

    family: ClassVar = "gaussian"
    order: ClassVar = 1

    def step(self, denoiser, x_t, point, *, cond, state, rng):
        t, s = point
        pair = denoiser(x_t, t, cond)
        return denoiser.process.diffuse(pair.x_0, pair.eps, s), state


class Zero(Euler):
    """A random walk to one place."""

    order: ClassVar = None

    def step(self, denoiser, x_t, point, *, cond, state, rng):
        return torch.zeros_like(x_t), state


class Raising(Euler):
    def step(self, denoiser, x_t, point, *, cond, state, rng):
        raise ValueError("no idea what to do")


class Infinite(Euler):
    def step(self, denoiser, x_t, point, *, cond, state, rng):
        x_s, state = super().step(denoiser, x_t, point, cond=cond, state=state, rng=rng)
        return x_s / 0, state


class Twice(Euler):
    def step(self, denoiser, x_t, point, *, cond, state, rng):
        denoiser(x_t, point[0], cond)
        return super().step(denoiser, x_t, point, cond=cond, state=state, rng=rng)


def test_a_row_holds_what_was_measured(installed):
    seen = []
    rows, records = bench.samplers(["dpmpp-2m", "heun", "ancestral"], ["rectified"], seen.append, **SMALL)
    found = {row["sampler"]: row for row in rows}
    assert list(found) == seen[1:] == ["ancestral", "dpmpp-2m", "heun"]
    assert found["heun"]["nfe"] == found["heun"]["counted"] == 39
    assert found["ancestral"]["kind"] == "random walk" and "measured" not in found["ancestral"]
    for name in ("heun", "dpmpp-2m"):
        assert found[name]["measured"] > found[name]["order"] - 0.35
    assert all(row["overhead_us"] > 0 and "fault" not in row for row in rows)
    sides = {(r["sampler"], *place(r), r["spacing"], r["budget"]) for r in records}
    assert len(sides) == len(records) == 3 * len(FAMILIES) * len(MODES) * len(SPACINGS) * len(BUDGETS)
    assert {r["laws"] for r in records} == {"coarse", "fine"}
    for r in records:
        assert r["nfe"] <= r["budget"] and r["error"] > 0 and r["solver"] == (r["sampler"] != "ancestral")


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (Raising, "ValueError: no idea what to do"),
        (Infinite, "not finite: rectified, coarse laws in 2 dimensions, 5 uniform steps, and 47 more"),
        (Twice, "it declares 20 calls for 20 steps and makes 40"),
    ],
)
def test_a_broken_sampler_is_a_row_that_says_so(installed, monkeypatch, kind, fault):
    spec = Spec(name="broken", target="there:it", summary="Broken.", family="gaussian")
    monkeypatch.setattr(Spec, "load", lambda self, real=Spec.load: (lambda _: kind()) if self is spec else real(self))
    installed._specs["sampler"] = {"broken": spec, "ddim": installed.get("sampler", "ddim")}
    rows, records = bench.samplers(None, ["rectified"], **SMALL)
    assert [row["sampler"] for row in rows] == ["broken", "ddim"]
    assert rows[0]["fault"] == fault
    assert "fault" not in rows[1] and [r for r in records if r["sampler"] == "ddim"]


@pytest.mark.parametrize("size", bench_errors.MODES)
def test_errors_fall_with_calls_and_with_the_order(size):
    """Halving a step divides the error by 2^order far out; from 10 to 50 calls by 5 at order 1. A factor of 2 is left for luck."""
    on = case("rectified", size, problems=2, walks=8)

    def at(sampler, budget):
        return min(r["error"] for r in errors("it", sampler, on, [budget]))

    first, second = [at(DDIM(), b) for b in (10, 50)], [at(UniPC(), b) for b in (10, 50)]
    assert first[0] / first[1] > 2.5 and second[0] / second[1] > 12.5
    assert second[1] < first[1] / 5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_exact_walks_are_exact(family):
    """Halving a step of order 4 divides the error by 16: what 300 steps differ by from 150 is 15/16 of its error.

    The last step, from LAST to 0, is told by no halving. Of a lone blob of standard deviation s the walk is known: from
    noise eps at sigma/alpha = r it ends at mean + s (eps r - mean)/sqrt(s^2 + r^2).
    """
    on = case("cosine", 64, family, problems=1, walks=8)
    law, x, end = on.problems[0]
    assert error([exact(law, x, 300)], on.problems) < 1e-6
    assert error([end], on.problems) == 0
    s = FAMILIES[family][0]
    mean = law.means[:1]
    blob = Mixture(on.process, torch.ones(1), mean, torch.tensor([s]))
    r = on.process.ratio(torch.ones((), dtype=torch.float64))
    alpha = on.process.alpha(torch.ones((), dtype=torch.float64))
    known = mean + s * (x / alpha - mean) / (s**2 + r**2).sqrt()
    assert (exact(blob, x) - known).abs().max() < 1e-6


def test_fine_laws_are_finer():
    """Of the same seed everything but the standard deviations is the same, and those are a tenth."""
    a, b = (case("cosine", 2, family, problems=1, walks=4).problems[0].denoiser for family in FAMILIES)
    assert torch.equal(a.means, b.means) and torch.allclose(a.stds, 10 * b.stds)


def test_chance_is_told_with_its_spread():
    """Of draws from one law: the mean of pairs falls as 1/sqrt(draws), and a fresh pair lies within five of its spread."""
    laws = case("rectified", 2, problems=3, walks=2).known
    few, many = chance(laws, 100), chance(laws, 1600)
    assert 2.5 < few[0] / many[0] < 6.5
    sets = [[law.draw(1600, torch.Generator().manual_seed(seed)) for law in laws] for seed in (5, 6)]
    fresh = statistics.mean(distance(a, b) for a, b in zip(*sets, strict=True))
    assert 0 < many[1] < many[0] and abs(fresh - many[0]) < 5 * many[1]


def test_a_random_walk_is_measured_on_several_laws():
    """One that ends at 0 is wrong on each law by its own mean: the distance is the mean over three, not that of one."""
    on, zero = case("rectified", 2, problems=4, walks=2), torch.zeros(64, 2, dtype=torch.float64)
    (record,) = [r for r in errors("zero", Zero(), on, [5], draws=64) if r["default"]]
    drawn = [law.draw(64, torch.Generator().manual_seed(10 * k + 1)) for k, law in enumerate(on.known)]
    assert len(drawn) == 3 and record["error"] == pytest.approx(statistics.mean(distance(zero, x) for x in drawn))
    assert 0 < record["floor_std"] < record["floor"] < record["error"]


def test_another_seed_is_another_problem():
    a, b, again = (case("cosine", 2, seed=seed, problems=2, walks=4).problems for seed in (0, 1, 0))
    means = {tuple(p.denoiser.means.flatten().tolist()) for p in [*a, *b]}
    assert len(means) == 4
    assert all(torch.equal(p.end, q.end) for p, q in zip(a, again, strict=True))


def test_the_distance_of_laws_is_that_of_a_shift():
    """Two equal sets a vector d apart: the mean over directions of |d.w| is 2|d|/pi in the plane, by 32 of them to 1 %."""
    x = torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert distance(x, x) == 0
    assert distance(x, x + torch.tensor([0.3, 0.4])) == pytest.approx(2 * 0.5 / torch.pi, rel=0.01)


def test_a_budget_that_allows_no_step_is_left_out():
    on = case("rectified", 2, problems=1, walks=4)
    assert [r["nfe"] for r in errors("heun", RungeKutta2(), on, [1, 2, 5]) if r["default"]] == [1, 1, 5]
    assert errors("rk4", RungeKutta4(), on, [2]) == []


def test_the_best_spacing_is_the_least_error():
    key = {"sampler": "a", "schedule": "cosine", "laws": "fine", "dimensions": 2, "budget": 5}
    made = [{**key, "error": e, "spacing": s} for e, s in ((0.3, "uniform"), (None, "karras"), (0.1, "logsnr"))]
    assert best(made) == {("a", "cosine", "fine", 2, 5): made[2]}


def test_schedules_of_others_are_measured_unasked(installed, monkeypatch):
    ours = Registry(sources("none"))
    assert _defaults(monkeypatch, ours) == ["cosine", "rectified"]
    spec = Spec(name="theirs", target="there:it", summary="Theirs.", family="gaussian")
    ours.add([("schedule", spec)], bench.registry().plugins[0]._replace(distribution="other", plugin="other"))
    assert _defaults(monkeypatch, ours) == ["cosine", "rectified", "theirs"]


def _defaults(monkeypatch, found):
    monkeypatch.setattr(bench, "registry", lambda: found)
    return bench.defaults()


OVERHEAD = """
from diffcli.engine import bench
from diffcli.registry import registry

for name in ("ddim", "dpmpp-2m"):
    spec = registry().get("sampler", name)
    print(name, min(bench.overhead(spec.load()(spec.config())) for _ in range(20)))
"""


@pytest.mark.slow
def test_overhead_of_the_hot_samplers_stays_within_its_goal():
    """In a process of its own: what tests before it left in memory is no part of the cost."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", OVERHEAD], env=env, capture_output=True, text=True, check=True)
    found = {name: float(cost) for name, cost in (line.split() for line in done.stdout.splitlines())}
    assert found.keys() == {"ddim", "dpmpp-2m"} and found["ddim"] <= 10 and found["dpmpp-2m"] <= 20, found
