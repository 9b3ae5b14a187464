"""An exponential moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from diffcli.engine.parallel import local
from diffcli.engine.profiles import decay, gamma_of
from diffcli.errors import UsageError
from diffcli.sections import TrainOptions


class EMA:
    """d_n = min(decay, (1 + n)/(10 + n)) after n updates, so that the initial weights are soon forgotten; buffers are copied."""

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    def kept(self, n: int) -> float:
        """d_n: what stays of the average in the update after n others."""
        return min(self.decay, (1 + n) / (10 + n))

    @torch.no_grad()
    def update(self, model: nn.Module, n: int) -> None:
        """Average in the weights of `model`; n: updates so far."""
        mine, theirs = ([local(p) for p in m.parameters()] for m in (self.model, model))
        torch._foreach_lerp_(mine, theirs, 1 - self.kept(n))
        for kept, now in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(now)


class PowerEMA(EMA):
    """The power-function average of a relative width (Karras et al. 2024, Eq. 2): see engine.profiles."""

    def __init__(self, model: nn.Module, width: float):
        super().__init__(model, 0.0)
        self.width, self.gamma = width, gamma_of(width)

    def kept(self, n: int) -> float:
        return decay(self.gamma, n)


def power(model: nn.Module, o: TrainOptions) -> dict[str, PowerEMA]:
    """The averages that snapshots are made of, by the names of their tensors; none where no snapshots are asked for."""
    if not int(o.ema_snapshots.removesuffix("ep")):
        return {}
    if len(set(o.ema_profiles)) < len(o.ema_profiles):
        raise UsageError("--ema-profiles names a width twice; keep one")
    return {f"profile_{k}": PowerEMA(model, width) for k, width in enumerate(o.ema_profiles, 1)}
