"""What the README says, runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from diffcli import recipe as recipes
from diffcli.registry import OWN, registry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.compile(r"(?:<!-- (?P<mark>[^>]*) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)
BLOCKS = [m.groupdict() for m in FENCED.finditer(README)]
SMALL = {
    "train": ["--steps", "2", "--batch-size", "8", "--channels", "8", "--dataset", "digits"],
    "sample": ["--samples", "4", "--steps", "2"],
    "eval": ["--steps", "2"],
    "bench": ["--samplers", "ddim"],
}
OWN_SMALL = {  # of methods with networks and grids of their own
    ("train", "mae-noprop"): ["--steps", "2", "--batch-size", "8", "--width", "16", "--dataset", "digits"],
    ("eval", "mae-noprop"): ["--steps", "4", "--reference", "40"],
    ("train", "mdiffae"): ["--steps", "2", "--batch-size", "8", "--width", "16", "--dataset", "digits"],
}


def lines() -> list[list[str]]:
    """The commands of the plain blocks."""
    plain = [b["text"] for b in BLOCKS if b["kind"] == "sh" and not b["mark"]]
    return [shlex.split(line) for text in plain for line in text.splitlines()]


@pytest.mark.slow
def test_the_commands_run_in_their_order(cli, monkeypatch):
    assert len(lines()) >= 6
    assert (
        cli("train", "rf", "--cond", "label", "--output", "runs/rf/first", *SMALL["train"]).code == 0
    )  # of the first block
    Path("pictures").mkdir()
    for k in range(4):
        Image.new("L", (20 + k, 17), 60 * k).save(f"pictures/{k}.png")
    Path("photos").mkdir()
    for k in range(20):
        Image.new("RGB", (9 + k, 9), (9 * k, 0, 0)).save(f"photos/{k}.jpg")
    for program, *argv in lines():
        assert program == "diffcli"
        small = OWN_SMALL.get(tuple(argv[:2]), SMALL.get(argv[0], []))
        if "--recipe" in argv:
            small = [*small, "--multipliers", "1,2", "--attention", "0,1"]
        if "guidance" in argv[-1]:
            small = [*small, "--scales", "0,1,3"]
        if argv[0] == "eval":
            small = [*small, *(["--per-class", "2"] if "--per-class" in argv else ["--samples", "8", "--images", "8"])]
        ran = cli(*argv, *small)
        assert ran.code == 0, (argv, ran.err)
        assert ran.out


@pytest.mark.slow
def test_the_commands_for_several_devices_run(tmp_path):
    """As they stand, in processes of their own, small."""
    (block,) = (b["text"] for b in BLOCKS if b["mark"] == "devices")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for line in block.splitlines():
        program, *argv = shlex.split(line)
        assert program == "diffcli"
        small = [*SMALL[argv[0]], *(["--samples", "8", "--images", "8"] if argv[0] == "eval" else [])]
        command = [sys.executable, "-m", "diffcli", *argv, *small]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.slow
def test_the_python_runs(tmp_path):
    (code,) = (b["text"] for b in BLOCKS if b["kind"] == "python" and not b["mark"])
    code = code.replace('"steps": 200', '"steps": 2') + "\nassert x.shape == (16, 1, 8, 8)\n"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_plugin_trains(tmp_path):
    for block in BLOCKS:
        if block["mark"] and block["mark"].startswith("plugin: "):
            path = tmp_path / block["mark"].removeprefix("plugin: ")
            path.parent.mkdir(exist_ok=True)
            path.write_text(block["text"], encoding="utf-8")
    env = {**os.environ, "DIFFCLI_PLUGINS": "minsnr", "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "diffcli", "train", "min-snr", "--gamma", "3", *SMALL["train"]]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    code = "".join(p.read_text(encoding="utf-8") for p in (tmp_path / "minsnr").glob("*.py"))
    assert len([line for line in code.splitlines() if line.strip()]) <= 40


@pytest.mark.parametrize("kind", ["method", "sampler", "schedule", "dataset", "extractor", "logger"])
def test_it_names_what_there_is(kind):
    for name in registry().specs(kind):
        assert f"`{name}`" in README or registry().origin(kind, name).distribution != OWN, name


def test_it_names_the_recipes():
    for name in recipes.shipped():
        assert f"`{name}`" in README, name


def test_pictures_are_there():
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
