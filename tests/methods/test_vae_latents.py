"""What the padding of an autoencoder does, the statistics of its latents, and what a short training reaches."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from autoencoders import MNIST, loss, normal, shapes, vae
from diffcli.core.method import Batch
from diffcli.core.random import Blocks, Rows
from diffcli.nn.blocks import crop, pad
from diffcli_vae.method import VAE


@pytest.mark.parametrize("shape", [MNIST, (3, 9, 13), (1, 8, 17)])
def test_cropping_undoes_padding(shape):
    x = normal(2, *shape)
    padded, box = pad(x, 8)
    assert all(side % 8 == 0 for side in padded.shape[2:])
    assert torch.equal(crop(padded, box), x)
    height, width = shape[1:]
    assert box[:2] == (-height % 8 // 2, -width % 8 // 2)  # an odd remainder is at the right and the bottom
    assert vae(shape, multipliers=(1, 2, 4)).network.box == box


def test_padding_is_by_reflection_and_outside_the_loss():
    """28 -> 32: two pixels a side mirror those inside; what the decoder paints there changes no loss, in value or gradient."""
    method, x = vae().train(), shapes(2)
    padded, _ = pad(x, 8)
    assert torch.equal(padded[..., 1, :], padded[..., 3, :]) and torch.equal(padded[..., 0], padded[..., 4])
    seen = []
    method.network.decoder.register_forward_hook(lambda m, args, out: seen.append(out) or out.retain_grad())
    loss(method, x)["loss"].backward()
    grad = seen[0].grad
    assert grad.shape[2:] == (32, 32) and float(crop(grad, (2, 2, 28, 28)).abs().min()) > 0
    assert float(grad.abs().sum()) == pytest.approx(float(crop(grad, (2, 2, 28, 28)).abs().sum()), rel=1e-6)


def calibrated(method: VAE, x: torch.Tensor) -> VAE:
    with torch.no_grad():
        method.eval().calibrate(Batch(torch.arange(len(part)), part) for part in x.split(7))
    return method


def test_latents_have_the_scale_of_noise():
    """s is one number for all elements, so that encode has a standard deviation of 1 on the images that set it: to float32."""
    x = shapes(64)
    method = calibrated(vae(), x)
    with torch.no_grad():
        z, mean = method.encode(x), method.posterior(x)[0]
    assert float(z.double().std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert method.latent_scale.shape == method.latent_bound.shape == ()
    assert float(method.latent_scale) == pytest.approx(1 / float(mean.double().std(correction=0)), rel=1e-5)
    assert method.latent_mean == pytest.approx(float(mean.mean()), rel=1e-4)
    bound = float(method.latent_bound)
    assert float(z.abs().max()) <= bound < float(z.abs().max()) + 0.1 + 1e-5
    assert bound == pytest.approx(round(bound, 1), abs=1e-6)
    assert method.diagnose(None, torch.device("cpu")).keys() == {"latent_mean", "latent_scale", "latent_bound"}


def test_the_scale_cancels():
    """decode(encode(x)) is decoder(mean), whatever s: to rounding of z s / s."""
    x = shapes(8)
    method = calibrated(vae(), x)
    with torch.no_grad():
        wanted = method.network.decode(method.posterior(x)[0])
        assert torch.allclose(method.decode(method.encode(x)), wanted, atol=1e-5)
    assert float(method.latent_scale) != 1


def test_statistics_draw_nothing_and_need_some_spread():
    """The mode in eval mode, not a draw: twice the same; equal images do not divide by zero."""
    x = shapes(8)
    one, two = (float(calibrated(vae(), x).latent_scale) for _ in range(2))
    assert one == two
    method = vae()
    with torch.no_grad():
        for p in method.network.encoder[-1].parameters():
            p.zero_()
    assert math.isfinite(float(calibrated(method, x).latent_scale))


def test_what_is_given_comes_back_twice_or_reconstructed():
    """(1, the image) and (0, decode(encode(image))); without an image, what N(0, 1) or given latents decode to."""
    method, index = calibrated(vae(), shapes(16)), torch.arange(3)
    walk = partial(method.trajectory, shape=MNIST, sampler=None, times=torch.tensor([1.0, 0.0]), wrap=None)
    x = shapes(3, seed=1)
    with torch.no_grad():
        (t, start), (s, end) = walk(Batch(index, x), rng=Rows(0, index, 3))
        assert (float(t), float(s)) == (1, 0) and torch.equal(start, x)
        assert torch.equal(end, method.decode(method.encode(x)))
        z = normal(3, 2, 4, 4)
        assert torch.equal(list(walk(Batch(index, z=z), rng=Rows(0, index, 3)))[-1][1], method.decode(z))
        drawn = Rows(0, index, 3).normal("prior", (2, 4, 4))
        assert torch.equal(list(walk(Batch(index), rng=Rows(0, index, 3)))[-1][1], method.decode(drawn))


@pytest.mark.slow
def test_a_short_training_learns_shapes():
    """200 steps of AdamW at 1e-3 on 32 discs lower the error below a quarter of its start, and the statistics hold beyond
    the images that set them: the deviation of encode over 32 other discs is within 0.1 of 1."""
    method, x = vae(multipliers=(1, 2, 4)).train(), shapes(64)
    optimizer, errors = torch.optim.AdamW(method.parameters(), 1e-3), []
    for step in range(200):
        index = torch.arange(step * 32, (step + 1) * 32)
        losses = method.loss(Batch(index, x[:32]), Blocks(0, index, 32))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        errors.append(float(losses["rec"]))
    assert errors[-1] < errors[0] / 4
    calibrated(method, x[:32])
    with torch.no_grad():
        assert float(method.encode(x[:32]).std(correction=0)) == pytest.approx(1, abs=1e-3)
        assert float(method.encode(x[32:]).std()) == pytest.approx(1, abs=0.1)
