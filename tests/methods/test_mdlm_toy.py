"""Four pictures of 16 pixels are learned from copies of which half of the pixels are missing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from diffcli.core.method import Batch
from diffcli.core.random import Blocks, Rows
from diffcli.core.space import Tokens
from diffcli.samplers.grid import grid
from diffcli.samplers.masked import FirstHitting
from diffcli.schedules.masked import LogLinear
from diffcli_mdlm import MDLMOptions
from diffcli_mdlm.method import MDLM
from diffcli_vision.datasets import Images
from masked_laws import standard_error

RING, CROSS, CHECKS, BLOCKS = "1111100110011111", "1001011001101001", "1010010110100101", "1100110000110011"
PROTOTYPES = torch.tensor([[int(bit) for bit in bits] for bits in (RING, CROSS, CHECKS, BLOCKS)])
SPACE = Tokens((1, 4, 4), 0)
N, STEPS, SIZE, HELD_OUT, DRAWN = 4000, 1500, 128, 20_000, 2000


class MLP(nn.Module):
    """Values and mask through two hidden layers."""

    def __init__(self, width: int = 128):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 16)
        )

    def forward(self, x_t: Tensor, c_noise: Tensor, cond: object) -> Tensor:
        masked = x_t == 2
        one = self.net(torch.cat([torch.where(masked, 0.0, x_t * 2.0 - 1), masked.float()], 1))
        return torch.stack([torch.zeros_like(one), one], -1)


def trained(**options) -> MDLM:
    torch.manual_seed(0)
    method = MDLM(MDLMOptions(**options), SPACE, model=lambda **_: MLP(), process=LogLinear(2)).train()
    images = (PROTOTYPES[torch.arange(N) % 4] * 255).byte().reshape(N, 1, 4, 4)
    data = method.data(Images(images, None, name="toy", split="toy/train"))
    seen = data.batch(torch.arange(N), torch.arange(N), SPACE).x  # all that is ever seen: it is the same in every epoch
    optimizer = torch.optim.AdamW(method.parameters(), 2e-3, weight_decay=0.0)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / STEPS)
        index = torch.arange(step * SIZE, (step + 1) * SIZE)
        loss = method.loss(Batch(index, seen[data.items(0, index)]), Blocks(0, index, SIZE))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return method.eval()


@torch.no_grad()
def nats(method: MDLM) -> Tensor:
    """(HELD_OUT,) terms of the bound on whole pictures, at the same times and masks for every model."""
    rng = Rows(0, torch.arange(HELD_OUT), HELD_OUT)
    return method.bound(PROTOTYPES[torch.arange(HELD_OUT) % 4], rng.strata("time"), {}, rng)[0]


@torch.no_grad()
def drawn(method: MDLM) -> Tensor:
    """(DRAWN,) which prototype each sample is, 4 where it is none."""
    rng = Rows(1, torch.arange(DRAWN), DRAWN)
    x, times = method.begin((16,), Batch(rng.index), rng), grid(LogLinear(2), 16, "uniform")
    *_, (_, x) = FirstHitting().trajectory(method.denoiser, x, times, cond={}, rng=rng)
    same = (x[:, None] == PROTOTYPES).all(-1)
    return torch.where(same.any(1), same.int().argmax(1), 4)


@pytest.mark.slow
def test_pictures_are_learned_from_halves_of_them():
    """The bound is within 10 % of that after training on whole ones, and 95 % of the samples are one of the four.

    Which of the four is even: each share is within 4 standard errors and a tenth of 1/4.
    """
    whole, half = trained(), trained(missing=0.5, consistency_weight=1.0)
    bounds = [nats(method) for method in (whole, half)]
    assert float(bounds[0].mean()) == pytest.approx(math.log(4), abs=3 * standard_error(bounds[0]) + 0.05)
    assert float(bounds[1].mean() / bounds[0].mean()) == pytest.approx(1, abs=0.1)
    for method in (whole, half):
        found = drawn(method)
        assert float((found < 4).double().mean()) >= 0.95
        assert (found.bincount(minlength=5)[:4] / DRAWN - 0.25).abs().max() < 4 * math.sqrt(0.1875 / DRAWN) + 0.025
