"""mdiffae trained, previewed, drawn, measured, exported and lived in, from the command line."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image

import diffcli
from commands import run
from diffcli.engine.assemble import open_data
from masked_autoencoders import normal

NETWORK = ["--width", "16", "--encoder-depth", "1", "--decoder-depth", "1", "--kernel", "3"]
SHORT = ["--steps", "4", "--batch-size", "8", "--log-every", "1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with run/, trained for four steps on shapes, and pictures/ of several sizes."""
    folder = tmp_path_factory.mktemp("mdiffae")
    ran = run("train", "mdiffae", *NETWORK, *SHORT, "--output", folder / "run")
    assert ran.code == 0, ran.err
    (folder / "pictures").mkdir()
    for k, size in enumerate([(16, 16), (31, 22), (8, 40)]):
        Image.linear_gradient("L").resize(size).convert("RGB").save(folder / "pictures" / f"{k}.png")
    return folder


@pytest.fixture
def here(home, tmp_path, monkeypatch) -> Path:
    """A copy of it, where commands run."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_shows_images_what_comes_back_and_what_is_left_of_hidden_tokens(here):
    previews = [path.name for path in (here / "run" / "samples").glob("*.png")]
    assert "final-rows.png" in previews and "final.png" in previews
    assert "latents of 8x4x4 = 128 numbers, 6 times fewer" in (here / "run" / "log.txt").read_text()
    recipe = tomllib.loads((here / "run" / "recipe.toml").read_text())
    assert recipe["schedule"]["name"] == "logsnr-cosine" and recipe["schedule"]["noise_std"] == 0.558
    assert (recipe["model"]["patch_size"], recipe["model"]["latent_channels"]) == (4, 8)


def test_samples_are_reconstructions_in_one_step(here):
    ran = run("sample", "run", "--samples", "3", "--output", "drawn")
    assert ran.code == 0, ran.err
    profile = json.loads(Path("drawn/profile.json").read_text())
    assert (profile["nfe"], profile["steps"], profile["clip"], profile["guidance_scale"]) == (1, 1, 0, 1)
    model = diffcli.load("run")
    data, items = open_data(model.recipe, "test"), torch.arange(3)
    x = data.batch(items, items, model.space).x
    # the noise is addressed by (seed, image), so two ways to the same image agree, whatever the batch
    assert torch.allclose(model.sample(3), model.reconstruct(x), atol=1e-5)


def test_guidance_and_steps_cost_calls_and_are_told(here):
    for flags, nfe in (
        (["--guidance-scale", "1.05"], 2),
        (["--steps", "4", "--spacing", "cosine"], 4),
        (["--sampler", "dpmpp-2m", "--steps", "2", "--final", "floor"], 2),
    ):
        ran = run("sample", "run", *flags, "--samples", "2", "--output", "-".join(flags))
        assert ran.code == 0, ran.err
        assert json.loads(Path("-".join(flags), "profile.json").read_text())["nfe"] == nfe
    ran = run("sample", "run", "--guidance-scale", "1.05", "--pdg", "path")
    assert ran.code == 2 and "this decoder is flat" in ran.err


def test_pictures_of_any_size_come_back_at_their_own(here):
    ran = run("sample", "run", "--input", "pictures", "--output", "back")
    assert ran.code == 0, ran.err
    for path in Path("pictures").iterdir():
        (back,) = Path("back", "images").glob(f"*{path.stem}.png")
        with Image.open(path) as picture, Image.open(back) as made:
            assert made.size == picture.size
    model, x = diffcli.load("run"), normal(1, 3, 22, 31).clamp(-1, 1)
    assert model.reconstruct(x).shape == x.shape
    with pytest.raises(diffcli.errors.UsageError, match="that 4 divides"):
        model.encode(x)


def test_measures_and_plots_of_its_own(here):
    ran = run("eval", "run", "--metric", "psnr,steps,guided,speed,latents", "--samples", "20", "--json")
    assert ran.code == 0, ran.err
    records = {record["metric"]: record for record in map(json.loads, Path("run/evals.jsonl").read_text().splitlines())}
    names = {f"steps[{k}]" for k in (1, 2, 4, 8)} | {"guided[psnr]", "speed[encode]", "speed[decode]", "psnr"}
    assert names | {f"latents[{k}]" for k in ("mean", "std", "compression")} <= records.keys()
    assert records["steps[1]"]["value"] == pytest.approx(records["psnr"]["value"], abs=1e-3)
    assert records["guided[psnr]"]["plain"] == pytest.approx(records["psnr"]["value"], abs=1e-3)
    assert records["latents[compression]"]["value"] == 6 and abs(records["latents[std]"]["value"] - 1) < 0.1
    assert records["psnr"]["floor_components"] == 128
    ran = run("eval", "run", "--plot", "rows,latents", "--samples", "20", "--columns", "3")
    assert ran.code == 0, ran.err
    assert {"rows.png", "latents.png"} <= {path.name for path in Path("run").rglob("*.png")}


def test_an_exported_folder_is_the_same_autoencoder(here):
    ran = run("export", "run", "folder")
    assert ran.code == 0, ran.err
    x = normal(2, 3, 16, 32).clamp(-1, 1)
    one, other = diffcli.load("run"), diffcli.load("folder")
    assert torch.equal(one.encode(x), other.encode(x)) and torch.equal(one.reconstruct(x), other.reconstruct(x))


@pytest.mark.parametrize("method", ["ddpm", pytest.param("rf", marks=pytest.mark.slow)])
def test_another_method_lives_in_its_latents(here, method):
    """A step is trained in latents of 8x4x4, and what is drawn has the size of the images."""
    unet = ["--channels", "8", "--multipliers", "1,2", "--steps", "1", "--batch-size", "8"]
    ran = run("train", method, *unet, "--autoencoder", "run", "--dataset", "shapes", "--output", method)
    assert ran.code == 0, ran.err
    model = diffcli.load(method)
    assert model.space.shape == (8, 4, 4) and model.sample(2, steps=2).shape == (2, 3, 16, 16)


def test_a_network_of_another_interface_is_refused(here):
    ran = run("train", "mdiffae", "--model", "unet", "--output", "no")
    assert ran.code == 2 and "dico-autoencoder" in ran.err
    ran = run("train", "ddpm", "--model", "dico-autoencoder", "--output", "no")
    assert ran.code == 2 and "unet" in ran.err
