"""A recipe: the chosen parts and all their options. TOML <-> Recipe <-> JSON, strictly."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from diffcli.errors import UsageError, show
from diffcli.options import nearest, options, structure, table
from diffcli.parts import LENGTHS, Part, Tables, below, choose, named_part, sampling, training, unnamed
from diffcli.plugin import KINDS, Kind, Spec
from diffcli.registry import registry
from diffcli.sections import Claim, EvalOptions, SampleOptions, TrainOptions

SECTIONS = ("method", "model", "schedule", "dataset", "sampler", "train", "sample", "eval", "claim")
# How a picture is laid out, and how many there are: a measure has its own.
PICTURE = {"samples", "per_class", "label", "columns", "format", "trajectory", "upscale"}
LARGEST = 64 * 1024
MOST_DOTS = 16  # tomllib takes time quadratic in the dots of a key
PIECE = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
DEEP_KEY = re.compile(rf"(?<![\w-]){PIECE}(?:[ \t]*+\.[ \t]*+{PIECE}){{{MOST_DOTS + 1}}}")


@dataclass(frozen=True)
class Recipe:
    """All that decides a run. parts: the method and what it uses; eval: what [eval] says, over [sample] and the defaults."""

    parts: Mapping[Kind, Part]
    train: TrainOptions
    sample: SampleOptions
    eval: Mapping[str, Any] = field(default_factory=dict)
    claim: Claim | None = None

    @property
    def method(self) -> Part:
        return self.parts["method"]

    @property
    def spec(self) -> Spec:
        """The spec of the method."""
        return registry().get("method", self.method.name)

    def tables(self) -> dict[str, dict[str, Any]]:
        """As plain values; `resolve` makes the same recipe of them again."""
        made = {str(kind): {"name": part.name, **table(part.config)} for kind, part in self.parts.items()}
        made |= {"train": table(self.train), "sample": table(self.sample)}
        if self.eval:
            made["eval"] = dict(self.eval)
        if self.claim is not None:
            made["claim"] = table(self.claim)
        return {section: made[section] for section in SECTIONS if section in made}

    def evaluation(self, given: Mapping[str, Any]) -> EvalOptions:
        """How a run of this recipe is measured: as given, then as [eval] says, and drawn as [sample] says where they do not."""
        config = self.spec.eval or EvalOptions
        known = options(config).keys() - PICTURE
        drawn = {key: value for key, value in table(self.sample).items() if key in known}
        asked = {key: value for key, value in self.eval.items() if key != "per_class" or "samples" not in given}
        made: EvalOptions = structure(config, {**drawn, **asked, **given}, "[eval]")
        return made

    def with_train(self, **changes: Any) -> Recipe:
        """The same recipe with other [train] options."""
        return replace(self, train=replace(self.train, **changes))

    def replace_part(self, kind: Kind, config: Any) -> Recipe:
        """The same recipe with other options of one part."""
        return replace(self, parts={**self.parts, kind: replace(self.parts[kind], config=config)})


def resolve(tables: Tables) -> Recipe:
    """The recipe that some tables mean, with the method's defaults under what is given. Raises UsageError."""
    for section, values in tables.items():
        if section not in SECTIONS:
            raise UsageError(f"recipe section [{show(section, 80)}] is unknown{nearest(section, SECTIONS)}")
        if not isinstance(values, Mapping):
            raise UsageError(f"recipe key {section} stands outside a section; write it under [{section}]")
    if "name" not in tables.get("method", {}):
        raise UsageError('the recipe names no method; write [method] name = "..."')
    spec = registry().get("method", named_part(tables["method"], "method", ""))
    for kind in KINDS:
        if kind in tables and kind != "method" and kind not in spec.uses:
            raise UsageError(
                f"{spec.name} takes no {kind}, but there is a section [{kind}]; it uses: {', '.join(spec.uses)}"
            )
    parts: dict[Kind, Part] = {"method": Part(spec.name, structure(spec.config, unnamed(tables["method"]), "[method]"))}
    uses, defaults = below(spec, tables)
    for kind, use in uses.items():
        parts[kind] = choose(spec, kind, use, tables.get(kind, {}))
    asked = tables.get("eval", {})
    checked = table(structure(spec.eval or EvalOptions, asked, "[eval]"))
    return Recipe(
        parts=parts,
        train=structure(TrainOptions, training(defaults, tables.get("train", {})), "[train]"),
        sample=structure(
            spec.sample or SampleOptions, {**sampling(parts, uses), **tables.get("sample", {})}, "[sample]"
        ),
        eval={key: checked[key] for key in asked if key in checked},
        claim=structure(Claim, tables["claim"], "[claim]") if "claim" in tables else None,
    )


