from __future__ import annotations

import torch
from torch import nn

from diffcli.engine.ema import EMA


def averaged(decay: float, updates: int, warm: bool) -> float:
    source = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(source.weight)
    ema = EMA(source, decay)
    nn.init.ones_(source.weight)
    for n in range(updates):
        ema.update(source, n if warm else 10**9)
    return float(ema.model.weight.detach())


def test_constant_decay_forgets_geometrically():
    assert abs(averaged(0.9, 20, warm=False) - (1 - 0.9**20)) < 1e-6


def test_warm_up_forgets_the_initial_weights():
    assert 1 - averaged(0.995, 100, warm=True) < 1e-6


def test_buffers_are_copied():
    source = nn.BatchNorm1d(2)
    ema = EMA(source, 0.99)
    source.running_mean.fill_(3.0)
    ema.update(source, 0)
    assert torch.equal(ema.model.running_mean, source.running_mean)
