"""A run outlives its data: it is drawn by the names of its classes, and measured where the images are now."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import TINY, Ran

pytestmark = pytest.mark.slow


@pytest.fixture
def run(cli) -> Path:
    """A conditional rf, trained on a folder of cats and dogs that was then moved from `old` to `new`."""
    for k in range(24):
        path = Path("old", ("cat", "dog")[k % 2], f"{k:02d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    data = ["--dataset", "folder", "--path", "old", "--size", "8"]
    ran = cli("train", "rf", "--cond", "label", *data, *TINY, "--output", "run")
    assert ran.code == 0, ran.err
    Path("old").rename("new")
    return Path("run")


def measure(cli, *more: str) -> Ran:
    return cli("eval", "run", "--metric", "loss,fd", "--samples", "3", "--steps", "1", *more)


def test_it_is_measured_where_its_data_are(run, cli):
    ran = measure(cli)
    assert ran.code == 3 and "old" in ran.err, ran.err
    ran = measure(cli, "--path", "new")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-1] == str(run / "evals.jsonl")
    loss, fd = map(json.loads, (run / "evals.jsonl").read_text().splitlines())
    assert "floor" in ran.out.splitlines()[0] and f"{fd['floor']:.4g}" in ran.out
    assert "floor" not in loss
    assert f"warning: fd[pixels] of run: {fd['warning']}\n" in ran.err
    assert measure(cli, "--path", "new", "--json").json["records"][0]["value"] == loss["value"]


def test_classes_have_names(run, cli):
    ran = cli("sample", "run", "--label", "DOG", "--samples", "2", "--steps", "1", "--output", "dogs")
    assert ran.code == 0, ran.err
    assert sorted(p.name for p in Path("dogs/images").iterdir()) == ["000-class1.png", "001-class1.png"]
    ran = cli("sample", "run", "--label", "dgo", "--samples", "2", "--steps", "1")
    assert ran.code == 2
    assert ran.err.endswith("--label dgo is no class of folder: there are 2, 0 to 1; did you mean dog?\n")
