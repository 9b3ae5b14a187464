"""Every Gaussian method runs with every fitting schedule and sampler, from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import TINY, run
from diffcli.options import options
from diffcli.registry import registry

GAUSSIAN = [name for name, spec in registry().specs("method").items() if spec.family == "gaussian"]
SCHEDULES = {name: spec for name, spec in registry().specs("schedule").items() if spec.family == "gaussian"}
DATASETS = [name for name, spec in registry().specs("dataset").items() if spec.family in (None, "gaussian")]
SAMPLERS = [name for name, spec in registry().specs("sampler").items() if spec.family == "gaussian"]
NAMED = {"ddim", "ancestral", "euler", "midpoint", "heun", "ralston", "rk4", "ab2", "dpmpp-2m", "dpmpp-3m", "dpmpp-2m-sde", "unipc", "churn", "renoise"}  # fmt: skip


OWN = {("rf", "rectified"), ("ddpm", "cosine")}  # the others are walked less often
PAIRS = [
    pytest.param(method, schedule, marks=[] if (method, schedule) in OWN else [pytest.mark.slow])
    for method in GAUSSIAN
    for schedule in SCHEDULES
    if not registry().get("method", method).network  # the others have tests of their own
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """An autoencoder for the methods that live in latents."""
    folder = tmp_path_factory.mktemp("encoder") / "run"
    ran = run("train", "vae", *TINY[:6], *TINY[-2:], "--multipliers", "2", "--output", folder)
    assert ran.code == 0, ran.err
    return folder


def test_the_named_ones_are_there():
    assert set(SAMPLERS) >= NAMED
    assert set(SCHEDULES) >= {"linear", "cosine", "scaled-linear", "sigmoid", "vp", "edm", "rectified"}


@pytest.mark.parametrize(("method", "schedule"), PAIRS)
def test_every_sampler_on(method, schedule, request, cli):
    spec, extra = registry().get("method", method), []
    if spec.autoencoder:
        extra += ["--autoencoder", request.getfixturevalue("encoder")]
    if SCHEDULES[schedule].reaches_zero and "prediction" in options(spec.config):
        extra += ["--prediction", "v"]
    ran = cli("train", method, "--schedule", schedule, *extra, *TINY, "--output", "run")
    if method == "iddpm" and SCHEDULES[schedule].reaches_zero:
        assert (ran.code, "eps-prediction has no x_0" in ran.err) == (2, True), "it predicts eps alone"
        return
    assert ran.code == 0, ran.err
    for sampler in SAMPLERS:
        plain = ["--steps", "3", "--samples", "2", "--clip", "1", "--guidance-scale", "1", "--json"]
        ran = cli("sample", "run", "--sampler", sampler, *plain)
        assert ran.code == 0, (sampler, ran.err)
        declared = registry().get("sampler", sampler).load()(registry().get("sampler", sampler).config()).nfe(3)
        assert ran.json["nfe"] == declared, sampler


@pytest.mark.parametrize("dataset", DATASETS)
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


@pytest.mark.parametrize("method", ["rf", "ddpm"])
def test_a_walk_costs_the_calls_it_says(method, trained, cli, monkeypatch):
    """Counted in the network itself: ddim with 50 steps calls it 50 times for all samples together."""
    from diffcli_vision.unet import UNet

    calls, forward = [], UNet.forward
    monkeypatch.setattr(UNet, "forward", lambda net, x, *rest: calls.append(len(x)) or forward(net, x, *rest))
    ran = cli(
        "sample",
        trained / "runs" / method,
        "--sampler",
        "ddim",
        "--steps",
        "50",
        "--samples",
        "2",
        "--output",
        "out",
        "--json",
    )
    assert ran.code == 0, ran.err
    assert calls == [2] * 50 and (ran.json["nfe"], ran.json["calls"]) == (50, 50)


@pytest.mark.slow
def test_ancestral_walks_all_of_the_table_when_no_steps_are_asked_for(trained, cli, monkeypatch):
    from diffcli_vision.unet import UNet

    calls, forward = [], UNet.forward
    monkeypatch.setattr(UNet, "forward", lambda net, x, *rest: calls.append(len(x)) or forward(net, x, *rest))
    ran = cli(
        "sample", trained / "runs" / "ddpm", "--sampler", "ancestral", "--samples", "2", "--output", "out", "--json"
    )
    assert ran.code == 0, ran.err
    assert ran.json["sampler"] == {"name": "ancestral", "variance": "small"}
    assert calls == [2] * 1000 and (ran.json["nfe"], ran.json["steps"]) == (1000, 1000)


@pytest.mark.parametrize(
    ("method", "sampler", "steps", "spacing"),
    [("ddpm", {"name": "dpmpp-2m-sde", "eta": 1.0}, 50, "logsnr"), ("rf", {"name": "unipc"}, 20, "logsnr")],
)
def test_what_is_drawn_with_when_nothing_is_asked_for(method, sampler, steps, spacing, trained, cli):
    """The sampler is the method's default; its number of steps and its grid are the sampler's own."""
    ran = cli("sample", trained / "runs" / method, "--samples", "2", "--output", "out", "--json")
    assert (ran.json["sampler"], ran.json["steps"], ran.json["nfe"]) == (sampler, steps, steps)
    assert ran.json["spacing"] == spacing


def test_a_sampler_without_a_grid_of_its_own_takes_that_of_the_schedule(trained, cli):
    asked = ("sample", trained / "runs" / "rf", "--samples", "2", "--sampler", "midpoint", "--output")
    ran = cli(*asked, "out", "--json")
    assert (ran.json["spacing"], ran.json["steps"], ran.json["nfe"]) == ("uniform", 50, 100)
    assert cli(*asked, "other", "--spacing", "karras", "--json").json["spacing"] == "karras"


MASKED = """
from diffcli import Spec, hookimpl

