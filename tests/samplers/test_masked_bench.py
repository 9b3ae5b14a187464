"""The table of masked samplers that `diffcli bench samplers` prints."""

from __future__ import annotations

import pytest

from diffcli.engine import bench_masked
from diffcli.plugin import Spec
from diffcli.registry import Registry, sources


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(bench_masked, "registry", lambda: Registry(sources("diffcli.samplers")))


def test_a_row_holds_what_was_measured(installed):
    """Distances are of 4,000 draws: 0.03 are four standard errors."""
    seen = []
    (row,) = bench_masked.masked_samplers(["unmask", "ddim"], seen.append, 4000)
    assert row["sampler"] == "unmask" and seen == ["unmask"]
    for key in ("784@40", "784@1000", "256@40", "256@1000"):
        steps = int(key.partition("@")[2])
        assert row[key] <= steps and row[f"{key} saved"] == 1 - row[key] / steps
    assert row["784@1000"] <= 550 and row["256@1000"] == pytest.approx(226, rel=0.05)
    for steps in bench_masked.EXACT:
        assert row[f"pair@{steps}"] == pytest.approx(1 / (2 * steps), abs=0.03)
    assert row["triple@1"] > row["triple@4"] > row["triple@16"] > row["triple@64"]
    assert row["overhead_us"] > 0


@pytest.mark.slow
def test_every_masked_sampler_is_measured(installed):
    rows = {row["sampler"]: row for row in bench_masked.masked_samplers(draws=4000)}
    assert set(rows) == {"unmask", "first-hitting", "confidence", "remdm"}
    for row in rows.values():
        assert row.keys() == rows["unmask"].keys()
    first = rows["first-hitting"]
    assert first["784@40"] == 784 and first["784@40 saved"] == 1 - 784 / 40
    assert max(first[f"{law}@{steps}"] for law in ("pair", "triple") for steps in bench_masked.EXACT) < 0.03
    assert rows["unmask"]["784@1000"] < rows["remdm"]["784@1000"] <= 1000


class Raising:
    order = None

    def trajectory(self, denoiser, x, times, *, cond, rng):
        raise ValueError("no idea what to do")


def test_a_broken_sampler_is_a_row_that_says_so(installed, monkeypatch):
    real = Spec.load
    monkeypatch.setattr(Spec, "load", lambda self: (lambda _: Raising()) if self.name == "remdm" else real(self))
    broken, whole = bench_masked.masked_samplers(["remdm", "unmask"], draws=100)
    assert broken == {"sampler": "remdm", "fault": "ValueError: no idea what to do"}
    assert "fault" not in whole and whole["overhead_us"] > 0
