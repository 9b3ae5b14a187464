"""What train, sample and eval share: a method, the recipe below the flags, and the panels of its parts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from diffcli import options
from diffcli.cli.blame import missing
from diffcli.cli.flags import Section, complete, extra, peek
from diffcli.errors import RunError, UsageError, show
from diffcli.parts import Tables, fits, fitting, sampling
from diffcli.parts import below as defaults
from diffcli.plugin import KINDS, Kind, Spec
from diffcli.recipe import Recipe, overlay, resolve
from diffcli.registry import registry

Origins = dict[tuple[str, str], str]


def known_run(text: str, *, started: bool = False) -> Any:
    """The run that a text means, or None for a method without one: the engine says so when it is needed.

    started: also a run that holds no checkpoint yet, to go on with.
    """
    from diffcli.engine.rundir import find

    methods = registry().specs("method")
    here = os.path.lexists(text) or os.path.isdir(os.path.join("runs", text))  # of a method that is gone, too
    if text not in methods and not here and not {os.sep, ":"} & set(text):
        registry().get("method", text)  # says which name is near
    try:
        return find(text, started=started)
    except RunError:
        if text in methods:
            return None
        raise


def tables_of(found: Any, text: str) -> Tables:
    """The recipe of a run, or the method's name alone where there is no run yet."""
    if found is None:
        return {"method": {"name": text}}
    if found.tables is None:
        raise RunError(f"{show(text)} carries no recipe, so it cannot be rebuilt; it was not written by diffcli")
    tables: Tables = found.tables
    for kind in KINDS:
        name = tables.get(kind, {}).get("name")
        if kind != "sampler" and isinstance(name, str) and name not in registry().specs(kind):
            raise RunError(missing(kind, name, found))  # another sampler can be chosen
    return tables


def method_of(tables: Tables) -> Spec:
    """The spec of the method that some tables name."""
    name = tables.get("method", {}).get("name")
    if not isinstance(name, str):
        raise UsageError('the recipe names no method; write [method] name = "..."')
    return registry().get("method", name)


def chosen(args: list[str], spec: Spec, kinds: Iterable[Kind]) -> dict[str, dict[str, Any]]:
    """The parts that flags such as --sampler choose, of the kinds a method uses; with the method's own flags, where they
    are among a command's and decide its parts."""
    found = {kind: peek(args, f"--{kind}") for kind in kinds if kind in spec.uses}
    parts: dict[str, dict[str, Any]] = {kind: {"name": name} for kind, name in found.items() if name is not None}
    if "model" in kinds and hasattr(spec.config, "uses"):
        known = {name: option for name, option in options.options(spec.config).items() if option.base is not bool}
        texts = {name: peek(args, option.flag) for name, option in known.items()}
        parts["method"] = {name: known[name].parse(text, known[name].flag) for name, text in texts.items() if text}
    return parts


def below(tables: Tables, spec: Spec, args: list[str], kinds: Iterable[Kind]) -> Recipe:
    """The recipe without the flags but with the parts that they choose: what --help shows as defaults."""
    return resolve(overlay(tables, chosen(args, spec, kinds)))


def panel(kind: Kind, recipe: Recipe) -> Section:
    """The options of a part."""
    part = recipe.parts[kind]
    title = {
        "method": "Method",
        "model": "Network",
        "schedule": "Schedule",
        "dataset": "Data set",
        "sampler": "Sampler",
    }[kind]
    owner = f"{kind} {part.name} ({registry().origin(kind, part.name)})"
    return Section(kind, type(part.config), f"{title}: {part.name}", values(part.config), owner)


def values(config: Any) -> dict[str, Any]:
    """The options of a config by name."""
    return {name: getattr(config, name) for name in options.options(type(config))}


def chooser(kind: Kind, recipe: Recipe) -> inspect.Parameter:
    """--model, --schedule, --dataset, --sampler: only those that fit are named."""
    fit = fitting(recipe.spec, kind)
    title = {"model": "Network", "schedule": "Forward process", "dataset": "Data set", "sampler": "Sampler"}[kind]
    return extra(
        kind,
        str,
        recipe.parts[kind].name,
        f"{title}: {', '.join(fit)}.",
        metavar="<name>",
        autocompletion=complete(lambda: fit),
    )


def belongs(
    spec: Spec, recipe: Recipe, kinds: Iterable[Kind], elsewhere: Mapping[str, type]
) -> Callable[[str], str | None]:
    """Says which other part, or which other command, has a flag."""

    def explain(flag: str) -> str | None:
        name = flag.lstrip("-").replace("-", "_").removeprefix("no_")
        for kind in kinds:
            if kind not in recipe.parts:
                continue
            parts = registry().specs(kind).values()
            owners = [part.name for part in parts if fits(kind, part, spec) and name in options.options(part.config)]
            if owners:
                return f" with {kind} {recipe.parts[kind].name}; --{kind} {' and '.join(owners)} {'has' if len(owners) == 1 else 'have'} it"
        samplers = [part.name for part in registry().specs("sampler").values() if name in options.options(part.config)]
        if samplers and "sampler" not in kinds:
            return f"; it is an option of diffcli sample with --sampler {' or '.join(samplers)}"
        for command, config in elsewhere.items():
            if name in options.options(config):
                return f"; it is an option of diffcli {command}"
        if name in KINDS and name not in spec.uses:
            return f"; {spec.name} takes no {name}"
        return None

    return explain


def origins(recipe: Recipe, tables: Tables, given: Tables) -> Origins:
    """Where each value comes from: flag; recipe, where it says another than the method; method; or default."""
    spec, found = recipe.spec, {}
    uses, train = defaults(spec, overlay(tables, given))
    plain = resolve({kind: {"name": part.name} for kind, part in recipe.parts.items()}).tables()
    for section, table in recipe.tables().items():
        parts: Mapping[Any, Any] = recipe.parts
        kept = section not in parts or tables.get(section, {}).get("name", parts[section].name) == parts[section].name
        known = plain.get(section, {})
        written = {key for key in tables.get(section, {}) if kept and table.get(key) != known.get(key)}
        use = uses.get(section)  # type: ignore[call-overload]
        shared = {"train": train, "sample": sampling(recipe.parts, uses)}
        own = shared.get(section, use.options if use and use.name == parts[section].name else {})
        for key in table:
            flag = key in given.get(section, {})
            found[section, key] = (
                "flag" if flag else "recipe" if key in written else "method" if key in own else "default"
            )
    return found


def header(recipe: Recipe, where: Origins) -> list[str]:
    """The choices of a run that are not plain defaults, with the origin of each."""
    tables = recipe.tables()
    parts = ", ".join(f"{kind} {part.name}" for kind, part in recipe.parts.items() if kind != "method")
    lines = [f"{recipe.method.name}: {recipe.spec.summary}", f"parts    {parts}"]
    for origin in ("flag", "recipe", "method"):
        settings = [
            f"{key}={show(value, 80)}" for section, table in tables.items() for key, value in table.items()
            if key != "name" and section not in ("eval", "claim") and where[section, key] == origin
        ]  # fmt: skip
        if settings:
            lines.append(f"{origin:8} {' '.join(settings)}")
    return lines


def folder(text: str | None) -> Path | None:
    """--output, as a path."""
    return None if text is None else Path(text)
