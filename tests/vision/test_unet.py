"""Laws of the U-Net: its size, its shapes, and what its parts compute."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffcli.core.space import Pixels
from diffcli.errors import UsageError
from diffcli.nn.attention import attention
from diffcli.nn.blocks import Norm, SelfAttention, Upsample, crop, pad
from diffcli.nn.embedding import sinusoid
from diffcli_vision import UNetOptions
from diffcli_vision.unet import UNet


def build(shape: tuple[int, ...], *, classes: int = 0, device: str = "cpu", **options) -> UNet:
    torch.manual_seed(0)
    with torch.device(device):
        config = UNetOptions(**options)
        return UNet(config, Pixels(shape, classes), inputs=shape[0], outputs=shape[0], classes=classes)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        ((1, 28, 28), {}, 2_711_073),
        ((1, 28, 28), {"classes": 10}, 2_712_481),
        ((1, 28, 28), {"channels": 64}, 10_818_625),
        ((3, 32, 32), {"channels": 64}, 10_820_931),
        ((2, 4, 4), {"channels": 64, "multipliers": (1, 2), "attention": (0, 1)}, 2_794_434),
        ((1, 28, 28), {"multipliers": (1, 2, 4, 4), "blocks": 2, "attention": (0, 0, 1, 1)}, 6_668_865),
    ],
)
def test_number_of_parameters(shape, options, expected):
    assert count(build(shape, device="meta", **options)) == expected


def test_number_of_parameters_of_each_part():
    net = build((1, 28, 28), device="meta")
    assert count(net.time) == 20_736
    assert count(net.stem) == 320
    assert [count(level) for level in net.down] == [32_000, 102_912, 240_416, 216_288]
    assert count(net.middle) == 395_136
    assert [count(level) for level in net.up] == [718_944, 613_280, 292_160, 78_528]
    assert count(net.norm) + count(net.head) == 353


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 32, 32), (3, 32, 32), (2, 4, 4), (1, 8, 8), (1, 9, 13), (1, 1, 3)])
def test_output_has_the_shape_of_the_input(shape):
    net = build(shape, channels=8)
    assert net(torch.randn(2, *shape), torch.tensor([1.0, 900.0]), {}).shape == (2, *shape)


def test_inputs_and_outputs_are_the_methods_choice():
    net = UNet(UNetOptions(channels=8), Pixels((1, 8, 8), 0), inputs=2, outputs=6)
    assert net(torch.randn(3, 2, 8, 8), torch.ones(3), {}).shape == (3, 6, 8, 8)


@pytest.mark.parametrize(
    ("side", "multipliers"),
    [
        (32, (1, 2, 3, 3)),
        (28, (1, 2, 3, 3)),
        (64, (1, 2, 3, 3)),
        (16, (1, 2, 3)),
        (14, (1, 2, 3)),
        (8, (1, 2)),
        (7, (1, 2)),
        (6, (1,)),
        (4, (1,)),
        (1, (1,)),
    ],
)
def test_lowest_map_keeps_four_pixels(side, multipliers):
    config = UNetOptions().fit((1, side, side))
    assert config.multipliers == multipliers
    assert config.attention == (0,) * (len(multipliers) - 1) + (1,)
    assert config.fit((1, side, side)) == config


def test_fit_keeps_what_is_given():
    config = UNetOptions(multipliers=(1, 4), attention=(1, 0)).fit((1, 32, 32))
    assert (config.multipliers, config.attention) == ((1, 4), (1, 0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"multipliers": (1, 2), "attention": (0, 1, 1)}, "--attention 0,1,1 .* --multipliers 1,2;"),
        ({"attention": (0, 1)}, "each of the 4 levels"),
        ({"multipliers": (1, 2), "attention": (0, 2)}, "one 0 or 1"),
        ({"multipliers": ()}, "1 to 8"),
        ({"channels": 33}, "even"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        UNetOptions(**options).fit((1, 28, 28))


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 3, 5, 6), (1, 1, 2, 2), (1, 2, 1, 1), (2, 1, 32, 32)])
def test_cropping_undoes_padding(shape):
    x = torch.randn(shape)
    padded, box = pad(x, 8)
    assert padded.shape[-2] % 8 == 0 and padded.shape[-1] % 8 == 0
    assert torch.equal(crop(padded, box), x)


def test_padding_is_even_and_reflected():
    x = torch.arange(28.0).expand(1, 1, 28, 28)
    padded, box = pad(x, 8)
    assert box == (2, 2, 28, 28)
    assert padded[0, 0, 0, :4].tolist() == [2, 1, 0, 1]
    assert pad(torch.zeros(1, 1, 5, 5), 8)[1][:2] == (1, 1)  # 3 to add: the extra pixel is right and bottom


def test_every_parameter_has_a_gradient():
    net = build((1, 12, 12), channels=8, multipliers=(1, 2), attention=(1, 1), blocks=2, head_channels=4, classes=3)
    out = net(torch.randn(8, 1, 12, 12), torch.linspace(1, 1000, 8), {"label": torch.arange(8) % 4 - 1})
    (out**2).mean().backward()
    for name, p in net.named_parameters():
        if name.endswith(".k.bias"):  # softmax ignores a constant in every score
            assert p.grad.abs().max() < 1e-6, name
        else:
            assert p.grad.abs().max() > 1e-9, name


def test_label_and_time_change_the_output_and_rows_are_independent():
    net = build((1, 8, 8), channels=8, classes=3).eval()
    x, c_noise = torch.randn(1, 1, 8, 8).expand(3, -1, -1, -1), torch.tensor([10.0, 10.0, 500.0])
    out = net(x, c_noise, {"label": torch.tensor([-1, 2, -1])})
    assert (out[0] - out[1]).abs().max() > 1e-4
    assert (out[0] - out[2]).abs().max() > 1e-4
    assert torch.allclose(net(x[:1], c_noise[:1], {"label": torch.tensor([-1])}), out[:1], atol=1e-6)


def test_a_head_of_32_channels_or_one():
    assert [SelfAttention(c, 32).heads for c in (32, 96, 48)] == [1, 3, 1]


@pytest.mark.parametrize(
    ("channels", "groups"), [(32, 8), (48, 12), (64, 16), (96, 24), (160, 32), (8, 2), (4, 1), (6, 1), (384, 32)]
)
def test_at_least_four_channels_a_group(channels, groups):
    assert Norm(channels).num_groups == groups
    assert Norm(channels).eps == 1e-5


def test_upsample_is_nearest_then_convolution():
    torch.manual_seed(0)
    up = Upsample(5).double()
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), up.weight, up.bias, padding=1)
    out = up(x)
    assert torch.allclose(out, plain, atol=1e-12)
    for wanted in (x, up.weight, up.bias):
        ours, theirs = (torch.autograd.grad((y**2).sum(), wanted, retain_graph=True)[0] for y in (out, plain))
        assert torch.allclose(ours, theirs, atol=1e-10)


def test_self_attention_is_linears_over_positions():
    torch.manual_seed(0)
    part, x = SelfAttention(12, 4).double(), torch.randn(2, 12, 3, 5, dtype=torch.float64)
    h = part.norm(x).flatten(2).mT  # (B, HW, C)
    q, k, v = (linear(h).unflatten(2, (3, 4)).transpose(1, 2) for linear in (part.q, part.k, part.v))
    h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    assert torch.allclose(part(x), x + part.out(h).mT.unflatten(2, (3, 5)), atol=1e-12)


@pytest.mark.parametrize("tokens", [4, 32, 33, 100])
def test_both_ways_of_attention_agree(tokens):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, tokens, 8, dtype=torch.float64)
    expected = (q @ k.mT / 8**0.5).softmax(-1) @ v
    assert torch.allclose(attention(q, k, v), expected, atol=1e-12)
    mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    scores = (q @ k.mT / 8**0.5).masked_fill(~mask, -torch.inf)
    assert torch.allclose(attention(q, k, v, mask), scores.softmax(-1) @ v, atol=1e-12)


def test_sinusoid_has_its_published_form():
    out = sinusoid(torch.tensor([0.0, 500.0]), 8)
    assert out[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    f = torch.tensor([1.0, 0.1, 0.01, 0.001])
    assert torch.allclose(out[1], torch.cat([(500 * f).sin(), (500 * f).cos()]), atol=1e-4)


def test_bfloat16_training_is_close_to_float32():
    net, x, c_noise = build((1, 8, 8), channels=16), torch.randn(4, 1, 8, 8), torch.linspace(1, 1000, 4)
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x, c_noise, {})
    assert (low.float() - net(x, c_noise, {})).abs().max() < 0.05
    low.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
