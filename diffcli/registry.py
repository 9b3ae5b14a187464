"""The installed components: entry points -> specs, by kind and name. A broken plugin is set aside and nothing else is harmed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from typing import Any, NamedTuple

from diffcli.errors import PluginError, UsageError, show
from diffcli.hooks import collect
from diffcli.options import nearest
from diffcli.plugin import KINDS, Kind, Spec

OWN = "diffcli"
TOLD = 2  # broken plugins in an error about something else


class Origin(NamedTuple):
    """Who brought a component."""

    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.plugin} of {self.distribution} {self.version}".rstrip()


@dataclass(frozen=True)
class Broken:
    """A plugin that was set aside, and why."""

    name: str
    distribution: str
    version: str
    reason: str

    def __str__(self) -> str:
        return f"plugin {show(self.name, 80)} is broken: {show(self.reason, 160)}"


class Source(NamedTuple):
    """Where a plugin is to be imported from."""

    origin: Origin
    entry: EntryPoint


class Registry:
    """All specs, and the plugins that could not be used."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self.broken: list[Broken] = []
        self.plugins: list[Origin] = []
        self.errors: dict[str, BaseException] = {}  # of the broken ones, by name
        self._specs: dict[Kind, dict[str, Spec]] = {kind: {} for kind in KINDS}
        self._origins: dict[tuple[Kind, str], Origin] = {}
        for source in sources:
            try:
                with quiet():
                    found = collect(source.entry.load())
                self.add(found, source.origin)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a plugin may do anything at import, SystemExit included
                self.broken.append(Broken(*source.origin, reason(error, source.entry.value)))
                self.errors[source.origin.plugin] = error
        self._specs = {kind: dict(sorted(specs.items())) for kind, specs in self._specs.items()}

    def add(self, found: list[tuple[Kind, Spec]], origin: Origin) -> None:
        """Take all specs of a plugin, or none."""
        own: set[tuple[Kind, str]] = set()
        for kind, spec in found:
            if (kind, spec.name) in own:
                raise PluginError(f"it brings {kind} {spec.name} twice")
            if owner := self._origins.get((kind, spec.name)):
                raise PluginError(
                    f"{kind} {spec.name} is already brought by {owner}; {origin} must give its own another name"
                )
            own.add((kind, spec.name))
        for kind, spec in found:
            self._specs[kind][spec.name] = spec
            self._origins[kind, spec.name] = origin
        self.plugins.append(origin)

    def specs(self, kind: Kind) -> dict[str, Spec]:
        """The specs of a kind by name, sorted."""
        return self._specs[kind]

    def get(self, kind: Kind, name: str) -> Spec:
        """One spec. Raises UsageError with the nearest name where there is none."""
        specs = self._specs[kind]
        if name in specs:
            return specs[name]
        near = nearest(name, specs).removeprefix("; did you mean ").rstrip("?")
        hint = f"did you mean '{near}'?" if near else f"installed: {', '.join(specs) or 'none'}"
        raise UsageError(f"no {kind} named '{show(name, 80)}'; {hint}{self.misfortune()}")

    def misfortune(self) -> str:
        """`; plugin x is broken: why` of the first few that were set aside; nothing where all work."""
        more = f"; {len(self.broken) - TOLD} more: see diffcli plugins" if len(self.broken) > TOLD else ""
        return "".join(f"; {broken}" for broken in self.broken[:TOLD]) + more

    def origin(self, kind: Kind, name: str) -> Origin:
        """Entry point, distribution and version that brought a spec."""
        return self._origins[kind, self.get(kind, name).name]


@cache
def registry() -> Registry:
    """The registry of this process."""
    return Registry(sources(os.environ.get("DIFFCLI_PLUGINS", "")))


