"""mae-noprop: its loss is that of hidden patches, and its decoders are trained apart."""

from __future__ import annotations

import pytest
import torch

from completions import SHAPE, batch, images, loss, mae, rows
from diffcli.core.method import Batch
from diffcli.core.random import Blocks
from diffcli.nn.vit import patches
from diffcli.schedules.gaussian import EDM


def parts(method) -> dict[str, list[torch.nn.Parameter]]:
    net = method.denoiser.net
    named = {"encoder": net.encoder, **{f"decoder{i}": each for i, each in enumerate(net.decoders)}}
    return {name: list(part.parameters()) for name, part in named.items()}


def by_hand(method, x, cond, i, t, eps, shift=None):
    """The error of decoder i, patch by patch as it is written: (B,)."""
    d, net = method.denoiser, method.denoiser.net
    sigma = float(EDM().sigma(t))
    root = (sigma**2 + 0.25) ** 0.5
    x_t = x + sigma * eps
    f = net.decode(i, cond["features"], cond["visible"], x_t / root, torch.full((len(x),), sigma).log() / 4)
    target = sigma / (0.5 * root) * (x if shift is None else shift) - 0.5 / root * eps
    errors = ((patches(f, net.side) - patches(target, net.side)) ** 2).mean(-1)  # (B, L)
    mask = torch.ones(errors.shape).scatter(1, cond["visible"], 0.0)
    assert d.param(d.process, t)[0] == pytest.approx(sigma / (0.5 * root))
    return (errors * mask).sum(1) / mask.sum(1)


@pytest.mark.parametrize("weighting", ["edm", "none"])
@torch.no_grad()
def test_the_loss_is_the_masked_mean_of_every_decoder(weighting):
    """Fresh noise for each, one image and one mask for all; w is 1, or sigma^2 sd^2/(sigma^2 + sd^2)."""
    method, x, rng = mae(weighting=weighting, levels="karras").eval(), images(), rows()
    cond, total = method.cond(batch(x), rng), 0.0
    for i, sigma in enumerate(method.levels.sigma):
        eps = rng.normal("eps", SHAPE)
        one = by_hand(method, x, cond, i, EDM().time(sigma), eps).mean()
        total = total + one * (1 if weighting == "edm" else sigma**2 * 0.25 / (sigma**2 + 0.25))
        assert float(method.loss(batch(x), rows())[f"decoder{i}"]) == pytest.approx(float(one), rel=1e-5)
    assert float(method.loss(batch(x), rows())["loss"]) == pytest.approx(float(total), rel=1e-5)


def test_hidden_patches_alone_count():
    """Visible pixels of the target change nothing, nor do noised pixels there; one hidden pixel changes it."""
    method, x = mae().eval(), images()
    d, t, eps = method.denoiser, EDM().time(method.levels.sigma[1]), torch.randn(4, *SHAPE)
    cond = method.cond(batch(x), rows())
    seen = d.net.pixels(cond["visible"])
    plain = d.errors(1, x, eps, t, cond)
    # the target and the noised pixels of visible places, by other noise there: both are those of another image
    assert torch.equal(d.errors(1, torch.where(seen, x + 1, x), eps, t, cond), plain)
    assert torch.equal(d.errors(1, x, torch.where(seen, 7.0, eps), t, cond), plain)
    place = (~seen[0, 0]).nonzero()[0]
    changed = eps.clone()
    changed[0, 0, place[0], place[1]] += 1
    found = d.errors(1, x, changed, t, cond)
    assert found[0] != plain[0] and torch.allclose(found[1:], plain[1:], atol=1e-6)


def test_every_row_has_noise_of_its_own_for_each_decoder():
    method, x = mae(weighting="none").eval(), images(1).expand(8, -1, -1, -1)
    found = []

    class Spy:
        def __init__(self, inner):
            self.inner = inner

        def normal(self, purpose, shape):
            found.append(self.inner.normal(purpose, shape))
            return found[-1]

        def __getattr__(self, name):
            return getattr(self.inner, name)

    method.loss(batch(x), Spy(rows(8)))
    drawn = torch.cat(found)
    assert len(found) == 3 and len(drawn.flatten(1).unique(dim=0)) == 24


@pytest.mark.parametrize("levels", ["karras", "equiprob"])
def test_no_decoder_hears_of_another(levels):
    """The gradient of one decoder's loss with respect to another is none at all; the encoder hears of each."""
    method, x = mae(levels=levels), images()
    named = parts(method)
    for j in range(3):
        rng = Blocks(0, torch.arange(4), 4)
        cond = method.cond(batch(x), rng)
        error = method.denoiser.errors(j, x, rng.normal("eps", SHAPE), method.levels.draw(j, rng), cond).mean()
        for name, parameters in named.items():
            found = torch.autograd.grad(error, parameters, allow_unused=True, retain_graph=True)
            heard = any(g is not None and bool(g.any()) for g in found)
            assert heard == (name in ("encoder", f"decoder{j}"))


