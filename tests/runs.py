"""Two runs side by side: whether they are one training."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

EXACT = ("loss", "grad_norm", "lr", "held_out")


def weights(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    return {name: load_file(last / f"{name}.safetensors") for name in ("model", "ema", "optim")}


def losses(run: Path) -> list[tuple]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], *(row.get(name) for name in EXACT)) for row in rows]


def same(a: Path, b: Path) -> None:
    """Weights, averages, optimizer and logged losses are equal to the last bit."""
    for name, tensors in weights(a).items():
        others = weights(b)[name]
        assert tensors.keys() == others.keys()
        for key, value in tensors.items():
            assert torch.equal(value, others[key]), (name, key)
    assert losses(a) == losses(b)


def forget(run: Path, step: int) -> None:
    """As if a run had been stopped before this checkpoint."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
