"""`diffcli bench`: tables, one file with all that they depend on, one plot."""

from __future__ import annotations

import json
from functools import partial

import pytest
from PIL import Image

from diffcli.engine.bench import samplers
from diffcli.engine.bench_masked import masked_samplers


@pytest.fixture
def ran(cli, monkeypatch):
    monkeypatch.setattr("diffcli.engine.bench_report.samplers", partial(samplers, problems=1, walks=4))
    monkeypatch.setattr("diffcli.engine.bench_report.masked_samplers", partial(masked_samplers, draws=1000))
    return cli(
        "bench", "samplers", "--samplers", "ddim,unmask", "--schedules", "rectified", "--output", "out", "--json"
    )


def test_a_bench_of_samplers(ran, tmp_path):
    """One run, for it takes seconds: the file, the plot and the tables."""
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    there = found["environment"]
    assert there["cpu"] and there["threads"] >= 1 and there["versions"]["torch"] and there["started"] and there["cores"]
    assert there["command"] and there["device"] is None  # in tests the command is pytest's
    assert found["protocol"]["schedules"] == ["rectified"] and found["protocol"]["seed"] == 0
    assert [row["sampler"] for row in found["samplers"]] == ["ddim"]
    assert [row["sampler"] for row in found["masked"]] == ["unmask"]
    assert len(found["errors"]) == 2 * 2 * 3 * 4 and "train" not in found
    with Image.open(tmp_path / "out" / "errors.png") as picture:
        assert picture.size[0] > 800
    assert (tmp_path / "out" / "errors.pdf").read_bytes().startswith(b"%PDF")
    assert ran.json["files"] == ["out/bench.json", "out/errors.png", "out/errors.pdf"]
    assert {**found, "files": ran.json["files"]} == ran.json
    heads = [line.split() for line in ran.out.splitlines() if line.startswith("sampler ")]
    assert [head[1] for head in heads] == ["kind", "5", "5", "5", "5", "784@40"]
    saved = f"{100 * found['masked'][0]['784@1000 saved']:.0f}"
    assert (
        f"(-{saved}%)" in ran.out
        and "rectified, coarse laws, 64 dimensions" in ran.out
        and "rectified, fine laws, 2 dimensions" in ran.out
        and " *" in ran.out
    )


def test_attention_alone_draws_no_plot(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("diffcli.engine.bench_attention.TOKENS", (16,))
    row = {"dtype": "float32", "tokens": 16, "pass": "forward", "us": {"torch": 1.0}, "fastest": "torch"}
    row |= {"chosen": "torch", "ok": True, "loss": 1.0}
    monkeypatch.setattr("diffcli.engine.bench_report.attention", lambda report: [row])
    ran = cli("bench", "attention", "--json")
    assert ran.code == 0, ran.err
    (path,) = ran.json["files"]
    assert path.startswith("bench/2") and json.loads((tmp_path / path).read_text())["attention"] == [row]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["train", "--samplers", "ddim"], "--samplers is of bench samplers, but train was asked for; leave it out"),
        (["attention", "--dataset", "digits"], "--dataset is of bench train, but attention was asked for"),
        (["samplers", "--schedules", "loglinear"], "schedule loglinear is masked, but only gaussian schedules can be measured"),
        (["samplers", "--samplers", "unmask,remdm", "--schedules", "rectified"], "--schedules is of gaussian samplers, but unmask, remdm"),
        (["train", "--methods", "rf", "--dataset", "text"], "text is a masked dataset, but rf is gaussian"),
        (["samplers", "--samplers", "ddmi"], "no sampler named 'ddmi'; did you mean 'ddim'?"),
        (["train", "--methods", "ddpm", "--dataset", "digit"], "no dataset named 'digit'; did you mean 'digits'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_at_once(cli, argv, line):
    ran = cli("bench", *argv)
    assert ran.code == 2 and line in ran.err


def test_a_bench_that_measured_nothing_fails(cli, tmp_path, monkeypatch):
    """Each fault is told and written, and then the command says that there is nothing else."""
    monkeypatch.setattr("diffcli.engine.bench_train.enter", lambda name, dataset: 1 / 0)
    ran = cli("bench", "train", "--methods", "rf", "--output", "out")
    assert ran.code == 1 and "nothing could be measured" in ran.err and "ZeroDivisionError" in ran.out
    assert "share of nothing" not in ran.out
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["train"][0]["fault"].startswith(
        "ZeroDivisionError"
    )


def test_a_bench_that_measured_something_does_not_fail(cli, monkeypatch):
    """What does not fit the data is a row that says so where nothing was named."""
    rows = [{"method": "rf", "fault": "UsageError: no"}, {"method": "mdlm", "images/s": 1.0}]
    monkeypatch.setattr("diffcli.engine.bench_report.train", lambda *args: (rows, []))
    assert cli("bench", "train", "--dataset", "text").code == 0


def test_a_folder_that_cannot_be_written_is_refused_before_it_is_measured(cli, tmp_path):
    (tmp_path / "file").write_text("")
    ran = cli("bench", "--output", "file/there")
    assert ran.code == 6 and "is no folder" in ran.err
