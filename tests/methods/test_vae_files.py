"""`diffcli sample` of a vae: held-out images, files, latents, and the prior."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffcli.engine.assemble import open_data
from diffcli.engine.load import load
from diffcli.errors import NonFinite, UsageError
from diffcli_vae import VAESample
from diffcli_vision import latents
from diffcli_vision.latents import fingerprint

LATENTS = (2, 2, 2)


def test_held_out_images_are_reconstructed_in_their_order(vae):
    """Image i for sample i, and from the first again where more are asked for; nothing is random."""
    assert vae("--samples", "361").code == 0
    profile = json.loads(Path("drawn/profile.json").read_text())
    assert profile["nfe"] == 0 and profile["steps"] is None and profile["sampler"] is None
    model = load("run")
    data = open_data(model.recipe, "test")
    items = torch.tensor([0, 1, 358, 0, 1])
    x = data.batch(items, items, model.space).x
    with torch.no_grad():
        wanted = model.method.decode(model.method.encode(x))
    found = model.sample(361)[[0, 1, 358, 359, 360]]
    assert torch.allclose(found, wanted.clamp(-1, 1), atol=1e-5)


def test_files_are_reconstructed_one_sample_each(vae):
    """As many samples as files, in their order, each resized to the model's own 1x8x8."""
    drawn = []
    for k, text in enumerate(("pictures", "pictures/*.png", "pictures/0.png,pictures/1.png,pictures/2.png")):
        ran = vae("--input", text, output=f"drawn{k}")
        assert ran.code == 0, ran.err
        assert json.loads(Path(f"drawn{k}/profile.json").read_text())["samples"] == 3
        drawn.append([path.read_bytes() for path in sorted(Path(f"drawn{k}/images").iterdir())])
    assert len(drawn[0]) == 3 and drawn[0] == drawn[1] == drawn[2]
    method = load("run").method
    x = (torch.tensor([0.0, 100.0, 200.0]) / 127.5 - 1)[:, None, None, None].expand(3, 1, 8, 8)
    assert vae("--input", "pictures", "--keep-latents", output="kept").code == 0
    with torch.no_grad():
        assert torch.allclose(load_file("kept/latents.safetensors")["z"], method.encode(x), atol=1e-5)


def test_kept_latents_decode_to_the_same_images(vae):
    assert vae("--samples", "5", "--keep-latents", output="first").code == 0
    ran = vae("--latents", "first/latents.safetensors", output="second")
    assert ran.code == 0, ran.err
    assert json.loads(Path("second/profile.json").read_text())["samples"] == 5
    z = load_file("first/latents.safetensors")["z"]
    assert z.shape == (5, *LATENTS)
    model = load("run")
    assert torch.equal(model.sample(latents="first/latents.safetensors"), model.sample(5))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda z, meta: ({"z": z[:, :1].contiguous()}, meta),
            r"holds latents of \(1, 2, 2\), but this model's are \(2, 2, 2\)",
        ),
        (lambda z, meta: ({"z": z / 0}, meta), "not finite"),
        (lambda z, meta: ({"z": z.double()}, meta), "holds no float32 z"),
        (lambda z, meta: ({"x": z}, meta), "holds no float32 z"),
        (lambda z, meta: ({"z": z}, {**meta, "autoencoder": "0" * 64}), "of another autoencoder"),
        (lambda z, meta: ({"z": z}, {}), "of another autoencoder"),
        (lambda z, meta: ({"z": z}, {**meta, "more": "x" * 2**23}), "no whole file"),  # a header above 8 MiB
    ],
)
def test_latents_that_are_not_its_own_are_refused(vae, change, why):
    z, meta = torch.ones(2, *LATENTS), {"autoencoder": fingerprint(load("run").method)}
    tensors, meta = change(z, meta)
    save_file(tensors, "made.safetensors", meta)
    ran = vae("--latents", "made.safetensors")
    assert ran.code == 3 and "made.safetensors" in ran.err
    assert re.search(why, ran.err), ran.err


def test_latents_are_read_once_for_all_batches(vae, monkeypatch):
    assert vae("--samples", "5", "--keep-latents").code == 0
    model, whole = load("run"), load("run").sample(latents="drawn/latents.safetensors")
    count = Mock(side_effect=latents.fingerprint)
    monkeypatch.setattr(latents, "fingerprint", count)
    parts = model.sample(latents="drawn/latents.safetensors", batch_size=2)
    assert count.call_count == 1 and torch.allclose(parts, whole, atol=1e-6)
    shutil.copy("drawn/latents.safetensors", "other.safetensors")
    z = load_file("other.safetensors")["z"]
    save_file({"z": -z}, "drawn/latents.safetensors", {"autoencoder": fingerprint(model.method)})
    assert not torch.allclose(model.sample(latents="drawn/latents.safetensors"), whole, atol=1e-3), (
        "read anew each time"
    )


def test_as_many_samples_as_files_or_none_said(vae):
    """A number of samples that is asked for, and is not that of the files, is refused."""
    assert vae("--samples", "5", "--keep-latents", output="kept").code == 0
    for flag, place, n in (("input", "pictures", 3), ("latents", "kept/latents.safetensors", 5)):
        ran = vae(f"--{flag}", place, "--samples", n + 4)
        assert ran.code == 2 and f"--samples {n + 4} was asked for, but the other flags make it {n}" in ran.err, ran.err
        assert not Path("drawn").exists()
        with pytest.raises(UsageError, match=f"make it {n}"):
            load("run").sample(16, **{flag: place})
        assert len(load("run").sample(n, **{flag: place})) == len(load("run").sample(**{flag: place})) == n


def test_what_is_not_finite_is_said_in_words_that_fit(vae):
    model = load("run")
    next(model.method.network.decoder.parameters()).fill_(float("nan"))
    with pytest.raises(NonFinite, match=r"^2 of 2 samples are not finite; draw from an earlier checkpoint") as error:
        model.sample(2)
    assert "--clip" not in str(error.value)


def test_the_prior_is_decoded_and_depends_on_the_seed(vae):
    assert vae("--prior", "--samples", "3").code == 0
    model = load("run")
    x = model.sample(3, prior=True)
    assert torch.equal(x, model.sample(3, prior=True)) and not torch.equal(x, model.sample(3, prior=True, seed=1))
    assert torch.allclose(x[:2], model.sample(3, prior=True, batch_size=2)[:2], atol=1e-5)


def test_input_that_has_gone_does_not_make_a_recipe_unreadable():
    """The number of samples follows the files where there are any; sampling says what is missing."""
    assert VAESample(input="nothing.png").samples == VAESample().samples
    assert VAESample(latents=Path("nothing")).samples == VAESample().samples
