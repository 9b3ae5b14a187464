"""The laws of a feature extractor: a fixed function of each picture, whose name, size and judgement are what it says."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, ClassVar, NamedTuple
from unittest import SkipTest

import torch
from torch import Tensor

from diffcli.engine.assemble import Facts
from diffcli.errors import DiffcliError, UsageError, show
from diffcli.options import structure
from diffcli.plugin import NoOptions
from diffcli.registry import registry
from diffcli.testing.dataset import offline
from diffcli.testing.suite import Suite, addressed, apart, drawn, need

PICTURES = 12
SHIPPED = ("digits", "shapes")  # data sets that are always here


class Case(NamedTuple):
    """An extractor for some data, and pictures of them (n, C, H, W)."""

    extractor: Any
    facts: Facts
    x: Tensor


def pictures(dataset: str) -> tuple[Facts, Tensor] | None:
    """The facts of a data set and its first test pictures; None where it cannot be opened or holds texts."""
    spec = registry().specs("dataset").get(dataset)
    if spec is None:
        return None
    try:
        with offline():
            data = spec.load()(structure(spec.config, {}, "[dataset]"), "test")
    except DiffcliError:
        return None
    facts, items = Facts.of(data), torch.arange(min(PICTURES, len(data)))
    return None if facts.alphabet else (facts, data.batch(items, items, facts.space(None)).x)


class ExtractorSuite(Suite):
    """The laws of a feature extractor, on the data sets of diffcli, those of its own plugin, and those in `datasets`."""

    kind: ClassVar[str] = "extractor"
    datasets: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def make(cls) -> list[Case]:
        found, refused = [], None
        plugin = registry().origin("extractor", cls.name).plugin
        own = [name for name in registry().specs("dataset") if registry().origin("dataset", name).plugin == plugin]
        for name in dict.fromkeys((*cls.datasets, *SHIPPED, *own)):
            if (data := pictures(name)) is None:
                continue
            try:
                found.append(Case(cls.spec().load()(NoOptions(), data[0]), *data))
            except UsageError as error:
                refused = error
        if not found:
            said = f"it fits no data set that was tried; of the last it says: {show(refused)}"
            raise AssertionError(said) from refused
        return found

    def test_its_facts_are_of_the_right_kind(self) -> None:
        """Its name is that of its spec; sha256, resizer, size and classes are what a number must name."""
        for extractor, facts, _ in self.made:
            on = f"on {facts.name}"
            need(
                extractor.name == self.name, f"{on} its name is {extractor.name!r}, but it is installed as {self.name}"
            )
            need(
                bool(re.fullmatch(r"|[0-9a-f]{64}", extractor.sha256)),
                f'{on} sha256 is {extractor.sha256!r}, not 64 digits, nor ""',
            )
            need(
                isinstance(extractor.resizer, str) and bool(extractor.resizer),
                f"{on} resizer is {extractor.resizer!r}, not words",
            )
            for what, least in (("size", 1), ("classes", 0)):
                value = getattr(extractor, what)
                need(
                    type(value) is int and value >= least,
                    f"{on} {what} is {value!r}, not a whole number of {least} or more",
                )

    @torch.no_grad()
    def test_features_are_as_it_says(self) -> None:
        """features gives finite numbers (n, size), other ones for other pictures."""
        for extractor, facts, x in self.made:
            f = extractor.features(x)
            found = f"of {len(x)} pictures of {facts.name} features are {tuple(f.shape)} {f.dtype}"
            need(
                f.shape == (len(x), extractor.size) and f.is_floating_point(),
                f"{found}, not ({len(x)}, {extractor.size}) of float",
            )
            need(torch.isfinite(f).all(), f"{found} and not finite")
            need(not torch.equal(f[0], f[1]), f"{found}, but the same for two pictures")

    @torch.no_grad()
    def test_features_are_a_function(self) -> None:
        """The same pictures give the same features, whatever the global streams of random numbers hold."""
        for extractor, facts, x in self.made:
            kept = x.clone()
            first, moved = drawn(partial(extractor.features, x))
            need(not moved, f"on {facts.name} they draw from the global stream of {', '.join(moved)}")
            need(torch.equal(x, kept), f"on {facts.name} the pictures are others afterwards; do not work in place")
            off = apart(first, extractor.features(x))
            need(off == 0, f"on {facts.name} they are {off:.2g} of the largest apart, twice of the same pictures")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                again = self.spec().load()(NoOptions(), facts)
            off = apart(first, again.features(x))
            need(
                off == 0 and again.sha256 == extractor.sha256,
                f"on {facts.name} another one of it is {off:.2g} of the largest apart; fix its weights",
            )

    @torch.no_grad()
    def test_rows_are_independent(self) -> None:
        """The features of a picture are the same in any batch."""
        for extractor, facts, x in self.made:
            whole = addressed(partial(extractor.features, x))
            alone = torch.cat([extractor.features(row) for row in x.split(1)])
            off = apart(whole, alone)
            need(off < 1e-4, f"on {facts.name} they are {off:.2g} of the largest apart")

    @torch.no_grad()
    def test_a_judge_tells_classes(self) -> None:
        """Where it is a judge, it tells the classes of the data: int64 (n,) from 0 to below `classes`."""
        judges = [case for case in self.made if case.extractor.classes]
        if not judges:
            raise SkipTest("it is no judge")
        for extractor, facts, x in judges:
            need(
                extractor.classes == facts.classes,
                f"on {facts.name} it tells {extractor.classes} classes apart, of {facts.classes}",
            )
            label = extractor.classify(x)
            need(
                label.shape == (len(x),) and label.dtype == torch.int64,
                f"on {facts.name} it gives {tuple(label.shape)} {label.dtype}",
            )
            low, high = int(label.min()), int(label.max())
            need(
                low >= 0 and high < extractor.classes,
                f"on {facts.name} it tells classes {low} to {high}, of {extractor.classes}",
            )
