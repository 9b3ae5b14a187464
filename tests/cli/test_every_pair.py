"""Every Gaussian method runs with every fitting schedule and sampler, from the command line."""

from __future__ import annotations

import pytest

from commands import TINY
from diffcli.registry import registry

GAUSSIAN = [name for name, spec in registry().specs("method").items() if spec.family == "gaussian"]
SCHEDULES = {name: spec for name, spec in registry().specs("schedule").items() if spec.family == "gaussian"}
SAMPLERS = [name for name, spec in registry().specs("sampler").items() if spec.family == "gaussian"]
NAMED = {"ddim", "ancestral", "euler", "midpoint", "heun", "ralston", "rk4", "ab2", "dpmpp-2m", "dpmpp-3m", "dpmpp-2m-sde", "unipc", "churn"}  # fmt: skip


def test_the_named_ones_are_there():
    assert set(SAMPLERS) >= NAMED
    assert set(SCHEDULES) >= {"linear", "cosine", "scaled-linear", "sigmoid", "vp", "edm", "rectified"}


@pytest.mark.parametrize("method", GAUSSIAN)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_sampler_on(method, schedule, cli):
    extra = ["--prediction", "v"] if method == "ddpm" and SCHEDULES[schedule].reaches_zero else []
    ran = cli("train", method, "--schedule", schedule, *extra, *TINY, "--output", "run")
    assert ran.code == 0, ran.err
    for sampler in SAMPLERS:
        ran = cli("sample", "run", "--sampler", sampler, "--steps", "3", "--samples", "2", "--clip", "1", "--json")
        assert ran.code == 0, (sampler, ran.err)
        declared = registry().get("sampler", sampler).load()(registry().get("sampler", sampler).config()).nfe(3)
        assert ran.json["nfe"] == declared, sampler


@pytest.mark.parametrize("dataset", registry().specs("dataset"))
@pytest.mark.parametrize("method", GAUSSIAN)
def test_no_two_flags_collide(method, dataset, cli):
    ran = cli("train", method, "--dataset", dataset, "--help")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("spacing", ["uniform", "linspace", "trailing", "leading", "karras", "logsnr"])
def test_every_spacing(spacing, trained, monkeypatch, cli):
    for method in ("rf", "ddpm"):
        ran = cli(
            "sample",
            trained / "runs" / method,
            "--sampler",
            "dpmpp-2m",
            "--spacing",
            spacing,
            "--steps",
            "4",
            "--samples",
            "2",
            "--output",
            method,
            "--json",
        )
        assert ran.code == 0, ran.err


def test_guided_counts_two(trained, cli):
    for calls in ("one", "two"):
        ran = cli(
            "sample",
            trained / "runs" / "rf",
            "--guidance-scale",
            "2",
            "--guidance-calls",
            calls,
            "--sampler",
            "ddim",
            "--steps",
            "5",
            "--samples",
            "4",
            "--output",
            calls,
            "--json",
        )
        assert ran.code == 0, ran.err
        assert ran.json["nfe"] == 10
        assert ran.json["calls"] == (5 if calls == "one" else 10)


def test_explain_draws_nothing(trained, cli, tmp_path):
    ran = cli(
        "sample", trained / "runs" / "ddpm", "--sampler", "ddim", "--steps", "5", "--guidance-scale", "3", "--explain"
    )
    assert ran.code == 0, ran.err
    for word in ("alpha", "sigma", "logsnr", "eps", "w = 2", "3 (eps_cond - eps_null)"):
        assert word in ran.out
    assert not list(tmp_path.iterdir())


def test_explain_counts_what_sample_spends(trained, cli):
    """Also where guidance acts in an interval of t alone."""
    run = trained / "runs" / "rf"
    for more in ([], ["--guidance-scale", "2"], ["--guidance-scale", "2", "--guidance-interval", "0.3,0.8"]):
        args = ["--sampler", "heun", "--steps", "5", *more]
        said = cli("sample", run, *args, "--explain", "--json")
        drawn = cli("sample", run, *args, "--samples", "2", "--output", f"drawn{len(more)}", "--json")
        assert said.json["nfe"] == drawn.json["nfe"], (more, said.err, drawn.err)
