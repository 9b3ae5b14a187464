"""mae-noprop: its network, from patches to positions; and that its blocks are timm's."""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from completions import SHAPE, TINY, images, mae, rows
from diffcli.core.space import Pixels
from diffcli.errors import EnvironmentProblem, UsageError
from diffcli.nn import vit
from diffcli.nn.vit import SelfAttention, block, patches, picture, positions
from diffcli_mae_noprop import MAEDecodersOptions
from diffcli_mae_noprop.network import MAEDecoders, returned, taken

PAPER = {"patch": 4, "width": 192, "depth": 12, "heads": 3, "decoder_width": 96, "decoder_depth": 4, "decoder_heads": 3}
IMAGENET = {
    "patch": 16,
    "width": 384,
    "depth": 12,
    "heads": 6,
    "decoder_width": 192,
    "decoder_depth": 4,
    "decoder_heads": 3,
}


def numbers(module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("side", "decoders", "model", "encoder", "decoder", "total", "places"),
    [
        (32, 4, PAPER, 5_348_352, 475_440, 7_250_112, (12_480, 6_240)),
        (128, 4, {**PAPER, "patch": 16, "decoder_depth": 1}, 5_486_592, 278_880, 6_602_112, (12_480, 6_240)),
        (224, 10, IMAGENET, 21_590_016, 2_149_632, 43_086_336, (75_648, 37_824)),
        (16, 3, TINY, 27_072, 5_440, 43_392, (544, 272)),
    ],
)
def test_counts_are_those_of_the_specification(side, decoders, model, encoder, decoder, total, places):
    with torch.device("meta"):
        net = MAEDecoders(
            MAEDecodersOptions(**model), Pixels((3, side, side), 0), inputs=3, outputs=3, decoders=decoders
        )
    assert (numbers(net.encoder), numbers(net.decoders[0]), numbers(net)) == (encoder, decoder, total)
    assert (net.encoder.positions.numel(), net.decoders[0].positions.numel()) == places
    assert "encoder.positions" not in net.state_dict()  # fixed: nothing to store


def test_a_level_embedding_has_two_matrices_a_decoder():
    with torch.device("meta"):
        plain, told = (
            MAEDecoders(MAEDecodersOptions(**PAPER), Pixels((3, 32, 32), 0), inputs=3, outputs=3, levels=levels)
            for levels in (False, True)
        )
    assert numbers(told) - numbers(plain) == 4 * 18_624


@pytest.mark.parametrize("mask", [None, "true", "added"])
def test_a_block_is_that_of_timm(mask):
    """The same weights by the same names give the same numbers, to the rounding of float32 through a block: 1e-5."""
    ours = block(32, 4, 3.0)
    from timm.models.vision_transformer import Block

    theirs = Block(32, 4, mlp_ratio=3.0, qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 40, 32, generator=torch.Generator().manual_seed(0))
    causal = torch.ones(40, 40).tril().bool()
    given = {None: None, "true": causal, "added": torch.zeros(40, 40).masked_fill(~causal, -1e9)}[mask]
    assert torch.allclose(ours(x, attn_mask=given), theirs(x, attn_mask=given), atol=1e-5)
    assert isinstance(ours.attn, SelfAttention)


def test_attention_weights_are_what_the_output_is_made_with():
    attend = SelfAttention(16, 2, qkv_bias=True)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    weights = attend.weights(x)
    assert weights.shape == (2, 2, 5, 5) and torch.allclose(weights.sum(-1), torch.ones(2, 2, 5), atol=1e-6)
    made = attend.proj((weights @ attend.split(x)[2]).transpose(1, 2).flatten(2))
    assert torch.allclose(made, attend(x), atol=1e-6)


