"""One grammar of values, for flags and recipes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from diffcli.errors import PluginError, UsageError
from diffcli.options import options, structure, table
from diffcli.plugin import opt

HERE = Path("x")


@dataclass(frozen=True, kw_only=True)
class All:
    flag: bool = opt(False, "A flag.")
    count: int = opt(3, "A count.", min=1, max=9)
    rate: float = opt(0.5, "A rate.", min=0, max=1)
    text: str = opt("a", "A text.", pattern=r"[a-z]+")
    span: str = opt("1", "A length.", pattern=r"\d+", like="500")
    path: Path = opt(HERE, "A path.")
    mode: Literal["one", "two"] = opt("one", "A mode.")
    sizes: tuple[int, ...] = opt((1, 2), "Sizes.", min=1)
    times: tuple[float, ...] | None = opt(None, "Times.", min=0, max=1)
    bound: float | None = opt(None, "A bound.", min=0)

    def __post_init__(self) -> None:
        if self.count == 7 and self.flag:
            raise ValueError("7 takes no flag")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "9", 9),
        ("rate", "1", 1.0),
        ("rate", "1e-3", 1e-3),
        ("text", "abc", "abc"),
        ("path", "a/b", Path("a/b")),
        ("mode", "two", "two"),
        ("sizes", "1,2,4", (1, 2, 4)),
        ("times", "0.2,1", (0.2, 1.0)),
        ("bound", "2", 2.0),
    ],
)
def test_a_text_means_its_value(name: str, text: str, value: Any) -> None:
    parsed = options(All)[name].parse(text, "--x")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "fits"),
    [
        ("count", "0", "a whole number from 1 to 9"),
        ("count", "1.5", "a whole number from 1 to 9"),
        ("rate", "nan", "a finite number from 0 to 1"),
        ("rate", "inf", "a finite number from 0 to 1"),
        ("bound", "inf", "a finite number, 0 or more"),
        ("text", "A", r"a text of the form \[a-z\]\+"),
        ("span", "x", "a text such as 500$"),
        ("mode", "tow", "one of: one, two; did you mean two?"),
        ("sizes", "1,,2", "a list of whole numbers, 1 or more"),
        ("sizes", "0,1", "a list of whole numbers, 1 or more"),
        ("times", "2", "a list of finite numbers from 0 to 1"),
        ("count", "1" * 5000, "a whole number"),
        ("path", "a\0b", "a path"),
    ],
)
def test_a_wrong_text_is_refused_by_its_flag(name: str, text: str, fits: str) -> None:
    with pytest.raises(UsageError, match=rf"^--x is .*, but takes {fits}"):
        options(All)[name].parse(text, "--x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flag", 1),
        ("flag", "true"),
        ("count", True),
        ("count", 3.0),
        ("count", "3"),
        ("rate", True),
        ("rate", "0.5"),
        ("rate", math.nan),
        ("rate", math.inf),
        ("rate", 10**400),
        ("text", 3),
        ("text", None),
        ("mode", "three"),
        ("mode", ["one"]),
        ("sizes", 1),
        ("sizes", []),
        ("sizes", [1, True]),
        ("sizes", [1.0]),
        ("sizes", "1,2"),
        ("times", [math.nan]),
        ("path", 3),
        ("bound", {}),
    ],
)
def test_structure_is_strict_about_types(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^\[all\] {name} is .*, but takes"):
        structure(All, {name: value}, "[all]")


def test_structure_takes_whole_numbers_for_numbers_and_lists_for_tuples() -> None:
    made = structure(All, {"rate": 1, "sizes": [3], "path": "p", "times": [0, 1], "bound": None}, "[all]")
    assert made == All(rate=1.0, sizes=(3,), path=Path("p"), times=(0.0, 1.0))
    assert type(made.rate) is float


def test_an_unknown_key_has_a_near_name() -> None:
    with pytest.raises(UsageError, match=r"^recipe key \[all\] cuont is unknown; did you mean count\?$"):
        structure(All, {"cuont": 3}, "[all]")


def test_a_check_across_fields_is_a_mistake_of_the_user() -> None:
    with pytest.raises(UsageError, match=r"^\[all\]: 7 takes no flag$"):
        structure(All, {"count": 7, "flag": True}, "[all]")


def test_table_and_structure_are_inverse() -> None:
    config = All(flag=True, sizes=(4, 5), times=(0.25,), path=Path("a/b"))
    assert structure(All, table(config), "[all]") == config
    assert "bound" not in table(config)


def test_the_help_shows_what_fits() -> None:
    shown = {name: option.metavar() for name, option in options(All).items()}
    assert shown["count"] == "<int 1..9>"
    assert shown["mode"] == "<one|two>"
    assert shown["sizes"] == "<int,... 1..>"
    assert shown["bound"] == "<float 0..>"


def test_a_config_that_fails_otherwise_is_a_fault_of_its_plugin() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Faulty:
        x: int = opt(1, "X.")

        def __post_init__(self) -> None:
            raise KeyError("oops")

    with pytest.raises(PluginError, match="oops"):
        structure(Faulty, {}, "[x]")
