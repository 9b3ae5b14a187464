"""Sets of pictures in the features of one extractor: samples, held-out images, and training images in place of samples."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffcli.errors import PluginError, UsageError, show
from diffcli.metrics import frechet, kernel, manifold
from diffcli.metrics.features import Extractor
from diffcli.plugin import NoOptions
from diffcli.registry import registry

if TYPE_CHECKING:
    from diffcli.engine.assemble import Facts
    from diffcli.engine.evaluate import Bench

REFERENCE = 10000  # most held-out images that samples are compared with


def extractors(names: str, facts: Facts) -> list[Extractor]:
    """Those asked for by name, with commas; auto is every installed one that fits the data. UsageError names what is wrong."""
    known = registry().specs("extractor")
    if names.strip() != "auto":
        return [made(name.strip(), facts) for name in dict.fromkeys(names.split(","))]
    found = []
    for name in known:
        try:
            found.append(made(name, facts))
        except UsageError:
            continue
    return found


def made(name: str, facts: Facts) -> Extractor:
    """One extractor for data of this kind. PluginError where it is none."""
    extractor: Extractor = registry().get("extractor", name).load()(NoOptions(), facts)
    kinds = {"sha256": str, "resizer": str, "size": int, "classes": int}
    wrong = [field for field, kind in kinds.items() if type(getattr(extractor, field, None)) is not kind]
    if wrong or getattr(extractor, "name", None) != name:
        raise PluginError(f"extractor {name} says nothing usable of its {wrong[0] if wrong else 'name'}; see Extractor")
    return extractor


def features(extractor: Extractor, x: Tensor) -> Tensor:
    """(n, size) float64 features of pictures (n, C, H, W) in [-1, 1]. PluginError where they are none."""
    found = extractor.features(x)
    shape = tuple(getattr(found, "shape", ()))
    if shape != (len(x), extractor.size):
        raise PluginError(
            f"extractor {extractor.name} gave features {shape} of {len(x)} pictures, not {(len(x), extractor.size)}"
        )
    if not bool(torch.isfinite(found).all()):
        raise PluginError(f"extractor {extractor.name} gave features that are not finite")
    return found.double().cpu()


def classes(extractor: Extractor, x: Tensor) -> Tensor:
    """(n,) classes that a judge tells. PluginError where they are none."""
    found = extractor.classify(x)
    if tuple(getattr(found, "shape", ())) != (len(x),) or found.is_floating_point():
        raise PluginError(f"extractor {show(extractor.name)} gave no class for each of {len(x)} pictures")
    return found.cpu()


class Compared:
    """What distances are measured between, computed once for all of them.

    drawn (n, d): samples, as they are drawn, clamped; real (m, d): at most REFERENCE held-out images; floor: as many
    training images as samples, or all there are.
    """

    def __init__(self, bench: Bench, extractor: Extractor):
        self.bench, self.extractor = bench, extractor

    @cached_property
    def drawn(self) -> Tensor:
        return features(self.extractor, self.bench.samples.x.clamp(-1, 1))

    @cached_property
    def real(self) -> Tensor:
        return features(self.extractor, self.bench.real(self.bench.test, REFERENCE)[0])

    @cached_property
    def floor(self) -> Tensor:
        return features(self.extractor, self.bench.real(self.bench.train, len(self.drawn))[0])

    @cached_property
    def real_moments(self) -> frechet.Moments:
        return frechet.moments(self.real)

    @cached_property
    def real_kernel(self) -> kernel.Kernel:
        return kernel.within(self.real)

    @cached_property
    def real_manifold(self) -> manifold.Manifold:
        return manifold.manifold(self.real)

    def facts(self) -> dict[str, Any]:
        """What each distance must name."""
        more: dict[str, Any] = {
            "split": self.bench.test.split,
            "n": len(self.drawn),
            "extractor": self.extractor.name,
            "extractor_sha256": self.extractor.sha256,
            "resizer": self.extractor.resizer,
            "reference": len(self.real),
            "reference_sha256": self.bench.reference_sha256,
        }
        return more if len(self.floor) == len(self.drawn) else more | {"floor_n": len(self.floor)}


def digest(x: Tensor) -> str:
    """SHA-256 of pictures, whatever device and layout they had."""
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


class Plain:
    """The space of images as they are: what real pictures are measured in."""

    @staticmethod
    def encode(x: Tensor) -> Tensor:
        return x
