"""Tensors that a writer could get wrong: tied, strided, empty, of every type."""

from __future__ import annotations

import torch

from diffcli.engine.weights import TYPES


def odd() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0).reshape(2, 3, 4)
    group = {
        "tied": base,
        "again": base,
        "view": base[:, 1:, ::2],
        "transposed": base.permute(2, 0, 1),
        "expanded": torch.ones(1, 3).expand(4, 3),
        "nothing": torch.empty(0, 3),
        "every other": torch.arange(6.0)[::2],
        'é " \\ \n \u2028': torch.tensor(1.5),
        "grad": torch.ones(2, requires_grad=True),
        "last": torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    return group | {f"{dtype}{n}": torch.ones(n).to(dtype) for dtype in TYPES for n in (1, 3)}
