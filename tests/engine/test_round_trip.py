"""Train, export, load in a fresh process by path or from the Hub's cache: the same bits come back."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch

from commands import DIGITS, TINY
from diffcli import load
from model_folders import publish

FRESH = """
import hashlib, json, sys, torch
torch.set_num_threads(1)
import diffcli
x = torch.rand(4, *json.loads(sys.argv[1]), generator=torch.Generator().manual_seed(0)) * 2 - 1
for place in sys.argv[2:]:
    y = diffcli.load(place).reconstruct(x)
    print(tuple(y.shape), hashlib.sha256(y.numpy().tobytes()).hexdigest())
"""
# name: (flags of the training, size of a picture)
RUNS = {
    "vae": ([*DIGITS, *TINY], (1, 8, 8)),
    "mdiffae": (["--steps", "2", "--batch-size", "4", "--width", "16", "--encoder-depth", "1", "--decoder-depth", "1",
                 "--sample-every", "0", "--save-every", "0"], (3, 13, 18)),
}  # fmt: skip


def pictures(size: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(4, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def exported(cli, method: str) -> torch.Tensor:
    """A run of a few steps as `run`, and as the folder `model`; what the run makes of the pictures."""
    flags, size = RUNS[method]
    for argv in (("train", method, *flags, "--output", "run"), ("export", "run", "model")):
        assert (ran := cli(*argv)).code == 0, ran.err
    return load("run").reconstruct(pictures(size))


@pytest.mark.parametrize("method", RUNS)
def test_an_exported_model_reconstructs_the_same_bits(cli, method):
    y = exported(cli, method)
    assert y.shape[1:] == RUNS[method][1]
    assert torch.equal(load("model").reconstruct(pictures(RUNS[method][1])), y)


@pytest.mark.slow
@pytest.mark.parametrize("method", RUNS)
def test_in_a_fresh_process_too_by_path_and_by_its_name_on_the_hub(cli, tmp_path, method):
    y = exported(cli, method)
    publish(tmp_path / "home" / "hub", tmp_path / "model")
    wanted = f"{tuple(y.shape)} {hashlib.sha256(y.numpy().tobytes()).hexdigest()}"
    surroundings = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    surroundings.pop("HF_HUB_CACHE", None)
    argv = [sys.executable, "-c", FRESH, json.dumps(RUNS[method][1]), "model", "hub:me/it"]
    told = subprocess.run(argv, env=surroundings, capture_output=True, text=True, check=False)
    assert told.stdout.splitlines() == [wanted, wanted], told.stderr
    assert "weights with sha256" in told.stderr
