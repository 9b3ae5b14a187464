"""The network of mDiffAE: its sizes, to the last number, and what its parts are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diffcli.errors import UsageError
from diffcli.testing.network import awake
from diffcli_mdiffae import DiCoOptions
from diffcli_mdiffae.network import DiCo, Patchify, RMSNorm, TimeEmbedding, rms
from masked_autoencoders import SHAPE, SKIP, TINY, bare, network, normal


def counts(net: torch.nn.Module) -> tuple[int, int, int]:
    """Parameters of the encoder and of the decoder, and all numbers of the state dict."""
    parts = [sum(p.numel() for p in part.parameters()) for part in (net.encoder, net.decoder)]
    return (*parts, sum(t.numel() for t in net.state_dict().values()))


def formula(c: DiCoOptions, channels: int) -> tuple[int, int]:
    """Parameters by counting: of the encoder and of the decoder."""
    d, h, k, r, b = c.d, c.hidden, c.k, c.rank, c.z
    patch, skip = channels * c.p**2, c.topology == "skip"
    norm, core = 0 if skip else 2 * d, 3 * (d * d + d) + (k * k + 1) * d + 2 * d * h + h + d
    encoder = (patch + 1) * d + norm + c.encoder * (core + 2 * d) + (d + 1) * b
    told = 257 * d + d * d + d + 4 * d * (d + 1) + c.decoder * 5 * d * r
    fused = (patch + 1) * d + norm + (b + 1) * d + norm + (2 * d + 1) * d
    more = d + (2 * d + 1) * d if skip else 0
    return encoder, fused + told + c.decoder * core + d + norm + (d + 1) * patch + more


def test_the_published_networks_have_their_published_sizes():
    """v1: 81,410,496 parameters and 81,410,624 stored floats; v2: 120,893,664 and 120,893,792 (its card)."""
    v1, v2 = bare(), bare(topology="skip")
    assert counts(v1) == (36_287_168, 45_123_328, 81_410_624)
    assert counts(v2) == (36_314_080, 84_579_584, 120_893_792)
    assert [sum(p.numel() for p in net.parameters()) for net in (v1, v2)] == [81_410_496, 120_893_664]
    assert v1.config.z == 64 and v2.config.z == 96 and v2.config.split == (2, 4, 2)
    names = [name.partition(".")[0] for name in v1.state_dict()]
    assert (len(names), names.count("encoder"), names.count("decoder")) == (140, 62, 78)


def test_the_other_sizes_of_the_specification():
    assert counts(network()) == (17_384, 37_168, 54_680)
    cifar = bare((3, 32, 32), **{**TINY, "width": 192, "encoder_depth": 4, "decoder_depth": 4, "latent_channels": 4}
                 | {"kernel": 7, "mlp_ratio": 4, "adaln_rank": 32})  # fmt: skip
    assert sum(counts(cifar)[:2]) == 3_797_620


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("topology", ["flat", "skip"])
def test_any_size_is_what_the_formula_says(seed, topology):
    draw = torch.Generator().manual_seed(seed)

    def any_of(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    channels, options = any_of(1, 5), {"width": any_of(4, 40), "encoder_depth": any_of(1, 4), "topology": topology}
    options |= {"patch_size": 2 ** any_of(0, 4), "decoder_depth": any_of(3, 9), "latent_channels": any_of(1, 20)}
    options |= {"mlp_ratio": any_of(1, 5), "kernel": 2 * any_of(0, 4) + 1, "adaln_rank": any_of(1, 9)}
    built = counts(bare((channels, 32, 48), **options))
    assert built[:2] == formula(DiCoOptions(**options), channels)
    assert built[2] == sum(built[:2]) + 128  # the frequencies


@pytest.mark.parametrize("options", [TINY, SKIP])
def test_images_become_latents_and_come_back_at_any_size(options):
    net = network(options=options).eval()
    with torch.no_grad():
        z = net.encode(normal(2, 3, 64, 48))
        assert z.shape == (2, 8, 16, 12) and net.shape == (8, 4, 6)
        cond = {"latent": z, "keep": torch.ones(2, 1, 16, 12).bool(), "drop": torch.zeros(2).bool()}
        assert net(normal(2, 3, 64, 48), torch.full((2,), 500.0), cond).shape == (2, 3, 64, 48)
    with pytest.raises(UsageError, match="65x48 do not divide into patches of 4x4"):
        net.encode(normal(1, 3, 65, 48))


def test_latents_of_the_published_patch():
    net = network((3, 64, 96), {**TINY, "patch_size": 16, "latent_channels": 64})
    with torch.no_grad():
        assert net.encode(normal(1, 3, 64, 96)).shape == (1, 64, 4, 6)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_every_pixel_of_the_latents_has_mean_square_one(scale):
    """1e-3: of latents whose mean square before the norm is 1e-3 or more, its epsilon of 1e-6 takes off half of that."""
    with torch.no_grad():
        z = network().encode(scale * normal(2, *SHAPE))
    assert float((z.square().mean(1).sqrt() - 1).abs().max()) < 1e-3


def test_latents_are_float32_under_autocast():
    """In bfloat16 the mean square could be off by 1/256."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        z = network().encode(normal(2, *SHAPE))
    assert z.dtype == torch.float32 and float((z.square().mean(1).sqrt() - 1).abs().max()) < 1e-3


