"""Micro benchmarks of training: `pytest benchmarks --benchmark-enable`. One step of each installed method on its default data."""

import pytest

from diffcli.engine.bench_train import enter
from diffcli.registry import registry


@pytest.mark.parametrize("method", registry().specs("method"))
def test_step(benchmark, method):
    lane = enter(method, None)
    benchmark(lane.once)
    assert lane.flops > 0
