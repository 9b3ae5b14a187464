"""The shipped recipes: what they say is what they build."""

from __future__ import annotations

import string

import pytest

from diffcli import recipe as recipes
from diffcli.engine.assemble import Facts, assemble
from diffcli.parts import Part

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "shapes": (3, 16, 16)}
COUNTS = {
    "rf-mnist": 2_711_073,
    "ddpm-mnist": 2_711_073,
    "rf-cifar10": 35_746_307,
    "vae-mnist": 9_817_375,
    "iddpm-cifar10": 47_357_958,
    "mdlm-mnist": 16_884_673,
    "mdlm-shakespeare": 10_796_225,
    "mdiffae-v1": 81_410_496,
    "mdiffae-v2": 120_893_664,
    "mdiffae-cifar10": 3_797_620,
    "mae-noprop-cifar10": 7_250_112,
    "mae-noprop-cifar10-t1": 5_823_792,
    "mae-noprop-cifar10-t4": 5_908_032,
    "mae-noprop-cifar10-t10": 7_865_952,
    "mae-noprop-tiny-imagenet": 7_388_928,
    "mae-noprop-imagenet100": 43_086_336,
}

LARGE = ("mdiffae-v1", "mdiffae-v2")  # to draw their weights takes seconds; their counts are also tests of the network
BUILT = [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in recipes.shipped()]


def facts_of(data: Part) -> Facts:
    """What the data of a recipe will be: ten classes of pictures, or texts of 65 characters."""
    if data.name == "text":
        return Facts("text", "text/train", (data.config.length,), 0, (), string.printable[:65])
    if data.name == "folder":
        return Facts("folder", "folder/train", (3, data.config.size, data.config.size), 10, tuple(string.digits))
    shape, crop = SHAPES[data.name], getattr(data.config, "crop", None)
    shape = shape if crop is None else (shape[0], crop, crop)
    return Facts(data.name, f"{data.name}/train", shape, 10, tuple(string.digits))


@pytest.mark.parametrize("name", BUILT)
def test_it_resolves_builds_and_says_what_it_reaches(name):
    path = recipes.named(name)
    recipe = recipes.resolve(recipes.read(path))
    assert recipes.resolve(recipe.tables()) == recipe
    assert path.read_text(encoding="utf-8").startswith("# ")
    method = assemble(recipe, facts_of(recipe.parts["dataset"])).method
    if name in COUNTS:
        assert sum(p.numel() for p in method.parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", recipes.shipped())
def test_a_claim_names_all_that_gives_it(name):
    claim = recipes.resolve(recipes.read(recipes.named(name))).claim
    assert claim is not None or not name.endswith(("-cpu", "-digits"))
    if claim is not None:
        assert claim.metric and claim.protocol and claim.command and claim.hardware and claim.source
        assert claim.value > 0 and claim.tolerance > 0


def test_latent_networks_have_the_size_of_the_reference():
    """2x4x4 latents, base 64, multipliers 1,2: 2,794,434 parameters."""
    tables = {
        "method": {"name": "rf"},
        "model": {"name": "unet", "channels": 64, "multipliers": [1, 2], "attention": [0, 1]},
    }
    method = assemble(recipes.resolve(tables), Facts("latents", "", (2, 4, 4), 0, ())).method
    assert sum(p.numel() for p in method.parameters()) == 2_794_434
