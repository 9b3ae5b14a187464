"""A plugin -> its specs: its hooks are called, and what they return is checked before anything is taken from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from inspect import isroutine
from types import ModuleType
from typing import Any, get_args

import pluggy

from diffcli.errors import PluginError, UsageError, show
from diffcli.metrics import MEASURES, PLOTS
from diffcli.options import nearest, options, structure
from diffcli.plugin import API_VERSION, KINDS, PARTS, Family, Hooks, Kind, Spec, Use
from diffcli.sections import EvalOptions, SampleOptions, TrainOptions

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
LOGGER_OPTIONS = "a logger takes no options; let it read what it needs from the environment"
# Flags of the commands themselves: no config may bring them again.
TAKEN = {
    "recipe",
    "resume",
    "resize",
    "devices",
    "nodes",
    "rendezvous",
    "init",
    "output",
    "show",
    "explain",
    "plot",
    "json",
    "debug",
    "help",
    "version",
    "ctx",
    "others",
    *KINDS,
}


class Quick(pluggy.PluginManager):
    """Looks for hooks among the functions of a module, not among all that it imports."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        if isinstance(plugin, ModuleType) and not isroutine(vars(plugin).get(name)):
            return None
        return super().parse_hookimpl_opts(plugin, name)


def collect(plugin: Any) -> list[tuple[Kind, Spec]]:
    """Call the hooks of a plugin and check what they return. Raises PluginError, and whatever the plugin raises."""
    version = getattr(plugin, "DIFFCLI_API", API_VERSION)
    if version != API_VERSION:
        raise PluginError(
            f"it was written for version {show(version, 20)} of the plugin interface; this is {API_VERSION}"
        )
    hooks = {f"diffcli_{kind}s": kind for kind in KINDS}
    implemented = implementations(plugin, hooks)
    for name in vars(plugin) if hasattr(plugin, "__dict__") else ():
        if name.startswith("diffcli_") and callable(getattr(plugin, name)) and not implemented.get(name):
            raise PluginError(f"{name} is not marked with @hookimpl")
    if not any(implemented.values()):
        if hasattr(plugin, "__path__") and getattr(plugin, "__file__", None) is None:
            raise PluginError(
                "its folder has no __init__.py; start in the folder that holds the package, or install it"
            )
        raise PluginError(f"it implements no hook; there are: {', '.join(hooks)}")
    found: list[tuple[Kind, Spec]] = []
    for hook, impls in implemented.items():
        for impl in impls:
            specs = impl.function()
            if not isinstance(specs, Iterable) or isinstance(specs, str | Mapping):
                raise PluginError(f"{hook} returned {show(repr(specs), 80)}, not specs")
            for spec in specs:
                check(spec, hooks[hook], hook)
                found.append((hooks[hook], spec))
    return found


@cache
def manager() -> Quick:
    """One for all plugins, each of which is in it while it is asked: to read the hooks themselves takes longest."""
    made = Quick("diffcli")
    made.add_hookspecs(Hooks)
    return made


def implementations(plugin: Any, hooks: Iterable[str]) -> dict[str, list[Any]]:
    """What a plugin has for each hook. Raises PluginError for what is no hook, or is called otherwise than it."""
    asked = manager()
    try:
        asked.register(plugin)
        asked.check_pending()
        return {name: getattr(asked.hook, name).get_hookimpls() for name in hooks}
    except pluggy.PluginValidationError as error:
        wrong = re.search(r"unknown hook '(\w+)'", str(error))
        raise PluginError(
            f"there is no hook {wrong[1]}{nearest(wrong[1], hooks)}" if wrong else " ".join(str(error).split())
        ) from None
    finally:
        if asked.is_registered(plugin):
            asked.unregister(plugin)


def check(spec: Any, kind: Kind, hook: str) -> None:
    """Refuse a spec that would only fail later, and name the field."""
    if not isinstance(spec, Spec):
        raise PluginError(f"{hook} gave {show(repr(spec), 80)}, which is no Spec")

    def need(holds: bool, what: str) -> None:
        if not holds:
            raise PluginError(f"{hook}: {kind} {show(repr(spec.name), 80)}: {what}")

    need(isinstance(spec.name, str) and bool(NAME.fullmatch(spec.name)), "name must be small letters, digits and -")
    need(
        isinstance(spec.target, str) and bool(TARGET.fullmatch(spec.target)),
        'target must be "package.module:attribute"',
    )
    need(isinstance(spec.summary, str) and bool(spec.summary.strip()), "summary must say what it is")
    need(isinstance(spec.paper, str), "paper must be an address")
    need(spec.family is None or spec.family in get_args(Family), "family must be None, gaussian, masked or variational")
    need(isinstance(spec.uses, Mapping) and isinstance(spec.train, Mapping), "uses and train must be mappings")
    need(isinstance(spec.metrics, Mapping) and isinstance(spec.plots, Mapping), "metrics and plots must be mappings")
    for used, use in spec.uses.items():
        need(used in PARTS, f"uses has {show(repr(used), 80)}, which is no kind of part")
        need(isinstance(use, Use) and isinstance(use.options, Mapping), f"uses must map {used} to a Use")
    need(isinstance(spec.tools, Mapping) and spec.tools.keys() <= {"check", "pack"}, "tools must map check, pack")
    for name, target in [*spec.metrics.items(), *spec.plots.items(), *spec.tools.items()]:
        need(isinstance(target, str) and bool(TARGET.fullmatch(target)), f"{show(name, 80)} must be an import string")
    for names, own, what in ((MEASURES, spec.metrics, "measure"), (PLOTS, spec.plots, "plot")):
        for name in own:
            need(name not in names, f"{show(name, 80)} is already a {what} of any method; rename it")
    for name in spec.plots:
        need(isinstance(name, str) and bool(NAME.fullmatch(name)), "names of plots must be small letters, digits and -")
    for found, parent, what in ((spec.sample, SampleOptions, "sample"), (spec.eval, EvalOptions, "eval")):
        need(
            found is None or (isinstance(found, type) and issubclass(found, parent)),
            f"{what} must extend {parent.__name__}",
        )
        if found is not None:
            options(found)
    try:
        if spec.train:
            structure(TrainOptions, spec.train, "train")
    except UsageError as error:
        need(False, str(error).removeprefix("recipe key "))
    bare = {"extractor": "an extractor takes no options; its name says all", "logger": LOGGER_OPTIONS}
    need(kind not in bare or not options(spec.config), bare.get(kind, ""))
    taken = taken_by(kind)
    for option in options(spec.config).values():
        need(option.name not in taken, f"{option.flag} is already a flag of diffcli; rename the field")


@cache
def taken_by(kind: Kind) -> frozenset[str]:
    """The flags that a part of this kind cannot bring, as the commands that have its options have them already."""
    walks, trains = {*options(SampleOptions), *options(EvalOptions)}, {*options(TrainOptions)}
    return frozenset(TAKEN | (walks if kind == "sampler" else walks | trains if kind == "dataset" else trains))
