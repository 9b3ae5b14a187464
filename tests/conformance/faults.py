"""A fault of the sound plugin, and what the check says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from diffcli.testing import Verdict
from diffcli.testing.check import suites, verdict


class Fault(NamedTuple):
    """What is checked, the laws that are then broken, what the first of them says, and the change.

    laws: parts of what they state, as in "schedule sound-line: time(sigma/alpha)"; those behind the first follow from the
    same fault. old, new, more: see conftest.install.
    """

    name: str
    laws: tuple[str, ...]
    says: str
    old: str = ""
    new: str = ""
    more: str = ""

    def hold(self, install: Callable[..., None]) -> None:
        """Assert that these laws are broken, and no others."""
        install(self.old, self.new, self.more)
        broken = self.broken()
        lines = "\n".join(map(str, broken))
        assert broken, "no law is broken"
        assert len(broken) == len(self.laws), lines
        for law in self.laws:
            assert any(law in found.law for found in broken), f"{law!r} is not broken:\n{lines}"
        first = next(found for found in broken if self.laws[0] in found.law)
        assert self.says in first.detail, lines
        assert first.detail.count("\n") == 0 and first.traceback

    def broken(self) -> list[Verdict]:
        """The laws that are broken; of a plugin's components it is only tried whether they can be made."""
        found = []
        for suite in suites(self.name):
            laws = suite.laws()
            if suites(self.name)[0].kind == "plugin" != suite.kind:
                laws = {name: law for name, law in laws.items() if name == "test_it_is_made_from_its_defaults"}
            found += [verdict(suite, name, law) for name, law in laws.items()]
        return [each for each in found if each.outcome == "broken"]
