"""What every suite is: the laws of one component, as methods that pytest and `diffcli plugins check` run alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any, ClassVar, NoReturn, TypeVar
from unittest import SkipTest

import numpy as np
import torch
from torch import Tensor

from diffcli.errors import DataError, EnvironmentProblem, show
from diffcli.options import structure
from diffcli.plugin import Family, Spec
from diffcli.registry import registry

Result = TypeVar("Result")


class Suite:
    """The laws of the component called `name`, made with `options` over its defaults.

    A law is a method test_* without arguments; the first line of its docstring states it. It is broken where it raises:
    AssertionError with one line that says what was measured and what must hold; and not applicable where it raises
    unittest.SkipTest. A plugin's own tests may add laws to a subclass.
    """

    kind: ClassVar[str]
    name: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def laws(cls) -> dict[str, str]:
        """Of each law the name of its method and what it states, in the order they are written down."""
        names = [name for part in reversed(cls.__mro__) for name in vars(part) if name.startswith("test_")]
        found = {name: getattr(cls, name) for name in dict.fromkeys(names)}
        families = {getattr(law, "family", None) for law in found.values()} - {None}
        mine = cls.family() if families else None
        return {
            name: stated(law) for name, law in found.items() if law and getattr(law, "family", None) in (None, mine)
        }

    @classmethod
    def family(cls) -> Family | None:
        """The family whose laws apply; None where both may."""
        return cls.spec().family

    @classmethod
    def spec(cls) -> Spec:
        """What the registry knows of the component."""
        kind: Any = cls.kind
        return registry().get(kind, cls.name)

    @classmethod
    def config(cls) -> Any:
        """The options that it is made with."""
        return structure(cls.spec().config, cls.options, f"[{cls.kind}]")

    @classmethod
    def make(cls) -> Any:
        """What the laws are about."""
        raise NotImplementedError

    @classmethod
    @cache
    def attempt(cls) -> tuple[Any, Exception | None]:
        """(what is made, None) or (None, why it could not be), once for all laws of a suite."""
        try:
            return cls.make(), None
        except Exception as error:
            return None, error

    @property
    def made(self) -> Any:
        """What the laws are about; without it a law does not apply."""
        made, error = self.attempt()
        if error is not None:
            raise SkipTest("it cannot be made, as the first law says")
        return made

    def skip(self, why: str) -> NoReturn:
        """A law that does not apply."""
        raise SkipTest(why)

    def test_it_is_made_from_its_defaults(self) -> None:
        """It is made from its defaults."""
        _, error = self.attempt()
        if isinstance(error, DataError | EnvironmentProblem):
            raise SkipTest(show(error))
        if error is not None:
            raise error


def stated(law: Callable[..., Any]) -> str:
    """What a law states: the first line of its docstring, as a part of a sentence."""
    line = (law.__doc__ or law.__name__.removeprefix("test_").replace("_", " ")).strip().partition("\n")[0].rstrip(".")
    return line[:1].lower() + line[1:]


def of(family: Family) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """A law of one family alone."""

    def mark(law: Callable[[Any], None]) -> Callable[[Any], None]:
        @wraps(law)
        def kept(self: Any) -> None:
            if self.family() != family:
                raise SkipTest(f"a law of {family} processes")
            law(self)

        vars(kept)["family"] = family
        return kept

    return mark


def need(holds: bool | Tensor, what: str) -> None:
    """AssertionError unless it holds; what: one line, what was found and what must be."""
    __tracebackhide__ = True
    if not bool(holds):
        raise AssertionError(what.strip())


def streams() -> tuple[Any, ...]:
    """The state of every global stream of random numbers."""
    kind, keys, place, *more = np.random.get_state()
    numpy = (kind, np.asarray(keys).tobytes(), place, *more)
    return random.getstate(), numpy, torch.get_rng_state().numpy().tobytes()


def drawn(act: Callable[[], Result]) -> tuple[Result, list[str]]:
    """What it gives, and the global streams that it drew from."""
    before = streams()
    result = act()
    names = ("random", "numpy.random", "torch")
    return result, [name for name, a, b in zip(names, before, streams(), strict=True) if a != b]


def addressed(act: Callable[[], Result]) -> Result:
    """What it gives; a law about equal numbers does not apply where they are no function of their address."""
    result, moved = drawn(act)
    if moved:
        raise SkipTest(f"it draws from the global stream of {moved[0]}, as another law says")
    return result


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference, over the largest number, if that is above 1."""
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / max(1.0, float(a.abs().max()), float(b.abs().max()))) if a.numel() else 0.0
