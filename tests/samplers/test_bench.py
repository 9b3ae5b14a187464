"""The table that `diffcli bench samplers` prints."""

import pytest

from diffcli.engine import bench
from diffcli.registry import Registry, sources


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(bench, "registry", lambda: Registry(sources("diffcli.samplers")))


def test_a_row_holds_what_was_measured(installed):
    seen = []
    rows = {row["sampler"]: row for row in bench.samplers(["dpmpp-2m", "heun", "ancestral"], seen.append, walks=64)}
    assert sorted(rows) == sorted(seen) == ["ancestral", "dpmpp-2m", "heun"]
    assert rows["heun"]["nfe"] == rows["heun"]["counted"] == 39
    assert rows["ancestral"]["kind"] == "random walk" and rows["ancestral"]["measured"] is None
    for row in (rows["heun"], rows["dpmpp-2m"]):
        assert row["measured"] > row["order"] - 0.35
    for row in rows.values():
        assert row["vp@50"] < 0.2 and row["rectified@50 spacing"] in bench.SPACINGS and row["overhead_us"] > 0


@pytest.mark.slow
def test_overhead_of_the_hot_samplers_stays_within_its_goal(installed):
    goals = {"ddim": 10, "dpmpp-2m": 20}
    for name, spec in bench.registry().specs("sampler").items():
        if name in goals:
            sampler = spec.load()(spec.config())
            assert min(bench.overhead(sampler) for _ in range(5)) <= goals[name], name
