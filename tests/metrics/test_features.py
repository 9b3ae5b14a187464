"""Extractors: what pixels are, which ones fit, and that what they give is looked at."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from diffcli.engine.assemble import Facts
from diffcli.engine.compared import ROWS, classes, digest, extractors, features
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
    assert names("pixels, lenet, pixels,lenet", facts(1, 8, 8, name="digits")) == ["pixels", "lenet"]


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


class Traced(Made):
    """Weights that ask for gradients, and a note of how many pictures came at a time."""

    def __init__(self) -> None:
        super().__init__(None)
        self.weight, self.seen = torch.ones(4, 4, requires_grad=True), []

    def features(self, x: Tensor) -> Tensor:
        self.seen.append((len(x), torch.is_grad_enabled()))
        return x.flatten(1) @ self.weight

    def classify(self, x: Tensor) -> Tensor:
        self.seen.append((len(x), torch.is_grad_enabled()))
        return x.flatten(1)[:, 0].sign().long()


def test_extractors_see_some_pictures_at_a_time_and_keep_no_graph():
    """10,000 pictures at once would be all activations of a network at once, with what gradients take."""
    extractor, x = Traced(), noise(ROWS * 2 + 1, 1, 2, 2)
    f = features(extractor, x)
    assert torch.allclose(f, x.flatten(1).double().sum(1)[:, None].expand(-1, 4), atol=1e-5)
    assert torch.equal(classes(extractor, x), x.flatten(1)[:, 0].sign().long()) and not f.requires_grad
    assert extractor.seen == [(ROWS, False), (ROWS, False), (1, False)] * 2


class Broken(Made):
    def features(self, x: Tensor) -> Any:
        raise KeyError("layer\n4")

    classify = features


@pytest.mark.parametrize(("call", "hook"), [(features, "features"), (classes, "classify")])
def test_what_an_extractor_raises_names_it(call, hook):
    with pytest.raises(PluginError) as raised:
        call(Broken(None), noise(3, 1, 2, 2))
    assert str(raised.value).startswith(f"extractor made: {hook} raised KeyError: ") and "\n" not in str(raised.value)
    assert raised.value.code == 5


def test_a_full_memory_is_no_fault_of_an_extractor(monkeypatch):
    def full(x: Tensor) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    extractor = Made(None)
    monkeypatch.setattr(extractor, "features", full, raising=False)
    with pytest.raises(torch.OutOfMemoryError):
        features(extractor, noise(3, 1, 2, 2))


def test_what_an_extractor_raises_when_it_is_made_names_it(monkeypatch):
    def broken(self: Any, config: Any, facts: Any) -> None:
        raise OSError("no weights")

    monkeypatch.setattr(Pixels, "__init__", broken)
    with pytest.raises(PluginError, match="extractor pixels: construction raised OSError: no weights; tell its author"):
        extractors("pixels", facts(1, 8, 8))


def test_a_digest_is_of_the_pictures_and_not_of_how_they_were_computed():
    """Rounding of another device is 1e-7, a level of 255 is 8e-3; parts and layouts do not matter."""
    x = torch.randint(0, 256, (7, 3, 4, 4), generator=torch.Generator().manual_seed(0)).float() / 127.5 - 1
    same = [[x], x.split(2), [(x + 1e-7)], [(x - 1e-7)], [x.contiguous(memory_format=torch.channels_last)]]
    assert len({digest(parts) for parts in same}) == 1
    other = x.clone()
    other[3, 1, 2, 2] += 2 / 255 if other[3, 1, 2, 2] < 0 else -2 / 255
    assert digest([other]) != digest([x]) != digest([x.flip(0)])


def test_features_are_float64():
    extractor: Extractor = Pixels(NoOptions(), facts(1, 8, 8))
    assert features(extractor, noise(2, 1, 8, 8)).dtype == torch.float64
