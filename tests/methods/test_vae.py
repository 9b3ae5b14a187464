"""The KL autoencoder: its shapes and sizes, its KL, its draws and its loss."""

from __future__ import annotations

import math

import pytest
import torch

from autoencoders import MNIST, loss, normal, shapes, vae
from diffcli.core.space import Latents, Pixels
from diffcli.errors import UsageError
from diffcli_vae import KLAutoencoderOptions
from diffcli_vae.method import divergence
from diffcli_vae.network import HIGHEST, LOWEST, KLAutoencoder


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
    assert [KLAutoencoderOptions().fit((c, 28, 28)).latent_channels for c in (1, 2, 3)] == [2, 4, 4]
    assert KLAutoencoderOptions(latent_channels=3).fit(MNIST).latent_channels == 3
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


@pytest.mark.parametrize("z", [1, 2, 4])
def test_no_channel_of_the_latents_is_closed_at_the_start(z):
    """The 1x1 convolutions on both sides of the latents begin as the identity, so no mix of channels is singular."""
    network = vae(latent_channels=z).network
    for mix, channels in ((network.encoder[-1], 2 * z), (network.decoder[0], z)):
        x = normal(2, channels, 3, 3)
        assert torch.equal(mix(x), x)


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
