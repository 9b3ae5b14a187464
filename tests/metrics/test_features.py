"""Extractors: what pixels are, which ones fit, and that what they give is looked at."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from diffcli.engine.assemble import Facts
from diffcli.engine.compared import classes, extractors, features
from diffcli.errors import PluginError, UsageError
from diffcli.metrics.features import Extractor, Pixels, resize
from diffcli.plugin import NoOptions


def facts(*shape: int, name: str = "pictures", classes: int = 10) -> Facts:
    return Facts(name, f"{name}/train", shape, classes, tuple(map(str, range(classes))))


TEXT = Facts("text", "text/train", (64,), 0, (), "abc")


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_pixels_are_the_pixels():
    x = noise(3, 2, 8, 6)
    pixels = Pixels(NoOptions(), facts(2, 8, 6))
    assert torch.equal(pixels.features(x), x.flatten(1)) and pixels.resizer == "none" and pixels.size == 96


def test_large_pictures_are_shrunk_without_aliases():
    """A checkerboard of single pixels is grey from afar; without antialiasing some of it would stay black or white."""
    x = torch.ones(1, 1, 96, 64)
    x[..., ::2, 1::2], x[..., 1::2, ::2] = -1, -1
    pixels = Pixels(NoOptions(), facts(1, 96, 64))
    seen = pixels.features(x)
    assert seen.shape == (1, pixels.size) == (1, 32 * 22)
    assert pixels.resizer == "bilinear antialiased 96x64 to 32x22"
    assert float(seen.abs().max()) < 0.35 and float(seen.mean().abs()) < 0.02
    assert torch.equal(resize(x, 96, 64), x)


def test_auto_is_what_fits():
    def names(which: str, of: Facts) -> list[str]:
        return [extractor.name for extractor in extractors(which, of)]

    assert names("auto", facts(1, 8, 8, name="digits")) == ["lenet", "pixels"]
    assert names("auto", facts(1, 8, 8)) == ["pixels"]
    assert names("auto", TEXT) == []
    assert names("pixels, lenet,pixels", facts(1, 8, 8, name="digits")) == ["pixels", "lenet"]


@pytest.mark.parametrize(
    ("name", "of", "says"),
    [
        ("pixels", TEXT, "pixels are of pictures, but text is text"),
        ("lenet", facts(1, 8, 8), "lenet knows digits, mnist, shapes, cifar10, but these data are pictures"),
        ("lenet", facts(2, 8, 8, name="digits"), "these have 2 channels"),
        ("pixel", facts(1, 8, 8), "no extractor named 'pixel'; did you mean 'pixels'"),
    ],
)
def test_what_does_not_fit_is_refused(name, of, says):
    with pytest.raises(UsageError, match=says):
        extractors(name, of)


@dataclasses.dataclass
class Made:
    """An extractor that gives what it is told to."""

    given: Any
    name: str = "made"
    size: int = 4
    classes: int = 2

    def features(self, x: Tensor) -> Any:
        return self.given

    classify = features


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (torch.zeros(3, 5), r"gave features \(3, 5\) of 3 pictures, not \(3, 4\)"),
        (torch.zeros(2, 4), r"gave features \(2, 4\) of 3 pictures"),
        (None, r"gave features \(\)"),
        (torch.full((3, 4), torch.nan), "not finite"),
    ],
)
def test_features_of_another_form_are_the_plugins_fault(given, says):
    with pytest.raises(PluginError, match=f"extractor made {says}|extractor made gave features that are {says}"):
        features(Made(given), noise(3, 1, 2, 2))


@pytest.mark.parametrize(
    "given", [torch.zeros(3), torch.zeros(2, dtype=torch.int64), torch.zeros(3, 1, dtype=torch.int64)]
)
def test_classes_of_another_form_are_the_plugins_fault(given):
    with pytest.raises(PluginError, match="extractor made gave no class for each of 3 pictures"):
        classes(Made(given), noise(3, 1, 2, 2))


def test_features_are_float64():
    extractor: Extractor = Pixels(NoOptions(), facts(1, 8, 8))
    assert features(extractor, noise(2, 1, 8, 8)).dtype == torch.float64
