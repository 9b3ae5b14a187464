"""Group normalization with the channels innermost is the same function, and so is a network in that layout."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diffcli.core.space import Pixels
from diffcli.nn import norm as made
from diffcli.nn.blocks import Norm
from diffcli_vision import UNetOptions
from diffcli_vision.unet import UNet

INNERMOST = torch.channels_last


def maps(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Of a mean that is far from 0, where sums of squares would lose what differences keep."""
    x = 3 + torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x.to(dtype).contiguous(memory_format=INNERMOST).requires_grad_()


def awake(norm: Norm) -> Norm:
    if norm.affine:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    return norm.double()


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("room", [1, 200, 2**18])
def test_it_is_torchs_group_norm_and_its_gradients(silu, affine, room, monkeypatch):
    """In float64, whatever the batch is cut into: rounding alone is between them, some 1e-16 times sums of 200 terms."""
    monkeypatch.setattr(made, "ROOM", room)
    torch.manual_seed(0)
    norm, x = awake(Norm(12, affine)), maps(5, 12, 4, 6)
    assert made.channels_innermost(x)
    ours = made.group_norm(x, norm, silu)
    theirs = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    theirs = F.silu(theirs) if silu else theirs
    assert ours.is_contiguous(memory_format=INNERMOST)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    wanted, given = [x, *norm.parameters()], torch.randn(ours.shape, dtype=torch.float64)
    for mine, its in zip(
        torch.autograd.grad(ours, wanted, given), torch.autograd.grad(theirs, wanted, given), strict=True
    ):
        assert mine.shape == its.shape and torch.allclose(mine, its, rtol=0, atol=1e-11)


def test_sums_of_bfloat16_are_float32():
    """The answer is the exact one, rounded once: off by half of 2^-7 of itself, and by the 1e-6 or so of float32's sums."""
    norm, x = Norm(8), maps(2, 8, 32, 32, dtype=torch.bfloat16)
    y = made.group_norm(x, norm, silu=False)
    wide = x.detach().double().requires_grad_()
    exact = F.group_norm(wide, norm.num_groups, eps=norm.eps)
    assert y.dtype == torch.bfloat16
    assert ((y.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all()
    given = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    (ours,) = torch.autograd.grad(y, x, given)
    (theirs,) = torch.autograd.grad(exact, wide, given.double())
    assert ours.dtype == torch.bfloat16
    assert ((ours.double() - theirs).abs() <= 2**-8 * theirs.abs() + 1e-5).all()


def test_other_layouts_and_devices_are_left_to_torch():
    """A map of one channel or one pixel lies both ways; there torch's own is as fast."""
    x = torch.randn(2, 8, 4, 4)
    assert not made.channels_innermost(x)
    assert not made.channels_innermost(torch.randn(2, 8, 1, 1).contiguous(memory_format=INNERMOST))
    assert not made.channels_innermost(x.to("meta").contiguous(memory_format=INNERMOST))
    assert not made.channels_innermost(x.flatten(2))
    norm = Norm(8)
    assert torch.equal(norm(x), F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps))
    assert torch.equal(norm.activated(x), F.silu(norm(x)))


def test_the_network_is_the_same_function_in_both_layouts():
    """In float64: predictions and the gradients of every weight, to rounding."""
    torch.manual_seed(0)
    config = UNetOptions(channels=8, multipliers=(1, 2), attention=(0, 1), blocks=2)
    net = UNet(config, Pixels((1, 8, 8), 0), inputs=1, outputs=1).double()
    x, t = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.linspace(1, 900, 3, dtype=torch.float64)
    plain = net(x, t, {})
    before = torch.autograd.grad(plain.square().sum(), list(net.parameters()))
    seen = []
    watch = net.up[0][0].residual.conv1.register_forward_hook(
        lambda part, inputs, output: seen.append(made.channels_innermost(inputs[0]))
    )
    net.to(memory_format=INNERMOST)
    other = net(x, t, {})
    after = torch.autograd.grad(other.square().sum(), list(net.parameters()))
    watch.remove()
    assert torch.allclose(plain, other, rtol=0, atol=1e-11)
    for a, b in zip(before, after, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)
    assert seen == [True]
