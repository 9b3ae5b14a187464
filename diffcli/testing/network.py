"""What the laws of networks share: weights away from their start, where no layer is silent, and rows that must not mix."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def awake(module: nn.Module) -> nn.Module:
    """The module with every parameter that begins at zero drawn anew: behind a silent layer nothing can be seen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            if p.is_floating_point() and not bool(p.any()):
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return module


def without_dropout(module: nn.Module) -> nn.Module:
    """The module in training mode with its dropout layers switched off, the one part that may draw from a global stream."""
    module.train()
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.eval()
    return module


def silent(named: Iterable[tuple[str, nn.Parameter]]) -> list[str]:
    """The trainable parameters that have no gradient."""
    return [name for name, p in named if p.requires_grad and (p.grad is None or not bool(p.grad.any()))]


def few(names: list[str], most: int = 3) -> str:
    """The first few names, and a mark where there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