@hookimpl
def diffcli_samplers():
    return [Spec(name="reveal", target="masked_plugin:Reveal", summary="Reveals tokens.", family="masked")]
"""


def test_a_sampler_of_the_other_family_is_refused_before_any_work(trained, tmp_path):
    """One line that names both families and every sampler that fits; torch is not even imported, and nothing is written."""
    (tmp_path / "masked_plugin.py").write_text(MASKED)
    env = {**os.environ, "DIFFCLI_PLUGINS": "masked_plugin", "PYTHONDONTWRITEBYTECODE": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env.get("PYTHONPATH", "")])
    code = "import json, sys; from diffcli.cli.app import main; code = main(sys.argv[1:]); print(json.dumps([code, 'torch' in sys.modules]))"
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    for method in ("rf", "ddpm"):
        argv = [sys.executable, "-c", code, "sample", method, "--sampler", "reveal"]
        ran = subprocess.run(argv, cwd=trained, env=env, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout) == [2, False]
        line, fit = ran.stderr.strip().split("; use one of: ")
        assert line == f"error: reveal samples masked processes, but {method} is gaussian"
        assert set(fit.split(", ")) >= NAMED and "reveal" not in fit
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


TIMES = [("logit_normal",), ("uniform",), ("logit_normal", "--time-uniform", "0.5")]


@pytest.mark.slow
def test_every_law_of_training_times(cli):
    """At --lr 0 the weights stay: the training loss follows the law of its times, the held-out loss does not, to the bit."""
    trained, held_out = [], []
    for k, law in enumerate(TIMES):
        ran = cli("train", "rf", *TINY, "--lr", "0", "--min-lr", "0", "--time-sampling", *law, "--output", f"run{k}")
        assert ran.code == 0, ran.err
        assert f'time_sampling = "{law[0]}"' in Path(f"run{k}/recipe.toml").read_text()
        rows = [json.loads(line) for line in Path(f"run{k}/metrics.jsonl").read_text().splitlines()]
        trained.append(tuple(row["loss"] for row in rows))
        held_out.append(rows[-1]["held_out"])
    assert len(set(trained)) == len(TIMES)
    assert len(set(held_out)) == 1


def test_help_names_the_laws_of_training_times_and_another_is_refused(cli):
    told, refused = cli("train", "rf", "--help"), cli("train", "rf", "--time-sampling", "cosine", *TINY)
    assert refused.code == 2
    for law in ("uniform", "logit_normal"):
        assert law in told.out and law in refused.err
