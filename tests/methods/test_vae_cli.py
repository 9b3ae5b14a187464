"""`diffcli train vae` and what can be done with its run: images, files, latents, measures and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import DIGITS, TINY
from diffcli.engine import preview
from diffcli.engine.assemble import open_data
from diffcli.engine.load import load
from diffcli_vision.latents import fingerprint


def test_training_leaves_reconstructions_latents_and_statistics(vae_home):
    """Rows of given and made, the scatter of latents beside them, and the scale both in the weights and in the summary."""
    left = {path.name for path in (vae_home / "run" / "samples").iterdir()}
    assert {"final.png", "final-latents.png"} <= left
    assert not (vae_home / "run" / "trajectory").exists()  # there is no way to show
    summary = json.loads((vae_home / "run" / "summary.json").read_text())
    method = load(vae_home / "run").method
    for name in ("latent_scale", "latent_bound"):
        assert summary[name] == pytest.approx(float(getattr(method, name)), rel=1e-6) != 1
    assert abs(summary["latent_mean"]) < 100
    logged = json.loads((vae_home / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert {"loss", "rec", "kl"} <= logged.keys()


def test_a_loaded_model_encodes_as_it_did(vae_home):
    """Save and load to the bit, buffers too; the statistics are of the averaged weights and of all training images."""
    one, two = (load(vae_home / "run").method for _ in range(2))
    data = open_data(load(vae_home / "run").recipe, "train")
    items = torch.arange(len(data))
    x = data.batch(items, items, one.space).x
    with torch.no_grad():
        z = one.encode(x)
        assert torch.equal(z, two.encode(x)) and torch.equal(one.decode(z[:9]), two.decode(z[:9]))
    assert float(z.double().std(correction=0)) == pytest.approx(1, abs=1e-3)
    assert float(z.abs().max()) <= float(one.latent_bound)
    assert fingerprint(one) == fingerprint(two)


def test_previews_show_latents_of_their_own_scale(cli, monkeypatch):
    """Before the first checkpoint, too: s of the averaged weights, by which all training images deviate by 1."""
    seen = []

    def plots(bench, stem):
        items = torch.arange(len(bench.train))
        with torch.no_grad():
            z = bench.model.method.encode(bench.train.batch(items, items, bench.model.space).x)
        seen.append(float(z.double().std(correction=0)))

    monkeypatch.setattr(preview, "plots", plots)
    ran = cli("train", "vae", *DIGITS, *TINY, "--sample-every", "2", "--save-every", "0", "--output", "run")
    assert ran.code == 0 and seen == pytest.approx([1, 1], abs=1e-3), ran.err


def test_what_cannot_go_together_or_is_not_there_is_refused(vae):
    for argv, code, why in [
        (("--input", "pictures", "--prior"), 2, "two things to decode"),
        (("--prior", "--keep-latents"), 2, "encodes none"),
        (("--input", "nothing.png"), 2, "no picture that is there"),
        (("--input", "run/recipe.toml"), 3, "no readable image"),
        (("--latents", "nothing"), 3, "no latents at nothing"),
        (("--latents", "run/recipe.toml"), 3, "no whole file of latents"),
        (("--input", "pictures/0.png", "pictures/1.png"), 2, "quoted pattern"),
        (("--steps", "9"), 2, "--steps is of a walk"),
        (("--label", "3"), 2, "trained without"),
    ]:
        ran = vae(*argv)
        assert ran.code == code and why in ran.err and ran.err.count("\n") <= 2, (argv, ran.err)
        assert not Path("drawn").exists()


def test_measures_and_the_worst_reconstructions(vae, cli):
    """PSNR beside its floor, SSIM, the rate in nats and bits, the statistics; the least PSNR of all comes first."""
    ran = cli("eval", "run", "--samples", "50", "--images", "50", "--metric", "psnr,ssim,rate,latents", "--json")
    assert ran.code == 0, ran.err
    found = {r["metric"]: r for r in map(json.loads, Path("run/evals.jsonl").read_text().splitlines())}
    psnr = found["psnr"]
    assert psnr["floor_components"] == 8 and psnr["floor_n"] == 1438 and psnr["n"] == 50 and psnr["unit"] == "dB"
    model = load("run")
    data = open_data(model.recipe, "test")
    items = torch.arange(50)
    x = data.batch(items, items, model.space).x
    with torch.no_grad():
        y, (mean, logvar) = model.method.decode(model.method.encode(x)).clamp(-1, 1), model.method.posterior(x)
    each = -10 * (((x - y) / 2) ** 2).flatten(1).mean(1).log10()
    assert psnr["value"] == pytest.approx(float(each.mean()), abs=1e-3)
    assert psnr["standard_error"] == pytest.approx(float(each.std()) / 50**0.5, rel=1e-2)
    nats = 0.5 * float((mean**2 + logvar.exp() - 1 - logvar).sum()) / 50
    assert found["rate[nats]"]["value"] == pytest.approx(nats, rel=1e-4)
    assert found["rate[bits/latent]"]["value"] == pytest.approx(nats / np.log(2) / 8, rel=1e-4)
    assert found["latents[scale]"]["value"] == float(model.method.latent_scale)
    assert 0 < found["ssim"]["value"] < 1 and found["ssim"]["window"] == 7
    ran = cli("eval", "run", "--samples", "50", "--plot", "reconstructions")
    assert ran.code == 0, ran.err
    worst = json.loads(Path("run/plots/reconstructions.json").read_text())["worst"]
    assert [w["image"] for w in worst] == each.argsort()[:16].tolist()
    assert len(worst) == 16 and Path("run/plots/reconstructions.png").stat().st_size > 0


def test_methods_that_make_no_reconstructions_have_no_psnr(trained, cli):
    for flags in (("--metric", "psnr"), ("--metric", "ssim"), ("--plot", "reconstructions")):
        ran = cli("eval", next((trained / "runs" / "rf").iterdir()), *flags)
        assert ran.code == 2 and "is of reconstructions, but rf makes none" in ran.err


def test_networks_of_one_kind_do_not_serve_the_other(cli):
    """A denoiser is no autoencoder, and the reverse."""
    ran = cli("train", "ddpm", "--model", "kl-autoencoder")
    assert ran.code == 2 and "kl-autoencoder is a variational model, but ddpm is gaussian; use one of: " in ran.err
    ran = cli("train", "vae", "--model", "unet")
    assert ran.code == 2 and "unet is a gaussian model, but vae is variational; use one of: kl-autoencoder" in ran.err


def test_an_autoencoder_that_changed_by_a_bit_is_refused(vae, cli):
    flags = ("--steps", "2", "--batch-size", "8", "--channels", "8", "--save-every", "0")
    ran = cli("train", "rf", "--autoencoder", "run", *flags, "--output", "flow")
    assert ran.code == 0, ran.err
    assert cli("sample", "flow", "--samples", "2", "--steps", "2").code == 0
    weights = next(Path("run/checkpoints").iterdir()) / "ema.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    ran = cli("sample", "flow", "--samples", "2", "--steps", "2")
    assert ran.code == 4 and "autoencoder" in ran.err, ran.err


def test_colour_with_four_channels_of_latents_has_its_pictures(cli, tmp_path):
    """Without classes, and with z = 4: the scatter goes by principal components."""
    for k in range(20):
        pixels = np.random.default_rng(k).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k:02d}.png")
    data = ("--dataset", "folder", "--path", ".", "--size", "8")
    assert cli("train", "vae", *data, *TINY, "--latent-channels", "4", "--output", "run").code == 0
    assert (tmp_path / "run" / "samples" / "final-latents.png").stat().st_size > 0
