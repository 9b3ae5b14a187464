"""The loss of mDiffAE: what is hidden, mixed with noise and dropped in training, when, and how errors are weighed."""

from __future__ import annotations

import pytest
import torch

from diffcli.core.random import Rows
from diffcli.core.space import Latents, Pixels
from diffcli.errors import UsageError
from diffcli.schedules.gaussian import VP
from diffcli.schedules.logsnr import LogSNRCosine
from diffcli_mdiffae.method import MDiffAE, mean_weight, pattern, weight
from masked_autoencoders import SHAPE, SKIP, TINY, batch, blocks, mdiffae, normal, rows, told

GROUPS = (2, 3)  # of a grid of 4x6 tokens


def grouped(keep: torch.Tensor) -> torch.Tensor:
    """(B, 1, 2h, 2w) -> (B, h w, 4): the tokens of each group."""
    return torch.nn.functional.pixel_unshuffle(keep.float(), 2).flatten(2).mT


def test_one_token_of_each_group_is_kept_each_as_often():
    """Each place has 1,000 of 4,000 groups within 3 %: 4.4 standard errors of 0.7 %."""
    u = torch.rand(1000, 2, 2, generator=torch.Generator().manual_seed(0))
    found = grouped(pattern(u, 4, 4))
    assert torch.equal(found.sum(-1), torch.ones(1000, 4))
    assert float((found.mean((0, 1)) - 0.25).abs().max()) < 0.03