def sources(wanted: str) -> list[Source]:
    """Our own entry points first, then the others by distribution and name.

    wanted: DIFFCLI_PLUGINS: empty is all, `none` our own alone, else names of entry points or modules, with commas.
    """
    installed = [Source(origin(entry), entry) for entry in entries()]
    installed.sort(
        key=lambda source: (source.origin.distribution != OWN, source.origin.distribution, source.origin.plugin)
    )
    if not wanted.strip():
        return installed
    own = [source for source in installed if source.origin.distribution == OWN]
    others = [source for source in installed if source.origin.distribution != OWN]
    ours = {text for source in own for text in (source.origin.plugin, source.entry.value)}
    for name in dict.fromkeys(part.strip() for part in wanted.split(",")):
        if name in {"", "none"} | ours:
            continue
        named = [source for source in others if source.origin.plugin == name]
        own += named or [unpackaged(name)]
    return own


def named(name: str, plugins: Iterable[str]) -> str | None:
    """The plugin that a name means: an entry point `my-model` and its module `my_model` are one name."""
    known = list(plugins)
    return name if name in known else next((plugin for plugin in known if dashed(plugin) == dashed(name)), None)


def dashed(name: str) -> str:
    """A name as an entry point has it."""
    return name.replace("_", "-")


def unpackaged(module: str) -> Source:
    """A module as it stands, installed or in the current folder, which is looked at last."""
    with suppress(OSError):
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)
    return Source(Origin(module, "DIFFCLI_PLUGINS", ""), EntryPoint(module, module, "diffcli"))


def entries() -> list[EntryPoint]:
    """The entry points of our group; a distribution whose list of them is damaged hides its own alone."""
    try:
        return list(entry_points(group="diffcli"))
    except Exception:
        found: list[EntryPoint] = []
        for distribution in distributions():
            with suppress(Exception):
                found += distribution.entry_points.select(group="diffcli")
        return found


def origin(entry: EntryPoint) -> Origin:
    """Who brought an entry point, as far as its metadata say."""
    try:
        return Origin(entry.name, *(owner(entry.dist) if entry.dist else ("", "")))
    except Exception:
        return Origin(entry.name, "", "")


@cache
def owner(distribution: Distribution) -> tuple[str, str]:
    """(name, version): the metadata, which hold a whole README, are parsed once for all entry points."""
    metadata = distribution.metadata
    return str(metadata["Name"] or ""), str(metadata["Version"] or "")


@contextmanager
def quiet() -> Iterator[None]:
    """Importing a plugin neither writes to stdout nor moves the global random numbers."""
    states = {name: state() for name, (state, _, _) in RNGS.items() if name in sys.modules}
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        for name, (_, restore, fresh) in RNGS.items():
            if name in states:
                restore(states[name])
            elif name in sys.modules:
                fresh()


def module(name: str) -> Any:
    """A module that is imported already."""
    return sys.modules[name]


# module: (its state, set the state, as in a new process)
RNGS: dict[str, Any] = {
    "random": (
        lambda: module("random").getstate(),
        lambda state: module("random").setstate(state),
        lambda: module("random").seed(),
    ),
    "numpy.random": (
        lambda: module("numpy.random").get_state(),
        lambda state: module("numpy.random").set_state(state),
        lambda: module("numpy.random").seed(),
    ),
    "torch.random": (
        lambda: module("torch.random").get_rng_state(),
        lambda state: module("torch.random").set_rng_state(state),
        lambda: module("torch.random").default_generator.seed(),
    ),
}


def reason(error: BaseException, module: str = "") -> str:
    """Why a plugin is broken, on one line; module: that it should be."""
    if isinstance(error, PluginError):
        return show(error)
    if isinstance(error, AttributeError) and not EntryPoint.pattern.match(module):
        return f"no plugin of this name is installed, and no module can have it; did you mean {show(module.replace('-', '_'), 80)}?"
    if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
        return f"there is no module {show(module, 80)}, neither installed nor in this folder; go to the folder that holds it"
    if isinstance(error, SystemExit):
        return f"it called exit({show(repr(error.code), 80)}) when imported"
    return f"{type(error).__name__}: {show(error)}"
