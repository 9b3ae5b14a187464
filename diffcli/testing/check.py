"""`diffcli plugins check NAME`: the suites of a plugin or of a component, run without pytest."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest import SkipTest

import torch

from diffcli.errors import DiffcliError, UsageError, show
from diffcli.options import nearest
from diffcli.plugin import KINDS, Kind
from diffcli.registry import named as meant
from diffcli.registry import registry, sources
from diffcli.testing.dataset import DatasetSuite
from diffcli.testing.denoiser import DenoiserSuite
from diffcli.testing.extractor import ExtractorSuite
from diffcli.testing.logger import LoggerSuite
from diffcli.testing.method import MethodSuite
from diffcli.testing.model import ModelSuite
from diffcli.testing.plugin import PluginSuite
from diffcli.testing.sampler import SamplerSuite
from diffcli.testing.schedule import ScheduleSuite
from diffcli.testing.suite import Suite

SUITES: dict[Kind, tuple[type[Suite], ...]] = {
    "method": (MethodSuite, DenoiserSuite),
    "model": (ModelSuite,),
    "schedule": (ScheduleSuite,),
    "sampler": (SamplerSuite,),
    "dataset": (DatasetSuite,),
    "extractor": (ExtractorSuite,),
    "logger": (LoggerSuite,),
}


@dataclass(frozen=True)
class Verdict:
    """Whether a component keeps a law. detail: what was found, or why it does not apply; traceback: of a broken one."""

    kind: str
    component: str
    law: str
    outcome: Literal["ok", "broken", "skipped"]
    detail: str = ""
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.outcome}: {self.kind} {self.component}: {self.law}" + (f": {self.detail}" if self.detail else "")


def check(name: str, report: Callable[[str], None] | None = None) -> list[Verdict]:
    """Whether a plugin with all its components, or the components of one name, keep their laws.

    report: told each law before it is tried. What a plugin prints goes to stderr. Raises UsageError for an unknown name,
    and nothing that a plugin raises.
    """
    found, threads = suites(name), torch.get_num_threads()
    torch.set_num_threads(1)  # small tensors
    try:
        with redirect_stdout(sys.stderr):
            return [verdict for suite in found for verdict in judged(suite, report)]
    finally:
        torch.set_num_threads(threads)


def suites(name: str) -> list[type[Suite]]:
    """Those of a plugin and all it brings, or of the components of a name."""
    found = registry()
    plugins = {source.origin.plugin for source in sources(os.environ.get("DIFFCLI_PLUGINS", ""))}
    parts = [(kind, part) for kind in KINDS for part in found.specs(kind)]
    if plugin := meant(name, plugins):
        wanted = [(kind, part) for kind, part in parts if found.origin(kind, part).plugin == plugin]
        return [named(PluginSuite, plugin), *(suite for kind, part in wanted for suite in suites_of(kind, part))]
    if wanted := [(kind, part) for kind, part in parts if part == name]:
        return [suite for kind, part in wanted for suite in suites_of(kind, part)]
    known = [*plugins, *(part for _, part in parts)]
    hint = nearest(name, known, "; see diffcli plugins") + found.misfortune()
    raise UsageError(f"nothing is named '{show(name, 80)}'{hint}")


def suites_of(kind: Kind, name: str) -> list[type[Suite]]:
    """Those of a component."""
    return [named(suite, name) for suite in SUITES[kind]]


def named(suite: type[Suite], name: str) -> type[Suite]:
    """The suite of a component."""
    return type(suite.__name__, (suite,), {"name": name})


def judged(suite: type[Suite], report: Callable[[str], None] | None) -> Iterator[Verdict]:
    """The verdict on each law."""
    for method, law in suite.laws().items():
        if report:
            report(f"{suite.kind} {suite.name}: {law}")
        yield verdict(suite, method, law)


def verdict(suite: type[Suite], method: str, law: str) -> Verdict:
    """Try a law; whatever it raises is the plugin's failure, and never ours."""
    try:
        getattr(suite(), method)()
    except KeyboardInterrupt:
        raise
    except SkipTest as reason:
        return Verdict(suite.kind, suite.name, law, "skipped", show(reason))
    except BaseException as error:  # a plugin may do anything, SystemExit included
        lines = "".join(traceback.format_exception(error))
        return Verdict(suite.kind, suite.name, law, "broken", detail(error), lines)
    return Verdict(suite.kind, suite.name, law, "ok")


def detail(error: BaseException) -> str:
    """What went wrong, on one line; of an unforeseen exception its kind and where it was raised, too."""
    if isinstance(error, AssertionError | DiffcliError) and str(error):
        return show(error, 600)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" (at {Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {show(error)}{where}"