@pytest.mark.parametrize("options", [TINY, SKIP])
def test_a_new_decoder_does_not_know_the_time(options):
    """The modulation begins at zero, so every block of the decoder is the identity; awake, the time is heard."""
    net = network(options=options).eval()
    x, z = normal(2, *SHAPE), normal(2, 8, 4, 6)
    cond = {"latent": z, "keep": torch.ones(2, 1, 4, 6).bool(), "drop": torch.zeros(2).bool()}

    def at(c_noise: float) -> torch.Tensor:
        with torch.no_grad():
            return net(x, torch.full((2,), c_noise), cond)

    assert torch.equal(at(0.0), at(1000.0))
    awake(net)
    assert not torch.allclose(at(0.0), at(1000.0), atol=1e-3)


@pytest.mark.parametrize("gated", [True, False])
def test_a_block_whose_gates_are_zero_is_the_identity(gated):
    with torch.no_grad():
        block, x = awake(DiCo(DiCoOptions(**TINY), gated=gated)), normal(2, 32, 4, 5)
        if gated:
            block.gate_1.zero_()
            block.gate_2.zero_()
        modulation = None if gated else torch.cat([normal(2, 32), torch.zeros(2, 32)] * 2, 1)
        assert torch.equal(block(x, modulation), x)


def test_each_part_of_a_modulation_does_what_it_is_called():
    """scale_1, gate_1, scale_2, gate_2, gates through tanh: a gate of infinity lets its whole branch through."""
    block, x, none = DiCo(DiCoOptions(**TINY), gated=False), normal(2, 32, 4, 5), torch.zeros(2, 32)
    scale, full = normal(2, 32, seed=1), torch.full((2, 32), torch.inf)
    with torch.no_grad():
        first = x + block.mix(rms(x) * (1 + scale[..., None, None]))
        second = x + block.mlp(rms(x) * (1 + scale[..., None, None]))
        assert torch.allclose(block(x, torch.cat([scale, full, none, none], 1)), first, atol=1e-6)
        assert torch.allclose(block(x, torch.cat([none, none, scale, full], 1)), second, atol=1e-6)
        half = x + 0.5 * (second - x)
        tanh = torch.full((2, 32), 0.5).atanh()
        assert torch.allclose(block(x, torch.cat([none, none, scale, tanh], 1)), half, atol=1e-6)


def test_the_branches_are_those_of_the_paper():
    """conv1x1, depthwise, SiLU, channel attention and conv1x1; conv1x1, the exact GELU and conv1x1."""
    block, x = awake(DiCo(DiCoOptions(**TINY), gated=False)), normal(2, 32, 4, 5)
    weight = {name: p.detach() for name, p in block.named_parameters()}

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        matrix = weight[f"{name}.weight"][..., 0, 0]
        return torch.einsum("oi,bihw->bohw", matrix, x) + weight[f"{name}.bias"][:, None, None]

    h = F.conv2d(linear(x, "conv1"), weight["conv2.weight"], weight["conv2.bias"], padding=1, groups=32)
    h = h * h.sigmoid()
    h = h * linear(h.mean((2, 3), keepdim=True), "cca.conv").sigmoid()
    u = linear(x, "mlp.conv_in")
    gelu = u * torch.special.ndtr(u)
    with torch.no_grad():
        assert torch.allclose(block.mix(x), linear(h, "conv3"), atol=1e-5)
        assert torch.allclose(block.mlp(x), linear(gelu, "mlp.conv_out"), atol=1e-5)


