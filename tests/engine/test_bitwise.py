"""A training that was stopped and resumed ends with the bits of one that was not, whatever it is trained with."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from diffcli import recipe as recipes
from diffcli.engine import checkpoint
from diffcli.engine import train as engine
from diffcli.engine.load import load
from diffcli.engine.signals import Signals
from diffcli.errors import Stopped

STEPS, STOP = 6, 3
PLAIN = {"steps": STEPS, "batch_size": 16, "save_every": "2", "log_every": 2, "precision": "fp32"}
WAYS = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "fp64": {"precision": "fp64"},
    "in parts": {"accumulate": 3},
    "recomputed": {"checkpointing": True},
    "channels last": {"channels_last": True},
    "saved beside": {"async_save": True},
    "with profiles": {"ema_snapshots": "2"},
    "each of them": {"precision": "fp16", "checkpointing": True, "async_save": True, "ema_snapshots": "2", "accumulate": 2},
}  # fmt: skip


class Deaf(Signals):
    """Hears a SIGTERM at the end of one step."""

    def __init__(self, patience: float = 0.0) -> None:
        super().__init__(patience)
        self.asked = 0

    @property
    def received(self) -> int | None:  # type: ignore[override]
        self.asked += 1
        return signal.SIGTERM if self.asked == STOP else None

    @received.setter
    def received(self, value: int | None) -> None:
        """Nothing else is heard."""


def recipe(train: dict[str, object]) -> recipes.Recipe:
    model = {"channels": 8, "multipliers": [1, 2], "dropout": 0.1}
    return recipes.resolve({"method": {"name": "rf"}, "model": model, "train": {**PLAIN, **train}})


def left(run: Path) -> dict[str, object]:
    """Every tensor of the last checkpoint, its scale, and the losses."""
    stored = checkpoint.latest(run, warn=pytest.fail)
    tensors = {f"{name}:{key}": t for name in stored.files if name.endswith("safetensors")
               for key, t in stored.tensors(name.removesuffix(".safetensors")).items()}  # fmt: skip
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "images_per_second", "memory")
    return tensors | {
        "rows": [{key: value for key, value in row.items() if key not in clock} for row in rows],
        "scaler": stored.state.get("scaler"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_resume_is_exact_to_the_bit(tmp_path, monkeypatch, way):
    """Stopped between two lines of the metrics, with dropout inside; numbers, not tolerances."""
    asked = recipe(WAYS[way])
    whole = engine.train(asked, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(engine, "Signals", Deaf)
        with pytest.raises(Stopped):
            engine.train(asked, tmp_path / "part")
    assert checkpoint.latest(tmp_path / "part").step == STOP
    part = engine.train(recipes.resolve(recipes.read(tmp_path / "part" / "recipe.toml")), resume=tmp_path / "part")
    assert load(part).sample(2, steps=2).shape == (2, 1, 8, 8)  # whatever it was trained in
    one, two = left(whole), left(part)
    assert one.keys() == two.keys()
    for name, value in one.items():
        same = torch.equal(value, two[name]) if isinstance(value, torch.Tensor) else value == two[name]
        assert same, name
