"""The KL autoencoder: shapes and sizes, its KL, its loss, what the padding does, and the statistics of its latents."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from diffcli.core.method import Batch
from diffcli.core.random import Blocks, Rows
from diffcli.core.space import Latents, Pixels
from diffcli.errors import UsageError
from diffcli.nn.blocks import crop, pad
from diffcli_vae import KLAutoencoderOptions, VAEOptions
from diffcli_vae.method import VAE, divergence
from diffcli_vae.network import HIGHEST, LOWEST, KLAutoencoder

MNIST = (1, 28, 28)


def vae(shape=MNIST, *, kl_weight=1e-6, **model) -> VAE:
    """A small one, from a fixed seed."""
    space, options = Pixels(shape, 0), KLAutoencoderOptions(**{"channels": 8, **model})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VAE(VAEOptions(kl_weight=kl_weight), space, model=partial(KLAutoencoder, options, space))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shapes(n: int, size: int = 28, seed: int = 0) -> torch.Tensor:
    """(n, 1, size, size): discs of any place and size, bright on dark, in [-1, 1]."""
    u = torch.rand(n, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
    place = torch.arange(size) / (size - 1)
    away = torch.hypot(place[:, None] - (0.3 + 0.4 * u[:, 0]), place - (0.3 + 0.4 * u[:, 1]))
    return ((0.15 + 0.15 * u[:, 2] - away) * 20).clamp(-1, 1)[:, None]


def loss(method: VAE, x: torch.Tensor) -> dict[str, torch.Tensor]:
    index = torch.arange(len(x))
    return method.loss(Batch(index, x), Blocks(0, index, len(x)))


@pytest.mark.parametrize(
    ("shape", "model", "latents"),
    [
        (MNIST, {}, (2, 4, 4)),
        ((1, 32, 32), {}, (2, 4, 4)),
        ((3, 32, 32), {"latent_channels": 4}, (4, 4, 4)),
        ((3, 48, 64), {"multipliers": (1, 2, 4), "latent_channels": 5}, (5, 6, 8)),
        ((1, 8, 8), {}, (2, 4, 4)),
        ((2, 17, 9), {"multipliers": (1, 2), "latent_channels": 1}, (1, 5, 3)),
        ((1, 7, 5), {"blocks": 2, "head_channels": 4}, (2, 4, 3)),
    ],
)
def test_images_of_any_size_become_latents_and_come_back(shape, model, latents):
    method = vae(shape, **model).eval()
    x = normal(2, *shape)
    z = method.encode(x)
    assert z.shape == (2, *latents) and method.network.shape == latents
    assert method.decode(z).shape == x.shape
    assert Latents(method, Pixels(shape, 0)).shape == latents


def test_images_smaller_than_a_latent_are_refused():
    with pytest.raises(UsageError, match=r"4x9 are too small for 3 levels.*the smallest are 8x8"):
        vae((1, 4, 9), multipliers=(1, 2, 4))
    with pytest.raises(UsageError, match="1 to 8"):
        vae(MNIST, multipliers=(1,) * 9)
    with pytest.raises(UsageError, match="nothing to encode in sequences"):
        KLAutoencoderOptions().fit((16,))


def test_levels_go_by_the_size_of_the_image():
    """The latents are 4 a side or more where there is more than one level; three levels at most."""
    rule = {(1, 4, 4): 1, (1, 8, 8): 1, (3, 13, 40): 2, (1, 16, 16): 2, MNIST: 3, (3, 256, 256): 3}
    for shape, levels in rule.items():
        assert KLAutoencoderOptions().fit(shape).multipliers == (1, 2, 4)[:levels]
    fitted = KLAutoencoderOptions(multipliers=(2, 2)).fit(MNIST)
    assert fitted.multipliers == (2, 2) and fitted.factor == 4 and fitted.fit(MNIST) == fitted


@pytest.mark.parametrize(
    ("shape", "z", "encoder", "decoder"),
    [(MNIST, 2, 4_634_328, 5_183_047), ((3, 32, 32), 4, 4_644_752, 5_188_823), ((3, 32, 32), 16, 4_701_056, 5_216_723)],
)
def test_parameters_of_the_reference_networks(shape, z, encoder, decoder):
    """Base 64, multipliers 1,2,4: 9,817,375 on MNIST; on CIFAR-10 9,833,575 with z = 4, and 9,917,779 with z = 16."""
    options = KLAutoencoderOptions(channels=64, multipliers=(1, 2, 4), latent_channels=z)
    with torch.device("meta"):
        net = KLAutoencoder(options, Pixels(shape, 0), inputs=shape[0], outputs=shape[0])
    assert [sum(p.numel() for p in part.parameters()) for part in (net.encoder, net.decoder)] == [encoder, decoder]
    assert encoder + decoder in (9_817_375, 9_833_575, 9_917_779)


def test_kl_of_known_gaussians():
    zero, one = torch.zeros(3, 2, 4, 4), torch.ones(3, 2, 4, 4)
    assert float(divergence(zero, zero).abs().max()) < 1e-6
    assert divergence(one, zero).tolist() == [16.0] * 3  # 1/2 a latent
    assert divergence(zero, math.log(2) * one).tolist() == pytest.approx([16 * (1 - math.log(2))] * 3, rel=1e-6)
    assert bool((divergence(3 * normal(1000, 4), 3 * normal(1000, 4, seed=1)) >= 0).all())


def test_kl_is_what_draws_say():
    """E_q [log q(z) - log p(z)] over 100,000 draws of three Gaussians of five latents each, within 4 of their standard errors."""
    mean, logvar = normal(3, 5), normal(3, 5, seed=1)
    z = mean + torch.exp(logvar / 2) * normal(100_000, 3, 5, seed=2)
    q = torch.distributions.Normal(mean.double(), torch.exp(logvar / 2).double())
    p = torch.distributions.Normal(torch.zeros(()).double(), 1.0)
    found = (q.log_prob(z.double()) - p.log_prob(z.double())).sum(-1)
    off = (found.mean(0) - divergence(mean, logvar).double()).abs()
    assert bool((off < 4 * found.std(0) / math.sqrt(len(z))).all())


def test_kl_and_exp_are_float32_under_autocast():
    """In bfloat16 a KL of hundreds has steps of 1: the terms of the loss stay float32, and equal those of the posterior."""
    method, x = vae().train(), shapes(8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        losses, (mean, logvar) = loss(method, x), method.posterior(x)
    assert mean.dtype == logvar.dtype == losses["kl"].dtype == losses["rec"].dtype == torch.float32
    assert float(losses["kl"]) == pytest.approx(float(divergence(mean, logvar).mean()), rel=1e-6)


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_an_extreme_log_variance_is_clamped_and_its_loss_finite(extreme):
    method, x = vae(kl_weight=1.0).train(), shapes(2)
    with torch.no_grad():
        method.network.encoder[-1].bias[2:] += extreme
    _, logvar = method.posterior(x)
    assert bool(((logvar >= LOWEST) & (logvar <= HIGHEST)).all())
    found = loss(method, x)["loss"]
    found.backward()
    assert torch.isfinite(found) and all(torch.isfinite(p.grad).all() for p in method.parameters())


def test_draws_are_of_the_posterior(monkeypatch):
    """The mean and the deviation of 20,000 draws are those of q, within 5 standard errors over all 4 latents; two differ."""
    method, seen = vae((1, 4, 4), multipliers=(1,), latent_channels=1), []
    x = shapes(1, 4).expand(20_000, -1, -1, -1)
    with torch.no_grad():
        method.network.encoder[-1].bias[1:] += 3.0  # a wide posterior
    monkeypatch.setattr(method.network, "decode", lambda z: seen.append(z) or x)
    with torch.no_grad():
        loss(method.train(), x)
        (mean, logvar), z = method.posterior(x[:1]), seen[0]
    std = torch.exp(logvar / 2)
    assert float(((z.mean(0) - mean[0]).abs() / (std[0] / math.sqrt(len(z)))).max()) < 5
    assert float((z.std(0) / std[0] - 1).abs().max()) < 5 / math.sqrt(2 * len(z))
    assert not torch.equal(z[0], z[1])


def test_the_mode_is_a_function():
    method, x = vae().eval(), shapes(2)
    with torch.no_grad():
        assert torch.equal(method.decode(method.encode(x)), method.decode(method.encode(x)))
        assert torch.equal(method.encode(x), method.posterior(x)[0])  # s is 1 before it is set


def test_the_loss_is_error_and_weighted_kl():
    """A mean over pixels and a sum over latents, both a mean over images; the weight multiplies the KL alone."""
    x = shapes(4)
    with torch.no_grad():
        found = {w: loss(vae(kl_weight=w).train(), x) for w in (0.0, 0.5, 1.0)}
        mean, logvar = vae().posterior(x)
    rec, kl = (found[0.0][name] for name in ("rec", "kl"))
    assert float(found[0.0]["loss"]) == float(rec)
    for w, losses in found.items():
        assert torch.equal(losses["rec"], rec) and torch.equal(losses["kl"], kl)
        assert float(losses["loss"]) == pytest.approx(float(rec) + w * float(kl), rel=1e-6)
    assert float(found[1.0]["loss"] - found[0.5]["loss"]) == pytest.approx(0.5 * float(kl), rel=1e-5)
    assert float(kl) == pytest.approx(0.5 * float((mean**2 + logvar.exp() - 1 - logvar).sum()) / 4, rel=1e-5)


def test_every_parameter_is_trained():
    """All but the bias of the attention keys, which adds the same to every score of a query."""
    method = vae(kl_weight=1.0).train()
    loss(method, shapes(4))["loss"].backward()
    named = dict(method.named_parameters())
    silent = [name for name, p in named.items() if not float(p.grad.abs().max()) > 1e-9]
    assert len(named) == len(list(method.parameters())) and all(name.endswith(".k.bias") for name in silent)


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
        assert torch.equal(list(walk(Batch(index, eps=z), rng=Rows(0, index, 3)))[-1][1], method.decode(z))
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
