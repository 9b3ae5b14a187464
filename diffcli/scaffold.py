"""A new plugin: the package that a template of its kind describes, written whole or not at all."""

from __future__ import annotations

import keyword
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import NamedTuple

from diffcli.errors import EnvironmentProblem, UsageError, show
from diffcli.plugin import KINDS, Kind
from diffcli.registry import registry

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 40
# Values of DIFFCLI_PLUGINS, --extractor and --resume, and the folder of the tests.
RESERVED = ("none", "auto", "latest", "tests")
SUFFIX = ".tmpl"  # so that no tool takes a template for Python
# What is typed once the package is installed, to see the new part at work.
NEXT: dict[Kind, str] = {
    "method": "diffcli train {name}",
    "model": "diffcli train rf --model {name}",
    "schedule": "diffcli train rf --schedule {name}",
    "sampler": "diffcli bench samplers --samplers {name}",
    "dataset": "diffcli train rf --dataset {name}",
    "extractor": "diffcli eval rf --extractor {name}",
    "logger": "diffcli train rf --loggers {name}",
}


class Scaffold(NamedTuple):
    """What was written: the folder, its files relative to it, and the command to type next."""

    folder: Path
    files: list[str]
    next: str


def module_of(name: str) -> str:
    """The package that a plugin of this name is imported as."""
    return name.replace("-", "_")


def values(name: str) -> dict[str, str]:
    """What the placeholders of the templates stand for."""
    return {"name": name, "module": module_of(name), "Class": "".join(part.capitalize() for part in name.split("-"))}


def walk(folder: Traversable, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, text) of each template below a folder, in the order of their names."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from walk(entry, f"{path}{entry.name}/")
        elif entry.name.endswith(SUFFIX):
            yield path + entry.name.removesuffix(SUFFIX), entry.read_text(encoding="utf-8")


def fill(name: str, kind: Kind) -> dict[str, str]:
    """The files of a new plugin: path -> text. `module` in a path, and $placeholders in a text, become the plugin's own."""
    known, home = values(name), resources.files("diffcli") / "templates"
    common = {"pyproject.toml": (home / f"pyproject.toml{SUFFIX}").read_text(encoding="utf-8")}
    found = common | dict(walk(home / kind))
    return {
        path.replace("module", known["module"]): Template(text).substitute(known | {"kind": kind})
        for path, text in sorted(found.items())
    }


def refuse(name: str) -> None:
    """UsageError for a name that could not be installed beside what there is, or not imported."""
    shown, module, found = show(name, 80), module_of(name), registry()
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise UsageError(
            f"'{shown}' is no name of a plugin: write up to {LONGEST} small letters and digits, with single - between, as in my-method"
        )
    taken = [f"{kind} {name} of {found.origin(kind, name)[1]}" for kind in KINDS if name in found.specs(kind)]
    taken += [f"plugin {name} of {p.distribution}" for p in found.plugins if name in (p.plugin, p.distribution)]
    taken += [f"broken plugin {name} of {b.distribution}" for b in found.broken if name in (b.name, b.distribution)]
    if keyword.iskeyword(module) or module in RESERVED:
        taken = ["Python or diffcli itself"]
    elif module.startswith("diffcli"):
        taken = ["diffcli, as are all names that begin with it"]
    elif not taken and (module in sys.stdlib_module_names or installed(module)):
        taken = [f"the module {module}"]
    if taken:
        raise UsageError(f"'{shown}' is taken by {show(taken[0])}; choose another")


def installed(module: str) -> bool:
    """Whether something else is imported, or was installed, by this name."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # half a package is still in the way
        return True
    if spec is not None and spec.origin is not None:
        return True
    return any(module_of(d.name.lower()) == module for d in metadata.distributions() if d.name)


def create(name: str, kind: Kind, parent: Path) -> Scaffold:
    """Write the package `parent`/`name`.

    Raises UsageError for a name or folder that is taken, and EnvironmentProblem where it cannot be written; then nothing is left.
    """
    refuse(name)
    folder, temporary = parent / name, parent / f".tmp-{name}-{os.getpid()}"
    if os.path.lexists(folder):
        raise UsageError(f"{show(folder)} exists already, and is left as it is; choose another name or --output")
    files = fill(name, kind)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        for path, text in files.items():
            target = temporary / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        os.rename(temporary, folder)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write {show(folder)}: {error.strerror or error}; choose another --output"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    typed = str(folder) if folder.is_absolute() else os.path.join(os.curdir, folder)
    commands = ("pip install " + shlex.quote(typed), NEXT[kind].format(name=name), f"diffcli plugins check {name}")
    return Scaffold(folder, list(files), " && ".join(commands))