def test_only_the_first_branch_looks_beyond_a_pixel_and_channel_attention_sees_the_whole_map():
    block, x = awake(DiCo(DiCoOptions(**TINY), gated=False)), normal(1, 32, 9, 9)
    other = x.clone()
    other[..., 0, 0] += 1
    far = (..., slice(5, None), slice(5, None))  # outside of the 3x3 kernel
    with torch.no_grad():
        assert torch.equal(block.mlp(x)[far], block.mlp(other)[far])
        assert torch.equal(block.conv2(x)[far], block.conv2(other)[far])
        assert float((block.mix(x) - block.mix(other))[far].abs().max()) > 1e-6


def test_patches_are_those_of_a_strided_convolution():
    """Order channel, row, column; to 1e-5, as the sums of 48 products differ in their order alone."""
    patchify, x = Patchify(3, 4, 32), normal(2, 3, 16, 24)
    with torch.no_grad():
        weight = patchify.proj.weight.reshape(32, 3, 4, 4)
        assert torch.allclose(patchify(x), F.conv2d(x, weight, patchify.proj.bias, stride=4), atol=1e-5)
    assert torch.equal(F.pixel_shuffle(F.pixel_unshuffle(x, 4), 4), x)


def test_the_norm_is_over_channels_at_each_pixel():
    x, norm = 7 * normal(2, 32, 4, 5), RMSNorm(32)
    assert torch.allclose(norm(x), x / x.square().mean(1, keepdim=True).sqrt(), rtol=1e-5)
    with torch.no_grad():
        norm.weight.fill_(3)
        norm.bias.fill_(2)
    assert torch.allclose(norm(x), 3 * rms(x) + 2, atol=1e-5)


def test_frequencies_fall_from_one_to_a_ten_thousandth_and_sines_come_first():
    embed = TimeEmbedding(256)
    assert embed.freqs[0] == 1 and float(embed.freqs[-1]) == pytest.approx(1e-4, rel=1e-6)
    assert float((embed.freqs[1:] / embed.freqs[:-1]).std()) < 1e-6 and "freqs" in embed.state_dict()
    with torch.no_grad():
        embed.proj_in.weight.copy_(torch.eye(256))
        embed.proj_in.bias.zero_()
        embed.proj_out.weight.copy_(torch.eye(256))
        embed.proj_out.bias.zero_()
        found = embed(torch.tensor([0.0, 700.0]))
    zero = F.silu(torch.cat([torch.zeros(128), torch.ones(128)]))
    assert torch.allclose(found[0], zero)
    assert float(found[1, 0]) == pytest.approx(float(F.silu(torch.tensor(700.0).sin())), abs=1e-5)


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        ((3, 256, 256), {}, (16, 896, 4, 4, 64, 4, 7, 128)),
        ((3, 256, 256), {"topology": "skip"}, (16, 896, 4, 8, 96, 4, 7, 128)),
        ((3, 32, 32), {}, (8, 96, 2, 2, 32, 2, 5, 16)),
        ((3, 16, 16), {}, (4, 96, 2, 2, 8, 2, 5, 16)),
        ((1, 28, 28), {}, (4, 96, 2, 2, 4, 2, 5, 16)),
        ((1, 8, 8), {}, (2, 96, 2, 2, 4, 2, 5, 16)),
        ((1, 7, 9), {"width": 8}, (1, 8, 2, 2, 4, 2, 5, 16)),
        ((3, 32, 48), {"topology": "skip"}, (8, 96, 2, 4, 32, 2, 5, 16)),
    ],
)
def test_what_is_unset_goes_by_the_size_of_the_images(shape, given, expected):
    made = DiCoOptions(**given).fit(shape)
    assert (made.p, made.d, made.encoder, made.decoder, made.z, made.mlp_ratio, made.k, made.rank) == expected
    assert made.fit(shape) == made


def test_what_cannot_be_built_is_refused():
    for options, shape, why in (
        ({}, (16,), "nothing to encode in sequences"),
        ({"patch_size": 5}, (3, 16, 16), "--patch-size 5 does not divide images of 16x16"),
        ({"kernel": 4}, (3, 16, 16), "--kernel 4 is even"),
        ({"topology": "skip", "decoder_depth": 2}, (3, 16, 16), "--decoder-depth is 2; give 3 or more"),
    ):
        with pytest.raises(UsageError, match=why):
            DiCoOptions(**options).fit(shape)
