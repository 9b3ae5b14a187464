"""The laws of a plugin as a whole: its specs, its options, its recipes and its help, beside all others."""

from __future__ import annotations

import contextlib
import io
import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from unittest import SkipTest

from diffcli import recipe as recipes
from diffcli.cli.app import main
from diffcli.errors import DiffcliError, PluginError, UsageError, show
from diffcli.hooks import TAKEN
from diffcli.hooks import check as check_spec
from diffcli.options import Option, options, structure, table
from diffcli.parts import fits
from diffcli.plugin import KINDS, Kind, NoOptions, Spec, load
from diffcli.recipe import resolve
from diffcli.registry import registry
from diffcli.sections import EvalOptions, SampleOptions, TrainOptions
from diffcli.testing.importing import HOOKS, Importing
from diffcli.testing.suite import need

FRAGMENT = re.compile(r"[^a-z].*[.]", re.DOTALL)


class PluginSuite(Importing):
    """The laws of the plugin called `name`: an entry point of the group "diffcli", or a module of DIFFCLI_PLUGINS."""

    def test_its_specs_are_whole(self) -> None:
        """Its hooks give specs, and every field of a spec is what it must be."""
        for hook, kind in HOOKS.items():
            given: Any = getattr(self.made, hook, list)()
            need(
                isinstance(given, Iterable) and not isinstance(given, str),
                f"{hook} gave {show(repr(given), 80)}, not specs",
            )
            for spec in given:
                plain = replace(spec, config=NoOptions, sample=None, eval=None) if isinstance(spec, Spec) else spec
                check_spec(plain, kind, hook)  # options have laws of their own

    def test_its_names_are_free(self) -> None:
        """No other plugin brings a component of its kind and name, nor itself twice."""
        seen: set[tuple[Kind, str]] = set()
        for kind, spec in self.specs():
            need((kind, spec.name) not in seen, f"it brings {kind} {spec.name} twice")
            seen.add((kind, spec.name))
            if spec.name in registry().specs(kind):
                owner = registry().origin(kind, spec.name)
                need(owner.plugin == self.plugin, f"{kind} {spec.name} is already brought by {owner}")

    def test_its_summaries_are_a_line(self) -> None:
        """A summary is one line that begins with a capital and ends with a full stop."""
        for kind, spec in self.specs():
            summary = spec.summary
            fine = (
                isinstance(summary, str) and "\n" not in summary and len(summary) <= 120 and FRAGMENT.fullmatch(summary)
            )
            need(bool(fine), f"that of {kind} {spec.name} is {show(repr(summary), 140)}")

    def configs(self) -> list[tuple[str, type]]:
        """Every class of options it brings, and what it is of."""
        found = []
        for kind, spec in self.specs():
            found += [
                (f"{kind} {spec.name}{what}", config)
                for what, config in (("", spec.config), (", [sample]", spec.sample), (", [eval]", spec.eval))
                if config is not None
            ]
        return found

    def test_its_options_are_options(self) -> None:
        """Its configs are frozen dataclasses of opt() fields with help, which build from their defaults."""
        for owner, config in self.configs():
            try:
                options(config)
                made = structure(config, {}, owner)
                again = structure(config, table(made), owner)
            except DiffcliError as error:
                raise AssertionError(f"{owner}: {show(error)}") from error
            need(made == again, f"{owner}: written down and read again its defaults are {show(repr(again), 120)}")
        for kind, spec in self.specs():
            need(
                kind not in ("extractor", "logger") or not readable(spec.config),
                f"{kind} {spec.name} takes no options; leave its config out",
            )

    def test_help_is_a_fragment(self) -> None:
        """The help of an option begins with a capital and ends with a full stop."""
        for owner, config in self.configs():
            for option in readable(config).values():
                fine = FRAGMENT.fullmatch(option.help) and "\n" not in option.help
                need(bool(fine), f"{owner}: that of {option.flag} is {show(repr(option.help), 100)}")

    def test_no_flag_collides(self) -> None:
        """No option is called like a flag of diffcli's own, nor like one of the parts that a method uses."""
        for kind, spec in self.specs():
            shared = (SampleOptions, EvalOptions) if kind == "sampler" else (TrainOptions,)
            taken = TAKEN.union(*(readable(config) for config in shared))
            for option in readable(spec.config).values():
                need(
                    option.name not in taken,
                    f"{kind} {spec.name}: {option.flag} is already a flag of diffcli; rename the field",
                )
        for method, others in self.neighbours():
            shown: list[tuple[Kind, Spec]] = [("method", method), *others]
            self.apart([part for part in shown if part[0] != "sampler"])  # the flags of train
            self.apart([part for part in others if part[0] in ("sampler", "dataset")])  # those of sample and eval

    def apart(self, parts: list[tuple[Kind, Spec]]) -> None:
        """Refuse two parts whose flags are of one command and have one name."""
        owners: dict[str, str] = {}
        for kind, spec in parts:
            for option in readable(spec.config).values():
                first = owners.setdefault(option.name, f"{kind} {spec.name}")
                need(
                    first == f"{kind} {spec.name}",
                    f"{option.flag} is brought by both {first} and {kind} {spec.name}; rename one",
                )

    def neighbours(self) -> list[tuple[Spec, list[tuple[Kind, Spec]]]]:
        """(method, its default parts), of its own methods, and of every method with one of its parts in place."""
        known = {kind: dict(registry().specs(kind)) for kind in KINDS}
        own = self.specs()
        for kind, spec in own:
            known[kind].setdefault(spec.name, spec)
        found = []
        for method in known["method"].values():
            default = {kind: known[kind][use.name] for kind, use in method.uses.items() if use.name in known[kind]}
            mine = [(kind, spec) for kind, spec in own if kind in default and fits(kind, spec, method)]
            if ("method", method) in own:
                found.append((method, list(default.items())))
            found += [(method, list({**default, kind: spec}.items())) for kind, spec in mine]
        return found

    def test_its_targets_are_there(self) -> None:
        """Every import string of its specs names an object."""
        for kind, spec in self.specs():
            for what in (spec.target, *spec.metrics.values(), *spec.plots.values()):
                try:
                    load(what)
                except PluginError as error:
                    raise AssertionError(f"{kind} {spec.name}: {show(error)}") from error

    def test_the_registry_takes_it(self) -> None:
        """The registry takes it in."""
        broken = [broken for broken in registry().broken if broken.name == self.plugin]
        if broken and self.made is not None and self.faults():
            raise SkipTest("for the reason that a law above gives")
        if broken:
            raise AssertionError(broken[0].reason) from registry().errors[self.plugin]

    def faults(self) -> list[str]:
        """The laws among those before that are broken, of those that the registry holds a plugin to."""
        found = []
        for law in (
            "it_is_of_this_version",
            "its_hooks_are_hooks",
            "its_specs_are_whole",
            "its_names_are_free",
            "its_options_are_options",
            "no_flag_collides",
        ):
            try:
                getattr(self, f"test_{law}")()
            except SkipTest:
                pass
            except Exception:
                found.append(law)
        return found

    def test_its_default_parts_fit(self) -> None:
        """Every default part is installed, fits the family of its method, and takes the options that are given it."""
        self.methods()  # or there are none
        for kind, spec in self.specs():
            for used, use in spec.uses.items():
                part = registry().specs(used).get(use.name)
                need(part is not None, f"{kind} {spec.name} uses {used} {use.name}, which no working plugin brings")
                assert part is not None
                mine, its = (
                    f"{one.family}{one.network and f' with networks of {one.network}'}" for one in (spec, part)
                )
                where = f"{kind} {spec.name} is {mine}, but its {used} {use.name} is {its}"
                need(kind != "method" or fits(used, part, spec), where)
                try:
                    structure(part.config, use.options, f"[{used}]")
                except PluginError:
                    continue  # it takes no options at all, as another law says
                except UsageError as error:
                    raise AssertionError(f"{kind} {spec.name} uses {used} {use.name}: {show(error)}") from error

    def methods(self) -> list[Spec]:
        """Its methods, as the registry has them."""
        if any(broken.name == self.plugin for broken in registry().broken):
            raise SkipTest("the registry has set it aside")
        return [spec for kind, spec in self.specs() if kind == "method"]

    def test_its_recipes_are_whole(self) -> None:
        """The defaults of a method make a recipe that is the same after TOML, and after JSON."""
        for method in self.methods():
            made = resolve({"method": {"name": method.name}})
            for form, again in (
                ("TOML", tomllib.loads(recipes.dumps(made))),
                ("JSON", json.loads(json.dumps(made.tables()))),
            ):
                need(resolve(again) == made, f"that of {method.name} is another after {form}")

    def test_help_can_be_shown(self) -> None:
        """--help of train, sample and eval can be shown, of its methods and with its parts."""
        asked = [[command, spec.name] for spec in self.methods() for command in ("train", "sample", "eval")]
        for kind, spec in self.specs():
            fitting = [m for m in registry().specs("method").values() if kind in m.uses and fits(kind, spec, m)]
            command = "sample" if kind == "sampler" else "train"
            asked += [[command, method.name, f"--{kind}", spec.name] for method in fitting[:1]]
        for line in asked:
            code, said = shown([*line, "--help", "--debug"])
            if code != 0:
                what = show(said.strip().rpartition("\n")[2], 300)
                failed = AssertionError(f"diffcli {' '.join(line)} --help ends with code {code}: {what}")
                failed.add_note(said)  # its traceback
                raise failed


def readable(config: Any) -> dict[str, Option]:
    """The options of a config; none where they cannot be read, as another law says."""
    try:
        return options(config)
    except PluginError:
        return {}


def shown(args: list[str]) -> tuple[int, str]:
    """A command line in this process: its exit code, and what it writes to stderr, its error last."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(args)
    return code, err.getvalue()
