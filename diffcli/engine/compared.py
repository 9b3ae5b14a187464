"""Sets of pictures in the features of one extractor: samples, held-out images, and training images in place of samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffcli.errors import DiffcliError, PluginError, UsageError, show
from diffcli.metrics import frechet, kernel, manifold
from diffcli.metrics.features import Extractor
from diffcli.plugin import NoOptions
from diffcli.registry import registry

if TYPE_CHECKING:
    from diffcli.engine.assemble import Facts
    from diffcli.engine.evaluate import Bench

REFERENCE = 10000  # most held-out images that samples are compared with
VOTING = 20000  # most real training images that vote, unless --reference says otherwise
ROWS = 500  # pictures that an extractor sees at a time


def extractors(names: str, facts: Facts) -> list[Extractor]:
    """Those asked for by name, with commas; auto is every installed one that fits the data. UsageError names what is wrong."""
    known = registry().specs("extractor")
    if names.strip() != "auto":
        return [made(name, facts) for name in dict.fromkeys(name.strip() for name in names.split(","))]
    found = []
    for name in known:
        try:
            found.append(made(name, facts))
        except UsageError:
            continue
    return found


def made(name: str, facts: Facts) -> Extractor:
    """One extractor for data of this kind. PluginError where it is none."""
    build = registry().get("extractor", name).load()
    with blamed(name, "construction"):
        extractor: Extractor = build(NoOptions(), facts)
    kinds = {"sha256": str, "resizer": str, "size": int, "classes": int}
    wrong = [field for field, kind in kinds.items() if type(getattr(extractor, field, None)) is not kind]
    if wrong or getattr(extractor, "name", None) != name:
        raise PluginError(f"extractor {name} says nothing usable of its {wrong[0] if wrong else 'name'}; see Extractor")
    return extractor


@contextmanager
def blamed(name: str, what: str) -> Iterator[None]:
    """What an extractor raises is a PluginError that names it; what our own errors and a full memory say stays as it is."""
    try:
        yield
    except (DiffcliError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise PluginError(
            f"extractor {show(name, 80)}: {what} raised {type(error).__name__}: {show(error)}; tell its author"
        ) from error


@torch.no_grad()
def features(extractor: Extractor, x: Tensor) -> Tensor:
    """(n, size) float64 features of pictures (n, C, H, W) in [-1, 1], ROWS at a time. PluginError where they are none."""
    parts = []
    for rows in x.split(ROWS):
        with blamed(extractor.name, "features"):
            found = extractor.features(rows)
        shape = tuple(getattr(found, "shape", ()))
        if shape != (len(rows), extractor.size):
            raise PluginError(
                f"extractor {extractor.name} gave features {shape} of {len(rows)} pictures, not {(len(rows), extractor.size)}"
            )
        if not bool(torch.isfinite(found).all()):
            raise PluginError(f"extractor {extractor.name} gave features that are not finite")
        parts.append(found.double().cpu())
    return torch.cat(parts)


@torch.no_grad()
def classes(extractor: Extractor, x: Tensor) -> Tensor:
    """(n,) classes that a judge tells, ROWS at a time. PluginError where they are none."""
    parts = []
    for rows in x.split(ROWS):
        with blamed(extractor.name, "classify"):
            found = extractor.classify(rows)
        if tuple(getattr(found, "shape", ())) != (len(rows),) or found.is_floating_point():
            raise PluginError(f"extractor {show(extractor.name)} gave no class for each of {len(rows)} pictures")
        parts.append(found.cpu())
    return torch.cat(parts)


class Compared:
    """What distances are measured between, computed once for all of them.

    drawn (n, d): samples, as they are drawn, clamped; real (m, d): at most REFERENCE held-out images; floor: as many
    training images as samples, or all there are. Real images are of the classes that samples were asked for.
    """

    def __init__(self, bench: Bench, extractor: Extractor):
        self.bench, self.extractor = bench, extractor

    @cached_property
    def drawn(self) -> Tensor:
        return features(self.extractor, self.bench.samples.x.clamp(-1, 1))

    @cached_property
    def real(self) -> Tensor:
        return features(self.extractor, self.bench.alike(self.bench.test, REFERENCE))

    @cached_property
    def floor(self) -> Tensor:
        return features(self.extractor, self.bench.alike(self.bench.train, len(self.drawn)))

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
        """What each distance must name, with a warning where its floor is not that of as many images."""
        n, floor_n = len(self.drawn), len(self.floor)
        more: dict[str, Any] = {
            "split": self.bench.test.split,
            "n": n,
            "extractor": self.extractor.name,
            "extractor_sha256": self.extractor.sha256,
            "resizer": self.extractor.resizer,
            "reference": len(self.real),
            "reference_sha256": self.bench.reference_sha256,
        }
        if floor_n == n:
            return more
        why = f"the floor is of {floor_n} training images, all there are, but n = {n}: it is not one at the same n"
        return more | {"floor_n": floor_n, "warning": why}


def digest(parts: Iterable[Tensor]) -> str:
    """SHA-256 of pictures in [-1, 1], to a 1024th and so on any device alike, or of whole numbers; in the order they come."""
    found = hashlib.sha256()
    for x in parts:
        numbers = (x * 1024).round().to(torch.int16) if x.is_floating_point() else x.to(torch.int32)
        found.update(numbers.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


class Plain:
    """The space of images as they are: what real pictures are measured in."""

    @staticmethod
    def encode(x: Tensor) -> Tensor:
        return x