@pytest.mark.parametrize(("shape", "side"), [((3, 16, 16), 4), ((1, 8, 12), 2), ((2, 6, 3), 3)])
def test_patches_fold_back(shape, side):
    x = images(2, shape)
    tokens = patches(x, side)
    assert tokens.shape == (2, shape[1] // side * (shape[2] // side), side * side * shape[0])
    assert torch.equal(picture(tokens, side, shape[1] // side), x)


def test_a_patch_is_in_the_order_row_column_channel():
    x = torch.arange(3 * 4 * 4).reshape(1, 3, 4, 4)
    second = patches(x, 2)[0, 1]  # the upper right
    assert second.tolist() == [int(x[0, c, i, j]) for i in (0, 1) for j in (2, 3) for c in (0, 1, 2)]


def test_positions_are_sines_and_cosines_of_column_then_row():
    table = positions(2, 3, 8)
    assert table.shape == (7, 8) and not table[0].any()
    for row in range(2):
        for column in range(3):
            angle = [place * 10000 ** (-k / 2) for place in (column, row) for k in (0, 1)]
            a, b, c, d = torch.tensor(angle)
            expected = torch.stack([a.sin(), b.sin(), a.cos(), b.cos(), c.sin(), d.sin(), c.cos(), d.cos()])
            assert torch.allclose(table[1 + 3 * row + column], expected, atol=1e-6)
    with pytest.raises(ValueError, match="four parts"):
        positions(2, 2, 6)


@pytest.mark.parametrize("count", [0, 1, 5, 16])
def test_visible_tokens_return_to_their_places(count):
    generator = torch.Generator().manual_seed(0)
    tokens, others = torch.randn(2, 3, 16, 8, generator=generator)
    places = torch.rand(3, 16, generator=generator).argsort(1)[:, :count]
    mixed = returned(taken(tokens, places), places, others)
    for row in range(3):
        for k in range(16):
            source = tokens if k in places[row].tolist() else others
            assert torch.equal(mixed[row, k], source[row, k])


@pytest.mark.parametrize("ratio", [0.75, 0.5, 0.9, 1.0])
def test_the_encoder_sees_the_visible_patches_alone(ratio):
    """(B, K + 1, E); hidden pixels change nothing, visible ones do."""
    method = mae(mask_ratio=ratio).eval()
    net, count, x = method.denoiser.net, int(16 * (1 - ratio) + 1e-9), images()
    visible = torch.rand(4, 16, generator=torch.Generator().manual_seed(1)).argsort(1)[:, : method.seen(ratio)]
    found = net.encoder(x, visible)
    assert found.shape == (4, count + 1, 32) and torch.isfinite(found).all()
    seen = net.pixels(visible)
    assert seen.shape == (4, 1, 16, 16) and (seen.flatten(1).sum(1) == 16 * count).all()
    assert torch.equal(net.encoder(torch.where(seen, x, 7.0), visible), found)
    if count:
        assert not torch.allclose(net.encoder(torch.where(seen, 7.0, x), visible), found)
        assert torch.equal(net.places(seen.expand(x.shape)), visible.sort(1).values)
    assert net.encoder(x).shape == (4, 17, 32)


def test_the_mask_has_as_many_of_each_image_and_goes_by_address():
    method = mae(mask_ratio=0.75)
    one, same, other = (method.mask(rows(4, seed), 4) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert all(len(set(row)) == 4 for row in one.tolist())
    assert len({tuple(row) for row in one.tolist()}) > 1


@pytest.mark.parametrize(
    ("shape", "patch"),
    [((3, 16, 16), 2), ((1, 28, 28), 4), ((3, 32, 32), 4), ((3, 64, 64), 8), ((3, 128, 128), 16), ((3, 224, 224), 16)],
)
def test_patches_go_by_the_size_of_the_image(shape, patch):
    fitted = MAEDecodersOptions().fit(shape)
    assert fitted.patch == patch and fitted.fit(shape) == fitted
    assert MAEDecodersOptions(patch=4).fit((3, 16, 32)).patch == 4


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"--patch 5 does not divide images of 16x16; take one of 1, 2, 4, 8, 16"):
        MAEDecodersOptions(patch=5).fit(SHAPE)
    with pytest.raises(UsageError, match="one patch of an image"):
        MAEDecodersOptions(patch=16).fit(SHAPE)
    with pytest.raises(UsageError, match="no patches in sequences"):
        MAEDecodersOptions().fit((16,))
    with pytest.raises(UsageError, match=r"--width 50 must be a multiple of --heads 3 and of 4"):
        MAEDecodersOptions(width=50, heads=3)
    with pytest.raises(UsageError, match=r"--decoder-width 30 must be a multiple of --decoder-heads 2 and of 4"):
        MAEDecodersOptions(decoder_width=30)
    with pytest.raises(UsageError, match="--mask-ratio 0 hides none of 16 patches"):
        mae(mask_ratio=0.0)


def test_features_are_the_mean_over_patches_of_whole_images():
    method, x = mae().eval(), images()
    tokens = method.denoiser.net.encoder(x)
    assert torch.allclose(method.features(x), tokens[:, 1:].sum(1) / method.denoiser.net.patches, atol=1e-6)
    backbone = method.requires_grad_(False).backbone()
    assert torch.equal(backbone(x), method.features(x))
    assert all(p.requires_grad for p in backbone.parameters()) and backbone(x).shape == (4, backbone.width)
    backbone.encoder.token.data.add_(1)  # a copy: what is trained on it leaves the method as it was
    assert not torch.equal(backbone(x), method.features(x))
    assert not any(p.requires_grad for p in method.parameters())


def test_operators_of_a_torchvision_that_cannot_load_are_declared(tmp_path, monkeypatch):
    """As a CUDA build beside a CPU torch; its Python part then finds what it describes."""
    root = tmp_path / "torchvision"
    root.mkdir()
    (root / "_C.so").write_bytes(b"no library")
    (root / "_meta_registrations.py").write_text('@torch.library.register_fake("torchvision::made_up")\n')
    monkeypatch.setattr(vit.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(root / "__init__.py")))
    assert not hasattr(torch.ops.torchvision, "made_up")
    library = vit.declare.__wrapped__()
    assert library is not None and hasattr(torch.ops.torchvision, "made_up")
    monkeypatch.setattr(vit.importlib.util, "find_spec", lambda name: None)
    assert vit.declare.__wrapped__() is None


def test_without_timm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", None)
    with pytest.raises(EnvironmentProblem, match=r"timm cannot be imported: .*pip install 'timm>=1\.0\.29'"):
        vit.timm_block.__wrapped__()


def test_what_the_class_token_looks_at_is_read_off_the_last_block():
    """Its row of the attention of whole images, without its look at itself."""
    encoder, kept = mae().eval().denoiser.net.encoder, []
    last = encoder.blocks[-1]
    with torch.no_grad():
        hook = last.attn.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        encoder(images())
        hook.remove()
        looks, weights = encoder.looks(images()), last.attn.weights(kept[0])
    assert looks.shape == (4, 2, 16) and torch.equal(looks, weights[:, :, 0, 1:])
    assert torch.allclose(looks.sum(-1) + weights[:, :, 0, 0], torch.ones(4, 2), atol=1e-6)