def refuse_count(recipe: Recipe, samples: int | None) -> None:
    """UsageError where other options settle how many samples there are, and not as many were asked for."""
    if samples not in (None, recipe.sample.samples):
        raise UsageError(
            f"--samples {samples} was asked for, but the other flags make it {recipe.sample.samples}; leave --samples out"
        )


def overlay(tables: Tables, over: Tables) -> dict[str, dict[str, Any]]:
    """Tables with others laid over them: another part drops the options of the one before, another length the length.

    Another sampler drops the steps and the spacing too: they were chosen for the one before.
    """
    made = {section: dict(values) for section, values in tables.items()}
    if renamed(tables, over, "sampler"):
        for section, key in product(("sample", "eval"), ("steps", "spacing")):
            made.get(section, {}).pop(key, None)
    for section, values in over.items():
        below = {} if renamed(tables, over, section) else made.get(section, {})
        if section == "train" and any(name in values for name in LENGTHS):
            below = {key: value for key, value in below.items() if key not in LENGTHS}
        made[section] = {**below, **values}
    return made


def renamed(tables: Tables, over: Tables, section: str) -> bool:
    """Whether a section names another part than the one below it."""
    names = [laid[section]["name"] for laid in (tables, over) if "name" in laid.get(section, {})]
    return len(names) == 2 and names[0] != names[1]


def read(path: str | Path) -> dict[str, dict[str, Any]]:
    """The tables of a recipe file: a regular file of UTF-8, small, with flat keys. Raises UsageError."""
    shown = show(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not make it wait
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UsageError(f"recipe {shown} is no regular file")
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"recipe {shown} cannot be read: {getattr(error, 'strerror', None) or show(error)}") from None
    if len(data) > LARGEST:
        raise UsageError(f"recipe {shown} is larger than {LARGEST // 1024} KiB; it holds something else")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise UsageError(f"recipe {shown} is no UTF-8 text") from None
    if DEEP_KEY.search(text):
        raise UsageError(f"recipe {shown} has a key with more than {MOST_DOTS} dots")
    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError, OverflowError) as error:
        raise UsageError(
            f"recipe {shown} is no TOML: {show(error) if isinstance(error, ValueError) else 'nested too deeply'}"
        ) from None
    for section, values in tables.items():
        if not isinstance(values, dict):
            raise UsageError(f"recipe {shown}: key {show(section, 80)} stands outside a section")
    return tables


def dumps(recipe: Recipe) -> str:
    """The recipe as TOML."""
    import tomli_w

    return tomli_w.dumps(recipe.tables())


def shipped() -> dict[str, Path]:
    """The recipes that come with diffcli: in the package, or beside it in a checkout."""
    package = Path(__file__).parent
    checkout = package.parent
    folder = package / "recipes"
    if not folder.is_dir() and (checkout / "pyproject.toml").is_file():
        folder = checkout / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def named(name: str) -> Path:
    """A shipped recipe by name. Raises UsageError with the nearest name."""
    known = shipped()
    if name not in known:
        hint = nearest(name, known, f"; there are: {', '.join(known) or 'none'}")
        raise UsageError(f"no recipe named '{show(name, 80)}' (a file is a path that ends in .toml){hint}")
    return known[name]


def locate(text: str) -> Path:
    """A recipe by path or by name."""
    return Path(text) if text.endswith(".toml") or os.sep in text else named(text)
