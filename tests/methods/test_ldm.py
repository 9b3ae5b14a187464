"""Latent diffusion: the size of its networks, that they attend, how they are guided, and what they share with ddpm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from commands import TINY, run
from diffcli import recipe as recipes
from diffcli.core.denoiser import Counted, Guided
from diffcli.core.method import Batch, Preview
from diffcli.core.process import expand
from diffcli.core.random import Blocks, Rows
from diffcli.core.space import Pixels
from diffcli.engine import preview
from diffcli.engine import walk as walks
from diffcli.engine.assemble import Facts, assemble
from diffcli.engine.load import Model
from diffcli.engine.sample import sample
from diffcli.errors import UsageError
from diffcli.nn.blocks import CrossAttention
from diffcli_ldm import ConcatOptions, CrossOptions
from diffcli_ldm.network import ConcatUNet, CrossUNet
from diffcli_vision import UNetOptions
from diffcli_vision.unet import UNet

FACTS = Facts("made", "made/train", (1, 8, 4), 10, tuple("0123456789"))
LATENTS = Pixels((2, 4, 4), 10)
PUBLISHED = UNetOptions(channels=64, multipliers=(1, 2), attention=(0, 1))
BOTH = [(ConcatUNet, ConcatOptions), (CrossUNet, CrossOptions)]


class Reshaped(nn.Module):
    """An autoencoder that loses nothing: 1x8x4 pixels as 2x4x4 latents."""

    latent_bound = 2.5

    def encode(self, x):
        return 2 * x.reshape(-1, 2, 4, 4)

    def decode(self, z, rng):
        return z.reshape(-1, 1, 8, 4) / 2


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def network(target, config, classes=10):
    torch.manual_seed(0)
    return target(config, LATENTS, inputs=2, outputs=2, classes=classes)


def build(**tables):
    tables = {"method": {"name": "ldm"}, **tables}
    tables["model"] = {"channels": 8, **tables.get("model", {})}
    return assemble(recipes.resolve(tables), FACTS, Reshaped())


def model_of(assembly):
    return Model(
        assembly.recipe, assembly.method.eval(), assembly.space, FACTS, torch.device("cpu"), "here", 0, "raw", ""
    )


def batch(n=16):
    x = torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    return Batch(torch.arange(n), x, torch.arange(n) % 10)


def test_number_of_parameters():
    with torch.device("meta"):
        plain = UNet(PUBLISHED, LATENTS, inputs=2, outputs=2)
        concat = network(ConcatUNet, ConcatOptions(channels=64))
        cross = {m: network(CrossUNet, CrossOptions(channels=64, context_tokens=m)) for m in (1, 2, 4)}
    assert (count(plain), count(concat)) == (2_794_434, 2_795_186)
    assert {m: count(net) for m, net in cross.items()} == {m: 3_059_650 + 1_408 * m for m in (1, 2, 4)}
    parts = [plain.time, plain.stem, *plain.down, plain.middle, *plain.up]
    assert [count(part) for part in parts] == [82_432, 1_216, 127_488, 329_344, 723_456, 1_216_512, 312_704]
    assert count(plain.norm) + count(plain.head) == 1_282
    assert count(concat.table) == 176 and count(concat.stem) == 1_216 + 576
    assert [count(part) for part in cross[4].modules() if isinstance(part, CrossAttention)] == [66_304] * 4


def test_cross_attention_follows_every_self_attention():
    net = network(CrossUNet, CrossOptions(channels=8, multipliers=(1, 2), attention=(0, 1)))
    crossed = [name for name, part in net.named_modules() if isinstance(part, CrossAttention)]
    assert crossed == ["down.1.0.cross", "middle.0.cross", "up.0.0.cross", "up.0.1.cross"]


@pytest.mark.parametrize(("target", "options"), BOTH)
@pytest.mark.parametrize("shape", [(2, 4, 4), (1, 9, 13), (3, 16, 16)])
def test_output_has_the_shape_of_the_input_and_knows_the_label(target, options, shape):
    torch.manual_seed(0)
    net = target(options(channels=8), Pixels(shape, 10), inputs=shape[0], outputs=shape[0], classes=10).eval()
    x, c_noise = torch.randn(1, *shape).expand(3, *shape), torch.full((3,), 500.0)
    out = net(x, c_noise, {"label": torch.tensor([-1, 2, 3])})
    assert out.shape == x.shape
    assert (out[0] - out[1]).abs().max() > 1e-4 and (out[1] - out[2]).abs().max() > 1e-4
    alone = net(x[:1], c_noise[:1], {"label": torch.tensor([2])})
    assert torch.allclose(alone, out[1:2], atol=1e-5), "a row knows its own label alone"


def crossed(tokens):
    """(spatial standard deviations of what each cross-attention adds, |gradients| of q, k and v) of a random network."""
    net, spread = network(CrossUNet, CrossOptions(channels=32, context_tokens=tokens)), []
    parts = [part for part in net.modules() if isinstance(part, CrossAttention)]
    for part in parts:
        part.register_forward_hook(
            lambda part, given, out: spread.append((out - given[0]).std((2, 3)).mean().item()) or out
        )
    x, generator = torch.randn(8, 2, 4, 4), torch.Generator().manual_seed(1)
    out = net(x, torch.linspace(1, 1000, 8), {"label": torch.arange(8)})
    ((out - torch.randn(out.shape, generator=generator)) ** 2).mean().backward()
    return spread, [[float(linear.weight.grad.norm()) for linear in (part.q, part.k, part.v)] for part in parts]


def test_cross_attention_attends():
    """Of several tokens each position takes its own share, and queries and keys are trained; of one neither."""
    spread, gradients = crossed(4)
    assert len(spread) == 4 and min(spread) > 1e-3
    for q, k, v in gradients:
        assert q > 1e-3 * v and k > 1e-3 * v
    spread, gradients = crossed(1)
    assert max(spread) < 1e-6  # 1e-8 of rounding: the same numbers are added everywhere
    for q, k, v in gradients:
        assert v > 0 and q < 1e-5 * v and k < 1e-5 * v


def test_cross_attention_is_linears_and_a_softmax():
    torch.manual_seed(0)
    part = CrossAttention(12, 7, 4).double()
    x, context = torch.randn(2, 12, 3, 5, dtype=torch.float64), torch.randn(2, 6, 7, dtype=torch.float64)
    q = part.q(part.norm(x).flatten(2).mT).unflatten(2, (3, 4)).transpose(1, 2)  # (B, heads, HW, d)
    k, v = (linear(context).unflatten(2, (3, 4)).transpose(1, 2) for linear in (part.k, part.v))
    weights = (q @ k.mT / 2).softmax(-1)
    assert torch.allclose(part.weights(x, context), weights, atol=1e-12)
    h = part.out((weights @ v).transpose(1, 2).flatten(2)).mT.unflatten(2, (3, 5))
    assert torch.allclose(part(x, context), x + h, atol=1e-12)


def test_every_parameter_has_a_gradient():
    for target, options in BOTH:
        net = network(target, options(channels=8, head_channels=4))
        out = net(torch.randn(11, 2, 4, 4), torch.linspace(1, 1000, 11), {"label": torch.arange(11) - 1})
        (out**2).mean().backward()
        for name, p in net.named_parameters():
            if not name.endswith(".k.bias"):  # softmax ignores a constant in every score
                assert p.grad.abs().max() > 1e-9, name
        assert (net.table.weight.grad.abs().amax(1) > 0).all(), "each class, and the null class"


@pytest.mark.parametrize("conditioning", ["concat", "cross-attention"])
def test_guidance(conditioning):
    """null + w (class - null) in x_0 and in eps: 0 is null, 1 is the class, affine in w, and the pair explains x_t."""
    method = build(method={"name": "ldm", "conditioning": conditioning}).method.eval()
    x_t, t, cond = batch().x, torch.tensor(0.6, dtype=torch.float64), {"label": batch().label}
    counted = Counted(method.denoiser)

    def guided(w):
        return Guided(counted, w, method.weaken)(x_t, t, cond)

    with torch.no_grad():
        null, known = method.denoiser(x_t, t, method.weaken(cond)), method.denoiser(x_t, t, cond)
        assert (null.eps - known.eps).abs().max() > 1e-4
        for what in ("x_0", "eps"):
            assert torch.allclose(getattr(guided(0.0), what), getattr(null, what), atol=1e-6)
            assert torch.allclose(getattr(guided(1.0), what), getattr(known, what), atol=1e-6)
            low, middle, high = (getattr(guided(w), what) for w in (2.0, 3.0, 4.0))
            assert (low - 2 * middle + high).abs().max() <= 1e-5  # of numbers of size 1: float32 rounding
        pair, p = guided(7.5), method.denoiser.process
        again = expand(p.alpha(t), x_t) * pair.x_0 + expand(p.sigma(t), x_t) * pair.eps
        assert torch.allclose(again, x_t, atol=1e-5)
        counted.calls = counted.rows = 0
        guided(3.0)
        assert (counted.calls, counted.rows) == (1, 32)
        guided(0.0)
        assert (counted.calls, counted.rows) == (2, 48), "the null side alone"


@pytest.mark.parametrize(("scale", "nfe"), [(0.0, 5), (1.0, 5), (3.0, 10)])
def test_what_guidance_costs(scale, nfe):
    model = model_of(build(sample={"samples": 3, "steps": 5, "guidance_scale": scale}))
    drawn = sample(model, model.recipe.sample, model.recipe.parts["sampler"])
    assert (drawn.nfe, drawn.calls) == (nfe, 5)


def test_labels_are_dropped_in_training_alone():
    method, index = build().method, torch.arange(20000)
    wish = Batch(index, label=index % 10)
    dropped = (method.train().cond(wish, Blocks(0, index, 20000))["label"] == -1).double().mean()
    assert dropped == pytest.approx(0.1, abs=0.01)  # 4.7 sigma of 20,000 draws
    assert torch.equal(method.eval().cond(wish, Blocks(0, index, 20000))["label"], wish.label)
    rng = Blocks(0, index, 20000)
    assert (method.cond(Batch(index), rng)["label"] == -1).all(), "no label is the null label"


def test_the_null_row_is_trained():
    method = build().method.train()
    index = torch.arange(64)
    data = Batch(index, torch.randn(64, 2, 4, 4), torch.full((64,), 3))
    method.loss(data, Blocks(0, index, 64))["loss"].backward()
    rows = method.denoiser.net.table.weight.grad.abs().amax(1)
    assert (rows > 0).nonzero().flatten().tolist() == [0, 4], "null, and class 3"


def test_without_classes_it_is_ddpm():
    """The same networks from the same seed, and bitwise the same first losses."""
    losses = {}
    for name in ("ddpm", "ldm"):
        model = {"name": "unet", "channels": 8, "multipliers": [1, 2], "attention": [0, 1]}
        tables = {"method": {"name": name, "cond": "none"}, "model": model, "schedule": {"name": "cosine"}}
        method = assemble(recipes.resolve(tables), FACTS, Reshaped()).method.train()
        places = (16 * k + torch.arange(16) for k in range(3))
        losses[name] = [
            method.loss(batch()._replace(index=place), Blocks(0, place, 16))["loss"].item() for place in places
        ]
    assert losses["ddpm"] == losses["ldm"] and len(set(losses["ldm"])) == 3


@pytest.mark.slow
def test_a_run_in_latents_without_classes_is_that_of_ddpm(tmp_path):
    """From the command line, on one autoencoder, which sampling finds by itself."""
    tiny = [*TINY[:6], "--log-every", "1"]
    ran = run("train", "vae", *tiny, "--multipliers", "2", "--output", tmp_path / "vae")
    assert ran.code == 0, ran.err
    losses = {}
    for method in ("ddpm", "ldm"):
        network = ["--multipliers", "1,2", "--attention", "0,1", "--lr", "1e-3", "--schedule", "cosine"]
        folder = tmp_path / method
        more = ["--autoencoder", tmp_path / "vae", "--cond", "none", "--output", folder]
        ran = run("train", method, *tiny, *network, *more)
        assert ran.code == 0, ran.err
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        losses[method] = [line["loss"] for line in lines if "loss" in line]
    assert losses["ddpm"] == losses["ldm"] and len(losses["ldm"]) == 4
    ran = run("sample", tmp_path / "ldm", "--samples", "2", "--steps", "2", "--output", tmp_path / "drawn")
    assert ran.code == 0 and Path(tmp_path / "drawn" / "grid.png").is_file(), ran.err


def test_what_cannot_be_is_refused_before_an_autoencoder_is_trained(tmp_path, cli):
    ran = cli("train", "ldm", "--model", "unet-cross", "--conditioning", "concat")
    assert ran.code == 2 and "--conditioning concat is another way" in ran.err
    assert "train" not in ran.out and not list(tmp_path.glob("runs/*/*"))
    ran = cli("train", "ldm", "--conditioning", "cross-attention", "--context-tokens", "1")
    assert ran.code == 2 and "--context-tokens is '1', but takes a whole number, 2 or more" in ran.err


def test_x_0_stays_within_the_latents_own_bound(monkeypatch):
    """A random network on the cosine table, where alpha(1) = 5e-5 makes any error of eps a large one of x_0."""
    seen = []

    class Watched(walks.Clipped):
        def __call__(self, x_t, t, cond):
            pair = super().__call__(x_t, t, cond)
            seen.append(float(pair.x_0.abs().max()))
            return pair

    monkeypatch.setattr(walks, "Clipped", Watched)
    model = model_of(build(schedule={"name": "cosine"}, sample={"samples": 4, "steps": 100}))
    clipped = sample(model, model.recipe.sample, model.recipe.parts["sampler"])
    assert len(seen) == 100 and max(seen) == 2.5
    assert clipped.x_0.abs().max() <= 2.5 + 1e-4 and clipped.x.shape == (4, 1, 8, 4)
    free = sample(model, replace(model.recipe.sample, clip=0.0), model.recipe.parts["sampler"])
    assert len(seen) == 100 and free.x_0.abs().max() > 10, "--clip 0 turns it off"


def test_the_form_decides_the_network_and_how_it_is_drawn():
    drawn = {}
    for form in ({}, {"conditioning": "concat"}, {"conditioning": "cross-attention"}, {"cond": "none"}):
        r = recipes.resolve({"method": {"name": "ldm", **form}})
        eta, o = r.parts["sampler"].config.eta, r.sample
        drawn[tuple(form.values())] = (r.parts["model"].name, r.parts["sampler"].name, eta, o.steps, o.guidance_scale)
    assert drawn == {
        (): ("unet-concat", "ddim", 0.05, 100, 3.0),
        ("concat",): ("unet-concat", "ddim", 0.05, 100, 3.0),
        ("cross-attention",): ("unet-cross", "ddim", 0.05, 100, 3.0),
        ("none",): ("unet", "ddim", 0.0, None, 1.0),
    }
    tables = {"method": {"name": "ldm"}, "sampler": {"name": "ancestral"}}
    other = recipes.resolve(tables).sample
    assert (other.steps, other.guidance_scale) == (None, 3.0), "the steps were chosen for ddim"
    assert recipes.resolve({**tables, "sample": {"steps": 7}}).sample.steps == 7
    assert recipes.resolve({"method": {"name": "ldm"}}).evaluation({}).guidance_scale == 3.0


def test_one_way_to_say_the_form():
    with pytest.raises(UsageError, match="--cond none has none"):
        recipes.resolve({"method": {"name": "ldm", "cond": "none", "conditioning": "concat"}})
    with pytest.raises(UsageError, match=r"--conditioning concat is another way .* cross-attention"):
        build(method={"name": "ldm", "conditioning": "concat"}, model={"name": "unet-cross"})
    assert build(model={"name": "unet-cross"}).method.denoiser.net.conditioning == "cross-attention"
    assert build(model={"name": "unet"}).method.denoiser.net.label is not None, "the class, added to the time"
    with pytest.raises(UsageError, match=r"--model unet-concat is told a class, .* --cond label"):
        build(method={"name": "rf"}, model={"name": "unet-concat"})


@pytest.mark.parametrize("name", ["unet-concat", "unet-cross"])
@pytest.mark.parametrize("method", ["rf", "ddpm"])
def test_other_methods_take_the_networks_in_latents_and_in_pixels(method, name):
    for autoencoder in (None, Reshaped()):
        tables = {"method": {"name": method, "cond": "label"}, "model": {"name": name, "channels": 8}}
        made = assemble(recipes.resolve(tables), FACTS, autoencoder)
        index = torch.arange(4)
        x = made.space.encode(torch.rand(4, 1, 8, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1)
        assert made.method.eval().loss(Batch(index, x, index), Rows(0, index, 4))["loss"].isfinite()


def test_the_null_class_can_be_asked_for():
    """--label none is what the network says with no class, under any name and with any guidance."""
    model = model_of(build(sample={"samples": 3, "steps": 4}))
    part, o = model.recipe.parts["sampler"], model.recipe.sample
    drawn = {label: sample(model, replace(o, label=label), part) for label in ("none", "3")}
    assert drawn["none"].label.tolist() == [-1, -1, -1] and drawn["none"].facts["label"] == "none"
    assert drawn["none"].name(2) == "002" and drawn["3"].name(2) == "002-class3"
    null = sample(model, replace(o, label="3", guidance_scale=0.0), part)
    assert torch.allclose(drawn["none"].x, null.x, atol=1e-5)
    assert (drawn["3"].x - null.x).abs().max() > 1e-4
    with pytest.raises(UsageError, match="--label none is no class"):
        sample(model, replace(o, label="3,none"), part)


def test_the_null_class_is_not_guided(monkeypatch):
    """A scale that nobody asked for is 1 there, and costs nothing; one that was asked for is refused."""
    model = model_of(build(sample={"samples": 3, "steps": 4}))
    part, o = model.recipe.parts["sampler"], replace(model.recipe.sample, label="none")
    assert o.guidance_scale == 3
    drawn = sample(model, o, part)
    assert (drawn.nfe, drawn.facts["guidance_scale"]) == (4, 1)
    assert torch.equal(sample(model, replace(o, guidance_scale=1.0), part).x, drawn.x)
    for scale in (0.0, 4.0):
        with pytest.raises(UsageError, match=f"--guidance-scale {scale:g} leads from the null class"):
            sample(model, replace(o, guidance_scale=scale), part)
    monkeypatch.setattr(model.method, "preview", lambda: Preview(sample={"guidance_scale": 2.0}))
    never = replace(model, recipe=replace(model.recipe, sample=o))
    assert preview.settings(never).sample.guidance_scale == 1 and preview.settings(model).sample.guidance_scale == 2
    preview.plan(never, None)
