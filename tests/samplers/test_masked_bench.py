"""The table of masked samplers that `diffcli bench samplers` prints."""

from __future__ import annotations

import pytest

from diffcli.engine import bench_masked
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


def test_the_command_prints_a_table_of_each_family(cli):
    ran = cli("bench", "samplers", "--samplers", "unmask,ddim", "--json")
    assert ran.code == 0, ran.err
    gaussian, masked = ran.json["samplers"], ran.json["masked"]
    assert [row["sampler"] for row in gaussian] == ["ddim"] and [row["sampler"] for row in masked] == ["unmask"]
    heads = [line.split() for line in ran.out.splitlines() if line.startswith("sampler ")]
    assert [head[1] for head in heads] == ["kind", "784@40"]
    saved = f"{100 * masked[0]['784@1000 saved']:.0f}"
    assert f"(-{saved}%)" in ran.out and "saved" not in " ".join(heads[1])
