"""What a command does is a Python call too."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import diffcli
from diffcli.errors import RunError, UsageError

TABLES = {
    "method": {"name": "rf", "cond": "label"},
    "model": {"name": "unet", "channels": 8},
    "train": {"steps": 2, "batch_size": 8},
}


def test_importing_diffcli_imports_no_torch():
    code = "import sys, diffcli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_train_then_load_then_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = diffcli.train(TABLES, "here")
    for where in (run, "here"):
        model = diffcli.load(where)
        x = model.sample(3, label=7, seed=1, sampler="heun", steps=2)
        assert x.shape == (3, 1, 8, 8)
        assert x.abs().max() <= 1
    more = model.sample(5, label="7", seed=1, sampler={"name": "heun"}, steps=2)
    assert torch.allclose(more[:3], x, atol=1e-4)
    with pytest.raises(UsageError, match="guidance_scal"):
        model.sample(1, guidance_scal=2.0)
    with pytest.raises(RunError, match="diffcli train ddpm"):
        diffcli.load("ddpm")


def test_an_exported_model_draws_the_same(tmp_path, cli):
    run = diffcli.train(TABLES, tmp_path / "run")
    ran = cli("export", run, tmp_path / "model")
    assert ran.code == 0, ran.err
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    a, b = (diffcli.load(tmp_path / name).sample(2, steps=2) for name in ("run", "model"))
    assert torch.equal(a, b)
    assert cli("export", run, tmp_path / "model").code == 2
    assert cli("sample", tmp_path / "model", "--samples", "2", "--steps", "2").code == 0
