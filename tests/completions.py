"""A small mae-noprop and images for it."""

from __future__ import annotations

from functools import partial

import torch

from diffcli.core.method import Batch
from diffcli.core.random import Blocks, Rows
from diffcli.core.space import Pixels
from diffcli.schedules.gaussian import EDM
from diffcli_mae_noprop import MAEDecodersOptions, MAENoPropOptions
from diffcli_mae_noprop.method import MAENoProp
from diffcli_mae_noprop.network import MAEDecoders

TINY = {"patch": 4, "width": 32, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
SHAPE, ROWS = (3, 16, 16), 4


def mae(shape=SHAPE, *, model=TINY, process=None, **method) -> MAENoProp:
    """A small one, from a fixed seed, of 3 decoders."""
    space, options = Pixels(shape, 0), MAEDecodersOptions(**model).fit(shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MAENoProp(
            MAENoPropOptions(**{"decoders": 3, **method}),
            space,
            model=partial(MAEDecoders, options, space),
            process=process or EDM(),
        )


def images(n: int = ROWS, shape=SHAPE, seed: int = 0) -> torch.Tensor:
    """(n, C, H, W) in [-1, 1]."""
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def batch(x: torch.Tensor) -> Batch:
    return Batch(torch.arange(len(x)), x)


def loss(method: MAENoProp, x: torch.Tensor, step: int = 0) -> dict[str, torch.Tensor]:
    """Of a training step."""
    index = torch.arange(step * len(x), (step + 1) * len(x))
    return method.loss(Batch(index, x), Blocks(0, index, len(x)))


def rows(n: int = ROWS, seed: int = 0) -> Rows:
    return Rows(seed, torch.arange(n), n)
