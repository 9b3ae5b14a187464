"""An exponential moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from diffcli.engine.parallel import local


class EMA:
    """d_n = min(decay, (1 + n)/(10 + n)) after n updates, so that the initial weights are soon forgotten; buffers are copied."""

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, n: int) -> None:
        """Average in the weights of `model`; n: updates so far."""
        decay = min(self.decay, (1 + n) / (10 + n))
        mine, theirs = ([local(p) for p in m.parameters()] for m in (self.model, model))
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for kept, now in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(now)