@pytest.mark.parametrize(("height", "width"), [(5, 7), (1, 1), (3, 4)])
def test_odd_grids_are_cropped_from_even_ones(height, width):
    """A group that the border cuts keeps at most one token."""
    down, across = -(-height // 2), -(-width // 2)
    u = torch.rand(50, down, across, generator=torch.Generator().manual_seed(0))
    found, even = pattern(u, height, width), pattern(u, 2 * down, 2 * across)
    assert found.shape == (50, 1, height, width) and torch.equal(found, even[..., :height, :width])
    padded = torch.nn.functional.pad(found.float(), (0, width % 2, 0, height % 2))
    assert grouped(padded).sum(-1).max() == 1 and grouped(padded)[:, 0].sum(-1).min() == (0 if height == 1 else 1)


def test_half_of_the_training_images_are_masked_each_by_itself():
    """50 +- 4 % of 1,000: 2.5 standard errors; one mask for all would be 0 or 1."""
    keep = told(mdiffae(), normal(1000, *SHAPE))["keep"]
    whole = keep.flatten(1).all(1)
    assert abs(float(whole.float().mean()) - 0.5) < 0.04
    masked = grouped(keep[~whole])
    assert torch.equal(masked.sum(-1), torch.ones(len(masked), 6)) and len(masked.unique(dim=0)) > 400


def test_nothing_is_hidden_mixed_or_dropped_in_evaluation():
    method, x = mdiffae(options=SKIP, mask_prob=1.0, latent_noise_prob=1.0, path_drop_prob=1.0), normal(8, *SHAPE)
    with torch.no_grad():
        cond = method.cond(batch(x), rows(8))
        assert bool(cond["keep"].all()) and not bool(cond["drop"].any())
        assert torch.equal(cond["latent"], method.encode(x))
    told_ = told(method, x)
    assert not told_["keep"].flatten(1).all(1).any() and bool(told_["drop"].all())
    assert not (told_["latent"] == cond["latent"]).flatten(1).all(1).any()


@pytest.mark.parametrize(("options", "name"), [(TINY, "mask_feature"), (SKIP, "latent_mask_feature")])
def test_masked_tokens_are_the_feature_and_it_is_trained(options, name):
    """What lay at a hidden token changes nothing, to rounding; a flat decoder hides the image there too, one with a skip
    does not."""
    method, x, x_t = (
        mdiffae(options=options, mask_prob=1.0, latent_noise_prob=0.0),
        normal(2, *SHAPE),
        normal(2, *SHAPE),
    )
    decoder, seen = method.denoiser.net.decoder, list[torch.Tensor]()
    flat = options is TINY
    (decoder.blocks[0] if flat else decoder.fuse_in).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    cond, t = told(method, x), torch.tensor(0.5, dtype=torch.float64)
    hidden = ~cond["keep"]
    elsewhere = torch.where(hidden, normal(*cond["latent"].shape, seed=1), cond["latent"])
    pixels = hidden.repeat_interleave(4, 2).repeat_interleave(4, 3)
    noise = torch.where(pixels, normal(*SHAPE, seed=2), x_t)

    def answer(x_t: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return method.denoiser(x_t, t, {**cond, "latent": latent}).x_0

    found = answer(x_t, cond["latent"])
    assert torch.allclose(answer(x_t, elsewhere), found, atol=1e-5)
    assert torch.allclose(answer(noise, cond["latent"]), found, atol=1e-5) == flat
    feature = getattr(decoder, name)
    rows_ = seen[0][:, -32:].movedim(1, -1)[hidden[:, 0]]  # of those tokens
    assert len(rows_) == int(hidden.sum()) and torch.equal(rows_, feature.detach().view(1, 32).expand_as(rows_))
    method.loss(batch(x), blocks(2))["loss"].backward()
    assert bool(feature.grad.any())


def test_a_dropped_path_is_the_feature_whatever_the_middle_says():
    method, x, t = mdiffae(options=SKIP, path_drop_prob=1.0), normal(2, *SHAPE), torch.tensor(1.0, dtype=torch.float64)
    with torch.no_grad():
        cond = method.cond(batch(x), rows(2))
        full, cut = (method.denoiser(x, t, one).x_0 for one in (cond, method.drop(cond)))
        for p in method.denoiser.net.decoder.middle_blocks.parameters():
            p.mul_(2)
        assert torch.equal(method.denoiser(x, t, method.drop(cond)).x_0, cut)
        assert not torch.equal(method.denoiser(x, t, cond).x_0, full)
    method.train().loss(batch(x), blocks(2))["loss"].backward()
    assert bool(method.denoiser.net.decoder.path_drop_mask_feature.grad.any())


def test_a_tenth_of_the_latents_are_mixed_with_noise_by_a_share_of_mean_one_half():
    """10 +- 2 % of 2,000: 3 standard errors. tau ~ Beta(2, 2) has mean 1/2 and deviation 1/sqrt(20)."""
    method, x = mdiffae(mask_prob=0.0), normal(1, *SHAPE).expand(2000, -1, -1, -1)
    with torch.no_grad():
        z = method.encode(x[:1])
    noisy = told(method, x)["latent"]
    share = float(((noisy - z).abs().flatten(1).amax(1) > 1e-3).float().mean())  # in a batch, z is off by rounding
    assert abs(share - 0.1) < 0.02
    all_noisy = mdiffae(mask_prob=0.0, latent_noise_prob=1.0)
    found = told(all_noisy, x)["latent"]
    # (1 - tau) z + tau n: the least squares share of z is 1 - tau, up to n.z/|z|^2 of deviation 1/sqrt(192) = 0.07
    tau = 1 - (found * z).flatten(1).sum(1) / z.square().sum()
    assert abs(float(tau.mean()) - 0.5) < 0.02 and abs(float(tau.std()) - 20**-0.5) < 0.03
    left = (found - (1 - tau)[:, None, None, None] * z).square().flatten(1).mean(1).sqrt() / tau
    assert abs(float(left.median()) - 1) < 0.05  # what is left over is tau times unit noise


def test_a_share_of_training_times_is_one():
    """The times of a batch are those of one law in training and another in evaluation; both are stratified."""
    method, u = mdiffae(final_time_share=0.25), (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert torch.equal(method.time(u), u)
    t = method.train().time(u)
    assert int((t == 1).sum()) == 250 and torch.allclose(t[:750], u[:750] / 0.75)
    assert torch.equal(mdiffae(final_time_share=1.0).train().time(u), torch.ones_like(u))


def test_the_loss_is_the_squared_error_of_what_is_predicted():
    method, x = mdiffae(mask_prob=0.0, latent_noise_prob=0.0, final_time_share=0.0), normal(4, *SHAPE)
    with torch.no_grad():
        losses = method.train().loss(batch(x), blocks(4))
        rng = blocks(4)
        t, eps = rng.strata("time"), rng.normal("eps", SHAPE)
        x_t = method.denoiser.process.diffuse(x, eps, t)
        pair = method.eval().denoiser(x_t, t, method.cond(batch(x), rng))
    assert float(losses["loss"]) == pytest.approx(float((pair.x_0 - x).square().mean()), rel=1e-5)


def test_the_sigmoid_weighting_has_mean_one_and_is_that_of_the_log_snr():
    """By differences of 1e-5 in t: -lambda' e^lambda sigmoid(-1 - lambda), lambda of noise of deviation 1."""
    process, t = LogSNRCosine(noise_std=0.558), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    rises = (process.logsnr(t + 1e-5) - process.logsnr(t - 1e-5)) / 2e-5
    logsnr = process.logsnr(t)
    assert torch.allclose(weight(process, t), -rises * logsnr.exp() * torch.sigmoid(-1 - logsnr), rtol=1e-6)
    fine = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    method = mdiffae(weighting="sigmoid", final_time_share=0.0)
    assert abs(float(method.weight(fine).mean()) - 1) < 1e-3
    assert mean_weight(VP()) > 0 and torch.equal(mdiffae().weight(fine), torch.ones_like(fine))
    with torch.no_grad():
        plain, weighed = (mdiffae(weighting=w, mask_prob=0.0).train().loss(batch(normal(2, *SHAPE)), blocks(2))
                          for w in ("x0", "sigmoid"))  # fmt: skip
    assert float(plain["mse"]) == float(weighed["mse"]) == float(plain["loss"]) != float(weighed["loss"])


@pytest.mark.parametrize("options", [TINY, SKIP])
def test_gates_and_every_other_parameter_are_trained_from_the_first_step(options):
    """A new one: its modulation is zero, and the blocks of the decoder begin as the identity; their gates must open."""
    method, x = mdiffae(options=options, asleep=True, path_drop_prob=0.5).train(), normal(16, *SHAPE)
    method.loss(batch(x), blocks(16))["loss"].backward()
    decoder = method.denoiser.net.decoder
    gates = decoder.adaln_base.proj.weight.grad.view(4, 32, 32)[[1, 3]]  # of scale, gate, scale, gate
    assert bool((gates.flatten(1).abs().sum(1) > 0).all())
    assert all(bool(d.up.weight.grad.any()) for d in decoder.adaln_deltas)
    awake_ = mdiffae(options=options, path_drop_prob=0.5).train()
    awake_.loss(batch(x), blocks(16))["loss"].backward()
    silent = [name for name, p in awake_.named_parameters() if not bool(p.grad.any())]
    assert not silent


def test_it_is_an_autoencoder_that_others_can_live_in():
    method, x = mdiffae(), normal(3, *SHAPE)
    space = Latents(method, Pixels(SHAPE, 0))
    assert space.shape == (8, 4, 6) == method.latent_shape and space.bound == pytest.approx(8**0.5)
    z = space.encode(x)
    assert float(z.abs().max()) <= space.bound and torch.equal(z, method.encode(x))
    assert space.decode(z, rows(3)).shape == x.shape


def test_decoding_is_a_function_of_latents_and_seed():
    """A row of a batch is the image alone to 1e-5; another seed is another image; another size takes its own noise."""
    method, x = mdiffae(), normal(3, *SHAPE)
    with torch.no_grad():
        z = method.encode(x)
        first = method.decode(z, rows(3))
        assert torch.equal(method.decode(z, rows(3)), first)
        assert not torch.allclose(method.decode(z, rows(3, seed=1)), first, atol=1e-3)
        alone = method.decode(z[1:2], Rows(0, torch.tensor([1]), 1))
        assert torch.allclose(alone, first[1:2], atol=1e-5)
        assert method.decode(z[..., :3, :5], rows(3)).shape == (3, 3, 12, 20)


def test_images_that_do_not_divide_are_refused_by_name():
    with pytest.raises(UsageError, match="16x26 do not divide into patches of 4x4"):
        mdiffae().encode(normal(1, 3, 16, 26))
    method: MDiffAE = mdiffae()
    with pytest.raises(UsageError, match="decodes latents"):
        method.cond(batch(normal(1, *SHAPE))._replace(x=None), rows(1))
