"""The options of a config class: one grammar of types and ranges, for flags, recipe keys and metadata alike."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from inspect import get_annotations
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from diffcli.errors import DiffcliError, PluginError, UsageError, show

INT_LIMIT = 2**63  # TOML's whole numbers, and torch's
WORDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    Path: "a path",
}
SHORT: dict[type, str] = {str: "text", Path: "path"}


class Option(NamedTuple):
    """A field of a config, its annotation taken apart.

    base: bool, int, float, str, Path or tuple; item: of a tuple, int or float; choices: of a Literal, else empty.
    """

    name: str
    base: type
    item: type | None
    choices: tuple[Any, ...]
    optional: bool
    default: Any
    help: str
    min: float | None
    max: float | None
    pattern: str | None
    like: str | None

    @property
    def flag(self) -> str:
        """--its-name."""
        return "--" + self.name.replace("_", "-")

    def fits(self) -> str:
        """What a value must be, in words."""
        if self.choices:
            return "one of: " + ", ".join(map(str, self.choices))
        words = f"a list of {'whole' if self.item is int else 'finite'} numbers" if self.item else WORDS[self.base]
        if self.pattern:
            words += f" such as {self.like}" if self.like else f" of the form {self.pattern}"
        low, high = bound(self.min), bound(self.max)
        if low and high:
            return f"{words} from {low} to {high}"
        return f"{words}, {low} or more" if low else f"{words}, {high} or less" if high else words

    def metavar(self) -> str:
        """What stands behind the flag in --help: <int 1..>, <float 0..1>, <a|b>, <int,int,...>."""
        if self.choices:
            return f"<{'|'.join(map(str, self.choices))}>"
        name = f"{self.item.__name__},..." if self.item else SHORT.get(self.base, self.base.__name__)
        low, high = bound(self.min), bound(self.max)
        return f"<{name} {low}..{high}>" if low or high else f"<{name}>"

    def parse(self, text: str, label: str) -> Any:
        """The value that a text on the command line means. Raises UsageError."""
        try:
            if self.choices:
                value: Any = {str(choice): choice for choice in self.choices}[text]
            elif self.item:
                value = tuple(self.item(part) for part in text.split(","))
            else:
                value = text if self.base is str else self.base(text)
        except (ValueError, KeyError, OverflowError):
            raise UsageError(self.refusal(label, text)) from None
        return self.check(value, label)

    def check(self, value: Any, label: str) -> Any:
        """The value as the config holds it, strictly: true is no number, and nothing is infinite. Raises UsageError."""
        if value is None and self.optional:
            return None
        if self.item:
            if type(value) not in (list, tuple) or not value:
                raise UsageError(self.refusal(label, value))
            return tuple(self.number(item, self.item, label, value) for item in value)
        if self.choices:
            if not any(type(value) is type(choice) and value == choice for choice in self.choices):
                raise UsageError(self.refusal(label, value))
            return value
        if self.base in (int, float):
            return self.number(value, self.base, label, value)
        if self.base is Path and isinstance(value, str | Path):
            return Path(self.text(str(value), label))
        if type(value) is not self.base:
            raise UsageError(self.refusal(label, value))
        return self.text(str(value), label) if self.base is str else value

    def number(self, value: Any, kind: Any, label: str, whole: Any) -> int | float:
        """A finite number within the bounds; whole: the value it is part of, to be shown."""
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UsageError(self.refusal(label, whole))
        try:
            number = float(value) if kind is float else int(value)
        except OverflowError:
            raise UsageError(self.refusal(label, whole)) from None
        low, high = -math.inf if self.min is None else self.min, math.inf if self.max is None else self.max
        if not math.isfinite(number) or not low <= number <= high or (kind is int and abs(number) >= INT_LIMIT):
            raise UsageError(self.refusal(label, whole))
        return number

    def text(self, value: str, label: str) -> str:
        """A text that can be written to a file, and that matches the pattern."""
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{label} is {show(repr(value))}, which is no UTF-8; use another name") from None
        if "\0" in value or (self.pattern and not re.fullmatch(self.pattern, value)):
            raise UsageError(self.refusal(label, value))
        return value

    def refusal(self, label: str, value: Any) -> str:
        """What is wrong with a value, and what would fit."""
        given = show(value if isinstance(value, str | int | float) and type(value) is not bool else plain(value), 80)
        near = difflib.get_close_matches(str(value), map(str, self.choices), n=1)
        return f"{label} is {given!r}, but takes {self.fits()}" + (f"; did you mean {near[0]}?" if near else "")


def bound(number: float | None) -> str:
    """A bound in its shortest exact spelling; nothing for none."""
    return "" if number is None else repr(number).removesuffix(".0")


def plain(value: Any) -> str:
    """A value in TOML's spelling, for messages."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(list(value)) if isinstance(value, tuple) else repr(value)


