"""Every plugin that comes with diffcli, and every component of it, keeps every law of the kit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffcli.plugin import KINDS
from diffcli.registry import OWN, registry
from diffcli.testing import DatasetSuite, MethodSuite, PluginSuite, SamplerSuite, ScheduleSuite, Suite
from diffcli.testing.check import SUITES
from diffcli_vision import FolderOptions
from diffcli_vision.sharded.packing import pack

SMALL = {"channels": 8, "multipliers": (1, 2)}  # of a U-Net
DECODERS = {"patch": 2, "width": 32, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_depth": 1}  # of a chain
DICO = {"width": 16, "encoder_depth": 1, "decoder_depth": 1, "kernel": 3}
OPTIONS: dict[tuple[str, str], Any] = {
    ("method", "rf"): {"model": SMALL},
    ("method", "ddpm"): {"model": SMALL},
    ("method", "iddpm"): {"model": SMALL, "dataset": {"size": 8}},
    ("method", "ldm"): {"model": SMALL},
    ("method", "mdlm"): {"model": SMALL},
    ("method", "mdiffae"): {"model": DICO},
    ("denoiser", "mdiffae"): {"model": DICO},
    ("method", "vae"): {"model": {"channels": 8}},
    ("method", "mae-noprop"): {"model": DECODERS, "dataset": {"size": 8}},
    ("denoiser", "mdlm"): {"model": SMALL},
    ("denoiser", "mae-noprop"): {"model": DECODERS, "dataset": {"size": 8}},
    ("model", "biggan-unet"): {"channels": 8},
    ("model", "unet-concat"): SMALL,
    ("model", "unet-cross"): SMALL,
    ("model", "kl-autoencoder"): {"channels": 8, "multipliers": (1, 2)},
    ("model", "mask-transformer"): {"width": 16, "depth": 2, "heads": 2},
    ("dataset", "folder"): {"path": "pictures", "size": 8},
    ("dataset", "shards"): {"path": "packed", "size": 8, "window": 1},
    ("dataset", "text"): {"path": "words.txt", "length": 16},
}
MORE: list[tuple[type[Suite], str, dict[str, Any]]] = [  # what some are with other options
    (ScheduleSuite, "polynomial-mask", {"power": 1.0}),
    (ScheduleSuite, "polynomial-mask", {"power": 10.0}),
    (SamplerSuite, "ddim", {"eta": 1.0}),
    (SamplerSuite, "churn", {"churn": 0.0}),
    (SamplerSuite, "dpmpp-2m-sde", {"eta": 0.0}),
    (SamplerSuite, "unmask", {"cache": False}),
    (SamplerSuite, "confidence", {"choice_temperature": 0.0}),
    (SamplerSuite, "remdm", {"strategy": "rescale", "eta": 1.0}),
    (SamplerSuite, "remdm", {"strategy": "conf", "eta": 0.5}),
    (DatasetSuite, "folder", {"path": "pictures", "size": 6, "crop": "random", "flip": True}),
    (DatasetSuite, "folder", {"path": "pictures", "size": 6, "crop": "resized", "color": "grey", "workers": 1}),
    (
        DatasetSuite,
        "shards",
        {"path": "packed/train-*.tar", "held_out": "packed/test-*.tar", "size": 6, "crop": "random"},
    ),
    (DatasetSuite, "cifar10", {"crop": 16, "flip": True}),
    (MethodSuite, "mdlm", {"method": {"missing": 0.5}, "model": SMALL}),
    (
        MethodSuite,
        "iddpm",
        {"method": {"objective": "vlb"}, "schedule": {"timesteps": 4}, "model": SMALL, "dataset": {"size": 8}},
    ),
    (MethodSuite, "mae-noprop", {"method": {"levels": "equiprob", "encoder_grad": "detach"}, "model": DECODERS}),
    (
        MethodSuite,
        "mdiffae",
        {"method": {"path_drop_prob": 0.5}, "model": {**DICO, "topology": "skip", "decoder_depth": 3}},
    ),
    (MethodSuite, "ldm", {"method": {"conditioning": "cross-attention"}, "model": SMALL}),
    (MethodSuite, "ldm", {"method": {"cond": "none"}, "model": SMALL}),
    (MethodSuite, "ddpm", {"method": {"prediction": "v"}, "schedule": {"name": "vp"}, "model": SMALL}),
]
LONG = ("test_the_loss_falls", "test_it_ends_on_the_data")  # laws that take seconds in all
LARGE = ("cifar10", "mnist", "fashion-mnist", "shapes")  # data sets that take seconds to compare


def shipped() -> Iterator[type[Suite]]:
    """The suites of everything that is ours."""
    for plugin in registry().plugins:
        if plugin.distribution == OWN:
            yield of(PluginSuite, plugin.plugin)
    for kind in KINDS:
        for name in registry().specs(kind):
            if registry().origin(kind, name).distribution == OWN:
                for suite in SUITES[kind]:
                    yield of(suite, name, OPTIONS.get((suite.kind, name), {}))
    for suite, name, options in MORE:
        yield of(suite, name, options)


def of(suite: type[Suite], name: str, options: Any = None) -> type[Suite]:
    """The suite of one of them."""
    return type(suite.__name__, (suite,), {"name": name, "options": options or {}})


def cases() -> Iterator[Any]:
    """A law of a suite each."""
    for suite in shipped():
        for law in suite.laws():
            more = next((f"-{k}" for k, found in enumerate(MORE) if found[2] is suite.options), "")
            slow = suite.name in LARGE or more or law in LONG
            id = f"{suite.kind}-{suite.name}{more}-{law.removeprefix('test_')}"
            yield pytest.param(suite, law, id=id, marks=[pytest.mark.slow] if slow else [])


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder with the pictures and the text that two data sets are of."""
    folder: Path = tmp_path_factory.mktemp("files")
    for k in range(24):
        place = folder / "pictures" / ("train", "test")[k % 8 in (3, 6)] / ("dark", "bright")[k % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").rotate(15 * k).resize((8, 8)).point(lambda v, k=k: v // 2 + 128 * (k % 2)).save(
            place / f"{k}.png"
        )
    pictures = FolderOptions(path=folder / "pictures")
    pack(pictures, folder / "packed", None, 5000, lambda done, total: None)
    (folder / "words.txt").write_text("".join(f"the square of {k} is {k * k}\n" for k in range(200)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield


@pytest.mark.parametrize(("suite", "law"), list(cases()))
def test_law(suite: type[Suite], law: str) -> None:
    getattr(suite(), law)()
