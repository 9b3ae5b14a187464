"""What `diffcli bench train` measures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffcli.engine import bench_train
from diffcli.engine.bench_train import Clock, Limit, flops, train
from diffcli.errors import UsageError
from diffcli.plugin import Spec
from diffcli.registry import registry


def test_products_are_counted_as_two_operations_a_multiplication():
    """y = x W^T: 2 b m n forward, as many for the gradient of W, and as many for that of x where it is wanted."""
    layer, x = nn.Linear(7, 5), torch.randn(3, 7)
    assert flops(lambda: layer(x)) == 2 * 3 * 7 * 5
    assert flops(lambda: layer(x).sum().backward()) == 2 * 2 * 3 * 7 * 5
    assert flops(lambda: layer(x.clone().requires_grad_()).sum().backward()) == 3 * 2 * 3 * 7 * 5


def test_attention_is_counted_whatever_computes_it():
    """Scores and their products with v: two products of 2 B h n^2 d each."""
    q = torch.randn(2, 3, 64, 8)
    asked = lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert flops(asked) == 2 * (2 * 2 * 3 * 64**2 * 8)


def test_the_limit_counts_what_it_computes():
    limit = Limit(torch.device("cpu"), torch.float32)
    assert limit.flops == {"matmul": 2 * 1024**3, "conv3x3": 2 * 9 * 32 * 64 * 64 * 32 * 32}
    limit.round(0.01)
    assert all(value > 0 for value in limit.gflops.values())


def test_a_cpu_is_timed_by_its_own_seconds():
    begin, end = Clock(1.0, 10.0), Clock(3.0, 11.0)
    assert end.since(begin, torch.device("cpu")) == 1.0 and end.since(begin, torch.device("cuda")) == 2.0


def test_a_row_holds_what_was_measured():
    """share is what GFLOP, the time of a step and the limit say; one round of one step is enough to see that."""
    (row,), (machine,) = train(["mdlm"], "digits", rounds=1, seconds=0.0)
    assert (row["method"], row["dataset"], row["precision"], row["device"]) == ("mdlm", "digits", "float32", "cpu")
    assert row["images/s"] == pytest.approx(row["batch"] / row["step_ms"] * 1e3)
    assert row["GFLOP/s"] == pytest.approx(row["GFLOP"] * row["images/CPU-s"] / row["batch"])
    assert row["share"] == pytest.approx(row["GFLOP/s"] / max(machine["GFLOP/s"].values()))


@pytest.mark.slow
def test_a_broken_method_is_a_row_that_says_so(monkeypatch):
    """One that cannot be put together, and one that fails on the way; the third is measured all the same."""
    real, steps = bench_train.enter, []

    def enter(name, dataset):
        if name == "ddpm":
            raise ValueError("no network")
        return real(name, dataset)

    def step_once(job, *args):
        if job.recipe.method.name == "mdlm" and len(steps) > 3:
            raise RuntimeError("lost")
        steps.append(job.recipe.method.name)
        return bench_train.real(job, *args)

    monkeypatch.setattr(bench_train, "enter", enter)
    monkeypatch.setattr(bench_train, "real", bench_train.step_once, raising=False)
    monkeypatch.setattr(bench_train, "step_once", step_once)
    rows, _ = train(["ddpm", "mdlm", "rf"], rounds=1, seconds=0.0)
    assert rows[0] == {"method": "ddpm", "fault": "ValueError: no network"}
    assert rows[1] == {"method": "mdlm", "fault": "RuntimeError: lost"}
    assert rows[2]["images/s"] > 0


def test_a_method_that_is_named_must_fit_the_data():
    """Unnamed it is a row, beside those that fit."""
    with pytest.raises(UsageError, match="rf is gaussian"):
        train(["rf"], "text", rounds=0)


def test_a_method_that_is_not_named_need_not_fit_the_data(monkeypatch):
    monkeypatch.setattr(registry(), "_specs", {**registry()._specs, "method": {"rf": registry().get("method", "rf")}})
    (row,), machine = train(None, "text")
    assert "rf is gaussian" in row["fault"] and machine == []


def test_methods_of_others_are_measured_unasked(monkeypatch):
    theirs = Spec(name="theirs", target="there:it", summary="Theirs.")
    specs = registry()._specs["method"]
    monkeypatch.setitem(specs, "theirs", theirs)
    asked = []
    monkeypatch.setattr(bench_train, "enter", lambda name, dataset: asked.append(name) or 1 / 0)
    rows, machine = train(rounds=1)
    assert asked == list(specs) and "theirs" in asked
    assert all(row["fault"].startswith("ZeroDivisionError") for row in rows) and machine == []