def options(config: Any) -> dict[str, Option]:
    """The options of a config class by name. Raises PluginError where it is not a frozen dataclass of opt() fields."""
    return taken_apart(config)


@cache
def taken_apart(config: Any) -> dict[str, Option]:
    """`options`, once for each class."""
    called = f"{config.__module__}.{config.__qualname__}" if isinstance(config, type) else show(repr(config), 80)
    if not isinstance(config, type) or not is_dataclass(config):
        raise PluginError(f"config {called} is no dataclass")
    settings: Any = config
    if not settings.__dataclass_params__.frozen:
        raise PluginError(f"config {called} is not frozen; write @dataclass(frozen=True, kw_only=True)")
    only = config.__bases__[0] if len(config.__bases__) == 1 else object
    inherited = taken_apart(only) if is_dataclass(only) else {}
    try:
        hints = get_annotations(config, eval_str=True) if inherited else get_type_hints(config)
    except Exception as error:
        raise PluginError(f"config {called} has an annotation that cannot be read: {show(error)}") from None
    return {
        f.name: option(f, hints[f.name], f"{called}.{f.name}") if f.name in hints else inherited[f.name]
        for f in fields(config)
        if f.init
    }


def option(field: Field[Any], hint: Any, called: str) -> Option:
    """One field, checked."""
    if field.name == "name" or not re.fullmatch(r"[a-z][a-z0-9_]*", field.name):
        raise PluginError(f"field {called} cannot be a flag; use another name of small letters, digits and _")
    if not isinstance(field.metadata.get("help"), str) or not field.metadata["help"].strip():
        raise PluginError(f"field {called} has no help; write opt(default, help)")
    if field.default is MISSING:
        raise PluginError(f"field {called} has no plain default; write opt(default, help)")
    optional = get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if optional else [hint]
    base, item = kinds[0], None
    choices: tuple[Any, ...] = ()
    if get_origin(base) is Literal:
        choices, base = get_args(base), str
    elif get_origin(base) is tuple and len(get_args(base)) == 2 and get_args(base)[1] is Ellipsis:
        item, base = get_args(base)[0], tuple
    known = item in (int, float) if base is tuple else base in WORDS
    if len(kinds) != 1 or not known or (optional and base is bool) or not all(type(c) in (str, int) for c in choices):
        raise PluginError(f"field {called} is of type {show(str(hint), 80)}, which no flag can be")
    limits = {name: field.metadata.get(name) for name in ("min", "max", "pattern", "like")}
    found = Option(field.name, base, item, choices, optional, field.default, field.metadata["help"].strip(), **limits)
    try:
        found.check(field.default, "its default")
    except UsageError as error:
        raise PluginError(f"field {called}: {error}") from None
    return found


def nearest(name: str, known: Iterable[str], else_: str = "") -> str:
    """`; did you mean x?` where there is a near name."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else else_


def structure(config: type, table: Mapping[str, Any], where: str) -> Any:
    """A config from plain values; where: its section, as in "[train]". Raises UsageError for anything that is not exactly right."""
    known = options(config)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            hint = nearest(str(key), known, f"; it has: {', '.join(known)}" if known else "; it takes none")
            raise UsageError(f"recipe key {where} {show(key, 80)} is unknown{hint}")
        values[key] = known[key].check(value, f"{where} {key}")
    try:
        return config(**values)
    except DiffcliError:
        raise
    except ValueError as error:
        raise UsageError(f"{where}: {show(error)}") from None
    except Exception as error:
        raise PluginError(
            f"{config.__module__}.{config.__qualname__} failed on {where}: {show(repr(error))}"
        ) from error


def table(config: Any) -> dict[str, Any]:
    """The options of a config as plain TOML and JSON values; those that are unset are left out."""
    values = {name: getattr(config, name) for name in options(type(config))}
    return {name: untyped(value) for name, value in values.items() if value is not None}


def untyped(value: Any) -> Any:
    """A tuple as a list, a path as a text."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