def test_no_output_of_a_decoder_feeds_another():
    """What each decoder is given in training follows from image, mask and noise: other weights of the others change nothing."""
    method, x = mae(), images()
    given: list[tuple[torch.Tensor, ...]] = []
    hooks = [
        each.register_forward_pre_hook(lambda _, inputs: given.append(inputs)) for each in method.denoiser.net.decoders
    ]
    loss(method, x)
    with torch.no_grad():
        for each in method.denoiser.net.decoders:
            for p in each.parameters():
                p.add_(1.0)
    loss(method, x)
    assert len(given) == 6 and all(hook.remove() is None for hook in hooks)
    for first, again in zip(given[:3], given[3:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_detached_decoders_leave_the_encoder_to_a_plain_one():
    """No decoder's gradient reaches it; its own head trains it, as a masked autoencoder."""
    method, x = mae(encoder_grad="detach"), images()
    net = method.denoiser.net
    losses = loss(method, x)
    total = sum(value for name, value in losses.items() if name != "loss")
    assert losses["loss"].item() == pytest.approx(total.item(), rel=1e-5)
    rng = Blocks(0, torch.arange(4), 4)
    cond = method.cond(batch(x), rng)
    plain = net.plain(cond["features"], cond["visible"])
    mask = ~net.pixels(cond["visible"]).expand(x.shape)
    alone = ((plain - x) ** 2)[mask].mean()
    assert losses["plain"].item() == pytest.approx(alone.item(), rel=1e-5)
    own = torch.autograd.grad(alone, list(net.encoder.parameters()))
    whole = torch.autograd.grad(losses["loss"], list(net.encoder.parameters()))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(own, whole, strict=True))


@pytest.mark.parametrize(
    "options", [{}, {"levels": "equiprob"}, {"encoder_grad": "detach"}, {"weighting": "none"}, {"decoders": 1}]
)
def test_every_parameter_gets_a_gradient(options):
    """In one step, after one on which biases that begin at zero have moved; of keys' biases softmax knows nothing."""
    method, x = mae(**options), images(8)
    with torch.no_grad():
        for p in method.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    loss(method, x)["loss"].backward()
    for name, p in method.named_parameters():
        assert p.grad is not None, name
        used = p.grad.reshape(3, -1)[[0, 2]] if name.endswith("qkv.bias") else p.grad
        assert (used != 0).any(), name


def test_groups_hold_every_parameter_once_and_matrices_alone_decay():
    method = mae(encoder_grad="detach", levels="equiprob")
    groups, names = list(method.parameter_groups()), {id(p): n for n, p in method.named_parameters()}
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(names)
    assert {group["part"] for group in groups} == {"encoder", "plain", "decoder0", "decoder1", "decoder2"}
    for group in groups:
        for p in group["params"]:
            name = names[id(p)]
            assert f".{group['part'].replace('decoder', 'decoders.')}." in f".{name}"
            still = name.endswith(("bias", ".token", ".mask")) or "norm" in name
            assert (group.get("weight_decay") == 0.0) == still, name


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_batches_has_nothing_visible(share):
    """One draw a batch: all rows or none, the same in every part of it, and never in evaluation."""
    method, blind = mae(mask_dropout=share), []
    for step in range(400):
        index = torch.arange(step * 8, step * 8 + 8)
        blind.append(method.blind(Blocks(0, index, 8)))
        assert method.blind(Blocks(0, index[4:], 8)) == blind[-1]
    assert abs(sum(blind) / 400 - share) < 0.1  # four standard errors are 0.09
    assert not method.eval().blind(rows())


def test_blind_batches_train_the_class_token_alone():
    method, x = mae(mask_dropout=1.0), images()
    cond = method.cond(batch(x), Blocks(0, torch.arange(4), 4))
    assert cond["features"].shape == (4, 1, 32) and cond["visible"].shape == (4, 0)
    assert torch.equal(cond["features"], cond["features"][:1].expand(4, 1, 32))  # it knows nothing of the image
    assert torch.isfinite(loss(method, x)["loss"])


def test_parts_of_a_batch_average_to_the_whole():
    method, x = mae(levels="equiprob", mask_dropout=0.5), images(8)
    index = torch.arange(8)
    whole, *halves = (method.loss(Batch(i, x[i]), Blocks(0, i, 8))["loss"].item() for i in (index, *index.chunk(2)))
    assert sum(halves) / 2 == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("levels", ["karras", "equiprob"])
def test_autocast_touches_no_level_and_no_loss(levels):
    """In bfloat16 the network may be 1 % off; c_skip x_t, targets and losses are those of float32."""
    method, x = mae(levels=levels).eval(), images()
    d, t = method.denoiser, torch.tensor(1e-5, dtype=torch.float64)
    with torch.no_grad():
        for each in d.net.decoders:
            each.out.weight.zero_()
        plain, cond = method.loss(batch(x), rows()), method.cond(batch(x), rows())
        x_t = x + 1e-3 * torch.randn(x.shape)
        whole = d(x_t, t, cond)
        with torch.autocast("cpu", torch.bfloat16):
            mixed, pair = method.loss(batch(x), rows()), d(x_t, t, cond)
    for name in plain:
        assert mixed[name].dtype == torch.float32 and torch.equal(mixed[name], plain[name])
    assert pair.x_0.dtype == torch.float32 and torch.equal(pair.x_0, whole.x_0) and torch.equal(pair.eps, whole.eps)
