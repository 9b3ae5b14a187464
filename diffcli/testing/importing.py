"""The laws of importing a plugin: it is quick, silent and leaves no trace, and what it implements are hooks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from diffcli.errors import DiffcliError, UsageError, show
from diffcli.options import nearest
from diffcli.plugin import API_VERSION, KINDS, Family, Kind, Spec
from diffcli.registry import Source, named, quiet, reason, sources
from diffcli.testing.suite import Suite, need

HOOKS: dict[str, Kind] = {f"diffcli_{kind}s": kind for kind in KINDS}


class Importing(Suite):
    """The laws of importing the plugin called `name`: an entry point of the group "diffcli", or a module of DIFFCLI_PLUGINS."""

    kind: ClassVar[str] = "plugin"

    @classmethod
    def source(cls) -> Source:
        """Where it is imported from."""
        found = {source.origin.plugin: source for source in sources(os.environ.get("DIFFCLI_PLUGINS", ""))}
        if (plugin := named(cls.name, found)) is None:
            hint = nearest(cls.name, found, "; install it, or name it in DIFFCLI_PLUGINS")
            raise UsageError(f"no plugin is named '{show(cls.name, 80)}'{hint}")
        return found[plugin]

    @property
    def plugin(self) -> str:
        """Its name, as it is installed."""
        return self.source().origin.plugin

    @classmethod
    def make(cls) -> Any:
        """The plugin, imported."""
        try:
            with quiet():
                return cls.source().entry.load()
        except (DiffcliError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise AssertionError(reason(error)) from error

    @classmethod
    def family(cls) -> Family | None:
        return None

    def test_it_is_made_from_its_defaults(self) -> None:
        """It can be imported."""
        super().test_it_is_made_from_its_defaults()

    @classmethod
    @cache
    def probed(cls) -> dict[str, Any]:
        """What importing it in a process of its own did; see probe."""
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        command = [sys.executable, "-P", str(Path(__file__).with_name("probe.py")), cls.source().entry.value]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        lines = done.stderr.strip().splitlines()
        try:
            found: dict[str, Any] = json.loads(lines[-1])
        except (IndexError, ValueError):
            raise AssertionError(f"a process that imports it ends with code {done.returncode}") from None
        return found | {"printed": found["printed"] + done.stdout[:200]}

    @property
    def did(self) -> dict[str, Any]:
        """What importing it did, where it can be imported."""
        found: dict[str, Any] = self.probed() if self.made else {}
        return found

    def test_importing_it_is_quick(self) -> None:
        """Importing it and calling its hooks imports neither torch nor matplotlib."""
        heavy = self.did["heavy"]
        need(
            not heavy,
            f"it imports {' and '.join(heavy)}; import it in the modules that targets name, not in {self.source().entry.module}",
        )

    def test_importing_it_prints_nothing(self) -> None:
        """Importing it prints nothing to stdout."""
        printed = self.did["printed"].strip()
        need(not printed, f"it prints {show(printed, 80)!r}")

    def test_importing_it_draws_nothing(self) -> None:
        """Importing it does not move the global streams of random numbers."""
        moved = self.did["moved"]
        need(not moved, f"it moves that of {' and '.join(moved)}")

    def test_it_is_of_this_version(self) -> None:
        """It is written for this version of the plugin interface."""
        version = getattr(self.made, "DIFFCLI_API", API_VERSION)
        need(version == API_VERSION, f"DIFFCLI_API is {show(version, 20)}; this is version {API_VERSION}")

    def test_its_hooks_are_hooks(self) -> None:
        """It implements hooks that exist, marked with @hookimpl."""
        named = [name for name, value in vars(self.made).items() if name.startswith("diffcli_") and callable(value)]
        for name in named:
            need(name in HOOKS, f"there is no hook {name}{nearest(name, HOOKS)}")
            need(hasattr(getattr(self.made, name), "diffcli_impl"), f"{name} is not marked with @hookimpl")
        need(bool(named), f"it implements none; there are: {', '.join(HOOKS)}")

    def specs(self) -> list[tuple[Kind, Spec]]:
        """All specs that its hooks give; what else they do is told by a law."""
        found: list[tuple[Kind, Spec]] = []
        for hook, kind in HOOKS.items():
            with suppress(Exception):
                given: Any = getattr(self.made, hook, list)()
                found += [(kind, spec) for spec in given if isinstance(spec, Spec)]
        return found
