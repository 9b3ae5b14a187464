"""A training is a pure function of its recipe: neither stops, nor kills, nor the split of a batch change it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from commands import TINY
from diffcli import recipe as recipes
from diffcli.engine import length
from diffcli.engine.job import prepare
from diffcli.engine.load import load
from diffcli.engine.sample import sample
from diffcli.engine.step import step_once
from diffcli.sections import TrainOptions
from runs import losses, same


def recipe(**train):
    return recipes.resolve(
        {
            "method": {"name": "rf", "cond": "label"},
            "model": {"name": "unet", "channels": 8, "multipliers": [1, 2]},
            "train": {"steps": 6, "batch_size": 8, **train},
        }
    )


@pytest.mark.parametrize("method", ["rf", "ddpm"])
def test_three_steps_and_three_more_are_six(cli, method):
    args = ["train", method, "--dropout", "0.1", *TINY, "--steps", "6", "--save-every", "3", "--keep", "5"]
    assert cli(*args, "--output", "whole").code == 0
    assert cli(*args, "--output", "parts").code == 0
    for step in Path("parts/checkpoints").glob("step-*6"):
        for file in step.iterdir():
            file.unlink()
        step.rmdir()
    ran = cli("train", method, "--resume", "parts")
    assert ran.code == 0, ran.err
    same(Path("whole"), Path("parts"))


def test_parts_of_a_batch_average_to_the_whole():
    """--accumulate changes the gradient by rounding alone: 1e-5 relative, the epsilon of float32 over a few hundred sums."""
    gradients = []
    for parts in (1, 4):
        job = prepare(recipe(accumulate=parts, clip_grad=0.0))
        step_once(job, 0, 6, 0)
        gradients.append([p.grad.clone() for p in job.assembly.method.parameters()])
    for whole, split in zip(*gradients, strict=True):
        assert torch.allclose(whole, split, rtol=1e-4, atol=1e-5 * float(whole.abs().max() + 1e-3))


def test_a_run_and_its_resolved_recipe_are_the_same_training(cli):
    assert cli("train", "rf", *TINY, "--output", "a").code == 0
    assert cli("train", "a/recipe.toml", "--output", "b").code == 0
    same(Path("a"), Path("b"))


def test_nan_stops_before_it_reaches_a_weight(cli, monkeypatch):
    monkeypatch.setenv("DIFFCLI_TEST", "1")
    monkeypatch.setenv("DIFFCLI_TEST_NAN_AT", "3")
    ran = cli("train", "rf", *TINY, "--save-every", "2", "--output", "run")
    assert ran.code == 7
    assert "step 3, nor are the gradients of denoiser.net.time.first.weight;" in ran.err
    assert sorted(p.name for p in Path("run/checkpoints").glob("step-*")) == ["step-00000002"]
    for tensor in load_file("run/checkpoints/step-00000002/model.safetensors").values():
        assert torch.isfinite(tensor).all()
    monkeypatch.delenv("DIFFCLI_TEST_NAN_AT")
    assert cli("train", "rf", "--resume", "run").code == 0
    assert len(losses(Path("run"))) == 4


def test_resume_refuses_another_recipe(cli):
    assert cli("train", "rf", *TINY, "--output", "run").code == 0
    ran = cli("train", "rf", "--resume", "run", "--lr", "0.5")
    assert ran.code == 4
    assert "lr" in ran.err


def test_a_run_without_a_checkpoint_starts_over_as_it_began(cli):
    """The weights it starts from are in its recipe, and `latest` is the newest run, checkpoint or not."""
    assert cli("train", "rf", *TINY, "--seed", "7", "--output", "first").code == 0
    assert cli("train", "rf", *TINY, "--init", "first", "--output", "runs/rf/20300101-000000").code == 0
    begun = Path("runs/rf/20300101-000001")
    shutil.copytree("runs/rf/20300101-000000", begun)
    shutil.rmtree(begun / "checkpoints")
    ran = cli("train", "rf", "--resume", "latest", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["run"] == str(begun)
    same(Path("runs/rf/20300101-000000"), begun)


def test_resume_refuses_other_data(cli):
    from PIL import Image

    for name in ("a", "b"):
        Path("data", name).mkdir(parents=True)
        for k in range(12):
            Image.new("RGB", (8, 8), (20 * k, 0, 0)).save(f"data/{name}/{k}.png")
    args = ["train", "rf", "--dataset", "folder", "--path", "data", "--size", "8", "--cond", "label", *TINY]
    assert cli(*args, "--output", "run").code == 0
    Image.new("RGB", (8, 8)).save("data/b/more.png")
    ran = cli("train", "rf", "--resume", "run")
    assert ran.code == 4
    assert "images" in ran.err


def test_a_table_shorter_than_a_preview(cli):
    ran = cli("train", "ddpm", "--timesteps", "20", *TINY, "--output", "run")
    assert ran.code == 0, ran.err
    assert Path("run/samples/final.png").is_file()


def test_a_started_run_is_not_started_again(cli):
    assert cli("train", "rf", *TINY, "--output", "run").code == 0
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    assert cli("train", "rf", *TINY, "--output", "run").code == 4
    assert {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()} == before


def start(folder: Path, *more: str) -> subprocess.Popen:
    env = {**os.environ, "DIFFCLI_TEST": "1", "OMP_NUM_THREADS": "1"}  # small tensors: two threads wait for each other
    argv = [sys.executable, "-m", "diffcli", "train", *more]
    return subprocess.Popen(argv, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


LONG = ["rf", *TINY, "--steps", "3000", "--save-every", "20", "--log-every", "3"]


def wait_for_checkpoint(run: Path, process: subprocess.Popen) -> None:
    """Until the first checkpoint is there."""
    deadline = time.monotonic() + 60
    while not list((run / "checkpoints").glob("step-*")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_so(tmp_path, number, code):
    process = start(tmp_path, *LONG, "--steps", "100000", "--output", "run")
    wait_for_checkpoint(tmp_path / "run", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "--resume" in err
    assert "Traceback" not in err
    rows = losses(tmp_path / "run")
    last = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    assert int(last.name[5:]) >= rows[-1][0]


@pytest.mark.slow
def test_killed_twenty_times_and_none_the_worse(tmp_path):
    """Kill -9 at random moments, with a polite stop now and then: the end is bit-equal to an uninterrupted run's."""
    whole = start(tmp_path, *LONG, "--output", "whole")
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    run, moments = tmp_path / "parts", random.Random(0)
    process = start(tmp_path, *LONG, "--output", "parts")
    wait_for_checkpoint(run, process)
    for kill in range(25):
        polite = kill % 5 == 4
        time.sleep(moments.uniform(0, 0.3))
        assert process.poll() is None, "it was done before it could be killed"
        process.send_signal(signal.SIGTERM if polite else signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == (143 if polite else -signal.SIGKILL)
        seen = (run / "metrics.jsonl").stat().st_size
        process = start(tmp_path, "rf", "--resume", "parts")
        if kill % 5 == 0:
            continue  # the next kill hits it while it starts
        while process.poll() is None and (run / "metrics.jsonl").stat().st_size == seen:
            time.sleep(0.01)  # the next one while it trains
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    same(tmp_path / "whole", run)


def test_a_flipped_byte_costs_one_checkpoint(cli):
    assert cli("train", "rf", *TINY, "--save-every", "2", "--output", "run").code == 0
    newest = Path("run/checkpoints/step-00000004/ema.safetensors")
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    ran = cli("sample", "run", "--samples", "2", "--steps", "2", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["step"] == 2
    assert "step-00000004" in ran.err
    whole = cli("train", "rf", *TINY, "--save-every", "2", "--output", "whole")
    assert whole.code == 0
    assert cli("train", "rf", "--resume", "run").code == 0
    same(Path("whole"), Path("run"))


def test_image_i_depends_on_seed_and_i_alone(trained):
    """The noise is the same to the bit in any batch; images agree to rounding (1e-4 of their range)."""
    model = load(trained / "runs" / "rf")
    from diffcli.engine.load import overlay

    drawn = []
    for batch in (1, 4, 16):
        asked = overlay(model.recipe, None, {"samples": 16, "steps": 6, "batch_size": batch, "seed": 3})
        drawn.append(sample(model, asked.sample, asked.parts["sampler"]))
    for other in drawn[1:]:
        assert torch.equal(drawn[0].start, other.start)
        assert torch.allclose(drawn[0].x, other.x, atol=1e-4)
    again = sample(model, asked.sample, asked.parts["sampler"])
    assert torch.equal(again.x, drawn[-1].x)


def test_learning_rate_rises_then_falls_to_its_end():
    o = TrainOptions(lr=1.0, min_lr=0.01)
    rates = [length.learning_rate(o, k, 100, 10) for k in range(100)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert length.learning_rate(o, 100, 100, 10) == pytest.approx(0.01)
    assert rates[55] == pytest.approx(0.01 + 0.99 / 2, abs=1e-12)


@pytest.mark.slow
def test_a_budget_becomes_steps_in_the_recipe(cli):
    began = time.monotonic()
    ran = cli("train", "rf", "--budget", "3s", "--batch-size", "8", "--channels", "8", "--output", "run")
    assert ran.code == 0, ran.err
    tables = recipes.read(Path("run/recipe.toml"))
    assert tables["train"]["steps"] > 10
    assert "budget" not in tables["train"]
    assert time.monotonic() - began < 30


def test_epochs_are_passes_over_the_data(cli):
    ran = cli("train", "rf", "--epochs", "1", "--batch-size", "100", "--channels", "8", "--output", "run")
    assert ran.code == 0, ran.err
    assert recipes.read(Path("run/recipe.toml"))["train"]["steps"] == 14  # 1438 images
