"""Whose fault an error is: a plugin that was set aside, or the plugin whose code raised it."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffcli.cli import output
from diffcli.errors import DiffcliError, show
from diffcli.plugin import KINDS, Kind
from diffcli.registry import OWN, registry, sources


def warn() -> None:
    """A line on stderr for each broken plugin that DIFFCLI_PLUGINS names: whoever names it wants it."""
    wanted = {part.strip() for part in os.environ.get("DIFFCLI_PLUGINS", "").split(",")}
    for broken in registry().broken:
        if broken.name in wanted:
            output.say(f"warning: {broken}; see diffcli plugins why {broken.name}")


def packages() -> dict[str, str]:
    """The top-level packages of other plugins than ours, each with its plugin: of entry points and of targets."""
    found: dict[str, str] = {}
    for source in sources(os.environ.get("DIFFCLI_PLUGINS", "")):
        found.setdefault(top(source.entry.value), source.origin.plugin if source.origin.distribution != OWN else "")
    for kind in KINDS:
        for name, spec in registry().specs(kind).items():
            found.setdefault(top(spec.target), registry().origin(kind, name).plugin)  # ours stand in our entry points
    return {package: plugin for package, plugin in found.items() if plugin and package != OWN}


def top(module: str) -> str:
    """The package that holds a module or a target."""
    return module.partition(":")[0].partition(".")[0]


def blamed(error: BaseException) -> str | None:
    """`plugin evening, evening/method.py:22`: the innermost frame that is another's code; None where all of them are ours."""
    frames = list(traceback.walk_tb(error.__traceback__))
    with suppress(Exception):  # an error in telling an error helps nobody
        others = packages()
        for frame, number in reversed(frames):
            module = str(frame.f_globals.get("__name__", ""))
            if plugin := others.get(top(module)):
                path = Path(frame.f_code.co_filename)
                depth = module.count(".") + (2 if path.name == "__init__.py" else 1)
                return f"plugin {plugin}, {Path(*path.parts[-depth:])}:{number}"
    return None


def missing(kind: Kind, name: str, found: Any) -> str:
    """What to do about a part of a run that no plugin brings here; found: the run, as the resolver gives it."""
    gone = " and ".join(show(one, 80) for one in absent(versions_of(found)))
    todo = f"its run was made with {gone}: install it" if gone else "install the plugin that brings it"
    what = f"no {kind} named '{show(name, 80)}', of the run {show(found.path)}"
    return f"{what}; {todo}, or name it in DIFFCLI_PLUGINS{registry().misfortune()}"


def absent(versions: dict[str, Any]) -> list[str]:
    """`evening 0.1.0`: the distributions among the versions of a run whose plugins are not here."""
    known = {"python", "torch", "numpy", "safetensors", "DIFFCLI_PLUGINS", OWN, ""}
    known |= {origin.distribution for origin in registry().plugins} | {b.distribution for b in registry().broken}
    return [f"{name} {version or ''}".rstrip() for name, version in versions.items() if name not in known]


def versions_of(found: Any) -> dict[str, Any]:
    """The versions of what a run was made with, as far as it says."""
    from diffcli.engine.files import parse_json, read_capped
    from diffcli.engine.rundir import JSON_CAP

    for path in (found.run / "env.json", found.path / "manifest.json"):
        with suppress(OSError, DiffcliError):
            versions = parse_json(read_capped(path, JSON_CAP), str(path)).get("versions")
            if isinstance(versions, dict):
                return versions
    return {}
