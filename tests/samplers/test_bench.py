"""What `diffcli bench samplers` measures."""

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from diffcli.engine import bench, bench_errors
from diffcli.engine.bench_errors import BUDGETS, SPACINGS, best, case, distance, error, errors, walk
from diffcli.plugin import Spec
from diffcli.registry import Registry, sources
from diffcli.samplers.base import Sampler
from diffcli.samplers.ddim import DDIM
from diffcli.samplers.grid import grid
from diffcli.samplers.runge_kutta import RungeKutta2, RungeKutta4
from diffcli.samplers.unipc import UniPC

SMALL = {"problems": 2, "walks": 8, "draws": 64}


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
    sides = {(r["sampler"], r["dimensions"], r["spacing"], r["budget"]) for r in records}
    assert len(sides) == len(records) == 3 * 2 * len(SPACINGS) * len(BUDGETS)
    for r in records:
        assert r["nfe"] <= r["budget"] and r["error"] > 0 and r["solver"] == (r["sampler"] != "ancestral")


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (Raising, "ValueError: no idea what to do"),
        (Infinite, "not finite: rectified in 2 dimensions, 5 uniform steps, and 23 more"),
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


def test_the_exact_walks_are_exact():
    """Halving a step of order 4 divides the error by 16: what 300 steps differ by from 150 is 15/16 of its error."""
    on = case("cosine", 64, problems=1, walks=8)
    fine = walk(RungeKutta4(), on.problems[0].denoiser, on.problems[0].x, grid(on.process, 300, "logsnr"))
    assert error([fine], on.problems) < 1e-6
    assert error([on.problems[0].end], on.problems) == 0


def test_another_seed_is_another_problem():
    a, b, again = (case("cosine", 2, seed, problems=2, walks=4).problems for seed in (0, 1, 0))
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
    key = {"sampler": "a", "schedule": "cosine", "dimensions": 2, "budget": 5}
    made = [{**key, "error": e, "spacing": s} for e, s in ((0.3, "uniform"), (None, "karras"), (0.1, "logsnr"))]
    assert best(made) == {("a", "cosine", 2, 5): made[2]}


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
