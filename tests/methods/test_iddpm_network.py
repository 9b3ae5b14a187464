"""The network of Improved DDPM: its size, its shapes, and how it begins."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffcli.core.random import Blocks, Rows
from diffcli.core.space import Pixels
from diffcli.errors import UsageError
from diffcli.nn.blocks import Norm
from diffcli.testing.network import awake
from diffcli_iddpm import BigGANOptions
from diffcli_iddpm.network import AdaGN, BigGANUNet, SelfAttention
from small_iddpm import TINY, batch, build

PAPER = {"channels": 128, "multipliers": (1, 2, 2, 2), "attention": (0, 1, 1, 0), "heads": 4, "dropout": 0.1}


def network(shape=(3, 32, 32), classes=10, **options):
    space = Pixels(shape, classes)
    return BigGANUNet(BigGANOptions(**options), space, inputs=shape[0], outputs=2 * shape[0], classes=classes)


def count(*parts):
    return sum(p.numel() for part in parts for p in part.parameters())


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({**PAPER, "blocks": 2}, 47_357_958),
        ({**PAPER, "blocks": 3}, 63_024_262),
        ({**PAPER, "blocks": 2, "skips": "level"}, 41_290_758),
        (TINY, 905_062),
    ],
)
def test_it_has_the_published_size(options, want):
    with torch.device("meta"):
        assert count(network(**options)) == want


def test_each_part_has_the_published_size():
    with torch.device("meta"):
        net = network(**PAPER, blocks=2)
    assert [count(part) for part in (net.time, net.label, net.stem)] == [328_704, 5_632, 3_584]
    assert [count(level) for level in net.down] == [1_263_232, 4_135_168, 4_528_384, 3_410_944]
    assert count(net.middle) == 3_674_624 and count(net.norm, net.head) == 7_174
    assert [count(level) for level in net.up] == [8_657_920, 9_448_960, 8_989_952, 2_903_680]


@pytest.mark.parametrize("skips", ["block", "level"])
@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 4, 4), (1, 7, 9)])
def test_any_size_goes_in_and_out(shape, skips):
    net = awake(network(shape, channels=8, skips=skips)).eval()
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    out = net(x, torch.tensor([1.0, 900.0]), {"label": torch.tensor([3, -1])})
    assert out.shape == (2, 2 * shape[0], *shape[1:])
    out.square().sum().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in without if "qkv.bias" not in name]


def test_the_size_of_the_image_decides_the_levels():
    fitted = {side: BigGANOptions().fit((3, side, side)) for side in (4, 8, 16, 28, 32)}
    assert {side: (o.multipliers, o.attention) for side, o in fitted.items()} == {
        4: ((1,), (0,)),
        8: ((1, 2), (0, 0)),
        16: ((1, 2, 2), (0, 1, 0)),
        28: ((1, 2, 2, 2), (0, 1, 1, 0)),
        32: ((1, 2, 2, 2), (0, 1, 1, 0)),
    }
    assert BigGANOptions(multipliers=(1, 2)).fit((3, 32, 32)).attention == (0, 0)
    with pytest.raises(UsageError, match=r"--attention 0,1 does not go with --multipliers 1,2,2"):
        BigGANOptions(attention=(0, 1)).fit((3, 16, 16))


def test_at_the_start_it_says_nothing():
    """Zero-init: F and v are 0 exactly, so L_simple is E eps^2 = 1, here of 64 x 192 draws: 3 % is 2.4 standard errors."""
    method, data = build().train(), batch(64)
    t = torch.full((64,), 0.5, dtype=torch.float64)
    f, mix = method.denoiser.raw(data.x, t, method.cond(data, Blocks(0, data.index, 64)))
    assert not f.any() and not mix.any() and f.shape == mix.shape == data.x.shape
    mse = method.loss(data, Blocks(0, data.index, 64))["mse"]
    assert float(mse.detach()) == pytest.approx(1, abs=0.03)
    x = torch.randn(2, 16, 4, 4)
    assert (SelfAttention(16, 4)(x) - x).abs().max() < 1e-7
    norm = AdaGN(16, 32)
    nn.init.zeros_(norm.linear.weight)
    assert (norm(x, torch.randn(2, 32)) - Norm(16)(x)).abs().max() < 1e-6
    assert 0.015 < float(network((3, 8, 8), channels=32).label.weight.std().detach()) < 0.025


def test_without_classes_only_the_null_row_is_there():
    method = build(cond="none").eval()
    assert len(method.denoiser.net.label.weight) == 1 and not method.conditional
    assert method.cond(batch(), Rows(0, torch.arange(16), 16)) == {}
    assert torch.isfinite(method.loss(batch(), Rows(0, torch.arange(16), 16))["loss"])
