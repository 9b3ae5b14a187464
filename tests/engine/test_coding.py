"""Model.encode, decode and reconstruct: images of any size there and back, each as if it were alone."""

from __future__ import annotations

import math

import pytest
import torch

from diffcli.core.random import Rows
from diffcli.engine import coding
from diffcli.errors import NonFinite, UsageError
from model_folders import model
from mosaic import mosaic


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def blocks(b: int, c: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    """Pictures of constant 4x4 blocks, which a mosaic keeps: padding by reflection does not change them if it is of whole
    blocks."""
    return noise(b, c, h, w, seed=seed).repeat_interleave(4, 2).repeat_interleave(4, 3)


def test_a_method_encodes_and_decodes_as_it_does_by_itself():
    """Bitwise, for one batch; what is decoded is clamped, as samples are."""
    m, x = model("vae"), noise(3, 1, 8, 8)
    with torch.no_grad():
        z = m.method.encode(x)
        y = m.method.decode(z * 40)
    assert torch.equal(m.encode(x), z) and m.encode(x).shape == (3, *m.method.latent_shape)
    assert float(y.abs().max()) > 1, "else the clamp is not seen"
    assert torch.equal(m.decode(z * 40), y.clamp(-1, 1))
    assert torch.equal(m.reconstruct(x), m.decode(m.encode(x)))


@pytest.mark.parametrize("size", [(16, 16), (4, 8), (24, 40)])
def test_pictures_of_any_size_whose_sides_fit_come_back(size):
    m, x = mosaic(), blocks(2, 3, size[0] // 4, size[1] // 4)
    z = m.encode(x)
    assert z.shape == (2, 3, size[0] // 4, size[1] // 4)
    assert torch.allclose(m.decode(z), x, atol=1e-6) and torch.allclose(m.reconstruct(x), x, atol=1e-6)


@pytest.mark.parametrize("size", [(17, 16), (15, 30), (5, 7), (1, 1), (2, 9)])
def test_other_pictures_are_padded_by_reflection_and_cropped(size):
    """What comes back lies where the picture lay: blocks that are whole inside of it are the means of its own pixels."""
    m, x = mosaic(), noise(1, 3, *size)
    y = m.reconstruct(x)
    assert y.shape == x.shape and m.method.seen[-1][2:] == tuple(-(-side // 4) * 4 for side in size)
    top, left = (-size[k] % 4 // 2 for k in (0, 1))
    for i in range(size[0]):
        for j in range(size[1]):
            (a, b) = ((i + top) // 4 * 4 - top, (j + left) // 4 * 4 - left)
            if a >= 0 and b >= 0 and a + 4 <= size[0] and b + 4 <= size[1]:
                mean = x[0, :, a : a + 4, b : b + 4].mean((1, 2))
                assert torch.allclose(y[0, :, i, j], mean, atol=1e-6)
    z = m.encode(torch.nn.functional.pad(x, (0, -size[1] % 4, 0, -size[0] % 4)))
    assert m.decode(z, *size).shape == x.shape


def test_large_pictures_go_one_by_one_and_are_the_same(monkeypatch):
    m, x = mosaic(), noise(5, 3, 16, 12)
    whole = m.reconstruct(x)
    assert m.method.seen[-1][0] == 5
    monkeypatch.setattr(coding, "PIXELS", 16 * 12 * 2)
    assert torch.allclose(m.reconstruct(x), whole, atol=1e-6) and m.method.seen[-1][0] == 1
    assert [shape[0] for shape in m.method.seen[-3:]] == [2, 2, 1]


def test_what_cannot_be_encoded_or_decoded_is_refused_with_its_shape():
    m, v = mosaic(), model("vae")
    for call, why in (
        (lambda: m.encode(noise(1, 3, 16, 17)), r"sides that 4 divides in \[-1, 1\], not \(1, 3, 16, 17\).*reconstruct pads"),
        (lambda: m.encode(noise(1, 1, 16, 16)), r"floats \(B, 3, H, W\)"),
        (lambda: m.encode(noise(3, 16, 16)), r"not \(3, 16, 16\)"),
        (lambda: m.reconstruct(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)), "of torch.uint8"),
        (lambda: v.encode(noise(1, 1, 9, 8)), r"floats \(B, 1, 8, 8\)"),
        (lambda: v.reconstruct(noise(1, 1, 9, 8)), r"floats \(B, 1, 8, 8\)"),
        (lambda: v.decode(noise(1, 2, 3, 2)), r"latents are floats \(B, 2, 2, 2\), not \(1, 2, 3, 2\)"),
        (lambda: m.decode(noise(1, 2, 3, 2)), r"latents are floats \(B, 3, h, w\)"),
        (lambda: m.decode(noise(1, 3, 2, 2), 9, 8), "padded to"),
        (lambda: m.decode(noise(1, 3, 2, 2), 8, 4), "padded to"),
        (lambda: m.decode(noise(1, 3, 2, 2), input="x.png"), "input is no option of decode"),
        (lambda: v.decode(noise(1, 2, 2, 2), steps=3), "--steps is of a walk"),
        (lambda: v.decode(noise(1, 2, 2, 2), guidance_scale=2.0), "--guidance-scale 2"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=why):
            call()
    with pytest.raises(NonFinite):
        m.decode(torch.full((1, 3, 2, 2), math.nan))


def test_a_model_without_latents_says_so(trained, monkeypatch):
    from diffcli import load

    m = load(next((trained / "runs" / "rf").iterdir()))
    for call in (m.encode, m.decode, m.reconstruct):
        with pytest.raises(UsageError, match="is a model of rf, which encodes nothing"):
            call(noise(1, 1, 16, 16))


@pytest.fixture(scope="module")
def diffusing():
    """A small masked diffusion autoencoder, whose decoder walks."""
    return model("mdiffae")


def test_a_walk_decodes_as_any_sample_is_drawn(diffusing):
    """Steps, sampler, ending, guidance and seed are those of [sample]; a row of a batch is the picture alone."""
    m, x = diffusing, noise(3, 3, 12, 20)
    z = m.encode(x)
    y = m.decode(z)
    assert y.shape == x.shape and torch.equal(y, m.decode(z))
    for options in (
        {"steps": 3},
        {"final": "floor"},
        {"guidance_scale": 1.5},
        {"seed": 1},
        {"steps": 3, "spacing": "cosine"},
    ):
        assert not torch.equal(m.decode(z, **options), y), options
    assert torch.allclose(m.decode(z, steps=1, sampler="dpmpp-2m"), y, atol=1e-5), "in one step they are one"
    assert torch.allclose(m.decode(z, batch_size=2), y, atol=1e-5)
    assert torch.allclose(m.decode(z[:1]), y[:1], atol=1e-5)
    assert torch.equal(m.reconstruct(x, steps=2, seed=3), m.decode(z, steps=2, seed=3))


def test_the_first_prediction_is_the_network_s_own(diffusing):
    """One step that ends at x_0 is the decoder called once at t = 1, on noise of the size of the picture."""
    m, z = diffusing, noise(2, 4, 3, 5)
    index = torch.arange(2)
    sigma = m.method.denoiser.process.sigma(torch.ones((), dtype=torch.float64))
    x = sigma * Rows(0, index, 2).normal("decode", (3, 12, 20))
    with torch.no_grad():
        cond = {"latent": z, "keep": torch.ones(2, 1, 3, 5, dtype=torch.bool)}
        wanted = m.method.denoiser(x, torch.ones(()), cond).x_0
        as_latents_do = m.method.decode(z, Rows(0, index, 2))
    assert torch.allclose(m.decode(z), wanted.clamp(-1, 1), atol=1e-5)
    assert torch.allclose(as_latents_do, wanted, atol=1e-5), "latents that are drawn decode alike"


def test_padding_of_a_walked_decoder_is_cropped(diffusing):
    m, x = diffusing, noise(1, 3, 13, 18)
    assert m.reconstruct(x).shape == x.shape
